//! Templates: names and messages that are made from an event or an entry.
//!
//! `orders:<channel>` is literal text and variables. `<<` stands for one `<`. Which variables a
//! setting may use is decided where it is checked; here they are only taken apart. A
//! capture fills them in in `mapping/render.rs`, a broadcast in `message/render.rs`, an invalidation in
//! `invalidate/change/keys.rs`.

use std::fmt;

use super::json_pointer::{Pointer, PointerError};

/// A template, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

/// One piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Literal(String),
    /// `<channel>`: the channel that the message was published on.
    Channel,
    /// `<pattern>`: the pattern that matched.
    Pattern,
    /// `<1>` to `<9>`: what that `*` of the pattern matched, counted from 1.
    Wildcard(u8),
    /// `<pointer:/PATH>`: a value in the JSON payload.
    Pointer(Pointer),
    /// `<field:NAME>`: the value of an entry's first field of that name.
    Field(String),
    /// `<stream>`: the stream's name.
    Stream,
    /// `<id>`: the entry's id.
    Id,
    /// `<json>`: the whole entry as JSON.
    Json,
    /// `<key>`: a key of a cache, in the name of its lease.
    Key,
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It makes nothing.
    #[error("is empty")]
    Empty,
    /// A `<` without its `>`.
    #[error("has a '<' without its '>' (write '<<' for the character itself)")]
    Unclosed,
    /// A name that is no variable.
    #[error(
        "has the unknown variable '<{0}>' (known: <channel> <pattern> <1>…<9> <pointer:/PATH> <field:NAME> <stream> <id> <json> <key>; write '<<' for the character itself)"
    )]
    Unknown(String),
    /// A path that is no JSON pointer.
    #[error(
        "has '<pointer:{0}>', where \"{0}\" {1}; expected a JSON pointer, such as <pointer:/customer/id>"
    )]
    Pointer(String, PointerError),
}

impl Template {
    /// Takes a text apart.
    ///
    /// # Errors
    /// If the text is empty, a bracket is not closed, or a variable is unknown.
    pub fn parse(source: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = source;
        while let Some(at) = rest.find('<') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('<') {
                literal.push('<');
                rest = after;
                continue;
            }
            let close = rest.find('>').ok_or(TemplateError::Unclosed)?;
            let part = Part::variable(&rest[..close])?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part);
            rest = &rest[close + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        if parts.is_empty() {
            return Err(TemplateError::Empty);
        }
        Ok(Self { source: source.to_owned(), parts })
    }

    /// A template that makes this text, whatever it is used for. The text is not empty.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        Self { source: text.replace('<', "<<"), parts: vec![Part::Literal(text.to_owned())] }
    }

    /// The pieces, in order; at least one.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The text itself, where the template has no variable.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

impl Part {
    fn variable(name: &str) -> Result<Self, TemplateError> {
        Ok(match name {
            "channel" => Self::Channel,
            "pattern" => Self::Pattern,
            "stream" => Self::Stream,
            "id" => Self::Id,
            "json" => Self::Json,
            "key" => Self::Key,
            _ => match (name.split_once(':'), name.as_bytes()) {
                (Some(("pointer", path)), _) => {
                    let wrong = |error| TemplateError::Pointer(path.to_owned(), error);
                    Self::Pointer(Pointer::parse(path).map_err(wrong)?)
                }
                (Some(("field", field)), _) if !field.is_empty() => Self::Field(field.to_owned()),
                (None, [digit @ b'1'..=b'9']) => Self::Wildcard(digit - b'0'),
                _ => return Err(TemplateError::Unknown(name.to_owned())),
            },
        })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_text_alternate() {
        let template = Template::parse("{a<<b}:<channel>:<2><field:x y><pointer:/a~1b/0>").unwrap();
        assert_eq!(
            template.parts(),
            [
                Part::Literal("{a<b}:".into()),
                Part::Channel,
                Part::Literal(":".into()),
                Part::Wildcard(2),
                Part::Field("x y".into()),
                Part::Pointer(Pointer::parse("/a~1b/0").unwrap()),
            ]
        );
        assert_eq!(template.literal(), None);
        assert_eq!(Template::parse("a<<b").unwrap().literal(), Some("a<b"));
    }

    #[test]
    fn what_is_no_template_says_why() {
        assert_eq!(Template::parse(""), Err(TemplateError::Empty));
        assert_eq!(Template::parse("a<b"), Err(TemplateError::Unclosed));
        for name in ["0", "10", "field:", "chanel", ""] {
            assert_eq!(Template::parse(&format!("<{name}>")), Err(TemplateError::Unknown(name.to_owned())));
        }
        let wrong = TemplateError::Pointer("a".to_owned(), PointerError::NoSlash);
        assert_eq!(Template::parse("<pointer:a>"), Err(wrong));
    }
}
