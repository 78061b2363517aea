//! From the recorder's text to the served one: the catalogue's order and headers, and only the series of living routes
//! and endpoints, sorted, so that two scrapes can be compared by eye.
//!
//! The recorder renders everything that was ever registered, in the order of a hash table. Names of
//! routes and endpoints are `[a-z0-9_-]`, so a label's value never holds a quote or an escape.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::catalogue::{self, MetricKind, SeriesOwner};
use super::live::Live;

/// The served text.
pub(super) fn compose(recorded: &str, live: &Live) -> String {
    let mut families: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = "";
    for line in recorded.lines() {
        if let Some(header) = line.strip_prefix("# TYPE ") {
            current = header.split(' ').next().unwrap_or(header);
        } else if !line.is_empty() && !line.starts_with('#') {
            families.entry(current).or_default().push(line);
        }
    }
    let mut text = String::with_capacity(recorded.len());
    for family in catalogue::ALL {
        let Some(lines) = families.get(family.name) else { continue };
        // A counter that is not known yet is absent: from any number that it had, a rate would be computed. So is a policy
        // that a cache does not have.
        let absent = family.kind == MetricKind::Counter || family.labels.contains(&"policy");
        let known = |line: &str| !absent || !line.ends_with(" NaN");
        let shown = |line: &&&str| known(line) && live.shows(family.owner, owner_name(family.owner, line));
        let mut lines: Vec<&&str> = lines.iter().filter(shown).collect();
        if lines.is_empty() {
            continue;
        }
        // Stable, so that a histogram's lines keep their order.
        lines.sort_by_key(|line| series(line));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {} {}", family.name, family.help);
        let _ = writeln!(text, "# TYPE {} {}", family.name, family.kind.as_str());
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// A sample's name and the text between its braces.
pub(super) fn split(line: &str) -> (&str, &str) {
    let name_end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_end);
    let labels = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or("");
    (name, labels)
}

/// The common part of the lines of one series: its labels, without the bucket's bound.
fn series(line: &str) -> &str {
    let labels = split(line).1;
    labels.split(",le=\"").next().unwrap_or(labels)
}

fn owner_name(owner: SeriesOwner, line: &str) -> Option<&str> {
    let label = match owner {
        SeriesOwner::Process => return None,
        SeriesOwner::Capture
        | SeriesOwner::Broadcast
        | SeriesOwner::Invalidate
        | SeriesOwner::Entries
        | SeriesOwner::Route => "route",
        SeriesOwner::Endpoint | SeriesOwner::Cache => "server",
    };
    split(line).1.split(',').find_map(|pair| pair.strip_prefix(label)?.strip_prefix("=\"")?.strip_suffix('"'))
}
