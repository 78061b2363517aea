//! What was read from the spool, on its way into the chain: records, and damage in their place.

use std::sync::Arc;

use super::{Spill, SpillOutcome};
use crate::capture::batch::gap::{Gap, Joint};
use crate::capture::batch::{AppendOptions, Batch};
use crate::capture::engine::chain::Chain;
use crate::event::GapCause;
use crate::position::Position;
use crate::rt::Moment;
use crate::spool::{Damage, Piece, Record};

/// Items read from the spool, on their way into the chain.
pub(super) struct SpillReading<'a> {
    pub(super) spill: &'a mut Spill,
    pub(super) chain: &'a mut Chain,
    pub(super) options: &'a Arc<AppendOptions>,
    pub(super) now: Moment,
    pub(super) outcome: &'a mut SpillOutcome,
}

impl SpillReading<'_> {
    pub(super) fn take(mut self, pieces: Vec<Piece>) {
        let ended = pieces.is_empty();
        for piece in pieces {
            match piece {
                Piece::Record(record) => self.record(&record),
                Piece::Damage(damage) => self.damage(&damage),
            }
        }
        if ended {
            return self.end();
        }
        if self.spill.disk_only <= self.known() && self.spill.damage.is_none() {
            self.spill.disk_only = None;
            let left = self.spill.disk_only_batches.take_all();
            if left > 0 {
                let detail = format!("{left} more messages of the spool are lost");
                self.chain.owe_lost(self.gap(detail, left));
            }
        }
    }

    /// The last item that is in memory, was stored, or was given up.
    fn known(&self) -> Option<Position> {
        self.chain.last().max(self.spill.given_up)
    }

    fn record(&mut self, record: &Record) {
        let last = Position::from_bytes(record.mark);
        // A batch is written before it leaves memory, so the log begins with batches that are in memory, too.
        if Some(last) <= self.known() {
            return;
        }
        let Ok(mut batch) = Batch::decode(&record.body, self.now.at) else {
            let detail = format!("another version of tidegate wrote the record at {last}");
            return self.lost(None, Some(last), Some(record.events), &detail);
        };
        let lost = self.spill.disk_only_batches.take_before(last);
        if let Some(gap) = self.spill.damage.take() {
            // The time of the damage is known from the records around it, and not from its discovery.
            let gap = gap.until(batch.opened_unix_ms);
            let gap = Gap { dropped: gap.dropped + lost, ..gap };
            match &mut batch.joint {
                Joint::Follows(before) if Some(*before) > self.chain.last() => self.push_loss(*before, gap),
                Joint::Follows(_) => self.chain.owe_lost(gap),
                joint @ Joint::Start => *joint = Joint::Gap(gap),
                Joint::Gap(own) if own.dropped == 0 => *own = gap.with(own.clone()),
                // Its losses are counted already.
                Joint::Gap(_) => self.chain.owe_lost(gap),
            }
        } else if lost > 0 {
            self.chain.owe_lost(self.gap(format!("{lost} messages of the spool are lost"), lost));
        }
        if Some(last) <= self.spill.recovered {
            self.outcome.recovered += batch.events;
        } else {
            self.spill.disk_only_batches.take_up_to(last);
        }
        self.chain.push(batch);
    }

    fn push_loss(&mut self, last: Position, gap: Gap) {
        self.chain.push(Batch::of_loss(last, gap, self.now, self.options.clone()));
    }

    fn damage(&mut self, damage: &Damage) {
        let upto = damage.upto.map(Position::from_bytes);
        if upto.is_some() && upto <= self.known() {
            // Everything in it is in memory, or was given up before.
            return;
        }
        let file = damage.file.display();
        let Damage { offset, bytes, detail, .. } = damage;
        let detail = format!("{bytes} bytes at byte {offset} of {file}: {detail}");
        self.lost(damage.after.map(Position::from_bytes), upto, damage.events, &detail);
    }

    /// A loss behind the last record read.
    fn gap(&self, detail: String, dropped: u64) -> Gap {
        let now = self.now.unix_ms;
        let since = self.chain.last_complete_unix_ms().or(self.chain.spooled_since_unix_ms());
        let since = since.map_or(now, |since| since.min(now));
        Gap { ended_unix_ms: now, dropped, ..Gap::begins(GapCause::SpoolCorrupt, detail, since) }
    }

    /// Messages are lost. They stay counted as received: a loss in the chain or the next gap carries them.
    fn lost(&mut self, after: Option<Position>, upto: Option<Position>, events: Option<u64>, detail: &str) {
        // Messages of this process were counted as received when they were read: those not read again are lost. Those
        // of an earlier process are counted now.
        let Spill { recovered, disk_only_batches, .. } = &*self.spill;
        let own = recovered.is_none() || after >= *recovered;
        let known = upto.map_or(0, |upto| disk_only_batches.events_up_to(upto));
        let (lost, earlier) = match events {
            _ if own => (known, 0),
            Some(events) => (events, events.saturating_sub(known)),
            None => (0, 0),
        };
        self.outcome.recovered += earlier;
        let detail = match (own, events, upto) {
            (true, _, Some(_)) | (false, Some(_), _) => {
                format!("{lost} messages of the spool are lost: {detail}")
            }
            _ => format!("messages of the spool are lost: {detail}"),
        };
        let gap = self.gap(detail.clone(), earlier);
        self.outcome.damaged.push(detail);
        let gap = match self.spill.damage.take() {
            Some(before) => before.with(gap),
            None => gap,
        };
        match upto {
            // Nothing readable follows in the log.
            Some(upto) if Some(upto) >= self.spill.disk_only => {
                let lost = self.spill.disk_only_batches.take_all();
                self.push_loss(upto, Gap { dropped: gap.dropped + lost, ..gap });
            }
            _ => self.spill.damage = Some(gap),
        }
    }

    /// The log has no more records, and not everything that was on disk only has been read.
    fn end(&mut self) {
        self.spill.unread = 0;
        let Some(upto) = self.spill.disk_only else { return };
        let left = self.spill.disk_only_batches.events;
        if left > 0 {
            self.lost(self.known(), Some(upto), Some(left), "the end of the spool is missing");
        } else if let Some(gap) = self.spill.damage.take() {
            if Some(upto) > self.chain.last() { self.push_loss(upto, gap) } else { self.chain.owe_lost(gap) }
        }
        self.spill.disk_only = None;
    }
}
