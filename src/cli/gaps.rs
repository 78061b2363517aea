//! `tidegate gaps`: the gap records of captures, as they stand at the destination.
//!
//! A route's records are a stream, capped where they are written. It is read in pages from its start, because the
//! daemon's user may run `XRANGE` and not `XREVRANGE`, and printed in that order: the latest record stands last. If one route cannot be
//! read, the others are printed all the same.

mod summary;

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::output::table::{Column, Table};
use super::output::{self, Printer, tell};
use super::replay::bound::Bound;
use crate::config::{Capture, Config, Endpoint, redis_keys};
use crate::rt;
use crate::server::{self, ControlConnection, Error, hinted};
use crate::text::printable;

/// Records a page: about 500 KB at most, since details are sentences.
const PAGE: usize = 1000;

/// Records kept to be printed: as many as a route's stream is capped to.
const LATEST: usize = 10_000;

#[derive(Debug, Default, Args)]
pub(super) struct GapsArguments {
    /// Only this capture; without it, all of them
    route: Option<String>,
    /// Only gaps that ended after this time: 2026-11-25T09:30:00Z, milliseconds since 1970, or how long ago, such as 2h
    /// or -2h
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true, value_parser = since)]
    since: Option<Bound>,
    /// Only the latest gaps of each capture
    #[arg(long, value_name = "NUMBER")]
    last: Option<NonZeroUsize>,
    /// Print one row for each capture and cause, with planned restarts apart: how many gaps, how long together, and when the last one ended
    #[arg(long, conflicts_with = "verbose")]
    summary: bool,
    /// Exit with 1 if there is a gap, for scripts. Without this option the exit code is 0; 69 if a server cannot be asked
    #[arg(long)]
    exit_code: bool,
    /// Print the positions before and after each gap as well
    #[arg(long, short, conflicts_with = "json")]
    verbose: bool,
    /// Print one JSON object per line; times in milliseconds since 1970
    #[arg(long)]
    json: bool,
}

/// A time as for a replay, or a duration without its sign.
fn since(text: &str) -> Result<Bound, String> {
    text.parse().or_else(|error| humantime::parse_duration(text).map(Bound::Ago).map_err(|_| error))
}

/// One record.
#[derive(Debug, Serialize)]
struct GapRecord<'a> {
    route: &'a str,
    started_at: u64,
    ended_at: u64,
    cause: String,
    /// It begins with an ordered stop.
    planned: bool,
    dropped: u64,
    from: String,
    to: String,
    detail: String,
}

/// Prints the gap records.
pub(super) fn gaps(path: &Path, arguments: &GapsArguments) -> u8 {
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let routes: Vec<&Capture> = config
        .capture
        .values()
        .map(AsRef::as_ref)
        .filter(|route| arguments.route.as_ref().is_none_or(|wanted| *wanted == route.name))
        .collect();
    if let (Some(wanted), []) = (&arguments.route, routes.as_slice()) {
        return super::no_capture(&config, wanted);
    }
    match super::block_on(print(&mut output::stdout_to_the_end(), &config, &routes, arguments)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) | Err(error) => {
            tell!("cannot list the gaps: {error}");
            super::FAILED
        }
    }
}

/// Prints the gaps of all captures by cause, and the latest of each.
pub(super) async fn print_for_report(out: &mut Printer<impl Write>, config: &Config) -> io::Result<()> {
    let routes: Vec<&Capture> = config.capture.values().map(AsRef::as_ref).collect();
    let summary = GapsArguments { summary: true, ..GapsArguments::default() };
    let latest = GapsArguments { last: NonZeroUsize::new(20), verbose: true, ..GapsArguments::default() };
    for arguments in [summary, latest] {
        if print(out, config, &routes, &arguments).await? != super::OK {
            out.line("a server could not be asked: see check --connect")?;
            return Ok(());
        }
    }
    Ok(())
}

/// Prints the routes' records and gives the exit code; an error is one of writing.
async fn print(
    out: &mut Printer<impl Write>,
    config: &Config,
    routes: &[&Capture],
    arguments: &GapsArguments,
) -> io::Result<u8> {
    let mut code = super::OK;
    let mut found = false;
    let since = arguments.since.map_or(0, |since| since.lowest(rt::unix_ms()).milliseconds);
    let most = arguments.last.map_or(LATEST, |last| last.get().min(LATEST));
    let mut table = if arguments.summary { summary::table() } else { table() };
    for route in routes {
        let mut records = Records::of(config, route);
        let mut latest = VecDeque::new();
        loop {
            match records.next_page().await {
                Ok(page) if page.is_empty() => break,
                Ok(page) => {
                    let gaps = page.iter().map(|(_, fields)| GapRecord::read(&route.name, fields));
                    latest.extend(gaps.filter(|gap| gap.ended_at >= since));
                    latest.drain(..latest.len().saturating_sub(most));
                }
                Err(error) => {
                    let error = hinted(&error, error.hint_for_operator().as_deref());
                    tell!("capture {}: server {}: {error}", route.name, route.destination);
                    code = super::UNAVAILABLE;
                    break;
                }
            }
        }
        found |= !latest.is_empty();
        if arguments.summary {
            for line in summary::of(&latest) {
                if arguments.json { out.json(&line)? } else { line.add_to(&mut table) }
            }
            continue;
        }
        for gap in &latest {
            if arguments.json {
                out.json(gap)?;
            } else {
                add_row(&mut table, gap, arguments.verbose);
            }
        }
    }
    // Of a route that could not be read nobody knows whether there are none.
    if !arguments.json && (code == super::OK || !table.is_empty()) {
        out.lines(&table.lines())?;
    }
    out.flush()?;
    Ok(if found && arguments.exit_code && code == super::OK { super::FAILED } else { code })
}

fn table() -> Table {
    let text = Column::Text;
    let columns = vec![text("ROUTE"), text("START"), text("END"), text("CAUSE"), Column::Number("DROPPED")];
    Table::new(columns, "DETAIL")
}

fn add_row(table: &mut Table, gap: &GapRecord<'_>, verbose: bool) {
    let (start, end) = (rt::rfc3339(gap.started_at), rt::rfc3339(gap.ended_at));
    let cause = shown_cause(&gap.cause, gap.planned);
    let cells = vec![gap.route.to_owned(), start, end, cause, gap.dropped.to_string()];
    let mut notes = vec![gap.detail.clone()];
    if verbose {
        notes.push(format!("after position {}", gap.from));
        notes.push(format!("before position {}", gap.to));
    }
    table.row(cells, notes);
}

/// A cause, with what is known of a restart.
fn shown_cause(cause: &str, planned: bool) -> String {
    if planned { format!("{cause}, planned") } else { cause.to_owned() }
}

/// A record's id and fields.
type FoundRecord = (String, HashMap<String, Vec<u8>>);

/// The records of one route, oldest first.
struct Records<'a> {
    endpoint: &'a Endpoint,
    key: String,
    connection: Option<ControlConnection>,
    /// Where the next page begins, as XRANGE takes it.
    start: String,
}

impl<'a> Records<'a> {
    fn of(config: &'a Config, route: &Capture) -> Self {
        let endpoint = &config.redis[&route.destination];
        let key = redis_keys::of_route(&endpoint.key_prefix, &route.name, "gaps");
        Self { endpoint, key, connection: None, start: "-".to_owned() }
    }

    /// Empty after the last.
    async fn next_page(&mut self) -> Result<Vec<FoundRecord>, Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(server::control(self.endpoint, "gaps").await?),
        };
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.key).arg(&self.start).arg("+").arg("COUNT").arg(PAGE);
        let page = command.query_async(connection).await;
        let page: Vec<FoundRecord> = page.map_err(|error| Error::from(error).at(&[&self.key]))?;
        if let Some((id, _)) = page.last() {
            self.start = format!("({id}");
        }
        Ok(page)
    }
}

impl<'a> GapRecord<'a> {
    /// Reads a record's fields; one that a later release does not write is empty, or 0.
    fn read(route: &'a str, fields: &HashMap<String, Vec<u8>>) -> Self {
        let text = |name: &str| fields.get(name).map(|value| printable::text(value)).unwrap_or_default();
        let number = |name: &str| text(name).parse().unwrap_or(0);
        Self {
            route,
            started_at: number("started_at"),
            ended_at: number("ended_at"),
            cause: text("cause"),
            planned: text("planned") == "1",
            dropped: number("dropped"),
            from: text("from"),
            to: text("to"),
            detail: text("detail"),
        }
    }
}
