//! A real server beside the model: the script must leave the same answers and data.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Model;
use crate::capture::append::call::{APPEND, CaptureKeys};
use crate::server::Hash;
use crate::server::real::RealServer;
use crate::server::resp::Value;
use crate::source::replication::histories::EPOCHS;

/// A real server with the script.
pub(super) struct Real {
    server: RealServer,
    pub(super) hash: Hash,
    pub(super) history: Hash,
}

/// A reply without an error's text behind the code.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) | Value::Error(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            text.split(' ').next().unwrap_or_default().to_owned()
        }
        Value::Integer(number) => number.to_string(),
        Value::Array(all) => all.iter().map(shown).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

impl Real {
    pub(super) fn start(version: &str) -> Self {
        let mut server = RealServer::start(version);
        let (hash, history) = (server.load(APPEND.source), server.load(EPOCHS.source));
        Self { server, hash, history }
    }

    pub(super) fn call(&mut self, request: &[u8]) -> String {
        use redis::ConnectionLike as _;
        fn text(value: &redis::Value) -> String {
            match value {
                redis::Value::BulkString(bytes) => shown(&Value::Bytes(bytes.clone())),
                redis::Value::Int(number) => number.to_string(),
                redis::Value::ServerError(error) => error.code().to_owned(),
                redis::Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(" "),
                other => format!("{other:?}"),
            }
        }
        match self.server.connection.req_packed_command(request) {
            Ok(value) => text(&value),
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) fn load(&mut self, model: &Model, keys: &CaptureKeys) {
        let mut pipe = redis::pipe();
        pipe.cmd("FLUSHALL").ignore();
        for (key, entries) in model.streams.iter().filter(|(key, _)| !model.spoiled.contains(*key)) {
            for entry in entries {
                pipe.cmd("XADD").arg(key).arg("*").arg(entry).ignore();
            }
        }
        for key in &model.spoiled {
            pipe.cmd("SET").arg(key).arg("no stream").ignore();
        }
        for (field, value) in &model.state {
            pipe.cmd("HSET").arg(&keys.state).arg(field).arg(value).ignore();
        }
        for stream in model.made.iter().filter(|_| !model.spoiled.contains(&keys.streams)) {
            pipe.cmd("SADD").arg(&keys.streams).arg(stream).ignore();
        }
        pipe.exec(&mut self.server.connection).unwrap();
    }

    pub(super) fn compare(&mut self, model: &Model, keys: &CaptureKeys) {
        let state: BTreeMap<String, String> =
            redis::cmd("HGETALL").arg(&keys.state).query(&mut self.server.connection).unwrap();
        assert_eq!(state, model.state);
        assert!(!model.streams.is_empty());
        for (key, expected) in &model.streams {
            let entries: Vec<(String, Vec<Vec<u8>>)> =
                redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(&mut self.server.connection).unwrap();
            let entries: Vec<_> = entries.into_iter().map(|(_, fields)| fields).collect();
            assert_eq!(&entries, expected, "{}", String::from_utf8_lossy(key));
        }
        let made: BTreeSet<Vec<u8>> =
            redis::cmd("SMEMBERS").arg(&keys.streams).query(&mut self.server.connection).unwrap();
        assert_eq!(made, model.made);
    }
}
