//! One instance, as `route` drives the parts: the glue, retold without sockets.

use super::*;

impl World {
    pub(super) fn flush(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        if let Some(batch) = instance.builder.take() {
            instance.overflow.push(batch, &mut instance.chain, ROOM);
        }
    }

    pub(super) fn open(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        if instance.window.is_some() || instance.no_source || instance.superseded {
            return;
        }
        let anchor = match instance.takeover {
            Takeover::Announced(anchor) => {
                instance.takeover = Takeover::Opened;
                anchor
            }
            Takeover::None | Takeover::Refused(_) | Takeover::Opened | Takeover::Inherited => {
                anchor_id(&mut self.rng)
            }
        };
        let epoch = self.source.anchor(instance.floor, anchor);
        let anchor = epoch.at(0);
        let read = self.read();
        let at = self.source.items.len();
        self.flush(which);
        let instance = &mut self.instances[which];
        instance.floor = instance.floor.max(epoch.number + 1);
        let joint = match instance.gap.take() {
            Some(gap) => Joint::Gap(gap),
            None => Joint::Start,
        };
        instance.builder.open_window(anchor, joint, read);
        instance.window = Some((at, anchor, anchor));
        instance.standing.hurry();
    }

    pub(super) fn lose_window(&mut self, which: usize, cause: GapCause) {
        if self.instances[which].window.is_some() {
            self.flush(which);
            let instance = &mut self.instances[which];
            instance.window = None;
            instance.gap = Some(broken(cause));
            if instance.takeover == Takeover::Opened {
                instance.takeover = Takeover::None;
            }
            instance.standing.hurry();
        }
    }

    /// Reads some of what the source has sent.
    pub(super) fn read_source(&mut self, which: usize, most: usize) {
        for _ in 0..most {
            let instance = &self.instances[which];
            let Some((at, anchor, last)) = instance.window else { return };
            if self.gentle && instance.overflow.full(&instance.chain, ROOM).is_some() {
                // The disk is slower here than any is: the socket's buffer waits for it.
                return;
            }
            let Some(item) = self.source.items.get(at).copied() else { return };
            let read = self.read();
            let templated = self.templated;
            let instance = &mut self.instances[which];
            let position = match item {
                Item::Anchor(epoch) if epoch.number > last.epoch.number => {
                    instance.floor = instance.floor.max(epoch.number + 1);
                    instance.builder.anchor(epoch.at(0), read);
                    epoch.at(0)
                }
                // It is refused, by every instance.
                Item::Anchor(_) => last,
                Item::Message(number) => {
                    let position = last.epoch.at(last.ordinal + 1);
                    instance.account.received(1);
                    let full = take(&mut instance.builder, number, position, templated, read);
                    instance.window = Some((at + 1, anchor, position));
                    if full || number % 13 == 0 {
                        self.flush(which);
                    }
                    position
                }
            };
            let instance = &mut self.instances[which];
            instance.window = Some((at + 1, anchor, position));
            if matches!(item, Item::Anchor(_)) {
                self.flush(which);
            }
            let instance = &self.instances[which];
            if let Some(cause) = instance.overflow.full(&instance.chain, ROOM)
                && !self.gentle
            {
                return self.lose_window(which, cause);
            }
        }
    }

    pub(super) fn facts(&self, which: usize) -> Facts {
        let instance = &self.instances[which];
        Facts {
            coverage: instance.chain.coverage(instance.window.map(|(_, anchor, _)| anchor)),
            first: instance.chain.first(),
            waits_since: instance.chain.waits_since(),
            able: !instance.superseded && !instance.yields,
            lost: instance.chain.is_lost(),
        }
    }

    pub(super) fn connect(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        if instance.link.is_some() || instance.no_destination {
            return;
        }
        instance.link = Some(Link::default());
        instance.chain.disconnected();
        instance.standing.disconnected();
        instance.with_the_old = false;
        let state = State::read(&self.model.state_reply()).unwrap();
        instance.floor = instance.floor.max(state.highest_epoch() + 1);
        let hashes = format!("c{}", instance.configuration);
        instance.revision.get_or_insert_with(|| Revision::after(state.revision.as_ref(), &hashes));
        self.found(which, &state);
    }

    /// What was sent may have arrived, up to any byte; nothing comes back.
    pub(super) fn disconnect(&mut self, which: usize) {
        if let Some(link) = &self.instances[which].link {
            let sent: Vec<u8> = link.requests.iter().flatten().copied().collect();
            for _ in 0..whole_commands(&sent[..self.rng.usize(..=sent.len())]) {
                self.serve(which);
            }
        }
        let instance = &mut self.instances[which];
        instance.link = None;
        instance.chain.disconnected();
        instance.standing.disconnected();
    }

    pub(super) fn found(&mut self, which: usize, state: &State) {
        let now = self.now();
        let instance = &mut self.instances[which];
        instance.account.found(&state.ledger);
        let passed = instance.chain.found(state.position, &state.epochs, Some(1), 2);
        instance.account.passed(passed);
        let facts = self.facts(which);
        let instance = &mut self.instances[which];
        instance.standing.observe(instance.chain.checkpoint(), &facts, now);
    }

    pub(super) fn pump(&mut self, which: usize) {
        if self.instances[which].link.is_none() {
            return;
        }
        self.stand(which);
        let now = self.now();
        let instance = &self.instances[which];
        if instance.chain.is_empty() && instance.overflow.is_empty() {
            self.flush(which);
        }
        if !self.instances[which].standing.is_leader() {
            return;
        }
        let force = self.instances[which].standing.may_force(&self.facts(which), now);
        let (hash, keys) = (self.hash, self.keys.clone());
        let instance = &mut self.instances[which];
        if instance.superseded || instance.yields {
            return;
        }
        let append = Append::new(hash, keys, instance.revision.as_ref().unwrap().to_string());
        while instance.chain.awaited() < 8 {
            let Some((prev, gap, batch)) = instance.chain.send(force, 3) else { return };
            let mut request = Vec::new();
            append.write(&mut request, batch, prev, gap);
            let link = instance.link.as_mut().unwrap();
            link.requests.push_back(request);
            link.sent.push_back(Sent::Batch);
        }
    }

    pub(super) fn stand(&mut self, which: usize) {
        let (now, facts) = (self.now(), self.facts(which));
        let instance = &self.instances[which];
        if instance.link.as_ref().unwrap().sent.contains(&Sent::Stand)
            || instance.standing.due(&facts).is_some_and(|due| due > now)
        {
            return;
        }
        self.flush(which);
        let facts = self.facts(which);
        let instance = &mut self.instances[which];
        instance.standing.observe(instance.chain.checkpoint(), &facts, now);
        let want = instance.standing.want(&facts, now);
        instance.standing.asked(now);
        self.ask(which, want, &facts);
    }

    pub(super) fn ask(&mut self, which: usize, want: Want, facts: &Facts) {
        let instance = &mut self.instances[which];
        let mut request = Vec::new();
        let keys = [self.keys.state.as_slice(), self.keys.lease.as_slice()];
        instance.standing.write(&mut request, &[b'1'; 40], keys, want, facts);
        let link = instance.link.as_mut().unwrap();
        link.requests.push_back(request);
        link.sent.push_back(Sent::Stand);
    }

    /// The destination carries out what a connection has sent first.
    pub(super) fn serve(&mut self, which: usize) {
        let Some(link) = &mut self.instances[which].link else { return };
        let Some(request) = link.requests.pop_front() else { return };
        let command = arguments(&request);
        let old = self.old_model.as_mut().filter(|_| self.instances[which].with_the_old);
        let reply = if command[1] == [b'1'; 40] {
            old.unwrap_or(&mut self.model).stand(&command, self.server_ms)
        } else if let Some(old) = old {
            old.call(&command)
        } else {
            let before = self.model.position();
            let reply = self.model.call(&command);
            self.changed = true;
            if before == "-" && self.model.position() != "-" && self.promised.is_none() {
                self.promised = Some(self.first_stored());
            }
            if let Some(real) = &mut self.real {
                assert_eq!(real.call(&request), real::shown(&reply), "the script and its model");
            }
            reply
        };
        if let Some(link) = &mut self.instances[which].link {
            link.replies.push_back(reply);
        }
    }

    pub(super) fn deliver(&mut self, which: usize) {
        let now = self.now();
        let Some(link) = &mut self.instances[which].link else { return };
        let Some(reply) = link.replies.pop_front() else { return };
        if link.sent.pop_front() == Some(Sent::Stand) {
            return self.stood(which, &reply);
        }
        let instance = &mut self.instances[which];
        match instance.chain.replied(Outcome::read(&reply), 3) {
            Step::Stored { counts, stored, gap } => {
                instance.account.stored(&stored);
                instance.account.deduplicated(counts.events - stored.events());
                count_gap(&mut instance.account, &counts, gap.as_ref());
            }
            Step::Duplicate { counts, gap } => {
                instance.account.deduplicated(counts.events);
                count_gap(&mut instance.account, &counts, gap.as_ref());
                instance.standing.hurry();
            }
            Step::Dropped { events } => {
                instance.account.dropped(DropReason::Stale, events);
                instance.standing.hurry();
            }
            Step::Again { rewound } => {
                instance.account.rewound(rewound);
                instance.standing.hurry();
            }
            Step::Superseded => {
                instance.yields = true;
                instance.standing.hurry();
            }
            Step::Ignored | Step::Wait(Error::Reply(_), None) => {}
            // A part is counted in the script; the rest follows.
            Step::Wait(_, Some(_)) => unreachable!("no key is spoiled where accounts are kept"),
            step => panic!("{step:?}"),
        }
        let _ = now;
    }

    pub(super) fn stood(&mut self, which: usize, reply: &Value) {
        let now = self.now();
        let (stood, state) = Stood::read(reply).unwrap();
        let state = State::read(state).unwrap();
        let instance = &mut self.instances[which];
        instance.standing.stood(stood, now);
        instance.yields &= instance.standing.is_leader();
        self.found(which, &state);
        self.follow_revision(which, &state);
        let instance = &mut self.instances[which];
        if instance.chain.is_behind() && instance.standing.is_alone(now) && instance.window.is_some() {
            let given_up = instance.chain.clear() + instance.overflow.clear();
            instance.account.dropped(DropReason::Stale, given_up);
            instance.floor = instance.floor.max(state.highest_epoch() + 1);
            let open = instance.builder.take().map_or(0, |batch| batch.events);
            self.instances[which].account.dropped(DropReason::Stale, open);
            self.instances[which].window = None;
            self.instances[which].gap = Some(Gap { dropped: given_up + open, ..broken(GapCause::EpochLost) });
        }
    }

    /// The newest configuration writes: one that is not stands by, and the newest says where it begins.
    pub(super) fn follow_revision(&mut self, which: usize, state: &State) {
        let now = self.now();
        let instance = &mut self.instances[which];
        let own = instance.revision.clone().unwrap();
        let by = state.revision.iter().chain(state.next.as_ref().map(|(_, revision)| revision));
        if by.filter(|revision| revision.supersedes(&own)).count() > 0 {
            let written = state.revision.as_ref().is_some_and(|found| found.supersedes(&own));
            let alone = instance.standing.is_alone(now);
            if !written {
                let facts = self.facts(which);
                if alone || self.instances[which].standing.is_held_up(&facts, now) {
                    self.instances[which].yields = false;
                    self.stated(which).state.remove("next");
                }
                return;
            }
            if !alone {
                if !instance.superseded {
                    self.stand_by(which);
                }
                return;
            }
            // Whoever ran it is gone: this one goes on, by a revision of its own.
            instance.superseded = false;
            instance.takeover = Takeover::None;
            instance.revision = None;
            self.stated(which).state.remove("next");
            return self.disconnect(which);
        }
        instance.superseded = false;
        let differs = state.revision.as_ref().is_some_and(|found| found.differs(&own));
        if !differs || instance.standing.is_alone(now) {
            instance.takeover = Takeover::None;
            return;
        }
        let facts = self.facts(which);
        let instance = &self.instances[which];
        let goes_on = facts.coverage.is_eligible() || instance.standing.another_is_eligible(now);
        let in_vain = instance.window.is_some() && !goes_on;
        if instance.takeover.is_due(&own, state, instance.standing.is_leader(), in_vain, now) {
            let anchor = anchor_id(&mut self.rng);
            self.stated(which).state.insert("next".to_owned(), format!("{anchor} {own}"));
            self.clear(which);
            self.instances[which].takeover = Takeover::Announced(anchor);
        }
    }

    pub(super) fn stand_by(&mut self, which: usize) {
        self.clear(which);
        self.instances[which].superseded = true;
        self.instances[which].standing.hurry();
    }

    /// What is in hand is another configuration's to store, and so is what comes until the next window.
    pub(super) fn clear(&mut self, which: usize) {
        self.flush(which);
        let instance = &mut self.instances[which];
        let others = instance.chain.clear() + instance.overflow.clear();
        instance.account.deduplicated(others);
        instance.gap = None;
        instance.window = None;
    }

    /// What an instance's connection writes to.
    pub(super) fn stated(&mut self, which: usize) -> &mut Model {
        let old = self.old_model.as_mut().filter(|_| self.instances[which].with_the_old);
        old.unwrap_or(&mut self.model)
    }

    /// The spool: asks, works, answers.
    pub(super) fn keep(&mut self, which: usize) {
        let now = self.now();
        let instance = &mut self.instances[which];
        // Not by size here: what a failover may lose is what has been stored since `earlier`.
        instance.chain.retire_old(now, Duration::from_secs(2), usize::MAX);
        instance.overflow.refill(&mut instance.chain, ROOM);
        let durable = instance.chain.checkpoint();
        if instance.request.is_none() {
            instance.request = instance.overflow.request(&instance.chain, durable, ROOM, now);
        } else if let Some(request) = instance.request.take() {
            let done = spool::answer(&mut instance.log, request);
            let read = Read { at: now, unix_ms: 1 + self.now_ms };
            let options = instance.builder.options().clone();
            let outcome = instance.overflow.done(done, &mut instance.chain, &options, ROOM, read);
            assert!(
                outcome.damaged.is_empty() || self.damaged,
                "a disk that works gives back what it was given"
            );
            instance.account.received(outcome.recovered);
        }
    }
}

fn count_gap(account: &mut Account, counts: &Counts, gap: Option<&Gap>) {
    match gap {
        Some(gap) => {
            account.recorded(gap.reason(), gap.dropped);
            account.dropped(DropReason::SpoolCorrupt, counts.lost_before);
        }
        None => account.deduplicated(counts.lost_before),
    }
}

/// How many commands are whole in what a connection brought.
fn whole_commands(bytes: &[u8]) -> usize {
    let mut reader = Reader::new(Limits::default());
    let (mut rest, mut whole) = (bytes, 0);
    loop {
        let room = reader.room();
        let count = room.len().min(rest.len());
        room[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        reader.filled(count);
        while reader.next_value().unwrap().is_some() {
            whole += 1;
        }
        if rest.is_empty() {
            return whole;
        }
    }
}

/// The mapping and the filter: of some messages a dead letter, of some nothing.
fn take(builder: &mut Builder, number: u64, position: Position, templated: bool, read: Read) -> bool {
    if number % 17 == 3 {
        return builder.filtered(position, read);
    }
    let payload = number.to_string();
    let stream = if templated { format!("s:{}", number % 5) } else { "s".to_owned() };
    let message = Message { channel: b"orders", pattern: None, payload: payload.as_bytes() };
    builder.event(position, &message, payload.len(), read, |sink| {
        if number % 29 == 5 {
            return Err(Rejection { reason: RejectReason::TooLarge, detail: "a test".to_owned() });
        }
        sink.stream(stream.as_bytes());
        sink.field(b"position", position.to_string().as_bytes());
        sink.field(b"payload", payload.as_bytes());
        Ok(())
    })
}
