//! What a route promises when something fails, and why: a pure function of its settings and of what was
//! found at its endpoints. Nothing here is measured; it is what follows from how the route works.
//!
//! Three things fail: tidegate itself, the source, the destination. For each there are two questions,
//! what can be missed and what can come twice, and the reasons.

use super::facts::{ServerFacts, ServerStorage};
use crate::config::{Capture, Durability, Mode};

/// What can be missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nothing.
    Nothing,
    /// What was published in a stretch of time that is recorded as a gap.
    InsideGap,
    /// What the server acknowledged and then lost; recorded as a gap, since the position goes back with it.
    AcknowledgedInsideGap,
    /// What the server acknowledged and then lost; nothing records it.
    Acknowledged,
}

/// What can come twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeated {
    /// Nothing.
    Nothing,
    /// What was published without the answer having come back: a few batches.
    Unanswered,
    /// What was published after the last write of the cursor that is still there.
    SinceCursor,
}

/// What is promised when one thing fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    /// What can be missed.
    pub missed: Missed,
    /// What can come twice.
    pub repeated: Repeated,
    /// Why, one sentence a reason.
    pub because: Vec<String>,
}

/// What a route promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarantee {
    /// When tidegate restarts, however it ended.
    pub restart: Promise,
    /// When another server takes the source's place.
    pub source_failover: Promise,
    /// When another server takes the destination's place, or the same one starts again.
    pub destination_failover: Promise,
}

/// What a capture promises, with what was found at its destination, if that was reached. `durability` is
/// what its configuration asks of the destination.
#[must_use]
pub fn of_capture(route: &Capture, durability: Durability, destination: Option<&ServerFacts>) -> Guarantee {
    let promise = |missed: Missed, reason: &str| Promise {
        missed,
        repeated: Repeated::Nothing,
        because: vec![
            reason.to_owned(),
            "each entry and the position behind it are stored in one step, so none is stored twice"
                .to_owned(),
        ],
    };
    let lost = loses(destination);
    let (kept, missed_there) = match durability {
        _ if !lost.anything => ("what is stored is kept until it is durable", Missed::Nothing),
        Durability::Applied => (
            "what was stored in its last seconds is stored again (durability \"applied\"), what it loses \
             beyond that is missed",
            Missed::AcknowledgedInsideGap,
        ),
        Durability::Replicated(_) => (
            "what is stored is kept until that many replicas have it (durability \"replicated\"), and \
             stored again by a tidegate that runs; a master that restarts alone is not covered",
            if lost.restart { Missed::AcknowledgedInsideGap } else { Missed::Nothing },
        ),
        Durability::Fsynced => (
            "what is stored is kept until it is on the master's disk (durability \"fsynced\"), and stored \
             again by a tidegate that runs; a failover to a replica is not covered",
            if lost.failover { Missed::AcknowledgedInsideGap } else { Missed::Nothing },
        ),
    };
    let (restart, source_failover) = match route.mode {
        Mode::Subscribe => (
            promise(
                Missed::InsideGap,
                "Pub/Sub has no memory, and one instance does not listen while it is away; with a second \
                 instance, which listens meanwhile, nothing is missed",
            ),
            promise(
                Missed::InsideGap,
                "the subscription ends with the server, and what the new one publishes first is not heard",
            ),
        ),
        Mode::Replication(_) => (
            promise(
                Missed::Nothing,
                "it reads on where it stopped, as far as the source's backlog reaches back; beyond that what \
                 is missed lies inside a recorded gap",
            ),
            promise(
                Missed::Nothing,
                "it reads on from the server that takes over, if the endpoint's addresses name it; only what \
                 the one before had not passed on is lost, and the failover is recorded",
            ),
        ),
    };
    Guarantee {
        restart,
        source_failover,
        destination_failover: Promise {
            missed: missed_there,
            repeated: Repeated::Nothing,
            because: vec![
                lost.why,
                kept.to_owned(),
                "what was not acknowledged waits in memory and on disk and is stored once, where the \
                 position says"
                    .to_owned(),
            ],
        },
    }
}

/// What every promise of a broadcast leans on.
const WAITS: &str = "what is added meanwhile waits in the stream, unless it is trimmed away";

/// What a broadcast promises. Each is about publishing: a message reaches who is subscribed then. `one_server` says that stream and channel are on the same server; `source`
/// is what was found where the stream is, if that was reached.
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
        because: vec![
            lost.why,
            "the cursor is on the same server as the stream, and goes back with it".to_owned(),
        ],
    };
    if one_server {
        return Guarantee {
            restart: Promise {
                missed: Missed::Nothing,
                repeated: Repeated::Nothing,
                because: vec![
                    "publishing and moving the cursor are one step on one server".to_owned(),
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
        because: vec![reason.to_owned(), WAITS.to_owned()],
    };
    Guarantee {
        restart: unanswered("on another server publishing comes first, and then the cursor moves"),
        source_failover: stream_lost,
        destination_failover: unanswered("the cursor waits until the server has answered each PUBLISH"),
    }
}

/// What a server can lose of what it has acknowledged.
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
            why: "the server was not reached, so nothing is known of its disk and its replicas".to_owned(),
        };
    };
    let restart = match &facts.storage {
        ServerStorage::AppendOnly(Some(fsync)) if fsync == "always" => None,
        ServerStorage::AppendOnly(Some(fsync)) if fsync == "everysec" => {
            Some("a crash of its machine loses about the last second (appendfsync everysec)")
        }
        ServerStorage::AppendOnly(Some(_)) => {
            Some("a crash of its machine loses what was not yet written (appendfsync no)")
        }
        ServerStorage::AppendOnly(None) => {
            Some("what a crash of its machine loses depends on appendfsync, which it does not tell")
        }
        ServerStorage::Snapshots => Some("a restart loses what came after the last snapshot (appendonly no)"),
        ServerStorage::Nothing => Some("a restart loses everything (appendonly no, no snapshots)"),
        ServerStorage::NoAppendOnly => {
            Some("a restart loses what came after the last snapshot, if there is one (appendonly no)")
        }
        ServerStorage::Unknown => Some("what a restart loses is unknown, since it does not tell"),
    };
    let failover = match facts.replicas {
        Some(0) => None,
        Some(_) => {
            Some("replicas follow with a delay, and a failover loses what had not reached the new master")
        }
        None => {
            Some("whether it has replicas is unknown; a failover loses what had not reached the new master")
        }
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
    fn a_capture_never_repeats_and_records_what_it_missed() {
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
