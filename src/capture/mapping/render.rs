//! Renders a template for a message.

use super::{Message, RejectReason, Rejection};
use crate::text::glob::{self, Captures};
use crate::text::json_values::JsonValues;
use crate::text::template::Part;

/// The values for a template.
#[derive(Clone, Copy)]
pub(super) struct TemplateInput<'a> {
    pub(super) message: &'a Message<'a>,
    /// The values in its payload.
    pub(super) values: &'a JsonValues,
}

/// The next piece of a name.
pub(super) enum NamePiece<'a> {
    /// Text of the template itself.
    Literal(&'a [u8]),
    /// A value of the message.
    Variable(&'a [u8]),
}

/// Puts a template's pieces together for a message.
pub(super) fn render(
    parts: &[Part],
    input: TemplateInput<'_>,
    captures: &mut Captures,
    mut put: impl FnMut(NamePiece<'_>),
) -> Result<(), Rejection> {
    let TemplateInput { message, values } = input;
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
            Part::Pointer(pointer) => values.get(pointer),
            // The configuration refuses these in a capture's templates.
            Part::Field(_) | Part::Stream | Part::Id | Part::Json | Part::Key => None,
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
        (Part::Pointer(pointer), _) => {
            format!(
                "a template uses <pointer:{pointer}>, but the payload has no text, number, true or false there"
            )
        }
        _ => "a template uses a variable that only a stream's entry has".to_owned(),
    };
    Rejection::new(RejectReason::MissingVariable, detail)
}
