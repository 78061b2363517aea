//! A real Redis or Valkey server of the test's own.

use std::collections::HashMap;
use std::fmt;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use redis::{Client, Connection, FromRedisValue};
use tempfile::TempDir;

use super::certificates::{Authority, Pair};
use super::over_tls::{self, SharedCertificate};
use super::port::Port;
use super::process::Guarded;
use super::wait::eventually;

/// How long a server may take to start; a loaded machine needs more than Redis does.
const START: Duration = Duration::from_secs(60);
/// How long a stream may take to grow, whatever was done to those who write it.
const GROWTH: Duration = Duration::from_secs(120);

/// The servers that tidegate is tested against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Redis62,
    Redis70,
    Redis82,
    Valkey80,
    Valkey91,
}

impl Version {
    /// Every server, for what a source must do.
    pub(crate) const SOURCES: [Self; 5] =
        [Self::Redis62, Self::Redis70, Self::Redis82, Self::Valkey80, Self::Valkey91];
    /// The servers that know `#!lua`, for what a destination must do.
    pub(crate) const DESTINATIONS: [Self; 4] = [Self::Redis70, Self::Redis82, Self::Valkey80, Self::Valkey91];

    fn directory(self) -> &'static str {
        match self {
            Self::Redis62 => "redis-6.2",
            Self::Redis70 => "redis-7.0",
            Self::Redis82 => "redis-8.2",
            Self::Valkey80 => "valkey-8.0",
            Self::Valkey91 => "valkey-9.1",
        }
    }

    /// The server's program.
    pub(crate) fn program(self) -> PathBuf {
        let name = self.directory();
        let program = servers().join(name).join("server");
        assert!(program.exists(), "{name} is not installed: run scripts/servers.sh");
        program
    }
}

/// Where the servers are: under target/, which is somewhere above the test's own program.
pub(super) fn servers() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own path");
    let mut above = own.ancestors().map(|directory| directory.join("servers"));
    above.find(|servers| servers.exists()).expect("the servers are installed by scripts/servers.sh")
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.directory())
    }
}

/// How a server is to be started.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    arguments: Vec<String>,
    tcp: bool,
    cluster: bool,
    sentinel: bool,
    tls: bool,
    /// What the harness has given it, where everything runs over TLS.
    shared: Option<&'static SharedCertificate>,
}

impl Options {
    /// Adds a setting, as on the server's command line: `with("maxmemory", "64mb")`.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([format!("--{name}"), value.to_owned()]);
        self
    }

    /// Gives a command another name, as managed services do; its own is then unknown.
    #[must_use]
    pub(crate) fn renamed(mut self, command: &str) -> Self {
        let other = format!("other-{command}");
        self.arguments.extend(["--rename-command".to_owned(), command.to_owned(), other]);
        self
    }

    /// Listens on a TCP port too, and lets the daemon use that.
    #[must_use]
    pub(crate) fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Is a node of a cluster.
    #[must_use]
    pub(crate) fn cluster(mut self) -> Self {
        self.cluster = true;
        self.with("cluster-enabled", "yes").tcp()
    }

    /// Speaks TLS on its port, and nothing else: Debian's server only, the others are built without. A client must
    /// show a certificate of the authority where `clients` is "yes".
    #[must_use]
    pub(crate) fn tls(self, authority: &Authority, own: &Pair, clients: &str) -> Self {
        self.encrypted(&authority.certificate(), own, clients)
    }

    fn encrypted(mut self, authority: &Path, own: &Pair, clients: &str) -> Self {
        self.tls = true;
        self.with("tls-cert-file", &own.certificate.display().to_string())
            .with("tls-key-file", &own.key.display().to_string())
            .with("tls-ca-cert-file", &authority.display().to_string())
            .with("tls-auth-clients", clients)
            .tcp()
    }

    /// Speaks TLS also to its master, replicas and sentinels.
    fn over_tls(mut self, shared: &'static SharedCertificate) -> Self {
        self.shared = Some(shared);
        self.encrypted(&shared.authority, &shared.pair, "no").with("tls-replication", "yes")
    }

    /// A source whose replication stream is read: no wait before the first snapshot, and a backlog that is large
    /// enough.
    #[must_use]
    pub(crate) fn replication_source() -> Self {
        Self::default()
            .with("repl-diskless-sync-delay", "0")
            .with("repl-diskless-sync", "yes")
            .with("repl-backlog-size", "64mb")
    }

    /// An append-only file that is written and flushed before every reply.
    #[must_use]
    pub(crate) fn durable(self) -> Self {
        self.with("appendonly", "yes").with("appendfsync", "always")
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    directory: TempDir,
    program: PathBuf,
    options: Options,
    port: Option<Port>,
    process: Guarded,
    client: Client,
}

impl Server {
    /// Starts a server that holds nothing.
    pub(crate) fn start(version: Version) -> Self {
        Self::with(version, Options::default())
    }

    /// Starts a server with options.
    pub(crate) fn with(version: Version, options: Options) -> Self {
        let options = match over_tls::certificate_for(version) {
            Some(shared) if !options.tls => options.over_tls(shared),
            _ => options,
        };
        Self::of_program(version.program(), options)
    }

    /// Starts a replica, and waits until it has everything. The master must have a port.
    pub(crate) fn replica_of(master: &Self, version: Version, options: Options) -> Self {
        let port = master.port().expect("a replica reaches its master by TCP");
        let server = Self::with(version, options.tcp());
        server.ask::<()>(&["REPLICAOF", "127.0.0.1", &port.to_string()]);
        server.wait_linked();
        server
    }

    /// Starts a Sentinel that watches a master; one is enough to see.
    pub(crate) fn sentinel(version: Version, name: &str, master: &Self) -> Self {
        Self::sentinel_with(version, name, master, 1, Options::default())
    }

    /// Starts sentinels that watch a master, fail over soon, and know each other and this number of its replicas.
    pub(crate) fn sentinels(version: Version, name: &str, master: &Self, replicas: usize) -> [Self; 3] {
        let sentinels = [(); 3].map(|()| Self::sentinel_with(version, name, master, 2, Options::default()));
        for sentinel in &sentinels {
            eventually("the sentinels know each other and the replicas", START, || {
                let known: HashMap<String, String> = sentinel.ask(&["SENTINEL", "MASTER", name]);
                let count = |field: &str| known.get(field).and_then(|text| text.parse().ok()).unwrap_or(0);
                match (count("num-other-sentinels"), count("num-slaves")) {
                    (2, found) if found == replicas => Ok(()),
                    found => Err(format!("{found:?}")),
                }
            });
        }
        sentinels
    }

    /// Starts a sentinel that fails over soon, with a quorum: a master that is silent for two seconds is dead.
    pub(crate) fn sentinel_with(
        version: Version,
        name: &str,
        master: &Self,
        quorum: usize,
        options: Options,
    ) -> Self {
        let port = master.port().expect("Sentinel reaches it by TCP").to_string();
        let server = Self::with(version, Options { sentinel: true, ..options }.tcp());
        server.ask::<()>(&["SENTINEL", "MONITOR", name, "127.0.0.1", &port, &quorum.to_string()]);
        server.ask::<()>(&["SENTINEL", "SET", name, "failover-timeout", "5000"]);
        server.set_down_after(name, Duration::from_secs(2));
        server
    }

    /// Sets how long a server may not answer before this sentinel takes it for dead.
    #[track_caller]
    pub(crate) fn set_down_after(&self, name: &str, silence: Duration) {
        let millis = silence.as_millis().to_string();
        self.ask::<()>(&["SENTINEL", "SET", name, "down-after-milliseconds", &millis]);
    }

    /// Asks this sentinel for a failover, as soon as it knows a replica that it may promote.
    #[track_caller]
    pub(crate) fn fail_over(&self, name: &str) {
        eventually("the sentinel takes the failover", START, || {
            match self.try_ask::<()>(&["SENTINEL", "FAILOVER", name]) {
                // It has not heard from the replica itself yet.
                Err(error) if error.code() == Some("NOGOODSLAVE") => Err(error.to_string()),
                answer => {
                    answer.unwrap_or_else(|error| panic!("SENTINEL FAILOVER {name}: {error}"));
                    Ok(())
                }
            }
        });
    }

    /// Waits until a replica's link to its master is up.
    pub(crate) fn wait_linked(&self) {
        eventually("the replica is linked", START, || {
            // A server closes its connections when its role changes.
            let info: String = self.try_ask(&["INFO", "replication"]).map_err(|error| error.to_string())?;
            if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
        });
    }

    /// How far its replication stream goes.
    pub(crate) fn replication_offset(&self) -> u64 {
        self.info("replication", "master_repl_offset")
    }

    /// A number that the server tells of itself: `info("stats", "sync_full")`.
    #[track_caller]
    pub(crate) fn info(&self, section: &str, name: &str) -> u64 {
        let info: String = self.ask(&["INFO", section]);
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = value.and_then(|value| value.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{name} is no number in\n{info}"))
    }

    /// How often a command was called; a subcommand is written as `xinfo|groups`.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let info: String = self.ask(&["INFO", "commandstats"]);
        let start = format!("cmdstat_{command}:calls=");
        let rest = info.lines().find_map(|line| line.strip_prefix(&start));
        rest.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// The ids of the connections whose line in CLIENT LIST has this text: `clients(":orders:subscribe")`.
    pub(crate) fn clients(&self, text: &str) -> Vec<String> {
        let list: String = self.ask(&["CLIENT", "LIST"]);
        let ids = list.lines().filter(|line| line.contains(text));
        ids.filter_map(|line| Some(line.strip_prefix("id=")?.split(' ').next()?.to_owned())).collect()
    }

    /// Ends one connection, if it has not ended by itself meanwhile.
    pub(crate) fn end_client(&self, id: &str) {
        drop(self.try_ask::<usize>(&["CLIENT", "KILL", "ID", id]));
    }

    /// Lets the server take this number of bytes more than it has.
    pub(crate) fn limit_memory(&self, more: u64) {
        let limit = self.info("memory", "used_memory") + more;
        self.ask::<()>(&["CONFIG", "SET", "maxmemory", &limit.to_string()]);
    }

    /// Waits until this replica has all that its master has; nothing must be written meanwhile.
    pub(crate) fn wait_caught_up_with(&self, master: &Self) {
        eventually("the replica has everything", START, || {
            match (self.replication_offset(), master.replication_offset()) {
                (own, all) if own == all => Ok(()),
                (own, all) => Err(format!("{own} of {all}")),
            }
        });
    }

    /// Starts a server from any program that behaves like redis-server.
    pub(crate) fn of_program(program: PathBuf, options: Options) -> Self {
        let directory =
            tempfile::Builder::new().prefix("tidegate-").tempdir().expect("a temporary directory");
        // Users survive a restart of the server only in a file.
        std::fs::write(directory.path().join("users.acl"), "user default on nopass ~* &* +@all\n")
            .expect("the temporary directory is writable");
        let claim = if options.cluster { Port::claim_of_cluster } else { Port::claim };
        let port = options.tcp.then(claim);
        let process = launch(&program, directory.path(), port.as_ref(), &options);
        let socket = directory.path().join("redis.sock");
        let client = Client::open(format!("redis+unix://{}", socket.display())).expect("a valid URL");
        let server = Self { directory, program, options, port, process, client };
        server.wait_until_it_answers();
        server
    }

    fn wait_until_it_answers(&self) {
        eventually(&format!("{} answers PING", self.program.display()), START, || {
            let mut connection =
                self.client.get_connection().map_err(|error| format!("{error}\n{}", self.log()))?;
            redis::cmd("PING").query::<String>(&mut connection).map_err(|error| error.to_string())
        });
    }

    /// What the server itself wrote.
    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("server.log")).unwrap_or_default()
    }

    /// Where the server keeps its files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// The TCP port, where one was asked for.
    pub(crate) fn port(&self) -> Option<u16> {
        self.port.as_ref().map(Port::number)
    }

    /// The URL for the daemon's configuration, by TCP where the server has a port.
    pub(crate) fn url(&self, user: &str) -> String {
        match self.port() {
            Some(port) if self.options.tls => format!("rediss://{user}@127.0.0.1:{port}/0"),
            Some(port) => format!("redis://{user}@127.0.0.1:{port}/0"),
            None => format!("redis+unix://{}?user={user}", self.socket().display()),
        }
    }

    /// What an endpoint must say beside the url to reach it: nothing but where everything runs over TLS.
    pub(super) fn settings(&self) -> String {
        self.options.shared.map(SharedCertificate::table).unwrap_or_default()
    }

    pub(crate) fn process(&self) -> &Guarded {
        &self.process
    }

    /// A connection as the all-powerful default user, for the test's own questions.
    #[track_caller]
    pub(crate) fn connection(&self) -> Connection {
        self.client
            .get_connection()
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.program.display(), self.log()))
    }

    /// Something that a publisher's thread can connect with.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Asks one command: `ask(&["XLEN", "orders"])`.
    #[track_caller]
    pub(crate) fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_ask(command).unwrap_or_else(|error| panic!("{}: {error}", command.join(" ")))
    }

    /// Asks one command that may fail, on a connection of its own.
    pub(crate) fn try_ask<T: FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let mut connection = self.client.get_connection()?;
        let mut request = redis::Cmd::new();
        for word in command {
            request.arg(word);
        }
        request.query(&mut connection)
    }

    /// Kills it at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again with the same files and settings, after a kill.
    pub(crate) fn start_again(&mut self) {
        // A killed server leaves its socket file behind, and would be taken for running.
        drop(std::fs::remove_file(self.socket()));
        self.repair();
        self.process = launch(&self.program, self.directory.path(), self.port.as_ref(), &self.options);
        self.wait_until_it_answers();
    }

    /// Cuts half a transaction off the end of the append-only file, as an operator does after a crash. Redis up to 8.2
    /// and Valkey 8.0 leave it there, and execute it at the start after the next one (valkey-io/valkey#4342).
    fn repair(&self) {
        let manifest = self.directory.path().join("appendonlydir/appendonly.aof.manifest");
        let program = self.program.to_string_lossy();
        if !manifest.exists() || program.contains(Version::Valkey91.directory()) {
            return;
        }
        let name = if program.contains("valkey") { "valkey-check-aof" } else { "redis-check-aof" };
        let mut tool = Command::new(&self.program);
        tool.arg0(name).arg("--fix").arg(&manifest).stdin(Stdio::piped());
        let mut tool = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tool starts");
        // It asks where there is something to cut, and may have ended where there is nothing.
        drop(tool.stdin.take().expect("stdin is a pipe").write_all(b"y\n"));
        let output = tool.wait_with_output().expect("the tool ends");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {said}");
    }

    /// Kills it and starts it again with the same files.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Stops it as a debugger would: connections stay open and nothing answers.
    pub(crate) fn freeze(&self) {
        self.process.signal(Signal::SIGSTOP);
    }

    /// Lets a frozen server continue.
    pub(crate) fn thaw(&self) {
        self.process.signal(Signal::SIGCONT);
    }

    /// Number of entries of a stream; none for a key that does not exist.
    pub(crate) fn stream_length(&self, stream: &str) -> usize {
        self.ask(&["XLEN", stream])
    }

    /// Adds entries to a stream in a thread, a pipeline at a time: `fields` gives those of each, counted from 0.
    pub(crate) fn adding<const N: usize>(
        &self,
        stream: &'static str,
        entries: usize,
        fields: impl Fn(usize) -> [String; N] + Send + 'static,
    ) -> JoinHandle<()> {
        const PIPELINE: usize = 20;
        let mut connection = self.connection();
        std::thread::spawn(move || {
            for first in (0..entries).step_by(PIPELINE) {
                let mut pipeline = redis::pipe();
                for number in first..(first + PIPELINE).min(entries) {
                    pipeline.cmd("XADD").arg(stream).arg("*").arg(&fields(number)).ignore();
                }
                pipeline.exec(&mut connection).expect("entries are added");
            }
        })
    }

    /// Waits until more than this number of entries is added to a stream that nothing is taken from.
    #[track_caller]
    pub(crate) fn wait_longer(&self, stream: &str, entries: usize) {
        let before = self.stream_length(stream);
        eventually("appends go on", GROWTH, || match self.stream_length(stream) {
            now if now > before + entries => Ok(()),
            now => Err(format!("{now} entries after {before}")),
        });
    }
}

fn launch(program: &Path, directory: &Path, port: Option<&Port>, options: &Options) -> Guarded {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("server.log"))
        .expect("the temporary directory is writable");
    let errors = log.try_clone().expect("a second handle of the same file");
    Guarded::start("server", program, |command| {
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir(directory);
        if options.sentinel {
            // It keeps what it learns in its own file.
            std::fs::write(directory.join("sentinel.conf"), "").expect("the temporary directory is writable");
            command.args(["sentinel.conf", "--sentinel"]);
        } else {
            command.args(["--save", "", "--aclfile", "users.acl"]);
        }
        command.args(["--daemonize", "no", "--bind", "127.0.0.1"]);
        command.arg("--dir").arg(directory);
        command.arg("--unixsocket").arg(directory.join("redis.sock"));
        let number = port.map_or(0, Port::number).to_string();
        let listen =
            if options.tls { ["--tls-port", &number, "--port", "0"] } else { ["--port", &number, "", ""] };
        command.args(listen.iter().filter(|word| !word.is_empty()));
        command.args(&options.arguments);
    })
}
