//! The real disk: a directory under the state directory, for this user alone.

use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Storage;
use crate::spool::directory::Claim;

/// Payloads are in these files, in clear.
const FILE_MODE: u32 = 0o600;

/// A directory of the file system.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
    /// Kept for as long as the directory is written to; `None` if it is only read.
    _claim: Option<Claim>,
}

impl Disk {
    /// The claimed directory.
    pub(in crate::spool) fn claimed(claim: Claim) -> Self {
        Self { directory: claim.path().to_owned(), _claim: Some(claim) }
    }

    /// Any directory, read only, beside a daemon that may own it.
    pub(in crate::spool) fn unclaimed(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), _claim: None }
    }
}

impl Storage for Disk {
    type File = File;

    fn directory(&self) -> &Path {
        &self.directory
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // The log's own names are text; others are not its business.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create_new(&self, name: &str) -> io::Result<File> {
        let path = self.directory.join(name);
        let file = OpenOptions::new().create_new(true).write(true).mode(FILE_MODE).open(&path)?;
        // The umask may have taken more away.
        if let Err(error) = file.set_permissions(Permissions::from_mode(FILE_MODE)) {
            fs::remove_file(&path)?;
            return Err(error);
        }
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        File::open(self.directory.join(name))
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.directory.join(name))?.len())
    }

    fn read_at(&self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        file.read_at(into, offset)
    }

    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn truncate(&self, name: &str, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.directory.join(name))?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.directory.join(name))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn salt(&self) -> u64 {
        // The standard library seeds each of these from the system's random numbers.
        RandomState::new().build_hasher().finish().max(1)
    }
}
