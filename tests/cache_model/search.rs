//! Visits every state that a world can reach, each once, nearest first.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use hashbrown::HashSet;

use super::options::World;
use super::world::{State, Step, Version};

/// More states than any world here has: a world that grows by mistake ends with a message.
const MOST: usize = 5_000_000;

/// What was found in a world. Each fault is the shortest way to it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) states: usize,
    /// The number of ways in which the cache can look when nothing can move any more.
    pub(crate) ends: usize,
    /// Those of them in which the cache has an old version: nothing will ever correct it.
    pub(crate) wrong_ends: usize,
    pub(crate) wrong_end: Option<Trace>,
    /// A reader gets a version from the cache that is older than an event which was applied.
    pub(crate) stale_read: Option<Trace>,
    /// A version in the cache is replaced by an older one.
    pub(crate) older_over_newer: Option<Trace>,
    /// The second pass removes a value that is not older than its event.
    pub(crate) right_removed: Option<Trace>,
}

/// The steps from a beginning on.
#[derive(Debug)]
pub(crate) struct Trace(Vec<String>);

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

struct Visited {
    states: Vec<State>,
    /// How each was reached.
    from: Vec<Option<(usize, Step)>>,
    known: HashSet<State>,
}

impl Visited {
    fn add(&mut self, state: State, from: Option<(usize, Step)>) -> Option<usize> {
        self.known.insert(state).then(|| {
            self.states.push(state);
            self.from.push(from);
            self.states.len() - 1
        })
    }

    fn trace(&self, to: usize, last: Option<Step>) -> Trace {
        let mut steps: Vec<String> = last.iter().map(Step::to_string).collect();
        let mut at = to;
        while let Some((before, step)) = self.from[at] {
            steps.push(step.to_string());
            at = before;
        }
        let begins = if self.states[at].is_empty() { "nothing is cached" } else { "0 is cached" };
        steps.push(begins.to_owned());
        steps.reverse();
        Trace(steps)
    }
}

/// Explores a world to its end.
pub(crate) fn explore(world: &World) -> Verdict {
    let mut visited = Visited { states: Vec::new(), from: Vec::new(), known: HashSet::new() };
    let mut queue: VecDeque<usize> = VecDeque::new();
    queue.extend(State::beginnings().into_iter().filter_map(|state| visited.add(state, None)));
    let mut verdict = Verdict::default();
    let mut ends = HashMap::new();
    while let Some(at) = queue.pop_front() {
        let state = visited.states[at];
        let moves = state.moves(world);
        if moves.steps.is_empty() {
            let wrong = state.is_stale(world);
            ends.insert(state.end(world), wrong);
            if wrong && verdict.wrong_end.is_none() {
                verdict.wrong_end = Some(visited.trace(at, None));
            }
        }
        for (step, next) in &moves.steps {
            if matches!(*step, Step::Hits { version, .. } if state.has_applied_more_than(version)) {
                verdict.stale_read.get_or_insert_with(|| visited.trace(at, Some(*step)));
            }
            let is_right = |event| state.visible(world).is_some_and(|version| version >= event);
            if matches!(*step, Step::SecondPass { event, .. } if is_right(event) && next.is_empty()) {
                verdict.right_removed.get_or_insert_with(|| visited.trace(at, Some(*step)));
            }
            if went_back(state.visible(world), next.visible(world)) {
                verdict.older_over_newer.get_or_insert_with(|| visited.trace(at, Some(*step)));
            }
        }
        for (step, next) in moves.steps.into_iter().chain(moves.mishaps) {
            queue.extend(visited.add(next, Some((at, step))));
        }
        assert!(visited.states.len() < MOST, "more than {MOST} states: {world:?}");
    }
    verdict.states = visited.states.len();
    verdict.ends = ends.len();
    verdict.wrong_ends = ends.into_values().filter(|&wrong| wrong).count();
    verdict
}

fn went_back(before: Option<Version>, after: Option<Version>) -> bool {
    before.zip(after).is_some_and(|(before, after)| after < before)
}
