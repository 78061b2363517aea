//! Every outward name is documented under a name of its own: a heading, or the first cell of a table's row.
//!
//! Someone on call searches the documentation for the word that a log line, a metric or `tidegate status` showed. So the
//! lists of names come from the code, and each name must be where a search finds its explanation.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue reports that by a panic")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tidegate::event::{DropReason, GapCause};
use tidegate::logs::LogCode;
use tidegate::metrics;
use tidegate::status::{GroupChange, RouteState};

/// Every file with this extension below a directory of the repository.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|its| its == extension) {
            found.push(path);
        }
    }
    found
}

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The words in backticks of all headings, and of the first cells of all rows.
fn explained() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files(&repository("docs"), "md") {
        for line in fs::read_to_string(file).unwrap().lines() {
            let place = match line.strip_prefix('|') {
                Some(row) => row.split('|').next().unwrap_or_default(),
                None if line.starts_with('#') => line,
                None => continue,
            };
            names.extend(place.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    names
}

fn missing<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    let explained = explained();
    let names: Vec<&str> = names.into_iter().collect();
    assert!(names.len() > 2 && !explained.is_empty(), "{names:?}");
    names.into_iter().filter(|name| !explained.contains(*name)).collect()
}

#[test]
fn every_state_is_documented() {
    assert_eq!(missing(RouteState::ALL.iter().map(|state| state.as_str())), [""; 0]);
}

#[test]
fn every_metric_is_documented() {
    assert_eq!(missing(metrics::names()), [""; 0]);
}

#[test]
fn every_code_of_a_log_line_is_documented() {
    assert_eq!(missing(LogCode::ALL.iter().map(|code| code.as_str())), [""; 0]);
}

#[test]
fn every_cause_of_a_gap_is_documented() {
    assert_eq!(missing(GapCause::ALL.iter().map(|cause| cause.as_str())), [""; 0]);
}

#[test]
fn every_reason_to_drop_messages_is_documented() {
    assert_eq!(missing(DropReason::ALL.iter().map(|reason| reason.as_str())), [""; 0]);
}

#[test]
fn every_change_of_a_group_is_documented() {
    assert_eq!(missing(GroupChange::ALL.iter().map(|change| change.as_str())), [""; 0]);
}

/// A code that is written as text would not be on the list. A code that nothing logs would be documented in vain.
#[test]
fn log_lines_have_a_code_of_the_list() {
    let sources: Vec<String> = files(&repository("src"), "rs")
        .into_iter()
        .filter(|file| !file.ends_with("logs/code.rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    assert!(sources.len() > 50, "the sources are there");
    for source in &sources {
        for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
            assert!(!line.contains("event = \""), "a log line without LogCode: {line}");
        }
    }
    let unused: Vec<String> = LogCode::ALL
        .iter()
        .map(|code| format!("LogCode::{code:?}"))
        .filter(|code| !sources.iter().any(|source| names(source, code)))
        .collect();
    assert_eq!(unused, [""; 0]);
}

/// Whether a source names a code, and not only one that begins alike.
fn names(source: &str, code: &str) -> bool {
    source.split(code).skip(1).any(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric()))
}
