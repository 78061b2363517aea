//! Names that the keys and leases of an invalidation must not have: streams of the configuration, and tidegate's own keys
//! under another prefix. A route that removes them deletes data of another route.

use super::loops;
use super::pattern_overlap::Glob;
use crate::config::settings::{Config, Endpoint, Invalidate};
use crate::text::template::Part;

/// What must not be removed.
struct KeptKeys<'c> {
    at: &'c Endpoint,
    /// For an operator.
    what: String,
    names: Glob,
    /// True for tidegate's own keys: those of the cache's prefix are known to the route itself.
    is_own: bool,
}

/// The invalidations that can remove such keys, each with what and which template.
pub(crate) fn find(config: &Config) -> Vec<(String, String)> {
    if config.invalidate.is_empty() {
        return Vec::new();
    }
    let kept = kept(config);
    config
        .invalidate
        .values()
        .filter_map(|route| Some((route.name.clone(), of(config, route, &kept)?)))
        .collect()
}

/// All such keys of the configuration.
fn kept(config: &Config) -> Vec<KeptKeys<'_>> {
    let captures = config.capture.values().map(|route| {
        (&route.destination, format!("the stream of capture.{}", route.name), Glob::template(&route.stream))
    });
    let broadcasts = config.broadcast.values().map(|route| {
        (&route.source, format!("the stream of broadcast.{}", route.name), loops::read_by(route))
    });
    let invalidations = config.invalidate.values().map(|route| {
        let names = Glob::name(route.stream.as_bytes());
        (&route.source, format!("the stream of invalidate.{}", route.name), names)
    });
    let streams = captures.chain(broadcasts).chain(invalidations).filter_map(|(server, what, names)| {
        Some(KeptKeys { at: config.redis.get(server)?.as_ref(), what, names, is_own: false })
    });
    let prefixes = config.redis.values().map(|at| {
        let names = Glob::name(at.key_prefix.as_bytes()).then(Glob::parse(b"*"));
        KeptKeys {
            at,
            what: format!("a key of tidegate's own (\"{}…\")", at.key_prefix),
            names,
            is_own: true,
        }
    });
    streams.chain(prefixes).collect()
}

fn of(config: &Config, route: &Invalidate, kept: &[KeptKeys<'_>]) -> Option<String> {
    let cache = config.redis.get(&route.destination)?;
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
    kept.iter().find_map(|KeptKeys { at, what, names, is_own }| {
        let (template, _) = made.iter().find(|(_, keys)| keys.overlaps(names))?;
        let counts = !is_own || at.key_prefix != cache.key_prefix;
        (counts && loops::same_keys(at, cache))
            .then(|| format!("\"{template}\" can make {what} on the same server, which would be removed"))
    })
}
