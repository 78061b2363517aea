//! The RESP reader takes any bytes: pieces make no difference, memory is bounded, nothing panics.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

#[path = "support/resp.rs"]
mod resp;

use std::path::Path;

use proptest::prelude::*;

use resp::read;

fn pieces_make_no_difference(bytes: &[u8], cuts: &[usize]) {
    let whole = read(bytes, || usize::MAX);
    let mut cuts = cuts.iter().copied().cycle();
    assert_eq!(read(bytes, || cuts.next().unwrap()), whole, "{}", bytes.escape_ascii());
}

/// Inputs that once did, or might, do harm. New findings of the fuzzer go there.
#[test]
fn the_corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/resp");
    let mut files: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "the corpus is there: {}", files.len());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.is_empty(), "{}", file.display());
        for cuts in [&[1][..], &[2], &[7, 1], &[100, 3, 5000], &[65_536]] {
            pieces_make_no_difference(&bytes, cuts);
        }
    }
}

#[test]
fn hostile_inputs_of_the_corpus_are_refused() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/resp");
    for name in [
        "absurd-array-length",
        "absurd-bulk-length",
        "absurd-map-length",
        "channel-of-two-megabytes",
        "deep-nesting",
        "huge-array-of-nothing",
        "length-without-end",
        "line-without-end",
        "message-with-null",
        "no-resp",
    ] {
        let bytes = std::fs::read(directory.join(name)).unwrap();
        assert_eq!(read(&bytes, || usize::MAX).last().unwrap(), "an error", "{name}");
    }
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// Frames as a server sends them.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let leaf = prop_oneof![
        bytes().prop_map(|bytes| bulk(&bytes)),
        any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
        "[a-z]{0,20}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
        "[A-Z]{1,9} [a-z]{0,20}".prop_map(|text| format!("-{text}\r\n").into_bytes()),
        Just(b"_\r\n".to_vec()),
        Just(b"#t\r\n".to_vec()),
        Just(b"$-1\r\n".to_vec()),
    ];
    let value = leaf.prop_recursive(4, 24, 6, |inner| {
        (proptest::sample::select(vec!['*', '~', '>']), proptest::collection::vec(inner, 0..6)).prop_map(
            |(kind, elements)| {
                [format!("{kind}{}\r\n", elements.len()).into_bytes(), elements.concat()].concat()
            },
        )
    });
    let payload = prop_oneof![bytes(), proptest::collection::vec(any::<u8>(), 4000..6000)];
    let message =
        (proptest::option::of(bytes()), bytes(), payload).prop_map(|(pattern, channel, payload)| {
            let head = match pattern {
                None => b">3\r\n$7\r\nmessage\r\n".to_vec(),
                Some(pattern) => [b">4\r\n$8\r\npmessage\r\n".to_vec(), bulk(&pattern)].concat(),
            };
            [head, bulk(&channel), bulk(&payload)].concat()
        });
    prop_oneof![value, message]
}

/// Bytes that look like RESP often enough to get past the first check.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> = vec![
        b"\r\n",
        b"\r",
        b"\n",
        b"$",
        b"*",
        b">",
        b"%",
        b"+",
        b"-",
        b":",
        b"_",
        b"0",
        b"1",
        b"3",
        b"16777216",
        b"a",
        b">3\r\n$7\r\nmessage\r\n",
        b"*4\r\n$8\r\npmessage\r\n",
        b"$1\r\na\r\n",
        b"$5000\r\n",
    ];
    proptest::collection::vec(proptest::sample::select(words), 0..30).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn frames_in_any_pieces_are_the_same_frames(
        frames in proptest::collection::vec(frame(), 1..8),
        cuts in proptest::collection::vec(1usize..200, 1..20),
    ) {
        let bytes = frames.concat();
        let seen = read(&bytes, || usize::MAX);
        prop_assert_eq!(seen.len(), frames.len());
        prop_assert!(seen.last().is_some_and(|last| last != "an error"));
        pieces_make_no_difference(&bytes, &cuts);
    }

    #[test]
    fn noise_in_any_pieces_is_the_same_noise(
        bytes in noise(),
        cuts in proptest::collection::vec(1usize..20, 1..20),
    ) {
        pieces_make_no_difference(&bytes, &cuts);
    }
}
