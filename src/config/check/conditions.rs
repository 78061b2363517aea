//! `where` of a route: each condition looks at one thing and tests it once.

use super::Check;
use crate::config::problems::Key;
use crate::config::raw;
use crate::config::read::element;
use crate::config::settings::{Condition, Scalar, Subject, Test};
use crate::text::json_pointer::Pointer;

/// What a condition may look at, and how.
const OF_MESSAGE: &str = "channel = true, payload = true, field = \"NAME\" or pointer = \"/PATH\"";
const OF_ENTRY: &str = "entry = \"NAME\", field = \"NAME\" or pointer = \"/PATH\"";
const TESTS: &str = "equals, in, exists or prefix";

/// Whose condition it is.
pub(super) trait Written {
    /// The subjects that a condition may have.
    const SUBJECTS: &str;

    /// What was written, taken apart.
    fn parts(self, check: &mut Check<'_>, key: &Key) -> ConditionParts;
}

type Named<T> = (&'static str, T);

/// A condition, taken apart.
pub(super) struct ConditionParts {
    /// What is looked at, with its key.
    subjects: Vec<Named<Option<Subject>>>,
    /// How it is tested.
    tests: Vec<Named<Test>>,
    /// True if it holds where the test does not.
    negated: bool,
}

impl Written for raw::Condition {
    const SUBJECTS: &str = OF_MESSAGE;

    fn parts(self, check: &mut Check<'_>, key: &Key) -> ConditionParts {
        let channel = self.channel.map(|_| ("channel", Some(Subject::Channel)));
        let text = self.payload.map(|_| ("payload", Some(Subject::Text)));
        let payload = check.payload(key, self.field, self.pointer);
        ConditionParts {
            subjects: channel.into_iter().chain(text).chain(payload).collect(),
            tests: tests(self.equals, self.r#in, self.exists, self.prefix),
            negated: self.not,
        }
    }
}

impl Written for raw::EntryCondition {
    const SUBJECTS: &str = OF_ENTRY;

    fn parts(self, check: &mut Check<'_>, key: &Key) -> ConditionParts {
        let entry = self.entry.map(|name| {
            check.name(&key.at("entry"), "field", &name);
            ("entry", Some(Subject::Field(name)))
        });
        let payload = check.payload(key, self.field, self.pointer);
        ConditionParts {
            subjects: entry.into_iter().chain(payload).collect(),
            tests: tests(self.equals, self.r#in, self.exists, self.prefix),
            negated: self.not,
        }
    }
}

fn tests(
    equals: Option<Scalar>,
    r#in: Option<Vec<Scalar>>,
    exists: Option<bool>,
    prefix: Option<String>,
) -> Vec<Named<Test>> {
    let equals = equals.map(|value| ("equals", Test::OneOf(vec![value])));
    let r#in = r#in.map(|values| ("in", Test::OneOf(values)));
    let exists = exists.map(|exists| ("exists", Test::Exists(exists)));
    let prefix = prefix.map(|prefix| ("prefix", Test::Prefix(prefix)));
    [equals, r#in, exists, prefix].into_iter().flatten().collect()
}

impl Check<'_> {
    /// The conditions that are whole.
    pub(super) fn conditions<C: Written>(&mut self, list: &Key, raw: Vec<raw::Table<C>>) -> Vec<Condition> {
        let checked = raw.into_iter().enumerate().filter_map(|(index, condition)| {
            let key = element(list, index, self.refused);
            self.condition(&key, condition.0)
        });
        checked.collect()
    }

    fn condition<C: Written>(&mut self, key: &Key, raw: C) -> Option<Condition> {
        let ConditionParts { subjects, tests, negated } = raw.parts(self, key);
        let subject = self.only_one(key, subjects, "looks at", C::SUBJECTS);
        let test = self.only_one(key, tests, "tests with", TESTS);
        let (name, test) = test?;
        self.test(&key.at(name), &test);
        if negated && let Test::Exists(exists) = test {
            let message = format!("negates exists; write exists = {} without it", !exists);
            self.report(&key.at("not"), message);
        }
        let subject = subject?.1?;
        match subject {
            Subject::Channel => self.text_test(&key.at(name), "channel", &test),
            Subject::Text => self.text_test(&key.at(name), "payload", &test),
            Subject::Field(_) => self.field_test(&key.at(name), &test),
            Subject::Payload(_) => {}
        }
        Some(Condition { subject, test, negated })
    }

    /// What looks into the payload.
    fn payload(
        &mut self,
        key: &Key,
        field: Option<String>,
        pointer: Option<String>,
    ) -> impl Iterator<Item = Named<Option<Subject>>> + use<> {
        let field = field.map(|name| ("field", self.field(&key.at("field"), &name)));
        let pointer = pointer.map(|text| ("pointer", self.pointer(&key.at("pointer"), &text)));
        field.into_iter().chain(pointer)
    }

    /// The one that is given. What was reported as a misfit counts as given, and a key that nobody
    /// knows may have been meant to be it.
    fn only_one<T>(
        &mut self,
        key: &Key,
        mut given: Vec<(&'static str, T)>,
        verb: &str,
        expected: &str,
    ) -> Option<(&'static str, T)> {
        match given.len() {
            0 => {
                if !self.reported(key) {
                    self.report(key, format!("{verb} nothing; expected one of {expected}"));
                }
                None
            }
            1 => given.pop(),
            _ => {
                let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
                self.report_with(
                    key,
                    format!("{verb} {}; expected one of {expected}", names.join(" and ")),
                    "write one condition for each; all of them must hold",
                );
                None
            }
        }
    }

    /// Returns whether something here was reported already.
    fn reported(&self, key: &Key) -> bool {
        self.refused.iter().any(|refused| refused.parts().starts_with(key.parts()))
    }

    fn field(&mut self, key: &Key, name: &str) -> Option<Subject> {
        self.name(key, "field", name);
        Some(Subject::Payload(Pointer::member(name)))
    }

    fn pointer(&mut self, key: &Key, text: &str) -> Option<Subject> {
        match Pointer::parse(text) {
            Ok(pointer) => Some(Subject::Payload(pointer)),
            Err(error) => {
                let message =
                    format!("\"{text}\" {error}; expected a JSON pointer, such as \"/customer/id\"");
                self.report(key, message);
                None
            }
        }
    }

    /// A test that could never hold, or would always.
    fn test(&mut self, key: &Key, test: &Test) {
        match test {
            Test::OneOf(values) if values.is_empty() => {
                if !self.reported(key) {
                    self.report(key, "is an empty list: no message would pass");
                }
            }
            Test::OneOf(values) => {
                for (index, value) in values.iter().enumerate() {
                    if values[..index].contains(value) {
                        let at = element(key, index, self.refused);
                        self.report(&at, "is listed twice");
                    }
                }
            }
            Test::Prefix(prefix) if prefix.is_empty() => {
                self.report_with(
                    key,
                    "is empty: every text begins with it",
                    "to test only whether the value exists, write exists = true",
                );
            }
            Test::Exists(_) | Test::Prefix(_) => {}
        }
    }

    /// A field of an entry is text.
    fn field_test(&mut self, key: &Key, test: &Test) {
        if let Test::OneOf(values) = test
            && values.iter().any(|value| !matches!(value, Scalar::Text(_)))
        {
            self.report(key, "a field of an entry equals only a text in quotes");
        }
    }

    /// A channel or a whole payload is always there, and always text.
    fn text_test(&mut self, key: &Key, what: &str, test: &Test) {
        match test {
            Test::Exists(_) => {
                let message =
                    format!("has no effect on a {what}, which always exists; expected equals, in or prefix");
                self.report(key, message);
            }
            Test::OneOf(values) if values.iter().any(|value| !matches!(value, Scalar::Text(_))) => {
                self.report(key, format!("a {what} equals only a text in quotes"));
            }
            Test::OneOf(_) | Test::Prefix(_) => {}
        }
    }
}
