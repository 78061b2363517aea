//! What was measured, as a file: the tables and plots of docs/performance.md are made from it and from
//! nothing else.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::support::{Version, program_next_to_tests};
use crate::{deployments, invalidate, latency, memory, peers, scaling, spool, throughput};

/// Everything, each part as it was measured last.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Results {
    pub(crate) captures: Option<Part<Vec<throughput::Row>>>,
    pub(crate) unrelated: Option<Part<throughput::Unrelated>>,
    pub(crate) broadcasts: Option<Part<Vec<throughput::Row>>>,
    pub(crate) invalidations: Option<Part<invalidate::Invalidations>>,
    pub(crate) latency: Option<Part<Vec<latency::Point>>>,
    pub(crate) memory: Option<Part<memory::Memory>>,
    pub(crate) scaling: Option<Part<scaling::Scaling>>,
    pub(crate) deployments: Option<Part<deployments::Deployments>>,
    pub(crate) peers: Option<Part<Vec<peers::Peer>>>,
    pub(crate) spool: Option<Part<Vec<spool::Setting>>>,
}

/// One part, and where and when it was measured.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Part<T> {
    pub(crate) on: Conditions,
    pub(crate) found: T,
}

impl<T> Part<T> {
    pub(crate) fn new(found: T) -> Self {
        Self { on: Conditions::here(), found }
    }
}

/// What a figure depends on beside the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Conditions {
    pub(crate) day: String,
    pub(crate) tidegate: String,
    pub(crate) server: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) libc: String,
}

impl Conditions {
    fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let server = std::process::Command::new(Version::Redis70.program()).arg("--version").output();
        let server = server.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let server = server.unwrap_or_default();
        let number = server.split_whitespace().find_map(|word| word.strip_prefix("v="));
        Self {
            day: humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + since_1970()).to_string()[..10]
                .to_owned(),
            tidegate: number_of_program(),
            server: format!("Redis {}", number.unwrap_or("of unknown version")),
            processor: processor.map_or("unknown", |(_, name)| name).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.trim().to_owned(),
            libc: if cfg!(target_env = "musl") { "musl" } else { "glibc" }.to_owned(),
        }
    }
}

/// The version of the program that is measured: this crate has another.
fn number_of_program() -> String {
    let output = std::process::Command::new(program_next_to_tests("tidegate")).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().last().unwrap_or("of unknown version").to_owned()
}

fn since_1970() -> std::time::Duration {
    std::time::Duration::from_millis(tidegate::rt::unix_ms())
}

impl Results {
    fn path() -> PathBuf {
        crate::repository().join("docs/performance.json")
    }

    /// What was measured before.
    pub(crate) fn read() -> Self {
        let path = Self::path();
        match fs::read_to_string(&path) {
            Ok(text) => {
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    pub(crate) fn write(&self) {
        let text = serde_json::to_string_pretty(self).expect("plain data");
        fs::write(Self::path(), text + "\n").expect("docs/ is writable");
    }
}
