//! The stream's name, and how many different ones a route has made.
//!
//! Publishers choose channel names, so a template lets them choose keys. `max_streams` bounds that,
//! counted since the route was started. Names are remembered as 64-bit hashes under a key of this
//! process: 10,000 of them cost 8 bytes each however long publishers make their channels, and two
//! names that collide let one stream more through, which harms nobody.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashSet;

use super::{Message, RejectReason, Rejection};
use crate::glob::{self, Captures};
use crate::template::{Part, Template};

#[derive(Debug)]
pub(super) struct StreamName {
    parts: Vec<Part>,
    /// Whether every message gives the same name, which `name` then holds for good.
    fixed: bool,
    name: Vec<u8>,
    captures: Captures,
    made: HashSet<u64>,
    hasher: RandomState,
    max: u32,
    /// The name's hash, where it is a new one that is not yet counted.
    fresh: Option<u64>,
}

impl StreamName {
    pub(super) fn new(template: &Template, max: u32) -> Self {
        let literal = template.literal();
        Self {
            parts: template.parts().to_vec(),
            fixed: literal.is_some(),
            name: literal.unwrap_or_default().as_bytes().to_vec(),
            captures: Captures::default(),
            made: HashSet::new(),
            hasher: RandomState::new(),
            max,
            fresh: None,
        }
    }

    /// The name for a message. A new name counts once [`StreamName::made`] says that an entry came of it.
    pub(super) fn make(&mut self, message: &Message<'_>) -> Result<&[u8], Rejection> {
        if self.fixed {
            return Ok(&self.name);
        }
        self.name.clear();
        let name = &mut self.name;
        render(&self.parts, message, &mut self.captures, |piece| {
            let (Piece::Literal(bytes) | Piece::Variable(bytes)) = piece;
            name.extend_from_slice(bytes);
        })?;
        let hash = self.hasher.hash_one(&self.name);
        self.fresh = (!self.made.contains(&hash)).then_some(hash);
        let full = u32::try_from(self.made.len()).map_or(true, |made| made >= self.max);
        if self.fresh.is_some() && full {
            return Err(Rejection::new(
                RejectReason::TooManyStreams,
                format!("the route has made {} streams since it started, which is its max_streams", self.max),
            ));
        }
        Ok(&self.name)
    }

    /// Counts the latest name, where it is new.
    pub(super) fn made(&mut self) {
        self.made.extend(self.fresh.take());
    }
}

/// What a template puts next.
pub(super) enum Piece<'a> {
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
    mut put: impl FnMut(Piece<'_>),
) -> Result<(), Rejection> {
    let mut walked = false;
    for part in parts {
        let value = match part {
            Part::Literal(text) => {
                put(Piece::Literal(text.as_bytes()));
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
        put(Piece::Variable(value));
    }
    Ok(())
}

fn missing(part: &Part, message: &Message<'_>) -> Rejection {
    let detail = match (part, message.pattern) {
        (Part::Wildcard(number), Some(pattern)) => format!(
            "a template uses <{number}>, and the pattern '{}' has {} '*'",
            pattern.escape_ascii(),
            glob::wildcards(pattern)
        ),
        (Part::Wildcard(_) | Part::Pattern, _) => {
            "a template uses the pattern, and the message came through a plain subscription".to_owned()
        }
        _ => "a template uses what only a stream's entry has".to_owned(),
    };
    Rejection::new(RejectReason::MissingVariable, detail)
}
