//! The conditions: after every step, and at the end of a history.

use super::model::Entry;
use super::*;
use crate::event::DropReason;

impl World {
    /// Returns whether every instance reads, has nothing buffered, and could continue.
    pub(super) fn is_settled(&self) -> bool {
        let end = self.source.sent.len();
        let newest = numbering(self.configuration);
        self.instances.iter().all(|instance| match &instance.routes[..] {
            [_] if self.gentle && numbering(instance.configuration) != newest => false,
            [route] => {
                route.is_at(end)
                    && !route.stopping
                    && route.engine.holds_nothing()
                    && route.engine.is_watching()
            }
            _ => false,
        })
    }

    /// Returns whether each instance with the configuration that wrote last could write as well.
    pub(super) fn are_ranks_known(&self) -> bool {
        let state = StoredState::read(&self.model.state_reply()).unwrap();
        let Some(written) = &state.revision else { return true };
        let mut routes = self.instances.iter().flat_map(|one| &one.routes);
        routes.all(|route| {
            let own = route.engine.revision().unwrap();
            own.differs(written) || own.to_string() >= written.to_string()
        })
    }

    /// After a while, one route at most may remove entries by age or acknowledgement, and by no older configuration
    /// than the one that wrote last.
    pub(super) fn check_one_trims(&mut self) {
        let mut trimming = Vec::new();
        for _ in 0..100 {
            trimming.clear();
            for which in 0..self.instances.len() {
                self.full_turn(which);
                let now = self.now(which);
                let routes = &mut self.instances[which].routes;
                trimming.extend(routes.iter_mut().filter_map(|route| route.engine.view(now).trims_under));
            }
            let written = self.model.state.get("revision");
            if trimming.len() <= 1 && trimming.iter().all(|own| written.is_none_or(|written| own >= written))
            {
                return;
            }
            self.pass(100);
        }
        panic!("these trim: {trimming:?}, and {:?} wrote last", self.model.state.get("revision"));
    }

    /// How many windows were opened, and how many lines were logged.
    pub(super) fn noise(&self) -> (usize, usize) {
        let of = |what: fn(&Instance) -> usize| self.instances.iter().map(what).sum();
        (of(|one| one.windows), of(|one| one.lines))
    }

    /// If there are no faults, or only the destination refuses, little is opened and little is logged. An instance may
    /// open this many windows.
    pub(super) fn check_noise(&self, windows: usize, lines: usize, most: usize) {
        let (now_windows, now_lines) = self.noise();
        let (windows, lines) = (now_windows - windows, now_lines - lines);
        let most = most * self.instances.len();
        assert!(windows <= most && lines <= 4 * most, "{windows} windows were opened, {lines} lines logged");
    }

    /// The number of the first message that is stored.
    pub(super) fn first_stored(&self) -> u64 {
        if self.replicated {
            let streams = self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps);
            let numbers = streams.flat_map(|(_, entries)| entries).map(|entry| field(entry, "payload"));
            let stored = numbers.map(|number| number.parse().unwrap()).min();
            return stored.unwrap_or(self.source.published);
        }
        let first = self.model.state["epochs"][..32].to_owned();
        let mut begun = false;
        for sent in &self.source.sent {
            match sent {
                SourceMessage::Anchor(epoch) => begun |= epoch.to_string() == first,
                SourceMessage::Message(number) if begun => return *number,
                SourceMessage::Message(_) | SourceMessage::Heartbeat(..) => {}
            }
        }
        self.source.published
    }

    pub(super) fn check(&mut self) {
        for which in 0..self.instances.len() {
            let now = self.now(which);
            for route in &mut self.instances[which].routes {
                let view = route.engine.view(now);
                let process = view.process;
                assert!(process.adds_up(), "instance {which}: {process:?}");
                assert!(
                    view.held.unrecorded == 0 || view.gap_open_since_unix_ms.is_some(),
                    "instance {which} has lost messages, and shows no open gap: {process:?}"
                );
                let corrupt = process.dropped.get(DropReason::SpoolCorrupt.as_str()).copied().unwrap_or(0);
                let most = route.spooled.harmed_events();
                // Messages buffered again after a failover are given up again.
                assert!(
                    corrupt <= most || self.went_back,
                    "instance {which} gives up {corrupt} messages of its spool, of which {most} were harmed"
                );
                let idle = route.engine.is_stopped_for_nothing();
                assert!(!idle, "instance {which} does not read although its spool takes more");
            }
        }
        if std::mem::take(&mut self.changed) {
            self.check_what_is_stored();
        }
    }

    /// Items stored since the last check are there once, in order, and a gap is planned only if it begins with a stop.
    pub(super) fn check_what_is_stored(&mut self) {
        let Self { model, keys, looked, .. } = self;
        let gaps = model.streams.get(&keys.gaps).map_or(&[][..], Vec::as_slice);
        for gap in gaps.get(looked.gaps..).unwrap_or_default() {
            let planned = gap.chunks(2).any(|pair| pair[0] == b"planned");
            // A mark that was taken away comes back with a server that goes back.
            assert!(!planned || !self.killed_since_stop || self.went_back, "an accident is planned: {gap:?}");
        }
        looked.gaps = gaps.len();
        for (key, entries) in model.streams.iter().filter(|(key, _)| **key != keys.gaps) {
            let (count, before) = looked.streams.entry(key.clone()).or_default();
            for entry in &entries[*count..] {
                let position = position(entry);
                let number: u64 = field(entry, "payload").parse().unwrap();
                assert!(position > *before, "{} is in order", String::from_utf8_lossy(key));
                before.clone_from(&position);
                let around =
                    [looked.found.range(..number).next_back(), looked.found.range(number + 1..).next()];
                let ascends = around[0].is_none_or(|(_, lower)| *lower < position)
                    && around[1].is_none_or(|(_, higher)| *higher > position);
                assert!(
                    ascends,
                    "positions ascend with what was published: {number} at {position}, {around:?}"
                );
                let twice = looked.found.insert(number, position.clone());
                assert!(twice.is_none(), "message {number} is stored twice: {twice:?} and {position}");
            }
            *count = entries.len();
        }
    }

    /// At the end, when everything is well.
    pub(super) fn check_nothing_is_missing(&self) {
        let gaps: Vec<(String, String)> = (self.model.streams.get(&self.keys.gaps).into_iter().flatten())
            .map(|gap| (field(gap, "from"), field(gap, "to")))
            .collect();
        for pair in gaps.windows(2) {
            assert!(pair[0].1 <= pair[1].0 || self.forgot, "gaps overlap: {pair:?}");
        }
        for gap in self.model.streams.get(&self.keys.gaps).into_iter().flatten() {
            let at = |name: &str| field(gap, name).parse::<u64>().unwrap();
            assert!(at("started_at") <= at("ended_at"), "a gap ends before it begins: {gap:?}");
        }
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        for (_, entries) in self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps) {
            for entry in entries {
                found.insert(field(entry, "payload").parse().unwrap(), position(entry));
            }
        }
        let promised = self.promised.unwrap_or(self.source.published);
        let (mut before, mut next) = ("-".to_owned(), promised);
        for (number, position) in found.range(promised..) {
            if (next..*number).any(|missing| self.is_promised(missing)) {
                assert!(!self.gentle, "{next}..{number} are missing although somebody watched: {gaps:#?}");
                // A state that was lost does not say where it stood.
                let inside = gaps.iter().any(|(from, to)| (from == "-" || *from >= before) && to <= position);
                assert!(inside, "{next}..{number} are missing outside a gap: {before} {position} {gaps:#?}");
                self.check_dates(next..*number, &before, position);
            }
            before.clone_from(position);
            next = number + 1;
        }
        if (next..self.source.published).any(|missing| self.is_promised(missing)) {
            let inside = gaps.iter().any(|(from, _)| from == "-" || *from >= before);
            assert!(
                inside,
                "{next}..{} are missing outside a gap: {before} {gaps:#?}",
                self.source.published
            );
        }
        if self.gentle {
            assert_eq!(gaps, [], "somebody watched at any time");
        }
        assert_ne!(self.model.position(), "-", "a history in which nothing is stored proves nothing");
    }

    /// Each message that reached no session was published while a gap lasted, since every session still read the old
    /// master.
    fn check_dates(&self, missing: Range<u64>, before: &str, behind: &str) {
        if self.clock_set || self.forgot {
            return;
        }
        let inside = |gap: &&Entry| {
            let (from, to) = (field(gap, "from"), field(gap, "to"));
            (from == "-" || from.as_str() >= before) && to.as_str() <= behind
        };
        let gaps = self.model.streams.get(&self.keys.gaps).into_iter().flatten().filter(inside);
        // A session's own end and a restart are dated by the last heartbeat. The date of a state that is lost or went back
        // may be later.
        let dated = [
            "source_disconnected",
            "source_demoted",
            "source_silent",
            "backlog_exceeded",
            "history_lost",
            "memory_full",
            "spool_full",
            "spool_failed",
            "spool_corrupt",
            "restart",
        ];
        if !gaps.clone().all(|gap| dated.contains(&field(gap, "cause").as_str())) {
            return;
        }
        let at = |gap: &Entry, name| field(gap, name).parse::<u64>().unwrap();
        for (number, at_ms) in self.source.unheard.range(missing) {
            let published = 1_000_000 + at_ms;
            assert!(
                gaps.clone().any(|gap| (at(gap, "started_at")..=at(gap, "ended_at")).contains(&published)),
                "message {number} was published at {published} and reached nobody: {:#?}",
                gaps.map(|gap| ["started_at", "ended_at", "cause", "detail"].map(|name| field(gap, name)))
                    .collect::<Vec<_>>()
            );
        }
    }

    /// Returns whether configurations ever numbered in several ways.
    fn numbers_otherwise(&self) -> bool {
        self.configurations.iter().any(|one| numbering(*one) > 0)
    }

    /// Returns whether a message must be stored, or lie in a gap.
    fn is_promised(&self, number: u64) -> bool {
        let of_some = is_of_some(number) && self.numbers_otherwise();
        !is_filtered(number) && !of_some
    }

    /// At the end, all messages that a living process has received are stored, or counted as dropped.
    pub(super) fn check_what_was_received(&mut self) {
        if self.went_back || self.numbers_otherwise() {
            // Across numberings it is not known which message another configuration has stored.
            return;
        }
        let mut stored = BTreeSet::new();
        for (_, entries) in self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps) {
            stored.extend(entries.iter().map(|entry| field(entry, "payload").parse::<u64>().unwrap()));
        }
        for which in 0..self.instances.len() {
            let now = self.now(which);
            let route = &mut self.instances[which].routes[0];
            let missing: Vec<u64> = (route.received.iter().copied())
                .filter(|number| !is_filtered(*number) && !stored.contains(number))
                .collect();
            let process = route.engine.view(now).process;
            let dropped = route.dropped_before + process.dropped.values().sum::<u64>();
            assert!(
                missing.len() as u64 <= dropped,
                "instance {which} received {missing:?}, which is not stored, and counts {process:?}"
            );
        }
    }
}

/// The content of the streams so far.
#[derive(Debug, Default)]
pub(super) struct StoredSoFar {
    /// How many entries of each, and the last one's position.
    streams: BTreeMap<Vec<u8>, (usize, String)>,
    /// Each message's position.
    found: BTreeMap<u64, String>,
    /// How many gap records.
    gaps: usize,
}

/// A field of an entry.
fn field(entry: &[Vec<u8>], name: &str) -> String {
    let pair = entry.chunks(2).find(|pair| pair[0] == name.as_bytes());
    String::from_utf8(pair.unwrap_or_else(|| panic!("no {name}"))[1].clone()).unwrap()
}

/// The position of an entry or a dead letter in the source's order.
fn position(entry: &[Vec<u8>]) -> String {
    let named = entry.chunks(2).any(|pair| pair[0] == b"id");
    field(entry, if named { "id" } else { "position" })
}
