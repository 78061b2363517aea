//! The replication reader: the messages of a replication link, as the items of a capture, in place of a window.
//!
//! Each item has the offset at which its command ends; it is the item's position in its replication history.

use std::task::{Context, Poll};
use std::time::Instant;

use hashbrown::HashSet;

use super::{PublishCommand, ReplicationLink};
use crate::config::Address;
use crate::server::resp::Message;
use crate::server::{Error, Role};
use crate::source::control_channel::Control;
use crate::source::item::Item;
use crate::source::subscribe::Subscriptions;
use crate::text::glob;

/// An open tap.
#[derive(Debug)]
pub(crate) struct ReplicationReader {
    link: ReplicationLink,
    control: Vec<u8>,
    channels: HashSet<Vec<u8>>,
    patterns: Vec<Vec<u8>>,
    sharded: bool,
    /// Until when no more is read.
    rests_until: Option<Instant>,
}

impl ReplicationReader {
    /// Reads `subscriptions` from a link.
    pub(crate) fn new(mut link: ReplicationLink, subscriptions: Subscriptions, sharded: bool) -> Self {
        link.set_patterns(subscriptions.patterns.clone(), sharded);
        Self {
            link,
            control: subscriptions.control,
            channels: subscriptions.channels.into_iter().collect(),
            patterns: subscriptions.patterns,
            sharded,
            rests_until: None,
        }
    }

    /// The server's role when the link was opened.
    pub(crate) fn role(&self) -> Role {
        self.link.role()
    }

    /// The server's address.
    pub(crate) fn address(&self) -> &Address {
        self.link.address()
    }

    /// The last offset read.
    pub(crate) fn offset(&self) -> u64 {
        self.link.offset()
    }

    /// Bytes held in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.link.held_bytes()
    }

    /// Reads from the socket, and acknowledges the offset read; not before [`Self::rests_until`].
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
    pub(crate) fn on_read(&mut self, events: u64, now: Instant) {
        self.rests_until = self.link.rest(events > 0, now);
    }

    /// Acknowledges only; ready with an error only.
    pub(crate) fn poll_acknowledge(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.link.poll_acknowledge(cx)
    }

    /// The next thing that has come; `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        let Self { link, control, channels, patterns, sharded, .. } = self;
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
        let Some((PublishCommand { channel, payload, size, long }, offset)) = next? else { return Ok(None) };
        if let Some((channel_size, index)) = long {
            let message = Message { channel, pattern: patterns.get(index).map(Vec::as_slice), payload };
            return Ok(Some(Item::LongNamed { message, channel_size, size, offset }));
        }
        if controls {
            return Ok(Some(match Control::parse(payload) {
                Some(Control::Heartbeat { instance, sent_us }) => Item::Heartbeat { instance, sent_us },
                Some(Control::Anchor(epoch)) => Item::Anchor { epoch, offset },
                None => Item::Nothing,
            }));
        }
        let pattern = matched.flatten().and_then(|index| patterns.get(index)).map(Vec::as_slice);
        let message = Message { channel, pattern, payload };
        Ok(Some(Item::Message { message, size, offset }))
    }
}
