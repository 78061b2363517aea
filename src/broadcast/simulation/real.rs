//! A real server beside the model: the scripts must leave the same answers and data.

use std::collections::{BTreeMap, BTreeSet};

use redis::ConnectionLike as _;

use super::model::{LEASE, Model, PUBLISH, RELEASE, STATE};
use crate::broadcast::engine::leadership;
use crate::broadcast::group::ack_state;
use crate::broadcast::publish::call;
use crate::server::Hash;
use crate::server::real::RealServer;
use crate::server::resp::{self, Value};
use crate::stream::EntryId;

/// A real server with the scripts.
pub(super) struct Real {
    server: RealServer,
    hashes: BTreeMap<u8, Hash>,
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Error(bytes) => {
            String::from_utf8_lossy(bytes).split(' ').next().unwrap_or_default().to_owned()
        }
        Value::Integer(number) => number.to_string(),
        Value::Array(all) => format!("[{}]", all.iter().map(shown).collect::<Vec<_>>().join(" ")),
        other => format!("{other:?}"),
    }
}

fn shown_real(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::SimpleString(text) => text.clone(),
        redis::Value::Int(number) => number.to_string(),
        redis::Value::Nil => "Null".to_owned(),
        redis::Value::ServerError(error) => error.code().to_owned(),
        redis::Value::Array(all) => format!("[{}]", all.iter().map(shown_real).collect::<Vec<_>>().join(" ")),
        other => format!("{other:?}"),
    }
}

impl Real {
    pub(super) fn start(version: &str) -> Self {
        let mut server = RealServer::start(version);
        let scripts = [
            (PUBLISH, call::PUBLISH),
            (RELEASE, call::RELEASE),
            (STATE, ack_state::ACK_STATE),
            (LEASE, leadership::LEASE),
        ];
        let hashes = scripts.map(|(letter, script)| (letter, server.load_without_clock(script.source)));
        Self { server, hashes: hashes.into() }
    }

    pub(super) fn begin(&mut self, group: bool) {
        self.server.ask(&["FLUSHALL"]);
        if group {
            self.server.ask(&["XGROUP", "CREATE", "orders", "inventory", "0", "MKSTREAM"]);
        }
    }

    pub(super) fn add(&mut self, id: EntryId, fields: &[(String, String)]) {
        let id = id.to_string();
        let mut command = vec!["XADD", "orders", &id];
        command.extend(fields.iter().flat_map(|(name, value)| [name.as_str(), value]));
        self.server.ask(&command);
    }

    pub(super) fn read(&mut self, consumer: &str, count: usize) {
        let count = count.to_string();
        self.server.ask(&[
            "XREADGROUP",
            "GROUP",
            "inventory",
            consumer,
            "COUNT",
            &count,
            "STREAMS",
            "orders",
            ">",
        ]);
    }

    pub(super) fn acknowledge(&mut self, id: EntryId) {
        self.server.ask(&["XACK", "orders", "inventory", &id.to_string()]);
    }

    pub(super) fn delete(&mut self, id: EntryId) {
        self.server.ask(&["XDEL", "orders", &id.to_string()]);
    }

    pub(super) fn delete_stream(&mut self) {
        self.server.ask(&["DEL", "orders"]);
    }

    pub(super) fn claim(&mut self, id: EntryId, consumer: &str) {
        self.server.ask(&["XCLAIM", "orders", "inventory", consumer, "0", &id.to_string()]);
    }

    /// Sends the model's command, and compares.
    pub(super) fn compare(&mut self, command: &[Vec<u8>], expected: &Value, model: &Model, clock_ms: u64) {
        // Refused inside the script: a right that this server's user does have.
        if command[0] != b"EVAL"
            && command[0] != b"EVALSHA"
            && command[0] != b"XREAD"
            && command[0] != b"XRANGE"
        {
            return;
        }
        self.server.set_time(clock_ms);
        let refuses = if model.refuses.is_some() { "-publish" } else { "+publish" };
        self.server.ask(&["ACL", "SETUSER", "default", refuses]);
        let mut words = command.to_vec();
        match command[0].as_slice() {
            b"EVALSHA" => words[1] = self.hashes[&command[1][0]].to_vec(),
            // A command that waits in the model has found its entries by now.
            b"XREAD" if words[3] == b"BLOCK" => drop(words.drain(3..5)),
            b"EVAL" => {
                let source = String::from_utf8_lossy(&words[1]);
                words[1] = RealServer::without_clock(&source).into_bytes();
            }
            _ => {}
        }
        let mut packed = Vec::new();
        resp::command(&mut packed, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let answer = self.server.connection.req_packed_command(&packed).unwrap();
        let (expected, answer) = match command[0].as_slice() {
            b"EVALSHA" if command[1][0] == STATE => {
                (look_of(shown_parts(expected)), look_of(real_parts(&answer)))
            }
            b"EVALSHA" if command[1][0] <= RELEASE => {
                // The error's own text is the server's.
                (refused_of(shown_parts(expected)), refused_of(real_parts(&answer)))
            }
            _ => (shown(expected), shown_real(&answer)),
        };
        assert_eq!(
            answer,
            expected,
            "{:?}",
            command.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>()
        );
        self.same(model);
    }

    fn same(&mut self, model: &Model) {
        let hash = |connection: &mut redis::Connection, key: &str| {
            redis::cmd("HGETALL").arg(key).query::<BTreeMap<String, String>>(connection).unwrap()
        };
        assert_eq!(hash(&mut self.server.connection, "tidegate:stock:cursor"), model.cursor);
        assert_eq!(hash(&mut self.server.connection, "tidegate:stock:lease"), model.lease);
        let holes: BTreeSet<String> = redis::cmd("ZRANGE")
            .arg(&["tidegate:stock:holes", "0", "-1"])
            .query(&mut self.server.connection)
            .unwrap();
        let padded = |id: &EntryId| format!("{:020}-{:020}", id.milliseconds, id.sequence);
        assert_eq!(holes, model.holes.iter().map(padded).collect());
    }
}

fn shown_parts(value: &Value) -> Vec<String> {
    value.elements().map_or_else(|| vec![shown(value)], |all| all.iter().map(shown).collect())
}

fn real_parts(value: &redis::Value) -> Vec<String> {
    match value {
        redis::Value::Array(all) => all.iter().map(shown_real).collect(),
        other => vec![shown_real(other)],
    }
}

/// A look without what only a real server counts: how much was read, and for how long an entry is idle.
fn look_of(mut parts: Vec<String>) -> String {
    if parts.len() > 4 {
        parts[1].clear();
        let lowest: Vec<&str> = parts[4].split(' ').collect();
        parts[4] = lowest.iter().enumerate().filter(|(at, _)| *at != 2).map(|(_, word)| *word).collect();
    }
    parts.join(" ")
}

fn refused_of(mut parts: Vec<String>) -> String {
    if let Some(refused) = parts.get_mut(6) {
        *refused = if refused.is_empty() { String::new() } else { "refused".to_owned() };
    }
    parts.join(" ")
}
