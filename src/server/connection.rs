//! An authenticated connection: a bounded reader, and one buffer of commands to be sent.

pub(super) mod credentials;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::deployment::files::FileWatch;
use super::deployment::sentinels::MasterTicket;
use super::error::Error;
use super::resp::{self, Limits, Reader, Value};
use super::socket::Socket;
use credentials::Credentials;

/// A buffer that held one large command is given back once it is sent.
const SHRINK_BYTES: usize = 1024 * 1024;

impl From<resp::ProtocolError> for Error {
    fn from(error: resp::ProtocolError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// One connection. Its owner polls reading and writing, so that one task can wait for
/// both sides of a route at once.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    /// The received bytes.
    pub reader: Reader,
    out: Vec<u8>,
    written: usize,
    /// Keeps the watch over the endpoint's files running.
    pub(super) files: Option<Arc<FileWatch>>,
    /// The password's file, if the password may change while the connection is open.
    pub(super) credentials: Option<Credentials>,
    /// The first number of the server's version, as it greeted; Valkey names the Redis that it is like.
    pub major_version: Option<u32>,
    /// True if it greeted as a replica.
    pub is_replica: bool,
    /// Ends the connection once sentinels report another master.
    pub(super) master: Option<MasterTicket>,
}

impl Connection {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            reader: Reader::new(Limits::HANDSHAKE),
            out: Vec::new(),
            written: 0,
            files: None,
            credentials: None,
            major_version: None,
            is_replica: false,
            master: None,
        }
    }

    /// A connection over a socket of this process, for fuzzing.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn over(socket: tokio::net::UnixStream) -> Self {
        Self::new(Socket::Unix(socket))
    }

    /// The buffer of commands that [`Self::poll_flush`] sends, in order.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Takes commands to send, and leaves `commands` empty. Copies only if others wait already.
    pub fn send(&mut self, commands: &mut Vec<u8>) {
        if self.out.is_empty() {
            std::mem::swap(&mut self.out, commands);
        } else {
            self.out.append(commands);
        }
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.out.len() - self.written + usize::from(self.socket.is_unsent())
    }

    /// Bytes that this connection holds in memory.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.reader.held_bytes() + self.out.capacity()
    }

    /// From now on only the owner's bytes are sent: the connection brings no replies any more.
    pub fn end_commands(&mut self) {
        self.credentials = None;
    }

    /// Logs in again if the password has changed. Only between two commands.
    fn reauthenticate(&mut self) {
        let Some(credentials) = &mut self.credentials else { return };
        if let Some(accepted) = self.reader.take_login() {
            credentials.answered(accepted);
        }
        if let Some((user, secret)) = credentials.changed(Instant::now()) {
            resp::login(&mut self.out, user, secret.reveal());
            self.reader.await_login();
        }
    }

    /// Lets received bytes wait unwatched until the next read or write.
    pub fn rest(&mut self) {
        self.socket.rest();
    }

    /// Reads what there is; ready with a count above zero.
    ///
    /// # Errors
    /// If the connection has ended, or sentinels report another master.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        if self.credentials.is_some() {
            self.reauthenticate();
            if self.unsent_bytes() > 0
                && let Poll::Ready(Err(error)) = self.poll_flush(cx)
            {
                return Poll::Ready(Err(error));
            }
        }
        if let Some(master) = &mut self.master
            && let Poll::Ready(error) = master.poll_moved(cx)
        {
            return Poll::Ready(Err(error));
        }
        let mut buf = ReadBuf::new(self.reader.room());
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buf))?;
        let count = buf.filled().len();
        if count == 0 {
            return Poll::Ready(Err(Error::Closed));
        }
        self.reader.filled(count);
        Poll::Ready(Ok(count))
    }

    /// Sends waiting bytes; ready once none wait.
    ///
    /// # Errors
    /// If the connection has ended; it is unknown how much of a command was sent before.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.written < self.out.len() {
            let sent = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out[self.written..]))?;
            if sent == 0 {
                return Poll::Ready(Err(Error::Closed));
            }
            self.written += sent;
        }
        self.written = 0;
        if self.out.capacity() > SHRINK_BYTES {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
        Pin::new(&mut self.socket).poll_flush(cx).map_err(Error::from)
    }

    /// Sends waiting bytes and reads; ready once bytes arrived or the connection has ended.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.unsent_bytes() > 0
            && let Poll::Ready(Err(error)) = self.poll_flush(cx)
        {
            return Poll::Ready(Err(error));
        }
        self.poll_fill(cx).map_ok(drop)
    }

    /// Reads more bytes, sending what waits meanwhile. Cancel safe: nothing read is lost.
    ///
    /// # Errors
    /// If the connection has ended.
    pub async fn fill(&mut self) -> Result<usize, Error> {
        poll_fn(|cx| {
            if self.unsent_bytes() > 0
                && let Poll::Ready(Err(error)) = self.poll_flush(cx)
            {
                // The last received bytes may tell why the other side closed.
                return match self.poll_fill(cx) {
                    Poll::Ready(Err(said @ Error::Tls(_))) => Poll::Ready(Err(said)),
                    _ => Poll::Ready(Err(error)),
                };
            }
            self.poll_fill(cx)
        })
        .await
    }

    /// The next reply, sending waiting bytes meanwhile; an error reply is a value here. Cancel safe.
    ///
    /// # Errors
    /// If the connection has ended or the bytes are not RESP.
    pub async fn reply(&mut self) -> Result<Value, Error> {
        loop {
            if let Some(value) = self.reader.next_value()? {
                return Ok(value);
            }
            self.fill().await?;
        }
    }

    /// Sends one command and waits for its reply; nothing else may be under way. Not cancel safe: a dropped future
    /// leaves a reply without a reader.
    ///
    /// # Errors
    /// As [`Self::reply`]; an error reply is an error; no reply within `deadline` is one too.
    /// As [`Self::reply`]; an error reply is an error; nothing within `deadline` is one too.
    pub async fn ask(
        &mut self,
        deadline: Duration,
        doing: &'static str,
        arguments: &[&[u8]],
    ) -> Result<Value, Error> {
        self.reauthenticate();
        resp::command(&mut self.out, arguments);
        self.answer(deadline, doing).await
    }

    /// Sends what waits and waits for one reply, as [`Self::ask`] does.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn answer(&mut self, deadline: Duration, doing: &'static str) -> Result<Value, Error> {
        match tokio::time::timeout(deadline, self.reply()).await {
            Err(_) => Err(Error::Timeout(deadline, doing)),
            Ok(Ok(Value::Error(text))) => Err(Error::reply(&text)),
            Ok(answer) => answer,
        }
    }
}
