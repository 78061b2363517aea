//! The unit file, as systemd's own tools see it. A machine without them fails here: an unchecked unit
//! is found out at boot.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What `systemd-analyze security` may say at most; 10 is unprotected.
const MAX_EXPOSURE: f64 = 1.3;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn unit() -> String {
    std::fs::read_to_string(directory().join("tidegate.service")).unwrap()
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
fn systemd_accepts_the_unit() {
    let installed = "/usr/bin/tidegate";
    let text = unit();
    assert_eq!(text.matches(&format!("={installed} ")).count(), 2, "ExecStartPre and ExecStart");
    let temporary = tempfile::tempdir().unwrap();
    let copy = temporary.path().join("tidegate.service");
    std::fs::write(
        &copy,
        text.replace(&format!("={installed} "), &format!("={} ", env!("CARGO_BIN_EXE_tidegate"))),
    )
    .unwrap();

    let output = run("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no"], &copy);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");

    // The tool does find faults.
    std::fs::write(&copy, text.replace("WatchdogSec=30s", "WatchdogSec=soon")).unwrap();
    let output = run("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no"], &copy);
    assert!(!output.stderr.is_empty());
}

#[test]
fn the_service_is_exposed_as_little_as_promised() {
    let path = directory().join("tidegate.service");
    let output = run("systemd-analyze", &["security", "--offline=true", "--no-pager"], &path);
    let said = String::from_utf8_lossy(&output.stdout);
    let exposure: f64 = said
        .lines()
        .find_map(|line| line.split("Overall exposure level for tidegate.service: ").nth(1))
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| {
            panic!("no overall exposure in: {said}{}", String::from_utf8_lossy(&output.stderr))
        });
    assert!(exposure <= MAX_EXPOSURE, "{exposure}: {said}");
}

/// What the program itself relies on.
#[test]
fn the_unit_says_what_the_daemon_expects() {
    let unit = unit();
    for (setting, expected) in [
        ("Type", "notify"),
        ("ExecStartPre", "/usr/bin/tidegate check --config /etc/tidegate/tidegate.toml"),
        ("ExecStart", "/usr/bin/tidegate run --config /etc/tidegate/tidegate.toml"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("Restart", "on-failure"),
        ("StateDirectory", "tidegate"),
        ("User", "tidegate"),
    ] {
        assert_eq!(values(&unit, setting), [expected], "{setting}");
    }
    let families = values(&unit, "RestrictAddressFamilies").concat();
    for family in ["AF_INET", "AF_INET6", "AF_UNIX"] {
        assert!(
            families.split(' ').any(|each| each == family),
            "{family}: Redis is reached over TCP or a unix socket"
        );
    }
    assert!(unit.contains("\n#LoadCredential="), "the way to hand over passwords is shown");
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
