//! Which route of one name runs, which one it replaces, and which one is next.
//!
//! Problem: two routes of one name share the state's key, the cursor and the spool's directory, so a new one must not
//! begin while an old one writes them. An old one may take the whole shutdown timeout to end, and reloads may come at
//! any time.
//!
//! ```text
//! planned ──▶ current                       no other route of the name is left
//! planned ──▶ current ◀─ predecessor        a capture on the same source: takes over at an anchor
//! planned ┄┄▶ current (ending)              everything else: starts when that one has ended
//! planned ┄┄▶ current (withdrawn) ◀─ predecessor     had not taken over yet: the predecessor becomes current
//! planned ┄┄▶ current ◀─ predecessor (ending)        has taken over: what is left of the predecessor ends
//! ```
//!
//! So there are at most three: one that reads, one before it that ends, and one plan. A replaced plan was never
//! started, and leaves nothing behind.

use tokio::task::Id;

use super::running::{Plan, Predecessor, Running};

/// The routes of one name.
#[derive(Debug, Default)]
pub(super) struct Replacement {
    /// The route that was started last.
    current: Option<Running>,
    /// The capture that `current` replaces, until it has ended.
    predecessor: Option<Running>,
    /// True if `current` was given up before it took over from `predecessor`.
    withdrawn: bool,
    /// The route to start as soon as possible.
    planned: Option<Plan>,
}

/// A route that may be started now.
#[derive(Debug)]
pub(super) struct DueStart {
    pub(super) plan: Plan,
    pub(super) predecessor: Option<Predecessor>,
}

impl Replacement {
    /// Takes in a configuration's plan for the name; `None` if it has no such route.
    pub(super) fn want(&mut self, plan: Option<Plan>) {
        self.planned = plan;
        if self.planned.is_none() {
            for running in self.current.iter().chain(&self.predecessor) {
                running.end();
            }
        }
        self.make_way();
    }

    /// Takes in that a task has ended. `false` where it was none of these.
    pub(super) fn ended(&mut self, task: Id) -> bool {
        if self.predecessor.as_ref().is_some_and(|running| running.id() == task) {
            self.predecessor = None;
        } else if self.current.as_ref().is_some_and(|running| running.id() == task) {
            self.current = self.predecessor.take();
            self.withdrawn = false;
        } else {
            return false;
        }
        self.make_way();
        true
    }

    /// Stops the routes that the plan must wait for, and drops a plan that runs already.
    fn make_way(&mut self) {
        let (Some(plan), Some(current)) = (&self.planned, &self.current) else { return };
        if self.withdrawn || current.is_ending() {
            return;
        }
        if current.plan == *plan {
            self.planned = None;
            return;
        }
        match &self.predecessor {
            Some(_) if current.withdraw() => self.withdrawn = true,
            // It has a deadline from now on: a plan does not wait for ever.
            Some(predecessor) => predecessor.end(),
            None if current.hands_over_to(plan).is_none() => current.end(),
            None => {}
        }
    }

    /// The route that may be started now, if any. It is to be [`started`](Self::started).
    pub(super) fn due(&mut self) -> Option<DueStart> {
        let predecessor = match (&self.current, &self.predecessor) {
            (None, None) => None,
            (Some(current), None) if !current.is_ending() => {
                Some(current.hands_over_to(self.planned.as_ref()?)?)
            }
            _ => return None,
        };
        Some(DueStart { plan: self.planned.take()?, predecessor })
    }

    /// Takes in the started route.
    pub(super) fn started(&mut self, running: Running) {
        self.predecessor = self.current.replace(running);
    }

    /// Asks all of them to end, and plans nothing.
    pub(super) fn end(&mut self) {
        self.want(None);
    }

    /// Returns whether a plan waits for a route to end.
    pub(super) fn waits(&self) -> bool {
        self.planned.is_some()
    }

    /// The route that was started last.
    pub(super) fn current(&self) -> Option<&Running> {
        self.current.as_ref()
    }

    /// Returns whether nothing is left of the name.
    pub(super) fn is_over(&self) -> bool {
        self.current.is_none() && self.predecessor.is_none() && self.planned.is_none()
    }
}

#[cfg(test)]
mod tests;
