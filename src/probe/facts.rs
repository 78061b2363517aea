//! The facts about a server, by its own answers.

use std::collections::HashMap;
use std::fmt;

use crate::server::{self, Class, ControlConnection, Error};

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// Redis, or a server that gives no other name.
    Redis,
    /// The Valkey server.
    Valkey,
    /// Dragonfly.
    Dragonfly,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
            Self::Dragonfly => "Dragonfly",
        })
    }
}

/// A version: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion(pub u32, pub u32, pub u32);

impl ServerVersion {
    /// Reads `7.0.15`, also with more behind it; parts that are not there are 0.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim_start_matches(['v', 'd', 'f', '-']).split(['.', '-']);
        let major = parts.next()?.parse().ok()?;
        let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
        Some(Self(major, next(), next()))
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The persistence of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerStorage {
    /// Not reported.
    Unknown,
    /// The append-only file is off; snapshots are not reported.
    NoAppendOnly,
    /// Nothing: neither append-only file nor snapshots.
    Nothing,
    /// Snapshots now and then.
    Snapshots,
    /// The append-only file, with `appendfsync` if it was reported.
    AppendOnly(Option<String>),
}

impl fmt::Display for ServerStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("persistence unknown"),
            Self::NoAppendOnly => f.write_str("no append-only file"),
            Self::Nothing => f.write_str("no append-only file, no snapshots"),
            Self::Snapshots => f.write_str("no append-only file, snapshots"),
            Self::AppendOnly(None) => f.write_str("append-only file, appendfsync unknown"),
            Self::AppendOnly(Some(fsync)) => write!(f, "append-only file, appendfsync {fsync}"),
        }
    }
}

/// The facts about a server; `None` if not reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Which program.
    pub kind: ServerKind,
    /// Its version.
    pub version: Option<ServerVersion>,
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: Option<String>,
    /// True if it is a master, and not a replica.
    pub master: Option<bool>,
    /// How many replicas are connected to it.
    pub replicas: Option<u32>,
    /// `maxmemory-policy`.
    pub eviction: Option<String>,
    /// The data that it keeps over a restart.
    pub storage: ServerStorage,
    /// How much of its replication stream it holds, in bytes; 0 where it holds none yet.
    pub backlog_bytes: Option<u64>,
    /// `notify-keyspace-events`.
    pub notifications: Option<String>,
    /// For how many seconds a master holds it once no replica is connected; 0 is for ever.
    pub backlog_ttl_seconds: Option<u64>,
}

impl ServerFacts {
    /// Whether XTRIM knows ACKED, which came with Redis 8.2; `None` if the version was not reported.
    #[must_use]
    pub fn knows_acked(&self) -> Option<bool> {
        self.version.map(|version| self.kind == ServerKind::Redis && version >= ServerVersion(8, 2, 0))
    }

    /// Whether it knows WAITAOF, which came with Redis 7.2 and every Valkey has; `None` if the version was not reported.
    #[must_use]
    pub fn knows_waitaof(&self) -> Option<bool> {
        let version = self.version?;
        Some(self.kind == ServerKind::Valkey || version >= ServerVersion(7, 2, 0))
    }

    /// Reads INFO's text, and the values of `appendfsync` and `save` from CONFIG GET.
    fn read(info: &str, settings: &HashMap<String, String>) -> Self {
        let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let get = |name: &str| fields.get(name).map(|value| value.trim());
        let shown = |name: &str| get(name).map(|value| server::redacted(value.as_bytes()));
        // Valkey answers `redis_version:7.2.4` whatever it is, and other programs do alike.
        let (kind, version) = match (get("valkey_version"), get("dragonfly_version")) {
            (Some(version), _) => (ServerKind::Valkey, Some(version)),
            (_, Some(version)) => (ServerKind::Dragonfly, Some(version)),
            _ => (ServerKind::Redis, get("redis_version")),
        };
        let storage = match (get("aof_enabled"), settings.get("save").map(String::as_str)) {
            (None, _) => ServerStorage::Unknown,
            (Some("1"), _) => ServerStorage::AppendOnly(
                settings.get("appendfsync").map(|value| server::redacted(value.as_bytes())),
            ),
            (Some(_), None) => ServerStorage::NoAppendOnly,
            (Some(_), Some("")) => ServerStorage::Nothing,
            (Some(_), Some(_)) => ServerStorage::Snapshots,
        };
        Self {
            kind,
            version: version.and_then(ServerVersion::parse),
            mode: shown("redis_mode").or_else(|| shown("server_mode")),
            master: get("role").map(|role| role == "master"),
            replicas: get("connected_slaves").and_then(|count| count.parse().ok()),
            eviction: shown("maxmemory_policy"),
            storage,
            backlog_bytes: get("repl_backlog_size").and_then(|bytes| bytes.parse().ok()),
            notifications: settings
                .get("notify-keyspace-events")
                .map(|text| server::redacted(text.as_bytes())),
            backlog_ttl_seconds: settings.get("repl-backlog-ttl").and_then(|ttl| ttl.parse().ok()),
        }
    }
}

/// Asks a server for its facts.
///
/// # Errors
/// If the connection ends. A question that the server refuses leaves its facts unknown.
pub(super) async fn ask(connection: &mut ControlConnection) -> Result<ServerFacts, Error> {
    let info: String = optional(redis::cmd("INFO").query_async(connection).await)?;
    let mut settings = HashMap::new();
    // One at a time: several in one command need Redis 7.
    for name in ["appendfsync", "save", "repl-backlog-ttl", "notify-keyspace-events"] {
        let told: HashMap<String, String> =
            optional(redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await)?;
        settings.extend(told);
    }
    Ok(ServerFacts::read(&info, &settings))
}

/// The default, if the server refuses to answer.
fn optional<T: Default>(reply: Result<T, redis::RedisError>) -> Result<T, Error> {
    match reply.map_err(Error::from) {
        Ok(reply) => Ok(reply),
        Err(error) if error.class() == Class::Block || error.code() == Some("ERR") => Ok(T::default()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(info: &str, settings: &[(&str, &str)]) -> ServerFacts {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ServerFacts::read(info, &settings.collect())
    }

    #[test]
    fn valkey_is_told_by_its_own_version_and_not_by_the_one_it_answers() {
        let found = facts("redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n", &[]);
        assert_eq!((found.kind, found.version), (ServerKind::Valkey, Some(ServerVersion(9, 1, 2))));
        let found = facts("redis_version:7.4.0\r\ndragonfly_version:df-v1.21.2\r\n", &[]);
        assert_eq!((found.kind, found.version), (ServerKind::Dragonfly, Some(ServerVersion(1, 21, 2))));
        let found = facts("redis_version:8.0-rc1\r\n", &[]);
        assert_eq!((found.kind, found.version), (ServerKind::Redis, Some(ServerVersion(8, 0, 0))));
        assert_eq!(found.knows_acked(), Some(false));
        assert_eq!(facts("redis_version:8.2.3\r\n", &[]).knows_acked(), Some(true));
        let valkey = facts("redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n", &[]);
        assert_eq!(valkey.knows_acked(), Some(false));
    }

    #[test]
    fn what_was_not_told_is_unknown_and_not_a_default() {
        let nothing = facts("", &[("save", ""), ("appendfsync", "everysec")]);
        assert_eq!(nothing.storage, ServerStorage::Unknown);
        assert_eq!((nothing.master, nothing.replicas, nothing.eviction), (None, None, None));
        assert_eq!(facts("aof_enabled:1\n", &[]).storage, ServerStorage::AppendOnly(None));
        assert_eq!(facts("aof_enabled:0\n", &[]).storage, ServerStorage::NoAppendOnly);
        assert_eq!(facts("aof_enabled:0\n", &[("save", "")]).storage, ServerStorage::Nothing);
        assert_eq!(facts("aof_enabled:0\n", &[("save", "3600 1")]).storage, ServerStorage::Snapshots);
    }
}
