//! `tidegate healthcheck`.
//!
//! A refused reload and an unreadable secret leave the daemon healthy, so they must not matter here.

use std::path::Path;

use crate::observe::client;

/// Asks `/healthz`.
pub(super) fn healthcheck(config: &Path) -> u8 {
    let listen = match super::listen(config) {
        Ok(listen) => listen,
        Err(code) => return code,
    };
    match client::get(listen.address, "/healthz") {
        Ok((200, _)) => super::OK,
        Ok((_, body)) => {
            super::tell_body(&body);
            super::FAILED
        }
        Err(error) => super::unreachable(&listen, &error).tell(),
    }
}
