//! Promise: damage on disk costs what is damaged and nothing else. Every intact record of every file is stored, in
//! order; the damaged stretch is one gap with the number of messages lost; the damaged file is kept aside.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tidegate::status::RouteState;

use crate::support::{
    Daemon, Gap, Load, NUMBERED, Options, Oracle, Payloads, Server, Setup, Version, alert, assert_accounted,
    captured, eventually, gaps, numbered, wait_for_last,
};

const PATIENCE: Duration = Duration::from_secs(60);
const MESSAGES: usize = 8_000;
/// Messages that are published at a time, by a publisher of their own.
const PORTION: usize = 2_000;
/// A batch has at most this number of messages, and a record is a batch.
const RECORD: usize = 128;

/// The payload of the last message.
fn last() -> Vec<u8> {
    numbered(MESSAGES / PORTION - 1, PORTION - 1)
}

/// Files of 1 MiB for each of the routes.
fn spool_of(routes: usize) -> String {
    format!("memory_limit = \"16MiB\"\nspool = {{ limit = \"{}MiB\", fsync = \"100ms\" }}", 8 * routes)
}

fn setup(source: &Server, destination: &Server) -> Setup {
    Setup::orders(source, destination).expects(&[alert::DESTINATION, alert::GAP, alert::SPOOL])
}

/// One route among sixteen, so that its share of memory is less than 1 MiB: most of what waits is on disk only.
fn on_disk_only(source: &Server, destination: &Server) -> Setup {
    let route = |name: &str| {
        format!(
            r#"
            [capture.{name}]
            source = "shop"
            channels = ["{name}"]
            destination = "events"
            stream = "{name}"
            keep = "forever"
            include = ["id"]
            "#
        )
    };
    let idle: String = (1..16).map(|number| route(&format!("idle-{number}"))).collect();
    setup(source, destination).routes(&format!("{}{idle}", route("orders"))).daemon(&spool_of(16))
}

/// A daemon whose destination is away, with everything that was published on disk.
struct Spooled {
    // Dropped before the servers, whose end it would tell of.
    daemon: Daemon,
    _source: Server,
    destination: Server,
    oracle: Oracle,
}

impl Spooled {
    fn start(messages: usize, setup: impl Fn(&Server, &Server) -> Setup) -> Self {
        let source = Server::start(Version::Redis70);
        let mut destination = Server::with(Version::Redis70, Options::default().durable());
        let mut daemon = setup(&source, &destination).start_ready();
        let oracle = Oracle::new(&source);
        daemon.watch(&oracle);
        destination.kill();
        // A slow disk would end the session where too much came at a time.
        for portion in 0..messages / PORTION {
            let load = Load::new(1, PORTION, &["orders"]).payloads(Payloads::Numbered);
            oracle.publish(&load.first_publisher(portion));
            eventually("everything is on disk", PATIENCE, || {
                let status = daemon.route("orders")?;
                let received = status.process_counts.as_ref().map_or(0, |process| process.received);
                let all = received == ((portion + 1) * PORTION) as u64;
                if all && status.spooled_all { Ok(()) } else { Err(format!("{status:?}")) }
            });
        }
        Self { daemon, _source: source, destination, oracle }
    }

    fn directory(&self) -> PathBuf {
        self.daemon.state_directory().join("spool/orders")
    }

    /// The files that hold a message, oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory()).expect("the spool is there");
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "spool"));
        files.retain(|path| !places(&std::fs::read(path).expect("it can be read")).is_empty());
        files.sort();
        files
    }

    /// The third of at least five files.
    fn third(&self) -> PathBuf {
        let files = self.files();
        assert!(files.len() >= 5, "{files:?}");
        files[2].clone()
    }

    /// The last message is published, and everything before it is dealt with.
    #[track_caller]
    fn finish(&self) {
        self.oracle.publish_last("orders", &self.destination, "orders", PATIENCE);
    }

    /// What is missing is counted in one gap of the spool's, which holds no more than `most` messages.
    #[track_caller]
    fn assert_one_gap(&self, others: &[&str], most: usize) {
        let (found, captured) = (gaps(&self.destination, "orders"), captured(&self.destination, "orders"));
        let causes = [&["spool_corrupt"], others].concat();
        let seen = [self.daemon.seen("orders")];
        let missing = assert_accounted(&self.oracle.sequence(), &captured, &found, &seen, &causes);
        let of_the_spool: Vec<&Gap> = found.iter().filter(|gap| gap.cause == "spool_corrupt").collect();
        assert_eq!(of_the_spool.len(), 1, "{found:#?}");
        assert_eq!(of_the_spool[0].dropped, missing as u64, "{found:#?}");
        assert!((1..=most).contains(&missing), "{missing} are missing");
    }

    #[track_caller]
    fn assert_kept_aside(&self) {
        // It is put aside when its intact records are stored and deleted.
        eventually("the damaged file is kept aside", PATIENCE, || {
            let entries = std::fs::read_dir(self.directory()).expect("the spool is there");
            let files: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
            let aside = |path: &&PathBuf| path.extension().is_none_or(|extension| extension != "spool");
            if files.iter().filter(aside).count() == 1 { Ok(()) } else { Err(format!("{files:?}")) }
        });
    }

    fn verify(&self) -> std::process::Output {
        self.daemon.run_command(&["spool", "verify"])
    }
}

/// Where messages begin.
fn places(bytes: &[u8]) -> Vec<usize> {
    let needle = NUMBERED.as_bytes();
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(needle.len()).position(|window| window == needle) {
        found.push(from + at);
        from += at + needle.len();
    }
    found
}

/// Flips one bit inside a message; `which` chooses it out of the places where messages begin.
fn flip(file: &PathBuf, which: impl Fn(&[usize]) -> usize) {
    let bytes = std::fs::read(file).expect("it can be read");
    let place = which(&places(&bytes));
    // In place, as a disk does it: the file that is open stays the same file.
    let open = std::fs::OpenOptions::new().write(true).open(file).expect("it can be written");
    open.write_all_at(&[bytes[place] ^ 1], place as u64).expect("it can be written");
}

fn middle(places: &[usize]) -> usize {
    places[places.len() / 2]
}

#[test]
fn a_flipped_bit_found_at_a_restart() {
    let mut spooled =
        Spooled::start(MESSAGES, |source, destination| setup(source, destination).daemon(&spool_of(1)));
    spooled.daemon.kill();
    flip(&spooled.third(), middle);
    assert!(!spooled.verify().status.success(), "{:?}", spooled.verify());
    spooled.daemon.start_again();
    spooled.destination.start_again();
    spooled.daemon.wait_state("orders", RouteState::Live);
    spooled.finish();
    spooled.assert_one_gap(&["restart"], RECORD);
    spooled.assert_kept_aside();
}

/// Nothing is published meanwhile and nothing after: what is lost is recorded all the same.
#[track_caller]
fn damaged_while_it_runs(damage: impl Fn(&Spooled), most: usize) -> Spooled {
    let mut spooled = Spooled::start(MESSAGES, on_disk_only);
    damage(&spooled);
    spooled.destination.start_again();
    eventually("what is lost is recorded", PATIENCE, || {
        let status = spooled.daemon.route("orders")?;
        match gaps(&spooled.destination, "orders").len() {
            0 => Err(format!("{status:?}")),
            _ => Ok(()),
        }
    });
    eventually("everything is dealt with", PATIENCE, || {
        let status = spooled.daemon.route("orders")?;
        let process = status.process_counts.as_ref().expect("it is a capture");
        let settled = process.buffered == 0 && process.received == MESSAGES as u64;
        if settled && status.gap_open_since_unix_ms.is_none() { Ok(()) } else { Err(format!("{status:?}")) }
    });
    spooled.daemon.wait_route_ready("orders");
    spooled.assert_one_gap(&[], most);
    spooled
}

#[test]
fn a_flipped_bit_found_while_it_runs() {
    let spooled = damaged_while_it_runs(|spooled| flip(&spooled.third(), middle), RECORD);
    wait_for_last(&spooled.destination, "orders", &last(), PATIENCE);
    spooled.assert_kept_aside();
}

#[test]
fn a_flipped_bit_in_the_last_record_that_nothing_follows() {
    let end = |spooled: &Spooled| {
        let files = spooled.files();
        flip(files.last().expect("there are files"), |places| places[places.len() - 1]);
    };
    damaged_while_it_runs(end, RECORD);
}

#[test]
fn a_file_that_is_cut_while_it_runs() {
    let cut = |spooled: &Spooled| {
        let path = spooled.third();
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("it can be written");
        let length = file.metadata().expect("it is there").len();
        file.set_len(length / 2).expect("it can be cut");
    };
    let spooled = damaged_while_it_runs(cut, MESSAGES / 5);
    wait_for_last(&spooled.destination, "orders", &last(), PATIENCE);
}

#[test]
fn a_file_that_is_removed_while_it_runs() {
    let remove = |spooled: &Spooled| std::fs::remove_file(spooled.third()).expect("it can be removed");
    let spooled = damaged_while_it_runs(remove, MESSAGES / 4);
    wait_for_last(&spooled.destination, "orders", &last(), PATIENCE);
}

/// The destination refuses the record for as long as its key holds something else.
#[test]
fn a_loss_that_cannot_be_recorded_yet_is_shown() {
    let parks =
        |source: &Server, destination: &Server| on_disk_only(source, destination).expects(&[alert::BLOCKED]);
    let mut spooled = Spooled::start(MESSAGES, parks);
    flip(&spooled.third(), middle);
    spooled.destination.start_again();
    spooled.destination.ask::<()>(&["SET", "tidegate:orders:gaps", "in the way"]);
    eventually("the loss is shown", PATIENCE, || {
        let status = spooled.daemon.route("orders")?;
        let (code, body) = spooled.daemon.get("/readyz?route=orders")?;
        let shown = status.gap_open_since_unix_ms.is_some() && code == 503;
        if shown { Ok(()) } else { Err(format!("{code} {body} {status:?}")) }
    });
    assert!(spooled.destination.stream_length("orders") < MESSAGES);
    spooled.destination.ask::<()>(&["DEL", "tidegate:orders:gaps"]);
    // It need not wait for its next try.
    spooled.destination.ask::<()>(&["CLIENT", "KILL", "USER", "tidegate-events"]);
    wait_for_last(&spooled.destination, "orders", &last(), PATIENCE);
    spooled.assert_one_gap(&[], RECORD);
}

#[test]
fn damage_in_the_only_file_is_no_torn_tail() {
    let mut spooled = Spooled::start(MESSAGES / 4, setup);
    spooled.daemon.kill();
    let files = spooled.files();
    assert_eq!(files.len(), 1, "{files:?}");
    flip(&files[0], middle);
    assert!(!spooled.verify().status.success(), "{:?}", spooled.verify());
    spooled.daemon.start_again();
    spooled.destination.start_again();
    spooled.daemon.wait_state("orders", RouteState::Live);
    spooled.finish();
    spooled.assert_one_gap(&["restart"], RECORD);
    spooled.assert_kept_aside();
}

/// As a crash of the machine leaves it: what was written last was not synced.
#[test]
fn a_torn_tail_is_cut_and_is_no_damage() {
    let mut spooled = Spooled::start(MESSAGES / 4, setup);
    spooled.daemon.kill();
    let path = spooled.files().pop().expect("a file");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("it can be written");
    let length = file.metadata().expect("it is there").len();
    file.set_len(length - 10).expect("it can be cut");
    assert!(spooled.verify().status.success(), "{:?}", spooled.verify());
    spooled.daemon.start_again();
    spooled.destination.start_again();
    spooled.daemon.wait_state("orders", RouteState::Live);
    spooled.finish();
    let (found, captured) = (gaps(&spooled.destination, "orders"), captured(&spooled.destination, "orders"));
    // What `/status` called spooled was cut by the test.
    let missing = assert_accounted(&spooled.oracle.sequence(), &captured, &found, &[], &["restart"]);
    assert!((1..=RECORD).contains(&missing), "{missing} are missing");
}
