//! From a running route to its successor after a reload, without a gap.
//!
//! The successor opens its window while the predecessor's is still open. Both receive its anchor, which is the border:
//! items before it are the predecessor's, in the old numbering; from it on they are the successor's. The anchor's id is
//! written here *before* it is published, so the predecessor knows it when it arrives.
//!
//! ```text
//! predecessor ──●──●──●──┤ hands over what is not stored, and the spool; ends
//!                        ▼ anchor
//! successor              ├──●──●──●── holds what it reads until then, and continues behind it
//! ```
//!
//! Waiting items are encoded already, so they are stored as the old configuration wanted, whichever route sends them.
//! If the destination is another one, the predecessor stores its items itself.
//!
//! If both read a replication stream it is simpler: the predecessor stops at once, and the successor continues from its
//! offset.
//!
//! Failure: if the successor cannot open its window, the predecessor continues (it holds back items after the border
//! until it knows). If the predecessor's window breaks before the border, it reports that, and the successor records
//! the gap.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::chain::Chain;
use super::spill::Spill;
use crate::capture::batch::gap::Gap;
use crate::position::{AnchorId, Position};
use crate::source::replication::ReplicationOffset;
use crate::source::replication::histories::Histories;
use crate::spool::Spool;

/// The state that a capture leaves to its successor.
#[derive(Debug)]
pub(in crate::capture) struct Carried {
    /// Items that are not stored, and the checkpoint.
    pub(in crate::capture) chain: Chain,
    /// Items behind the chain.
    pub(in crate::capture) spill: Spill,
    /// True if nothing is missing between the last batch and the border.
    pub(in crate::capture) contiguous: bool,
    /// The gap before the successor's first item, if the items are not contiguous. With neither, the route never had a
    /// window.
    pub(in crate::capture) gap: Option<Gap>,
    /// True if it was the leader.
    pub(in crate::capture) leader: bool,
    /// The numbers of its histories, if it read a replication stream.
    pub(in crate::capture) histories: Histories,
}

/// The channel between two routes. Cheap to clone.
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
    /// True if the successor was given up: its later reports do not count.
    withdrawn: bool,
    left: Option<Left>,
    ended: Option<Box<Ended>>,
}

/// The successor's report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Border {
    /// Nothing yet: the predecessor continues.
    #[default]
    None,
    /// An anchor with this id may come: hold back the items after it.
    Announced(AnchorId),
    /// The window that it opened is open: everything from this anchor on is the successor's.
    Open(Position),
    /// It continues wherever the predecessor is, which shall stop reading at once.
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

/// Where a predecessor has stopped reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    /// At this place of a replication stream.
    At(ReplicationOffset),
    /// No position from which reading could continue.
    Nowhere,
}

/// The state that the predecessor leaves.
#[derive(Debug)]
pub(in crate::capture) struct Ended {
    /// Items that are not stored, and how they continue.
    pub(in crate::capture) carried: Carried,
    /// The disk behind it.
    pub(crate) spool: Option<Spool>,
}

impl Handover {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.0.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the place to a successor, which has reported nothing yet. If it writes another state, the predecessor
    /// stores its items itself.
    pub fn offer(&self, same_state: bool) {
        self.0.elsewhere.store(!same_state, Ordering::Relaxed);
        let mut talk = self.talk();
        talk.withdrawn = false;
        talk.border = Border::None;
    }

    /// Returns whether the successor takes over unstored items.
    pub(crate) fn inherits(&self) -> bool {
        !self.0.elsewhere.load(Ordering::Relaxed)
    }

    /// The successor's report.
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

    /// Sets the lowest epoch that the predecessor allows.
    pub(in crate::capture) fn set_floor(&self, floor: u64) {
        self.0.floor.store(floor, Ordering::Relaxed);
    }

    /// The lowest epoch that may be handed out.
    pub(in crate::capture) fn floor(&self) -> u64 {
        self.0.floor.load(Ordering::Relaxed)
    }

    /// Reports where the predecessor has stopped reading a replication stream.
    pub(crate) fn leave(&self, left: Left) {
        self.talk().left = Some(left);
    }

    /// Where it has stopped; `None` before that.
    pub(crate) fn left(&self) -> Option<Left> {
        self.talk().left.clone()
    }

    /// Gives the successor the predecessor's final state.
    pub(in crate::capture) fn end(&self, ended: Box<Ended>) {
        self.talk().ended = Some(ended);
        self.0.changed.notify_waiters();
    }

    /// Gives up a successor that has not taken over, in one step with checking that: the predecessor continues, and
    /// later reports of the successor do not count. `false` if it has taken over.
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
