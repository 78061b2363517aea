//! `[daemon]`.

use super::Check;
use crate::config::problems::Key;
use crate::config::raw;
use crate::config::settings::{Daemon, Fsync, SpoolSettings};
use crate::memory;

/// Where no limit is configured.
const USUAL_MEMORY: u64 = 256 << 20;
/// Of what the control group may use. The other half is for what is not counted: buffers of sockets, the program, and
/// what the kernel counts to the group, such as the pages of the spool's files.
const SHARE_OF_GROUP: u64 = 2;
/// Under this a single message of the default size would not fit.
const LEAST_MEMORY: u64 = 16 << 20;

impl Check<'_> {
    pub(super) fn daemon(&mut self, raw: raw::Daemon) -> Daemon {
        let key = Key::top("daemon");
        let listen = raw.listen.parse().unwrap_or_else(|_| {
            let message = format!("expected an address and a port, found \"{}\"", raw.listen);
            let help =
                "such as \"127.0.0.1:7380\", or \"[::]:7380\" for every address; a host name is not allowed";
            self.report_with(&key.at("listen"), message, help);
            std::net::SocketAddr::from(([127, 0, 0, 1], 0))
        });
        let group = memory::limit_bytes();
        let usual = group.map_or(USUAL_MEMORY, |group| USUAL_MEMORY.min(group / SHARE_OF_GROUP));
        let memory_limit = raw.memory_limit.unwrap_or(raw::Size(usual.max(LEAST_MEMORY)));
        if memory_limit.0 < LEAST_MEMORY {
            let (least, found) = (raw::Size(LEAST_MEMORY), memory_limit);
            self.report(&key.at("memory_limit"), format!("expected at least {least}, found {found}"));
        }
        if raw.shutdown_timeout.0.is_zero() {
            self.report(&key.at("shutdown_timeout"), "expected more than 0s");
        }
        if raw.state_directory.is_empty() {
            self.report(&key.at("state_directory"), "expected a directory, found an empty text");
        }
        for (index, host) in raw.hosts.iter().enumerate() {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            if host.is_empty() || host.len() > 253 || !host.bytes().all(letter) {
                let help = "without scheme and port, such as \"tidegate.example.com\"";
                self.report_with(
                    &key.at("hosts").at(&index.to_string()),
                    "expected the name of a host",
                    help,
                );
            }
        }
        Daemon {
            listen,
            hosts: raw.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            state_directory: raw.state_directory.into(),
            // What is too small is reported above, and not once more for each route's messages.
            memory_limit: memory_limit.0.max(LEAST_MEMORY),
            shutdown_timeout: raw.shutdown_timeout.0,
            spool: SpoolSettings {
                limit: raw.spool.limit.0,
                fsync: match raw.spool.fsync {
                    raw::Fsync::Always => Fsync::Always,
                    raw::Fsync::Every(span) => Fsync::Every(span.0),
                    raw::Fsync::Never => Fsync::Never,
                },
            },
            force_after: raw.force_after.0,
        }
    }
}
