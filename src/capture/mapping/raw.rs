//! The format `raw`: the message as it came, byte for byte.

use super::{FieldName, FieldSink, Message};
use crate::config::FieldNames;

/// The names of the fields; none is left out.
#[derive(Debug)]
pub(super) struct RawFields {
    channel: Option<FieldName>,
    pattern: Option<FieldName>,
    payload: FieldName,
}

impl RawFields {
    pub(super) fn new(names: &FieldNames) -> Self {
        Self {
            channel: names.channel.as_deref().map(FieldName::new),
            pattern: names.pattern.as_deref().map(FieldName::new),
            payload: FieldName::new(&names.payload),
        }
    }

    pub(super) fn map(&self, message: &Message<'_>, sink: &mut impl FieldSink) {
        if let Some(name) = &self.channel {
            sink.named_field(name, message.channel);
        }
        if let (Some(name), Some(pattern)) = (&self.pattern, message.pattern) {
            sink.named_field(name, pattern);
        }
        sink.named_field(&self.payload, message.payload);
    }
}
