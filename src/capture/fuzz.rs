//! Any bytes as the content of a record of the spool: a batch that an earlier process wrote.

#![allow(clippy::unwrap_used, reason = "what cannot go on has found something")]

use std::time::Instant;

use super::batch::Batch;

/// Decoded numbers are calculated with, and the record is written again.
pub fn spool_record(input: &[u8]) {
    let now = Instant::now();
    let Ok(batch) = Batch::decode(input, now) else { return };
    let written = batch.encode();
    assert_eq!(Batch::decode(&written, now).unwrap().encode(), written);
    assert!(batch.items() <= input.len() && batch.item_arguments() <= 8 * input.len());
    assert!(batch.events.checked_mul(1_000).is_some() && batch.joint.lost().checked_mul(1_000).is_some());
    assert!(batch.last.ordinal.checked_add(1).is_some());
    let streams: usize = batch.streams().map(<[u8]>::len).sum();
    assert!(streams <= input.len() && batch.epochs().count() <= input.len());
    if let Some((first, second)) = batch.halves() {
        assert_eq!(first.items() + second.items(), batch.items());
        assert_eq!(first.body_bytes() + second.body_bytes(), batch.body_bytes());
    }
    let mut out = Vec::new();
    batch.write_items(&mut out);
    assert!(out.len() <= 8 * input.len() + 4096);
}
