//! The position of an event in its source's total order.
//!
//! A position is `epoch-anchor-ordinal`, each of fixed width, so that positions compare as strings on
//! the server as they compare here:
//!
//! ```text
//! 001764000000000-9f86d081884c7d65-00000000000000000042
//! └ epoch, ms     └ anchor's id    └ ordinal since that anchor; the anchor itself is 0
//! ```
//!
//! The epoch orders anchors and never goes back. The anchor's id is drawn at random for each anchor
//! and published in it: two sources that were both master for a while may hand out the same epoch,
//! but never the same pair, so their events cannot be taken for each other's.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// The random id of an anchor: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnchorId(u64);

impl AnchorId {
    /// A new id.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u64(..))
    }
}

impl fmt::Display for AnchorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for AnchorId {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !plain {
            return Err(NotAPosition);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| NotAPosition)
    }
}

/// An anchor's epoch: a number with the anchor's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Milliseconds since 1970 where the source's clock was right; only its order is used.
    pub number: u64,
    /// The anchor that began it.
    pub anchor: AnchorId,
}

impl Epoch {
    /// The largest number that fits the fixed width.
    pub const MAX_NUMBER: u64 = 999_999_999_999_999;
    /// Digits of a number.
    const NUMBER_WIDTH: usize = 15;
    /// Bytes of an epoch as text.
    pub const WIDTH: usize = Self::NUMBER_WIDTH + 1 + 16;

    /// Reads an epoch from separate parts.
    ///
    /// # Errors
    /// If a part does not have its fixed width.
    pub fn from_parts(number: &str, anchor: &str) -> Result<Self, NotAPosition> {
        Ok(Self { number: digits(number, Self::NUMBER_WIDTH)?, anchor: anchor.parse()? })
    }

    /// The position of the event number `ordinal` after the anchor; 0 is the anchor itself.
    #[must_use]
    pub const fn at(self, ordinal: u64) -> Position {
        Position { epoch: self, ordinal }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:015}-{}", self.number, self.anchor)
    }
}

impl FromStr for Epoch {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let (number, anchor) = text.split_once('-').ok_or(NotAPosition)?;
        Self::from_parts(number, anchor)
    }
}

/// The position of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The latest anchor before it.
    pub epoch: Epoch,
    /// How many events it is after that anchor.
    pub ordinal: u64,
}

impl Position {
    /// Digits of an ordinal.
    pub const ORDINAL_WIDTH: usize = 20;
    /// Bytes of a position as text.
    pub const WIDTH: usize = Epoch::WIDTH + 1 + Self::ORDINAL_WIDTH;

    /// Bytes of [`Self::to_bytes`].
    pub const BYTES: usize = 24;

    /// The position as bytes that compare as positions do.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.epoch.number.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.epoch.anchor.0.to_be_bytes());
        bytes[16..].copy_from_slice(&self.ordinal.to_be_bytes());
        bytes
    }

    /// Reads the bytes of [`Self::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let number =
            |at: usize| bytes[at..at + 8].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Epoch { number: number(0), anchor: AnchorId(number(8)) }.at(number(16))
    }

    /// Writes the position's text into `out`, and replaces its content.
    pub fn render<'a>(&self, out: &'a mut String) -> &'a str {
        out.clear();
        // Writing to a String cannot fail.
        let _ = write!(out, "{self}");
        out
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:020}", self.epoch, self.ordinal)
    }
}

/// A text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no position")]
pub struct NotAPosition;

impl FromStr for Position {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let (epoch, ordinal) = text.rsplit_once('-').ok_or(NotAPosition)?;
        Ok(epoch.parse::<Epoch>()?.at(digits(ordinal, Self::ORDINAL_WIDTH)?))
    }
}

/// A number of fixed width.
fn digits(text: &str, width: usize) -> Result<u64, NotAPosition> {
    if text.len() != width || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NotAPosition);
    }
    text.parse().map_err(|_| NotAPosition)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_value_have_the_same_order(
            a in (0..=Epoch::MAX_NUMBER, any::<u64>(), any::<u64>()),
            b in (0..=Epoch::MAX_NUMBER, any::<u64>(), any::<u64>()),
        ) {
            let position = |(number, id, ordinal)| Epoch { number, anchor: AnchorId(id) }.at(ordinal);
            let (a, b): (Position, Position) = (position(a), position(b));
            prop_assert_eq!(a.to_string().len(), Position::WIDTH);
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
            prop_assert_eq!(a.epoch.to_string().parse(), Ok(a.epoch));
            prop_assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(&b));
            prop_assert_eq!(Position::from_bytes(a.to_bytes()), a);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let good = Epoch { number: 1, anchor: AnchorId(2) }.at(3).to_string();
        for bad in
            ["", "-", &good[1..], &good.replace("-", "+"), &good.replace('2', "X"), &format!("{good}0")]
        {
            assert_eq!(bad.parse::<Position>(), Err(NotAPosition), "{bad}");
        }
    }
}
