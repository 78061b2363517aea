//! What an entry of a capture looks like.

use crate::text::template::Template;

/// What an entry looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// The fields `channel`, `pattern` (where one matched) and `payload`.
    Raw,
    /// The members of a JSON object as fields.
    Fields,
    /// A CloudEvents 1.0 structured JSON document in the field `event`.
    CloudEvents {
        /// The attribute `source`.
        source: Template,
        /// The attribute `type`.
        r#type: Template,
    },
}

/// What tidegate adds to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// `id`: the event's position.
    Id,
    /// `received_at`: milliseconds since 1970 by the daemon's clock.
    ReceivedAt,
    /// `channel`: the channel that the message was published on. Not with [`Format::Raw`], which has it.
    Channel,
    /// `pattern`: the pattern that matched, where one did. Not with [`Format::Raw`], which has it.
    Pattern,
}

impl Include {
    /// The word in `include`, which is the field's name where `fields` gives no other.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::ReceivedAt => "received_at",
            Self::Channel => "channel",
            Self::Pattern => "pattern",
        }
    }
}

/// `fields`: what the fields are called that tidegate makes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldNames {
    /// The channel; none leaves it out of a raw entry.
    pub channel: Option<String>,
    /// The pattern; none leaves it out of a raw entry.
    pub pattern: Option<String>,
    /// The payload of a raw entry.
    pub payload: String,
    /// The CloudEvent.
    pub event: String,
    /// The position.
    pub id: String,
    /// When the message was received.
    pub received_at: String,
}

/// `add`: a field, and the template of its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddedField {
    /// The field's name.
    pub name: String,
    /// What stands in it, from the event.
    pub value: Template,
}

impl Default for FieldNames {
    fn default() -> Self {
        Self {
            channel: Some("channel".to_owned()),
            pattern: Some("pattern".to_owned()),
            payload: "payload".to_owned(),
            event: "event".to_owned(),
            id: "id".to_owned(),
            received_at: "received_at".to_owned(),
        }
    }
}

impl FieldNames {
    /// The field of what is included, where it is not left out.
    #[must_use]
    pub fn included(&self, include: Include) -> Option<&str> {
        match include {
            Include::Id => Some(&self.id),
            Include::ReceivedAt => Some(&self.received_at),
            Include::Channel => self.channel.as_deref(),
            Include::Pattern => self.pattern.as_deref(),
        }
    }

    /// The fields that an entry may have beside the members of its payload, in the entry's order: the key in `fields`
    /// and the name.
    #[must_use]
    pub fn of_entry(&self, format: &Format, include: &[Include]) -> Vec<(&'static str, &str)> {
        let event = [Some(("event", self.event.as_str())), None, None];
        let raw = [
            self.channel.as_deref().map(|name| ("channel", name)),
            self.pattern.as_deref().map(|name| ("pattern", name)),
            Some(("payload", self.payload.as_str())),
        ];
        let own = match format {
            Format::Raw => raw,
            Format::Fields => [None; 3],
            Format::CloudEvents { .. } => event,
        };
        let included = include.iter().map(|include| Some((include.as_str(), self.included(*include)?)));
        own.into_iter().chain(included).flatten().collect()
    }
}
