//! JSON pointers (RFC 6901): where a value stands in a JSON document.
//!
//! `/customer/tags/0` goes down by names of members and places in arrays; in a name, `~1` stands for
//! `/` and `~0` for `~`. The empty pointer is the whole document. Here a pointer is only taken apart;
//! `evaluate` follows its tokens in a document.

pub(crate) mod evaluate;

use std::fmt;

/// How deep a pointer may go. Looking along it reads what lies below each step once more, so the
/// depth bounds what a hostile message can cost; documents of real publishers are far flatter.
const MAX_DEPTH: usize = 16;

/// Where a value stands in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

/// Why a text is no pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// It neither is empty nor begins with `/`.
    #[error("does not begin with '/'")]
    NoSlash,
    /// A `~` that is no escape.
    #[error("has a '~' that neither 0 nor 1 follows (write '~0' for the character itself, '~1' for '/')")]
    Escape,
    /// It goes deeper than any is followed.
    #[error("goes down more than {MAX_DEPTH} steps")]
    TooDeep,
}

impl Pointer {
    /// Takes a text apart.
    ///
    /// # Errors
    /// If it is no pointer, or too deep.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let steps = text.strip_prefix('/').ok_or(PointerError::NoSlash)?;
        let tokens = steps.split('/').map(unescaped).collect::<Result<Vec<_>, _>>()?;
        if tokens.len() > MAX_DEPTH { Err(PointerError::TooDeep) } else { Ok(Self(tokens)) }
    }

    /// The pointer to a member of the outermost object, by its plain name.
    #[must_use]
    pub fn member(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// The pointers between its steps `*`, each of which stands for every element of an array: one pointer more than
    /// there are such steps.
    #[must_use]
    pub fn split_at_each(&self) -> Vec<Self> {
        self.0.split(|token| token == "*").map(|tokens| Self(tokens.to_vec())).collect()
    }

    /// The steps, outermost first, without escapes.
    #[must_use]
    pub fn tokens(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for token in &self.0 {
            write!(f, "/{}", token.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

/// The place in an array that a token names. As RFC 6901 has it, a number does not begin with 0.
#[must_use]
pub fn place(token: &str) -> Option<usize> {
    let digits = token.bytes().all(|byte| byte.is_ascii_digit());
    let padded = token.len() > 1 && token.starts_with('0');
    if digits && !padded { token.parse().ok() } else { None }
}

fn unescaped(token: &str) -> Result<String, PointerError> {
    let mut pieces = token.split('~');
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (escaped, rest) = match piece.as_bytes().first() {
            Some(b'0') => ('~', &piece[1..]),
            Some(b'1') => ('/', &piece[1..]),
            _ => return Err(PointerError::Escape),
        };
        plain.push(escaped);
        plain.push_str(rest);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_taken_apart_and_written_as_it_was() {
        for (text, tokens) in [
            ("", &[][..]),
            ("/", &[""]),
            ("/a", &["a"]),
            ("/a/0/b c", &["a", "0", "b c"]),
            ("/a~1b/~0~01//", &["a/b", "~~1", "", ""]),
        ] {
            let pointer = Pointer::parse(text).unwrap();
            assert_eq!(pointer.tokens(), tokens, "{text}");
            assert_eq!(pointer.to_string(), text);
        }
        assert_eq!(Pointer::member("a/b~"), Pointer::parse("/a~1b~0").unwrap());
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        assert_eq!(Pointer::parse("a/b"), Err(PointerError::NoSlash));
        assert_eq!(Pointer::parse("/a~"), Err(PointerError::Escape));
        assert_eq!(Pointer::parse("/a~2"), Err(PointerError::Escape));
        assert!(Pointer::parse(&"/a".repeat(MAX_DEPTH)).is_ok());
        assert_eq!(Pointer::parse(&"/a".repeat(MAX_DEPTH + 1)), Err(PointerError::TooDeep));
    }

    #[test]
    fn a_pointer_is_split_where_it_names_each_element() {
        for (text, pieces) in [
            ("/a/b", &["/a/b"][..]),
            ("/items/*/sku", &["/items", "/sku"]),
            ("/*", &["", ""]),
            ("/a/*/*/b", &["/a", "", "/b"]),
            ("/a*/**", &["/a*/**"]),
        ] {
            let found: Vec<String> =
                Pointer::parse(text).unwrap().split_at_each().iter().map(ToString::to_string).collect();
            assert_eq!(found, pieces, "{text}");
        }
    }

    #[test]
    fn places_in_arrays() {
        assert_eq!(place("0"), Some(0));
        assert_eq!(place("17"), Some(17));
        for token in ["", "01", "+1", "-1", "-", "1a", "99999999999999999999999"] {
            assert_eq!(place(token), None, "{token}");
        }
    }
}
