//! The call of the append script: a batch as a command, and its reply.

use crate::config::{Capture, Keep, Mode, redis_keys};
use crate::position::{Epoch, Position};
use crate::server::resp::{self, Value};
use crate::server::{Error, Hash, Script, script};

use crate::capture::batch::gap::Gap;
use crate::capture::batch::passage::Passage;
use crate::capture::batch::{AppendOptions, Batch};

pub(crate) const APPEND: Script = script!("append.lua");

/// The keys that a route makes at its destination.
#[derive(Debug, Clone)]
pub(crate) struct CaptureKeys {
    pub(crate) state: Vec<u8>,
    pub(crate) gaps: Vec<u8>,
    pub(crate) dead_letters: Vec<u8>,
    pub(crate) streams: Vec<u8>,
    pub(crate) lease: Vec<u8>,
}

impl CaptureKeys {
    /// `prefix route:…`, written together.
    pub(crate) fn new(prefix: &str, route: &str) -> Self {
        let key = |what: &str| redis_keys::of_route(prefix, route, what).into_bytes();
        Self {
            state: key("state"),
            gaps: key("gaps"),
            dead_letters: key("dead-letters"),
            streams: key("streams"),
            lease: key("lease"),
        }
    }
}

/// The position before a batch, as an argument of the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prev {
    /// Nothing was ever stored.
    Nothing,
    /// This item.
    Item(Position),
    /// The position before this window is not in the batch; the checkpoint is inside the window.
    Window(Epoch),
}

impl Prev {
    /// The `prev` of a window's first batch. A window of a subscription begins with its anchor, ordinal 0, so any checkpoint
    /// in the window will do. A tap's window begins inside a history: the checkpoint must have the ordinal before it.
    pub(crate) fn before(first: Position) -> Self {
        match first.ordinal.checked_sub(1) {
            None => Self::Window(first.epoch),
            Some(ordinal) => Self::Item(first.epoch.at(ordinal)),
        }
    }
}

/// Everything of the call that is the same for every batch of a route.
#[derive(Debug, Clone)]
pub(crate) struct Append {
    hash: Hash,
    keys: CaptureKeys,
    revision: String,
}

/// The script's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AppendOutcome {
    /// All items that were not stored yet are stored; the passage describes the others.
    Stored(Stored, Option<Passage>),
    /// The entry after `Stored` could not be stored in the route's only stream.
    Stopped(Stored, String),
    /// All items were stored before, or lost in a recorded gap: the checkpoint is here.
    Duplicate(Position, Passage),
    /// The checkpoint is before the batch (or is gone: `None`).
    Behind(Option<Position>),
    /// The checkpoint is beyond the batch, in a history that does not contain it.
    Stale(Position),
    /// A newer configuration writes, or has announced that it writes from here on.
    Outdated,
    /// The checkpoint has another numbering, with which the batch's positions do not compare.
    Foreign(Position, String),
}

/// The new checkpoint, and the counts of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) position: Option<Position>,
    pub(crate) appended: u64,
    pub(crate) rejected: u64,
    pub(crate) filtered: u64,
}

impl Stored {
    /// Messages that were dealt with.
    pub(crate) fn events(&self) -> u64 {
        self.appended.saturating_add(self.rejected).saturating_add(self.filtered)
    }
}

impl Append {
    pub(crate) fn new(hash: Hash, keys: CaptureKeys, revision: String) -> Self {
        Self { hash, keys, revision }
    }

    /// Appends under this revision from now on.
    pub(crate) fn set_revision(&mut self, revision: String) {
        self.revision = revision;
    }

    /// Appends the command to `out`. `prev` is the position before the batch if all goes well, `gap` the gap that may
    /// be between the two.
    pub(crate) fn write(&self, out: &mut Vec<u8>, batch: &Batch, prev: Prev, gap: Option<&Gap>) {
        let streams = batch.streams();
        let keys = 4 + streams.len();
        // A large batch is not copied again and again while `out` grows.
        out.reserve(batch.body_bytes());
        let gap_arguments = if gap.is_some() { 8 } else { 1 };
        resp::header(out, 3 + keys + 5 + batch.options.count + gap_arguments + batch.item_arguments());
        resp::argument(out, b"EVALSHA");
        resp::argument(out, &self.hash);
        resp::number_argument(out, keys);
        for key in [&self.keys.state, &self.keys.gaps, &self.keys.dead_letters, &self.keys.streams] {
            resp::argument(out, key);
        }
        for stream in streams {
            resp::argument(out, stream);
        }
        let mut text = String::new();
        resp::argument(out, self.revision.as_bytes());
        match prev {
            Prev::Nothing => resp::argument(out, b"-"),
            Prev::Item(position) => resp::argument(out, position.render(&mut text).as_bytes()),
            Prev::Window(epoch) => resp::argument(out, epoch.to_string().as_bytes()),
        }
        resp::argument(out, batch.last.render(&mut text).as_bytes());
        text.clear();
        for epoch in batch.epochs() {
            text.push_str(&epoch.to_string());
            text.push(' ');
        }
        resp::argument(out, text.as_bytes());
        // The state's time dates the gap of a restart: messages lost with this process were published after it.
        resp::argument(out, batch.complete_unix_ms.to_string().as_bytes());
        out.extend_from_slice(&batch.options.arguments);
        match gap {
            None => resp::argument(out, b"0"),
            Some(gap) => {
                resp::argument(out, b"1");
                resp::argument(out, batch.first.render(&mut text).as_bytes());
                resp::argument(out, gap.started_unix_ms.to_string().as_bytes());
                resp::argument(out, gap.ended_unix_ms.to_string().as_bytes());
                resp::argument(out, gap.cause.as_str().as_bytes());
                resp::argument(out, gap.detail.as_bytes());
                resp::argument(out, gap.reason().as_str().as_bytes());
                resp::argument(out, gap.dropped.to_string().as_bytes());
            }
        }
        batch.write_items(out);
    }
}

/// How a route's streams are made and kept, as arguments of the script. `numbering` names how positions are counted:
/// two batches with the same name count alike.
pub(crate) fn options(settings: &Capture, numbering: &str) -> AppendOptions {
    let templated = settings.stream.literal().is_none();
    let maxlen = match settings.keep {
        Keep::Limits { entries: Some(entries), .. } => entries.to_string(),
        // The append must not remove unacknowledged entries: `acknowledged.lua` trims.
        Keep::Limits { entries: None, .. } | Keep::UntilAcknowledged(_) | Keep::Forever => String::new(),
    };
    let mut arguments = Vec::new();
    let templated = if templated { '1' } else { '0' };
    let mode = if matches!(settings.mode, Mode::Replication(_)) { 'h' } else { 's' };
    resp::argument(&mut arguments, format!("{templated}{mode} {numbering}").as_bytes());
    resp::argument(&mut arguments, maxlen.as_bytes());
    resp::argument(&mut arguments, settings.max_streams.to_string().as_bytes());
    resp::number_argument(&mut arguments, settings.groups.len());
    for group in &settings.groups {
        resp::argument(&mut arguments, group.as_bytes());
    }
    AppendOptions::new(arguments, 4 + settings.groups.len())
}

impl AppendOutcome {
    /// Reads the script's reply.
    ///
    /// # Errors
    /// An error reply is one (`-OOM`, `-READONLY`, …: nothing was done); so is a reply that is not the
    /// script's.
    pub(crate) fn read(reply: &Value) -> Result<Self, Error> {
        if let Value::Error(text) = reply {
            return Err(Error::reply(text));
        }
        Self::parse(reply).ok_or_else(|| APPEND.invalid_reply())
    }

    fn parse(reply: &Value) -> Option<Self> {
        let elements = reply.elements()?;
        let text = |at: usize| elements.get(at)?.text();
        let position = |at: usize| text(at)?.parse::<Position>().ok();
        let position_or_none = |at: usize| if text(at)? == "-" { Some(None) } else { position(at).map(Some) };
        let count = |at: usize| elements.get(at)?.count();
        let stored = || {
            Some(Stored {
                position: position_or_none(1)?,
                appended: count(2)?,
                rejected: count(3)?,
                filtered: count(4)?,
            })
        };
        Some(match text(0)? {
            "OK" => Self::Stored(stored()?, text(5).map(|gaps| Passage::parse("", gaps))),
            "STOPPED" => Self::Stopped(stored()?, Error::reply(elements.get(5)?.bytes()?).to_string()),
            "DUPLICATE" => Self::Duplicate(position(1)?, Passage::parse(text(3)?, text(2)?)),
            "GAP" => Self::Behind(position_or_none(1)?),
            "STALE" => Self::Stale(position(1)?),
            "OUTDATED" => Self::Outdated,
            "FOREIGN" => Self::Foreign(position(1)?, text(2)?.to_owned()),
            _ => return None,
        })
    }
}
