//! The commands of a replication stream, cut out of bytes that may end anywhere.
//!
//! Problem: a master sends its replicas every write of the server as a RESP command, PUBLISH among them. Only a few
//! commands are wanted. The others must cost next to nothing, whatever their size.
//!
//! Constraints: the position in the stream counts every byte, and reading may continue behind any complete command.
//! Only a wanted command is buffered, up to the limit.
//!
//! Operation: unwanted commands are skipped by the lengths that they announce; an incomplete argument is skipped as it
//! arrives. A wanted PUBLISH is returned once it is complete, as ranges of the given bytes.
//!
//! A payload or channel name over the limit is skipped as it arrives, and the message is returned with the beginning.
//!
//! On failure: bytes that are no RESP command are an error, and the stream must not be read any more.

use std::ops::Range;

use crate::server::resp::{
    CHANNEL_BYTES, HEAD_BYTES, LongName, LongNamed, ProtocolError, bulk_header, count_header,
};

/// Lengths of the names of wanted commands: PUBLISH, SPUBLISH and REPLCONF.
const NAME_BYTES: std::ops::RangeInclusive<usize> = 7..=8;

/// Commands that name a stream and then the group whose pending list they change. XREADGROUP is replicated as XCLAIM.
const GROUP_COMMANDS: [&[u8]; 3] = [b"XACK", b"XACKDEL", b"XCLAIM"];
/// Lengths of their names and XGROUP.
const GROUP_NAME_BYTES: std::ops::RangeInclusive<usize> = 4..=7;

/// A command that was looked for. Ranges are into the bytes that were given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FoundCommand {
    /// PUBLISH, or SPUBLISH.
    Publish { channel: Range<usize>, payload: Range<usize> },
    /// A message with a payload over the limit: its first bytes, and its size.
    Oversized { sharded: bool, channel: Vec<u8>, head: Vec<u8>, size: usize },
    /// A message on a channel with a name over the limit that a pattern matches.
    LongNamed(Box<LongNamed>),
    /// The master asks how far the stream was read.
    GetAck,
}

/// The part cut off the front of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StreamCut {
    /// Bytes that are done with.
    pub(crate) used: usize,
    /// The command at its end; `None` if more bytes must come.
    pub(crate) found: Option<FoundCommand>,
}

/// A reader's place in the stream.
#[derive(Debug)]
pub(crate) struct CommandCutter {
    /// Bytes of the stream that are done with, as the master counts them.
    offset: u64,
    /// The end of the last whole command.
    boundary: u64,
    /// The largest payload.
    limit: usize,
    /// Arguments of the open command that have not come.
    arguments: usize,
    /// Bytes of the open argument that have not come.
    skip: usize,
    oversized: Option<FoundCommand>,
    /// The patterns for names over the limit.
    patterns: Vec<Vec<u8>>,
    /// True if such a name counts for SPUBLISH.
    sharded: bool,
    /// A name over the limit that still comes.
    long: Option<Box<LongName>>,
    /// A stream and its group: whether a command concerns them is noted.
    watched: Option<(Vec<u8>, Vec<u8>)>,
    touched: bool,
}

/// The command at a place.
enum CommandAhead {
    /// Its end, or the argument that decides about it, has not arrived.
    Partial,
    /// A command that concerns the watched group.
    Touches { end: usize, arguments: usize },
    /// It is of no interest: behind these bytes this many arguments are to be skipped.
    Other { end: usize, arguments: usize },
    /// The name of its channel is over the limit, and begins here.
    LongName { begin: usize, size: usize, sharded: bool },
    /// It is over the limit: from here on this many bytes are to be skipped.
    Large { from: usize, skip: usize, oversized: FoundCommand },
    /// It is whole.
    Whole { end: usize, found: FoundCommand },
}

impl CommandCutter {
    /// A stream of which everything up to `offset` has been read. `limit` is the largest payload in bytes.
    pub(crate) fn new(offset: u64, limit: usize) -> Self {
        Self {
            offset,
            boundary: offset,
            limit,
            arguments: 0,
            skip: 0,
            oversized: None,
            patterns: Vec::new(),
            sharded: false,
            long: None,
            watched: None,
            touched: false,
        }
    }

    /// Returns messages on channels with names over the limit from here on, if one of these patterns matches.
    pub(crate) fn set_patterns(&mut self, patterns: Vec<Vec<u8>>, sharded: bool) {
        (self.patterns, self.sharded) = (patterns, sharded);
    }

    /// Notes from here on whether a command may have changed the pending list of a consumer group.
    pub(crate) fn watch(&mut self, stream: Vec<u8>, group: Vec<u8>) {
        self.watched = Some((stream, group));
    }

    /// Returns whether one did since this was last asked.
    pub(crate) fn take_touched(&mut self) -> bool {
        std::mem::take(&mut self.touched)
    }

    /// The end of the last complete command: reading may continue there.
    pub(crate) fn boundary(&self) -> u64 {
        self.boundary
    }

    /// Continues in `unread` up to the end of the next wanted command. `wanted` decides about a message by whether it
    /// is sharded and its channel; it may be called twice.
    ///
    /// # Errors
    /// If the bytes are no commands.
    pub(crate) fn cut(
        &mut self,
        unread: &[u8],
        mut wanted: impl FnMut(bool, &[u8]) -> bool,
    ) -> Result<StreamCut, ProtocolError> {
        let mut at = 0;
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(unread.len() - at);
                self.skip -= skipped;
                self.used(&mut at, skipped);
                if self.skip > 0 {
                    return Ok(StreamCut { used: at, found: None });
                }
            }
            if let Some(mut name) = self.long.take() {
                let come = name.feed(&self.patterns, &unread[at..]);
                self.used(&mut at, come);
                let end = if name.is_whole() { name.end(&self.patterns, &unread[at..])? } else { None };
                let Some((named, size)) = end else {
                    self.long = Some(name);
                    return Ok(StreamCut { used: at, found: None });
                };
                self.skip = size;
                self.oversized = named.pattern.is_some().then(|| FoundCommand::LongNamed(Box::new(named)));
                continue;
            }
            if self.arguments > 0 {
                if !self.skip_arguments(unread, &mut at)? {
                    return Ok(StreamCut { used: at, found: None });
                }
                continue;
            }
            self.boundary = self.offset;
            if self.oversized.is_some() {
                return Ok(StreamCut { used: at, found: self.oversized.take() });
            }
            let command = command(unread, at, self.limit, &mut wanted)?;
            let command = match (command, &self.watched) {
                (CommandAhead::Other { end, arguments }, Some(watched)) if arguments > 2 => {
                    touching(unread, (end, arguments), watched)?
                }
                (command, _) => command,
            };
            match command {
                CommandAhead::Touches { end, arguments } => {
                    self.touched = true;
                    let bytes = end - at;
                    self.used(&mut at, bytes);
                    self.arguments = arguments;
                }
                CommandAhead::Partial => return Ok(StreamCut { used: at, found: None }),
                CommandAhead::Other { end, arguments } => {
                    let bytes = end - at;
                    self.used(&mut at, bytes);
                    self.arguments = arguments;
                }
                CommandAhead::LongName { begin, size, sharded } if !sharded || self.sharded => {
                    let bytes = begin - at;
                    self.used(&mut at, bytes);
                    self.long = Some(Box::new(LongName::new(size, &self.patterns)));
                }
                CommandAhead::LongName { begin, size, .. } => {
                    let bytes = begin - at;
                    self.used(&mut at, bytes);
                    self.skip = size + 2;
                    self.arguments = 1;
                }
                CommandAhead::Large { from, skip, oversized } => {
                    let bytes = from - at;
                    self.used(&mut at, bytes);
                    self.skip = skip;
                    self.oversized = Some(oversized);
                }
                CommandAhead::Whole { end, found } => {
                    let bytes = end - at;
                    self.used(&mut at, bytes);
                    self.boundary = self.offset;
                    return Ok(StreamCut { used: at, found: Some(found) });
                }
            }
        }
    }

    /// Skips the arguments that have arrived; false if a header has not.
    fn skip_arguments(&mut self, unread: &[u8], at: &mut usize) -> Result<bool, ProtocolError> {
        let start = *at;
        let mut come = true;
        while self.arguments > 0 {
            let Some((size, begin)) = bulk_header(unread, *at)? else {
                come = false;
                break;
            };
            self.arguments -= 1;
            let end = begin + size + 2;
            if end > unread.len() {
                *at = unread.len();
                self.skip = end - unread.len();
                break;
            }
            *at = end;
        }
        self.offset += (*at - start) as u64;
        Ok(come)
    }

    fn used(&mut self, at: &mut usize, bytes: usize) {
        *at += bytes;
        self.offset += bytes as u64;
    }
}

/// Reads the command that begins at `at`.
fn command(
    unread: &[u8],
    at: usize,
    limit: usize,
    wanted: &mut impl FnMut(bool, &[u8]) -> bool,
) -> Result<CommandAhead, ProtocolError> {
    match unread.get(at) {
        None => return Ok(CommandAhead::Partial),
        // It keeps the link alive while there is no command.
        Some(b'\n') => return Ok(CommandAhead::Other { end: at + 1, arguments: 0 }),
        Some(_) => {}
    }
    let Some((count, name_at)) = count_header(unread, at)? else { return Ok(CommandAhead::Partial) };
    if count == 0 {
        return Ok(CommandAhead::Other { end: name_at, arguments: 0 });
    }
    let Some((size, begin)) = bulk_header(unread, name_at)? else { return Ok(CommandAhead::Partial) };
    if count != 3 || !NAME_BYTES.contains(&size) {
        return Ok(CommandAhead::Other { end: name_at, arguments: count });
    }
    let Some(end) = whole(unread, begin, size)? else { return Ok(CommandAhead::Partial) };
    let name = &unread[begin..begin + size];
    if name.eq_ignore_ascii_case(b"PUBLISH") {
        return message(unread, end, limit, false, wanted);
    }
    if name.eq_ignore_ascii_case(b"SPUBLISH") {
        return message(unread, end, limit, true, wanted);
    }
    if name.eq_ignore_ascii_case(b"REPLCONF") {
        let Some((size, begin)) = bulk_header(unread, end)? else { return Ok(CommandAhead::Partial) };
        if size == b"GETACK".len() {
            let Some(end) = whole(unread, begin, size)? else { return Ok(CommandAhead::Partial) };
            if unread[begin..begin + size].eq_ignore_ascii_case(b"GETACK") {
                let Some((size, begin)) = bulk_header(unread, end)? else { return Ok(CommandAhead::Partial) };
                let Some(end) = whole(unread, begin, size)? else { return Ok(CommandAhead::Partial) };
                return Ok(CommandAhead::Whole { end, found: FoundCommand::GetAck });
            }
        }
    }
    Ok(CommandAhead::Other { end, arguments: 2 })
}

/// Examines a command whose name begins at `at` and that has this many arguments, the name included.
fn touching(
    unread: &[u8],
    (at, arguments): (usize, usize),
    (stream, group): &(Vec<u8>, Vec<u8>),
) -> Result<CommandAhead, ProtocolError> {
    let other = CommandAhead::Other { end: at, arguments };
    let Some((size, begin)) = bulk_header(unread, at)? else { return Ok(CommandAhead::Partial) };
    if !GROUP_NAME_BYTES.contains(&size) {
        return Ok(other);
    }
    let Some(mut next) = whole(unread, begin, size)? else { return Ok(CommandAhead::Partial) };
    let name = &unread[begin..begin + size];
    if name.eq_ignore_ascii_case(b"XGROUP") {
        // In XGROUP the stream follows the subcommand.
        let Some((size, begin)) = bulk_header(unread, next)? else { return Ok(CommandAhead::Partial) };
        let Some(end) = whole(unread, begin, size)? else { return Ok(CommandAhead::Partial) };
        next = end;
    } else if !GROUP_COMMANDS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
        return Ok(other);
    }
    for wanted in [stream, group] {
        let Some((size, begin)) = bulk_header(unread, next)? else { return Ok(CommandAhead::Partial) };
        if size != wanted.len() {
            return Ok(other);
        }
        let Some(end) = whole(unread, begin, size)? else { return Ok(CommandAhead::Partial) };
        if unread[begin..begin + size] != wanted[..] {
            return Ok(other);
        }
        next = end;
    }
    Ok(CommandAhead::Touches { end: at, arguments })
}

/// Reads channel and payload of a message, from behind the command's name.
fn message(
    unread: &[u8],
    at: usize,
    limit: usize,
    sharded: bool,
    wanted: &mut impl FnMut(bool, &[u8]) -> bool,
) -> Result<CommandAhead, ProtocolError> {
    let Some((size, begin)) = bulk_header(unread, at)? else { return Ok(CommandAhead::Partial) };
    if size > CHANNEL_BYTES {
        return Ok(CommandAhead::LongName { begin, size, sharded });
    }
    let Some(at) = whole(unread, begin, size)? else { return Ok(CommandAhead::Partial) };
    let channel = begin..begin + size;
    if !wanted(sharded, &unread[channel.clone()]) {
        return Ok(CommandAhead::Other { end: at, arguments: 1 });
    }
    let Some((size, begin)) = bulk_header(unread, at)? else { return Ok(CommandAhead::Partial) };
    if size > limit {
        let Some(head) = unread.get(begin..begin + HEAD_BYTES.min(size)) else {
            return Ok(CommandAhead::Partial);
        };
        let oversized =
            FoundCommand::Oversized { sharded, channel: unread[channel].to_vec(), head: head.to_vec(), size };
        return Ok(CommandAhead::Large { from: begin, skip: size + 2, oversized });
    }
    let Some(end) = whole(unread, begin, size)? else { return Ok(CommandAhead::Partial) };
    Ok(CommandAhead::Whole { end, found: FoundCommand::Publish { channel, payload: begin..begin + size } })
}

/// The end of an argument whose content begins at `begin`; `None` if it has not come.
fn whole(unread: &[u8], begin: usize, size: usize) -> Result<Option<usize>, ProtocolError> {
    match unread.get(begin + size..begin + size + 2) {
        None => Ok(None),
        Some(b"\r\n") => Ok(Some(begin + size + 2)),
        Some(_) => Err(ProtocolError::new("an argument does not end with CRLF")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::resp;

    const LIMIT: usize = 2048;

    /// A stream with all kinds of wanted and unwanted commands.
    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        let large = vec![b'x'; 5000];
        for arguments in [
            &[b"SELECT".as_slice(), b"0"] as &[&[u8]],
            &[b"PUBLISH", b"orders", b"plain"],
            &[b"MULTI"],
            &[b"SET", b"PUBLISH", b"*3\r\n$7\r\nPUBLISH\r\n$6\r\norders\r\n$4\r\nfake\r\n"],
            &[b"pUbLiSh", b"orders", b"any case, \r\n\0\xff"],
            &[b"EXEC"],
            &[b"spublish", b"orders", b"sharded"],
            &[b"PUBLISH", b"others", b"unwanted"],
            &[b"PUBLISH", b"others", &large],
            &[b"REPLCONF", b"GETACK", b"*"],
            &[b"REPLCONF", b"other", b"*"],
            &[b"PING"],
            &[b"XADD", b"s", b"*", b"field", &large],
            &[b"PUBLISH", b"orders", &large],
            &[b"PUBLISH", b"orders", b""],
            &[b"PUBLISH", b"", b"on the empty channel"],
            &[b"DEL", b"a", b"b"],
        ] {
            resp::command(&mut bytes, arguments);
        }
        bytes.insert(0, b'\n');
        bytes
    }

    /// Reads everything from the byte `from` on, in pieces; each with the offset behind it.
    fn read(bytes: &[u8], from: usize, step: usize) -> Vec<(u64, String)> {
        let mut stream = CommandCutter::new(from as u64, LIMIT);
        let (mut seen, mut start, mut end) = (Vec::new(), from, from);
        loop {
            let unread = &bytes[start..end];
            let cut = stream.cut(unread, |_, channel| channel != b"others").unwrap();
            let text = match cut.found {
                None if end == bytes.len() => return seen,
                None => {
                    start += cut.used;
                    end = bytes.len().min(end + step);
                    continue;
                }
                Some(FoundCommand::Publish { channel, payload }) => {
                    format!("{} {}", unread[channel].escape_ascii(), unread[payload].escape_ascii())
                }
                Some(FoundCommand::LongNamed(named)) => {
                    format!("long {} {}", named.channel_size, named.size)
                }
                Some(FoundCommand::Oversized { channel, head, size, .. }) => {
                    format!("{} over {size} {}", channel.escape_ascii(), head.len())
                }
                Some(FoundCommand::GetAck) => "getack".to_owned(),
            };
            start += cut.used;
            assert_eq!(stream.boundary(), start as u64);
            seen.push((stream.boundary(), text));
        }
    }

    #[test]
    fn any_split_gives_the_same_and_any_boundary_the_rest() {
        let bytes = sample();
        let whole = read(&bytes, 0, usize::MAX >> 1);
        let texts: Vec<&str> = whole.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "orders plain",
                "orders any case, \\r\\n\\x00\\xff",
                "orders sharded",
                "getack",
                "orders over 5000 1024",
                "orders ",
                " on the empty channel"
            ]
        );
        for step in 1..200 {
            assert_eq!(read(&bytes, 0, step), whole, "step {step}");
        }
        for (index, (offset, _)) in whole.iter().enumerate() {
            let from = usize::try_from(*offset).unwrap();
            assert_eq!(read(&bytes, from, 7), whole[index + 1..], "from {from}");
        }
    }

    #[test]
    fn a_name_over_the_limit_is_told_where_a_pattern_matches_it() {
        let name = [b"orders.".as_slice(), &vec![b'n'; CHANNEL_BYTES]].concat();
        let mut bytes = Vec::new();
        for (command, channel) in
            [(b"PUBLISH".as_slice(), &name), (b"SPUBLISH", &name), (b"PUBLISH", &name[1..].into())]
        {
            resp::command(&mut bytes, &[command, channel, b"payload"]);
        }
        resp::command(&mut bytes, &[b"PUBLISH", b"orders.eu", b"payload"]);
        for (sharded, told) in [(false, 1), (true, 2)] {
            for step in [1000, 65_537] {
                let mut stream = CommandCutter::new(0, LIMIT);
                stream.set_patterns(vec![b"other*".to_vec(), b"orders.*".to_vec()], sharded);
                let (mut start, mut end, mut seen) = (0, 0, Vec::new());
                while start < bytes.len() {
                    end = bytes.len().min(end + step);
                    loop {
                        let cut = stream.cut(&bytes[start..end], |_, _| true).unwrap();
                        start += cut.used;
                        match cut.found {
                            None => break,
                            Some(FoundCommand::LongNamed(named)) => {
                                assert_eq!((named.pattern, named.channel_size), (Some(1), name.len()));
                                assert_eq!(
                                    (named.payload.as_slice(), named.size),
                                    (b"payload".as_slice(), 7)
                                );
                                assert_eq!(named.channel, name[..HEAD_BYTES]);
                                seen.push("long");
                            }
                            Some(FoundCommand::Publish { .. }) => seen.push("plain"),
                            other => panic!("{other:?}"),
                        }
                    }
                }
                assert_eq!(seen, [vec!["long"; told], vec!["plain"]].concat());
                assert_eq!(stream.boundary(), bytes.len() as u64);
            }
        }
    }

    #[test]
    fn what_concerns_the_watched_group_is_noted_wherever_the_bytes_are_cut() {
        let commands: [(&[&[u8]], bool); 9] = [
            (&[b"XACK", b"s", b"g", b"1-0"], true),
            (&[b"xackdel", b"s", b"g", b"KEEPREF", b"IDS", b"1", b"1-0"], true),
            (&[b"XCLAIM", b"s", b"g", b"c", b"0", b"1-0", b"FORCE"], true),
            (&[b"XGROUP", b"DELCONSUMER", b"s", b"g", b"c"], true),
            (&[b"XACK", b"s", b"h", b"1-0"], false),
            (&[b"XACK", b"t", b"g", b"1-0"], false),
            (&[b"XGROUP", b"SETID", b"s", b"tidegate:r", b"1-0"], false),
            (&[b"XADD", b"s", b"g", b"XACK", b"s"], false),
            (&[b"SET", b"XACK", b"s"], false),
        ];
        for (command, expected) in commands {
            let mut bytes = Vec::new();
            for _ in 0..2 {
                resp::command(&mut bytes, command);
            }
            for step in 1..bytes.len() {
                let mut stream = CommandCutter::new(0, LIMIT);
                stream.watch(b"s".to_vec(), b"g".to_vec());
                let (mut start, mut end, mut touched) = (0, 0, 0);
                while end < bytes.len() {
                    end = bytes.len().min(end + step);
                    start += stream.cut(&bytes[start..end], |_, _| true).unwrap().used;
                    touched += u32::from(stream.take_touched());
                }
                assert_eq!(stream.boundary(), bytes.len() as u64, "{step}");
                assert_eq!(touched > 0, expected, "{} cut by {step}", command.join(&b' ').escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        for bytes in
            [b"+OK\r\n".as_slice(), b"*3\r\n:7\r\n", b"*-7\r\n", b"*1\r\n$99999999999\r\n", b"hello\r\n"]
        {
            let cut = CommandCutter::new(0, LIMIT).cut(bytes, |_, _| true);
            assert!(cut.is_err(), "{}: {cut:?}", bytes.escape_ascii());
        }
        let broken = b"*3\r\n$7\r\nPUBLISH\r\n$1\r\naXX$1\r\na\r\n";
        assert!(CommandCutter::new(0, LIMIT).cut(broken, |_, _| true).is_err());
    }
}
