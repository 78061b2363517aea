//! This process's knowledge of a deployment, kept from one connection to the next.
//!
//! Several routes, reloads and commands connect to one deployment, and each must get the same answer. So the knowledge
//! belongs to the process, by the endpoint's name, and not to a route or a configuration. It is bounded by the number
//! of names, and an endpoint that gets other addresses begins anew.

pub(super) mod files;
mod reads;
pub(super) mod sentinels;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Address, Endpoint, Servers};
use crate::metrics::{CredentialGauges, CredentialMetrics, float};
use crate::server::error::Error;
use files::{FileKind, Material, RunningWatch};
use reads::Reads;
use sentinels::Seen;

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum CertificateSide<'a> {
    /// The client's certificate.
    Client,
    /// The certificate of the server at this address.
    Server(&'a Address),
}

/// When certificates expire, in seconds since 1970; `None` if there is none, or none was seen yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expiries {
    /// The client's certificate.
    pub client: Option<u64>,
    /// The first to expire, of the certificates that the servers showed last.
    pub server: Option<u64>,
}

static DEPLOYMENTS: Mutex<BTreeMap<String, Arc<Known>>> = Mutex::new(BTreeMap::new());

/// The knowledge of one deployment.
#[derive(Debug, Default)]
pub(crate) struct Known {
    servers: Option<Servers>,
    /// The `run_id` of the server that was last used as its master.
    master: Mutex<Option<String>>,
    /// The sentinels' answers about the master.
    pub(in crate::server) sentinels: Arc<Seen>,
    /// The files of TLS as they were last good.
    material: Mutex<Option<Material>>,
    /// The present error of the files of each kind, as it was logged.
    file_errors: Mutex<[Option<String>; FileKind::ALL.len()]>,
    /// The reads of the files that are under way.
    reads: Reads,
    /// The watch over the files.
    watch: Mutex<Option<RunningWatch>>,
    /// The password that an open connection sent last, as a fingerprint, and whether the server took it.
    password: Mutex<Option<([u8; 32], bool)>>,
    expiries: Mutex<KnownExpiries>,
    shown: Mutex<Option<CredentialGauges>>,
}

/// When certificates expire, as far as they were seen.
#[derive(Debug, Default)]
struct KnownExpiries {
    client: Option<u64>,
    /// By address as configured. The servers that others report share one place, `None`, which bounds the list.
    servers: Vec<(Option<Address>, Option<u64>)>,
}

impl KnownExpiries {
    fn all(&self) -> Expiries {
        Expiries { client: self.client, server: self.servers.iter().filter_map(|(_, expiry)| *expiry).min() }
    }
}

/// The knowledge of an endpoint's deployment.
pub(crate) fn of(endpoint: &Endpoint) -> Arc<Known> {
    let mut deployments = lock(&DEPLOYMENTS);
    let known = deployments.entry(endpoint.name.clone()).or_default();
    if known.servers.as_ref() != Some(&endpoint.servers) {
        *known = Arc::new(Known { servers: Some(endpoint.servers.clone()), ..Known::default() });
    }
    known.clone()
}

impl Known {
    pub(crate) fn master(&self) -> Option<String> {
        lock(&self.master).clone()
    }

    pub(crate) fn material(&self) -> Option<Material> {
        lock(&self.material).clone()
    }

    pub(crate) fn set_material(&self, material: Material) {
        *lock(&self.material) = Some(material);
    }

    /// Reads files beside the loop. Cancel safe.
    ///
    /// # Errors
    /// If their file system does not answer in time.
    pub(in crate::server) async fn read<T: Send + 'static>(
        &self,
        kind: FileKind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.reads.run(kind, work).await
    }

    pub(in crate::server) fn watch(&self) -> MutexGuard<'_, Option<RunningWatch>> {
        lock(&self.watch)
    }

    /// Notes whether the files of a kind can be used, and logs a change.
    pub(in crate::server) fn report_files(&self, endpoint: &Endpoint, kind: FileKind, error: Option<&Error>) {
        let text = error.map(ToString::to_string);
        let before = std::mem::replace(&mut lock(&self.file_errors)[kind as usize], text.clone());
        if before == text {
            return;
        }
        self.show();
        match error {
            Some(error) => kind.tell_invalid(&endpoint.name, error, self.material().is_some()),
            None => kind.tell_valid(&endpoint.name),
        }
    }

    /// Returns whether this is not the last answer to an open connection that logged in again.
    pub(crate) fn is_news_of_password(&self, fingerprint: [u8; 32], accepted: bool) -> bool {
        lock(&self.password).replace((fingerprint, accepted)) != Some((fingerprint, accepted))
    }

    pub(in crate::server) fn set_expiry(&self, side: CertificateSide<'_>, seconds: Option<u64>) {
        let mut expiries = lock(&self.expiries);
        match side {
            CertificateSide::Client => expiries.client = seconds,
            CertificateSide::Server(address) => {
                let configured = self.servers.as_ref().map(Servers::addresses).unwrap_or_default();
                let place = configured.contains(address).then(|| address.clone());
                expiries.servers.retain(|(known, _)| *known != place);
                expiries.servers.push((place, seconds));
            }
        }
        drop(expiries);
        self.show();
    }

    fn show(&self) {
        let Some(gauges) = &*lock(&self.shown) else { return };
        let Expiries { client, server } = lock(&self.expiries).all();
        gauges.client_expiry_seconds.set(client.map_or(f64::NAN, float));
        gauges.server_expiry_seconds.set(server.map_or(f64::NAN, float));
        let is_invalid = lock(&self.file_errors).iter().any(Option::is_some);
        gauges.files_invalid.set(f64::from(u8::from(is_invalid)));
    }

    pub(crate) fn set_master(&self, run_id: Option<String>) {
        *lock(&self.master) = run_id;
    }
}

/// When the certificates of an endpoint expire, as far as connections have seen them.
#[must_use]
pub fn expiries(endpoint: &Endpoint) -> Expiries {
    lock(&of(endpoint).expiries).all()
}

/// Shows when the certificates of an endpoint expire and whether its files can be used, now and whenever that changes.
pub(crate) fn show_credentials(endpoint: &Endpoint, metrics: &CredentialMetrics) {
    let known = of(endpoint);
    *lock(&known.shown) = Some(metrics.gauges.clone());
    known.show();
}

/// A panic elsewhere ends the process, so a poisoned lock still holds whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
