//! What a route keeps beside memory: its spool, and what is known to be durable.

use std::time::{Duration, Instant};

use super::Route;
use crate::config::Durability;
use crate::position::Position;
use crate::rt;
use crate::spool::{Done, Spool};

use super::super::batch::Read;
use super::super::overflow::Overflow;

/// With `durability = "applied"`: how long what is stored is kept all the same. A failover loses what had
/// not come to the replica yet, which is the last moment's.
const KEPT: Duration = Duration::from_secs(2);
/// And how much of it at most: at full speed that is a part of a second.
const KEPT_BYTES: usize = 16 * 1024 * 1024;

impl Route {
    /// Opens the spool, and finds what an earlier process left there.
    pub(super) async fn open_spool(&mut self) {
        let Some(place) = self.parts.spool.clone() else { return };
        if self.destination.is_inheriting() {
            // The route that this one replaces has it, and hands it over.
            return;
        }
        let route = self.parts.capture.name.clone();
        let mut spool = Spool::open(&place.keeper, &route, place.options);
        match spool.opened().await {
            Ok(recovered) => {
                if recovered.records > 0 || recovered.cut_bytes > 0 {
                    tracing::info!(
                        event = "spool_recovered",
                        route,
                        records = recovered.records,
                        bytes = recovered.bytes,
                        cut_bytes = recovered.cut_bytes,
                        "an earlier process left records; they are appended first"
                    );
                }
                let last = recovered.last.map(Position::from_bytes);
                self.floor = self.floor.max(last.map_or(0, |last| last.epoch.number + 1));
                self.overflow = Overflow::with_spool(last, recovered.bytes);
            }
            Err(error) => tracing::error!(
                event = "spool_unavailable",
                route,
                "{error}; the route works without a spool: what memory cannot hold while the destination is \
                 away is lost, inside a recorded gap. It is tried again every 5 s"
            ),
        }
        self.spool = Some(spool);
    }

    /// Gives the spool its next work, and lets go of what need not be kept any more.
    pub(super) fn keep(&mut self, now: Instant) {
        let room = self.room();
        match self.parts.destination.durability {
            Durability::Applied => self.chain.retire_old(now, KEPT, room.tail.min(KEPT_BYTES)),
            Durability::Replicated(_) | Durability::Fsynced => {
                if let Some(durable) = &self.durable
                    && self.standing.is_leader()
                {
                    durable.applied(self.chain.checkpoint());
                }
            }
        }
        if self.spool.as_mut().is_some_and(Spool::has_become_available) {
            self.overflow.enable();
            let route = self.parts.capture.name.as_str();
            tracing::info!(event = "spool_available", route, "the spool can be used now");
        }
        self.overflow.refill(&mut self.chain, room);
        let durable = match self.parts.destination.durability {
            Durability::Applied => self.chain.checkpoint(),
            Durability::Replicated(_) | Durability::Fsynced => self.known_durable,
        };
        if let Some(spool) = &mut self.spool
            && !spool.is_busy()
            && self.border.is_none()
            && let Some(request) = self.overflow.request(&self.chain, durable, room, now)
        {
            spool.submit(request);
        }
    }

    pub(super) fn on_spool(&mut self, done: Done, now: Instant) {
        let room = self.room();
        let read = Read { at: now, unix_ms: rt::unix_ms() };
        let outcome = self.overflow.done(done, &mut self.chain, self.builder.options(), room, read);
        self.account.received(outcome.recovered);
        let route = self.parts.capture.name.as_str();
        if let Some(error) = outcome.failed
            && let Some(suppressed) = self.log.admit("spool_failed", now)
        {
            tracing::error!(
                event = "spool_failed",
                route,
                suppressed,
                "{error}; new messages stay in memory as long as that lasts; tidegate tries again every 2 s"
            );
        }
        for damage in &outcome.damaged {
            if let Some(suppressed) = self.log.admit("spool_corrupt", now) {
                tracing::error!(
                    event = "spool_corrupt",
                    route,
                    suppressed,
                    "{damage}; a gap records the loss, everything that is intact is stored, and the damaged file is kept                      beside the spool; look at the disk"
                );
            }
        }
        if !outcome.damaged.is_empty() {
            self.standing.hurry();
        }
        self.reopen_if_room(now);
    }

    /// So much is stored durably; said of more than is stored it is of a server that is gone.
    pub(super) fn on_durable(&mut self, position: Position) {
        if Some(position) > self.chain.checkpoint() {
            return;
        }
        self.known_durable = self.known_durable.max(Some(position));
        self.chain.retire(self.known_durable);
    }

    /// Whether more is stored than may be kept until it is durable: then nothing is sent for a while.
    pub(super) fn waits_for_durability(&self) -> bool {
        self.durable.is_some() && self.chain.kept_bytes() > self.room().tail
    }
}
