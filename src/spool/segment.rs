//! One file of the log, and the parts of its name.
//!
//! ```text
//! 00000000000000000007.spool                       number 7, version 1
//! 00000000000000000007-v3-9f86d081884c7d65.spool   number 7, version 3, with its salt
//! ….spool.damaged                                  kept for the operator, no part of the log
//! ```
//!
//! The name has what reading needs, so damage inside a file cannot make all of it unreadable.

use super::{Mark, SpoolError, record};

const EXTENSION: &str = ".spool";
const DAMAGED: &str = ".damaged";
/// Suffix of files that release 0.1.0 put aside.
const CORRUPT: &str = ".corrupt";

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SegmentFormat {
    /// Release 0.1.0's.
    V1,
    /// That of versions 2 and 3.
    V2 {
        /// The file's marker.
        salt: u64,
    },
}

/// A file of the log.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) format: SegmentFormat,
    /// The log's bytes: later ones are not read.
    pub(super) bytes: u64,
    /// The highest mark that is known to be in it.
    pub(super) last: Option<Mark>,
    /// Something in it is not as it was written.
    pub(super) damaged: bool,
}

impl Segment {
    /// A new one, of this release's format.
    pub(super) fn new(number: u64, salt: u64) -> Self {
        let name = format!("{number:020}-v{}-{salt:016x}{EXTENSION}", record::VERSION);
        Self { number, name, format: SegmentFormat::V2 { salt }, bytes: 0, last: None, damaged: false }
    }

    /// The segment with this name; `None` if it is another file.
    pub(super) fn named(name: &str, directory: &std::path::Path) -> Result<Option<Self>, SpoolError> {
        let Some(stem) = name.strip_suffix(EXTENSION) else { return Ok(None) };
        let digits =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
        let (number, format) = match stem.split_once("-v") {
            None => (digits(stem), Some(SegmentFormat::V1)),
            Some((number, rest)) => {
                let Some((version, salt)) = rest.split_once('-') else { return Ok(None) };
                let Some(version) = version.parse().ok().filter(|version: &u32| *version >= 2) else {
                    return Ok(None);
                };
                if version > record::VERSION {
                    return Err(SpoolError::Version { file: directory.join(name), version });
                }
                (digits(number), u64::from_str_radix(salt, 16).ok().map(|salt| SegmentFormat::V2 { salt }))
            }
        };
        let (Some(number), Some(format)) = (number, format) else { return Ok(None) };
        Ok(Some(Self { number, name: name.to_owned(), format, bytes: 0, last: None, damaged: false }))
    }

    /// The file's name once it is put aside.
    pub(super) fn aside(&self) -> String {
        format!("{}{DAMAGED}", self.name)
    }
}

/// Returns whether a file was put aside by this release.
pub(super) fn is_aside(name: &str) -> bool {
    name.ends_with(DAMAGED)
}

/// Returns whether a file was put aside by any release.
pub(super) fn is_kept(name: &str) -> bool {
    is_aside(name) || name.ends_with(CORRUPT)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_name_says_what_reading_needs() {
        let named = |name: &str| Segment::named(name, Path::new("/d"));
        let new = Segment::new(7, 0xab);
        assert_eq!(new.name, "00000000000000000007-v3-00000000000000ab.spool");
        let read = named(&new.name).unwrap().unwrap();
        assert_eq!((read.number, read.format), (7, SegmentFormat::V2 { salt: 0xab }));
        let old = named("00000000000000000009.spool").unwrap().unwrap();
        assert_eq!((old.number, old.format), (9, SegmentFormat::V1));
        for other in
            ["lock", ".spool", "x.spool", "7-v2.spool", "7-v2-xyz.spool", "7-v1-00.spool", &new.aside()]
        {
            assert!(named(other).unwrap().is_none(), "{other}");
        }
        assert!(named("7-v2-ab.spool").unwrap().is_some(), "the same frames");
        assert!(matches!(named("7-v4-ab.spool"), Err(SpoolError::Version { version: 4, .. })));
        assert!(is_aside(&new.aside()) && is_kept("00000000000000000001.corrupt"));
    }
}
