//! From one received message to the content of its entry: the stream's name and the fields.
//!
//! Constraints: this runs for each message, so a `raw` entry costs no allocation, and parts of the message are passed
//! on as ranges of the read buffer. Channels and payloads are any bytes.
//!
//! Operation: [`Mapping::map`] calls a [`FieldSink`] with the stream first and then with each field in
//! the entry's order.
//!
//! ```text
//! format       fields of the entry, in order
//! raw          channel, pattern (where one matched), payload, then what `include` and `add` add
//! fields       what `include` and `add` add, then the members of the JSON object
//! cloudevents  event, then what `include` and `add` add
//! ```
//!
//! The route's `fields` gives the fields other names, and leaves channel and pattern out.
//!
//! Failure: a message that cannot become an entry is a [`Rejection`], for the route's dead letters. The sink may have
//! been called already: its owner removes everything since the call began. That is one truncation there, and would be a
//! second buffer here.

mod added;
mod cloudevents;
mod field_name;
mod fields;
mod raw;
mod render;
mod stream_name;

use std::fmt;
use std::io::Write as _;

use crate::config::{Capture, Format, Include};
use crate::server::resp::CHANNEL_BYTES;
pub use crate::server::resp::Message;
use crate::text::json_values::JsonValues;
use crate::text::template::Template;

use added::AddedFields;
use cloudevents::CloudEventsFormat;
pub use field_name::FieldName;
use raw::RawFields;
use render::TemplateInput;
use stream_name::StreamName;

/// The most members of a JSON object that become fields of one entry. The append script hands all
/// names and values to `unpack`, which dies at 8,000 values (4,000 fields); entries of more than a
/// few hundred fields are a mistake of the publisher rather than a use.
pub(super) const MAX_FIELDS: usize = 1000;

/// tidegate's facts about a message. Read only if the format or `include` asks for them.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Its position in the source's order.
    pub position: &'a dyn fmt::Display,
    /// When it was received; milliseconds since 1970.
    pub received_unix_ms: u64,
}

/// Takes in one entry. After a rejection its owner removes everything of that message.
pub trait FieldSink {
    /// The stream's name; comes once, before every field.
    fn stream(&mut self, name: &[u8]);
    /// The next field.
    fn field(&mut self, name: &[u8], value: &[u8]);
    /// The next field, with a name that was known before the message.
    fn named_field(&mut self, name: &FieldName, value: &[u8]) {
        self.field(name.as_bytes(), value);
    }
}

/// Why a message cannot become an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .reason.as_str())]
pub struct Rejection {
    /// The kind of reason.
    pub reason: RejectReason,
    /// The details, for an operator. Never contains the payload.
    pub detail: String,
}

impl Rejection {
    fn new(reason: RejectReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// A rejection for a channel whose name has this many bytes.
    #[must_use]
    pub fn channel_too_long(bytes: usize) -> Self {
        let detail = format!("the name of the channel has {bytes} bytes, tidegate takes {CHANNEL_BYTES}");
        Self::new(RejectReason::ChannelTooLong, detail)
    }
}

/// A kind of reason. Its name is part of the dead letter. Reasons that only the destination knows (a key of another
/// type, more streams than `max_streams`) come from the append script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// The payload is larger than `max_message_size`.
    TooLarge,
    /// A template asks for a pattern, a wildcard or a value of the payload that this message does not have, or makes
    /// nothing where something is required.
    MissingVariable,
    /// The format `fields` needs a JSON object.
    NotJsonObject,
    /// The JSON object has no member, and an entry needs a field.
    NoFields,
    /// The JSON object has more members than an entry may have fields.
    TooManyFields,
    /// The channel's name is longer than tidegate takes.
    ChannelTooLong,
    /// The template makes a name that begins with the destination's `key_prefix`.
    ReservedName,
    /// The template makes a name that is longer than tidegate takes.
    StreamTooLong,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::TooLarge,
        Self::MissingVariable,
        Self::NotJsonObject,
        Self::NoFields,
        Self::TooManyFields,
        Self::ChannelTooLong,
        Self::ReservedName,
        Self::StreamTooLong,
    ];

    /// The name in dead letters and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::MissingVariable => "missing_variable",
            Self::NotJsonObject => "not_json_object",
            Self::NoFields => "no_fields",
            Self::TooManyFields => "too_many_fields",
            Self::ChannelTooLong => "channel_too_long",
            Self::ReservedName => "reserved_name",
            Self::StreamTooLong => "stream_too_long",
        }
    }
}

/// How one route turns messages into entries.
#[derive(Debug)]
pub struct Mapping {
    stream: StreamName,
    shape: Shape,
    included: Vec<IncludedField>,
    added: AddedFields,
    /// The values of the payload that templates name.
    values: JsonValues,
    max_message_bytes: u64,
    /// An added value as text. Kept from message to message, so that it is allocated once.
    text: Vec<u8>,
}

#[derive(Debug)]
enum Shape {
    Raw(RawFields),
    Fields,
    CloudEvents {
        /// The field's name.
        name: FieldName,
        event: Box<CloudEventsFormat>,
    },
}

/// A field that `include` adds, and its name.
#[derive(Debug)]
struct IncludedField {
    what: Include,
    name: FieldName,
}

impl Mapping {
    /// Makes the mapping that a route's settings ask for.
    #[must_use]
    pub fn new(settings: &Capture) -> Self {
        Self {
            stream: StreamName::new(&settings.stream, &settings.reserved),
            shape: match &settings.format {
                Format::Raw => Shape::Raw(RawFields::new(&settings.fields)),
                Format::Fields => Shape::Fields,
                Format::CloudEvents { source, r#type } => Shape::CloudEvents {
                    name: FieldName::new(&settings.fields.event),
                    event: Box::new(CloudEventsFormat::new(source, r#type)),
                },
            },
            included: settings
                .include
                .iter()
                .filter_map(|what| {
                    let name = FieldName::new(settings.fields.included(*what)?);
                    Some(IncludedField { what: *what, name })
                })
                .collect(),
            added: AddedFields::new(&settings.add),
            values: JsonValues::of(templates(settings).flat_map(Template::parts)),
            max_message_bytes: settings.max_message_size,
            text: Vec::new(),
        }
    }

    /// Hands the entry that a message makes to the sink. `size` is the payload's whole length in bytes:
    /// of a message over the limit only the beginning was kept.
    ///
    /// # Errors
    /// If the message cannot become an entry. The sink may have been called: see [`FieldSink`].
    pub fn map(
        &mut self,
        message: &Message<'_>,
        size: usize,
        context: &Context<'_>,
        sink: &mut impl FieldSink,
    ) -> Result<(), Rejection> {
        let bytes = u64::try_from(size).unwrap_or(u64::MAX);
        if bytes > self.max_message_bytes {
            return Err(Rejection::new(
                RejectReason::TooLarge,
                format!("the payload has {bytes} bytes, max_message_size is {}", self.max_message_bytes),
            ));
        }
        let Self { stream, shape, included, added, values, max_message_bytes, text } = self;
        values.read(|| message.payload);
        let input = TemplateInput { message, values };
        sink.stream(stream.make(input)?);
        let mut extra = |sink: &mut _| {
            let present = include(included, text, message, context, sink);
            added.map(input, text, *max_message_bytes, sink).map(|added| present + added)
        };
        match shape {
            Shape::Raw(fields) => {
                fields.map(message, sink);
                extra(sink)?;
            }
            Shape::Fields => {
                let present = extra(sink)?;
                fields::map(message.payload, present, sink)?;
            }
            Shape::CloudEvents { name, event } => {
                sink.named_field(name, event.make(input, context)?);
                extra(sink)?;
            }
        }
        Ok(())
    }
}

/// The templates that a message goes through.
fn templates(settings: &Capture) -> impl Iterator<Item = &Template> {
    let attributes = match &settings.format {
        Format::CloudEvents { source, r#type } => [Some(source), Some(r#type)],
        Format::Raw | Format::Fields => [None, None],
    };
    let added = settings.add.iter().map(|field| &field.value);
    [&settings.stream].into_iter().chain(attributes.into_iter().flatten()).chain(added)
}

/// Adds the fields of the route's `include`; returns their number.
fn include(
    wanted: &[IncludedField],
    text: &mut Vec<u8>,
    message: &Message<'_>,
    context: &Context<'_>,
    sink: &mut impl FieldSink,
) -> usize {
    let mut added = 0;
    for IncludedField { what, name } in wanted {
        text.clear();
        let value = match what {
            Include::Id => {
                append(text, context.position);
                text.as_slice()
            }
            Include::ReceivedAt => {
                append(text, &context.received_unix_ms);
                text.as_slice()
            }
            Include::Channel => message.channel,
            Include::Pattern => match message.pattern {
                Some(pattern) => pattern,
                None => continue,
            },
        };
        sink.named_field(name, value);
        added += 1;
    }
    added
}

/// Appends a value as it displays itself.
fn append(text: &mut Vec<u8>, value: &dyn fmt::Display) {
    // Writing into a Vec cannot fail, and a position or a number has no failing Display.
    let written = write!(text, "{value}");
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests;
