//! Capture: from channels into streams, exactly once, in order.
//!
//! ```text
//!            source connection                                           destination connection
//!  window ──▶ messages ──▶ filter ──▶ mapping ──▶ batch ──▶ chain ──▶ EVALSHA append.lua ──▶ streams
//!    ▲ anchor opens it                             (encoded once)   │        compare-and-set on the position
//!    └ heartbeats prove it                                          └◀── replies: stored, duplicate, gap, …
//! ```
//!
//! One task owns a route: it reads the source and writes the destination through non-blocking sockets. So the reader
//! never waits for the writer, and nothing is shared or locked.
//!
//! ```text
//! route         sockets, files and timers        engine       every decision, without I/O
//! mapping       from a message to an entry       batch        what one append carries
//! append        the script, its state, its call  retention    which entries are removed
//! housekeeping  what runs now and then           simulation   the engine in a simulated world, for tests
//! ```

mod append;
mod batch;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod groups;
mod housekeeping;
mod left_out;
pub mod mapping;
mod memory_quota;
pub mod requeue;
mod retention;
mod route;
#[cfg(test)]
mod simulation;
pub(crate) mod trial;

pub use crate::source::heartbeat::{Heartbeat, WeakHeartbeat};
pub use batch::builder::Builder;
pub use batch::{AppendOptions, Batch};
#[cfg(test)]
pub(crate) use engine::handover::Border;
pub use engine::handover::Handover;
pub use memory_quota::MemoryQuota;
pub use route::{CaptureParts, CaptureRoute, SpoolPlace};
