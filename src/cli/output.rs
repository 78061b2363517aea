//! What a command prints.
//!
//! Who reads standard output may have seen enough, as `head` does: then the command ends quietly and with success,
//! since nothing went wrong. Standard error is for words beside the result: where they cannot be written, nothing can
//! be said about that, and the command continues.

pub(crate) mod bytes;

use std::fmt;
use std::io::{self, Write as _};

/// Prints a result.
///
/// # Errors
/// Where it cannot be written, see [`super::Refusal`].
pub(super) fn print(text: impl fmt::Display) -> Result<(), super::Refusal> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Prints a result, and gives the command's exit code: `code`, or that of the failure.
pub(super) fn printed(text: impl fmt::Display, code: u8) -> u8 {
    match print(text) {
        Ok(()) => code,
        Err(refusal) => refusal.tell(),
    }
}

/// Writes a line to standard error.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub(super) use tell;
