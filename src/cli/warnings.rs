//! Warnings about a valid configuration.

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
            "daemon.memory_limit is {limit} MiB, but the control group of this process allows {group} MiB: during an outage \
             the kernel can kill tidegate, and buffered messages are lost. Lower memory_limit, remove it to use half \
             of the group's limit, or raise the group's limit"
        ));
    }
    if !daemon.listen.ip().is_loopback() {
        warnings.push(format!(
            "daemon.listen is {}: every client that reaches it can read names, counts and errors of every route without a \
             password. Listen on 127.0.0.1, or restrict access to the port",
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
        "daemon.state_directory {} is not writable for this user: {error}; tidegate runs without a spool, and a crash \
         loses buffered messages",
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
            // A path of one name is relative to the working directory.
            Some(above) if above == Path::new("") => writable(Path::new(".")),
            Some(above) => writable(above),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}
