//! Where a replay begins or ends, as the operator writes it: an entry's id, a time, or how long ago.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use crate::stream::EntryId;

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Bound {
    /// This entry.
    Id(EntryId),
    /// This moment, in milliseconds since 1970.
    At(u64),
    /// So long before now, by the clock of the stream's server.
    Ago(Duration),
}

impl Bound {
    /// The lowest id that is not before it.
    pub(in crate::cli) fn lowest(self, now_unix_ms: u64) -> EntryId {
        match self {
            Self::Id(id) => id,
            _ => EntryId { milliseconds: self.milliseconds(now_unix_ms), sequence: 0 },
        }
    }

    /// The highest id that is not after it.
    pub(super) fn highest(self, now_unix_ms: u64) -> EntryId {
        match self {
            Self::Id(id) => id,
            _ => EntryId { milliseconds: self.milliseconds(now_unix_ms), sequence: u64::MAX },
        }
    }

    fn milliseconds(self, now_unix_ms: u64) -> u64 {
        match self {
            Self::Id(id) => id.milliseconds,
            Self::At(milliseconds) => milliseconds,
            Self::Ago(ago) => now_unix_ms.saturating_sub(milliseconds(ago)),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::At(milliseconds) => write!(f, "{milliseconds}"),
            Self::Ago(ago) => write!(f, "-{}ms", ago.as_millis()),
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl FromStr for Bound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected an entry's id (1700000000000-0), milliseconds since 1970 (1700000000000), \
                        a time (2026-11-25T09:30:00Z, 2026-11-25T10:30:00+01:00) or how long ago (-1h)";
        if let Some(ago) = text.strip_prefix('-') {
            let ago = humantime::parse_duration(ago).map_err(|error| format!("{error}; {expected}"))?;
            return Ok(Self::Ago(ago));
        }
        if text == "now" {
            return Ok(Self::Ago(Duration::ZERO));
        }
        if let Some(id) = EntryId::parse(text.as_bytes()) {
            return Ok(Self::Id(id));
        }
        if let Ok(milliseconds) = text.parse() {
            return Ok(Self::At(milliseconds));
        }
        moment(text).map(Self::At).ok_or_else(|| expected.to_owned())
    }
}

/// An RFC 3339 time, with `Z` or an offset, in milliseconds since 1970.
fn moment(text: &str) -> Option<u64> {
    let utc = |text: &str| {
        let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(milliseconds(since))
    };
    if text.ends_with(['Z', 'z']) {
        return utc(&text.to_ascii_uppercase());
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = (hours * 60 + minutes) * 60_000;
    let local = utc(&format!("{}Z", local.to_ascii_uppercase()))?;
    match sign {
        "+" => local.checked_sub(offset),
        "-" => local.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_times_and_distances() {
        let bound = |text: &str| text.parse::<Bound>().unwrap();
        let id = |milliseconds, sequence| EntryId { milliseconds, sequence };
        assert_eq!(bound("5-1").lowest(9), id(5, 1));
        assert_eq!(bound("5-1").highest(9), id(5, 1));
        assert_eq!(bound("5").lowest(9), id(5, 0));
        assert_eq!(bound("5").highest(9), id(5, u64::MAX));
        assert_eq!(bound("-1h 1s").lowest(3_601_500), id(500, 0));
        assert_eq!(bound("-1h").lowest(5), id(0, 0), "before 1970 there is nothing");
        assert_eq!(bound("now").highest(7), id(7, u64::MAX));
        for (text, milliseconds) in [
            ("1970-01-01T00:00:01Z", 1_000),
            ("1970-01-01T01:00:01.250+01:00", 1_250),
            ("1970-01-01T00:30:00-00:15", 2_700_000),
            ("1970-01-01T00:00:01z", 1_000),
        ] {
            assert_eq!(bound(text), Bound::At(milliseconds), "{text}");
        }
        for bad in
            ["", "-", "yesterday", "1-", "2026-11-25", "2026-11-25T10:00:00", "2026-11-25T10:00:00+25:00"]
        {
            let error = bad.parse::<Bound>().unwrap_err();
            assert!(error.contains("expected an entry's id"), "{bad}: {error}");
        }
    }
}
