//! Promise: what is held in memory during an outage stays below the limit of the control group, so that the kernel
//! does not kill the daemon with all of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Guarded, Port, Server, Version, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: u64 = 64 << 20;

/// A control group of version 1 below the test's own, with a limit of memory. `None` where this user may make none, or
/// the hierarchy is version 2, where a group that has processes has none below it.
struct Group(PathBuf);

impl Group {
    fn make(name: &str) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = groups.lines().find_map(|line| line.split_once(":memory:"))?.1;
        let name = format!("tidegate-{name}-{}", std::process::id());
        let path = Path::new("/sys/fs/cgroup/memory").join(own.strip_prefix('/')?).join(name);
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        fs::write(group.0.join("memory.limit_in_bytes"), LIMIT.to_string()).ok()?;
        Some(group)
    }

    /// How often the limit was reached and something had to be killed for it.
    fn kills(&self) -> String {
        let text = fs::read_to_string(self.0.join("memory.oom_control")).unwrap();
        text.lines().find(|line| line.starts_with("oom_kill ")).unwrap_or("oom_kill 0").to_owned()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes may still be ending; an empty group costs nothing.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The program with these arguments, in the group where there is one.
fn program(group: Option<&Group>, prepare: impl FnOnce(&mut Command)) -> Guarded {
    let enter =
        group.map_or_else(String::new, |group| format!("echo $$ > '{}/cgroup.procs' && ", group.0.display()));
    let command = format!("{enter}exec '{}' \"$@\"", env!("CARGO_BIN_EXE_tidegate"));
    Guarded::start("tidegate", Path::new("/bin/sh"), |shell| {
        shell.args(["-c", &command, "tidegate"]).stdin(Stdio::null()).env_remove("NOTIFY_SOCKET");
        prepare(shell);
    })
}

fn status(port: &Port) -> Result<Value, String> {
    let address = ([127, 0, 0, 1], port.number()).into();
    let (_, body) = tidegate::observe::client::get(address, "/status").map_err(|error| error.to_string())?;
    serde_json::from_str(&body).map_err(|error| error.to_string())
}

/// More is published while the destination is away than the group may use.
#[test]
fn an_outage_in_a_small_control_group_gets_nothing_killed() {
    const BATCHES: u64 = 80;
    const BATCH: u64 = 1_000;
    let group = Group::make("outage");
    let source = Server::start(Version::Redis70);
    let (port, place) = (Port::claim(), tempfile::tempdir().unwrap());
    let file = place.path().join("tidegate.toml");
    let toml = format!(
        "[daemon]\nlisten = \"127.0.0.1:{}\"\nstate_directory = \"{}\"\nspool.limit = \"0B\"\n\
         [redis.shop]\nurl = \"{}\"\n[redis.events]\nurl = \"redis+unix:///nonexistent/events.sock\"\n\
         [capture.orders]\nsource = \"shop\"\nchannels = [\"orders\"]\ndestination = \"events\"\n\
         stream = \"orders\"\nkeep = \"forever\"\n",
        port.number(),
        place.path().join("state").display(),
        source.url("default"),
    );
    fs::write(&file, &toml).unwrap();
    let log = fs::File::create(place.path().join("log")).unwrap();
    let mut daemon = program(group.as_ref(), |command| {
        command.args(["run", "--config"]).arg(&file).stderr(log);
    });
    let connected = |status: &Value| status["routes"][0]["source"]["connected"] == true;
    let shown = eventually("the capture listens", PATIENCE, || match status(&port)? {
        status if connected(&status) => Ok(status),
        status => Err(status.to_string()),
    });
    let expected = if group.is_some() { LIMIT / 2 } else { 256 << 20 };
    assert_eq!(shown["daemon"]["memory_limit_bytes"], expected, "half of what the group may use");

    let script = format!("for _ = 1, {BATCH} do redis.call('PUBLISH', 'orders', string.rep('x', 1024)) end");
    for batch in 1..=BATCHES {
        source.ask::<Option<String>>(&["EVAL", &script, "0"]);
        let full =
            |status: &Value| !connected(status) || status["routes"][0]["gap_open_since_unix_ms"].is_u64();
        eventually("it has read the batch, or holds as much as it may", PATIENCE, || {
            let ended = daemon.has_ended();
            assert!(ended.is_none(), "{ended:?} {:?}", group.as_ref().map(Group::kills));
            let status = status(&port)?;
            let received = status["routes"][0]["process_counts"]["received"].as_u64().unwrap_or(0);
            if received >= batch * BATCH || full(&status) { Ok(()) } else { Err(status.to_string()) }
        });
    }
    if let Some(group) = &group {
        assert_eq!(group.kills(), "oom_kill 0");
        // A limit above that of the group is told, at the start and by `check`.
        fs::write(&file, toml.replace("[daemon]", "[daemon]\nmemory_limit = \"256MiB\"")).unwrap();
        let output = fs::File::create(place.path().join("checked")).unwrap();
        let mut check = program(Some(group), |command| {
            command.args(["check", "--config"]).arg(&file).stdout(output);
        });
        assert_eq!(check.wait(PATIENCE).code(), Some(0));
        let said = fs::read_to_string(place.path().join("checked")).unwrap();
        assert!(said.contains("warning: daemon.memory_limit is 256 MiB, but the control group"), "{said}");
        daemon.kill();
        let log = fs::File::create(place.path().join("log")).unwrap();
        let _daemon = program(Some(group), |command| {
            command.args(["run", "--config"]).arg(&file).stderr(log);
        });
        eventually("the log tells of the limit", PATIENCE, || {
            let log = fs::read_to_string(place.path().join("log")).unwrap();
            if log.contains("configuration_warning") { Ok(()) } else { Err(log) }
        });
    }
}
