//! The commands that each role needs.

use super::roles::AclRole;

/// What `tidegate check --connect` does beyond what the routes do: it looks at the server, and tries the
/// rights in a transaction that it never executes. Connecting itself needs no right.
pub(super) const CHECK: &[&str] = &["info", "multi"];

/// Only where the endpoint's database is not the first.
pub(super) const SELECT: &str = "select";

/// Only where a broadcast publishes on another server than its stream's: elsewhere reading is answered
/// every second and proves as much.
pub(super) const PING: &str = "ping";

/// The commands of each role, beyond `CHECK`; each is sent by the code or called by a script.
pub(super) const RIGHTS: [(AclRole, &[&str]); 19] = [
    (AclRole::Sentinel, &["sentinel|master", "sentinel|get-master-addr-by-name", "role"]),
    (
        AclRole::CaptureSource,
        &["multi", "subscribe", "psubscribe", "eval", "exec", "time", "get", "set", "publish", "ping"],
    ),
    // PSYNC hands over every write of the server, whatever the rules for keys and channels say.
    (AclRole::CaptureTap, &["psync", "replconf", "publish"]),
    (
        AclRole::CaptureDestination,
        &[
            "script|load",
            "evalsha",
            "time",
            "hget",
            "hdel",
            "pexpire",
            "hmget",
            "hgetall",
            "hset",
            "hincrby",
            "xadd",
            "xtrim",
            "xlen",
            "xrange",
            "xgroup|create",
            "xinfo|groups",
            "sadd",
            "scard",
            "sismember",
            "smembers",
            "sscan",
            "srem",
        ],
    ),
    (
        AclRole::BroadcastSource,
        &[
            "script|load",
            "evalsha",
            "eval",
            "time",
            "hmget",
            "hset",
            "xadd",
            "xtrim",
            "xread",
            "xrange",
            "xinfo|stream",
            "zcard",
        ],
    ),
    (AclRole::BroadcastTap, &["psync", "replconf"]),
    (AclRole::BroadcastDestination, &["publish"]),
    (AclRole::BroadcastShards, &["spublish"]),
    (
        AclRole::InvalidateSource,
        &["xread", "xrange", "xinfo|stream", "eval", "xrevrange", "xadd", "xtrim", "time"],
    ),
    (AclRole::InvalidateDestination, &["script|load", "evalsha", "hmget", "hset", "unlink", "time"]),
    (
        AclRole::OperatorOfCapture,
        &[
            "xrange",
            "xrevrange",
            "xlen",
            "xread",
            "xdel",
            "xadd",
            "xgroup|create",
            "xinfo|groups",
            "eval",
            "sadd",
            "scard",
            "sismember",
            "smembers",
            "sscan",
            "srem",
        ],
    ),
    (AclRole::OperatorOfBroadcast, &["xrange", "xrevrange", "xlen", "xread", "xdel", "eval"]),
    (AclRole::OperatorOfInvalidate, &["time", "xrange", "xrevrange", "xlen", "xread", "xdel"]),
    (AclRole::OperatorOfCache, &["unlink", "scan"]),
    (AclRole::OperatorPublishing, &["publish"]),
    (AclRole::OperatorShards, &["spublish"]),
    (
        AclRole::ReplaySource,
        &[
            "time",
            "xrange",
            "xrevrange",
            "xread",
            "script|load",
            "eval",
            "evalsha",
            "hmget",
            "hset",
            "pexpire",
            "del",
        ],
    ),
    (AclRole::ReplayDestination, &["publish", "pubsub|numsub", "pubsub|channels", "pubsub|numpat"]),
    (AclRole::ReplayShards, &["spublish", "pubsub|shardnumsub", "pubsub|shardchannels"]),
];

/// Where entries are published once a group has acknowledged them, beyond `AclRole::BroadcastSource`.
pub(super) const ACKNOWLEDGED: &[&str] = &["xinfo|groups", "xpending"];

/// Where that is in the order of acknowledgements: what was left behind. Any other broadcast only counts what it
/// left behind when it had that order.
pub(super) const HOLES: &[&str] = &["zadd", "zrangebylex", "zrem"];

/// Where a broadcast reads every stream that matches a pattern: finding them, and forgetting those that are gone.
pub(super) const FINDING: &[&str] = &["scan", "smembers", "sadd", "srem", "hdel", "exists", "del"];

/// Where a broadcast publishes on another server than its stream's: which instance does so.
pub(super) const LEASE: &[&str] = &["hdel", "pexpire"];

/// A right beyond what routes need: everything does without it where it is not allowed. No rule allows single settings,
/// so it shows the server's passwords as well.
pub(super) const OPTIONAL: &str = "config|get";

/// What `tidegate check --connect` learns by the optional right.
pub(super) const CHECK_LEARNS: &str = "tidegate check --connect tells what the server keeps over a restart";

/// What reading the replication stream learns by it.
pub(super) const TAP_LEARNS: &str = "the daemon knows how long a master without replicas keeps its backlog (repl-backlog-ttl); else it assumes an hour";

/// What a capture of keyspace notifications learns by it.
pub(super) const NOTIFIED_LEARNS: &str = "/readyz tells which letters notify-keyspace-events lacks";
