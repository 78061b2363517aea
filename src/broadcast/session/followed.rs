//! What a session asks whose entries wait for a consumer group: the group, its stream, and for the guard what
//! stands in the stream.

use tokio::time::Instant;

use super::Session;
use crate::broadcast::Route;
use crate::broadcast::failure::{Failure, Side};
use crate::broadcast::follow::{Asked, Found};
use crate::broadcast::guard::Leave;
use crate::broadcast::way::Way;
use crate::server::Error;
use crate::server::resp::Value;

impl Session<'_> {
    /// Asks for what is of use next. The group comes first: what the guard looks at waits in the stream.
    pub(super) fn ask_followed(&mut self, now: Instant) {
        let Some(follow) = &mut self.follow else { return };
        if self.asked.is_some() {
            return;
        }
        let guard = &mut self.route.guard;
        let mut way = Way { publisher: &mut self.publisher, pace: &mut self.pace, guard };
        let mut asked = follow.ask(&mut way, self.reader.out(), now);
        if asked.is_none() && way.guard.leave() == Leave::Nothing && way.publisher.is_idle() {
            let stream = &self.route.parts.settings.stream;
            let ahead = self.ahead.ask(stream, follow.end(), self.reader.out());
            asked = ahead.map(|(_, entries)| Asked::Ahead(entries));
        }
        self.asked = asked.map(|asked| (asked, now));
        self.route.rate_limited(follow.is_paced());
    }

    /// Takes in what was asked of the group and of its stream.
    pub(super) fn followed(&mut self, now: Instant) -> Result<(), Failure> {
        let Some(follow) = &mut self.follow else { return Ok(()) };
        let draining = self.drain_until.is_some();
        while let Some((asked, _)) = &mut self.asked {
            let Some(reply) = self.reader.reader.next_frame().map_err(Failure::source)? else {
                return Ok(());
            };
            let Route { outbound, guard, .. } = &mut *self.route;
            let mut way = Way { publisher: &mut self.publisher, pace: &mut self.pace, guard };
            let mut answered = true;
            let mut found = Vec::new();
            match asked {
                _ if draining => {}
                Asked::Entries(span, count) => {
                    let ranges = std::mem::take(&mut self.ranges);
                    let taken = follow.entries((*span, *count), reply, (outbound, &mut way), ranges, now);
                    self.ranges = taken.map_err(Failure::source)?;
                }
                Asked::Holes(wanted) => {
                    follow.hole(wanted, reply, (outbound, &mut way), now).map_err(Failure::source)?;
                    answered = wanted.is_empty();
                }
                Asked::Ahead(entries) => {
                    let ranges = std::mem::take(&mut self.ranges);
                    let taken = self.ahead.take(reply, *entries, (outbound, way.guard), ranges);
                    self.ranges = taken.map_err(Failure::source)?;
                }
                Asked::Look | Asked::Wait | Asked::Missed => {
                    let value =
                        Value::build(reply, 0).map_err(|error| Failure::source(Error::from(error)))?.0;
                    let taken = match asked {
                        Asked::Look => follow.looked(&value, &mut self.publisher, now),
                        Asked::Missed => follow.recorded(&value, &mut self.publisher),
                        _ => follow.waited(&value, now).map(|()| Vec::new()),
                    };
                    found = taken.map_err(Failure::source)?;
                    self.route.followed(follow);
                }
            }
            self.route.answered(Side::Source);
            if answered {
                self.asked = None;
            }
            for found in found {
                self.live &= found != Found::NoGroup;
                self.route.found(found, self.publisher.end());
            }
        }
        if follow.look().is_some() && !self.publisher.is_careful() {
            self.live();
        }
        Ok(())
    }
}
