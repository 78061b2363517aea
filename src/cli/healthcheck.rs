//! `tidegate healthcheck`.

use std::path::Path;

use crate::observe::client;

/// Asks `/healthz`.
pub(super) fn healthcheck(config: &Path) -> u8 {
    let loaded = match super::load(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match client::get(loaded.config.daemon.listen, "/healthz") {
        Ok((200, _)) => super::OK,
        Ok((_, body)) => {
            eprintln!("{}", body.trim_end());
            super::FAILED
        }
        Err(error) => {
            eprintln!("{error}");
            super::UNAVAILABLE
        }
    }
}
