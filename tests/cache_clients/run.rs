//! Leads a helper through the contract, with a real server.

use std::path::Path;

use serde_json::{Value, json};

use super::contract::{Case, Reader, Reply, Step};
use super::helper::{Helper, Kind, Settings};
use crate::support::{Options, Server, Version};

/// What a helper's user needs, and no more.
const RIGHTS: &str = "resetkeys ~product:* -@all +get +set +eval +evalsha +unlink";
/// And what it needs with versions.
const RIGHTS_WITH_VERSIONS: &str = "+hget +hset +pexpire";

/// A server and a helper that reads through it.
#[derive(Debug)]
struct World {
    server: Server,
    helper: Helper,
    settings: Settings,
    /// Added to a reader's number, so that a reader of an earlier case is not taken for one of this.
    before: Reader,
}

/// Which helper, and on which server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Under<'p> {
    pub(crate) kind: Kind,
    pub(crate) version: Version,
    pub(crate) helpers: &'p Path,
}

impl Under<'_> {
    /// The first case that the helper fails, and how.
    pub(crate) fn run(self, cases: &[Case]) -> Result<(), String> {
        let mut kept: Option<World> = None;
        for case in cases {
            let settings = settings(case);
            let mut world = match kept.take() {
                Some(world) if world.settings == settings => world,
                _ => self.world(settings),
            };
            kept = case.run(&mut world)?.then_some(world);
        }
        Ok(())
    }

    fn world(self, settings: Settings) -> World {
        let server = Server::with(self.version, Options::default().tcp());
        let mut user = vec!["ACL", "SETUSER", "reader", "on", ">reading"];
        user.extend(RIGHTS.split(' '));
        if settings.versions {
            user.extend(RIGHTS_WITH_VERSIONS.split(' '));
        }
        server.ask::<()>(&user);
        let helper = Helper::start(self.kind, self.helpers, &server.url("reader:reading"), &settings);
        World { server, helper, settings, before: 0 }
    }
}

fn settings(case: &Case) -> Settings {
    let mut settings = Settings { versions: case.has_versions(), ..Settings::default() };
    for (_, step) in &case.steps {
        if let Step::HelperWaits { seconds, answer } = step {
            *(if *answer { &mut settings.answer } else { &mut settings.wait }) = seconds.clone();
        }
    }
    settings
}

impl Case {
    /// Whether the server is as it was.
    fn run(&self, world: &mut World) -> Result<bool, String> {
        world.server.ask::<()>(&["FLUSHALL"]);
        world.server.ask::<()>(&["CONFIG", "RESETSTAT"]);
        let at = |line: &str, error: String| format!("{}: {line}: {error}", self.name);
        let mut healthy = true;
        for (line, step) in &self.steps {
            healthy &= !matches!(step, Step::RedisIsKilled | Step::RedisIsFrozen);
            world.take(step).map_err(|error| at(line, error))?;
        }
        world.helper.has_nothing_to_say().map_err(|error| at("at the end", error))?;
        world.before += 1_000;
        Ok(healthy)
    }
}

impl World {
    fn take(&mut self, step: &Step) -> Result<(), String> {
        let before = self.before;
        match step {
            Step::HelperWaits { .. } | Step::HelperKeepsVersions => Ok(()),
            Step::Gets { readers, key, twice } => readers.clone().try_for_each(|reader| {
                self.helper.tell(&json!({"reader": before + reader, "get": key, "twice": twice}))
            }),
            Step::Calls { reader, argument } => {
                self.helper.tell(&json!({"reader": before + reader, "call": argument}))
            }
            Step::Loads(reader) => {
                let heard = self.hear(*reader)?;
                same(&heard, &json!({"reader": before + reader, "loads": true}))
            }
            Step::Loaded(reader, value) => {
                self.helper.tell(&json!({"reader": before + reader, "loaded": value}))
            }
            Step::LoadedAt { reader, value, version } => {
                self.helper.tell(&json!({"reader": before + reader, "loaded": value, "version": version}))
            }
            Step::Fails(reader, error) => {
                self.helper.tell(&json!({"reader": before + reader, "fails": error}))
            }
            Step::Got(reader, value) => {
                let heard = self.hear(*reader)?;
                same(&heard, &json!({"reader": before + reader, "got": value}))
            }
            Step::GotTheFailure(reader, error) => {
                let heard = self.hear(*reader)?;
                same(&heard, &json!({"reader": before + reader, "failed": error}))
            }
            Step::AllGot(readers, value) => {
                // All listen, so that one who loads holds up none.
                let mut left: Vec<Reader> = readers.clone().map(|reader| before + reader).collect();
                while !left.is_empty() {
                    let heard = self.helper.hear(|_| true)?;
                    let reader = left.iter().find(|&&reader| heard["reader"] == reader).copied();
                    let reader = reader.ok_or_else(|| format!("nobody waits for {heard}"))?;
                    if heard["loads"] == true {
                        self.helper.tell(&json!({"reader": reader, "loaded": value}))?;
                        continue;
                    }
                    same(&heard, &json!({"reader": reader, "got": value}))?;
                    left.retain(|&other| other != reader);
                }
                Ok(())
            }
            Step::Changed(keys) => {
                self.helper.tell(&json!({"changed": keys}))?;
                self.helper.hear(|message| message["changed"] == true).map(drop)
            }
            Step::Redis { words, reply } => self.ask(words, reply),
            Step::RedisWasAsked { times, command } => {
                let server = &self.server;
                self.helper.stays_silent_until(|| server.calls(command) >= *times)
            }
            Step::RedisIsKilled => {
                self.server.kill();
                Ok(())
            }
            Step::RedisIsFrozen => {
                self.server.freeze();
                Ok(())
            }
        }
    }

    fn hear(&mut self, reader: Reader) -> Result<Value, String> {
        let reader = self.before + reader;
        self.helper.hear(|message| message["reader"] == reader)
    }

    fn ask(&self, words: &[String], wanted: &Reply) -> Result<(), String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let reply = match self.server.try_ask::<redis::Value>(&words) {
            Ok(redis::Value::Nil) => "nil".to_owned(),
            Ok(reply) => redis::from_redis_value(reply).map_err(|error| error.to_string())?,
            Err(error) => error.to_string(),
        };
        let fits = match wanted {
            Reply::Is(text) => reply == *text,
            Reply::MoreThan(least) => reply.parse::<i64>().is_ok_and(|number| number > *least),
        };
        if fits { Ok(()) } else { Err(format!("redis has {reply}")) }
    }
}

fn same(heard: &Value, due: &Value) -> Result<(), String> {
    if heard == due { Ok(()) } else { Err(format!("the driver said {heard}")) }
}
