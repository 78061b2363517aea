//! Reading a file that holds a secret or certificates, when a configuration is loaded and at every connect.
//!
//! Such a read must come to an end: a pipe would block it, and a device would fill the memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The longest file: a bundle of all public authorities has about a quarter of it.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a regular file of at most 1 MiB. Blocks as long as its file system does.
///
/// # Errors
/// If it cannot be read, is larger, or is no regular file.
pub(in crate::config) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let refuse = |why: &str| Err(io::Error::other(why));
    // Without this flag the opening of a pipe waits for its other end.
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file: File = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return refuse("it is a directory, not a file");
    }
    if !metadata.is_file() {
        return refuse("it is a pipe or a device, not a file");
    }
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES { refuse("it is larger than 1 MiB") } else { Ok(content) }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_a_regular_file_of_up_to_a_mebibyte_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let most = usize::try_from(MAX_BYTES).unwrap();
        std::fs::write(path("most"), vec![b'x'; most]).unwrap();
        assert_eq!(read(&path("most")).unwrap().len(), most);
        std::fs::write(path("more"), vec![b'x'; most + 1]).unwrap();
        assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", path("device")).unwrap();
        for (name, why) in [
            ("more", "it is larger than 1 MiB"),
            ("pipe", "it is a pipe or a device, not a file"),
            ("device", "it is a pipe or a device, not a file"),
            (".", "it is a directory, not a file"),
        ] {
            assert_eq!(read(&path(name)).unwrap_err().to_string(), why, "{name}");
        }
        assert_eq!(read(&path("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
