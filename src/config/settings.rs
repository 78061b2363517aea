//! The checked configuration: plain values, each with its unit in its type or its name.

mod broadcast;
mod condition;
mod entry;
mod invalidate;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::text::template::Template;

pub use broadcast::{
    Acknowledged, After, Broadcast, MessageFormat, Order, Rate, Start, StreamPattern, Streams,
};
pub use condition::{Condition, Scalar, Subject, Test};
pub use entry::{AddedField, FieldNames, Format, Include};
pub use invalidate::{IfMissed, Invalidate, SetValue, fixed_beginning};

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// What concerns the process.
    pub daemon: Daemon,
    /// The Redis deployments by name, `[redis.NAME]`.
    pub redis: BTreeMap<String, Arc<Endpoint>>,
    /// The routes from Pub/Sub to streams by name, `[capture.NAME]`.
    pub capture: BTreeMap<String, Arc<Capture>>,
    /// The routes from streams to Pub/Sub by name, `[broadcast.NAME]`.
    pub broadcast: BTreeMap<String, Arc<Broadcast>>,
    /// The routes from a stream to a cache by name, `[invalidate.NAME]`.
    pub invalidate: BTreeMap<String, Arc<Invalidate>>,
    /// The names of the routes with `enabled = false`. A route's settings and its revision do not depend on it.
    pub disabled: BTreeSet<String>,
}

impl Config {
    /// Returns whether there is a route of this name, of whichever kind.
    #[must_use]
    pub fn has_route(&self, name: &str) -> bool {
        self.capture.contains_key(name)
            || self.broadcast.contains_key(name)
            || self.invalidate.contains_key(name)
    }

    /// Returns whether a route of this name runs.
    #[must_use]
    pub fn is_enabled(&self, name: &str) -> bool {
        self.has_route(name) && !self.disabled.contains(name)
    }

    /// How many captures run.
    #[must_use]
    pub fn enabled_captures(&self) -> usize {
        self.capture.keys().filter(|name| self.is_enabled(name)).count()
    }
}

/// `[daemon]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    /// Where `/metrics`, `/healthz`, `/readyz` and `/status` are served.
    pub listen: SocketAddr,
    /// Names by which HTTP clients may ask for these, beside those that no stranger can own.
    pub hosts: Vec<String>,
    /// Where the daemon may keep files.
    pub state_directory: PathBuf,
    /// Bytes that all routes together may hold in memory.
    pub memory_limit: u64,
    /// What may be written to disk.
    pub spool: SpoolSettings,
    /// How long to wait for another instance that could continue without a gap.
    pub force_after: Duration,
    /// How long a graceful stop may take. Then the daemon exits, also with messages that are not stored.
    pub shutdown_timeout: Duration,
}

/// `[daemon.spool]`: what may be written to disk while a destination is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolSettings {
    /// Bytes of all captures together; 0 for nothing.
    pub limit: u64,
    /// When it is synced.
    pub fsync: Fsync,
}

/// When written records are synced to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fsync {
    /// With every request, before it counts as written.
    Always,
    /// At this interval.
    Every(Duration),
    /// Left to the operating system.
    Never,
}

/// Behind a deployment's name, its sentinels' table.
const SENTINEL_TABLE: &str = ".sentinel";

/// `[redis.NAME]`: one Redis deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The name in `[redis.NAME]`.
    pub name: String,
    /// Where its servers are, of which the master is used.
    pub servers: Servers,
    /// Addresses that servers report and tidegate cannot reach, each with the address to connect to instead.
    pub address_map: Vec<(Address, Address)>,
    /// The ACL user; `None` is the server's default user.
    pub username: Option<String>,
    /// Where the password comes from, read again at every connect.
    pub password: SecretSource,
    /// The database that is selected, for keys; Pub/Sub knows none.
    pub database: u32,
    /// What every key and channel that tidegate makes begins with.
    pub key_prefix: String,
    /// How long connecting and authenticating together may take.
    pub connect_timeout: Duration,
    /// How long one reply may take before its outcome counts as unknown.
    pub response_timeout: Duration,
    /// As a destination of captures: when what is stored counts as durable.
    pub durability: Durability,
    /// Whether open connections log in again where the file with the password changes.
    pub reauthenticate: Reauthenticate,
    /// How connections are encrypted; `None` if they are not.
    pub tls: Option<Tls>,
}

/// When open connections log in again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reauthenticate {
    /// As soon as the password file has changed.
    #[default]
    Changed,
    /// Never: a changed password takes effect at the next connect.
    Off,
}

/// `[redis.NAME.tls]`, and its defaults where the URL begins with `rediss://`. The files are read at every connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that a server's certificate may come from; `None` for the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// A further name that a server's certificate may be for; it is also the one that is asked for.
    pub server_name: Option<String>,
    /// Lists of certificates that were revoked.
    pub crl_file: Option<PathBuf>,
    /// True if TLS 1.2 is refused.
    pub only_1_3: bool,
}

/// When an entry counts as stored durably, so that it need not be kept any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once the master has applied it.
    #[default]
    Applied,
    /// Once this many replicas have it as well.
    Replicated(u32),
    /// Once the server's append-only file is synced to disk (servers with WAITAOF).
    Fsynced,
}

/// Where the servers of one deployment are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// One server, whatever its role.
    One(Address),
    /// Several: the one that is the master is used.
    Several(Vec<Address>),
    /// Sentinels know which one is the master.
    Sentinel(Box<Sentinels>),
}

/// `[redis.NAME.sentinel]`: those who know which server is the master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinels {
    /// The name under which they watch the deployment.
    pub master: String,
    /// The sentinels themselves: their addresses, user, password and TLS.
    pub endpoint: Endpoint,
}

impl Servers {
    /// The addresses that the configuration has for servers with data; none where Sentinel knows them.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Several(addresses) => addresses,
            Self::Sentinel(_) => &[],
        }
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            // The one of the url stands first.
            Self::Several(addresses) => addresses.first().map_or(Ok(()), |address| address.fmt(f)),
            Self::Sentinel(sentinels) => write!(f, "Sentinel master {}", sentinels.master),
        }
    }
}

#[cfg(test)]
impl Endpoint {
    /// A server that is only simulated.
    pub(crate) fn at(name: &str, path: &str) -> Self {
        Self {
            name: name.into(),
            servers: Servers::One(Address::Unix(path.into())),
            username: None,
            password: SecretSource::None,
            database: 0,
            key_prefix: "tidegate:".into(),
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(2),
            durability: Durability::default(),
            address_map: Vec::new(),
            reauthenticate: Reauthenticate::default(),
            tls: None,
        }
    }
}

impl Endpoint {
    /// The addresses that the configuration has for servers with data, in its order; none where Sentinel knows them.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        self.servers.addresses()
    }

    /// The key of an option in the configuration, such as `redis.shop.tls`.
    pub(crate) fn key(&self, option: &str) -> String {
        format!("redis.{}.{option}", self.name)
    }

    /// The name of the sentinels of a deployment: that of their table.
    pub(crate) fn name_of_sentinels(deployment: &str) -> String {
        format!("{deployment}{SENTINEL_TABLE}")
    }

    /// Returns whether these are sentinels. The name of a deployment has no dot.
    pub(crate) fn is_sentinels(&self) -> bool {
        self.name.ends_with(SENTINEL_TABLE)
    }

    /// The keys that have the hosts; `None` where Sentinel knows them.
    pub(crate) fn hosts_key(&self) -> Option<String> {
        match &self.servers {
            Servers::Several(_) if self.is_sentinels() => Some(self.key("addresses")),
            Servers::One(_) => Some(self.key("url")),
            Servers::Several(_) => Some(format!("{} or {}", self.key("url"), self.key("addresses"))),
            Servers::Sentinel(_) => None,
        }
    }

    /// How the configuration turns TLS on, and off again, as advice.
    pub(crate) fn encryption_key(&self) -> String {
        match (self.is_sentinels(), self.tls.is_some()) {
            (true, true) => format!("remove {}", self.key("tls")),
            (true, false) => format!("add {}", self.key("tls")),
            (false, true) => format!("use redis:// in {}", self.key("url")),
            (false, false) => format!("use rediss:// in {}", self.key("url")),
        }
    }

    /// The sentinels, where they know which server is the master.
    #[must_use]
    pub fn sentinels(&self) -> Option<&Sentinels> {
        match &self.servers {
            Servers::Sentinel(sentinels) => Some(sentinels),
            Servers::One(_) | Servers::Several(_) => None,
        }
    }

    /// The address to connect to for an address that a server reported: the mapped one, or the same.
    #[must_use]
    pub fn reached(&self, told: Address) -> Address {
        let mapped = self.address_map.iter().find(|(from, _)| *from == told);
        mapped.map_or(told, |(_, to)| to.clone())
    }

    /// Returns whether both names stand for one server, so that one script there reaches what either names. By address
    /// as written: two spellings of one address count as two servers, which promises less.
    #[must_use]
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.shares_server(other, |one, its| one == its)
    }

    /// Returns whether both have an address in common, by a comparison of addresses; of the sentinels and with one name
    /// for the master, where these know the servers.
    pub(crate) fn shares_server(&self, other: &Self, same: impl Fn(&Address, &Address) -> bool) -> bool {
        let (one, its) = match (self.sentinels(), other.sentinels()) {
            (Some(one), Some(its)) if one.master == its.master => (&one.endpoint, &its.endpoint),
            (None, None) => (self, other),
            _ => return false,
        };
        one.addresses().iter().any(|address| its.addresses().iter().any(|its| same(address, its)))
    }
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// Host name or address, and port.
    Tcp {
        /// Host name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// Path of a unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where a password comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// There is none.
    None,
    /// It stands in the environment.
    Inline(Secret),
    /// It stands in the URL, in this configuration file.
    InConfiguration(Secret, PathBuf),
    /// The content of a file without its last newline, read at every connect.
    File(PathBuf),
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the value in.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that sends it to the server.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// `[capture.NAME]`: from channels into streams.
#[derive(Debug, Clone, PartialEq)]
pub struct Capture {
    /// The name in `[capture.NAME]`.
    pub name: String,
    /// The endpoint whose channels are subscribed.
    pub source: String,
    /// Channels, exactly.
    pub channels: Vec<String>,
    /// Channel patterns, as PSUBSCRIBE matches them.
    pub patterns: Vec<String>,
    /// How the source is read.
    pub mode: Mode,
    /// Which messages are captured: those for which all of these hold.
    pub conditions: Vec<Condition>,
    /// Messages that carry this origin are left out: a broadcast with it has published them.
    pub origin: Option<String>,
    /// The endpoint that holds the streams.
    pub destination: String,
    /// What no stream's name may begin with: the destination's `key_prefix`.
    pub reserved: String,
    /// Whose notifications are no messages of this route.
    pub own: OwnKeys,
    /// The stream's name, from the event.
    pub stream: Template,
    /// Consumer groups that are made with each stream.
    pub groups: Vec<String>,
    /// Where a group begins that is made on a stream which already has entries.
    pub groups_start: Option<GroupsStart>,
    /// How much of a stream is kept.
    pub keep: Keep,
    /// What an entry looks like.
    pub format: Format,
    /// What tidegate adds to each entry.
    pub include: Vec<Include>,
    /// How the fields are called.
    pub fields: FieldNames,
    /// Fields that the configuration adds to each entry, by their names.
    pub add: Vec<AddedField>,
    /// How many streams a template may make.
    pub max_streams: u32,
    /// The largest message in bytes; a larger one becomes a dead letter.
    pub max_message_size: u64,
}

/// Keys on a capture's source that tidegate itself writes. It reads no keyspace notification of them, or it would feed
/// itself. Empty where no channel or pattern of the route can match one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnKeys {
    /// What the names of tidegate's own keys begin with.
    pub prefixes: BTreeSet<String>,
    /// The streams that captures write there: the database, and a pattern for their names.
    pub streams: BTreeSet<(u32, String)>,
}

/// How a source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// SUBSCRIBE and PSUBSCRIBE.
    Subscribe,
    /// The replication stream, as a replica reads it.
    Replication(Replication),
}

/// `mode = "replication"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replication {
    /// Which node is tapped.
    pub prefer: Prefer,
    /// True if messages from SPUBLISH count as well.
    pub sharded: bool,
    /// Where the backlog covers a shorter absence than this, that is said.
    pub min_backlog_cover: Duration,
}

/// Which node's replication stream is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Prefer {
    /// A replica's where there is one, else the master's.
    #[default]
    Replica,
    /// The master's.
    Master,
}

impl Mode {
    /// How the replication stream is read, where it is.
    #[must_use]
    pub const fn replication(self) -> Option<Replication> {
        match self {
            Self::Subscribe => None,
            Self::Replication(replication) => Some(replication),
        }
    }
}

/// Where a consumer group begins on a stream that has entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupsStart {
    /// At the first entry.
    Beginning,
    /// After the last entry.
    End,
}

/// How much of a stream is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Everything: said, not assumed.
    Forever,
    /// Up to a number of entries (about: Redis trims whole nodes), up to an age, or both.
    Limits {
        /// Entries.
        entries: Option<u64>,
        /// Age by entry id.
        age: Option<Duration>,
    },
    /// What some consumer groups have not acknowledged.
    UntilAcknowledged(UntilAcknowledged),
}

/// `keep.until_acknowledged`: entries go once all of these groups have acknowledged them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntilAcknowledged {
    /// The groups, at least one.
    pub groups: Vec<String>,
    /// The most entries that stay, acknowledged or not.
    pub entries: u64,
    /// How long an entry stays that is acknowledged; none is not at all.
    pub age: Option<Duration>,
}

impl Keep {
    /// What is kept until it is acknowledged, where something is.
    #[must_use]
    pub const fn until_acknowledged(&self) -> Option<&UntilAcknowledged> {
        match self {
            Self::UntilAcknowledged(until) => Some(until),
            Self::Forever | Self::Limits { .. } => None,
        }
    }
}
