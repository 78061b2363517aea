//! The container image and compose.yaml, as far as they can be checked without an engine to run them:
//! what one file says of another is true.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

#[test]
fn the_configuration_of_compose_loads_with_the_environment_of_the_image() {
    let dockerfile = text("Dockerfile");
    let environment: Vec<(String, String)> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("ENV ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert!(!environment.is_empty());
    let loaded = tidegate::config::load(&file("docker/tidegate.toml"), environment, &[])
        .unwrap_or_else(|problems| panic!("{problems}"));
    let listen = loaded.config.daemon.listen;
    assert!(listen.ip().is_unspecified(), "{listen}: probes and Prometheus come from outside the container");
    assert_eq!(loaded.config.daemon.state_directory, Path::new("/var/lib/tidegate"), "the image's volume");
    assert!(dockerfile.contains("\nVOLUME /var/lib/tidegate\n"));

    let port = listen.port();
    for (name, expected) in [
        ("Dockerfile", format!("\nEXPOSE {port}\n")),
        ("compose.yaml", format!("\"127.0.0.1:{port}:{port}\"")),
        ("docker/prometheus.yml", format!("\"tidegate:{port}\"")),
    ] {
        assert!(text(name).contains(&expected), "{name}: {expected}");
    }
}

#[test]
fn compose_mounts_files_that_exist_where_the_image_reads_them() {
    let compose = text("compose.yaml");
    let mounts: Vec<(&str, &str)> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ./")?.strip_suffix(":ro")?.split_once(':'))
        .collect();
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    for (from, _) in &mounts {
        assert!(file(from).is_file(), "{from}");
    }
    let (_, configuration) = mounts.iter().find(|(from, _)| *from == "docker/tidegate.toml").unwrap();
    let dockerfile = text("Dockerfile");
    assert_eq!(dockerfile.matches(configuration).count(), 2, "HEALTHCHECK and CMD read {configuration}");
}

#[test]
fn the_image_is_built_with_the_oldest_compiler_that_is_promised() {
    let manifest = text("Cargo.toml");
    let promised =
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"')).unwrap();
    assert!(
        text("Dockerfile").contains(&format!("\nFROM rust:{promised}-slim-bookworm AS build\n")),
        "{promised}"
    );
}
