//! A real server, for tests inside the crate that compare a model of it with it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Hash;

/// Ends with the test.
pub(crate) struct RealServer {
    process: Child,
    pub(crate) connection: redis::Connection,
    _directory: tempfile::TempDir,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl RealServer {
    /// Starts one of the servers that `scripts/servers.sh` brings.
    pub(crate) fn start(version: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let program = own.ancestors().map(|above| above.join("servers").join(version).join("server"));
        let program = program.into_iter().find(|path| path.exists());
        let program = program.unwrap_or_else(|| panic!("{version} is not installed: scripts/servers.sh"));
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("redis.sock");
        let process = Command::new(program)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let client = redis::Client::open(format!("redis+unix://{}", socket.display())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let connection = loop {
            match client.get_connection() {
                Ok(connection) => break connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Self { process, connection, _directory: directory }
    }

    /// Loads a script.
    pub(crate) fn load(&mut self, source: &str) -> Hash {
        let mut load = redis::cmd("SCRIPT");
        let hash: String = load.arg("LOAD").arg(source).query(&mut self.connection).unwrap();
        hash.into_bytes().try_into().unwrap()
    }

    /// Loads a script that asks for the model's time in place of the server's: see [`RealServer::set_time`].
    pub(crate) fn load_without_clock(&mut self, source: &str) -> Hash {
        self.load(&Self::without_clock(source))
    }

    /// A script that asks for the model's time.
    pub(crate) fn without_clock(source: &str) -> String {
        source.replace("redis.call('TIME')", "redis.call('MGET', 'now:s', 'now:us')")
    }

    /// What such scripts are told.
    pub(crate) fn set_time(&mut self, clock_ms: u64) {
        let (seconds, micros) = ((clock_ms / 1_000).to_string(), (clock_ms % 1_000 * 1_000).to_string());
        self.ask(&["MSET", "now:s", &seconds, "now:us", &micros]);
    }

    /// Sends a command that must not fail.
    pub(crate) fn ask(&mut self, command: &[&str]) {
        let value = redis::cmd(command[0]).arg(&command[1..]).query::<redis::Value>(&mut self.connection);
        value.unwrap();
    }
}
