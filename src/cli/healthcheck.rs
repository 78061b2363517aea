//! `tidegate healthcheck`.
//!
//! A refused reload and an unreadable secret leave the daemon healthy, so they must not matter here.

use std::path::Path;

use super::Refusal;
use super::output::tell;
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
            tell!("{}", body.trim_end());
            super::FAILED
        }
        Err(error) => {
            let Refusal(code, text) = super::unreachable(&listen, &error);
            tell!("{text}");
            code
        }
    }
}
