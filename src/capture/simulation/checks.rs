//! What must hold: after every step, and at the end of a history.

use super::*;

impl World {
    /// Whether every instance reads, has nothing in hand, and could go on.
    pub(super) fn is_settled(&self) -> bool {
        (0..self.instances.len()).all(|which| {
            let instance = &self.instances[which];
            let at_end = instance.window.is_some_and(|(at, ..)| at == self.source.items.len());
            let stored = instance.chain.is_empty() && instance.overflow.is_empty();
            at_end
                && stored
                && instance.builder.open_items() == 0
                && self.facts(which).coverage == Coverage::Watching
        })
    }

    /// The number of the first message that is stored.
    pub(super) fn first_stored(&self) -> u64 {
        let first = self.model.state["epochs"][..32].to_owned();
        let mut begun = false;
        for item in &self.source.items {
            match item {
                Item::Anchor(epoch) => begun |= epoch.to_string() == first,
                Item::Message(number) if begun => return *number,
                Item::Message(_) => {}
            }
        }
        self.source.published
    }

    pub(super) fn check(&mut self) {
        for instance in &self.instances {
            let process = instance.account.process(held(instance));
            assert!(process.adds_up(), "instance {}: {process:?}", instance.number);
        }
        if std::mem::take(&mut self.changed) {
            self.check_what_is_stored();
        }
    }

    pub(super) fn check_what_is_stored(&self) {
        let field = |entry: &[Vec<u8>], name: &str| {
            let pair = entry.chunks(2).find(|pair| pair[0] == name.as_bytes());
            String::from_utf8(pair.unwrap_or_else(|| panic!("no {name}"))[1].clone()).unwrap()
        };
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        for (key, entries) in self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps) {
            let mut before = String::new();
            for entry in entries {
                let position = field(entry, "position");
                let number = field(entry, "payload").parse().unwrap();
                let twice = found.insert(number, position.clone());
                assert!(twice.is_none(), "message {number} is stored twice: {twice:?} and {position}");
                assert!(position > before, "{} is in order", String::from_utf8_lossy(key));
                before = position;
            }
        }
        let mut before = String::new();
        for position in found.values() {
            assert!(*position > before, "positions ascend with what was published");
            before.clone_from(position);
        }
    }

    /// At the end, when everything is well.
    pub(super) fn check_nothing_is_missing(&self) {
        let field = |entry: &[Vec<u8>], name: &str| {
            let pair = entry.chunks(2).find(|pair| pair[0] == name.as_bytes()).unwrap();
            String::from_utf8(pair[1].clone()).unwrap()
        };
        let gaps: Vec<(String, String)> = (self.model.streams.get(&self.keys.gaps).into_iter().flatten())
            .map(|gap| (field(gap, "from"), field(gap, "to")))
            .collect();
        for pair in gaps.windows(2) {
            assert!(pair[0].1 <= pair[1].0 || self.forgot, "gaps overlap: {pair:?}");
        }
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        for (_, entries) in self.model.streams.iter().filter(|(key, _)| **key != self.keys.gaps) {
            for entry in entries {
                found.insert(field(entry, "payload").parse().unwrap(), field(entry, "position"));
            }
        }
        let promised = self.promised.unwrap_or(self.source.published);
        let (mut before, mut next) = ("-".to_owned(), promised);
        for (number, position) in found.range(promised..) {
            if (next..*number).any(|missing| !self.filtered.contains(&missing)) {
                assert!(!self.gentle, "{next}..{number} are missing although somebody watched: {gaps:#?}");
                // A state that was lost does not say where it stood.
                let inside = gaps.iter().any(|(from, to)| (from == "-" || *from >= before) && to <= position);
                assert!(inside, "{next}..{number} are missing outside a gap: {before} {position} {gaps:#?}");
            }
            before.clone_from(position);
            next = number + 1;
        }
        if (next..self.source.published).any(|missing| !self.filtered.contains(&missing)) {
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
}

/// What an instance has in hand, counted where it is.
fn held(instance: &Instance) -> InHand {
    let sent = instance.chain.sent_events();
    InHand {
        ring: instance.chain.held_events() - sent
            + instance.overflow.tail_events()
            + instance.builder.open_events(),
        in_flight: sent,
        spool: instance.overflow.disk_events(),
        unrecorded: instance.chain.unrecorded_events()
            + instance.overflow.unrecorded_events()
            + instance.builder.open_loss(),
    }
}
