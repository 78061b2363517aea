//! The only module that knows Redis as a server: connecting, the protocol, and the caller's next step after an error.
//!
//! ```text
//! Endpoint ──connect──▶ Socket ──handshake──▶ Connection ──▶ resp::Reader   bounded, no copies
//!                          │                      └────────▶ out buffer     commands, pipelined
//!                          └──────────────▶ ControlConnection: commands that are not hot, on the same reader
//! ```
//!
//! A server's text enters in one place (`redacted`): bounded, harmless on a terminal and in a log, without a password.
//!
//! Nothing reconnects by itself: a connection that ended stays ended, and its owner decides what that means, because a
//! silent reconnect hides a loss.

mod backoff;
mod connect;
mod connection;
mod control;
mod deployment;
mod discovery;
mod error;
#[cfg(test)]
pub(crate) mod real;
mod redacted;
pub mod resp;
mod script;
mod socket;
mod tls;

pub use backoff::Backoff;
pub use connect::{Role, role_in};
pub use connection::Connection;
pub use control::{ControlConnection, control};
pub(crate) use deployment::sentinels::Confirmation;
pub use deployment::sentinels::Opinion;
pub(crate) use deployment::show_credentials;
pub use deployment::{Expiries, expiries};
pub(crate) use discovery::{MasterMoves, MasterWatch, agreed, confirmation, doubt, known_addresses};
pub use discovery::{connect, connect_at, connect_to_publish, opinions};
pub(crate) use error::{BLOCKED_RETRY, NO_PERMISSION, UNKNOWN_COMMAND, hinted};
pub use error::{Class, Error, TlsFailure};
pub(crate) use redacted::redacted;
pub(crate) use script::script;
pub use script::{Hash, Script, can_run_scripts, load_script};
