//! Promise: what a server says does not bring a password or a payload into a log, a status or a terminal, and the
//! user that is named is the user that is used.

use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{Guarded, Options, Server, Setup, Version, alert, assert_eventually};

const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that the daemon tells of itself.
fn told(daemon: &crate::support::Daemon) -> String {
    let lines: Vec<String> = daemon.log().into_iter().map(|line| line.text).collect();
    let answers = ["/status", "/readyz", "/healthz", "/metrics"]
        .map(|path| daemon.get(path).map(|(_, body)| body).unwrap_or_default());
    format!("{}\n{}", lines.join("\n"), answers.join("\n"))
}

#[test]
fn a_server_that_quotes_the_handshake_gives_no_password_away() {
    for version in Version::SOURCES {
        let shop = Server::with(version, Options::default().renamed("HELLO"));
        let events = Server::start(Version::Redis70);
        let daemon = Setup::orders(&shop, &events)
            .expects(&[alert::SOURCE, alert::BLOCKED, alert::GAP, &["heartbeat_failed"]])
            .start();
        assert_eventually("it says what is missing", PATIENCE, true, || {
            told(&daemon).contains("does not know the command HELLO")
        });
        // Some servers now look at the user before the command.
        shop.ask::<()>(&["ACL", "SETUSER", "default", "off"]);
        let check = daemon.run_command(&["check", "--connect"]);
        let check = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(check.contains("does not know the command HELLO"), "{version}: {check}");
        for text in [told(&daemon), check] {
            assert!(!text.contains("first-shop"), "{version}: {text}");
        }
    }
}

#[test]
fn a_server_that_quotes_a_command_gives_no_payload_away() {
    let events = Server::start(Version::Redis82);
    let shop = Server::with(Version::Redis82, Options::default().renamed("PUBLISH"));
    events.ask::<String>(&["XADD", "orders", "*", "payload", "a-private-payload"]);
    let daemon = Setup::new()
        .endpoint("events", &events)
        .endpoint("shop", &shop)
        .routes(
            r#"
            [broadcast.stock]
            source = "events"
            stream = "orders"
            destination = "shop"
            channel = "stock"
            start = "beginning"
            "#,
        )
        .expects(&[alert::BLOCKED, alert::DESTINATION])
        .start();
    let status = daemon.wait_state("stock", RouteState::Blocked);
    let text = told(&daemon);
    assert!(text.contains("does not know the command PUBLISH"), "{status:?}");
    assert!(!text.contains("a-private-payload"), "{text}");
}

#[test]
fn a_user_without_a_password_is_that_user_and_not_the_default_one() {
    for version in Version::DESTINATIONS {
        let server = Server::start(version);
        // The default user may do everything.
        server.ask::<()>(&["ACL", "SETUSER", "poor", "reset", "on", "nopass", "+multi", "+info"]);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tidegate.toml");
        let toml = format!(
            "[redis.main]\nurl = \"redis+unix://{}?user=poor\"\n[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\n\
             destination = \"main\"\nstream = \"orders\"\nkeep = \"forever\"\n",
            server.socket().display()
        );
        std::fs::write(&file, toml).unwrap();
        let program = env!("CARGO_BIN_EXE_tidegate");
        let check = std::process::Command::new(program)
            .args(["check", "--connect", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&check.stdout).into_owned();
        assert_eq!(check.status.code(), Some(69), "{version}: {report}");
        assert!(report.contains("NOPERM"), "{version}: {report}");
    }
}

#[test]
fn a_password_that_others_can_read_is_told_and_the_limit_of_open_files_is_raised() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::orders(&server, &server).prepare();
    let directory = daemon.configuration().parent().unwrap().to_owned();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(directory.join("shop.pass"), readable).unwrap();
    let log = directory.join("log");
    let mut process = Guarded::start("tidegate", "/bin/sh".as_ref(), |command| {
        command.args(["-c", "ulimit -S -n 256; exec \"$0\" run --config \"$1\""]);
        command.arg(env!("CARGO_BIN_EXE_tidegate")).arg(daemon.configuration());
        command.env_remove("JOURNAL_STREAM").stderr(std::fs::File::create(&log).unwrap());
    });
    daemon.wait_ready();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let limits: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(limits[3], limits[4], "the soft limit and the hard one");
    process.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(process.wait(PATIENCE).code(), Some(0));
    let told = std::fs::read_to_string(&log).unwrap();
    let told: Vec<&str> = told.lines().filter(|line| line.contains("secret_readable")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    let words = format!(
        "redis.shop.password_file: every user of this machine can read {}/shop.pass (mode 0644)",
        directory.display()
    );
    assert!(told[0].contains(&words), "{told:?}");
}

#[test]
fn a_password_in_the_url_of_a_file_that_others_can_read_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let url = "redis://tidegate:hunter2@127.0.0.1:1";
    let routes = "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
                  stream = \"orders\"\nkeep = \"forever\"\n";
    let check = |mode: u32, in_file: bool| {
        let written = if in_file { url } else { "redis://127.0.0.1:1" };
        std::fs::write(&file, format!("[redis.main]\nurl = \"{written}\"\n{routes}")).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
        if !in_file {
            command.env("TIDEGATE_REDIS__MAIN__URL", url);
        }
        let output = command.args(["check", "--config"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    let told = format!(
        "warning: redis.main.url: every user of this machine can read {} (mode 0644); put the password into a \
         password_file, or run chmod 640",
        file.display()
    );
    let said = check(0o644, true);
    assert!(said.contains(&told), "{said}");
    for said in [check(0o640, true), check(0o644, false)] {
        assert!(!said.contains("every user of this machine"), "{said}");
    }
}
