//! Processes that do not outlive the test.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::eventually;

/// A child process that is killed on drop, and by the kernel when the thread that started it ends.
#[derive(Debug)]
pub(crate) struct Guarded {
    name: String,
    child: Child,
}

impl Guarded {
    /// Starts `program`; `prepare` adds arguments, pipes and environment.
    pub(crate) fn start(name: &str, program: &Path, prepare: impl FnOnce(&mut Command)) -> Self {
        assert!(program.exists(), "{name}: {} is missing", program.display());
        // setpriv sets the signal and then becomes the program: the id stays the same.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        prepare(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: cannot start setpriv: {error}"));
        Self { name: name.to_owned(), child }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("process ids are positive");
        kill(Pid::from_raw(id), signal).unwrap_or_else(|error| panic!("{}: {signal}: {error}", self.name));
    }

    /// Kills it at once, as a power cut would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // An error means that it has ended by itself.
        drop(self.child.kill());
        self.child.wait().unwrap_or_else(|error| panic!("{}: wait: {error}", self.name));
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} ends"), within, || {
            let status = self.child.try_wait().map_err(|error| error.to_string())?;
            status.ok_or_else(|| "it runs".to_owned())
        })
    }

    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// User and system time that it has used.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The program's name stands in brackets and may hold spaces; fields 14 and 15 are counted from 1.
        let after_name = stat.rsplit_once(')').ok_or_else(|| io::Error::other("no name in stat"))?.1;
        let ticks: u64 =
            after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux that Rust supports here.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Memory that it holds, in KiB.
    pub(crate) fn resident_kib(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next())
            .and_then(|kib| kib.parse().ok())
            .ok_or_else(|| io::Error::other("no VmRSS in status"))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where this build puts its programs: `target/debug/NAME` beside `target/debug/deps/test-…`.
pub(crate) fn program_next_to_tests(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own path");
    let directory =
        own.parent().and_then(Path::parent).expect("tests, benches and examples lie in a subdirectory");
    directory.join(name)
}
