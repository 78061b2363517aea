//! The producers of entries, and the consumers of the group.

use super::World;
use super::model::Given;
use crate::stream::EntryId;

impl World {
    /// Somebody adds, reads, acknowledges or claims.
    pub(super) fn consumer_acts(&mut self) {
        match self.rng.u8(..12) {
            0..=3 => {
                for _ in 0..self.rng.usize(1..6) {
                    self.add();
                }
            }
            4..=6 => self.read(),
            7 | 8 => self.acknowledge(),
            9 => self.claim(),
            10 => self.delete(),
            _ => self.delete_unread(),
        }
    }

    /// Somebody trims the stream, or deletes it, whatever was read of it. Not with a group: its place in the stream
    /// would be deleted too.
    fn delete_unread(&mut self) {
        let model = &mut self.servers[0].model;
        if model.group.is_some() {
            return;
        }
        let deletes_stream = self.rng.u8(..4) == 0;
        let count = if deletes_stream { model.stream.len() } else { self.rng.usize(..=model.stream.len()) };
        let gone: Vec<EntryId> = model.stream.keys().copied().take(count).collect();
        for id in gone {
            model.stream.remove(&id);
            self.checks.deleted(id, model);
            if let Some(real) = &mut self.real {
                real.delete(id);
            }
        }
        if deletes_stream {
            self.checks.stream_deleted = true;
            (model.last, model.added) = (EntryId::default(), 0);
            if let Some(real) = &mut self.real {
                real.delete_stream();
            }
        }
    }

    /// A consumer deletes an entry it has finished; published or not.
    fn delete(&mut self) {
        let model = &mut self.servers[0].model;
        let done = |id: &EntryId| match &model.group {
            None => self.checks.is_heard(*id),
            Some(group) => *id <= group.delivered && !group.pending.contains_key(id),
        };
        let done: Vec<EntryId> = model.stream.keys().copied().filter(done).collect();
        for id in done {
            if self.rng.u8(..3) == 0 {
                model.stream.remove(&id);
                self.checks.deleted(id, model);
                if let Some(real) = &mut self.real {
                    real.delete(id);
                }
            }
        }
    }

    fn add(&mut self) {
        let clock = self.clock_ms(0);
        let model = &mut self.servers[0].model;
        // A stream that begins anew has higher ids: other tests are about lower ones.
        let id = model.last.max(self.checks.last_added()).next(clock);
        let mut fields = vec![("payload".to_owned(), "x".to_owned())];
        if self.rng.u8(..8) > 0 {
            fields.push(("kind".to_owned(), ["even", "odd"][usize::from(self.rng.bool())].to_owned()));
        }
        if let Some(real) = &mut self.real {
            real.add(id, &fields);
        }
        (model.last, model.added) = (id, model.added + 1);
        model.stream.insert(id, fields);
        self.checks.added(id);
    }

    fn read(&mut self) {
        let clock = self.clock_ms(0);
        let Some(group) = &mut self.servers[0].model.group else { return };
        let consumer = ["one", "two", "three"][self.rng.usize(..3)];
        let count = self.rng.usize(1..5);
        let after = group.delivered;
        let given: Vec<EntryId> = self.servers[0]
            .model
            .stream
            .range(after..)
            .map(|(id, _)| *id)
            .filter(|id| *id > after)
            .take(count)
            .collect();
        if given.is_empty() {
            return;
        }
        let Some(group) = &mut self.servers[0].model.group else { return };
        group.consumers.insert(consumer.to_owned());
        for id in &given {
            let given = Given { consumer: consumer.to_owned(), at_ms: clock, times: 1 };
            group.pending.insert(*id, given);
            group.delivered = *id;
            group.read += 1;
        }
        if let Some(real) = &mut self.real {
            real.read(consumer, count);
        }
    }

    fn acknowledge(&mut self) {
        let Some(group) = &mut self.servers[0].model.group else { return };
        let pending: Vec<EntryId> = group.pending.keys().copied().collect();
        for id in pending {
            if self.rng.bool() {
                self.acknowledge_one(id);
            }
        }
    }

    fn acknowledge_one(&mut self, id: EntryId) {
        if let Some(group) = &mut self.servers[0].model.group {
            group.pending.remove(&id);
        }
        self.checks.acknowledged(id);
        if let Some(real) = &mut self.real {
            real.acknowledge(id);
        }
    }

    fn claim(&mut self) {
        let clock = self.clock_ms(0);
        let Some(group) = &mut self.servers[0].model.group else { return };
        let Some((id, given)) = group.pending.iter_mut().next() else { return };
        let id = *id;
        group.consumers.insert("two".to_owned());
        *given = Given { consumer: "two".to_owned(), at_ms: clock, times: given.times + 1 };
        if let Some(real) = &mut self.real {
            real.claim(id, "two");
        }
    }

    /// The group takes all there is, and acknowledges it.
    pub(super) fn acknowledge_all(&mut self) {
        if self.servers[0].model.group.is_none() {
            return;
        }
        self.read();
        let Some(group) = &self.servers[0].model.group else { return };
        let pending: Vec<EntryId> = group.pending.keys().copied().collect();
        pending.into_iter().for_each(|id| self.acknowledge_one(id));
    }
}
