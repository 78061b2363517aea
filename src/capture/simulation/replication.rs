//! The source's replication stream. The command number `n` of what it has sent ends at the offset `n`.

use super::*;
use crate::capture::engine::Linked;
use crate::source::replication::{HistoryId, LinkStart, NoContinuation, ReplicationOffset};

/// A server's knowledge of its stream.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    history: HistoryId,
    /// The history before, and the last offset that it shares with this one.
    before: Option<(HistoryId, u64)>,
    /// The offset behind which the backlog holds everything.
    backlog_from: u64,
}

fn new_history() -> HistoryId {
    HistoryId::parse(&format!("{:016x}{:024x}", fastrand::u64(..), 0)).unwrap()
}

impl Stream {
    pub(super) fn begin() -> Self {
        Self { history: new_history(), before: None, backlog_from: 0 }
    }
}

impl Source {
    /// How far the stream goes.
    fn offset(&self) -> u64 {
        self.sent.len() as u64
    }

    /// The link that is opened at a place; as `replication::node` chooses.
    pub(super) fn link(&self, place: Option<&ReplicationOffset>) -> Linked {
        let stream = self.stream.as_ref().unwrap();
        let anew = |why| {
            let place = ReplicationOffset { history: stream.history.clone(), offset: self.offset() };
            Linked::new(self.offset(), LinkStart::Anew { place, why }, "simulated server".to_owned())
        };
        let Some(ReplicationOffset { history, offset }) = place else { return anew(NoContinuation::First) };
        let exceeded =
            || anew(NoContinuation::Exceeded { offset: *offset, from: Some(stream.backlog_from + 1) });
        let (begins, start) = match &stream.before {
            _ if *history == stream.history && *offset <= self.offset() => (*offset, LinkStart::Continued),
            Some((before, last)) if history == before => {
                ((*offset).min(*last), LinkStart::Forked { last: *last, history: stream.history.clone() })
            }
            _ => return anew(NoContinuation::OtherHistory),
        };
        if stream.backlog_from > begins {
            return exceeded();
        }
        Linked::new(begins, start, "simulated server".to_owned())
    }
}

impl World {
    /// A replica that lacks the latest messages takes the source's place, or the same server without its stream, or its
    /// backlog holds no more than the next bytes.
    pub(super) fn replace_source(&mut self) {
        let kind = self.rng.u32(..3);
        let lacks = self.rng.usize(..=self.source.sent.len().min(6));
        let Source { sent, stream: Some(stream), .. } = &mut self.source else { return };
        match kind {
            0 => {
                sent.truncate(sent.len() - lacks);
                let before = Some((stream.history.clone(), sent.len() as u64));
                *stream = Stream { history: new_history(), before, ..*stream };
            }
            1 => *stream = Stream { backlog_from: sent.len() as u64, ..Stream::begin() },
            _ => {
                stream.backlog_from = sent.len() as u64;
                return;
            }
        }
        self.tell(|| {
            format!("the source is replaced: {:?} at {}", self.source.stream, self.source.sent.len())
        });
        for which in 0..self.instances.len() {
            for route in 0..self.instances[which].routes.len() {
                self.lose_opened(which, route);
                self.lose_window(which, route);
            }
        }
    }
}
