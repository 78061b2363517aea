//! The documents say of the program what the program says of itself, and say it plainly.
//!
//! A table that is kept by hand drifts. So what can be compared is compared: log events, states, causes, options,
//! commands, alerts, dependencies, names of tests, links, examples and figures. `words` holds sentences and cells short;
//! `structure` holds the source without circles.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot continue panics")]

#[path = "docs/evidence.rs"]
mod evidence;
#[path = "docs/examples.rs"]
mod examples;
#[path = "docs/links.rs"]
mod links;
#[path = "docs/pages.rs"]
mod pages;
#[path = "docs/reference.rs"]
mod reference;
#[path = "docs/structure.rs"]
mod structure;
#[path = "docs/words.rs"]
mod words;
