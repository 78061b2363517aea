//! `tidegate gaps`: the gap records of captures, as they stand at the destination.
//!
//! A route's records are a stream, capped where they are written. It is read in pages, each printed
//! before the next is asked for, so that nothing grows here. A route that cannot be read does not keep
//! the others from being shown.

use std::collections::HashMap;
use std::path::Path;

use clap::Args;
use redis::aio::MultiplexedConnection;
use serde::Serialize;

use crate::config::{Capture, Config, keys};
use crate::rt;
use crate::server::{self, Error};

/// Records a page: about 500 KB at most, since details are sentences.
const PAGE: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this capture; all of them without it
    route: Option<String>,
    /// Print one JSON object a line; times in milliseconds since 1970
    #[arg(long)]
    json: bool,
}

/// One record.
#[derive(Debug, Serialize)]
struct Gap<'a> {
    route: &'a str,
    started_at: u64,
    ended_at: u64,
    cause: String,
    dropped: u64,
    from: String,
    to: String,
    detail: String,
}

/// Prints the gap records.
pub(super) fn gaps(path: &Path, arguments: &Arguments) -> u8 {
    let config = match super::load(path) {
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
        let known: Vec<&str> = config.capture.keys().map(String::as_str).collect();
        eprintln!("there is no capture '{wanted}' in the configuration; there are: {}", known.join(", "));
        return super::USAGE;
    }
    match super::block_on(print(&config, &routes, arguments.json)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cannot start the runtime: {error}");
            super::FAILED
        }
    }
}

async fn print(config: &Config, routes: &[&Capture], json: bool) -> u8 {
    let mut code = super::OK;
    if !json {
        println!(
            "{:<16} {:<24} {:<24} {:<21} {:>8}  DETAIL, BETWEEN THE POSITIONS",
            "ROUTE", "START", "END", "CAUSE", "DROPPED"
        );
    }
    for route in routes {
        if let Err(error) = print_route(config, route, json).await {
            let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            eprintln!("capture {}: endpoint {}: {error}{hint}", route.name, route.destination);
            code = super::UNAVAILABLE;
        }
    }
    code
}

async fn print_route(config: &Config, route: &Capture, json: bool) -> Result<(), Error> {
    let endpoint = &config.redis[&route.destination];
    let key = keys::of_route(&endpoint.key_prefix, &route.name, "gaps");
    let mut connection = server::control(endpoint, "gaps").await?;
    let mut start = "-".to_owned();
    loop {
        let page = page(&mut connection, &key, &start).await?;
        for (_, fields) in &page {
            print_gap(&Gap::read(&route.name, fields), json)?;
        }
        match page.last() {
            Some((id, _)) if page.len() == PAGE => start = format!("({id}"),
            _ => return Ok(()),
        }
    }
}

type Record = (String, HashMap<String, Vec<u8>>);

async fn page(connection: &mut MultiplexedConnection, key: &str, start: &str) -> Result<Vec<Record>, Error> {
    let mut command = redis::cmd("XRANGE");
    command.arg(key).arg(start).arg("+").arg("COUNT").arg(PAGE);
    Ok(command.query_async(connection).await?)
}

fn print_gap(gap: &Gap<'_>, json: bool) -> Result<(), Error> {
    if json {
        println!("{}", serde_json::to_string(gap).map_err(std::io::Error::from)?);
        return Ok(());
    }
    println!(
        "{:<16} {:<24} {:<24} {:<21} {:>8}  {}, {} to {}",
        gap.route,
        rt::rfc3339(gap.started_at),
        rt::rfc3339(gap.ended_at),
        gap.cause,
        gap.dropped,
        gap.detail,
        gap.from,
        gap.to
    );
    Ok(())
}

impl<'a> Gap<'a> {
    /// Reads a record's fields; one that a later release does not write is empty, or 0.
    fn read(route: &'a str, fields: &HashMap<String, Vec<u8>>) -> Self {
        let text = |name: &str| {
            fields.get(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
        };
        let number = |name: &str| text(name).parse().unwrap_or(0);
        Self {
            route,
            started_at: number("started_at"),
            ended_at: number("ended_at"),
            cause: text("cause"),
            dropped: number("dropped"),
            from: text("from"),
            to: text("to"),
            detail: text("detail"),
        }
    }
}
