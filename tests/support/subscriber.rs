//! A subscriber that writes down what it hears, in a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::oracle::Published;
use super::server::Server;

#[derive(Debug)]
pub(crate) struct Subscriber {
    heard: Arc<Mutex<Vec<Published>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Subscriber {
    /// Subscribes to patterns, and returns once the server has confirmed it.
    pub(crate) fn start(server: &Server, patterns: &[&str]) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (confirm, confirmed) = sync_channel(1);
        let mut connection = server.connection();
        let patterns: Vec<_> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let reader = std::thread::spawn({
            let (heard, stop) = (Arc::clone(&heard), Arc::clone(&stop));
            move || {
                let mut subscriber = connection.as_pubsub();
                subscriber.psubscribe(&patterns).expect("the server takes a subscription");
                // So that the reader looks at `stop` now and then.
                subscriber.set_read_timeout(Some(Duration::from_millis(100))).expect("a valid time-out");
                confirm.send(()).expect("the test waits");
                while !stop.load(Ordering::Relaxed) {
                    let message = match subscriber.get_message() {
                        Ok(message) => message,
                        Err(error) if error.is_timeout() => continue,
                        Err(error) => panic!("the subscriber lost its connection: {error}"),
                    };
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(Published {
                        channel: message.get_channel_name().as_bytes().to_vec(),
                        payload: message.get_payload_bytes().to_vec(),
                    });
                }
            }
        });
        confirmed.recv().expect("the subscription is confirmed");
        Self { heard, stop, reader: Some(reader) }
    }

    /// How much has been heard so far.
    pub(crate) fn count(&self) -> usize {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What has been heard so far, in order.
    pub(crate) fn heard(&self) -> Vec<Published> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let ended = reader.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the subscriber failed");
        }
    }
}
