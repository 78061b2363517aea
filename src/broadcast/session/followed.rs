//! What a session asks whose entries wait for a consumer group: the group and its stream.

use tokio::time::Instant;

use super::Session;
use crate::broadcast::Route;
use crate::broadcast::failure::{Failure, Side};
use crate::broadcast::follow::{Asked, Found};
use crate::broadcast::way::Way;
use crate::server::Error;
use crate::server::resp::Value;

impl Session<'_> {
    /// Asks for what is of use next.
    pub(super) fn ask_followed(&mut self, now: Instant) {
        let Some(follow) = &mut self.follow else { return };
        if self.asked.is_some() {
            return;
        }
        let mut way = Way { publisher: &mut self.publisher, pace: &mut self.pace };
        let asked = follow.ask(&mut way, self.reader.out(), now);
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
            let Route { outbound, .. } = &mut *self.route;
            let mut way = Way { publisher: &mut self.publisher, pace: &mut self.pace };
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
