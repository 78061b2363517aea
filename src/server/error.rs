//! What went wrong with a server, classed by what the caller does next.

use std::io;
use std::time::Duration;

use super::tls::{self, Failure};

/// What the caller does next. An error that nobody knows is [`Class::Retry`]: visibly, with backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Connect or ask again after a while; a password is read anew at every connect.
    Retry,
    /// The server is not in the role that is needed: find the right one, read the checkpoint again.
    Resolve,
    /// Something of ours is missing on the server and can be made again at once.
    Repair,
    /// A person must act: the route stops writing, says so, and tries every 30 s.
    Park,
}

impl Class {
    /// The name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Resolve => "resolve",
            Self::Repair => "repair",
            Self::Park => "park",
        }
    }
}

/// An error of one connection or of one command on it. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network, or the server's end of it.
    #[error("{0}")]
    Io(io::Error),
    /// A side does not accept the other's certificate, or what was made of our files.
    #[error("{0}")]
    Tls(Failure),
    /// The connection ended before the server said anything.
    #[error("the server closed the connection before it answered")]
    Unanswered,
    /// Nothing came within the deadline; whether a command was carried out is unknown.
    #[error("no answer within {0:?} while {1}")]
    Timeout(Duration, &'static str),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// What came is not RESP, or larger than can be right, or no answer to what was asked.
    #[error("the server sent what is no valid answer: {0}")]
    Protocol(String),
    /// An error reply: its code and its text.
    #[error("{0}")]
    Reply(String),
    /// The server is fine, but what is on it does not allow to go on; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// Several addresses of one deployment say that they are the master, and nothing tells which is.
    #[error("two addresses say master: {0}")]
    SeveralMasters(String),
    /// The file with the password could not be read.
    #[error("the password file {path} cannot be read: {reason}")]
    Secret {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// An error reply as it came, without its `-`.
    #[must_use]
    pub fn reply(text: &[u8]) -> Self {
        Self::Reply(String::from_utf8_lossy(text).into_owned())
    }

    /// Whether the other side ended the connection, in order or not.
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => error.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        }
    }

    /// The first word of an error reply.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Reply(text) => text.split(' ').next(),
            _ => None,
        }
    }

    /// What the caller does next. By the code, never by the text.
    #[must_use]
    pub fn class(&self) -> Class {
        if matches!(self, Self::Refused(_)) {
            return Class::Park;
        }
        match self.code() {
            None => Class::Retry,
            Some("READONLY" | "MASTERDOWN" | "NOMASTERLINK" | "MOVED" | "ASK" | "UNBLOCKED") => {
                Class::Resolve
            }
            Some("NOSCRIPT" | "NOGROUP") => Class::Repair,
            Some("WRONGTYPE" | "NOPERM" | "CROSSSLOT") => Class::Park,
            // OOM NOREPLICAS MISCONF BUSY LOADING TRYAGAIN CLUSTERDOWN NOAUTH WRONGPASS, and what is unknown.
            Some(_) => Class::Retry,
        }
    }

    /// What a person can do about it, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::SeveralMasters(_) => {
                return Some("neither is used until one gives way: demote the wrong one");
            }
            Self::Unanswered => return Some("if it speaks TLS on this port, begin the url with rediss://"),
            Self::Timeout(_, doing) if *doing == tls::HANDSHAKE => {
                return Some("does it speak TLS on this port? Redis does so on its tls-port only");
            }
            Self::Tls(failure) => return failure.hint(),
            _ => {}
        }
        Some(match self.code()? {
            "NOPERM" => "grant the missing right: `tidegate acl` prints the ACL lines that are needed",
            "WRONGPASS" | "NOAUTH" => {
                "check user and password; the password file is read again at every connect"
            }
            "WRONGTYPE" => {
                "a key that tidegate needs holds another type: rename it away, tidegate goes on by itself"
            }
            "OOM" => "raise maxmemory, trim streams, or set a smaller `keep`",
            "READONLY" => "the endpoint is a replica: name the master in its url",
            "NOREPLICAS" => "min-replicas-to-write is not met: bring a replica back",
            "MISCONF" => "the server cannot save to disk: look at its log",
            _ => return None,
        })
    }
}

impl From<io::Error> for Error {
    /// What TLS says comes inside an error of the socket.
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => Self::Tls(Failure::from(inner)),
            // Under TLS, where a server ends without saying so.
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            None => Self::Io(error),
        }
    }
}

impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        // The crate keeps code and detail of an error reply apart; together they are what the server sent.
        match (error.code(), error.detail()) {
            (Some(code), detail) => Self::Reply(format!("{code} {}", detail.unwrap_or_default())),
            (None, _) if error.is_timeout() => Self::Timeout(Duration::ZERO, "waiting for a reply"),
            (None, _) => Self::Io(io::Error::other(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_alone_decides_the_class() {
        let class = |text: &str| Error::reply(text.as_bytes()).class();
        assert_eq!(class("OOM command not allowed when used memory > 'maxmemory'."), Class::Retry);
        assert_eq!(class("READONLY You can't write against a read only replica."), Class::Resolve);
        assert_eq!(class("NOSCRIPT No matching script."), Class::Repair);
        assert_eq!(class("WRONGTYPE Operation against a key"), Class::Park);
        assert_eq!(class("ERR the word WRONGTYPE stands in the text"), Class::Retry);
        assert_eq!(Error::Closed.class(), Class::Retry);
    }
}
