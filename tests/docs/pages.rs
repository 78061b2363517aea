//! The documents, and what Markdown is made of.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The names of all files with this extension below a directory, from the root of the project, in order.
pub(crate) fn files(directory: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path(directory)).unwrap_or_else(|error| panic!("{directory}: {error}")) {
        let entry = entry.unwrap();
        let name = format!("{directory}/{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            found.extend(files(&name, extension));
        } else if entry.path().extension().is_some_and(|found| found == extension) {
            found.push(name);
        }
    }
    found.sort();
    found
}

/// The pages of the site.
pub(crate) fn site() -> Vec<String> {
    let pages = files("docs", "md");
    assert!(pages.len() > 40, "{pages:?}");
    pages
}

/// Every document: the site, and what lies at the root.
pub(crate) fn all() -> Vec<String> {
    let root = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CONTRIBUTING.md"];
    site().into_iter().chain(root.map(str::to_owned)).collect()
}

/// The text between backticks.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The lines of a section, from its heading to the next heading of the same level or a higher one.
pub(crate) fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let begin = text.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("there is no {heading:?}"));
    let rest = &text[begin + heading.len()..];
    let level = heading.bytes().take_while(|&byte| byte == b'#').count();
    let ends = (1..=level).filter_map(|level| rest.find(&format!("\n{} ", "#".repeat(level))));
    ends.min().map_or(rest, |end| &rest[..end])
}

/// The text of the headings of one level.
pub(crate) fn headings(text: &str, level: usize) -> Vec<&str> {
    let mark = format!("{} ", "#".repeat(level));
    lines(text).filter_map(|line| line.strip_prefix(&mark)).collect()
}

/// The lines outside of code blocks.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The cells of a table's row, without the escapes of `|`.
pub(crate) fn cells(row: &str) -> Vec<String> {
    let row = row.replace("\\|", "\u{1}");
    row.trim().trim_matches('|').split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// The first cells of the tables' rows that are code, and nothing else: `a`, or `a`, `b`.
pub(crate) fn first_cells(text: &str) -> Vec<String> {
    let rows = lines(text).filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| quoted(&cells(row)[0]).map(str::to_owned).collect::<Vec<_>>()).collect()
}
