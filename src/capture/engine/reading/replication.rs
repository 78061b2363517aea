//! The reading side in replication mode: it continues at its last offset.
//!
//! A broken window is a gap; a broken link is not, as long as the source's backlog reaches back to the last offset
//! read. So a link is opened *at* an offset: behind the last buffered item, or else behind the checkpoint. If no server
//! holds what follows, reading begins anew, with a gap.

use std::time::{Duration, Instant};

use super::{Open, ReaderOpening};
use crate::capture::append::state::StoredState;
use crate::capture::batch::gap::{Gap, Joint};
use crate::capture::engine::handover::{Border, Left};
use crate::capture::engine::writing::Ask;
use crate::capture::engine::{Effect, Engine, Notice, Side};
use crate::event::GapCause;
use crate::logs::LogCode;
use crate::position::{Epoch, Position};
use crate::rt::Moment;
use crate::server::Error;
use crate::server::resp::Value;
use crate::source::replication::histories::{self, Histories};
use crate::source::replication::{HistoryId, LinkStart, NoContinuation, ReplicationOffset};

/// Interval of checks whether the facts for opening a link are known.
const RECHECK: Duration = Duration::from_millis(100);
/// Longest interval between moves of the checkpoint: a restart then continues close to it.
const PROGRESS: Duration = Duration::from_secs(1);

/// In which epoch an offset lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryNumbering {
    epoch: Epoch,
    /// The offset of a fork, and the epoch behind it.
    fork: Option<(u64, Epoch)>,
}

impl HistoryNumbering {
    pub(crate) fn at(self, offset: u64) -> Position {
        match self.fork {
            Some((last, epoch)) if offset > last => epoch.at(offset),
            _ => self.epoch.at(offset),
        }
    }

    /// The epochs of the following items.
    fn epochs(&self) -> impl Iterator<Item = Epoch> {
        [Some(self.epoch), self.fork.map(|(_, epoch)| epoch)].into_iter().flatten()
    }
}

/// A replication stream that is read.
#[derive(Debug)]
pub(crate) struct ReplicationReading {
    pub(crate) numbering: HistoryNumbering,
    /// The last offset read.
    pub(crate) offset: u64,
    /// When an item last reported the offset.
    told: Instant,
}

impl ReplicationReading {
    /// The last offset read, as a position. From the fork on it has the epoch of the new history, although nothing of
    /// that was read: at the next failover the server knows the history before its own, and no earlier one.
    pub(crate) fn reached(&self) -> Position {
        match self.numbering.fork {
            Some((last, epoch)) if self.offset >= last => epoch.at(self.offset),
            _ => self.numbering.at(self.offset),
        }
    }
}

/// A link that was opened.
#[derive(Debug)]
pub(in crate::capture) struct Linked {
    /// The first offset.
    pub(in crate::capture) offset: u64,
    pub(in crate::capture) start: LinkStart,
    /// The server, for the operator.
    pub(in crate::capture) server: String,
    /// The offset at which it was opened. Another instance may have moved the checkpoint since.
    from: Option<ReplicationOffset>,
}

impl Linked {
    /// A link to a server, as it was opened.
    pub(in crate::capture) fn new(offset: u64, start: LinkStart, server: String) -> Self {
        Self { offset, start, server, from: None }
    }

    /// The history that the link continues in.
    fn history(&self) -> Option<&HistoryId> {
        match &self.start {
            LinkStart::Continued => self.from.as_ref().map(|from| &from.history),
            LinkStart::Forked { history, .. } => Some(history),
            LinkStart::Anew { place, .. } => Some(&place.history),
        }
    }

    /// Returns whether it fits the place to continue from, which may have changed.
    fn fits(&self, place: &ReplicationOffset) -> bool {
        let forked = matches!(&self.start, LinkStart::Forked { history, .. } if *history == place.history);
        forked || self.from.as_ref().is_some_and(|from| from.history == place.history)
    }
}

impl Engine {
    /// Returns whether it reads the replication stream.
    pub(crate) fn is_replication(&self) -> bool {
        self.settings.capture.mode.replication().is_some()
    }

    /// The last item that is stored or buffered.
    fn stands_at(&self) -> Option<Position> {
        self.given().max(self.chain.checkpoint())
    }

    /// The offset at which reading continues; `Err` if it is not known yet.
    pub(crate) fn place(&self) -> Result<Option<ReplicationOffset>, ()> {
        let stands_at = || self.stands_at().and_then(|position| self.histories.place(position));
        if let Some((predecessor, same_state)) = &self.predecessor
            && !self.reading.opened_before
        {
            match predecessor.left() {
                Some(Left::At(place)) => {
                    // Another instance may have gone on in another history since.
                    let on = stands_at().filter(|on| *same_state && on.history != place.history);
                    return Ok(Some(on.unwrap_or(place)));
                }
                // The state may know what the predecessor did not.
                Some(Left::Nowhere) if !self.writing.is_inheriting() => {}
                _ => return Err(()),
            }
        }
        if !self.chain.was_read() {
            return Err(());
        }
        Ok(stands_at())
    }

    pub(crate) fn open_link(&mut self, now: Moment) {
        self.say_border(Border::Here);
        let Ok(place) = self.place() else {
            self.reading.opening = ReaderOpening::Waiting(now.at + RECHECK);
            return;
        };
        self.reading.opening = ReaderOpening::Link(place.clone());
        self.effect(Effect::OpenLink(place));
    }

    /// A link is open: its history may need a number.
    pub(in crate::capture) fn on_linked(&mut self, linked: Linked, now: Moment) {
        let ReaderOpening::Link(from) = &mut self.reading.opening else {
            return self.effect(Effect::DropOpening);
        };
        let linked = Linked { from: from.take(), ..linked };
        self.reading.opening = ReaderOpening::Numbering(Box::new(linked));
        self.number_history(now);
    }

    /// Continues with an open link if its history has a number; otherwise asks the state for one.
    pub(crate) fn number_history(&mut self, now: Moment) {
        let ReaderOpening::Numbering(linked) = &self.reading.opening else { return };
        if let Ok(Some(place)) = self.place()
            && !linked.fits(&place)
        {
            // Another instance went on in another history meanwhile, of which this link knows nothing.
            return self.read_anew(now);
        }
        let Some(history) = linked.history() else { return };
        // The next items must have higher positions than the last ones.
        let lowest = self.stands_at().map_or(0, |at| at.epoch.number);
        let unnumbered = match (&linked.start, &linked.from) {
            (LinkStart::Forked { .. }, Some(from)) if self.histories.epoch(&from.history).is_none() => {
                Some(&from.history)
            }
            _ if self.histories.epoch(history).is_none_or(|epoch| epoch.number < lowest) => Some(history),
            _ => None,
        };
        let Some(unnumbered) = unnumbered else { return self.tap(now) };
        let Some(hash) = self.writing.epochs_hash() else { return };
        let mut call = Vec::new();
        let wished = self.floor.max(now.unix_ms);
        histories::claim(&mut call, &hash, &self.settings.keys.state, unnumbered, lowest, wished);
        self.ask(Ask::History, now, &call);
    }

    /// Takes in the epochs of the histories.
    pub(crate) fn on_numbered(&mut self, reply: &Value, now: Moment) {
        let text = match reply {
            Value::Error(text) => {
                let error = Error::reply_at(text, &self.settings.keys.state);
                return self.disconnect(&error, now);
            }
            reply => reply.bytes().unwrap_or_default(),
        };
        let at = self.chain.checkpoint();
        let known = Histories::parse(&String::from_utf8_lossy(text)).of_a_state_at(at);
        if self.is_numbered_otherwise(&known) {
            return self.number_anew(known, at, now);
        }
        self.learn(known);
        self.number_history(now);
    }

    /// The state was read: its histories are valid.
    pub(crate) fn on_histories(&mut self, state: &StoredState, now: Moment) {
        if !self.is_replication() {
            return;
        }
        if self.chain.awaited() == 0 && self.is_numbered_otherwise(&state.histories) {
            return self.number_anew(state.histories.clone(), state.position, now);
        }
        let forgotten = self.histories_in_use().into_iter().find(|(history, number)| {
            // A lower one could only be given a number that it does not have.
            let highest = state.histories.highest().max(state.highest_epoch());
            state.histories.epoch(history).is_none() && *number >= highest
        });
        if let Some((history, number)) = forgotten
            && let Some(hash) = self.writing.epochs_hash()
        {
            // The state was lost, or went back: histories numbered by this instance keep their numbers.
            let mut call = Vec::new();
            histories::claim(&mut call, &hash, &self.settings.keys.state, &history, number, number);
            self.ask(Ask::History, now, &call);
        }
        self.learn(state.histories.clone());
    }

    /// Returns whether a history that this instance counts in has another number by now: the state was lost for a
    /// while, and another instance numbered it then.
    fn is_numbered_otherwise(&self, known: &Histories) -> bool {
        self.epochs_in_use().iter().any(|epoch| known.counts_otherwise(*epoch))
    }

    /// Continues behind the checkpoint `at`, with the state's numbers. Buffered items are stored by then, or come
    /// again; if the state has no position, they are lost.
    fn number_anew(&mut self, known: Histories, at: Option<Position>, now: Moment) {
        self.flush_builder();
        let held = self.clear_buffered();
        if at.is_some_and(|at| known.of(at.epoch).is_some()) {
            self.count_deduplicated(held);
        } else {
            self.give_up(held);
            let why =
                "the route's state was gone, and another instance has numbered the source's history since";
            let gap = Gap::begins(GapCause::StateLost, why, now.unix_ms);
            self.reading.away = Some(Gap { dropped: held, ..gap });
        }
        self.forget_tap();
        self.read_anew(now);
        self.histories = known;
    }

    /// The histories of positions that are buffered or still to come; oldest first.
    fn histories_in_use(&self) -> Vec<(HistoryId, u64)> {
        let numbered = |epoch: &Epoch| Some((self.histories.of(*epoch)?.clone(), epoch.number));
        self.epochs_in_use().iter().filter_map(numbered).collect()
    }

    fn epochs_in_use(&self) -> Vec<Epoch> {
        let tapped = self.reading.tap().into_iter().flat_map(|tap| tap.numbering.epochs());
        let mut epochs: Vec<_> = self.given().map(|given| given.epoch).into_iter().chain(tapped).collect();
        epochs.sort_unstable_by_key(|epoch| epoch.number);
        epochs.dedup();
        epochs
    }

    /// Takes in the state's histories. Those in use stay known, even if the state has lost them.
    fn learn(&mut self, known: Histories) {
        let in_use = self.histories_in_use();
        self.histories = known;
        for (history, number) in in_use {
            self.histories.add(&history, number);
        }
    }

    /// The link is open and its history has a number: continues reading.
    fn tap(&mut self, now: Moment) {
        let ReaderOpening::Numbering(linked) =
            std::mem::replace(&mut self.reading.opening, ReaderOpening::Idle)
        else {
            return;
        };
        let Some(epoch) = linked.history().and_then(|history| self.histories.epoch(history)) else {
            self.effect(Effect::DropOpening);
            self.reading.opening = ReaderOpening::Waiting(now.at + RECHECK);
            return;
        };
        let Linked { offset, start, server, from } = *linked;
        self.flush_builder();
        let forked_from = match &start {
            LinkStart::Forked { .. } => from.and_then(|from| self.histories.epoch(&from.history)),
            LinkStart::Continued | LinkStart::Anew { .. } => None,
        };
        if forked_from.is_some_and(|before| before.number >= epoch.number) {
            // The state was lost, and the earlier history got a higher number than this one. The state decides where to
            // continue.
            self.effect(Effect::DropOpening);
            self.reading.opening = ReaderOpening::Waiting(now.at + RECHECK);
            return;
        }
        let (numbering, anew) = match start {
            LinkStart::Continued => (HistoryNumbering { epoch, fork: None }, None),
            LinkStart::Forked { last, .. } => {
                self.counters.route.source_failovers.increment(1);
                let before = forked_from.unwrap_or(epoch);
                (HistoryNumbering { epoch: before, fork: Some((last, epoch)) }, None)
            }
            LinkStart::Anew { why, .. } => (HistoryNumbering { epoch, fork: None }, Some(why)),
        };
        self.effect(Effect::Tap);
        let anchor = numbering.at(offset);
        self.raise_floor(anchor.epoch.number + 1);
        match anew {
            None if self.is_fresh() => {
                // Another destination: items before this place are in the former one.
                self.reading.away = None;
                self.builder.open_window(anchor, Joint::Start, now);
            }
            None => {
                self.reading.away = None;
                // After a failover the server may begin before the last item read. Items that only the checkpoint has
                // passed come again, and the script refuses them as stored.
                let follows = self.given().map_or(anchor, |given| given.max(anchor));
                self.builder.resume(follows);
                // Otherwise the chain learns it from the item that waits before it.
                if self.is_drained() {
                    self.chain.resume(follows);
                }
            }
            Some(why) => {
                let joint = self.joint(&why, now);
                self.builder.open_window(anchor, joint, now);
                self.reading.beat_sent = Some(self.reading.asked);
            }
        }
        if self.reading.opened_before {
            self.counters.source.reconnects.increment(1);
        }
        self.reading.opened_before = true;
        self.reading.error = None;
        let tap = ReplicationReading { numbering, offset, told: now.at };
        self.reading.open = Some(Open::new(anchor, Some(tap), self.reading.asked, now));
        let text = format!("the capture reads the replication stream of the {server}");
        self.log(
            Notice::info(LogCode::ReplicationOpened, text).of(Side::Source).position(Some(anchor)).always(),
            now,
        );
        self.leadership.hurry();
        self.changed();
    }

    /// Returns whether nothing was ever stored and nothing is buffered.
    fn is_fresh(&self) -> bool {
        let nothing = self.given().is_none() && self.chain.checkpoint().is_none();
        nothing && self.chain.was_read() && !self.chain.is_lost()
    }

    /// The gap that may be before a tap that begins anew.
    fn joint(&mut self, why: &NoContinuation, now: Moment) -> Joint {
        let away = self.reading.away.take();
        let (cause, detail) = match why {
            NoContinuation::First if away.is_none() && self.chain.checkpoint().is_none() => {
                return Joint::Start;
            }
            NoContinuation::First => (
                away.as_ref().map_or(GapCause::Restart, |away| away.cause),
                "the route did not read the replication stream before".to_owned(),
            ),
            NoContinuation::Exceeded { offset, from: Some(from) } => (
                GapCause::BacklogExceeded,
                format!(
                    "the stream was read up to offset {offset}, but the source's backlog begins at {from}"
                ),
            ),
            NoContinuation::Exceeded { offset, from: None } => (
                GapCause::BacklogExceeded,
                format!(
                    "the stream was read up to offset {offset}, but the source has no backlog any more"
                ),
            ),
            NoContinuation::OtherHistory => (
                GapCause::HistoryLost,
                "the source was restarted or replaced, and does not know the replication history that was read".to_owned(),
            ),
        };
        let started = away.as_ref().map(|away| away.started_unix_ms).or(self.chain.since_unix_ms());
        let gap = Gap::begins(cause, detail, started.unwrap_or(now.unix_ms)).until(now.unix_ms);
        Joint::Gap(Gap { dropped: away.map_or(0, |away| away.dropped), ..gap })
    }

    /// The link ended. Later messages are missing only if no server holds them.
    pub(crate) fn lose_tap(&mut self, cause: GapCause, why: &str, now: Moment) {
        let began = self.complete_unix_ms(now).unwrap_or(now.unix_ms);
        self.reading.avoids_preferred ^= cause == GapCause::SourceSilent;
        self.effect(Effect::Close);
        self.keep_reached(now);
        self.reading.open = None;
        self.flush_builder();
        self.reading.error = Some(why.to_owned());
        self.reading.opening = if self.is_ending() {
            ReaderOpening::Closed
        } else {
            ReaderOpening::Waiting(now.at + self.reading.backoff.next_wait())
        };
        self.reading.away.get_or_insert_with(|| Gap::begins(cause, why, began));
        let text = format!(
            "the replication link has ended: {why}; tidegate reconnects and continues at the same offset, if the source's backlog reaches \
             back that far"
        );
        self.on_source_lost(cause, text, now);
        self.border_cannot_come();
        self.changed();
    }

    /// Returns whether the next link should go to a server of the other role than the preferred one. A replica that
    /// has lost its master without noticing accepts links and brings nothing.
    pub(in crate::capture) fn avoids_preferred(&self) -> bool {
        self.reading.avoids_preferred
    }

    /// The source's backlog covers a short absence only.
    pub(in crate::capture) fn on_short_backlog(&mut self, bytes: u64, cover: Duration, now: Moment) {
        let text = format!(
            "the source's replication backlog of {bytes} bytes covers an absence of only {} s at the present write rate, less than \
             min_backlog_cover. Raise repl-backlog-size on the source",
            cover.as_secs()
        );
        self.log(Notice::warn(LogCode::BacklogShort, text).of(Side::Source), now);
    }

    /// Moves the checkpoint to the last offset read, although no message was wanted.
    pub(crate) fn tell_progress(&mut self, now: Moment) {
        let last = self.builder.last();
        let tap = self.reading.open.as_mut().and_then(|open| open.tap.as_mut());
        let Some(tap) = tap.filter(|tap| now.at.saturating_duration_since(tap.told) >= PROGRESS) else {
            return;
        };
        tap.told = now.at;
        let reached = tap.reached();
        if Some(reached) > last {
            self.on_reached(reached, now);
        }
    }

    /// Keeps how far was read, for the next link.
    fn keep_reached(&mut self, now: Moment) {
        let reached = self.reading.tap().map(ReplicationReading::reached);
        if let Some(position) = reached.filter(|position| Some(*position) > self.builder.last()) {
            self.on_reached(position, now);
        }
    }

    fn on_reached(&mut self, position: Position, now: Moment) {
        self.builder.anchor(position, now);
        self.flush_builder();
    }

    /// There is no room: messages stay on their way, and then in the source's backlog.
    pub(crate) fn pause_reading(&mut self, now: Moment) {
        if let Some(open) = &mut self.reading.open {
            open.paused = true;
        }
        let text = "the route's share of memory and spool is used up; reading pauses until the destination accepts messages. Meanwhile \
                    the source keeps them in its replica output buffer and its backlog";
        self.log(Notice::warn(LogCode::SourcePaused, text).of(Side::Source), now);
        self.changed();
    }

    /// There is room again.
    pub(crate) fn continue_reading(&mut self, now: Moment) {
        if let Some(open) = &mut self.reading.open {
            open.paused = false;
            open.heard = now;
        }
        self.effect(Effect::Read);
    }

    /// Stops reading here; the next reader continues here.
    pub(crate) fn leave_tap(&mut self, now: Moment) {
        self.keep_reached(now);
        self.close_reading();
        self.flush_builder();
        self.border_cannot_come();
    }

    /// Items read are another instance's to store, or gone: reading continues behind the checkpoint.
    pub(crate) fn forget_tap(&mut self) {
        if self.is_replication() {
            self.builder.forget();
            self.chain.forget();
        }
    }
}
