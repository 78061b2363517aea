//! The conditions of a route's `where`.

use std::fmt;

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

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_str("not ")?;
        }
        write!(f, "{} {}", self.subject, self.test)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel => f.write_str("channel"),
            Self::Field(name) => write!(f, "entry field {name}"),
            Self::Text => f.write_str("payload"),
            Self::Payload(pointer) => pointer.fmt(f),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneOf(values) => {
                f.write_str("= ")?;
                values.iter().enumerate().try_for_each(|(index, value)| {
                    f.write_str(if index == 0 { "" } else { " or " })?;
                    value.fmt(f)
                })
            }
            Self::Exists(true) => f.write_str("exists"),
            Self::Exists(false) => f.write_str("does not exist"),
            Self::Prefix(prefix) => write!(f, "begins with \"{prefix}\""),
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Integer(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
        }
    }
}
