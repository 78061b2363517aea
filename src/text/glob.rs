//! Channel patterns, matched exactly as the server matches them.
//!
//! Problem: tidegate must say what each `*` of a pattern stood for (stream templates), and must find
//! the channels that a pattern covers where the server does not do it (loops between routes). Both
//! are only right when every odd pattern means here what it means to `PSUBSCRIBE`.
//!
//! Constraints: patterns and channels are any bytes; a hostile pattern must not cost more than the
//! product of both lengths; no allocation, as this runs for every message of a templated route.
//!
//! Operation: one walk from left to right that remembers only the latest `*`. Where the rest does not
//! fit, that `*` takes one byte more. An earlier `*` need never be widened: a longer match for it
//! would ask the rest to fit further right, which the latest `*` has already tried. So every `*` gets
//! the shortest text it can, counted from the left, as in the server's own walk.
//!
//! The server's ways, kept on purpose:
//! - the empty channel matches only the empty pattern, so not `*`;
//! - `\` quotes the next byte, and stands for itself at the end;
//! - a class that is not closed ends with the pattern; `[^` alone is any byte, `[` alone none;
//! - in a class `-` makes a range wherever two bytes follow, even where the second is `]`; a reversed
//!   range is turned round; `^` negates only as the first byte;
//! - a range compares bytes as signed numbers, as servers do on x86-64. On ARM they are unsigned there,
//!   which differs only for ranges that reach beyond ASCII;
//! - a pattern that needs more than 1,000 `*` before its last part matches nothing (servers since 2024).

pub mod piecewise;

use std::ops::Range;

/// How many `*` a template can name: `<1>` to `<9>`.
const NAMED_WILDCARDS: usize = 9;

/// How many `*` the server follows before it gives a pattern up as abusive.
const MAX_NESTED_WILDCARDS: usize = 1000;

/// The matches of the first nine `*` of a pattern. Reused from call to call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captures {
    ranges: [Range<usize>; NAMED_WILDCARDS],
    count: usize,
}

impl Captures {
    /// The match of the `*` with this number, counted from 1, as a part of the text given to [`captures`]; `None` if
    /// the pattern has no such `*`.
    #[must_use]
    pub fn get<'t>(&self, number: u8, text: &'t [u8]) -> Option<&'t [u8]> {
        let index = usize::from(number).checked_sub(1).filter(|index| *index < self.count)?;
        text.get(self.ranges.get(index)?.clone())
    }

    /// Notes the match of a `*`, and forgets those behind it: they belong to an abandoned walk.
    fn note(&mut self, index: usize, range: Range<usize>) {
        if let Some(slot) = self.ranges.get_mut(index) {
            *slot = range;
            self.count = index + 1;
        }
    }
}

/// Returns whether the server would deliver a message on the channel `text` to a subscriber of `pattern`.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    walk(pattern, text, &mut |_, _| {})
}

/// As [`matches()`], and stores the match of each `*`. Of several `*` side by side the first takes everything and the
/// others nothing. If it returns `false`, `captures` is undefined.
pub fn captures(pattern: &[u8], text: &[u8], captures: &mut Captures) -> bool {
    captures.count = 0;
    walk(pattern, text, &mut |index, range| captures.note(index, range))
}

/// A pattern that only this text matches.
#[must_use]
pub fn literal(text: &[u8]) -> Vec<u8> {
    let escapes = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\');
    text.iter().flat_map(|byte| escapes(byte).then_some(b'\\').into_iter().chain([*byte])).collect()
}

/// How many `*` of a pattern are wildcards, and so how far `<1>`, `<2>`… may count.
#[must_use]
pub fn wildcards(pattern: &[u8]) -> usize {
    let mut count = 0;
    let mut rest = pattern;
    while let Some(first) = rest.first() {
        if *first == b'*' {
            count += 1;
            rest = &rest[1..];
        } else {
            // The byte compared does not matter: only the element's length is asked for.
            rest = &rest[element(rest, 0).length..];
        }
    }
    count
}

/// The latest run of `*`, which is widened where the rest of the pattern does not fit.
struct Star {
    /// The number of the run's first `*`, counted from 0.
    index: usize,
    /// How many `*` the pattern has up to the end of the run.
    seen: usize,
    /// The next place in the pattern.
    pattern_at: usize,
    /// The range of its match so far.
    matched: Range<usize>,
}

fn walk(pattern: &[u8], text: &[u8], note: &mut impl FnMut(usize, Range<usize>)) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut pattern_at, mut text_at) = (0, 0);
    let mut seen = 0;
    let mut depth = 0;
    let mut latest: Option<Star> = None;
    while let Some(byte) = text.get(text_at) {
        let rest = &pattern[pattern_at..];
        let run = rest.iter().take_while(|byte| **byte == b'*').count();
        if run > 0 {
            let last = run == rest.len();
            let matched = text_at..if last { text.len() } else { text_at };
            note(seen, matched.clone());
            (seen + 1..seen + run).for_each(|index| note(index, matched.end..matched.end));
            if last {
                return true;
            }
            depth += 1;
            if depth > MAX_NESTED_WILDCARDS {
                return false;
            }
            pattern_at += run;
            latest = Some(Star { index: seen, seen: seen + run, pattern_at, matched });
            seen += run;
            continue;
        }
        if !rest.is_empty() {
            let element = element(rest, *byte);
            if element.matched {
                pattern_at += element.length;
                text_at += 1;
                continue;
            }
        }
        let Some(star) = latest.as_mut() else { return false };
        star.matched.end += 1;
        let end = star.matched.end;
        note(star.index, star.matched.clone());
        (star.index + 1..star.seen).for_each(|index| note(index, end..end));
        (pattern_at, text_at, seen) = (star.pattern_at, end, star.seen);
    }
    while pattern.get(pattern_at) == Some(&b'*') {
        note(seen, text_at..text_at);
        seen += 1;
        pattern_at += 1;
    }
    pattern_at == pattern.len()
}

/// One element of a pattern other than `*`, held against one byte.
struct Element {
    matched: bool,
    /// Bytes of the pattern.
    length: usize,
}

/// Holds the element that a non-empty pattern begins with against one byte.
fn element(pattern: &[u8], byte: u8) -> Element {
    match *pattern {
        [b'?', ..] => Element { matched: true, length: 1 },
        [b'[', ref class @ ..] => {
            let inner = self::class(class, byte);
            Element { matched: inner.matched, length: inner.length + 1 }
        }
        [b'\\', quoted, ..] => Element { matched: quoted == byte, length: 2 },
        [literal, ..] => Element { matched: literal == byte, length: 1 },
        [] => Element { matched: false, length: 0 },
    }
}

/// A class, from behind its `[`.
fn class(class: &[u8], byte: u8) -> Element {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match class[at..] {
            [] => break,
            [b'\\', quoted, ..] => {
                found |= quoted == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [start, b'-', end, ..] => {
                let (start, end) = (start.cast_signed(), end.cast_signed());
                found |= (start.min(end)..=start.max(end)).contains(&byte.cast_signed());
                at += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
    Element { matched: found != negated, length: at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn captured(pattern: &str, text: &str) -> Option<Vec<String>> {
        let mut found = Captures::default();
        captures(pattern.as_bytes(), text.as_bytes(), &mut found).then(|| {
            (1..=9)
                .map_while(|number| found.get(number, text.as_bytes()))
                .map(|part| String::from_utf8(part.to_vec()).unwrap())
                .collect()
        })
    }

    #[test]
    fn the_servers_ways() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", false),
            ("", "a", false),
            ("*", "a", true),
            ("a*", "a", true),
            ("a**", "a", true),
            ("a*b*", "ab", true),
            ("a?c", "abc", true),
            ("a?", "a", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("[a-c]", "b", true),
            ("[c-a]", "b", true),
            ("[a-c]", "d", false),
            ("[", "a", false),
            ("[", "[", false),
            ("[^", "a", true),
            ("[^", "ab", false),
            ("[a", "a", true),
            ("[a-", "-", true),
            ("[a-]", "]", true),
            ("[a-]", "-", false),
            ("[]", "a", false),
            ("[]a]", "a]", false),
            ("[\\]]", "]", true),
            ("[\\", "\\", true),
            ("[a^]", "^", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("A", "a", false),
            ("news.*", "news.", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn ranges_compare_signed_bytes() {
        assert!(matches(b"[\x01-\xff]", b"\x00"));
        assert!(!matches(b"[\x01-\xff]", b"a"));
        assert!(matches(b"[\x80-\xff]", b"\xc3"));
    }

    #[test]
    fn a_wildcard_takes_the_shortest_text_that_fits() {
        assert_eq!(captured("orders.*.*", "orders.eu.new.x"), Some(vec!["eu".into(), "new.x".into()]));
        assert_eq!(captured("*ab*", "xababy"), Some(vec!["x".into(), "aby".into()]));
        assert_eq!(captured("a**c", "abc"), Some(vec!["b".into(), String::new()]));
        assert_eq!(captured("a**", "abc"), Some(vec!["bc".into(), String::new()]));
        assert_eq!(captured("a*b*", "ab"), Some(vec![String::new(), String::new()]));
        assert_eq!(captured("\\*[*]x*", "**xy"), Some(vec!["y".into()]));
        assert_eq!(captured("a", "a"), Some(vec![]));
        assert_eq!(captured("a*", "b"), None);
    }

    #[test]
    fn wildcards_are_counted_where_they_are_wild() {
        assert_eq!(wildcards(b"a*b**"), 3);
        assert_eq!(wildcards(b"\\*[*]?["), 0);
        assert_eq!(wildcards(b"[^a*"), 0);
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let text = vec![b'a'; 4096];
        let mut pattern = b"a*".repeat(900);
        pattern.push(b'b');
        assert!(!matches(&pattern, &text));
    }

    #[test]
    fn a_thousand_wildcards_are_followed_and_no_more() {
        let text = vec![b'a'; 1200];
        let pattern = |count: usize| {
            let mut pattern = b"*a".repeat(count);
            pattern.push(b'*');
            pattern
        };
        assert!(matches(&pattern(1000), &text));
        assert!(!matches(&pattern(1001), &text));
    }

    /// The same rules said in another way: the pattern becomes a list of sets, and every split is tried.
    mod naive {
        pub(crate) enum GlobItem {
            Any,
            OneOf(Vec<u8>),
        }

        pub(crate) fn parse(pattern: &[u8]) -> Vec<GlobItem> {
            let mut items = Vec::new();
            let mut input = pattern.iter().copied().collect::<std::collections::VecDeque<u8>>();
            while let Some(byte) = input.pop_front() {
                items.push(match byte {
                    b'*' => GlobItem::Any,
                    b'?' => GlobItem::OneOf((0..=255).collect()),
                    b'\\' => GlobItem::OneOf(vec![input.pop_front().unwrap_or(b'\\')]),
                    b'[' => {
                        let negated = input.front() == Some(&b'^');
                        if negated {
                            input.pop_front();
                        }
                        let mut set = Vec::new();
                        while let Some(byte) = input.pop_front() {
                            if byte == b']' {
                                break;
                            } else if byte == b'\\' && !input.is_empty() {
                                set.extend(input.pop_front());
                            } else if input.len() >= 2 && input[0] == b'-' {
                                input.pop_front();
                                let other = input.pop_front().unwrap();
                                let signed = |byte: u8| i16::from(i8::from_ne_bytes([byte]));
                                set.extend((0..=255).filter(|candidate| {
                                    let value = signed(*candidate);
                                    (signed(byte) <= value && value <= signed(other))
                                        || (signed(other) <= value && value <= signed(byte))
                                }));
                            } else {
                                set.push(byte);
                            }
                        }
                        if negated {
                            set = (0..=255).filter(|byte| !set.contains(byte)).collect();
                        }
                        GlobItem::OneOf(set)
                    }
                    literal => GlobItem::OneOf(vec![literal]),
                });
            }
            items
        }

        pub(crate) fn fits(items: &[GlobItem], text: &[u8]) -> bool {
            match items {
                [] => text.is_empty(),
                [GlobItem::Any, rest @ ..] => (0..=text.len()).any(|length| fits(rest, &text[length..])),
                [GlobItem::OneOf(set), rest @ ..] => {
                    text.first().is_some_and(|byte| set.contains(byte)) && fits(rest, &text[1..])
                }
            }
        }
    }

    fn bytes(alphabet: &'static [u8], longest: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(proptest::sample::select(alphabet), 0..longest)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn agrees_with_the_naive_matcher(
            pattern in bytes(b"aab**?[]^-\\\xc3\x00", 10),
            text in bytes(b"aab-]\\\xc3\x00", 7),
        ) {
            let expected = if text.is_empty() {
                pattern.is_empty()
            } else {
                naive::fits(&naive::parse(&pattern), &text)
            };
            prop_assert_eq!(matches(&pattern, &text), expected);
        }

        #[test]
        fn what_is_captured_makes_the_text_again(
            pattern in bytes(b"ab***", 9),
            text in bytes(b"aabb", 9),
        ) {
            let mut found = Captures::default();
            if captures(&pattern, &text, &mut found) {
                prop_assert_eq!(found.count, wildcards(&pattern));
                let mut made = Vec::new();
                let mut number = 0;
                for byte in &pattern {
                    if *byte == b'*' {
                        number += 1;
                        made.extend_from_slice(found.get(number, &text).unwrap());
                    } else {
                        made.push(*byte);
                    }
                }
                prop_assert_eq!(made, text);
            }
        }
    }
}
