//! The records that a process has written to its spool, as seen from outside. The next process must find them again,
//! and harm to a file may cost only the records that it hits.

use memchr::memmem;

use super::*;
use crate::spool::{Mark, Record};

/// Bytes of a record in a file before its body.
const HEAD: usize = 72;

/// Harm to a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Harm {
    /// This byte has changed.
    Byte(usize),
    /// It ends here.
    End(usize),
    /// Nothing of it can be relied on.
    All,
}

impl Harm {
    fn hits(self, record: &Range<usize>) -> bool {
        match self {
            Self::Byte(at) => record.contains(&at),
            Self::End(at) => record.end > at,
            Self::All => true,
        }
    }
}

#[derive(Debug, Clone)]
struct SpooledRecord {
    body: Vec<u8>,
    events: u64,
    harmed: bool,
    /// It is dealt with, and its file is still there: the next process meets it again.
    released: bool,
    /// An earlier process wrote it: the number of its lost messages may be unknown.
    earlier: bool,
}

/// The records that were written and are not deleted.
#[derive(Debug, Clone, Default)]
pub(super) struct Spooled {
    records: BTreeMap<Mark, SpooledRecord>,
    /// Events of records that were harmed since the process began, or before.
    harmed_events: u64,
}

impl Spooled {
    /// These count as written.
    pub(super) fn written(&mut self, disk: &MemoryDisk, records: &[Record]) {
        let files: Vec<Vec<u8>> = spool_files(disk).map(|name| disk.content(&name)).collect();
        for Record { mark, events, body } in records {
            // A deleted file loses later writes too.
            let harmed = !files.iter().any(|file| memmem::find(file, body).is_some());
            self.harmed_events += if harmed { *events } else { 0 };
            let record = SpooledRecord {
                body: body.clone(),
                events: *events,
                harmed,
                released: false,
                earlier: false,
            };
            self.records.insert(*mark, record);
        }
    }

    /// Records at or before `upto` are finished.
    pub(super) fn released(&mut self, disk: &MemoryDisk, upto: &Mark) {
        let files: Vec<Vec<u8>> = spool_files(disk).map(|name| disk.content(&name)).collect();
        self.records.retain(|mark, record| {
            record.released |= mark <= upto;
            // A harmed one is not found, and the next process may meet what is left of it.
            let is_there = || files.iter().any(|file| memmem::find(file, &record.body).is_some());
            !record.released || record.harmed || is_there()
        });
    }

    /// A file is about to be harmed. Returns messages of an earlier process that may be lost by it.
    pub(super) fn harm(&mut self, disk: &MemoryDisk, name: &str, harm: Harm) -> Vec<u64> {
        let content = disk.content(name);
        let mut lost = Vec::new();
        for record in self.records.values_mut().filter(|record| !record.harmed) {
            let length = record.body.len();
            let mut places = memmem::find_iter(&content, &record.body);
            if places.any(|at| harm.hits(&(at.saturating_sub(HEAD)..at + length))) {
                record.harmed = true;
                self.harmed_events += record.events;
                lost.extend(messages(record).filter(|_| record.earlier));
            }
        }
        lost
    }

    /// The same records, for the next process.
    pub(super) fn inherited(mut self) -> Self {
        self.records.values_mut().for_each(|record| record.earlier = true);
        let harmed = self.records.values().filter(|record| record.harmed);
        self.harmed_events = harmed.map(|record| record.events).sum();
        self
    }

    /// Messages in records that nothing was done to.
    pub(super) fn intact(&self) -> BTreeSet<u64> {
        self.records.values().filter(|record| !record.harmed && !record.released).flat_map(messages).collect()
    }

    /// Number of messages that may be lost by the harm to the files.
    pub(super) fn harmed_events(&self) -> u64 {
        self.harmed_events
    }
}

/// The files that hold records: no damaged one that is kept aside.
fn spool_files(disk: &MemoryDisk) -> impl Iterator<Item = String> {
    disk.names().into_iter().filter(|name| name.ends_with(".spool"))
}

/// The messages in a record, as their payloads name them.
fn messages(record: &SpooledRecord) -> impl Iterator<Item = u64> {
    const PAYLOAD: &[u8] = b"$7\r\npayload\r\n$";
    memmem::find_iter(&record.body, PAYLOAD).map(|at| {
        let mut lines = record.body[at + PAYLOAD.len()..].split(|byte| *byte == b'\n').skip(1);
        std::str::from_utf8(lines.next().unwrap().trim_ascii()).unwrap().parse().unwrap()
    })
}

impl World {
    /// Something is about to be done to a file of an instance's spool.
    pub(super) fn harm(&mut self, which: usize, name: &str, harm: Harm) {
        let instance = &mut self.instances[which];
        for route in &mut instance.routes {
            for lost in route.spooled.harm(&instance.disk, name, harm) {
                route.received.remove(&lost);
            }
        }
    }

    /// The machine of an instance ends and starts again: a part of the unsynced bytes is there afterwards.
    pub(super) fn crash(&mut self, which: usize) {
        let disk = self.instances[which].disk.clone();
        if self.spool.fsync != Fsync::Always {
            let names: Vec<String> = spool_files(&disk).collect();
            names.iter().for_each(|name| self.harm(which, name, Harm::All));
        }
        let rng = &mut self.rng;
        disk.crash(|_, unsynced| rng.bool().then(|| rng.usize(..=unsynced)));
        self.kill(which);
    }
}
