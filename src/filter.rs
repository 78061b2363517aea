//! The filter of a route, its `where`: which messages are captured, which entries are broadcast.
//!
//! Problem: of a busy channel or stream a route may want a few, told by the channel, by a field of the entry,
//! or by what the payload says. The others are left out, and counted as filtered, before anything is made
//! of them.
//!
//! Constraints: this runs once a message on the hot path. Conditions on a text as it stands (channel, field,
//! whole payload) are tested first and read no JSON; the payload is read as JSON at most once, without building what no condition
//! looks at; nothing is allocated a message. Payloads are any bytes.
//!
//! Operation: the conditions' pointers are one tree, and what the payload holds is looked at along it
//! (`text/json_pointer/evaluate.rs`).
//!
//! ```text
//! where  /kind equals "order"     tree  ┬ kind ─────── test 0
//!        /customer/id exists            └ customer ┬ id ── test 1
//!        /customer/tags/0 prefix "x"               └ tags ─ 0 ── test 2
//! ```
//!
//! Failure: a payload that is not JSON, or that is not there, has no values: `exists = false` holds,
//! everything else does not. `not` turns each answer around.

mod condition;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use crate::config::{Condition, Subject};

use condition::ConditionTest;
use json::Payload;

/// What conditions look at: a message, or an entry. `None` is what it does not have.
pub(crate) trait Filterable {
    /// The channel that it was published on.
    fn channel(&self) -> Option<&[u8]>;
    /// A field of the entry.
    fn field(&self, name: &[u8]) -> Option<&[u8]>;
    /// The payload.
    fn payload(&self) -> Option<&[u8]>;
}

/// The conditions of a route, ready to test messages.
#[derive(Debug)]
pub(crate) struct Filter {
    texts: Vec<(TextSubject, ConditionTest)>,
    payload: Option<Payload>,
}

/// What is tested as text, as it stands there.
#[derive(Debug)]
enum TextSubject {
    Channel,
    Payload,
    Field(String),
}

impl Filter {
    /// The filter that these conditions make.
    pub(crate) fn new(conditions: &[Condition]) -> Self {
        let mut texts = Vec::new();
        let mut payload = Payload::default();
        for condition in conditions {
            let test = ConditionTest::new(condition);
            match &condition.subject {
                Subject::Channel => texts.push((TextSubject::Channel, test)),
                Subject::Text => texts.push((TextSubject::Payload, test)),
                Subject::Field(name) => texts.push((TextSubject::Field(name.clone()), test)),
                Subject::Payload(pointer) => payload.add(pointer, test),
            }
        }
        Self { texts, payload: Some(payload).filter(|payload| !payload.is_empty()) }
    }

    /// The first of these conditions that does not hold.
    pub(crate) fn failing<'c>(
        conditions: &'c [Condition],
        looked: &impl Filterable,
    ) -> Option<&'c Condition> {
        conditions.iter().find(|condition| !Self::new(std::slice::from_ref(*condition)).passes(looked))
    }

    /// Returns whether every condition holds.
    pub(crate) fn passes(&mut self, looked: &impl Filterable) -> bool {
        let holds = |(text, test): &(TextSubject, ConditionTest)| {
            let found = match text {
                TextSubject::Channel => looked.channel(),
                TextSubject::Payload => looked.payload(),
                TextSubject::Field(name) => looked.field(name.as_bytes()),
            };
            found.map_or_else(|| test.holds_without(), |text| test.holds_for_text(text))
        };
        self.texts.iter().all(holds)
            && self.payload.as_mut().is_none_or(|conditions| match looked.payload() {
                Some(payload) => conditions.all_hold(payload),
                None => conditions.all_hold(b""),
            })
    }
}

mod json;
#[cfg(test)]
mod tests;
