//! The state of a consumer group: how far it has acknowledged the stream, as `ack_state.lua` reports it.

use std::collections::HashSet;

use crate::server::resp::Value;
use crate::server::{Error, Script, redacted, script};
use crate::status::GroupChange;
use crate::stream::EntryId;
use crate::stream::counters::StreamCounters;

/// Looks.
pub(crate) const ACK_STATE: Script = script!("ack_state.lua");

/// The result of a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupState {
    /// The last entry that the group was given.
    pub(crate) delivered: EntryId,
    /// Number of entries it was given, by its own count, which it loses when it is set to another place.
    pub(crate) entries_read: Option<u64>,
    /// Number of these that are not acknowledged.
    pub(crate) pending: u64,
    pub(crate) consumers: u64,
    /// The first that is not acknowledged.
    pub(crate) lowest: Option<PendingEntry>,
    /// The stream's counters, if they were asked for.
    pub(crate) stream: Option<StreamCounters>,
    /// The first entry that the caller has not read, if that was asked for with the stream.
    pub(crate) unread: Option<Option<EntryId>>,
    /// The first entry that the group was not given, if that was asked for with the stream.
    pub(crate) ungiven: Option<Option<EntryId>>,
    /// The last id for which `open` is complete.
    pub(crate) complete: EntryId,
    /// The unacknowledged ones of the entries that were not read before.
    pub(crate) open: HashSet<EntryId>,
    /// Number of holes.
    pub(crate) holes: u64,
    /// End of the scan for acknowledged holes; `None` at the set's end, or without a scan.
    pub(crate) scanned: Option<EntryId>,
    /// Holes that are acknowledged by now.
    pub(crate) acknowledged: Vec<EntryId>,
}

/// An entry that is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingEntry {
    pub(crate) id: EntryId,
    pub(crate) consumer: String,
    /// Since it was given to that consumer, in milliseconds.
    pub(crate) idle_ms: u64,
    /// Number of its deliveries.
    pub(crate) deliveries: u64,
}

impl GroupState {
    /// Reads the script's reply; `None` if there is no such group.
    ///
    /// # Errors
    /// If it is an error, or no reply of that script.
    pub(crate) fn read(reply: &Value) -> Result<Option<Self>, Error> {
        if let Value::Error(text) = reply {
            return Err(Error::reply(text));
        }
        match reply.elements() {
            Some([]) => Ok(None),
            Some(elements) => match Self::of(elements) {
                Some(look) => Ok(Some(look)),
                None => Err(ACK_STATE.invalid_reply()),
            },
            None => Err(ACK_STATE.invalid_reply()),
        }
    }

    fn of(elements: &[Value]) -> Option<Self> {
        let [
            delivered,
            read,
            pending,
            consumers,
            lowest,
            stream,
            complete,
            open,
            holes,
            scanned,
            acknowledged,
        ] = elements
        else {
            return None;
        };
        Some(Self {
            delivered: id(delivered)?,
            entries_read: u64::try_from(read.integer()?).ok(),
            pending: pending.count()?,
            consumers: consumers.count()?,
            lowest: match lowest.elements()? {
                [] => None,
                [entry, consumer, idle, deliveries] => Some(PendingEntry {
                    id: id(entry)?,
                    consumer: redacted(consumer.bytes()?),
                    idle_ms: idle.count()?,
                    deliveries: deliveries.count()?,
                }),
                _ => return None,
            },
            stream: match stream.elements()? {
                [] => None,
                [added, length, last, first, _, _] => Some(StreamCounters {
                    added: added.count()?,
                    length: length.count()?,
                    last: id(last)?,
                    first: id(first),
                }),
                _ => return None,
            },
            unread: match stream.elements()? {
                [.., unread, _] => Some(id(unread)),
                _ => None,
            },
            ungiven: match stream.elements()? {
                [.., ungiven] => Some(id(ungiven)),
                [] => None,
            },
            complete: id(complete)?,
            open: open.elements()?.iter().map(id).collect::<Option<_>>()?,
            holes: holes.count()?,
            scanned: id(scanned),
            acknowledged: acknowledged.elements()?.iter().map(id).collect::<Option<_>>()?,
        })
    }

    /// The last id up to which every entry is acknowledged: below the lowest pending one, at most the last delivered.
    pub(crate) fn limit(&self) -> EntryId {
        match &self.lowest {
            Some(lowest) => self.delivered.min(lowest.id.before()),
            None => self.delivered,
        }
    }

    /// Of a group that did not exist before: true if it may have begun behind an entry that the caller has not read.
    /// What it was given and has acknowledged leaves no trace, so only an entry that is still pending proves that it
    /// was given all behind that one.
    pub(crate) fn may_have_skipped(&self) -> bool {
        match (self.unread.flatten(), &self.lowest) {
            (Some(unread), _) if unread > self.delivered => false,
            (Some(unread), Some(lowest)) => lowest.id > unread,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

fn id(value: &Value) -> Option<EntryId> {
    EntryId::parse(value.bytes()?)
}

/// A sign that entries count as acknowledged that no consumer has acknowledged, or the other way round. A group
/// keeps no memory of why an entry is no longer pending, so this is all that can be seen.
pub(crate) fn group_change(before: &GroupState, now: &GroupState) -> Option<GroupChange> {
    // The count only grows, and a group that is made begins without one or at none.
    let fewer_read = before.entries_read.zip(now.entries_read).is_some_and(|(before, now)| now < before);
    let gone = now.consumers == 0 && before.consumers > 0;
    let set = before.entries_read.is_some() && now.entries_read.is_none();
    if fewer_read || (gone && (set || now.delivered < before.delivered)) {
        Some(GroupChange::GroupRecreated)
    } else if now.delivered < before.delivered {
        Some(GroupChange::MovedBack)
    } else if set && now.delivered > before.delivered {
        Some(GroupChange::MovedForward)
    } else if now.consumers < before.consumers && now.pending < before.pending {
        Some(GroupChange::ConsumerDeleted)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(delivered: u64, entries_read: Option<u64>, pending: u64, consumers: u64) -> GroupState {
        let at = |milliseconds| EntryId { milliseconds, sequence: 0 };
        GroupState {
            delivered: at(delivered),
            entries_read,
            pending,
            consumers,
            lowest: None,
            unread: None,
            ungiven: None,
            stream: None,
            complete: at(delivered),
            open: HashSet::new(),
            holes: 0,
            scanned: None,
            acknowledged: Vec::new(),
        }
    }

    #[test]
    fn what_is_released_lies_below_the_lowest_pending_and_was_given_out() {
        let lowest = |milliseconds, sequence| {
            let id = EntryId { milliseconds, sequence };
            Some(PendingEntry { id, consumer: "one".into(), idle_ms: 0, deliveries: 1 })
        };
        let with = |pending| GroupState { lowest: pending, ..look(9, None, 1, 1) };
        assert_eq!(with(None).limit(), EntryId { milliseconds: 9, sequence: 0 });
        assert_eq!(with(lowest(7, 3)).limit(), EntryId { milliseconds: 7, sequence: 2 });
        assert_eq!(with(lowest(7, 0)).limit(), EntryId { milliseconds: 6, sequence: u64::MAX });
        // The last id of a group that was set back.
        assert_eq!(with(lowest(12, 0)).limit(), EntryId { milliseconds: 9, sequence: 0 });
    }

    #[test]
    fn a_group_that_has_just_been_given_what_was_not_read_has_skipped_nothing() {
        let at = |milliseconds| EntryId { milliseconds, sequence: 0 };
        let pending = |id| PendingEntry { id, consumer: "one".into(), idle_ms: 0, deliveries: 1 };
        for (unread, lowest, expected) in [
            (None, None, false),
            (Some(10), None, false),
            (Some(5), Some(5), false),
            (Some(5), Some(2), false),
            (Some(5), Some(6), true),
            (Some(5), None, true),
        ] {
            let lowest = lowest.map(|id| pending(at(id)));
            let state = GroupState { unread: Some(unread.map(at)), lowest, ..look(9, None, 1, 1) };
            assert_eq!(state.may_have_skipped(), expected, "{state:?}");
        }
    }

    #[test]
    fn ordinary_work_raises_no_doubt_and_each_trick_does() {
        let before = look(9, Some(9), 5, 2);
        for (now, expected) in [
            (look(12, Some(12), 3, 2), None),
            (look(12, Some(12), 8, 3), None),
            // A consumer without pending entries that was tidied up.
            (look(9, Some(9), 5, 1), None),
            (look(9, Some(9), 3, 1), Some(GroupChange::ConsumerDeleted)),
            (look(20, None, 5, 2), Some(GroupChange::MovedForward)),
            (look(4, None, 5, 2), Some(GroupChange::MovedBack)),
            (look(4, None, 0, 0), Some(GroupChange::GroupRecreated)),
            (look(20, None, 0, 0), Some(GroupChange::GroupRecreated)),
            (look(20, Some(3), 1, 1), Some(GroupChange::GroupRecreated)),
        ] {
            assert_eq!(group_change(&before, &now), expected, "{now:?}");
        }
    }

    #[test]
    fn nonsense_is_an_error_and_no_group_is_none() {
        assert_eq!(GroupState::read(&Value::Array(Vec::new())).unwrap(), None);
        for nonsense in [Value::Null, Value::Array(vec![Value::Integer(1)]), Value::Error(b"ERR no".to_vec())]
        {
            assert!(GroupState::read(&nonsense).is_err(), "{nonsense:?}");
        }
    }
}
