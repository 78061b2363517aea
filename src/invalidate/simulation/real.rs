//! A real cache beside the model: the scripts must leave the same answers and data.

use std::collections::BTreeMap;

use redis::ConnectionLike as _;

use super::instance::Command;
use super::servers::{ADOPT, CLEAR, CacheServer, version_of};
use crate::invalidate::cursor;
use crate::server::Hash;
use crate::server::real::RealServer;
use crate::server::resp::{self, Value};

pub(super) struct Real {
    server: RealServer,
    hashes: BTreeMap<Hash, Hash>,
}

impl Real {
    pub(super) fn start(version: &str) -> Self {
        let mut server = RealServer::start(version);
        let scripts = [(CLEAR, cursor::CLEAR), (ADOPT, cursor::ADOPT)];
        let hashes = scripts.map(|(name, script)| (name, server.load_without_clock(script.source)));
        Self { server, hashes: hashes.into() }
    }

    /// Sends a command to a cache that is as the model is before it, and compares what both make of it.
    pub(super) fn compare(
        &mut self,
        command: &Command,
        (before, after): (&CacheServer, &CacheServer),
        reply: &Value,
        clock_ms: u64,
    ) {
        let named = |name: &String| self.hashes.get(<&Hash>::try_from(name.as_bytes()).ok()?);
        let Some(hash) = command.get(1).and_then(named) else { return };
        let mut words: Vec<&[u8]> = command.iter().map(String::as_bytes).collect();
        words[1] = hash;
        let mut packed = Vec::new();
        resp::command(&mut packed, &words);
        let cursor = command[3].clone();
        let mut load = redis::pipe();
        load.cmd("FLUSHALL").ignore();
        for (field, value) in &before.cursor {
            load.cmd("HSET").arg(&[&cursor, field, value]).ignore();
        }
        for (key, value) in &before.keys {
            match version_of(value) {
                Some(version) => {
                    let version = version.to_string();
                    load.cmd("HSET").arg(&[key, "value", &version, "version", &version]).ignore()
                }
                None => load.cmd("SET").arg(&[key, value]).ignore(),
            };
        }
        load.exec(&mut self.server.connection).unwrap();
        self.server.set_time(clock_ms);
        let answer = self.server.connection.req_packed_command(&packed).unwrap();
        assert_eq!(shown_real(&answer), shown(reply), "{command:?}");
        let found: BTreeMap<String, String> =
            redis::cmd("HGETALL").arg(&cursor).query(&mut self.server.connection).unwrap();
        // What the scripts count beside their decisions.
        let decides = |name: &str| !matches!(name, "cleared" | "absent" | "refused" | "written" | "kept");
        let found: BTreeMap<_, _> = found.into_iter().filter(|(name, _)| decides(name)).collect();
        assert_eq!(found, after.cursor, "{command:?}");
        let left: Vec<String> = redis::cmd("KEYS").arg("[pq]:*").query(&mut self.server.connection).unwrap();
        let left: std::collections::BTreeSet<&String> = left.iter().collect();
        assert_eq!(left, after.keys.keys().collect(), "{command:?}");
        for (key, value) in &after.keys {
            let Some(version) = version_of(value).map(|version| version.to_string()) else { continue };
            let fields = ["value", "version"];
            let found: Vec<String> =
                redis::cmd("HMGET").arg(key).arg(&fields).query(&mut self.server.connection).unwrap();
            assert_eq!(found, [&*version, &*version], "{key} after {command:?}");
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Array(all) => all.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

fn shown_real(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::Int(number) => number.to_string(),
        redis::Value::Array(all) => all.iter().map(shown_real).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}
