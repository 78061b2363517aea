//! What is wrong with a configuration, said to the operator who wrote it.
//!
//! An operator who is told one error a run needs as many runs as errors, at night. So nothing here
//! stops at the first: each check adds what it found, and all of it is printed together, in the
//! order of the files, each with its place, its key, what was expected and the likely remedy.
//! A value is quoted only by checks that know it to be no secret, and an address without its password, wherever it was
//! written.

use std::fmt;

use crate::text::printable::PrintableLines;
use crate::text::userinfo::without_userinfo;

/// Where in the tree a value stands, such as `capture.orders.stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(Vec<String>);

impl Key {
    /// A key of the outermost table.
    pub(crate) fn top(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// The key below this one.
    pub(crate) fn at(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(name.to_owned());
        Self(parts)
    }

    /// The parts, outermost first.
    pub(crate) fn parts(&self) -> &[String] {
        &self.0
    }

    /// The key above this one; none above the outermost.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        Some(Self(above.to_vec()))
    }
}

impl From<Vec<String>> for Key {
    fn from(parts: Vec<String>) -> Self {
        Self(parts)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, part) in self.0.iter().enumerate() {
            match depth {
                0 => f.write_str(part)?,
                // Names of routes may be numbers; below them, a number is a place in a list.
                3.. if part.bytes().all(|byte| byte.is_ascii_digit()) => write!(f, "[{part}]")?,
                _ => write!(f, ".{part}")?,
            }
        }
        Ok(())
    }
}

/// Where a value was written. Ordered as the layers are read, then by line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ValuePlace {
    /// Which layer: 0 is the main file.
    pub(crate) layer: usize,
    /// Line in a file, counted from 1, if it is known.
    pub(crate) line: Option<usize>,
    /// The file, the environment variable or the command line.
    pub(crate) name: String,
}

impl fmt::Display for ValuePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    place: ValuePlace,
    key: Key,
    message: PrintableLines,
    help: Option<String>,
}

impl Problem {
    pub(crate) fn new(place: ValuePlace, key: Key, message: impl Into<PrintableLines>) -> Self {
        Self { place, key, message: message.into(), help: None }
    }

    /// Adds what the operator can do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn lines(&self) -> PrintableLines {
        let mut lines = PrintableLines::default();
        let mut push = |line: String| lines.push(without_userinfo(&line));
        let mut message = self.message.iter();
        let first = message.next().unwrap_or_default();
        if self.key.parts().is_empty() {
            push(format!("{}: {first}", self.place));
        } else {
            push(format!("{}: {}: {first}", self.place, self.key));
        }
        for line in message {
            push(line.to_owned());
        }
        if let Some(help) = &self.help {
            push(format!("  {help}"));
        }
        lines
    }
}

/// Everything that is wrong with a configuration; never empty where it is returned as an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Number of problems.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One block for each problem, and a last line that counts them.
    #[must_use]
    pub(crate) fn lines(&self) -> PrintableLines {
        let mut lines = PrintableLines::default();
        for problem in &self.0 {
            lines.append(&problem.lines());
            lines.push("");
        }
        match self.0.len() {
            1 => lines.push("1 problem: this configuration is not used"),
            count => lines.push(format_args!("{count} problems: this configuration is not used")),
        }
        lines
    }

    /// In the order of the files, where there is any.
    pub(crate) fn into_result(mut self) -> Result<(), Self> {
        if self.0.is_empty() {
            return Ok(());
        }
        self.0.sort_by(|a, b| a.place.cmp(&b.place));
        Err(self)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().fmt(f)
    }
}

impl std::error::Error for Problems {}

/// The candidate that an operator most likely meant by `word`, as a hint.
pub(crate) fn near<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, candidates).first().map(|candidate| format!("did you mean \"{candidate}\"?"))
}

/// The candidates that an operator may have meant by `word`, the most likely one first.
///
/// A third of the letters may differ: more than that is a guess that misleads.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    let mut found: Vec<(usize, &str)> = candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .collect();
    found.sort_by_key(|(distance, _)| *distance);
    found.into_iter().map(|(_, candidate)| candidate).collect()
}

/// Words as a list for a sentence: `"a", "b" or "c"`.
pub(crate) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("\"{word}\"")).collect();
    match words.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_offered_and_a_wild_guess_is_not() {
        let known = ["channels", "patterns", "stream"];
        assert_eq!(near("chanels", known).unwrap(), "did you mean \"channels\"?");
        assert_eq!(near("Stream", known).unwrap(), "did you mean \"stream\"?");
        assert_eq!(near("colour", known), None);
    }
}
