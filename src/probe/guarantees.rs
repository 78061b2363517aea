//! The guarantees of a route under failures, and the reasons: a pure function of its settings and of its endpoints'
//! facts. Nothing here is measured; it follows from how the route works.
//!
//! Three things fail: tidegate itself, the source, the destination. For each there are two questions,
//! what can be lost and what can be duplicated, with the remedy and the reasons.

use super::facts::{ServerFacts, ServerStorage};
use crate::config::{Capture, Durability, Mode};

/// The messages that can be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// No message can be lost.
    Nothing,
    /// Messages that were published during a recorded gap.
    InsideGap,
    /// Nothing, unless the source's replication backlog is exceeded; then messages inside a recorded gap.
    BeyondBacklog,
    /// Messages that the old master had not replicated; the failover is recorded.
    Unreplicated,
    /// Entries that the server acknowledged and then lost. They lie inside a recorded gap, because the position goes
    /// back with them.
    AcknowledgedInsideGap,
    /// Entries that the server acknowledged and then lost; nothing records it.
    Acknowledged,
}

/// The messages that can be duplicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// No message can be duplicated.
    Nothing,
    /// Messages that were published and not answered: a few batches.
    Unanswered,
    /// Messages that were published after the last cursor that the server still has.
    SinceCursor,
}

/// The promise for one failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// The messages that can be lost.
    pub missed: Missed,
    /// The messages that can be duplicated.
    pub repeated: Repeated,
    /// The operator's remedy.
    pub remedy: Option<&'static str>,
    /// Why, one sentence a reason.
    pub because: Vec<String>,
}

/// The promises of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarantee {
    /// When tidegate restarts, however it ended.
    pub restart: Promise,
    /// When another server takes the source's place.
    pub source_failover: Promise,
    /// When another server takes the destination's place, or the same one starts again.
    pub destination_failover: Promise,
}

/// The promises of a capture, with its destination's facts, if that was reached. `durability` is the destination's
/// option.
#[must_use]
pub fn of_capture(route: &Capture, durability: Durability, destination: Option<&ServerFacts>) -> Guarantee {
    let promise = |missed: Missed, remedy: Option<&'static str>, reason: &str| Promise {
        missed,
        repeated: Repeated::Nothing,
        remedy,
        because: vec![
            reason.to_owned(),
            "entries and the position are stored in one atomic step, so no entry is stored twice".to_owned(),
        ],
    };
    let (restart, source_failover) = match route.mode {
        Mode::Subscribe => (
            promise(
                Missed::InsideGap,
                Some("run a second instance, or set mode = \"replication\""),
                "Pub/Sub keeps no messages for a subscriber that is not connected; a second instance stays connected",
            ),
            promise(
                Missed::InsideGap,
                Some("set mode = \"replication\""),
                "the subscription ends with the server, and the new server publishes before tidegate is subscribed to it",
            ),
        ),
        Mode::Replication(_) => (
            promise(
                Missed::BeyondBacklog,
                Some("raise repl-backlog-size on the source"),
                "reading continues where it stopped, as far as the source's replication backlog reaches",
            ),
            promise(
                Missed::Unreplicated,
                None,
                "reading continues on the new master, if `addresses` lists it; replication is asynchronous",
            ),
        ),
    };
    Guarantee { restart, source_failover, destination_failover: stored(durability, destination) }
}

/// A capture's promise for a failover or restart of its destination.
fn stored(durability: Durability, destination: Option<&ServerFacts>) -> Promise {
    let lost = loses(destination);
    let (kept, missed) = match durability {
        _ if !lost.anything => ("tidegate keeps messages until they are durable", Missed::Nothing),
        Durability::Applied => (
            "tidegate keeps the messages of the last 2 s and stores them again (durability \"applied\"); the server can \
             lose more than that",
            Missed::AcknowledgedInsideGap,
        ),
        Durability::Replicated(_) => (
            "tidegate keeps messages until the replicas have them, and stores them again after a failover (durability \
             \"replicated\"); a master that restarts alone is not covered",
            if lost.restart { Missed::AcknowledgedInsideGap } else { Missed::Nothing },
        ),
        Durability::Fsynced => (
            "tidegate keeps messages until they are on the master's disk, and stores them again after a restart \
             (durability \"fsynced\"); a failover to a replica is not covered",
            if lost.failover { Missed::AcknowledgedInsideGap } else { Missed::Nothing },
        ),
    };
    let remedy = match (missed, durability, lost.restart, lost.failover) {
        (Missed::Nothing, ..) => None,
        (_, Durability::Replicated(_), ..) => Some("set appendfsync always on the destination"),
        (_, _, true, false) => Some(match destination {
            Some(facts) if facts.knows_waitaof() == Some(false) => {
                "connect a replica, and set durability = \"replicated\" (\"fsynced\" needs Redis 7.2)"
            }
            Some(ServerFacts { storage: ServerStorage::AppendOnly(_) | ServerStorage::Unknown, .. })
            | None => "set durability = \"fsynced\"",
            Some(_) => "set appendonly yes on the destination, and durability = \"fsynced\"",
        }),
        (_, _, false, _) => Some("set durability = \"replicated\""),
        (_, _, true, true) => {
            Some("set durability = \"replicated\", and appendfsync always on the destination")
        }
    };
    Promise {
        missed,
        repeated: Repeated::Nothing,
        remedy,
        because: vec![
            lost.why,
            kept.to_owned(),
            "messages that the server did not acknowledge stay buffered and are stored once it answers"
                .to_owned(),
        ],
    }
}

/// The base of every promise of a broadcast.
const WAITS: &str = "entries that are added meanwhile stay in the stream, unless they are trimmed";

/// The remedy for duplicates at subscribers of another server.
const BY_ID: &str = "set envelope = \"json\", and let subscribers drop ids that they have seen";

/// A broadcast's promise for publishing. `one_server`: stream and channel are on the same server. `source` are the
/// facts of the stream's server, if it was reached.
#[must_use]
pub fn of_broadcast(one_server: bool, source: Option<&ServerFacts>) -> Guarantee {
    let lost = loses(source);
    let stream_lost = Promise {
        missed: if lost.anything { Missed::Acknowledged } else { Missed::Nothing },
        repeated: match (one_server, lost.anything) {
            (true, false) => Repeated::Nothing,
            (false, false) => Repeated::Unanswered,
            (_, true) => Repeated::SinceCursor,
        },
        remedy: match (one_server, lost.restart, lost.failover) {
            (_, true, false) => Some("set appendfsync always on the stream's server"),
            (false, false, false) => Some(BY_ID),
            _ => None,
        },
        because: vec![
            lost.why,
            "the cursor is on the same server as the stream, and goes back together with it".to_owned(),
        ],
    };
    if one_server {
        return Guarantee {
            restart: Promise {
                missed: Missed::Nothing,
                repeated: Repeated::Nothing,
                remedy: None,
                because: vec![
                    "one atomic step publishes an entry and moves the cursor".to_owned(),
                    WAITS.to_owned(),
                ],
            },
            source_failover: stream_lost.clone(),
            destination_failover: stream_lost,
        };
    }
    let unanswered = |reason: &str| Promise {
        missed: Missed::Nothing,
        repeated: Repeated::Unanswered,
        remedy: Some(BY_ID),
        because: vec![reason.to_owned(), WAITS.to_owned()],
    };
    Guarantee {
        restart: unanswered("the entry is published on one server before the cursor moves on the other"),
        source_failover: stream_lost,
        destination_failover: unanswered("the cursor moves only after the server has answered each PUBLISH"),
    }
}

/// The acknowledged data that a server can lose.
struct ServerLoss {
    anything: bool,
    /// When it starts again.
    restart: bool,
    /// When a replica takes its place.
    failover: bool,
    why: String,
}

fn loses(server: Option<&ServerFacts>) -> ServerLoss {
    let Some(facts) = server else {
        return ServerLoss {
            anything: true,
            restart: true,
            failover: true,
            why: "the server was not reached; its persistence and its replicas are unknown".to_owned(),
        };
    };
    let restart = match &facts.storage {
        ServerStorage::AppendOnly(Some(fsync)) if fsync == "always" => None,
        ServerStorage::AppendOnly(Some(fsync)) if fsync == "everysec" => {
            Some("a crash of its machine loses about the last second (appendfsync everysec)")
        }
        ServerStorage::AppendOnly(Some(_)) => {
            Some("a crash of its machine loses writes that are not on disk yet (appendfsync no)")
        }
        ServerStorage::AppendOnly(None) => {
            Some("a crash of its machine can lose writes; the server does not report appendfsync")
        }
        ServerStorage::Snapshots => {
            Some("a restart loses the writes since the last snapshot (appendonly no)")
        }
        ServerStorage::Nothing => Some("a restart loses everything (appendonly no, no snapshots)"),
        ServerStorage::NoAppendOnly => {
            Some("a restart loses the writes since the last snapshot, if there is one (appendonly no)")
        }
        ServerStorage::Unknown => {
            Some("a restart can lose writes; the server does not report its persistence")
        }
    };
    let failover = match facts.replicas {
        Some(0) => None,
        Some(_) => {
            Some("replication is asynchronous: a failover loses writes that the new master did not have")
        }
        None => Some(
            "the server does not report its replicas; a failover loses writes that the new master did not have",
        ),
    };
    let reasons: Vec<&str> = failover.into_iter().chain(restart).collect();
    let why = if reasons.is_empty() {
        "it has no replica to fail over to, and writes to disk before it answers (appendfsync always)"
            .to_owned()
    } else {
        reasons.join("; ")
    };
    ServerLoss {
        anything: !reasons.is_empty(),
        restart: restart.is_some(),
        failover: failover.is_some(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::facts::{ServerKind, ServerVersion};
    use super::*;

    fn server(storage: ServerStorage, replicas: Option<u32>) -> ServerFacts {
        ServerFacts {
            notifications: None,
            kind: ServerKind::Valkey,
            version: Some(ServerVersion(9, 1, 2)),
            mode: Some("standalone".to_owned()),
            master: Some(true),
            replicas,
            eviction: Some("noeviction".to_owned()),
            storage,
            backlog_bytes: None,
            backlog_ttl_seconds: None,
        }
    }

    fn fsync(policy: &str) -> ServerStorage {
        ServerStorage::AppendOnly(Some(policy.to_owned()))
    }

    fn capture(destination: Option<&ServerFacts>) -> Guarantee {
        let loaded = crate::config::load(Path::new("config/examples/capture-raw.toml"), [], &[]).unwrap();
        of_capture(&loaded.config.capture["orders"], Durability::Applied, destination)
    }

    #[test]
    fn durability_covers_what_it_waits_for() {
        let loaded = crate::config::load(Path::new("config/examples/capture-raw.toml"), [], &[]).unwrap();
        let missed = |durability, storage, replicas| {
            let facts = server(storage, Some(replicas));
            of_capture(&loaded.config.capture["orders"], durability, Some(&facts)).destination_failover.missed
        };
        let everysec = || fsync("everysec");
        assert_eq!(missed(Durability::Fsynced, everysec(), 0), Missed::Nothing);
        assert_eq!(missed(Durability::Fsynced, everysec(), 1), Missed::AcknowledgedInsideGap);
        assert_eq!(missed(Durability::Replicated(1), everysec(), 1), Missed::AcknowledgedInsideGap);
        assert_eq!(missed(Durability::Replicated(1), fsync("always"), 1), Missed::Nothing);
    }

    #[test]
    fn the_advised_durability_works_on_that_server() {
        let advice = |kind, version, storage| {
            let facts = ServerFacts { kind, version: Some(version), ..server(storage, Some(0)) };
            capture(Some(&facts)).destination_failover.remedy.unwrap()
        };
        let redis = |minor, storage| advice(ServerKind::Redis, ServerVersion(7, minor, 0), storage);
        assert_eq!(redis(2, fsync("everysec")), "set durability = \"fsynced\"");
        assert!(
            redis(2, ServerStorage::Snapshots).starts_with("set appendonly yes on the destination, and ")
        );
        assert!(redis(0, fsync("everysec")).starts_with("connect a replica, and "));
        let valkey = advice(ServerKind::Valkey, ServerVersion(8, 0, 0), fsync("everysec"));
        assert_eq!(valkey, "set durability = \"fsynced\"");
    }

    #[test]
    fn a_capture_stores_no_duplicates_and_records_what_is_lost() {
        for destination in
            [None, Some(&server(fsync("always"), Some(0))), Some(&server(ServerStorage::Nothing, None))]
        {
            let found = capture(destination);
            for promise in [&found.restart, &found.source_failover] {
                assert_eq!((promise.missed, promise.repeated), (Missed::InsideGap, Repeated::Nothing));
            }
            assert_eq!(found.destination_failover.repeated, Repeated::Nothing);
        }
    }

    #[test]
    fn a_destination_loses_nothing_only_where_it_writes_through_and_has_no_replica() {
        let missed =
            |storage, replicas| capture(Some(&server(storage, replicas))).destination_failover.missed;
        assert_eq!(missed(fsync("always"), Some(0)), Missed::Nothing);
        for (storage, replicas) in [
            (fsync("always"), Some(1)),
            (fsync("always"), None),
            (fsync("everysec"), Some(0)),
            (fsync("no"), Some(0)),
            (ServerStorage::AppendOnly(None), Some(0)),
            (ServerStorage::Snapshots, Some(0)),
            (ServerStorage::Unknown, Some(0)),
        ] {
            assert_eq!(
                missed(storage.clone(), replicas),
                Missed::AcknowledgedInsideGap,
                "{storage} {replicas:?}"
            );
        }
        assert_eq!(capture(None).destination_failover.missed, Missed::AcknowledgedInsideGap);
    }

    #[test]
    fn a_broadcast_on_one_server_repeats_only_what_the_server_forgot() {
        let safe = of_broadcast(true, Some(&server(fsync("always"), Some(0))));
        assert_eq!((safe.restart.missed, safe.restart.repeated), (Missed::Nothing, Repeated::Nothing));
        assert_eq!(safe.source_failover, safe.destination_failover);
        assert_eq!(safe.source_failover.repeated, Repeated::Nothing);
        let failing = of_broadcast(true, Some(&server(fsync("always"), Some(2))));
        assert_eq!(failing.restart.repeated, Repeated::Nothing);
        assert_eq!(failing.source_failover.missed, Missed::Acknowledged);
        assert_eq!(failing.source_failover.repeated, Repeated::SinceCursor);
    }

    #[test]
    fn a_broadcast_to_another_server_is_at_least_once() {
        let found = of_broadcast(false, Some(&server(fsync("always"), Some(0))));
        for promise in [&found.restart, &found.source_failover, &found.destination_failover] {
            assert_eq!((promise.missed, promise.repeated), (Missed::Nothing, Repeated::Unanswered));
        }
    }
}
