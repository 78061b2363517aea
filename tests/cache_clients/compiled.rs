//! The helper for Rust, which is compiled with its driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::helper::folder;

/// The driver's name, and that of one for a copy of the helper: both may run at once.
const DRIVER: &str = "cache-driver";
const OF_A_COPY: &str = "cache-driver-of-a-copy";

/// Builds the driver for the helper below `helpers`. Cargo builds no program of another package with a test: without this, an
/// old one would run, or none. It is built alone, so that no other package gives it a feature of the client that it needs.
pub(crate) fn driver(helpers: &Path) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    // Only the packages of the copy stay in its lock file.
    let (name, lock) = if helpers == folder() { (DRIVER, "--locked") } else { (OF_A_COPY, "--offline") };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", lock, "--bin", name, "--manifest-path"])
        .arg(helpers.join("rust/Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .output()
        .unwrap_or_else(|error| panic!("{}, which compiled this test: {error}", env!("CARGO")));
    assert!(built.status.success(), "{name} does not build: {}", String::from_utf8_lossy(&built.stderr));
    let program = target.join("debug").join(name);
    assert!(program.exists(), "{} is missing: is a target set for cargo?", program.display());
    program
}

/// Where a copy is. Always the same, so that each is compiled over the one before.
pub(crate) fn folder_of_a_copy() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache-client")
}

/// What the copied helper is built with: the driver, and a workspace with the settings of this one.
pub(crate) fn put_workspace(to: &Path) {
    let root = folder().join("..");
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let (_, shared) = manifest.split_once("[workspace.dependencies]").unwrap();
    let (before, after) = shared.split_once("[lints]\nworkspace = true\n").unwrap();
    let workspace = format!(
        "[workspace]\nmembers = [\"rust\"]\nresolver = \"3\"\n\n[workspace.dependencies]{before}{after}"
    );
    fs::create_dir_all(to.join("conformance")).unwrap();
    fs::write(to.join("Cargo.toml"), workspace).unwrap();
    fs::copy(root.join("Cargo.lock"), to.join("Cargo.lock")).unwrap();
    fs::copy(folder().join("conformance/driver.rs"), to.join("conformance/driver.rs")).unwrap();
    let manifest = fs::read_to_string(folder().join("rust/Cargo.toml")).unwrap();
    assert!(manifest.contains(DRIVER), "{manifest}");
    fs::write(to.join("rust/Cargo.toml"), manifest.replace(DRIVER, OF_A_COPY)).unwrap();
}
