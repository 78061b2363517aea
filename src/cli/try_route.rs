//! `tidegate try`: what a route makes of one message or entry.

use std::path::Path;

use clap::Args;

use super::output::{self, tell};
use super::trial::{Given, Outcome};

#[derive(Debug, Args)]
pub(super) struct TryArguments {
    /// The route
    route: String,
    /// Of a capture: the channel that the message is published on
    #[arg(long, conflicts_with = "entry")]
    channel: Option<String>,
    /// Of a capture: the message
    #[arg(long, conflicts_with = "entry")]
    payload: Option<String>,
    /// Of a broadcast or an invalidation: the fields of the entry, in their order
    #[arg(long, value_name = "FIELD=VALUE", num_args = 1.., value_parser = field)]
    entry: Vec<(String, String)>,
    /// Of a broadcast of several streams: the stream of the entry
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
}

/// One field of an entry.
fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is not FIELD=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Prints what becomes of it. The exit code is 0 if something is stored, published or removed, and 1 if not.
pub(super) fn try_route(path: &Path, arguments: TryArguments) -> u8 {
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let TryArguments { route, channel, payload, entry, stream } = arguments;
    match Outcome::of(&config, &route, &Given { channel, payload, stream, id: None, entry }) {
        Ok(outcome) => {
            let code = if outcome.has_effect() { super::OK } else { super::FAILED };
            output::printed(code, |out| out.lines(&outcome.lines()))
        }
        Err(why) => {
            tell!("{why}; see tidegate try --help");
            super::USAGE
        }
    }
}
