//! The rights that a configuration needs, as `ACL SETUSER` lines: for each endpoint one user, with
//! exactly what its routes do there.
//!
//! The tests run as these users, so a right that is missing here fails a test, and the table
//! [`RIGHTS`] is the one place to mend. What a script does is checked against its caller too, so the
//! commands inside scripts are listed.
//!
//! A rule holds no space: where a name has one, the rule has `?` in its place, which matches a little
//! more. A pattern must stand in its rule letter by letter, so one with a space cannot be allowed by
//! name; then all channels are, and a comment says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::keys;
use super::settings::{Broadcast, Capture, Config, Endpoint};
use crate::template::{Part, Template};

/// What a user does on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads the channels of a capture.
    CaptureSource,
    /// Writes the streams of a capture.
    CaptureDestination,
    /// Reads the stream of a broadcast and keeps its cursor.
    BroadcastSource,
    /// Publishes for a broadcast.
    BroadcastDestination,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CaptureSource => "source of capture",
            Self::CaptureDestination => "destination of capture",
            Self::BroadcastSource => "source of broadcast",
            Self::BroadcastDestination => "destination of broadcast",
        })
    }
}

/// What every connection does.
const CONNECT: &[&str] = &["ping", "select", "client|setname", "client|setinfo", "info", "time"];

/// The commands of each role, beyond [`CONNECT`].
const RIGHTS: [(Role, &[&str]); 4] = [
    (
        Role::CaptureSource,
        &[
            "subscribe",
            "psubscribe",
            "unsubscribe",
            "punsubscribe",
            "publish",
            "eval",
            "evalsha",
            "script|load",
            "multi",
            "exec",
            "discard",
            "get",
            "set",
        ],
    ),
    (
        Role::CaptureDestination,
        &[
            "eval",
            "evalsha",
            "script|load",
            "hget",
            "hgetall",
            "hmget",
            "hset",
            "hincrby",
            "xadd",
            "xtrim",
            "xgroup|create",
            "xinfo|stream",
            "xinfo|groups",
            "xrange",
            "xrevrange",
            "xlen",
            "sadd",
            "sismember",
            "scard",
            "exists",
            "type",
        ],
    ),
    (
        Role::BroadcastSource,
        &[
            "eval",
            "evalsha",
            "script|load",
            "hget",
            "hgetall",
            "hmget",
            "hset",
            "hincrby",
            "xadd",
            "xtrim",
            "xread",
            "xrange",
            "xinfo|stream",
            "exists",
            "type",
        ],
    ),
    (Role::BroadcastDestination, &["publish"]),
];

/// What only `tidegate check --connect` uses, to tell what a destination guarantees.
const OPTIONAL: &[&str] = &["config|get"];

/// The user of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The endpoint's name.
    pub endpoint: String,
    /// The user's name: the endpoint's, or `tidegate` where it names none.
    pub name: String,
    /// What the user does there, with the routes that want it.
    pub roles: BTreeMap<Role, BTreeSet<String>>,
    /// Whether the server asks for a password.
    pub has_password: bool,
    /// Key rules, such as `~orders`.
    pub keys: BTreeSet<String>,
    /// Channel rules, such as `&orders.*`.
    pub channels: BTreeSet<String>,
    /// Patterns that no rule can name, so that all channels are allowed.
    pub unnameable: BTreeSet<String>,
}

/// The users that a configuration needs, one for each endpoint that a route uses.
#[must_use]
pub fn users(config: &Config) -> Vec<User> {
    let mut users = BTreeMap::new();
    for capture in config.capture.values() {
        allow(&mut users, config, &capture.source, Role::CaptureSource, &capture.name, |user, at| {
            capture_source(user, at, capture);
        });
        let role = Role::CaptureDestination;
        allow(&mut users, config, &capture.destination, role, &capture.name, |user, at| {
            user.own_keys(at, &capture.name, &keys::OF_CAPTURE);
            user.key(&glob_of(&capture.stream));
        });
    }
    for broadcast in config.broadcast.values() {
        allow(&mut users, config, &broadcast.source, Role::BroadcastSource, &broadcast.name, |user, at| {
            user.own_keys(at, &broadcast.name, &keys::OF_BROADCAST);
            user.key(&escaped(&broadcast.stream));
        });
        let role = Role::BroadcastDestination;
        allow(&mut users, config, &broadcast.destination, role, &broadcast.name, |user, _| {
            broadcast_destination(user, broadcast);
        });
    }
    users.into_values().collect()
}

fn allow<'a>(
    users: &mut BTreeMap<&'a str, User>,
    config: &'a Config,
    endpoint: &'a str,
    role: Role,
    route: &str,
    rules: impl FnOnce(&mut User, &Endpoint),
) {
    let Some(at) = config.redis.get(endpoint) else { return };
    let user = users.entry(endpoint).or_insert_with(|| User::new(at));
    user.roles.entry(role).or_default().insert(route.to_owned());
    rules(user, at);
}

fn capture_source(user: &mut User, at: &Endpoint, capture: &Capture) {
    user.channel(&escaped(&keys::control(&at.key_prefix)));
    user.key(&escaped(&keys::epoch(&at.key_prefix)));
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

fn broadcast_destination(user: &mut User, broadcast: &Broadcast) {
    user.channel(&glob_of(&broadcast.channel));
}

impl User {
    fn new(endpoint: &Endpoint) -> Self {
        Self {
            endpoint: endpoint.name.clone(),
            name: endpoint.username.clone().unwrap_or_else(|| "tidegate".to_owned()),
            roles: BTreeMap::new(),
            has_password: endpoint.password != super::SecretSource::None,
            keys: BTreeSet::new(),
            channels: BTreeSet::new(),
            unnameable: BTreeSet::new(),
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
            self.key(&escaped(&keys::of_route(&at.key_prefix, route, kind)));
        }
    }

    /// The commands, without their `+`, in the order of [`RIGHTS`].
    #[must_use]
    pub fn commands(&self) -> Vec<&'static str> {
        let of_roles = RIGHTS.iter().filter(|(role, _)| self.roles.contains_key(role));
        let mut commands: Vec<&str> = CONNECT.to_vec();
        for command in of_roles.flat_map(|(_, commands)| commands.iter()) {
            if !commands.contains(command) {
                commands.push(command);
            }
        }
        commands
    }

    /// The rules behind `ACL SETUSER NAME`, with `password` where the server asks for one; `None`
    /// makes a user without.
    #[must_use]
    pub fn rules(&self, password: Option<&str>) -> Vec<String> {
        let mut rules = vec!["reset".to_owned(), "on".to_owned()];
        rules.push(password.map_or_else(|| "nopass".to_owned(), |password| format!(">{password}")));
        rules.extend(self.keys.iter().cloned());
        if self.unnameable.is_empty() {
            rules.push("resetchannels".to_owned());
            rules.extend(self.channels.iter().cloned());
        } else {
            rules.push("allchannels".to_owned());
        }
        rules.extend(self.commands().into_iter().map(|command| format!("+{command}")));
        rules
    }
}

impl fmt::Display for User {
    /// A comment for each role, the line itself with `>PASSWORD` to be replaced, and what is optional.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# endpoint {}", self.endpoint)?;
        for (role, routes) in &self.roles {
            let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
            writeln!(f, "#   {role} {}", routes.join(", "))?;
        }
        for pattern in &self.unnameable {
            writeln!(
                f,
                "#   the pattern \"{pattern}\" has a space, which no rule can hold: all channels are allowed"
            )?;
        }
        let rules: Vec<String> = self.rules(Some("PASSWORD")).iter().map(|rule| quoted(rule)).collect();
        writeln!(f, "ACL SETUSER {} {}", quoted(&self.name), rules.join(" "))?;
        let optional: Vec<String> = OPTIONAL.iter().map(|command| format!("+{command}")).collect();
        writeln!(f, "# only for tidegate check --connect:")?;
        writeln!(f, "# ACL SETUSER {} {}", quoted(&self.name), optional.join(" "))
    }
}

/// What a template can make, as a pattern.
fn glob_of(template: &Template) -> String {
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
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'');
    if word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            _ if character.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ => text.push(character),
        }
    }
    text.push('"');
    text
}
