//! The state directory: locked for one process, with a name for the instance, and one owner per spool.
//!
//! Two processes are kept apart by a lock on a file. Two logs of one process are kept apart by a `Claim`: a
//! capture that a reload removes and another one adds again must wait until the first has let go.
//!
//! What tidegate makes here is for its own user alone, under any umask: the spool holds payloads in clear.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{SpoolError, at};

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A directory that this process alone writes to, as long as a clone of the value lives.
#[derive(Debug, Clone)]
pub struct StateDirectory(Arc<OwnedDirectory>);

#[derive(Debug)]
struct OwnedDirectory {
    path: PathBuf,
    /// The routes whose spools have an owner.
    claimed: Mutex<BTreeSet<String>>,
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// If it cannot be written, or another process has it.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        // An existing directory is the operator's, who may share it with others.
        private_directory(path, false).map_err(at(path))?;
        let file = path.join("lock");
        let lock = private_file(&file).map_err(at(&file))?;
        // The system lets it go when the process ends, however it ends.
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let claimed = Mutex::default();
                Ok(Self(Arc::new(OwnedDirectory { path: path.to_owned(), claimed, _lock: lock })))
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolError::Locked { directory: path.to_owned() }),
            Err(error) => Err(at(file)(error.into())),
        }
    }

    /// This instance's id: drawn once, and the same after a restart, so that a daemon recognises its own traces.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn instance(&self) -> Result<u64, SpoolError> {
        let file = self.0.path.join("instance");
        if let Ok(text) = fs::read_to_string(&file)
            && let Ok(instance) = u64::from_str_radix(text.trim(), 16)
        {
            return Ok(instance);
        }
        let instance = fastrand::u64(..);
        let mut written = private_file(&file).map_err(at(&file))?;
        written.set_len(0).map_err(at(&file))?;
        writeln!(written, "{instance:016x}").map_err(at(&file))?;
        written.sync_all().map_err(at(&file))?;
        Ok(instance)
    }

    /// Claims a route's spool, and makes its directory if it is missing.
    ///
    /// # Errors
    /// [`SpoolError::InUse`] while another claim on it lives: try again later. Otherwise the disk's error.
    pub fn spool(&self, route: &str) -> Result<Claim, SpoolError> {
        let path = spool_of(&self.0.path, route);
        if !self.0.claimed().insert(route.to_owned()) {
            return Err(SpoolError::InUse { directory: path });
        }
        // From here on the claim is given back in any case.
        let claim = Claim { state: self.clone(), route: route.to_owned(), path };
        private_directory(&spools(&self.0.path), true).map_err(at(&claim.path))?;
        private_directory(&claim.path, true).map_err(at(&claim.path))?;
        Ok(claim)
    }
}

/// The state directory of a daemon, taken as soon as it can be written. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StatePlace(Arc<PlaceInner>);

#[derive(Debug)]
struct PlaceInner {
    path: PathBuf,
    taken: Mutex<Result<StateDirectory, String>>,
}

impl StatePlace {
    /// Tries to lock the directory.
    ///
    /// # Errors
    /// [`SpoolError::Locked`] alone: another process has it. An unwritable one is [tried](Self::retry) later.
    pub fn open(path: &Path) -> Result<Self, SpoolError> {
        let taken = match StateDirectory::open(path) {
            Ok(directory) => Ok(directory),
            Err(error @ SpoolError::Locked { .. }) => return Err(error),
            Err(error) => Err(error.to_string()),
        };
        Ok(Self(Arc::new(PlaceInner { path: path.to_owned(), taken: Mutex::new(taken) })))
    }

    /// Tries again if it is not locked yet.
    ///
    /// # Errors
    /// Why it could not be locked.
    pub fn retry(&self) -> Result<(), String> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_err() {
            *taken = StateDirectory::open(&self.0.path).map_err(|error| error.to_string());
        }
        taken.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// The directory.
    ///
    /// # Errors
    /// Why it could not be taken.
    pub fn get(&self) -> Result<StateDirectory, String> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it could not be locked.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let error = self.get().err()?;
        Some(format!("cannot write to the state directory {}: {error}", self.0.path.display()))
    }
}

impl OwnedDirectory {
    fn claimed(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to write a route's spool: there is one at a time. Dropping it gives the spool back.
#[derive(Debug)]
pub struct Claim {
    state: StateDirectory,
    route: String,
    path: PathBuf,
}

impl Claim {
    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.state.0.claimed().remove(&self.route);
    }
}

/// Makes a directory for this user alone, and its parents. `own`: an existing one is tidegate's.
fn private_directory(path: &Path, own: bool) -> io::Result<()> {
    let made = match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // No payloads are stored above it: its parents follow the umask.
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            DirBuilder::new().mode(DIRECTORY_MODE).create(path)?;
            true
        }
        Err(error) => return Err(error),
    };
    if made || own {
        fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))?;
    }
    Ok(())
}

/// Opens a file of the state directory, for this user alone.
fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// The directory of the spools of all routes, under a state directory.
pub(crate) fn spools(state_directory: &Path) -> PathBuf {
    state_directory.join("spool")
}

/// The directory of a route's spool, under a state directory.
fn spool_of(state_directory: &Path, route: &str) -> PathBuf {
    spools(state_directory).join(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_spool_has_one_owner_at_a_time() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(&place.path().join("state")).unwrap();
        let claim = state.spool("orders").unwrap();
        assert!(matches!(state.spool("orders"), Err(SpoolError::InUse { .. })));
        assert!(matches!(state.clone().spool("orders"), Err(SpoolError::InUse { .. })));
        let other = state.spool("others").unwrap();
        drop(claim);
        let again = state.spool("orders").unwrap();
        assert_ne!(again.path(), other.path());
    }

    #[test]
    fn what_it_makes_is_for_its_own_user() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("above/state");
        // As in an earlier release.
        fs::create_dir_all(path.join("spool/orders")).unwrap();
        let old = path.join("spool/orders");
        fs::set_permissions(&old, Permissions::from_mode(0o755)).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        state.instance().unwrap();
        drop(state.spool("orders").unwrap());
        for directory in [path.join("spool"), old] {
            assert_eq!(mode(&directory), 0o700, "{}", directory.display());
        }
        for file in ["lock", "instance"] {
            assert_eq!(mode(&path.join(file)), 0o600, "{file}");
        }
        let fresh = place.path().join("fresh");
        drop(StateDirectory::open(&fresh).unwrap());
        assert_eq!(mode(&fresh), 0o700);
    }
}
