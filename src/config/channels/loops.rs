//! Loops between routes: a capture that reads what a broadcast publishes from the capture's own
//! stream would repeat one message for ever.
//!
//! Routes are the nodes of a graph; an arrow says that what one makes the other may read, on the
//! same server:
//!
//! | from | what it makes | who may read it |
//! |---|---|---|
//! | capture | entries of its streams, dead letters, gap records | broadcasts of such a stream |
//! | broadcast | messages on its channel | captures of that channel; of SPUBLISH only those in replication mode with `sharded` |
//! | broadcast | dead letters | broadcasts of that stream, itself included |
//! | either | notifications of the keys that it writes | captures of channels that begin with `__key` |
//!
//! Every doubt counts as an arrow: a template can make whatever fits its literal parts, and its `<stream>` is whatever the
//! broadcast reads; a filter may let everything through, two names of one address are one server. A loop that is refused wrongly costs a
//! route's author another name; one that is let through costs a server. Patterns that do not begin with
//! `__key` are not taken to be meant for notifications, which servers do not send unless they are told to.
//! Between a broadcast and a capture with the same `origin` there is no arrow: the capture leaves out what the broadcast
//! marks. A way back through other daemons or scripts is not noticed here. A broadcast with an `origin` notices it in the
//! messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::pattern_overlap::Glob;
use crate::config::redis_keys;
use crate::config::settings::{Address, Broadcast, Capture, Config, Endpoint};
use crate::text::printable::PrintableLines;

/// What the server notifies of when a route writes, as events of keys.
const EVENTS: [&str; 11] =
    ["xadd", "xtrim", "xgroup-create", "hset", "hincrby", "hdel", "expire", "sadd", "zadd", "zrem", "del"];

/// A way from what a route makes back to the route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loop {
    /// The route that it begins with: its table and its name.
    pub(crate) first: (&'static str, String),
    steps: Vec<LoopStep>,
}

/// One arrow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LoopStep {
    /// What is read and written, for an operator.
    by: String,
    /// The route that reads it.
    to: String,
}

impl Loop {
    /// The way, for an operator.
    pub(crate) fn lines(&self) -> PrintableLines {
        let (table, name) = &self.first;
        let mut lines = PrintableLines::from("would repeat its own messages forever");
        lines.push(format_args!("  {table}.{name}"));
        for step in &self.steps {
            lines.push(format_args!("    → {} → {}", step.by, step.to));
        }
        let with_origin = if self.steps.iter().any(|step| step.by.starts_with("channel ")) {
            "; or set the same origin in the broadcast and in the capture that reads its channel"
        } else {
            ""
        };
        lines.push(format_args!(
            "  publish on a channel that the capture does not read, or write to a stream that the broadcast does not \
             read{with_origin}"
        ));
        lines
    }
}

/// A route.
#[derive(Debug, Clone, Copy)]
enum LoopNode<'c> {
    Capture(&'c Capture),
    Broadcast(&'c Broadcast),
}

impl LoopNode<'_> {
    fn key(self) -> (&'static str, String) {
        match self {
            Self::Capture(route) => ("capture", route.name.clone()),
            Self::Broadcast(route) => ("broadcast", route.name.clone()),
        }
    }
}

/// The shortest loop through each route, each set of routes once.
pub(crate) fn find(config: &Config) -> Vec<Loop> {
    let captures = config.capture.values().map(|route| LoopNode::Capture(route));
    let nodes: Vec<LoopNode<'_>> =
        captures.chain(config.broadcast.values().map(|route| LoopNode::Broadcast(route))).collect();
    let mut seen = BTreeSet::new();
    let mut loops = Vec::new();
    for start in &nodes {
        let Some(found) = through(config, &nodes, *start) else { continue };
        let routes: BTreeSet<String> = found.steps.iter().map(|step| step.to.clone()).collect();
        if seen.insert(routes) {
            loops.push(found);
        }
    }
    loops
}

/// Breadth first, from what the route makes back to the route.
fn through(config: &Config, nodes: &[LoopNode<'_>], start: LoopNode<'_>) -> Option<Loop> {
    let mut came = BTreeMap::from([(start.key(), Vec::new())]);
    let mut queue = VecDeque::from([start]);
    while let Some(from) = queue.pop_front() {
        for to in nodes {
            let Some(by) = arrow(config, from, *to) else { continue };
            let key = to.key();
            let mut steps: Vec<LoopStep> = came.get(&from.key()).cloned().unwrap_or_default();
            steps.push(LoopStep { by, to: format!("{}.{}", key.0, key.1) });
            if key == start.key() {
                return Some(Loop { first: key, steps });
            }
            if let std::collections::btree_map::Entry::Vacant(entry) = came.entry(key) {
                entry.insert(steps);
                queue.push_back(*to);
            }
        }
    }
    None
}

/// What of one route the other may read.
fn arrow(config: &Config, from: LoopNode<'_>, to: LoopNode<'_>) -> Option<String> {
    match (from, to) {
        (LoopNode::Capture(capture), LoopNode::Broadcast(broadcast)) => {
            stream_between(config, capture, broadcast)
        }
        (LoopNode::Broadcast(one), LoopNode::Broadcast(other)) => dead_letters_between(config, one, other),
        (LoopNode::Broadcast(broadcast), LoopNode::Capture(capture)) => {
            channel_between(config, broadcast, capture)
                .or_else(|| notification_between(config, from, capture))
        }
        (LoopNode::Capture(_), LoopNode::Capture(capture)) => notification_between(config, from, capture),
    }
}

/// The stream that a capture may write and a broadcast reads.
fn stream_between(config: &Config, capture: &Capture, broadcast: &Broadcast) -> Option<String> {
    let writes = config.redis.get(&capture.destination)?;
    let reads = config.redis.get(&broadcast.source)?;
    let read = read_by(broadcast);
    let own =
        ["dead-letters", "gaps"].map(|what| redis_keys::of_route(&writes.key_prefix, &capture.name, what));
    let written =
        Glob::template(&capture.stream).overlaps(&read) || own.iter().any(|stream| broadcast.reads(stream));
    (same_keys(writes, reads) && written)
        .then(|| format!("stream \"{}\" on {}", broadcast.stream(), capture.destination))
}

/// The names of the streams that a broadcast reads.
pub(crate) fn read_by(broadcast: &Broadcast) -> Glob {
    let stream = broadcast.stream().as_bytes();
    if broadcast.pattern().is_some() { Glob::parse(stream) } else { Glob::name(stream) }
}

/// The dead letters of one broadcast, if another one, or the same one, reads them.
fn dead_letters_between(config: &Config, one: &Broadcast, other: &Broadcast) -> Option<String> {
    let writes = config.redis.get(&one.source)?;
    let reads = config.redis.get(&other.source)?;
    let written = other.reads(&redis_keys::of_route(&writes.key_prefix, &one.name, "dead-letters"));
    (same_keys(writes, reads) && written).then(|| format!("stream \"{}\" on {}", other.stream(), one.source))
}

/// The channel that a broadcast may publish on and a capture reads. Pub/Sub knows no database.
fn channel_between(config: &Config, broadcast: &Broadcast, capture: &Capture) -> Option<String> {
    // The capture leaves out what the broadcast marks.
    if broadcast.origin.is_some() && broadcast.origin == capture.origin {
        return None;
    }
    let publishes = config.redis.get(&broadcast.destination)?;
    let reads = config.redis.get(&capture.source)?;
    if !same_server(publishes, reads) {
        return None;
    }
    let published = Glob::of_entry(&broadcast.channel, &read_by(broadcast));
    let (kind, read) = hears(capture, &published, broadcast.sharded)?;
    let on = &broadcast.destination;
    if broadcast.channel.literal() == Some(read) {
        return Some(format!("channel \"{read}\" on {on}"));
    }
    Some(format!("channel \"{}\" on {on}, read by the {kind} \"{read}\"", broadcast.channel))
}

/// The notifications of what a route writes that a capture reads. They are not in a replication stream.
fn notification_between(config: &Config, from: LoopNode<'_>, to: &Capture) -> Option<String> {
    let meant = |name: &str| name.starts_with("__key");
    // Few captures read any, and this is asked of each pair of routes.
    if !to.channels.iter().chain(&to.patterns).any(|name| meant(name)) {
        return None;
    }
    let (name, kinds, stream) = match from {
        LoopNode::Capture(route) => (&route.destination, &redis_keys::OF_CAPTURE[..], Some(&route.stream)),
        LoopNode::Broadcast(route) => (&route.source, &redis_keys::OF_BROADCAST[..], None),
    };
    let (writes, reads): (&Arc<Endpoint>, _) = (config.redis.get(name)?, config.redis.get(&to.source)?);
    if to.mode.replication().is_some() || !same_server(writes, reads) {
        return None;
    }
    let route = from.key().1;
    let own = kinds
        .iter()
        .map(|kind| Glob::name(redis_keys::of_route(&writes.key_prefix, &route, kind).as_bytes()));
    let written = own.chain(stream.map(Glob::template));
    let by_key = Glob::name(format!("__keyspace@{}__:", writes.database).as_bytes());
    let by_event =
        EVENTS.map(|event| Glob::name(format!("__keyevent@{}__:{event}", writes.database).as_bytes()));
    let mut notified = written.map(|key| by_key.clone().then(key)).chain(by_event);
    let (kind, read) = notified.find_map(|channel| reading(to, &channel, meant))?;
    Some(format!("notifications of its keys on {name}, read by the {kind} \"{read}\""))
}

/// The subscription with which a capture receives these messages. Only a replication stream has those of SPUBLISH.
pub(crate) fn hears<'c>(
    capture: &'c Capture,
    published: &Glob,
    sharded: bool,
) -> Option<(&'static str, &'c str)> {
    let reaches = !sharded || capture.mode.replication().is_some_and(|tap| tap.sharded);
    if reaches { reading(capture, published, |_| true) } else { None }
}

/// The subscription of a capture that a channel may reach.
fn reading<'c>(
    capture: &'c Capture,
    channel: &Glob,
    counts: impl Fn(&str) -> bool,
) -> Option<(&'static str, &'c str)> {
    let of = |kind, names: &'c [String], glob: fn(&[u8]) -> Glob| {
        let mut names = names.iter().filter(|name| counts(name));
        names.find(|name| channel.overlaps(&glob(name.as_bytes()))).map(|name| (kind, name.as_str()))
    };
    of("channel", &capture.channels, Glob::name).or_else(|| of("pattern", &capture.patterns, Glob::parse))
}

/// Returns whether one key is the same for both.
pub(crate) fn same_keys(one: &Endpoint, other: &Endpoint) -> bool {
    same_server(one, other) && one.database == other.database
}

/// Returns whether both may stand for one server, or for servers of one deployment.
pub(crate) fn same_server(one: &Endpoint, other: &Endpoint) -> bool {
    one.shares_server(other, same_address)
}

fn same_address(one: &Address, other: &Address) -> bool {
    let local = |host: &str| matches!(host, "localhost" | "127.0.0.1" | "::1");
    match (one, other) {
        (Address::Tcp { host: a, port: p }, Address::Tcp { host: b, port: q }) => {
            p == q && (a.eq_ignore_ascii_case(b) || (local(a) && local(b)))
        }
        (one, other) => one == other,
    }
}
