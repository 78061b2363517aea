//! `tidegate healthcheck`.

use std::path::Path;

use super::output::tell;
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
            tell!("{}", body.trim_end());
            super::FAILED
        }
        Err(error) => {
            tell!("{error}");
            super::UNAVAILABLE
        }
    }
}
