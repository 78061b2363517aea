//! The conditions on a payload, as JSON.

use super::condition::ConditionTest;
use crate::text::json_pointer::Pointer;
use crate::text::json_pointer::evaluate::{Places, PointerTree};

/// The conditions on a payload.
#[derive(Debug, Default)]
pub(super) struct Payload {
    tree: PointerTree,
    answers: TestResults,
}

/// The tests, and which of them hold for the payload that is looked at.
#[derive(Debug, Default)]
struct TestResults {
    tests: Vec<ConditionTest>,
    hold: Vec<bool>,
}

impl Payload {
    pub(super) fn is_empty(&self) -> bool {
        self.answers.tests.is_empty()
    }

    pub(super) fn add(&mut self, pointer: &Pointer, test: ConditionTest) {
        self.tree.add(pointer, self.answers.tests.len());
        self.answers.hold.push(test.holds_without());
        self.answers.tests.push(test);
    }

    /// Returns whether every test holds for a payload.
    pub(super) fn all_hold(&mut self, payload: &[u8]) -> bool {
        self.tree.look(payload, &mut self.answers);
        self.answers.hold.iter().all(|holds| *holds)
    }
}

impl Places for TestResults {
    fn value(&mut self, place: usize, json: &str) {
        self.hold[place] = self.tests[place].holds_for_json(json);
    }

    fn nothing(&mut self, place: usize) {
        self.hold[place] = self.tests[place].holds_without();
    }
}
