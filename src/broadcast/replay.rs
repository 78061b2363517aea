//! Replay: a past range of a stream, published again.
//!
//! Problem: an operator wants an hour of a stream once more on some channel, at a pace that its subscribers can handle.
//! An interrupted replay must continue where it was and repeat nothing.
//!
//! Operation: a *checkpoint*, the hash `P R:replay:JOB`, is a replay's cursor: the script and the publisher of
//! broadcasts compare it, publish a batch and move it. So if stream and channel are on one server, each entry is
//! published once, however often the replay is killed or started twice; across servers at least once. The checkpoint
//! also holds the range, since `-1h` means another hour each time it is read. It is deleted after the last entry, or 30
//! days after the replay was last begun.
//!
//! Failure: any ends the replay, and beginning it again continues at the checkpoint. An entry that cannot be rendered
//! is skipped, counted and reported: it stays in the stream.

mod tempo;

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::connections::PublishConnections;
use super::failure::{Half, SessionFailure};
use super::message::render::Renderer;
use super::publish::call::{BroadcastKeys, PUBLISH};
use super::publish::count::CursorCount;
use super::publish::publisher::{Called, Publisher};
use crate::config::{Endpoint, MessageFormat};
use crate::rt;
use crate::server::resp::Value;
use crate::server::{Connection, Error, Script, connect, connect_to_publish, load_script, redacted, script};
use crate::status::RouteEndpoint;
use crate::stream::EntryId;
use crate::stream::entries::StreamEntries;
use crate::text::template::Template;

use crate::stream::range::RangeReader;
use tempo::Clock;
pub use tempo::Tempo;

/// Finds or makes the checkpoint.
const BEGIN: Script = script!("replay/begin.lua");
/// Name of its connections in CLIENT LIST.
const CLIENT: &str = "replay";
/// How long the checkpoint of an unfinished replay is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often that time is renewed while a replay runs.
const RENEWED: Duration = Duration::from_secs(3600);
/// Interval of checks for overdue answers.
const TICK: Duration = Duration::from_millis(100);

/// The entries of a replay: both ids are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The lowest id.
    pub from: EntryId,
    /// The highest id.
    pub to: EntryId,
}

/// The range to publish again.
#[derive(Debug, Clone)]
pub struct ReplayRange {
    /// The stream.
    pub stream: String,
    /// The channel, from an entry.
    pub channel: Template,
    /// The message, from an entry.
    pub message: MessageFormat,
    /// The field of an entry that holds the payload, for values of it in the templates.
    pub payload_field: String,
    /// True if it is published with SPUBLISH.
    pub sharded: bool,
    /// The largest message in bytes; an entry that makes a larger one is skipped.
    pub max_message_bytes: u64,
}

/// A replay that can be cut off and continue.
#[derive(Debug, Clone)]
pub struct Job {
    /// The key of its checkpoint, on the stream's server.
    pub key: String,
    /// Range and destination, in words. A checkpoint with other words is refused.
    pub of: String,
    /// The range to publish.
    pub piece: ReplayRange,
    /// The speed.
    pub tempo: Tempo,
}

/// Progress of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that is dealt with.
    pub position: EntryId,
    /// Entries published since the job began, in earlier runs too.
    pub published: u64,
    /// Number of these that had no subscriber.
    pub unheard: u64,
    /// Entries that made no message, in earlier runs too.
    pub skipped: u64,
}

/// Is called at each step of a replay.
pub trait ReplayObserver {
    /// Something was answered. Comes often.
    fn progress(&mut self, progress: &Progress);
    /// An entry makes no message, and why.
    fn skipped(&mut self, entry: EntryId, why: &str);
}

/// A replay's checkpoint, as it was found or made.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// The range; a continued replay keeps its first one.
    pub range: Range,
    /// The current progress.
    pub progress: Progress,
    /// When the job began; milliseconds since 1970.
    pub started_unix_ms: u64,
    /// True if it continues with an earlier run.
    pub goes_on: bool,
}

/// How a successful replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayEnd {
    /// The whole range is published, and the checkpoint removed.
    Finished,
    /// It was stopped; the checkpoint stays.
    Stopped,
}

/// Why a replay cannot begin or continue.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A server is away, or refuses.
    #[error("server {endpoint}: {what}")]
    Server {
        /// The endpoint.
        endpoint: String,
        /// The problem, and the remedy.
        what: String,
    },
    /// The checkpoint is that of something else.
    #[error("the checkpoint {key} belongs to another replay: {of}")]
    OtherJob {
        /// The checkpoint's key.
        key: String,
        /// The job of the checkpoint.
        of: String,
    },
    /// The checkpoint was there and is there no more.
    #[error("the checkpoint {key} is gone: another run of the same job finished, or it was deleted")]
    Vanished {
        /// The checkpoint's key.
        key: String,
    },
}

/// The content of a range, without publishing it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    /// Entries that would be published.
    pub entries: u64,
    /// Bytes of their messages.
    pub bytes: u64,
    /// Entries that make no message.
    pub skipped: u64,
    /// The first and the last entry.
    pub span: Option<(EntryId, EntryId)>,
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    key: String,
    source: String,
    destination: String,
    to: EntryId,
    reader: RangeReader,
    flow: ReplayFlow,
    renderer: Renderer,
    clock: Clock,
    renewed: Instant,
}

/// The entries being published, and those answered.
#[derive(Debug)]
struct ReplayFlow {
    publisher: Publisher,
    writers: PublishConnections,
    progress: Progress,
    /// Number of times that the checkpoint had moved elsewhere, so that reading began again.
    rewinds: u32,
}

impl Replay {
    /// Connects, and finds or makes the checkpoint. `anew` replaces an existing one.
    ///
    /// Cancel safe: a dropped future leaves at most a checkpoint at the range's beginning.
    ///
    /// # Errors
    /// If a server cannot be used, or the checkpoint belongs to another job.
    pub async fn begin(
        job: Job,
        source: &Endpoint,
        destination: &Endpoint,
        range: Range,
        anew: bool,
    ) -> Result<(Self, Begun), ReplayError> {
        let named = |failure: &SessionFailure| server_error(failure, &source.name, &destination.name);
        let of_source = |error: Error| named(&SessionFailure::source(error));
        let deadline = source.response_timeout;
        let mut writer = connect(source, CLIENT).await.map_err(of_source)?;
        let reader = connect(source, CLIENT).await.map_err(of_source)?;
        let other = if source.is_same_server(destination) {
            None
        } else {
            let other = connect_to_publish(destination, CLIENT).await;
            Some(other.map_err(|error| named(&SessionFailure::destination(error)))?)
        };
        let hash = load_script(&mut writer, PUBLISH, deadline).await.map_err(of_source)?;
        let begun = match begin(&mut writer, &job, range, anew, deadline).await.map_err(of_source)? {
            Ok(begun) => begun,
            Err(of) => return Err(ReplayError::OtherJob { key: job.key, of }),
        };
        let keys = BroadcastKeys {
            cursor: job.key.clone(),
            // Nothing is written there: an entry that makes no message is skipped.
            dead_letters: job.key.clone(),
            // The operator ensures that a job runs once at a time.
            lease: String::new(),
            stream: job.piece.stream.clone(),
            command: if job.piece.sharded { "SPUBLISH" } else { "PUBLISH" },
            holes: None,
        };
        let position = begun.progress.position;
        let mut publisher = Publisher::new(hash, keys, (position, CursorCount::default()), deadline);
        if other.is_some() {
            publisher = publisher.with_other(destination.response_timeout);
        }
        let writers = PublishConnections { writer, other };
        let replay = Self {
            reader: RangeReader::new(reader, &job.piece.stream, deadline),
            renderer: job.piece.renderer(),
            clock: Clock::new(job.tempo),
            key: job.key,
            source: source.name.clone(),
            destination: destination.name.clone(),
            to: begun.range.to,
            flow: ReplayFlow { publisher, writers, progress: begun.progress, rewinds: 0 },
            renewed: Instant::now(),
        };
        Ok((replay, begun))
    }

    /// Publishes until the range's end, or until it is stopped; then it waits for the calls under way. `watch` is
    /// called at every step.
    ///
    /// # Errors
    /// If a server fails or refuses, with the progress until then.
    pub async fn run(
        mut self,
        stop: &CancellationToken,
        watch: &mut impl ReplayObserver,
    ) -> Result<(ReplayEnd, Progress), (ReplayError, Progress)> {
        let ended = match self.play(stop, watch).await {
            Ok(ReplayEnd::Finished) => {
                self.forget().await.map(|()| ReplayEnd::Finished).map_err(SessionFailure::source)
            }
            other => other,
        };
        let progress = self.flow.progress;
        match ended {
            Ok(ending) => Ok((ending, progress)),
            Err(SessionFailure::CursorVanished { key }) => Err((ReplayError::Vanished { key }, progress)),
            Err(failure) => Err((server_error(&failure, &self.source, &self.destination), progress)),
        }
    }

    async fn play(
        &mut self,
        stop: &CancellationToken,
        watch: &mut impl ReplayObserver,
    ) -> Result<ReplayEnd, SessionFailure> {
        while !stop.is_cancelled() {
            let page = self.page(watch).await?;
            let rewinds = self.flow.rewinds;
            let mut entries = StreamEntries::new(&page, Vec::new()).map_err(SessionFailure::source)?;
            let mut at_end = entries.left() == 0;
            while let Some(entry) = entries.next().map_err(SessionFailure::source)? {
                if entry.id > self.to {
                    at_end = true;
                    break;
                }
                let due = self.clock.due(entry.id.milliseconds, Instant::now());
                self.flow.wait_for_turn(due, stop, watch).await?;
                if stop.is_cancelled() || self.flow.rewinds != rewinds {
                    break;
                }
                match self.renderer.render(&entry) {
                    Ok((channel, message)) => {
                        let now = Instant::now();
                        self.clock.take(now);
                        self.flow.publisher.publish(entry.id(), channel, message, now);
                    }
                    Err(why) => {
                        watch.skipped(entry.id, &why.to_string());
                        self.flow.publisher.filter(entry.id);
                    }
                }
            }
            self.flow.publisher.flush(Instant::now());
            if at_end {
                self.flow.drain(watch).await?;
                if self.flow.rewinds == rewinds {
                    return Ok(ReplayEnd::Finished);
                }
            }
        }
        self.flow.drain(watch).await?;
        Ok(ReplayEnd::Stopped)
    }

    /// Reads ahead, and takes in answers meanwhile.
    async fn page(&mut self, watch: &mut impl ReplayObserver) -> Result<Vec<u8>, SessionFailure> {
        let Self { key, reader, flow, renewed, .. } = self;
        if renewed.elapsed() > RENEWED {
            *renewed = Instant::now();
            let kept = KEPT.as_millis().to_string();
            let command: [&[u8]; 3] = [b"PEXPIRE", key.as_bytes(), kept.as_bytes()];
            reader.ask("keeping the checkpoint", &command).await.map_err(SessionFailure::source)?;
        }
        loop {
            let (after, rewinds) = (flow.publisher.end(), flow.rewinds);
            let page = {
                let mut page = pin!(reader.page(after));
                loop {
                    tokio::select! {
                        page = &mut page => break page.map_err(SessionFailure::source)?,
                        came = flow.on_answers(), if !flow.publisher.is_idle() => {
                            came?;
                            flow.settle(watch)?;
                        }
                    }
                }
            };
            // An entry read before a rewind does not follow.
            if flow.rewinds == rewinds {
                return Ok(page);
            }
        }
    }

    /// Removes the checkpoint: there is nothing left to continue with.
    async fn forget(&mut self) -> Result<(), Error> {
        self.reader.ask("removing the checkpoint", &[b"DEL", self.key.as_bytes()]).await.map(drop)
    }
}

impl ReplayFlow {
    /// Waits until the next entry is due and there is room for it, until a stop, or until the checkpoint is found
    /// elsewhere.
    async fn wait_for_turn(
        &mut self,
        due: Instant,
        stop: &CancellationToken,
        watch: &mut impl ReplayObserver,
    ) -> Result<(), SessionFailure> {
        if due <= Instant::now() && self.publisher.has_room() {
            return Ok(());
        }
        // The publisher must not settle while a batch is being collected: the batch would be sent as if it followed the
        // result.
        self.publisher.flush(Instant::now());
        let rewinds = self.rewinds;
        while self.rewinds == rewinds && (due > Instant::now() || !self.publisher.has_room()) {
            let has_asked = !self.publisher.is_idle();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                came = self.on_answers(), if has_asked => came?,
                () = sleep_until(due), if due > Instant::now() => {}
                () = sleep(TICK) => {}
            }
            self.settle(watch)?;
        }
        Ok(())
    }

    /// Waits until nothing is under way, within the time-outs of the servers.
    async fn drain(&mut self, watch: &mut impl ReplayObserver) -> Result<(), SessionFailure> {
        while !self.publisher.is_idle() {
            tokio::select! {
                came = self.on_answers() => came?,
                () = sleep(TICK) => {}
            }
            self.settle(watch)?;
        }
        Ok(())
    }

    /// Waits until something was answered, sending what waits meanwhile. Cancel safe.
    async fn on_answers(&mut self) -> Result<(), SessionFailure> {
        let Self { publisher, writers, .. } = self;
        let (out, other) = publisher.outgoing();
        writers.writer.send(out);
        if let (Some(out), Some(other)) = (other, &mut writers.other) {
            other.send(out);
        }
        match poll_fn(|cx| writers.poll(cx)).await {
            (Half::Other, result) => result.map_err(SessionFailure::destination),
            (_, result) => result.map_err(SessionFailure::source),
        }
    }

    /// Takes in answers. Only while no batch is being collected.
    fn settle(&mut self, watch: &mut impl ReplayObserver) -> Result<(), SessionFailure> {
        let now = Instant::now();
        if let Some(other) = &mut self.writers.other {
            while let Some(value) = other.reader.next_value().map_err(SessionFailure::destination)? {
                self.publisher.on_answer(&value, now)?;
            }
        }
        while let Some(value) = self.writers.writer.reader.next_value().map_err(SessionFailure::source)? {
            let Called::Batch(call) = self.publisher.on_call_reply()? else { continue };
            if let Some(settled) = self.publisher.on_settled(&call, &value, now)? {
                self.progress.published += settled.tally.published;
                self.progress.unheard += settled.tally.unheard;
                self.progress.skipped += settled.tally.filtered;
            }
        }
        if let Some(cursor) = self.publisher.cursor() {
            self.progress.position = cursor;
        }
        if self.publisher.settle_after_rejection()? {
            // Another run of the same job, or a failover: continue at the checkpoint.
            self.rewinds += 1;
        }
        self.publisher.check_deadlines(now)?;
        watch.progress(&self.progress);
        Ok(())
    }
}

impl ReplayRange {
    fn renderer(&self) -> Renderer {
        let Self { stream, channel, message, payload_field, .. } = self;
        Renderer::of_templates(stream, channel, message, payload_field, self.max_message_bytes)
    }
}

/// Reads a range and counts what would be published. `stop` ends it early.
///
/// # Errors
/// If the server that holds the stream fails or refuses.
pub async fn survey(
    piece: &ReplayRange,
    source: &Endpoint,
    range: Range,
    stop: &CancellationToken,
    watch: &mut impl ReplayObserver,
) -> Result<Survey, ReplayError> {
    let named = |error: Error| server_error(&SessionFailure::source(error), &source.name, &source.name);
    let connection = connect(source, CLIENT).await.map_err(named)?;
    let mut reader = RangeReader::new(connection, &piece.stream, source.response_timeout);
    let mut renderer = piece.renderer();
    let mut survey = Survey::default();
    let mut after = range.from.before();
    while !stop.is_cancelled() {
        let page = reader.page(after).await.map_err(named)?;
        let mut entries = StreamEntries::new(&page, Vec::new()).map_err(named)?;
        if entries.left() == 0 {
            break;
        }
        while let Some(entry) = entries.next().map_err(named)? {
            if entry.id > range.to {
                return Ok(survey);
            }
            after = entry.id;
            let first = survey.span.map_or(entry.id, |(first, _)| first);
            survey.span = Some((first, entry.id));
            match renderer.render(&entry) {
                Ok((_, message)) => {
                    survey.entries += 1;
                    survey.bytes += u64::try_from(message.len()).unwrap_or(u64::MAX);
                }
                Err(why) => {
                    survey.skipped += 1;
                    watch.skipped(entry.id, &why.to_string());
                }
            }
        }
    }
    Ok(survey)
}

/// Calls the script; `Err` with the description of an existing checkpoint that differs.
async fn begin(
    connection: &mut Connection,
    job: &Job,
    range: Range,
    anew: bool,
    deadline: Duration,
) -> Result<Result<Begun, String>, Error> {
    let (position, from, to) =
        (range.from.before().to_string(), range.from.to_string(), range.to.to_string());
    let (now, kept) = (rt::unix_ms().to_string(), KEPT.as_millis().to_string());
    let command: [&[u8]; 11] = [
        b"EVAL",
        BEGIN.source.as_bytes(),
        b"1",
        job.key.as_bytes(),
        job.of.as_bytes(),
        position.as_bytes(),
        from.as_bytes(),
        to.as_bytes(),
        now.as_bytes(),
        kept.as_bytes(),
        if anew { b"1" } else { b"0" },
    ];
    let reply = connection.ask(deadline, "looking for the checkpoint", &command).await;
    let reply = reply.map_err(|error| error.at(&[&job.key]))?;
    let Some([of, position, from, to, started, published, unheard, skipped, goes_on]) = reply.elements()
    else {
        return Err(BEGIN.invalid_reply());
    };
    let of = of.bytes().ok_or_else(|| BEGIN.invalid_reply())?;
    if of != job.of.as_bytes() {
        return Ok(Err(redacted(of)));
    }
    let id = |value: &Value| value.bytes().and_then(EntryId::parse).ok_or_else(|| BEGIN.invalid_reply());
    let number =
        |value: &Value| value.text().and_then(|text| text.parse().ok()).ok_or_else(|| BEGIN.invalid_reply());
    Ok(Ok(Begun {
        range: Range { from: id(from)?, to: id(to)? },
        progress: Progress {
            position: id(position)?,
            published: number(published)?,
            unheard: number(unheard)?,
            skipped: number(skipped)?,
        },
        started_unix_ms: number(started)?,
        goes_on: goes_on.integer() == Some(1),
    }))
}

fn server_error(failure: &SessionFailure, source: &str, destination: &str) -> ReplayError {
    let endpoint = match failure.side() {
        RouteEndpoint::Source => source,
        RouteEndpoint::Destination => destination,
    };
    ReplayError::Server { endpoint: endpoint.to_owned(), what: failure.with_hint_for_operator() }
}
