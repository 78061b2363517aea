//! One user, and what it may touch.

use std::collections::{BTreeMap, BTreeSet};

use super::pattern::{escaped, glob_of};
use super::rights::{CHECK, RIGHTS};
use super::roles::AclRole;
use crate::config::redis_keys;
use crate::config::settings::{Broadcast, Endpoint, Invalidate};
use crate::text::template::Part;

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

impl User {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
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

    pub(super) fn key(&mut self, glob: &str) {
        self.keys.insert(format!("~{glob}"));
    }

    pub(super) fn channel(&mut self, glob: &str) {
        self.channels.insert(format!("&{glob}"));
    }

    pub(super) fn own_keys(&mut self, at: &Endpoint, route: &str, kinds: &[&str]) {
        for kind in kinds {
            self.key(&escaped(&redis_keys::of_route(&at.key_prefix, route, kind)));
        }
    }

    /// What a broadcast keeps, for its stream or for each that it finds.
    pub(super) fn broadcast_keys(&mut self, at: &Endpoint, broadcast: &Broadcast, two_servers: bool) {
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
    pub(super) fn streams(&mut self, broadcast: &Broadcast) {
        match broadcast.pattern() {
            Some(matching) => self.key(&matching.pattern),
            None => self.key(&escaped(broadcast.stream())),
        }
    }

    /// The keys that an invalidation may clear, and their leases.
    pub(super) fn cache_keys(&mut self, route: &Invalidate) {
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
    pub(super) fn checkpoints(&mut self, at: &Endpoint, route: &str) {
        self.key(&format!("{}*", escaped(&redis_keys::of_replay(&at.key_prefix, route, ""))));
    }

    /// Returns whether `tidegate check --connect` looks at the server as this user.
    pub(super) fn is_checked(&self) -> bool {
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
}
