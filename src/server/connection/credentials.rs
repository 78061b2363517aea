//! Passwords that change while a connection is open.
//!
//! **Problem.** Tokens of cloud services live for minutes, and the service closes a connection without a new one in
//! time. On a subscribed connection that is a gap.
//!
//! **Operation.** The watch over files reads the password every few seconds, and each connection compares it now and then
//! with the one that it sent. If it changed, it sends `AUTH`
//! between two commands: a subscribed connection of RESP3 takes commands, and its subscriptions stay. Before and after
//! it a command is sent that every server refuses in the same way, so the reader finds the answer between the two
//! errors and drops it.
//!
//! **Failure.** A refused password changes nothing on the server, so the connection continues. The refusal is logged
//! once, and the next check tries again. No answer between the two errors is a refusal too: some servers give none.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::config::{Endpoint, Reauthenticate, Secret, SecretSource};
use crate::logs::LogCode;
use crate::server::deployment::Known;
use crate::server::deployment::files::FileWatch;

/// Interval of comparisons.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Beyond that at random, so that many connections do not log in together.
const SPREAD_MS: u64 = 5_000;

type Fingerprint = [u8; 32];

/// A connection's knowledge of its password, which is not kept.
#[derive(Debug)]
pub(crate) struct Credentials {
    endpoint: String,
    known: Arc<Known>,
    user: String,
    path: PathBuf,
    watch: Arc<FileWatch>,
    /// Fingerprint of the last accepted password.
    accepted: Fingerprint,
    /// Fingerprint of a sent password without an answer.
    sent: Option<Fingerprint>,
    next_look: Instant,
}

impl Credentials {
    /// The credentials of a connection that has just logged in; `None` if they cannot change.
    pub(crate) fn new(
        endpoint: &Endpoint,
        known: Arc<Known>,
        secret: Option<&Secret>,
        watch: Option<&Arc<FileWatch>>,
    ) -> Option<Self> {
        let SecretSource::File(path) = &endpoint.password else { return None };
        let secret = secret.filter(|_| endpoint.reauthenticate == Reauthenticate::Changed)?;
        Some(Self {
            endpoint: endpoint.name.clone(),
            known,
            user: user_of(endpoint).to_owned(),
            path: path.clone(),
            watch: watch?.clone(),
            accepted: fingerprint(secret),
            sent: None,
            next_look: next_look(),
        })
    }

    /// The user and the password to log in with, if the file has another one than the server accepted.
    pub(crate) fn changed(&mut self, now: Instant) -> Option<(&str, Secret)> {
        if now < self.next_look || self.sent.is_some() {
            return None;
        }
        self.next_look = next_look();
        // The watch over files reports one that stays missing.
        let secret = self.watch.password()?;
        let found = fingerprint(&secret);
        if found == self.accepted {
            return None;
        }
        self.sent = Some(found);
        Some((&self.user, secret))
    }

    /// The server has answered.
    pub(crate) fn answered(&mut self, accepted: bool) {
        let Some(sent) = self.sent.take() else { return };
        if accepted {
            self.accepted = sent;
        }
        // A late answer: the file has another password by now, which is tried next.
        if !accepted && self.watch.password().is_some_and(|secret| fingerprint(&secret) != sent) {
            return;
        }
        // Each connection logs in, and one reports it.
        if !self.known.is_news_of_password(sent, accepted) {
            return;
        }
        if accepted {
            tracing::info!(
                event = LogCode::Reauthenticated.as_str(),
                server = self.endpoint,
                "open connections authenticated again with the new password in {}",
                self.path.display()
            );
        } else {
            tracing::warn!(
                event = LogCode::ReauthenticationRejected.as_str(),
                server = self.endpoint,
                "the server rejects the new password in {}; open connections stay authenticated with the previous one, and \
                 retry every {LOOK_INTERVAL:?}. Check the file, and the user's passwords on the server",
                self.path.display()
            );
        }
    }
}

/// The user that a connection logs in as.
pub(crate) fn user_of(endpoint: &Endpoint) -> &str {
    endpoint.username.as_deref().unwrap_or("default")
}

fn next_look() -> Instant {
    Instant::now() + LOOK_INTERVAL + Duration::from_millis(fastrand::u64(..SPREAD_MS))
}

fn fingerprint(secret: &Secret) -> Fingerprint {
    Sha256::digest(secret.reveal()).into()
}
