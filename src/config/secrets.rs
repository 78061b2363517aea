//! Secrets: where the files are that hold them, and what is read from such a file.

pub(crate) mod certificates;
pub(super) mod file;
pub(crate) mod location;
pub(crate) mod password;
