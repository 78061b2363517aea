//! Makes foreign text safe to show: a terminal obeys control characters, a newline ends a log line, and some characters
//! reverse the direction of text or are invisible.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;

/// Returns whether a character must not be shown as it is: controls (ESC, CR, NUL, DEL, C1 …), line and paragraph
/// separators, characters that set the direction of text, and characters without any width.
#[must_use]
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The bytes as text on one line: harmful characters become escapes, such as `\u{1b}`, and invalid UTF-8 becomes
/// U+FFFD.
#[must_use]
pub(crate) fn text(bytes: &[u8]) -> String {
    escaped(&String::from_utf8_lossy(bytes), usize::MAX)
}

/// The first `limit` characters as such text, with the number of bytes that are left out.
#[must_use]
pub(crate) fn bounded(bytes: &[u8], limit: usize) -> String {
    // A character has at most four bytes, and no more of a long text is looked at.
    let head = &bytes[..bytes.len().min(limit.saturating_mul(4))];
    let lossy = String::from_utf8_lossy(head);
    let mut out = escaped(&lossy, limit);
    let shown: usize = lossy.chars().take(limit).map(char::len_utf8).sum();
    if shown < bytes.len() && lossy.chars().nth(limit).is_some() || head.len() < bytes.len() {
        // Writing to a String cannot fail.
        let _ = write!(out, "…(+{} bytes)", bytes.len().saturating_sub(shown));
    }
    out
}

/// The same JSON with escapes for harmful characters. They occur in texts only, where an escape means the same; line
/// breaks between values stay.
#[must_use]
pub(crate) fn json(json: &str) -> Cow<'_, str> {
    let harmful = |c: char| !c.is_ascii_whitespace() && is_harmful(c);
    if !json.contains(harmful) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if harmful(c) {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// Lines to be shown. Only tidegate ends a line: a line break in a name is harmful as every other control character, and
/// is escaped with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrintableLines(String);

impl PrintableLines {
    /// Adds one line.
    pub(crate) fn push(&mut self, line: impl fmt::Display) {
        self.0.push_str(&text(line.to_string().as_bytes()));
        self.0.push('\n');
    }

    /// Adds all of these.
    pub(crate) fn append(&mut self, lines: &Self) {
        self.0.push_str(&lines.0);
    }

    /// The lines in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.lines()
    }
}

/// A single line.
impl<T: AsRef<str>> From<T> for PrintableLines {
    fn from(line: T) -> Self {
        let mut lines = Self::default();
        lines.push(line.as_ref());
        lines
    }
}

/// Without a line break at the end.
impl fmt::Display for PrintableLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.strip_suffix('\n').unwrap_or_default())
    }
}

fn escaped(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for c in text.chars().take(limit) {
        if is_harmful(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_or_a_log_obeys_is_left() {
        assert_eq!(text(b"a\x1b[2J\r\nb\0\x7f"), "a\\u{1b}[2J\\r\\nb\\u{0}\\u{7f}");
        assert_eq!(
            text("x\u{202e}y\u{2028}\u{9b}31m\u{feff}".as_bytes()),
            "x\\u{202e}y\\u{2028}\\u{9b}31m\\u{feff}"
        );
        assert_eq!(text("größe \u{1f30a}".as_bytes()), "größe \u{1f30a}");
        assert_eq!(text(b"\xff"), "\u{fffd}");
    }

    #[test]
    fn only_a_line_that_is_added_is_a_line() {
        let mut lines = PrintableLines::from("first\nforged");
        lines.push(format_args!("{}\t{}", "second\r\n", 2));
        lines.push("");
        assert_eq!(lines.to_string(), "first\\nforged\nsecond\\r\\n\\t2\n");
        assert_eq!(lines.iter().count(), 3);
    }

    #[test]
    fn a_long_text_is_cut_and_that_is_said() {
        assert_eq!(bounded(b"abc", 3), "abc");
        assert_eq!(bounded(b"abcd", 3), "abc…(+1 bytes)");
        assert_eq!(bounded("öäüß".as_bytes(), 3), "öäü…(+2 bytes)");
        let long = bounded(&[b'x'; 100_000], 10);
        assert_eq!(long, "xxxxxxxxxx…(+99990 bytes)");
    }
}
