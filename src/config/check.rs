//! From the raw types to the checked configuration: what no single value can say of itself.
//!
//! Every check continues after what it found. A route or an endpoint that has a problem is left out of
//! the result, so that checks across routes see only whole ones and do not report the same thing
//! twice; the configuration as a whole is then refused anyhow.

mod broadcast;
mod capture;
mod conditions;
mod daemon;
mod endpoint;
mod entry;
mod invalidate;
mod templates;

pub(crate) use templates::of_entry;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::Secrets;
use super::channels::{cleared_streams, gap_keys, loops, own_keys, shared_streams};
use super::layers::Layers;
use super::problems::{Key, Problems, near};
use super::raw;
use super::read::ReadTables;
use super::secrets::location::SecretPlaces;
use super::settings::{Capture, Config, Endpoint};
use crate::text::printable::PrintableLines;

/// The longest channel, stream or group: a name is repeated in keys, records and ACL rules, and the
/// loop check compares all of them with each other.
const MAX_NAME_BYTES: usize = 1024;

/// The common state of the checks.
pub(crate) struct Check<'a> {
    /// The origin of each key.
    pub(crate) layers: &'a Layers,
    /// The problems found.
    pub(crate) problems: &'a mut Problems,
    /// Values that are reported already.
    pub(crate) refused: &'a [Key],
    /// Where a file with a secret may be.
    pub(crate) places: &'a SecretPlaces,
    /// What is done about these files.
    pub(crate) secrets: Secrets,
}

/// Whether a route, or a server, can have this name.
pub(crate) fn is_route_name(name: &str) -> bool {
    let letter = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-');
    (1..=48).contains(&name.len()) && name.chars().all(letter)
}

/// Checks everything. What is returned counts only where no problem was found.
pub(crate) fn check(raw: raw::Raw, mut check: Check<'_>) -> Config {
    let mut disabled = disabled(&raw);
    let daemon = check.daemon(raw.daemon);
    let redis = check.each("redis", raw.redis, |check, key, name, raw| check.endpoint(key, name, raw));
    check.same_name_twice(&[
        ("capture", raw.capture.keys().collect()),
        ("broadcast", raw.broadcast.keys().collect()),
        ("invalidate", raw.invalidate.keys().collect()),
    ]);
    let max_message = daemon.memory_limit;
    let capture = check.each("capture", raw.capture, |check, key, name, raw| {
        check.capture(key, name, raw, &redis, max_message)
    });
    let broadcast = check.each("broadcast", raw.broadcast, |check, key, name, raw| {
        check.broadcast(key, name, raw, &redis, max_message)
    });
    let mut stored = Vec::new();
    let invalidate = check.each("invalidate", raw.invalidate, |check, key, name, raw| {
        let (route, capture) = check.invalidate(key, name, raw, &redis)?;
        if disabled.contains(name) {
            disabled.extend(capture.iter().map(|capture| capture.name.clone()));
        }
        stored.extend(capture.map(|capture| (key.clone(), capture)));
        Some(route)
    });
    // What follows looks at disabled routes as well: to enable one must not be refused at night.
    let mut config = Config { daemon, redis, capture, broadcast, invalidate, disabled };
    for (key, capture) in stored {
        check.add_capture(&key, capture, &mut config);
    }
    own_keys::find(&mut config);
    gap_keys::find(&mut config);
    for (name, message) in cleared_streams::find(&config) {
        let help =
            "put something in front that no such key begins with, or give the cache a server of its own";
        check.report_with(&Key::top("invalidate").at(&name).at("keys"), message, help);
    }
    for shared in shared_streams::find(&config) {
        let keep = |route: &str| Key::top("capture").at(route).at("keep");
        let (other, destination) = (&shared.other, &config.capture[&shared.route].destination);
        let place = check.layers.place(&keep(other));
        let stream = &shared.stream;
        let message = format!(
            "differs from capture.{other}.keep ({place}), and both can write {stream} on {destination}: the smaller \
             limit would remove what the other route keeps"
        );
        check.report_with(
            &keep(&shared.route),
            message,
            "write the same keep in both, or streams that no message of both can have (a filter is not considered)",
        );
    }
    for found in loops::find(&config) {
        let (table, name) = &found.first;
        let key = Key::top(table).at(name);
        check.report(&key, found.lines());
    }
    config
}

/// The routes that are written with `enabled = false`.
fn disabled(raw: &raw::Raw) -> BTreeSet<String> {
    let captures = raw.capture.iter().map(|(name, route)| (name, route.enabled));
    let broadcasts = raw.broadcast.iter().map(|(name, route)| (name, route.enabled));
    let invalidations = raw.invalidate.iter().map(|(name, route)| (name, route.enabled));
    let routes = captures.chain(broadcasts).chain(invalidations);
    routes.filter(|(_, enabled)| !enabled).map(|(name, _)| name.clone()).collect()
}

impl Check<'_> {
    fn each<R, T>(
        &mut self,
        table: &str,
        raw: BTreeMap<String, R>,
        mut checked: impl FnMut(&mut Self, &Key, &str, R) -> Option<T>,
    ) -> BTreeMap<String, Arc<T>> {
        let mut good = BTreeMap::new();
        for (name, raw) in raw {
            let key = Key::top(table).at(&name);
            self.route_name(&key, &name);
            let before = self.problems.len();
            let value = checked(self, &key, &name, raw);
            if let Some(value) = value.filter(|_| self.problems.len() == before) {
                good.insert(name, Arc::new(value));
            }
        }
        good
    }

    /// Notes a problem.
    pub(crate) fn report(&mut self, key: &Key, message: impl Into<PrintableLines>) {
        self.problems.push(self.layers.problem(key, message));
    }

    /// Notes a problem and what to do about it.
    pub(crate) fn report_with(
        &mut self,
        key: &Key,
        message: impl Into<PrintableLines>,
        help: impl Into<String>,
    ) {
        self.problems.push(self.layers.problem(key, message).help(help));
    }

    /// A value that must be given.
    pub(crate) fn required<T>(&mut self, value: Option<T>, key: &Key, expected: &str) -> Option<T> {
        if value.is_none() && !self.refused.contains(key) {
            self.report(key, format!("is missing; expected {expected}"));
        }
        value
    }

    /// An endpoint that a route names. `Some` where it exists, even when it has problems of its own.
    pub(crate) fn endpoint_named(
        &mut self,
        name: Option<String>,
        key: &Key,
        endpoints: &BTreeMap<String, Arc<Endpoint>>,
    ) -> Option<String> {
        let name = self.required(name, key, "the name of a server, [redis.NAME]")?;
        let written = self.layers.names("redis");
        if endpoints.contains_key(&name) || written.contains(&name) {
            return Some(name);
        }
        let help = match near(&name, written.iter().map(String::as_str)) {
            Some(guess) => guess,
            None if written.is_empty() => format!("add a table [redis.{name}] with its url"),
            None => format!("known: {}", written.into_iter().collect::<Vec<_>>().join(", ")),
        };
        self.report_with(key, format!("there is no server [redis.{name}]"), help);
        None
    }

    /// The name of an origin, which goes into messages.
    pub(crate) fn origin(&mut self, key: &Key, origin: Option<&str>) {
        if let Some(origin) = origin {
            self.route_name(key, origin);
        }
    }

    /// Names that go into keys, metrics and environment variables.
    fn route_name(&mut self, key: &Key, name: &str) {
        if !is_route_name(name) {
            self.report(key, "the name must be 1 to 48 of a-z, 0-9, '_' and '-'");
        }
    }

    /// A list of names without a name twice, an empty one or an absurd one.
    pub(crate) fn names(&mut self, key: &Key, what: &str, names: &[String]) {
        let mut seen = HashSet::new();
        for (index, name) in names.iter().enumerate() {
            let at = key.at(&index.to_string());
            self.name(&at, what, name);
            if !seen.insert(name) {
                self.report(&at, format!("the {what} \"{name}\" is listed twice"));
            }
        }
    }

    /// One channel, stream or group.
    pub(crate) fn name(&mut self, key: &Key, what: &str, name: &str) {
        if name.is_empty() {
            self.report(key, format!("the name of a {what} is empty"));
        } else if name.len() > MAX_NAME_BYTES {
            let length = name.len();
            self.report(key, format!("the name of a {what} has {length} bytes; at most {MAX_NAME_BYTES}"));
        }
    }

    /// A message is held in memory as a whole. `limit` says what else there is, with the reason.
    pub(crate) fn max_message_size(
        &mut self,
        key: &Key,
        size: raw::Size,
        memory_limit: u64,
        limit: (u64, &str),
    ) -> u64 {
        let most = memory_limit.min(limit.0);
        if size.0 == 0 || size.0 > most {
            let most = raw::Size(most);
            self.report_with(
                key,
                format!("expected a size from 1B to {most}, found {size}"),
                format!("the maximum is daemon.memory_limit, and never more than {}", limit.1),
            );
        }
        size.0
    }

    /// Adds the capture that an invalidation with channels stands for.
    fn add_capture(&mut self, key: &Key, capture: Capture, config: &mut Config) {
        let name = capture.name.clone();
        if config.has_route(&name) {
            let message = format!("its capture would have the name \"{name}\", which another route has");
            self.report_with(key, message, "rename one of the two");
        } else {
            self.route_name(key, &name);
            config.capture.insert(name, Arc::new(capture));
        }
    }

    /// Each kind of routes keeps `PREFIX ROUTE:dead-letters`, and metrics name a route by its name alone.
    fn same_name_twice(&mut self, kinds: &[(&str, Vec<&String>)]) {
        let mut taken = BTreeMap::new();
        for (table, names) in kinds {
            for name in names {
                let Some(other) = taken.insert(*name, *table) else { continue };
                let place = self.layers.place(&Key::top(other).at(name));
                let key = Key::top(table).at(name);
                let message = format!("the name is taken by {other}.{name} ({place})");
                self.report_with(&key, message, "both would use the same key for dead letters: rename one");
            }
        }
    }
}

/// Reads the raw types out of the layers and checks them.
///
/// # Errors
/// Everything that was found.
pub(crate) fn checked(
    layers: &Layers,
    read: ReadTables,
    places: &SecretPlaces,
    secrets: Secrets,
    mut problems: Problems,
) -> Result<Config, Problems> {
    layers.refuse_twice_defined(&mut problems);
    let ReadTables { raw, refused } = read;
    let context = Check { layers, problems: &mut problems, refused: &refused, places, secrets };
    let config = check(raw, context);
    problems.into_result()?;
    Ok(config)
}
