//! Random bytes on a replication link: the commands of the stream, and the handshake before them.
//!
//! Bytes arrive in pieces of any size, so pieces must make no difference.

#![allow(clippy::unwrap_used, reason = "what cannot go on has found something")]

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use super::link::LinkOpening;
use super::node::Info;
use super::stream::{CommandCutter, FoundCommand};
use super::{HistoryId, ReplicationOffset};
use crate::server::{Connection, Role};

/// The largest payload: small, so that small inputs go beyond it.
const LIMIT: usize = 64;
/// Longer than any peer in memory needs.
const DEADLINE: Duration = Duration::from_secs(60);

/// The result of reading a stream.
#[derive(Debug, PartialEq, Eq)]
struct StreamSeen {
    /// Each command, and the offset behind it.
    found: Vec<(u64, String)>,
    /// True if a command concerned the watched group.
    touched: bool,
    /// The last offset read; `None` if it was no stream.
    end: Option<u64>,
}

/// The first byte is the size of the pieces.
pub fn replication_stream(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let whole = read(bytes, usize::MAX);
    assert_eq!(read(bytes, usize::from(piece) + 1), whole, "pieces make a difference");
    // Reading may be taken up again behind any command.
    let Some((from, _)) = whole.found.first() else { return };
    let from = usize::try_from(*from).unwrap();
    let rest: Vec<&String> = whole.found[1..].iter().map(|(_, text)| text).collect();
    let again = read(&bytes[from..], usize::MAX);
    assert_eq!(again.found.iter().map(|(_, text)| text).collect::<Vec<_>>(), rest, "from {from}");
}

fn read(bytes: &[u8], piece: usize) -> StreamSeen {
    let mut stream = CommandCutter::new(0, LIMIT);
    stream.set_patterns(vec![b"orders.*".to_vec()], true);
    stream.watch(b"s".to_vec(), b"g".to_vec());
    let mut seen = StreamSeen { found: Vec::new(), touched: false, end: None };
    let (mut start, mut end) = (0, 0);
    loop {
        let unread = &bytes[start..end];
        let Ok(cut) = stream.cut(unread, |_, channel| channel != b"others") else { break };
        let text = match cut.found {
            None => None,
            Some(FoundCommand::Publish { channel, payload }) => {
                assert!(payload.len() <= LIMIT, "a payload over the limit was held");
                Some(format!("{} {}", unread[channel].escape_ascii(), unread[payload].escape_ascii()))
            }
            Some(FoundCommand::LongNamed(named)) => Some(format!("{named:?}")),
            Some(FoundCommand::Oversized { sharded, channel, head, size }) => {
                Some(format!("{sharded} {} over {size} {}", channel.escape_ascii(), head.escape_ascii()))
            }
            Some(FoundCommand::GetAck) => Some("getack".to_owned()),
        };
        start += cut.used;
        match text {
            Some(text) => seen.found.push((stream.boundary(), text)),
            None if end == bytes.len() => {
                seen.end = Some(stream.boundary());
                break;
            }
            None => end = end.saturating_add(piece).min(bytes.len()),
        }
    }
    seen.touched = stream.take_touched();
    seen
}

/// The result of opening a link: how it continues, and the bytes of the stream behind; `None` if it was refused.
type FuzzedLink = Option<(String, Vec<u8>)>;

/// The handshake and the snapshot. The first byte gives the size of the pieces, and whether a place is known.
pub fn snapshot(input: &[u8]) {
    let Some((&first, bytes)) = input.split_first() else { return };
    let known = first & 1 == 1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let whole = runtime.block_on(open(bytes, usize::MAX, known));
    let pieces = runtime.block_on(open(bytes, usize::from(first >> 1) + 1, known));
    assert_eq!(pieces, whole, "pieces make a difference");
}

async fn open(bytes: &[u8], piece: usize, known: bool) -> FuzzedLink {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let opening = async {
        let id = "0123456789".repeat(4);
        let info = Info::read(&format!(
            "role:master\r\nmaster_link_status:up\r\nmaster_replid:{id}\r\nmaster_repl_offset:10\r\n\
             connected_slaves:1\r\nrepl_backlog_size:1000000\r\n"
        ))
        .unwrap();
        let place = ReplicationOffset { history: HistoryId::parse(&id).unwrap(), offset: 7 };
        let mut opening = LinkOpening::over(Connection::over(ours), Role::Master, DEADLINE);
        let start = opening.start(&info, known.then_some(&place)).await.ok()?;
        if !known {
            opening.drop_snapshot().await.ok()?;
        }
        Some((format!("{start:?}"), opening.rest().await))
    };
    let server = async {
        for piece in bytes.chunks(piece.max(1)) {
            theirs.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        // An orderly end: a reset could overtake the bytes sent.
        theirs.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        opened = opening => opened,
        () = server => None,
    }
}
