//! A service manager of the test's own: what the daemon says on `NOTIFY_SOCKET`.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Reads all the time, as systemd does: a full socket would hold the daemon up.
#[derive(Debug)]
pub(crate) struct Notifications {
    lines: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Notifications {
    pub(crate) fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("the temporary directory is writable");
        // So that the reader looks at `stop` now and then.
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a valid time-out");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (lines, stop) = (Arc::clone(&lines), Arc::clone(&stop));
            move || {
                let mut buffer = [0; 4096];
                while !stop.load(Ordering::Relaxed) {
                    let Ok(size) = socket.recv(&mut buffer) else { continue };
                    let text = String::from_utf8_lossy(&buffer[..size]);
                    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                    lines.extend(text.lines().map(str::to_owned));
                }
            }
        });
        Self { lines, stop, reader: Some(reader) }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}
