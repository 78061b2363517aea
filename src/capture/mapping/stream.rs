//! The stream's name. How many different ones a route may make is the append script's to count: it
//! alone knows which exist.

use super::{Message, RejectReason, Rejection};
use crate::text::glob::{self, Captures};
use crate::text::template::{Part, Template};

#[derive(Debug)]
pub(super) struct StreamName {
    parts: Vec<Part>,
    /// Whether every message gives the same name, which `name` then holds for good.
    fixed: bool,
    name: Vec<u8>,
    /// What no name may begin with; empty where nothing is reserved.
    reserved: Vec<u8>,
    captures: Captures,
}

impl StreamName {
    pub(super) fn new(template: &Template, reserved: &str) -> Self {
        let literal = template.literal();
        Self {
            parts: template.parts().to_vec(),
            fixed: literal.is_some(),
            name: literal.unwrap_or_default().as_bytes().to_vec(),
            reserved: reserved.as_bytes().to_vec(),
            captures: Captures::default(),
        }
    }

    /// The name for a message.
    pub(super) fn make(&mut self, message: &Message<'_>) -> Result<&[u8], Rejection> {
        if self.fixed {
            return Ok(&self.name);
        }
        self.name.clear();
        let name = &mut self.name;
        render(&self.parts, message, &mut self.captures, |piece| {
            let (NamePiece::Literal(bytes) | NamePiece::Variable(bytes)) = piece;
            name.extend_from_slice(bytes);
        })?;
        if !self.reserved.is_empty() && self.name.starts_with(&self.reserved) {
            // A publisher must not reach the route's own records by the name of a channel.
            return Err(Rejection::new(
                RejectReason::ReservedName,
                format!(
                    "the stream's name begins with \"{}\", which is reserved for tidegate's own keys",
                    self.reserved.escape_ascii()
                ),
            ));
        }
        Ok(&self.name)
    }
}

/// What a template puts next.
pub(super) enum NamePiece<'a> {
    /// Text of the template itself.
    Literal(&'a [u8]),
    /// What the message brings.
    Variable(&'a [u8]),
}

/// Puts a template's pieces together for a message.
pub(super) fn render(
    parts: &[Part],
    message: &Message<'_>,
    captures: &mut Captures,
    mut put: impl FnMut(NamePiece<'_>),
) -> Result<(), Rejection> {
    let mut walked = false;
    for part in parts {
        let value = match part {
            Part::Literal(text) => {
                put(NamePiece::Literal(text.as_bytes()));
                continue;
            }
            Part::Channel => Some(message.channel),
            Part::Pattern => message.pattern,
            Part::Wildcard(number) => message.pattern.and_then(|pattern| {
                if !walked {
                    glob::captures(pattern, message.channel, captures);
                    walked = true;
                }
                captures.get(*number, message.channel)
            }),
            // The configuration refuses these in a capture's templates.
            Part::Field(_) | Part::Stream | Part::Id | Part::Json => None,
        };
        let Some(value) = value else { return Err(missing(part, message)) };
        put(NamePiece::Variable(value));
    }
    Ok(())
}

fn missing(part: &Part, message: &Message<'_>) -> Rejection {
    let detail = match (part, message.pattern) {
        (Part::Wildcard(number), Some(pattern)) => format!(
            "a template uses <{number}>, but the pattern '{}' has only {} '*'",
            pattern.escape_ascii(),
            glob::wildcards(pattern)
        ),
        (Part::Wildcard(_) | Part::Pattern, _) => {
            "a template uses the pattern, but the message came through a channel without pattern".to_owned()
        }
        _ => "a template uses a variable that only a stream's entry has".to_owned(),
    };
    Rejection::new(RejectReason::MissingVariable, detail)
}
