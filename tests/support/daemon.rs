//! The real program: its process, its log, and what it says of itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tidegate::status::{Ledger, RouteState, RouteStatus};

use super::log::{Level, Log, LogLine};
use super::notify::Notifications;
use super::oracle::Oracle;
use super::port::Port;
use super::process::{Guarded, program_next_to_tests};
use super::seen::{Seen, Sighting};
use super::setup::Setup;
use super::wait::eventually;

/// How long a start, a stop or a change of state may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Setup {
    /// Writes the files, makes the users, and runs the daemon without waiting for anything.
    pub(crate) fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start_again();
        daemon
    }

    /// Writes the files and makes the users, for commands that need no daemon.
    pub(crate) fn prepare(self) -> Daemon {
        let directory =
            tempfile::Builder::new().prefix("tidegate-").tempdir().expect("a temporary directory");
        let notifications = Notifications::listen(&directory.path().join("notify.sock"));
        let daemon = Daemon {
            directory,
            port: Port::claim(),
            setup: self,
            process: None,
            log: Log::default(),
            notifications,
            oracle: None,
            runs: 0,
            seen: Mutex::default(),
        };
        daemon.write_configuration();
        daemon.make_users(&[]);
        daemon
    }

    /// Runs the daemon and waits until every route is live.
    pub(crate) fn start_ready(self) -> Daemon {
        let daemon = self.start();
        daemon.wait_ready();
        daemon
    }
}

/// A running daemon and what it wrote.
#[derive(Debug)]
pub(crate) struct Daemon {
    directory: TempDir,
    port: Port,
    setup: Setup,
    process: Option<(Guarded, JoinHandle<()>)>,
    log: Log,
    notifications: Notifications,
    /// Knows how much was published when `/status` was read.
    oracle: Option<Oracle>,
    /// How often it was started before this time.
    runs: usize,
    /// What `/status` said of each capture.
    seen: Mutex<BTreeMap<String, Seen>>,
}

impl Daemon {
    /// The main file.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.path().join("tidegate.toml")
    }

    fn write_configuration(&self) {
        self.setup.write(&self.configuration(), self.port.number(), &self.state_directory());
    }

    /// Gives the users the rights that `tidegate acl` says the configuration needs: exactly these at
    /// first, and these too before a reload, since the old configuration runs until the new one does.
    fn make_users(&self, keep: &[&str]) {
        let output = self.run_command(&self.setup.acl_command());
        assert!(
            output.status.success(),
            "tidegate acl: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        self.setup.make_users(&String::from_utf8_lossy(&output.stdout), keep);
    }

    /// Another instance of the same configuration, with its own port and state directory. Not started.
    pub(crate) fn twin(&self) -> Daemon {
        self.setup.clone().prepare()
    }

    /// Another instance of the same configuration, that runs. Nothing is waited for.
    pub(crate) fn start_twin(&self) -> Daemon {
        let mut twin = self.twin();
        twin.start_again();
        twin
    }

    /// An operator's files for the same routes: no daemon, but commands that run as the users that
    /// `tidegate acl --operator` prints, and may replay onto these channels (`shard:…` with SPUBLISH).
    pub(crate) fn operator(&self, replay_channels: &[&str]) -> Daemon {
        self.setup.of_operator(replay_channels).prepare()
    }

    /// Starts another command of the program with the same configuration, to be killed or waited for. What
    /// it prints goes to a file.
    pub(crate) fn start_command(&self, arguments: &[&str], output: &Path) -> Guarded {
        let file = std::fs::File::create(output).expect("it is writable");
        let errors = file.try_clone().expect("a second handle of the same file");
        Guarded::start("tidegate", &program(), |command| {
            command.args(arguments).arg("--config").arg(self.configuration());
            command.stdin(Stdio::null()).stdout(file).stderr(errors);
        })
    }

    /// Where it serves HTTP.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port.number()).into()
    }

    /// Where it keeps files.
    pub(crate) fn state_directory(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Runs another command of the program with the same configuration, to its end.
    pub(crate) fn run_command(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(program())
            .args(arguments)
            .arg("--config")
            .arg(self.configuration())
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .output()
            .expect("the program starts")
    }

    /// Runs another command of the program on a terminal, to its end, and gives what the terminal was sent.
    pub(crate) fn run_on_terminal(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let command = self.command_of_script(arguments);
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &command, "/dev/null"])
            .env("TERM", "xterm")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .output()
            .expect("script, of bsdutils, is there");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts another command of the program on a terminal. What the terminal is sent goes to a file too.
    pub(crate) fn start_on_terminal(&self, arguments: &[&str], output: &Path) -> Guarded {
        let command = self.command_of_script(arguments);
        Guarded::start("script", Path::new("/usr/bin/script"), |script| {
            script.args(["--quiet", "--flush", "--command", &command]).arg(output);
            script.env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::null());
        })
    }

    /// The command as `script` takes it.
    fn command_of_script(&self, arguments: &[&str]) -> String {
        let words = [program().display().to_string(), "--config".to_owned()]
            .into_iter()
            .chain([self.configuration().display().to_string()])
            .chain(arguments.iter().map(|word| format!("'{word}'")));
        words.collect::<Vec<_>>().join(" ")
    }

    /// Starts it again after a kill, with the same files.
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let configuration = self.configuration();
        let socket = self.directory.path().join("notify.sock");
        let mut process = Guarded::start("tidegate", &program(), |command| {
            command.args(["run", "--config"]).arg(configuration);
            // A harness under systemd must not be taken for the service.
            command.env_remove("JOURNAL_STREAM").env_remove("WATCHDOG_USEC").env("NOTIFY_SOCKET", socket);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        });
        let pipe = process.child().stderr.take().expect("stderr is a pipe");
        let reader = self.log.follow(pipe);
        self.process = Some((process, reader));
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        let (mut process, reader) = self.process.take().expect("it runs");
        process.kill();
        reader.join().expect("the log's reader does not panic");
        for seen in self.seen.get_mut().unwrap_or_else(PoisonError::into_inner).values_mut() {
            seen.killed(self.runs);
        }
        self.runs += 1;
    }

    /// Kills it at once and starts it again.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.stop_within(PATIENCE)
    }

    /// The same under a deadline that the promise itself sets.
    #[track_caller]
    pub(crate) fn stop_within(&mut self, within: Duration) -> ExitStatus {
        let (mut process, reader) = self.process.take().expect("it runs");
        process.signal(Signal::SIGTERM);
        let status = process.wait(within);
        reader.join().expect("the log's reader does not panic");
        self.runs += 1;
        status
    }

    /// Writes other routes into the file and asks the daemon to read it again (SIGHUP).
    pub(crate) fn reload(&mut self, routes: &str) {
        self.set_routes(routes);
        self.process().signal(Signal::SIGHUP);
    }

    /// Writes other routes, and gives the users the rights for them beside those that they have.
    pub(crate) fn set_routes(&mut self, routes: &str) {
        self.setup.set_routes(routes);
        self.write_configuration();
        self.make_users(&["reset", "resetchannels"]);
    }

    /// The same for routes that need no other rights, which works while a server is away; until it has read them.
    #[track_caller]
    pub(crate) fn reload_settings(&mut self, routes: &str) {
        let before = self.logged("reloaded");
        self.begin_reload(routes);
        eventually("it has read its configuration again", PATIENCE, || match self.logged("reloaded") {
            now if now > before => Ok(()),
            _ => Err(self.log.tail()),
        });
    }

    /// Writes routes that need no other rights and asks the daemon to read them, without waiting for it.
    pub(crate) fn begin_reload(&mut self, routes: &str) {
        self.setup.set_routes(routes);
        self.write_configuration();
        self.process().signal(Signal::SIGHUP);
    }

    /// Writes something that is no configuration and asks the daemon to read it (SIGHUP).
    pub(crate) fn reload_broken(&mut self) {
        std::fs::write(self.configuration(), "[capture.orders]\nsource = 1\n").expect("it is writable");
        self.process().signal(Signal::SIGHUP);
    }

    /// What the service manager was told last as `STATUS=`.
    pub(crate) fn last_status(&self) -> Option<String> {
        let lines = self.notifications.lines();
        lines.iter().rev().find_map(|line| line.strip_prefix("STATUS=")).map(str::to_owned)
    }

    /// Waits until the service manager has been told a line such as `READY=1`.
    #[track_caller]
    pub(crate) fn wait_notified(&self, line: &str) {
        eventually(&format!("the service manager hears {line}"), PATIENCE, || {
            let lines = self.notifications.lines();
            if lines.iter().any(|heard| heard == line) { Ok(()) } else { Err(format!("{lines:?}")) }
        });
    }

    /// Writes another password into an endpoint's file, whatever the server knows.
    pub(crate) fn write_password(&mut self, endpoint: &str, password: &str) {
        let file = self.configuration();
        self.setup.set_password(&file, endpoint, password);
    }

    /// Gives an endpoint's user another password, on the server and in the file.
    pub(crate) fn change_password(&mut self, endpoint: &str, password: &str) {
        let file = self.configuration();
        self.setup.set_password(&file, endpoint, password).apply_password();
    }

    pub(crate) fn process(&self) -> &Guarded {
        &self.process.as_ref().expect("it runs").0
    }

    /// Asks one path of the HTTP server: status and body.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String), String> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .new_agent();
        let url = format!("http://127.0.0.1:{}{path}", self.port.number());
        let mut response = agent.get(&url).call().map_err(|error| format!("{url}: {error}"))?;
        let body = response.body_mut().read_to_string().map_err(|error| format!("{url}: {error}"))?;
        Ok((response.status().as_u16(), body))
    }

    /// What `/metrics` says of a route under this name.
    #[track_caller]
    pub(crate) fn metric(&self, route: &str, name: &str) -> u64 {
        let metrics = self.get("/metrics").expect("it answers").1;
        let start = format!("{name}{{route=\"{route}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok());
        value.unwrap_or_else(|| panic!("{name} is missing:\n{metrics}"))
    }

    /// Waits until `/readyz` reports it for all routes.
    #[track_caller]
    pub(crate) fn wait_ready(&self) {
        self.wait_ok("/readyz");
    }

    /// Waits until `/readyz` reports it for one route.
    #[track_caller]
    pub(crate) fn wait_route_ready(&self, route: &str) {
        self.wait_ok(&format!("/readyz?route={route}"));
    }

    #[track_caller]
    fn wait_ok(&self, path: &str) {
        eventually(&format!("{path} answers 200"), PATIENCE, || match self.get(path)? {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status} {body}\n{}", self.log.tail())),
        });
    }

    /// Every route as `/status` shows it.
    pub(crate) fn status(&self) -> Result<Vec<RouteStatus>, String> {
        let (status, body) = self.get("/status")?;
        if status != 200 {
            return Err(format!("/status: {status} {body}"));
        }
        let mut json: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        let routes: Vec<RouteStatus> =
            serde_json::from_value(json["routes"].take()).map_err(|error| format!("{error}: {body}"))?;
        self.note(&routes);
        Ok(routes)
    }

    /// From now on it is noted, with each look at `/status`, how much was published by then.
    pub(crate) fn watch(&mut self, oracle: &Oracle) {
        self.oracle = Some(oracle.clone());
    }

    /// Keeps what `/status` says of captures for the comparison at the end. Ledgers add up at any time.
    #[track_caller]
    fn note(&self, routes: &[RouteStatus]) {
        // Counted after the answer: all that it tells of was published by then.
        let published = self.oracle.as_ref().and_then(Oracle::count);
        for status in routes {
            let Some(mut sighting) = Sighting::of(status, self.runs) else { continue };
            sighting.assert_adds_up(&status.route);
            let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            sighting.published = published;
            all.entry(status.route.clone()).or_default().push(sighting);
        }
    }

    /// What `/status` has said of a capture each time that it was read.
    #[track_caller]
    pub(crate) fn seen(&self, route: &str) -> Seen {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(route).cloned().expect("the test has read /status")
    }

    /// One route as `/status` shows it.
    pub(crate) fn route(&self, name: &str) -> Result<RouteStatus, String> {
        let routes = self.status()?;
        routes.into_iter().find(|route| route.route == name).ok_or_else(|| format!("no route {name}"))
    }

    /// Waits until a route is in a state, and gives what `/status` then says of it.
    #[track_caller]
    pub(crate) fn wait_state(&self, route: &str, state: RouteState) -> RouteStatus {
        self.wait_state_within(PATIENCE, route, state)
    }

    /// Waits until a route is in a state, under a deadline that the promise itself sets.
    #[track_caller]
    pub(crate) fn wait_state_within(&self, within: Duration, route: &str, state: RouteState) -> RouteStatus {
        eventually(&format!("{route} is {}", state.as_str()), within, || {
            let status = self.route(route)?;
            if status.state == state { Ok(status) } else { Err(format!("{status:?}\n{}", self.log.tail())) }
        })
    }

    /// Waits until a route is ready in one of the ways that `/readyz` accepts, and says whether it writes.
    #[track_caller]
    pub(crate) fn wait_leader(&self, route: &str) {
        eventually(&format!("this instance writes {route}"), PATIENCE, || {
            let status = self.route(route)?;
            if status.leader { Ok(()) } else { Err(format!("{status:?}\n{}", self.log.tail())) }
        });
    }

    /// Waits until `/status` counts that many messages received and none buffered. The board is written now and
    /// then, so it may lag behind the stream.
    #[track_caller]
    pub(crate) fn wait_settled(&self, route: &str, received: usize) -> Ledger {
        eventually(&format!("{route} has dealt with {received} messages"), PATIENCE, || {
            let status = self.route(route)?;
            let ledger = status.counts.ok_or("no ledger: not a capture")?;
            let settled = ledger.buffered == 0 && ledger.received == received as u64;
            if settled { Ok(ledger) } else { Err(format!("{ledger:?}\n{}", self.log.tail())) }
        })
    }

    pub(crate) fn log(&self) -> Vec<LogLine> {
        self.log.lines()
    }

    /// How many lines have this `event=` code.
    pub(crate) fn logged(&self, event: &str) -> usize {
        self.log.lines().iter().filter(|line| line.event.as_deref() == Some(event)).count()
    }

    /// Waits until a line with one of these `event=` codes has been written at WARN or ERROR.
    #[track_caller]
    pub(crate) fn wait_alert(&self, events: &[&str]) -> LogLine {
        eventually(&format!("an alert, event={events:?}"), PATIENCE, || {
            let announced =
                |line: &LogLine| line.event.as_deref().is_some_and(|event| events.contains(&event));
            let mut lines = self.log.lines().into_iter();
            lines.find(|line| line.level > Level::Quiet && announced(line)).ok_or_else(|| self.log.tail())
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some((mut process, reader)) = self.process.take() {
            process.kill();
            drop(reader.join());
        }
        if std::thread::panicking() {
            eprintln!("the daemon's last lines:\n{}", self.log.tail());
            return;
        }
        let unexpected: Vec<_> = self
            .log
            .lines()
            .into_iter()
            .filter(|line| line.level > Level::Quiet)
            .filter(|line| line.event.as_ref().is_none_or(|event| !self.setup.announced(event)))
            .map(|line| line.text)
            .collect();
        assert!(
            unexpected.is_empty(),
            "WARN or ERROR lines that the test did not announce:\n{}",
            unexpected.join("\n")
        );
    }
}

/// The program under test. Cargo names it to tests and benches; an example finds it beside itself.
fn program() -> PathBuf {
    let program = option_env!("CARGO_BIN_EXE_tidegate")
        .map_or_else(|| program_next_to_tests("tidegate"), PathBuf::from);
    assert!(
        program.exists(),
        "tidegate is not built: {} is missing; `make demo` builds it for the demo, `make test` for tests, and \
         `make bench-smoke` for benches",
        program.display()
    );
    program
}
