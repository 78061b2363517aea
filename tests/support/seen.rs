//! What `/status` said of a capture during a test: the claims that the stream and the gap records must bear out.

use tidegate::status::{Ledger, RouteStatus};

/// One answer of `/status`, for one capture.
#[derive(Debug, Clone)]
pub(crate) struct Sighting {
    /// Messages that the source had taken by then; `None` where nobody counted.
    pub(crate) published: Option<usize>,
    /// What all instances have done, and what is buffered here.
    route: Ledger,
    /// What the process has done.
    process: Ledger,
    /// Whether all that waits is on disk as well.
    spooled_all: bool,
    /// Which run of the daemon, counted from 0.
    run: usize,
    /// Whether that run was killed: what was in memory only went with it.
    killed: bool,
    /// Whether the destination may go back, so that the process counts a message anew.
    goes_back: bool,
}

impl Sighting {
    /// `None` for a broadcast.
    pub(super) fn of(status: &RouteStatus, run: usize) -> Option<Self> {
        Some(Self {
            published: None,
            route: status.counts.clone()?,
            process: status.process_counts.clone()?,
            spooled_all: status.spooled_all,
            run,
            killed: false,
            goes_back: false,
        })
    }

    /// Messages that were received and must not be lost: all, but for what only a killed process's memory held.
    pub(crate) fn vouched(&self) -> u64 {
        let mortal = |ledger: &Ledger| {
            let memory = ledger.buffered_in.memory + ledger.buffered_in.in_flight;
            ledger.received - if self.killed && !self.spooled_all { memory } else { 0 }
        };
        let process = if self.goes_back { 0 } else { mortal(&self.process) };
        process.max(mortal(&self.route))
    }

    /// Messages that the route's state counts as dropped: it is written together with the gap record.
    pub(crate) fn recorded(&self) -> u64 {
        self.route.dropped.values().sum()
    }

    /// Fails unless both ledgers add up.
    #[track_caller]
    pub(super) fn assert_adds_up(&self, route: &str) {
        assert!(self.route.adds_up(), "the ledger of {route} adds up: {:?}", self.route);
        assert!(self.process.adds_up(), "what the process counted of {route} adds up: {:?}", self.process);
    }
}

/// All sightings of one capture by one daemon, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Vec<Sighting>);

impl Seen {
    pub(super) fn push(&mut self, sighting: Sighting) {
        self.0.push(sighting);
    }

    /// The run was killed.
    pub(super) fn killed(&mut self, run: usize) {
        for sighting in self.0.iter_mut().filter(|sighting| sighting.run == run) {
            sighting.killed = true;
        }
    }

    pub(crate) fn sightings(&self) -> &[Sighting] {
        &self.0
    }

    /// For a test whose destination loses what it stored: the process then receives a message again, and
    /// only the route's ledger counts each once.
    #[must_use]
    pub(crate) fn of_a_destination_that_goes_back(mut self) -> Self {
        for sighting in &mut self.0 {
            sighting.goes_back = true;
        }
        self
    }

    /// Messages that were dealt with and are in no stream.
    pub(super) fn elsewhere(&self) -> u64 {
        self.0.last().map_or(0, |last| last.route.filtered + last.route.rejected)
    }
}
