//! What a command prints.
//!
//! Who reads standard output may have seen enough, as `head` does: then the command ends quietly and with success,
//! since nothing went wrong. Standard error is for words beside the result: where they cannot be written, nothing can
//! be said about that, and the command continues.
//!
//! Names and errors come from strangers, and a terminal obeys some characters. So all text goes through [`Printer`] or
//! [`tell`], which escape them; nothing else in `cli` writes to standard output or standard error.

pub(crate) mod bytes;
pub(super) mod table;

use std::fmt;
use std::io::{self, StdoutLock, Write};

use serde::Serialize;

use crate::text::printable;

/// Text for an operator or a program. Only line breaks are written as they are; other control characters are escaped.
#[derive(Debug)]
pub(super) struct Printer<W>(W);

/// Standard output.
pub(super) fn stdout() -> Printer<StdoutLock<'static>> {
    Printer(io::stdout().lock())
}

impl<W: Write> Printer<W> {
    /// Writes what tidegate itself made, such as the codes that clear a screen.
    pub(super) fn write_own(&mut self, text: &[u8]) -> io::Result<()> {
        self.0.write_all(text)
    }
}

impl<W: Write> Write for Printer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The formatter hands over whole characters.
        self.0.write_all(printable::lines(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Prints a result.
///
/// # Errors
/// Where it cannot be written, see [`super::Refusal`].
pub(super) fn print(text: impl fmt::Display) -> Result<(), super::Refusal> {
    let mut out = stdout();
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

/// Prints what tidegate itself made, byte for byte.
pub(super) fn printed_own(text: &[u8]) -> u8 {
    let mut out = stdout();
    match out.write_own(text).and_then(|()| out.flush()) {
        Ok(()) => super::OK,
        Err(error) => super::Refusal::from(error).tell(),
    }
}

/// Prints a line of JSON.
pub(super) fn print_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    writeln!(out, "{}", bytes::harmless_json(&serde_json::to_string(value)?))
}

/// Writes lines to standard error.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let text = format!($($text)*);
        let _ = writeln!(std::io::stderr(), "{}", $crate::text::printable::lines(&text));
    }};
}

pub(super) use tell;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printer_keeps_lines_and_nothing_else_that_a_terminal_obeys() {
        let mut printer = Printer(Vec::new());
        write!(printer, "a\x1b[2J\u{9b}31m\nb\r\u{202e}\n").unwrap();
        printer.write_own(b"\x1b[H").unwrap();
        assert_eq!(String::from_utf8(printer.0).unwrap(), "a\\u{1b}[2J\\u{9b}31m\nb\\r\\u{202e}\n\x1b[H");
    }

    #[test]
    fn a_line_of_json_is_harmless_and_means_the_same() {
        let value = "a\x1b\x7f\u{9b}31m\u{202e}\u{e0001}é\n\"";
        let mut out = Vec::new();
        print_json(&mut out, &value).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(line, "\"a\\u001b\\u007f\\u009b31m\\u202e\\udb40\\udc01é\\n\\\"\"\n");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), value);
    }
}
