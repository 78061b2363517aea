//! Whether a user has the rights that the routes need, tried without executing anything.
//!
//! A server checks a command's rights when it queues it inside `MULTI`, keys and channels included, and
//! executes nothing before `EXEC`. So each command is queued there with the names that the routes use,
//! and the connection is closed. `ACL DRYRUN` would tell the same, but only Redis 7 knows it and hardly
//! any user may call it. The same place tells that the server refuses writes now: memory is full, it is
//! a replica, too few replicas are there.
//!
//! Names that are only known when an event comes are not tried: streams and channels of a template. Their commands are
//! tried on the route's own keys.

use std::fmt;

use crate::config::{
    Broadcast, Capture, Config, Durability, Endpoint, IfMissed, Invalidate, Keep, Order, redis_keys,
};
use crate::server::{ControlConnection, Error, NO_PERMISSION, UNKNOWN_COMMAND};
use crate::text::template::Part;

/// It ends a transaction, and is tried outside of one.
const EXEC: &str = "exec";

/// No script has this hash, and none runs anyway.
const NO_HASH: &str = "0000000000000000000000000000000000000000";

/// The key or channel of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Object {
    Nothing,
    Key(String),
    Channel(String),
}

/// One command, as a route would send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// The right that it needs, as `tidegate acl` names it.
    pub right: &'static str,
    object: Object,
    words: Vec<String>,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Object::Nothing => write!(f, "+{}", self.right),
            Object::Key(key) => write!(f, "+{} on the key {key}", self.right),
            Object::Channel(channel) => write!(f, "+{} on the channel {channel}", self.right),
        }
    }
}

/// A right that a user lacks.
#[derive(Debug)]
pub struct MissingRight {
    /// The command.
    pub trial: Trial,
    /// The server's error.
    pub error: Error,
}

impl MissingRight {
    /// Returns whether a right is missing; else the server refuses such commands now to every user.
    #[must_use]
    pub fn is_missing_right(&self) -> bool {
        self.error.code() == Some(NO_PERMISSION)
    }

    /// Returns whether the server does not know the command: it is renamed or disabled there, or the server is too old.
    #[must_use]
    pub fn is_unknown_command(&self) -> bool {
        self.error.code() == Some(UNKNOWN_COMMAND)
    }
}

/// The rights of a user.
#[derive(Debug)]
pub enum Rights {
    /// Each right was tried; these were refused.
    Tried(Vec<MissingRight>),
    /// None was tried, since the user may not even begin.
    Untried {
        /// Why.
        error: Error,
        /// True if a route needs that right as well.
        needed: bool,
    },
}

/// The commands of the routes on an endpoint, one for each right and name.
#[must_use]
pub fn trials(config: &Config, endpoint: &Endpoint) -> Vec<Trial> {
    let mut trials = Trials { prefix: &endpoint.key_prefix, found: Vec::new() };
    let here = |name: &String| *name == endpoint.name;
    for capture in config.capture.values() {
        if here(&capture.source) && capture.mode.replication().is_some() {
            trials.capture_tap();
        } else if here(&capture.source) {
            trials.capture_source(capture);
        }
        if here(&capture.destination) {
            trials.capture_destination(capture, endpoint);
        }
    }
    for broadcast in config.broadcast.values() {
        if here(&broadcast.source) {
            trials.broadcast_source(broadcast);
            if broadcast.acknowledged().is_some_and(|acknowledged| acknowledged.replication) {
                trials.tap();
            }
        }
        if here(&broadcast.destination) {
            trials.broadcast_destination(broadcast);
            if !config.redis[&broadcast.source].is_same_server(endpoint) {
                trials.bare("ping", &[]);
            }
        }
    }
    for route in config.invalidate.values() {
        if here(&route.source) {
            trials.invalidate_source(route);
        }
        if here(&route.destination) {
            trials.invalidate_destination(route);
        }
    }
    trials.found
}

/// What stands for a part of a template in a trial.
fn example(part: &Part) -> String {
    match part {
        Part::Literal(text) => text.clone(),
        _ => "x".to_owned(),
    }
}

struct Trials<'a> {
    prefix: &'a str,
    found: Vec<Trial>,
}

impl Trials<'_> {
    fn capture_source(&mut self, route: &Capture) {
        let (control, epoch) = (redis_keys::control(self.prefix), redis_keys::epoch(self.prefix));
        for channel in std::iter::once(&control).chain(&route.channels) {
            self.channel("subscribe", channel, &[]);
        }
        for pattern in &route.patterns {
            self.channel("psubscribe", pattern, &[]);
        }
        self.channel("publish", &control, &["tidegate1 check"]);
        self.script("eval", "return 0", &[&epoch]);
        self.key("get", &epoch, &[]);
        self.key("set", &epoch, &["0"]);
        self.bare("time", &[]);
        self.bare("ping", &[]);
        self.bare(EXEC, &[]);
    }

    fn capture_tap(&mut self) {
        let control = redis_keys::control(self.prefix);
        self.channel("publish", &control, &["tidegate1 check"]);
        self.tap();
    }

    fn tap(&mut self) {
        self.bare("replconf", &["ack", "0"]);
        self.bare(PSYNC, &["0", "no-offset"]);
    }

    fn capture_destination(&mut self, route: &Capture, endpoint: &Endpoint) {
        let of = |what| redis_keys::of_route(self.prefix, &route.name, what);
        let (state, gaps, dead, made) = (of("state"), of("gaps"), of("dead-letters"), of("streams"));
        let stream = route.stream.literal().unwrap_or(&dead);
        self.bare("script|load", &["return 0"]);
        self.script("evalsha", NO_HASH, &[&state, &gaps, &dead, &made, stream]);
        self.bare("time", &[]);
        self.key("hdel", &of("lease"), &["instance:"]);
        self.key("pexpire", &of("lease"), &["1"]);
        match endpoint.durability {
            Durability::Applied => {}
            Durability::Replicated(_) => self.bare("wait", &["0", "1"]),
            Durability::Fsynced => self.bare("waitaof", &["0", "0", "1"]),
        }
        self.key("hget", &state, &["position"]);
        self.key("hmget", &state, &["position"]);
        self.key("hgetall", &state, &[]);
        self.key("hset", &state, &["format", "1"]);
        self.key("hincrby", &state, &["received", "0"]);
        for key in [stream, &gaps, &dead] {
            self.key("xadd", key, &["*", "field", "value"]);
            self.key("xtrim", key, &["MINID", "=", "0"]);
        }
        self.key("xlen", stream, &[]);
        self.key("xrange", &gaps, &["-", "+", "COUNT", "1"]);
        if matches!(route.keep, Keep::Limits { age: Some(_), .. }) {
            self.key("xrange", stream, &["-", "+", "COUNT", "1"]);
        }
        self.key("xgroup|create", stream, &["tidegate", "0"]);
        self.key("xinfo|groups", stream, &[]);
        if route.keep.until_acknowledged().is_some() {
            self.key("xpending", stream, &["tidegate", "-", "+", "1"]);
            self.key("xrange", stream, &["-", "+", "COUNT", "1"]);
        }
        self.key("sadd", &made, &["name"]);
        self.key("scard", &made, &[]);
        self.key("sismember", &made, &["name"]);
        self.key("smembers", &made, &[]);
        self.key("sscan", &made, &["0"]);
        self.key("srem", &made, &["name"]);
    }

    fn broadcast_source(&mut self, route: &Broadcast) {
        let dead = redis_keys::of_route(self.prefix, &route.name, "dead-letters");
        // Which streams match is not known, so their commands are tried on a key of the route's own.
        let found = route.pattern().is_some();
        let of = |what| match found {
            true => redis_keys::of_stream(self.prefix, &route.name, what, ""),
            false => redis_keys::of_route(self.prefix, &route.name, what),
        };
        let (cursor, stream) = (of("cursor"), if found { dead.as_str() } else { route.stream() });
        self.bare("script|load", &["return 0"]);
        self.script("evalsha", NO_HASH, &[&cursor, &dead]);
        self.script("eval", "return 0", &[&cursor, stream]);
        if found {
            let streams = redis_keys::of_route(self.prefix, &route.name, redis_keys::STREAMS);
            self.bare("scan", &["0"]);
            let record = redis_keys::of_route(self.prefix, &route.name, redis_keys::CURSOR);
            self.key("smembers", &streams, &[]);
            self.key("sadd", &streams, &["name"]);
            self.key("srem", &streams, &["name"]);
            self.key("hdel", &record, &["new:"]);
            self.key("exists", stream, &[]);
            self.key("del", &cursor, &[]);
        }
        self.bare("time", &[]);
        self.key("hmget", &cursor, &["pos"]);
        self.key("hset", &cursor, &["format", "1"]);
        self.key("xadd", &dead, &["*", "field", "value"]);
        self.key("xtrim", &dead, &["MINID", "~", "0"]);
        self.add("xread", Object::Key(stream.to_owned()), &["COUNT", "1", "STREAMS", stream, "0"]);
        self.key("xrange", stream, &["-", "+", "COUNT", "1"]);
        self.key("xinfo|stream", stream, &[]);
        let holes = of(redis_keys::HOLES);
        self.key("zcard", &holes, &[]);
        let Some(acknowledged) = route.acknowledged() else { return };
        self.key("xinfo|groups", stream, &[]);
        self.key("xpending", stream, &[&acknowledged.group, "-", "+", "1"]);
        if matches!(acknowledged.order, Order::Acknowledgement { .. }) {
            self.key("zadd", &holes, &["0", "member"]);
            self.key("zrangebylex", &holes, &["-", "+", "LIMIT", "0", "1"]);
            self.key("zrem", &holes, &["member"]);
        }
    }

    fn broadcast_destination(&mut self, route: &Broadcast) {
        if let Some(channel) = route.channel.literal() {
            let command = if route.sharded { "spublish" } else { "publish" };
            self.channel(command, channel, &["message"]);
        }
    }

    fn invalidate_source(&mut self, route: &Invalidate) {
        let dead = redis_keys::of_route(self.prefix, &route.name, "dead-letters");
        self.add("xread", Object::Key(route.stream.clone()), &["COUNT", "1", "STREAMS", &route.stream, "0"]);
        self.key("xrange", &route.stream, &["-", "+", "COUNT", "1"]);
        self.key("xinfo|stream", &route.stream, &[]);
        self.script("eval", "return 0", &[&dead]);
        for key in route.gaps.iter().chain([&dead]) {
            self.key("xrevrange", key, &["+", "-", "COUNT", "1"]);
        }
        self.key("xadd", &dead, &["*", "field", "value"]);
        self.key("xtrim", &dead, &["MINID", "~", "0"]);
        self.bare("time", &[]);
    }

    /// Keys of a template have names that only entries know. A name that each variable makes of its own text stands for
    /// them; it is never removed, because the transaction is not executed.
    fn invalidate_destination(&mut self, route: &Invalidate) {
        let cursor = redis_keys::of_route(self.prefix, &route.name, redis_keys::CURSOR);
        self.bare("script|load", &["return 0"]);
        self.script("evalsha", NO_HASH, &[&cursor]);
        self.key("hmget", &cursor, &["pos"]);
        self.key("hset", &cursor, &["format", "1"]);
        self.bare("time", &[]);
        if route.if_missed == IfMissed::Clear {
            self.bare("scan", &["0"]);
        }
        for template in &route.keys {
            let key: String = template.parts().iter().map(example).collect();
            if let Some(lease) = &route.lease {
                let piece = |part: &Part| match part {
                    Part::Literal(text) => text.clone(),
                    _ => key.clone(),
                };
                let lease: String = lease.parts().iter().map(piece).collect();
                self.key("unlink", &lease, &[]);
            }
            self.key("unlink", &key, &[]);
            if route.set.is_some() {
                self.key("hmget", &key, &["version"]);
                self.key("hset", &key, &["version", "0"]);
            }
        }
    }

    fn bare(&mut self, right: &'static str, arguments: &[&str]) {
        self.add(right, Object::Nothing, arguments);
    }

    fn key(&mut self, right: &'static str, key: &str, more: &[&str]) {
        let arguments: Vec<&str> = std::iter::once(key).chain(more.iter().copied()).collect();
        self.add(right, Object::Key(key.to_owned()), &arguments);
    }

    fn channel(&mut self, right: &'static str, channel: &str, more: &[&str]) {
        let arguments: Vec<&str> = std::iter::once(channel).chain(more.iter().copied()).collect();
        self.add(right, Object::Channel(channel.to_owned()), &arguments);
    }

    fn script(&mut self, right: &'static str, script: &str, keys: &[&str]) {
        let count = keys.len().to_string();
        let arguments: Vec<&str> = [script, &count].into_iter().chain(keys.iter().copied()).collect();
        self.add(right, Object::Key(keys.join(" and ")), &arguments);
    }

    /// Two routes of one endpoint share much.
    fn add(&mut self, right: &'static str, object: Object, arguments: &[&str]) {
        let words = right.split('|').chain(arguments.iter().copied()).map(str::to_owned).collect();
        let trial = Trial { right, object, words };
        if !self.found.contains(&trial) {
            self.found.push(trial);
        }
    }
}

/// It is not queued inside MULTI, but with an offset that is none it does nothing, from Redis 7.0 on. An
/// older server would begin to send its data.
const PSYNC: &str = "psync";

/// Tries each, PSYNC only if that is harmless. The connection must be dropped afterwards: that discards the queued
/// commands.
///
/// # Errors
/// If the connection ends.
pub(super) async fn attempt(
    connection: &mut ControlConnection,
    trials: &[Trial],
    may_psync: bool,
) -> Result<Rights, Error> {
    let mut refused = Vec::new();
    let (synced, trials): (Vec<&Trial>, Vec<&Trial>) = trials.iter().partition(|trial| trial.right == PSYNC);
    for trial in synced.into_iter().filter(|_| may_psync) {
        let error = ask(connection, &trial.words).await?;
        refused.extend(
            error
                .map(|error| MissingRight { trial: trial.clone(), error })
                .filter(|refusal| refusal.is_missing_right() || refusal.is_unknown_command()),
        );
    }
    if trials.is_empty() {
        return Ok(Rights::Tried(refused));
    }
    // EXEC is not queued. Without MULTI it does nothing; refused inside MULTI, it ends that, and what follows would be
    // executed.
    let (executing, queued): (Vec<&Trial>, Vec<&Trial>) =
        trials.into_iter().partition(|trial| trial.right == EXEC);
    for trial in &executing {
        let error = ask(connection, &["EXEC"]).await?.and_then(refusal_of_exec);
        refused.extend(error.map(|error| MissingRight { trial: (*trial).clone(), error }));
    }
    if let Some(error) = ask(connection, &["MULTI"]).await? {
        // The routes use both or neither.
        return Ok(Rights::Untried { error, needed: !executing.is_empty() });
    }
    for trial in queued {
        if let Some(error) = ask(connection, &trial.words).await? {
            refused.push(MissingRight { trial: trial.clone(), error });
        }
    }
    Ok(Rights::Tried(refused))
}

/// Why EXEC without MULTI was refused; `None` if only the MULTI is missing. Servers put a code of their own before that of
/// the refusal.
fn refusal_of_exec(error: Error) -> Option<Error> {
    match (error.code(), &error) {
        (Some("ERR"), _) => None,
        (Some("EXECABORT"), Error::Reply(text)) => {
            let refusal = text.strip_prefix("EXECABORT Transaction discarded because of: ");
            Some(refusal.map(|refusal| Error::Reply(refusal.to_owned())).unwrap_or(error))
        }
        _ => Some(error),
    }
}

/// The error reply, if it was one.
async fn ask(connection: &mut ControlConnection, words: &[impl AsRef<str>]) -> Result<Option<Error>, Error> {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(word.as_ref());
    }
    match command.exec_async(connection).await.map_err(Error::from) {
        Ok(()) => Ok(None),
        Err(error @ Error::Reply(_)) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config;

    #[test]
    fn every_right_that_acl_grants_is_tried_and_no_other() {
        for (file, count) in [
            ("full/tidegate.toml", 2),
            ("capture-replication.toml", 2),
            ("capture-until-acknowledged.toml", 1),
            ("broadcast-acknowledged.toml", 1),
            ("broadcast-streams.toml", 1),
        ] {
            let file = Path::new("config/examples").join(file);
            let config = config::load(&file, [], &[]).unwrap().config;
            let users = config::acl::users(&config);
            assert_eq!(users.len(), count);
            for user in users {
                let mut granted: BTreeSet<&str> = user.commands().into_iter().collect();
                // The commands that ask for facts and begin the transaction; they are sent themselves.
                assert!(granted.remove("info") && granted.remove("multi"));
                let tried = user.endpoints.iter().flat_map(|name| trials(&config, &config.redis[name]));
                let tried: BTreeSet<&str> = tried.map(|trial| trial.right).collect();
                assert_eq!(tried, granted, "{:?}", user.endpoints);
            }
        }
    }

    #[test]
    fn a_trial_says_which_right_on_what() {
        let config = config::load(Path::new("config/examples/capture-raw.toml"), [], &[]).unwrap().config;
        let tried: Vec<String> =
            trials(&config, &config.redis["main"]).iter().map(ToString::to_string).collect();
        assert!(tried.contains(&"+psubscribe on the channel orders.eu.*".to_owned()), "{tried:?}");
        assert!(tried.contains(&"+xadd on the key orders".to_owned()), "{tried:?}");
        let once: BTreeSet<&String> = tried.iter().collect();
        assert_eq!(once.len(), tried.len(), "none twice");
    }
}
