//! `append.lua` again, in memory, for the random histories.
//!
//! It reads the very command that goes over the wire, so that its encoding is tested too. A test at the end compares it
//! with the script itself, on a real server, over the same histories.

use std::collections::{BTreeMap, BTreeSet};

use crate::server::resp::{Limits, Reader, Value};

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

/// The fields of one entry, in order.
pub(crate) type Entry = Vec<Vec<u8>>;

/// The data of a destination. Cloned for a failover to restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    /// The state key.
    pub(crate) state: BTreeMap<String, String>,
    /// The lease key.
    pub(crate) lease: BTreeMap<String, String>,
    /// Every stream, records included.
    pub(crate) streams: BTreeMap<Vec<u8>, Vec<Entry>>,
    /// Keys that hold something else.
    pub(crate) spoiled: BTreeSet<Vec<u8>>,
    /// The streams that the template made.
    pub(crate) made: BTreeSet<Vec<u8>>,
}

/// The command in `bytes`, argument by argument.
pub(crate) fn arguments(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = Reader::new(Limits::default());
    let mut rest = bytes;
    loop {
        let room = reader.room();
        let count = room.len().min(rest.len());
        room[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        reader.filled(count);
        if let Some(value) = reader.next_value().unwrap() {
            assert!(rest.is_empty(), "one command at a time");
            return value.elements().unwrap().iter().map(|one| one.bytes().unwrap().to_vec()).collect();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn reply(words: &[&str]) -> Value {
    Value::Array(words.iter().map(|word| Value::Bytes(word.as_bytes().to_vec())).collect())
}

impl Model {
    /// The checkpoint, as the script reads it.
    pub(crate) fn position(&self) -> String {
        self.state.get("position").cloned().unwrap_or_else(|| "-".to_owned())
    }

    /// The state as HGETALL gives it.
    pub(crate) fn state_reply(&self) -> Value {
        let text = |text: &String| Value::Bytes(text.clone().into_bytes());
        Value::Array(self.state.iter().flat_map(|(name, value)| [text(name), text(value)]).collect())
    }

    /// Carries out an `EVALSHA` of lease.lua, at a time of the server's clock.
    pub(crate) fn lease(&mut self, command: &[Vec<u8>], now_ms: u64) -> Value {
        let word = |at: usize| text(&command[5 + at]);
        let (me, want, lasts, remembered) = (word(0), word(1), word(2), word(3));
        let (lasts, remembered): (u64, u64) = (lasts.parse().unwrap(), remembered.parse().unwrap());
        let until = self.lease.get("until").map_or(0, |until| until.parse().unwrap());
        let mut holder = self.lease.get("holder").cloned().unwrap_or_default();
        if until <= now_ms || until - now_ms > lasts {
            holder.clear();
        }
        if want == "seize" || (want == "claim" && (holder.is_empty() || holder == me)) {
            holder.clone_from(&me);
            self.lease.insert("holder".to_owned(), me.clone());
            self.lease.insert("until".to_owned(), (now_ms + lasts).to_string());
        } else if holder == me && (want == "release" || want == "leave") {
            holder.clear();
            self.lease.remove("holder");
            self.lease.remove("until");
        }
        if holder == me && word(4) == "1" {
            self.state.remove("stopped");
        }
        let (own, revision) = (format!("instance:{me}"), format!("revision:{me}"));
        if want == "leave" {
            self.lease.remove(&own);
            self.lease.remove(&revision);
        } else {
            self.lease.insert(own.clone(), format!("{now_ms} {} {}", word(4), word(5)));
            self.lease.insert(revision, word(8));
        }
        if !word(6).is_empty() && self.state.get("revision") == Some(&word(7)) {
            if self.state.get("highest").is_none_or(|highest| word(7) > *highest) {
                self.state.insert("highest".to_owned(), word(7));
            }
            self.state.insert("revision".to_owned(), word(6));
            self.state.remove("next");
        }
        let mut others = Vec::new();
        let lease = self.lease.clone();
        self.lease.retain(|field, value| {
            let Some(name) = field.strip_prefix("instance:").filter(|_| *field != own) else { return true };
            let words: Vec<&str> = value.split(' ').collect();
            let ago = now_ms.abs_diff(words[0].parse().unwrap());
            if ago < remembered {
                let (ago, revision) = (ago.to_string(), lease.get(&format!("revision:{name}")));
                let revision = revision.map_or("", String::as_str);
                others
                    .extend([name, &ago, words[1], words[2], revision].map(|word| Value::Bytes(word.into())));
            }
            ago < remembered
        });
        if want == "leave"
            && let Some(mark) = self.state.get_mut("stopped")
        {
            *mark = (if others.is_empty() { "" } else { "?" }).to_owned() + mark.trim_start_matches('?');
        }
        Value::Array(vec![Value::Bytes(holder.into_bytes()), self.state_reply(), Value::Array(others)])
    }

    fn add(&mut self, field: &str, count: u64) {
        if count > 0 {
            let value = self.state.entry(field.to_owned()).or_insert_with(|| "0".to_owned());
            *value = (value.parse::<u64>().unwrap() + count).to_string();
        }
    }

    /// Carries out an `EVALSHA` of histories.lua.
    pub(super) fn number(&mut self, command: &[Vec<u8>]) -> Value {
        let (id, lowest, wished) = (text(&command[4]), text(&command[5]), text(&command[6]));
        let (lowest, wished): (u64, u64) = (lowest.parse().unwrap(), wished.parse().unwrap());
        let all = self.state.get("histories").cloned().unwrap_or_default();
        let numbered = |entry: &str| -> (String, u64) {
            let (id, number) = entry.split_once('=').unwrap();
            (id.to_owned(), number.parse().unwrap())
        };
        let mut known: Vec<(String, u64)> = all.split_whitespace().map(numbered).collect();
        let found = known.iter().position(|(known, _)| *known == id);
        let position = self.state.get("position").filter(|position| position.len() == 53);
        let stands_in = position.map(|position| (position[..15].parse::<u64>().unwrap(), &position[16..32]));
        let found = found.map(|found| known[found].1);
        let mut number = wished;
        match stands_in {
            Some((epoch, anchor)) if epoch >= lowest && *anchor == id[..16] => {
                if found == Some(epoch) {
                    return Value::Bytes(all.into_bytes());
                }
                number = epoch;
            }
            _ if found.is_some_and(|found| found >= lowest) => return Value::Bytes(all.into_bytes()),
            _ => {
                number = number.max(stands_in.map_or(0, |(epoch, _)| epoch + 1));
                number = known.iter().map(|(_, other)| other + 1).max().unwrap_or(0).max(number);
            }
        }
        known.retain(|(known, _)| *known != id);
        known.push((id, number));
        let from = known.len().saturating_sub(32);
        let all: String = known[from..].iter().map(|(id, number)| format!("{id}={number:015} ")).collect();
        self.state.insert("histories".to_owned(), all.clone());
        Value::Bytes(all.into_bytes())
    }

    /// Items between two that the state has passed were not stored. `anchor` is the batch's first item, if that is an
    /// anchor.
    fn passes_gap(&mut self, from: &str, to: &str, anchor: Option<&str>) {
        let mut to = to.to_owned();
        if Some(to.as_str()) == anchor {
            let after = to[33..].parse::<u64>().unwrap() + 1;
            to.truncate(33);
            to.push_str(&format!("{after:020}"));
        }
        let gaps = self.state.entry("gap_spans".to_owned()).or_default();
        gaps.push_str(&format!("{from:>53}>{to} "));
        let kept = gaps.len().saturating_sub(108 * 8);
        gaps.drain(..kept);
    }

    fn xadd(&mut self, key: &[u8], entry: Entry) -> bool {
        let fine = !self.spoiled.contains(key);
        if fine {
            self.streams.entry(key.to_vec()).or_default().push(entry);
        }
        fine
    }

    /// Carries out an `EVALSHA` of the script.
    pub(crate) fn call(&mut self, command: &[Vec<u8>]) -> Value {
        let key_count: usize = text(&command[2]).parse().unwrap();
        let keys = &command[3..3 + key_count];
        let argv: Vec<Vec<u8>> = command[3 + key_count..].to_vec();
        let word = |at: usize| text(&argv[at]);
        let (revision, prev, last, epochs) = (word(0), word(1), word(2), word(3));
        let position = self.position();
        if let Some(known) = self.state.get("revision")
            && revision < *known
        {
            return reply(&["OUTDATED"]);
        }
        if let Some(next) = self.state.get("next").cloned() {
            let (anchor, by) = (&next[..16], &next[17..]);
            if revision.as_str() >= by {
                self.state.remove("next");
            } else if epochs.contains(&format!("-{anchor}")) && last[16..] != format!("{anchor}-{:020}", 0) {
                return reply(&["OUTDATED"]);
            }
        }
        let groups: usize = word(8).parse().unwrap();
        let mut at = 9 + groups;
        let gap = (word(at) == "1").then(|| (at + 1..at + 8).map(word).collect::<Vec<_>>());
        at += if gap.is_some() { 8 } else { 1 };
        let epochs: Vec<&str> = epochs.split_whitespace().collect();
        let items: Vec<String> = argv[at]
            .chunks(22)
            .map(|item| {
                format!("{}-{}", epochs[text(&item[..2]).parse::<usize>().unwrap()], text(&item[2..]))
            })
            .collect();
        assert!(items.is_sorted() && prev < items[0] && items[items.len() - 1] <= last, "a batch's promise");
        let runs = argv[at + 1].clone();
        at += 2;

        // The flags follow revision, prev, last, epochs and the time of reading; the numbering follows two characters.
        let numbering = word(5).get(3..).unwrap_or_default().to_owned();
        let counted = self.state.get("numbering").cloned();
        let foreign = !numbering.is_empty()
            && counted.as_ref().is_some_and(|counted| !counted.is_empty() && *counted != numbering)
            && !position.ends_with(&format!("-{:020}", 0));
        if foreign && position != "-" && epochs.contains(&&position[..32]) {
            return reply(&["FOREIGN", &position, &counted.unwrap_or_default()]);
        }

        let mut skip = 0;
        if position != prev {
            let passed = self.state.get("epochs").cloned().unwrap_or_default();
            if position == "-" || position < prev {
                return reply(&["GAP", &position]);
            } else if position >= last {
                if !passed.contains(&last[..32]) {
                    return reply(&["STALE", &position]);
                }
                let gaps = self.state.get("gap_spans").cloned().unwrap_or_default();
                let passed = if epochs.len() > 1 { passed.as_str() } else { "" };
                return reply(&["DUPLICATE", &position, &gaps, passed]);
            } else if gap.as_ref().is_some_and(|gap| position < gap[0]) {
                return reply(&["GAP", &position]);
            } else if !epochs.contains(&&position[..32]) {
                return reply(&["STALE", &position]);
            } else if prev == "-" && position < items[0] {
                return reply(&["GAP", &position]);
            }
            skip = items.iter().filter(|item| **item <= position).count();
        }
        if gap.is_some() && position == prev && self.spoiled.contains(&keys[1]) {
            return Value::Error(named(&keys[1]).into_bytes());
        }
        self.state.insert("revision".to_owned(), revision);
        self.state.insert("at".to_owned(), word(4));

        let templated = word(5).starts_with('1');
        let most: usize = word(7).parse().unwrap();
        let (mut item, mut appended, mut rejected, mut filtered) = (0, 0u64, 0u64, 0u64);
        let mut failure = None;
        'runs: for run in runs.chunks(16) {
            let number = |range: std::ops::Range<usize>| text(&run[range]).parse::<usize>().unwrap();
            let (count, target, width) = (number(0..6), number(6..11), number(11..16));
            for _ in 0..count {
                if item >= skip {
                    let entry: Entry = argv[at..at + width].to_vec();
                    let refused = match target {
                        99_998 => {
                            filtered += 1;
                            None
                        }
                        99_999 => None,
                        0 => Some(Vec::new()),
                        _ => {
                            let key = &keys[3 + target];
                            let first =
                                templated && !self.streams.contains_key(key) && !self.spoiled.contains(key);
                            if first && self.spoiled.contains(&keys[3]) {
                                failure = Some(named(&keys[3]));
                                break 'runs;
                            }
                            if first && !self.made.contains(key) && self.made.len() >= most {
                                let (streams, spoiled) = (&self.streams, &self.spoiled);
                                self.made.retain(|name| streams.contains_key(name) || spoiled.contains(name));
                            }
                            if first && !self.made.contains(key) && self.made.len() >= most {
                                let detail = format!(
                                    "TOOMANYSTREAMS the template has made {most} streams: raise max_streams or change it"
                                );
                                Some(refusal("too_many_streams", &detail, key))
                            } else {
                                if first {
                                    self.made.insert(key.clone());
                                }
                                if self.xadd(key, entry.clone()) {
                                    appended += 1;
                                    None
                                } else if templated {
                                    Some(refusal("wrong_type", WRONG_TYPE, key))
                                } else {
                                    failure = Some(named(key));
                                    break 'runs;
                                }
                            }
                        }
                    };
                    if let Some(why) = refused {
                        let mut letter = vec![b"position".to_vec(), items[item].clone().into_bytes()];
                        letter.extend(why);
                        letter.extend(entry);
                        if !self.xadd(&keys[2], letter) {
                            failure = Some(named(&keys[2]));
                            break 'runs;
                        }
                        rejected += 1;
                    }
                }
                item += 1;
                at += width;
            }
        }
        let reached = match failure {
            None => last,
            Some(_) if item > skip => items[item - 1].clone(),
            Some(_) => position.clone(),
        };
        let anchor = (runs[6..11] == *b"99999").then_some(items[0].as_str());
        let has_gap = gap.is_some();
        if position == "-" && !has_gap && reached != position {
            self.passes_gap("-", &items[0], anchor);
        }
        if let Some(gap) = gap
            && position == prev
            && reached != position
        {
            let names = ["to", "started_at", "ended_at", "cause", "detail", "reason", "dropped"];
            let mut record = vec![b"from".to_vec(), prev.clone().into_bytes()];
            for (name, value) in names.iter().zip(&gap).filter(|(name, _)| **name != "reason") {
                record.extend([name.as_bytes().to_vec(), value.clone().into_bytes()]);
            }
            if gap[3] == "restart" && self.state.get("stopped") == Some(&position) {
                record.extend([b"planned".to_vec(), b"1".to_vec()]);
            }
            let (from, to) = (text(&record[1]), text(&record[3]));
            assert!(self.xadd(&keys[1], record), "asked before");
            self.passes_gap(&from, &to, anchor);
            self.add("gaps", 1);
            self.state.insert("gap_at".to_owned(), gap[2].clone());
            let dropped = gap[6].parse().unwrap();
            self.add(&format!("dropped:{}", gap[5]), dropped);
            self.add("received", dropped);
        }
        if position != "-" && word(5)[1..].starts_with('h') && position[..32] != reached[..32] {
            let mut before = position.clone();
            for one in &items[skip..item] {
                if before[..32] != one[..32] && !(has_gap && before == prev) {
                    let detail =
                        "another server took the source's place: what only the one before had is lost";
                    let at = word(4);
                    let fields =
                        ["from", &before, "to", one, "started_at", &at, "ended_at", &at, "cause", "failover"];
                    let fields = fields.into_iter().chain(["detail", detail, "dropped", "0"]);
                    let record = fields.map(|word| word.as_bytes().to_vec()).collect();
                    self.xadd(&keys[1], record);
                    self.passes_gap(&before, one, anchor);
                }
                before.clone_from(one);
            }
        }
        if reached != position {
            self.state.insert("position".to_owned(), reached.clone());
            self.state.insert("numbering".to_owned(), numbering);
            if position == "-" || position[..32] != reached[..32] {
                let mut passed = self.state.get("epochs").cloned().unwrap_or_default();
                for epoch in epochs.iter().filter(|epoch| **epoch <= &reached[..32]) {
                    if !passed.contains(*epoch) {
                        passed.push_str(epoch);
                        passed.push(' ');
                    }
                }
                let from = passed.len().saturating_sub(33 * 256);
                self.state.insert("epochs".to_owned(), passed[from..].to_owned());
                self.state.insert("format".to_owned(), "1".to_owned());
            }
        }
        self.add("appended", appended);
        self.add("rejected", rejected);
        self.add("filtered", filtered);
        self.add("received", appended + rejected + filtered);
        let mut words =
            vec![Value::Bytes(if failure.is_some() { b"STOPPED".to_vec() } else { b"OK".to_vec() })];
        words.push(Value::Bytes(reached.into_bytes()));
        words.extend(
            [appended, rejected, filtered].map(|count| Value::Integer(i64::try_from(count).unwrap())),
        );
        if failure.is_none() && skip > 0 {
            let gaps = self.state.get("gap_spans").cloned().unwrap_or_default();
            words.push(Value::Bytes(gaps.into_bytes()));
        }
        words.extend(failure.map(|why| Value::Bytes(why.as_bytes().to_vec())));
        Value::Array(words)
    }
}

fn named(key: &[u8]) -> String {
    format!("WRONGTYPE the key '{}' has another type", text(key))
}

fn refusal(reason: &str, detail: &str, key: &[u8]) -> Vec<Vec<u8>> {
    let words: [&[u8]; 6] = [b"reason", reason.as_bytes(), b"detail", detail.as_bytes(), b"stream", key];
    words.map(<[u8]>::to_vec).to_vec()
}
