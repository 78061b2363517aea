//! Loops between routes: a capture that reads what a broadcast publishes from the capture's own
//! stream would repeat one message for ever.
//!
//! Routes are the nodes of a graph; an arrow says that what one writes the other may read, on the
//! same server. A capture writes streams that broadcasts read, a broadcast publishes on channels
//! that captures read; so a loop goes round an even number of routes. Every doubt counts as an
//! arrow: a template can make whatever fits its literal parts, two names of one address are one
//! server. A loop that is refused wrongly costs a route's author another name; one that is let
//! through costs a server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::overlap::Glob;
use super::settings::{Address, Broadcast, Capture, Config, Endpoint};

/// A way from a capture's stream back to one of its own channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loop {
    /// The capture that it begins with.
    pub(crate) capture: String,
    steps: Vec<Step>,
}

/// One arrow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    /// What is read and written, for a person.
    by: String,
    /// The route that reads it.
    to: String,
}

impl fmt::Display for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "would repeat its own messages for ever\n  capture.{}", self.capture)?;
        for step in &self.steps {
            write!(f, "\n    → {} → {}", step.by, step.to)?;
        }
        f.write_str(
            "\n  publish on a channel that the capture does not read, or write to a stream that the \
             broadcast does not read",
        )
    }
}

/// The shortest loop through each capture, each set of routes once.
pub(crate) fn find(config: &Config) -> Vec<Loop> {
    let mut seen = BTreeSet::new();
    let mut loops = Vec::new();
    for capture in config.capture.values() {
        let Some(found) = through(config, capture) else { continue };
        let routes: BTreeSet<String> = found.steps.iter().map(|step| step.to.clone()).collect();
        if seen.insert(routes) {
            loops.push(found);
        }
    }
    loops
}

/// Breadth first, from the capture's stream back to the capture.
fn through(config: &Config, start: &Capture) -> Option<Loop> {
    let mut came: BTreeMap<&str, Vec<Step>> = BTreeMap::from([(start.name.as_str(), Vec::new())]);
    let mut queue = VecDeque::from([start]);
    while let Some(capture) = queue.pop_front() {
        for broadcast in config.broadcast.values() {
            let Some(stream) = stream_between(config, capture, broadcast) else { continue };
            for next in config.capture.values() {
                let Some(channel) = channel_between(config, broadcast, next) else { continue };
                let mut steps = came.get(capture.name.as_str()).cloned().unwrap_or_default();
                steps.push(Step { by: stream.clone(), to: format!("broadcast.{}", broadcast.name) });
                steps.push(Step { by: channel, to: format!("capture.{}", next.name) });
                if next.name == start.name {
                    return Some(Loop { capture: start.name.clone(), steps });
                }
                if !came.contains_key(next.name.as_str()) {
                    came.insert(&next.name, steps);
                    queue.push_back(next);
                }
            }
        }
    }
    None
}

/// The stream that a capture may write and a broadcast reads.
fn stream_between(config: &Config, capture: &Capture, broadcast: &Broadcast) -> Option<String> {
    let writes = config.redis.get(&capture.destination)?;
    let reads = config.redis.get(&broadcast.source)?;
    let same = same_server(writes, reads) && writes.database == reads.database;
    let overlap = Glob::template(&capture.stream).overlaps(&Glob::name(broadcast.stream.as_bytes()));
    (same && overlap).then(|| format!("stream \"{}\" on {}", broadcast.stream, capture.destination))
}

/// The channel that a broadcast may publish on and a capture reads. Pub/Sub knows no database.
fn channel_between(config: &Config, broadcast: &Broadcast, capture: &Capture) -> Option<String> {
    let publishes = config.redis.get(&broadcast.destination)?;
    let reads = config.redis.get(&capture.source)?;
    if !same_server(publishes, reads) {
        return None;
    }
    let published = Glob::template(&broadcast.channel);
    let channel = capture.channels.iter().find(|name| published.overlaps(&Glob::name(name.as_bytes())));
    let pattern =
        || capture.patterns.iter().find(|pattern| published.overlaps(&Glob::parse(pattern.as_bytes())));
    let (kind, read) = match channel {
        Some(channel) => ("channel", channel),
        None => ("pattern", pattern()?),
    };
    let on = &broadcast.destination;
    if broadcast.channel.literal() == Some(read) {
        return Some(format!("channel \"{read}\" on {on}"));
    }
    Some(format!("channel \"{}\" on {on}, read by the {kind} \"{read}\"", broadcast.channel))
}

fn same_server(one: &Endpoint, other: &Endpoint) -> bool {
    let local = |host: &str| matches!(host, "localhost" | "127.0.0.1" | "::1");
    match (&one.address, &other.address) {
        (Address::Tcp { host: a, port: p }, Address::Tcp { host: b, port: q }) => {
            p == q && (a.eq_ignore_ascii_case(b) || (local(a) && local(b)))
        }
        (one, other) => one == other,
    }
}
