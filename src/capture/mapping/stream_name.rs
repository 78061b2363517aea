//! The stream's name. How many different ones a route may make is the append script's to count: it
//! alone knows which exist.

use super::render::{NamePiece, TemplateInput, render};
use super::{RejectReason, Rejection};
use crate::server::resp::CHANNEL_BYTES;
use crate::text::glob::Captures;
use crate::text::template::{Part, Template};

/// The longest name. As long as a channel may be, so that `<channel>` alone always fits. A value of a payload may be
/// far longer, and the set of the route's streams contains the name too.
const NAME_BYTES: usize = CHANNEL_BYTES;

#[derive(Debug)]
pub(super) struct StreamName {
    parts: Vec<Part>,
    /// True if every message gives the same name, which `name` then holds for good.
    fixed: bool,
    name: Vec<u8>,
    /// The reserved prefix of names; empty if nothing is reserved.
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
    pub(super) fn make(&mut self, input: TemplateInput<'_>) -> Result<&[u8], Rejection> {
        if self.fixed {
            return Ok(&self.name);
        }
        self.name.clear();
        let name = &mut self.name;
        render(&self.parts, input, &mut self.captures, |piece| {
            let (NamePiece::Literal(bytes) | NamePiece::Variable(bytes)) = piece;
            name.extend_from_slice(bytes);
        })?;
        if self.name.is_empty() {
            let detail = "the template results in an empty name for the stream";
            return Err(Rejection::new(RejectReason::MissingVariable, detail));
        }
        if self.name.len() > NAME_BYTES {
            let detail =
                format!("the stream's name has {} bytes, tidegate takes {NAME_BYTES}", self.name.len());
            return Err(Rejection::new(RejectReason::StreamTooLong, detail));
        }
        if !self.reserved.is_empty() && self.name.starts_with(&self.reserved) {
            // A publisher must not reach the route's own records by the name of a channel or by a payload.
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
