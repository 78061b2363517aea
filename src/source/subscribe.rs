//! A window: the messages of one unbroken source connection after all its subscriptions were confirmed. It is
//! contiguous by construction.
//!
//! Opening, in one round trip on a new connection (RESP3, which distinguishes messages from replies):
//!
//! ```text
//! MULTI · SUBSCRIBE control channels… · PSUBSCRIBE patterns… · EVAL open_session.lua · EXEC
//! ```
//!
//! Everything inside MULTI happens at one point of the source's order. So the anchor, which the script publishes on the
//! control channel, is the first message that counts. Before it there may be keyspace notifications of the script's own
//! SET, and of keys that the server deleted meanwhile: they do not belong to the window. Redis 7.0 delivers the anchor
//! before EVAL's reply inside EXEC's reply, other servers after it. So EXEC's elements are read one by one, and
//! messages may come between them.
//!
//! Failure: if the source's user may not run the script, or the source refuses writes, this instance makes an epoch
//! itself and publishes the anchor. The capture works, but a second instance cannot rely on epochs that never go back.

use tokio::time::timeout;

use super::control_channel::Control;
use super::item::Item;
use super::notification;
use crate::config::{Endpoint, OwnKeys};
use crate::logs::LogCode;
use crate::position::{AnchorId, Epoch, Position};
use crate::rt;
use crate::server::resp::{
    Limits, LongNamed, MAX_ARGUMENTS, Message, Pushed, Value, argument, command, header,
};
use crate::server::{self, Class, Connection, Error};

/// The argument of the fence's PING.
const FENCE: &[u8] = b"tidegate-fence";
/// Largest frame on an open window beside messages: names of up to 1 MiB in a confirmation.
const OTHER_BYTES: usize = 2 * 1024 * 1024;
const ANCHOR: &str = include_str!("open_session.lua");

/// The subscriptions of a route.
#[derive(Debug, Clone)]
pub(crate) struct Subscriptions {
    pub(crate) control: Vec<u8>,
    pub(crate) epoch_key: Vec<u8>,
    pub(crate) channels: Vec<Vec<u8>>,
    pub(crate) patterns: Vec<Vec<u8>>,
    /// Whose notifications do not count.
    pub(crate) own: OwnKeys,
    pub(crate) max_message_bytes: usize,
}

impl Subscriptions {
    /// Returns whether a delivered message counts. Messages of the control channel and notifications of tidegate's own
    /// keys do not. A message that several subscriptions match counts once: for the plain one, or else for the first
    /// pattern in the configuration, so that every instance chooses the same.
    fn counts(&self, message: &Message<'_>) -> bool {
        if notification::is_of(&self.own, message) {
            return false;
        }
        let Some(pattern) = message.pattern else { return message.channel != self.control };
        if message.channel == self.control {
            return false;
        }
        if self.channels.len() + self.patterns.len() == 1 {
            return true;
        }
        if self.channels.iter().any(|channel| channel == message.channel) {
            return false;
        }
        self.patterns
            .iter()
            .take_while(|other| other.as_slice() != pattern)
            .all(|other| !crate::text::glob::matches(other, message.channel))
    }

    /// A message with a name over the limit. It comes once for each pattern that matches, and counts once.
    fn long_named<'a>(
        &self,
        kept: &'a mut Option<(Vec<u8>, Box<LongNamed>)>,
        pattern: Vec<u8>,
        named: Box<LongNamed>,
    ) -> Item<'a> {
        if named.pattern.and_then(|index| self.patterns.get(index)) != Some(&pattern) {
            return Item::Nothing;
        }
        let (pattern, named) = kept.insert((pattern, named));
        let message = Message { channel: &named.channel, pattern: Some(pattern), payload: &named.payload };
        Item::LongNamed { message, channel_size: named.channel_size, size: named.size, offset: 0 }
    }

    /// Skips messages that arrive while the window opens. A message behind the anchor would belong to the window, and
    /// be missing there.
    fn pass_over(&self, message: &Message<'_>, anchored: Option<Epoch>) -> Result<(), Error> {
        if anchored.is_some() && self.counts(message) {
            return Err(Error::Protocol("a message came before the session was open".to_owned()));
        }
        Ok(())
    }
}

/// An open window.
#[derive(Debug)]
pub(crate) struct Window {
    connection: Connection,
    subscriptions: Subscriptions,
    anchor: Position,
    /// The message with a name over the limit that came last, and the pattern that brought it.
    long: Option<(Vec<u8>, Box<LongNamed>)>,
}

impl Window {
    /// Opens a window on a new connection. `floor` is the lowest epoch that may be handed out;
    /// `anchor` becomes the anchor's id. Cancel safe: a dropped future leaves nothing behind but,
    /// at most, an anchor that other windows count from.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        role: &str,
        subscriptions: Subscriptions,
        floor: u64,
        anchor: AnchorId,
    ) -> Result<Self, Error> {
        let connection = server::connect(endpoint, role).await?;
        let deadline = endpoint.response_timeout;
        let opening = WindowOpening { connection, subscriptions, anchor };
        timeout(deadline, opening.run(endpoint, role, floor))
            .await
            .unwrap_or(Err(Error::Timeout(deadline, "opening a session")))
    }

    /// The anchor that opened it.
    pub(crate) fn anchor(&self) -> Position {
        self.anchor
    }

    /// Sends a PING behind everything published until now. A subscribed connection of RESP3 takes commands, and the
    /// server answers in order: its PONG comes after every message published before the PING arrived.
    pub(crate) fn fence(&mut self) {
        command(self.connection.out(), &[b"PING", FENCE]);
    }

    /// Reads from the socket, and sends what waits.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<usize, Error>> {
        if self.connection.unsent_bytes() > 0
            && let std::task::Poll::Ready(Err(error)) = self.connection.poll_flush(cx)
        {
            return std::task::Poll::Ready(Err(error));
        }
        self.connection.poll_fill(cx)
    }

    /// Bytes held in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.connection.reader.held_bytes()
    }

    /// The next thing that has come; `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        let (message, size) = match self.connection.reader.next_pushed()? {
            None => return Ok(None),
            Some(Pushed::Message(message)) => (message, message.payload.len()),
            Some(Pushed::Oversized(message, size)) => (message, size),
            Some(Pushed::LongNamed(pattern, named)) => {
                return Ok(Some(self.subscriptions.long_named(&mut self.long, pattern, named)));
            }
            Some(Pushed::Other(Value::Error(text))) => return Err(Error::reply(&text)),
            Some(Pushed::Other(Value::Bytes(text))) if text == FENCE => return Ok(Some(Item::Fence)),
            Some(Pushed::Other(value)) => {
                return if is_push(&value, b"unsubscribe") || is_push(&value, b"punsubscribe") {
                    // An ACL change removes subscriptions, so the next messages are not contiguous.
                    Err(Error::Protocol("the server ended a subscription".to_owned()))
                } else {
                    Ok(Some(Item::Nothing))
                };
            }
        };
        if self.subscriptions.counts(&message) {
            return Ok(Some(Item::Message { message, size, offset: 0 }));
        }
        if message.pattern.is_some() {
            return Ok(Some(Item::Nothing));
        }
        Ok(Some(match Control::parse(message.payload) {
            Some(Control::Anchor(epoch)) => Item::Anchor { epoch, offset: 0 },
            Some(Control::Heartbeat { instance, sent_us }) => Item::Heartbeat { instance, sent_us },
            None => Item::Nothing,
        }))
    }
}

/// The source of a window's epoch.
#[derive(Debug, Clone, Copy)]
enum EpochSource {
    /// The source, by the anchor script: no epoch below the floor.
    Script { floor: u64 },
    /// This instance, if the source does not run the script. The anchor is published all the same, because a reload
    /// aligns two windows by it.
    Own(u64),
}

/// Returns whether the source takes no writes for now, so that the anchor script cannot keep its epoch.
fn refuses_writes(error: &Error) -> bool {
    matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS"))
}

struct WindowOpening {
    connection: Connection,
    subscriptions: Subscriptions,
    anchor: AnchorId,
}

impl WindowOpening {
    async fn run(mut self, endpoint: &Endpoint, role: &str, floor: u64) -> Result<Window, Error> {
        match self.subscribe(EpochSource::Script { floor }).await {
            Ok(epoch) => Ok(self.window(epoch)),
            Err(error) if error.class() == Class::Block || refuses_writes(&error) => {
                // The right to run the anchor script is missing, or the right to subscribe: without
                // the script, only the second fails. A source that refuses writes still delivers.
                self.connection = server::connect(endpoint, role).await?;
                let epoch = self.subscribe(EpochSource::Own(rt::unix_ms().max(floor))).await?;
                tracing::warn!(
                    event = LogCode::MarkerRejected.as_str(),
                    server = endpoint.name,
                    class = error.class().as_str(),
                    "the source rejects the session marker script ({error}); the capture works, but without a standby. \
                     `tidegate acl` prints the permissions that are needed"
                );
                Ok(self.window(epoch))
            }
            Err(error) => Err(error),
        }
    }

    /// Subscribes to everything and publishes the anchor; returns its epoch.
    async fn subscribe(&mut self, numbering: EpochSource) -> Result<Epoch, Error> {
        let Subscriptions { control, epoch_key, channels, patterns, .. } = &self.subscriptions;
        let out = self.connection.out();
        command(out, &[b"MULTI"]);
        let channels: Vec<&[u8]> = [control].into_iter().chain(channels).map(Vec::as_slice).collect();
        let patterns: Vec<&[u8]> = patterns.iter().map(Vec::as_slice).collect();
        let mut queued = 1;
        for (name, wanted) in [(b"SUBSCRIBE".as_slice(), &channels), (b"PSUBSCRIBE", &patterns)] {
            for some in wanted.chunks(MAX_ARGUMENTS - 1) {
                header(out, 1 + some.len());
                argument(out, name);
                for channel in some {
                    argument(out, channel);
                }
                queued += 1;
            }
        }
        match numbering {
            EpochSource::Script { floor } => {
                let (floor, anchor) = (floor.to_string(), self.anchor.to_string());
                let (floor, anchor) = (floor.as_bytes(), anchor.as_bytes());
                command(out, &[b"EVAL", ANCHOR.as_bytes(), b"1", epoch_key, control, floor, anchor]);
            }
            EpochSource::Own(number) => {
                let anchor = Control::anchor(Epoch { number, anchor: self.anchor });
                command(out, &[b"PUBLISH", control, anchor.as_bytes()]);
            }
        }
        command(out, &[b"EXEC"]);

        let mut refused = None;
        for _ in 0..=queued {
            if let Value::Error(text) = self.connection.reply().await? {
                refused.get_or_insert(Error::reply(&text));
            }
        }
        let executed = loop {
            match self.connection.reader.next_array_header()? {
                Some(header) => break header,
                None => self.connection.fill().await?,
            };
        };
        if let Some(error) = refused {
            return Err(error);
        }
        match executed {
            Value::Integer(_) => {}
            Value::Error(text) => return Err(Error::reply(&text)),
            _ => return Err(Error::Protocol("the reply to EXEC is not an array".to_owned())),
        }
        let mut confirmations = channels.len() + patterns.len();
        let mut replied = false;
        let mut anchored = None;
        loop {
            if let Some(epoch) = anchored
                && confirmations == 0
                && replied
            {
                return Ok(epoch);
            }
            match self.connection.reader.next_pushed()? {
                None => {
                    self.connection.fill().await?;
                }
                Some(Pushed::Message(message)) => match Control::parse(message.payload) {
                    Some(Control::Anchor(epoch)) if epoch.anchor == self.anchor => anchored = Some(epoch),
                    _ => self.subscriptions.pass_over(&message, anchored)?,
                },
                Some(Pushed::Oversized(message, _)) => self.subscriptions.pass_over(&message, anchored)?,
                Some(Pushed::LongNamed(pattern, named)) => {
                    let message =
                        Message { channel: &named.channel, pattern: Some(&pattern), payload: &named.payload };
                    self.subscriptions.pass_over(&message, anchored)?;
                }
                Some(Pushed::Other(Value::Error(text))) => return Err(Error::reply(&text)),
                Some(Pushed::Other(value)) => {
                    if is_push(&value, b"subscribe") || is_push(&value, b"psubscribe") {
                        confirmations = confirmations.saturating_sub(1);
                    } else {
                        replied = true;
                    }
                }
            }
        }
    }

    fn window(mut self, epoch: Epoch) -> Window {
        let limits = Limits { message: self.subscriptions.max_message_bytes, frame: OTHER_BYTES };
        self.connection.reader.set_limits(limits);
        self.connection.reader.set_patterns(&self.subscriptions.patterns);
        Window {
            connection: self.connection,
            subscriptions: self.subscriptions,
            anchor: epoch.at(0),
            long: None,
        }
    }
}

fn is_push(value: &Value, kind: &[u8]) -> bool {
    match value {
        Value::Push(elements) => elements.first().and_then(Value::bytes) == Some(kind),
        _ => false,
    }
}
