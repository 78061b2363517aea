//! Warnings about a valid configuration.

use std::fs;
use std::path::Path;

use crate::config::{Config, Daemon};
use crate::memory;

/// Above this share of its control group's limit, in percent, memory that may be held is as good as no limit.
const MOST_PERCENT: u64 = 75;

/// Warnings about what is configured.
pub(super) fn of_settings(config: &Config) -> Vec<String> {
    let mut warnings = of_daemon(&config.daemon);
    let unguarded =
        config.invalidate.values().filter(|route| route.lease.is_none() && route.again_after.is_none());
    warnings.extend(unguarded.map(|route| {
        format!(
            "invalidate.{} has lease = \"\" and again_after = \"0s\": a reader that loads a value before a change and stores it \
             afterwards leaves the old value in the cache until its time to live ends",
            route.name
        )
    }));
    warnings
}

fn of_daemon(daemon: &Daemon) -> Vec<String> {
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

/// Warnings about variables that look like configuration and are not read. Kubernetes injects variables named like a
/// service, such as `TIDEGATE_REDIS_PORT`: they mean nothing.
pub(super) fn of_environment(environment: impl Iterator<Item = (String, String)>) -> Vec<String> {
    const SECTIONS: [&str; 5] = ["DAEMON", "REDIS", "CAPTURE", "BROADCAST", "INVALIDATE"];
    let warning = |name: &str| {
        let rest = name.strip_prefix("TIDEGATE_").filter(|rest| !rest.contains("__"))?;
        let (section, key) = rest.split_once('_').filter(|(section, _)| SECTIONS.contains(section))?;
        let of_service = key.contains("SERVICE_") || key.split('_').any(|word| word == "PORT");
        (!of_service).then(|| {
            format!(
                "the environment variable {name} is not read: section and keys are separated by two underscores, as in \
                 TIDEGATE_{section}__{key}"
            )
        })
    };
    environment.filter_map(|(name, _)| warning(&name)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_with_one_underscore_too_few_is_named() {
        let warnings =
            |names: &[&str]| of_environment(names.iter().map(|name| ((*name).to_owned(), "x".to_owned())));
        let told = warnings(&["TIDEGATE_DAEMON_LISTEN", "TIDEGATE_REDIS_SHOP_PASSWORD"]);
        assert_eq!(told.len(), 2);
        assert!(told[0].contains("TIDEGATE_DAEMON_LISTEN is not read"), "{told:?}");
        assert!(told[0].ends_with("as in TIDEGATE_DAEMON__LISTEN"), "{told:?}");
        let meant_otherwise = [
            "TIDEGATE_DAEMON__LISTEN",
            "TIDEGATE_CONFIG",
            "TIDEGATE_LOG",
            "TIDEGATE_PORT",
            "TIDEGATE_REDIS_SERVICE_HOST",
            "TIDEGATE_REDIS_PORT_6379_TCP_ADDR",
            "DAEMON_LISTEN",
        ];
        assert_eq!(warnings(&meant_otherwise), [""; 0]);
    }
}
