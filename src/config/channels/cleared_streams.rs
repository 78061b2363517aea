//! What the keys and leases of an invalidation must not be: streams of the configuration, and tidegate's own keys under
//! another prefix. A route that removes them deletes what another one stores or reads.

use super::loops;
use super::pattern_overlap::Glob;
use crate::config::settings::{Config, Endpoint, Invalidate};
use crate::text::template::Part;

/// The invalidations that can remove such keys, each with what and which template.
pub(crate) fn find(config: &Config) -> Vec<(String, String)> {
    config.invalidate.values().filter_map(|route| Some((route.name.clone(), of(config, route)?))).collect()
}

fn of(config: &Config, route: &Invalidate) -> Option<String> {
    let cache = config.redis.get(&route.destination)?;
    let here = |at: &Endpoint| loops::same_server(at, cache) && at.database == cache.database;
    let streams = |server: &str| config.redis.get(server).is_some_and(|at| here(at));
    let captures = config
        .capture
        .values()
        .filter(|other| streams(&other.destination))
        .map(|other| (format!("the stream of capture.{}", other.name), Glob::template(&other.stream)));
    let broadcasts = config
        .broadcast
        .values()
        .filter(|other| streams(&other.source))
        .map(|other| (format!("the stream of broadcast.{}", other.name), loops::read_by(other)));
    let invalidations = config.invalidate.values().filter(|other| streams(&other.source)).map(|other| {
        (format!("the stream of invalidate.{}", other.name), Glob::name(other.stream.as_bytes()))
    });
    let prefixes =
        config.redis.values().filter(|at| here(at) && at.key_prefix != cache.key_prefix).map(|at| {
            let prefix = Glob::name(at.key_prefix.as_bytes()).then(Glob::parse(b"*"));
            (format!("a key of tidegate's own (\"{}…\")", at.key_prefix), prefix)
        });
    let entries = Glob::name(route.stream.as_bytes());
    let made: Vec<(String, Glob)> = route
        .keys
        .iter()
        .flat_map(|template| {
            let keys = Glob::of_entry(template, &entries);
            let lease = route.lease.as_ref().map(|lease| {
                let glob = lease.parts().iter().fold(Glob::name(b""), |glob, part| match part {
                    Part::Literal(text) => glob.then(Glob::name(text.as_bytes())),
                    _ => glob.then(keys.clone()),
                });
                (format!("{lease} of {template}"), glob)
            });
            std::iter::once((template.to_string(), keys)).chain(lease)
        })
        .collect();
    captures.chain(broadcasts).chain(invalidations).chain(prefixes).find_map(|(what, names)| {
        let (template, _) = made.iter().find(|(_, keys)| keys.overlaps(&names))?;
        Some(format!("\"{template}\" can make {what} on the same server, which would be removed"))
    })
}
