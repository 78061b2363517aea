//! Reading files beside the loops. A network file system that hangs blocks a read for minutes, and a read on a loop would
//! hold up every route.
//!
//! **Failure.** A read that takes too long is given up, and its thread stays until the file system answers. Until then no
//! other read of the same kind begins for that endpoint, so each endpoint blocks at most one thread a kind.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::files::FileKind;
use crate::rt;

/// How long reading an endpoint's files may take; they are small.
const DEADLINE: Duration = Duration::from_secs(2);

/// The reads of one endpoint's files that are under way: one of each kind.
#[derive(Debug)]
pub(super) struct Reads([Arc<Semaphore>; FileKind::ALL.len()]);

impl Default for Reads {
    fn default() -> Self {
        Self(FileKind::ALL.map(|_| Arc::new(Semaphore::new(1))))
    }
}

impl Reads {
    /// Reads on another thread. Cancel safe: a dropped future leaves the read to its thread.
    ///
    /// # Errors
    /// If the file system does not answer in time.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        kind: FileKind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.run_within(DEADLINE, kind, work).await
    }

    async fn run_within<T: Send + 'static>(
        &self,
        deadline: Duration,
        kind: FileKind,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.0[kind as usize].clone();
        let reading = async move {
            let turn = turn.acquire_owned().await;
            rt::blocking("files", move || {
                let done = work();
                drop(turn);
                Ok::<T, Infallible>(done)
            })
            .await
        };
        match timeout(deadline, reading).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(never)) => match never {},
            Err(_) => {
                let text = format!("the file system has not answered for {deadline:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// A read that does not come back, as of a file system that hangs.
    #[tokio::test]
    async fn a_read_that_hangs_is_given_up_and_holds_up_no_other_kind() {
        const SHORT: Duration = Duration::from_millis(20);
        let reads = Reads::default();
        let began = Arc::new(AtomicUsize::new(0));
        let (answer, answered) = mpsc::sync_channel::<()>(1);
        let counted = began.clone();
        let hung = reads.run_within(SHORT, FileKind::Password, move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = answered.recv();
        });
        let error = hung.await.unwrap_err();
        assert_eq!(error.to_string(), "the file system has not answered for 20ms");
        for _ in 0..3 {
            let counted = began.clone();
            let next =
                reads.run_within(SHORT, FileKind::Password, move || counted.fetch_add(1, Ordering::SeqCst));
            assert!(next.await.is_err());
        }
        assert!(began.load(Ordering::SeqCst) <= 1, "one thread is blocked and no more");
        assert_eq!(reads.run(FileKind::Tls, || 7).await.unwrap(), 7);
        assert_eq!(Reads::default().run(FileKind::Password, || 7).await.unwrap(), 7, "another endpoint");
        answer.send(()).unwrap();
        assert_eq!(reads.run(FileKind::Password, || 7).await.unwrap(), 7, "it answers again");
    }
}
