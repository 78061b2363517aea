//! The keys that tidegate itself writes on a capture's source, to distinguish their notifications from others.
//!
//! What a route does not count, no instance of it may count, or their positions would differ. So this follows from the
//! configuration alone, and it is part of what counts messages ([`super::super::revision`]). Keys are those of every route
//! of the configuration: two captures that read each other's notifications would feed each other as well.

use std::sync::Arc;

use super::loops;
use super::pattern_overlap::Glob;
use crate::config::settings::{Capture, Config, Endpoint, OwnKeys};
use crate::text::glob;
use crate::text::template::{Part, Template};

/// Sets `own` of every capture. A route that is shared by now is left as it is.
pub(crate) fn find(config: &mut Config) {
    let found: Vec<OwnKeys> = config.capture.values().map(|route| of(config, route)).collect();
    for (route, own) in config.capture.values_mut().zip(found) {
        if let Some(route) = Arc::get_mut(route) {
            route.own = own;
        }
    }
}

fn of(config: &Config, route: &Capture) -> OwnKeys {
    let mut own = OwnKeys::default();
    let Some(source) = config.redis.get(&route.source) else { return own };
    // Notifications are not in a replication stream, and few routes can hear any.
    if route.mode.replication().is_some() || loops::hears(route, &Glob::parse(b"__key*"), false).is_none() {
        return own;
    }
    let same = |endpoint: &Endpoint| loops::same_server(endpoint, source);
    for endpoint in config.redis.values().filter(|endpoint| same(endpoint)) {
        let keys = Glob::parse(format!("{}*", pattern(&endpoint.key_prefix)).as_bytes());
        if hears_of(route, "*", &keys) {
            own.prefixes.insert(endpoint.key_prefix.clone());
        }
    }
    for writer in config.capture.values() {
        let Some(endpoint) = config.redis.get(&writer.destination).filter(|endpoint| same(endpoint)) else {
            continue;
        };
        let database = endpoint.database;
        if hears_of(route, &database.to_string(), &Glob::template(&writer.stream)) {
            own.streams.insert((database, names(&writer.stream)));
        }
    }
    own
}

/// Returns whether a channel or pattern of a route may match a notification of such keys.
fn hears_of(route: &Capture, database: &str, keys: &Glob) -> bool {
    let by_key = Glob::parse(format!("__keyspace@{database}__:").as_bytes()).then(keys.clone());
    let by_event = Glob::parse(format!("__keyevent@{database}__:*").as_bytes());
    [by_key, by_event].iter().any(|channel| loops::hears(route, channel, false).is_some())
}

/// A pattern for the names that a template makes.
fn names(template: &Template) -> String {
    let part = |part: &Part| match part {
        Part::Literal(text) => pattern(text),
        _ => "*".to_owned(),
    };
    template.parts().iter().map(part).collect()
}

/// A pattern for one name.
fn pattern(name: &str) -> String {
    String::from_utf8_lossy(&glob::literal(name.as_bytes())).into_owned()
}
