//! The state directory: locked for one process, with a name for the instance.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{SpoolError, at};

/// A directory that this process alone writes to, as long as the value lives.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory where it is missing, and takes it.
    ///
    /// # Errors
    /// Where it cannot be written, or another process has it.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        fs::create_dir_all(path).map_err(at(path))?;
        let file = path.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&file).map_err(at(&file))?;
        // The system lets it go when the process ends, however it ends.
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolError::Locked { directory: path.to_owned() }),
            Err(error) => Err(at(file)(error.into())),
        }
    }

    /// Which instance this is: drawn once, and the same after a restart, so that a daemon does not take
    /// what it left behind for another one.
    ///
    /// # Errors
    /// Where the file cannot be read or written.
    pub fn instance(&self) -> Result<u64, SpoolError> {
        let file = self.path.join("instance");
        if let Ok(text) = fs::read_to_string(&file)
            && let Ok(instance) = u64::from_str_radix(text.trim(), 16)
        {
            return Ok(instance);
        }
        let instance = fastrand::u64(..);
        let mut written = File::create(&file).map_err(at(&file))?;
        writeln!(written, "{instance:016x}").map_err(at(&file))?;
        written.sync_all().map_err(at(&file))?;
        Ok(instance)
    }

    /// Where a route's spool is.
    #[must_use]
    pub fn spool(&self, route: &str) -> PathBuf {
        spool_of(&self.path, route)
    }
}

/// Where the spools of all routes are, under a state directory.
pub(crate) fn spools(state_directory: &Path) -> PathBuf {
    state_directory.join("spool")
}

/// Where a route's spool is, under a state directory.
pub(crate) fn spool_of(state_directory: &Path, route: &str) -> PathBuf {
    spools(state_directory).join(route)
}
