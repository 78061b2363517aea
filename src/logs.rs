//! Logs: how they are written, and how a repeated line is held back. A leaf: every part may use it.
//!
//! A line is an event with a stable code, `event="gap"`, and fields (`route`, `server`,
//! `position`, `class`); the words around them may change. Payloads and secrets never appear.

mod code;
mod limited;
mod outages;
mod sink;
mod subscriber;

pub use code::LogCode;
pub use limited::Limited;
pub use outages::Outages;
pub use sink::{dropped, flush};
pub use subscriber::{Style, init, subscriber};
