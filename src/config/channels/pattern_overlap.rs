//! Whether two patterns can match the same name.
//!
//! The loop check must know whether a channel that a broadcast may publish on can reach a capture's
//! pattern. Both sides are sets of names: a Redis pattern, a template (each variable can be
//! anything), or one name. So each is taken apart into [`PatternToken`]s, and the question becomes whether
//! two such rows can be walked together to their ends: at most tokens × tokens steps, whatever a
//! hostile pattern looks like.

use crate::text::template::{Part, Template};

/// A set of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<PatternToken>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum PatternToken {
    /// `*`: any bytes, also none.
    Star,
    /// One byte out of these.
    One(Bytes),
}

/// A set of bytes, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bytes([u128; 2]);

impl Bytes {
    const NONE: Self = Self([0; 2]);
    const ALL: Self = Self([u128::MAX; 2]);

    fn only(byte: u8) -> Self {
        let mut bytes = Self::NONE;
        bytes.add(byte);
        bytes
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 7)] |= 1 << (byte & 0x7f);
    }

    fn meets(self, other: Self) -> bool {
        self.0[0] & other.0[0] != 0 || self.0[1] & other.0[1] != 0
    }
}

impl Glob {
    /// A pattern as the server's PSUBSCRIBE reads it.
    pub(crate) fn parse(pattern: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            tokens.push(match (first, after) {
                (b'*', _) => PatternToken::Star,
                (b'?', _) => PatternToken::One(Bytes::ALL),
                (b'[', _) => {
                    let (bytes, after) = class(after);
                    rest = after;
                    PatternToken::One(bytes)
                }
                (b'\\', [escaped, after @ ..]) => {
                    rest = after;
                    PatternToken::One(Bytes::only(*escaped))
                }
                (byte, _) => PatternToken::One(Bytes::only(*byte)),
            });
        }
        Self(tokens)
    }

    /// One name.
    pub(crate) fn name(name: &[u8]) -> Self {
        Self(name.iter().map(|byte| PatternToken::One(Bytes::only(*byte))).collect())
    }

    /// What a template can make, as if each variable could be anything.
    pub(crate) fn template(template: &Template) -> Self {
        Self::of_entry(template, &Self(vec![PatternToken::Star]))
    }

    /// What a template can make of entries of these streams, as if each variable but `<stream>` could be anything.
    pub(crate) fn of_entry(template: &Template, streams: &Self) -> Self {
        let tokens = |part: &Part| match part {
            Part::Literal(text) => Self::name(text.as_bytes()).0,
            Part::Stream => streams.0.clone(),
            _ => vec![PatternToken::Star],
        };
        Self(template.parts().iter().flat_map(tokens).collect())
    }

    /// The names that begin with one of these and end with one of the others.
    pub(crate) fn then(mut self, end: Self) -> Self {
        self.0.extend(end.0);
        self
    }

    /// Number of `*`.
    pub(crate) fn stars(&self) -> usize {
        self.0.iter().filter(|token| **token == PatternToken::Star).count()
    }

    /// Returns whether some name is in both sets.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        // Most names differ before any star: each route is compared with each other one.
        let apart = |pair: (&PatternToken, &PatternToken)| match pair {
            (PatternToken::One(ours), PatternToken::One(theirs)) => Some(!ours.meets(*theirs)),
            _ => None,
        };
        let (ours, theirs) = (self.0.iter(), other.0.iter());
        if ours.zip(theirs).map_while(apart).any(|apart| apart) {
            return false;
        }
        // A class such as `[]` holds no byte, so nothing matches the pattern that it stands in.
        let nothing = |glob: &Self| glob.0.contains(&PatternToken::One(Bytes::NONE));
        if nothing(self) || nothing(other) {
            return false;
        }
        // `next[j]`: whether the rest of `self` behind this token and `other` from j on can be walked
        // to both ends. Filled from the ends backwards, one row for each token of `self`.
        let width = other.0.len();
        let mut next = vec![false; width + 1];
        for i in (0..=self.0.len()).rev() {
            let mut row = vec![false; width + 1];
            for j in (0..=width).rev() {
                row[j] = match (self.0.get(i), other.0.get(j)) {
                    (None, None) => true,
                    // A star takes nothing more, or one more byte of the other side.
                    (Some(PatternToken::Star), None) => next[j],
                    (None, Some(PatternToken::Star)) => row[j + 1],
                    (Some(PatternToken::Star), Some(_)) | (Some(_), Some(PatternToken::Star)) => {
                        next[j] || row[j + 1]
                    }
                    (Some(PatternToken::One(ours)), Some(PatternToken::One(theirs))) => {
                        ours.meets(*theirs) && next[j + 1]
                    }
                    (Some(PatternToken::One(_)), None) | (None, Some(PatternToken::One(_))) => false,
                };
            }
            next = row;
        }
        next[0]
    }
}

/// A class, from behind its `[`, and what follows it. The server is lenient: a class without its `]`
/// ends with the pattern, and a range may stand the wrong way round.
fn class(text: &[u8]) -> (Bytes, &[u8]) {
    let (negated, mut rest) = match text {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut bytes = Bytes::NONE;
    let mut uncertain = false;
    loop {
        match rest {
            [b'\\', escaped, after @ ..] => {
                bytes.add(*escaped);
                rest = after;
            }
            [] => break,
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [from, b'-', to, after @ ..] => {
                for byte in *from.min(to)..=*from.max(to) {
                    bytes.add(byte);
                }
                // The server compares signed bytes on some machines and unsigned ones on others.
                uncertain |= !from.is_ascii() || !to.is_ascii();
                rest = after;
            }
            [byte, after @ ..] => {
                bytes.add(*byte);
                rest = after;
            }
        }
    }
    if uncertain {
        return (Bytes::ALL, rest);
    }
    if negated {
        bytes = Bytes([!bytes.0[0], !bytes.0[1]]);
    }
    (bytes, rest)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// A second reading of the server's rules, byte by byte and without tokens.
    fn matches(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|at| matches(rest, &text[at..])),
            [b'?', rest @ ..] => !text.is_empty() && matches(rest, &text[1..]),
            [b'[', rest @ ..] => {
                let Some((first, after)) = text.split_first() else { return false };
                let (member, rest) = member(rest, *first);
                member && matches(rest, after)
            }
            [b'\\', escaped, rest @ ..] => text.first() == Some(escaped) && matches(rest, &text[1..]),
            [byte, rest @ ..] => text.first() == Some(byte) && matches(rest, &text[1..]),
        }
    }

    fn member(class: &[u8], byte: u8) -> (bool, &[u8]) {
        let not = class.first() == Some(&b'^');
        let mut at = usize::from(not);
        let mut found = false;
        while at < class.len() && class[at] != b']' {
            if class[at] == b'\\' && at + 1 < class.len() {
                found |= class[at + 1] == byte;
                at += 2;
            } else if at + 2 < class.len() && class[at + 1] == b'-' {
                let (a, b) = (class[at], class[at + 2]);
                found |= (a <= byte && byte <= b) || (b <= byte && byte <= a);
                at += 3;
            } else {
                found |= class[at] == byte;
                at += 1;
            }
        }
        (found != not, class.get(at + 1..).unwrap_or_default())
    }

    /// Every text of up to four letters, made once. That is long enough: two patterns of three bytes that meet
    /// at all meet in a text of at most four.
    static TEXTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let mut all = vec![Vec::new()];
        let mut last = all.clone();
        for _ in 0..4 {
            last = last
                .iter()
                .flat_map(|text| b"abc-^]\\*?[".iter().map(|byte| [text.as_slice(), &[*byte]].concat()))
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    });

    #[test]
    fn known_pairs() {
        for (a, b, expected) in [
            ("orders.*", "orders.eu", true),
            ("orders.*", "stock.*", false),
            ("*.eu", "orders.*", true),
            ("a*b*c", "*x*", true),
            ("h[ae]llo", "h?llo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[c-a]llo", "hbllo", true),
            ("\\*", "x", false),
            ("\\*", "*", true),
            ("", "*", true),
            ("", "?", false),
            ("[]", "*", false),
            ("[a", "a", true),
            ("*[", "*", false),
        ] {
            let (left, right) = (Glob::parse(a.as_bytes()), Glob::parse(b.as_bytes()));
            assert_eq!(left.overlaps(&right), expected, "{a} and {b}");
            assert_eq!(right.overlaps(&left), expected, "{b} and {a}");
        }
    }

    #[test]
    fn a_template_can_make_anything_between_its_literal_parts() {
        let template = Glob::template(&Template::parse("stock:<field:sku>:new").unwrap());
        assert!(template.overlaps(&Glob::name(b"stock:1:new")));
        assert!(template.overlaps(&Glob::parse(b"stock:*")));
        assert!(!template.overlaps(&Glob::name(b"stock:1:old")));
        let star = Glob::template(&Template::parse("a*").unwrap());
        assert!(!star.overlaps(&Glob::name(b"ab")), "a '*' of a template is no variable");
    }

    #[test]
    fn a_stream_in_a_template_is_one_of_those_that_are_read() {
        let template = Template::parse("to:<stream>:<field:sku>").unwrap();
        let channels = Glob::of_entry(&template, &Glob::parse(b"s[12]?"));
        assert!(channels.overlaps(&Glob::name(b"to:s1x:a")));
        assert!(!channels.overlaps(&Glob::name(b"to:s3x:a")));
        assert!(!channels.overlaps(&Glob::parse(b"to:t*")));
    }

    #[test]
    fn a_hostile_pair_ends_soon() {
        let pattern = Glob::parse("*a".repeat(500).as_bytes());
        assert!(!pattern.overlaps(&Glob::parse("*b".repeat(500).as_bytes())));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn overlap_is_a_common_text(a in "[abc*?\\[\\]^\\\\-]{0,3}", b in "[abc*?\\[\\]^\\\\-]{0,3}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            let common = TEXTS.iter().any(|text| matches(a, text) && matches(b, text));
            prop_assert_eq!(Glob::parse(a).overlaps(&Glob::parse(b)), common);
        }
    }
}
