//! Polling the group: what one poll asks for, and what its answer changes.

use tokio::time::Instant;

use super::{Follower, GroupEvent, STEP};
use crate::broadcast::group::ack_state::{self, GroupState};
use crate::broadcast::publish::egress::Egress;
use crate::server::Error;
use crate::server::resp::{self, Value};
use crate::status::GroupChange;
use crate::stream::EntryId;

impl Follower {
    pub(super) fn ask_state(&mut self, egress: &Egress<'_>, out: &mut Vec<u8>, now: Instant) {
        let publisher = &egress.publisher;
        self.schedule.on_asked();
        self.asked_after = self.read;
        // Their calls may be done before the look or after it.
        self.holes_since = publisher.holes_under_way();
        let after = self.read.to_string();
        // While holes are being published they would be found once more.
        let may = egress.leads
            && self.max_ack_pending.is_some()
            && !publisher.is_releasing()
            && self.to_release.is_empty();
        let scan = self.scan.send(may, self.schedule.is_active(now));
        let scan = scan.map(|id| id.to_string()).unwrap_or_default();
        // Asked once when the group is at rest: then XREAD may wait.
        let rests = self.is_at_rest() && !self.tail_asked && !self.schedule.is_active(now);
        let tells = rests || self.missing || self.watch.is_due(self.read, now);
        let tells: &[u8] = if tells { b"1" } else { b"" };
        let (stream, group) = (self.stream.as_bytes(), self.group.as_bytes());
        let mut command: Vec<&[u8]> = vec![b"EVALSHA", &self.hash];
        match &self.holes {
            None => command.extend([b"1", stream]),
            Some(holes) => command.extend([b"2", stream, holes.as_bytes()]),
        }
        command.extend([group, after.as_bytes(), scan.as_bytes(), STEP.as_bytes(), tells]);
        resp::command(out, &command);
    }

    /// Takes in a poll's answer. Returns what an operator should know.
    ///
    /// # Errors
    /// If the script failed.
    pub(crate) fn on_state_reply(
        &mut self,
        reply: &Value,
        egress: &mut Egress<'_>,
        now: Instant,
    ) -> Result<Vec<GroupEvent>, Error> {
        // The answer includes the work of other instances since the question was sent.
        self.align(egress, now);
        let leads = egress.leads;
        let publisher = &mut *egress.publisher;
        let Some(mut state) = GroupState::read(reply)? else {
            return Ok(self.on_no_group(publisher, now).into_iter().collect());
        };
        let mut found = Vec::new();
        if self.state.is_none() {
            found.push(GroupEvent::Group);
        }
        if std::mem::take(&mut self.missing) && state.may_have_skipped() {
            found.push(GroupEvent::GroupChange(GroupChange::GroupCreated));
        }
        let deleted = &self.deleted;
        if leads {
            // A hole behind the end is one of another instance that has moved the cursor: the next batch finds that,
            // and the search begins anew there. Published from here, it would be published once more as an entry.
            let end = publisher.end();
            let found = state.acknowledged.drain(..).filter(|id| *id <= end && !deleted.contains(*id));
            self.to_release.extend(found);
        }
        // A standby also buffers entries that are not left behind yet.
        let passed = leads || self.read <= publisher.end();
        if self.max_ack_pending.is_some() && state.holes == 0 && self.holes_since == 0 && passed {
            // Another instance has published them.
            self.buffer.clear();
            self.deleted.clear();
        }
        let before = self.state.take();
        if let Some(before) = &before {
            found.extend(ack_state::group_change(before, &state).map(GroupEvent::GroupChange));
        }
        let progress = |state: &GroupState| (state.delivered, state.pending, state.limit());
        let same = before.as_ref().is_some_and(|before| progress(before) == progress(&state));
        self.scan.on_scanned(state.scanned, same);
        if let Some(ungiven) = state.ungiven {
            self.ungiven = ungiven;
        }
        if let Some(facts) = state.stream {
            let all = facts.last == state.delivered
                && state.pending == 0
                && !self.holds_back()
                // No XREAD may keep the connection waiting at a take-over.
                && (leads || publisher.end() >= facts.last);
            self.tail = (all && self.read >= state.delivered).then_some(facts.last);
            self.tail_asked = true;
            if leads && self.asked_after == self.read {
                let read = (self.read, self.unhanded());
                let anew = self.watch.compare(&facts, read, publisher, now);
                found.extend(anew.map(GroupEvent::from));
            }
        }
        self.state = Some(state);
        if !same {
            self.changed(now);
        }
        self.schedule.on_state(same, now);
        if self.tail.is_some() && !self.schedule.is_woken() {
            self.schedule.leave(now);
        }
        if let Some(state) = self.state.as_mut().filter(|_| self.asked_after > self.read) {
            state.complete = EntryId::default();
            self.schedule.now(now);
        }
        if self.scan.goes_on() || !self.to_release.is_empty() {
            self.schedule.hurry(now);
        }
        Ok(found)
    }

    /// Returns whether the group has acknowledged everything that it was given.
    fn is_at_rest(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.pending == 0 && self.read >= state.delivered)
    }
}
