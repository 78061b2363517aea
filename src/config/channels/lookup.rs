//! What a command asks of the configuration: which routes hold a stream, and which listen to a channel.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::loops;
use super::pattern_overlap::Glob;
use crate::config::redis_keys;
use crate::config::settings::{Capture, Config, Endpoint};
use crate::text::template::{Part, Template};

/// A route that writes or reads a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// The route.
    pub route: String,
    /// The endpoint that holds the stream.
    pub endpoint: String,
}

/// The routes that may write a stream of this name, and then those that read it.
#[must_use]
pub(crate) fn holders(config: &Config, stream: &str) -> Vec<Holder> {
    let name = Glob::name(stream.as_bytes());
    let written = config.capture.values().filter(|route| Glob::template(&route.stream).overlaps(&name));
    let written =
        written.map(|route| Holder { route: route.name.clone(), endpoint: route.destination.clone() });
    let read = config.broadcast.values().filter(|route| route.reads(stream));
    let read = read.map(|route| Holder { route: route.name.clone(), endpoint: route.source.clone() });
    written.chain(read).collect()
}

/// The captures that may receive a broadcast of this stream, each with its channel or pattern, in words for an operator.
#[must_use]
pub(crate) fn listeners(
    config: &Config,
    endpoint: &Endpoint,
    stream: &str,
    channel: &Template,
    sharded: bool,
) -> Vec<String> {
    let published = Glob::of_entry(channel, &Glob::name(stream.as_bytes()));
    let listens = config.capture.values().filter_map(|route| {
        let source = config.redis.get(&route.source)?;
        if !loops::same_server(source, endpoint) {
            return None;
        }
        let (kind, name) = loops::hears(route, &published, sharded)?;
        Some(format!("capture.{} listens to the {kind} \"{name}\"", route.name))
    });
    listens.collect()
}

/// How many captures subscribe on a server, and to how many different patterns.
#[must_use]
pub(crate) fn subscribed_patterns(config: &Config, endpoint: &Endpoint) -> (u64, u64) {
    let subscribes = |route: &&Arc<Capture>| {
        let source = config.redis.get(&route.source);
        route.mode.replication().is_none()
            && source.is_some_and(|source| loops::same_server(source, endpoint))
    };
    let captures: Vec<&Arc<Capture>> = config.capture.values().filter(subscribes).collect();
    let patterns: BTreeSet<&String> = captures.iter().flat_map(|route| &route.patterns).collect();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    (count(captures.len()), count(patterns.len()))
}

/// Returns whether what a template makes may be the channel of tidegate's own anchors and heartbeats.
#[must_use]
pub(crate) fn is_control(endpoint: &Endpoint, channel: &Template) -> bool {
    let control = redis_keys::control(&endpoint.key_prefix);
    match channel.parts() {
        [Part::Literal(text)] => *text == control,
        [Part::Literal(text), ..] => text.starts_with(&endpoint.key_prefix),
        _ => false,
    }
}
