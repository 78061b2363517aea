//! Examples load, and figures are those that were measured.

use std::collections::BTreeMap;
use std::fs;

use super::pages::{all, cells, lines, section, text};

fn blocks<'t>(content: &'t str, language: &str) -> Vec<&'t str> {
    let fence = format!("```{language}\n");
    content.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

fn loads(document: &str, toml: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, toml).unwrap();
    if let Err(error) = tidegate::config::load(&file, [], &[]) {
        panic!("{document}: {error}\n{toml}");
    }
}

/// An example with a server and a route is a whole configuration.
#[test]
fn whole_configurations_load() {
    let mut seen = 0;
    for document in all() {
        for toml in blocks(&text(&document), "toml") {
            if toml.contains("[redis.") && (toml.contains("[capture.") || toml.contains("[broadcast.")) {
                loads(&document, toml);
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "{seen}");
}

#[test]
fn the_readme_is_short_and_begins_with_ten_lines_that_work() {
    let readme = text("README.md");
    assert!(readme.lines().count() <= 150, "{} lines", readme.lines().count());
    let toml = blocks(&readme, "toml")[0];
    assert_eq!(toml.lines().filter(|line| !line.is_empty()).count(), 10);
    loads("README.md", toml);
    let tutorial = text("docs/start/tutorial.md");
    assert_eq!(toml, blocks(&tutorial, "toml")[0], "the tutorial begins with the README's configuration");
}

/// The README compares one `kill -9` of each bridge with figures of the last bench.
#[test]
fn the_figures_of_the_readme_were_measured() {
    let performance = text("docs/performance.md");
    let peers = section(&performance, "## Peers");
    let measured: BTreeMap<String, String> = lines(peers)
        .filter(|line| line.starts_with("| "))
        .map(|line| (cells(line)[0].clone(), cells(line).pop().unwrap()))
        .collect();
    let readme = text("README.md");
    let begin = readme.find("| bridge | lost of ").expect("the table is there");
    let table: Vec<Vec<String>> =
        readme[begin..].lines().take_while(|line| line.starts_with('|')).map(cells).collect();
    let of = table[0][1].strip_prefix("lost of ").unwrap();
    let names = [
        ("script with redis-py", "redis-py, pipelined"),
        ("script with ioredis", "ioredis"),
        ("tidegate, one instance", "tidegate, subscribe"),
        ("tidegate, two instances", "tidegate, subscribe, two instances"),
        ("tidegate, replication mode", "tidegate, replication"),
    ];
    assert_eq!(table.len(), names.len() + 2);
    for (row, (ours, theirs)) in table[2..].iter().zip(names) {
        assert_eq!(row[0], ours);
        let figure = &measured[theirs];
        assert!(figure.starts_with(&format!("{} lost,", row[1])), "{ours}: {figure}");
        assert!(figure.ends_with(&format!("of {of}")), "{ours}: {figure}");
    }
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
    let mut explained: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in section(&document, "## Instructions").lines() {
        let row = cells(line);
        if let [route, counts @ .., reason] = row.as_slice()
            && stored.contains_key(route)
        {
            assert!(!reason.is_empty(), "no reason: {line}");
            explained.insert(route.clone(), counts.to_vec());
        }
    }
    assert_eq!(explained, stored, "docs/performance.md gives the reason of each stored figure");
}
