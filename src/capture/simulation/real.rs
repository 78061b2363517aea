//! A real server beside the model: the script must leave the same answers and data.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::model::Model;
use crate::capture::append::call::{APPEND, CaptureKeys};
use crate::server::Script;
use crate::server::resp::Value;
use crate::source::replication::epochs::EPOCHS;

/// A real server with the script.
pub(in crate::capture) struct Real {
    process: Child,
    pub(in crate::capture) connection: redis::Connection,
    pub(super) hash: [u8; 40],
    pub(super) history: [u8; 40],
    _directory: tempfile::TempDir,
}

impl Drop for Real {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
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
    pub(in crate::capture) fn start(version: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let program = own.ancestors().map(|above| above.join("servers").join(version).join("server"));
        let program = program.into_iter().find(|path| path.exists());
        let program = program.unwrap_or_else(|| panic!("{version} is not installed: scripts/servers.sh"));
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let process = Command::new(program)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let client = redis::Client::open(format!("redis+unix://{}", socket.display())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut load = |script: Script| -> [u8; 40] {
            let load = redis::cmd("SCRIPT").arg("LOAD").arg(script.source).clone();
            load.query::<String>(&mut connection).unwrap().into_bytes().try_into().unwrap()
        };
        let (hash, history) = (load(APPEND), load(EPOCHS));
        Self { process, connection, hash, history, _directory: directory }
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
        match self.connection.req_packed_command(request) {
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
        pipe.exec(&mut self.connection).unwrap();
    }

    pub(super) fn compare(&mut self, model: &Model, keys: &CaptureKeys) {
        let state: BTreeMap<String, String> =
            redis::cmd("HGETALL").arg(&keys.state).query(&mut self.connection).unwrap();
        assert_eq!(state, model.state);
        assert!(!model.streams.is_empty());
        for (key, expected) in &model.streams {
            let entries: Vec<(String, Vec<Vec<u8>>)> =
                redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(&mut self.connection).unwrap();
            let entries: Vec<_> = entries.into_iter().map(|(_, fields)| fields).collect();
            assert_eq!(&entries, expected, "{}", String::from_utf8_lossy(key));
        }
        let made: BTreeSet<Vec<u8>> =
            redis::cmd("SMEMBERS").arg(&keys.streams).query(&mut self.connection).unwrap();
        assert_eq!(made, model.made);
    }
}
