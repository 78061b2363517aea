//! The byte stream under a connection: TCP, TLS over it, or a unix socket.

mod dial;

use std::io::{self, Read as _};
use std::net;
use std::os::unix::net as unix;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::error::Error;
use super::tls::{self, TlsPlace};
use crate::config::{Address, Endpoint};

/// Silence after which the kernel probes a peer.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Interval of the kernel's probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged before the kernel ends the connection. Heartbeats notice a dead peer
/// earlier; this frees the socket and its queued bytes.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Number of reads of a resting socket before it is watched again: enough for the content of its buffer. Such a read
/// does not use the task's budget. Without a bound, a task that always finds something would never yield, and its other
/// connections, whose budget is used up, would seem silent.
const UNWATCHED_READS: u8 = 4;

/// The end of the time for making a connection, which all its steps share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimit {
    pub(super) whole: Duration,
    until: Instant,
}

impl TimeLimit {
    /// It begins now.
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole, until: Instant::now() + whole }
    }

    /// Waits for one step. Cancel safe if the step is.
    ///
    /// # Errors
    /// If the time is over; the error names the step.
    pub(super) async fn of<T>(self, doing: &'static str, step: impl Future<Output = T>) -> Result<T, Error> {
        timeout_at(self.until, step).await.map_err(|_| Error::Timeout(self.whole, doing))
    }
}

/// A connected byte stream.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<Encrypted>),
    /// Unwatched, see [`Socket::rest`]; and how many reads are left before it is watched.
    Resting(Resting, u8),
}

/// An encrypted connection.
#[derive(Debug)]
pub(crate) struct Encrypted {
    stream: TlsStream<TcpStream>,
    /// Explains its errors.
    place: TlsPlace,
}

impl Encrypted {
    fn explained<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        polled.map_err(|error| tls::explained(error, &self.place))
    }
}

/// A socket that the runtime does not watch.
#[derive(Debug)]
pub(crate) enum Resting {
    Tcp(net::TcpStream),
    Unix(unix::UnixStream),
    /// It could not be taken out or put back: why.
    Broken(io::Error),
}

impl Socket {
    /// Connects to one address of an endpoint, and encrypts if TLS is configured, within a time limit. Cancel safe: a
    /// dropped future leaves nothing behind.
    pub(super) async fn open(
        endpoint: &Endpoint,
        address: &Address,
        limit: TimeLimit,
    ) -> Result<Self, Error> {
        match address {
            Address::Unix(path) => Ok(Self::Unix(limit.of("connecting", dial::unix(path)).await??)),
            Address::Tcp { host, port } => {
                // Before the server is asked: what is wrong with the files is known while it is away, too.
                let material = match &endpoint.tls {
                    Some(settings) => Some((settings, tls::current(endpoint, settings).await?)),
                    None => None,
                };
                let stream = limit.of("connecting", dial::tcp(host, *port)).await??;
                // Batches are whole when they are written: waiting to fill a packet only delays them.
                stream.set_nodelay(true)?;
                let socket = SockRef::from(&stream);
                socket.set_tcp_keepalive(
                    &TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL),
                )?;
                #[cfg(target_os = "linux")]
                socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
                let Some((settings, material)) = material else { return Ok(Self::Tcp(stream)) };
                let encrypting = tls::encrypt(stream, endpoint, settings, material, address, host);
                let encrypted = limit.of("making the TLS handshake", encrypting).await;
                let stream = encrypted
                    .map_err(|error| Error::NoHandshake(error.to_string(), endpoint.encryption_key()))??;
                Ok(Self::Tls(Box::new(Encrypted { stream, place: TlsPlace::of(endpoint) })))
            }
        }
    }
}

impl Socket {
    /// Returns whether written bytes still wait to be sent: TLS encrypts into a buffer of its own.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Self::Tls(encrypted) if encrypted.stream.get_ref().1.wants_write())
    }

    /// Stops watching: arriving bytes do not wake the task, while a watched socket wakes the runtime with every packet,
    /// read or not. Watching begins again with a write, and with a read that finds nothing or is one of too many. TLS
    /// stays watched: its reads are not the bytes sent.
    pub(crate) fn rest(&mut self) {
        // Bytes that arrive meanwhile are not seen.
        let watched =
            std::mem::replace(self, Self::Resting(Resting::Broken(io::ErrorKind::NotConnected.into()), 0));
        let resting = match watched {
            Self::Tcp(stream) => stream.into_std().map_or_else(Resting::Broken, Resting::Tcp),
            Self::Unix(stream) => stream.into_std().map_or_else(Resting::Broken, Resting::Unix),
            Self::Resting(resting, _) => resting,
            tls @ Self::Tls(_) => {
                *self = tls;
                return;
            }
        };
        *self = Self::Resting(resting, UNWATCHED_READS);
    }

    /// The socket, watched.
    fn watched(&mut self) -> io::Result<&mut Self> {
        if let Self::Resting(resting, _) = self {
            let broken = Resting::Broken(io::ErrorKind::NotConnected.into());
            *self = match std::mem::replace(resting, broken) {
                Resting::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream)?),
                Resting::Unix(stream) => Self::Unix(UnixStream::from_std(stream)?),
                Resting::Broken(error) => return Err(error),
            };
        }
        Ok(self)
    }
}

impl Resting {
    /// Reads the available bytes.
    fn read(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let room = buf.initialize_unfilled();
        let read = match self {
            Self::Tcp(stream) => stream.read(room)?,
            Self::Unix(stream) => stream.read(room)?,
            Self::Broken(_) => return Err(io::ErrorKind::WouldBlock.into()),
        };
        buf.advance(read);
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        if let Self::Resting(resting, left) = socket
            && *left > 0
        {
            *left -= 1;
            match resting.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
        match socket.watched()? {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(encrypted) => {
                let polled = Pin::new(&mut encrypted.stream).poll_read(cx, buf);
                encrypted.explained(polled)
            }
            Self::Resting(..) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut().watched()? {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(encrypted) => {
                let polled = Pin::new(&mut encrypted.stream).poll_write(cx, buf);
                encrypted.explained(polled)
            }
            Self::Resting(..) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().watched()? {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(encrypted) => {
                let polled = Pin::new(&mut encrypted.stream).poll_flush(cx);
                encrypted.explained(polled)
            }
            Self::Resting(..) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().watched()? {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_shutdown(cx),
            Self::Resting(..) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;

    use super::*;

    async fn read(socket: &mut Socket, room: &mut [u8]) -> usize {
        let mut buf = ReadBuf::new(room);
        poll_fn(|cx| Pin::new(&mut *socket).poll_read(cx, &mut buf)).await.unwrap();
        buf.filled().len()
    }

    #[tokio::test]
    async fn a_resting_socket_is_read_as_it_is_and_watched_before_that_is_too_often() {
        let (own, mut peer) = unix::UnixStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        let mut socket = Socket::Unix(UnixStream::from_std(own).unwrap());
        for _ in 0..2 {
            peer.write_all(&[7; 100]).unwrap();
            socket.rest();
            for _ in 0..UNWATCHED_READS {
                assert_eq!(read(&mut socket, &mut [0; 10]).await, 10);
                assert!(matches!(socket, Socket::Resting(..)));
            }
            // There is more, but a task that reads on would never yield.
            assert_eq!(read(&mut socket, &mut [0; 100]).await, 100 - 10 * usize::from(UNWATCHED_READS));
            assert!(matches!(socket, Socket::Unix(_)));
        }
        // A read that finds nothing is watched until bytes arrive.
        socket.rest();
        let later = std::thread::spawn(move || {
            peer.write_all(b"x").unwrap();
            peer
        });
        assert_eq!(read(&mut socket, &mut [0; 10]).await, 1);
        // The end is reported as the end.
        drop(later.join().unwrap());
        socket.rest();
        assert_eq!(read(&mut socket, &mut [0; 10]).await, 0);
    }
}
