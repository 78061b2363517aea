//! The one place that knows Redis as a server: how to reach it, how to speak with it, and what its
//! errors mean for what happens next.
//!
//! ```text
//! Endpoint ──connect──▶ Socket ──handshake──▶ Connection ──▶ resp::Reader   bounded, no copies
//!                          │                      └────────▶ out buffer     commands, pipelined
//!                          └──────────────▶ control(): the redis crate, for what is not hot
//! ```
//!
//! Nothing reconnects by itself: a connection that ended stays ended, and whoever held it decides
//! what that means, because behind a silent reconnect hides a loss.

mod backoff;
mod connect;
mod connection;
mod control;
mod dial;
mod error;
pub mod resp;
mod script;
mod socket;

pub use backoff::Backoff;
pub use connect::{Role, connect, connect_at, role_in};
pub use connection::Connection;
pub use control::control;
pub use error::{Class, Error};
pub use script::{Hash, Script, load_script};
