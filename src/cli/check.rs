//! `tidegate check`: the configuration, and with `--connect` what it meets.

mod connect;

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;

use super::warnings;
use crate::config::{self, Broadcast, Capture, Loaded};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print a JSON Schema of the configuration file, for editors
    #[arg(long, conflicts_with = "connect")]
    schema: bool,
    /// Also try every endpoint: what it is, what it allows, and what each route guarantees there.
    /// Nothing is written or published. Exits with 69 where one cannot be reached or used
    #[arg(long)]
    connect: bool,
}

/// Checks the configuration.
pub(super) fn check(path: &Path, arguments: &Arguments) -> u8 {
    if arguments.schema {
        println!("{:#}", config::schema());
        return super::OK;
    }
    let loaded = match super::load(path) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    print!("{}", summary(&loaded));
    let warnings = warnings::of_settings(&loaded.config.daemon);
    for warning in warnings.into_iter().chain(warnings::of_system(&loaded.config)) {
        println!("  warning: {warning}");
    }
    if !arguments.connect {
        return super::OK;
    }
    match super::block_on(connect::connect(loaded.config)) {
        Ok((report, true)) => {
            print!("\n{report}");
            super::OK
        }
        Ok((report, false)) => {
            print!("\n{report}");
            super::UNAVAILABLE
        }
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            super::FAILED
        }
    }
}

/// What was read and what it makes, one line a route.
fn summary(loaded: &Loaded) -> String {
    let mut out = String::from("the configuration is valid\n");
    for file in &loaded.files {
        line(&mut out, format_args!("  read {}", file.display()));
    }
    if loaded.files.is_empty() {
        line(&mut out, format_args!("  read no file: environment variables alone"));
    }
    for route in loaded.config.capture.values() {
        line(&mut out, format_args!("  {}", capture(route)));
    }
    for route in loaded.config.broadcast.values() {
        line(&mut out, format_args!("  {}", broadcast(route)));
    }
    out
}

fn capture(route: &Capture) -> String {
    let groups = match route.groups.as_slice() {
        [] => "no groups".to_owned(),
        [one] => format!("group {one}"),
        several => format!("groups {}", several.join(", ")),
    };
    let subscriptions: Vec<&str> = route.channels.iter().chain(&route.patterns).map(String::as_str).collect();
    format!(
        "capture {}: {} ({}) → {}, stream {}, {groups}",
        route.name,
        route.source,
        subscriptions.join(", "),
        route.destination,
        route.stream,
    )
}

fn broadcast(route: &Broadcast) -> String {
    format!(
        "broadcast {}: {}, stream {} → {}, channel {}",
        route.name, route.source, route.stream, route.destination, route.channel
    )
}

/// Adds a line; a `String` takes everything.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(out, "{text}");
}
