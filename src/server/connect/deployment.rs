//! This process's knowledge of a deployment, kept from one connection to the next.
//!
//! Several routes, reloads and commands connect to one deployment, and each must get the same answer. So the knowledge
//! belongs to the process, by the endpoint's name, and not to a route or a configuration. It is bounded by the number
//! of names, and an endpoint that gets other addresses begins anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::Gauge;

use crate::config::{Endpoint, Servers};
use crate::metrics::{EndpointMetrics, float};
use crate::server::discovery::sentinel;
use crate::server::tls::Material;

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CertificateSide {
    /// The client's certificate.
    Client,
    /// The server's certificate.
    Server,
}

/// When certificates expire, in seconds since 1970; `None` if there is none, or none was seen yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expiries {
    /// The client's certificate.
    pub client: Option<u64>,
    /// The one that the server showed last.
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
    pub(in crate::server) sentinel: sentinel::Seen,
    /// The files of TLS as they were last good.
    material: Mutex<Option<Material>>,
    /// Their present error, as it was logged.
    told: Mutex<Option<String>>,
    /// The password that an open connection sent last, as a fingerprint, and whether the server took it.
    password: Mutex<Option<([u8; 32], bool)>>,
    expiries: Mutex<Expiries>,
    shown: Mutex<Option<ExpiryGauges>>,
}

/// The gauges of the expiries.
#[derive(Debug, Clone)]
struct ExpiryGauges {
    client: Gauge,
    server: Gauge,
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
        *lock(&self.told) = None;
    }

    /// Returns whether this text is not the last one logged.
    pub(crate) fn is_news(&self, text: &str) -> bool {
        lock(&self.told).replace(text.to_owned()).as_deref() != Some(text)
    }

    /// Returns whether this is not the last answer to an open connection that logged in again.
    pub(crate) fn is_news_of_password(&self, fingerprint: [u8; 32], accepted: bool) -> bool {
        lock(&self.password).replace((fingerprint, accepted)) != Some((fingerprint, accepted))
    }

    pub(crate) fn set_expiry(&self, side: CertificateSide, seconds: Option<u64>) {
        let mut expiries = lock(&self.expiries);
        match side {
            CertificateSide::Client => expiries.client = seconds,
            CertificateSide::Server => expiries.server = seconds,
        }
        self.show(*expiries);
    }

    fn show(&self, expiries: Expiries) {
        let Some(gauges) = &*lock(&self.shown) else { return };
        gauges.client.set(expiries.client.map_or(f64::NAN, float));
        gauges.server.set(expiries.server.map_or(f64::NAN, float));
    }

    pub(crate) fn set_master(&self, run_id: Option<String>) {
        *lock(&self.master) = run_id;
    }
}

/// When the certificates of an endpoint expire, as far as connections have seen them.
#[must_use]
pub fn expiries(endpoint: &Endpoint) -> Expiries {
    *lock(&of(endpoint).expiries)
}

/// Shows when the certificates of an endpoint expire, now and whenever that changes.
pub(crate) fn show_expiries(endpoint: &Endpoint, metrics: &EndpointMetrics) {
    let known = of(endpoint);
    *lock(&known.shown) = Some(ExpiryGauges {
        client: metrics.client_expiry_seconds.clone(),
        server: metrics.server_expiry_seconds.clone(),
    });
    let expiries = *lock(&known.expiries);
    known.show(expiries);
}

/// A panic elsewhere ends the process, so a poisoned lock still holds whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
