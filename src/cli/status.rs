//! `tidegate status`.

use std::path::Path;

use clap::Args;

use crate::observe::client;
use crate::observe::report::StatusReport;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print the daemon's /status as it is
    #[arg(long)]
    json: bool,
}

/// Asks the running daemon.
pub(super) fn status(config: &Path, arguments: &Arguments) -> u8 {
    let loaded = match super::load(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let body = match client::get(loaded.config.daemon.listen, "/status") {
        Ok((200, body)) => body,
        Ok((code, _)) => {
            eprintln!("the daemon answered with HTTP {code}");
            return super::UNAVAILABLE;
        }
        Err(error) => {
            eprintln!("{error}");
            return super::UNAVAILABLE;
        }
    };
    if arguments.json {
        println!("{}", body.trim_end());
        return super::OK;
    }
    match serde_json::from_str::<StatusReport>(&body) {
        Ok(report) => {
            print!("{}", table(&report));
            super::OK
        }
        Err(error) => {
            eprintln!("the daemon's answer cannot be read (is it of another version?): {error}");
            super::FAILED
        }
    }
}

/// One line a route.
fn table(report: &StatusReport) -> String {
    let mut out = format!(
        "{:<24} {:<10} {:<11} {:>12} {:>12}  {}\n",
        "ROUTE", "KIND", "STATE", "DONE", "IN HAND", "WHY"
    );
    for route in &report.routes {
        let (done, in_hand) = match (&route.ledger, &route.broadcast) {
            (Some(ledger), _) => (ledger.appended, ledger.in_hand),
            (None, Some(counts)) => (counts.published, 0),
            (None, None) => (0, 0),
        };
        let kind = match route.kind {
            crate::status::Kind::Capture => "capture",
            crate::status::Kind::Broadcast => "broadcast",
        };
        let why = route.reason.as_deref().unwrap_or_default();
        out.push_str(&format!(
            "{:<24} {kind:<10} {:<11} {done:>12} {in_hand:>12}  {why}\n",
            route.route,
            route.state.as_str()
        ));
    }
    out
}
