//! A tap: what a replication link delivers, as the items of a capture.
//!
//! In place of a window. The position of a message is the offset at which its command ends, in the epoch of
//! its history: every instance sees the same one, without an anchor. Where the servers failed over, the
//! offset behind which the new history begins is known beforehand.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hashbrown::HashSet;

use super::control_channel::Control;
use super::window::{Item, Subscriptions};
use crate::config::Address;
use crate::glob;
use crate::position::{Epoch, Position};
use crate::replication::{Command, Link};
use crate::server::resp::Message;
use crate::server::{Error, Role};

/// How often the checkpoint moves at least: a restart then goes on close to where it was.
const PROGRESS: Duration = Duration::from_secs(1);

/// An open tap.
#[derive(Debug)]
pub(crate) struct Tap {
    link: Link,
    control: Vec<u8>,
    channels: HashSet<Vec<u8>>,
    patterns: Vec<Vec<u8>>,
    sharded: bool,
    numbering: Numbering,
    /// Where it began.
    anchor: Position,
    /// Until when no more is read.
    rests_until: Option<Instant>,
    /// When an item last said how far was read.
    told: Instant,
    /// When something last came.
    pub(crate) heard: Instant,
}

/// In which epoch an offset lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbering {
    pub(crate) epoch: Epoch,
    /// Behind this offset it is another one.
    pub(crate) fork: Option<(u64, Epoch)>,
}

impl Numbering {
    fn at(self, offset: u64) -> Position {
        match self.fork {
            Some((last, epoch)) if offset > last => epoch.at(offset),
            _ => self.epoch.at(offset),
        }
    }
}

impl Tap {
    /// Reads `subscriptions` from a link.
    pub(crate) fn new(link: Link, numbering: Numbering, subscriptions: Subscriptions, sharded: bool) -> Self {
        let now = Instant::now();
        Self {
            anchor: numbering.at(link.offset()),
            link,
            control: subscriptions.control,
            channels: subscriptions.channels.into_iter().collect(),
            patterns: subscriptions.patterns,
            sharded,
            numbering,
            rests_until: None,
            told: now,
            heard: now,
        }
    }

    /// Where it began.
    pub(crate) fn anchor(&self) -> Position {
        self.anchor
    }

    /// The epochs of what it delivers from here on.
    pub(crate) fn epochs(&self) -> impl Iterator<Item = Epoch> {
        let Numbering { epoch, fork } = self.numbering;
        [Some(epoch), fork.map(|(_, epoch)| epoch)].into_iter().flatten()
    }

    /// What the server was when the link was opened.
    pub(crate) fn role(&self) -> Role {
        self.link.role()
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> &Address {
        self.link.address()
    }

    /// How far was read.
    pub(crate) fn offset(&self) -> u64 {
        self.link.offset()
    }

    /// Bytes held in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.link.held_bytes()
    }

    /// Reads from the socket, and acknowledges what was read; not before [`Self::rests_until`].
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        if self.rests_until.is_some_and(|until| until > Instant::now()) {
            return Poll::Pending;
        }
        self.rests_until = None;
        self.link.poll_fill(cx)
    }

    /// Until when nothing is read: the owner polls again then.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// Says how many messages that count the last read brought.
    pub(crate) fn brought(&mut self, events: u64, now: Instant) {
        self.rests_until = self.link.rest(events > 0, now);
    }

    /// Acknowledges only; ready with an error only.
    pub(crate) fn poll_acknowledge(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.link.poll_acknowledge(cx)
    }

    /// How far was read, where that is to be told although nothing came that counts.
    pub(crate) fn progress(&mut self, last: Option<Position>, now: Instant) -> Option<Position> {
        if now.saturating_duration_since(self.told) < PROGRESS {
            return None;
        }
        self.told = now;
        Some(self.reached()).filter(|position| Some(*position) > last)
    }

    /// How far was read, as a position.
    pub(crate) fn reached(&self) -> Position {
        self.numbering.at(self.link.offset())
    }

    /// The next thing that has come; `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        let Self { link, control, channels, patterns, sharded, numbering, .. } = self;
        let (mut matched, mut controls) = (None, false);
        let next = link.next(|by_shard, channel| {
            controls = !by_shard && channel == control.as_slice();
            if controls {
                return true;
            }
            if by_shard && !*sharded {
                return false;
            }
            matched = if channels.contains(channel) {
                Some(None)
            } else {
                patterns.iter().position(|pattern| glob::matches(pattern, channel)).map(Some)
            };
            matched.is_some()
        });
        let Some((Command { channel, payload, size }, offset)) = next? else { return Ok(None) };
        if controls {
            return Ok(Some(match Control::parse(payload) {
                Some(Control::Heartbeat { instance, sent_us }) => Item::Heartbeat { instance, sent_us },
                Some(Control::Anchor(epoch)) => {
                    Item::Passing { anchor: epoch.at(0), place: numbering.at(offset) }
                }
                None => Item::Nothing,
            }));
        }
        let pattern = matched.flatten().and_then(|index| patterns.get(index)).map(Vec::as_slice);
        let message = Message { channel, pattern, payload };
        Ok(Some(Item::Event { position: numbering.at(offset), message, size }))
    }
}
