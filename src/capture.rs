//! Capture: from channels into streams, exactly once, in order.
//!
//! ```text
//!            source connection                                           destination connection
//!  window ──▶ messages ──▶ filter ──▶ mapping ──▶ batch ──▶ chain ──▶ EVALSHA append.lua ──▶ streams
//!    ▲ anchor opens it                             (encoded once)   │        compare-and-set on the position
//!    └ heartbeats prove it                                          └◀── replies: stored, duplicate, gap, …
//! ```
//!
//! One task owns a route: it reads the source and writes the destination through non-blocking
//! sockets, so the reader never waits for the writer and nothing is shared or locked. What is
//! decided, `chain`, is apart from what is moved, `route`.

mod append;
mod durable;
mod engine;
mod handover;
mod housekeeping;
mod lane;
pub mod mapping;
#[cfg(test)]
mod model;
pub mod requeue;
mod route;
mod share;
#[cfg(test)]
mod simulation;
mod state;
mod trimming;

pub use crate::source::heartbeat::{Pulse, WeakPulse};
pub use engine::{Batch, Builder, Options};
#[cfg(test)]
pub(crate) use handover::Border;
pub use handover::Handover;
pub use route::{Parts, Route, SpoolPlace};
pub use share::Share;
