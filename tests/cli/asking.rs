//! Promise: what only asks the daemon needs its address alone, and no command needs a secret that it does not use.

use super::*;
use support::{Guarded, Port};

const ROUTE: &str = "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
                     stream = \"orders\"\nkeep = \"forever\"\n";

/// The daemon is healthy after a reload that it refused, and must not be killed for it.
#[test]
fn a_refused_reload_and_a_lost_secret_leave_a_healthy_daemon_healthy() {
    let server = Server::start(Version::Redis70);
    let mut daemon =
        Setup::new().endpoint("main", &server).routes(ROUTE).expects(&[alert::RELOAD]).start_ready();
    for broken in ["[capture.orders]\nsource = 1\nkeep = \"for ever\"\n", "[capture.orders\nsource = {\n"] {
        daemon.begin_reload(broken);
        daemon.wait_alert(alert::RELOAD);
        fs::remove_file(daemon.configuration().with_file_name("main.pass")).unwrap();
        for command in [&["healthcheck"][..], &["status"], &["wait", "--timeout", "20s"]] {
            printed(&daemon.run_command(command), OK);
        }
        // The same file is refused where its content matters.
        printed(&daemon.run_command(&["check"]), CONFIGURATION);
    }
    // What runs is said, and that the file is not it.
    eventually("STATUS says that the reload was refused", Duration::from_secs(20), || {
        match daemon.last_status() {
            Some(status) if status.contains(" failed (") && status.starts_with("1 of 1 routes ready") => {
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
    let (_, report) = daemon.get("/status").unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["daemon"]["reload_failed"]["problems"].as_u64() >= Some(1), "{report}");
    // Without any file at all the address may come from the environment.
    let listen = daemon.address();
    let unnamed = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["healthcheck", "--config", "/nonexistent/tidegate.toml"])
        .env("TIDEGATE_DAEMON__LISTEN", listen.to_string())
        .output()
        .unwrap();
    printed(&unnamed, OK);
    // Where nobody answers, it is said that the address may be another one.
    daemon.kill();
    fs::remove_file(daemon.configuration()).unwrap();
    let port = Port::claim();
    fs::create_dir(daemon.configuration().with_file_name("conf.d")).unwrap();
    let fragment = daemon.configuration().with_file_name("conf.d").join("10.toml");
    fs::write(&fragment, format!("[daemon]\nlisten = \"127.0.0.1:{}\"\n[daemon]\n", port.number())).unwrap();
    let output = daemon.run_command(&["healthcheck"]);
    printed(&output, UNAVAILABLE);
    let said = text(&output.stderr);
    assert!(said.contains(&format!("127.0.0.1:{}", port.number())), "{said}");
}

/// `LoadCredential=main.pass:/etc/tidegate/credentials/main.pass`: a shell has no $CREDENTIALS_DIRECTORY.
#[test]
fn commands_find_a_credential_in_a_shell_and_do_not_ask_for_one_that_they_do_not_use() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new().endpoint("main", &server).routes(ROUTE).prepare();
    let secret = daemon.configuration().with_file_name("main.pass");
    let credentials = secret.with_file_name("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::rename(&secret, credentials.join("main.pass")).unwrap();
    for command in [&["check"][..], &["check", "--connect"], &["gaps"], &["acl"]] {
        printed(&daemon.run_command(command), OK);
    }
    fs::remove_dir_all(&credentials).unwrap();
    for command in [&["acl"][..], &["spool", "verify"]] {
        printed(&daemon.run_command(command), OK);
    }
    printed(&daemon.run_command(&["check"]), CONFIGURATION);
    let output = daemon.run_command(&["gaps"]);
    printed(&output, UNAVAILABLE);
    assert!(text(&output.stderr).contains("main.pass cannot be read"), "{}", text(&output.stderr));
}

/// As a container has it: no file anywhere.
#[test]
fn the_environment_alone_runs_a_daemon() {
    let server = Server::start(Version::Redis70);
    let (port, state) = (Port::claim(), tempfile::tempdir().unwrap());
    let variables = [
        ("TIDEGATE_DAEMON__LISTEN", format!("127.0.0.1:{}", port.number())),
        ("TIDEGATE_DAEMON__STATE_DIRECTORY", state.path().display().to_string()),
        ("TIDEGATE_REDIS__MAIN__URL", server.url("default")),
        ("TIDEGATE_CAPTURE__ORDERS__SOURCE", "main".to_owned()),
        ("TIDEGATE_CAPTURE__ORDERS__PATTERNS", "[\"orders.*\"]".to_owned()),
        ("TIDEGATE_CAPTURE__ORDERS__DESTINATION", "main".to_owned()),
        ("TIDEGATE_CAPTURE__ORDERS__STREAM", "orders".to_owned()),
        ("TIDEGATE_CAPTURE__ORDERS__KEEP", "{ age = \"7d\", entries = 10 }".to_owned()),
    ];
    let nowhere = ["--config", "/nonexistent/tidegate.toml"];
    let run = |command: &[&str]| {
        let arguments = command.iter().chain(&nowhere);
        let program =
            Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).envs(variables.clone()).output();
        printed(&program.unwrap(), OK)
    };
    assert!(run(&["check"]).contains("capture orders: main (orders.*)"));
    let log = fs::File::create(state.path().join("log")).unwrap();
    let _daemon = Guarded::start("tidegate", Path::new(env!("CARGO_BIN_EXE_tidegate")), |command| {
        command.arg("run").args(nowhere).envs(variables.clone()).env_remove("NOTIFY_SOCKET").stderr(log);
    });
    run(&["wait"]);
    run(&["healthcheck"]);
    server.ask::<u64>(&["PUBLISH", "orders.placed", "1"]);
    eventually("the message is stored", Duration::from_secs(20), || {
        match server.ask::<u64>(&["XLEN", "orders"]) {
            1 => Ok(()),
            other => Err(other.to_string()),
        }
    });
}

/// A boot does not wait for a server that is away, and a deploy waits for an instance that is not ready yet.
#[test]
fn a_wait_may_end_at_once_where_a_server_is_away() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .dead_endpoint("dead")
        .routes(&format!(
            "{ROUTE}{}",
            ROUTE.replace("orders", "other").replace("destination = \"main\"", "destination = \"dead\"")
        ))
        .expects(&[alert::DESTINATION])
        .start();
    daemon.wait_notified("READY=1");
    let output = daemon.run_command(&["wait", "--unless-away", "--timeout", "10m"]);
    printed(&output, UNAVAILABLE);
    let said = text(&output.stderr);
    assert!(
        said.starts_with("not ready; not waiting for servers:\n") && said.contains("dead.sock"),
        "{said}"
    );
    assert!(!said.contains("orders:"), "{said}");
    printed(&daemon.run_command(&["wait", "--unless-away", "--route", "orders", "--timeout", "20s"]), OK);
}

/// Each route finds the server away, and one line says it for all of them.
#[test]
fn many_routes_with_a_server_away_write_a_few_lines() {
    const ROUTES: usize = 40;
    let routes: String =
        (0..ROUTES).map(|number| ROUTE.replace("orders", &format!("orders{number}"))).collect();
    let daemon = Setup::new()
        .dead_endpoint("main")
        .routes(&routes)
        .expects(&[alert::SOURCE, alert::DESTINATION])
        .start();
    daemon.wait_notified("READY=1");
    let away = |line: &&support::LogLine| {
        line.event
            .as_deref()
            .is_some_and(|event| alert::SOURCE.contains(&event) || alert::DESTINATION.contains(&event))
    };
    let lines = daemon.log().iter().filter(away).count();
    assert!((1..=ROUTES / 4).contains(&lines), "{lines} lines for {ROUTES} routes");
}
