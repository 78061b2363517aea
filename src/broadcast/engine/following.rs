//! The questions of a session whose entries wait for a consumer group: the group and its stream.

use tokio::time::Instant;

use super::work::Work;
use super::{Core, Effect};
use crate::broadcast::failure::SessionFailure;
use crate::broadcast::group::follower::Asked;
use crate::logs::LogCode;
use crate::server::Error;
use crate::server::resp::Value;

impl Work {
    /// Asks the next useful question.
    pub(super) fn ask_followed(&mut self, core: &mut Core, now: Instant) {
        if self.asked.is_some() {
            return;
        }
        let mut out = std::mem::take(&mut self.out);
        if let (mut egress, Some(follow)) = self.egress(now) {
            let asked = follow.ask(&mut egress, &mut out, now);
            core.rate_limited(follow.is_paced());
            self.asked = asked.map(|asked| (asked, now));
        }
        self.out = out;
    }

    /// Takes in the answer about the group and its stream.
    pub(super) fn on_followed(
        &mut self,
        core: &mut Core,
        reply: &[u8],
        now: Instant,
    ) -> Result<(), SessionFailure> {
        let Some((mut asked, sent)) = self.asked.take() else {
            return Err(SessionFailure::source(Error::unasked()));
        };
        let draining = self.is_draining();
        let (mut egress, Some(follow)) = self.egress(now) else { return Ok(()) };
        let keys: Vec<&str> =
            [core.settings.stream()].into_iter().chain(core.keys.holes.as_deref()).collect();
        let failed = |error: Error| SessionFailure::source(error.at(&keys));
        let mut answered = true;
        let mut found = Vec::new();
        match &mut asked {
            // Each hole has an answer of its own, also if it is of no use any more.
            Asked::Holes(wanted) if draining => {
                wanted.pop_front();
                answered = wanted.is_empty();
            }
            Asked::Entries(..) | Asked::Look | Asked::Wait if draining => {}
            Asked::Entries(span, count) => {
                let ranges = std::mem::take(&mut core.ranges);
                let taken =
                    follow.entries((*span, *count), reply, (&mut core.outbound, &mut egress), ranges, now);
                core.ranges = taken.map_err(failed)?;
            }
            Asked::Holes(wanted) => {
                follow.hole(wanted, reply, (&mut core.outbound, &mut egress), now).map_err(failed)?;
                answered = wanted.is_empty();
            }
            Asked::Look | Asked::Wait | Asked::Missed => {
                let value =
                    Value::build(reply, 0).map_err(|error| SessionFailure::source(Error::from(error)))?.0;
                let taken = match asked {
                    Asked::Look => follow.on_state_reply(&value, &mut egress, now),
                    Asked::Missed => follow.recorded(&value, egress.publisher),
                    _ => follow.on_waited(&value, now).map(|()| Vec::new()),
                };
                found = taken.map_err(failed)?;
                let full = follow.full_reason();
                let full = full.and_then(|full| {
                    let suppressed = core.admit(LogCode::BroadcastAckPendingFull.as_str(), now)?;
                    Some((full, suppressed))
                });
                core.effects.push(Effect::Group(full));
            }
        }
        let looked = follow.state().is_some();
        if !answered {
            self.asked = Some((asked, sent));
        }
        for found in found {
            core.on_group_event(found, self.publisher.end(), now)?;
        }
        self.reads |= looked;
        self.publishes |= looked && !self.publisher.is_careful();
        Ok(())
    }
}
