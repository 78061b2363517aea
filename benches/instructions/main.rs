//! `make bench-instructions`: how many instructions the program spends on one message, by callgrind.
//!
//! Time on a shared machine says little about a change of a few per cent; instructions are nearly the same
//! at every run, so a gate can be tight. The routes are the real ones against a real server, in this
//! process, on one thread. Their server publishes everything in one step before the count begins, so that
//! they never wait for work, and all that is counted is what a route does under load: sockets, reading,
//! batches, calls, answers, the runtime. Starting and stopping is not counted, and neither is the kernel.
//!
//! `figures.toml` holds what each of them may cost. More than its tolerance above the stored figure, or above the
//! ceiling, fails the run; so does `cargo test docs` as long as docs/performance.md does not give a reason for
//! the stored figure.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot go on says so by a panic")]
#![allow(missing_docs, reason = "what gungraun's macros make")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod figures;
mod route;

use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use std::hint::black_box;

use figures::Case;
use route::Loaded;

/// A long copy is one instruction for each byte to callgrind where the C library does it by `rep movsb`, as it
/// does on some processors and not on others. With this it is done by vectors everywhere.
const COPIES: &str =
    "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:glibc.cpu.x86_rep_stosb_threshold=0x7fffffff";

/// A route's life before anything is counted: what was published is there, and nothing of it is read.
fn loaded(case: Case) -> Loaded {
    Loaded::prepare(case)
}

fn limit(case: Case) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::with_args(["--trace-children=no"]);
    callgrind.hard_limits([(EventKind::Ir, case.figure().limit(case.messages()))]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind).env("GLIBC_TUNABLES", COPIES);
    config
}

#[library_benchmark(setup = loaded)]
#[bench::subscribe_16(args = (Case::subscribe(16)), config = limit(Case::subscribe(16)))]
#[bench::subscribe_128(args = (Case::subscribe(128)), config = limit(Case::subscribe(128)))]
#[bench::subscribe_1024(args = (Case::subscribe(1024)), config = limit(Case::subscribe(1024)))]
#[bench::subscribe_16384(args = (Case::subscribe(16384)), config = limit(Case::subscribe(16384)))]
#[bench::replication_16(args = (Case::replication(16)), config = limit(Case::replication(16)))]
#[bench::replication_128(args = (Case::replication(128)), config = limit(Case::replication(128)))]
#[bench::replication_1024(args = (Case::replication(1024)), config = limit(Case::replication(1024)))]
#[bench::replication_16384(args = (Case::replication(16384)), config = limit(Case::replication(16384)))]
#[bench::broadcast_16(args = (Case::broadcast(16)), config = limit(Case::broadcast(16)))]
#[bench::broadcast_128(args = (Case::broadcast(128)), config = limit(Case::broadcast(128)))]
#[bench::broadcast_1024(args = (Case::broadcast(1024)), config = limit(Case::broadcast(1024)))]
#[bench::broadcast_16384(args = (Case::broadcast(16384)), config = limit(Case::broadcast(16384)))]
fn message(loaded: Loaded) -> Loaded {
    black_box(loaded.work())
}

library_benchmark_group!(name = instructions, benchmarks = message);
main!(library_benchmark_groups = instructions);
