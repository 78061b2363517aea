//! Any bytes through the RESP reader, in any pieces: shared by the tests and the fuzz target.

use tidegate::server::resp::{Limits, Pushed, Reader};

/// Small, so that small inputs reach them.
pub(crate) const LIMITS: Limits = Limits { message: 4096, frame: 16 * 1024 };

/// The most that a reader with [`LIMITS`] may hold: names of 1 MiB beside the largest message, in a
/// buffer that grows by doubling.
const HELD_BYTES: usize = 4 * 1024 * 1024;

/// What a reader makes of bytes that come in pieces: each thing as text, and an error as the last.
/// Fails where it holds more than it may.
pub(crate) fn read(mut bytes: &[u8], mut piece: impl FnMut() -> usize) -> Vec<String> {
    let mut reader = Reader::new(LIMITS);
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let room = reader.room();
        assert!(!room.is_empty(), "there is always room");
        let count = piece().clamp(1, room.len()).min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        reader.filled(count);
        assert!(reader.held_bytes() <= HELD_BYTES, "{} bytes are held", reader.held_bytes());
        loop {
            match reader.next_pushed() {
                Ok(None) => break,
                Ok(Some(Pushed::Message(message))) => seen.push(format!("{message:?}")),
                Ok(Some(Pushed::Oversized(message, size))) => seen.push(format!("{size} {message:?}")),
                Ok(Some(Pushed::LongNamed(pattern, named))) => seen.push(format!("{pattern:?} {named:?}")),
                Ok(Some(Pushed::Other(value))) => seen.push(format!("{value:?}")),
                Err(_) => {
                    seen.push("an error".to_owned());
                    return seen;
                }
            }
        }
    }
    seen
}
