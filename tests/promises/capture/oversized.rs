//! Promise: what is too large to be taken becomes a dead letter, whether it is the message or the name of its channel, in
//! both modes, and ends nothing.

use crate::support::{DeadLetter, Options, Server, Setup, Version, alert, dead_letters, entries};

/// The longest name that is taken.
const LONGEST: usize = 1 << 20;
const MODES: [&str; 2] = ["", "mode = \"replication\"\nprefer = \"master\"\n"];

/// With a backlog that is not short for messages as large as these.
fn source(version: Version) -> Server {
    Server::with(version, Options::replication_source())
}

fn setup(shop: &Server, events: &Server, lines: &str) -> Setup {
    Setup::between(shop, events)
        .routes(&format!(
            "[capture.orders]\nsource = \"shop\"\nchannels = [\"fine\"]\npatterns = [\"o*\", \"*x\"]\n\
             where = [{{ channel = true, prefix = \"o\" }}]\n{lines}destination = \"events\"\nstream = \"orders\"\n\
             keep = \"forever\"\nmax_message_size = \"1KiB\"\n"
        ))
        .expects(&[alert::DEAD_LETTER, alert::GAP])
}

/// Publishes, and says how long channel and message were.
fn publish(shop: &Server, channel: &[u8], payload: &[u8]) {
    let mut connection = shop.connection();
    redis::cmd("PUBLISH").arg(channel).arg(payload).exec(&mut connection).unwrap();
}

fn told(letter: &DeadLetter) -> (&str, usize, usize) {
    (letter.reason.as_str(), letter.channel.len(), letter.size.unwrap_or_default())
}

#[test]
fn a_channel_with_too_long_a_name_becomes_one_dead_letter() {
    for version in [Version::Redis62, Version::Redis82, Version::Valkey91] {
        for mode in MODES {
            let (shop, events) = (source(version), Server::start(Version::Redis70));
            let daemon = setup(&shop, &events, mode).start_ready();
            publish(&shop, b"orders", b"first");
            daemon.wait_settled("orders", 1);
            // Both patterns match, the first alone, the second alone, and none.
            let long = |first: u8, last: u8| [&[first], vec![b'n'; LONGEST].as_slice(), &[last]].concat();
            publish(&shop, &long(b'o', b'x'), b"small");
            publish(&shop, &long(b'o', b'n'), &[b'p'; 300_000]);
            publish(&shop, &long(b'n', b'x'), b"");
            publish(&shop, &long(b'n', b'n'), b"nobody's");
            publish(&shop, &vec![b'o'; LONGEST], b"the longest name that is taken");
            publish(&shop, b"orders", b"last");
            daemon.wait_settled("orders", 6);
            let letters = dead_letters(&events, "orders");
            let expected = [5, 300_000, 0].map(|size| ("channel_too_long", 1024, size));
            assert_eq!(letters.iter().map(told).collect::<Vec<_>>(), expected, "{version} {mode}");
            assert!(letters[0].detail.contains("1048578 bytes"), "{}", letters[0].detail);
            assert_eq!(entries(&events, "orders").len(), 3, "{version} {mode}");
            let status = daemon.route("orders").unwrap();
            assert_eq!(status.counts.unwrap().gaps, 0, "the session did not end");
        }
    }
}

/// Its payload comes in many parts.
#[test]
fn a_message_that_is_too_large_keeps_its_pattern_and_none_is_taken_from_the_control_channel() {
    for mode in MODES {
        let (shop, events) = (source(Version::Redis82), Server::start(Version::Redis70));
        let daemon = setup(&shop, &events, mode).start_ready();
        let large = vec![b'p'; 3 << 20];
        publish(&shop, b"tidegate:control", &large);
        publish(&shop, b"orders", &large);
        publish(&shop, b"fine", &large);
        publish(&shop, b"orders", b"last");
        daemon.wait_settled("orders", 3);
        let letters = entries(&events, "tidegate:orders:dead-letters");
        let field = |index: usize, name: &str| {
            let fields = &letters[index].1;
            fields.iter().find(|(field, _)| field == name.as_bytes()).map(|(_, value)| value.clone())
        };
        assert_eq!(letters.len(), 2, "{mode}");
        assert_eq!(
            (field(0, "channel"), field(0, "pattern")),
            (Some(b"orders".to_vec()), Some(b"o*".to_vec()))
        );
        assert_eq!((field(1, "channel"), field(1, "pattern")), (Some(b"fine".to_vec()), None));
    }
}
