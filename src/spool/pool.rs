//! The few threads that all spools share.
//!
//! A disk may take seconds, so no loop waits for it. A thread for each capture would be too many with hundreds of
//! captures (systemd's `TasksMax`, a container's limit of pids). The queue is bounded: each spool is one task, and each
//! task is in the queue once at most.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// More threads do not make a disk faster; with one, a slow sync of one spool would delay all others.
const THREADS: usize = 4;
/// Interval at which a thread checks which tasks are due.
const TICK: Duration = Duration::from_millis(200);

/// A task for a thread. `run` is called by one thread at a time.
pub(super) trait Task: Send + Sync {
    /// Does the work that is due now.
    fn run(&self);
    /// Returns whether the task has work without a request.
    fn is_due(&self, now: Instant) -> bool;
}

/// The threads. Cheap to clone; they end with the last clone, once the queue is empty.
#[derive(Debug, Clone)]
pub struct Pool(Arc<PoolOwner>);

#[derive(Debug)]
struct PoolOwner(Arc<PoolState>);

#[derive(Default)]
struct PoolState {
    queue: Mutex<TaskQueue>,
    wake: Condvar,
}

#[derive(Default)]
struct TaskQueue {
    ready: VecDeque<Arc<PoolSlot>>,
    all: Vec<Weak<PoolSlot>>,
    looked: Option<Instant>,
    closed: bool,
}

/// A task and its state.
struct PoolSlot {
    task: Box<dyn Task>,
    place: Mutex<PoolPlace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PoolPlace {
    Idle,
    Queued,
    Running,
    /// It was asked for while it ran: it runs once more.
    Again,
}

/// A task's entry in the pool. Dropping it removes the task, after its last request.
pub(super) struct PoolEntry {
    slot: Arc<PoolSlot>,
    pool: Pool,
}

impl Pool {
    /// Starts the threads. One is enough to continue.
    ///
    /// # Errors
    /// If the system allows none.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(PoolState::default());
        for number in 0..THREADS {
            let works = shared.clone();
            let started =
                std::thread::Builder::new().name(format!("spool {number}")).spawn(move || works.serve());
            match started {
                Ok(_) => {}
                Err(error) if number == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(Self(Arc::new(PoolOwner(shared))))
    }

    /// Takes a task in and runs it at once.
    pub(super) fn add(&self, task: Box<dyn Task>) -> PoolEntry {
        let slot = Arc::new(PoolSlot { task, place: Mutex::new(PoolPlace::Idle) });
        let mut queue = self.0.0.queue();
        queue.all.retain(|known| known.strong_count() > 0);
        queue.all.push(Arc::downgrade(&slot));
        drop(queue);
        let entry = PoolEntry { slot, pool: self.clone() };
        entry.ask();
        entry
    }
}

impl PoolEntry {
    /// Makes the task run soon, and once more if it runs now.
    pub(super) fn ask(&self) {
        self.pool.0.0.ask(&self.slot);
    }
}

impl std::fmt::Debug for PoolEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("place", &*lock(&self.slot.place)).finish_non_exhaustive()
    }
}

impl Drop for PoolOwner {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.wake.notify_all();
    }
}

impl std::fmt::Debug for PoolState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PoolState")
    }
}

impl PoolState {
    fn queue(&self) -> MutexGuard<'_, TaskQueue> {
        lock(&self.queue)
    }

    fn ask(&self, slot: &Arc<PoolSlot>) {
        let mut place = lock(&slot.place);
        match *place {
            PoolPlace::Idle => *place = PoolPlace::Queued,
            PoolPlace::Running => {
                *place = PoolPlace::Again;
                return;
            }
            PoolPlace::Queued | PoolPlace::Again => return,
        }
        drop(place);
        self.queue().ready.push_back(slot.clone());
        self.wake.notify_one();
    }

    /// A thread's life.
    fn serve(&self) {
        while let Some(slot) = self.next() {
            *lock(&slot.place) = PoolPlace::Running;
            slot.task.run();
            let mut place = lock(&slot.place);
            let again = *place == PoolPlace::Again;
            *place = if again { PoolPlace::Queued } else { PoolPlace::Idle };
            drop(place);
            if again {
                self.queue().ready.push_back(slot);
            }
        }
    }

    /// The next task; none once the pool is closed and nothing waits.
    fn next(&self) -> Option<Arc<PoolSlot>> {
        let mut queue = self.queue();
        loop {
            let now = Instant::now();
            if queue.looked.is_none_or(|at| now.saturating_duration_since(at) >= TICK) {
                queue.looked = Some(now);
                let tasks: Vec<_> = queue.all.iter().filter_map(Weak::upgrade).collect();
                drop(queue);
                tasks.iter().filter(|slot| slot.task.is_due(now)).for_each(|slot| self.ask(slot));
                drop(tasks);
                queue = self.queue();
            }
            if let Some(slot) = queue.ready.pop_front() {
                return Some(slot);
            }
            if queue.closed {
                return None;
            }
            queue = self.wake.wait_timeout(queue, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A panic ends the process (see `rt`), so a poisoned lock still holds whole values.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;

    struct Counts {
        runs: Arc<AtomicU32>,
        inside: Arc<AtomicU32>,
        ran: mpsc::SyncSender<u32>,
        due: bool,
    }

    impl Task for Counts {
        fn run(&self) {
            assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "by one thread at a time");
            let runs = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
            self.inside.fetch_sub(1, Ordering::SeqCst);
            let _ = self.ran.send(runs);
        }

        fn is_due(&self, _: Instant) -> bool {
            self.due
        }
    }

    fn counts(due: bool) -> (Box<Counts>, Arc<AtomicU32>, mpsc::Receiver<u32>) {
        let (ran, heard) = mpsc::sync_channel(1_024);
        let runs = Arc::new(AtomicU32::new(0));
        let task = Counts { runs: runs.clone(), inside: Arc::default(), ran, due };
        (Box::new(task), runs, heard)
    }

    #[test]
    fn what_is_asked_runs_by_one_thread_at_a_time_and_never_less_than_once_after_it() {
        let pool = Pool::start().unwrap();
        let tasks: Vec<_> = (0..50).map(|_| counts(false)).collect();
        let entries: Vec<_> =
            tasks.into_iter().map(|(task, runs, heard)| (pool.add(task), runs, heard)).collect();
        for (entry, runs, heard) in &entries {
            heard.recv().unwrap();
            for _ in 0..100 {
                let before = runs.load(Ordering::SeqCst);
                entry.ask();
                while heard.recv().unwrap() <= before {}
            }
        }
    }

    #[test]
    fn what_is_due_runs_unasked_and_the_queue_is_worked_off_before_the_threads_end() {
        let pool = Pool::start().unwrap();
        let (task, _, heard) = counts(true);
        let entry = pool.add(task);
        assert_eq!([heard.recv(), heard.recv(), heard.recv()], [Ok(1), Ok(2), Ok(3)]);
        let (task, _, last) = counts(false);
        let other = pool.add(task);
        drop((entry, other, pool));
        assert_eq!(last.recv(), Ok(1));
    }
}
