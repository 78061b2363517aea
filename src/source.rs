//! Sources: they yield the messages of a capture, in the server's order and contiguously.
//!
//! ```text
//! subscribe    a connection with subscriptions: a window, from its anchor on
//! replication  the server's replication stream: from any offset that its backlog still holds
//! reader       either of them, as the capture reads it
//! item         what comes out
//! notification which messages tell of keys that tidegate writes itself
//! heartbeat    one task a source: proves that a silent connection still works
//! ```
//!
//! Constraints: a source knows no route and no checkpoint. It reads and reports; the capture decides.
//!
//! Failure: a reader that ends stays ended. The capture opens another one and records what may be missing between.

pub(crate) mod control_channel;
pub(crate) mod heartbeat;
pub(crate) mod item;
mod notification;
pub(crate) mod reader;
pub(crate) mod replication;
pub(crate) mod subscribe;
