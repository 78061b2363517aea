//! A disk in memory, for tests: page cache and medium are separate, and faults come on request.
//!
//! ```text
//!  write ──▶ page cache ──sync──▶ medium        names ──sync_directory──▶ names on the medium
//!               │                   ▲
//!               └── sync fails: the pages count as clean, and no later sync writes them (as on Linux)
//! ```
//!
//! A clone is the same disk, so a test keeps one while a log has the other. Nothing here is random: the test has the
//! seed. There is no `restart`: dropping the log and opening another on the same disk acts like the end of a process.
//! `crash` is the machine's end.

#![allow(clippy::unwrap_used, reason = "offsets of a disk in memory fit into memory")]

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Storage;

/// A disk that its clones share.
#[derive(Debug, Clone)]
pub(crate) struct MemoryDisk {
    directory: PathBuf,
    state: Arc<Mutex<MemoryState>>,
}

#[derive(Debug, Default)]
struct MemoryState {
    files: Vec<Content>,
    /// The names as programs see them.
    names: BTreeMap<String, usize>,
    /// The names that a crash leaves.
    durable_names: BTreeMap<String, usize>,
    /// Bytes that may still be written; `None` for any number.
    room: Option<u64>,
    failing_syncs: u32,
    failing_directory_syncs: u32,
    failing_truncates: u32,
    refused_reads: BTreeMap<String, u32>,
    salts: u64,
}

#[derive(Debug, Default, Clone)]
struct Content {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Written since, in order.
    dirty: Vec<Range<usize>>,
}

fn refused(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ENOENT: i32 = 2;
const EEXIST: i32 = 17;

/// Takes one off, if there is one.
fn take(count: &mut u32) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(u32::from(some));
    some
}

impl MemoryDisk {
    pub(crate) fn new() -> Self {
        Self { directory: PathBuf::from("/disk"), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk with the same content, to try something on; faults included.
    pub(crate) fn copy(&self) -> Self {
        let state = self.state();
        let MemoryState { room, failing_syncs, failing_directory_syncs, failing_truncates, salts, .. } =
            *state;
        let copy = MemoryState {
            files: state.files.clone(),
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            refused_reads: state.refused_reads.clone(),
            room,
            failing_syncs,
            failing_directory_syncs,
            failing_truncates,
            salts,
        };
        Self { directory: self.directory.clone(), state: Arc::new(Mutex::new(copy)) }
    }

    /// The names of all files, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// A file's content as a program reads it.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].cached.clone()
    }

    /// Puts a file there, durably.
    pub(crate) fn put(&self, name: &str, content: &[u8]) {
        let mut state = self.state();
        let content = Content { cached: content.to_vec(), durable: content.to_vec(), dirty: Vec::new() };
        state.files.push(content);
        let number = state.files.len() - 1;
        state.names.insert(name.to_owned(), number);
        state.durable_names.insert(name.to_owned(), number);
    }

    /// Lets this many more bytes be written, then ENOSPC, also in the middle of a write; `None` for any number.
    pub(crate) fn set_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    /// Lets the next syncs of files fail; the next crash loses their data.
    pub(crate) fn fail_syncs(&self, count: u32) {
        self.state().failing_syncs = count;
    }

    /// Lets the next syncs of the directory fail.
    pub(crate) fn fail_directory_syncs(&self, count: u32) {
        self.state().failing_directory_syncs = count;
    }

    /// Lets the next calls that cut a file off fail.
    pub(crate) fn fail_truncates(&self, count: u32) {
        self.state().failing_truncates = count;
    }

    /// Lets the next reads of a file fail.
    pub(crate) fn refuse_reads(&self, name: &str, count: u32) {
        self.state().refused_reads.insert(name.to_owned(), count);
    }

    /// Ends all faults; damage that was done stays.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.room = None;
        (state.failing_syncs, state.failing_directory_syncs, state.failing_truncates) = (0, 0, 0);
        state.refused_reads.clear();
    }

    /// Flips a bit, on the medium and in the cache.
    pub(crate) fn flip(&self, name: &str, byte: usize, bit: u8) {
        let mut state = self.state();
        let number = state.names[name];
        let Content { cached, durable, .. } = &mut state.files[number];
        for content in [cached, durable] {
            if let Some(byte) = content.get_mut(byte) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// Cuts a file off, as an operator would.
    pub(crate) fn shorten(&self, name: &str, length: usize) {
        let mut state = self.state();
        let number = state.names[name];
        state.files[number].cached.truncate(length);
        state.files[number].durable.truncate(length);
    }

    /// Deletes a file, as an operator would, durably.
    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    /// Bytes of a file that a crash may take.
    pub(crate) fn unsynced(&self, name: &str) -> usize {
        let state = self.state();
        state.files[state.names[name]].dirty.iter().map(ExactSizeIterator::len).sum()
    }

    /// The machine ends and starts again. `survives` is called for each file that is not wholly durable, with its name
    /// and its number of unsynced bytes. It returns how many of these are on the medium all the same, from the first
    /// one written on. For a file whose name is not synced, `None` loses the file.
    pub(crate) fn crash(&self, mut survives: impl FnMut(&str, usize) -> Option<usize>) {
        let mut state = self.state();
        let names = state.names.clone();
        for (name, number) in names {
            let content = &mut state.files[number];
            let unsynced = content.dirty.iter().map(ExactSizeIterator::len).sum();
            let answer = survives(&name, unsynced);
            let mut left = answer.unwrap_or(0);
            for range in std::mem::take(&mut content.dirty) {
                let range = range.start..range.start + range.len().min(left);
                left -= range.len();
                content.harden(range);
            }
            if answer.is_some() {
                state.durable_names.insert(name, number);
            }
        }
        state.names = state.durable_names.clone();
        for content in &mut state.files {
            content.cached.clone_from(&content.durable);
        }
    }
}

impl Content {
    fn harden(&mut self, range: Range<usize>) {
        let range = range.start..range.end.min(self.cached.len());
        if range.is_empty() {
            return;
        }
        if self.durable.len() < range.end {
            self.durable.resize(range.end, 0);
        }
        self.durable[range.clone()].copy_from_slice(&self.cached[range]);
    }
}

impl Storage for MemoryDisk {
    type File = (usize, String);

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create_new(&self, name: &str) -> io::Result<Self::File> {
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(refused(EEXIST));
        }
        if state.room == Some(0) {
            return Err(refused(ENOSPC));
        }
        state.files.push(Content::default());
        let number = state.files.len() - 1;
        state.names.insert(name.to_owned(), number);
        Ok((number, name.to_owned()))
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        let number = self.state().names.get(name).copied().ok_or_else(|| refused(ENOENT))?;
        Ok((number, name.to_owned()))
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        let state = self.state();
        let number = state.names.get(name).ok_or_else(|| refused(ENOENT))?;
        Ok(state.files[*number].cached.len() as u64)
    }

    fn read_at(&self, (number, name): &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        if state.refused_reads.get_mut(name).is_some_and(take) {
            return Err(refused(EIO));
        }
        let content = &state.files[*number].cached;
        let rest = content.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, (number, _): &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let offset = usize::try_from(offset).unwrap();
        let room = state.room.map_or(bytes.len(), |room| usize::try_from(room).unwrap());
        let written = bytes.len().min(room);
        state.room = state.room.map(|room| room - written as u64);
        let content = &mut state.files[*number];
        let end = offset + written;
        if content.cached.len() < end {
            content.cached.resize(end, 0);
        }
        content.cached[offset..end].copy_from_slice(&bytes[..written]);
        content.dirty.push(offset..end);
        if written < bytes.len() { Err(refused(ENOSPC)) } else { Ok(()) }
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let mut state = self.state();
        let number = *state.names.get(name).ok_or_else(|| refused(ENOENT))?;
        if take(&mut state.failing_truncates) {
            return Err(refused(EIO));
        }
        let length = usize::try_from(length).unwrap();
        let content = &mut state.files[number];
        content.cached.truncate(length);
        content.durable.truncate(length);
        for range in &mut content.dirty {
            *range = range.start.min(length)..range.end.min(length);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let number = state.names.remove(from).ok_or_else(|| refused(ENOENT))?;
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().names.remove(name).map(|_| ()).ok_or_else(|| refused(ENOENT))
    }

    fn sync(&self, (number, _): &Self::File) -> io::Result<()> {
        let mut state = self.state();
        let fails = take(&mut state.failing_syncs);
        let content = &mut state.files[*number];
        let dirty = std::mem::take(&mut content.dirty);
        if fails {
            return Err(refused(EIO));
        }
        for range in dirty {
            content.harden(range);
        }
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        if take(&mut state.failing_directory_syncs) {
            return Err(refused(EIO));
        }
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn salt(&self) -> u64 {
        let mut state = self.state();
        state.salts += 1;
        // Spread, so that no two look alike.
        state.salts.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
