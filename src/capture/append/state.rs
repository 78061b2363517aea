//! The content of a route's state key: the checkpoint and everything that belongs to it.
//!
//! The state carries a format version. This release writes format 1 and reads it; a newer one is
//! refused with a hint rather than misunderstood.

pub(crate) mod revision;

use std::collections::HashMap;

use revision::RankedRevision;

use crate::capture::batch::passage::Passage;
use crate::position::{AnchorId, Position};
use crate::server::Error;
use crate::server::resp::Value;
use crate::source::replication::histories::Histories;
use crate::status::{Buffered, Ledger};

/// The format that this release writes.
const FORMAT: u32 = 1;

/// A route's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredState {
    /// The last item whose entries are stored.
    pub(crate) position: Option<Position>,
    /// The numbering of the position; none in a state of release 0.1.0.
    pub(crate) numbering: Option<String>,
    /// Which configuration wrote last.
    pub(crate) revision: Option<RankedRevision>,
    /// When it was last written; milliseconds since 1970 by the writer's clock.
    pub(crate) at_unix_ms: Option<u64>,
    /// The positions that it has passed.
    pub(crate) passage: Passage,
    /// The last position known to be durable.
    pub(crate) durable: Option<Position>,
    /// The highest revision, if a lower one writes again because the newer instance is gone.
    pub(crate) highest: Option<RankedRevision>,
    /// A configuration that takes over at the anchor with this id.
    pub(crate) next: Option<(AnchorId, RankedRevision)>,
    /// The source's histories, if its replication stream is read.
    pub(crate) histories: Histories,
    /// The cumulative ledger; `buffered` is not in it.
    pub(crate) ledger: Ledger,
}

impl StoredState {
    /// The highest epoch it has passed.
    pub(crate) fn highest_epoch(&self) -> u64 {
        self.position.map_or(0, |position| position.epoch.number)
    }

    /// Reads HGETALL's reply; an empty one is a state that was never written.
    ///
    /// # Errors
    /// If it is of a newer format, or is no state.
    pub(crate) fn read(reply: &Value) -> Result<Self, Error> {
        let elements = reply
            .elements()
            .ok_or_else(|| Error::Protocol("the reply to HGETALL is not a map".to_owned()))?;
        let mut fields = HashMap::new();
        for pair in elements.chunks_exact(2) {
            if let (Some(name), Some(value)) = (pair[0].bytes(), pair[1].bytes()) {
                fields.insert(String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            }
        }
        if fields.is_empty() {
            return Ok(Self::default());
        }
        let text = |name: &str| fields.get(name).map(AsRef::as_ref);
        let count = |name: &str| text(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let format: u32 = text("format").and_then(|text| text.parse().ok()).unwrap_or(FORMAT);
        if format > FORMAT {
            return Err(Error::Refused(format!(
                "the route's state has format {format}, but this release knows only {FORMAT}: run the newer release, or rename \
                 the state key to start again, possibly with duplicates"
            )));
        }
        let position = match text("position") {
            None | Some("-") => None,
            Some(text) => Some(text.parse::<Position>().map_err(|_| {
                Error::Refused("this release cannot read the position in the route's state".to_owned())
            })?),
        };
        let dropped = fields
            .iter()
            .filter_map(|(name, value)| {
                Some((name.strip_prefix("dropped:")?.to_owned(), value.parse().ok()?))
            })
            .collect();
        Ok(Self {
            position,
            numbering: text("numbering").filter(|text| !text.is_empty()).map(str::to_owned),
            revision: text("revision").and_then(RankedRevision::parse),
            at_unix_ms: text("at").and_then(|text| text.parse().ok()),
            passage: Passage::parse(
                text("epochs").unwrap_or_default(),
                text("gap_spans").unwrap_or_default(),
            ),
            durable: text("durable").and_then(|text| text.parse().ok()),
            highest: text("highest")
                .filter(|highest| Some(*highest) > text("revision"))
                .and_then(RankedRevision::parse),
            next: text("next").and_then(|text| {
                let (anchor, revision) = text.split_once(' ')?;
                Some((anchor.parse().ok()?, RankedRevision::parse(revision)?))
            }),
            histories: Histories::parse(text("histories").unwrap_or_default()).of_a_state_at(position),
            ledger: Ledger {
                received: count("received"),
                stored: count("appended"),
                deduplicated: count("deduplicated"),
                filtered: count("filtered"),
                rejected: count("rejected"),
                dropped,
                buffered: 0,
                buffered_in: Buffered::default(),
                gaps: count("gaps"),
                last_gap_unix_ms: text("gap_at").and_then(|text| text.parse().ok()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state as release 0.1.0 wrote it: it must load for ever.
    const FORMAT_1: &[(&str, &str)] = &[
        ("format", "1"),
        ("position", "001764000000000-9f86d081884c7d65-00000000000000000042"),
        ("epochs", "001764000000000-9f86d081884c7d65 "),
        ("revision", "0000000003-00112233aabbccdd-ffeeddcc00112233"),
        ("at", "1764000012345"),
        ("received", "42"),
        ("appended", "40"),
        ("rejected", "1"),
        ("filtered", "1"),
        ("dropped:stale", "7"),
    ];

    fn reply(fields: &[(&str, &str)]) -> Value {
        let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        Value::Array(fields.iter().flat_map(|(name, value)| [text(name), text(value)]).collect())
    }

    #[test]
    fn a_state_of_format_1_loads() {
        let state = StoredState::read(&reply(FORMAT_1)).unwrap();
        let position = state.position.unwrap();
        assert_eq!(position.to_string(), FORMAT_1[1].1);
        assert_eq!(state.highest_epoch(), 1_764_000_000_000);
        assert_eq!(state.at_unix_ms, Some(1_764_000_012_345));
        assert_eq!(state.ledger.stored, 40);
        assert_eq!(state.ledger.dropped["stale"], 7);
        let same = RankedRevision::after(&state, "00112233aabbccdd-ffeeddcc00112233");
        assert_eq!(same.to_string(), FORMAT_1[3].1);
        let changed = RankedRevision::after(&state, "0-0").to_string();
        assert!(changed.as_str() > FORMAT_1[3].1, "{changed}");
    }

    #[test]
    fn a_newer_format_is_refused_with_a_hint() {
        let error = StoredState::read(&reply(&[("format", "2")])).unwrap_err();
        assert!(error.to_string().contains("newer release"), "{error}");
        assert_eq!(StoredState::read(&reply(&[])).unwrap(), StoredState::default());
    }
}
