//! tidegate: an event bridge between Redis Pub/Sub and Redis Streams.
//!
//! The library serves the binary, the tests and the benches; it promises no API.

// `cli::output` is the door: a reader that has seen enough must not make a command panic.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod broadcast;
pub mod capture;
pub mod cli;
pub mod config;
pub mod event;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod invalidate;
pub mod logs;
mod memory;
pub mod metrics;
pub mod observe;
pub mod position;
pub mod probe;
pub mod rt;
#[cfg(test)]
mod seeds;
pub mod server;
mod source;
pub mod spool;
pub mod status;
pub mod stream;
pub mod supervisor;
pub mod text;
