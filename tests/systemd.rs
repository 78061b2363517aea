//! The unit files, as systemd's own tools see it. A machine without them fails here: an unchecked unit
//! is found out at boot.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What `systemd-analyze security` may say at most; 10 is unprotected.
const MAX_EXPOSURE: f64 = 1.3;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

const SINGLE: &str = "tidegate.service";
/// For a pair on one host.
const TEMPLATE: &str = "tidegate@.service";

fn unit(name: &str) -> String {
    std::fs::read_to_string(directory().join(name)).unwrap()
}

/// The values of a setting, without comments.
fn values<'a>(unit: &'a str, setting: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('=')).collect()
}

fn run(program: &str, arguments: &[&str], unit: &Path) -> Output {
    Command::new(program)
        .args(arguments)
        .arg(unit)
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed (Debian: systemd): {error}"))
}

/// `verify` looks for the program where the unit says it is, so a copy names the one just built.
#[test]
fn systemd_accepts_the_units() {
    let installed = "/usr/bin/tidegate";
    for (name, instance, programs) in [(SINGLE, SINGLE, 3), (TEMPLATE, "tidegate@0.service", 4)] {
        let text = unit(name);
        assert_eq!(text.matches(&format!("{installed} ")).count(), programs, "{name}");
        let temporary = tempfile::tempdir().unwrap();
        std::fs::write(
            temporary.path().join(name),
            text.replace(&format!("{installed} "), &format!("{} ", env!("CARGO_BIN_EXE_tidegate"))),
        )
        .unwrap();
        let copy = temporary.path().join(instance);

        let output = run("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no"], &copy);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{name}: {said}");

        // The tool does find faults.
        let wrong = text.replace("WatchdogSec=30s", "WatchdogSec=soon");
        std::fs::write(temporary.path().join(name), wrong).unwrap();
        let output = run("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no"], &copy);
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn the_services_are_exposed_as_little_as_promised() {
    for (name, instance) in [(SINGLE, SINGLE), (TEMPLATE, "tidegate@0.service")] {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join(instance);
        std::fs::write(&path, unit(name)).unwrap();
        let output = run("systemd-analyze", &["security", "--offline=true", "--no-pager"], &path);
        let said = String::from_utf8_lossy(&output.stdout);
        let exposure: f64 = said
            .lines()
            .find_map(|line| line.split(&format!("Overall exposure level for {instance}: ")).nth(1))
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| {
                panic!("no overall exposure in: {said}{}", String::from_utf8_lossy(&output.stderr))
            });
        assert!(exposure <= MAX_EXPOSURE, "{name} {exposure}: {said}");
    }
}

/// What the program itself relies on.
#[test]
fn the_units_say_what_the_daemon_expects() {
    for (name, state) in [(SINGLE, "tidegate"), (TEMPLATE, "tidegate-%i")] {
        let unit = unit(name);
        for (setting, expected) in [
            ("Type", "notify"),
            ("ExecStartPre", "/usr/bin/tidegate check --config /etc/tidegate/tidegate.toml"),
            ("ExecStart", "/usr/bin/tidegate run --config /etc/tidegate/tidegate.toml"),
            ("Restart", "on-failure"),
            ("StateDirectory", state),
            ("User", "tidegate"),
        ] {
            assert_eq!(values(&unit, setting), [expected], "{name}: {setting}");
        }
        // The first that fails ends the reload.
        assert_eq!(
            values(&unit, "ExecReload"),
            ["/usr/bin/tidegate check --config /etc/tidegate/tidegate.toml", "/bin/kill -HUP $MAINPID"],
            "{name}"
        );
        let families = values(&unit, "RestrictAddressFamilies").concat();
        for family in ["AF_INET", "AF_INET6", "AF_UNIX"] {
            assert!(
                families.split(' ').any(|each| each == family),
                "{name}, {family}: Redis is reached over TCP or a unix socket"
            );
        }
        assert!(unit.contains("\n#LoadCredential="), "{name}: how to hand over passwords is shown");
    }
}

/// What keeps the two instances of a pair apart, and what makes a rolling restart wait.
#[test]
fn the_instances_of_a_pair_share_nothing_on_the_host() {
    let unit = unit(TEMPLATE);
    assert_eq!(
        values(&unit, "Environment"),
        ["TIDEGATE_DAEMON__LISTEN=127.0.0.1:738%i", "TIDEGATE_DAEMON__STATE_DIRECTORY=/var/lib/tidegate-%i"]
    );
    assert_eq!(
        values(&unit, "ExecStartPost"),
        ["-/usr/bin/tidegate wait --unless-away --timeout 30s --config /etc/tidegate/tidegate.toml"]
    );
}

#[test]
fn the_user_of_the_unit_is_made() {
    let made = std::fs::read_to_string(directory().join("tidegate.sysusers")).unwrap();
    assert!(made.lines().any(|line| line.starts_with("u tidegate ")), "{made}");
    let temporary = tempfile::tempdir().unwrap();
    let directory = directory();
    std::fs::create_dir(temporary.path().join("etc")).unwrap();
    let root = format!("--root={}", temporary.path().display());
    let output = run("systemd-sysusers", &[&root], &directory.join("tidegate.sysusers"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let users = std::fs::read_to_string(temporary.path().join("etc/passwd")).unwrap();
    assert!(users.lines().any(|line| line.starts_with("tidegate:")), "{users}");
}
