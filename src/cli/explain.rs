//! `tidegate explain`: what a code means, in the words of the documentation.

mod reference;

use clap::Args;

use super::output::{self, tell};
use crate::config::nearest;
use reference::{Explanation, explanations};

/// Other codes that are offered for one that does not exist.
const OFFERED: usize = 8;

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// A log event, a state, a cause of a gap, a reason of a dead letter, a metric or a similar code; without it, all
    /// codes are listed
    code: Option<String>,
}

/// Prints what the code means, once for each kind of codes that has it.
pub(super) fn explain(arguments: &ExplainArguments) -> u8 {
    let explanations = explanations();
    let Some(wanted) = &arguments.code else { return list(&explanations) };
    let code = wanted.to_lowercase().replace('-', "_");
    let found: Vec<&Explanation> = explanations.iter().filter(|known| known.code == code).collect();
    if found.is_empty() {
        unknown(&code, &explanations);
        return super::USAGE;
    }
    output::printed(super::OK, |out| {
        for (index, explanation) in found.iter().enumerate() {
            if index > 0 {
                out.line("")?;
            }
            out.line(format_args!("{}: {}", explanation.code, explanation.kind))?;
            for paragraph in &explanation.paragraphs {
                out.line(format_args!("  {paragraph}"))?;
            }
            out.line(format_args!("  see {}", explanation.page))?;
        }
        Ok(())
    })
}

/// Prints every code, below what it is.
fn list(explanations: &[Explanation]) -> u8 {
    output::printed(super::OK, |out| {
        for group in explanations.chunk_by(|one, next| one.kind == next.kind) {
            out.line(format_args!("{}:", group[0].kind))?;
            group.iter().try_for_each(|explanation| out.line(format_args!("  {}", explanation.code)))?;
        }
        Ok(())
    })
}

/// Says which codes may have been meant: those that contain the word, or that it is a misspelling of.
fn unknown(code: &str, explanations: &[Explanation]) {
    let mut known: Vec<&str> = explanations.iter().map(|known| known.code).collect();
    known.sort_unstable();
    known.dedup();
    let alike = nearest(code, known.iter().copied());
    let containing = known.iter().copied().filter(|known| !code.is_empty() && known.contains(code));
    let mut offered: Vec<&str> = Vec::new();
    for code in alike.into_iter().chain(containing) {
        if offered.len() < OFFERED && !offered.contains(&code) {
            offered.push(code);
        }
    }
    tell!("there is no code '{code}'");
    if offered.is_empty() {
        tell!("  tidegate explain lists all codes");
    } else {
        tell!("  similar: {}; tidegate explain lists all codes", offered.join(", "));
    }
}
