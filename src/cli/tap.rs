//! `tidegate tap`: what comes into a route's streams, as it comes.
//!
//! Read with XREAD, which no consumer group notices, from the newest entry on. What is read is bounded and
//! not only what is shown: once a second's lines are printed nothing more is asked for in that second, and
//! where that falls behind, tap continues at the newest entries and reports it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::Refusal;
use super::output::{self, Printer, bytes, tell};
use crate::config::{Config, Endpoint, redis_keys};
use crate::rt;
use crate::server::{self, ControlConnection};
use crate::stream::EntryId;

/// How long the server waits for an entry before it says that there is none.
const BLOCK: Duration = Duration::from_millis(500);
/// Entries of a stream in one answer. They come whole, whatever is shown of them.
const PAGE: usize = 16;
/// How many streams of a template are looked at.
const MAX_STREAMS: usize = 256;
/// How often streams are looked for that the template has made meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct TapArguments {
    /// The route: a capture shows the streams that it writes, a broadcast the stream that it reads
    route: String,
    /// Show one of every N entries
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Maximum number of entries per second; if more arrive, some are skipped
    #[arg(long, value_name = "ENTRIES", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Maximum number of characters of a value
    #[arg(long, value_name = "CHARACTERS", default_value_t = 80)]
    width: usize,
    /// Exit after this many entries
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print one JSON object per line, with complete values
    #[arg(long)]
    json: bool,
}

/// Where a route's entries are.
struct TappedStream {
    endpoint: Arc<Endpoint>,
    /// The only stream; of a template or a pattern none.
    stream: Option<String>,
    /// The set that names the streams which a template has made, or a broadcast has found.
    made: String,
}

impl TappedStream {
    fn find(config: &Config, name: &str) -> Result<Self, Refusal> {
        let (endpoint, stream) = if let Some(route) = config.capture.get(name) {
            (&route.destination, route.stream.literal().map(str::to_owned))
        } else if let Some(route) = config.broadcast.get(name) {
            (&route.source, route.pattern().is_none().then(|| route.stream().to_owned()))
        } else if let Some(route) = config.invalidate.get(name) {
            (&route.source, Some(route.stream.clone()))
        } else {
            let known: Vec<&str> = config
                .capture
                .keys()
                .chain(config.broadcast.keys())
                .chain(config.invalidate.keys())
                .map(String::as_str)
                .collect();
            return Err(Refusal::usage(format!(
                "there is no route '{name}' in the configuration; known: {}",
                known.join(", ")
            )));
        };
        let endpoint = Arc::clone(&config.redis[endpoint]);
        let made = redis_keys::of_route(&endpoint.key_prefix, name, "streams");
        Ok(Self { endpoint, stream, made })
    }
}

/// Shows what comes.
pub(super) fn tap(path: &Path, arguments: &TapArguments) -> u8 {
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let stop = match super::interrupt::token() {
        Ok(stop) => stop,
        Err(error) => {
            tell!("cannot listen for signals: {error}");
            return super::FAILED;
        }
    };
    super::carry_out(async {
        let place = TappedStream::find(&config, &arguments.route)?;
        let refused = |error: server::Error| Refusal::server(&place.endpoint.name, &error);
        let mut tap = TappedRoute::open(&place, arguments).await.map_err(refused)?;
        let mut out = output::stdout();
        tokio::select! {
            ended = tap.run(&mut out) => match ended {
                Ok(()) => Ok(super::OK),
                Err(TapEnd::Server(error)) => Err(refused(error)),
                Err(TapEnd::Writing(error)) => Err(error.into()),
            },
            () = stop.cancelled() => Ok(super::OK),
        }
    })
}

/// Why it cannot continue.
enum TapEnd {
    Server(server::Error),
    Writing(io::Error),
}

impl From<redis::RedisError> for TapEnd {
    fn from(error: redis::RedisError) -> Self {
        Self::Server(error.into())
    }
}

impl From<io::Error> for TapEnd {
    fn from(error: io::Error) -> Self {
        Self::Writing(error)
    }
}

/// Names and values of an entry in turn.
type EntryParts = Vec<Vec<u8>>;
/// XREAD's answer: streams, each with its entries.
type Came = Option<Vec<(Vec<u8>, Vec<(String, EntryParts)>)>>;

struct TappedRoute<'a> {
    place: &'a TappedStream,
    arguments: &'a TapArguments,
    connection: ControlConnection,
    block: Duration,
    /// Each stream and the last entry that was read of it.
    streams: BTreeMap<Vec<u8>, String>,
    /// When it was last looked which streams there are.
    looked: Instant,
    seen: u64,
    shown: u64,
}

impl<'a> TappedRoute<'a> {
    async fn open(place: &'a TappedStream, arguments: &'a TapArguments) -> Result<Self, server::Error> {
        let connection = server::control(&place.endpoint, "tap").await?;
        let mut tap = Self {
            place,
            arguments,
            connection,
            block: BLOCK.min(place.endpoint.response_timeout / 2),
            streams: BTreeMap::new(),
            looked: Instant::now(),
            seen: 0,
            shown: 0,
        };
        for stream in tap.names().await? {
            tap.streams.insert(stream, String::new());
        }
        tap.skip_to_newest().await?;
        let (route, endpoint) = (&arguments.route, &place.endpoint.name);
        tell!("new entries of {route} on server {endpoint}; Ctrl-C to stop");
        Ok(tap)
    }

    /// The streams that there are, as far as they are looked at.
    async fn names(&mut self) -> Result<Vec<Vec<u8>>, server::Error> {
        if let Some(stream) = &self.place.stream {
            return Ok(vec![stream.clone().into_bytes()]);
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&self.place.made).arg(cursor).arg("COUNT").arg(MAX_STREAMS);
            let page = scan.query_async(&mut self.connection).await;
            let (next, some): (u64, Vec<Vec<u8>>) =
                page.map_err(|error| server::Error::from(error).at(&[&self.place.made]))?;
            names.extend(some);
            cursor = next;
            if cursor == 0 || names.len() >= MAX_STREAMS {
                break;
            }
        }
        if names.len() >= MAX_STREAMS {
            tell!("the route has more than {MAX_STREAMS} streams; only that many are shown");
        }
        names.truncate(MAX_STREAMS);
        Ok(names)
    }

    /// Forgets what came and was not read.
    async fn skip_to_newest(&mut self) -> Result<(), server::Error> {
        for (stream, last) in &mut self.streams {
            let mut newest = redis::cmd("XREVRANGE");
            newest.arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
            let newest = newest.query_async(&mut self.connection).await;
            let newest: Vec<(String, EntryParts)> =
                newest.map_err(|error| server::Error::from(error).at(&[stream]))?;
            *last = newest.into_iter().next().map_or_else(|| "0-0".to_owned(), |(id, _)| id);
        }
        Ok(())
    }

    /// Shows entries up to the number asked for. Cancel safe: only output is lost.
    async fn run(&mut self, out: &mut Printer<impl Write>) -> Result<(), TapEnd> {
        loop {
            let second = Instant::now() + Duration::from_secs(1);
            let mut left = self.arguments.rate;
            let mut behind = false;
            while left > 0 && Instant::now() < second {
                if self.place.stream.is_none() && self.looked.elapsed() > LOOK_AGAIN {
                    self.looked = Instant::now();
                    for stream in self.names().await.map_err(TapEnd::Server)? {
                        // All that is in a stream which is new has come meanwhile.
                        if self.streams.len() < MAX_STREAMS {
                            self.streams.entry(stream).or_insert_with(|| "0-0".to_owned());
                        }
                    }
                }
                if self.streams.is_empty() {
                    sleep(self.block).await;
                    continue;
                }
                let came = self.read().await?;
                behind = came.iter().flatten().any(|(_, entries)| entries.len() >= PAGE);
                for (stream, entries) in came.into_iter().flatten() {
                    for (id, values) in entries {
                        self.seen += 1;
                        if left > 0 && self.seen.is_multiple_of(self.arguments.sample) {
                            left -= 1;
                            self.shown += 1;
                            self.show(out, &stream, &id, &values)?;
                            if self.arguments.count == Some(self.shown) {
                                return Ok(());
                            }
                        } else if left == 0 {
                            behind = true;
                        }
                        self.streams.insert(stream.clone(), id);
                    }
                }
            }
            if left == 0 {
                sleep_until(second).await;
                if behind {
                    self.skip_to_newest().await.map_err(TapEnd::Server)?;
                    tell!(
                        "… more than {} entries per second (--rate): some are skipped",
                        self.arguments.rate
                    );
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Came, TapEnd> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(PAGE).arg("BLOCK").arg(self.block.as_millis().to_string()).arg("STREAMS");
        for stream in self.streams.keys() {
            read.arg(stream);
        }
        for last in self.streams.values() {
            read.arg(last);
        }
        let came = read.query_async(&mut self.connection).await;
        let streams: Vec<&Vec<u8>> = self.streams.keys().collect();
        came.map_err(|error| TapEnd::Server(server::Error::from(error).at(&streams)))
    }

    fn show(
        &self,
        out: &mut Printer<impl Write>,
        stream: &[u8],
        id: &str,
        values: &EntryParts,
    ) -> io::Result<()> {
        let pairs = values.chunks_exact(2).map(|pair| (pair[0].as_slice(), pair[1].as_slice()));
        let at = EntryId::parse(id.as_bytes()).map_or(0, |id| id.milliseconds);
        if self.arguments.json {
            let line =
                json!({ "stream": bytes::value(stream), "id": id, "at": at, "fields": bytes::fields(pairs) });
            return out.json(&line);
        }
        let width = self.arguments.width;
        let mut line = format!(
            "{} {} {id}",
            rt::rfc3339(at),
            bytes::shown(stream, width),
            id = bytes::shown(id.as_bytes(), width)
        );
        for (name, value) in pairs {
            line.push_str(&format!(" {}={}", bytes::shown(name, width), bytes::shown(value, width)));
        }
        out.line(line)
    }
}
