//! Configuration: what an operator wrote (`raw`) becomes what the daemon runs on ([`Config`]).
//!
//! ```text
//! files, environment, command line ─▶ layers ─▶ one tree ─▶ raw types ─▶ checks ─▶ Config
//!                                    (figment)   (read: every misfit)   (check, loops)
//! ```
//!
//! A configuration is written by one person and read by another at night, so all that is wrong with
//! it is said at once, with file, line, key and the likely remedy ([`Problems`]), and nothing runs on
//! half of it. Secrets are looked for and never kept where an error could print them.
//!
//! figment and serde are known only here. The types of [`settings`] are complete and checked:
//! code that holds one need not ask again whether a name exists or a number fits. The supervisor
//! turns them into the parts of a route at the edge; no loop reads configuration.

pub mod acl;
mod channels;
mod check;
mod effective;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod layers;
mod listen;
mod problems;
mod raw;
mod read;
pub mod redis_keys;
mod revision;
mod secrets;
pub mod settings;
mod url;

use std::path::{Path, PathBuf};

pub(crate) use channels::lookup;
pub(crate) use channels::notifications::{
    is_notification, missing_notifications, needed_notifications, wants_notifications,
};
pub(crate) use check::{is_route_name, of_entry};
pub use effective::EffectiveValue;
pub(crate) use effective::toml;
pub use layers::Override;
pub(crate) use layers::line_at;
pub use listen::{Listen, listen};
pub(crate) use problems::nearest;
pub use problems::{Problem, Problems};
pub use revision::Revision;
pub(crate) use secrets::certificates::{
    SHORTEST_RSA_BITS, TlsFileError, TlsFiles, TlsMaterial, der, provider as tls_provider,
};
pub(crate) use secrets::password::{PasswordError, read_password};
pub use secrets::password::{ReadablePassword, readable_passwords};
pub use settings::{
    Acknowledged, AddedField, Address, After, Broadcast, Capture, Condition, Config, Daemon, Durability,
    Endpoint, FieldNames, Format, GroupsStart, IfMissed, Include, Invalidate, Keep, MessageFormat, Mode,
    Order, OwnKeys, Prefer, Rate, Reauthenticate, Replication, Scalar, Secret, SecretSource, Sentinels,
    Servers, SetValue, Start, StreamPattern, Streams, Subject, Test, Tls, UntilAcknowledged,
};

/// A configuration that was read and is good.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The files that it was read from, the main one first.
    pub files: Vec<PathBuf>,
}

/// Reads the main file, `conf.d/*.toml` beside it, the environment and the overrides of the command
/// line, and checks all of it, that each secret can be read included.
///
/// Of `environment` only names count that begin with `TIDEGATE_` and contain `__`, and
/// `CREDENTIALS_DIRECTORY`; the caller hands in `std::env::vars()`. Files are read in place: it blocks.
///
/// # Errors
/// Everything that is wrong, in the order of the files.
pub fn load(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[Override],
) -> Result<Loaded, Problems> {
    load_with(Some(path), environment, overrides, Secrets::Read)
}

/// As [`load`], where the command line is in place of files.
///
/// # Errors
/// Everything that is wrong.
pub fn load_without_files(
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[Override],
) -> Result<Loaded, Problems> {
    load_with(None, environment, overrides, Secrets::Read)
}

/// As [`load`], without a look at the secrets, for a command that uses few of them or none. One that cannot be read
/// is an error of the connection that needs it.
///
/// # Errors
/// Everything that is wrong, in the order of the files.
pub fn load_without_secrets(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    load_with(Some(path), environment, &[], Secrets::Located)
}

/// Every value of the configuration and each default, with where it comes from, and without the passwords. The
/// configuration is checked as [`load_without_secrets`] does.
///
/// # Errors
/// Everything that is wrong, in the order of the files.
pub fn effective(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<EffectiveValue>, Problems> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let layers = layers::Layers::read(Some(path), &environment, &[])?;
    load_layers(&layers, directory(path), credentials(&environment), Secrets::Located)?;
    effective::values(&layers)
}

/// What is done about the files that hold secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// Each is found and read once.
    Read,
    /// It is only said where each one is.
    Located,
}

fn load_with(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[Override],
    secrets: Secrets,
) -> Result<Loaded, Problems> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let layers = layers::Layers::read(path, &environment, overrides)?;
    load_layers(&layers, path.map_or(Path::new(""), directory), credentials(&environment), secrets)
}

/// Where the files beside the main one are.
fn directory(main: &Path) -> &Path {
    main.parent().unwrap_or(Path::new(""))
}

/// Where systemd has put the credentials of this process.
fn credentials(environment: &[(String, String)]) -> Option<&Path> {
    let found = environment.iter().find(|(name, _)| name == "CREDENTIALS_DIRECTORY");
    found.map(|(_, directory)| Path::new(directory))
}

fn load_layers(
    layers: &layers::Layers,
    directory: &Path,
    credentials: Option<&Path>,
    secrets: Secrets,
) -> Result<Loaded, Problems> {
    let mut problems = Problems::default();
    let read = read::read(layers.merged()?, layers, &mut problems);
    let places = secrets::location::SecretPlaces::new(credentials, directory);
    let config = check::checked(layers, read, &places, secrets, problems)?;
    Ok(Loaded { config, files: layers.files() })
}

/// The JSON Schema of a configuration file, for editors.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(raw::Raw).to_value()
}
