//! Steps before the first route: the daemon warns of password files that others can read, and raises its limit of open
//! files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, readable_passwords};
use crate::logs::LogCode;

/// Raises the soft limit of open files to the hard one. The soft one is 1024 on most systems, for programs that use
/// select(2); tidegate does not, and a route needs some five descriptors.
pub(super) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(
            event = LogCode::OpenFilesLimit.as_str(),
            limit = limit.current,
            %error,
            "cannot raise the limit of open files; connections fail if many routes reach it. Raise the hard limit"
        );
    }
}

/// Says which files with passwords every user of the machine can read.
pub(super) fn tell_of_readable_secrets(config: &Config) {
    for readable in readable_passwords(config) {
        tracing::warn!(
            event = LogCode::SecretReadable.as_str(),
            file = %readable.path.display(),
            mode = readable.mode,
            "{readable}"
        );
    }
}
