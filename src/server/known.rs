//! What this process has learnt of a deployment, kept from one connection to the next.
//!
//! Several routes, reloads and commands connect to one deployment, and each of them must be told the same. So it
//! belongs to the process, by the endpoint's name, and not to a route or a configuration. It is bounded by the
//! number of names, and an endpoint that gets other addresses begins anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::{Address, Endpoint};

static DEPLOYMENTS: Mutex<BTreeMap<String, Arc<Known>>> = Mutex::new(BTreeMap::new());

/// What is known of one deployment.
#[derive(Debug, Default)]
pub(super) struct Known {
    addresses: Vec<Address>,
    /// The `run_id` of the server that was last used as its master.
    master: Mutex<Option<String>>,
}

/// What is known of an endpoint's deployment.
pub(super) fn of(endpoint: &Endpoint) -> Arc<Known> {
    let mut deployments = lock(&DEPLOYMENTS);
    let known = deployments.entry(endpoint.name.clone()).or_default();
    if !endpoint.addresses().eq(&known.addresses) {
        *known = Arc::new(Known { addresses: endpoint.addresses().cloned().collect(), ..Known::default() });
    }
    known.clone()
}

impl Known {
    pub(super) fn master(&self) -> Option<String> {
        lock(&self.master).clone()
    }

    pub(super) fn set_master(&self, run_id: Option<String>) {
        *lock(&self.master) = run_id;
    }
}

/// A panic elsewhere ends the process, so a poisoned lock still holds whole values.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
