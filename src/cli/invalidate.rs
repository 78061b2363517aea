//! `tidegate invalidate`: keys of an invalidation, removed by hand.
//!
//! The route's cursor is not touched, so the daemon may run meanwhile, and the command may be given again.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::confirm;
use super::output::range_progress::{RangeProgress, moment};
use super::output::{self, bytes, tell};
use super::replay::bound::Bound;
use super::replay::range;
use crate::broadcast::replay::Range;
use crate::config::{Config, Endpoint, Invalidate};
use crate::invalidate::removal::everything::{Ended, EverythingStage};
use crate::invalidate::removal::range::{Applied, ApplyObserver, EntryRange};
use crate::invalidate::removal::{self, EndpointError, Removal, Removed};
use crate::stream::EntryId;
use crate::text::plural;
use crate::text::printable::PrintableLines;

/// Name of its connections in CLIENT LIST.
const CLIENT: &str = "invalidate";
/// How much of a key is printed.
const SHOWN: usize = 200;
/// Between two lines about a SCAN.
const LINES_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("what").args(["key", "from", "missed"]).required(true),
    override_usage = "tidegate invalidate [OPTIONS] <ROUTE> --key <KEY>...\n       tidegate invalidate [OPTIONS] <ROUTE> --from <WHEN>\n       tidegate invalidate [OPTIONS] <ROUTE> --missed"
)]
pub(super) struct InvalidateArguments {
    /// The invalidation
    route: String,
    /// Remove these keys, each with its lease
    #[arg(long, value_name = "KEY", num_args = 1..)]
    key: Vec<OsString>,
    /// Apply the entries of the stream once more, from here to its present end: an entry's id, milliseconds since 1970, a
    /// time such as 2026-11-25T09:30:00Z, or how long ago, such as -1h
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    from: Option<Bound>,
    /// Remove every key that the route can make, found by SCAN: first all leases, then all keys. Repeat both after
    /// `again_after`
    #[arg(long)]
    missed: bool,
    /// Print what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// With --missed: do not ask for confirmation; required without a terminal
    #[arg(long)]
    yes: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Removes keys of a route.
pub(super) fn invalidate(path: &Path, arguments: &InvalidateArguments) -> u8 {
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    super::carry_out(run(&config, arguments))
}

async fn run(config: &Config, arguments: &InvalidateArguments) -> Result<u8, Refusal> {
    let settings = route(config, &arguments.route)?;
    let by_hand = ByHand {
        settings,
        source: &config.redis[&settings.source],
        cache: &config.redis[&settings.destination],
        arguments,
    };
    match arguments.from {
        Some(from) => by_hand.apply(from).await,
        None if arguments.missed => by_hand.everything().await,
        None => by_hand.keys().await,
    }
}

fn route<'a>(config: &'a Config, name: &str) -> Result<&'a Arc<Invalidate>, Refusal> {
    config.invalidate.get(name).ok_or_else(|| {
        let other = config.capture.contains_key(name) || config.broadcast.contains_key(name);
        let known: Vec<&str> = config.invalidate.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let what = if other { "is no invalidation" } else { "is no route of the configuration" };
        Refusal::usage(format!("'{name}' {what}; invalidations: {known}"))
    })
}

/// What was removed, for an operator.
pub(super) fn removed(removed: &Removed) -> String {
    let Removed { keys, cleared, refused } = removed;
    let were = if *cleared == 1 { "was" } else { "were" };
    let (keys, loads) = (plural::of(*keys, "key"), plural::of(*refused, "load"));
    format!("{keys}, {cleared} of them {were} in the cache, {loads} refused")
}

fn interruptible() -> Result<CancellationToken, Refusal> {
    super::interrupt::token()
        .map_err(|error| Refusal::new(super::FAILED, format!("cannot listen for signals: {error}")))
}

/// A command for one route.
struct ByHand<'a> {
    settings: &'a Arc<Invalidate>,
    source: &'a Endpoint,
    cache: &'a Endpoint,
    arguments: &'a InvalidateArguments,
}

impl ByHand<'_> {
    async fn keys(&self) -> Result<u8, Refusal> {
        let keys: Vec<&[u8]> = self.arguments.key.iter().map(|key| key.as_encoded_bytes()).collect();
        let mut foreign = PrintableLines::default();
        for key in &keys {
            if let Some(why) = removal::foreign(self.settings, key) {
                foreign.push(format_args!("the key '{}' would {why}", bytes::shown(key, SHOWN)));
            }
        }
        if foreign.iter().next().is_some() {
            foreign.push("nothing was removed");
            return Err(Refusal::usage(foreign));
        }
        if self.arguments.dry_run && self.arguments.json {
            let removed = Removed { keys: keys.len() as u64, ..Removed::default() };
            return self.print(&Applied { removed, ..Applied::default() }, Ended::Finished, None);
        }
        if self.arguments.dry_run {
            let leases = keys.iter().map(|key| removal::lease(self.settings, key));
            output::print(|out| {
                for (key, lease) in keys.iter().zip(leases) {
                    let lease = lease.map(|lease| format!(" and {}", bytes::shown(&lease, SHOWN)));
                    let key = bytes::shown(key, SHOWN);
                    out.line(format_args!("would remove {key}{}", lease.unwrap_or_default()))?;
                }
                Ok(())
            })?;
            return Ok(super::OK);
        }
        let removed = self.open().await?.remove(&keys).await.map_err(refused)?;
        self.print(&Applied { removed, ..Applied::default() }, Ended::Finished, None)
    }

    async fn apply(&self, from: Bound) -> Result<u8, Refusal> {
        let range = range::find(self.source, CLIENT, &self.settings.stream, (from, None)).await?;
        let Range { from, to } = range;
        tell!("entries {from} ({}) to {to} ({})", moment(from), moment(to));
        let mut cache = if self.arguments.dry_run { None } else { Some(self.open().await?) };
        let stop = interruptible()?;
        let mut shown = ShownRange(RangeProgress::new(from, to));
        let entries = EntryRange { settings: self.settings, source: self.source, from, to };
        let done = entries.apply(cache.as_mut(), &stop, &mut shown).await;
        shown.0.done("the route's keys");
        match done {
            Ok((ended, applied)) => self.print(&applied, ended, Some(range)),
            Err((error, applied)) => Err(self.interrupted(error, &applied)),
        }
    }

    async fn everything(&self) -> Result<u8, Refusal> {
        let dry = self.arguments.dry_run;
        let mut cache = self.open().await?;
        if !dry && !self.arguments.yes {
            let (route, cache) = (&self.settings.name, &self.cache.name);
            confirm::agree(&format!("remove every key of {route} from {cache}?"))?;
        }
        // Ctrl-C at the question ends the command at once.
        let stop = interruptible()?;
        let (mut next, mut last) = (Instant::now() + LINES_EVERY, None);
        let mut watch = |stage: EverythingStage, done: &Removed| {
            let Removed { cleared, refused, .. } = done;
            match stage {
                EverythingStage::Waits(wait) => {
                    let wait = humantime::format_duration(Duration::from_secs_f64(wait.as_secs_f64().ceil()));
                    let (keys, leases) = (plural::of(*cleared, "key"), plural::of(*refused, "lease"));
                    tell!("{keys} and {leases} removed; once more in {wait}");
                }
                _ if last != Some(stage) => {
                    let what = if stage == EverythingStage::Leases { "leases" } else { "keys" };
                    tell!("looking for {what}");
                }
                _ if Instant::now() >= next => {
                    next = Instant::now() + LINES_EVERY;
                    tell!("{} and {} so far", plural::of(*cleared, "key"), plural::of(*refused, "lease"));
                }
                _ => {}
            }
            last = Some(stage);
        };
        let done = cache.everything(dry, &stop, &mut watch).await;
        let of = |removed| Applied { removed, ..Applied::default() };
        match done {
            Ok((ended, removed)) => self.print(&of(removed), ended, None),
            Err((error, removed)) => Err(self.interrupted(error, &of(removed))),
        }
    }

    async fn open(&self) -> Result<Removal, Refusal> {
        Removal::open(self.settings, self.cache).await.map_err(refused)
    }

    /// Prints the result, and gives the exit code.
    fn print(&self, done: &Applied, ended: Ended, range: Option<Range>) -> Result<u8, Refusal> {
        let stopped = ended == Ended::Stopped;
        output::print(|out| {
            if self.arguments.json {
                let Applied { position, entries, filtered, rejected, removed } = done;
                let id = |id: Option<EntryId>| id.map(|id| id.to_string());
                let line = json!({
                    "route": self.settings.name, "dry_run": self.arguments.dry_run, "finished": !stopped,
                    "from": id(range.map(|range| range.from)), "to": id(range.map(|range| range.to)),
                    "position": id(*position), "entries": entries, "filtered": filtered, "rejected": rejected,
                    "keys": removed.keys, "cleared": removed.cleared, "refused": removed.refused,
                });
                return out.json(&line);
            }
            out.line(format_args!("{}: {}", self.settings.name, self.summary(done)))?;
            match done.position.filter(|_| stopped) {
                Some(position) => out.line(format_args!("stopped; --from {position} continues")),
                None if stopped => out.line("stopped; run the same command again to continue"),
                None => Ok(()),
            }
        })?;
        // A range of which no entry fits the templates is a mistake.
        let fits = done.entries == 0 || done.rejected < done.entries;
        Ok(if stopped || !fits { super::FAILED } else { super::OK })
    }

    fn summary(&self, done: &Applied) -> String {
        let Applied { position, entries, filtered, rejected, removed: there } = done;
        let Removed { keys, cleared, refused } = there;
        let what = if self.arguments.dry_run && self.arguments.missed {
            let (keys, leases) = (plural::of(*cleared, "key"), plural::of(*refused, "lease"));
            format!("about {keys} and {leases} would be removed; nothing was removed")
        } else if self.arguments.dry_run {
            format!("{} would be removed; nothing was removed", plural::of(*keys, "key"))
        } else {
            removed(there)
        };
        if position.is_none() {
            return what;
        }
        let mut text = format!("{}: {what}", plural::of(*entries, "entry"));
        if *filtered > 0 {
            text.push_str(&format!(", {} filtered", plural::of(*filtered, "entry")));
        }
        if *rejected > 0 {
            text.push_str(&format!(", {} without keys", plural::of(*rejected, "entry")));
        }
        text
    }

    /// A server has failed; what was done stays done.
    fn interrupted(&self, error: EndpointError, done: &Applied) -> Refusal {
        let Refusal(code, mut lines) = refused(error);
        lines.push(format_args!("interrupted: {}", self.summary(done)));
        lines.push("to give the command again is harmless");
        Refusal(code, lines)
    }
}

fn refused((endpoint, error): EndpointError) -> Refusal {
    Refusal::server(&endpoint, &error)
}

/// How far a range is.
struct ShownRange(RangeProgress);

impl ApplyObserver for ShownRange {
    fn progress(&mut self, applied: &Applied) {
        let Applied { position, entries, removed, .. } = applied;
        let Some(position) = position else { return };
        let text = |seconds| {
            let (entries_text, keys) = (plural::of(*entries, "entry"), plural::of(removed.keys, "key"));
            format!("{entries_text}, {keys}, {}/s", entries / seconds)
        };
        self.0.at(*position, text);
    }

    fn rejected(&mut self, entry: EntryId, why: &str) {
        self.0.skipped(entry, why);
    }
}
