//! Why an entry is not published.

use crate::text::origin::Unmarkable;

/// Why an entry cannot be published. Logged, and kept in the dead letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unrenderable {
    /// The template asks for a field that the entry does not have.
    #[error("the entry has no field '{0}'")]
    MissingField(String),
    /// The template asks for a value that the payload does not have.
    #[error("the payload has no text, number, true or false at '{0}'")]
    MissingValue(String),
    /// The template asks for what only a received message has.
    #[error("the template uses a variable that an entry does not have")]
    ForeignVariable,
    /// The channel's name would be empty.
    #[error("the channel's template results in an empty name")]
    EmptyChannel,
    /// The route marks its messages with an origin, and this one cannot be.
    #[error("{0}")]
    Origin(Unmarkable),
    /// It was acknowledged and deleted before it was read.
    #[error("the entry was deleted before it could be published")]
    Deleted,
    /// The message is over the limit.
    #[error("the message has {0} bytes, max_message_size is {1}")]
    TooLarge(u64, u64),
    /// The server refused it, as often as it may.
    #[error("{0} deliveries failed, the last with: {1}")]
    Refused(u64, String),
}

impl Unrenderable {
    /// The stable name in the dead letter.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::MissingField(_) => "missing_field",
            Self::MissingValue(_) => "missing_value",
            Self::ForeignVariable => "foreign_variable",
            Self::EmptyChannel => "empty_channel",
            Self::Origin(_) => "origin",
            Self::Deleted => "deleted",
            Self::TooLarge(..) => "too_large",
            Self::Refused(..) => "refused",
        }
    }
}

/// Why an entry is not published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Withheld {
    /// The route's filter leaves it out.
    Filtered,
    /// It cannot be.
    Unrenderable(Unrenderable),
}
