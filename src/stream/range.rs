//! Reads a stream page by page, without waiting for entries that are not there.

use std::time::Duration;

use tokio::time::timeout;

use super::entries::StreamEntries;
use super::read_size::entries_of_next_read;
use crate::server::resp::{self, Value};
use crate::server::{Connection, Error};
use crate::stream::EntryId;

/// A connection that reads one stream.
#[derive(Debug)]
pub(crate) struct RangeReader {
    connection: Connection,
    stream: String,
    /// COUNT of the next read: from 1 up, so that no reply is larger than expected.
    entries: usize,
    deadline: Duration,
}

impl RangeReader {
    pub(crate) fn new(connection: Connection, stream: &str, deadline: Duration) -> Self {
        Self { connection, stream: stream.to_owned(), entries: 1, deadline }
    }

    /// Reads another stream from now on.
    pub(crate) fn turn_to(&mut self, stream: &str) {
        stream.clone_into(&mut self.stream);
    }

    /// The reply with the entries after this one; to be read with [`StreamEntries`]. Not cancel safe.
    ///
    /// # Errors
    /// If the connection fails, or the answer is an error.
    pub(crate) async fn page(&mut self, after: EntryId) -> Result<Vec<u8>, Error> {
        let (count, after) = (self.entries.to_string(), after.to_string());
        resp::command(
            self.connection.out(),
            &[b"XREAD", b"COUNT", count.as_bytes(), b"STREAMS", self.stream.as_bytes(), after.as_bytes()],
        );
        let reply = timeout(self.deadline, frame(&mut self.connection))
            .await
            .unwrap_or(Err(Error::Timeout(self.deadline, "reading the stream")))?;
        let came = StreamEntries::new(&reply, Vec::new()).map_err(|error| error.at(&[&self.stream]))?.left();
        self.entries = entries_of_next_read(self.entries, self.entries, came, reply.len());
        Ok(reply)
    }

    /// Asks something else on the same connection. Not cancel safe.
    ///
    /// # Errors
    /// As [`Connection::ask`].
    pub(crate) async fn ask(&mut self, doing: &'static str, command: &[&[u8]]) -> Result<Value, Error> {
        self.connection.ask(self.deadline, doing, command).await
    }
}

async fn frame(connection: &mut Connection) -> Result<Vec<u8>, Error> {
    loop {
        if let Some(frame) = connection.reader.next_frame()? {
            return Ok(frame.to_vec());
        }
        connection.fill().await?;
    }
}
