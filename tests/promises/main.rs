//! What tidegate promises, one file per promise, each on real servers and the real program.
//!
//! One program and not twenty: it links once. `cargo test --test promises NAME` runs what NAME matches.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod foundations;

mod broadcast_acknowledged;
mod broadcast_added;
mod broadcast_fakes;
mod broadcast_options;
mod broadcast_pair;
mod broadcast_quiet;
mod broadcast_strangers;
mod capture_destination_faults;
mod capture_durable;
mod capture_exact;
mod capture_filter;
mod capture_memory;
mod capture_parked;
mod capture_rejected;
mod capture_restart;
mod capture_source_faults;
mod capture_strangers;
mod capture_trim;
mod capture_untaken;
mod chaos;
mod comes_back;
mod credentials;
mod dead_letters;
mod deployments;
mod drained_routes;
mod forged_anchors;
mod hostile_server;
mod keyspace;
mod life;
mod log_output;
mod memory_limit;
mod oversized;
mod pair;
mod real_clients;
mod reload;
mod renamed_commands;
mod replay;
mod replication;
mod rollout;
mod secrets;
mod signals;
mod spool;
mod spool_damage;
mod spool_unavailable;
mod stalled_source;
mod tap;
mod tls;
