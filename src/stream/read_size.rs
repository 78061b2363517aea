//! How many entries one read of a stream asks for: the number follows the size of the last reply.

/// Most entries of one read. Batches bound how many of them are applied at once.
const READ_ENTRIES: usize = 512;
/// Most bytes that one read should bring.
const READ_BYTES: usize = 1024 * 1024;

/// COUNT of the next read, after a read with `asked` brought `came` entries in `bytes`: less than `now` if the reply
/// was too large, more if it was small and full.
pub(crate) fn entries_of_next_read(now: usize, asked: usize, came: usize, bytes: usize) -> usize {
    if bytes > READ_BYTES {
        (asked / 2).max(1)
    } else if came == asked && bytes <= READ_BYTES / 2 {
        (asked * 2).min(READ_ENTRIES)
    } else {
        now
    }
}
