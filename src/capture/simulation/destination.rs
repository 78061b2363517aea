//! The destination: it carries out what connections have sent, or refuses it.

use super::real::shown;
use super::*;
use crate::server::resp;

/// A call to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Connect,
    Append,
    Lease,
    /// histories.lua.
    Epochs,
    /// Plain commands: `HSET`, `HDEL`.
    Plain,
    /// Every one.
    Any,
}

/// Errors of a server that refuses.
pub(super) const REFUSALS: [&str; 11] = [
    "NOPERM this user has no permissions",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots",
    "READONLY You can't write against a read only replica.",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script.",
    "LOADING Redis is loading the dataset in memory",
    "NOSCRIPT No matching script.",
    "ERR unknown command",
    "CLUSTERDOWN The cluster is down",
];

/// How many of these block a route.
pub(super) const PARKING: usize = 2;

impl World {
    /// The words with which a call is refused now.
    pub(super) fn refused(&self, call: Call) -> Option<&'static str> {
        self.refusal.filter(|(what, _)| *what == Call::Any || *what == call).map(|(_, text)| text)
    }

    /// The destination carries out the first command of a connection.
    pub(super) fn serve(&mut self, which: usize, route: usize) {
        let Some(link) = &mut self.instances[which].routes[route].link else { return };
        let Some(request) = link.requests.pop_front() else { return };
        let old = link.with_the_old;
        let command = arguments(&request);
        let call = match (command[0].as_slice(), command[1].first()) {
            (b"EVALSHA", Some(b'1')) if command[1] == [b'1'; 40] => Call::Lease,
            (b"EVALSHA", _) if command[1] == self.history => Call::Epochs,
            (b"EVALSHA", _) => Call::Append,
            _ => Call::Plain,
        };
        let reply = match self.refused(call) {
            Some(text) => Value::Error(text.as_bytes().to_vec()),
            None => self.carry_out(call, &command, &request, old),
        };
        if call != Call::Lease {
            let words = command
                .iter()
                .skip(1)
                .filter(|word| word.len() < 80)
                .map(|word| String::from_utf8_lossy(word));
            let words: Vec<_> = words.take(14).collect();
            self.tell(|| format!("i{which}.{route} {call:?} {}: {reply:?}", words.join(" ")));
        }
        if let Some(link) = &mut self.instances[which].routes[route].link {
            link.replies.push_back(reply);
        }
    }

    fn carry_out(&mut self, call: Call, command: &[Vec<u8>], request: &[u8], old: bool) -> Value {
        let server_ms = self.server_ms;
        let old = self.old_model.as_mut().filter(|_| old);
        let beside = old.is_some();
        let model = old.unwrap_or(&mut self.model);
        match call {
            Call::Lease => {
                let stopped = model.state.contains_key("stopped");
                let reply = model.lease(command, server_ms);
                if let Some(real) = &mut self.real
                    && stopped
                    && !self.model.state.contains_key("stopped")
                {
                    // The lease's script runs only here.
                    let mut request = Vec::new();
                    resp::command(&mut request, &[b"HDEL", &self.keys.state, b"stopped"]);
                    real.call(&request);
                }
                reply
            }
            Call::Epochs => {
                let reply = model.number(command);
                if let Some(real) = &mut self.real {
                    let text = |value: &Value| String::from_utf8(value.bytes().unwrap().to_vec()).unwrap();
                    assert_eq!(
                        real.call(request),
                        shown(&reply),
                        "the script and its model: {}",
                        text(&reply)
                    );
                }
                reply
            }
            Call::Append if beside => model.call(command),
            Call::Append => {
                let before = model.position();
                let reply = model.call(command);
                self.changed = true;
                if before == "-" && self.model.position() != "-" && self.promised.is_none() {
                    self.promised = Some(self.first_stored());
                }
                if let Some(real) = &mut self.real {
                    assert_eq!(real.call(request), shown(&reply), "the script and its model");
                }
                reply
            }
            Call::Plain if command[0] == b"INFO" => {
                // With the smaller one, most batches of several messages are too large, and no single message is.
                let limit = if self.rng.bool() { 100_000_000 } else { 1_003_000 };
                Value::Bytes(format!("used_memory_startup:1000000\r\nmaxmemory:{limit}\r\n").into_bytes())
            }
            Call::Plain | Call::Connect | Call::Any => {
                let text = |word: &Vec<u8>| String::from_utf8(word.clone()).unwrap();
                assert_eq!(command[1], self.keys.state, "only the state is written plainly");
                match command[0].as_slice() {
                    b"HSET" => model
                        .state
                        .extend(command[2..].chunks(2).map(|pair| (text(&pair[0]), text(&pair[1])))),
                    b"HDEL" => drop(model.state.remove(&text(&command[2]))),
                    other => panic!("{}", String::from_utf8_lossy(other)),
                }
                if !beside && command[2..].chunks(2).any(|pair| pair[0] == b"stopped") {
                    self.killed_since_stop = false;
                }
                if let Some(real) = &mut self.real {
                    real.call(request);
                }
                Value::Integer(1)
            }
        }
    }
}
