//! The faults: errors, broken connections, freezes, kills, reloads, a cache that goes back, and entries that are lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::servers::CacheServer;
use super::{SIDES, World};
use crate::status::RouteEndpoint;
use crate::stream::EntryId;

/// Errors that a server may answer to any command.
const ERRORS: [&str; 6] = [
    "LOADING Redis is loading the dataset in memory",
    "NOPERM this user has no permissions",
    "READONLY You can't write against a read only replica.",
    "NOSCRIPT No matching script.",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "ERR unknown command",
];

/// What may go wrong in this history, and what does.
#[derive(Debug)]
pub(super) struct Faults {
    /// True if the capture has gaps.
    pub(super) gaps: bool,
    /// True if entries are numbered, and not named by their time.
    pub(super) numbers: bool,
    /// True if entries are trimmed, read or not.
    trims: bool,
    /// True if the stream is deleted. If the cursor is lost in such a history, too, nobody knows of the old stream; and
    /// if the entries of the new one are numbered alike, or as many of them are trimmed as were applied of the old one,
    /// nobody can tell them apart.
    pub(super) deletes: bool,
    /// Which server answers so, until when.
    error: Option<(RouteEndpoint, &'static str, Instant)>,
    /// True once an instance has begun with the newer configuration.
    pub(super) rolled_out: bool,
    pub(super) over: bool,
}

impl Faults {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        let mut one_of = |most: u8| rng.u8(..most) == 0;
        let deletes = one_of(6);
        Self {
            gaps: one_of(4),
            numbers: one_of(3) && !deletes,
            trims: one_of(3) && !deletes,
            deletes,
            error: None,
            rolled_out: false,
            over: false,
        }
    }

    /// The error that a server has for a command, in the place of an answer.
    pub(super) fn error_for(
        &self,
        side: RouteEndpoint,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<&'static str> {
        let (at, error, until) = self.error?;
        (at == side && now < until && rng.bool()).then_some(error)
    }
}

impl World {
    pub(super) fn something_goes_wrong(&mut self) {
        let at = self.rng.usize(..self.instances.len());
        let side = SIDES[self.rng.usize(..2)];
        let k = self.rng.u8(..17);
        self.trace(|| format!("fault {k} at {at}"));
        match k {
            0 | 1 => self.break_link(at, side),
            2 | 3 => self.end(at),
            4 => self.stop(at),
            5 => {
                let millis = if self.rng.bool() { self.rng.u64(..500) } else { self.rng.u64(..8_000) };
                self.instances[at].frozen = Some(self.now + Duration::from_millis(millis));
            }
            6 => {
                let error = ERRORS[self.rng.usize(..ERRORS.len())];
                let until = self.now + Duration::from_millis(self.rng.u64(1..1_500));
                self.faults.error = Some((side, error, until));
            }
            7 | 8 => self.before = self.cache.clone(),
            9 if !self.faults.deletes => self.cache = self.before.clone(),
            10 => self.evict(),
            11 if !self.faults.deletes => self.cache.cursor.clear(),
            12 if !self.faults.deletes && self.rng.u8(..3) == 0 => self.cache = CacheServer::default(),
            13 | 14 if self.faults.trims => {
                let count = self.rng.usize(..=self.stream.entries.len());
                self.trim(count);
            }
            // A cursor that has not moved yet knows nothing of the stream.
            15 if self.faults.deletes && !matches!(self.cache.field("pos"), "" | "0-0") => {
                self.trim(self.stream.entries.len());
                (self.stream.last, self.stream.added) = (EntryId::default(), 0);
                self.checks.stream_deleted();
            }
            16 if self.faults.trims => {
                // Nobody is there, and what was applied once is trimmed.
                for at in 0..self.instances.len() {
                    self.end(at);
                }
                let count = self.rng.usize(..=self.stream.entries.len());
                self.trim(count);
            }
            _ => self.break_link(at, side),
        }
        self.checks.went_back(self.cache.place("pos"));
    }

    /// The cache evicts some keys.
    fn evict(&mut self) {
        let rng = &mut self.rng;
        self.cache.keys.retain(|_, _| rng.u8(..3) > 0);
    }

    fn trim(&mut self, count: usize) {
        for _ in 0..count {
            if let Some((id, event)) = self.stream.entries.pop_first() {
                self.checks.removed(id, event);
            }
        }
    }

    /// All faults are over, and everybody has the newer configuration.
    pub(super) fn recover(&mut self) {
        self.faults.over = true;
        self.faults.error = None;
        self.announce_all();
        self.add(None);
        if self.instances.len() > 1 && self.rng.bool() {
            // One is gone for good, whatever it was at.
            self.end(0);
            self.instances.remove(0);
        }
        for at in 0..self.instances.len() {
            if !Arc::ptr_eq(&self.instances[at].settings, &self.settings[1]) || self.rng.bool() {
                self.end(at);
            }
        }
    }
}
