//! The stream's server and the cache, in memory: the scripts again, and the commands of an invalidation.
//!
//! They read the very commands that go over the wire, so that their encoding is tested too.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::server::Hash;
use crate::server::resp::Value;
use crate::stream::EntryId;
use crate::text::glob;

pub(super) const CLEAR: Hash = [b'1'; 40];
pub(super) const ADOPT: Hash = [b'2'; 40];
/// Before the version in a key that is a hash; another key has the version alone.
const VERSIONED: &str = "v";
/// Keys that a step of a SCAN brings.
const SCANNED: usize = 2;

/// The answer to a command.
#[derive(Debug)]
pub(super) enum Answer {
    Reply(Value),
    /// The server waits so long for entries.
    Waits(u64),
}

/// What an entry says: which product has changed, and maybe the version that it has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) product: u8,
    pub(super) version: Option<u64>,
}

/// The server of the stream.
#[derive(Debug, Clone, Default)]
pub(super) struct StreamServer {
    /// What each entry says; none where it has no field for it.
    pub(super) entries: BTreeMap<EntryId, Option<Event>>,
    pub(super) last: EntryId,
    pub(super) added: u64,
    /// The last gap record of the capture.
    pub(super) gap: Option<EntryId>,
}

impl StreamServer {
    pub(super) fn carry_out(&self, command: &[String]) -> Answer {
        let word = |at: usize| command[at].as_str();
        let count = |at: usize| command[at].parse::<usize>().unwrap();
        Answer::Reply(match word(0) {
            "EVAL" => Value::Integer(1),
            "XINFO" if self.last == EntryId::default() => Value::Error(b"ERR no such key".to_vec()),
            "XINFO" => {
                let first = self.entries.iter().next().map_or(Value::Null, entry);
                Value::Array(vec![
                    text("length"),
                    integer(self.entries.len()),
                    text("last-generated-id"),
                    text(&self.last.to_string()),
                    text("entries-added"),
                    Value::Integer(i64::try_from(self.added).unwrap()),
                    text("first-entry"),
                    first,
                ])
            }
            "XREVRANGE" => {
                let record = |id: &EntryId| Value::Array(vec![text(&id.to_string()), Value::Array(vec![])]);
                Value::Array(self.gap.iter().map(record).collect())
            }
            "XRANGE" => {
                let after = EntryId::parse(word(2).strip_prefix('(').unwrap().as_bytes()).unwrap();
                let end = EntryId::parse(word(3).as_bytes()).unwrap();
                let up_to = |pair: &(&EntryId, &Option<Event>)| *pair.0 <= end;
                Value::Array(self.after(after).take_while(up_to).take(count(5)).map(entry).collect())
            }
            "XREAD" => {
                let after = EntryId::parse(command.last().unwrap().as_bytes()).unwrap();
                let found: Vec<Value> = self.after(after).take(count(2)).map(entry).collect();
                match (found.is_empty(), word(3)) {
                    (false, _) => {
                        Value::Array(vec![Value::Array(vec![text("products"), Value::Array(found)])])
                    }
                    (true, "BLOCK") => return Answer::Waits(command[4].parse().unwrap()),
                    (true, _) => Value::Null,
                }
            }
            other => panic!("{other} is unknown here"),
        })
    }

    fn after(&self, id: EntryId) -> impl Iterator<Item = (&EntryId, &Option<Event>)> {
        self.entries.range(id..).filter(move |(found, _)| **found > id)
    }
}

/// The cache.
#[derive(Debug, Clone, Default)]
pub(super) struct CacheServer {
    pub(super) cursor: BTreeMap<String, String>,
    /// Values, by the version of the database that they are from, and leases.
    pub(super) keys: BTreeMap<String, String>,
}

/// What a key holds that has its version beside its value.
pub(super) fn versioned(version: u64) -> String {
    format!("{VERSIONED}{version}")
}

/// The version beside the value that a key holds.
pub(super) fn version_of(held: &str) -> Option<u64> {
    held.strip_prefix(VERSIONED)?.parse().ok()
}

impl CacheServer {
    /// A field of the cursor.
    pub(super) fn field(&self, name: &str) -> &str {
        self.cursor.get(name).map_or("", String::as_str)
    }

    /// A place of the cursor.
    pub(super) fn place(&self, name: &str) -> EntryId {
        EntryId::parse(self.field(name).as_bytes()).unwrap_or_default()
    }

    pub(super) fn carry_out(&mut self, command: &[String], clock_ms: u64) -> Value {
        match command[0].as_str() {
            "HMGET" => {
                let field = |name: &String| self.cursor.get(name).map_or(Value::Null, |value| text(value));
                Value::Array(command[2..].iter().map(field).collect())
            }
            "TIME" => {
                let (seconds, millis) = (clock_ms / 1000, clock_ms % 1000);
                Value::Array(vec![text(&seconds.to_string()), text(&(millis * 1000).to_string())])
            }
            "SCAN" => self.scan(command[1].parse().unwrap(), command[3].as_bytes()),
            "EVALSHA" => {
                let names = command[2].parse::<usize>().unwrap();
                let (keys, arguments) = command[3..].split_at(names);
                if command[1].as_bytes() == CLEAR {
                    self.clear(keys, arguments, clock_ms)
                } else {
                    self.adopt(arguments, clock_ms)
                }
            }
            other => panic!("{other} is unknown here"),
        }
    }

    /// In the order of a hash table: a key that is added comes before the place of a SCAN, or behind it.
    fn scan(&self, from: u64, pattern: &[u8]) -> Value {
        let mut all: Vec<(u64, &String)> = self.keys.keys().map(|key| (hash(key), key)).collect();
        all.sort_unstable();
        let mut rest = all.into_iter().filter(|(place, _)| *place >= from);
        let page: Vec<&String> = rest.by_ref().take(SCANNED).map(|(_, key)| key).collect();
        let next = rest.next().map_or(0, |(place, _)| place);
        let found = page.into_iter().filter(|key| glob::matches(pattern, key.as_bytes()));
        Value::Array(vec![text(&next.to_string()), Value::Array(found.map(|key| text(key)).collect())])
    }

    fn clear(&mut self, keys: &[String], arguments: &[String], clock_ms: u64) -> Value {
        let [
            revision,
            place,
            prev,
            last,
            n,
            counted,
            read,
            marks,
            clearing,
            gaps,
            prev_read,
            prev_counted,
            versions,
            writes @ ..,
        ] = arguments
        else {
            panic!("{arguments:?}")
        };
        let first = place == "pos";
        let reads = if first { "read" } else { "again_read" };
        let time = text(&clock_ms.to_string());
        if self.field(place) != prev
            || self.field("revision") != revision
            || self.field(reads) != prev_read
            || first && self.field("counted") != prev_counted
        {
            let seen = [place, "revision"].map(|name| text(self.field(name)));
            return Value::Array([&[Value::Integer(0)], &seen[..], &[time]].concat());
        }
        let [n, versions] = [n, versions].map(|count| count.parse::<usize>().unwrap());
        let plain = n - versions;
        let mut remove = |keys: &[String]| keys.iter().filter(|key| self.keys.remove(*key).is_some()).count();
        let (mut cleared, refused) = (remove(&keys[1..=plain]), remove(&keys[n + 1..]));
        let (mut written, mut kept) = (0, 0);
        assert_eq!(writes.len(), if first { 2 * versions } else { versions });
        for (key, version) in keys[plain + 1..=n].iter().zip(writes) {
            let (there, version) =
                (self.keys.get(key).and_then(|held| version_of(held)), version.parse().unwrap());
            if there.is_some_and(|there| there >= version) {
                kept += 1;
            } else if there.is_some() && first {
                self.keys.insert(key.clone(), versioned(version));
                written += 1;
            } else {
                cleared += usize::from(self.keys.remove(key).is_some());
            }
        }
        self.put(place, last);
        for (name, value) in [
            ("counted", if first { counted.as_str() } else { "" }),
            (reads, read),
            ("marks", marks),
            ("gaps", gaps),
        ] {
            if !value.is_empty() {
                self.put(name, value);
            }
        }
        let shown_ms: u64 = self.field("clearing_ms").parse().unwrap_or(0);
        let mut abandoned = "".to_owned();
        if !clearing.is_empty() {
            self.put_clearing(clearing, clock_ms);
        } else if !matches!(self.field("clearing"), "" | "none") && clock_ms - shown_ms >= 30_000 {
            self.field("clearing").clone_into(&mut abandoned);
        }
        let [removed, stored] = [[cleared, refused], [written, kept]].map(|counts| counts.map(integer));
        let decided = [time, text(&abandoned)];
        Value::Array([&[Value::Integer(1), text(last)], &removed[..], &decided, &stored].concat())
    }

    fn adopt(&mut self, arguments: &[String], clock_ms: u64) -> Value {
        let [seen_revision, seen_pos, revision, pos, again, counted, read, again_read, clearing, gaps, began] =
            arguments
        else {
            panic!("{arguments:?}")
        };
        if self.field("revision") != seen_revision || self.field("pos") != seen_pos {
            return Value::Integer(0);
        }
        for (name, value) in [
            ("format", "1"),
            ("revision", revision),
            ("pos", pos),
            ("again", again),
            ("counted", counted),
            ("read", read),
            ("again_read", again_read),
            ("marks", ""),
            ("began", began),
        ] {
            self.put(name, value);
        }
        if !clearing.is_empty() {
            self.put_clearing(clearing, clock_ms);
        }
        if !gaps.is_empty() {
            self.put("gaps", gaps);
        }
        Value::Integer(1)
    }

    fn put_clearing(&mut self, clearing: &str, clock_ms: u64) {
        self.put("clearing", clearing);
        self.put("clearing_ms", &clock_ms.to_string());
    }

    fn put(&mut self, name: &str, value: &str) {
        self.cursor.insert(name.to_owned(), value.to_owned());
    }
}

fn hash(key: &String) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    // 0 is where a SCAN begins and ends.
    hasher.finish().max(1)
}

fn entry((id, event): (&EntryId, &Option<Event>)) -> Value {
    let product = event.map(|event| ("sku", event.product.to_string()));
    let version = event.and_then(|event| event.version).map(|version| ("version", version.to_string()));
    let fields = product.into_iter().chain(version);
    let fields = fields.flat_map(|(name, value)| [text(name), text(&value)]).collect();
    Value::Array(vec![text(&id.to_string()), Value::Array(fields)])
}

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().to_vec())
}

fn integer(number: usize) -> Value {
    Value::Integer(i64::try_from(number).unwrap())
}
