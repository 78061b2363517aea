//! What becomes of a key: it is removed, or the value of an entry is stored in it.
//!
//! Several entries may be about one key. A removal wins, since it is always right, and else the highest version.

pub(super) mod keys;
pub(super) mod lease;
mod values;

use std::cmp::Ordering;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

/// A key of the cache.
pub(super) type CacheKey = Box<[u8]>;

/// Most keys of one entry, and of one call of the script.
pub(super) const MOST_KEYS: usize = 1_000;
/// Bytes of versions and values of one call, if it covers several entries. Keys are few and short.
const CALL_BYTES: usize = 4 * 1024 * 1024;
/// Most keys of one call that have a version: with lease and value, each is four arguments.
pub(super) const MOST_WRITES: usize = 900;
/// The longest version.
const LONGEST_VERSION: usize = 4 * 1024;
/// Bytes that a value to be stored costs beside its own and its version's.
const WRITE_OVERHEAD: usize = 48;

/// A key, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: CacheKey,
    /// None where the key is removed.
    pub(super) write: Option<Box<Write>>,
}

/// What an entry says about the value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) version: Version,
    /// The keys of an entry share it. Without one, the key is removed where it is older than the version.
    pub(super) value: Option<Arc<[u8]>>,
}

/// A decimal number of any length, without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version(Box<[u8]>);

impl Version {
    /// Reads a version. None if it is anything but digits, or too long.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
        let zeros = text.iter().take_while(|digit| **digit == b'0').count();
        let digits = &text[zeros.min(text.len().saturating_sub(1))..];
        (is_number && digits.len() <= LONGEST_VERSION).then(|| Self(digits.into()))
    }

    /// Its digits.
    pub(super) const fn digits(&self) -> &[u8] {
        &self.0
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Change {
    /// The key is removed.
    pub(super) const fn removal(key: CacheKey) -> Self {
        Self { key, write: None }
    }

    /// What is left of it for the second pass: whatever is older is removed then.
    pub(super) fn without_value(mut self) -> Self {
        if let Some(write) = &mut self.write {
            write.value = None;
        }
        self
    }

    /// Bytes that it takes in memory, beside those that every key takes.
    pub(super) fn bytes(&self) -> usize {
        self.key.len() + self.write_bytes()
    }

    fn write_bytes(&self) -> usize {
        self.write.as_ref().map_or(0, |write| {
            let value = write.value.as_ref().map_or(0, |value| value.len());
            WRITE_OVERHEAD + write.version.digits().len() + value
        })
    }

    fn merge(&mut self, other: Option<Box<Write>>) {
        match (&mut self.write, other) {
            (Some(write), Some(other)) if other.version > write.version => *write = other,
            (Some(_), Some(_)) | (None, _) => {}
            (Some(_), None) => self.write = None,
        }
    }
}

impl AsRef<[u8]> for Change {
    fn as_ref(&self) -> &[u8] {
        &self.key
    }
}

/// The changes of one call, each key once.
#[derive(Debug, Default)]
pub(super) struct Changes {
    all: Vec<Change>,
    /// Where each key is among them, found without a copy of it.
    places: HashTable<usize>,
    hasher: DefaultHashBuilder,
    /// Versions that were added, also to keys that were there, and the bytes of these and their values.
    writes: usize,
    write_bytes: usize,
}

impl Changes {
    /// Room for this number of keys is made at once.
    pub(super) fn with_room_for(keys: usize) -> Self {
        let keys = keys.min(MOST_KEYS);
        Self { all: Vec::with_capacity(keys), places: HashTable::with_capacity(keys), ..Self::default() }
    }

    /// Returns whether the call covers these as well.
    pub(super) fn have_room(&self, more: &[Change]) -> bool {
        // Which of them are there already matters near the end only.
        let new = if self.all.len() + more.len() <= MOST_KEYS {
            more.len()
        } else {
            more.iter().filter(|change| self.find(&change.key).is_none()).count()
        };
        let writes = more.iter().filter(|change| change.write.is_some()).count();
        let bytes: usize = more.iter().map(Change::write_bytes).sum();
        self.all.len() + new <= MOST_KEYS
            && self.writes + writes <= MOST_WRITES
            && self.write_bytes + bytes <= CALL_BYTES
    }

    pub(super) fn add(&mut self, change: Change) {
        self.writes += usize::from(change.write.is_some());
        self.write_bytes += change.write_bytes();
        if let Some(known) = self.find(&change.key).and_then(|at| self.all.get_mut(at)) {
            return known.merge(change.write);
        }
        let (all, hasher) = (&self.all, &self.hasher);
        let hash_of = |at: &usize| all.get(*at).map_or(0, |known| hasher.hash_one(&known.key));
        self.places.insert_unique(hasher.hash_one(&change.key), all.len(), hash_of);
        self.all.push(change);
    }

    fn find(&self, key: &CacheKey) -> Option<usize> {
        let is_it = |at: &usize| self.all.get(*at).is_some_and(|known| known.key == *key);
        self.places.find(self.hasher.hash_one(key), is_it).copied()
    }

    pub(super) fn into_vec(self) -> Vec<Change> {
        self.all
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key that is removed, or gets a value of this version.
    pub(in crate::invalidate) fn change(key: &str, write: Option<(&str, &str)>) -> Change {
        let write = write.map(|(version, value)| {
            let version = Version::parse(version.as_bytes()).unwrap();
            Box::new(Write { version, value: Some(value.as_bytes().into()) })
        });
        Change { key: key.as_bytes().into(), write }
    }

    #[test]
    fn a_version_is_digits_alone() {
        for text in ["", " 1", "1 ", "-1", "+1", "1.0", "1e3", "0x1", "٣"] {
            assert_eq!(Version::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Version::parse(b"000").unwrap().digits(), b"0");
        assert_eq!(Version::parse(b"007").unwrap().digits(), b"7");
        assert!(Version::parse(&[b'9'; LONGEST_VERSION]).is_some());
        assert!(Version::parse(&[b'9'; LONGEST_VERSION + 1]).is_none());
    }

    #[test]
    fn a_removal_wins_and_else_the_highest_version() {
        let of = |writes: &[Option<(&str, &str)>]| {
            let mut changes = Changes::default();
            writes.iter().for_each(|write| changes.add(change("k", *write)));
            let all = changes.into_vec();
            assert_eq!(all.len(), 1);
            let write = all.into_iter().next().unwrap().write?;
            Some(String::from_utf8(write.value.unwrap().to_vec()).unwrap())
        };
        assert_eq!(of(&[Some(("9", "a")), Some(("10", "b")), Some(("2", "c"))]), Some("b".to_owned()));
        assert_eq!(of(&[Some(("9", "a")), None]), None);
        assert_eq!(of(&[None, Some(("9", "a"))]), None, "it would not be stored in an absent key either");
    }

    #[test]
    fn a_call_has_room_for_so_many_keys_versions_and_bytes() {
        let value = |bytes: usize| "x".repeat(bytes);
        let keys = |count: usize, write: Option<(&str, &str)>| -> Vec<Change> {
            (0..count).map(|n| change(&n.to_string(), write)).collect()
        };
        let of = |there: Vec<Change>, more: &[Change]| {
            let mut changes = Changes::default();
            there.into_iter().for_each(|change| changes.add(change));
            changes.have_room(more)
        };
        assert!(of(keys(999, None), &[change("x", None)]) && !of(keys(1000, None), &[change("x", None)]));
        assert!(of(keys(1000, None), &[change("7", None)]), "a key that is there already takes none");
        let (one, large) = (Some(("1", "a")), value(1 << 20));
        assert!(of(keys(899, one), &keys(1, one)) && !of(keys(900, one), &keys(1, one)));
        let large = Some(("1", &large[..]));
        assert!(of(keys(3, large), &keys(1, one)) && !of(keys(3, large), &keys(1, large)));
        assert!(of(keys(3, large), &keys(900, None)));
    }

    proptest! {
        #[test]
        fn versions_are_in_the_order_of_their_numbers(
            one: u128, other: u128, zeros in 0..3_usize, far in 0..3_usize
        ) {
            // Near neighbours too, and numbers of as many digits.
            let other = if far == 0 { one.saturating_add(1) } else { other };
            let text = |number: u128| format!("{}{number}", "0".repeat(zeros));
            let [first, second] = [one, other].map(|number| Version::parse(text(number).as_bytes()).unwrap());
            prop_assert_eq!(first.cmp(&second), one.cmp(&other));
        }
    }
}
