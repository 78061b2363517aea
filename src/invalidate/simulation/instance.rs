//! One process: the engine, and two connections whose commands and answers are on their way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::servers::{ADOPT, Answer, CLEAR};
use super::{World, traces};
use crate::config::{Endpoint, Invalidate};
use crate::event::InvalidateLoss;
use crate::invalidate::engine::{Effect, Engine, Hashes, Next};
use crate::invalidate::failure::SessionFailure;
use crate::server::Error;
use crate::server::resp::{self, Value};
use crate::status::RouteEndpoint;

pub(super) type Command = Vec<String>;

/// A connection.
#[derive(Debug, Default)]
pub(super) struct ServerLink {
    /// Commands that the server has not carried out.
    requests: VecDeque<Command>,
    /// Answers under way.
    replies: VecDeque<Value>,
    /// Until when the server waits for entries.
    waits: Option<Instant>,
}

/// A process.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) settings: Arc<Invalidate>,
    engine: Engine,
    /// To the stream's server, and to the cache.
    links: Option<[ServerLink; 2]>,
    /// When the next session is tried, if there is none.
    connect_at: Instant,
    pub(super) frozen: Option<Instant>,
    /// Entries that it has reported as missed.
    trimmed: u64,
}

impl Instance {
    pub(super) fn new(
        settings: Arc<Invalidate>,
        endpoints: &[Endpoint; 2],
        batch_entries: usize,
        now: Instant,
    ) -> Self {
        let engine =
            Engine::new(settings.clone(), &endpoints[0], &endpoints[1], now).with_batches_of(batch_entries);
        Self { settings, engine, links: None, connect_at: now, frozen: None, trimmed: 0 }
    }

    /// How many calls of a script the cache has not carried out.
    pub(super) fn calls_under_way(&self) -> usize {
        let requests = self.links.iter().flat_map(|[_, cache]| &cache.requests);
        requests.filter(|request| request[0] == "EVALSHA").count()
    }

    /// Its description for a history that fails.
    pub(super) fn shown(&self) -> String {
        format!("{:?} {:?}", self.links, self.engine)
    }
}

impl World {
    /// One round of an instance's loop.
    pub(super) fn turn(&mut self, at: usize) {
        let now = self.now;
        let instance = &mut self.instances[at];
        if instance.frozen.is_some_and(|until| now < until) {
            return;
        }
        instance.frozen = None;
        if instance.links.is_none() {
            if now < instance.connect_at {
                return;
            }
            instance.engine.begin(Hashes { clear: CLEAR, adopt: ADOPT }, now);
            instance.links = Some(Default::default());
        }
        let result = self.pass_on(at);
        self.take_effects(at);
        match result {
            Ok(Next::Continue) => {}
            Ok(Next::Stopped) => self.end(at),
            Err(failure) => self.session_fails(at, &failure),
        }
    }

    fn pass_on(&mut self, at: usize) -> Result<Next, SessionFailure> {
        let (now, instance) = (self.now, &mut self.instances[at]);
        let Some([source, cache]) = &mut instance.links else { return Ok(Next::Continue) };
        for value in source.replies.drain(..) {
            let mut frame = Vec::new();
            resp::reply(&value, &mut frame);
            instance.engine.on_source(&frame, now)?;
        }
        for value in cache.replies.drain(..) {
            instance.engine.on_cache(&value, now)?;
        }
        let mut out = [Vec::new(), Vec::new()];
        let [to_source, to_cache] = &mut out;
        let next = instance.engine.advance(to_source, to_cache, now)?;
        for (link, bytes) in [source, cache].into_iter().zip(out) {
            let mut done = 0;
            while done < bytes.len() {
                let (value, end) = Value::build(&bytes, done).unwrap();
                let word = |word: &Value| String::from_utf8(word.bytes().unwrap().to_vec()).unwrap();
                link.requests.push_back(value.elements().unwrap().iter().map(word).collect());
                done = end;
            }
        }
        Ok(next)
    }

    fn take_effects(&mut self, at: usize) {
        let effects: Vec<Effect> = self.instances[at].engine.effects().drain(..).collect();
        for effect in effects {
            if let Effect::Missed { loss, detail, .. } = effect {
                self.trace(|| format!("{at} missed: {detail}"));
                let count = self.checks.missed(loss, &detail);
                if loss == InvalidateLoss::Trimmed {
                    self.instances[at].trimmed += count;
                    self.checks.are_possible(self.instances[at].trimmed);
                }
            }
        }
    }

    /// A server carries out the next command of an instance.
    pub(super) fn serve(&mut self, at: usize, side: RouteEndpoint) {
        let now = self.now;
        let number = usize::from(side == RouteEndpoint::Destination);
        let Some(links) = &mut self.instances[at].links else { return };
        let link = &mut links[number];
        let Some(command) = link.requests.front().cloned() else { return };
        if let Some(error) = self.faults.error_for(side, now, &mut self.rng) {
            link.waits = None;
            link.requests.pop_front();
            link.replies.push_back(Value::Error(error.as_bytes().to_vec()));
            return;
        }
        let answer = self.carry_out(side, &command);
        let Some(links) = &mut self.instances[at].links else { return };
        let link = &mut links[number];
        let reply = match answer {
            Answer::Reply(reply) => reply,
            Answer::Waits(millis) => {
                let until = *link.waits.get_or_insert(now + Duration::from_millis(millis));
                if now < until {
                    return;
                }
                Value::Null
            }
        };
        link.waits = None;
        link.requests.pop_front();
        link.replies.push_back(reply);
    }

    pub(super) fn carry_out(&mut self, side: RouteEndpoint, command: &Command) -> Answer {
        let clock = self.clock_ms();
        let answer = match side {
            RouteEndpoint::Source => self.stream.carry_out(command),
            RouteEndpoint::Destination => {
                let writes = self.settings[0].set.is_some();
                let before = (writes || self.real.is_some()).then(|| self.cache.clone());
                let places = ["pos", "again"].map(|place| (place, self.cache.place(place)));
                let reply = self.cache.carry_out(command, clock);
                if let (Some(real), Some(before)) = (&mut self.real, &before) {
                    real.compare(command, (before, &self.cache), &reply, clock);
                }
                for (place, from) in places {
                    match self.cache.place(place) {
                        to if from < to => {
                            if let Some(before) = before.as_ref().filter(|_| writes) {
                                self.checks.written((place, from, to), &before.keys, &self.cache.keys);
                            }
                            self.checks.cleared(place, from, to, command);
                        }
                        to if to < from && place == "pos" => self.checks.went_back(to),
                        _ => {}
                    }
                }
                Answer::Reply(reply)
            }
        };
        if traces() && !matches!(answer, Answer::Waits(_)) {
            let shown = format!("{answer:?}").chars().take(200).collect::<String>();
            self.trace(|| format!("{}: {shown}", command.join(" ")));
        }
        answer
    }

    /// A connection breaks. What was sent to the cache may still arrive.
    pub(super) fn break_link(&mut self, at: usize, side: RouteEndpoint) {
        if self.instances[at].links.is_some() {
            let failure = match side {
                RouteEndpoint::Source => SessionFailure::source(Error::Closed),
                RouteEndpoint::Destination => SessionFailure::cache(Error::Closed),
            };
            self.session_fails(at, &failure);
        }
    }

    fn session_fails(&mut self, at: usize, failure: &SessionFailure) {
        self.drop_links(at);
        let wait = self.instances[at].engine.fail(failure, self.now);
        // What an operator must correct is correct when all is well.
        let wait = if self.faults.over { wait.min(Duration::from_secs(1)) } else { wait };
        self.instances[at].connect_at = self.now + wait;
        self.take_effects(at);
    }

    fn drop_links(&mut self, at: usize) {
        let Some([_, cache]) = self.instances[at].links.take() else { return };
        let arrive = self.rng.usize(..=cache.requests.len());
        self.orphans.extend(cache.requests.into_iter().take(arrive));
    }

    /// The route is to stop, and ends once its call is answered.
    pub(super) fn stop(&mut self, at: usize) {
        if self.instances[at].links.is_none() {
            return self.end(at);
        }
        self.instances[at].engine.stop();
    }

    /// An older configuration came to its first look late, and is taken for the newest: an operator must act.
    pub(super) fn is_outdated(&self, at: usize) -> bool {
        let began = self.cache.field("began").parse().unwrap_or(0);
        self.cache.field("revision") == self.settings[0].revision()
            && (1..began).contains(&self.instances[at].engine.began())
    }

    /// A process ends, and another one begins: with the newer configuration once one has it. What begins is taken for the
    /// newest, so an older one would be it.
    pub(super) fn end(&mut self, at: usize) {
        self.drop_links(at);
        self.faults.rolled_out |= self.faults.over || self.rng.u8(..4) == 0;
        let newer = self.faults.rolled_out;
        let settings = self.settings[usize::from(newer)].clone();
        self.instances[at] = Instance::new(settings, &self.endpoints, self.batch_entries, self.now);
        if !self.faults.over {
            self.instances[at].connect_at += Duration::from_millis(self.rng.u64(..4_000));
        }
    }
}
