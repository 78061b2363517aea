//! `tidegate check --connect`: asks every endpoint at the same time, and prints what was found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{
    self, Acknowledged, Broadcast, Capture, Config, Endpoint, Invalidate, Order, Prefer, StreamPattern,
    UntilAcknowledged,
};
use crate::probe::{self, Finding, Guarantee, Inspection, Missed, Repeated, Rights, ServerFacts};
use crate::rt;
use crate::server::{self, Error, Expiries, Opinion};
use crate::text::printable::PrintableLines;

/// So long before a certificate expires it is warned of.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);

type Inspections = BTreeMap<String, Result<Inspection, Error>>;

/// The report, and whether every endpoint can be used. Each endpoint's own time-outs bound it.
pub(in crate::cli) async fn connect(config: Config, explain: bool) -> (PrintableLines, bool) {
    let answers = ask(&config).await;
    let mut out = PrintableLines::default();
    let mut usable = true;
    for (name, answer) in &answers {
        usable &= endpoint(&mut out, &config, &config.redis[name], answer);
        sentinels(&mut out, &config.redis[name]).await;
        out.push("");
    }
    let facts = |name: &str| answers.get(name)?.as_ref().ok().map(|found| &found.facts);
    for route in config.capture.values() {
        let guarantee =
            probe::of_capture(route, config.redis[&route.destination].durability, facts(&route.destination));
        out.push(format_args!("capture {}: {} → {}", route.name, route.source, route.destination));
        guarantees(&mut out, &guarantee, explain);
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
        out.push(format_args!("broadcast {}: {} → {}", route.name, route.source, route.destination));
        guarantees(&mut out, &guarantee, explain);
        out.push(format_args!(
            "  note: Pub/Sub delivers a message only to clients that are subscribed at that moment"
        ));
        if let Some(StreamPattern { pattern, max_streams, .. }) = route.pattern() {
            out.push(format_args!(
                    "  streams: up to {max_streams} that match {pattern}, found with SCAN; each has a cursor and connections \
                     of its own"
                ),
            );
        }
        if let Some(acknowledged) = route.acknowledged() {
            waiting(&mut out, acknowledged);
            if acknowledged.replication {
                tap(&mut out, Prefer::Replica, facts(&route.source));
            }
        }
    }
    for route in config.invalidate.values() {
        out.push(format_args!("invalidate {}: {} → {}", route.name, route.source, route.destination));
        staleness(&mut out, route);
    }
    (out, usable)
}

/// How long a reader may get an old value, by what it does.
fn staleness(out: &mut PrintableLines, route: &Invalidate) {
    let again = route.again_after.map(humantime::format_duration);
    let plain = match &again {
        Some(again) => format!("up to {again}, if no load of a value takes longer"),
        None => "until the time to live ends, after a lost race".to_owned(),
    };
    let lease = match (&route.lease, &again) {
        (None, _) => "the same: the route removes no lease".to_owned(),
        (Some(_), None) => "milliseconds, if it reads the primary and events follow their commit".to_owned(),
        (Some(_), Some(again)) => {
            format!("milliseconds; {again} if it reads a replica that is no further behind")
        }
    };
    out.push(format_args!("  stale, readers that store as they like: {plain}"));
    out.push(format_args!("  stale, readers with the lease: {lease}"));
    out.push("  while tidegate is down: as long longer; a cache that fails over or is restored is applied to again");
}

/// What the sentinels of an endpoint say; whether a majority of them answers.
async fn sentinels(out: &mut PrintableLines, endpoint: &Endpoint) {
    let Some(sentinels) = endpoint.sentinels() else { return };
    let opinions = server::opinions(endpoint).await;
    let answered = opinions.iter().filter(|(_, opinion)| opinion.is_ok()).count();
    let (all, master) = (opinions.len(), &sentinels.master);
    out.push(format_args!("  master \"{master}\": {answered} of {all} sentinels answer"));
    for (address, opinion) in &opinions {
        match opinion {
            Ok(Opinion::Master { epoch, address: named }) => {
                out.push(format_args!("    sentinel {address}: {named}, configuration epoch {epoch}"));
            }
            Ok(Opinion::Unknown(_)) => {
                out.push(format_args!("    warning: sentinel {address} does not know \"{master}\""));
            }
            Err(error) => {
                let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
                out.push(format_args!("    warning: {error}{hint}"));
            }
        }
    }
    if sentinels.endpoint.tls.is_some() {
        let whose = ["a certificate of the sentinels", "tidegate's own certificate for the sentinels"];
        certificates(out, server::expiries(&sentinels.endpoint), whose);
    }
    if answered * 2 <= all {
        let why = "too few to start a failover, and too few to be sure which server is the master";
        out.push(format_args!("  warning: no more than half of the sentinels answer: {why}"));
    }
}

async fn ask(config: &Config) -> Inspections {
    let asked: Vec<_> = config
        .redis
        .iter()
        .map(|(name, endpoint)| {
            let (endpoint, trials) = (Arc::clone(endpoint), probe::trials(config, endpoint));
            let look = async move { probe::inspect(&endpoint, &trials).await };
            (name.clone(), rt::spawn("check of an endpoint", look))
        })
        .collect();
    let mut answers = Inspections::new();
    for (name, task) in asked {
        let answer = task.await.unwrap_or_else(|error| Err(Error::Refused(error.to_string())));
        answers.insert(name, answer);
    }
    answers
}

/// Returns whether publishing and moving the cursor are one step, as the route itself decides it.
fn on_one_server(config: &Config, route: &Broadcast) -> bool {
    config.redis[&route.source].is_same_server(&config.redis[&route.destination])
}

/// Prints what was found at an endpoint; whether it can be used.
fn endpoint(
    out: &mut PrintableLines,
    config: &Config,
    endpoint: &Endpoint,
    answer: &Result<Inspection, Error>,
) -> bool {
    let user = endpoint.username.as_deref().unwrap_or("default");
    out.push(format_args!("server {} ({}, user {user})", endpoint.name, endpoint.servers));
    if let Some(service) = probe::managed_service(endpoint) {
        let (name, note) = (service.name, service.note);
        out.push(format_args!("  service, by the host name: {name}; {note}"));
    }
    let found = match answer {
        Ok(found) => found,
        Err(error) => {
            out.push(format_args!("  problem: cannot be used: {}", error.with_hint()));
            return false;
        }
    };
    server(out, found);
    if let Some(expiries) = found.certificates {
        certificates(out, expiries, ["the server's certificate", "tidegate's own certificate"]);
    }
    let findings = probe::findings(found, &probe::roles(config, &endpoint.name), endpoint.durability);
    for finding in &findings {
        out.push(format_args!("  {finding}"));
    }
    !findings.iter().any(|finding| matches!(finding, Finding::Problem(_)))
}

fn server(out: &mut PrintableLines, found: &Inspection) {
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
    out.push(format_args!("  {} {version}, {mode}, {role}", facts.kind));
    let eviction = facts.eviction.as_deref().unwrap_or("unknown");
    out.push(format_args!("  {}, eviction policy {eviction}", facts.storage));
    if matches!(&found.rights, Rights::Tried(refused) if refused.is_empty()) {
        out.push(format_args!("  permissions: everything that the routes need"));
    }
}

/// Prints which of a route's channels the server does not publish as it is set up.
fn notifications(out: &mut PrintableLines, route: &Capture, source: Option<&ServerFacts>) {
    let Some(facts) = source else { return };
    let Some(setting) = facts.notifications.as_deref() else {
        let needed = config::needed_notifications(route);
        if config::wants_notifications(route) && !needed.is_empty() {
            out.push(format_args!(
                "  warning: notify-keyspace-events of server {} is unknown, since CONFIG GET is rejected; {}",
                route.source,
                needed.join(", ")
            ));
        }
        return;
    };
    for missing in config::missing_notifications(route, setting) {
        out.push(format_args!("  warning: {missing}"));
    }
}

/// Prints until when both sides' certificates are valid.
fn certificates(out: &mut PrintableLines, expiries: Expiries, [peer, own]: [&str; 2]) {
    for (whose, seconds) in [(peer, expiries.server), (own, expiries.client)] {
        let Some(seconds) = seconds else { continue };
        let until = rt::rfc3339(seconds.saturating_mul(1_000));
        out.push(format_args!("  TLS: {whose} expires {until}"));
        if seconds < rt::unix_ms() / 1_000 + EXPIRES_SOON.as_secs() {
            out.push(format_args!("  warning: {whose} expires in less than 14 days: renew it"));
        }
    }
}

/// Prints what goes from the streams, and how.
fn trimming(out: &mut PrintableLines, until: &UntilAcknowledged, destination: Option<&ServerFacts>) {
    let groups = until.groups.join(" and ");
    let most = until.entries;
    out.push(format_args!(
        "  trimming: entries that {groups} acknowledged; above {most} entries also the oldest"
    ));
    let how = match destination.and_then(ServerFacts::knows_acked) {
        Some(true) => {
            "with XTRIM ACKED: also entries after a pending one, if every group of the stream has acknowledged them"
        }
        Some(false) => "only entries before the first pending one (XTRIM ACKED needs Redis 8.2)",
        None => "the server may lack XTRIM ACKED; then only entries before the first pending one",
    };
    out.push(format_args!("    {how}"));
}

/// Prints what an entry waits for before it is published, and how that is noticed.
fn waiting(out: &mut PrintableLines, acknowledged: &Acknowledged) {
    let Acknowledged { group, order, replication } = acknowledged;
    let pending = match order {
        Order::Stream => "an unacknowledged entry holds up all later entries".to_owned(),
        Order::Acknowledgement { max_ack_pending } => {
            format!("up to {max_ack_pending} unacknowledged entries are left behind; then publishing waits")
        }
    };
    out.push(format_args!("  waits for: the group {group}; {pending}"));
    let how = if *replication {
        "in the replication stream, or by polling if it cannot be read"
    } else {
        "by polling, every 10 ms while something changes and every 0.65 s after a pause"
    };
    out.push(format_args!("    acknowledgements are noticed {how}"));
    out.push(format_args!(
            "    note: an entry also counts as acknowledged after NOACK, XGROUP SETID or the deletion of its consumer, or \
             if it was added before the group"
        ),
    );
}

/// Prints what reading the replication stream rests on, and what it costs.
fn tap(out: &mut PrintableLines, prefer: Prefer, source: Option<&ServerFacts>) {
    let backlog = match source.and_then(|facts| facts.backlog_bytes) {
        Some(bytes) => format!("{bytes} bytes"),
        None => "of unknown size".to_owned(),
    };
    let kept = match source.and_then(|facts| facts.backlog_ttl_seconds) {
        Some(0) => "forever".to_owned(),
        Some(seconds) => format!("for {seconds} s"),
        None => "for an unknown time (repl-backlog-ttl)".to_owned(),
    };
    out.push(format_args!("  backlog: {backlog}; a master without a replica keeps it {kept}"));
    let replicas = source.and_then(|facts| facts.replicas);
    let costs = match prefer {
        Prefer::Replica if replicas != Some(0) => {
            "a replica is read if there is one; the master does not see it"
        }
        Prefer::Replica | Prefer::Master => {
            "the master is read. tidegate counts for min-replicas-to-write, and a shutdown of the master waits up to 10 s \
             for it. Sentinel lists it as a replica with port 0 (SENTINEL RESET removes it)"
        }
    };
    out.push(format_args!("  costs: {costs}"));
    out.push(format_args!(
            "  note: the server forks when it is read for the first time, and whenever its backlog was exceeded; tidegate \
             receives every write of the server, regardless of ACL rules for keys and channels"
        ),
    );
}

/// Prints what a route promises: a line for each fault, with its remedy, and the reasons if they were asked for.
fn guarantees(out: &mut PrintableLines, guarantee: &Guarantee, explain: bool) {
    for (fault, promise) in [
        ("tidegate restarts", &guarantee.restart),
        ("source fails over", &guarantee.source_failover),
        ("destination fails over", &guarantee.destination_failover),
    ] {
        out.push(format_args!("  {fault}: {}; {}", lost(promise.missed), duplicated(promise.repeated)));
        if let Some(remedy) = promise.remedy {
            out.push(format_args!("    to avoid it: {remedy}"));
        }
        if explain {
            out.push(format_args!("    because {}", promise.because.join("; ")));
        }
    }
}

fn lost(missed: Missed) -> &'static str {
    match missed {
        Missed::Nothing => "nothing lost",
        Missed::InsideGap => "messages lost, gap recorded",
        Missed::BeyondBacklog => "nothing lost, unless the source's backlog is exceeded (gap recorded)",
        Missed::Unreplicated => "messages lost that the old master had not replicated, failover recorded",
        Missed::AcknowledgedInsideGap => "stored entries can be lost, gap recorded (destination_went_back)",
        Missed::Acknowledged => "stored entries can be lost, nothing records it",
    }
}

fn duplicated(repeated: Repeated) -> &'static str {
    match repeated {
        Repeated::Nothing => "no duplicates",
        Repeated::Unanswered => "duplicates of messages whose reply was lost",
        Repeated::SinceCursor => "duplicates since the last cursor that the server still has",
    }
}
