//! Each promise names a test that exists, and so does the Makefile.

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
                    let name = file_of(module);
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

/// A name that no test has runs nothing, and nobody would notice.
#[test]
fn the_tests_that_the_makefile_names_exist() {
    let makefile = text("Makefile");
    let named: Vec<_> = makefile.split_whitespace().filter_map(|word| word.rsplit_once("::")).collect();
    let tests: Vec<_> =
        named.into_iter().filter(|(module, test)| module.contains("::") && !test.is_empty()).collect();
    for (module, test) in &tests {
        assert!(text(&file_of(module)).contains(&format!("fn {test}(")), "{module}::{test}");
    }
    assert!(tests.len() > 5, "{tests:?}");
}

fn file_of(module: &str) -> String {
    let file = module.replace("::", "/");
    let promise = format!("tests/promises/{file}.rs");
    if path(&promise).exists() { promise } else { format!("tests/{file}.rs") }
}
