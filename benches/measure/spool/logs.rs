//! The same work done four ways: plain writes, tidegate's log, and two libraries that could stand in its place.
//! Each writes the records under a policy of syncing, makes sure that all are on disk, and reads them back in
//! order.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use queue_file::QueueFile;
use redb::{Database, Durability, TableDefinition};
use tidegate::spool::{Fsync, Log, Mark, Options, StateDirectory};

/// As many records as the writer's thread is given at once.
pub(crate) const REQUEST: usize = 40;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    pub(crate) records: usize,
    pub(crate) body: &'a [u8],
    pub(crate) fsync: Fsync,
}

/// How long it took, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    pub(crate) append: f64,
    pub(crate) drain: f64,
}

/// When a sync is due, for those that have no policy of their own.
struct Syncs {
    fsync: Fsync,
    last: Instant,
}

impl Syncs {
    fn new(fsync: Fsync) -> Self {
        Self { fsync, last: Instant::now() }
    }

    /// After a request.
    fn due(&mut self) -> bool {
        let due = match self.fsync {
            Fsync::Always => true,
            Fsync::Every(interval) => self.last.elapsed() >= interval,
            Fsync::Never => false,
        };
        if due {
            self.last = Instant::now();
        }
        due
    }
}

fn timed(append: impl FnOnce(), drain: impl FnOnce()) -> Took {
    let begun = Instant::now();
    append();
    let appended = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    drain();
    Took { append: appended, drain: begun.elapsed().as_secs_f64() }
}

/// The bytes without anything around them; seconds to write them.
pub(crate) fn plain(directory: &Path, work: Work<'_>) -> f64 {
    let mut file = File::create(directory.join("plain")).unwrap();
    let mut syncs = Syncs::new(work.fsync);
    let begun = Instant::now();
    for number in 0..work.records {
        file.write_all(work.body).unwrap();
        if number % REQUEST == REQUEST - 1 && syncs.due() {
            file.sync_data().unwrap();
        }
    }
    file.sync_data().unwrap();
    begun.elapsed().as_secs_f64()
}

fn mark(number: usize) -> Mark {
    let mut mark = [0; 24];
    mark[16..].copy_from_slice(&(number as u64).to_be_bytes());
    mark
}

/// tidegate's own segments.
pub(crate) fn ours(directory: &Path, work: Work<'_>) -> Took {
    let options = Options { limit_bytes: u64::MAX, segment_bytes: 64 << 20, fsync: work.fsync };
    let claim = StateDirectory::open(directory).unwrap().spool("ours").unwrap();
    let (log, _) = Log::open(claim, options).unwrap();
    let log = RefCell::new(log);
    timed(
        || {
            let mut log = log.borrow_mut();
            for number in 0..work.records {
                log.append(&mark(number), 128, work.body).unwrap();
                log.tick(number % REQUEST == REQUEST - 1).unwrap();
            }
            log.sync().unwrap();
        },
        || {
            let mut read = 0;
            loop {
                let records = log.borrow_mut().read(1 << 20).unwrap();
                if records.is_empty() {
                    break;
                }
                read += records.len();
            }
            assert_eq!(read, work.records);
        },
    )
}

/// queue-file: one file that is a ring, made as large as it will be.
pub(crate) fn queue_file(directory: &Path, work: Work<'_>) -> Took {
    let size = (work.records * (work.body.len() + 16)) as u64 * 2;
    let mut queue = QueueFile::with_capacity(directory.join("queue"), size).unwrap();
    queue.set_sync_writes(false);
    let queue = RefCell::new(queue);
    let mut syncs = Syncs::new(work.fsync);
    timed(
        || {
            let mut queue = queue.borrow_mut();
            let mut left = work.records;
            while left > 0 {
                let now = left.min(REQUEST);
                queue.add_n(std::iter::repeat_n(work.body, now)).unwrap();
                left -= now;
                if syncs.due() {
                    queue.sync_all().unwrap();
                }
            }
            queue.sync_all().unwrap();
        },
        || {
            let queue = queue.borrow();
            let mut entries = queue.iter();
            let mut read = 0;
            while entries.borrowed_next().is_some() {
                read += 1;
            }
            assert_eq!(read, work.records);
        },
    )
}

/// redb: a tree, one transaction for each request.
pub(crate) fn redb(directory: &Path, work: Work<'_>) -> Took {
    const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
    let database = Database::create(directory.join("redb")).unwrap();
    let mut syncs = Syncs::new(work.fsync);
    timed(
        || {
            let mut number = 0;
            while number < work.records {
                let end = work.records.min(number + REQUEST);
                let mut transaction = database.begin_write().unwrap();
                if !syncs.due() && end < work.records {
                    transaction.set_durability(Durability::None);
                }
                {
                    let mut table = transaction.open_table(TABLE).unwrap();
                    for number in number..end {
                        table.insert(number as u64, work.body).unwrap();
                    }
                }
                transaction.commit().unwrap();
                number = end;
            }
        },
        || {
            let transaction = database.begin_read().unwrap();
            let table = transaction.open_table(TABLE).unwrap();
            let mut read = 0;
            for record in table.range::<u64>(..).unwrap() {
                assert_eq!(record.unwrap().1.value().len(), work.body.len());
                read += 1;
            }
            assert_eq!(read, work.records);
        },
    )
}
