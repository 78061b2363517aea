//! Obstacles and risks of the routes: a pure function of the probe's results.

use std::collections::BTreeSet;
use std::fmt;

use super::Inspection;
use super::facts::{ServerFacts, ServerKind, ServerStorage, ServerVersion};
use super::rights::{MissingRight, Rights};
use crate::config::Durability;
use crate::config::acl::AclRole;

/// A finding for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The routes cannot work so.
    Problem(String),
    /// They work, and promise less.
    Warning(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problem(text) => write!(f, "problem: {text}"),
            Self::Warning(text) => write!(f, "warning: {text}"),
        }
    }
}

/// The roles of an endpoint that has a route's streams.
const STREAMS: [AclRole; 3] =
    [AclRole::CaptureDestination, AclRole::BroadcastSource, AclRole::InvalidateSource];

/// Everything that is to be said of an endpoint which has these roles, and this durability as a destination.
#[must_use]
pub fn findings(found: &Inspection, roles: &BTreeSet<AclRole>, durability: Durability) -> Vec<Finding> {
    let mut findings = Vec::new();
    of_server(&found.facts, roles, &mut findings);
    if roles.contains(&AclRole::CaptureDestination) {
        findings.extend(of_durability(&found.facts, durability));
    }
    of_rights(&found.rights, roles, &mut findings);
    if STREAMS.iter().any(|role| roles.contains(role)) {
        of_keeping(&found.facts, &mut findings);
    }
    findings
}

/// The oldest version for a role. `#!lua`, with which the scripts of streams begin, came with Redis 7.0; RESP3 and
/// enforced channel rights, with 6.2.
fn oldest(kind: ServerKind, roles: &BTreeSet<AclRole>) -> Option<(ServerVersion, &'static str)> {
    let streams = STREAMS.iter().any(|role| roles.contains(role));
    match kind {
        ServerKind::Redis if streams => {
            Some((ServerVersion(7, 0, 0), "a server with streams must be Redis 7.0 or newer"))
        }
        ServerKind::Redis if roles.contains(&AclRole::InvalidateDestination) => {
            Some((ServerVersion(7, 0, 0), "a cache that tidegate clears must be Redis 7.0 or newer"))
        }
        ServerKind::Redis if roles.contains(&AclRole::BroadcastShards) => {
            Some((ServerVersion(7, 0, 0), "sharded = true needs SPUBLISH, which came with Redis 7.0"))
        }
        ServerKind::Redis => Some((ServerVersion(6, 2, 0), "it must be Redis 6.2 or newer")),
        ServerKind::Valkey => Some((ServerVersion(7, 2, 0), "it must be Valkey 7.2 or newer")),
        ServerKind::Dragonfly => None,
    }
}

fn of_server(facts: &ServerFacts, roles: &BTreeSet<AclRole>, findings: &mut Vec<Finding>) {
    let mut problem = |text: String| findings.push(Finding::Problem(text));
    match (facts.version, oldest(facts.kind, roles)) {
        (Some(version), Some((oldest, why))) if version < oldest => {
            problem(format!("{} {version} is too old: {why}", facts.kind));
        }
        _ => {}
    }
    let writes =
        roles.iter().any(|role| !matches!(role, AclRole::BroadcastDestination | AclRole::BroadcastShards));
    if writes && facts.master == Some(false) {
        problem("the server is a replica and accepts no writes: put the master into url".to_owned());
    }
    if !writes && facts.master == Some(false) {
        problem(
            "the server is a replica: what is published there does not reach subscribers of the master. Put the master into url"
                .to_owned(),
        );
    }
    if facts.kind == ServerKind::Dragonfly {
        findings.push(Finding::Warning(
            "tidegate is not tested with Dragonfly, which does not guarantee one order of messages"
                .to_owned(),
        ));
    }
    if facts.version.is_none() {
        findings.push(Finding::Warning(
            "the server does not report its version or role; grant +info to let tidegate check them, unless INFO is renamed \
             or disabled there"
                .to_owned(),
        ));
    }
    if facts.master.is_none() && roles.contains(&AclRole::CaptureTap) {
        findings.push(Finding::Problem(
            "mode = \"replication\" needs INFO, which the server rejects: use mode = \"subscribe\""
                .to_owned(),
        ));
    }
}

/// What a destination lacks for its durability.
fn of_durability(facts: &ServerFacts, durability: Durability) -> Option<Finding> {
    let (Durability::Replicated(needed), Some(connected)) = (durability, facts.replicas) else { return None };
    (connected < needed).then(|| {
        Finding::Problem(format!(
            "durability = \"replicated\" needs {needed} replicas, and {connected} are connected: nothing becomes durable, and \
             captures stop once a quarter of their memory is in use. Connect replicas, or lower replicas"
        ))
    })
}

/// The commands of the session marker's script. A source without one of these is captured all the same.
const MARKER_SCRIPT: [&str; 4] = ["eval", "get", "set", "time"];

/// Returns whether a command that the server does not know takes something from the routes, and does not stop them.
fn is_dispensable(refusal: &MissingRight, roles: &BTreeSet<AclRole>) -> bool {
    let only_source = !STREAMS.iter().any(|role| roles.contains(role));
    refusal.is_unknown_command() && only_source && MARKER_SCRIPT.contains(&refusal.trial.right)
}

fn of_rights(rights: &Rights, roles: &BTreeSet<AclRole>, findings: &mut Vec<Finding>) {
    let refused = match rights {
        Rights::Untried { error, needed: true } => {
            findings.push(Finding::Problem(format!(
                "missing permission +multi: {error}; without it the others could not be tested"
            )));
            return;
        }
        Rights::Untried { error, needed: false } => {
            findings.push(Finding::Warning(format!("the permissions could not be tested: {error}")));
            return;
        }
        Rights::Tried(refused) => refused,
    };
    let (dispensable, refused): (Vec<&MissingRight>, Vec<&MissingRight>) =
        refused.iter().partition(|refusal| is_dispensable(refusal, roles));
    if !dispensable.is_empty() {
        let unknown: Vec<String> =
            dispensable.iter().map(|refusal| refusal.trial.right.to_uppercase()).collect();
        findings.push(Finding::Warning(format!(
            "the session marker's script cannot run, so captures work without a standby: the server does not know {}",
            unknown.join(", ")
        )));
    }
    let missing = refused.iter().filter(|refusal| refusal.is_missing_right());
    findings.extend(
        missing.map(|refusal| {
            Finding::Problem(format!("missing permission {}: {}", refusal.trial, refusal.error))
        }),
    );
    // Such as OOM: it concerns every write alike, and is said once. So is each command that the server does not know.
    let mut said = BTreeSet::new();
    for refusal in refused.iter().filter(|refusal| !refusal.is_missing_right()) {
        let unknown = refusal.is_unknown_command().then_some(refusal.trial.right);
        if said.insert((refusal.error.code().map(str::to_owned), unknown)) {
            let cost = unknown.map(|right| format!(": {}", lost_without(right))).unwrap_or_default();
            findings.push(Finding::Problem(format!(
                "the server rejects {}{cost}: {}",
                refusal.trial,
                refusal.error.with_hint()
            )));
        }
    }
}

/// What the routes of a server lose that does not know a command.
fn lost_without(right: &str) -> &'static str {
    match right {
        "subscribe" | "psubscribe" | "exec" | "multi" => "captures cannot subscribe",
        "psync" | "replconf" => "the replication stream cannot be read; use mode = \"subscribe\"",
        "publish" | "spublish" => "session markers or messages are not published, and the routes stop",
        "hdel" => "an instance that stops does not hand over at once",
        "hincrby" => "batches are sent twice, and their messages are not counted",
        "xtrim" => "entries stay that are older than keep.age",
        "xlen" => "gaps cannot be recorded, and the route stops behind one",
        "xgroup|create" => "consumer groups are not created, and the route stops at a new stream",
        "smembers" | "srem" => "deleted streams count for max_streams",
        "zcard" => "entries that an earlier order has left behind are not counted",
        "wait" | "waitaof" => {
            "nothing becomes durable, and captures stop once a quarter of their memory is in use"
        }
        "ping" => "it cannot be told at a graceful stop whether everything was read",
        _ => "the routes that need it are blocked",
    }
}

/// Streams, position and cursor live there.
fn of_keeping(facts: &ServerFacts, findings: &mut Vec<Finding>) {
    let mut warn = |text: String| findings.push(Finding::Warning(text));
    if let Some(policy) = facts.eviction.as_deref().filter(|policy| *policy != "noeviction") {
        warn(format!(
            "maxmemory-policy is {policy}: when memory is full, the server may delete streams and positions; set noeviction"
        ));
    }
    match &facts.storage {
        ServerStorage::AppendOnly(Some(fsync)) if fsync == "no" => {
            warn(
                "appendfsync is no: a crash of the machine loses writes that are not on disk yet".to_owned(),
            );
        }
        ServerStorage::NoAppendOnly | ServerStorage::Nothing | ServerStorage::Snapshots => {
            warn("appendonly is no: a restart of the server loses entries; set appendonly yes".to_owned())
        }
        ServerStorage::AppendOnly(_) | ServerStorage::Unknown => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> ServerFacts {
        ServerFacts {
            notifications: None,
            kind: ServerKind::Redis,
            version: Some(ServerVersion(7, 0, 15)),
            mode: Some("standalone".to_owned()),
            master: Some(true),
            replicas: Some(1),
            eviction: Some("noeviction".to_owned()),
            storage: ServerStorage::AppendOnly(Some("always".to_owned())),
            backlog_bytes: None,
            backlog_ttl_seconds: None,
        }
    }

    fn of(facts: ServerFacts, role: AclRole) -> Vec<Finding> {
        findings(
            &Inspection { facts, rights: Rights::Tried(Vec::new()), certificates: None },
            &BTreeSet::from([role]),
            Durability::Applied,
        )
    }

    #[test]
    fn a_durability_needs_its_replicas() {
        for (durability, problem) in [
            (Durability::Replicated(1), false),
            (Durability::Replicated(2), true),
            (Durability::Fsynced, false),
        ] {
            assert_eq!(of_durability(&good(), durability).is_some(), problem, "{durability:?}");
        }
    }

    #[test]
    fn nothing_is_said_of_a_good_server() {
        for role in [AclRole::CaptureSource, AclRole::CaptureDestination, AclRole::BroadcastSource] {
            assert_eq!(of(good(), role), [], "{role}");
        }
    }

    #[test]
    fn a_version_is_too_old_for_a_role_and_a_program() {
        let with = |kind, version| ServerFacts { kind, version: Some(version), ..good() };
        let too_old = |facts, role| matches!(of(facts, role).as_slice(), [Finding::Problem(_)]);
        assert!(too_old(with(ServerKind::Redis, ServerVersion(6, 2, 14)), AclRole::CaptureDestination));
        assert!(too_old(with(ServerKind::Redis, ServerVersion(6, 2, 14)), AclRole::BroadcastSource));
        assert!(!too_old(with(ServerKind::Redis, ServerVersion(6, 2, 14)), AclRole::CaptureSource));
        assert!(too_old(with(ServerKind::Redis, ServerVersion(6, 0, 16)), AclRole::CaptureSource));
        assert!(too_old(with(ServerKind::Valkey, ServerVersion(7, 1, 9)), AclRole::BroadcastDestination));
        assert!(!too_old(with(ServerKind::Valkey, ServerVersion(7, 2, 0)), AclRole::CaptureDestination));
    }

    #[test]
    fn risks_to_what_is_kept_concern_what_holds_streams() {
        let risky = ServerFacts {
            eviction: Some("allkeys-lru".to_owned()),
            storage: ServerStorage::Snapshots,
            ..good()
        };
        assert_eq!(of(risky.clone(), AclRole::CaptureDestination).len(), 2);
        assert_eq!(of(risky, AclRole::CaptureSource), []);
    }

    #[test]
    fn a_replica_is_a_problem_where_tidegate_writes_or_publishes() {
        let replica = ServerFacts { master: Some(false), ..good() };
        for role in [AclRole::CaptureSource, AclRole::BroadcastDestination] {
            assert!(matches!(of(replica.clone(), role).as_slice(), [Finding::Problem(_)]));
        }
    }
}
