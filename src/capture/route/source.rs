//! The connections to the source: the one that is read, and the one that is opened beside it.

use std::fmt;
use std::task::{Context, Poll};
use std::time::Instant;

use super::{CaptureRoute, Lost, PendingFuture};
use crate::capture::engine::{Flow, Linked};
use crate::config::Prefer;
use crate::metrics::float;
use crate::position::AnchorId;
use crate::rt::Moment;
use crate::server::{Error, Role};
use crate::source::item::Item;
use crate::source::reader::SourceReader;
use crate::source::replication::reader::ReplicationReader;
use crate::source::replication::{Backlog, BacklogHealth, LinkStart, ReplicationLink, ReplicationOffset};
use crate::source::subscribe::{Subscriptions, Window};
use crate::status::ReplicationStatus;

/// The connections.
#[derive(Default)]
pub(super) struct SourceSide {
    open: Option<SourceReader>,
    opening: OpeningTask,
    /// Beside a tap: how long an absence could last.
    backlog: Option<Backlog>,
}

#[derive(Default)]
enum OpeningTask {
    #[default]
    Idle,
    Window(PendingFuture<Window>),
    /// A window that is open and not read yet.
    Opened(Box<Window>),
    Link(PendingFuture<(ReplicationLink, LinkStart)>),
    /// A link that is open and not read yet.
    Linked(Box<ReplicationLink>),
}

#[derive(Debug)]
pub(super) enum SourceEvent {
    Opened(Result<Box<Window>, Error>),
    Linked(Result<Box<(ReplicationLink, LinkStart)>, Error>),
    /// The opened reader ended before it was read.
    OpeningLost(Error),
    Filled(Result<usize, Error>),
}

impl fmt::Debug for SourceSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("open", &self.open).finish_non_exhaustive()
    }
}

impl SourceSide {
    /// `reads` is whether the open one is to be read, or only kept alive.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, reads: bool) -> Poll<SourceEvent> {
        let opened = match &mut self.opening {
            OpeningTask::Idle | OpeningTask::Opened(_) => Poll::Pending,
            OpeningTask::Window(opening) => {
                opening.as_mut().poll(cx).map(|window| SourceEvent::Opened(window.map(Box::new)))
            }
            OpeningTask::Link(opening) => {
                opening.as_mut().poll(cx).map(|link| SourceEvent::Linked(link.map(Box::new)))
            }
            OpeningTask::Linked(link) => match link.poll_acknowledge(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(SourceEvent::OpeningLost(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
            },
        };
        if opened.is_ready() {
            return opened;
        }
        match &mut self.open {
            None => Poll::Pending,
            Some(listening) if reads => listening.poll_fill(cx).map(SourceEvent::Filled),
            Some(SourceReader::Tap(tap)) => tap.poll_acknowledge(cx).map(SourceEvent::Filled),
            Some(SourceReader::Window(_)) => Poll::Pending,
        }
    }

    /// Until when reading pauses, if it does.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.open.as_ref().and_then(SourceReader::rests_until)
    }

    /// Reads the opened window from now on.
    pub(super) fn adopt(&mut self) {
        if let OpeningTask::Opened(window) = std::mem::take(&mut self.opening) {
            self.open = Some(SourceReader::Window(window));
        }
    }

    pub(super) fn drop_opening(&mut self) {
        self.opening = OpeningTask::Idle;
    }

    pub(super) fn close(&mut self) {
        self.open = None;
        self.backlog = None;
    }

    pub(super) fn fence(&mut self) {
        if let Some(SourceReader::Window(window)) = &mut self.open {
            window.fence();
        }
    }

    pub(super) fn held_bytes(&self) -> usize {
        let opening = match &self.opening {
            OpeningTask::Opened(window) => window.held_bytes(),
            OpeningTask::Linked(link) => link.held_bytes(),
            OpeningTask::Idle | OpeningTask::Window(_) | OpeningTask::Link(_) => 0,
        };
        opening + self.open.as_ref().map_or(0, SourceReader::held_bytes)
    }

    /// The tap that is open, and what its server said last of its backlog.
    fn read_replication(&self) -> Option<(&ReplicationReader, Option<BacklogHealth>)> {
        match &self.open {
            Some(SourceReader::Tap(tap)) => Some((tap, self.backlog.as_ref().and_then(Backlog::health))),
            _ => None,
        }
    }
}

impl CaptureRoute {
    pub(super) fn on_source(&mut self, event: SourceEvent, now: Moment) {
        match event {
            SourceEvent::Opened(Ok(window)) => {
                let anchor = window.anchor();
                self.source.opening = OpeningTask::Opened(window);
                // The session may end before the next tick, and its gap is dated by this.
                self.look_at_heartbeat();
                self.engine.on_opened(anchor, now);
            }
            SourceEvent::Linked(Ok(linked)) => {
                let (link, start) = *linked;
                let role = if link.role() == Role::Master { "master" } else { "replica" };
                let opened = Linked::new(link.offset(), start, format!("{role} {}", link.address()));
                self.source.opening = OpeningTask::Linked(Box::new(link));
                self.engine.on_linked(opened, now);
            }
            SourceEvent::Opened(Err(error))
            | SourceEvent::Linked(Err(error))
            | SourceEvent::OpeningLost(error) => {
                self.source.opening = OpeningTask::Idle;
                self.engine.on_not_opened(&error, now);
            }
            SourceEvent::Filled(Ok(_)) => self.read(now),
            SourceEvent::Filled(Err(error)) => {
                self.engine.on_lost(Lost::Disconnected, &error.to_string(), now)
            }
        }
    }

    /// The route's subscriptions.
    fn subscriptions(&self) -> Subscriptions {
        let capture = &self.parts.capture;
        let bytes = |names: &[String]| names.iter().map(|name| name.clone().into_bytes()).collect();
        Subscriptions {
            control: self.parts.heartbeat.channel().to_vec(),
            epoch_key: crate::config::redis_keys::epoch(&self.parts.source.key_prefix).into_bytes(),
            channels: bytes(&capture.channels),
            patterns: bytes(&capture.patterns),
            own: capture.own.clone(),
            max_message_bytes: usize::try_from(capture.max_message_size).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn open_window(&mut self, anchor: AnchorId, floor: u64) {
        let (source, subscriptions) = (self.parts.source.clone(), self.subscriptions());
        let role = format!("{}:subscribe", self.parts.capture.name);
        self.source.opening = OpeningTask::Window(Box::pin(async move {
            Window::open(&source, &role, subscriptions, floor, anchor).await
        }));
    }

    pub(super) fn open_link(&mut self, place: Option<ReplicationOffset>) {
        let Some(settings) = self.parts.capture.mode.replication() else { return };
        let source = self.parts.source.clone();
        let role = format!("{}:replicate", self.parts.capture.name);
        let limit = usize::try_from(self.parts.capture.max_message_size).unwrap_or(usize::MAX);
        let prefer = match settings.prefer {
            prefer if !self.engine.avoids_preferred() => prefer,
            Prefer::Replica => Prefer::Master,
            Prefer::Master => Prefer::Replica,
        };
        self.source.opening = OpeningTask::Link(Box::pin(async move {
            ReplicationLink::open(&source, &role, prefer, place.as_ref(), limit).await
        }));
    }

    /// Reads the opened link from now on.
    pub(super) fn tap(&mut self) {
        let OpeningTask::Linked(link) = std::mem::take(&mut self.source.opening) else { return };
        let sharded = self.parts.capture.mode.replication().is_some_and(|settings| settings.sharded);
        let address = link.address().clone();
        let tap = ReplicationReader::new(*link, self.subscriptions(), sharded);
        self.source.open = Some(SourceReader::Tap(Box::new(tap)));
        let watch = format!("{}:backlog", self.parts.capture.name);
        self.source.backlog = Some(Backlog::watch(self.parts.source.clone(), address, watch));
    }

    /// Takes in everything that has come.
    pub(super) fn read(&mut self, now: Moment) {
        let Some(listening) = &mut self.source.open else { return };
        if !self.engine.reads() {
            return;
        }
        let mut pass = self.engine.begin_read(now);
        let flow = loop {
            match listening.next() {
                Ok(None) => break Flow::Go,
                Ok(Some(Item::Nothing)) => {}
                Ok(Some(item)) => match self.engine.take(&mut pass, &item) {
                    Flow::Go => {}
                    stop => break stop,
                },
                Err(error) => break Flow::Broken(error.to_string()),
            }
        };
        let mut reached = None;
        if let SourceReader::Tap(tap) = listening {
            tap.on_read(pass.received, now.at);
            reached = Some(tap.offset());
        }
        if pass.received > 0 {
            self.parts.heartbeat.busy();
        }
        self.engine.end_read(&pass, flow, reached, now);
    }

    /// Leaves a node that is no longer the one to be read.
    pub(super) fn check_tap(&mut self, now: Moment) {
        let Some((tap, Some(health))) = self.source.read_replication() else { return };
        let Some(settings) = self.parts.capture.mode.replication() else { return };
        let why = match (tap.role(), health.role, settings.prefer) {
            _ if !health.linked => "the replica has lost its link to the master",
            (Role::Replica, Role::Master, Prefer::Replica) => "the replica was made a master",
            (Role::Master, Role::Replica, _) => "the master was made a replica",
            _ => {
                if health.settled && health.cover < settings.min_backlog_cover {
                    self.engine.on_short_backlog(health.backlog_bytes, health.cover, now);
                }
                return;
            }
        };
        self.engine.on_lost(Lost::Demoted, why, now);
    }

    /// The server being read, for the status and the gauges.
    pub(super) fn replication_status(&self) -> Option<ReplicationStatus> {
        let (tap, health) = self.source.read_replication()?;
        let (cover, lag) = health.map_or((f64::NAN, f64::NAN), |health| {
            (health.cover.as_secs_f64(), float(health.offset.saturating_sub(tap.offset())))
        });
        self.parts.metrics.backlog_cover_seconds.set(cover);
        self.parts.metrics.replication_lag_bytes.set(lag);
        Some(ReplicationStatus {
            address: tap.address().to_string(),
            role: if tap.role() == Role::Master { "master" } else { "replica" }.to_owned(),
            offset: tap.offset(),
            lag_bytes: health.map(|health| health.offset.saturating_sub(tap.offset())),
            backlog_bytes: health.map(|health| health.backlog_bytes),
            backlog_cover_seconds: health.map(|health| health.cover.as_secs()),
        })
    }
}
