//! The destination's side of a capture: the calls of its scripts, the state that they keep, the connection.

mod call;
pub(crate) mod connection;
pub(crate) mod durability;
mod state;

pub(crate) use call::{Append, Keys, Outcome, Stored, options, write_note};
pub(crate) use connection::{AppendConnection, ConnectionSettings};
pub(crate) use durability::Durable;
pub(crate) use state::{Revision, State};

#[cfg(test)]
pub(crate) use call::{APPEND, NOTE};
