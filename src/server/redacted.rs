//! Makes a server's text safe for an error, a log line or a status: the only place where text of a server enters.
//!
//! A server may be hostile, broken, or quote sent data. So its text is cut to a bound, cannot steer a terminal or forge
//! a log line, and contains none of the sent passwords. The last is a second barrier: if a text is known to quote sent
//! data (the handshake, an unknown command), nothing of it is passed on.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use memchr::memmem;

use crate::text::printable;

/// The longest error that a server sends by itself has some 200 characters.
const MAX_CHARACTERS: usize = 400;

/// Passwords that are remembered: more than a process has endpoints, with room for those that changed.
const MAX_SECRETS: usize = 256;

/// A shorter password is not cut out: many words contain it, and each cut would reveal it.
const LEAST_SECRET_BYTES: usize = 4;

/// The replacement of a password.
const CUT: &[u8] = b"(secret)";

static SECRETS: RwLock<VecDeque<Box<[u8]>>> = RwLock::new(VecDeque::new());

/// Remembers a password, so that it is cut out of a server's later texts.
pub(super) fn remember(secret: &str) {
    if secret.len() < LEAST_SECRET_BYTES {
        return;
    }
    let known = |all: &VecDeque<Box<[u8]>>| all.iter().any(|one| **one == *secret.as_bytes());
    if known(&SECRETS.read().unwrap_or_else(PoisonError::into_inner)) {
        return;
    }
    let mut all = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    if !known(&all) {
        if all.len() == MAX_SECRETS {
            all.pop_front();
        }
        all.push_back(secret.as_bytes().into());
    }
}

/// A server's text, to be shown to an operator.
#[must_use]
pub(crate) fn redacted(bytes: &[u8]) -> String {
    let all = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    let mut text = None;
    for secret in all.iter() {
        let before = text.as_deref().unwrap_or(bytes);
        if memmem::find(before, secret).is_some() {
            text = Some(without(before, secret));
        }
    }
    printable::bounded(text.as_deref().unwrap_or(bytes), MAX_CHARACTERS)
}

fn without(text: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    for found in memmem::find_iter(text, secret) {
        out.extend_from_slice(&text[at..found]);
        out.extend_from_slice(CUT);
        at = found + secret.len();
    }
    out.extend_from_slice(&text[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_cut_out_wherever_it_stands() {
        remember("hunter2\x1b#");
        remember("abc");
        assert_eq!(redacted(b"ERR 'hunter2\x1b#hunter2\x1b#' is wrong"), "ERR '(secret)(secret)' is wrong");
        assert_eq!(redacted(b"abc"), "abc", "too short to be cut out");
    }

    #[test]
    fn what_a_server_says_is_one_bounded_harmless_line() {
        let text = redacted(format!("ERR \u{1b}[31m\r\nforged {}", "x".repeat(1_000)).as_bytes());
        assert!(text.starts_with("ERR \\u{1b}[31m\\r\\nforged xxx"), "{text}");
        assert!(text.ends_with(" bytes)") && text.chars().count() < MAX_CHARACTERS + 50, "{text}");
    }
}
