//! The names of the keys and channels that tidegate makes, one place for all of them.

/// Channel of anchors and heartbeats on a source.
#[must_use]
pub fn control(prefix: &str) -> String {
    format!("{prefix}control")
}

/// Key of the anchors' numbers on a source.
#[must_use]
pub fn epoch(prefix: &str) -> String {
    format!("{prefix}epoch")
}

/// Key of a route: `state`, `gaps`, `dead-letters`, `streams`, `lease`, `cursor` or `holes`.
#[must_use]
pub fn of_route(prefix: &str, route: &str, what: &str) -> String {
    format!("{prefix}{route}:{what}")
}

/// The same for one of the streams that a route found: `cursor`, `holes` or `lease`.
#[must_use]
pub fn of_stream(prefix: &str, route: &str, what: &str, stream: &str) -> String {
    of_route(prefix, route, &format!("{what}:{stream}"))
}

/// Key of a replay's checkpoint. `route` is one that writes or reads the stream, or the stream's own name.
#[must_use]
pub fn of_replay(prefix: &str, route: &str, job: &str) -> String {
    of_route(prefix, route, &format!("{REPLAY}{job}"))
}

/// What the last part of a replay's key begins with.
const REPLAY: &str = "replay:";
/// What the names of tidegate's own consumer groups begin with.
pub(crate) const OWN_GROUP: &str = "tidegate:";

/// What a capture keeps on its destination.
pub(crate) const OF_CAPTURE: [&str; 5] = ["state", "gaps", "dead-letters", "streams", LEASE];

/// What a broadcast leaves behind in the order of acknowledgements.
pub(crate) const HOLES: &str = "holes";

/// Which instance writes, or publishes on another server than the stream's.
pub(crate) const LEASE: &str = "lease";

/// What an invalidation stores of its channels.
pub(crate) const EVENTS: &str = "events";

/// Where a broadcast is in a stream, and what it has done.
pub(crate) const CURSOR: &str = "cursor";

/// The streams that a capture has made, or a broadcast has found.
pub(crate) const STREAMS: &str = "streams";

/// What a broadcast keeps beside its stream.
pub(crate) const OF_BROADCAST: [&str; 4] = [CURSOR, "dead-letters", HOLES, LEASE];

/// What it keeps for each stream where it reads several.
pub(crate) const OF_FOUND_STREAM: [&str; 3] = [CURSOR, HOLES, LEASE];
