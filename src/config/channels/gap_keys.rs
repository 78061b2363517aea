//! The keys in which the captures of an invalidation's stream record their gaps. A change that was published in a gap has no
//! entry, so the invalidation must know of the gap.

use std::sync::Arc;

use super::loops;
use super::pattern_overlap::Glob;
use crate::config::redis_keys;
use crate::config::settings::{Capture, Config, Invalidate};

/// Sets the gap keys of every invalidation. A route that is shared by now is left as it is.
pub(crate) fn find(config: &mut Config) {
    if config.invalidate.is_empty() {
        return;
    }
    let written: Vec<(&Capture, Glob)> =
        config.capture.values().map(|route| (route.as_ref(), Glob::template(&route.stream))).collect();
    let found: Vec<Vec<String>> =
        config.invalidate.values().map(|route| of(config, route, &written)).collect();
    for (route, gaps) in config.invalidate.values_mut().zip(found) {
        if let Some(route) = Arc::get_mut(route) {
            route.gaps = gaps;
        }
    }
}

fn of(config: &Config, route: &Invalidate, written: &[(&Capture, Glob)]) -> Vec<String> {
    let Some(source) = config.redis.get(&route.source) else { return Vec::new() };
    let stream = Glob::name(route.stream.as_bytes());
    let writers = written.iter().filter(|(_, names)| names.overlaps(&stream)).filter_map(|(capture, _)| {
        let at = config.redis.get(&capture.destination)?;
        loops::same_keys(at, source).then(|| redis_keys::of_route(&at.key_prefix, &capture.name, "gaps"))
    });
    writers.collect()
}
