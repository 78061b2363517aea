//! A configuration that changes while the daemon runs: reloads, signals, and routes that come and go.

mod comes_back;
mod drained_routes;
mod reload;
mod signals;
mod switched_off;

use std::time::Duration;

use crate::support::{Subscriber, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// A subscriber hears the numbers from 0 on, each once and in order.
#[track_caller]
fn assert_numbers_once(heard: Subscriber, count: u32) {
    let expected: Vec<Vec<u8>> = (0..count).map(|n| n.to_string().into_bytes()).collect();
    eventually("everything was published", PATIENCE, || match heard.count() {
        count if count >= expected.len() => Ok(()),
        count => Err(format!("{count} messages")),
    });
    let heard: Vec<Vec<u8>> = heard.heard().into_iter().map(|message| message.payload).collect();
    assert_eq!(heard, expected, "each once, in order");
}
