//! What tidegate promises, one file per promise, each on real servers and the real program.
//!
//! One program and not twenty: it links once. `cargo test --test promises NAME` runs what NAME matches.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

#[path = "../support/mod.rs"]
mod support;

mod foundations;

mod broadcast;
mod capture;
mod configuration;
mod faults;
mod invalidate;
mod operations;
mod pair;
mod replication;
mod servers;
