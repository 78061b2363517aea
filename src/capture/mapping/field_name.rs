//! The name of an entry's field, known before any message.

use crate::server::resp;

/// A name, encoded for the wire. Names are part of every entry, so they are encoded once.
#[derive(Debug, Clone)]
pub struct FieldName {
    text: String,
    argument: Vec<u8>,
}

impl FieldName {
    pub(super) fn new(text: &str) -> Self {
        let mut argument = Vec::new();
        resp::argument(&mut argument, text.as_bytes());
        Self { text: text.to_owned(), argument }
    }

    /// The name itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The name as one argument of a command.
    #[must_use]
    pub fn argument(&self) -> &[u8] {
        &self.argument
    }
}
