//! The format `raw`: the message as it came, byte for byte.

use super::{FieldSink, Message};
use crate::config::FieldNames;

/// What the fields are called; none is left out.
#[derive(Debug)]
pub(super) struct RawFields {
    channel: Option<String>,
    pattern: Option<String>,
    payload: String,
}

impl RawFields {
    pub(super) fn new(names: &FieldNames) -> Self {
        let FieldNames { channel, pattern, payload, .. } = names.clone();
        Self { channel, pattern, payload }
    }

    pub(super) fn map(&self, message: &Message<'_>, sink: &mut impl FieldSink) {
        if let Some(name) = &self.channel {
            sink.field(name.as_bytes(), message.channel);
        }
        if let (Some(name), Some(pattern)) = (&self.pattern, message.pattern) {
            sink.field(name.as_bytes(), pattern);
        }
        sink.field(self.payload.as_bytes(), message.payload);
    }
}
