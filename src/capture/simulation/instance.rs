//! One process: its disk, its routes, its life.

use super::*;
use crate::capture::engine::handover::Border;

/// A process. It has two routes while a reload is under way.
pub(super) struct Instance {
    pub(super) number: usize,
    pub(super) up: bool,
    /// Its configuration; a later one is newer.
    pub(super) configuration: u64,
    /// Stopped, as by SIGSTOP.
    pub(super) paused: bool,
    /// Cut off from a side.
    pub(super) no_source: bool,
    pub(super) no_destination: bool,
    /// It has not heard yet that the source has another master.
    pub(super) left_behind: bool,
    /// When the sentinels last named the master that it reads.
    pub(super) confirmed_ms: Option<u64>,
    /// By how much its clock on the wall is ahead.
    pub(super) clock_ahead_ms: u64,
    /// The data that survives the process.
    pub(super) disk: MemoryDisk,
    /// The oldest first.
    pub(super) routes: Vec<Driver>,
    /// How many windows its routes have opened, and how many lines they have logged.
    pub(super) windows: usize,
    pub(super) lines: usize,
}

impl Instance {
    /// `spooled` is what an earlier process has left on the disk.
    pub(super) fn start(
        world: &World,
        number: usize,
        configuration: u64,
        disk: MemoryDisk,
        spooled: Spooled,
    ) -> Self {
        disk.heal();
        let now = world.now(number);
        let mut route = Driver::new(world, number, configuration, None, now);
        let (log, recovered) = Log::over(disk.clone(), world.spool).unwrap();
        route.engine.on_spool_opened(&recovered);
        route.log = Some(log);
        route.spooled = spooled.inherited();
        route.received = route.spooled.intact();
        Self {
            number,
            up: true,
            configuration,
            paused: false,
            no_source: false,
            no_destination: false,
            left_behind: false,
            confirmed_ms: None,
            clock_ahead_ms: 0,
            disk,
            routes: vec![route],
            windows: 0,
            lines: 0,
        }
    }
}

impl World {
    /// The process ends, in whatever state, and another one takes its place.
    pub(super) fn restart(&mut self, which: usize, configuration: u64) {
        let holds = self.model.lease.get("holder") == Some(&format!("i{which}"));
        let mut routes = self.instances[which].routes.iter();
        self.killed_since_stop |= holds && routes.any(|route| route.engine.is_watching());
        for route in 0..self.instances[which].routes.len() {
            self.drop_link(which, route);
        }
        let instance = &mut self.instances[which];
        let disk = instance.disk.clone();
        let writer = instance.routes.iter_mut().find(|route| route.log.is_some());
        let spooled = writer.map(|route| std::mem::take(&mut route.spooled)).unwrap_or_default();
        let fresh = Instance::start(self, which, configuration, disk, spooled);
        let before = std::mem::replace(&mut self.instances[which], fresh);
        let instance = &mut self.instances[which];
        (instance.windows, instance.lines) = (before.windows, before.lines);
        instance.clock_ahead_ms = before.clock_ahead_ms;
    }

    /// The process reads another configuration: a successor begins beside the route that runs.
    pub(super) fn reload(&mut self, which: usize, configuration: u64) {
        let instance = &self.instances[which];
        if !instance.up || instance.paused || instance.routes.len() > 1 || instance.routes[0].stopping {
            return;
        }
        let handover = instance.routes[0].handover.clone();
        handover.offer(true);
        let now = self.now(which);
        let successor = Driver::new(self, which, configuration, Some((handover, true)), now);
        let instance = &mut self.instances[which];
        instance.configuration = configuration;
        instance.routes.push(successor);
    }

    /// The process is stopped.
    pub(super) fn stop(&mut self, which: usize) {
        let now = self.now(which);
        let instance = &self.instances[which];
        if !instance.up || instance.paused || instance.routes.len() > 1 || instance.routes[0].stopping {
            return;
        }
        self.instances[which].routes[0].stopping = true;
        self.instances[which].routes[0].engine.on_stop(now);
        self.drive(which, 0);
    }

    /// A route that has ended hands over, or ends the process.
    pub(super) fn change_over(&mut self, which: usize) {
        let now = self.now(which);
        for route in 0..self.instances[which].routes.len() {
            let handover = self.instances[which].routes[route].handover.clone();
            let known = self.instances[which].routes[route].engine.awaits_border();
            if known.is_some_and(|known| known != handover.border()) {
                self.instances[which].routes[route].engine.on_border(handover.border(), now);
                self.drive(which, route);
            }
        }
        if !self.instances[which].routes[0].engine.is_done(now.at) {
            return;
        }
        self.drop_link(which, 0);
        let ended = self.instances[which].routes.remove(0);
        let Driver { mut engine, handover, log, spooled, request, received, dropped_before, .. } = ended;
        let dropped: u64 = engine.view(now).process.dropped.values().sum();
        let (carried, _, _) = engine.end(now);
        if self.instances[which].routes.is_empty() {
            // It was stopped, and is started again.
            let configuration = self.instances[which].configuration;
            let mut fresh = Driver::new(self, which, configuration, None, now);
            (fresh.log, fresh.spooled) = (log, spooled);
            self.instances[which].routes.push(fresh);
            return self.restart(which, configuration);
        }
        let behind = self.behind(handover.border());
        let successor = &mut self.instances[which].routes[0];
        (successor.log, successor.spooled, successor.request) = (log, spooled, request);
        // What both have read is the successor's. If its session breaks before it has read that, its gap has no number
        // for it.
        successor.received.extend(received.difference(&behind));
        successor.dropped_before += dropped_before + dropped;
        successor.engine.on_inherited(carried, now);
        self.drive(which, 0);
    }

    /// The messages behind a successor's border.
    fn behind(&self, border: Border) -> BTreeSet<u64> {
        let Border::Open(border) = border else { return BTreeSet::new() };
        let is_border =
            |sent: &&SourceMessage| matches!(sent, SourceMessage::Anchor(epoch) if *epoch == border.epoch);
        let behind = self.source.sent.iter().skip_while(|sent| !is_border(sent));
        behind
            .filter_map(|sent| match sent {
                SourceMessage::Message(number) => Some(*number),
                _ => None,
            })
            .collect()
    }

    /// The next configuration: a new one, half of which number otherwise; or a former one.
    pub(super) fn other_configuration(&mut self) -> u64 {
        let newest = *self.configurations.last().unwrap();
        self.configuration = match self.rng.u32(..6) {
            0 | 1 => *self.rng.choice(&self.configurations).unwrap(),
            2 | 3 => newest + 1,
            _ => newest + (1 << 16),
        };
        if self.configuration > newest {
            self.configurations.push(self.configuration);
        }
        self.configuration
    }

    /// Returns whether the instance need not get the newest configuration. It is not outdated, and in a gentle history
    /// its numbering is that of the newest one, since between two numberings no instance can continue without a gap.
    pub(super) fn is_rolled_out(&mut self, which: usize) -> bool {
        let now = self.now(which);
        let (gentle, newest) = (self.gentle, numbering(self.configuration));
        let instance = &mut self.instances[which];
        let alike = numbering(instance.configuration) == newest;
        let outdated =
            instance.routes.iter_mut().any(|one| one.engine.view(now).state == RouteState::Outdated);
        !outdated && (alike || !gentle)
    }
}
