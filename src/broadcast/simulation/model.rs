//! A server, in memory: the scripts again, and the commands of a broadcast and its consumers.
//!
//! It reads the very commands that go over the wire, so that their encoding is tested too. A test compares it with the
//! scripts themselves on real servers.

use std::collections::{BTreeMap, BTreeSet};

use crate::broadcast::publish::open::OPEN;
use crate::server::resp::Value;
use crate::stream::EntryId;

/// By which letter a hash tells its script.
pub(super) const PUBLISH: u8 = b'1';
pub(super) const RELEASE: u8 = b'2';
pub(super) const STATE: u8 = b'3';
pub(super) const LEASE: u8 = b'4';

const NO_KIND: &str = "ERR The command is refused";

/// The entries that a consumer was given and has not acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) consumer: String,
    pub(super) at_ms: u64,
    pub(super) times: i64,
}

/// The consumer group.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    pub(super) delivered: EntryId,
    pub(super) read: i64,
    pub(super) pending: BTreeMap<EntryId, Given>,
    pub(super) consumers: BTreeSet<String>,
}

/// The data of a server. Cloned for a failover to restore.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) stream: BTreeMap<EntryId, Vec<(String, String)>>,
    pub(super) last: EntryId,
    pub(super) added: i64,
    pub(super) group: Option<Group>,
    pub(super) cursor: BTreeMap<String, String>,
    pub(super) lease: BTreeMap<String, String>,
    pub(super) holes: BTreeSet<EntryId>,
    /// The entry and the reason of each dead letter.
    pub(super) dead: Vec<(String, String)>,
    /// Number of entries that these say were deleted unread.
    pub(super) unread: i64,
    /// Messages that PUBLISH was called with, taken out by the world.
    pub(super) heard: Vec<String>,
    /// How PUBLISH inside a script fails, while it does.
    pub(super) refuses: Option<String>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn id(bytes: &[u8]) -> EntryId {
    EntryId::parse(bytes).unwrap()
}

/// A cursor's count: the number, the stream's number, and all that stands behind the first number.
fn counted_parts(counted: &str) -> (&str, i64, &str) {
    let (number, rest) = counted.split_at(counted.find(':').unwrap_or(counted.len()));
    let stream = rest.split(':').nth(1).map_or(0, |stream| stream.parse().unwrap());
    (number, stream, rest)
}

fn bytes(text: impl ToString) -> Value {
    Value::Bytes(text.to_string().into_bytes())
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

/// An XREAD that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    pub(super) after: EntryId,
    pub(super) count: usize,
    pub(super) millis: u64,
}

/// The result of a command.
pub(super) enum CallResult {
    Reply(Value),
    Waits(Waits),
}

impl Model {
    fn of(&self, field: &str) -> i64 {
        self.cursor.get(field).map_or(0, |value| value.parse().unwrap_or(0))
    }

    /// The cursor, if there is one.
    pub(super) fn position(&self) -> Option<EntryId> {
        self.cursor.get("pos").map(|pos| id(pos.as_bytes()))
    }

    fn add(&mut self, field: &str, count: i64) {
        let sum = self.of(field) + count;
        self.cursor.insert(field.to_owned(), sum.to_string());
    }

    fn entries<'m>(ids: impl Iterator<Item = (&'m EntryId, &'m Vec<(String, String)>)>) -> Value {
        let fields = |fields: &Vec<(String, String)>| {
            Value::Array(fields.iter().flat_map(|(name, value)| [bytes(name), bytes(value)]).collect())
        };
        Value::Array(ids.map(|(id, all)| Value::Array(vec![bytes(id), fields(all)])).collect())
    }

    /// The answer of an XREAD now.
    pub(super) fn xread(&self, after: EntryId, count: usize) -> Option<Value> {
        let found: Vec<_> = self.stream.range(after..).filter(|(id, _)| **id > after).take(count).collect();
        let entries = |found: Vec<_>| Self::entries(found.into_iter());
        (!found.is_empty()).then(|| Value::Array(vec![Value::Array(vec![bytes("orders"), entries(found)])]))
    }

    /// Carries out a command, at a time of the server's clock.
    pub(super) fn carry_out(&mut self, command: &[Vec<u8>], now_ms: u64) -> CallResult {
        let word = |at: usize| command.get(at).map(Vec::as_slice).unwrap_or_default();
        CallResult::Reply(match word(0) {
            b"HELLO" => Value::Array(vec![bytes("role"), bytes("master")]),
            b"PUBLISH" => {
                self.heard.push(text(word(2)));
                Value::Integer(0)
            }
            b"ZCARD" => Value::Integer(self.holes.len().try_into().unwrap()),
            b"XREAD" => {
                let count = text(word(2)).parse().unwrap();
                let (millis, after) =
                    if word(3) == b"BLOCK" { (text(word(4)).parse().unwrap(), 7) } else { (0, 5) };
                let after = id(word(after));
                match self.xread(after, count) {
                    Some(found) => found,
                    None if millis > 0 => return CallResult::Waits(Waits { after, count, millis }),
                    None => Value::Null,
                }
            }
            b"XRANGE" => {
                let after = word(2).strip_prefix(b"(").map(id);
                let from = after.unwrap_or_else(|| id(word(2)));
                let count = if word(4) == b"COUNT" { text(word(5)).parse().unwrap() } else { usize::MAX };
                let to = id(word(3));
                let found = if from > to { EntryId::default()..=EntryId::default() } else { from..=to };
                Self::entries(self.stream.range(found).filter(|(id, _)| Some(**id) != after).take(count))
            }
            b"XINFO" => self.xinfo(),
            b"EVAL" if word(1) == OPEN.source.as_bytes() => {
                let keys: usize = text(word(2)).parse().unwrap();
                self.open(&text(word(4)), &command[3 + keys..])
            }
            b"EVAL" => self.missed(&command[6..]),
            b"EVALSHA" => {
                let keys: usize = text(word(2)).parse().unwrap();
                let arguments = &command[3 + keys..];
                match word(1)[0] {
                    PUBLISH => self.publish(arguments),
                    RELEASE => self.release(arguments),
                    STATE => self.look(keys > 1, arguments, now_ms),
                    LEASE => self.lease(arguments, now_ms),
                    _ => error("NOSCRIPT No matching script."),
                }
            }
            _ => error(NO_KIND),
        })
    }

    fn first(&self) -> Option<EntryId> {
        self.stream.keys().next().copied()
    }

    fn ungiven(&self, delivered: EntryId) -> Option<EntryId> {
        self.stream.range(delivered..).map(|(id, _)| *id).find(|id| *id > delivered)
    }

    fn length(&self) -> i64 {
        self.stream.len().try_into().unwrap()
    }

    fn exists(&self) -> bool {
        self.added > 0 || self.group.is_some()
    }

    pub(super) fn xinfo(&self) -> Value {
        if !self.exists() {
            return error("ERR no such key");
        }
        let first = self.stream.iter().next();
        let first = first.map_or(Value::Null, |first| match Self::entries(std::iter::once(first)) {
            Value::Array(mut all) => all.remove(0),
            other => other,
        });
        Value::Array(vec![
            bytes("length"),
            Value::Integer(self.length()),
            bytes("last-generated-id"),
            bytes(self.last),
            bytes("entries-added"),
            Value::Integer(self.added),
            bytes("first-entry"),
            first,
        ])
    }

    fn open(&mut self, stream: &str, argv: &[Vec<u8>]) -> Value {
        let (start, failed, below) = (text(&argv[0]), text(&argv[1]), text(&argv[3]));
        let last = if self.exists() { self.last } else { EntryId::default() };
        let anew = self.cursor.get("pos").is_none_or(|pos| *pos == below && last < id(below.as_bytes()));
        if anew {
            let streams = match self.cursor.get("pos").and(self.cursor.get("counted")) {
                Some(counted) => {
                    let (before, stream, _) = counted_parts(counted);
                    format!(":{}:{before}", stream + 1)
                }
                None => String::new(),
            };
            let (pos, counted) = if self.stream.is_empty() {
                ("0-0".to_owned(), self.added.to_string())
            } else if start == "end" {
                (self.last.to_string(), self.added.to_string())
            } else if start.is_empty() {
                let empty = || bytes("");
                let none = || Value::Integer(0);
                return Value::Array(vec![
                    empty(),
                    none(),
                    none(),
                    none(),
                    none(),
                    empty(),
                    none(),
                    none(),
                    empty(),
                    empty(),
                    bytes("route"),
                    empty(),
                    empty(),
                ]);
            } else {
                let counted =
                    if start == "0-0" { (self.added - self.length()).to_string() } else { String::new() };
                (start, counted)
            };
            self.cursor.insert("format".into(), "1".into());
            self.cursor.insert("pos".into(), pos);
            self.cursor.insert("counted".into(), counted + &streams);
        }
        self.cursor.insert("stream".into(), stream.to_owned());
        let published = self.cursor.get("published").cloned().unwrap_or_else(|| "0".into());
        let same = self.cursor.get("failing_after") == Some(&published);
        let mut row = if same { self.of("failing_row") } else { 0 };
        if !failed.is_empty() {
            let again = self.cursor.get("failing") == Some(&failed);
            row = if again { row.max(1) } else { row + 1 };
            let failures = if again { self.of("failures") } else { 0 } + 1;
            for (field, value) in [
                ("failing", failed),
                ("failures", failures.to_string()),
                ("failing_row", row.to_string()),
                ("failing_after", published),
                ("failing_error", text(&argv[2])),
            ] {
                self.cursor.insert(field.into(), value);
            }
        }
        let field = |name: &str| bytes(self.cursor.get(name).cloned().unwrap_or_default());
        Value::Array(vec![
            field("pos"),
            Value::Integer(self.of("published")),
            Value::Integer(self.of("unheard")),
            Value::Integer(self.of("rejected")),
            Value::Integer(self.of("filtered")),
            field("failing"),
            Value::Integer(self.of("failures")),
            Value::Integer(row),
            field("failing_error"),
            field("counted"),
            bytes("route"),
            bytes(""),
            bytes(""),
        ])
    }

    fn missed(&mut self, argv: &[Vec<u8>]) -> Value {
        let field = |name: &str| self.cursor.get(name).cloned().unwrap_or_default();
        let (pos, counted) = (field("pos"), field("counted"));
        if pos.as_bytes() != argv[0] || counted.as_bytes() != argv[1] {
            return Value::Array(vec![Value::Integer(0), bytes(pos), bytes(counted)]);
        }
        let detail = text(&argv[4]);
        let count = detail.trim_start_matches("at least ").split(' ').next().unwrap();
        self.unread += count.parse::<i64>().unwrap();
        self.dead.push((text(&argv[3]), "deleted_unread".into()));
        let mut pos = id(&argv[0]);
        if !argv[5].is_empty() {
            let up_to = id(&argv[5]);
            let is_left = self.stream.range(pos..=up_to).any(|(id, _)| *id > pos);
            pos = if is_left { pos } else { up_to };
        }
        self.cursor.insert("pos".into(), pos.to_string());
        self.cursor.insert("counted".into(), text(&argv[2]));
        self.add("rejected", 1);
        Value::Array(vec![Value::Integer(1), bytes(pos)])
    }

    /// PUBLISH inside a script.
    fn call_publish(&mut self, message: &[u8]) -> Result<(), String> {
        if let Some(refuses) = &self.refuses {
            return Err(refuses.clone());
        }
        self.heard.push(text(message));
        Ok(())
    }

    fn publish(&mut self, argv: &[Vec<u8>]) -> Value {
        let cursor = self.cursor.get("pos").cloned();
        let counted_there = self.cursor.get("counted").cloned().unwrap_or_default();
        if cursor.as_deref().map(str::as_bytes) != Some(&argv[0][..]) {
            return Value::Array(vec![
                Value::Integer(0),
                bytes(cursor.unwrap_or_default()),
                bytes(counted_there),
                bytes(""),
                bytes(""),
            ]);
        }
        let number = |at: usize| text(&argv[at]).parse::<i64>().unwrap();
        let (mut published, mut unheard, mut filtered, mut rejected) = (number(2), number(3), number(4), 0);
        let shared = !argv[7].is_empty();
        let mut last = (text(&argv[1]), None, String::new());
        let mut before = (text(&argv[0]), 0);
        let mut at = 9;
        for item in text(&argv[8]).split_whitespace() {
            let (entry, left_out) = item.split_once('+').unwrap_or((item, "0"));
            let (channel, message) = if shared { (&argv[7], &argv[at]) } else { (&argv[at], &argv[at + 1]) };
            at += if shared { 1 } else { 2 };
            let is_message = !channel.is_empty();
            let done = if is_message {
                self.call_publish(message).map(|()| (1, 0))
            } else if **message == *b"hole" {
                self.holes.insert(id(entry.as_bytes()));
                Ok((0, 0))
            } else {
                let reason = text(message);
                self.dead.push((entry.to_owned(), reason.split(' ').next().unwrap().to_owned()));
                Ok((0, 1))
            };
            match done {
                Ok((sent, dead)) => {
                    published += sent;
                    // No subscriber listens to a model.
                    unheard += sent;
                    rejected += dead;
                }
                Err(refused) => {
                    last = (before.0, Some(refused), entry.to_owned());
                    filtered = before.1;
                    break;
                }
            }
            before = (entry.to_owned(), before.1 + left_out.parse::<i64>().unwrap());
        }
        let (last, failure, failed) = last;
        let change = text(&argv[5]);
        let (number, stream, rest) = counted_parts(&counted_there);
        let counted = match change.split_once('+').filter(|_| failure.is_none()) {
            Some(("", more)) => match number.parse::<i64>() {
                Ok(number) => (number + more.parse::<i64>().unwrap()).to_string() + rest,
                Err(_) => rest.to_owned(),
            },
            Some((anew, more)) => {
                let anew = anew.strip_prefix('=').unwrap();
                let here = anew.parse::<i64>().unwrap() - more.parse::<i64>().unwrap();
                let before = number.parse::<i64>().map(|number| (number - here).max(0).to_string());
                format!("{anew}:{}:{}", stream + 1, before.unwrap_or_default())
            }
            None => rest.to_owned(),
        };
        self.cursor.insert("pos".into(), last.clone());
        self.cursor.insert("counted".into(), counted.clone());
        self.count([published, unheard, rejected, filtered]);
        Value::Array(vec![
            Value::Integer(1),
            bytes(last),
            Value::Integer(published),
            Value::Integer(unheard),
            Value::Integer(rejected),
            Value::Integer(filtered),
            bytes(failure.unwrap_or_default()),
            bytes(failed),
            bytes(counted),
        ])
    }

    fn count(&mut self, counts: [i64; 4]) {
        for (field, count) in ["published", "unheard", "rejected", "filtered"].into_iter().zip(counts) {
            self.add(field, count);
        }
    }

    fn release(&mut self, argv: &[Vec<u8>]) -> Value {
        let Some(cursor) = self.cursor.get("pos").cloned() else {
            return Value::Array(vec![Value::Integer(0), bytes(""), bytes(""), bytes(""), bytes("")]);
        };
        let number = |at: usize| text(&argv[at]).parse::<i64>().unwrap();
        let (mut published, mut unheard, mut rejected, mut filtered) = (number(0), number(1), 0, 0);
        for entry in text(&argv[3]).split_whitespace() {
            self.holes.remove(&id(entry.as_bytes()));
        }
        let (mut failure, mut failed) = (String::new(), String::new());
        for (at, entry) in text(&argv[4]).split_whitespace().enumerate() {
            let (channel, message) = (&argv[5 + 2 * at], &argv[6 + 2 * at]);
            if !self.holes.remove(&id(entry.as_bytes())) {
                continue;
            }
            if !channel.is_empty() {
                if let Err(refused) = self.call_publish(message) {
                    self.holes.insert(id(entry.as_bytes()));
                    (failure, failed) = (refused, entry.to_owned());
                    break;
                }
                published += 1;
                unheard += 1;
            } else if **message == *b"filtered" {
                filtered += 1;
            } else {
                let reason = text(message);
                self.dead.push((entry.to_owned(), reason.split(' ').next().unwrap().to_owned()));
                rejected += 1;
            }
        }
        self.count([published, unheard, rejected, filtered]);
        Value::Array(vec![
            Value::Integer(1),
            bytes(cursor),
            Value::Integer(published),
            Value::Integer(unheard),
            Value::Integer(rejected),
            Value::Integer(filtered),
            bytes(failure),
            bytes(failed),
            bytes(""),
        ])
    }

    fn look(&self, holes: bool, argv: &[Vec<u8>], now_ms: u64) -> Value {
        let Some(group) = &self.group else { return Value::Array(vec![]) };
        let step: usize = text(&argv[3]).parse().unwrap();
        let after = id(&argv[1]);
        let lowest = group.pending.iter().next().map_or_else(Vec::new, |(id, given)| {
            let idle = now_ms.saturating_sub(given.at_ms);
            vec![
                bytes(id),
                bytes(&given.consumer),
                Value::Integer(idle.try_into().unwrap()),
                Value::Integer(given.times),
            ]
        });
        let mut stream = Vec::new();
        if argv[4] == b"1" {
            stream = vec![
                Value::Integer(self.added),
                Value::Integer(self.length()),
                bytes(self.last),
                bytes(self.first().map(|first| first.to_string()).unwrap_or_default()),
                bytes(self.ungiven(after).map(|id| id.to_string()).unwrap_or_default()),
                bytes(self.ungiven(group.delivered).map(|id| id.to_string()).unwrap_or_default()),
            ];
        }
        let (mut complete, mut open) = (group.delivered, Vec::new());
        if holes && !group.pending.is_empty() && group.delivered > after {
            let range = group.pending.range(after..=group.delivered).filter(|(id, _)| **id > after);
            open = range.take(step).map(|(id, _)| *id).collect();
            if open.len() == step {
                complete = open[step - 1];
            }
        }
        let (mut reached, mut acknowledged) = (String::new(), Vec::new());
        if holes && !argv[2].is_empty() {
            let scan = id(&argv[2]);
            let mine: Vec<_> = self.holes.range(scan..).filter(|id| **id > scan).take(step).collect();
            for id in &mine {
                if !group.pending.contains_key(id) && **id <= group.delivered {
                    acknowledged.push(bytes(id));
                }
            }
            if mine.len() == step {
                reached = mine[step - 1].to_string();
            }
        }
        let count = |count: usize| Value::Integer(count.try_into().unwrap());
        Value::Array(vec![
            bytes(group.delivered),
            Value::Integer(group.read),
            count(group.pending.len()),
            count(group.consumers.len()),
            Value::Array(lowest),
            Value::Array(stream),
            bytes(complete),
            Value::Array(open.iter().map(bytes).collect()),
            count(if holes { self.holes.len() } else { 0 }),
            bytes(reached),
            Value::Array(acknowledged),
        ])
    }

    fn lease(&mut self, argv: &[Vec<u8>], now_ms: u64) -> Value {
        let (me, want) = (text(&argv[0]), text(&argv[1]));
        let lasts: i64 = text(&argv[2]).parse().unwrap();
        let now = i64::try_from(now_ms).unwrap();
        let number = |lease: &BTreeMap<String, String>, field: &str| {
            lease.get(field).map_or(0, |value| value.parse::<i64>().unwrap())
        };
        let held = self.lease.get("holder").cloned().unwrap_or_default();
        let mut left = number(&self.lease, "until") - now;
        let mut holder = held.clone();
        if left <= 0 || left > lasts {
            (holder, left) = (String::new(), 0);
        }
        let waits = self.lease.get("waits").cloned();
        let other = waits
            .as_ref()
            .is_some_and(|waits| *waits != me && (now - number(&self.lease, "seen")).abs() < lasts);
        let mine = holder.is_empty() || holder == me;
        if mine && (want == "release" || (want == "begin" && other)) {
            if held == me {
                self.lease.remove("holder");
                self.lease.remove("until");
            }
            (holder, left) = (String::new(), 0);
        } else if mine {
            (holder, left) = (me.clone(), lasts);
            self.lease.insert("holder".into(), me.clone());
            self.lease.insert("until".into(), (now + lasts).to_string());
        }
        let waited = waits.as_ref() == Some(&me);
        if want != "release" && holder != me {
            self.lease.insert("waits".into(), me);
            self.lease.insert("seen".into(), now.to_string());
        } else if waited {
            self.lease.remove("waits");
            self.lease.remove("seen");
        }
        let field = |name: &str| bytes(self.cursor.get(name).cloned().unwrap_or_default());
        Value::Array(vec![
            bytes(holder),
            Value::Integer(left),
            bytes(if other { "1" } else { "" }),
            field("pos"),
            field("counted"),
            Value::Integer(self.of("published")),
            Value::Integer(self.of("unheard")),
            Value::Integer(self.of("rejected")),
            Value::Integer(self.of("filtered")),
        ])
    }
}
