//! How a capture ends: stopped, or replaced by a reload's successor.
//!
//! ```text
//! Running ─▶ Draining       told to stop: reads up to a fence, stores what waits
//!    │           │
//!    ├───────────┴─▶ HandingOver   a successor runs that writes elsewhere: stores what stands before the border
//!    └─────────────▶ HandedOver    a successor runs and takes over what waits
//! ```

use std::time::Instant;

use super::handover::{Border, Carried, Left};
use super::reading::ReaderOpening;
use super::spill::Spill;
use super::{Effect, Engine, Notice};
use crate::capture::batch::gap::{Gap, Joint};
use crate::event::GapCause;
use crate::logs::LogCode;
use crate::position::{AnchorId, Position};
use crate::rt::Moment;
use crate::source::replication::histories::Histories;

/// Progress of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::capture) enum Ending {
    Running,
    /// Told to stop: messages that were published before are read, and what waits is stored, until then.
    Draining(Instant),
    /// A successor runs, elsewhere: items before the border are stored, until a stop's deadline if there is one.
    HandingOver(Option<Instant>),
    /// A successor runs and takes over unstored items.
    HandedOver,
}

impl Engine {
    /// Returns whether no new window may be opened: the route stops, or a successor runs.
    pub(super) fn is_ending(&self) -> bool {
        self.ending != Ending::Running
    }

    /// Returns whether a stop is still news.
    pub(in crate::capture) fn may_stop(&self) -> bool {
        matches!(self.ending, Ending::Running | Ending::HandingOver(None))
    }

    /// The successor's last report, if a later one still matters.
    pub(in crate::capture) fn awaits_border(&self) -> Option<Border> {
        let over = matches!(self.ending, Ending::HandingOver(_) | Ending::HandedOver);
        (!over).then_some(self.border.known)
    }

    pub(in crate::capture) fn on_stop(&mut self, now: Moment) {
        let until = now.at + self.settings.drain_deadline;
        if matches!(self.ending, Ending::HandingOver(_)) {
            self.ending = Ending::HandingOver(Some(until));
        } else {
            self.ending = Ending::Draining(until);
            self.spill.hurry();
            self.leadership.hurry();
            self.finish_reading(now);
        }
        self.changed();
    }

    /// The successor has said something.
    pub(in crate::capture) fn on_border(&mut self, border: Border, now: Moment) {
        self.border.known = border;
        match border {
            Border::None => self.forget_border(),
            Border::Here => self.hand_over_here(now),
            Border::Announced(id) => {
                if !self.is_past(id) {
                    // An earlier announcement, withdrawn meanwhile, holds nothing back any more.
                    self.forget_border();
                }
            }
            Border::Open(position) => {
                let coming = self.reading.is_open() && self.builder.last() < Some(position);
                if !self.is_past(position.epoch.anchor) && coming {
                    // Not there yet: reading stops when the anchor comes.
                    self.forget_border();
                    return;
                }
                self.hand_over(position);
            }
        }
    }

    pub(super) fn forget_border(&mut self) {
        self.border.reached = None;
        self.border.place = None;
    }

    /// Returns whether this route's window has come to an anchor that a successor announced.
    fn is_past(&self, anchor: AnchorId) -> bool {
        self.border.reached.is_some_and(|border| border.epoch.anchor == anchor)
    }

    /// The window ended before a successor's border came: the successor takes over as things are.
    pub(super) fn border_cannot_come(&mut self) {
        if let Border::Open(border) = self.border.known {
            self.hand_over(border);
        }
    }

    /// Everything from the border on is the successor's.
    pub(super) fn hand_over(&mut self, border: Position) {
        let contiguous = self.is_past(border.epoch.anchor);
        self.border.contiguous = contiguous;
        let place = self.border.place.filter(|_| contiguous).unwrap_or(border);
        self.border.reached = Some(border);
        self.border.place = Some(place);
        self.ending = self.handed_over();
        self.close_reading();
        self.flush_builder();
        let taken = self.ending == Ending::HandedOver;
        let (others, gap) = self.spill.cut(place, &mut self.chain, taken);
        self.count_deduplicated(others);
        // Pass only the gap before the border to the successor. If a window of this route began after the border, that
        // is the window's own gap.
        self.gap = if contiguous { None } else { gap.or(self.gap.take()) };
        self.changed();
    }

    /// The successor continues reading at this route's place.
    fn hand_over_here(&mut self, now: Moment) {
        let left = if self.is_replication() {
            self.leave_tap(now);
            self.place().ok().flatten()
        } else {
            self.close_reading();
            self.flush_builder();
            self.gap = Some(stopped("a new configuration reads the source in another mode", now));
            None
        };
        self.successor.leave(left.map_or(Left::Nowhere, Left::At));
        self.forget_border();
        self.ending = self.handed_over();
        self.changed();
    }

    fn handed_over(&self) -> Ending {
        match self.ending {
            _ if self.successor.inherits() => Ending::HandedOver,
            Ending::Draining(until) => Ending::HandingOver(Some(until)),
            Ending::HandingOver(until) => Ending::HandingOver(until),
            Ending::Running | Ending::HandedOver => Ending::HandingOver(None),
        }
    }

    /// Reads the messages published until now, and then no more.
    fn finish_reading(&mut self, now: Moment) {
        if matches!(self.reading.opening, ReaderOpening::Window) {
            self.say_border(Border::None);
        }
        if !self.reading.is_open() {
            self.close_reading();
        } else if self.is_replication() {
            self.reading.finished = self.complete_unix_ms(now);
            self.leave_tap(now);
        } else {
            self.drop_opening();
            self.reading.fenced = Some(now.at);
            self.effect(Effect::Fence);
        }
        self.changed();
    }

    /// The fence has come: everything is read that was published on this server before the stop. Another server may be the
    /// master by then.
    pub(super) fn on_fence(&mut self, now: Moment) {
        let certain = self.reading.is_master_until();
        let finished =
            self.reading.fenced.map(|fenced| certain.map_or(fenced, |certain| certain.min(fenced)));
        self.reading.finished = finished.map(|finished| now.unix_ms_of(finished));
        self.close_reading();
        self.flush_builder();
        self.gap = Some(stopped("tidegate was stopped", now));
        self.border_cannot_come();
    }

    /// Returns whether the engine has nothing left to do.
    pub(in crate::capture) fn is_done(&self, now: Instant) -> bool {
        match self.ending {
            Ending::Running => false,
            // Items from its own predecessor are handed on.
            Ending::HandedOver => !self.writing.is_inheriting(),
            Ending::Draining(until) => now >= until || (self.has_settled(now) && self.writing.has_left()),
            Ending::HandingOver(until) => {
                until.is_some_and(|until| now >= until) || (self.is_drained() && self.writing.is_idle())
            }
        }
    }

    /// Returns whether an end now would lose nothing.
    pub(super) fn has_settled(&self, now: Instant) -> bool {
        if self.reading.is_open() || self.builder.open_items() > 0 {
            return false;
        }
        let spooled = self.spill.has_written(self.last_given()) && !self.writing.is_up();
        self.is_drained() || spooled || self.is_covered(now)
    }

    /// The end: the state for the successor, and the number of lost messages.
    pub(in crate::capture) fn end(mut self, now: Moment) -> (Carried, u64, Option<Notice>) {
        let leader = self.leadership.is_leader();
        if self.ending == Ending::HandedOver {
            let carried = Carried {
                chain: self.chain,
                spill: self.spill,
                contiguous: self.border.contiguous,
                gap: self.gap,
                leader,
                histories: self.histories,
            };
            return (carried, 0, None);
        }
        let left = self.in_hand().total();
        let safe = self.spill.has_written(self.last_given()) || self.is_covered(now.at);
        let lost = if safe { 0 } else { left };
        let notice = if lost > 0 {
            let text = format!(
                "{lost} messages could not be stored within shutdown_timeout and are lost; the next start records the gap. \
                 Configure a writable state_directory, or stop tidegate only while the destination is available"
            );
            Some(Notice::error(LogCode::ShutdownIncomplete, text).events(lost).always())
        } else if left > 0 {
            let text = format!(
                "{left} messages are not stored yet; they are in the spool, or another instance has them"
            );
            Some(Notice::info(LogCode::LeftBuffered, text).events(left).always())
        } else {
            None
        };
        let gap = self.gap.take().or_else(|| {
            let detail = format!("{lost} messages could not be stored before the deadline");
            (lost > 0).then(|| stopped(&detail, now))
        });
        // The successor writes elsewhere: it needs the border's place and the gap only. Another state numbers histories
        // by itself.
        let carried = Carried {
            chain: self.chain,
            spill: Spill::default(),
            contiguous: self.border.contiguous,
            gap,
            leader,
            histories: Histories::default(),
        };
        (carried, lost, notice)
    }

    /// Returns whether the successor takes over unstored items.
    pub(in crate::capture) fn hands_over(&self) -> bool {
        self.ending == Ending::HandedOver
    }

    /// Takes over from the route that this one replaces.
    pub(in crate::capture) fn on_inherited(&mut self, carried: Carried, now: Moment) {
        self.writing.on_inherited(now.at);
        let Carried { chain, spill, contiguous, gap, leader, histories } = carried;
        if self.is_replication() {
            self.histories = histories;
            // Nothing was read yet: it continues where the predecessor stopped, or records why not.
            self.reading.away.clone_from(&gap);
            self.read_anew(now);
        }
        self.flush_builder();
        let given = spill.last().or(chain.last());
        // The predecessor's items are in an epoch whose anchor this route's window did not see.
        let elsewhere = given.is_some_and(|given| !self.chain.has_seen(given.epoch));
        let own = self.chain.take_batches();
        self.chain = chain.inherited(&self.settings.numbering);
        self.chain.on_disconnected();
        self.spill = spill;
        // This route has not received it, and it waits here now.
        self.ledger.received(self.in_hand().total());
        if leader {
            self.rollout.on_inherited();
        }
        let room = self.room();
        let mut joint = match gap {
            Some(gap) => Some(Joint::Gap(gap)),
            None => given.filter(|_| contiguous).map(Joint::Follows),
        };
        let (mut others, mut stale) = (0, None::<Gap>);
        for mut batch in own {
            if Some(batch.last) <= given {
                if elsewhere {
                    let gap = stale.get_or_insert_with(|| behind(batch.complete_unix_ms));
                    gap.dropped += batch.events;
                } else {
                    // Another instance stored it behind the border before this route was heard of.
                    others += batch.events;
                    joint = None;
                }
                continue;
            }
            if let Some(gap) = stale.take() {
                self.give_up(gap.dropped);
                let gap = gap.until(batch.opened_unix_ms);
                batch.joint = Joint::Gap(match joint.take() {
                    Some(Joint::Gap(left)) => left.with(gap),
                    _ => gap,
                });
            } else if let Some(joint) = joint.take()
                && Some(batch.first) > given
            {
                // The predecessor's stretch lasts until this route read.
                batch.joint = match joint {
                    Joint::Gap(gap) => {
                        let ended_unix_ms = gap.ended_unix_ms.max(batch.opened_unix_ms);
                        Joint::Gap(gap.until(ended_unix_ms))
                    }
                    other => other,
                };
            }
            self.spill.push(batch, &mut self.chain, room);
        }
        self.count_deduplicated(others);
        if let (Some(gap), Some(given)) = (stale, given) {
            let left = match joint {
                Some(Joint::Gap(left)) => Some(left),
                _ => None,
            };
            self.begin_above(given, gap, left, now);
        }
    }

    /// No item of the window can follow the predecessor's items: it is opened anew above them.
    fn begin_above(&mut self, given: Position, stale: Gap, left: Option<Gap>, now: Moment) {
        self.give_up(stale.dropped);
        self.raise_floor(given.epoch.number + 1);
        self.lose_window(stale.cause, &stale.detail, now);
        let gap =
            self.gap.take().map_or(stale.clone(), |gap| Gap { dropped: gap.dropped + stale.dropped, ..gap });
        self.gap = Some(left.map_or(gap.clone(), |left| left.with(gap)));
    }

    /// Tells the route that this one replaces, until the first window is open.
    pub(super) fn say_border(&self, border: Border) {
        if let Some((predecessor, _)) = &self.predecessor
            && !self.reading.opened_before
        {
            predecessor.set_border(border);
        }
    }
}

/// The loss of a window's messages that are below the predecessor's items.
fn behind(since_unix_ms: u64) -> Gap {
    let why = "the replaced configuration had come to a later epoch than the session of the new one";
    Gap::begins(GapCause::EpochLost, why, since_unix_ms)
}

/// The stretch from now on, which an ending route does not watch.
fn stopped(detail: &str, now: Moment) -> Gap {
    Gap::begins(GapCause::Restart, detail, now.unix_ms)
}
