//! The log's view of a disk: one directory of files.
//!
//! The log decides, the storage moves bytes. `Disk` is the real one. `MemoryDisk` is for tests: it separates the page
//! cache from durable content, and fails on request.
//!
//! Constraints: no call repairs anything by itself, and each error reaches the log. A write states its
//! offset, so that a write that failed half-way leaves no position behind that the next one would inherit.

mod disk;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests make more faults than the fuzzer"))]
mod memory;

use std::io;
use std::path::Path;

pub use disk::Disk;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use memory::MemoryDisk;

/// One directory of files.
pub trait Storage {
    /// An open file.
    type File;

    /// The directory's path, for messages.
    fn directory(&self) -> &Path;

    /// The names of all files.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file that is not there yet, for writing.
    ///
    /// # Errors
    /// As the system says.
    fn create_new(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// As the system says.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The length of a file.
    ///
    /// # Errors
    /// As the system says.
    fn length(&self, name: &str) -> io::Result<u64>;

    /// Reads from `offset` on; returns how many bytes that were, 0 only at the end of the file.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`. After an error any part of it may be in the file.
    ///
    /// # Errors
    /// As the system says.
    fn write_at(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts a file off behind `length` bytes.
    ///
    /// # Errors
    /// As the system says.
    fn truncate(&self, name: &str, length: u64) -> io::Result<()>;

    /// Gives a file another name.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Deletes a file.
    ///
    /// # Errors
    /// As the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// The system's error. Data written since the last success may be lost then, whatever a later call returns.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Makes the names of the files durable.
    ///
    /// # Errors
    /// As the system says.
    fn sync_directory(&self) -> io::Result<()>;

    /// A number that no sender of messages can know.
    fn salt(&self) -> u64;
}

/// Reads until `into` is full or the file ends; returns how many bytes that were.
pub(super) fn fill_at<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    into: &mut [u8],
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < into.len() {
        match storage.read_at(file, offset.saturating_add(filled as u64), &mut into[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
