//! From the route that runs to the one that a reload puts in its place, without a hole between.
//!
//! The successor opens its window while the predecessor's is still open. Its anchor is seen by both,
//! and is the border: what stands before it is the predecessor's, in the old numbering; from it on it
//! is the successor's. The anchor's id is written here *before* it is published, so the predecessor
//! knows it by the time it reads it.
//!
//! ```text
//! predecessor ──●──●──●──┤ hands over what is not stored, and the spool; ends
//!                        ▼ anchor
//! successor              ├──●──●──●── holds what it reads until then, and continues behind it
//! ```
//!
//! What waits is encoded already, so it is stored as the old configuration wanted it, whichever route sends it.
//! Where the destination is another one, the predecessor stores what it has itself.
//!
//! Where both read a replication stream it is simpler: the predecessor stops where it is, and the
//! successor reads on from there.
//!
//! Failure: where the successor cannot open its window, the predecessor just continues (it holds back
//! what follows the border until it knows). Where the predecessor's window breaks before the border,
//! it reports it, and the successor records the gap.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Carried;
use crate::position::{AnchorId, Position};
use crate::source::replication::ReplicationOffset;
use crate::spool::Spool;

/// What two routes say to each other. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Handover(Arc<HandoverState>);

#[derive(Debug, Default)]
struct HandoverState {
    talk: Mutex<Talk>,
    changed: Notify,
    elsewhere: AtomicBool,
    floor: AtomicU64,
}

#[derive(Debug, Default)]
struct Talk {
    border: Border,
    /// The successor was given up: what it says from now on does not count.
    withdrawn: bool,
    left: Option<Left>,
    ended: Option<Box<Ended>>,
}

/// What the successor says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Border {
    /// Nothing yet: the predecessor continues.
    #[default]
    None,
    /// An anchor with this id may come: hold back what follows it.
    Announced(AnchorId),
    /// The window that it opened is open: everything from this anchor on is the successor's.
    Open(Position),
    /// It continues wherever the predecessor stands, which is to stop reading at once.
    Here,
}

impl Border {
    /// Returns whether this anchor is the border, or may become it.
    pub(crate) fn is_at(self, anchor: Position) -> bool {
        match self {
            Self::None | Self::Here => false,
            Self::Announced(id) => id == anchor.epoch.anchor,
            Self::Open(border) => border.epoch.anchor == anchor.epoch.anchor,
        }
    }
}

/// Where a predecessor has stopped to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    /// At this place of a replication stream.
    At(ReplicationOffset),
    /// No position from which reading could continue.
    Nowhere,
}

/// What the predecessor leaves.
#[derive(Debug)]
pub(in crate::capture) struct Ended {
    /// What is not stored, and how it continues.
    pub(in crate::capture) carried: Carried,
    /// The disk behind it.
    pub(crate) spool: Option<Spool>,
}

impl Handover {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.0.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the place to a successor, which has said nothing yet. Where it writes another state, the predecessor
    /// stores what it has itself.
    pub fn offer(&self, same_state: bool) {
        self.0.elsewhere.store(!same_state, Ordering::Relaxed);
        let mut talk = self.talk();
        talk.withdrawn = false;
        talk.border = Border::None;
    }

    /// Returns whether the successor takes over what is not stored.
    pub(crate) fn inherits(&self) -> bool {
        !self.0.elsewhere.load(Ordering::Relaxed)
    }

    /// The successor's word.
    pub(crate) fn border(&self) -> Border {
        self.talk().border
    }

    /// Says the successor's word.
    pub(crate) fn set_border(&self, border: Border) {
        let mut talk = self.talk();
        if !talk.withdrawn {
            talk.border = border;
        }
        drop(talk);
        self.0.changed.notify_waiters();
    }

    /// Says the lowest epoch that may be handed out, as the predecessor knows it.
    pub(in crate::capture) fn set_floor(&self, floor: u64) {
        self.0.floor.store(floor, Ordering::Relaxed);
    }

    /// The lowest epoch that may be handed out.
    pub(in crate::capture) fn floor(&self) -> u64 {
        self.0.floor.load(Ordering::Relaxed)
    }

    /// Says where the predecessor has stopped to read a replication stream.
    pub(crate) fn leave(&self, left: Left) {
        self.talk().left = Some(left);
    }

    /// Where it has; `None` while it has not.
    pub(crate) fn left(&self) -> Option<Left> {
        self.talk().left.clone()
    }

    /// Says the predecessor's last word.
    pub(in crate::capture) fn end(&self, ended: Box<Ended>) {
        self.talk().ended = Some(ended);
        self.0.changed.notify_waiters();
    }

    /// Gives a successor up that has not taken over, in one step with finding that out: the predecessor continues, and
    /// nothing that the successor says later counts. `false` where it has taken over.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        let mut talk = self.talk();
        if matches!(talk.border, Border::Open(_) | Border::Here) {
            return false;
        }
        talk.border = Border::None;
        talk.withdrawn = true;
        drop(talk);
        self.0.changed.notify_waiters();
        true
    }

    /// Takes the predecessor's last word, once it is said. Cancel safe.
    pub(in crate::capture) async fn ended(&self) -> Box<Ended> {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(ended) = self.talk().ended.take() {
                return ended;
            }
            changed.await;
        }
    }

    /// Comes back when the other side has said something since. Cancel safe.
    pub(crate) async fn border_other_than(&self, known: Border) -> Border {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let border = self.border();
            if border != known {
                return border;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_that_was_given_up_does_not_take_over() {
        let handover = Handover::default();
        handover.set_border(Border::Announced(AnchorId::random()));
        assert!(handover.withdraw());
        handover.set_border(Border::Here);
        assert_eq!(handover.border(), Border::None, "it was on its way to take over");
        handover.offer(true);
        handover.set_border(Border::Here);
        assert_eq!(handover.border(), Border::Here, "the next one may");
        assert!(!handover.withdraw(), "it has taken over");
    }

    #[test]
    fn each_successor_says_for_itself_where_it_writes() {
        let handover = Handover::default();
        handover.offer(false);
        assert!(!handover.inherits());
        assert!(handover.withdraw());
        handover.offer(true);
        assert!(handover.inherits(), "the one before it wrote elsewhere");
    }
}
