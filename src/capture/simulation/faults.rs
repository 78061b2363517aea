//! The faults, and their repair.

use super::destination::{Call, PARKING, REFUSALS};
use super::spooled::Harm;
use super::*;

impl World {
    pub(super) fn kill(&mut self, which: usize) {
        let mut configuration = self.instances[which].configuration;
        if self.rng.u8(..4) == 0 {
            // It comes back with the configuration of that time.
            configuration = self.other_configuration();
        }
        self.restart(which, configuration);
        self.instances[which].up = false;
    }

    /// The destination holds something else from now on.
    pub(super) fn replace(&mut self, model: Model) {
        for which in 0..self.instances.len() {
            self.disconnect_all(which);
        }
        self.model = model;
        self.old_model = None;
        self.went_back = true;
        (self.changed, self.looked) = (true, super::checks::StoredSoFar::default());
        if self.model.position() == "-" {
            // A process that starts now cannot know that something was stored before.
            self.promised = None;
        }
        if let Some(real) = &mut self.real {
            real.load(&self.model, &self.keys);
        }
    }

    /// A failover: everything that a replica had not got yet is lost.
    pub(super) fn fail_over(&mut self) {
        self.replace(self.earlier.clone());
    }

    /// A replica becomes the master, and the old master does not know: some instances stay with it.
    pub(super) fn split(&mut self) {
        let staying = self.rng.usize(..self.instances.len());
        let old = std::mem::replace(&mut self.model, self.earlier.clone());
        if self.model.position() == "-" {
            self.promised = None;
        }
        self.old_model = Some(old);
        self.went_back = true;
        (self.changed, self.looked) = (true, super::checks::StoredSoFar::default());
        for which in 0..self.instances.len() {
            for route in 0..self.instances[which].routes.len() {
                // Bytes sent before the split went to the old one.
                if let Some(link) = &mut self.instances[which].routes[route].link {
                    link.with_the_old = true;
                }
                if which != staying {
                    self.disconnect(which, route);
                }
            }
        }
    }

    /// The former master is made a replica: its clients are sent away. The destination refuses nothing more, and
    /// the source answers.
    pub(super) fn heal(&mut self) {
        for which in 0..self.instances.len() {
            for route in 0..self.instances[which].routes.len() {
                if self.instances[which].routes[route].link.as_ref().is_some_and(|link| link.with_the_old) {
                    self.disconnect(which, route);
                }
            }
        }
        self.old_model = None;
        self.refusal = None;
        self.source.stalled = false;
    }

    /// The disk refuses: there is no room, a sync fails, a file cannot be read.
    fn refuse(&mut self, which: usize) {
        let disk = &self.instances[which].disk;
        match self.rng.u32(..4) {
            0 => disk.set_room(Some(self.rng.u64(..2_000))),
            1 if self.rng.bool() => self.fail_sync_and_crash(which),
            1 => disk.fail_syncs(self.rng.u32(1..4)),
            2 => disk.fail_directory_syncs(self.rng.u32(1..4)),
            // A third refusal in a row gives the rest of a file up.
            _ if self.gentle => disk.set_room(Some(0)),
            _ => {
                let names = disk.names();
                if let Some(name) = self.rng.choice(&names) {
                    disk.refuse_reads(name, self.rng.u32(1..5));
                    self.harm(which, name, Harm::All);
                }
            }
        }
    }

    /// A sync fails while messages go to the disk, later ones succeed, and the machine ends before the messages are
    /// stored.
    fn fail_sync_and_crash(&mut self, which: usize) {
        self.instances[which].no_destination = true;
        self.disconnect_all(which);
        self.instances[which].disk.fail_syncs(1);
        for _ in 0..self.rng.u32(..30) {
            self.pass(5);
            self.publish();
            self.turn(which);
        }
        self.crash(which);
    }

    /// A file of the spool changes: a bit is flipped, it is shorter, or it is gone.
    fn damage(&mut self, which: usize) {
        let disk = self.instances[which].disk.clone();
        let names = disk.names();
        let Some(name) = self.rng.choice(&names) else { return };
        let length = disk.content(name).len();
        match self.rng.u32(..4) {
            0 => {
                self.harm(which, name, Harm::All);
                disk.delete(name);
            }
            1 => {
                let end = self.rng.usize(..=length);
                self.harm(which, name, Harm::End(end));
                disk.shorten(name, end);
            }
            _ if length > 0 => {
                let at = self.rng.usize(..length);
                self.harm(which, name, Harm::Byte(at));
                disk.flip(name, at, self.rng.u8(..8));
            }
            _ => {}
        }
    }

    /// Something goes wrong.
    pub(super) fn fault(&mut self) {
        let which = self.rng.usize(..self.instances.len());
        let route = self.rng.usize(..self.instances[which].routes.len());
        let kind = self.rng.u32(..if self.replicated { 220 } else { 200 });
        self.tell(|| format!("fault {kind} of i{which}.{route}, {} published", self.source.published));
        match kind {
            0..15 => self.lose_window(which, route),
            15..30 => self.disconnect(which, route),
            30..42 => self.kill(which),
            42..52 => self.instances[which].paused = true,
            52..60 => self.instances[which].no_source = true,
            60..68 => self.instances[which].no_destination = true,
            // Recently stored batches are kept as far as memory allows.
            68..78 if self.roomy || !self.gentle => self.fail_over(),
            78..84 => self.refuse(which),
            84..89 => {
                self.source.clock_ms = self.source.clock_ms.saturating_add(self.rng.u64(..10_000));
                self.instances[which].clock_ahead_ms = self.rng.u64(..1_000_000);
                self.clock_set = true;
            }
            89..94 => self.server_ms = (self.server_ms + 500_000).saturating_sub(self.rng.u64(..1_000_000)),
            94..97 if !self.gentle && !self.replicated && !self.forgot && self.is_remembered() => {
                // The source's epoch is lost, and its clock is behind; the state remembers. If that is lost, too, no
                // instance knows how high the epochs were.
                self.replicate_everywhere();
                self.epoch_lost = true;
                self.source.last_epoch = 0;
                self.source.clock_ms = self.rng.u64(1..2_000);
                for which in 0..self.instances.len() {
                    for route in 0..self.instances[which].routes.len() {
                        self.lose_window(which, route);
                    }
                }
            }
            97..100 if !self.gentle && !self.epoch_lost => {
                // FLUSHALL. (If only the state is deleted, items stored without a reply are stored again: no instance
                // knows of them.)
                self.forgot = true;
                self.replace(Model::default());
                self.replicate_everywhere();
            }
            100..106 if self.real.is_none() && self.old_model.is_none() && (self.roomy || !self.gentle) => {
                self.split();
            }
            106..118 if !self.gentle => self.damage(which),
            118..128 => {
                let configuration = self.other_configuration();
                self.reload(which, configuration);
            }
            128..134 => self.stop(which),
            134..142 if self.real.is_none() => {
                let calls = [Call::Any, Call::Append, Call::Lease, Call::Epochs, Call::Plain, Call::Connect];
                let call = *self.rng.choice(&calls).unwrap();
                // A blocked one takes 30 s to come back, and is not waited for that long.
                let words = if self.gentle { &REFUSALS[PARKING..] } else { &REFUSALS[..] };
                self.refusal = Some((call, self.rng.choice(words).unwrap()));
                if !self.gentle && self.rng.bool() {
                    if self.rng.bool() {
                        let configuration = self.other_configuration();
                        self.restart(which, configuration);
                    }
                    self.endure();
                }
            }
            142..146 => self.stall_link(which, route),
            146..150 => {
                // A slow script: it answers no client, keeps every connection, and continues.
                self.source.stalled = true;
                for _ in 0..self.rng.u32(..90) {
                    self.pass(100);
                    let which = self.rng.usize(..self.instances.len());
                    self.turn(which);
                }
                self.source.stalled = false;
            }
            150..160 => {
                // One instance is frozen while the others continue.
                self.instances[which].paused = true;
                for _ in 0..self.rng.u32(..400) {
                    self.pass(30);
                    let other = self.rng.usize(..self.instances.len());
                    self.turn(other);
                }
                if self.rng.bool() {
                    self.instances[which].paused = false;
                }
            }
            160..170 => self.forge(),
            170..180 => self.crash(which),
            180..190 if self.roomy || !self.gentle => self.fail_over_twice(),
            190..200 if !self.gentle && self.sentinels => self.move_source(),
            200..220 if !self.gentle => self.replace_source(),
            _ => {}
        }
    }

    /// The destination refuses for ten seconds while everything else is well: that makes no noise.
    fn endure(&mut self) {
        for which in 0..self.instances.len() {
            self.mend(which);
        }
        let (windows, lines) = self.noise();
        for _ in 0..100 {
            self.pass(100);
            for which in 0..self.instances.len() {
                self.full_turn(which);
            }
        }
        self.check_noise(windows, lines, 12);
    }

    /// A session's connection delivers nothing while the source continues. Then it delivers, or it breaks.
    ///
    /// A route that took over in a reload is left out: what its predecessor had read behind the border is given up, and
    /// counts as the successor's, which may not have read it yet.
    fn stall_link(&mut self, which: usize, route: usize) {
        if self.instances[which].routes[route].took_over || self.instances[which].routes.len() > 1 {
            return;
        }
        self.instances[which].routes[route].stalled = true;
        for _ in 0..self.rng.u32(..150) {
            self.pass(50);
            if self.rng.u8(..10) == 0 {
                self.publish();
            }
            let which = self.rng.usize(..self.instances.len());
            self.turn(which);
        }
        if let Some(one) = self.instances[which].routes.get_mut(route)
            && std::mem::take(&mut one.stalled)
            && self.rng.bool()
        {
            self.lose_window(which, route);
        }
    }

    /// Somebody publishes an anchor of his own on the control channel.
    fn forge(&mut self) {
        let anchors = self.source.sent.iter().filter_map(|sent| match sent {
            SourceMessage::Anchor(epoch) => Some(epoch.number),
            _ => None,
        });
        let (last, clock) = (anchors.max().unwrap_or_default(), self.source.clock_ms);
        let number = match self.rng.u32(..6) {
            // It is one that the source could have handed out.
            0 if clock > last => self.rng.u64(last + 1..=clock),
            // In a gentle history nothing ends a window in every instance at once.
            _ if self.gentle => return,
            1 => self.rng.u64(..=last),
            2 | 3 => clock.max(last) + self.rng.u64(120_000..7_200_000),
            4 => Epoch::MAX_NUMBER - self.rng.u64(..3),
            _ => self.rng.u64(..Epoch::MAX_NUMBER),
        };
        self.source.sent.push(SourceMessage::Anchor(Epoch { number, anchor: AnchorId::random() }));
    }

    /// Returns whether the state knows of every epoch in which anything is held; one instance knows its own.
    pub(super) fn is_remembered(&self) -> bool {
        let empty = |one: &Instance| {
            one.routes
                .iter()
                .all(|route| route.engine.holds_nothing() && route.log.as_ref().is_none_or(Log::is_empty))
        };
        self.model.position() != "-" && (self.instances.len() == 1 || self.instances.iter().all(empty))
    }

    pub(super) fn mend(&mut self, which: usize) {
        self.hear_of_move(which);
        let instance = &mut self.instances[which];
        instance.up = true;
        instance.paused = false;
        instance.no_source = false;
        instance.no_destination = false;
        instance.disk.heal();
    }
}
