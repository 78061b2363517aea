//! What a command prints.
//!
//! The reader of standard output may have seen enough, as `head` does. A command with an end then continues to it without
//! output, so that its exit code is the true one. A command without an end stops quietly and with success. Standard error is
//! for words beside the result: where they cannot be written, nothing can be said about that, and the command continues.
//!
//! Names and errors come from strangers, and a terminal obeys some characters. So all text goes through [`Printer`] or
//! [`tell`], and nothing else in `cli` writes to standard output or standard error. Both take a line, and escape what is
//! in it, line breaks included: a name never begins a line. What has several lines is [`PrintableLines`].

pub(crate) mod bytes;
pub(super) mod range_progress;
pub(super) mod table;

use std::fmt;
use std::io::{self, StdoutLock, Write};

use serde::Serialize;

use crate::text::printable::{self, PrintableLines};

/// Text for an operator or a program, line by line.
#[derive(Debug)]
pub(super) struct Printer<W>(W);

/// Standard output.
pub(super) fn stdout() -> Printer<StdoutLock<'static>> {
    Printer(io::stdout().lock())
}

/// Standard output of a command with an end, whose exit code says something: a reader that is gone does not end it.
pub(super) fn stdout_to_the_end() -> Printer<ToTheEnd<StdoutLock<'static>>> {
    Printer(ToTheEnd { out: io::stdout().lock(), is_read: true })
}

/// Takes everything, and writes it as long as somebody reads.
#[derive(Debug)]
pub(super) struct ToTheEnd<W> {
    out: W,
    is_read: bool,
}

impl<W> ToTheEnd<W> {
    fn unless_gone<T>(&mut self, gone: T, write: impl FnOnce(&mut W) -> io::Result<T>) -> io::Result<T> {
        if !self.is_read {
            return Ok(gone);
        }
        match write(&mut self.out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.is_read = false;
                Ok(gone)
            }
            done => done,
        }
    }
}

impl<W: Write> Write for ToTheEnd<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unless_gone(bytes.len(), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.unless_gone((), Write::flush)
    }
}

impl<W: Write> Printer<W> {
    /// Prints one line.
    pub(super) fn line(&mut self, line: impl fmt::Display) -> io::Result<()> {
        writeln!(self.0, "{}", printable::text(line.to_string().as_bytes()))
    }

    /// Prints several lines.
    pub(super) fn lines(&mut self, lines: &PrintableLines) -> io::Result<()> {
        lines.iter().try_for_each(|line| writeln!(self.0, "{line}"))
    }

    /// Prints a value as a line of JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.json_text(&serde_json::to_string(value)?)
    }

    /// Prints JSON. Line breaks between its values stay.
    pub(super) fn json_text(&mut self, json: &str) -> io::Result<()> {
        writeln!(self.0, "{}", printable::json(json))
    }

    /// Prints what tidegate itself made, such as the codes that clear a screen, byte for byte.
    pub(super) fn write_own(&mut self, text: &[u8]) -> io::Result<()> {
        self.0.write_all(text)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
impl Printer<Vec<u8>> {
    /// Prints into memory.
    pub(super) const fn memory() -> Self {
        Self(Vec::new())
    }

    /// The printed text.
    pub(super) fn printed(self) -> String {
        String::from_utf8(self.0).unwrap()
    }
}

/// Prints a result.
///
/// # Errors
/// If it cannot be written, see [`super::Refusal`].
pub(super) fn print(
    result: impl FnOnce(&mut Printer<ToTheEnd<StdoutLock<'static>>>) -> io::Result<()>,
) -> Result<(), super::Refusal> {
    let mut out = stdout_to_the_end();
    result(&mut out)?;
    Ok(out.flush()?)
}

/// Prints a result, and gives the command's exit code: `code`, or that of the failure.
pub(super) fn printed(
    code: u8,
    result: impl FnOnce(&mut Printer<ToTheEnd<StdoutLock<'static>>>) -> io::Result<()>,
) -> u8 {
    match print(result) {
        Ok(()) => code,
        Err(refusal) => refusal.tell(),
    }
}

/// Writes a line to standard error.
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::cli::output::tell_lines(&format!($($text)*).into())
    };
}

pub(super) use tell;

/// Writes lines to standard error.
pub(super) fn tell_lines(lines: &PrintableLines) {
    let mut out = io::stderr().lock();
    for line in lines.iter() {
        let _ = writeln!(out, "{line}");
    }
}

/// Asks something on standard error. What is answered stands behind it.
///
/// # Errors
/// If it cannot be written: without a question there is no answer.
pub(super) fn ask(question: &str) -> io::Result<()> {
    write!(io::stderr(), "{} ", printable::text(question.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printer_ends_lines_and_nothing_that_it_prints_does() {
        let mut printer = Printer::memory();
        printer.line("a\x1b[2J\u{9b}31m\nb\t\r\u{202e}\n").unwrap();
        printer.lines(&"c\nd".into()).unwrap();
        printer.write_own(b"\x1b[H").unwrap();
        assert_eq!(printer.printed(), "a\\u{1b}[2J\\u{9b}31m\\nb\\t\\r\\u{202e}\\n\nc\\nd\n\x1b[H");
    }

    #[test]
    fn a_line_of_json_is_harmless_and_means_the_same() {
        let value = "a\x1b\x7f\u{9b}31m\u{202e}\u{e0001}é\n\"";
        let mut printer = Printer::memory();
        printer.json(&value).unwrap();
        let line = printer.printed();
        assert_eq!(line, "\"a\\u001b\\u007f\\u009b31m\\u202e\\udb40\\udc01é\\n\\\"\"\n");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), value);
    }
}
