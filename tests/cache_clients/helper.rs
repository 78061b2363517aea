//! A helper under test: its driver, and what passes between them.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::compiled;
use crate::support::{Guarded, client_libraries};

/// How long a driver may take to say what is due; a loaded machine needs more than a helper does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// More messages than any case has.
const MESSAGES: usize = 1_000;

/// Which helper is driven, with which library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    RedisPy,
    RedisPyAsyncio,
    Django,
    NodeRedis,
    IoRedis,
    Rust,
}

impl Kind {
    /// The words before the settings: program, driver and the driver's name for it.
    fn program(self, helpers: &Path) -> Vec<PathBuf> {
        let interpreted = |interpreter: &str, driver: &str, name: &str| {
            let driver = folder().join("conformance").join(driver);
            vec![interpreter.into(), driver, name.into()]
        };
        match self {
            Self::RedisPy => interpreted("python3", "driver.py", "sync"),
            Self::RedisPyAsyncio => interpreted("python3", "driver.py", "asyncio"),
            Self::Django => interpreted("python3", "driver.py", "django"),
            Self::NodeRedis => interpreted("node", "driver.mjs", "node-redis"),
            Self::IoRedis => interpreted("node", "driver.mjs", "ioredis"),
            Self::Rust => vec![compiled::driver(helpers)],
        }
    }

    /// The folder of the helper.
    pub(crate) fn language(self) -> &'static str {
        match self {
            Self::RedisPy | Self::RedisPyAsyncio | Self::Django => "python",
            Self::NodeRedis | Self::IoRedis => "javascript",
            Self::Rust => "rust",
        }
    }

    /// The file of the helper, where the driver asks for it.
    fn file(self, helpers: &Path) -> Option<PathBuf> {
        (self.language() == "javascript").then(|| helpers.join("javascript/tidegate-cache.mjs"))
    }
}

/// What of a helper a case sets, in seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) wait: String,
    pub(crate) answer: String,
    pub(crate) versions: bool,
}

impl Default for Settings {
    /// As helpers have it, but with an answer that a loaded machine certainly gives in time.
    fn default() -> Self {
        Self { wait: "0.1".to_owned(), answer: "30".to_owned(), versions: false }
    }
}

/// Where the helpers and their contract are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

/// A driver that runs.
#[derive(Debug)]
pub(crate) struct Helper {
    process: Guarded,
    input: ChildStdin,
    output: Receiver<Value>,
    /// Said and not yet asked for.
    said: VecDeque<Value>,
}

impl Helper {
    /// Starts a driver for the helpers below `helpers`, which has the folders of `clients/`.
    pub(crate) fn start(kind: Kind, helpers: &Path, url: &str, settings: &Settings) -> Self {
        let libraries = client_libraries();
        let python = [helpers.join("python"), libraries.join("python")];
        let name = format!("the driver of {kind:?}");
        let mut process = Guarded::start(&name, Path::new("/usr/bin/env"), |command| {
            command
                .args(kind.program(helpers))
                .args([url, &settings.wait, &settings.answer])
                .args(kind.file(helpers))
                .args(settings.versions.then_some("versions"))
                .env("PYTHONPATH", std::env::join_paths(python).unwrap())
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("NODE_PATH", libraries.join("node/node_modules"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
        });
        let input = process.child().stdin.take().unwrap();
        let lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
        let (send, output) = sync_channel(MESSAGES);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let message = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if send.send(message).is_err() {
                    return;
                }
            }
        });
        let mut helper = Self { process, input, output, said: VecDeque::new() };
        // Its connection stands, so that a server which is frozen next is one that has answered.
        helper.hear(|message| message["ready"] == true).unwrap_or_else(|error| panic!("{name}: {error}"));
        helper
    }

    pub(crate) fn tell(&mut self, message: &Value) -> Result<(), String> {
        writeln!(self.input, "{message}").map_err(|error| self.ended(&error.to_string()))
    }

    /// The next message that is wanted; others stay where they are.
    pub(crate) fn hear(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.said.iter().position(&wanted) {
                return Ok(self.said.remove(at).unwrap());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.listen(left)?;
            if left.is_zero() {
                return Err(format!("nothing within {PATIENCE:?}; said: {:?}", self.said));
            }
        }
    }

    /// Waits until `done`, as long as the driver says nothing.
    pub(crate) fn stays_silent_until(&mut self, done: impl Fn() -> bool) -> Result<(), String> {
        const POLL: Duration = Duration::from_millis(10);
        let deadline = Instant::now() + PATIENCE;
        while !done() {
            self.listen(POLL)?;
            self.has_nothing_to_say()?;
            if Instant::now() > deadline {
                return Err(format!("not within {PATIENCE:?}"));
            }
        }
        self.has_nothing_to_say()
    }

    /// Whether everything that was said was asked for.
    pub(crate) fn has_nothing_to_say(&mut self) -> Result<(), String> {
        self.listen(Duration::ZERO)?;
        match self.said.front() {
            None => Ok(()),
            Some(message) => Err(format!("nobody waits for {message}")),
        }
    }

    fn listen(&mut self, within: Duration) -> Result<(), String> {
        match self.output.recv_timeout(within) {
            Ok(message) => self.said.push_back(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(self.ended("its output is at an end")),
        }
        Ok(())
    }

    fn ended(&mut self, why: &str) -> String {
        format!("the driver has ended ({:?}): {why}", self.process.has_ended())
    }
}
