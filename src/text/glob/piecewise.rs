//! A pattern held against a name that comes in pieces, and is not held as a whole.
//!
//! What [`super::matches()`] finds by going back in the text is found here by following every place of the pattern that
//! the text so far can have led to. That costs a step for each of them and each byte, so it is for names that are too long
//! to be held, which are rare.
//!
//! Patterns of more than 1,000 `*`, which match nothing on a server, are longer than the configuration allows.

use super::element;

/// How far a name leads through a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piecewise {
    /// The possible places in the pattern, ascending.
    places: Vec<usize>,
    /// True if anything came: the empty name matches no `*`.
    begun: bool,
}

impl Piecewise {
    /// Nothing has come yet.
    #[must_use]
    pub fn new() -> Self {
        Self { places: vec![0], begun: false }
    }

    /// Takes in the next piece of the name.
    pub fn feed(&mut self, pattern: &[u8], piece: &[u8]) {
        let mut next = Vec::new();
        for byte in piece {
            self.begun = true;
            if self.places.iter().any(|place| is_rest(pattern, *place)) {
                // Whatever follows matches.
                return;
            }
            for place in behind_stars(pattern, &self.places) {
                match pattern.get(place) {
                    None => {}
                    Some(b'*') => next.push(place),
                    Some(_) => {
                        let element = element(&pattern[place..], *byte);
                        if element.matched {
                            next.push(place + element.length);
                        }
                    }
                }
            }
            next.sort_unstable();
            next.dedup();
            std::mem::swap(&mut self.places, &mut next);
            next.clear();
        }
    }

    /// Returns whether the name matches, if it ends here.
    #[must_use]
    pub fn matches(&self, pattern: &[u8]) -> bool {
        if !self.begun {
            return pattern.is_empty();
        }
        behind_stars(pattern, &self.places).any(|place| place == pattern.len())
    }
}

impl Default for Piecewise {
    fn default() -> Self {
        Self::new()
    }
}

/// These places, and those behind each `*` that may be empty.
fn behind_stars<'a>(pattern: &'a [u8], places: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    places.iter().flat_map(|place| {
        let stars = pattern[*place..].iter().take_while(|byte| **byte == b'*').count();
        *place..=*place + stars
    })
}

/// Returns whether only `*` follow, and at least one.
fn is_rest(pattern: &[u8], place: usize) -> bool {
    place < pattern.len() && pattern[place..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::glob;

    fn in_pieces(pattern: &[u8], text: &[u8], step: usize) -> bool {
        let mut walk = Piecewise::new();
        text.chunks(step).for_each(|piece| walk.feed(pattern, piece));
        walk.matches(pattern)
    }

    proptest! {
        #[test]
        fn pieces_match_as_the_whole_does(
            pattern in "[ab*?\\[\\]^\\\\-]{0,8}",
            text in "[ab*\\[-]{0,10}",
            step in 1..4_usize,
        ) {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(in_pieces(pattern, text, step), glob::matches(pattern, text));
        }
    }
}
