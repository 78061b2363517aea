//! The reading side of a route in replication mode: it goes on where it stopped.
//!
//! A window that broke is a gap; a link that broke is not, as long as the source's backlog reaches back to
//! the place that was come to. So a tap is opened *at* something: behind the last item in hand, else behind
//! the checkpoint. Only where no server holds what follows does reading begin anew, with a gap.

use std::time::Instant;

use super::super::batch::{Gap, Joint, Read};
use super::super::handover::{Border, Left};
use super::super::history::{self, Histories};
use super::super::listening::Listening;
use super::super::state::State as Stored;
use super::super::tap::{Numbering, Tap};
use super::destination::Ask;
use super::source::State;
use super::{Ending, Route};
use crate::config::Prefer;
use crate::event::GapCause;
use crate::metrics::float;
use crate::position::{Epoch, Position};
use crate::replication::{Anew, Backlog, Health, HistoryId, Link, Place, Start};
use crate::rt;
use crate::server::resp::Value;
use crate::server::{Error, Role};
use crate::status::ReplicationStatus;

/// How long it takes to look again whether what is needed to open a tap is known.
const RECHECK: std::time::Duration = std::time::Duration::from_millis(100);

/// A link that was opened.
#[derive(Debug)]
pub(super) struct Linked {
    pub(super) link: Link,
    start: Start,
    /// What it was opened at. The checkpoint may have moved since: another instance writes, too.
    from: Option<Place>,
}

impl Linked {
    /// The history that the link goes on in.
    fn history(&self) -> Option<&HistoryId> {
        match &self.start {
            Start::Continued => self.from.as_ref().map(|from| &from.history),
            Start::Forked { history, .. } => Some(history),
            Start::Anew { place, .. } => Some(&place.history),
        }
    }

    /// Whether it follows what the place to go on from has become.
    fn fits(&self, place: &Place) -> bool {
        let forked = matches!(&self.start, Start::Forked { history, .. } if *history == place.history);
        forked || self.from.as_ref().is_some_and(|from| from.history == place.history)
    }
}

impl Route {
    /// Whether it reads the replication stream.
    pub(super) fn is_replication(&self) -> bool {
        self.parts.capture.mode.replication().is_some()
    }

    /// Up to where everything is in hand, or was.
    fn given(&self) -> Option<Position> {
        self.builder.last().max(self.overflow.last()).max(self.chain.last())
    }

    /// Up to where everything is dealt with or in hand.
    fn stands_at(&self) -> Option<Position> {
        self.given().max(self.chain.checkpoint())
    }

    /// Where reading goes on; `Err` where that is not known yet.
    fn place(&self) -> Result<Option<Place>, ()> {
        let stands_at = || self.stands_at().and_then(|position| self.histories.place(position));
        if let Some((predecessor, same_state)) = &self.parts.predecessor
            && !self.source.opened_before
        {
            match predecessor.left() {
                Some(Left::At(place)) => {
                    // Another instance may have gone on in another history since.
                    let on = stands_at().filter(|on| *same_state && on.history != place.history);
                    return Ok(Some(on.unwrap_or(place)));
                }
                // What the predecessor did not know the state may.
                Some(Left::Nowhere) if !self.destination.is_inheriting() => {}
                _ => return Err(()),
            }
        }
        if !self.chain.was_read() {
            return Err(());
        }
        Ok(stands_at())
    }

    pub(super) fn open_tap(&mut self, now: Instant) {
        let Some(settings) = self.parts.capture.mode.replication() else { return };
        self.say_border(Border::Here);
        let Ok(place) = self.place() else {
            self.source.state = State::Waiting(now + RECHECK);
            return;
        };
        let source = self.parts.source.clone();
        let role = format!("{}:replicate", self.parts.capture.name);
        let limit = usize::try_from(self.parts.capture.max_message_size).unwrap_or(usize::MAX);
        self.source.state = State::Tapping(Box::pin(async move {
            let (link, start) = Link::open(&source, &role, settings.prefer, place.as_ref(), limit).await?;
            Ok(Linked { link, start, from: place })
        }));
    }

    /// A link is open: its history may need a number.
    pub(super) fn linked(&mut self, linked: Box<Linked>, now: Instant) {
        self.source.state = State::Numbering(linked);
        self.number_history(now);
    }

    /// Goes on with an open link where its history has a number, else asks the state for one.
    pub(super) fn number_history(&mut self, now: Instant) {
        let State::Numbering(linked) = &self.source.state else { return };
        if let Ok(Some(place)) = self.place()
            && !linked.fits(&place)
        {
            // Another instance went on in another history meanwhile, of which this link knows nothing.
            return self.source.resume(now);
        }
        let Some(history) = linked.history() else { return };
        // What comes next must stand behind what is there.
        let lowest = self.stands_at().map_or(0, |at| at.epoch.number);
        let unnumbered = match (&linked.start, &linked.from) {
            (Start::Forked { .. }, Some(from)) if self.histories.epoch(&from.history).is_none() => {
                Some(&from.history)
            }
            _ if self.histories.epoch(history).is_none_or(|epoch| epoch.number < lowest) => Some(history),
            _ => None,
        };
        let Some(unnumbered) = unnumbered else { return self.tapped(now) };
        let Some(hash) = self.destination.history_hash() else { return };
        let mut call = Vec::new();
        let wished = self.floor.max(rt::unix_ms());
        history::claim(&mut call, &hash, &self.keys.state, unnumbered, lowest, wished);
        self.ask(Ask::History, now, &call);
    }

    /// The state has said which epochs the histories stand for.
    pub(super) fn numbered(&mut self, reply: &Value, now: Instant) {
        let text = match reply {
            Value::Error(text) => return self.disconnect(&Error::reply(text), now),
            reply => reply.bytes().unwrap_or_default(),
        };
        let known = Histories::parse(&String::from_utf8_lossy(text));
        self.learn(known);
        self.number_history(now);
    }

    /// The state was read: what it knows of the histories holds.
    pub(super) fn found_histories(&mut self, state: &Stored, now: Instant) {
        if !self.is_replication() {
            return;
        }
        let forgotten = self.histories_in_use().into_iter().find(|(history, number)| {
            // A lower one could only be given a number that it does not have.
            let highest = state.histories.highest().max(state.highest_epoch());
            state.histories.epoch(history).is_none() && *number >= highest
        });
        if let Some((history, number)) = forgotten
            && let Some(hash) = self.destination.history_hash()
        {
            // The state was lost, or went back: what this instance has numbered keeps its number.
            let mut call = Vec::new();
            history::claim(&mut call, &hash, &self.keys.state, &history, number, number);
            self.ask(Ask::History, now, &call);
        }
        self.learn(state.histories.clone());
    }

    /// The histories that positions in hand, or still to come, are numbered by; oldest first.
    fn histories_in_use(&self) -> Vec<(HistoryId, u64)> {
        let tapped = self.source.tap().into_iter().flat_map(Tap::epochs);
        let mut epochs: Vec<_> = self.given().map(|given| given.epoch).into_iter().chain(tapped).collect();
        epochs.sort_unstable_by_key(|epoch| epoch.number);
        epochs.dedup();
        let numbered = |epoch: &Epoch| Some((self.histories.of(*epoch)?.clone(), epoch.number));
        epochs.iter().filter_map(numbered).collect()
    }

    /// Takes in the histories that the state knows. Those in use stay known, whatever became of the state.
    fn learn(&mut self, known: Histories) {
        let in_use = self.histories_in_use();
        self.histories = known;
        for (history, number) in in_use {
            self.histories.add(&history, number);
        }
    }

    /// The link is open and its history has a number: goes on reading.
    fn tapped(&mut self, now: Instant) {
        let State::Numbering(linked) = std::mem::replace(&mut self.source.state, State::Closed) else {
            return;
        };
        let Some(epoch) = linked.history().and_then(|history| self.histories.epoch(history)) else { return };
        let Linked { link, start, from } = *linked;
        self.flush_builder();
        let (numbering, anew) = match start {
            Start::Continued => (Numbering { epoch, fork: None }, None),
            Start::Forked { last, .. } => {
                let before = from.and_then(|from| self.histories.epoch(&from.history)).unwrap_or(epoch);
                self.parts.metrics.source_failovers.increment(1);
                (Numbering { epoch: before, fork: Some((last, epoch)) }, None)
            }
            Start::Anew { why, .. } => (Numbering { epoch, fork: None }, Some(why)),
        };
        let settings = self.parts.capture.mode.replication();
        let sharded = settings.is_some_and(|settings| settings.sharded);
        let (address, role) = (link.address().clone(), link.role());
        let tap = Tap::new(link, numbering, self.subscriptions(), sharded);
        let anchor = tap.anchor();
        self.floor = self.floor.max(anchor.epoch.number + 1);
        match anew {
            None if self.is_fresh() => {
                // Another destination: what is before this place is in the one before.
                self.source.away = None;
                self.builder.open_window(anchor, Joint::Start, Read { at: now, unix_ms: rt::unix_ms() });
            }
            None => {
                self.source.away = None;
                // A server that took over may begin before what was read of the one that is gone. What only
                // the checkpoint has passed comes again, and is refused as stored.
                let follows = self.given().map_or(anchor, |given| given.max(anchor));
                self.builder.resume(follows);
                // Else what waits before it tells the chain so when it comes there.
                if self.chain.is_empty() && self.overflow.is_empty() {
                    self.chain.resume(follows);
                }
            }
            Some(why) => {
                let joint = self.joint(&why);
                self.builder.open_window(anchor, joint, Read { at: now, unix_ms: rt::unix_ms() });
            }
        }
        if self.source.opened_before {
            self.parts.source_metrics.reconnects.increment(1);
        }
        self.source.opened_before = true;
        self.source.error = None;
        self.source.state = State::Open(Listening::Tap(Box::new(tap)));
        let watch = format!("{}:backlog", self.parts.capture.name);
        self.source.backlog = Some(Backlog::watch(self.parts.source.clone(), address.clone(), watch));
        tracing::info!(
            event = "tap_opened",
            route = self.parts.capture.name,
            endpoint = self.parts.source.name,
            position = %anchor,
            "reading the replication stream of the {} {address}",
            if role == Role::Master { "master" } else { "replica" }
        );
        self.standing.hurry();
        self.read_window(now);
        self.publish();
    }

    /// Whether nothing was ever stored and nothing is in hand.
    fn is_fresh(&self) -> bool {
        let nothing = self.given().is_none() && self.chain.checkpoint().is_none();
        nothing && self.chain.was_read() && !self.chain.is_lost()
    }

    /// What may be missing before a tap that begins anew.
    fn joint(&mut self, why: &Anew) -> Joint {
        let now_unix_ms = rt::unix_ms();
        let away = self.source.away.take();
        let (cause, detail) = match why {
            Anew::First if away.is_none() && self.chain.checkpoint().is_none() => return Joint::Start,
            Anew::First => (
                away.as_ref().map_or(GapCause::Restart, |away| away.cause),
                "the route did not read the replication stream before".to_owned(),
            ),
            Anew::Exceeded { offset, from: Some(from) } => (
                GapCause::BacklogExceeded,
                format!(
                    "everything up to the offset {offset} was read, and the source's backlog begins at {from}"
                ),
            ),
            Anew::Exceeded { offset, from: None } => (
                GapCause::BacklogExceeded,
                format!(
                    "everything up to the offset {offset} was read, and the source has no backlog any more"
                ),
            ),
            Anew::OtherHistory => (
                GapCause::HistoryLost,
                "the source was started again or replaced, and does not know what was read before".to_owned(),
            ),
        };
        let started = away.map(|away| away.started_unix_ms).or(self.chain.since_unix_ms());
        Joint::Gap(Gap {
            cause,
            detail,
            started_unix_ms: started.unwrap_or(now_unix_ms),
            ended_unix_ms: now_unix_ms,
            dropped: 0,
            published: None,
        })
    }

    /// The link has ended. What is published from now on is missing only if no server holds it later.
    pub(super) fn lost_tap(&mut self, cause: GapCause, why: &str, now: Instant) {
        self.flush_builder();
        self.source.error = Some(why.to_owned());
        self.source.backlog = None;
        self.source.state = match self.ending {
            Ending::Running => State::Waiting(now + self.source.backoff.next_wait()),
            _ => State::Closed,
        };
        self.source.away.get_or_insert_with(|| Gap {
            cause,
            detail: why.to_owned(),
            started_unix_ms: rt::unix_ms(),
            ended_unix_ms: 0,
            dropped: 0,
            published: None,
        });
        self.takeover.window_lost();
        self.standing.hurry();
        if let Some(suppressed) = self.parts.outages.admit("source_lost", &self.parts.source.name, now) {
            tracing::warn!(
                event = "source_lost",
                route = self.parts.capture.name,
                endpoint = self.parts.source.name,
                cause = cause.as_str(),
                suppressed,
                "the link has ended: {why}; another one goes on at the same place, as far back as the source's \
                 backlog reaches"
            );
        }
        self.border_cannot_come();
        self.publish();
    }

    /// Leaves a node that is no longer what is to be read.
    pub(super) fn check_tap(&mut self, now: Instant) {
        self.tell_progress(now);
        let (Some(tap), Some(health)) = (self.source.tap(), self.backlog_health()) else { return };
        let prefer = self.parts.capture.mode.replication().map(|settings| settings.prefer);
        let why = match (tap.role(), health.role, prefer) {
            _ if !health.linked => "the replica has lost its link to the master",
            (Role::Replica, Role::Master, Some(Prefer::Replica)) => "the replica was made a master",
            (Role::Master, Role::Replica, _) => "the master was made a replica",
            _ => return self.check_cover(now),
        };
        self.lost_tap(GapCause::SourceDemoted, why, now);
    }

    /// What the tapped server said last of its backlog.
    fn backlog_health(&self) -> Option<Health> {
        self.source.backlog.as_ref().and_then(Backlog::health)
    }

    /// What is read, for the status and the gauges.
    pub(super) fn replication_status(&self) -> Option<ReplicationStatus> {
        let tap = self.source.tap()?;
        let health = self.backlog_health();
        let (cover, lag) = health.map_or((f64::NAN, f64::NAN), |health| {
            (health.cover.as_secs_f64(), float(health.offset.saturating_sub(tap.offset())))
        });
        self.parts.metrics.backlog_cover_seconds.set(cover);
        self.parts.metrics.replication_lag_bytes.set(lag);
        Some(ReplicationStatus {
            server: tap.address().to_string(),
            role: if tap.role() == Role::Master { "master" } else { "replica" }.to_owned(),
            offset: tap.offset(),
            lag_bytes: health.map(|health| health.offset.saturating_sub(tap.offset())),
            backlog_bytes: health.map(|health| health.backlog_bytes),
            backlog_cover_seconds: health.map(|health| health.cover.as_secs()),
        })
    }

    /// Warns where the backlog covers a short absence only.
    fn check_cover(&mut self, now: Instant) {
        let (Some(health), Some(settings)) = (self.backlog_health(), self.parts.capture.mode.replication())
        else {
            return;
        };
        if health.settled
            && health.cover < settings.min_backlog_cover
            && let Some(suppressed) = self.log.admit("backlog_short", now)
        {
            tracing::warn!(
                event = "backlog_short",
                route = self.parts.capture.name,
                endpoint = self.parts.source.name,
                suppressed,
                "the source's backlog of {} bytes covers an absence of {} s at the present rate of writes, less \
                 than min_backlog_cover; raise repl-backlog-size there",
                health.backlog_bytes,
                health.cover.as_secs()
            );
        }
    }

    /// Moves the checkpoint to where the stream was read, although nothing came that counts.
    pub(super) fn tell_progress(&mut self, now: Instant) {
        let last = self.builder.last();
        let State::Open(Listening::Tap(tap)) = &mut self.source.state else { return };
        if let Some(position) = tap.progress(last, now) {
            self.reached(position, now);
        }
    }

    fn reached(&mut self, position: Position, now: Instant) {
        self.builder.anchor(position, Read { at: now, unix_ms: rt::unix_ms() });
        self.flush_builder();
    }

    /// There is no room: what comes stays on its way, and then in the source's backlog.
    pub(super) fn pause_reading(&mut self, now: Instant) {
        match std::mem::replace(&mut self.source.state, State::Closed) {
            State::Open(Listening::Tap(tap)) => self.source.state = State::Paused(tap),
            other => self.source.state = other,
        }
        if let Some(suppressed) = self.log.admit("source_paused", now) {
            tracing::warn!(
                event = "source_paused",
                route = self.parts.capture.name,
                endpoint = self.parts.source.name,
                suppressed,
                "the route's share of memory and of the spool is used up: no more is read until the destination \
                 takes some; the source holds what follows as far as its replica output buffer and its backlog \
                 reach"
            );
        }
        self.publish();
    }

    /// There is room again.
    pub(super) fn go_on_reading(&mut self, now: Instant) {
        match std::mem::replace(&mut self.source.state, State::Closed) {
            State::Paused(tap) => self.source.state = State::Open(Listening::Tap(tap)),
            other => self.source.state = other,
        }
        self.read_window(now);
    }

    /// Stops reading here; whoever comes next goes on here.
    pub(super) fn leave_tap(&mut self) {
        let reached = self.source.tap().map(Tap::reached);
        if let Some(position) = reached.filter(|position| Some(*position) > self.builder.last()) {
            self.reached(position, Instant::now());
        }
        self.source.backlog = None;
        self.close_source();
        self.flush_builder();
        self.border_cannot_come();
    }

    /// The successor reads on where this one stands.
    pub(super) fn hand_over_here(&mut self) {
        let left = if self.is_replication() {
            self.leave_tap();
            self.place().ok().flatten()
        } else {
            self.close_source();
            self.flush_builder();
            self.gap = Some(super::stopped("the route reads its source in another way from here on"));
            None
        };
        self.parts.successor.leave(left.map_or(Left::Nowhere, Left::At));
        self.forget_border();
        self.ending = match self.ending {
            _ if self.parts.successor.inherits() => Ending::HandedOver,
            Ending::Draining(until) => Ending::HandingOver(Some(until)),
            Ending::HandingOver(until) => Ending::HandingOver(until),
            Ending::Running | Ending::HandedOver => Ending::HandingOver(None),
        };
        self.publish();
    }

    /// What was read is another instance's to store, or gone: reading goes on behind the checkpoint.
    pub(super) fn forget_tap(&mut self) {
        if self.is_replication() {
            self.builder.forget();
            self.chain.forget();
        }
    }
}
