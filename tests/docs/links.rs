//! Links lead somewhere, in the repository and in the site.

use std::collections::BTreeSet;
use std::fs;

use super::pages::{all, headings, lines, path, site, text};

/// As GitHub and mdBook make an anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn links(content: &str) -> Vec<String> {
    let prose: Vec<&str> = lines(content).collect();
    let prose = prose.join("\n");
    prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut seen = 0;
    for document in all() {
        let here = path(&document);
        for link in links(&text(&document)) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, part) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { here.clone() } else { here.parent().unwrap().join(file) };
            assert!(target.exists(), "{document}: {link}");
            if !part.is_empty() {
                let target = fs::read_to_string(&target).unwrap();
                let found =
                    (1..=4).any(|level| headings(&target, level).iter().any(|text| anchor(text) == part));
                assert!(found, "{document}: {link}");
            }
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen}");
}

/// A page of the site that links to a file beside docs/ has a dead link there.
#[test]
fn links_of_the_site_stay_in_it() {
    let docs = path("docs").canonicalize().unwrap();
    for document in site() {
        for link in links(&text(&document)).iter().filter(|link| !link.starts_with("https://")) {
            let file = link.split('#').next().unwrap();
            let target = path(&document).parent().unwrap().join(file);
            if !file.is_empty() {
                assert!(target.canonicalize().unwrap().starts_with(&docs), "{document}: {link}");
            }
        }
    }
}

#[test]
fn the_summary_lists_every_page_once() {
    let listed = links(&text("docs/SUMMARY.md"));
    let pages: BTreeSet<String> = listed.iter().map(|link| format!("docs/{link}")).collect();
    assert_eq!(listed.len(), pages.len(), "a page is listed twice");
    let there: BTreeSet<String> = site().into_iter().filter(|name| name != "docs/SUMMARY.md").collect();
    assert_eq!(pages, there);
}

/// Two headings with one text get one anchor and another with a number, and links to the second break.
#[test]
fn headings_of_a_page_differ() {
    for document in all() {
        let content = text(&document);
        let mut anchors = BTreeSet::new();
        for heading in (1..=4).flat_map(|level| headings(&content, level)) {
            assert!(anchors.insert(anchor(heading)), "{document}: {heading}");
        }
    }
}
