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

mod lines;
mod pattern;
mod rights;
mod roles;
mod user;

use std::collections::{BTreeMap, BTreeSet};

use super::channels::notifications::wants_notifications;
use super::redis_keys;
use super::settings::{Broadcast, Capture, Config, Durability, Endpoint, IfMissed, Order};
use pattern::escaped;
use rights::{ACKNOWLEDGED, FINDING, HOLES, LEASE, NOTIFIED_LEARNS, PING, SELECT, TAP_LEARNS};

pub use lines::PasswordRule;
pub(crate) use pattern::glob_of;
pub use roles::AclRole;
pub use user::User;

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
