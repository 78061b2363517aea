//! The calls of the scripts that move a cursor, as commands and replies.
//!
//! The items of a call are collected in a buffer of their own, because a command begins with the number of its
//! arguments, which is known last. That costs one copy of a batch, which is small beside the system call.

use super::count::{Counted, CursorCount};
use crate::broadcast::message::withheld::Unrenderable;
use crate::config::{self, Streams, redis_keys};
use crate::server::resp::{self, Value};
use crate::server::{Error, Hash, Script, script};
use crate::stream::EntryId;

/// Publishes and moves the cursor.
pub(crate) const PUBLISH: Script = script!("publish.lua");
/// Publishes holes.
pub(crate) const RELEASE: Script = script!("../group/holes/release.lua");

/// EVALSHA, hash, number of keys, three keys, and nine arguments before the items.
const FIXED_ARGUMENTS: usize = 15;
/// Number of fixed arguments of `release.lua`: four keys and five arguments.
const FIXED_RELEASE_ARGUMENTS: usize = 12;

/// The keys of a route on the server that holds the stream, and how it publishes.
#[derive(Debug, Clone)]
pub(crate) struct BroadcastKeys {
    pub(crate) cursor: String,
    pub(crate) dead_letters: String,
    pub(crate) stream: String,
    /// `PUBLISH` or `SPUBLISH`.
    pub(crate) command: &'static str,
    /// Which instance publishes on another server.
    pub(crate) lease: String,
    /// Key of the set of holes, with `order = "acknowledgement"`.
    pub(crate) holes: Option<String>,
}

impl BroadcastKeys {
    /// `P R:cursor` and `P R:dead-letters`; of one of several streams `P R:cursor:STREAM`.
    pub(crate) fn new(prefix: &str, settings: &config::Broadcast) -> Self {
        Self {
            cursor: own_key(prefix, settings, redis_keys::CURSOR),
            dead_letters: redis_keys::of_route(prefix, &settings.name, "dead-letters"),
            lease: own_key(prefix, settings, redis_keys::LEASE),
            stream: settings.stream().to_owned(),
            command: if settings.sharded { "SPUBLISH" } else { "PUBLISH" },
            holes: settings
                .acknowledged()
                .filter(|acknowledged| matches!(acknowledged.order, config::Order::Acknowledgement { .. }))
                .map(|_| own_key(prefix, settings, redis_keys::HOLES)),
        }
    }
}

/// The keys of the cursor and of the lease of a stream: those of the route, or those of this one of several streams.
pub(crate) fn keys_of_place(prefix: &str, route: &str, stream: Option<&str>) -> [String; 2] {
    [redis_keys::CURSOR, redis_keys::LEASE].map(|what| match stream {
        Some(stream) => redis_keys::of_stream(prefix, route, what, stream),
        None => redis_keys::of_route(prefix, route, what),
    })
}

/// The error text for a cursor that a newer release wrote.
pub(crate) fn newer_cursor(key: &str) -> String {
    format!(
        "a newer release wrote the cursor {key}: run the newer release, or delete {key}, and the route begins where start says"
    )
}

/// A key that a route has for its stream, or for each of its streams.
pub(crate) fn own_key(prefix: &str, settings: &config::Broadcast, what: &str) -> String {
    match &settings.streams {
        Streams::Found(stream) => redis_keys::of_stream(prefix, &settings.name, what, stream),
        Streams::One(_) | Streams::Matching(_) => redis_keys::of_route(prefix, &settings.name, what),
    }
}

impl BroadcastKeys {
    /// Appends a call's beginning, up to the keys.
    fn begin(&self, out: &mut Vec<u8>, hash: &Hash) {
        let holes = self.holes.as_deref();
        resp::argument(out, b"EVALSHA");
        resp::argument(out, hash);
        resp::argument(out, if holes.is_some() { b"4" } else { b"3" });
        for key in [self.cursor.as_str(), &self.dead_letters, &self.stream].into_iter().chain(holes) {
            resp::argument(out, key.as_bytes());
        }
    }
}

/// Outcomes of entries, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Published.
    pub(crate) published: u64,
    /// Number of these without a subscriber.
    pub(crate) unheard: u64,
    /// Written to the dead letters.
    pub(crate) rejected: u64,
    /// Left out by the route's filter.
    pub(crate) filtered: u64,
}

/// The items of one call, as they are collected.
#[derive(Debug, Default)]
pub(crate) struct Items {
    /// The channel of every item, as long as it is the same: then it is sent once, which spares the server an argument
    /// of two for each message.
    channel: Vec<u8>,
    shared: bool,
    /// The message of each item, and before it its channel if that is not shared.
    arguments: Vec<u8>,
    /// The end of each item, as long as the channel is shared.
    ends: Vec<usize>,
    ids: Vec<u8>,
    count: usize,
    /// Entries that were left out, and of these the ones since the last item.
    filtered: u64,
    filtered_since: u64,
}

impl Items {
    /// Adds a message to be published by the script.
    pub(crate) fn message(&mut self, id: &[u8], channel: &[u8], message: &[u8]) {
        if self.count == 0 {
            self.shared = !channel.is_empty();
            self.channel.extend_from_slice(channel);
        } else if self.shared && self.channel != channel {
            self.spread();
        }
        self.count += 1;
        self.ids.extend_from_slice(id);
        if self.filtered_since > 0 {
            self.ids.push(b'+');
            self.ids.extend_from_slice(self.filtered_since.to_string().as_bytes());
            self.filtered_since = 0;
        }
        self.ids.push(b' ');
        if !self.shared {
            resp::argument(&mut self.arguments, channel);
        }
        resp::argument(&mut self.arguments, message);
        if self.shared {
            self.ends.push(self.arguments.len());
        }
    }

    /// Gives every item a channel of its own.
    fn spread(&mut self) {
        if !self.shared {
            return;
        }
        self.shared = false;
        let together = std::mem::take(&mut self.arguments);
        let mut begin = 0;
        for end in self.ends.drain(..) {
            resp::argument(&mut self.arguments, &self.channel);
            self.arguments.extend_from_slice(&together[begin..end]);
            begin = end;
        }
    }

    /// Adds an entry for the dead letters.
    pub(crate) fn dead_letter(&mut self, id: &[u8], why: &Unrenderable) {
        self.message(id, b"", format!("{} {why}", why.reason()).as_bytes());
    }

    /// Notes that entries are left out here.
    pub(crate) fn filtered(&mut self, entries: u64) {
        self.filtered += entries;
        self.filtered_since += entries;
    }

    /// Adds a hole that the route's present filter leaves out: the script only removes it.
    pub(crate) fn filtered_hole(&mut self, id: &[u8]) {
        self.message(id, b"", b"filtered");
    }

    /// Adds an entry that is not acknowledged: it is remembered, to be published later.
    pub(crate) fn hole(&mut self, id: &[u8]) {
        self.message(id, b"", b"hole");
    }

    /// Number of items.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Their size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.arguments.len()
    }

    /// Appends the call that moves the cursor from `previous` to `last`, and empties the items.
    pub(crate) fn write(
        &mut self,
        out: &mut Vec<u8>,
        hash: &Hash,
        keys: &BroadcastKeys,
        (previous, last, counted): (EntryId, EntryId, Counted),
        elsewhere: Tally,
    ) {
        let each = if self.shared { 1 } else { 2 };
        resp::header(out, FIXED_ARGUMENTS + usize::from(keys.holes.is_some()) + each * self.count);
        keys.begin(out, hash);
        resp::argument(out, previous.to_string().as_bytes());
        resp::argument(out, last.to_string().as_bytes());
        resp::argument(out, elsewhere.published.to_string().as_bytes());
        resp::argument(out, elsewhere.unheard.to_string().as_bytes());
        resp::argument(out, self.filtered.to_string().as_bytes());
        resp::argument(out, counted.to_string().as_bytes());
        resp::argument(out, keys.command.as_bytes());
        resp::argument(out, if self.shared { &self.channel } else { b"" });
        self.drain_into(out);
    }

    /// Appends the call that publishes holes, beside those published on another server already, and empties the items.
    pub(crate) fn write_release(
        &mut self,
        out: &mut Vec<u8>,
        hash: &Hash,
        keys: &BroadcastKeys,
        (elsewhere, ids): (Tally, &[u8]),
    ) {
        self.spread();
        resp::header(out, FIXED_RELEASE_ARGUMENTS + 2 * self.count);
        keys.begin(out, hash);
        resp::argument(out, elsewhere.published.to_string().as_bytes());
        resp::argument(out, elsewhere.unheard.to_string().as_bytes());
        resp::argument(out, keys.command.as_bytes());
        resp::argument(out, ids);
        self.drain_into(out);
    }

    fn drain_into(&mut self, out: &mut Vec<u8>) {
        resp::argument(out, &self.ids);
        out.extend_from_slice(&self.arguments);
        self.channel.clear();
        self.arguments.clear();
        self.ends.clear();
        self.ids.clear();
        self.count = 0;
        self.filtered = 0;
        self.filtered_since = 0;
    }
}

/// The result of the publish script.
#[derive(Debug)]
pub(crate) enum PublishOutcome {
    /// Nothing: the cursor is not the expected one. `None` if there is none; then its count, if known, and the range of
    /// entries that were published before.
    Elsewhere(Option<EntryId>, CursorCount, Option<(EntryId, EntryId)>),
    /// The cursor is here now, with its count; the other counts are this call's.
    Moved {
        cursor: EntryId,
        counted: CursorCount,
        tally: Tally,
        /// The error that stopped it, and the entry that it could not publish; no entry if a dead letter could not be
        /// written.
        refused: Option<(Error, Option<EntryId>)>,
    },
}

impl PublishOutcome {
    /// Reads the script's reply.
    ///
    /// # Errors
    /// If it is an error, or no reply of that script.
    pub(crate) fn read(reply: &Value) -> Result<Self, Error> {
        if let Value::Error(text) = reply {
            return Err(Error::reply(text));
        }
        match reply.elements() {
            Some([Value::Integer(0), cursor, counted, after, up_to]) => {
                match written_cursor(cursor)?.ok_or_else(|| PUBLISH.invalid_reply())? {
                    None => Ok(Self::Elsewhere(None, CursorCount::default(), None)),
                    cursor => {
                        let passes = passes_of(after, up_to)?;
                        Ok(Self::Elsewhere(cursor, CursorCount::read(counted), passes))
                    }
                }
            }
            Some(
                [Value::Integer(1), cursor, published, unheard, rejected, filtered, refused, failed, counted],
            ) => {
                let cursor = cursor_id(cursor.bytes().ok_or_else(|| PUBLISH.invalid_reply())?)?;
                let tally =
                    tally([published, unheard, rejected, filtered]).ok_or_else(|| PUBLISH.invalid_reply())?;
                let refused = refused.bytes().ok_or_else(|| PUBLISH.invalid_reply())?;
                // Servers before 7.0 left the '-' of the wire in the error's text.
                let refused = refused.strip_prefix(b"-").unwrap_or(refused);
                let refused = match (refused, failed.bytes()) {
                    (b"", _) => None,
                    (refused, Some(b"") | None) => Some((Error::reply(refused), None)),
                    (refused, Some(failed)) => Some((Error::reply(refused), Some(cursor_id(failed)?))),
                };
                Ok(Self::Moved { cursor, counted: CursorCount::read(counted), tally, refused })
            }
            _ => Err(PUBLISH.invalid_reply()),
        }
    }
}

/// Entries after the first of these and up to the second were published before.
pub(super) fn passes_of(after: &Value, up_to: &Value) -> Result<Option<(EntryId, EntryId)>, Error> {
    match (after.bytes(), up_to.bytes()) {
        (Some(after), Some(up_to)) if !up_to.is_empty() => Ok(Some((cursor_id(after)?, cursor_id(up_to)?))),
        _ => Ok(None),
    }
}

/// The counts of a cursor.
pub(crate) fn tally([published, unheard, rejected, filtered]: [&Value; 4]) -> Option<Tally> {
    Some(Tally {
        published: published.count()?,
        unheard: unheard.count()?,
        rejected: rejected.count()?,
        filtered: filtered.count()?,
    })
}

/// A cursor as a script returns it; the inner `None` if there is none, the outer one if it is something else.
///
/// # Errors
/// If it is no entry's id.
pub(crate) fn written_cursor(value: &Value) -> Result<Option<Option<EntryId>>, Error> {
    match value.bytes() {
        None => Ok(None),
        Some(b"") => Ok(Some(None)),
        Some(text) => cursor_id(text).map(|cursor| Some(Some(cursor))),
    }
}

pub(super) fn cursor_id(text: &[u8]) -> Result<EntryId, Error> {
    EntryId::parse(text).ok_or_else(|| {
        Error::Protocol(format!(
            "the cursor '{}' is not an entry's id; another program may have written its key",
            text.escape_ascii()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::super::open;
    use super::*;

    #[test]
    fn a_call_announces_as_many_arguments_as_it_has() {
        let keys = BroadcastKeys {
            cursor: "c".into(),
            dead_letters: "d".into(),
            lease: "l".into(),
            stream: "s".into(),
            command: "PUBLISH",
            holes: Some("h".into()),
        };
        let mut items = Items::default();
        let id = |milliseconds| EntryId { milliseconds, sequence: 0 };
        items.message(b"2-0", b"news", b"\r\n");
        items.filtered(2);
        items.dead_letter(b"3-0", &Unrenderable::EmptyChannel);
        items.filtered(1);
        assert_eq!(items.count(), 2);
        let mut out = Vec::new();
        items.write(&mut out, &[b'f'; 40], &keys, (id(1), id(3), Counted::More(7)), Tally::default());
        assert_eq!((items.count(), items.bytes()), (0, 0));
        let (call, end) = Value::build(&out, 0).unwrap();
        assert_eq!(end, out.len());
        let text: Vec<_> = call
            .elements()
            .unwrap()
            .iter()
            .map(|value| value.bytes().unwrap().escape_ascii().to_string())
            .collect();
        assert_eq!(text[3..14], ["c", "d", "s", "h", "1-0", "3-0", "0", "0", "3", "+7", "PUBLISH"]);
        assert_eq!(text[14..18], ["", "2-0 3-0+2 ", "news", "\\r\\n"]);
        assert_eq!(text[18..], ["", "empty_channel the channel\\'s template results in an empty name"]);
    }

    /// The shared channel, '' without one, and then the items, of one call.
    fn written(items: &mut Items) -> Vec<String> {
        let (mut out, id) = (Vec::new(), EntryId::default());
        let keys = BroadcastKeys {
            cursor: "c".into(),
            dead_letters: "d".into(),
            lease: "l".into(),
            stream: "s".into(),
            command: "PUBLISH",
            holes: None,
        };
        items.write(&mut out, &[b'f'; 40], &keys, (id, id, Counted::Unknown), Tally::default());
        let (call, end) = Value::build(&out, 0).unwrap();
        assert_eq!(end, out.len());
        let text = |value: &Value| value.bytes().unwrap().escape_ascii().to_string();
        let mut words: Vec<_> = call.elements().unwrap()[13..].iter().map(text).collect();
        words.remove(1);
        words
    }

    #[test]
    fn a_channel_is_sent_once_where_all_share_it() {
        let mut items = Items::default();
        // Emptied each time: what one call held is not in the next.
        for _ in 0..2 {
            items.message(b"1-0", b"news", b"a");
            items.message(b"2-0", b"news", b"");
            items.message(b"3-0", b"news", b"c");
            assert_eq!(written(&mut items), ["news", "a", "", "c"]);
            items.message(b"1-0", b"news", b"a");
            items.message(b"2-0", b"news", b"b");
            items.message(b"3-0", b"sport", b"c");
            items.message(b"4-0", b"news", b"d");
            assert_eq!(written(&mut items), ["", "news", "a", "news", "b", "sport", "c", "news", "d"]);
            items.hole(b"1-0");
            items.message(b"2-0", b"news", b"b");
            assert_eq!(written(&mut items), ["", "", "hole", "news", "b"]);
            items.message(b"1-0", b"news", b"a");
            items.hole(b"2-0");
            assert_eq!(written(&mut items), ["", "news", "a", "", "hole"]);
            items.filtered(3);
            assert_eq!(written(&mut items), [""]);
        }
    }

    #[test]
    fn replies_that_the_scripts_cannot_give_are_errors() {
        let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        let number = Value::Integer;
        for nonsense in [
            Value::Null,
            Value::Array(vec![number(2), text("1-0")]),
            Value::Array(vec![number(0), text("x"), text("")]),
            Value::Array(vec![
                number(1),
                text("1-0"),
                number(-1),
                number(0),
                number(0),
                number(0),
                text(""),
                text(""),
            ]),
        ] {
            assert!(PublishOutcome::read(&nonsense).is_err(), "{nonsense:?}");
            assert!(open::opened(&nonsense).is_err(), "{nonsense:?}");
        }
        let stopped = Value::Array(vec![
            number(1),
            text("1-0"),
            number(1),
            number(0),
            number(0),
            number(0),
            text("-NOPERM no"),
            text("2-0"),
            text(""),
        ]);
        let PublishOutcome::Moved { refused: Some((error, Some(failed))), .. } =
            PublishOutcome::read(&stopped).unwrap()
        else {
            panic!("not stopped")
        };
        assert_eq!((error.code(), failed.to_string().as_str()), (Some("NOPERM"), "2-0"));
        assert!(matches!(
            PublishOutcome::read(&Value::Array(vec![number(0), text(""), text(""), text(""), text("")]))
                .unwrap(),
            PublishOutcome::Elsewhere(None, _, None)
        ));
    }
}
