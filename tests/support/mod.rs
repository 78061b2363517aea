//! The harness: real servers, the real daemon, and an oracle that knows what was published.
//!
//! A promise such as "nothing twice, and what is missing lies inside a recorded gap" can only be
//! tested against someone who knows the exact order in which the source took the messages. That is
//! the [`Oracle`]: its publishers send one script per message that publishes it and appends it to a
//! list in the same atomic step, so the list *is* the order that every subscriber saw.
//!
//! ```text
//! publishers ──script──▶ source ──▶ daemon ──▶ destination ──▶ Stream::read
//!                          └── list ──▶ Oracle::sequence ──▶ compare ◀──┘
//! ```
//!
//! Everything started here dies with the test: on drop, and by the kernel's parent-death signal
//! where the test process itself is killed. That signal follows the *thread* that started the
//! process, so servers and daemons are started from the test's own thread.
//!
//! A server that is not installed fails the test (`scripts/servers.sh` installs them), and so does
//! a WARN or ERROR line of the daemon that the test did not announce.

#![allow(dead_code, reason = "tests, benches and the demo each use their own part")]
#![allow(unused_imports, reason = "tests, benches and the demo each use their own part")]

mod certificates;
mod compare;
mod daemon;
mod libraries;
mod log;
mod notify;
mod oracle;
mod over_tls;
mod port;
mod process;
mod proxy;
mod seen;
mod server;
mod setup;
mod stream;
mod subscriber;
mod wait;

pub(crate) use certificates::{Authority, EC, Pair, put};
pub(crate) use compare::{assert_accounted, assert_exact, assert_nothing_lost_outside_gaps, difference};
pub(crate) use daemon::Daemon;
pub(crate) use libraries::client_libraries;
pub(crate) use log::{Level, LogLine, alert};
pub(crate) use oracle::{LAST, Load, Loading, NUMBERED, Oracle, Payloads, Published, numbered};
pub(crate) use port::Port;
pub(crate) use process::{Guarded, program_next_to_tests};
pub(crate) use proxy::Proxy;
pub(crate) use seen::{Seen, Sighting};
pub(crate) use server::{Options, Server, Version};
pub(crate) use setup::{Endpoint, Setup};
pub(crate) use stream::{
    Captured, DeadLetter, Gap, captured, captured_in_all, dead_letters, entries, gaps, wait_for_last,
};
pub(crate) use subscriber::Subscriber;
pub(crate) use wait::{assert_eventually, eventually};
