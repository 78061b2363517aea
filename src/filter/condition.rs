//! The test of one condition, prepared for many calls.

use std::collections::HashSet;

use crate::config::{self, Scalar};
use crate::text::json_pointer::evaluate::with_text;

/// When a condition holds.
#[derive(Debug)]
pub(super) struct ConditionTest {
    test: ValueTest,
    negated: bool,
}

/// When a value is the one that is wanted.
#[derive(Debug)]
enum ValueTest {
    OneOf(OneOf),
    Exists(bool),
    Prefix(String),
}

/// Values to compare with, by their types.
#[derive(Debug, Default)]
struct OneOf {
    texts: HashSet<Vec<u8>>,
    numbers: Vec<ComparedNumber>,
    r#true: bool,
    r#false: bool,
}

/// A number in both shapes that JSON may write it in: `1` and `1.0` are one number, and a whole one
/// beyond 2^53 is only itself.
#[derive(Debug)]
struct ComparedNumber {
    integer: Option<i128>,
    float: Option<f64>,
}

impl ConditionTest {
    pub(super) fn new(settings: &config::Condition) -> Self {
        Self { test: ValueTest::new(&settings.test), negated: settings.negated }
    }

    /// Returns whether it holds for a text, any bytes.
    pub(super) fn holds_for_text(&self, text: &[u8]) -> bool {
        self.test.holds_for_text(text) != self.negated
    }

    /// Returns whether it holds for a JSON value, as it is written.
    pub(super) fn holds_for_json(&self, json: &str) -> bool {
        self.test.holds_for_json(json) != self.negated
    }

    /// Returns whether it holds without a value.
    pub(super) fn holds_without(&self) -> bool {
        matches!(self.test, ValueTest::Exists(false)) != self.negated
    }
}

impl ValueTest {
    fn new(settings: &config::Test) -> Self {
        match settings {
            config::Test::OneOf(values) => Self::OneOf(OneOf::new(values)),
            config::Test::Exists(exists) => Self::Exists(*exists),
            config::Test::Prefix(prefix) => Self::Prefix(prefix.clone()),
        }
    }

    fn holds_for_text(&self, text: &[u8]) -> bool {
        match self {
            Self::OneOf(values) => values.texts.contains(text),
            Self::Exists(exists) => *exists,
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
        }
    }

    fn holds_for_json(&self, json: &str) -> bool {
        match (self, json.as_bytes().first()) {
            (Self::Exists(exists), _) => *exists,
            // What no text can be made of (half of a surrogate pair) is no text.
            (_, Some(b'"')) => with_text(json, |text| self.holds_for_text(text.as_bytes())).unwrap_or(false),
            (Self::OneOf(values), Some(b't')) => values.r#true,
            (Self::OneOf(values), Some(b'f')) => values.r#false,
            (Self::OneOf(values), Some(b'-' | b'0'..=b'9')) => values.has_number(json),
            _ => false,
        }
    }
}

impl OneOf {
    fn new(values: &[Scalar]) -> Self {
        let mut found = Self::default();
        for value in values {
            match value {
                Scalar::Text(text) => {
                    found.texts.insert(text.as_bytes().to_vec());
                }
                Scalar::Integer(number) => found.numbers.push(ComparedNumber::integer(*number)),
                Scalar::Float(number) => found.numbers.push(ComparedNumber::float(*number)),
                Scalar::Bool(true) => found.r#true = true,
                Scalar::Bool(false) => found.r#false = true,
            }
        }
        found
    }

    fn has_number(&self, json: &str) -> bool {
        if self.numbers.is_empty() {
            return false;
        }
        if let Ok(integer) = json.parse::<i128>() {
            return self.numbers.iter().any(|number| number.integer == Some(integer));
        }
        let float = json.parse::<f64>().ok();
        float.is_some() && self.numbers.iter().any(|number| number.float == float)
    }
}

impl ComparedNumber {
    fn integer(integer: i64) -> Self {
        let text = integer.to_string();
        let exact = |float: &f64| format!("{float:.0}") == text;
        Self { integer: Some(integer.into()), float: text.parse().ok().filter(exact) }
    }

    fn float(float: f64) -> Self {
        let whole = float.fract() == 0.0;
        Self { integer: format!("{float:.0}").parse().ok().filter(|_| whole), float: Some(float) }
    }
}
