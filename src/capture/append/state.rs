//! What a route's state key says when it is read: the checkpoint and everything that goes with it.
//!
//! The state carries a format version. This release writes format 1 and reads it; a newer one is
//! refused with a hint rather than misunderstood.

use std::collections::HashMap;

use crate::capture::engine::Hole;
use crate::capture::history::Histories;
use crate::position::{AnchorId, Epoch, Position};
use crate::server::Error;
use crate::server::resp::Value;
use crate::status::{InHand, Ledger};

/// The format that this release writes.
const FORMAT: u32 = 1;

/// A route's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The last item whose entries are stored.
    pub(crate) position: Option<Position>,
    /// Which configuration wrote last.
    pub(crate) revision: Option<Revision>,
    /// The numbering of the position; empty where that is not known.
    pub(crate) numbering: String,
    /// When it was last written; milliseconds since 1970 by the writer's clock.
    pub(crate) at_unix_ms: Option<u64>,
    /// The epochs that it has passed.
    pub(crate) epochs: Vec<Epoch>,
    /// The gaps that were recorded last.
    pub(crate) holes: Vec<Hole>,
    /// A configuration that wrote and was given up since: an older one may write again.
    pub(crate) given_up: Option<Revision>,
    /// What is known to be stored durably.
    pub(crate) durable: Option<Position>,
    /// A configuration that takes over at the anchor with this id.
    pub(crate) next: Option<(AnchorId, Revision)>,
    /// The source's histories, where it is read from its replication stream.
    pub(crate) histories: Histories,
    /// The cumulative ledger; `in_hand` is not in it.
    pub(crate) ledger: Ledger,
}

impl State {
    /// The highest epoch it has passed.
    pub(crate) fn highest_epoch(&self) -> u64 {
        self.position.map_or(0, |position| position.epoch.number)
    }

    /// Reads HGETALL's reply; an empty one is a state that was never written.
    ///
    /// # Errors
    /// Where it is of a newer format, or is no state.
    pub(crate) fn read(reply: &Value) -> Result<Self, Error> {
        let elements =
            reply.elements().ok_or_else(|| Error::Protocol("HGETALL was answered with no map".to_owned()))?;
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
                "the route's state has format {format}, this release knows {FORMAT}: run the newer release \
                 again, or move the state key away, which starts afresh and may repeat entries"
            )));
        }
        let position = match text("position") {
            None | Some("-") => None,
            Some(text) => Some(text.parse::<Position>().map_err(|_| {
                Error::Refused("the route's state holds no position that this release can read".to_owned())
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
            numbering: text("numbering").unwrap_or_default().to_owned(),
            revision: text("revision").and_then(Revision::parse),
            at_unix_ms: text("at").and_then(|text| text.parse().ok()),
            epochs: text("epochs").unwrap_or_default().split_whitespace().filter_map(epoch).collect(),
            holes: text("holes").unwrap_or_default().split_whitespace().filter_map(hole).collect(),
            given_up: text("given_up").and_then(Revision::parse),
            durable: text("durable").and_then(|text| text.parse().ok()),
            next: text("next").and_then(|text| {
                let (anchor, revision) = text.split_once(' ')?;
                Some((anchor.parse().ok()?, Revision::parse(revision)?))
            }),
            histories: Histories::parse(text("histories").unwrap_or_default()),
            ledger: Ledger {
                received: count("received"),
                appended: count("appended"),
                deduplicated: count("deduplicated"),
                filtered: count("filtered"),
                rejected: count("rejected"),
                dropped,
                in_hand: 0,
                held: InHand::default(),
            },
        })
    }
}

fn epoch(text: &str) -> Option<Epoch> {
    let position: Position = format!("{text}-{:020}", 0).parse().ok()?;
    Some(position.epoch)
}

/// `from>to`, with `-` for a state that stood nowhere.
fn hole(text: &str) -> Option<Hole> {
    let (from, to) = text.split_once('>')?;
    let from = if from == "-" { None } else { Some(from.parse().ok()?) };
    Some(Hole { from, to: to.parse().ok()? })
}

/// A configuration of a route, with its rank: a generation, which each new configuration raises, and its hashes. As text
/// it compares by generation first, which is how the scripts tell the newer one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision {
    generation: u64,
    /// The hashes of numbering and mapping, with a hyphen between them.
    hashes: String,
}

impl Revision {
    /// A configuration with the generation that the destination gave it.
    pub(crate) fn new(generation: u64, hashes: &str) -> Self {
        Self { generation, hashes: hashes.to_owned() }
    }

    /// Reads its text.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (generation, hashes) = text.split_once('-')?;
        Some(Self { generation: generation.parse().ok()?, hashes: hashes.to_owned() })
    }

    /// The rank.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether it is of another configuration than `other`, and newer: as the scripts compare them, so that of two that
    /// began at once on an empty state one is the newer, too.
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        self.hashes != other.hashes && self > other
    }

    /// Whether both give the same message the same position.
    pub(crate) fn counts_like(&self, other: &Self) -> bool {
        let numbering = |one: &Self| one.hashes.split_once('-').map(|(numbering, _)| numbering.to_owned());
        numbering(self) == numbering(other)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:010}-{}", self.generation, self.hashes)
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
        let state = State::read(&reply(FORMAT_1)).unwrap();
        let position = state.position.unwrap();
        assert_eq!(position.to_string(), FORMAT_1[1].1);
        assert_eq!(state.highest_epoch(), 1_764_000_000_000);
        assert_eq!(state.at_unix_ms, Some(1_764_000_012_345));
        assert_eq!(state.ledger.appended, 40);
        assert_eq!(state.ledger.dropped["stale"], 7);
        let same = Revision::new(3, "00112233aabbccdd-ffeeddcc00112233");
        assert_eq!(same.to_string(), FORMAT_1[3].1);
        assert_eq!(state.revision.as_ref(), Some(&same));
        let changed = Revision::new(4, "0-0");
        assert!(changed.to_string().as_str() > FORMAT_1[3].1 && changed.supersedes(&same));
        assert!(same.counts_like(&Revision::new(9, "00112233aabbccdd-0")) && !same.counts_like(&changed));
    }

    #[test]
    fn a_newer_format_is_refused_with_a_hint() {
        let error = State::read(&reply(&[("format", "2")])).unwrap_err();
        assert!(error.to_string().contains("newer release"), "{error}");
        assert_eq!(State::read(&reply(&[])).unwrap(), State::default());
    }
}
