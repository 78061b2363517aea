//! Standard error behind a bounded queue and a thread, so that logging never fails and never waits.
//!
//! **Problem.** Standard error belongs to other programs: a full disk, a pipe whose reader ended, journald while it
//! restarts, a terminal that was stopped with Ctrl-S. A loop that writes there itself stops with it, or ends the
//! process because its log line failed.
//!
//! **Operation.** A line is put into the queue, and only the thread writes. If the queue is full or a line cannot be
//! written, the line is dropped and counted; once lines can be written again, the log reports how many are missing.
//!
//! **End.** [`flush`] waits for the queue, for a bounded time: before the process ends, also by a panic.

use super::LogCode;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Some thousand lines: enough for a burst while the reader is slow, little beside everything else.
const MAX_BYTES: usize = 1024 * 1024;

/// Longest wait of the process's end for a reader that stands still.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Between two tries where the other end of a non-blocking pipe has no room.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// The process's own; none before logs are set up.
static STDERR: OnceLock<Sink> = OnceLock::new();

/// The queue in front of a writer. Cheap to clone: every clone is the same queue.
#[derive(Debug, Clone)]
pub(super) struct Sink(Arc<SinkState>);

#[derive(Debug, Default)]
struct SinkState {
    queue: Mutex<Queue>,
    /// Something was put in, or written, or dropped.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the lines, and of the one being written.
    bytes: usize,
    /// Lines that were never written.
    dropped: u64,
    /// How many of these the log has reported.
    told: u64,
}

impl Sink {
    /// The process's standard error.
    pub(super) fn stderr() -> Self {
        STDERR.get_or_init(|| Self::new(io::stderr())).clone()
    }

    /// A queue in front of `out`, and the thread that empties it, for the rest of the process.
    fn new(out: impl Write + Send + 'static) -> Self {
        let sink = Self(Arc::default());
        let shared = sink.0.clone();
        let thread = std::thread::Builder::new().name("log".to_owned());
        // Without a thread the queue fills up, and lost lines are counted.
        let _ = thread.spawn(move || shared.write_to(out));
        sink
    }

    /// Puts a line into the queue, or counts it as dropped.
    fn put(&self, line: &[u8]) {
        let mut queue = self.0.queue();
        if queue.bytes + line.len() > MAX_BYTES {
            queue.dropped += 1;
        } else {
            queue.bytes += line.len();
            queue.lines.push_back(line.to_vec());
        }
        self.0.changed.notify_all();
    }

    fn wait_empty(&self, within: Duration) {
        let until = Instant::now() + within;
        let mut queue = self.0.queue();
        while queue.bytes > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.0.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl SinkState {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut out: impl Write) {
        loop {
            let mut queue = self.queue();
            while queue.lines.is_empty() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let line = queue.lines.pop_front().unwrap_or_default();
            drop(queue);
            let written = write_whole(&mut out, &line);
            let mut queue = self.queue();
            queue.bytes -= line.len();
            let mut missing = 0;
            if !written {
                queue.dropped += 1;
            } else if queue.lines.is_empty() {
                missing = queue.dropped - queue.told;
                queue.told = queue.dropped;
            }
            drop(queue);
            self.changed.notify_all();
            if missing > 0 {
                tracing::warn!(
                    event = LogCode::LogLinesDropped.as_str(),
                    lines = missing,
                    "log lines before this one were dropped: standard error was not writable, or its reader was too slow"
                );
            }
        }
    }
}

/// Returns whether all of it was written.
fn write_whole(out: &mut impl Write, mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return false,
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(TRY_AGAIN),
            Err(_) => return false,
        }
    }
    true
}

impl Write for Sink {
    /// The formatter hands a line over whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until the logged lines are written, for a second at most.
pub fn flush() {
    if let Some(sink) = STDERR.get() {
        sink.wait_empty(FLUSH_WITHIN);
    }
}

/// How many lines were dropped.
#[must_use]
pub fn dropped() -> u64 {
    STDERR.get().map_or(0, |sink| sink.0.queue().dropped)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Says when it is written to, and writes only when it is let.
    struct Held {
        asked: SyncSender<()>,
        may: Receiver<io::Result<usize>>,
    }

    impl Write for Held {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.asked.send(()).unwrap();
            self.may.recv().unwrap()
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_stalled_or_failing_reader_does_not_take_is_dropped_and_counted() {
        let (asked, is_asked) = sync_channel(1);
        let (let_go, may) = sync_channel(1);
        let sink = Sink::new(Held { asked, may });
        let line = vec![b'x'; MAX_BYTES / 4];
        sink.put(&line);
        is_asked.recv().unwrap();
        // The reader stands still: three more fit, and nothing waits.
        for _ in 0..5 {
            sink.put(&line);
        }
        assert_eq!(sink.0.queue().dropped, 2);
        sink.wait_empty(Duration::ZERO);
        // The reader is gone: everything is dropped, and the queue is empty.
        for number in 0..4 {
            if number > 0 {
                is_asked.recv().unwrap();
            }
            let_go.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        }
        sink.wait_empty(Duration::from_secs(60));
        let counts = || {
            let queue = sink.0.queue();
            (queue.dropped, queue.told, queue.bytes)
        };
        assert_eq!(counts(), (6, 0, 0));
        // And logging continues once it can be written again.
        sink.put(b"line");
        is_asked.recv().unwrap();
        let_go.send(Ok(4)).unwrap();
        sink.wait_empty(Duration::from_secs(60));
        assert_eq!(counts(), (6, 6, 0));
    }
}
