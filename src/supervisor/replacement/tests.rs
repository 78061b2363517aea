//! Any series of reloads and ends, from a seed: what runs side by side is bounded, and the last word counts.

use std::path::Path;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::super::running::{Plan, RouteSettings, Running, RunningKind};
use super::{DueStart, Replacement};
use crate::capture::{Border, Handover};
use crate::config::{self, Config};
use crate::rt;
use crate::status::{Board, RouteKind, RouteStatus};

/// The plans that a name can have: captures on two servers, by several configurations, and a broadcast.
fn plans() -> Vec<Plan> {
    let config: Config = config::load(Path::new("config/examples/capture-raw.toml"), [], &[]).unwrap().config;
    let (_, plan) = Plan::all(&config).next().unwrap();
    let RouteSettings::Capture(capture) = &plan.route else { panic!("it is a capture") };
    let mut plans = Vec::new();
    for address in 0..2 {
        for limit in 0..3 {
            for database in 0..2 {
                let (mut source, mut destination) = ((*plan.source).clone(), (*plan.destination).clone());
                source.servers = config::Servers::One(config::Address::Unix(format!("/{address}").into()));
                destination.database = database;
                let mut capture = (**capture).clone();
                capture.max_message_size = limit;
                plans.push(Plan {
                    route: RouteSettings::Capture(Arc::new(capture)),
                    source: Arc::new(source),
                    destination: Arc::new(destination),
                });
            }
        }
    }
    let broadcast: Config =
        config::load(Path::new("config/examples/broadcast-same-server.toml"), [], &[]).unwrap().config;
    plans.extend(Plan::all(&broadcast).map(|(_, plan)| plan).take(1));
    plans
}

/// A route that does nothing, and ends when it may and the test tells it to.
struct Route {
    plan: Plan,
    /// The channel to the route that it replaces.
    word: Option<Handover>,
    opened: bool,
    stop: CancellationToken,
    task: AbortHandle,
}

#[derive(Default)]
struct RoutesUnderTest {
    routes: Replacement,
    tasks: JoinSet<()>,
    /// Started and not ended.
    alive: Vec<Route>,
    board: Board,
}

impl RoutesUnderTest {
    fn settle(&mut self) {
        while let Some(DueStart { plan, predecessor }) = self.routes.due() {
            match &predecessor {
                None => assert!(self.alive.is_empty(), "it would share a spool with another one"),
                Some(before) => {
                    assert_eq!(self.alive.len(), 1, "a predecessor has no predecessor any more");
                    assert!(!self.alive[0].stop.is_cancelled(), "it reads");
                    before.handover.offer(before.same_state);
                }
            }
            let stop = CancellationToken::new();
            let task = rt::spawn_in(&mut self.tasks, "test", std::future::pending());
            let word = predecessor.map(|before| before.handover);
            let kind = match &plan.route {
                RouteSettings::Capture(_) => {
                    RunningKind::Capture { successor: Handover::default(), predecessor: word.clone() }
                }
                RouteSettings::Broadcast(_) | RouteSettings::Invalidate(_) => RunningKind::Cursor,
            };
            let opened = word.is_none();
            self.alive.push(Route {
                plan: plan.clone(),
                word,
                opened,
                stop: stop.clone(),
                task: task.clone(),
            });
            let status = RouteStatus::new("orders", RouteKind::Capture, "shop", "events", 0);
            self.routes.started(Running { plan, slot: self.board.place(status), kind, stop, task });
        }
        assert!(self.alive.len() <= 2, "{} run", self.alive.len());
    }

    /// The last one opens its window, unless it was given up.
    fn open(&mut self) {
        if let Some(last) = self.alive.last_mut().filter(|last| !last.task.is_finished())
            && let Some(word) = &last.word
        {
            word.set_border(Border::Here);
            last.opened = word.border() == Border::Here;
        }
    }

    /// Ends one of those that may end by now.
    fn end(&mut self, random: &mut fastrand::Rng) -> bool {
        let taken_over = self.alive.get(1).is_some_and(|last| last.opened);
        let may_end = |n: &usize| {
            let route = &self.alive[*n];
            route.stop.is_cancelled() || route.task.is_finished() || (*n == 0 && taken_over)
        };
        let Some(n) = random.choice((0..self.alive.len()).filter(may_end).collect::<Vec<_>>()) else {
            return false;
        };
        let id = self.alive.remove(n).task.id();
        assert!(self.routes.ended(id));
        assert!(!self.routes.ended(id), "once");
        true
    }
}

#[tokio::test]
async fn the_last_configuration_runs_alone_in_the_end() {
    let plans = plans();
    assert_eq!(plans.len(), 13);
    let (mut withdrawn, mut handed_over) = (0, 0);
    for seed in 0..2_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = RoutesUnderTest::default();
        let mut wanted = None;
        for _ in 0..random.usize(1..40) {
            match random.u8(..10) {
                0..4 => {
                    wanted = random.choice(&plans).filter(|_| random.u8(..4) > 0);
                    world.routes.want(wanted.cloned());
                }
                4..6 => world.open(),
                _ => drop(world.end(&mut random)),
            }
            world.settle();
            // Those that were aborted have ended by then.
            tokio::task::yield_now().await;
            withdrawn += usize::from(world.alive.iter().any(|route| route.task.is_finished()));
            handed_over += usize::from(world.alive.iter().any(|route| route.opened && route.word.is_some()));
        }
        // Everything that may end does, and what was started opens.
        loop {
            world.settle();
            tokio::task::yield_now().await;
            world.open();
            if !world.end(&mut random) {
                break;
            }
        }
        let left: Vec<&Plan> = world.alive.iter().map(|route| &route.plan).collect();
        assert_eq!(left, Vec::from_iter(wanted), "seed {seed}");
        assert_eq!(world.routes.is_over(), wanted.is_none(), "seed {seed}");
        assert!(!world.routes.waits(), "seed {seed}");
    }
    assert!(withdrawn > 100 && handed_over > 100, "{withdrawn} withdrawn, {handed_over} handed over");
}
