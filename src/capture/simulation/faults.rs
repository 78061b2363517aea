//! What goes wrong, and what puts it right.

use super::*;

impl World {
    pub(super) fn kill(&mut self, which: usize) {
        let mut configuration = self.instances[which].configuration;
        if self.rng.u8(..4) == 0 {
            // It comes back with what is configured by then.
            self.configuration += 1;
            configuration = self.configuration;
        }
        self.restart(which, configuration);
        self.instances[which].up = false;
    }

    pub(super) fn restart(&mut self, which: usize, configuration: u64) {
        self.disconnect(which);
        let disk = self.instances[which].disk.clone();
        self.instances[which] = self.process(which, configuration, disk);
    }

    /// The destination holds something else from now on.
    pub(super) fn replace(&mut self, model: Model) {
        for which in 0..self.instances.len() {
            self.disconnect(which);
        }
        self.model = model;
        self.old_model = None;
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

    /// A replica is made the master, and the one that was is not told: some instances stay with it.
    pub(super) fn split(&mut self) {
        let staying = self.rng.usize(..self.instances.len());
        let old = std::mem::replace(&mut self.model, self.earlier.clone());
        if self.model.position() == "-" {
            self.promised = None;
        }
        self.old_model = Some(old);
        for which in 0..self.instances.len() {
            if which == staying {
                self.instances[which].with_the_old = self.instances[which].link.is_some();
            } else {
                // What it has sent before the split went to the old one.
                self.instances[which].with_the_old = true;
                self.disconnect(which);
                self.instances[which].with_the_old = false;
            }
        }
    }

    /// The master that was is made a replica: whoever is with it is sent away.
    pub(super) fn heal(&mut self) {
        for which in 0..self.instances.len() {
            if self.instances[which].with_the_old {
                self.disconnect(which);
                self.instances[which].with_the_old = false;
            }
        }
        self.old_model = None;
    }

    /// The disk refuses: there is no room, a sync fails, a file cannot be read.
    fn refuse(&mut self, which: usize) {
        let disk = &self.instances[which].disk;
        match self.rng.u32(..4) {
            0 => disk.set_room(Some(self.rng.u64(..2_000))),
            1 => disk.fail_syncs(self.rng.u32(1..4)),
            2 => disk.fail_directory_syncs(self.rng.u32(1..4)),
            // A third refusal in a row gives the rest of a file up.
            _ if self.gentle => disk.set_room(Some(0)),
            _ => {
                self.damaged = true;
                let names = disk.names();
                if let Some(name) = self.rng.choice(&names) {
                    disk.refuse_reads(name, self.rng.u32(1..5));
                }
            }
        }
    }

    /// A file of the spool is not what was written: a bit is flipped, it is shorter, or it is gone.
    fn damage(&mut self, which: usize) {
        let disk = &self.instances[which].disk;
        let names = disk.names();
        let Some(name) = self.rng.choice(&names) else { return };
        let length = disk.content(name).len();
        self.damaged = true;
        match self.rng.u32(..4) {
            0 => disk.delete(name),
            1 => disk.shorten(name, self.rng.usize(..=length)),
            _ if length > 0 => disk.flip(name, self.rng.usize(..length), self.rng.u8(..8)),
            _ => {}
        }
    }

    /// Something goes wrong.
    pub(super) fn fault(&mut self) {
        let which = self.rng.usize(..self.instances.len());
        match self.rng.u32(..118) {
            0..15 => self.lose_window(which, GapCause::SourceDisconnected),
            15..30 => self.disconnect(which),
            30..42 => self.kill(which),
            42..52 => self.instances[which].paused = true,
            52..60 => self.instances[which].no_source = true,
            60..68 => self.instances[which].no_destination = true,
            68..78 => self.fail_over(),
            78..84 => self.refuse(which),
            106..118 if !self.gentle => self.damage(which),
            84..89 => self.source.clock_ms = self.source.clock_ms.saturating_add(self.rng.u64(..10_000)),
            89..94 => self.server_ms = (self.server_ms + 500_000).saturating_sub(self.rng.u64(..1_000_000)),
            94..97 if !self.gentle && !self.forgot && self.is_remembered() => {
                // The source's epoch is lost, and its clock is behind; the state remembers. Where that is
                // lost, too, nobody is left who knows how high the epochs were.
                self.earlier = self.model.clone();
                self.epoch_lost = true;
                self.source.last_epoch = 0;
                self.source.clock_ms = self.rng.u64(1..2_000);
                for which in 0..self.instances.len() {
                    self.lose_window(which, GapCause::SourceDisconnected);
                }
            }
            100..106 if self.real.is_none() && self.old_model.is_none() => self.split(),
            97..100 if !self.gentle && !self.epoch_lost => {
                // FLUSHALL. (Where only the state is deleted, what was stored and not answered yet is stored
                // again: nobody is left who knows.)
                let model = Model::default();
                self.earlier = model.clone();
                self.forgot = true;
                self.replace(model);
            }
            _ => {}
        }
    }

    /// Whether the state knows of every epoch in which anything is held; one instance knows its own.
    pub(super) fn is_remembered(&self) -> bool {
        let empty =
            |one: &Instance| one.chain.is_empty() && one.builder.open_items() == 0 && one.log.is_empty();
        self.model.position() != "-" && (self.instances.len() == 1 || self.instances.iter().all(empty))
    }

    pub(super) fn mend(&mut self, which: usize) {
        let instance = &mut self.instances[which];
        instance.up = true;
        instance.paused = false;
        instance.no_source = false;
        instance.no_destination = false;
        instance.disk.heal();
    }
}
