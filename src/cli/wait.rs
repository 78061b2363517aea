//! `tidegate wait`: until the running daemon's routes are ready, for deploys.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Deserialize;

use super::output::tell;
use crate::observe::client;

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct WaitArguments {
    /// Maximum time to wait
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Only this route
    #[arg(long)]
    route: Option<String>,
    /// Fail at once if every route that is not ready waits for a server that cannot be reached
    #[arg(long)]
    unless_away: bool,
}

/// The content of `/readyz`.
#[derive(Debug, Deserialize)]
struct ReadyReport {
    /// What concerns no single route.
    #[serde(default)]
    reasons: Vec<String>,
    routes: Vec<RouteReadiness>,
}

#[derive(Debug, Deserialize)]
struct RouteReadiness {
    route: String,
    ready: bool,
    reasons: Vec<String>,
    /// Servers that were tried and are not connected.
    #[serde(default)]
    away: Vec<String>,
}

/// Asks the running daemon until it says yes, or time is up.
pub(super) fn wait(config: &Path, arguments: &WaitArguments) -> u8 {
    let listen = match super::listen(config) {
        Ok(listen) => listen,
        Err(code) => return code,
    };
    let path = match &arguments.route {
        Some(route) => format!("/readyz?route={route}"),
        None => "/readyz".to_owned(),
    };
    let started = Instant::now();
    loop {
        let answer = client::get(listen.address, &path);
        match &answer {
            Ok((200, _)) => return super::OK,
            Ok((404, body)) => {
                super::tell_body(body);
                return super::USAGE;
            }
            Ok((_, body)) if arguments.unless_away && only_servers_are_away(body) => {
                tell!("not ready; not waiting for servers:");
                explain(body);
                return super::UNAVAILABLE;
            }
            Ok(_) | Err(_) => {}
        }
        let left = arguments.timeout.saturating_sub(started.elapsed());
        if left.is_zero() {
            tell!("not ready after {}:", humantime::format_duration(arguments.timeout));
            match answer {
                Ok((_, body)) => explain(&body),
                Err(error) => {
                    super::unreachable(&listen, &error).tell();
                }
            }
            return super::UNAVAILABLE;
        }
        std::thread::sleep(INTERVAL.min(left));
    }
}

/// Returns whether every route that is not ready waits for a server that was tried and is away.
fn only_servers_are_away(body: &str) -> bool {
    let Ok(readiness) = serde_json::from_str::<ReadyReport>(body) else { return false };
    let mut unready = readiness.routes.iter().filter(|route| !route.ready).peekable();
    unready.peek().is_some() && unready.all(|route| !route.away.is_empty())
}

/// Says which routes are not ready, and why.
fn explain(body: &str) {
    match serde_json::from_str::<ReadyReport>(body) {
        Ok(readiness) => {
            for reason in &readiness.reasons {
                tell!("{reason}");
            }
            for route in readiness.routes.iter().filter(|route| !route.ready) {
                tell!("{}: {}", route.route, route.reasons.join("; "));
            }
        }
        Err(_) => super::tell_body(body),
    }
}
