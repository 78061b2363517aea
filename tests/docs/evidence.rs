//! Each promise names a test that exists.

use std::collections::BTreeSet;

use super::pages::{cells, files, lines, path, quoted, text};

#[test]
fn the_tests_that_the_evidence_names_exist_and_every_promise_is_named() {
    let evidence = text("docs/project/test-evidence.md");
    let mut named = 0;
    let mut seen = BTreeSet::new();
    for line in lines(&evidence).filter(|line| line.starts_with("| ") && line.contains("::")) {
        // Tests of the same file follow the first without repeating it.
        let mut source = String::new();
        for word in quoted(&cells(line)[1]) {
            let test = match word.rsplit_once("::") {
                Some((module, test)) => {
                    let file = module.replace("::", "/");
                    let promise = format!("tests/promises/{file}.rs");
                    let name = if path(&promise).exists() { promise } else { format!("tests/{file}.rs") };
                    source = text(&name);
                    seen.insert(name);
                    test
                }
                None => word,
            };
            assert!(source.contains(&format!("fn {test}(")), "{word} in {line}");
            named += 1;
        }
    }
    assert!(named > 100, "{named}");
    // The others list modules, or hold what several of them share.
    let promises = files("tests/promises", "rs").into_iter().filter(|name| text(name).contains("#[test]"));
    let missing: Vec<String> = promises.filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "not in docs/project/test-evidence.md: {missing:?}");
}
