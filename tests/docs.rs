//! The documents say of the program what the program says of itself.
//!
//! A table that is kept by hand drifts. So what can be compared is compared: causes of gaps, dependencies and their
//! versions, names of tests, links, and the configuration that the README shows. `vocabulary.rs` compares the names.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says so by a panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tidegate::event::GapCause;

const DOCUMENTS: [&str; 9] = [
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "docs/development.md",
    "docs/guarantees.md",
    "docs/managed-services.md",
    "docs/metrics.md",
    "docs/operations.md",
    "docs/replication.md",
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The lines of a section, from its heading to the next of the same level.
fn section<'t>(text: &'t str, heading: &str) -> &'t str {
    let begin = text.find(heading).unwrap_or_else(|| panic!("there is no {heading:?}"));
    let rest = &text[begin + heading.len()..];
    rest.find("\n## ").map_or(rest, |end| &rest[..end])
}

#[test]
fn every_cause_of_a_gap_is_explained() {
    let guarantees = text("docs/guarantees.md");
    let causes = section(&guarantees, "## Causes of gaps");
    let readme = text("README.md");
    for cause in GapCause::ALL {
        let cause = format!("`{}`", cause.as_str());
        assert!(causes.contains(&format!("| {cause} |")), "{cause} in docs/guarantees.md");
        assert!(readme.contains(&cause), "{cause} in README.md");
    }
}

#[test]
fn every_dependency_has_its_reason_and_the_version_of_the_lock_file() {
    let lock = text("Cargo.lock");
    let mut locked: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines() {
        if let Some(value) = line.strip_prefix("name = ") {
            name = value.trim_matches('"');
        } else if let Some(value) = line.strip_prefix("version = ") {
            locked.entry(name).or_default().push(value.trim_matches('"'));
        }
    }
    let manifests = ["Cargo.toml", "benches/Cargo.toml", "examples/Cargo.toml"].map(text).join("\n");
    let mut wanted = BTreeSet::new();
    let mut in_dependencies = false;
    for line in manifests.lines() {
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
        } else if let (true, Some((name, _))) = (in_dependencies, line.split_once(" = ")) {
            wanted.insert(name.to_owned());
        }
    }
    assert!(wanted.remove("tidegate"), "the benches measure tidegate");
    assert!(wanted.len() > 30, "{wanted:?}");

    let architecture = text("ARCHITECTURE.md");
    let mut explained = BTreeSet::new();
    for line in section(&architecture, "## Dependencies").lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split('|').skip(1);
        let names: Vec<&str> = quoted(cells.next().unwrap()).collect();
        let versions: Vec<&str> = cells.next().unwrap().trim().split(", ").collect();
        assert_eq!(names.len(), versions.len(), "{line}");
        for (name, version) in names.into_iter().zip(versions) {
            let known = locked.get(name).unwrap_or_else(|| panic!("{name} is not in Cargo.lock"));
            let begins = format!("{version}.");
            assert!(known.iter().any(|locked| locked.starts_with(&begins)), "{name} {version}: {known:?}");
            explained.insert(name.to_owned());
        }
    }
    assert_eq!(wanted, explained);
}

#[test]
fn the_tests_that_guarantees_names_exist() {
    let guarantees = text("docs/guarantees.md");
    let mut named = 0;
    for line in guarantees.lines().filter(|line| line.starts_with('|')) {
        // Tests of the same file follow the first without repeating it.
        let mut source = String::new();
        for word in quoted(line.rsplit('|').nth(1).unwrap()) {
            let test = match word.rsplit_once("::") {
                Some((module, test)) => {
                    let file = module.replace("::", "/");
                    let promise = format!("tests/promises/{file}.rs");
                    let name = if path(&promise).exists() { promise } else { format!("tests/{file}.rs") };
                    source = text(&name);
                    test
                }
                None if source.is_empty() => continue,
                None => word,
            };
            assert!(source.contains(&format!("fn {test}(")), "{word} in {line}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}

/// As GitHub makes an anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut links = 0;
    for document in DOCUMENTS {
        let content = text(document);
        let here = path(document);
        for link in content.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { here.clone() } else { here.parent().unwrap().join(file) };
            assert!(target.exists(), "{document}: {link}");
            if !part.is_empty() {
                let headings = fs::read_to_string(&target).unwrap();
                let mut headings = headings.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|line| anchor(line.trim_start_matches('#')) == part);
                assert!(found, "{document}: {link}");
            }
            links += 1;
        }
    }
    assert!(links > 15, "{links}");
}

#[test]
fn the_ten_lines_of_the_readme_are_a_configuration() {
    let readme = text("README.md");
    let toml = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(toml.lines().count(), 10);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, toml).unwrap();
    let loaded = tidegate::config::load(&file, [], &[]).unwrap();
    assert_eq!(loaded.config.capture.len(), 1);
}

/// The last line that the document has for each route is what is stored, so no figure changes without a reason.
#[test]
fn every_stored_count_of_instructions_has_a_reason() {
    let figures: toml_edit::DocumentMut =
        text("benches/instructions/figures.toml").parse().expect("the figures are TOML");
    let mut stored: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, figure) in figures.iter() {
        let (route, _) = name.rsplit_once('_').expect("a route and a size");
        let count = figure["stored"].as_integer().expect("a number");
        let ceiling = figure["ceiling"].as_integer().expect("a number");
        assert!(count <= ceiling, "{name} is stored above its ceiling");
        stored.entry(route.to_owned()).or_default().push(count.to_string());
    }
    assert!(!stored.is_empty(), "there are figures");
    let document = text("docs/performance.md");
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in section(&document, "## Instructions").lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [route, counts @ .., reason] = cells.as_slice()
            && stored.contains_key(*route)
        {
            assert!(!reason.is_empty(), "no reason: {line}");
            told.insert((*route).to_owned(), counts.iter().map(|&count| count.to_owned()).collect());
        }
    }
    assert_eq!(told, stored, "docs/performance.md says of each stored figure why it is so");
}
