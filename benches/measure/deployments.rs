//! What people's servers have beside Redis itself: TLS, and a Sentinel that fails over.
//!
//! TLS: the same capture over TCP, with and without it, in turns. Publishers use the unix socket, so that only the daemon
//! encrypts and decrypts beside the server.
//!
//! Sentinel: from the moment at which all three sentinels name the new master until the capture is subscribed there. Before
//! that nobody can know it for certain; less than nothing means that the first sentinel was enough.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::load::Load;
use crate::plan::Plan;
use crate::sample::{Sample, Spread, over};
use crate::support::{Authority, Options, Server, Setup, Version, alert};
use crate::throughput::{cpu, served_at_once, start_capture_on};

const PAIRS: usize = 7;
const FAILOVERS: usize = 10;
/// How often servers and sentinels are asked while they fail over.
const LOOK: Duration = Duration::from_millis(5);
/// How long a failover may take, and the old master to come back.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deployments {
    /// Without TLS, and with it.
    pub(crate) tls: Vec<[Sample; 2]>,
    pub(crate) failovers: Vec<Failovers>,
}

/// How long failovers of one kind took.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failovers {
    pub(crate) name: String,
    pub(crate) times: usize,
    pub(crate) seconds: Spread,
}

pub(crate) fn measure(plan: Plan) -> Deployments {
    let each = plan.seconds(1.5, 10.0);
    let tls = (0..plan.pairs(1, PAIRS)).map(|_| tls_pair(each)).collect();
    let times = plan.pairs(1, FAILOVERS);
    let failovers = [("`SENTINEL FAILOVER`", false), ("`kill -9` of the master", true)];
    let failovers = failovers.map(|(name, kill)| fail_over(name, times, kill)).into();
    Deployments { tls, failovers }
}

/// Without TLS, and with it.
fn tls_pair(each: Duration) -> [Sample; 2] {
    let authority = Authority::new();
    let own = authority.issue("server", "IP:127.0.0.1");
    let table = format!("tls = {{ ca_file = \"{}\" }}", authority.certificate().display());
    let encrypted = served_at_once().tls(&authority, &own, "no");
    let pair = [(served_at_once().tcp(), ""), (encrypted, table.as_str())].map(|(options, settings)| {
        let server = Server::with(Version::Redis70, options);
        let daemon = start_capture_on(&server, settings, Cell::PLAIN, "mode = \"subscribe\"");
        let load = Load::of_messages(&server, &server, Cell::PLAIN);
        let sample = over(each, &server, &load, || cpu(&daemon));
        load.stop();
        sample
    });
    let [plain, tls] = &pair;
    println!(
        "TCP {:.0}/s, {:.2} µs; TLS {:.0}/s, {:.2} µs",
        plain.per_second(),
        plain.client_micros(),
        tls.per_second(),
        tls.client_micros()
    );
    pair
}

/// Fails over there and back.
fn fail_over(name: &str, times: usize, kill: bool) -> Failovers {
    let version = Version::Redis70;
    let first = Server::with(version, Options::default().tcp());
    let second = Server::replica_of(&first, version, Options::default());
    let sentinels = Server::sentinels(version, "shop", &first, 1);
    let destination = Server::start(version);
    let [one, two, three] = &sentinels;
    let daemon = Setup::new()
        .endpoint("events", &destination)
        .watched("shop", &[&first, &second], &[one, two, three], "")
        .routes(
            r#"
            [capture.bench]
            source = "shop"
            channels = ["bench"]
            destination = "events"
            stream = "captured"
            keep = { entries = 10_000 }
            "#,
        )
        .expects(&[alert::SOURCE, alert::GAP, &["master_moved", "sentinel_unavailable"]])
        .start_ready();
    let [mut master, mut replica] = [first, second];
    let seconds = Spread::of((0..times).map(|_| {
        if kill {
            master.kill()
        } else {
            sentinels[0].fail_over("shop")
        }
        let taken = from_agreement_to_subscription(&sentinels, &replica);
        println!("{name}: subscribed {taken:.2} s after the sentinels agreed");
        if kill {
            master.start_again();
        }
        std::mem::swap(&mut master, &mut replica);
        replica.wait_linked();
        taken
    }));
    drop(daemon);
    Failovers { name: name.to_owned(), times, seconds }
}

fn from_agreement_to_subscription(sentinels: &[Server], new: &Server) -> f64 {
    let port = new.port().expect("it has one").to_string();
    let mut asked: Vec<_> = sentinels.iter().map(Server::connection).collect();
    let mut agrees = |connection: &mut redis::Connection| {
        let known: redis::RedisResult<HashMap<String, String>> =
            redis::cmd("SENTINEL").arg("MASTER").arg("shop").query(connection);
        known.expect("a sentinel answers")["port"] == port
    };
    // On a connection of its own each time: the server closes those that it has when its role changes.
    let subscribers =
        || new.try_ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "bench"]).map_or(0, |count| count.1);
    let begun = Instant::now();
    let (mut agreed, mut subscribed) = (None, None);
    loop {
        if agreed.is_none() && asked.iter_mut().all(&mut agrees) {
            agreed = Some(begun.elapsed().as_secs_f64());
        }
        if subscribed.is_none() && subscribers() > 0 {
            subscribed = Some(begun.elapsed().as_secs_f64());
        }
        if let (Some(agreed), Some(subscribed)) = (agreed, subscribed) {
            return subscribed - agreed;
        }
        assert!(begun.elapsed() < PATIENCE, "agreed {agreed:?}, subscribed {subscribed:?}");
        std::thread::sleep(LOOK);
    }
}
