//! What a configuration that is valid may still do to the one who runs it.

use std::fs;
use std::path::Path;

use crate::config::{Config, Daemon};
use crate::memory;

/// Above this share of its control group's limit, in percent, memory that may be held is as good as no limit.
const MOST_PERCENT: u64 = 75;

/// Warnings about `[daemon]`.
pub(super) fn of_settings(daemon: &Daemon) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(group) = memory::limit_bytes()
        && daemon.memory_limit > group / 100 * MOST_PERCENT
    {
        let (limit, group) = (daemon.memory_limit >> 20, group >> 20);
        warnings.push(format!(
            "daemon.memory_limit is {limit} MiB, and the control group of this process may use {group} MiB: during an \
             outage the kernel kills tidegate with everything that it holds. Lower memory_limit (without it half of \
             the group's limit is used), or give the group more"
        ));
    }
    if !daemon.listen.ip().is_loopback() {
        warnings.push(format!(
            "daemon.listen is {}: whoever reaches it reads names, counts and errors of every route without a password. \
             Where that is not meant, listen on 127.0.0.1, or restrict who reaches the port",
            daemon.listen
        ));
    }
    warnings
}

/// What is seen only by a look at the system, as the user that runs this.
pub(super) fn of_system(config: &Config) -> Option<String> {
    let daemon = &config.daemon;
    if daemon.spool.limit == 0 || config.capture.is_empty() {
        return None;
    }
    let error = writable(&daemon.state_directory).err()?;
    Some(format!(
        "daemon.state_directory {} cannot be written by this user: {error}; without it there is no spool, and a crash \
         loses what is in hand",
        daemon.state_directory.display()
    ))
}

/// Whether files can be made in a directory, or it can be made.
fn writable(directory: &Path) -> std::io::Result<()> {
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {
            use rustix::fs::Access;
            Ok(rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        Ok(_) => Err(std::io::ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match directory.parent() {
            Some(above) if above != Path::new("") => writable(above),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}
