//! The RESP reader over any bytes in any pieces: the first byte says how large the pieces are.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/resp.rs"]
mod resp;

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let whole = resp::read(bytes, || usize::MAX);
    assert_eq!(resp::read(bytes, || usize::from(piece) + 1), whole, "pieces make a difference");
});
