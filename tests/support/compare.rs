//! Published against captured.
//!
//! Two promises, two comparisons. *Exact*: byte for byte, in order. *Accounted*: the captured messages are
//! a subsequence, none twice; every run of missing ones lies between two neighbours of the stream whose
//! positions a gap record spans; and a gap excuses only what was never received: what `/status` called
//! received is in the stream, or in the number that a gap record says was dropped.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::oracle::Published;
use super::seen::Seen;
use super::stream::{Captured, Gap};

/// Where two sequences first differ, for a reader; none where they are equal.
pub(crate) fn difference(expected: &[Published], captured: &[Captured]) -> Option<String> {
    let at = expected.iter().zip(captured).take_while(|(left, right)| **left == right.message).count();
    if at == expected.len() && at == captured.len() {
        return None;
    }
    let mut report = format!(
        "{} published, {} captured, first difference at number {at}:\n",
        expected.len(),
        captured.len()
    );
    for number in at.saturating_sub(2)..at + 3 {
        let mark = if number == at { ">" } else { " " };
        let left = expected.get(number).map_or_else(|| "(end)".to_owned(), show);
        let right = captured.get(number).map_or_else(|| "(end)".to_owned(), |entry| show(&entry.message));
        writeln!(report, "{mark} {number}: published {left}\n  {number}: captured  {right}")
            .expect("a String takes everything");
    }
    Some(report)
}

/// Fails unless the captured messages are exactly the published ones.
#[track_caller]
pub(crate) fn assert_exact(expected: &[Published], captured: &[Captured]) {
    assert!(!expected.is_empty(), "a comparison with nothing proves nothing");
    assert_positions_ascend(captured);
    if let Some(report) = difference(expected, captured) {
        panic!("{report}");
    }
}

/// Fails unless each captured message was published, in that order and none twice, and every missing
/// one lies inside a recorded gap. Gives the number of missing ones. Payloads must be unique.
#[track_caller]
pub(crate) fn assert_nothing_lost_outside_gaps(
    expected: &[Published],
    captured: &[Captured],
    gaps: &[Gap],
) -> usize {
    let numbers = numbers_of(expected, captured, gaps);
    expected.len() - numbers.len()
}

/// The comparison for every test with gaps: [`assert_nothing_lost_outside_gaps`], and all that `/status`
/// called received while `seen` was recorded is captured, filtered, rejected, or counted as dropped in a
/// gap record; each gap has one of the expected causes. Gives the number of missing messages.
#[track_caller]
pub(crate) fn assert_accounted(
    expected: &[Published],
    captured: &[Captured],
    gaps: &[Gap],
    seen: &[Seen],
    causes: &[&str],
) -> usize {
    let numbers = numbers_of(expected, captured, gaps);
    for gap in gaps {
        assert!(causes.contains(&gap.cause.as_str()), "the cause is one of {causes:?}: {gaps:#?}");
    }
    let dropped: u64 = gaps.iter().map(|gap| gap.dropped).sum();
    let sightings = seen.iter().flat_map(Seen::sightings);
    for sighting in sightings {
        assert!(
            sighting.recorded() <= dropped,
            "what is dropped stands in a gap record: {sighting:?}\n{gaps:#?}"
        );
        let published = sighting.published.map_or(expected.len(), |count| count.min(expected.len()));
        // Numbers ascend.
        let captured = numbers.partition_point(|number| *number < published) as u64;
        let elsewhere = seen.iter().map(Seen::elsewhere).max().unwrap_or_default();
        let accounted = captured + elsewhere + dropped;
        let vouched = sighting.vouched();
        assert!(
            vouched <= accounted,
            "{vouched} of the first {published} messages were received, and {accounted} are accounted for: \
             {captured} captured, {elsewhere} filtered or rejected, {dropped} dropped inside gaps\n\
             {sighting:?}\n{gaps:#?}"
        );
    }
    expected.len() - numbers.len()
}

/// The number, in the published order, of each captured message; fails as
/// [`assert_nothing_lost_outside_gaps`] says.
#[track_caller]
fn numbers_of(expected: &[Published], captured: &[Captured], gaps: &[Gap]) -> Vec<usize> {
    assert!(!captured.is_empty(), "a comparison with nothing proves nothing");
    assert_positions_ascend(captured);
    assert_gaps_are_sound(captured, gaps);

    let mut numbers: HashMap<(&[u8], &[u8]), usize> = HashMap::with_capacity(expected.len());
    for (number, message) in expected.iter().enumerate() {
        let earlier = numbers.insert((&message.channel, &message.payload), number);
        assert_eq!(earlier, None, "the test's payloads are not unique: {}", show(message));
    }
    let number_of = |entry: &Captured| -> usize {
        let key = (entry.message.channel.as_slice(), entry.message.payload.as_slice());
        *numbers.get(&key).unwrap_or_else(|| panic!("captured but never published: {}", show(&entry.message)))
    };

    let mut found = Vec::with_capacity(captured.len());
    let mut next = 0;
    let mut last_position = String::new();
    for entry in captured {
        let number = number_of(entry);
        assert!(
            number >= next,
            "number {number} stands after number {}: {}",
            next - 1,
            if number + 1 == next { "captured twice" } else { "twice or out of order" },
        );
        let position = entry.position.clone().expect("the route includes positions");
        if number > next {
            assert_inside_gap(&expected[next..number], &last_position, Some(&position), gaps);
        }
        found.push(number);
        next = number + 1;
        last_position = position;
    }
    if next < expected.len() {
        assert_inside_gap(&expected[next..], &last_position, None, gaps);
    }
    found
}

/// A run of missing messages lies between neighbours at `before` and `after`: some record must begin
/// at or after the one and end at or before the other, since anchors count as items too.
#[track_caller]
fn assert_inside_gap(missing: &[Published], before: &str, after: Option<&str>, gaps: &[Gap]) {
    let inside = gaps
        .iter()
        .any(|gap| before <= gap.from.as_str() && after.is_none_or(|after| gap.to.as_str() <= after));
    assert!(
        inside,
        "{} messages are missing between {before:?} and {after:?}, outside every gap record.\nThe first: {}\n{gaps:#?}",
        missing.len(),
        show(&missing[0]),
    );
}

/// Records are intervals in order, and no captured entry stands inside one.
#[track_caller]
fn assert_gaps_are_sound(captured: &[Captured], gaps: &[Gap]) {
    for gap in gaps {
        assert!(gap.from < gap.to, "a gap ends after it begins: {gap:?}");
        assert!(gap.started_at <= gap.ended_at, "a gap ends after it begins: {gap:?}");
        let within = captured.iter().find(|entry| {
            let position = entry.position.as_deref().unwrap_or_default();
            gap.from.as_str() < position && position < gap.to.as_str()
        });
        assert_eq!(within, None, "an entry stands inside {gap:?}");
    }
    for pair in gaps.windows(2) {
        assert!(pair[0].to <= pair[1].from, "gap records are in order and apart: {pair:?}");
    }
}

#[track_caller]
fn assert_positions_ascend(captured: &[Captured]) {
    for pair in captured.windows(2) {
        if let (Some(left), Some(right)) = (&pair[0].position, &pair[1].position) {
            assert!(left < right, "positions ascend strictly: {left} before {right}");
        }
    }
}

/// A message for a reader, shortened.
fn show(message: &Published) -> String {
    let shown = message.payload.len().min(60);
    let more = message.payload.len() - shown;
    let rest = if more == 0 { String::new() } else { format!(" and {more} bytes more") };
    format!("{}: \"{}\"{rest}", message.channel.escape_ascii(), message.payload[..shown].escape_ascii())
}
