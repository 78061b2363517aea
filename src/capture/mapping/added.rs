//! The fields of the route's `add`: each is a name and a rendered template.

use super::render::{NamePiece, TemplateInput, render};
use super::{FieldName, FieldSink, RejectReason, Rejection};
use crate::config::AddedField;
use crate::text::glob::Captures;
use crate::text::template::Template;

#[derive(Debug)]
pub(super) struct AddedFields {
    fields: Vec<(FieldName, Template)>,
    captures: Captures,
}

impl AddedFields {
    pub(super) fn new(fields: &[AddedField]) -> Self {
        let named = |field: &AddedField| (FieldName::new(&field.name), field.value.clone());
        Self { fields: fields.iter().map(named).collect(), captures: Captures::default() }
    }

    /// Adds them, and returns how many they are. `text` is room to put a value together. Values of the payload may be
    /// named again and again, so all together may not be longer than the longest message.
    pub(super) fn map(
        &mut self,
        input: TemplateInput<'_>,
        text: &mut Vec<u8>,
        max_bytes: u64,
        sink: &mut impl FieldSink,
    ) -> Result<usize, Rejection> {
        let mut bytes = 0_u64;
        for (name, value) in &self.fields {
            text.clear();
            render(value.parts(), input, &mut self.captures, |piece| {
                let (NamePiece::Literal(piece) | NamePiece::Variable(piece)) = piece;
                text.extend_from_slice(piece);
            })?;
            bytes = bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
            if bytes > max_bytes {
                let detail =
                    format!("the fields of add have over {max_bytes} bytes, which is max_message_size");
                return Err(Rejection::new(RejectReason::TooLarge, detail));
            }
            sink.named_field(name, text);
        }
        Ok(self.fields.len())
    }
}
