//! The ideal client of an invalidation: what removing the keys of a stream's entries would cost that had nothing to decide.
//!
//! It calls the daemon's own script. It finds keys by counting bytes, takes no template, collects nothing, has no second
//! pass and looks at nothing but the replies.

use std::io::{Read, Write};

use crate::ideal_stream::{IdealStream, Sender, line};
use crate::support::Server;

const SCRIPT: &str = include_str!("../../src/invalidate/cursor/clear.lua");
/// The stream, as the route and the ideal client read it.
pub(crate) const STREAM: &str = "changes";
/// The cursor that the script moves.
pub(crate) const CURSOR: &str = "cursor";
/// Entries in one call, as the daemon's.
const BATCH: usize = 128;
const IN_FLIGHT: usize = 4;
/// Where the key begins in a payload `{"sku":"…"}`, and how many bytes are behind it.
const AROUND: (usize, usize) = (8, 2);
/// What the script is told besides: no counts, no marks, no clear, no gap, and no key with a version.
const NOTHING_ELSE: [&str; 8] = ["", "", "", "", "", "", "", "0"];

/// Reads the stream from its beginning, and removes the keys that come.
pub(crate) fn start(events: &Server, cache: &Server) -> IdealStream {
    let hash: String = cache.ask(&["SCRIPT", "LOAD", SCRIPT]);
    cache.ask::<()>(&["HSET", CURSOR, "revision", "r", "pos", "0-0"]);
    // `*8 :1 $… last :cleared :refused $… time $0 :written :kept`
    let take_answer = |replies: &mut _, first: &str| {
        assert_eq!(first, "*8", "the script refuses a batch of the ideal client");
        assert_eq!(line(replies), ":1", "the script refuses a batch of the ideal client");
        (0..10).for_each(|_| drop(line(replies)));
    };
    IdealStream::start((events, cache), IN_FLIGHT, move |sender| remove(sender, &hash), take_answer)
}

fn remove(sender: Sender, hash: &str) {
    let mut place = "0-0".to_owned();
    let (mut keys, mut leases) = (Vec::new(), Vec::new());
    sender.run(STREAM, 4 * BATCH, |id, (entries, size), left| {
        let mut payload = vec![0; size + 2];
        entries.read_exact(&mut payload).expect("the payload comes");
        let sku = &payload[AROUND.0..size - AROUND.1];
        keys.push([b"product:", sku].concat());
        leases.push([b"product:", sku, b":tidegate"].concat());
        (keys.len() == BATCH || left == 0).then(|| {
            let call = call(hash, &mut keys, &mut leases, (&place, id));
            id.clone_into(&mut place);
            call
        })
    });
}

/// A call as the daemon makes it.
fn call(hash: &str, keys: &mut Vec<Vec<u8>>, leases: &mut Vec<Vec<u8>>, place: (&str, &str)) -> Vec<u8> {
    let (names, count) = ((1 + 2 * keys.len()).to_string(), keys.len().to_string());
    let mut words: Vec<Vec<u8>> = Vec::with_capacity(2 * keys.len() + 14);
    let text = |words: &mut Vec<Vec<u8>>, some: &[&str]| {
        words.extend(some.iter().map(|word| word.as_bytes().to_vec()));
    };
    text(&mut words, &["EVALSHA", hash, &names, CURSOR]);
    words.append(keys);
    words.append(leases);
    text(&mut words, &["r", "pos", place.0, place.1, &count]);
    text(&mut words, &NOTHING_ELSE);
    let mut call = Vec::with_capacity(words.len() * 40);
    write!(call, "*{}\r\n", words.len()).expect("a Vec takes everything");
    for word in words {
        write!(call, "${}\r\n", word.len()).expect("a Vec takes everything");
        call.extend_from_slice(&word);
        call.extend_from_slice(b"\r\n");
    }
    call
}
