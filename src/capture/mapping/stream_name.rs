//! The stream's name. How many different ones a route may make is the append script's to count: it
//! alone knows which exist.

use super::render::{NamePiece, render};
use super::{Message, RejectReason, Rejection};
use crate::text::glob::Captures;
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
