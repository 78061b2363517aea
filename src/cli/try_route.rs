//! `tidegate try`: what a route makes of a message or an entry, by the route's own functions and without a server.

use std::path::Path;

use clap::Args;

use super::output::{self, bytes, tell};
use crate::broadcast::trial::BroadcastTrial;
use crate::capture::trial::CaptureTrial;
use crate::config::{Capture, Config};
use crate::invalidate::trial::InvalidateTrial;
use crate::server::resp;
use crate::stream::entries::StreamEntries;
use crate::text::printable::PrintableLines;
use crate::{broadcast, capture, invalidate, rt};

/// Bytes of a value that are printed.
const SHOWN: usize = 4096;

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
    #[arg(long, value_name = "FIELD=VALUE", num_args = 1..)]
    entry: Vec<String>,
    /// Of a broadcast of several streams: the stream of the entry
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
}

/// Prints what becomes of it. The exit code is 0 if something is stored, published or removed, and 1 if not.
pub(super) fn try_route(path: &Path, arguments: &TryArguments) -> u8 {
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    match outcome(&config, arguments) {
        Ok((code, lines)) => output::printed(code, |out| out.lines(&lines)),
        Err(why) => {
            tell!("{why}");
            super::USAGE
        }
    }
}

fn outcome(config: &Config, arguments: &TryArguments) -> Result<(u8, PrintableLines), String> {
    let name = &arguments.route;
    if let Some(route) = config.capture.get(name) {
        return of_capture(route, arguments);
    }
    if !config.has_route(name) {
        return Err(format!("there is no route '{name}' in the configuration"));
    }
    if arguments.entry.is_empty() {
        return Err(format!("'{name}' reads entries: give the fields of one with --entry FIELD=VALUE"));
    }
    let reply = reply(&arguments.entry)?;
    let unread = |error: crate::server::Error| format!("the entry cannot be read: {error}");
    let mut entries = StreamEntries::of_range(&reply, Vec::new()).map_err(unread)?;
    let entry = entries.next().map_err(unread)?.ok_or("there is no entry")?;
    if let Some(route) = config.broadcast.get(name) {
        let derived = match (route.pattern().is_some(), &arguments.stream) {
            (true, None) => return Err(format!("'{name}' reads several streams: name one with --stream")),
            (_, Some(stream)) if !route.reads(stream) => {
                return Err(format!("'{name}' does not read the stream {stream}"));
            }
            (true, Some(stream)) => Some(route.for_stream(stream, None)),
            (false, _) => None,
        };
        return Ok(match broadcast::trial::try_entry(derived.as_ref().unwrap_or(route), &entry) {
            BroadcastTrial::LeftOut(why) => left_out(&why),
            BroadcastTrial::DeadLetter(reason, detail) => (super::FAILED, dead_letter(reason, &detail)),
            BroadcastTrial::Message { channel, message } => {
                let mut lines = PrintableLines::default();
                lines.push(format_args!("published on the channel {}", bytes::shown(&channel, SHOWN)));
                lines.push(format_args!("  {}", bytes::shown(&message, SHOWN)));
                (super::OK, lines)
            }
        });
    }
    let route = config.invalidate.get(name).ok_or("there is no such route")?;
    Ok(match invalidate::trial::try_entry(route, &entry) {
        InvalidateTrial::LeftOut(why) => left_out(&why),
        InvalidateTrial::Keys { keys, written, unwritten, dead_letter: letter } => {
            let mut lines = PrintableLines::default();
            for key in &keys {
                let key = bytes::shown(key, SHOWN);
                match &written {
                    Some((version, _)) => lines.push(format_args!(
                        "stored if the cache has the key with a version older than {}: {key}",
                        bytes::shown(version, SHOWN)
                    )),
                    None => lines.push(format_args!("removed: the key {key}")),
                }
            }
            if let Some((_, value)) = &written {
                lines.push(format_args!("  {}", bytes::shown(value, SHOWN)));
            }
            if let Some(why) = &unwritten {
                lines.push(format_args!("  not stored: {why}"));
            }
            if let Some((reason, detail)) = letter {
                lines.append(&dead_letter(reason, &detail));
            }
            (if keys.is_empty() { super::FAILED } else { super::OK }, lines)
        }
    })
}

fn of_capture(route: &Capture, arguments: &TryArguments) -> Result<(u8, PrintableLines), String> {
    let (Some(channel), Some(payload)) = (&arguments.channel, &arguments.payload) else {
        return Err(format!("'{}' reads messages: give one with --channel and --payload", route.name));
    };
    let tried = capture::trial::try_message(route, channel.as_bytes(), payload.as_bytes(), rt::unix_ms());
    Ok(match tried {
        CaptureTrial::NotReceived => {
            let why = "not received: the route has neither this channel nor a pattern that matches it";
            (super::FAILED, PrintableLines::from(why))
        }
        CaptureTrial::LeftOut(why) => left_out(&why),
        CaptureTrial::DeadLetter(reason, detail) => (super::FAILED, dead_letter(reason, &detail)),
        CaptureTrial::Entry { stream, fields } => {
            let mut lines = PrintableLines::default();
            lines.push(format_args!("stored in the stream {}", bytes::shown(&stream, SHOWN)));
            for (name, value) in &fields {
                let (name, value) = (bytes::shown(name, SHOWN), bytes::shown(value, SHOWN));
                lines.push(format_args!("  {name}: {value}"));
            }
            (super::OK, lines)
        }
    })
}

fn left_out(why: &str) -> (u8, PrintableLines) {
    let mut lines = PrintableLines::default();
    lines.push(format_args!("left out: {why}"));
    (super::FAILED, lines)
}

fn dead_letter(reason: &str, detail: &str) -> PrintableLines {
    let mut lines = PrintableLines::default();
    lines.push(format_args!("dead letter {reason}: {detail}"));
    lines
}

/// The entry as a server answers `XRANGE`, so that it is read as the routes read it.
fn reply(fields: &[String]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    resp::header(&mut out, 1);
    resp::header(&mut out, 2);
    resp::argument(&mut out, format!("{}-0", rt::unix_ms()).as_bytes());
    resp::header(&mut out, fields.len() * 2);
    for field in fields {
        let pair = field.split_once('=');
        let (name, value) = pair.ok_or_else(|| format!("'{field}' is not FIELD=VALUE"))?;
        resp::argument(&mut out, name.as_bytes());
        resp::argument(&mut out, value.as_bytes());
    }
    Ok(out)
}
