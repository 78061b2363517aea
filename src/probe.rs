//! What an endpoint is and what it allows, and what follows for the routes that use it: the part of
//! `tidegate check --connect` that asks, and the part that judges.
//!
//! ```text
//! Config ─▶ trials ─┐
//! Endpoint ─────────┴▶ inspect ─▶ Found ─┬▶ findings     what stands in the way, what is a risk
//!                      (asks)            └▶ guarantees   what a route promises on it
//! ```
//!
//! It must be harmless on a production server: no write, no message, no load. So the server is only
//! looked at (`INFO`, `CONFIG GET`), and rights are tried inside a `MULTI` that is never executed.
//! What judges is apart from what asks, and knows no connection.
//!
//! Failure: an endpoint that cannot be reached is an error of that endpoint alone. What the server does
//! not let itself be asked is unknown, and said to be.

mod facts;
mod findings;
mod guarantees;
mod rights;
mod services;

use std::collections::BTreeSet;

pub use facts::{ServerFacts, ServerKind, ServerStorage, ServerVersion};
pub use findings::{Finding, findings};
pub use guarantees::{Guarantee, Missed, Promise, Repeated, of_broadcast, of_capture};
pub use rights::{MissingRight, Rights, Trial, trials};
pub use services::{ManagedService, managed_service};

use crate::config::acl::AclRole;
use crate::config::{Config, Endpoint};
use crate::server::{self, Error, Expiries};

/// What was found out about an endpoint.
#[derive(Debug)]
pub struct Inspection {
    /// The server's facts.
    pub facts: ServerFacts,
    /// The user's rights.
    pub rights: Rights,
    /// When the certificates expire; `None` without TLS.
    pub certificates: Option<Expiries>,
}

/// Asks an endpoint, within its own time-outs for connecting and for each reply. Cancel safe: a dropped
/// future leaves nothing behind.
///
/// # Errors
/// If it cannot be reached, or ends the connection while it is asked.
pub async fn inspect(endpoint: &Endpoint, trials: &[Trial]) -> Result<Inspection, Error> {
    let mut connection = server::control(endpoint, "check").await?;
    let facts = facts::ask(&mut connection).await?;
    let may_psync = facts.version.is_some_and(|version| version >= ServerVersion(7, 0, 0));
    let rights = rights::attempt(&mut connection, trials, may_psync).await?;
    let certificates = endpoint.tls.as_ref().map(|_| server::expiries(endpoint));
    Ok(Inspection { facts, rights, certificates })
}

/// What the routes do on an endpoint.
#[must_use]
pub fn roles(config: &Config, endpoint: &str) -> BTreeSet<AclRole> {
    let captures = config.capture.values().flat_map(|route| {
        let source =
            if route.mode.replication().is_some() { AclRole::CaptureTap } else { AclRole::CaptureSource };
        [(&route.source, source), (&route.destination, AclRole::CaptureDestination)]
    });
    let broadcasts = config.broadcast.values().flat_map(|route| {
        let taps = route.acknowledged().is_some_and(|acknowledged| acknowledged.replication);
        [(&route.source, AclRole::BroadcastSource), (&route.destination, AclRole::of_publishing(route))]
            .into_iter()
            .chain(taps.then_some((&route.source, AclRole::BroadcastTap)))
    });
    let invalidations = config.invalidate.values().flat_map(|route| {
        [(&route.source, AclRole::InvalidateSource), (&route.destination, AclRole::InvalidateDestination)]
    });
    captures
        .chain(broadcasts)
        .chain(invalidations)
        .filter(|(name, _)| *name == endpoint)
        .map(|(_, role)| role)
        .collect()
}
