//! A batch that the destination does not take.
//!
//! A server that is sent a larger argument than it accepts (`proto-max-bulk-len`), or a larger call
//! (`client-query-buffer-limit`), ends the connection, mostly without a reply. That looks like a network failure. The
//! difference is the place: the connection ends again and again at the same batch. Such a batch is sent alone, to
//! identify it. If the connection ends again and the batch is large enough to be refused, it is sent in halves. If it is
//! a single message, the route is blocked, and names it. Nothing is dropped: it is stored once an operator raises the limit.

use crate::capture::batch::Batch;
use crate::position::Position;
use crate::server::Error;
use crate::text::printable;

/// The lowest limit of a server: nothing smaller is refused for its size.
const LARGE_BYTES: usize = 1024 * 1024;
/// After this many ends at the same batch it goes alone…
const SUSPECTED: u32 = 2;
/// …and after this many it is certain.
const CERTAIN: u32 = 4;

/// How often the connection ended at the same batch.
#[derive(Debug, Default)]
pub(super) struct Stumbling {
    at: Option<Position>,
    times: u32,
}

impl Stumbling {
    /// The connection ended before this batch was answered, or the server refused it for no known reason.
    pub(super) fn on_end(&mut self, batch: &Batch) {
        let at = Some(batch.first);
        self.times = if self.at == at { self.times.saturating_add(1) } else { 1 };
        self.at = at;
    }

    /// The error to report instead of `error`, if this batch is to blame for it.
    pub(super) fn blames(&self, batch: &Batch, error: &Error) -> Option<Error> {
        let is_certain = self.at == Some(batch.first) && self.times >= CERTAIN;
        (is_certain && batch.body_bytes() >= LARGE_BYTES).then(|| blame(batch, error))
    }

    /// A batch was stored.
    pub(super) fn on_stored(&mut self) {
        *self = Self::default();
    }

    /// Returns whether the next batch goes alone.
    pub(super) fn goes_alone(&self) -> bool {
        self.times >= SUSPECTED
    }
}

fn blame(batch: &Batch, error: &Error) -> Error {
    Error::Refused(format!(
        "the destination ends the connection each time it is sent {}: {error}. Raise proto-max-bulk-len and \
         client-query-buffer-limit there, and tidegate continues; {LATER_ONES}",
        described(batch),
    ))
}

/// What an operator can do beside raising a limit.
pub(super) const LATER_ONES: &str = "a smaller max_message_size makes dead letters of later ones";

/// What a batch that is to blame holds, where it goes and where it stands.
pub(super) fn described(batch: &Batch) -> String {
    let what = match batch.items() {
        1 => "a message".to_owned(),
        items => format!("a batch of {items} messages"),
    };
    let stream = batch.streams().next().map(printable::text).unwrap_or_default();
    format!("{what} of {} bytes for the stream {stream}, position {}", batch.body_bytes(), batch.first)
}
