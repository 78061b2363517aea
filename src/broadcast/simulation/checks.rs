//! The conditions of every history.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::instance::Sender;
use super::model::Model;
use crate::broadcast::unread_loss::DELETED_UNREAD;
use crate::config::{After, Broadcast, Order};
use crate::stream::EntryId;

/// The facts known from outside.
#[derive(Debug)]
pub(super) struct Checks {
    one_server: bool,
    gentle: bool,
    grouped: bool,
    in_order: bool,
    /// Counts the sessions of all instances.
    pub(super) sessions: Sender,
    added: BTreeSet<EntryId>,
    acknowledged: BTreeSet<EntryId>,
    /// Of these a broadcast may miss some.
    deleted: BTreeSet<EntryId>,
    /// Of these the entries that the cursor had not passed.
    unread: BTreeSet<EntryId>,
    /// True if a stream was deleted: how many of its entries are recorded depends on the last look.
    pub(super) stream_deleted: bool,
    heard: BTreeMap<EntryId, u64>,
    all: i64,
    /// Entries that may be heard again.
    repeatable: BTreeSet<EntryId>,
    /// Sessions whose messages may be repeats, or repeated.
    loose: BTreeSet<Sender>,
    /// The highest that was heard since something allowed to begin anew.
    reached: EntryId,
    dead: usize,
    /// Entries that were dead letters once, also where a failover has lost the letter.
    given_up: BTreeSet<EntryId>,
    failed_over: bool,
    /// True if the server has lost a lease, or measured it by a clock that jumped.
    pub(super) forgets: bool,
}

impl Checks {
    pub(super) fn new(settings: &Broadcast, (one_server, gentle): (bool, bool)) -> Self {
        let order = match &settings.after {
            After::Added => None,
            After::Acknowledged(acknowledged) => Some(acknowledged.order),
        };
        Self {
            one_server,
            gentle,
            grouped: order.is_some(),
            in_order: !matches!(order, Some(Order::Acknowledgement { .. })),
            sessions: 0,
            added: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            deleted: BTreeSet::new(),
            unread: BTreeSet::new(),
            stream_deleted: false,
            heard: BTreeMap::new(),
            all: 0,
            repeatable: BTreeSet::new(),
            loose: BTreeSet::new(),
            reached: EntryId::default(),
            dead: 0,
            given_up: BTreeSet::new(),
            failed_over: false,
            forgets: false,
        }
    }

    pub(super) fn added(&mut self, id: EntryId) {
        self.added.insert(id);
    }

    pub(super) fn acknowledged(&mut self, id: EntryId) {
        self.acknowledged.insert(id);
    }

    pub(super) fn deleted(&mut self, id: EntryId, model: &Model) {
        self.deleted.insert(id);
        // Entries that go before the route has a cursor are not its own.
        if model.position().is_some() && !Self::is_settled(id, model) {
            self.unread.insert(id);
        }
    }

    /// The highest id that was ever given.
    pub(super) fn last_added(&self) -> EntryId {
        self.added.last().copied().unwrap_or_default()
    }

    pub(super) fn is_heard(&self, id: EntryId) -> bool {
        self.heard.contains_key(&id)
    }

    /// Returns whether the cursor shows that an entry is dealt with.
    fn is_settled(id: EntryId, model: &Model) -> bool {
        model.position().is_some_and(|cursor| id <= cursor) && !model.holes.contains(&id)
    }

    /// A message was published.
    pub(super) fn heard(&mut self, id: EntryId, sender: Sender, model: &Model) {
        assert!(self.added.contains(&id), "{id} was never added");
        assert!(!self.grouped || self.acknowledged.contains(&id), "{id} is not acknowledged");
        let loose = !self.one_server && self.loose.contains(&sender);
        let again = self.heard.contains_key(&id);
        assert!(
            !again || loose || self.repeatable.contains(&id),
            "{id} is heard again: settled {}, by session {sender}",
            Self::is_settled(id, model)
        );
        if loose {
            self.repeatable.insert(id);
        } else if self.in_order {
            let back = again && self.repeatable.contains(&id);
            assert!(back || id > self.reached, "{id} after {}", self.reached);
            self.reached = id;
        }
        *self.heard.entry(id).or_default() += 1;
        self.all += 1;
    }

    /// The cursor moved. If a session that is over sent that, the next holder of the lease may have begun before, and
    /// meets its published entries as holes. Returns whether it was such a session.
    pub(super) fn moved(&mut self, from: EntryId, to: EntryId, sender: Sender) -> bool {
        let over = self.loose.contains(&sender);
        if over {
            self.repeatable.extend(self.added.iter().filter(|id| **id > from && **id <= to));
        }
        over
    }

    /// Entries that this session has sent beyond the cursor may be sent again; and those it has under way.
    pub(super) fn loose(&mut self, session: Sender, model: &Model) {
        if self.one_server {
            return;
        }
        self.loose.insert(session);
        let unsettled: Vec<EntryId> =
            self.heard.keys().copied().filter(|id| !Self::is_settled(*id, model)).collect();
        self.repeatable.extend(unsettled);
    }

    /// Entries that the server has forgotten are published again.
    pub(super) fn failed_over(&mut self, model: &Model) {
        (self.failed_over, self.forgets) = (true, true);
        let forgotten: Vec<EntryId> =
            self.heard.keys().copied().filter(|id| !Self::is_settled(*id, model)).collect();
        self.repeatable.extend(forgotten);
        (self.dead, self.reached) = (model.dead.len(), EntryId::default());
    }

    pub(super) fn after_step(&mut self, model: &Model, _elapsed: Duration) {
        let count = |field: &str| model.cursor.get(field).map_or(0, |value| value.parse::<i64>().unwrap());
        let published = count("published");
        if !self.failed_over {
            let holds = if self.one_server { published == self.all } else { published <= self.all };
            assert!(holds, "the cursor says {published}, {} were heard", self.all);
            assert_eq!(count("rejected"), i64::try_from(model.dead.len()).unwrap(), "dead letters");
            assert!(model.dead.len() >= self.dead);
            self.dead = model.dead.len();
        }
        assert!(count("unheard") <= published);
        // A letter about entries that were deleted unread names the one before them.
        let given_up = model.dead.iter().filter(|(_, reason)| reason != DELETED_UNREAD);
        self.given_up.extend(given_up.map(|(id, _)| EntryId::parse(id.as_bytes()).unwrap()));
    }

    /// Entries that are neither published nor a dead letter.
    pub(super) fn left(&self) -> Vec<EntryId> {
        let is_left = |id: &&EntryId| !self.heard.contains_key(id) && !self.given_up.contains(id);
        self.added.difference(&self.deleted).filter(is_left).copied().collect()
    }

    /// Returns whether as many entries are recorded as lost as were trimmed unread. If something fails, the count may have
    /// been unknown meanwhile.
    fn is_recorded(&self, model: &Model) -> bool {
        let lost = |id: &&EntryId| !self.heard.contains_key(id) && !self.given_up.contains(id);
        let lost = i64::try_from(self.unread.iter().filter(lost).count()).unwrap();
        !self.gentle || self.stream_deleted || self.grouped || model.unread == lost
    }

    pub(super) fn is_complete(&self, model: &Model) -> bool {
        let cursor = model.position().unwrap_or_default();
        self.left().is_empty()
            && self.is_recorded(model)
            && model.holes.is_empty()
            && self.added.difference(&self.deleted).last().is_none_or(|last| cursor >= *last)
    }

    /// `sent` is the instances' own count of sent messages.
    pub(super) fn at_end(&self, model: &Model, sent: u64) {
        // A failover may restore a cursor before entries that are published and deleted.
        let unread = i64::try_from(self.unread.len()).unwrap();
        let holds = self.failed_over || model.unread <= unread;
        assert!(holds, "{} are recorded, and {unread} were deleted unread", model.unread);
        assert!(i64::try_from(sent).unwrap() <= self.all, "{sent} told of {}", self.all);
        // If an instance got no processor for the time of a lease, its session is loose.
        if self.gentle && self.loose.is_empty() {
            assert!(self.heard.values().all(|times| *times == 1), "nothing is repeated");
            assert_eq!(i64::try_from(sent).unwrap(), self.all, "what is told is what was sent");
        }
    }
}
