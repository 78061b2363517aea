//! Finds the streams that match a route's pattern, and decides which of them the route reads.
//!
//! Constraints: a server has no list of its streams, so all keys are scanned, which costs it time for every key. After
//! each call tidegate waits nine times as long as the call took: scanning takes at most a tenth of the server's time,
//! and the scan of a large server takes longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::broadcast::engine::leadership::TERM;
use crate::broadcast::publish::call::{Tally, newer_cursor, tally};
use crate::config::{Endpoint, Start, StreamPattern, redis_keys};
use crate::rt;
use crate::server::resp::{self, Value};
use crate::server::{Connection, Error, Script, can_run_scripts, connect, script};

/// Adds streams to the set of known ones.
const FOUND: Script = script!("found.lua");
/// Forgets a deleted stream.
const GONE: Script = script!("gone.lua");

/// Keys of one SCAN: about a millisecond of the server.
const COUNT: &[u8] = b"1000";
/// The pause after a call, as a multiple of the call's duration.
const PAUSE: u32 = 9;
/// The longest of these pauses: a reply that was slow for other reasons does not stop the look.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The fields of a cursor that make a tally.
const TALLY: [&[u8]; 4] = [b"published", b"unheard", b"rejected", b"filtered"];
/// Cursors that are asked for at once.
const CURSORS: usize = 100;
/// The longest name that is read, as the configuration allows it.
const MAX_NAME_BYTES: usize = 1024;

/// Looks for streams, on a connection of its own.
#[derive(Debug)]
pub(super) struct Finder {
    source: Arc<Endpoint>,
    route: String,
    /// The name of its connections.
    role: String,
    matching: StreamPattern,
    /// True if stream and channels are on two servers, so that each stream has a lease.
    two_servers: bool,
    connection: Option<Connection>,
    /// Time of the server's last answer; milliseconds since 1970, 0 before it.
    answered_unix_ms: Arc<AtomicU64>,
    /// True if the set's streams were reported: they are read before all keys are scanned.
    told: bool,
    looks: Looks,
    /// The streams of the set whose totals were reported.
    tallied: BTreeSet<String>,
}

/// The server's record of earlier looks. If it loses the cursor, the next call restores this. Otherwise every stream
/// would count as one of a first look.
#[derive(Debug, Default)]
struct Looks {
    /// Time of the first complete look, in ms by the server's clock; empty before it.
    first: String,
    /// The pattern, if the last complete look left no stream out.
    whole: String,
}

/// The part of the keyspace that a call knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Not all keys were walked.
    Part,
    /// All keys were walked, and more streams match than the call names.
    More,
    /// All keys were walked, and the call names every stream that matches.
    Whole,
}

impl Extent {
    const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Part => b"",
            Self::More => b"0",
            Self::Whole => b"1",
        }
    }
}

/// A stream that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundStream {
    pub(super) name: String,
    /// Where to begin, if the configuration does not decide: the stream came after the first complete look.
    pub(super) start: Option<Start>,
}

/// The result of a look.
#[derive(Debug)]
pub(super) struct FinderLook {
    /// The streams that are read, by name, at most `max_streams`.
    pub(super) streams: Vec<FoundStream>,
    /// The set's other streams: `max_streams` was higher before.
    pub(super) cut: BTreeSet<String>,
    /// Of these two, the totals of those that were not reported before.
    pub(super) tallies: BTreeMap<String, Tally>,
    /// Those that are deleted.
    pub(super) missing: BTreeSet<String>,
    /// True if all keys were walked.
    pub(super) complete: bool,
    /// About how many streams match and are not read: more than `max_streams`, or with a name that is too long or is
    /// not UTF-8.
    pub(super) left_out: u64,
    /// Outcomes of the entries of deleted streams.
    pub(super) past: Tally,
}

/// The result of a scan of all keys.
#[derive(Debug, Default)]
struct Walked {
    /// Streams that are read already.
    known: BTreeSet<String>,
    /// The first others, by name.
    others: BTreeSet<String>,
    /// Number of further matching streams.
    more: u64,
    /// Number of names that cannot be read.
    odd: u64,
}

impl Finder {
    pub(super) fn new(
        source: Arc<Endpoint>,
        route: &str,
        matching: &StreamPattern,
        two_servers: bool,
    ) -> Self {
        let (route, matching) = (route.to_owned(), matching.clone());
        let role = format!("broadcast.{route}");
        let answered_unix_ms = Arc::default();
        Self {
            source,
            route,
            role,
            matching,
            two_servers,
            connection: None,
            answered_unix_ms,
            told: false,
            tallied: BTreeSet::new(),
            looks: Looks::default(),
        }
    }

    /// Time of the server's last answer, as it changes.
    pub(super) fn answered_unix_ms(&self) -> Arc<AtomicU64> {
        self.answered_unix_ms.clone()
    }

    /// The name of connections that serve the whole route.
    pub(super) fn role(&self) -> &str {
        &self.role
    }

    fn answered(&self) {
        self.answered_unix_ms.store(rt::unix_ms(), Ordering::Relaxed);
    }

    /// Forgets deleted streams, and finds the present ones. Cancel safe in effect: the next look finds the rest.
    pub(super) async fn look(mut self, forget: BTreeSet<String>) -> (Self, Result<FinderLook, Error>) {
        let outcome = match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect(&self.source, &self.role).await,
        };
        let outcome = match outcome {
            Ok(mut connection) => {
                let found = self.look_on(&mut connection, &forget).await;
                if found.is_ok() {
                    self.answered();
                    self.connection = Some(connection);
                }
                found
            }
            Err(error) => Err(error),
        };
        (self, outcome)
    }

    async fn look_on(
        &mut self,
        connection: &mut Connection,
        forget: &BTreeSet<String>,
    ) -> Result<FinderLook, Error> {
        can_run_scripts(connection)?;
        for stream in forget {
            self.forget(connection, stream).await?;
        }
        let (mut streams, past) = self.record(connection, &BTreeSet::new(), Extent::Part).await?;
        if !std::mem::replace(&mut self.told, true) && !streams.is_empty() {
            let tallies = self.tallies(connection, &streams).await?;
            let cut = self.cut(&mut streams);
            let (missing, left_out) = (BTreeSet::new(), count(cut.len()));
            return Ok(FinderLook { streams, cut, tallies, missing, complete: false, left_out, past });
        }
        let before: BTreeSet<String> = streams.iter().map(|stream| stream.name.clone()).collect();
        let walked = self.walk(connection, &before).await?;
        let extent = if walked.more == 0 { Extent::Whole } else { Extent::More };
        let (mut streams, past) = self.record(connection, &walked.others, extent).await?;
        let read: BTreeSet<&String> = streams.iter().map(|stream| &stream.name).collect();
        let unread = walked.others.iter().filter(|name| !read.contains(name)).count();
        let missing = before.difference(&walked.known).cloned().collect();
        let tallies = self.tallies(connection, &streams).await?;
        let cut = self.cut(&mut streams);
        let left_out = walked.odd + walked.more + count(unread) + count(cut.len());
        Ok(FinderLook { streams, cut, tallies, missing, complete: true, left_out, past })
    }

    /// Cuts the list to `max_streams`, and returns those left out.
    fn cut(&self, streams: &mut Vec<FoundStream>) -> BTreeSet<String> {
        streams.sort_by(|one, other| one.name.cmp(&other.name));
        let cut = streams.split_off(self.most().min(streams.len()));
        cut.into_iter().map(|stream| stream.name).collect()
    }

    /// The totals of streams that were not asked for before, as their cursors have them.
    async fn tallies(
        &mut self,
        connection: &mut Connection,
        streams: &[FoundStream],
    ) -> Result<BTreeMap<String, Tally>, Error> {
        let deadline = self.source.response_timeout;
        let names: BTreeSet<&String> = streams.iter().map(|stream| &stream.name).collect();
        self.tallied.retain(|name| names.contains(name));
        let new: Vec<String> =
            names.into_iter().filter(|name| !self.tallied.contains(*name)).cloned().collect();
        let mut tallies = BTreeMap::new();
        if new.is_empty() {
            return Ok(tallies);
        }
        // The place of one stream may be in the route's cursor: open.lua.
        let cursor = self.key(redis_keys::CURSOR);
        let about = [&[b"HMGET", cursor.as_bytes(), b"stream"], &TALLY[..]].concat();
        let about = connection.ask(deadline, "reading a cursor", &about).await;
        let about = about.map_err(|error| error.at(&[&cursor]))?;
        let of_route =
            about.elements().and_then(|fields| Some((fields.first()?.text()?, stored(fields.get(1..)?)?)));
        for some in new.chunks(CURSORS) {
            for name in some {
                let cursor =
                    redis_keys::of_stream(&self.source.key_prefix, &self.route, redis_keys::CURSOR, name);
                let call = [&[b"HMGET", cursor.as_bytes()], &TALLY[..]].concat();
                resp::command(connection.out(), &call);
            }
            for name in some {
                let own = match connection.answer(deadline, "reading cursors").await {
                    Ok(reply) => reply.elements().and_then(stored).unwrap_or_default(),
                    // The stream's own route reports a key of another type.
                    Err(Error::Reply(_)) => Tally::default(),
                    Err(error) => return Err(error),
                };
                let tally = match of_route {
                    Some((stream, tally)) if stream == name => tally,
                    _ => own,
                };
                tallies.insert(name.clone(), tally);
            }
        }
        self.tallied.extend(new);
        Ok(tallies)
    }

    fn most(&self) -> usize {
        usize::try_from(self.matching.max_streams).unwrap_or(usize::MAX)
    }

    fn key(&self, what: &str) -> String {
        redis_keys::of_route(&self.source.key_prefix, &self.route, what)
    }

    /// Scans all keys.
    async fn walk(&self, connection: &mut Connection, before: &BTreeSet<String>) -> Result<Walked, Error> {
        let mut walked = Walked::default();
        let mut cursor = b"0".to_vec();
        loop {
            let pattern = self.matching.pattern.as_bytes();
            let scan: [&[u8]; 8] = [b"SCAN", &cursor, b"MATCH", pattern, b"COUNT", COUNT, b"TYPE", b"stream"];
            let sent = Instant::now();
            let reply = connection.ask(self.source.response_timeout, "looking for streams", &scan).await?;
            let took = sent.elapsed();
            self.answered();
            let Some([next, names]) = reply.elements() else { return Err(invalid_scan()) };
            let (next, names) = next.bytes().zip(names.elements()).ok_or_else(invalid_scan)?;
            for name in names {
                self.take(name.bytes().ok_or_else(invalid_scan)?, before, &mut walked);
            }
            if next == b"0" {
                return Ok(walked);
            }
            cursor = next.to_vec();
            sleep((took * PAUSE).min(LONGEST_PAUSE)).await;
        }
    }

    /// The name of a stream that this route can read.
    fn readable<'n>(&self, name: &'n [u8]) -> Option<&'n str> {
        let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME_BYTES)?;
        self.matching.matches(name).then_some(name)
    }

    /// Takes in a name that a walk came across, maybe for the second time.
    fn take(&self, name: &[u8], before: &BTreeSet<String>, walked: &mut Walked) {
        if name.starts_with(self.matching.reserved.as_bytes()) {
            return;
        }
        let Some(name) = self.readable(name) else {
            walked.odd += 1;
            return;
        };
        if before.contains(name) {
            walked.known.insert(name.to_owned());
        } else if walked.others.insert(name.to_owned()) && walked.others.len() > self.most() {
            walked.others.pop_last();
            walked.more += 1;
        }
    }

    /// Adds streams to the set, and returns the set.
    async fn record(
        &mut self,
        connection: &mut Connection,
        others: &BTreeSet<String>,
        extent: Extent,
    ) -> Result<(Vec<FoundStream>, Tally), Error> {
        let (streams, cursor) = (self.key(redis_keys::STREAMS), self.key(redis_keys::CURSOR));
        let most = self.matching.max_streams.to_string();
        let keys = (others.len() + 2).to_string();
        let mut call: Vec<&[u8]> = vec![b"EVAL", FOUND.source.as_bytes(), keys.as_bytes()];
        call.extend([streams.as_bytes(), cursor.as_bytes()]);
        call.extend(others.iter().map(|name| name.as_bytes()));
        call.extend([most.as_bytes(), self.matching.pattern.as_bytes(), extent.as_bytes()]);
        call.extend([self.looks.first.as_bytes(), self.looks.whole.as_bytes()]);
        let reply = connection.ask(self.source.response_timeout, "recording streams", &call).await;
        let reply = reply.map_err(|error| error.at(&[&streams, &cursor]))?;
        if let Some([_]) = reply.elements() {
            return Err(Error::Refused(newer_cursor(&cursor)));
        }
        let Recorded { looks, names, past } = recorded(&reply).ok_or_else(|| FOUND.invalid_reply())?;
        self.looks = looks;
        let (mut streams, mut others) = (Vec::new(), Vec::new());
        for (name, start) in names {
            match self.readable(name) {
                Some(name) => streams.push(FoundStream { name: name.to_owned(), start }),
                None => others.push(name),
            }
        }
        if !others.is_empty() {
            // The pattern was another one before, or another program wrote the set. A cursor stays, in case that it
            // comes back.
            let key = self.key(redis_keys::STREAMS);
            let mut remove = vec![b"SREM".as_slice(), key.as_bytes()];
            remove.extend(others);
            connection.ask(self.source.response_timeout, "leaving out streams", &remove).await?;
        }
        Ok((streams, past))
    }

    /// Forgets a stream, if it is deleted.
    async fn forget(&mut self, connection: &mut Connection, stream: &str) -> Result<(), Error> {
        let of_stream = |kind| redis_keys::of_stream(&self.source.key_prefix, &self.route, kind, stream);
        let (streams, cursor) = (self.key(redis_keys::STREAMS), self.key(redis_keys::CURSOR));
        let mut keys = vec![streams, cursor, stream.to_owned()];
        let kept = |kind: &&&str| self.two_servers || **kind != redis_keys::LEASE;
        keys.extend(redis_keys::OF_FOUND_STREAM.iter().filter(kept).map(|kind| of_stream(*kind)));
        if self.two_servers {
            keys.push(self.key(redis_keys::LEASE));
        }
        let number = keys.len().to_string();
        let mut call: Vec<&[u8]> = vec![b"EVAL", GONE.source.as_bytes(), number.as_bytes()];
        call.extend(keys.iter().map(|key| key.as_bytes()));
        let lasts = TERM.as_millis().to_string();
        call.push(lasts.as_bytes());
        let reply = connection.ask(self.source.response_timeout, "forgetting a stream", &call).await;
        let reply = reply.map_err(|error| error.at(&keys))?;
        if reply.integer() == Some(1) {
            // The route has its totals now. A new stream of this name starts at zero.
            self.tallied.remove(stream);
        }
        Ok(())
    }
}

/// The reply of `found.lua`.
struct Recorded<'r> {
    looks: Looks,
    /// The set's members, and where each begins if the configuration does not decide.
    names: Vec<(&'r [u8], Option<Start>)>,
    past: Tally,
}

/// Reads the script's answer; `None` if it is none.
fn recorded(reply: &Value) -> Option<Recorded<'_>> {
    let [first, whole, published, unheard, rejected, filtered, names @ ..] = reply.elements()? else {
        return None;
    };
    let looks = Looks { first: first.text()?.to_owned(), whole: whole.text()?.to_owned() };
    let start = |how: &Value| match how.bytes()? {
        b"" => Some(None),
        b"late" => Some(Some(Start::Beginning)),
        _ => Some(Some(Start::New)),
    };
    let names: Option<Vec<_>> =
        names.chunks_exact(2).map(|pair| Some((pair[0].bytes()?, start(&pair[1])?))).collect();
    Some(Recorded { looks, names: names?, past: tally([published, unheard, rejected, filtered])? })
}

/// The totals of a cursor; a field that is not there counts as none.
fn stored(fields: &[Value]) -> Option<Tally> {
    let number = |value: &Value| value.text().and_then(|text| text.parse().ok()).unwrap_or(0);
    let [published, unheard, rejected, filtered] = fields else { return None };
    Some(Tally {
        published: number(published),
        unheard: number(unheard),
        rejected: number(rejected),
        filtered: number(filtered),
    })
}

fn invalid_scan() -> Error {
    Error::Protocol("the reply to SCAN is not valid".to_owned())
}

fn count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
