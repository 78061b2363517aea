//! What is read off: messages, processor time of both sides, wall time.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::load::Load;
use crate::support::Server;

/// Before it counts: connections, caches and the first trimming are through.
const WARM_UP: Duration = Duration::from_secs(1);

/// One stretch of time under load.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    messages: u64,
    wall: Duration,
    server: Duration,
    client: Duration,
}

impl Sample {
    /// What a process spent on this number of messages.
    pub(crate) fn of(messages: u64, client: Duration) -> Self {
        Self { messages, wall: Duration::ZERO, server: Duration::ZERO, client }
    }

    /// A stretch that was measured from its beginning to its end.
    pub(crate) fn whole(messages: u64, wall: Duration, server: Duration, client: Duration) -> Self {
        Self { messages, wall, server, client }
    }

    /// How long it took.
    pub(crate) fn seconds(&self) -> f64 {
        self.wall.as_secs_f64()
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.messages as f64 / self.wall.as_secs_f64()
    }

    /// How much of one core the server used.
    pub(crate) fn server_share(&self) -> f64 {
        self.server.as_secs_f64() / self.wall.as_secs_f64()
    }

    /// How much of one core the client used.
    pub(crate) fn client_share(&self) -> f64 {
        self.client.as_secs_f64() / self.wall.as_secs_f64()
    }

    pub(crate) fn server_micros(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.messages as f64
    }

    pub(crate) fn client_micros(&self) -> f64 {
        self.client.as_secs_f64() * 1e6 / self.messages as f64
    }
}

/// Measures for a while, in the middle of the load.
pub(crate) fn over(
    time: Duration,
    server: &Server,
    load: &Load,
    client_cpu: impl Fn() -> Duration,
) -> Sample {
    let read = || {
        let server = server.process().cpu_time().expect("the server runs");
        (Instant::now(), load.done(), server, client_cpu())
    };
    std::thread::sleep(WARM_UP);
    let begin = read();
    std::thread::sleep(time);
    let end = read();
    Sample {
        messages: end.1 - begin.1,
        wall: end.0 - begin.0,
        server: end.2.saturating_sub(begin.2),
        client: end.3.saturating_sub(begin.3),
    }
}

/// The middle one of some values, and the least and the most.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        assert!(!sorted.is_empty(), "the middle of nothing");
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self { median, least: sorted[0], most: sorted[sorted.len() - 1] }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.least, self.most)
    }
}
