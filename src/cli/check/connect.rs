//! `tidegate check --connect`: asks every endpoint at the same time, and prints what was found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::line;
use crate::config::{
    self, Acknowledged, Broadcast, Capture, Config, Endpoint, Order, Prefer, UntilAcknowledged,
};
use crate::probe::{self, Facts, Finding, Found, Guarantee, Missed, Promise, Repeated, Rights};
use crate::rt;
use crate::server::{Error, Expiries};

/// So long before a certificate expires it is warned of.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);

type Answers = BTreeMap<String, Result<Found, Error>>;

/// The report, and whether every endpoint can be used. Each endpoint's own time-outs bound it.
pub(super) async fn connect(config: Config) -> (String, bool) {
    let answers = ask(&config).await;
    let mut out = String::new();
    let mut usable = true;
    for (name, answer) in &answers {
        usable &= endpoint(&mut out, &config, &config.redis[name], answer);
        out.push('\n');
    }
    let facts = |name: &str| answers.get(name)?.as_ref().ok().map(|found| &found.facts);
    for route in config.capture.values() {
        let guarantee =
            probe::of_capture(route, config.redis[&route.destination].durability, facts(&route.destination));
        line(&mut out, format_args!("capture {}: {} → {}", route.name, route.source, route.destination));
        guarantees(&mut out, &guarantee, "published", "stored");
        if let Some(until) = route.keep.until_acknowledged() {
            trimming(&mut out, until, facts(&route.destination));
        }
        notifications(&mut out, route, facts(&route.source));
        if let Some(replication) = route.mode.replication() {
            tap(&mut out, replication.prefer, facts(&route.source));
        }
    }
    for route in config.broadcast.values() {
        let guarantee = probe::of_broadcast(on_one_server(&config, route), facts(&route.source));
        line(&mut out, format_args!("broadcast {}: {} → {}", route.name, route.source, route.destination));
        guarantees(&mut out, &guarantee, "added", "published");
        line(
            &mut out,
            format_args!("  always: a published message reaches who is subscribed at that moment"),
        );
        if let Some(acknowledged) = route.acknowledged() {
            waiting(&mut out, acknowledged);
            if acknowledged.replication {
                tap(&mut out, Prefer::Replica, facts(&route.source));
            }
        }
    }
    (out, usable)
}

async fn ask(config: &Config) -> Answers {
    let asked: Vec<_> = config
        .redis
        .iter()
        .map(|(name, endpoint)| {
            let (endpoint, trials) = (Arc::clone(endpoint), probe::trials(config, endpoint));
            let look = async move { probe::look(&endpoint, &trials).await };
            (name.clone(), rt::spawn("check of an endpoint", look))
        })
        .collect();
    let mut answers = Answers::new();
    for (name, task) in asked {
        let answer = task.await.unwrap_or_else(|error| Err(Error::Refused(error.to_string())));
        answers.insert(name, answer);
    }
    answers
}

/// Whether publishing and moving the cursor are one step, as the route itself decides it.
fn on_one_server(config: &Config, route: &Broadcast) -> bool {
    config.redis[&route.source].is_same_server(&config.redis[&route.destination])
}

/// Prints what was found at an endpoint; whether it can be used.
fn endpoint(out: &mut String, config: &Config, endpoint: &Endpoint, answer: &Result<Found, Error>) -> bool {
    let user = endpoint.username.as_deref().unwrap_or("default");
    line(out, format_args!("endpoint {} ({}, user {user})", endpoint.name, endpoint.address));
    let found = match answer {
        Ok(found) => found,
        Err(error) => {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            line(out, format_args!("  problem: cannot be used: {error}{hint}"));
            return false;
        }
    };
    server(out, found);
    if let Some(expiries) = found.certificates {
        certificates(out, expiries);
    }
    let findings = probe::findings(found, &probe::roles(config, &endpoint.name));
    for finding in &findings {
        line(out, format_args!("  {finding}"));
    }
    !findings.iter().any(|finding| matches!(finding, Finding::Problem(_)))
}

fn server(out: &mut String, found: &Found) {
    let facts = &found.facts;
    let version =
        facts.version.map_or_else(|| "of unknown version".to_owned(), |version| version.to_string());
    let role = match (facts.master, facts.replicas) {
        (Some(true), Some(0)) => "master without replicas".to_owned(),
        (Some(true), Some(1)) => "master with 1 replica".to_owned(),
        (Some(true), Some(count)) => format!("master with {count} replicas"),
        (Some(true), None) => "master".to_owned(),
        (Some(false), _) => "replica".to_owned(),
        (None, _) => "role unknown".to_owned(),
    };
    let mode = facts.mode.as_deref().unwrap_or("mode unknown");
    line(out, format_args!("  {} {version}, {mode}, {role}", facts.kind));
    let eviction = facts.eviction.as_deref().unwrap_or("unknown");
    line(out, format_args!("  {}, eviction policy {eviction}", facts.storage));
    if matches!(&found.rights, Rights::Tried(refused) if refused.is_empty()) {
        line(out, format_args!("  rights: all that the routes need"));
    }
}

/// Prints which of a route's channels the server does not publish as it is set up.
fn notifications(out: &mut String, route: &Capture, source: Option<&Facts>) {
    let Some(setting) = source.and_then(|facts| facts.notifications.as_deref()) else { return };
    for name in route.channels.iter().chain(&route.patterns) {
        if let Some(missing) = config::lacking(name, setting) {
            line(
                out,
                format_args!(
                    "  warning: notify-keyspace-events is \"{setting}\" on endpoint {}: \"{name}\" brings nothing \
                     without {missing:?} in it (CONFIG SET notify-keyspace-events \"{setting}{missing}\")",
                    route.source
                ),
            );
        }
    }
}

/// Prints until when both sides' certificates are valid.
fn certificates(out: &mut String, expiries: Expiries) {
    for (whose, seconds) in [("the server's", expiries.server), ("tidegate's own", expiries.client)] {
        let Some(seconds) = seconds else { continue };
        let until = rt::rfc3339(seconds.saturating_mul(1_000));
        line(out, format_args!("  TLS: {whose} certificate expires {until}"));
        if seconds < rt::unix_ms() / 1_000 + EXPIRES_SOON.as_secs() {
            line(out, format_args!("  warning: {whose} certificate expires in less than 14 days: renew it"));
        }
    }
}

/// Prints what goes from the streams, and how.
fn trimming(out: &mut String, until: &UntilAcknowledged, destination: Option<&Facts>) {
    let groups = until.groups.join(" and ");
    let most = until.entries;
    line(
        out,
        format_args!("  trimming: what {groups} acknowledged; past {most} entries the oldest, counted"),
    );
    let how = match destination.and_then(Facts::knows_acked) {
        Some(true) => {
            "with XTRIM ACKED, so also behind an entry that stays pending, where every group of the stream has \
             acknowledged it"
        }
        Some(false) => "only before the first entry that is pending (XTRIM ACKED needs Redis 8.2)",
        None => {
            "whether the server knows XTRIM ACKED is not known; without it only before the first pending entry"
        }
    };
    line(out, format_args!("    {how}"));
}

/// Prints what an entry waits for before it is published, and how that is noticed.
fn waiting(out: &mut String, acknowledged: &Acknowledged) {
    let Acknowledged { group, order, replication } = acknowledged;
    let pending = match order {
        Order::Stream => "an entry that stays pending holds up everything behind it".to_owned(),
        Order::Acknowledgement { max_ack_pending } => {
            format!(
                "up to {max_ack_pending} entries that stay pending are left behind, and then nothing goes on"
            )
        }
    };
    line(out, format_args!("  waits for: the group {group}; {pending}"));
    let how = if *replication {
        "in the replication stream, and without it by asking"
    } else {
        "by asking, every 10 ms while something changes and every 0.65 s after a pause"
    };
    line(out, format_args!("    acknowledgements are noticed {how}"));
    line(
        out,
        format_args!(
            "    always: what only counts as acknowledged is published as well (NOACK, XGROUP SETID, a consumer \
             that is deleted, entries that were added before the group)"
        ),
    );
}

/// Prints what reading the replication stream rests on, and what it costs.
fn tap(out: &mut String, prefer: Prefer, source: Option<&Facts>) {
    let backlog = match source.and_then(|facts| facts.backlog_bytes) {
        Some(bytes) => format!("{bytes} bytes"),
        None => "of unknown size".to_owned(),
    };
    let kept = match source.and_then(|facts| facts.backlog_ttl_seconds) {
        Some(0) => "for ever".to_owned(),
        Some(seconds) => format!("for {seconds} s"),
        None => "for an unknown time (repl-backlog-ttl)".to_owned(),
    };
    line(out, format_args!("  backlog: {backlog}; a master without a replica keeps it {kept}"));
    let replicas = source.and_then(|facts| facts.replicas);
    let costs = match prefer {
        Prefer::Replica if replicas != Some(0) => {
            "a replica is read where there is one, and nothing else sees that"
        }
        Prefer::Replica | Prefer::Master => {
            "the master is read: that counts for min-replicas-to-write, a shutdown of the master waits up to \
             10 s for it, and Sentinel lists it as a replica with the port 0 (SENTINEL RESET cleans up)"
        }
    };
    line(out, format_args!("  costs: {costs}"));
    line(
        out,
        format_args!(
            "  always: the server forks once when it is first read, and each time its backlog was exceeded; \
             every write of the server is read, whatever the rules for keys and channels allow"
        ),
    );
}

/// Prints what a route promises, in the words of its direction.
fn guarantees(out: &mut String, guarantee: &Guarantee, comes: &str, goes: &str) {
    for (what, promise) in [
        ("restart of tidegate", &guarantee.restart),
        ("source failover", &guarantee.source_failover),
        ("destination failover", &guarantee.destination_failover),
    ] {
        line(out, format_args!("  {what}: {}", said(promise, comes, goes)));
        line(out, format_args!("    because {}", promise.because.join("; ")));
    }
}

fn said(promise: &Promise, comes: &str, goes: &str) -> String {
    let missed = match promise.missed {
        Missed::Nothing => "nothing is missed".to_owned(),
        Missed::InsideGap => format!("what is {comes} meanwhile is missed, inside a recorded gap"),
        Missed::AcknowledgedInsideGap => {
            "entries that the server acknowledged can be lost, inside a recorded gap (destination_went_back)"
                .to_owned()
        }
        Missed::Acknowledged => "entries that the server acknowledged can be lost".to_owned(),
    };
    let repeated = match promise.repeated {
        Repeated::Nothing => "nothing is repeated".to_owned(),
        Repeated::Unanswered => format!("what was {goes} and not yet answered is repeated"),
        Repeated::SinceCursor => format!("what was {goes} after the last cursor that is left is repeated"),
    };
    format!("{missed}; {repeated}")
}
