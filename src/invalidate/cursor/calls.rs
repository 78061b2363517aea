//! The calls of the scripts that read and move the cursor.

use super::PlaceField;
use crate::invalidate::change::lease::around;
use crate::invalidate::change::{Change, MOST_KEYS, MOST_WRITES, Write};
use crate::invalidate::cursor::place::Place;
use crate::invalidate::sweep::Clearing;
use crate::server::{Hash, resp};
use crate::stream::EntryId;
use crate::text::template::Template;

/// Arguments of a call of `clear.lua` beside keys, leases, versions and values: the command, the hash, the number of keys,
/// the cursor, and thirteen.
const CALL_ARGUMENTS: usize = 4 + 13;
const _: () = assert!(CALL_ARGUMENTS + 2 * MOST_KEYS + 2 * MOST_WRITES <= resp::MAX_ARGUMENTS);

/// What `clear.lua` is to do.
#[derive(Debug)]
pub(in crate::invalidate) struct ClearCall<'a> {
    pub(in crate::invalidate) place: PlaceField,
    /// The place as it is believed to be.
    pub(in crate::invalidate) prev: Place,
    /// The last entry that is covered.
    pub(in crate::invalidate) last: Place,
    pub(in crate::invalidate) keys: &'a [Change],
    pub(in crate::invalidate) marks: Option<String>,
    pub(in crate::invalidate) clearing: Option<Clearing>,
    pub(in crate::invalidate) gaps: Option<EntryId>,
    /// True if the keys are leases themselves, or go without theirs.
    pub(in crate::invalidate) alone: bool,
}

/// How `adopt.lua` is to put the cursor.
#[derive(Debug)]
pub(in crate::invalidate) struct AdoptCall<'a> {
    /// The revision and the place that were seen.
    pub(in crate::invalidate) seen: &'a (Vec<u8>, Vec<u8>),
    pub(in crate::invalidate) pos: Place,
    pub(in crate::invalidate) again: Option<Place>,
    pub(in crate::invalidate) clearing: Option<Clearing>,
    pub(in crate::invalidate) gaps: Option<EntryId>,
    pub(in crate::invalidate) began: u64,
}

/// The calls of one route.
#[derive(Debug)]
pub(in crate::invalidate) struct CursorCalls {
    key: String,
    revision: String,
    /// What stands before and behind a key in its lease.
    lease: Option<(Vec<u8>, Vec<u8>)>,
}

impl CursorCalls {
    pub(in crate::invalidate) fn new(key: String, revision: String, lease: Option<&Template>) -> Self {
        Self { key, revision, lease: lease.map(around) }
    }

    /// The cursor's key.
    pub(in crate::invalidate) fn key(&self) -> &str {
        &self.key
    }

    /// The route's revision.
    pub(in crate::invalidate) fn revision(&self) -> &str {
        &self.revision
    }

    /// Appends a call of `clear.lua`.
    pub(in crate::invalidate) fn clear(&self, out: &mut Vec<u8>, hash: &Hash, call: &ClearCall<'_>) {
        let lease = self.lease.as_ref().filter(|_| !call.alone);
        let names = 1 + call.keys.len() * if lease.is_some() { 2 } else { 1 };
        // What has a version comes last.
        let removals = call.keys.iter().filter(|change| change.write.is_none());
        let versions = call.keys.iter().filter(|change| change.write.is_some());
        let keys = || removals.clone().chain(versions.clone()).map(|change| &change.key);
        let writes = || versions.clone().filter_map(|change| change.write.as_deref());
        let has_values = call.place == PlaceField::Pos;
        let count = writes().count();
        resp::header(out, CALL_ARGUMENTS - 1 + names + count * if has_values { 2 } else { 1 });
        for word in [b"EVALSHA".as_slice(), hash] {
            resp::argument(out, word);
        }
        resp::number_argument(out, names);
        resp::argument(out, self.key.as_bytes());
        for key in keys() {
            resp::argument(out, key);
        }
        if let Some((before, behind)) = lease {
            for key in keys() {
                resp::argument_of(out, [before, key, behind]);
            }
        }
        for argument in [
            self.revision.as_bytes(),
            call.place.as_str().as_bytes(),
            call.prev.id.to_string().as_bytes(),
            call.last.id.to_string().as_bytes(),
        ] {
            resp::argument(out, argument);
        }
        resp::number_argument(out, call.keys.len());
        resp::argument(out, text(call.last.counted).as_bytes());
        resp::argument(out, text(call.last.read).as_bytes());
        resp::argument(out, call.marks.as_deref().unwrap_or_default().as_bytes());
        resp::argument(out, call.clearing.map_or("", Clearing::as_str).as_bytes());
        resp::argument(out, text(call.gaps).as_bytes());
        resp::argument(out, text(call.prev.read).as_bytes());
        resp::argument(out, text(call.prev.counted).as_bytes());
        resp::number_argument(out, count);
        for Write { version, .. } in writes() {
            resp::argument(out, version.digits());
        }
        for Write { value, .. } in writes().filter(|_| has_values) {
            resp::argument(out, value.as_deref().unwrap_or_default());
        }
    }

    /// Appends a call of `adopt.lua`.
    pub(in crate::invalidate) fn adopt(&self, out: &mut Vec<u8>, hash: &Hash, call: &AdoptCall<'_>) {
        let AdoptCall { seen, pos, again, clearing, gaps, began } = call;
        resp::command(
            out,
            &[
                b"EVALSHA",
                hash,
                b"1",
                self.key.as_bytes(),
                &seen.0,
                &seen.1,
                self.revision.as_bytes(),
                pos.id.to_string().as_bytes(),
                text(again.map(|again| again.id)).as_bytes(),
                text(pos.counted).as_bytes(),
                text(pos.read).as_bytes(),
                text(again.and_then(|again| again.read)).as_bytes(),
                clearing.map_or("", Clearing::as_str).as_bytes(),
                text(*gaps).as_bytes(),
                began.to_string().as_bytes(),
            ],
        );
    }
}

/// An argument of a script; empty where there is none.
fn text(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{id, place};
    use super::*;
    use crate::invalidate::change::tests::change;
    use crate::invalidate::sweep::Step;
    use crate::server::resp::Value;

    #[test]
    fn a_call_has_the_keys_and_then_their_leases() {
        let lease = Template::parse("<<<key>:l").unwrap();
        let calls = CursorCalls::new("c".to_owned(), "r".to_owned(), Some(&lease));
        let keys = [change("b", Some(("7", "x"))), change("a", None)];
        let mut out = Vec::new();
        let call = ClearCall {
            place: PlaceField::Pos,
            prev: place(1, 7),
            last: place(2, 9),
            keys: &keys,
            marks: Some("1-0 5".to_owned()),
            clearing: Some(Clearing { step: Step::Leases { again: true }, missed_again: true }),
            gaps: Some(id(8)),
            alone: false,
        };
        calls.clear(&mut out, &[b'h'; 40], &call);
        let (value, _) = Value::build(&out, 0).unwrap();
        let words: Vec<String> = value
            .elements()
            .unwrap()
            .iter()
            .map(|word| String::from_utf8(word.bytes().unwrap().to_vec()).unwrap())
            .collect();
        let hash = "h".repeat(40);
        let expected = [
            "EVALSHA",
            &hash,
            "5",
            "c",
            "a",
            "b",
            "<a:l",
            "<b:l",
            "r",
            "pos",
            "1-0",
            "2-0",
            "2",
            "9",
            "8",
            "1-0 5",
            "leases again +",
            "8-0",
            "6",
            "7",
            "1",
            "7",
            "x",
        ];
        assert_eq!(words, expected);
    }
}
