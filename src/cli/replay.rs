//! `tidegate replay`: a past range of a stream, published again.
//!
//! ```text
//! arguments ─▶ where the stream is, and its range in ids ─▶ may it be published there? ─▶ broadcast::replay
//! ```
//!
//! What may not be is refused before anything is published: a channel that somebody listens to now, and
//! one that a capture of the configuration would store again.

pub(super) mod bound;
pub(super) mod range;
mod show;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::output::{self, tell};
use crate::broadcast::replay::{
    self, Job, Progress, Range, Replay, ReplayEnd, ReplayError, ReplayRange, Survey, Tempo,
};
use crate::config::{self, Config, Endpoint, MessageFormat, Rate, acl, lookup, redis_keys};
use crate::metrics;
use crate::rt;
use crate::server::{self, Error};
use crate::text::plural;
use crate::text::printable::PrintableLines;
use crate::text::template::Template;

use super::Refusal;
use super::output::range_progress::moment;
use bound::Bound;
use range::ask;
use show::ShownReplay;

/// What a raw capture calls the payload.
const PAYLOAD_FIELD: &str = "payload";

/// The largest message that Redis takes.
const MAX_MESSAGE_BYTES: u64 = 512 << 20;

#[derive(Debug, Args)]
pub(super) struct ReplayArguments {
    /// The stream whose entries are republished
    stream: String,
    /// Start: an entry's id, milliseconds since 1970, a time such as 2026-11-25T09:30:00Z, or how long ago, such as
    /// -1h
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    from: Bound,
    /// End, as for --from; without it, the last entry at the start of the replay
    #[arg(long, value_name = "WHEN", allow_hyphen_values = true)]
    to: Option<Bound>,
    /// The channel, or a template with `<field:NAME>`, `<pointer:/PATH>`, `<stream>` and `<id>`
    #[arg(long, value_name = "TEMPLATE", value_parser = channel)]
    channel: Template,
    /// The message: a template as for --channel, or with `<json>`, the whole entry
    #[arg(long, value_name = "TEMPLATE", default_value = "<field:payload>", value_parser = message)]
    message: Template,
    /// The field of an entry that holds the payload, for `<pointer:/PATH>`
    #[arg(long, value_name = "NAME", default_value = PAYLOAD_FIELD)]
    payload_field: String,
    /// Publish the JSON envelope of a broadcast: stream, id and fields of the entry
    #[arg(long, conflicts_with = "message")]
    envelope: bool,
    /// Publish with SPUBLISH, for subscribers that use SSUBSCRIBE (Redis 7.0 or newer)
    #[arg(long)]
    sharded: bool,
    /// Keep the original time between entries, divided by this factor. Without --speed and --rate, publish as fast as
    /// possible
    #[arg(long, value_name = "FACTOR", value_parser = positive, conflicts_with = "rate")]
    speed: Option<f64>,
    /// Publish this many entries per second
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Print what would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
    /// Name of the replay's checkpoint. Without it, the name is derived from the other arguments, so that the same
    /// command resumes an interrupted replay
    #[arg(long, value_name = "NAME", value_parser = job_name)]
    job: Option<String>,
    /// Delete the checkpoint of an earlier run, and start again
    #[arg(long, conflicts_with = "dry_run")]
    restart: bool,
    /// The server of the stream; required if no route or several routes have the stream
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// The server to publish on; without it, the server of the stream
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Publish even if the channel has subscribers, or a capture would store the messages again
    #[arg(long)]
    onto_live: bool,
}

impl ReplayArguments {
    fn message(&self) -> MessageFormat {
        if self.envelope { MessageFormat::Envelope } else { MessageFormat::Template(self.message.clone()) }
    }

    /// The message, for an operator and for telling jobs apart.
    fn message_named(&self) -> String {
        let message =
            if self.envelope { "the JSON envelope".to_owned() } else { format!("\"{}\"", self.message) };
        if self.payload_field == PAYLOAD_FIELD {
            return message;
        }
        format!("{message}, payload in the field \"{}\"", self.payload_field)
    }
}

fn channel(text: &str) -> Result<Template, String> {
    config::of_entry(text, false)
}

fn message(text: &str) -> Result<Template, String> {
    config::of_entry(text, true)
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err("expected a number above 0".to_owned()),
    }
}

fn job_name(text: &str) -> Result<String, String> {
    let letter = |c: char| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-');
    if text.is_empty() || text.len() > 48 || !text.chars().all(letter) {
        return Err("expected 1 to 48 letters, digits, '_' and '-'".to_owned());
    }
    Ok(text.to_owned())
}

impl From<ReplayError> for Refusal {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Server { .. } => Self::new(super::UNAVAILABLE, error.to_string()),
            ReplayError::OtherJob { .. } => {
                Self::usage(format!("{error}; choose another --job, or start again with --restart"))
            }
            ReplayError::Vanished { .. } => Self::new(super::FAILED, error.to_string()),
        }
    }
}

/// Publishes a range of a stream again.
pub(super) fn replay(path: &Path, arguments: &ReplayArguments) -> u8 {
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
    super::carry_out(run(&config, arguments, &stop))
}

async fn run(config: &Config, arguments: &ReplayArguments, stop: &CancellationToken) -> Result<u8, Refusal> {
    let place = ReplayPlace::find(config, arguments)?;
    let live = live(config, &place.destination, arguments).await?;
    if !live.is_empty() && !arguments.onto_live && !arguments.dry_run {
        let mut why = PrintableLines::from(format!(
            "the channel \"{}\" on {} is in use:",
            arguments.channel, place.destination.name
        ));
        for reason in live {
            why.push(format_args!("  {reason}"));
        }
        why.push("nothing was published; use another channel, or --onto-live to publish anyway");
        return Err(Refusal::usage(why));
    }
    let bounds = (arguments.from, arguments.to);
    let range = range::find(&place.source, "replay", &arguments.stream, bounds).await?;
    let piece = ReplayRange {
        stream: arguments.stream.clone(),
        channel: arguments.channel.clone(),
        message: arguments.message(),
        payload_field: arguments.payload_field.clone(),
        sharded: arguments.sharded,
        max_message_bytes: MAX_MESSAGE_BYTES,
    };
    if arguments.dry_run {
        let mut shown = ShownReplay::new(range, 0);
        let survey = replay::survey(&piece, &place.source, range, stop, &mut shown).await?;
        shown.done();
        output::print(|out| out.lines(&surveyed(&survey, arguments, &live)))?;
        return Ok(if stop.is_cancelled() { super::FAILED } else { super::OK });
    }
    let name = arguments.job.clone().unwrap_or_else(|| job_of(arguments));
    let of = format!(
        "stream \"{}\" to {}channel \"{}\" on server {}, message {}",
        arguments.stream,
        if arguments.sharded { "sharded " } else { "" },
        arguments.channel,
        place.destination.name,
        arguments.message_named()
    );
    let job = Job {
        key: redis_keys::of_replay(&place.source.key_prefix, &place.route, &name),
        of,
        piece,
        tempo: tempo(arguments),
    };
    play(&place, job, &name, range, arguments.restart, stop).await
}

async fn play(
    place: &ReplayPlace,
    job: Job,
    name: &str,
    range: Range,
    restart: bool,
    stop: &CancellationToken,
) -> Result<u8, Refusal> {
    tell!("replay of {}, job {name}", job.of);
    let (replay, begun) = Replay::begin(job, &place.source, &place.destination, range, restart).await?;
    let Range { from, to } = begun.range;
    tell!("entries {from} ({}) to {to} ({})", moment(from), moment(to));
    if begun.goes_on {
        tell!(
            "resuming after {}: the replay started at {}, and {} entries are published already",
            begun.progress.position,
            rt::rfc3339(begun.started_unix_ms),
            begun.progress.published
        );
    }
    if !place.source.is_same_server(&place.destination) {
        tell!(
            "stream and channel are on two servers: if the replay is interrupted, a few messages may be published twice"
        );
    }
    let mut shown = ShownReplay::new(begun.range, begun.progress.published);
    let ended = replay.run(stop, &mut shown).await;
    shown.done();
    match ended {
        Ok((ReplayEnd::Finished, progress)) => {
            output::print(|out| out.line(summary(&progress)))?;
            // A message template that fits no entry is a mistake, and not a replay.
            Ok(if progress.published == 0 && progress.skipped > 0 { super::FAILED } else { super::OK })
        }
        Ok((ReplayEnd::Stopped, progress)) => {
            output::print(|out| {
                out.line(format_args!("stopped after {}: {}", progress.position, summary(&progress)))?;
                out.line(format_args!(
                    "run the same command again to continue (job {name}); --restart starts again"
                ))
            })?;
            Ok(super::FAILED)
        }
        Err((error, progress)) => {
            let Refusal(code, mut lines) = Refusal::from(error);
            lines.push(format_args!(
                "interrupted after {} or later: {}",
                progress.position,
                summary(&progress)
            ));
            lines.push(format_args!("run the same command again to continue (job {name})"));
            Err(Refusal(code, lines))
        }
    }
}

fn summary(progress: &Progress) -> String {
    let Progress { published, unheard, skipped, .. } = progress;
    let mut text = format!("{} published", plural::of(*published, "entry"));
    if *unheard > 0 {
        text.push_str(&format!(", {unheard} without subscribers"));
    }
    if *skipped > 0 {
        text.push_str(&format!(", {skipped} skipped because the message template does not fit"));
    }
    text
}

fn tempo(arguments: &ReplayArguments) -> Tempo {
    match (arguments.speed, arguments.rate) {
        (Some(speed), _) => Tempo::Speed(speed),
        (None, Some(rate)) => Tempo::Rate(Rate { count: rate, per: Duration::from_secs(1) }),
        (None, None) => Tempo::Unlimited,
    }
}

/// The same for the same command, whatever its pace.
fn job_of(arguments: &ReplayArguments) -> String {
    let to = arguments.to.map(|to| to.to_string()).unwrap_or_default();
    let destination = arguments.destination.as_deref().unwrap_or_default();
    let from = arguments.from.to_string();
    let (channel, message) = (arguments.channel.to_string(), arguments.message_named());
    let mut hash = Sha256::new();
    for part in [&arguments.stream, &from, &to, &channel, &message, destination] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update([u8::from(arguments.sharded)]);
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Where the stream is and where is published.
struct ReplayPlace {
    /// The route that the checkpoint belongs to, or the stream's name.
    route: String,
    source: Arc<Endpoint>,
    destination: Arc<Endpoint>,
}

impl ReplayPlace {
    fn find(config: &Config, arguments: &ReplayArguments) -> Result<Self, Refusal> {
        let named = |name: &str| {
            let known = || config.redis.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            config.redis.get(name).cloned().ok_or_else(|| {
                Refusal::usage(format!(
                    "there is no server '{name}' in the configuration; known: {}",
                    known()
                ))
            })
        };
        let mut holders = lookup::holders(config, &arguments.stream);
        if let Some(server) = &arguments.server {
            holders.retain(|holder| holder.endpoint == *server);
        }
        let source = match (&arguments.server, holders.first()) {
            (Some(name), _) => named(name)?,
            (None, Some(first)) if holders.iter().all(|holder| holder.endpoint == first.endpoint) => {
                named(&first.endpoint)?
            }
            (None, Some(_)) => {
                let mut names: Vec<_> = holders.iter().map(|holder| holder.endpoint.as_str()).collect();
                names.sort_unstable();
                names.dedup();
                return Err(Refusal::usage(format!(
                    "routes have a stream '{}' on {}: choose one with --server",
                    arguments.stream,
                    names.join(" and ")
                )));
            }
            (None, None) => match config.redis.values().collect::<Vec<_>>().as_slice() {
                [only] => Arc::clone(only),
                _ => {
                    return Err(Refusal::usage(format!(
                        "no route of the configuration has a stream '{}': name its server with --server",
                        arguments.stream
                    )));
                }
            },
        };
        let destination = arguments.destination.as_deref().map_or_else(|| Ok(Arc::clone(&source)), named)?;
        if lookup::is_control(&destination, &arguments.channel) {
            return Err(Refusal::usage(format!(
                "\"{}\" can be \"{}\", the channel of tidegate's own heartbeats",
                arguments.channel,
                redis_keys::control(&destination.key_prefix)
            )));
        }
        let route = holders.first().map_or_else(|| arguments.stream.clone(), |holder| holder.route.clone());
        Ok(Self { route, source, destination })
    }
}

/// Who hears what would be published, for an operator.
async fn live(
    config: &Config,
    endpoint: &Endpoint,
    arguments: &ReplayArguments,
) -> Result<Vec<String>, Refusal> {
    let refused = |error: Error| Refusal::server(&endpoint.name, &error);
    let ReplayArguments { stream, channel, sharded, .. } = arguments;
    let mut found = lookup::listeners(config, endpoint, stream, channel, *sharded);
    let mut connection = server::control(endpoint, "replay").await.map_err(refused)?;
    if let Some(name) = channel.literal() {
        let numsub = if *sharded { "SHARDNUMSUB" } else { "NUMSUB" };
        let (_, subscribers): (String, u64) =
            ask(&mut connection, &["PUBSUB", numsub, name]).await.map_err(refused)?;
        if subscribers > 0 {
            found.push(format!("{subscribers} clients are subscribed to it"));
        }
    } else {
        let pattern = acl::glob_of(channel);
        let channels = if *sharded { "SHARDCHANNELS" } else { "CHANNELS" };
        let channels: Vec<redis::Value> =
            ask(&mut connection, &["PUBSUB", channels, &pattern]).await.map_err(refused)?;
        if !channels.is_empty() {
            found.push(format!("{} channels that match it have subscribers", channels.len()));
        }
    }
    if *sharded {
        // Patterns do not hear SPUBLISH.
        return Ok(found);
    }
    let patterns: u64 = ask(&mut connection, &["PUBSUB", "NUMPAT"]).await.map_err(refused)?;
    // Those of the configuration's own captures are named above, where they match.
    let (captures, own) = lookup::subscribed_patterns(config, endpoint);
    let control = redis_keys::control(&endpoint.key_prefix);
    let (_, listening): (String, u64) =
        ask(&mut connection, &["PUBSUB", "NUMSUB", &control]).await.map_err(refused)?;
    // Each capture that listens is subscribed to the control channel: fewer subscribers, and some do not.
    let patterns = if listening >= captures { patterns.saturating_sub(own) } else { patterns };
    if patterns > 0 {
        found.push(format!(
            "clients are subscribed to {patterns} patterns, which Redis does not list; one may match"
        ));
    }
    Ok(found)
}

/// What a dry run has found.
fn surveyed(survey: &Survey, arguments: &ReplayArguments, live: &[String]) -> PrintableLines {
    let Survey { entries, bytes, skipped, span } = *survey;
    let mut lines = PrintableLines::from(format!(
        "would publish {}, {} of messages; nothing was published",
        plural::of(entries, "entry"),
        plural::of(bytes, "byte")
    ));
    if let Some((first, last)) = span {
        lines.push(format_args!("from {first} ({}) to {last} ({})", moment(first), moment(last)));
        let apart = last.milliseconds.saturating_sub(first.milliseconds);
        let whole = Duration::from_millis(apart).as_secs_f64();
        let takes = match tempo(arguments) {
            Tempo::Unlimited => None,
            Tempo::Rate(rate) => Some(metrics::float(entries) * rate.share().as_secs_f64()),
            Tempo::Speed(speed) => Some(whole / speed),
        };
        if let Some(Ok(takes)) = takes.map(Duration::try_from_secs_f64) {
            let takes = Duration::from_secs(takes.as_secs());
            lines.push(format_args!("this would take about {}", humantime::format_duration(takes)));
        }
    }
    if skipped > 0 {
        lines.push(format_args!("{skipped} entries do not fit the message template and would be skipped"));
    }
    for reason in live {
        lines.push(format_args!("the channel is in use: {reason}"));
    }
    lines
}
