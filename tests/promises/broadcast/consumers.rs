//! Consumers of a group and a route that waits for them.
//!
//! They acknowledge by a script that also publishes the id on `acked`. Pub/Sub has one order, so a reader of both
//! knows whether an entry was published before it was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use redis::Connection;

use crate::support::{Daemon, Server, Setup, Subscriber, entries, eventually};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Acknowledges, and reports it in the order of everything that is published.
const ACKNOWLEDGE: &str = "for _, id in ipairs(ARGV) do \
    if redis.call('XACK', KEYS[1], 'inventory', id) == 1 then redis.call('PUBLISH', 'acked', id) end end";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Stream,
    Acknowledgement,
}

pub(crate) fn route(destination: &str, order: Order) -> String {
    let order = match order {
        Order::Stream => "stream",
        Order::Acknowledgement => "acknowledgement",
    };
    format!(
        r#"
        [broadcast.stock]
        source = "events"
        stream = "orders"
        after = "inventory"
        order = "{order}"
        destination = "{destination}"
        channel = "stock.changed"
        message = "<id>"
        start = "beginning"
        "#
    )
}

pub(crate) fn one_server(server: &Server, order: Order) -> Setup {
    Setup::new().endpoint("events", server).routes(&route("events", order))
}

pub(crate) fn make_group(server: &Server) {
    server.ask::<()>(&["XGROUP", "CREATE", "orders", "inventory", "0", "MKSTREAM"]);
}

pub(crate) fn add(server: &Server, payload: &str) -> String {
    server.ask(&["XADD", "orders", "*", "payload", payload])
}

/// Gives a consumer some entries; their ids.
pub(crate) fn read(server: &Server, consumer: &str, count: usize) -> Vec<String> {
    given_out(&mut server.connection(), consumer, &["COUNT", &count.to_string()])
}

/// The ids of what XREADGROUP brings.
pub(crate) fn given_out(connection: &mut Connection, consumer: &str, how: &[&str]) -> Vec<String> {
    type Reply = Option<Vec<(String, Vec<(String, Vec<String>)>)>>;
    let mut command = redis::cmd("XREADGROUP");
    command.arg(&["GROUP", "inventory", consumer]).arg(how).arg(&["STREAMS", "orders", ">"]);
    let reply: Reply = command.query(connection).unwrap();
    reply.into_iter().flatten().flat_map(|(_, entries)| entries).map(|(id, _)| id).collect()
}

pub(crate) fn acknowledge(server: &Server, id: &str) {
    server.ask::<()>(&["EVAL", ACKNOWLEDGE, "1", "orders", id]);
}

/// What was published, in order.
pub(crate) fn published(subscriber: &Subscriber) -> Vec<String> {
    subscriber
        .texts()
        .into_iter()
        .filter(|(channel, _)| channel == "stock.changed")
        .map(|(_, id)| id)
        .collect()
}

#[track_caller]
pub(crate) fn wait_published(daemon: &Daemon, subscriber: &Subscriber, expected: &[String]) {
    eventually("these entries are published", PATIENCE, || {
        let heard = published(subscriber);
        if heard == expected { Ok(()) } else { Err(format!("{heard:?}, {:?}", daemon.route("stock"))) }
    });
}

/// Adds entries in a thread.
pub(crate) fn adding(server: &Server, entries: usize) -> JoinHandle<()> {
    server.adding("orders", entries, |_| ["payload", "x"].map(str::to_owned))
}

/// Consumers that acknowledge everything, each in a random order, until this number is acknowledged in all.
pub(crate) fn consuming(server: &Server, consumers: usize, entries: usize) -> Vec<JoinHandle<()>> {
    let done = Arc::new(AtomicUsize::new(0));
    let work = |number: usize| {
        let (mut connection, done) = (server.connection(), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(number as u64);
            let mut hand: Vec<String> = Vec::new();
            while done.load(Ordering::Relaxed) < entries {
                let name = format!("consumer-{number}");
                let came = given_out(&mut connection, &name, &["COUNT", "40", "BLOCK", "10"]);
                // Some stay pending for a while, so that others overtake them.
                let keep = if came.is_empty() { 0 } else { 60 };
                hand.extend(came);
                random.shuffle(&mut hand);
                let ids: Vec<String> = hand.drain(keep.min(hand.len())..).collect();
                if !ids.is_empty() {
                    let mut command = redis::cmd("EVAL");
                    command.arg(ACKNOWLEDGE).arg(1).arg("orders").arg(&ids).exec(&mut connection).unwrap();
                    done.fetch_add(ids.len(), Ordering::Relaxed);
                }
            }
        })
    };
    (0..consumers).map(work).collect()
}

pub(crate) fn ids(server: &Server) -> Vec<String> {
    entries(server, "orders").into_iter().map(|(id, _)| id).collect()
}

#[track_caller]
pub(crate) fn wait_all(subscriber: &Subscriber, entries: usize, daemon: &Daemon) {
    eventually("everything is published", PATIENCE, || match published(subscriber).len() {
        count if count >= entries => Ok(()),
        count => Err(format!("{count} heard, {:?}", daemon.route("stock"))),
    });
}
