//! What a route makes of a message or of an entry, by the route's own functions and without a server.

use super::output::bytes;
use crate::broadcast::trial::BroadcastTrial;
use crate::capture::trial::CaptureTrial;
use crate::config::{Broadcast, Capture, Config, Invalidate};
use crate::invalidate::trial::InvalidateTrial;
use crate::server::resp;
use crate::stream::entries::{StreamEntries, StreamEntry};
use crate::text::printable::PrintableLines;
use crate::{broadcast, capture, invalidate, rt};

/// Characters of a value that are printed.
pub(super) const SHOWN: usize = 4096;

/// Names and values, in order.
pub(super) type Fields = Vec<(String, String)>;

/// What a route is given. A route that reads messages has a channel and a payload, any other an entry.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The channel of a message.
    pub(super) channel: Option<String>,
    /// The message.
    pub(super) payload: Option<String>,
    /// The stream of an entry, for a route of several streams.
    pub(super) stream: Option<String>,
    /// The id of an entry; without it, it is that of an entry which is added now.
    pub(super) id: Option<String>,
    /// The fields of an entry; none is no entry.
    pub(super) entry: Fields,
}

/// What becomes of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The route subscribes to nothing that has this channel.
    NotReceived,
    /// It is left out, and why.
    LeftOut(String),
    /// It becomes a dead letter: reason and detail.
    DeadLetter(&'static str, String),
    /// It is stored.
    Stored { stream: Vec<u8>, fields: Vec<(Vec<u8>, Vec<u8>)> },
    /// It is published.
    Published { channel: Vec<u8>, message: Vec<u8> },
    /// Keys are removed, or get a value.
    Cleared {
        keys: Vec<Vec<u8>>,
        /// The version and the value that keys get.
        written: Option<(Vec<u8>, Vec<u8>)>,
        /// Why they get none, where the route stores values.
        unwritten: Option<String>,
        /// Reason and detail, where it becomes a dead letter as well.
        dead_letter: Option<(&'static str, String)>,
    },
}

impl Outcome {
    /// Gives it to a route.
    ///
    /// # Errors
    /// There is no such route, or it takes something else.
    pub(super) fn of(config: &Config, name: &str, given: &Given) -> Result<Self, String> {
        if let Some(route) = config.capture.get(name) {
            return Self::of_capture(route, given);
        }
        if !config.has_route(name) {
            return Err(format!("there is no route '{name}' in the configuration"));
        }
        if given.channel.is_some() || given.payload.is_some() {
            return Err(format!("'{name}' reads entries, and not messages"));
        }
        if given.entry.is_empty() {
            return Err(format!("'{name}' reads entries: give the fields of one"));
        }
        let reply = reply(given.id.as_deref(), &given.entry);
        let unread = |error: crate::server::Error| format!("the entry cannot be read: {error}");
        let mut entries = StreamEntries::of_range(&reply, Vec::new()).map_err(unread)?;
        let entry = entries.next().map_err(unread)?.ok_or("there is no entry")?;
        if let Some(route) = config.broadcast.get(name) {
            return Self::of_broadcast(route, given.stream.as_deref(), &entry);
        }
        let route = config.invalidate.get(name).ok_or("there is no such route")?;
        match &given.stream {
            Some(stream) if *stream != route.stream => Err(not_read(name, stream)),
            _ => Ok(Self::of_invalidate(route, &entry)),
        }
    }

    fn of_capture(route: &Capture, given: &Given) -> Result<Self, String> {
        let (Some(channel), Some(payload), [], None, None) =
            (&given.channel, &given.payload, given.entry.as_slice(), &given.stream, &given.id)
        else {
            return Err(format!("'{}' reads messages: give the channel and the payload of one", route.name));
        };
        let tried = capture::trial::try_message(route, channel.as_bytes(), payload.as_bytes(), rt::unix_ms());
        Ok(match tried {
            CaptureTrial::NotReceived => Self::NotReceived,
            CaptureTrial::LeftOut(why) => Self::LeftOut(why),
            CaptureTrial::DeadLetter(reason, detail) => Self::DeadLetter(reason, detail),
            CaptureTrial::Entry { stream, fields } => Self::Stored { stream, fields },
        })
    }

    fn of_broadcast(
        route: &Broadcast,
        stream: Option<&str>,
        entry: &StreamEntry<'_>,
    ) -> Result<Self, String> {
        let name = &route.name;
        let derived = match (route.pattern().is_some(), stream) {
            (true, None) => return Err(format!("'{name}' reads several streams: name one")),
            (_, Some(stream)) if !route.reads(stream) => {
                return Err(not_read(name, stream));
            }
            (true, Some(stream)) => Some(route.for_stream(stream, None)),
            (false, _) => None,
        };
        Ok(match broadcast::trial::try_entry(derived.as_ref().unwrap_or(route), entry) {
            BroadcastTrial::LeftOut(why) => Self::LeftOut(why),
            BroadcastTrial::DeadLetter(reason, detail) => Self::DeadLetter(reason, detail),
            BroadcastTrial::Message { channel, message } => Self::Published { channel, message },
        })
    }

    fn of_invalidate(route: &Invalidate, entry: &StreamEntry<'_>) -> Self {
        match invalidate::trial::try_entry(route, entry) {
            InvalidateTrial::LeftOut(why) => Self::LeftOut(why),
            InvalidateTrial::Keys { keys, written, unwritten, dead_letter } => {
                Self::Cleared { keys, written, unwritten, dead_letter }
            }
        }
    }

    /// Whether something is stored, published or removed.
    pub(super) fn has_effect(&self) -> bool {
        match self {
            Self::NotReceived | Self::LeftOut(_) | Self::DeadLetter(..) => false,
            Self::Stored { .. } | Self::Published { .. } => true,
            Self::Cleared { keys, .. } => !keys.is_empty(),
        }
    }

    /// The outcome in words.
    pub(super) fn lines(&self) -> PrintableLines {
        let mut lines = PrintableLines::default();
        match self {
            Self::NotReceived => {
                lines.push("not received: the route has neither this channel nor a pattern that matches it");
            }
            Self::LeftOut(why) => lines.push(format_args!("left out: {why}")),
            Self::DeadLetter(reason, detail) => lines.push(format_args!("dead letter {reason}: {detail}")),
            Self::Stored { stream, fields } => {
                lines.push(format_args!("stored in the stream {}", bytes::shown(stream, SHOWN)));
                for (name, value) in fields {
                    let (name, value) = (bytes::shown(name, SHOWN), bytes::shown(value, SHOWN));
                    lines.push(format_args!("  {name}: {value}"));
                }
            }
            Self::Published { channel, message } => {
                lines.push(format_args!("published on the channel {}", bytes::shown(channel, SHOWN)));
                lines.push(format_args!("  {}", bytes::shown(message, SHOWN)));
            }
            Self::Cleared { keys, written, unwritten, dead_letter } => {
                for key in keys {
                    let key = bytes::shown(key, SHOWN);
                    match written {
                        Some((version, _)) => lines.push(format_args!(
                            "stored if the cache has the key with a version older than {}: {key}",
                            bytes::shown(version, SHOWN)
                        )),
                        None => lines.push(format_args!("removed: the key {key}")),
                    }
                }
                if let Some((_, value)) = written {
                    lines.push(format_args!("  {}", bytes::shown(value, SHOWN)));
                }
                if let Some(why) = unwritten {
                    lines.push(format_args!("  not stored: {why}"));
                }
                if let Some((reason, detail)) = dead_letter {
                    lines.push(format_args!("dead letter {reason}: {detail}"));
                }
            }
        }
        lines
    }
}

fn not_read(route: &str, stream: &str) -> String {
    format!("'{route}' does not read the stream {stream}")
}

/// The entry as a server answers `XRANGE`, so that it is read as the routes read it.
fn reply(id: Option<&str>, fields: &Fields) -> Vec<u8> {
    let id = id.map_or_else(|| format!("{}-0", rt::unix_ms()), str::to_owned);
    let mut out = Vec::new();
    resp::header(&mut out, 1);
    resp::header(&mut out, 2);
    resp::argument(&mut out, id.as_bytes());
    resp::header(&mut out, fields.len() * 2);
    for (name, value) in fields {
        resp::argument(&mut out, name.as_bytes());
        resp::argument(&mut out, value.as_bytes());
    }
    out
}
