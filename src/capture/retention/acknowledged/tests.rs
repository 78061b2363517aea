//! The script on real servers, against a model of each group: simulated streams from a seed.

use std::collections::{BTreeMap, BTreeSet};

use super::TRIM;
use crate::server::real::RealServer;

const SERVERS: [&str; 4] = ["redis-7.0", "redis-8.2", "valkey-8.0", "valkey-9.1"];
const REVISION: &str = "0000000002-00";

/// The entries that a group was given and has not acknowledged.
#[derive(Debug, Default)]
struct Group {
    last: u64,
    pending: BTreeSet<u64>,
}

/// One stream `s` on a real server, and its model. The entry `n` has the id `n-0`.
struct TrimmedStream<'a> {
    real: &'a mut RealServer,
    random: fastrand::Rng,
    entries: BTreeSet<u64>,
    groups: BTreeMap<&'static str, Group>,
    next: u64,
    /// Entries were deleted behind the groups' backs, and may be counted although they were gone.
    deleted: bool,
    forced: u64,
}

impl TrimmedStream<'_> {
    fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.real.connection).unwrap()
    }

    fn add(&mut self) {
        for _ in 0..self.random.u64(1..20) {
            let id = format!("{}-0", self.next);
            self.ask::<()>(&["XADD", "s", &id, "field", "value"]);
            self.entries.insert(self.next);
            self.next += self.random.u64(1..3);
        }
    }

    fn read(&mut self, name: &'static str) {
        let count = self.random.usize(1..20);
        let words = ["XREADGROUP", "GROUP", name, "me", "COUNT", &count.to_string(), "STREAMS", "s", ">"];
        self.ask::<redis::Value>(&words);
        let group = self.groups.get_mut(name).unwrap();
        let given: Vec<u64> = self.entries.range(group.last + 1..).take(count).copied().collect();
        group.last = given.last().copied().unwrap_or(group.last);
        group.pending.extend(given);
    }

    fn acknowledge(&mut self, name: &'static str) {
        let group = &self.groups[name];
        let some: Vec<u64> = group.pending.iter().filter(|_| self.random.u8(..3) > 0).copied().collect();
        for number in some {
            let gone: u64 = self.ask(&["XACK", "s", name, &format!("{number}-0")]);
            assert_eq!(gone, 1);
            self.groups.get_mut(name).unwrap().pending.remove(&number);
        }
    }

    fn delete(&mut self) {
        let number = self.random.u64(..self.next);
        self.ask::<()>(&["XDEL", "s", &format!("{number}-0")]);
        self.deleted |= self.entries.remove(&number);
    }

    fn set_id(&mut self, name: &'static str) {
        let number = self.random.u64(..self.next);
        self.ask::<()>(&["XGROUP", "SETID", "s", name, &format!("{number}-0")]);
        self.groups.get_mut(name).unwrap().last = number;
    }

    fn is_acknowledged(&self, number: u64, named: &[&str]) -> bool {
        named.iter().all(|name| {
            let group = self.groups.get(name);
            group.is_some_and(|group| number <= group.last && !group.pending.contains(&number))
        })
    }

    fn left(&mut self) -> BTreeSet<u64> {
        let found: Vec<(String, Vec<String>)> = self.ask(&["XRANGE", "s", "-", "+"]);
        found.iter().map(|(id, _)| id.trim_end_matches("-0").parse().unwrap()).collect()
    }

    fn trim(&mut self, named: &[&str], knows_acked: bool) {
        let most = self.random.usize(1..60);
        let old = Some(self.random.u64(..self.next)).filter(|_| self.random.bool());
        let step = self.random.usize(1..30);
        let mut forced = 0;
        let mut calls = 0;
        loop {
            let mut script = redis::cmd("EVAL");
            script.arg(TRIM.source).arg(2).arg("state").arg("s").arg(REVISION).arg(most);
            script.arg(old.map_or_else(String::new, |old| format!("{old}-0"))).arg(step);
            script.arg(u8::from(knows_acked)).arg(named);
            let (verdict, gone, these, again, all, ..): (
                String,
                u64,
                u64,
                u8,
                u64,
                u64,
                String,
                Vec<String>,
            ) = script.query(&mut self.real.connection).unwrap();
            assert_eq!(verdict, "OK");
            forced += these;
            assert_eq!(all, self.forced + forced, "the state counts along");
            calls += 1;
            assert!(calls < 1_000, "it comes to an end");
            // Deleted pending entries delay one round.
            if again == 0 && gone == 0 {
                break;
            }
        }
        self.forced += forced;
        let left = self.left();
        assert!(left.is_subset(&self.entries) && left.len() <= most);
        let removed: BTreeSet<u64> = self.entries.difference(&left).copied().collect();
        let lost: Vec<u64> =
            removed.iter().filter(|number| !self.is_acknowledged(**number, named)).copied().collect();
        if self.deleted {
            assert!(forced >= lost.len() as u64, "{forced} counted, {lost:?} lost");
        } else {
            assert_eq!(forced, lost.len() as u64, "{lost:?} lost");
        }
        if let Some(last) = lost.last() {
            let behind = self.entries.range(last + 1..).count();
            assert!(behind >= most, "no more is forced out than must be");
            assert!(left.first().is_none_or(|first| first > last), "the oldest are");
        }
        if self.entries.len() <= most {
            assert!(lost.is_empty(), "{lost:?} lost");
            assert!(removed.iter().all(|number| old.is_none_or(|old| *number < old)), "too young");
        }
        let due = |number: &&u64| old.is_none_or(|old| **number < old);
        let done = left.iter().take_while(|number| self.is_acknowledged(**number, named)).find(due);
        assert_eq!(done, None, "what all have acknowledged goes");
        let exactly = named.len() == self.groups.len() && named.iter().all(|it| self.groups.contains_key(it));
        if knows_acked && exactly {
            let done = left.iter().filter(|number| self.is_acknowledged(**number, named)).find(due);
            assert_eq!(done, None, "also behind what is pending");
        }
        self.entries = left;
    }
}

#[test]
fn what_is_not_acknowledged_stays_or_is_counted() {
    for server in SERVERS {
        let mut real = RealServer::start(server);
        for seed in 0..100 {
            let mut world = TrimmedStream {
                real: &mut real,
                random: fastrand::Rng::with_seed(seed),
                entries: BTreeSet::new(),
                groups: BTreeMap::new(),
                next: 1,
                deleted: false,
                forced: 0,
            };
            println!("{server}, seed {seed}");
            world.ask::<()>(&["FLUSHALL"]);
            // Nodes of few entries, so that there are many.
            let node = world.random.usize(1..9).to_string();
            world.ask::<()>(&["CONFIG", "SET", "stream-node-max-entries", &node]);
            world.ask::<()>(&["HSET", "state", "position", "p", "revision", REVISION]);
            let made = [&["a"][..], &["a", "b"], &["a", "b", "c"]][world.random.usize(..3)];
            let named = [&["a"][..], &["a", "b"]][world.random.usize(..2)];
            for name in made {
                world.ask::<()>(&["XGROUP", "CREATE", "s", name, "0", "MKSTREAM"]);
                world.groups.insert(name, Group::default());
            }
            let deletes = world.random.bool();
            for _ in 0..60 {
                let name = made[world.random.usize(..made.len())];
                match world.random.u8(..16) {
                    0..4 => world.add(),
                    4..8 => world.read(name),
                    8..11 => world.acknowledge(name),
                    11 if deletes => world.delete(),
                    12 if deletes => world.set_id(name),
                    _ => world.trim(named, server == "redis-8.2"),
                }
            }
        }
    }
}

#[test]
fn an_older_configuration_trims_nothing_and_a_lost_state_stays_lost() {
    for server in SERVERS {
        let mut real = RealServer::start(server);
        let mut trim = |revision: &str, setup: redis::Pipeline| -> (String, u64, u64) {
            setup.exec(&mut real.connection).unwrap();
            let mut script = redis::cmd("EVAL");
            script.arg(TRIM.source).arg(2).arg("state").arg("s").arg(revision);
            script.arg(2).arg("").arg(100).arg(0).arg("g");
            let (verdict, removed, forced, ..): (String, u64, u64, u8, u64, u64, String, Vec<String>) =
                script.query(&mut real.connection).unwrap();
            (verdict, removed, forced)
        };
        let mut setup = redis::pipe();
        for _ in 0..5 {
            setup.cmd("XADD").arg(&["s", "*", "field", "value"]);
        }
        setup.cmd("HSET").arg(&["state", "position", "p", "revision", "0000000003-00"]);
        assert_eq!(trim(REVISION, setup), ("OUTDATED".to_owned(), 0, 0), "{server}");
        let mut lost = redis::pipe();
        lost.cmd("DEL").arg("state");
        assert_eq!(trim(REVISION, lost), ("OK".to_owned(), 3, 3), "{server}");
        let state: u64 = redis::cmd("EXISTS").arg("state").query(&mut real.connection).unwrap();
        assert_eq!(state, 0, "{server}");
    }
}
