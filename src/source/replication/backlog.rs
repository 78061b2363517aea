//! How long an absence the source's backlog covers.
//!
//! A reader that is absent for longer than its source's backlog covers has lost messages. So the server is asked each
//! second, on a connection of its own, for the backlog's size and write rate. It is also asked for its role, so that
//! the route leaves a node with an unfit role at once.
//!
//! Failure: the task retries for ever. Until the server answers again its facts are unknown; the link notices silence
//! by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::node::Info;
use crate::config::{Address, Endpoint};
use crate::rt;
use crate::server::{self, Connection, Error, Role};

/// Interval between questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// The part of a new rate in the mean: a burst of seconds does not make the night look short.
const WEIGHT: f64 = 0.1;
/// Number of answers before the mean may cause a warning.
const SETTLED: u32 = 10;
/// How long a master without a replica keeps the backlog, if it does not report that: the servers' default.
const TTL: Duration = Duration::from_secs(3600);

/// The server's last answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BacklogHealth {
    /// The end of its stream.
    pub(crate) offset: u64,
    /// Size of its backlog.
    pub(crate) backlog_bytes: u64,
    /// Absence that the backlog covers at the present rate of writes.
    pub(crate) cover: Duration,
    /// True if the rate is a mean of enough answers.
    pub(crate) settled: bool,
    /// The server's role.
    pub(crate) role: Role,
    /// True if a replica's link to its master is up.
    pub(crate) linked: bool,
}

/// The question that is asked again and again; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Backlog {
    health: Arc<Mutex<Option<BacklogHealth>>>,
    _alive: DropGuard,
}

impl Backlog {
    /// Begins to ask a server.
    pub(crate) fn watch(endpoint: Arc<Endpoint>, address: Address, role: String) -> Self {
        let stop = CancellationToken::new();
        let health = Arc::new(Mutex::new(None));
        let (alive, heard) = (stop.clone().drop_guard(), health.clone());
        rt::spawn("backlog", async move {
            let asking = async {
                loop {
                    drop(ask(&endpoint, &address, &role, &heard).await);
                    // The last answer is outdated.
                    *heard.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    tokio::time::sleep(INTERVAL).await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = asking => {}
            }
        });
        Self { health, _alive: alive }
    }

    /// The server's last answer, while it answers.
    pub(crate) fn health(&self) -> Option<BacklogHealth> {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks until something fails.
async fn ask(
    endpoint: &Endpoint,
    address: &Address,
    role: &str,
    heard: &Mutex<Option<BacklogHealth>>,
) -> Result<(), Error> {
    let (mut connection, _) = server::connect_at(endpoint, address, role).await?;
    let ttl = ttl(&mut connection, endpoint).await?;
    let mut rate = WriteRate::default();
    loop {
        let info = Info::ask(&mut connection, endpoint).await?;
        let per_second = rate.note(Instant::now(), info.offset);
        let health = BacklogHealth {
            offset: info.offset,
            backlog_bytes: info.backlog_bytes,
            cover: cover(&info, per_second, ttl),
            settled: rate.noted >= SETTLED,
            role: info.role,
            linked: info.linked,
        };
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(health);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// How long a master keeps its backlog once the last replica is gone; `None` is for ever.
async fn ttl(connection: &mut Connection, endpoint: &Endpoint) -> Result<Option<Duration>, Error> {
    let asked: &[&[u8]] = &[b"CONFIG", b"GET", b"repl-backlog-ttl"];
    let reply = match connection.ask(endpoint.response_timeout, "asking for repl-backlog-ttl", asked).await {
        Err(Error::Reply(_)) => return Ok(Some(TTL)),
        reply => reply?,
    };
    let text = reply.elements().and_then(|pair| pair.get(1)?.bytes());
    let seconds = text.and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
    Ok(seconds.map_or(Some(TTL), |seconds| (seconds > 0).then(|| Duration::from_secs(seconds))))
}

fn cover(info: &Info, per_second: f64, ttl: Option<Duration>) -> Duration {
    // A double counts the length of any backlog exactly.
    #[allow(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = info.backlog_bytes as f64 / per_second.max(1.0);
    let full = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    // A replica keeps its backlog; a master frees it if it has no other replica.
    let alone = info.role == Role::Master && info.connected <= 1;
    match ttl {
        Some(ttl) if alone => full.min(ttl),
        _ => full,
    }
}

/// Bytes a second, as a mean that forgets.
#[derive(Debug, Default)]
struct WriteRate {
    last: Option<(Instant, u64)>,
    mean: Option<f64>,
    noted: u32,
}

impl WriteRate {
    fn note(&mut self, now: Instant, offset: u64) -> f64 {
        if let Some((at, before)) = self.last.replace((now, offset)) {
            self.noted = self.noted.saturating_add(1);
            let seconds = now.saturating_duration_since(at).as_secs_f64().max(0.001);
            #[allow(clippy::cast_precision_loss, reason = "an estimate")]
            let rate = offset.saturating_sub(before) as f64 / seconds;
            self.mean = Some(self.mean.map_or(rate, |mean| mean + WEIGHT * (rate - mean)));
        }
        self.mean.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(role: &str, replicas: u32) -> Info {
        let id = "0".repeat(40);
        Info::read(&format!(
            "role:{role}\r\nmaster_link_status:up\r\nmaster_replid:{id}\r\nmaster_repl_offset:10\r\n\
             connected_slaves:{replicas}\r\nrepl_backlog_size:1000000\r\n"
        ))
        .unwrap()
    }

    #[test]
    fn what_is_covered_is_the_backlog_at_the_present_rate() {
        let ttl = Some(Duration::from_secs(60));
        assert_eq!(cover(&info("master", 2), 1000.0, ttl), Duration::from_secs(1000));
        assert_eq!(cover(&info("master", 1), 1000.0, ttl), Duration::from_secs(60));
        assert_eq!(cover(&info("master", 1), 1000.0, None), Duration::from_secs(1000));
        assert_eq!(cover(&info("slave", 1), 1000.0, ttl), Duration::from_secs(1000));
    }

    #[test]
    fn the_rate_is_a_mean_that_forgets() {
        let mut rate = WriteRate::default();
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        assert!(rate.note(second(0), 1000).abs() < f64::EPSILON);
        assert!((rate.note(second(1), 2000) - 1000.0).abs() < 1.0);
        let burst = rate.note(second(2), 102_000);
        assert!(burst > 10_000.0 && burst < 20_000.0, "{burst}");
        let later = (3..60).fold(0.0, |_, n| rate.note(second(n), 102_000 + 1000 * (n - 2)));
        assert!((later - 1000.0).abs() < 500.0, "{later}");
    }
}
