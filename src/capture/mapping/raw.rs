//! The format `raw`: the message as it came, byte for byte.

use super::{FieldSink, Message};

pub(super) fn map(message: &Message<'_>, sink: &mut impl FieldSink) {
    sink.field(b"channel", message.channel);
    if let Some(pattern) = message.pattern {
        sink.field(b"pattern", pattern);
    }
    sink.field(b"payload", message.payload);
}
