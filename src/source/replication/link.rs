//! One link: the replica's handshake, and the stream behind it.
//!
//! ```text
//! REPLCONF listening-port 0 · REPLCONF capa eof capa psync2 · REPLCONF rdb-filter-only ""
//! PSYNC history offset+1      ◀── +CONTINUE             the stream continues
//!                             ◀── +FULLRESYNC … , a snapshot, and then the stream
//! ```
//!
//! The snapshot is read and dropped as it comes. Servers that know `rdb-filter-only` (Redis 7.0) send an
//! empty one; the others send the whole dataset. Each forks once for it.

use std::future::Future;
use std::ops::RangeInclusive;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::time::timeout;

use super::node::{self, Info, NoContinuation, Node};
use super::stream::{CommandCutter, FoundCommand};
use super::{HistoryId, ReplicationOffset};
use crate::config::{Address, Endpoint, Prefer};
use crate::server::resp::command;
use crate::server::{self, Connection, Error, Role};

/// Interval between acknowledgements; a server drops a replica that sent none for `repl-timeout`, 60 s.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between the first ones: servers ignore those that come before the end of the snapshot.
const FIRST_ACK_INTERVAL: Duration = Duration::from_millis(100);
/// While a snapshot is prepared a server sends a newline each second; after so long a silence the link is dead.
const SILENCE: Duration = Duration::from_secs(15);
/// After the snapshot a server is silent until something is written (a PING comes each `repl-ping-replica-period`,
/// which may be hours). After this time the server is asked whether something was written.
const QUIET: Duration = Duration::from_secs(2);
/// If only unwanted commands arrive for a while, each read costs more than its commands. Then reading pauses for this
/// part of the time since the last wanted command, which bounds the delay of a wanted one:
const REST_PART: u32 = 8;
/// at least 1 ms (the timer's resolution), at most 4 ms (the socket's buffer),
const REST: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(4);
/// and only above this number of bytes a second: below it reads are few.
const REST_RATE: u64 = 100_000;
/// Most bytes of one read: the bytes of the longest pause, at the rate at which servers write.
const READ_BYTES: usize = 256 * 1024;
/// The longest line before the stream.
const LINE_BYTES: usize = 1024;
/// Length of the mark that ends a snapshot of unannounced length.
const MARK_BYTES: usize = 40;

/// An open link.
#[derive(Debug)]
pub(crate) struct ReplicationLink {
    connection: Connection,
    stream: CommandCutter,
    address: Address,
    role: Role,
    acked: Instant,
    /// When a read last brought a wanted command, and up to which offset.
    found: (Instant, u64),
    /// The channel and beginning of the oversized message reported last.
    large: (Vec<u8>, Vec<u8>),
}

/// How a link continues earlier reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LinkStart {
    /// In the same history, without a hole.
    Continued,
    /// Without a hole, and from behind the offset `last` on in another history.
    Forked { last: u64, history: HistoryId },
    /// With whatever comes from this place on.
    Anew { place: ReplicationOffset, why: NoContinuation },
}

/// A message in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PublishCommand<'a> {
    pub(crate) channel: &'a [u8],
    /// The payload, or the beginning of one over the limit.
    pub(crate) payload: &'a [u8],
    /// Length of the payload.
    pub(crate) size: usize,
    /// For a channel name over the limit, of which only the beginning is kept: the name's length, and the pattern that
    /// matches it.
    pub(crate) long: Option<(usize, usize)>,
}

impl ReplicationLink {
    /// Opens a link behind `place`, if a server still holds the following bytes. `limit` is the largest payload in
    /// bytes. Cancel safe: a dropped future leaves nothing behind.
    ///
    /// # Errors
    /// If no server can be read now, or the user lacks the right.
    pub(crate) async fn open(
        endpoint: &Endpoint,
        role: &str,
        prefer: Prefer,
        place: Option<&ReplicationOffset>,
        limit: usize,
    ) -> Result<(Self, LinkStart), Error> {
        let Node { address, connection, info, .. } = node::choose(endpoint, role, prefer, place).await?;
        let place = place.map(|place| info.up_to_the_fork(place));
        let place = place.as_ref();
        let mut opening = LinkOpening::over(connection, info.role, endpoint.response_timeout);
        let start = opening.start(&info, place).await?;
        let offset = match (&start, place) {
            (LinkStart::Anew { place, .. }, _) | (_, Some(place)) => place.offset,
            (LinkStart::Continued | LinkStart::Forked { .. }, None) => 0,
        };
        if matches!(start, LinkStart::Anew { .. }) {
            opening.drop_snapshot().await?;
            opening.await_stream(offset, || written(endpoint, &address, role)).await?;
        }
        let LinkOpening { connection, role, .. } = opening;
        let stream = CommandCutter::new(offset, limit);
        let now = Instant::now();
        let large = (Vec::new(), Vec::new());
        Ok((Self { connection, stream, address, role, acked: now, found: (now, offset), large }, start))
    }

    /// Notes from here on whether a command concerns a consumer group of a stream.
    pub(crate) fn watch(&mut self, stream: Vec<u8>, group: Vec<u8>) {
        self.stream.watch(stream, group);
    }

    /// Returns whether one did since the last call.
    pub(crate) fn take_touched(&mut self) -> bool {
        self.stream.take_touched()
    }

    /// The address of the server.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The server's role when the link was opened.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The end of the last whole command.
    pub(crate) fn offset(&self) -> u64 {
        self.stream.boundary()
    }

    /// The end of the server's stream, asked on a connection of its own. If it is [`Self::offset`], a silent link has
    /// nothing to bring.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(crate) async fn written(&self, endpoint: &Endpoint, role: &str) -> Result<u64, Error> {
        written(endpoint, &self.address, role).await
    }

    /// Bytes held in memory.
    pub(crate) fn held_bytes(&self) -> usize {
        self.connection.held_bytes()
    }

    /// Reads from the socket, and acknowledges the offset read.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        if let Poll::Ready(Err(error)) = self.poll_acknowledge(cx) {
            return Poll::Ready(Err(error));
        }
        self.connection.poll_fill(cx)
    }

    /// The end of the pause in reading, if there is one. `found` is whether the last read brought a wanted command. Bytes
    /// that arrive meanwhile do not wake the task.
    pub(crate) fn rest(&mut self, found: bool, now: Instant) -> Option<Instant> {
        if found {
            self.found = (now, self.stream.boundary());
            return None;
        }
        let (since, offset) = self.found;
        // A read that filled its buffer left more bytes.
        if self.connection.reader.is_filled() {
            return None;
        }
        let rest = rest(now.saturating_duration_since(since), self.stream.boundary() - offset)?;
        self.connection.rest();
        Some(now + rest)
    }

    /// Sends the offset read, if that is due, also while reading pauses, so that the server keeps the link. Ready with
    /// an error only.
    pub(crate) fn poll_acknowledge(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        if self.acked.elapsed() >= ACK_INTERVAL {
            self.acknowledge();
        }
        if self.connection.unsent_bytes() > 0
            && let Poll::Ready(Err(error)) = self.connection.poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }

    fn acknowledge(&mut self) {
        acknowledge(&mut self.connection, self.role, self.stream.boundary());
        self.acked = Instant::now();
    }

    /// Sets the patterns for names over the limit, and whether a message from SPUBLISH is wanted.
    pub(crate) fn set_patterns(&mut self, patterns: Vec<Vec<u8>>, sharded: bool) {
        self.stream.set_patterns(patterns, sharded);
    }

    /// The next message that is `wanted`, by whether it is sharded and its channel, and the offset of its end; `None`
    /// until more bytes come.
    ///
    /// # Errors
    /// If the bytes are no replication stream.
    pub(crate) fn next(
        &mut self,
        mut wanted: impl FnMut(bool, &[u8]) -> bool,
    ) -> Result<Option<(PublishCommand<'_>, u64)>, Error> {
        let (used, channel, payload) = loop {
            let cut = self.stream.cut(self.connection.reader.unread(), &mut wanted)?;
            match cut.found {
                None => {
                    self.connection.reader.take(cut.used);
                    return Ok(None);
                }
                Some(FoundCommand::GetAck) => {
                    self.connection.reader.take(cut.used);
                    self.acknowledge();
                }
                Some(FoundCommand::LongNamed(named)) => {
                    self.connection.reader.take(cut.used);
                    self.large = (named.channel, named.payload);
                    let (channel, payload) = (self.large.0.as_slice(), self.large.1.as_slice());
                    let long = named.pattern.map(|pattern| (named.channel_size, pattern));
                    let command = PublishCommand { channel, payload, size: named.size, long };
                    return Ok(Some((command, self.stream.boundary())));
                }
                Some(FoundCommand::Oversized { sharded, channel, head, size }) => {
                    self.connection.reader.take(cut.used);
                    // It may have been asked in another call, if the payload came in parts.
                    wanted(sharded, &channel);
                    self.large = (channel, head);
                    let (channel, payload) = (self.large.0.as_slice(), self.large.1.as_slice());
                    let command = PublishCommand { channel, payload, size, long: None };
                    return Ok(Some((command, self.stream.boundary())));
                }
                Some(FoundCommand::Publish { channel, payload }) => break (cut.used, channel, payload),
            }
        };
        let bytes = self.connection.reader.take(used);
        let payload = &bytes[payload];
        Ok(Some((
            PublishCommand { channel: &bytes[channel], payload, size: payload.len(), long: None },
            self.stream.boundary(),
        )))
    }
}

/// Length of the pause, after a time in which this many bytes brought nothing wanted.
fn rest(silence: Duration, bytes: u64) -> Option<Duration> {
    let is_little = u128::from(bytes) * 1_000_000 < u128::from(REST_RATE) * silence.as_micros();
    let part = silence / REST_PART;
    (!is_little && part >= *REST.start()).then_some(part.min(*REST.end()))
}

/// The end of a server's stream.
async fn written(endpoint: &Endpoint, address: &Address, role: &str) -> Result<u64, Error> {
    let (mut connection, _) = server::connect_at(endpoint, address, role).await?;
    Ok(Info::ask(&mut connection, endpoint).await?.offset)
}

/// On a replica the truth. On a master nothing: WAIT there is not to count a reader that keeps no data.
fn acknowledge(connection: &mut Connection, role: Role, offset: u64) {
    let offset = if role == Role::Replica { offset } else { 0 };
    command(connection.out(), &[b"REPLCONF", b"ACK", offset.to_string().as_bytes()]);
}

pub(super) struct LinkOpening {
    connection: Connection,
    role: Role,
    deadline: Duration,
}

impl LinkOpening {
    /// Opens a link over a connection that is there.
    pub(super) fn over(mut connection: Connection, role: Role, deadline: Duration) -> Self {
        connection.reader.widen(READ_BYTES);
        Self { connection, role, deadline }
    }

    /// The remaining bytes, up to the end of the connection.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) async fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        loop {
            let here = self.connection.reader.unread().len();
            rest.extend_from_slice(self.connection.reader.take(here));
            if self.connection.fill().await.is_err() {
                return rest;
            }
        }
    }

    /// The handshake, up to the answer to PSYNC.
    pub(super) async fn start(
        &mut self,
        info: &Info,
        place: Option<&ReplicationOffset>,
    ) -> Result<LinkStart, Error> {
        for arguments in [
            &[b"REPLCONF".as_slice(), b"listening-port", b"0"] as &[&[u8]],
            &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"],
        ] {
            self.connection.ask(self.deadline, "introducing itself as a replica", arguments).await?;
        }
        let filter: &[&[u8]] = &[b"REPLCONF", b"rdb-filter-only", b""];
        match self.connection.ask(self.deadline, "asking for an empty snapshot", filter).await {
            // A server that does not know it sends all it has.
            Ok(_) | Err(Error::Reply(_)) => {}
            Err(error) => return Err(error),
        }
        let (history, offset) = match place {
            Some(place) => (place.history.as_str(), (place.offset + 1).to_string()),
            None => ("?", "-1".to_owned()),
        };
        self.connection.end_commands();
        command(self.connection.out(), &[b"PSYNC", history.as_bytes(), offset.as_bytes()]);
        let answer = self.line().await?;
        let mut words = answer.split(' ');
        let (code, id) = (words.next(), words.next().and_then(HistoryId::parse));
        match (code, id, place) {
            (Some("+CONTINUE"), None, Some(_)) => Ok(LinkStart::Continued),
            (Some("+CONTINUE"), Some(id), Some(place)) if id == place.history => Ok(LinkStart::Continued),
            (Some("+CONTINUE"), Some(id), Some(place)) => match &info.before {
                Some((before, from)) if *before == place.history && info.history == id => {
                    Ok(LinkStart::Forked { last: from.saturating_sub(1), history: id })
                }
                _ => {
                    Err(Error::Protocol("the replication history of the server changed meanwhile".to_owned()))
                }
            },
            (Some("+FULLRESYNC"), Some(history), _) => {
                let offset = words.next().and_then(|text| text.parse().ok());
                let offset = offset.ok_or_else(|| Error::Protocol("FULLRESYNC has no offset".to_owned()))?;
                let why = match place {
                    None => NoContinuation::First,
                    Some(place) if place.history == history && place.offset <= offset => {
                        NoContinuation::Exceeded { offset: place.offset, from: info.backlog_from }
                    }
                    Some(_) => NoContinuation::OtherHistory,
                };
                Ok(LinkStart::Anew { place: ReplicationOffset { history, offset }, why })
            }
            _ => match answer.strip_prefix('-') {
                Some(error) => Err(Error::reply(error.as_bytes())),
                None => Err(Error::Protocol("the reply to PSYNC is not valid".to_owned())),
            },
        }
    }

    /// Reads the snapshot and drops it.
    pub(super) async fn drop_snapshot(&mut self) -> Result<(), Error> {
        let header = self.line().await?;
        let malformed = || Error::Protocol("the length of a snapshot is not a number".to_owned());
        let announced = header.strip_prefix('$').ok_or_else(malformed)?;
        if let Some(mark) = announced.strip_prefix("EOF:") {
            return self.skip_to_mark(mark.as_bytes()).await;
        }
        let mut left: u64 = announced.parse().map_err(|_| malformed())?;
        while left > 0 {
            let here = self.connection.reader.unread().len();
            let taken = here.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.connection.reader.take(taken);
            left -= taken as u64;
            if left > 0 {
                self.more().await?;
            }
        }
        Ok(())
    }

    async fn skip_to_mark(&mut self, mark: &[u8]) -> Result<(), Error> {
        if mark.len() != MARK_BYTES {
            return Err(Error::Protocol("the mark of a snapshot is not 40 bytes long".to_owned()));
        }
        loop {
            let unread = self.connection.reader.unread();
            if let Some(at) = memmem::find(unread, mark) {
                self.connection.reader.take(at + mark.len());
                return Ok(());
            }
            let done = unread.len().saturating_sub(MARK_BYTES - 1);
            self.connection.reader.take(done);
            self.more().await?;
        }
    }

    /// Acknowledges until the stream begins: messages published before are not in it. On a server without writes it
    /// does not begin, and nothing is missing then: `written` returns the end of the server's stream.
    async fn await_stream<W>(&mut self, offset: u64, written: impl Fn() -> W) -> Result<(), Error>
    where
        W: Future<Output = Result<u64, Error>>,
    {
        let began = Instant::now();
        let mut asked = began;
        while self.connection.reader.unread().is_empty() {
            acknowledge(&mut self.connection, self.role, offset);
            if let Ok(filled) = timeout(FIRST_ACK_INTERVAL, self.connection.fill()).await {
                filled?;
            } else if began.elapsed() >= SILENCE {
                return Err(Error::Timeout(SILENCE, "waiting for the replication stream"));
            } else if asked.elapsed() >= QUIET {
                asked = Instant::now();
                if written().await? <= offset {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A line without its end; newlines before it keep the link alive.
    async fn line(&mut self) -> Result<String, Error> {
        loop {
            let unread = self.connection.reader.unread();
            let blank = unread.iter().take_while(|byte| **byte == b'\n').count();
            self.connection.reader.take(blank);
            let unread = self.connection.reader.unread();
            if let Some(end) = memchr::memchr(b'\n', unread) {
                let line = self.connection.reader.take(end + 1);
                return Ok(String::from_utf8_lossy(line).trim_end().to_owned());
            }
            if unread.len() > LINE_BYTES {
                return Err(Error::Protocol("a line before the stream is too long".to_owned()));
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Error> {
        match timeout(SILENCE, self.connection.fill()).await {
            Ok(filled) => filled.map(drop),
            Err(_) => Err(Error::Timeout(SILENCE, "waiting for the snapshot")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_left_to_gather_only_where_much_of_it_has_brought_nothing_for_a_while() {
        let ms = Duration::from_millis;
        let much = 1 << 30;
        // While messages come, however much else comes between them.
        assert_eq!(rest(ms(0), much), None);
        assert_eq!(rest(ms(7), much), None);
        // An eighth of the silence, up to a bound.
        assert_eq!(rest(ms(8), much), Some(ms(1)));
        assert_eq!(rest(ms(24), much), Some(ms(3)));
        assert_eq!(rest(ms(3_600_000), u64::MAX), Some(ms(4)));
        // At a low rate reads are few anyway.
        assert_eq!(rest(ms(1_000), REST_RATE - 1), None);
        assert_eq!(rest(ms(1_000), REST_RATE), Some(ms(4)));
    }
}
