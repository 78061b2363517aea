//! Patterns are read as the server reads them: what it delivers to PSUBSCRIBE is what matches here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

mod support;

use support::{Server, Version};
use tidegate::text::glob;

/// Few bytes and many special ones, so that patterns and channels often nearly match.
const PATTERN: &[u8] = b"aab**?[]^-\\c";
const CHANNEL: &[u8] = b"aabc-]^\\\xc3";

fn random(from: &[u8], longest: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    (0..random.usize(0..=longest)).map(|_| from[random.usize(0..from.len())]).collect()
}

#[test]
fn patterns_match_what_psubscribe_delivers() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for version in Version::SOURCES {
        let server = Server::start(version);
        let (mut subscribed, mut publisher) = (server.connection(), server.connection());
        let patterns: Vec<_> = (0..1_500).map(|_| random(PATTERN, 9, &mut rng)).collect();
        let mut subscriber = subscribed.as_pubsub();
        for pattern in &patterns {
            subscriber.psubscribe(pattern.as_slice()).unwrap();
        }
        let mut distinct = patterns.clone();
        distinct.sort();
        distinct.dedup();
        let mut delivered = 0;
        for _ in 0..1_500 {
            let channel = random(CHANNEL, 6, &mut rng);
            let mut expected: Vec<_> =
                distinct.iter().filter(|pattern| glob::matches(pattern, &channel)).cloned().collect();
            let receivers: usize =
                redis::cmd("PUBLISH").arg(&channel).arg("x").query(&mut publisher).unwrap();
            let mut seen: Vec<Vec<u8>> =
                (0..receivers).map(|_| subscriber.get_message().unwrap().get_pattern().unwrap()).collect();
            seen.sort();
            expected.sort();
            let text = |patterns: &[Vec<u8>]| -> Vec<String> {
                patterns.iter().map(|pattern| pattern.escape_ascii().to_string()).collect()
            };
            assert_eq!(text(&seen), text(&expected), "{version}: channel '{}'", channel.escape_ascii());
            delivered += receivers;
        }
        assert!(delivered > 1_000, "the patterns hardly ever matched: {delivered}");
    }
}
