//! Bytes for a terminal and for a program: names and payloads are any bytes, and a terminal obeys some.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::text::printable::is_harmful;

/// The beginning of some bytes on one line, up to about this many characters. What a terminal would obey, and
/// what is not UTF-8, is escaped; what is left out is counted.
pub(crate) fn shown(bytes: &[u8], width: usize) -> String {
    let mut out = String::new();
    let mut characters = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        let (piece, taken) = piece(rest);
        let wide = piece.chars().count();
        if characters + wide > width {
            out.push_str(&format!("…(+{} bytes)", rest.len()));
            break;
        }
        characters += wide;
        out.push_str(&piece);
        rest = &rest[taken..];
    }
    out
}

/// The first character as it is shown, and how many bytes it has.
fn piece(bytes: &[u8]) -> (String, usize) {
    // A character has at most four bytes.
    let head = &bytes[..bytes.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(c) if is_harmful(c) => (c.escape_default().to_string(), c.len_utf8()),
        Some('\\') => ("\\\\".to_owned(), 1),
        Some(c) => (c.to_string(), c.len_utf8()),
        None => (format!("\\x{:02x}", bytes[0]), 1),
    }
}

/// Bytes in JSON: a text where they are one, else `{"base64":"…"}`.
pub(crate) fn value(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

/// Fields in JSON: pairs of name and value in their order, since a name may come twice.
pub(crate) fn fields<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Value {
    fields.map(|(name, content)| json!([value(name), value(content)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown_as_it_is() {
        assert_eq!(shown(b"a\x1b[2J\n\xff\\", 80), "a\\u{1b}[2J\\n\\xff\\\\");
        assert_eq!(shown("grün \u{202e}x".as_bytes(), 80), "grün \\u{202e}x");
        assert_eq!(shown("größe".as_bytes(), 3), "grö…(+3 bytes)");
        assert_eq!(shown(b"\xf0\x9f\x8c\x8a\xf0\x9f", 80), "\u{1f30a}\\xf0\\x9f");
        assert_eq!(shown(b"", 0), "");
    }

    #[test]
    fn json_keeps_every_byte() {
        assert_eq!(value(b"x\n"), json!("x\n"));
        assert_eq!(value(b"\xff"), json!({"base64": "/w=="}));
        let pairs: [(&[u8], &[u8]); 2] = [(b"a", b"1"), (b"a", b"2")];
        assert_eq!(fields(pairs.into_iter()), json!([["a", "1"], ["a", "2"]]));
    }
}
