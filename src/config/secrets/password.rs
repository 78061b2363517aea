//! The file that holds a password.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::file;
use crate::config::settings::{Config, Endpoint, Secret, SecretSource};

/// Why a file gives no password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("is not UTF-8 text, which a password must be")]
    NotText,
    #[error(
        "begins with a byte order mark, which would become part of the password; save it as UTF-8 without BOM"
    )]
    ByteOrderMark,
    #[error("is empty; expected the password")]
    Empty,
}

/// Reads the password: the file's content without its last newline. Blocks.
///
/// # Errors
/// If it cannot be read, or what it holds can be no password that was meant so.
pub(crate) fn read_password(path: &Path) -> Result<Secret, PasswordError> {
    let bytes = file::read(path).map_err(PasswordError::Unreadable)?;
    // Of UTF-8, and of both orders of UTF-16, as Windows' programs write it.
    if [b"\xef\xbb\xbf".as_slice(), b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| bytes.starts_with(mark)) {
        return Err(PasswordError::ByteOrderMark);
    }
    let text = String::from_utf8(bytes).map_err(|_| PasswordError::NotText)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(PasswordError::Empty),
        password => Ok(Secret::new(password.to_owned())),
    }
}

/// The permissions of a file that others than its owner and its group may read, such as `0644`; `None` if they may not,
/// or the file cannot be looked at.
fn readable_by_others(path: &Path) -> Option<String> {
    const OTHERS_READ: u32 = 0o004;
    let mode = fs::metadata(path).ok()?.mode();
    (mode & OTHERS_READ != 0).then(|| format!("{:04o}", mode & 0o7777))
}

/// The files with passwords that every user of the machine can read.
#[must_use]
pub fn readable_passwords(config: &Config) -> Vec<ReadablePassword> {
    let endpoints = config.redis.values().flat_map(|endpoint| {
        let sentinels = endpoint.sentinels().map(|sentinels| &sentinels.endpoint);
        [Some(&**endpoint), sentinels].into_iter().flatten()
    });
    let readable = |endpoint: &Endpoint| {
        let (option, path) = match &endpoint.password {
            SecretSource::File(path) => ("password_file", path),
            SecretSource::InConfiguration(_, path) => ("url", path),
            SecretSource::None | SecretSource::Inline(_) => return None,
        };
        let mode = readable_by_others(path)?;
        let in_configuration = option == "url";
        Some(ReadablePassword { key: endpoint.key(option), path: path.clone(), mode, in_configuration })
    };
    endpoints.filter_map(readable).collect()
}

/// A file with a password that every user of the machine can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadablePassword {
    /// The option that names it, or holds the password.
    pub key: String,
    /// Which file.
    pub path: PathBuf,
    /// Its permissions, such as `0644`.
    pub mode: String,
    /// True if it is a file of the configuration, with the password in an url.
    pub in_configuration: bool,
}

impl fmt::Display for ReadablePassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, path, mode, in_configuration } = self;
        let remedy = if *in_configuration {
            "put the password into a password_file, or run chmod 640, and give the file to the group of tidegate"
        } else {
            "run chmod 600, and let the user of tidegate own it"
        };
        write!(f, "{key}: every user of this machine can read {} (mode {mode}); {remedy}", path.display())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_last_newline_is_not_the_passwords_and_a_mark_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("password");
        let read = |content: &[u8]| {
            fs::write(&path, content).unwrap();
            read_password(&path).map(|secret| secret.reveal().to_owned()).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"p#\"w \r\n").unwrap(), "p#\"w ");
        for marked in [b"\xef\xbb\xbfsecret\n".as_slice(), b"\xff\xfes\0"] {
            assert!(read(marked).unwrap_err().contains("without BOM"));
        }
        assert!(read(b"\n").unwrap_err().contains("empty"));
        assert!(read(b"\x80").unwrap_err().contains("UTF-8"));
        fs::remove_file(&path).unwrap();
        assert!(read_password(&path).unwrap_err().to_string().starts_with("cannot be read"));
    }

    #[test]
    fn a_file_that_others_may_read_is_told() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("password");
        fs::write(&path, "secret").unwrap();
        for (mode, told) in [(0o644, Some("0644")), (0o640, None), (0o600, None), (0o604, Some("0604"))] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(readable_by_others(&path).as_deref(), told);
        }
    }
}
