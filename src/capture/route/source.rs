//! The reading side of a route.

use std::fmt;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::batch::{Gap, Joint, Read};
use super::super::handover::Border;
use super::super::listening::Listening;
use super::super::takeover::Takeover;
use super::super::tap::Tap;
use super::super::window::{Item, SILENCE, Subscriptions, Window};
use super::intake::Intake;
use super::tapping::Linked;
use super::{Ending, Pending, Route};
use crate::event::GapCause;
use crate::position::{AnchorId, Position};
use crate::replication::Backlog;
use crate::rt;
use crate::server::{Backoff, Class, Error};

/// How long a source that refuses is left alone.
const PARKED: Duration = Duration::from_secs(30);
/// How long a window waits for a spool that is behind: what comes meanwhile waits in the source's output buffer,
/// of which Redis takes 32 MB for a moment.
const BEHIND: Duration = Duration::from_secs(1);

/// Where the reading side stands.
pub(super) struct Source {
    pub(super) state: State,
    pub(super) backoff: Backoff,
    /// Why it is not open, for a person.
    pub(super) error: Option<String>,
    /// When a heartbeat of ours last came back; milliseconds since 1970.
    pub(super) heartbeat_unix_ms: Option<u64>,
    pub(super) opened_before: bool,
    /// In replication mode: what is missing if the source no longer holds what was published meanwhile.
    pub(super) away: Option<Gap>,
    /// Beside a tap: how long an absence could last.
    pub(super) backlog: Option<Backlog>,
    /// A window is open, memory is full and the spool is behind: nothing is read until there is room, or until then.
    behind: Option<Instant>,
    /// What [`Pulse::demotions`](super::super::pulse::Pulse::demotions) said when the window opened.
    demotions: u64,
}

pub(super) enum State {
    Waiting(Instant),
    Opening(Pending<Window>),
    Tapping(Pending<Linked>),
    /// A link is open, and the state is asked for the number of its history.
    Numbering(Box<Linked>),
    Open(Listening),
    /// A tap is open, and there is no room for more: what comes stays where it is.
    Paused(Box<Tap>),
    /// There is no room for more.
    Full,
    /// A newer configuration reads elsewhere.
    Held,
    Closed,
}

/// What happened on the reading side.
#[derive(Debug)]
pub(super) enum Event {
    Due,
    Opened(Result<Box<Window>, Error>),
    Tapped(Result<Box<Linked>, Error>),
    Filled(Result<usize, Error>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("error", &self.error).finish_non_exhaustive()
    }
}

impl Source {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Waiting(now),
            backoff: Backoff::default(),
            error: None,
            heartbeat_unix_ms: None,
            opened_before: false,
            away: None,
            backlog: None,
            behind: None,
            demotions: 0,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match &mut self.state {
            State::Waiting(until) if *until <= Instant::now() => Poll::Ready(Event::Due),
            State::Waiting(_) | State::Full | State::Held | State::Closed => Poll::Pending,
            State::Opening(opening) => {
                opening.as_mut().poll(cx).map(|window| Event::Opened(window.map(Box::new)))
            }
            State::Tapping(opening) => {
                opening.as_mut().poll(cx).map(|link| Event::Tapped(link.map(Box::new)))
            }
            State::Numbering(linked) => linked.link.poll_acknowledge(cx).map(Event::Filled),
            State::Paused(tap) => tap.poll_acknowledge(cx).map(Event::Filled),
            State::Open(Listening::Window(_)) if self.behind.is_some() => Poll::Pending,
            State::Open(listening) => listening.poll_fill(cx).map(Event::Filled),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting(until) => Some(*until),
            State::Open(Listening::Window(_)) if self.behind.is_some() => self.behind,
            State::Open(listening) => Some(listening.rests_until().unwrap_or(listening.heard() + SILENCE)),
            State::Opening(_) | State::Tapping(_) | State::Numbering(_) | State::Paused(_) => None,
            State::Full | State::Held | State::Closed => None,
        }
    }

    /// Whether a window has been tried once, with whatever outcome.
    pub(super) fn was_tried(&self) -> bool {
        self.opened_before || self.error.is_some()
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_) | State::Paused(_))
    }

    /// The tap that is open.
    pub(super) fn tap(&self) -> Option<&Tap> {
        match &self.state {
            State::Open(Listening::Tap(tap)) | State::Paused(tap) => Some(tap),
            _ => None,
        }
    }

    /// The anchor of the window that is open.
    pub(super) fn open_anchor(&self) -> Option<Position> {
        match &self.state {
            State::Open(listening) => Some(listening.anchor()),
            State::Paused(tap) => Some(tap.anchor()),
            _ => None,
        }
    }

    /// Stops reading: what comes is another instance's.
    pub(super) fn hold(&mut self) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Held;
        }
    }

    /// Opens a window anew.
    pub(super) fn resume(&mut self, now: Instant) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Waiting(now);
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        match &self.state {
            State::Open(listening) => listening.held_bytes(),
            State::Paused(tap) => tap.held_bytes(),
            State::Numbering(linked) => linked.link.held_bytes(),
            _ => 0,
        }
    }

    /// Takes silence for no sign this time.
    pub(super) fn forgive(&mut self, now: Instant) {
        if let State::Open(listening) = &mut self.state {
            listening.hear(now);
        }
    }
}

impl Route {
    pub(super) fn on_source(&mut self, event: Event, now: Instant) {
        match event {
            Event::Due if self.is_replication() => self.open_tap(now),
            Event::Due => self.open_window(),
            Event::Opened(Ok(window)) => self.opened(window, now),
            Event::Opened(Err(error)) => self.not_opened(&error, now),
            Event::Tapped(Ok(linked)) => self.linked(linked, now),
            Event::Tapped(Err(error)) => self.not_opened(&error, now),
            Event::Filled(Ok(_)) => self.read_window(now),
            Event::Filled(Err(error)) => {
                self.lost_window(GapCause::SourceDisconnected, &error.to_string(), now)
            }
        }
    }

    pub(super) fn close_source(&mut self) {
        self.source.behind = None;
        self.source.state = State::Closed;
    }

    /// Reads what was published until now, and then no more.
    pub(super) fn finish_source(&mut self) {
        match &mut self.source.state {
            State::Open(Listening::Window(window)) => window.fence(),
            State::Open(Listening::Tap(_)) => self.leave_tap(),
            State::Opening(_) => {
                self.source.state = State::Closed;
                self.say_border(Border::None);
            }
            _ => self.source.state = State::Closed,
        }
        self.publish();
    }

    /// Tells the route that this one replaces, until the first window is open.
    pub(super) fn say_border(&self, border: Border) {
        if let Some((predecessor, _)) = &self.parts.predecessor
            && !self.source.opened_before
        {
            predecessor.set_border(border);
        }
    }

    /// Ends a window over which nothing comes any more.
    pub(super) fn check_source(&mut self, now: Instant) {
        match &self.source.state {
            State::Open(Listening::Window(_)) if self.source.behind.is_some() => self.catch_up(now),
            State::Open(Listening::Window(_)) if self.source.demotions != self.parts.pulse.demotions() => {
                let why = "the server was made a replica: what is published on its master may pass it by";
                self.lost_window(GapCause::SourceDemoted, why, now);
            }
            State::Open(listening) if now.duration_since(listening.heard()) >= SILENCE => {
                let why = self.parts.pulse.error().map_or_else(
                    || "no heartbeat came back: the server is stopped, or no longer the one that is published to".to_owned(),
                    |error| format!("no heartbeat came back, and none can be sent: {error}"),
                );
                self.lost_window(GapCause::SourceSilent, &why, now);
            }
            State::Full if self.has_room_again() => self.source.state = State::Waiting(now),
            State::Paused(_) if self.has_room_again() => self.go_on_reading(now),
            State::Open(Listening::Tap(_)) => self.check_tap(now),
            _ => {}
        }
    }

    /// Reads again if that was stopped because memory was full.
    pub(super) fn reopen_if_room(&mut self, now: Instant) {
        if self.source.behind.is_some() || matches!(self.source.state, State::Full | State::Paused(_)) {
            self.check_source(now);
        }
    }

    /// Reads on where the spool has made room, and gives the window up where it has not in time.
    fn catch_up(&mut self, now: Instant) {
        if self.has_room_again() {
            self.source.behind = None;
            self.read_window(now);
        } else if self.source.behind.is_some_and(|until| until <= now) {
            self.no_room(now);
        }
    }

    /// Whether enough is free for a window to be worth opening.
    pub(super) fn has_room_again(&self) -> bool {
        let room = self.room();
        let waits = self.chain.held_bytes() + self.overflow.held_bytes();
        let most = if self.overflow.is_enabled() { room.chain + room.tail / 2 } else { room.chain };
        waits <= most && self.overflow.full(&self.chain, room).is_none()
    }

    /// What the route listens for.
    pub(super) fn subscriptions(&self) -> Subscriptions {
        let capture = &self.parts.capture;
        let bytes = |names: &[String]| names.iter().map(|name| name.clone().into_bytes()).collect();
        Subscriptions {
            control: self.parts.pulse.channel().to_vec(),
            epoch_key: crate::config::keys::epoch(&self.parts.source.key_prefix).into_bytes(),
            channels: bytes(&capture.channels),
            patterns: bytes(&capture.patterns),
            max_message_bytes: usize::try_from(capture.max_message_size).unwrap_or(usize::MAX),
        }
    }

    fn open_window(&mut self) {
        let source = self.parts.source.clone();
        let subscriptions = self.subscriptions();
        self.source.demotions = self.parts.pulse.demotions();
        let role = format!("{}:subscribe", self.parts.capture.name);
        let anchor = match self.takeover {
            Takeover::Announced(anchor) => {
                self.takeover = Takeover::Opened;
                anchor
            }
            _ => AnchorId::random(),
        };
        let floor = self.floor;
        self.say_border(Border::Announced(anchor));
        self.source.state = State::Opening(Box::pin(async move {
            Window::open(&source, &role, subscriptions, floor, anchor).await
        }));
    }

    fn opened(&mut self, window: Box<Window>, now: Instant) {
        let anchor = window.anchor();
        if anchor.epoch.number < self.floor {
            // The source did not know the floor when it was asked: the destination was read since.
            self.say_border(Border::None);
            self.source.state = State::Waiting(now + self.source.backoff.next_wait());
            return;
        }
        self.say_border(Border::Open(anchor));
        if self.source.opened_before {
            self.parts.source_metrics.reconnects.increment(1);
        }
        if !self.source.opened_before {
            self.counts.first.clone_from(&window.counted);
            self.tell_missed();
        }
        self.source.opened_before = true;
        self.source.error = None;
        self.floor = self.floor.max(anchor.epoch.number + 1);
        let now_unix_ms = rt::unix_ms();
        let joint = match self.gap.take() {
            Some(gap) => {
                let published = window.counted.as_ref().zip(self.counts.lost.take());
                let published = published.and_then(|(now, then)| now.since(&then));
                Joint::Gap(Gap { ended_unix_ms: now_unix_ms, published, ..gap })
            }
            None => Joint::Start,
        };
        self.flush_builder();
        self.builder.open_window(anchor, joint, Read { at: now, unix_ms: now_unix_ms });
        self.source.behind = None;
        self.source.state = State::Open(Listening::Window(window));
        tracing::info!(
            event = "window_opened",
            route = self.parts.capture.name,
            endpoint = self.parts.source.name,
            position = %anchor,
            "listening"
        );
        self.standing.hurry();
        self.read_window(now);
        self.publish();
    }

    pub(super) fn not_opened(&mut self, error: &Error, now: Instant) {
        self.say_border(Border::None);
        self.takeover.window_lost();
        let wait = if error.class() == Class::Park { PARKED } else { self.source.backoff.next_wait() };
        self.source.error = Some(describe(error));
        self.source.state = State::Waiting(now + wait);
        if let Some(suppressed) = self.parts.outages.admit("source_unavailable", &self.parts.source.name, now)
        {
            tracing::warn!(
                event = "source_unavailable",
                route = self.parts.capture.name,
                endpoint = self.parts.source.name,
                class = error.class().as_str(),
                suppressed,
                "cannot listen to {}: {}; tries again by itself",
                self.parts.source.address,
                describe(error)
            );
        }
        self.publish();
    }

    /// The window has ended: what comes until the next one opens may be missed.
    pub(super) fn lost_window(&mut self, cause: GapCause, why: &str, now: Instant) {
        if self.is_replication() {
            return self.lost_tap(cause, why, now);
        }
        // What was missed is missed since something last came, not since that was noticed.
        let unheard = match &self.source.state {
            State::Open(listening) => now.saturating_duration_since(listening.heard()),
            _ => Duration::ZERO,
        };
        self.flush_builder();
        self.source.error = Some(why.to_owned());
        self.source.behind = None;
        self.source.state = match cause {
            _ if self.ending != Ending::Running => State::Closed,
            GapCause::MemoryFull | GapCause::SpoolFull | GapCause::SpoolFailed => State::Full,
            _ => State::Waiting(now + self.source.backoff.next_wait()),
        };
        self.gap = Some(Gap {
            cause,
            detail: why.to_owned(),
            started_unix_ms: rt::unix_ms()
                .saturating_sub(u64::try_from(unheard.as_millis()).unwrap_or_default()),
            ended_unix_ms: 0,
            dropped: 0,
            published: None,
        });
        self.counts.lost = self.parts.pulse.counted();
        self.takeover.window_lost();
        self.standing.hurry();
        if let Some(suppressed) = self.parts.outages.admit("source_lost", &self.parts.source.name, now) {
            tracing::warn!(
                event = "source_lost",
                route = self.parts.capture.name,
                endpoint = self.parts.source.name,
                cause = cause.as_str(),
                suppressed,
                "the window has ended: {why}; a new one is opened, and what was missed until then is recorded as a gap"
            );
        }
        self.border_cannot_come();
        self.publish();
    }

    /// The window has ended before a successor's border came: it takes over as things are.
    pub(super) fn border_cannot_come(&mut self) {
        if let Border::Open(border) = self.known_border {
            self.hand_over(border);
        }
    }

    /// Takes in everything that has come.
    pub(super) fn read_window(&mut self, now: Instant) {
        let room = self.room();
        let State::Open(listening) = &mut self.source.state else { return };
        listening.hear(now);
        let received_unix_ms = rt::unix_ms();
        let mut received = 0;
        let mut intake = Intake {
            filter: &mut self.filter,
            max_message_bytes: self.parts.capture.max_message_size,
            mapping: &mut self.mapping,
            builder: &mut self.builder,
            chain: &mut self.chain,
            overflow: &mut self.overflow,
            room,
            read: Read { at: now, unix_ms: received_unix_ms },
        };
        let pause = loop {
            let goes_on = match listening.next() {
                Ok(None) => break Pause::Empty,
                Ok(Some(Item::Event { position, message, size })) => {
                    received += 1;
                    intake.event(position, &message, size)
                }
                Ok(Some(Item::Anchor(position))) => {
                    self.floor = self.floor.max(position.epoch.number + 1);
                    let word = self.parts.successor.border();
                    if word.is_at(position) {
                        // What is full is found out with the next message.
                        intake.end_batch();
                        self.border = Some(position);
                        self.border_place = Some(position);
                        if matches!(word, Border::Open(_)) {
                            break Pause::Border(position);
                        }
                    }
                    intake.anchor(position)
                }
                Ok(Some(Item::Passing { anchor, place })) => {
                    let word = self.parts.successor.border();
                    if word.is_at(anchor) {
                        intake.end_batch();
                        self.border = Some(anchor);
                        self.border_place = Some(place);
                        if matches!(word, Border::Open(_)) {
                            break Pause::Border(anchor);
                        }
                    }
                    true
                }
                Ok(Some(Item::Heartbeat { instance, sent_us })) => {
                    if instance == self.parts.pulse.instance() {
                        self.source.heartbeat_unix_ms = Some(received_unix_ms);
                        // Only now: a server that takes connections and breaks them is no live one.
                        self.source.backoff.reset();
                        if let Some(age) = self.parts.pulse.age(sent_us, now) {
                            self.parts.metrics.heartbeat_round_trip_seconds.record(age.as_secs_f64());
                        }
                    }
                    true
                }
                Ok(Some(Item::Fence)) => break Pause::Fence,
                Ok(Some(Item::Nothing)) => true,
                Err(error) => break Pause::Broken(error),
            };
            if !goes_on {
                break Pause::Full;
            }
        };
        if let State::Open(Listening::Tap(tap)) = &mut self.source.state {
            tap.brought(received, now);
        }
        if received > 0 {
            self.parts.metrics.received.increment(received);
            self.account.received(received);
            self.parts.pulse.busy();
        }
        self.on_pause(pause, now);
    }

    /// Reading has come to a stop: for now, or for good.
    fn on_pause(&mut self, pause: Pause, now: Instant) {
        match pause {
            Pause::Empty => self.tell_progress(now),
            Pause::Fence => {
                self.close_source();
                self.flush_builder();
                self.gap = Some(super::stopped("tidegate was told to stop"));
                self.border_cannot_come();
            }
            Pause::Border(border) => self.hand_over(border),
            Pause::Broken(error) => self.lost_window(GapCause::SourceBroken, &error.to_string(), now),
            Pause::Full => {
                if self.is_replication() {
                    return self.pause_reading(now);
                }
                let cause = self.overflow.full(&self.chain, self.room());
                if self.overflow.is_enabled() && cause == Some(GapCause::MemoryFull) {
                    // The disk works, and what comes is more than it takes at the moment.
                    self.source.behind = Some(now + BEHIND);
                } else {
                    self.no_room(now);
                }
            }
        }
    }

    /// Ends the window: there is no room for more.
    fn no_room(&mut self, now: Instant) {
        let cause = self.overflow.full(&self.chain, self.room()).unwrap_or(GapCause::MemoryFull);
        let why = format!(
            "{} bytes wait for the destination in memory and {} on disk: {}",
            self.chain.held_bytes() + self.overflow.held_bytes(),
            self.overflow.disk_bytes(),
            match cause {
                GapCause::SpoolFull => "the route's share of [daemon.spool] limit is used up",
                GapCause::SpoolFailed => "the spool cannot be written",
                _ => "the route's share of memory_limit is used up",
            }
        );
        self.lost_window(cause, &why, now);
    }
}

/// Why no more is read now.
enum Pause {
    /// Everything that has come is read.
    Empty,
    /// Everything is read that was published before the route was told to stop.
    Fence,
    /// From here on the successor reads.
    Border(Position),
    /// What came is of no use.
    Broken(Error),
    /// The route's share of memory is used up.
    Full,
}

/// An error with what a person can do about it.
pub(super) fn describe(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}
