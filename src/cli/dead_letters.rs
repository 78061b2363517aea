//! `tidegate dead-letters`: what could not be stored or published, and what is to become of it.
//!
//! A letter is removed in the step that deals with it, so a command that is cut off can be given again.
//! `--all` goes in pages from the oldest on, and no further than the letter that is the newest at its
//! start: one that comes back is not chased.

mod letters;

use std::io::{self, Write};
use std::path::Path;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use super::Refusal;
use super::confirm;
use super::output::table::{Column, Table};
use super::output::{self, Printer, bytes, tell};
use crate::broadcast;
use crate::capture;
use crate::config::Config;
use crate::invalidate;
use crate::rt;
use crate::stream::EntryId;

use letters::{Letter, LetterRoute, Letters};

/// How much of a value `show` prints without `--json`: more than a screen.
const SHOWN: usize = 4096;

/// Why a letter stays that names no entry.
const NO_ENTRY: &str = "it has no entry id; another release may have written it";

/// What became of a letter meanwhile.
const GONE: &str = "another command has removed it";

#[derive(Debug, Subcommand)]
pub(super) enum DeadLettersCommand {
    /// List dead letters, newest first, with shortened payloads
    List(List),
    /// Show dead letters completely
    Show(Show),
    /// Process dead letters again with the present configuration: store or publish them, or remove their keys from the
    /// cache. A letter that succeeds is removed; one that fails again stays, and the exit code is 1
    #[command(
        override_usage = "tidegate dead-letters requeue [OPTIONS] <ROUTE> <ID>...\n       tidegate dead-letters requeue [OPTIONS] <ROUTE> --all"
    )]
    Requeue(Which),
    /// Remove dead letters
    #[command(
        override_usage = "tidegate dead-letters drop [OPTIONS] <ROUTE> <ID>...\n       tidegate dead-letters drop [OPTIONS] <ROUTE> --all"
    )]
    Drop(Which),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only this route; without it, all of them
    route: Option<String>,
    /// Maximum number for each route
    #[arg(long, value_name = "LETTERS", default_value_t = 50)]
    limit: usize,
    /// Maximum number of characters of a payload
    #[arg(long, value_name = "CHARACTERS", default_value_t = 60)]
    width: usize,
    /// Print one JSON object per line, with complete payloads
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The route
    route: String,
    /// Ids of dead letters, as `list` prints them
    #[arg(required = true)]
    ids: Vec<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("letters").args(["ids", "all"]).required(true))]
pub(super) struct Which {
    /// The route
    route: String,
    /// Ids of dead letters, as `list` prints them
    ids: Vec<String>,
    /// All dead letters of the route
    #[arg(long)]
    all: bool,
    /// With --all: do not ask for confirmation; required without a terminal
    #[arg(long)]
    yes: bool,
}

/// Carries out the command.
pub(super) fn dead_letters(path: &Path, command: &DeadLettersCommand) -> u8 {
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    super::carry_out(async {
        let out = &mut output::stdout();
        match command {
            DeadLettersCommand::List(arguments) => list(out, &config, arguments).await,
            DeadLettersCommand::Show(arguments) => show(out, &config, arguments).await,
            DeadLettersCommand::Requeue(which) => requeue(out, &config, which).await,
            DeadLettersCommand::Drop(which) => drop_letters(out, &config, which).await,
        }
    })
}

/// The number of dead letters of each route.
pub(super) async fn counts(config: &Config) -> Vec<(String, Result<u64, Refusal>)> {
    let mut counts = Vec::new();
    for route in LetterRoute::all(config) {
        let count = match Letters::open(config, &route).await {
            Ok(mut letters) => letters.count().await,
            Err(refusal) => Err(refusal),
        };
        counts.push((route.name().to_owned(), count));
    }
    counts
}

async fn list(out: &mut Printer<impl Write>, config: &Config, arguments: &List) -> Result<u8, Refusal> {
    let routes = match &arguments.route {
        Some(name) => vec![LetterRoute::find(config, name)?],
        None => LetterRoute::all(config),
    };
    let columns = ["ROUTE", "ID", "SINCE", "REASON"].map(Column::Text).to_vec();
    let mut table = Table::new(columns, "WHERE, DETAIL, PAYLOAD");
    let mut code = super::OK;
    for route in routes {
        if let Err(Refusal(failed, why)) = list_route(out, &mut table, config, &route, arguments).await {
            if failed != super::UNAVAILABLE {
                return Err(Refusal(failed, why));
            }
            // The others are shown all the same.
            for line in why.iter() {
                tell!("{}: {line}", route.name());
            }
            code = failed;
        }
    }
    // Of a route that could not be read nobody knows whether there are none.
    if !arguments.json && (code == super::OK || !table.is_empty()) {
        out.lines(&table.lines())?;
    }
    out.flush()?;
    Ok(code)
}

async fn list_route(
    out: &mut Printer<impl Write>,
    table: &mut Table,
    config: &Config,
    route: &LetterRoute,
    arguments: &List,
) -> Result<(), Refusal> {
    let mut letters = Letters::open(config, route).await?;
    let mut left = arguments.limit;
    let mut before = None;
    while left > 0 {
        let page = letters.newest(before.as_deref(), left).await?;
        let Some(last) = page.last() else { return Ok(()) };
        before = Some(last.id.clone());
        left = left.saturating_sub(page.len());
        for letter in &page {
            if arguments.json {
                print_json(out, route.name(), letter)?;
            } else {
                add_row(table, route.name(), letter, arguments.width);
            }
        }
    }
    let all = letters.count().await?;
    if all > arguments.limit as u64 {
        tell!("{}: {} of {all} shown; --limit shows more", route.name(), arguments.limit);
    }
    Ok(())
}

fn add_row(table: &mut Table, route: &str, letter: &Letter, width: usize) {
    let shown = |name: &str| letter.field(name).map(|value| bytes::shown(value, 60)).unwrap_or_default();
    let subject = match (letter.field("stream"), letter.names_entry()) {
        // Of a broadcast: the entry.
        (Some(_), true) => format!("{} {}", shown("stream"), shown("id")),
        (Some(_), false) => format!("stream {}", shown("stream")),
        (None, _) => format!("channel {}", shown("channel")),
    };
    let detail = letter.field("detail").map(|value| bytes::shown(value, 200)).unwrap_or_default();
    let mut note = format!("{subject}: {detail}");
    if let Some(payload) = letter.field("payload") {
        note.push_str(&format!(": {}", bytes::shown(payload, width)));
    }
    let since = rt::rfc3339(letter.added_unix_ms());
    table.row(vec![route.to_owned(), letter.id.clone(), since, shown("reason")], vec![note]);
}

fn print_json(out: &mut Printer<impl Write>, route: &str, letter: &Letter) -> io::Result<()> {
    let fields = letter.fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let line = json!({ "route": route, "id": letter.id, "at": letter.added_unix_ms(), "fields": bytes::fields(fields) });
    out.json(&line)
}

async fn show(out: &mut Printer<impl Write>, config: &Config, arguments: &Show) -> Result<u8, Refusal> {
    let route = LetterRoute::find(config, &arguments.route)?;
    let ids = ids(&arguments.ids)?;
    let mut letters = Letters::open(config, &route).await?;
    let mut code = super::OK;
    for id in ids {
        let Some(letter) = letters.one(&id).await? else {
            code = missing(&route, &id);
            continue;
        };
        if arguments.json {
            print_json(out, route.name(), &letter)?;
            continue;
        }
        out.line(format_args!("{} {} ({})", route.name(), letter.id, rt::rfc3339(letter.added_unix_ms())))?;
        for (name, value) in &letter.fields {
            out.line(format_args!("  {}: {}", bytes::shown(name, SHOWN), bytes::shown(value, SHOWN)))?;
        }
    }
    out.flush()?;
    Ok(code)
}

async fn requeue(out: &mut Printer<impl Write>, config: &Config, which: &Which) -> Result<u8, Refusal> {
    let route = LetterRoute::find(config, &which.route)?;
    let mut letters = Letters::open(config, &route).await?;
    let mut again = Again::open(config, &route).await?;
    let mut chosen = Chosen::of(which, &route, &mut letters, "requeue").await?;
    let (mut done, mut stay) = (0_u64, 0_u64);
    while let Some(page) = chosen.next(&mut letters).await? {
        for (id, letter) in page {
            let Some(letter) = letter else {
                missing(&route, &id);
                stay += 1;
                continue;
            };
            match again.requeue(&mut letters, &letter).await? {
                Ok(did) => {
                    done += 1;
                    out.line(format_args!("{} {id}: {did}", route.name()))?;
                }
                Err(why) => {
                    stay += 1;
                    tell!("{} {id} not requeued: {why}", route.name());
                }
            }
        }
    }
    out.line(format_args!("{}: {done} requeued, {stay} failed", route.name()))?;
    out.flush()?;
    Ok(if stay == 0 { super::OK } else { super::FAILED })
}

async fn drop_letters(out: &mut Printer<impl Write>, config: &Config, which: &Which) -> Result<u8, Refusal> {
    let route = LetterRoute::find(config, &which.route)?;
    let mut letters = Letters::open(config, &route).await?;
    let mut chosen = Chosen::of(which, &route, &mut letters, "remove").await?;
    let (mut dropped, mut code) = (0, super::OK);
    while let Some(page) = chosen.next(&mut letters).await? {
        let (there, absent): (Vec<_>, Vec<_>) = page.into_iter().partition(|(_, letter)| letter.is_some());
        let there: Vec<String> = there.into_iter().map(|(id, _)| id).collect();
        dropped += letters.remove(&there).await?;
        for (id, _) in absent {
            code = missing(&route, &id);
        }
    }
    out.line(format_args!("{}: {dropped} removed", route.name()))?;
    out.flush()?;
    Ok(code)
}

fn missing(route: &LetterRoute, id: &str) -> u8 {
    tell!("{} has no dead letter {id}", route.name());
    super::FAILED
}

/// Ids as the server writes them.
fn ids(given: &[String]) -> Result<Vec<String>, Refusal> {
    let id = |text: &String| match EntryId::parse(text.as_bytes()) {
        Some(id) => Ok(id.to_string()),
        None => Err(Refusal::usage(format!(
            "'{text}' is not the id of a dead letter; expected one such as 1700000000000-0"
        ))),
    };
    given.iter().map(id).collect()
}

/// The letters that a command is about, page by page.
enum Chosen {
    Ids(std::vec::IntoIter<String>),
    /// After the one, up to the other.
    All {
        after: Option<String>,
        last: EntryId,
    },
    Nothing,
}

impl Chosen {
    /// Asks first, where it is all of them.
    async fn of(
        which: &Which,
        route: &LetterRoute,
        letters: &mut Letters,
        what: &str,
    ) -> Result<Self, Refusal> {
        if !which.all {
            return Ok(Self::Ids(ids(&which.ids)?.into_iter()));
        }
        let Some(last) = letters.newest(None, 1).await?.first().and_then(|letter| letter.entry_id()) else {
            return Ok(Self::Nothing);
        };
        if !which.yes {
            let count = letters.count().await?;
            confirm::agree(&format!("{what} all {count} dead letters of {}?", route.name()))?;
        }
        Ok(Self::All { after: None, last })
    }

    /// The next ids, each with its letter where there is one; `None` after the last.
    async fn next(
        &mut self,
        letters: &mut Letters,
    ) -> Result<Option<Vec<(String, Option<Letter>)>>, Refusal> {
        match self {
            Self::Nothing => Ok(None),
            Self::Ids(ids) => {
                let Some(id) = ids.next() else { return Ok(None) };
                let letter = letters.one(&id).await?;
                Ok(Some(vec![(id, letter)]))
            }
            Self::All { after, last } => {
                let mut page = letters.oldest(after.as_deref()).await?;
                page.retain(|letter| letter.entry_id().is_some_and(|id| id <= *last));
                let Some(end) = page.last() else { return Ok(None) };
                *after = Some(end.id.clone());
                Ok(Some(page.into_iter().map(|letter| (letter.id.clone(), Some(letter))).collect()))
            }
        }
    }
}

/// What requeues the letters of a route.
enum Again<'a> {
    Capture(&'a LetterRoute),
    Broadcast(Box<broadcast::requeue::Requeue>, &'a LetterRoute),
    Invalidate(Box<invalidate::requeue::Requeue>),
}

impl<'a> Again<'a> {
    async fn open(config: &Config, route: &'a LetterRoute) -> Result<Self, Refusal> {
        let settings = match route {
            LetterRoute::Capture(_) => return Ok(Self::Capture(route)),
            LetterRoute::Invalidate(settings) => {
                let (source, cache) = (&config.redis[&settings.source], &config.redis[&settings.destination]);
                let open = invalidate::requeue::Requeue::open(settings, source, cache).await;
                let open = open.map_err(|(endpoint, error)| Refusal::server(&endpoint, &error))?;
                return Ok(Self::Invalidate(Box::new(open)));
            }
            LetterRoute::Broadcast(settings) => settings,
        };
        let (source, destination) = (&config.redis[&settings.source], &config.redis[&settings.destination]);
        let open = broadcast::requeue::Requeue::open(settings, source, destination).await;
        let open = open.map_err(|(endpoint, error)| Refusal::server(&endpoint, &error))?;
        Ok(Self::Broadcast(Box::new(open), route))
    }

    /// What was done, or why the letter stays.
    async fn requeue(
        &mut self,
        letters: &mut Letters,
        letter: &Letter,
    ) -> Result<Result<String, String>, Refusal> {
        match self {
            Self::Capture(route) => {
                let LetterRoute::Capture(settings) = route else { return Ok(Err("no capture".to_owned())) };
                let endpoint = letters.endpoint.clone();
                let (id, added) = (&letter.id, letter.added_unix_ms());
                let connection = &mut letters.connection;
                let did =
                    capture::requeue::requeue(connection, &endpoint, settings, id, added, &letter.fields)
                        .await;
                Ok(match did.map_err(|error| Refusal::server(&endpoint.name, &error))? {
                    capture::requeue::RequeueOutcome::Appended { stream, id } => {
                        Ok(format!("stored in {} as {id}", bytes::shown(&stream, 200)))
                    }
                    capture::requeue::RequeueOutcome::Gone => Err(GONE.to_owned()),
                    capture::requeue::RequeueOutcome::Stays(why) => Err(why),
                })
            }
            Self::Invalidate(requeue) => {
                let entry = letter.field("id").and_then(EntryId::parse);
                let (Some(entry), Some(stream)) = (entry, letter.field("stream")) else {
                    return Ok(Err(NO_ENTRY.to_owned()));
                };
                let did = requeue.apply(&letter.id, stream, entry).await;
                Ok(match did.map_err(|(endpoint, error)| Refusal::server(&endpoint, &error))? {
                    invalidate::requeue::RequeueOutcome::Removed(removed) => {
                        Ok(super::invalidate::removed(&removed))
                    }
                    invalidate::requeue::RequeueOutcome::Gone => Err(GONE.to_owned()),
                    invalidate::requeue::RequeueOutcome::Stays(why) => Err(why),
                })
            }
            Self::Broadcast(requeue, route) => {
                let entry = letter.field("id").and_then(EntryId::parse);
                let Some(entry) = entry.filter(|_| letter.names_entry()) else {
                    return Ok(Err(NO_ENTRY.to_owned()));
                };
                if letter.field("reason") == Some(broadcast::DELETED_UNREAD.as_bytes()) {
                    return Ok(Err(
                        "its entries were deleted before they were read and cannot be published; drop it"
                            .to_owned(),
                    ));
                }
                let stream = letter.field("stream").and_then(|stream| std::str::from_utf8(stream).ok());
                let reads = |stream: &&str| match route {
                    LetterRoute::Broadcast(settings) => settings.reads(stream),
                    LetterRoute::Capture(_) | LetterRoute::Invalidate(_) => false,
                };
                let Some(stream) = stream.filter(reads) else {
                    return Ok(Err("its entry is in a stream that the route no longer reads".to_owned()));
                };
                let did = requeue.publish(&letter.id, stream, entry).await;
                Ok(match did.map_err(|(endpoint, error)| Refusal::server(&endpoint, &error))? {
                    broadcast::requeue::RequeueOutcome::Published { channel, receivers } => {
                        let channel = bytes::shown(&channel, 200);
                        Ok(format!("published on {channel} to {receivers} subscribers"))
                    }
                    broadcast::requeue::RequeueOutcome::Gone => Err(GONE.to_owned()),
                    broadcast::requeue::RequeueOutcome::Stays(why) => Err(why),
                })
            }
        }
    }
}
