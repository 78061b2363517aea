//! tidegate's own messages on the source's control channel: anchors and heartbeats.
//!
//! Any client with the right to publish there can forge a message, so malformed ones are refused here. The engine,
//! which knows the earlier epochs, decides whether positions may be counted from an anchor.

use crate::position::Epoch;

/// Prefix of every message; the number changes with the wording.
const MAGIC: &str = "tidegate1";

/// A message on the control channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// A window opened somewhere: count from here.
    Anchor(Epoch),
    /// Proves that the path works. The sender, and the time by its clock, in microseconds.
    Heartbeat { instance: u64, sent_us: u64 },
}

impl Control {
    /// Reads a message; `None` if it is no message of tidegate's.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        // The longest of ours has 60 bytes; a larger one need not be looked at.
        let text = std::str::from_utf8(payload.get(..payload.len().min(128))?).ok()?;
        let mut words = text.split(' ');
        if words.next()? != MAGIC {
            return None;
        }
        let (kind, first, second) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        match kind {
            "anchor" => Some(Self::Anchor(Epoch::from_parts(first, second).ok()?)),
            "heartbeat" => Some(Self::Heartbeat {
                instance: u64::from_str_radix(first, 16).ok()?,
                sent_us: second.parse().ok()?,
            }),
            _ => None,
        }
    }

    /// An anchor's text, as `open_session.lua` writes it too.
    pub(crate) fn anchor(epoch: Epoch) -> String {
        format!("{MAGIC} anchor {:015} {}", epoch.number, epoch.anchor)
    }

    /// A heartbeat's text.
    pub(crate) fn heartbeat(instance: u64, sent_us: u64) -> String {
        format!("{MAGIC} heartbeat {instance:016x} {sent_us}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::AnchorId;

    #[test]
    fn what_is_said_is_understood() {
        let epoch = Epoch { number: 7, anchor: AnchorId::random() };
        let text = Control::anchor(epoch);
        assert_eq!(text, format!("tidegate1 anchor 000000000000007 {}", epoch.anchor));
        assert_eq!(Control::parse(text.as_bytes()), Some(Control::Anchor(epoch)));
        let text = Control::heartbeat(0xab, 12);
        assert_eq!(Control::parse(text.as_bytes()), Some(Control::Heartbeat { instance: 0xab, sent_us: 12 }));
    }

    #[test]
    fn what_is_forged_or_absurd_is_refused() {
        for text in [
            "",
            "tidegate1",
            "tidegate2 anchor 000000000000007 0000000000000001",
            "tidegate1 anchor 7 0000000000000001",
            "tidegate1 anchor 000000000000007 000000000000000G",
            "tidegate1 anchor 000000000000007 0000000000000001 more",
            "tidegate1 heartbeat x 1",
        ] {
            assert_eq!(Control::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Control::parse(&[b'x'; 100_000]), None);
    }
}
