//! The heartbeat of a source: one task for each source, shared by its routes.
//!
//! Problem: a silent subscription looks the same if nothing is published and if the server is stopped, half-open, or no
//! longer the one that publishers use. So tidegate publishes at all times, and every route of the source listens for
//! it.
//!
//! Operation: PUBLISH on the control channel, every 200 ms under traffic and every second when idle, over a connection
//! of its own. PUBLISH touches no key, so it works even if the source refuses writes. With each heartbeat, HELLO asks
//! for the server's role: a master that becomes a replica keeps its subscribers and still takes PUBLISH, but messages
//! that are published on its new master may not reach it.
//!
//! If the source has several addresses, the task watches the others. A second server that reports the role of master
//! makes the source doubtful, and its routes are not ready. The task disconnects nothing: the list does not tell which
//! is right. Sentinels are asked by `server`, which reports their doubt.
//!
//! Failure: the task reconnects for ever. The routes notice the silence, and find the reason here.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::control_channel::Control;
use crate::config::{Endpoint, Servers};
use crate::logs::LogCode;
use crate::rt;
use crate::server::{self, Backoff, Confirmation, Connection, Error, MasterWatch, Role};

/// Interval while messages come.
const BUSY_INTERVAL: Duration = Duration::from_millis(200);
/// Interval while no messages come.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// A heartbeat is soon due again, so its reply need not be awaited for long.
const REPLY_DEADLINE: Duration = Duration::from_secs(3);
/// Interval of checks of a source's other addresses…
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// …and after two of them claimed to be the master.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of checks of `notify-keyspace-events`, which an operator may change.
const SETTING_INTERVAL: Duration = Duration::from_secs(5);
/// The longest wait before the next connect: shorter than the routes' limit of silence.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A source's heartbeat, as its routes see it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    shared: Arc<HeartbeatState>,
    /// Ends the task with the last clone: the task itself holds the shared state.
    alive: Arc<DropGuard>,
}

/// A heartbeat that others keep going.
#[derive(Debug, Clone)]
pub struct WeakHeartbeat {
    shared: Arc<HeartbeatState>,
    alive: Weak<DropGuard>,
}

impl WeakHeartbeat {
    /// The heartbeat, while a [`Heartbeat`] is left.
    #[must_use]
    pub fn upgrade(&self) -> Option<Heartbeat> {
        Some(Heartbeat { shared: self.shared.clone(), alive: self.alive.upgrade()? })
    }
}

/// Recognises and dates heartbeats of one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeartbeatClock {
    pub(crate) instance: u64,
    /// The start of this process's clock for heartbeats.
    pub(crate) epoch: Instant,
}

impl HeartbeatClock {
    /// The age of a heartbeat.
    pub(crate) fn age(&self, sent_us: u64, now: Instant) -> Option<Duration> {
        let sent = self.epoch.checked_add(Duration::from_micros(sent_us))?;
        now.checked_duration_since(sent)
    }
}

#[derive(Debug)]
struct HeartbeatState {
    channel: Vec<u8>,
    beat: HeartbeatClock,
    busy: AtomicBool,
    /// Number of times that the source turned from master to replica.
    demotions: AtomicU64,
    error: Mutex<Option<String>>,
    doubt: Mutex<Option<String>>,
    /// When something last confirmed that the server is the only master.
    confirmed: Mutex<Option<Instant>>,
    /// True if a route needs `notify-keyspace-events`.
    asks_for_notifications: AtomicBool,
    notifications: Mutex<Option<String>>,
}

impl Heartbeat {
    /// Starts the heartbeat of a source. It ends when the last clone is dropped.
    #[must_use]
    pub fn start(endpoint: Arc<Endpoint>, instance: u64) -> Self {
        let stop = CancellationToken::new();
        let shared = Arc::new(HeartbeatState {
            channel: format!("{}control", endpoint.key_prefix).into_bytes(),
            beat: HeartbeatClock { instance, epoch: Instant::now() },
            busy: AtomicBool::new(false),
            demotions: AtomicU64::new(0),
            error: Mutex::new(None),
            doubt: Mutex::new(None),
            confirmed: Mutex::new(None),
            asks_for_notifications: AtomicBool::new(false),
            notifications: Mutex::new(None),
        });
        let (alive, beaten) = (stop.clone().drop_guard(), shared.clone());
        if !matches!(endpoint.servers, Servers::One(_)) {
            let (watched, endpoint, stop) = (shared.clone(), endpoint.clone(), stop.clone());
            rt::spawn("watch over masters", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = watch(&watched, &endpoint) => {}
                }
            });
        }
        rt::spawn("heartbeat", async move {
            let mut backoff = Backoff::default();
            let mut master = false;
            loop {
                let beating = beat(&beaten, &endpoint, &mut backoff, &mut master);
                let Err(error) = tokio::select! {
                    () = stop.cancelled() => return,
                    ended = beating => ended,
                };
                beaten.say(Some(&error));
                let wait = backoff.next_wait().min(LONGEST_WAIT);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
        Self { shared, alive: Arc::new(alive) }
    }

    /// A handle to the same heartbeat that does not keep it alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakHeartbeat {
        WeakHeartbeat { shared: self.shared.clone(), alive: Arc::downgrade(&self.alive) }
    }

    /// The control channel.
    pub(crate) fn channel(&self) -> &[u8] {
        &self.shared.channel
    }

    /// Recognises and dates heartbeats of this process.
    pub(crate) fn beat(&self) -> HeartbeatClock {
        self.shared.beat
    }

    /// Reports that messages come: the next heartbeats follow at the shorter interval.
    pub(crate) fn busy(&self) {
        self.shared.busy.store(true, Ordering::Relaxed);
    }

    /// From now on, asks the source for `notify-keyspace-events` from time to time.
    pub(crate) fn ask_for_notifications(&self) {
        self.shared.asks_for_notifications.store(true, Ordering::Relaxed);
    }

    /// The source's `notify-keyspace-events`; `None` if it was not reported.
    pub(crate) fn notifications(&self) -> Option<String> {
        self.shared.notifications.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of times that the source turned from master to replica.
    pub(crate) fn demotions(&self) -> u64 {
        self.shared.demotions.load(Ordering::Relaxed)
    }

    /// Why it is in doubt which server is the source, for an operator.
    pub(crate) fn doubt(&self) -> Option<String> {
        self.shared.doubt.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why heartbeats cannot be sent, for an operator.
    pub(crate) fn error(&self) -> Option<String> {
        self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When something last confirmed that the server is the only master.
    pub(crate) fn confirmed(&self) -> Option<Instant> {
        *self.shared.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeartbeatState {
    fn confirm(&self, at: Instant) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    fn say(&self, error: Option<&Error>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error.map(ToString::to_string);
    }
}

/// Looks for ever whether the server that is used is the only master.
async fn watch(shared: &HeartbeatState, endpoint: &Endpoint) {
    let mut watch = MasterWatch::new(endpoint, "watch");
    loop {
        let (confirmed, doubt) = match &endpoint.servers {
            Servers::Sentinel(_) => by_sentinels(shared, endpoint),
            _ => {
                let began = Instant::now();
                match watch.look().await {
                    Ok(one) => (one.then_some(began), None),
                    Err(error) => (None, Some(error.to_string())),
                }
            }
        };
        if let Some(confirmed) = confirmed {
            shared.confirm(confirmed);
        }
        let quick = doubt.is_some() || endpoint.sentinels().is_some();
        let wait = if quick { DOUBT_INTERVAL } else { WATCH_INTERVAL };
        let before = std::mem::replace(
            &mut *shared.doubt.lock().unwrap_or_else(PoisonError::into_inner),
            doubt.clone(),
        );
        if endpoint.sentinels().is_none() {
            report(endpoint, before.is_some(), doubt.as_deref());
        }
        tokio::time::sleep(wait).await;
    }
}

/// Says once that several servers claim to be the master, and once that one does again.
fn report(endpoint: &Endpoint, doubted: bool, doubt: Option<&str>) {
    let server = &endpoint.name;
    match doubt {
        Some(doubt) if !doubted => tracing::warn!(
            event = LogCode::SeveralMasters.as_str(),
            server,
            "{doubt}; connections stay, and captures are not ready until one master is confirmed"
        ),
        None if doubted => {
            tracing::info!(event = LogCode::OneMaster.as_str(), server, "one master is confirmed again");
        }
        _ => {}
    }
}

/// When a sentinel last named the used master, and the doubt if that is long ago. Without a connection, the
/// connection's own error is more precise.
fn by_sentinels(shared: &HeartbeatState, endpoint: &Endpoint) -> (Option<Instant>, Option<String>) {
    let Some(Confirmation { at, doubt }) = server::confirmation(endpoint) else {
        return (None, None);
    };
    let connected = shared.error.lock().unwrap_or_else(PoisonError::into_inner).is_none();
    (Some(at), doubt.filter(|_| connected))
}

/// Sends heartbeats until something fails.
async fn beat(
    shared: &HeartbeatState,
    endpoint: &Endpoint,
    backoff: &mut Backoff,
    master: &mut bool,
) -> Result<std::convert::Infallible, Error> {
    let mut connection = server::connect(endpoint, "heartbeat").await?;
    let mut look = SettingLook::Due;
    loop {
        let sent_us = u64::try_from(shared.beat.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        let text = Control::heartbeat(shared.beat.instance, sent_us);
        let command: [&[u8]; 3] = [b"PUBLISH", &shared.channel, text.as_bytes()];
        connection.ask(REPLY_DEADLINE, "publishing a heartbeat", &command).await?;
        let asked = Instant::now();
        let hello = connection.ask(REPLY_DEADLINE, "asking for the role", &[b"HELLO"]).await?;
        let is_master = server::role_in(&hello) == Some(Role::Master);
        if is_master && matches!(endpoint.servers, Servers::One(_)) {
            shared.confirm(asked);
        }
        if std::mem::replace(master, is_master) && !is_master {
            shared.demotions.fetch_add(1, Ordering::Relaxed);
        }
        if !is_master && !matches!(endpoint.servers, Servers::One(_)) {
            // Another one is the master: connecting anew finds it.
            return Err(Error::Reply("READONLY the server is a replica now".to_owned()));
        }
        look.take(shared, &mut connection).await?;
        shared.say(None);
        backoff.reset();
        let began = Instant::now();
        while !shared.busy.load(Ordering::Relaxed) && began.elapsed() < IDLE_INTERVAL {
            tokio::time::sleep(BUSY_INTERVAL).await;
        }
        if shared.busy.swap(false, Ordering::Relaxed) && began.elapsed() < BUSY_INTERVAL {
            tokio::time::sleep(BUSY_INTERVAL).await;
        }
    }
}

/// When the source is asked for `notify-keyspace-events`, on one connection.
enum SettingLook {
    Due,
    At(Instant),
    /// The user may not ask, or the server does not know the command. Asking again would fill its ACL log.
    Refused,
}

impl SettingLook {
    async fn take(&mut self, shared: &HeartbeatState, connection: &mut Connection) -> Result<(), Error> {
        let due = match self {
            Self::Due => true,
            Self::At(at) => *at <= Instant::now(),
            Self::Refused => false,
        };
        if !due || !shared.asks_for_notifications.load(Ordering::Relaxed) {
            return Ok(());
        }
        let asked: [&[u8]; 3] = [b"CONFIG", b"GET", b"notify-keyspace-events"];
        let told = match connection.ask(REPLY_DEADLINE, "asking for notify-keyspace-events", &asked).await {
            Err(Error::Reply(_)) => None,
            reply => {
                let reply = reply?;
                let value = reply.elements().and_then(|pair| pair.get(1)?.bytes());
                value.map(server::redacted)
            }
        };
        *self = if told.is_some() { Self::At(Instant::now() + SETTING_INTERVAL) } else { Self::Refused };
        *shared.notifications.lock().unwrap_or_else(PoisonError::into_inner) = told;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixListener;

    use super::*;
    use crate::config::{Address, SecretSource};

    #[tokio::test]
    async fn the_heartbeat_ends_with_its_last_clone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("redis.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let endpoint = Endpoint {
            name: "shop".to_owned(),
            servers: Servers::One(Address::Unix(path)),
            username: None,
            password: SecretSource::None,
            database: 0,
            key_prefix: "tidegate:".to_owned(),
            connect_timeout: Duration::from_secs(3600),
            response_timeout: Duration::from_secs(3600),
            durability: crate::config::Durability::default(),
            address_map: Vec::new(),
            reauthenticate: crate::config::Reauthenticate::default(),
            tls: None,
        };
        let heartbeat = Heartbeat::start(Arc::new(endpoint), 1);
        let clone = heartbeat.clone();
        let weak = heartbeat.downgrade();
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(heartbeat);
        assert!(stream.read_u8().await.is_ok(), "it greets as long as a clone is left");
        assert!(weak.upgrade().is_some());
        drop(clone);
        assert!(weak.upgrade().is_none(), "a weak one does not keep it going");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "nobody is left to listen for it");
    }
}
