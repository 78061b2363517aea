//! The reader on bytes that come whole, in parts, and malformed.

use super::*;

fn feed(reader: &mut Reader, mut bytes: &[u8], step: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let room = reader.room();
        let count = room.len().min(step).min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        reader.filled(count);
        while let Some(pushed) = reader.next_pushed().unwrap() {
            seen.push(match pushed {
                Pushed::Message(m) => format!(
                    "{:?} {:?} {:?}",
                    m.channel.escape_ascii().to_string(),
                    m.pattern.map(|p| p.escape_ascii().to_string()),
                    m.payload.escape_ascii().to_string()
                ),
                Pushed::Oversized(m, size) => format!("over {size} {}", m.payload.len()),
                Pushed::LongNamed(pattern, named) => format!(
                    "long {} {:?} {} {}",
                    pattern.escape_ascii(),
                    named.pattern,
                    named.channel_size,
                    named.size
                ),
                Pushed::Other(value) => format!("{value:?}"),
            });
        }
    }
    seen
}

/// The next frame is a message like any other, and not a reply.
#[test]
fn the_answer_to_a_login_is_dropped_wherever_it_stands() {
    const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\np\r\n";
    const GREETING: &[u8] = b"%1\r\n$6\r\nserver\r\n$5\r\nredis\r\n";
    const REFUSAL: &[u8] = b"-NOPROTO unsupported protocol version\r\n";
    let (message, plain) = ("\"c\" None \"p\"", "Bytes([79, 75])");
    let answers: [(&[u8], bool); 4] = [
        (b"+OK\r\n", true),
        (b"-WRONGPASS invalid\r\n", false),
        (b"-ERR of a module\r\n", false),
        (b"", false),
    ];
    for (answer, accepted) in answers {
        for step in [1, 7, 4096] {
            let mut reader = Reader::new(Limits::default());
            reader.await_login();
            let ends = [MESSAGE, REFUSAL, MESSAGE, answer, MESSAGE, REFUSAL, MESSAGE].concat();
            // The owner asks for a greeting on both sides.
            let bytes = [b"+OK\r\n", GREETING, &ends, GREETING, b"+OK\r\n"].concat();
            let seen = feed(&mut reader, &bytes, step);
            assert_eq!((seen.len(), &*seen[0], &*seen[7]), (8, plain, plain));
            assert!(seen[1] == seen[6] && seen[1].starts_with("Array"), "{seen:?}");
            assert!(seen[2..6].iter().all(|one| one == message), "{seen:?}");
            assert_eq!((reader.take_login(), reader.take_login()), (Some(accepted), None));
            // An unannounced one is passed to the reader's owner.
            assert_eq!(feed(&mut reader, REFUSAL, step).len(), 1);
            assert_eq!(reader.take_login(), None);
        }
    }
    let mut reader = Reader::new(Limits::default());
    reader.await_login();
    assert_eq!(feed(&mut reader, b"-WRONGPASS no\r\n-ERR NOPROTO\r\n", 4096).len(), 2);
    assert_eq!(feed(&mut reader, REFUSAL, 4096).len(), 0);
    assert_eq!(reader.take_login(), None, "it is not answered before the second error");
}

#[test]
fn any_split_gives_the_same_frames() {
    let large = vec![b'x'; 5000];
    let mut bytes = b"+OK\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n".to_vec();
    bytes.extend_from_slice(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$4\r\n\r\n\0\xff\r\n");
    bytes.extend_from_slice(b"*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$12\r\nabcdefghijkl\r\n$0\r\n\r\n");
    bytes.extend_from_slice(b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5000\r\n");
    bytes.extend_from_slice(&large);
    bytes.extend_from_slice(b"\r\n:7\r\n%1\r\n+k\r\n*2\r\n_\r\n#t\r\n");
    let limits = Limits { message: 4096, frame: 4096 };
    let whole = feed(&mut Reader::new(limits), &bytes, usize::MAX);
    assert_eq!(whole.len(), 7);
    assert_eq!(whole[2], r#""a" None "\\r\\n\\x00\\xff""#);
    assert_eq!(whole[4], "over 5000 1024");
    for step in 1..40 {
        assert_eq!(feed(&mut Reader::new(limits), &bytes, step), whole, "step {step}");
    }
}

#[test]
fn a_name_over_the_limit_is_told_with_the_pattern_that_matches_first() {
    let name = vec![b'n'; CHANNEL_BYTES + 1];
    let large = vec![b'x'; 5000];
    let message = |pattern: &[u8], channel: &[u8], payload: &[u8]| {
        let bulk = |text: &[u8]| [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
        [b">4\r\n$8\r\npmessage\r\n".as_slice(), &bulk(pattern), &bulk(channel), &bulk(payload)].concat()
    };
    let bytes = [
        message(b"n*", &name, b"small"),
        message(b"*n", &name, b"small"),
        message(b"*", &name, &large),
        message(b"*", b"a", b"b"),
    ]
    .concat();
    for step in [1000, 4099, usize::MAX] {
        let mut reader = Reader::new(Limits { message: 1000, frame: 1000 });
        reader.set_patterns(&[b"m*".to_vec(), b"*n".to_vec(), b"n*".to_vec(), b"*".to_vec()]);
        let (first, last) = ("long n* Some(1) 1048577 5", "\"a\" Some(\"*\") \"b\"");
        let told = [first, "long *n Some(1) 1048577 5", "long * Some(1) 1048577 5000", last];
        assert_eq!(feed(&mut reader, &bytes, step), told);
        assert!(reader.held_bytes() <= 2 * BUFFER_BYTES, "the name is not held");
    }
}

#[test]
fn a_frame_over_the_limit_is_an_error_and_memory_stays_bounded() {
    let mut reader = Reader::new(Limits { message: 1000, frame: 1000 });
    let mut bytes = b"*2\r\n$100000000\r\n".to_vec();
    bytes.resize(1_000_000, b'x');
    let mut rest = bytes.as_slice();
    let error = loop {
        let room = reader.room();
        let count = room.len().min(rest.len());
        room[..count].copy_from_slice(&rest[..count]);
        rest = &rest[count..];
        reader.filled(count);
        match reader.next_pushed() {
            Ok(None) if !rest.is_empty() => {}
            other => break other.map(|_| ()).unwrap_err(),
        }
    };
    assert!(error.to_string().contains("larger than 1000"), "{error}");
    assert!(reader.held_bytes() <= 2 * BUFFER_BYTES);
}

#[test]
fn all_readers_together_hold_no_more_than_their_account() {
    // Begins a reply of 60 MiB, and gives as much of it as is taken.
    let begin = || -> (Reader, Result<(), ProtocolError>) {
        let mut reader = Reader::new(Limits::default());
        let header = b"$62914560\r\n";
        reader.room()[..header.len()].copy_from_slice(header);
        reader.filled(header.len());
        loop {
            if let Err(error) = reader.next_value() {
                return (reader, Err(error));
            }
            let room = reader.room().len();
            if reader.held_bytes() > 60 * 1024 * 1024 {
                return (reader, Ok(()));
            }
            reader.filled(room);
        }
    };
    let mut readers = Vec::new();
    let error = loop {
        let (reader, begun) = begin();
        readers.push(reader);
        if let Err(error) = begun {
            break error;
        }
    };
    assert!(error.to_string().contains("together"), "{error}");
    let held: usize = readers.iter().map(Reader::held_bytes).sum();
    assert!(readers.len() > 2 && held <= ALL_BYTES + readers.len() * 2 * NAMES_BYTES, "{held}");
    // A returned share is available to another reader.
    readers.clear();
    assert_eq!(begin().1, Ok(()));
}

#[test]
fn a_wide_buffer_is_as_wide_again_after_something_large() {
    const WIDE: usize = 4 * BUFFER_BYTES;
    let mut reader = Reader::new(Limits::default());
    let begun = b"$9000000\r\n";
    reader.room()[..begun.len()].copy_from_slice(begun);
    reader.filled(begun.len());
    reader.widen(WIDE);
    assert_eq!(reader.unread(), begun, "what had come is still there");
    while reader.held_bytes() <= SHRINK_BYTES {
        let room = reader.room().len();
        reader.filled(room);
    }
    reader.take(reader.unread().len());
    assert_eq!((reader.room().len(), reader.held_bytes()), (WIDE, WIDE));
}

#[test]
fn absurd_and_malformed_is_refused() {
    for bytes in [
        b"$99999999999999999999\r\n".as_slice(),
        b"*-2\r\n",
        b"hello\r\n",
        b":1x\r\n",
        b"$1\r\nab\r\n",
        b">3\r\n$7\r\nmessage\r\n:1\r\n",
        b">3\r\n$7\r\nmessage\r\n$99999999\r\n",
        b"+a\rb\n",
    ] {
        let mut reader = Reader::new(Limits::default());
        reader.room()[..bytes.len()].copy_from_slice(bytes);
        reader.filled(bytes.len());
        assert!(reader.next_pushed().is_err(), "{}", bytes.escape_ascii());
    }
}
