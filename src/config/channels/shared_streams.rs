//! Captures that can write one stream and keep unlike amounts of it: the smaller limit would remove what the other route
//! promises to keep.
//!
//! Every doubt counts, as in [`super::loops`]: a variable can be whatever the route's channels and patterns let it be, and
//! a filter may let everything through.

use std::collections::BTreeSet;

use super::loops;
use super::pattern_overlap::Glob;
use crate::config::settings::{Capture, Config, Keep};
use crate::text::template::Part;

/// Two captures of one stream.
pub(crate) struct SharedStream {
    /// The route.
    pub(crate) route: String,
    /// The one before it.
    pub(crate) other: String,
    /// What both can write, for an operator.
    pub(crate) stream: String,
}

/// Each route that shares a stream with an earlier one of a different retention, with the first such route.
pub(crate) fn find(config: &Config) -> Vec<SharedStream> {
    // Names that begin with the reserved prefix are tidegate's own, and no route can write them.
    let shareable = |route: &&Capture| {
        let begin = route.stream.parts().first();
        !matches!(begin, Some(Part::Literal(text)) if text.starts_with(&route.reserved))
    };
    let routes: Vec<(&Capture, WrittenStreams)> = config
        .capture
        .values()
        .map(AsRef::as_ref)
        .filter(shareable)
        .map(|route| (route, WrittenStreams::of(route)))
        .collect();
    let shared = routes.iter().enumerate().filter_map(|(index, (route, streams))| {
        let (other, _) = routes[..index].iter().find(|(other, its)| {
            !same_keep(&route.keep, &other.keep) && same_keys(config, route, other) && streams.meet(its)
        })?;
        let stream = if route.stream == other.stream {
            format!("the stream \"{}\"", route.stream)
        } else {
            format!("one stream (\"{}\" and \"{}\")", other.stream, route.stream)
        };
        Some(SharedStream { route: route.name.clone(), other: other.name.clone(), stream })
    });
    shared.collect()
}

fn same_keys(config: &Config, one: &Capture, other: &Capture) -> bool {
    let (one, other) = (config.redis.get(&one.destination), config.redis.get(&other.destination));
    one.zip(other).is_some_and(|(one, other)| loops::same_keys(one, other))
}

/// Returns whether both keep the same, in whatever order they name groups.
fn same_keep(one: &Keep, other: &Keep) -> bool {
    let sorted = |keep: &Keep| {
        let mut keep = keep.clone();
        if let Keep::UntilAcknowledged(until) = &mut keep {
            until.groups.sort_unstable();
        }
        keep
    };
    sorted(one) == sorted(other)
}

/// The names that a capture's template can make.
struct WrittenStreams {
    names: BTreeSet<Vec<u8>>,
    globs: Vec<Glob>,
}

impl WrittenStreams {
    fn of(route: &Capture) -> Self {
        let mut written = Self { names: BTreeSet::new(), globs: Vec::new() };
        let channels = route.channels.iter().map(|name| (name, false));
        let patterns = route.patterns.iter().map(|name| (name, true));
        for (subscribed, is_pattern) in channels.chain(patterns) {
            written.add(route, subscribed, is_pattern);
        }
        written
    }

    /// Adds what the template makes of messages of one subscription.
    fn add(&mut self, route: &Capture, subscribed: &str, is_pattern: bool) {
        let mut name = Some(Vec::new());
        let mut glob = Glob::name(b"");
        for part in route.stream.parts() {
            let text = match part {
                Part::Literal(text) => Some(text.as_str()),
                Part::Channel => (!is_pattern).then_some(subscribed),
                Part::Pattern => Some(subscribed),
                _ => None,
            };
            glob = glob.then(match (text, part) {
                (Some(text), _) => Glob::name(text.as_bytes()),
                (None, Part::Channel) => Glob::parse(subscribed.as_bytes()),
                (None, _) => Glob::parse(b"*"),
            });
            name = name.zip(text).map(|(name, text)| [name.as_slice(), text.as_bytes()].concat());
        }
        match name {
            Some(name) => drop(self.names.insert(name)),
            None if self.globs.contains(&glob) => {}
            None => self.globs.push(glob),
        }
    }

    fn meet(&self, other: &Self) -> bool {
        let named = |names: &BTreeSet<Vec<u8>>, globs: &[Glob]| {
            names
                .iter()
                .map(|name| Glob::name(name))
                .any(|name| globs.iter().any(|glob| glob.overlaps(&name)))
        };
        !self.names.is_disjoint(&other.names)
            || named(&self.names, &other.globs)
            || named(&other.names, &self.globs)
            || self.globs.iter().any(|one| other.globs.iter().any(|glob| one.overlaps(glob)))
    }
}
