//! The conditions of a route's `where`.

use crate::text::json_pointer::Pointer;

/// One condition of `where`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The value that is tested.
    pub subject: Subject,
    /// When it holds.
    pub test: Test,
    /// `not`: it holds where the test does not.
    pub negated: bool,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The channel that the message was published on. Captures only.
    Channel,
    /// A field of the entry, by its name. Broadcasts only.
    Field(String),
    /// The payload as text, whatever is in it. Captures only.
    Text,
    /// A value in the payload.
    Payload(Pointer),
}

/// When a condition holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// The value is one of these: `in`, or `equals` with one.
    OneOf(Vec<Scalar>),
    /// The value is there, or is not.
    Exists(bool),
    /// The value is a text that begins so.
    Prefix(String),
}

/// A value that a condition compares with.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    /// The content of a string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Any other finite number.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
}
