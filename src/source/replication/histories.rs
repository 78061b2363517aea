//! The source's replication histories, numbered: each replication id has an epoch.
//!
//! Positions must compare, and replication ids do not order. So the route's state gives each history an epoch when it
//! first appears, in one step on the destination (`histories.lua`). Every instance reads the same number, so an offset
//! means the same position to all of them. The second part of the epoch is the beginning of the replication id. It
//! distinguishes histories even if a lost state makes a number be given twice.

use super::{HistoryId, ReplicationOffset};
use crate::position::{AnchorId, Epoch, Position};
use crate::server::resp;
use crate::server::{Hash, Script, script};

/// `histories.lua`.
pub(crate) const EPOCHS: Script = script!("histories.lua");

/// The histories that the state knows, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Histories(Vec<(HistoryId, u64)>);

impl Histories {
    /// Reads the state's field; malformed histories are left out.
    pub(crate) fn parse(text: &str) -> Self {
        let entry = |word: &str| {
            let (id, number) = word.split_once('=')?;
            Some((HistoryId::parse(id)?, number.parse().ok()?))
        };
        Self(text.split(' ').filter_map(entry).collect())
    }

    /// The histories in a state at this position: the position's epoch decides its history's number, even if the field
    /// has another.
    pub(crate) fn of_a_state_at(mut self, position: Option<Position>) -> Self {
        let Some(Position { epoch, .. }) = position else { return self };
        for (id, number) in &mut self.0 {
            if anchor(id) == Some(epoch.anchor) {
                *number = epoch.number;
            }
        }
        self
    }

    /// The epoch of a history.
    pub(crate) fn epoch(&self, history: &HistoryId) -> Option<Epoch> {
        let (id, number) = self.0.iter().find(|(id, _)| id == history)?;
        Some(Epoch { number: *number, anchor: anchor(id)? })
    }

    /// The history of an epoch.
    pub(crate) fn of(&self, epoch: Epoch) -> Option<&HistoryId> {
        self.0
            .iter()
            .find(|(id, number)| *number == epoch.number && anchor(id) == Some(epoch.anchor))
            .map(|(id, _)| id)
    }

    /// Returns whether the history of this epoch is known under another number.
    pub(crate) fn counts_otherwise(&self, epoch: Epoch) -> bool {
        self.0.iter().any(|(id, number)| anchor(id) == Some(epoch.anchor) && *number != epoch.number)
    }

    /// The highest number.
    pub(crate) fn highest(&self) -> u64 {
        self.0.iter().map(|(_, number)| *number).max().unwrap_or(0)
    }

    /// Adds one that is not known, with its number.
    pub(crate) fn add(&mut self, history: &HistoryId, number: u64) {
        if self.epoch(history).is_none() {
            self.0.push((history.clone(), number));
        }
    }

    /// The offset of a position; `None` if it is of another kind of source.
    pub(crate) fn place(&self, position: Position) -> Option<ReplicationOffset> {
        let history = self.of(position.epoch)?;
        Some(ReplicationOffset { history: history.clone(), offset: position.ordinal })
    }
}

/// The beginning of a history's id.
fn anchor(history: &HistoryId) -> Option<AnchorId> {
    history.as_str().get(..16)?.parse().ok()
}

/// Writes the call that numbers a history: with `wished`, if no number is higher, and `lowest` at least.
pub(crate) fn claim(
    out: &mut Vec<u8>,
    hash: &Hash,
    state: &[u8],
    history: &HistoryId,
    lowest: u64,
    wished: u64,
) {
    let (lowest, wished) = (lowest.to_string(), wished.max(lowest).to_string());
    let id = history.as_str().as_bytes();
    resp::command(out, &[b"EVALSHA", hash, b"1", state, id, lowest.as_bytes(), wished.as_bytes()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_and_a_place_stand_for_each_other() {
        let (old, new) = ("0123456789abcdef".repeat(3)[..40].to_owned(), "f".repeat(40));
        let histories = Histories::parse(&format!("{old}=000000000000007 {new}=000000000000008 nonsense=1 "));
        let id = HistoryId::parse(&old).unwrap();
        let epoch = histories.epoch(&id).unwrap();
        assert_eq!(epoch.to_string(), "000000000000007-0123456789abcdef");
        assert_eq!(histories.place(epoch.at(42)), Some(ReplicationOffset { history: id, offset: 42 }));
        let other = Epoch { number: 8, ..epoch };
        assert_eq!(histories.place(other.at(42)), None, "the id must fit, too");
        assert_eq!(histories.epoch(&HistoryId::parse(&"e".repeat(40)).unwrap()), None);
    }
}
