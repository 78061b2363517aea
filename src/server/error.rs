//! Errors of a server, classed by the caller's next step.

mod tls_failure;

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;

use super::redacted::redacted;

pub use tls_failure::TlsFailure;

/// The code of an error reply to a command that the server does not know. Redis answers with a plain `ERR` and quotes
/// the arguments, passwords and payloads among them: such a text is replaced where it enters.
pub(crate) const UNKNOWN_COMMAND: &str = "UNKNOWNCOMMAND";

/// Retry interval after an error of [`Class::Block`].
pub(crate) const BLOCKED_RETRY: Duration = Duration::from_secs(30);

/// What an error says before the key that has another type. `append.lua` says the same.
const WRONG_TYPE_AT: &str = "WRONGTYPE the key ";

/// The code of an error reply for a missing right.
pub(crate) const NO_PERMISSION: &str = "NOPERM";

/// The caller's next step. An unknown error is [`Class::Retry`]: visibly, with backoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Connect or ask again after a while; a password is read anew at every connect.
    Retry,
    /// The server is not in the role that is needed: find the right one, read the checkpoint again.
    Resolve,
    /// Something of ours is missing on the server and can be made again at once.
    Repair,
    /// An operator must act: the route stops writing, reports that, and retries every 30 s.
    Block,
}

impl Class {
    /// The name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Resolve => "resolve",
            Self::Repair => "repair",
            Self::Block => "block",
        }
    }
}

/// An error of one connection or of one command on it. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network, or the server's end of it.
    #[error("{0}")]
    Io(io::Error),
    /// A side does not accept the other's certificate, or our files.
    #[error("{0}")]
    Tls(TlsFailure),
    /// The connection ended before the server said anything; how the configuration turns TLS on.
    #[error("the server closed the connection before it answered")]
    Unanswered(String),
    /// The TLS handshake did not end in time: why, and how the configuration turns TLS off.
    #[error("{0}")]
    NoHandshake(String, String),
    /// Nothing came within the deadline; whether a command was carried out is unknown.
    #[error("no reply within {} while {}", short(*.0), .1)]
    Timeout(Duration, &'static str),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The bytes are not RESP, or too large, or not an answer to the command.
    #[error("the server sent an invalid reply: {0}")]
    Protocol(String),
    /// An error reply: its code and its text.
    #[error("{0}")]
    Reply(String),
    /// None of the servers can be used in its role now; why.
    #[error("{0}")]
    NotUsable(String),
    /// The server works, but its data does not allow the route to continue; the text names the remedy.
    #[error("{0}")]
    Refused(String),
    /// Several addresses of one deployment claim to be the master, and nothing decides between them.
    #[error("two addresses report that they are the master: {0}")]
    SeveralMasters(String),
    /// The sentinels do not say which server is the master.
    #[error("{reason}")]
    Sentinel {
        /// Why.
        reason: String,
        /// What can be done.
        hint: Option<String>,
        /// [`Class::Block`] if only an operator can change it.
        class: Class,
    },
    /// The sentinels report another master than the one connected to: which.
    #[error("the sentinels report another master: {0}")]
    MasterMoved(String),
    /// The file with the password could not be read.
    #[error("{key}: the file {path} {reason}")]
    Secret {
        /// The option that names it.
        key: String,
        /// Which file.
        path: String,
        /// The reason.
        reason: String,
    },
}

impl Error {
    /// An error reply without its `-`: made harmless, and without quotes of sent data.
    #[must_use]
    pub fn reply(text: &[u8]) -> Self {
        if let Some(rest) = unknown_command(text) {
            return match command_name(rest) {
                Some(name) => Self::unknown_command(&name),
                None => Self::Reply(format!(
                    "{UNKNOWN_COMMAND} the server does not know a command that tidegate needs; `tidegate check \
                     --connect` names it"
                )),
            };
        }
        if let Some(refusal) = refused_in_script(text) {
            return Self::Reply(redacted(&[NO_PERMISSION.as_bytes(), b" ", refusal].concat()));
        }
        Self::Reply(redacted(text))
    }

    /// The server does not know this command.
    pub(super) fn unknown_command(name: &str) -> Self {
        Self::Reply(format!("{UNKNOWN_COMMAND} the server does not know the command {name}"))
    }

    /// An error reply to a command on one key: if that key has another type, the text names it.
    #[must_use]
    pub(crate) fn reply_at(text: &[u8], key: impl AsRef<[u8]>) -> Self {
        Self::reply(text).at(&[key])
    }

    /// The error of a command on these keys. Servers do not say which key has another type: if that is the error, the
    /// text names the keys. A script that knows which one it is has named it.
    #[must_use]
    pub(crate) fn at(self, keys: &[impl AsRef<[u8]>]) -> Self {
        let is_named = |text: &str| text.starts_with(WRONG_TYPE_AT);
        match &self {
            Self::Reply(text) if self.code() == Some("WRONGTYPE") && !is_named(text) => {
                let named: Vec<String> =
                    keys.iter().map(|key| format!("'{}'", redacted(key.as_ref()))).collect();
                Self::Reply(match &named[..] {
                    [] => return self,
                    [key] => format!("{WRONG_TYPE_AT}{key} has another type"),
                    keys => format!("WRONGTYPE one of the keys {} has another type", keys.join(", ")),
                })
            }
            _ => self,
        }
    }

    /// A reply without a command: the replies after it cannot be attributed either.
    #[must_use]
    pub(crate) fn unasked() -> Self {
        Self::Protocol("a reply came without a request".to_owned())
    }

    /// The server is a replica and cannot be written: the class of a refused write.
    #[must_use]
    pub(crate) fn replica() -> Self {
        Self::Reply(
            "READONLY the server is a replica; messages published there do not reach subscribers of the master"
                .into(),
        )
    }

    /// An error reply to a part of the handshake. It can quote the password, so only a known error code is kept.
    #[must_use]
    pub(super) fn of_handshake(self, doing: &str) -> Self {
        let Self::Reply(text) = &self else { return self };
        if text.starts_with(UNKNOWN_COMMAND) {
            return self;
        }
        let code = self.code().and_then(|code| HANDSHAKE_CODES.iter().find(|(known, _)| *known == code));
        let (code, meaning) = code.unwrap_or(&("ERR", "the server rejected it"));
        Self::Reply(format!("{code} {meaning}, {doing}"))
    }

    /// Returns whether the other side ended the connection, orderly or not.
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => error.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        }
    }

    /// Returns whether it is expected during a failover.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Io(_)
            | Self::Unanswered(_)
            | Self::NoHandshake(..)
            | Self::Timeout(..)
            | Self::Closed
            | Self::Sentinel { class: Class::Retry, .. } => true,
            _ => self.class() == Class::Resolve,
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

    /// The caller's next step, by the code, never by the text.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Refused(_) => return Class::Block,
            Self::NotUsable(_) => return Class::Resolve,
            Self::Sentinel { class, .. } => return *class,
            _ => {}
        }
        match self.code() {
            None if matches!(self, Self::MasterMoved(_)) => Class::Resolve,
            None => Class::Retry,
            Some("READONLY" | "MASTERDOWN" | "NOMASTERLINK" | "MOVED" | "ASK" | "UNBLOCKED") => {
                Class::Resolve
            }
            Some("NOSCRIPT" | "NOGROUP") => Class::Repair,
            Some("WRONGTYPE" | NO_PERMISSION | "CROSSSLOT" | UNKNOWN_COMMAND) => Class::Block,
            // OOM NOREPLICAS MISCONF BUSY LOADING TRYAGAIN CLUSTERDOWN NOAUTH WRONGPASS, and unknown codes.
            Some(_) => Class::Retry,
        }
    }

    /// Advice to the operator, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::SeveralMasters(_) => {
                Cow::Borrowed("tidegate uses neither until one is demoted: demote the wrong one")
            }
            Self::Unanswered(remedy) => format!("if this port expects TLS, {remedy}").into(),
            Self::NoHandshake(_, remedy) => format!(
                "check that this port expects TLS; Redis does so only on its tls-port. If it does not, {remedy}"
            )
            .into(),
            Self::Tls(failure) => failure.hint()?.into(),
            Self::Sentinel { hint, .. } => hint.as_deref()?.into(),
            Self::Io(error) => hint_of_kind(error.kind())?.into(),
            Self::Protocol(_) => {
                "check that this is the port of a Redis or Valkey server, and that no proxy changes its replies".into()
            }
            Self::Closed => hint_of_kind(io::ErrorKind::UnexpectedEof)?.into(),
            Self::Timeout(..) => {
                "the server is stopped or overloaded, or the network loses what is sent: look at both; raise \
                 connect_timeout or response_timeout if they are merely slow"
                    .into()
            }
            _ => self.hint_of_code()?.into(),
        })
    }

    fn hint_of_code(&self) -> Option<&'static str> {
        Some(match self.code()? {
            NO_PERMISSION => "grant the missing permission; `tidegate acl` prints the ACL lines",
            "WRONGPASS" | "NOAUTH" => {
                "check user and password; a password_file is read again on every connection"
            }
            "WRONGTYPE" => {
                "a key that tidegate needs has another type; rename that key, and tidegate continues"
            }
            "OOM" => "raise maxmemory, trim streams, or set a smaller `keep`",
            "READONLY" => "the server is a replica; put the master into its url",
            "NOREPLICAS" => "min-replicas-to-write is not met; bring a replica back",
            "MISCONF" => "the server cannot save to disk; check its log",
            UNKNOWN_COMMAND => {
                "the server is too old, or the command is renamed or disabled there; tidegate needs it under its own name"
            }
            _ => return None,
        })
    }

    /// The message, with advice to the operator.
    #[must_use]
    pub fn with_hint(&self) -> String {
        hinted(self, self.hint().as_deref())
    }

    /// As [`Error::hint`], for a command that an operator runs by hand: its user needs other rights than the routes'
    /// user.
    pub(crate) fn hint_for_operator(&self) -> Option<Cow<'_, str>> {
        match self.code() {
            Some(NO_PERMISSION) => {
                Some("grant the missing permission; `tidegate acl --operator` prints the ACL lines".into())
            }
            _ => self.hint(),
        }
    }
}

/// Advice by the kind of an error of the network. A name that cannot be resolved and a socket's path that cannot be used
/// have theirs in the text: their kinds mean other things elsewhere.
fn hint_of_kind(kind: io::ErrorKind) -> Option<&'static str> {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
        NetworkUnreachable, TimedOut, UnexpectedEof,
    };
    Some(match kind {
        ConnectionRefused => {
            "is the server running, and does it listen on this address (bind, port, unixsocket)? A firewall may refuse \
             it too"
        }
        HostUnreachable | NetworkUnreachable => {
            "the network has no way to this address: check the address, the host, and routes and firewalls between"
        }
        TimedOut => {
            "nothing answers at this address: check the address, the host, and firewalls that drop connections"
        }
        ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof => {
            "look at the server's log: it was restarted, closes connections (maxclients, client-output-buffer-limit, \
             CLIENT KILL, timeout), or a proxy between does"
        }
        _ => return None,
    })
}

/// Known refusals during the handshake.
const HANDSHAKE_CODES: [(&str, &str); 7] = [
    ("WRONGPASS", "the server does not accept this user with this password"),
    ("NOAUTH", "the server requires a user and a password"),
    (NO_PERMISSION, "the user lacks permissions that every connection needs"),
    ("NOPROTO", "the server does not speak RESP3"),
    ("LOADING", "the server is loading its data"),
    ("MASTERDOWN", "the server has lost its master"),
    ("BUSY", "the server is busy with a script"),
];

/// Text of a refused right inside a script. It has no code there; the same refusal outside a script is a
/// [`NO_PERMISSION`]. Redis 6.2 and 7.0 write the first text, the former behind the place in the script. Later versions
/// and Valkey write the second.
fn refused_in_script(text: &[u8]) -> Option<&[u8]> {
    const WORDS: [&[u8]; 2] = [b"The user executing the script can't ", b"ACL failure in script: "];
    let text = text.strip_prefix(b"ERR ")?;
    if text.starts_with(b"Error running script (call to f_") {
        return memmem::find(text, WORDS[0]).map(|at| &text[at..]);
    }
    WORDS.iter().any(|words| text.starts_with(words)).then_some(text)
}

/// The text after the server's words for an unknown command. The text decides, since there is no code; tidegate then
/// decides by the code that replaces it.
fn unknown_command(text: &[u8]) -> Option<&[u8]> {
    const WORDS: [&[u8]; 5] = [
        b"ERR unknown command",
        b"ERR unknown subcommand",
        b"ERR Unknown subcommand",
        b"ERR Unknown Redis command",
        b"ERR Unknown command",
    ];
    WORDS.iter().find_map(|words| text.strip_prefix(*words))
}

/// The quoted name of the command, which comes first. Names are letters, so no payload or password can be part of it.
fn command_name(rest: &[u8]) -> Option<String> {
    let quoted = rest.trim_ascii_start();
    let (quote, rest) = quoted.split_first().filter(|(quote, _)| matches!(quote, b'\'' | b'`'))?;
    let end = rest.iter().position(|byte| byte == quote)?;
    let name = std::str::from_utf8(&rest[..end]).ok()?;
    COMMANDS.iter().find(|known| known.eq_ignore_ascii_case(name)).map(|known| (*known).to_owned())
}

/// Commands whose name is kept in such an error: those that tidegate sends by itself.
const COMMANDS: [&str; 61] = [
    "ACL",
    "AUTH",
    "CLIENT",
    "CONFIG",
    "DEL",
    "EVAL",
    "EVALSHA",
    "EXEC",
    "EXISTS",
    "GET",
    "HDEL",
    "HELLO",
    "HGET",
    "HGETALL",
    "HINCRBY",
    "HMGET",
    "HSET",
    "INFO",
    "LOAD",
    "MULTI",
    "NUMPAT",
    "NUMSUB",
    "PEXPIRE",
    "PING",
    "PSUBSCRIBE",
    "PSYNC",
    "PUBLISH",
    "PUBSUB",
    "REPLCONF",
    "ROLE",
    "SADD",
    "SCAN",
    "SCARD",
    "SCRIPT",
    "SELECT",
    "SENTINEL",
    "SET",
    "SISMEMBER",
    "SMEMBERS",
    "SPUBLISH",
    "SREM",
    "SSCAN",
    "SUBSCRIBE",
    "TIME",
    "UNLINK",
    "WAIT",
    "WAITAOF",
    "XADD",
    "XDEL",
    "XGROUP",
    "XINFO",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREAD",
    "XREVRANGE",
    "XTRIM",
    "ZADD",
    "ZCARD",
    "ZRANGEBYLEX",
    "ZREM",
];

/// A duration for people: whole milliseconds.
fn short(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

/// A message, with advice to the operator.
pub(crate) fn hinted(message: &impl fmt::Display, hint: Option<&str>) -> String {
    hint.map_or_else(|| message.to_string(), |hint| format!("{message} ({hint})"))
}

/// The redis crate's form of a foreign error.
type ForeignError = Arc<dyn std::error::Error + Send + Sync>;

/// Passes an error of ours through the redis crate's own type and back.
impl From<Error> for redis::RedisError {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Reply(text) => {
                let (code, detail) = text.split_once(' ').unwrap_or((text, ""));
                return redis::make_extension_error(code.to_owned(), Some(detail.to_owned()));
            }
            Error::Timeout(..) => io::ErrorKind::TimedOut,
            Error::Closed => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error).into()
    }
}

impl From<io::Error> for Error {
    /// TLS errors come inside an error of the socket.
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        match error.downcast::<TlsFailure>() {
            Ok(failure) => Self::Tls(failure),
            // Under TLS, if a server closes without a notification.
            Err(_) if kind == io::ErrorKind::UnexpectedEof => Self::Closed,
            Err(error) => Self::Io(error),
        }
    }
}

impl From<redis::RedisError> for Error {
    fn from(error: redis::RedisError) -> Self {
        if let Some(code) = error.code() {
            // The crate separates code and detail of an error reply; together they are the server's text.
            return Self::reply(format!("{code} {}", error.detail().unwrap_or_default()).as_bytes());
        }
        // The crate returns the original behind its pointer.
        let kept = error.source().and_then(|source| source.downcast_ref::<ForeignError>());
        let ours = kept.and_then(|kept| kept.downcast_ref::<io::Error>());
        match ours.and_then(|error| error.get_ref()?.downcast_ref::<Self>()) {
            Some(Self::Timeout(waited, doing)) => Self::Timeout(*waited, doing),
            Some(Self::Closed) => Self::Closed,
            Some(Self::Protocol(what)) => Self::Protocol(what.clone()),
            Some(Self::Io(error)) => Self::Io(io::Error::new(error.kind(), error.to_string())),
            Some(other) => Self::Io(io::Error::other(other.to_string())),
            // The crate's own text quotes the data, which may be a payload.
            None => Self::Protocol("a reply has an unexpected type".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
