//! A number with its noun.

/// `1 entry`, `2 entries`, `0 keys`.
pub(crate) fn of(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        // `key` has a vowel before its end.
        (_, Some(stem)) if !stem.ends_with('e') => format!("{count} {stem}ies"),
        _ => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_many() {
        let words = [of(1, "entry"), of(2, "entry"), of(0, "key"), of(1, "load")];
        assert_eq!(words, ["1 entry", "2 entries", "0 keys", "1 load"]);
    }
}
