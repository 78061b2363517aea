//! Ctrl-C of the commands that take long: the first asks to end in order, the second ends at once.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio_util::sync::CancellationToken;

/// A token that SIGINT and SIGTERM cancel.
///
/// # Errors
/// If the system refuses to hand over signals, or a thread.
pub(super) fn token() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let told = token.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in signals.forever() {
            if told.is_cancelled() {
                std::process::exit(i32::from(super::FAILED));
            }
            told.cancel();
        }
    })?;
    Ok(token)
}
