//! Conditions as they are written: of a capture on messages, of a broadcast on entries.

use schemars::JsonSchema;
use serde::Deserialize;

use super::True;
use crate::config::settings::Scalar;

/// A condition on a message: what is looked at (channel, payload, field or pointer) and one test of it
/// (equals, in, exists or prefix).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Condition {
    /// Looks at the channel that the message was published on.
    pub(crate) channel: Option<True>,
    /// Looks at the payload as text, whatever is in it.
    pub(crate) payload: Option<True>,
    /// Looks at a top-level member of the payload, a JSON object.
    pub(crate) field: Option<String>,
    /// Looks at a value in the payload, by its JSON pointer (RFC 6901), such as "/customer/id".
    pub(crate) pointer: Option<String>,
    /// Holds where it is this value.
    pub(crate) equals: Option<Scalar>,
    /// Holds where it is one of these values.
    pub(crate) r#in: Option<Vec<Scalar>>,
    /// Holds where it is there (true) or is not there (false).
    pub(crate) exists: Option<bool>,
    /// Holds where it is a text that begins so.
    pub(crate) prefix: Option<String>,
    /// The condition holds where its test does not.
    #[serde(default)]
    pub(crate) not: bool,
}

/// A condition on an entry: what is looked at (entry, field or pointer) and one test of it (equals, in,
/// exists or prefix).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct EntryCondition {
    /// Looks at a field of the entry, as text.
    pub(crate) entry: Option<String>,
    /// Looks at a top-level member of the payload, a JSON object.
    pub(crate) field: Option<String>,
    /// Looks at a value in the payload, by its JSON pointer (RFC 6901), such as "/customer/id".
    pub(crate) pointer: Option<String>,
    /// Holds where it is this value.
    pub(crate) equals: Option<Scalar>,
    /// Holds where it is one of these values.
    pub(crate) r#in: Option<Vec<Scalar>>,
    /// Holds where it is there (true) or is not there (false).
    pub(crate) exists: Option<bool>,
    /// Holds where it is a text that begins so.
    pub(crate) prefix: Option<String>,
    /// The condition holds where its test does not.
    #[serde(default)]
    pub(crate) not: bool,
}
