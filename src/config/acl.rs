//! The rights that a configuration needs, as `ACL SETUSER` lines: for each endpoint one user, with
//! exactly what its routes do there. Two endpoints that are the same user of the same server share
//! one line, since each line begins anew and the second would take away what the first gave.
//!
//! The tests run as these users, so a right that is missing in the table `RIGHTS` fails a test. Redis checks the
//! commands inside a script against its caller too, so they are listed.
//!
//! A rule holds no space: where a name has one, the rule has `?` in its place, which matches a little
//! more. A pattern must stand in its rule letter by letter, so one with a space cannot be allowed by
//! name; then all channels are, and a comment explains it.

mod roles;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::channels::notifications::wants_notifications;
use super::redis_keys;
use super::settings::{Broadcast, Capture, Config, Durability, Endpoint, IfMissed, Invalidate, Order};
use crate::text::printable;
use crate::text::template::{Part, Template};

pub use roles::AclRole;

/// What `tidegate check --connect` does beyond what the routes do: it looks at the server, and tries the
/// rights in a transaction that it never executes. Connecting itself needs no right.
const CHECK: &[&str] = &["info", "multi"];

/// Only where the endpoint's database is not the first.
const SELECT: &str = "select";

/// Only where a broadcast publishes on another server than its stream's: elsewhere reading is answered
/// every second and proves as much.
const PING: &str = "ping";

/// The commands of each role, beyond `CHECK`; each is sent by the code or called by a script.
const RIGHTS: [(AclRole, &[&str]); 19] = [
    (AclRole::Sentinel, &["sentinel|master", "sentinel|get-master-addr-by-name", "role"]),
    (
        AclRole::CaptureSource,
        &["multi", "subscribe", "psubscribe", "eval", "exec", "time", "get", "set", "publish", "ping"],
    ),
    // PSYNC hands over every write of the server, whatever the rules for keys and channels say.
    (AclRole::CaptureTap, &["psync", "replconf", "publish"]),
    (
        AclRole::CaptureDestination,
        &[
            "script|load",
            "evalsha",
            "time",
            "hget",
            "hdel",
            "pexpire",
            "hmget",
            "hgetall",
            "hset",
            "hincrby",
            "xadd",
            "xtrim",
            "xlen",
            "xrange",
            "xgroup|create",
            "xinfo|groups",
            "sadd",
            "scard",
            "sismember",
            "smembers",
            "sscan",
            "srem",
        ],
    ),
    (
        AclRole::BroadcastSource,
        &[
            "script|load",
            "evalsha",
            "eval",
            "time",
            "hmget",
            "hset",
            "xadd",
            "xtrim",
            "xread",
            "xrange",
            "xinfo|stream",
            "zcard",
        ],
    ),
    (AclRole::BroadcastTap, &["psync", "replconf"]),
    (AclRole::BroadcastDestination, &["publish"]),
    (AclRole::BroadcastShards, &["spublish"]),
    (
        AclRole::InvalidateSource,
        &["xread", "xrange", "xinfo|stream", "eval", "xrevrange", "xadd", "xtrim", "time"],
    ),
    (AclRole::InvalidateDestination, &["script|load", "evalsha", "hmget", "hset", "unlink", "time"]),
    (
        AclRole::OperatorOfCapture,
        &[
            "xrange",
            "xrevrange",
            "xlen",
            "xread",
            "xdel",
            "xadd",
            "xgroup|create",
            "xinfo|groups",
            "eval",
            "sadd",
            "scard",
            "sismember",
            "smembers",
            "sscan",
            "srem",
        ],
    ),
    (AclRole::OperatorOfBroadcast, &["xrange", "xrevrange", "xlen", "xread", "xdel", "eval"]),
    (AclRole::OperatorOfInvalidate, &["time", "xrange", "xrevrange", "xlen", "xread", "xdel"]),
    (AclRole::OperatorOfCache, &["unlink", "scan"]),
    (AclRole::OperatorPublishing, &["publish"]),
    (AclRole::OperatorShards, &["spublish"]),
    (
        AclRole::ReplaySource,
        &[
            "time",
            "xrange",
            "xrevrange",
            "xread",
            "script|load",
            "eval",
            "evalsha",
            "hmget",
            "hset",
            "pexpire",
            "del",
        ],
    ),
    (AclRole::ReplayDestination, &["publish", "pubsub|numsub", "pubsub|channels", "pubsub|numpat"]),
    (AclRole::ReplayShards, &["spublish", "pubsub|shardnumsub", "pubsub|shardchannels"]),
];

/// Where entries are published once a group has acknowledged them, beyond `AclRole::BroadcastSource`.
const ACKNOWLEDGED: &[&str] = &["xinfo|groups", "xpending"];

/// Where that is in the order of acknowledgements: what was left behind. Any other broadcast only counts what it
/// left behind when it had that order.
const HOLES: &[&str] = &["zadd", "zrangebylex", "zrem"];

/// Where a broadcast reads every stream that matches a pattern: finding them, and forgetting those that are gone.
const FINDING: &[&str] = &["scan", "smembers", "sadd", "srem", "hdel", "exists", "del"];

/// Where a broadcast publishes on another server than its stream's: which instance does so.
const LEASE: &[&str] = &["hdel", "pexpire"];

/// A right beyond what routes need: everything does without it where it is not allowed. No rule allows single settings,
/// so it shows the server's passwords as well.
const OPTIONAL: &str = "config|get";

/// What `tidegate check --connect` learns by the optional right.
const CHECK_LEARNS: &str = "tidegate check --connect tells what the server keeps over a restart";

/// What reading the replication stream learns by it.
const TAP_LEARNS: &str = "the daemon knows how long a master without replicas keeps its backlog (repl-backlog-ttl); else it assumes an hour";

/// What a capture of keyspace notifications learns by it.
const NOTIFIED_LEARNS: &str = "/readyz tells which letters notify-keyspace-events lacks";

/// One user of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The names of the endpoints that are this user.
    pub endpoints: BTreeSet<String>,
    /// The user's name: the endpoint's, or `tidegate` where it names none.
    pub name: String,
    /// What the user does there, with the routes that want it.
    pub roles: BTreeMap<AclRole, BTreeSet<String>>,
    /// Key rules, such as `~orders`.
    pub keys: BTreeSet<String>,
    /// Channel rules, such as `&orders.*`.
    pub channels: BTreeSet<String>,
    /// Patterns that no rule can name, so that all channels are allowed.
    pub unnameable: BTreeSet<String>,
    /// Commands that not every user of these roles needs.
    pub further: BTreeSet<&'static str>,
    /// What the optional right is for, beyond `tidegate check --connect`.
    pub learns: BTreeSet<&'static str>,
}

/// The users that a configuration needs, one for each endpoint that a route uses.
#[must_use]
pub fn users(config: &Config) -> Vec<User> {
    let mut users = BTreeMap::new();
    for capture in config.capture.values() {
        if capture.mode.replication().is_some() {
            allow(&mut users, config, &capture.source, AclRole::CaptureTap, &capture.name, |user, at| {
                user.channel(&escaped(&redis_keys::control(&at.key_prefix)));
                user.learns.insert(TAP_LEARNS);
            });
        } else {
            allow(&mut users, config, &capture.source, AclRole::CaptureSource, &capture.name, |user, at| {
                capture_source(user, at, capture);
            });
        }
        let role = AclRole::CaptureDestination;
        allow(&mut users, config, &capture.destination, role, &capture.name, |user, at| {
            user.own_keys(at, &capture.name, &redis_keys::OF_CAPTURE);
            user.key(&glob_of(&capture.stream));
            if capture.keep.until_acknowledged().is_some() {
                user.further.insert("xpending");
            }
            match at.durability {
                Durability::Applied => {}
                Durability::Replicated(_) => drop(user.further.insert("wait")),
                Durability::Fsynced => drop(user.further.insert("waitaof")),
            }
        });
    }
    for broadcast in config.broadcast.values() {
        allow(
            &mut users,
            config,
            &broadcast.source,
            AclRole::BroadcastSource,
            &broadcast.name,
            |user, at| {
                let two_servers = publishing_endpoint(config, broadcast) != broadcast.source;
                user.broadcast_keys(at, broadcast, two_servers);
                user.streams(broadcast);
                if broadcast.pattern().is_some() {
                    user.further.extend(FINDING);
                }
                if two_servers {
                    user.further.extend(LEASE);
                }
                let Some(acknowledged) = broadcast.acknowledged() else { return };
                user.further.extend(ACKNOWLEDGED);
                if matches!(acknowledged.order, Order::Acknowledgement { .. }) {
                    user.further.extend(HOLES);
                }
            },
        );
        if broadcast.acknowledged().is_some_and(|acknowledged| acknowledged.replication) {
            allow(&mut users, config, &broadcast.source, AclRole::BroadcastTap, &broadcast.name, |_, _| {});
        }
        let role = AclRole::of_publishing(broadcast);
        let publishes = publishing_endpoint(config, broadcast);
        allow(&mut users, config, publishes, role, &broadcast.name, |user, _| {
            user.channel(&glob_of(&broadcast.channel));
            if publishes != broadcast.source {
                user.further.insert(PING);
            }
        });
    }
    for route in config.invalidate.values() {
        allow(&mut users, config, &route.source, AclRole::InvalidateSource, &route.name, |user, at| {
            user.own_keys(at, &route.name, &["dead-letters"]);
            user.key(&escaped(&route.stream));
            route.gaps.iter().for_each(|key| user.key(&escaped(key)));
        });
        let role = AclRole::InvalidateDestination;
        allow(&mut users, config, &route.destination, role, &route.name, |user, at| {
            user.own_keys(at, &route.name, &[redis_keys::CURSOR]);
            user.cache_keys(route);
            if route.if_missed == IfMissed::Clear {
                user.further.insert("scan");
            }
        });
    }
    with_sentinels(users, config)
}

/// Adds the users of the sentinels that know the servers of these users. Where none is named, it is their user default,
/// which needs no rule.
fn with_sentinels(mut users: BTreeMap<(String, String), User>, config: &Config) -> Vec<User> {
    let used: BTreeSet<String> = users.values().flat_map(|user| user.endpoints.iter().cloned()).collect();
    for name in used {
        let Some(sentinels) = config.redis.get(&name).and_then(|endpoint| endpoint.sentinels()) else {
            continue;
        };
        let endpoint = &sentinels.endpoint;
        if endpoint.username.is_none() {
            continue;
        }
        let user = User::new(endpoint);
        let user = users.entry((endpoint.servers.to_string(), user.name.clone())).or_insert(user);
        user.endpoints.insert(endpoint.name.clone());
        user.roles.entry(AclRole::Sentinel).or_default().insert(sentinels.master.clone());
    }
    users.into_values().collect()
}

/// A channel that `tidegate replay` may publish on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayChannel {
    /// As an ACL rule names it.
    pub channel: String,
    /// True for SPUBLISH. Servers before Redis 7.0 know neither it nor a rule for it.
    pub sharded: bool,
}

/// The users that the commands of an operator need, one for each endpoint that they touch. Without a
/// channel `tidegate replay` may not be run.
#[must_use]
pub fn operators(config: &Config, replay: &[ReplayChannel]) -> Vec<User> {
    let mut users = BTreeMap::new();
    for capture in config.capture.values() {
        let role = AclRole::OperatorOfCapture;
        allow(&mut users, config, &capture.destination, role, &capture.name, |user, at| {
            user.own_keys(at, &capture.name, &["gaps", "dead-letters", "streams"]);
            user.key(&glob_of(&capture.stream));
        });
        if !replay.is_empty() {
            let role = AclRole::ReplaySource;
            allow(&mut users, config, &capture.destination, role, &capture.name, |user, at| {
                user.checkpoints(at, &capture.name);
            });
        }
    }
    for broadcast in config.broadcast.values() {
        let role = AclRole::OperatorOfBroadcast;
        allow(&mut users, config, &broadcast.source, role, &broadcast.name, |user, at| {
            user.own_keys(at, &broadcast.name, &["dead-letters"]);
            user.streams(broadcast);
            if broadcast.pattern().is_some() {
                user.own_keys(at, &broadcast.name, &[redis_keys::STREAMS]);
                user.further.insert("sscan");
            }
        });
        let publishes = publishing_endpoint(config, broadcast);
        let role = if broadcast.sharded { AclRole::OperatorShards } else { AclRole::OperatorPublishing };
        allow(&mut users, config, publishes, role, &broadcast.name, |user, _| {
            user.channel(&glob_of(&broadcast.channel));
        });
        if !replay.is_empty() {
            let role = AclRole::ReplaySource;
            allow(&mut users, config, &broadcast.source, role, &broadcast.name, |user, at| {
                user.checkpoints(at, &broadcast.name);
            });
        }
    }
    for route in config.invalidate.values() {
        let role = AclRole::OperatorOfInvalidate;
        allow(&mut users, config, &route.source, role, &route.name, |user, at| {
            user.own_keys(at, &route.name, &["dead-letters"]);
            user.key(&escaped(&route.stream));
        });
        let role = AclRole::OperatorOfCache;
        allow(&mut users, config, &route.destination, role, &route.name, |user, _| user.cache_keys(route));
    }
    for ReplayChannel { channel, sharded } in replay {
        let role = if *sharded { AclRole::ReplayShards } else { AclRole::ReplayDestination };
        for name in config.redis.keys() {
            allow(&mut users, config, name, role, channel, |user, _| user.channel(channel));
        }
    }
    with_sentinels(users, config)
}

/// The endpoint whose user publishes for a broadcast: on one server the step that publishes is the
/// stream's, and so is its user.
fn publishing_endpoint<'a>(config: &Config, broadcast: &'a Broadcast) -> &'a str {
    let (source, destination) =
        (config.redis.get(&broadcast.source), config.redis.get(&broadcast.destination));
    let one_server = source.zip(destination).is_some_and(|(source, other)| source.is_same_server(other));
    if one_server { &broadcast.source } else { &broadcast.destination }
}

fn allow(
    users: &mut BTreeMap<(String, String), User>,
    config: &Config,
    endpoint: &str,
    role: AclRole,
    route: &str,
    rules: impl FnOnce(&mut User, &Endpoint),
) {
    let Some(at) = config.redis.get(endpoint) else { return };
    let user = User::new(at);
    let user = users.entry((at.servers.to_string(), user.name.clone())).or_insert(user);
    user.endpoints.insert(endpoint.to_owned());
    if at.database != 0 {
        user.further.insert(SELECT);
    }
    user.roles.entry(role).or_default().insert(route.to_owned());
    rules(user, at);
}

fn capture_source(user: &mut User, at: &Endpoint, capture: &Capture) {
    if wants_notifications(capture) {
        user.learns.insert(NOTIFIED_LEARNS);
    }
    user.channel(&escaped(&redis_keys::control(&at.key_prefix)));
    user.key(&escaped(&redis_keys::epoch(&at.key_prefix)));
    for channel in &capture.channels {
        user.channel(&escaped(channel));
    }
    for pattern in &capture.patterns {
        if pattern.contains(char::is_whitespace) {
            user.unnameable.insert(pattern.clone());
        } else {
            user.channels.insert(format!("&{pattern}"));
        }
    }
}

impl User {
    fn new(endpoint: &Endpoint) -> Self {
        Self {
            endpoints: BTreeSet::new(),
            name: endpoint.username.clone().unwrap_or_else(|| "tidegate".to_owned()),
            roles: BTreeMap::new(),
            keys: BTreeSet::new(),
            channels: BTreeSet::new(),
            unnameable: BTreeSet::new(),
            further: BTreeSet::new(),
            learns: BTreeSet::new(),
        }
    }

    fn key(&mut self, glob: &str) {
        self.keys.insert(format!("~{glob}"));
    }

    fn channel(&mut self, glob: &str) {
        self.channels.insert(format!("&{glob}"));
    }

    fn own_keys(&mut self, at: &Endpoint, route: &str, kinds: &[&str]) {
        for kind in kinds {
            self.key(&escaped(&redis_keys::of_route(&at.key_prefix, route, kind)));
        }
    }

    /// What a broadcast keeps, for its stream or for each that it finds.
    fn broadcast_keys(&mut self, at: &Endpoint, broadcast: &Broadcast, two_servers: bool) {
        let kept = |kind: &str| two_servers || kind != redis_keys::LEASE;
        if broadcast.pattern().is_none() {
            let kinds: Vec<&str> = redis_keys::OF_BROADCAST.into_iter().filter(|kind| kept(kind)).collect();
            self.own_keys(at, &broadcast.name, &kinds);
            return;
        }
        self.own_keys(at, &broadcast.name, &[redis_keys::CURSOR, "dead-letters", redis_keys::STREAMS]);
        if two_servers {
            // Of a stream whose place is the route's: the route read that one alone before.
            self.own_keys(at, &broadcast.name, &[redis_keys::LEASE]);
        }
        for kind in redis_keys::OF_FOUND_STREAM.into_iter().filter(|kind| kept(kind)) {
            let of_each = redis_keys::of_stream(&at.key_prefix, &broadcast.name, kind, "");
            self.key(&format!("{}*", escaped(&of_each)));
        }
    }

    /// The streams of a broadcast. A pattern is one for a rule too.
    fn streams(&mut self, broadcast: &Broadcast) {
        match broadcast.pattern() {
            Some(matching) => self.key(&matching.pattern),
            None => self.key(&escaped(broadcast.stream())),
        }
    }

    /// The keys that an invalidation may clear, and their leases.
    fn cache_keys(&mut self, route: &Invalidate) {
        for template in &route.keys {
            let keys = glob_of(template);
            if let Some(lease) = &route.lease {
                // What ends in a variable ends in anything, a lease's suffix too.
                let covered = matches!(lease.parts(), [Part::Key, ..])
                    && !matches!(template.parts(), [.., Part::Literal(_)]);
                if !covered {
                    let piece = |part: &Part| match part {
                        Part::Literal(text) => escaped(text),
                        _ => keys.clone(),
                    };
                    let leases: String = lease.parts().iter().map(piece).collect();
                    self.key(&leases);
                }
            }
            self.key(&keys);
        }
    }

    /// The checkpoints of replays of a route's streams.
    fn checkpoints(&mut self, at: &Endpoint, route: &str) {
        self.key(&format!("{}*", escaped(&redis_keys::of_replay(&at.key_prefix, route, ""))));
    }

    /// Returns whether `tidegate check --connect` looks at the server as this user.
    fn is_checked(&self) -> bool {
        !self.roles.keys().all(|role| role.is_operators() || *role == AclRole::Sentinel)
    }

    /// The commands, without their `+`, in the order of `RIGHTS`.
    #[must_use]
    pub fn commands(&self) -> Vec<&'static str> {
        let of_roles = RIGHTS.iter().filter(|(role, _)| self.roles.contains_key(role));
        let mut commands: Vec<&str> = if self.is_checked() { CHECK.to_vec() } else { Vec::new() };
        commands.extend(&self.further);
        for command in of_roles.flat_map(|(_, commands)| commands.iter()) {
            if !commands.contains(command) {
                commands.push(command);
            }
        }
        commands
    }

    /// The rules behind `ACL SETUSER NAME`.
    #[must_use]
    pub fn rules(&self, password: &PasswordRule) -> Vec<String> {
        let mut rules = vec!["reset".to_owned(), "on".to_owned(), password.to_string()];
        // Redis takes no further rule of a kind after the one that allows all.
        if self.keys.contains("~*") {
            rules.push("allkeys".to_owned());
        } else {
            rules.extend(self.keys.iter().cloned());
        }
        if self.unnameable.is_empty() && !self.channels.contains("&*") {
            rules.push("resetchannels".to_owned());
            rules.extend(self.channels.iter().cloned());
        } else {
            rules.push("allchannels".to_owned());
        }
        rules.extend(self.commands().into_iter().map(|command| format!("+{command}")));
        rules
    }

    /// The command that makes the user, as `redis-cli` reads it.
    #[must_use]
    pub fn command(&self, password: &PasswordRule) -> String {
        let rules: Vec<String> = self.rules(password).iter().map(|rule| quoted(rule)).collect();
        format!("ACL SETUSER {} {}", quoted(&self.name), rules.join(" "))
    }

    /// What an operator wants to know of the command: its server, why it is needed, and what may be added. `redis-cli`
    /// knows no comments, so these lines must not stand among commands.
    #[must_use]
    pub fn comments(&self) -> Vec<String> {
        let endpoints: Vec<&str> = self.endpoints.iter().map(String::as_str).collect();
        let mut lines = vec![format!("# server {}", endpoints.join(" and "))];
        for (role, routes) in &self.roles {
            // A line break would end the comment.
            let routes: Vec<String> = routes.iter().map(|route| printable::text(route.as_bytes())).collect();
            lines.push(format!("#   {role} {}", routes.join(", ")));
        }
        for pattern in &self.unnameable {
            lines.push(format!(
                "#   the pattern \"{}\" has a space, which no rule can hold: all channels are allowed",
                printable::text(pattern.as_bytes())
            ));
        }
        if self.is_checked() {
            lines.push(format!(
                "#   optional: ACL SETUSER {} +{OPTIONAL} (it shows requirepass and masterauth as well)",
                quoted(&self.name)
            ));
            let learns = [CHECK_LEARNS].iter().chain(&self.learns);
            lines.extend(learns.map(|learns| format!("#     with it {learns}")));
        }
        lines
    }
}

/// The rule for a user's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordRule {
    /// The user needs none.
    None,
    /// The password itself.
    Plain(String),
    /// The SHA-256 of the password, in hexadecimal digits.
    Hash(String),
    /// A word to be replaced. Redis refuses it, so a line that was run as it is makes no user with a known password.
    Missing,
}

impl fmt::Display for PasswordRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nopass"),
            Self::Plain(password) => write!(f, ">{password}"),
            Self::Hash(hash) => write!(f, "#{hash}"),
            Self::Missing => f.write_str("PASSWORD"),
        }
    }
}

/// What a template can make, as a pattern.
pub(crate) fn glob_of(template: &Template) -> String {
    let glob = |part: &Part| match part {
        Part::Literal(text) => escaped(text),
        _ => "*".to_owned(),
    };
    template.parts().iter().map(glob).collect()
}

/// A name as a pattern that matches it alone, but for white space.
fn escaped(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '*' | '?' | '[' | ']' | '\\' => pattern.extend(['\\', character]),
            _ if character.is_whitespace() => (0..character.len_utf8()).for_each(|_| pattern.push('?')),
            _ => pattern.push(character),
        }
    }
    pattern
}

/// A word as `redis-cli` takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !printable::is_harmful(c) && !matches!(c, '"' | '\'');
    if word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            _ if printable::is_harmful(character) => {
                let mut buffer = [0; 4];
                let bytes = character.encode_utf8(&mut buffer).bytes();
                text.extend(bytes.map(|byte| format!("\\x{byte:02x}")));
            }
            _ => text.push(character),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_escaped_to_a_pattern_that_matches_it() {
        assert_eq!(escaped("a*b?[c]\\"), "a\\*b\\?\\[c\\]\\\\");
        assert_eq!(escaped("my stream"), "my?stream");
        assert_eq!(escaped("{a}:b"), "{a}:b");
        let template = Template::parse("{<1>}*:<channel>").unwrap();
        assert_eq!(glob_of(&template), "{*}\\*:*");
    }

    #[test]
    fn words_are_quoted_only_where_they_must_be() {
        assert_eq!(quoted("&orders.[a-c]\\*"), "&orders.[a-c]\\*");
        assert_eq!(quoted("a b"), "\"a b\"");
        assert_eq!(quoted("a\"\n"), "\"a\\\"\\x0a\"");
        assert_eq!(quoted("a\u{9b}é"), "\"a\\xc2\\x9bé\"");
    }
}
