//! The reference has everything that the program has, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::logs::LogCode;
use tidegate::metrics;
use tidegate::status::RouteState;

use super::pages::{cells, files, first_cells, headings, lines, path, quoted, section, site, text};

fn set<T: Into<String>>(items: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    items.into_iter().map(Into::into).collect()
}

/// The values of a label, as the catalogue writes them into the page of metrics.
fn values_of(label: &str) -> BTreeSet<String> {
    let metrics = text("docs/metrics.md");
    let row = section(&metrics, "## Values of labels")
        .lines()
        .find(|line| line.starts_with(&format!("| `{label}`")));
    let values = set(quoted(&cells(row.unwrap_or_else(|| panic!("there is no label {label}")))[1]));
    assert!(values.len() > 2, "{label}: {values:?}");
    values
}

#[test]
fn every_log_event_is_explained_and_no_other() {
    let codes = LogCode::ALL.iter().map(|code| code.as_str());
    let page = text("docs/reference/log-events.md");
    let (events, _) = page.split_once("## Kinds of").expect("the kinds stand apart");
    let (_, rest) = page.split_once("## HTTP").expect("the last table is there");
    let explained = first_cells(events).into_iter().chain(first_cells(rest)).collect::<Vec<_>>();
    assert_eq!(explained.len(), set(explained.clone()).len(), "an event is explained twice");
    assert_eq!(set(codes), set(explained));
}

/// A code that is written as text would not be on the list. A code that nothing logs would be documented in vain.
#[test]
fn log_lines_have_a_code_of_the_list() {
    let sources = files("src", "rs").into_iter().filter(|name| name != "src/logs/code.rs");
    let sources: Vec<String> = sources.map(|name| text(&name)).collect();
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

#[test]
fn every_kind_of_a_group_s_change_is_explained() {
    let page = text("docs/reference/log-events.md");
    let kinds = section(&page, "## Kinds of `group_changed`");
    assert_eq!(values_of("kind"), set(first_cells(kinds)));
}

#[test]
fn every_state_has_a_heading() {
    let headings = set(headings(&text("docs/reference/states.md"), 2));
    assert_eq!(set(RouteState::ALL.map(RouteState::as_str)), headings);
    assert!(values_of("state").is_subset(&headings), "metrics show no other state");
}

#[test]
fn every_cause_of_a_gap_has_a_heading_and_a_line_in_the_runbook() {
    let page = text("docs/reference/gap-record.md");
    let causes = values_of("cause");
    assert_eq!(causes, set(headings(section(&page, "## Causes"), 3)));
    let runbook = text("docs/operate/runbooks/gap-recorded.md");
    let named = set(first_cells(section(&runbook, "## 3. Why?")));
    assert_eq!(causes, named);
}

#[test]
fn every_reason_is_explained() {
    let page = text("docs/reference/gap-record.md");
    assert_eq!(values_of("reason"), set(first_cells(section(&page, "## Drop reasons"))));
    let page = text("docs/reference/dead-letter-record.md");
    let explained = set(first_cells(section(&page, "## Reasons of a capture")));
    for reason in tidegate::capture::mapping::RejectReason::ALL {
        assert!(explained.contains(reason.as_str()), "{}", reason.as_str());
    }
}

#[test]
fn every_metric_is_documented() {
    let explained = set(first_cells(&text("docs/metrics.md")));
    let missing: Vec<&str> = metrics::names().filter(|name| !explained.contains(*name)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let metrics = text("docs/metrics.md");
    let there = set(first_cells(&metrics));
    let mut seen = 0;
    for document in site() {
        for word in quoted(&text(&document)) {
            let name: String = word.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if name.starts_with("tidegate_") && name == name.trim_end_matches('_') {
                assert!(there.contains(&name), "{document}: {name}");
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

/// `config/tidegate.toml` has every option; `tests/config` compares it with the program.
#[test]
fn every_option_has_a_heading() {
    let commented = text("config/tidegate.toml");
    let mut options = BTreeMap::<String, BTreeSet<String>>::new();
    let mut table = String::new();
    for line in commented.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.split(['.', ']']).next().unwrap().to_owned();
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        if let Some((key, _)) = line.split_once(" = ")
            && !key.is_empty()
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            options.entry(table.clone()).or_default().insert(key.to_owned());
        }
    }
    assert_eq!(options.len(), 5, "{options:?}");
    let page = text("docs/reference/configuration.md");
    for (table, options) in options {
        let heading =
            if table == "daemon" { "## `[daemon]`".to_owned() } else { format!("## `[{table}.NAME]`") };
        let explained = headings(section(&page, &heading), 3);
        let explained = set(explained.iter().map(|heading| heading.split(" (").next().unwrap()));
        assert_eq!(options, explained, "{table}");
    }
}

/// The golden files are what `--help` prints.
#[test]
fn every_command_and_option_of_the_program_is_explained() {
    let page = text("docs/reference/commands.md");
    let explained = set(headings(&page, 2));
    let help = text("tests/golden/cli/help.txt");
    let mut commands = 0;
    for line in section(&help, "Commands:").lines().chain(help.lines()).filter(|line| line.starts_with("  "))
    {
        let name = line.trim_start().split(' ').next().unwrap();
        if line.starts_with("   ") || name.starts_with('-') || name == "help" {
            continue;
        }
        let found = explained.iter().any(|heading| heading.starts_with(&format!("tidegate {name}")));
        assert!(found, "tidegate {name}");
        commands += 1;
    }
    assert!(commands > 10, "{commands}");
    for file in files("tests/golden/cli", "txt").iter().filter(|name| name.contains("/help")) {
        for line in text(file).lines() {
            let line = line.trim_start();
            let option = line.strip_prefix("-c, ").unwrap_or(line).split([' ', '<']).next().unwrap();
            if option.starts_with("--") {
                assert!(page.contains(option), "{file}: {option}");
            }
        }
    }
}

#[test]
fn every_alert_has_a_runbook() {
    let rules = text("monitoring/alerts.yml");
    let value = |name: &'static str| rules.lines().filter_map(move |line| line.trim().strip_prefix(name));
    let alerts = set(value("- alert: "));
    let urls: Vec<&str> = value("runbook_url: ").collect();
    assert_eq!(urls.len(), alerts.len());
    for (alert, url) in value("- alert: ").zip(urls) {
        assert!(text(url).contains(&format!("Alert: `{alert}`")), "{url} names {alert}");
    }
    assert!(alerts.len() > 10, "{alerts:?}");
    for page in ["docs/operate/monitoring.md", "docs/operate/runbooks/index.md"] {
        let content = text(page);
        let mut listed = BTreeSet::new();
        for row in lines(&content).filter(|line| line.starts_with("| `Tidegate")) {
            let alert = quoted(row).next().unwrap();
            let link =
                row.split("](").nth(1).and_then(|rest| rest.split(')').next()).expect("a link to a runbook");
            let runbook = path(page).parent().unwrap().join(link);
            let runbook = std::fs::read_to_string(&runbook).unwrap_or_else(|error| panic!("{link}: {error}"));
            assert!(runbook.contains(&format!("Alert: `{alert}`")), "{link} names {alert}");
            listed.insert(alert.to_owned());
        }
        assert_eq!(alerts, listed, "{page}");
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
    let manifests = ["Cargo.toml", "benches/Cargo.toml", "clients/rust/Cargo.toml", "examples/Cargo.toml"];
    let manifests = manifests.map(text).join("\n");
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

/// Texts of the program that a reader searches for. What stands for a name or a number is `…`.
#[test]
fn every_message_of_the_troubleshooting_is_one_of_the_program() {
    let mut program = String::new();
    for file in files("src", "rs") {
        for line in text(&file).lines().filter(|line| !line.trim().starts_with("//")) {
            // A text over several lines ends each with a backslash.
            program.push_str(line.trim().trim_end_matches('\\'));
        }
    }
    let page = text("docs/operate/troubleshooting.md");
    let mut seen = 0;
    for row in lines(&page).filter(|line| line.starts_with("| ")) {
        for message in quoted(&cells(row)[0]).flat_map(|message| message.split('…')).map(str::trim) {
            let words = message.split(' ').count();
            if words > 2 && message.starts_with(|c: char| c.is_ascii_lowercase()) && !message.contains('=') {
                assert!(program.contains(message), "{message:?} is no text of the program");
                seen += 1;
            }
        }
    }
    assert!(seen > 12, "{seen}");
}

/// A build of the image sees only what `.dockerignore` lets through.
#[test]
fn pages_that_the_program_has_in_it_are_there_when_the_image_is_built() {
    let ignored = text(".dockerignore");
    let kept: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut seen = 0;
    for file in files("src", "rs") {
        for included in text(&file).split("include_str!(\"").skip(1).filter_map(|rest| rest.split('"').next())
        {
            if let Some((_, page)) = included.split_once("docs/") {
                let page = format!("docs/{page}");
                assert!(
                    kept.iter().any(|kept| page.starts_with(kept)),
                    "{file} has {page}, the image does not"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 4, "{seen}");
}

/// Paths of the code in the pages for those who change it.
#[test]
fn files_of_the_code_that_are_named_exist() {
    let mut named = 0;
    for page in [
        "ARCHITECTURE.md",
        "docs/project/see-a-test-fail.md",
        "docs/project/decisions.md",
        "docs/project/development.md",
        "CONTRIBUTING.md",
    ] {
        for word in quoted(&text(page)) {
            let file = word.split(':').next().unwrap();
            if !file.contains('/') || file.contains(' ') || !file.ends_with(".rs") && !file.ends_with(".lua")
            {
                continue;
            }
            let found = ["", "src/", "src/capture/", "src/broadcast/"]
                .iter()
                .any(|at| path(&format!("{at}{file}")).exists());
            assert!(found, "{page}: {file}");
            named += 1;
        }
    }
    assert!(named > 40, "{named}");
}

/// What the page of mutations runs: `--test FILE NAME` or `--lib NAME` find a test.
#[test]
fn the_tests_that_notice_a_mutation_exist() {
    let mut there = BTreeSet::new();
    for file in files("tests", "rs").into_iter().chain(files("src", "rs")) {
        let module = file.trim_end_matches(".rs").replace('/', "::");
        for name in text(&file).split("fn ").skip(1).filter_map(|rest| rest.split('(').next()) {
            there.insert(format!("{module}::{name}"));
        }
    }
    let page = text("docs/project/see-a-test-fail.md");
    let mut seen = 0;
    for row in lines(&page).filter(|line| line.starts_with("| `")) {
        for command in quoted(&cells(row)[1]) {
            let words: Vec<&str> = command.split(' ').collect();
            let (of, name) = match words.iter().position(|&word| word == "--test" || word == "--lib") {
                Some(at) if words[at] == "--test" => (format!("tests::{}", words[at + 1]), words[at + 2]),
                Some(at) => ("src::".to_owned(), words[at + 1]),
                None => continue,
            };
            let found = there.iter().any(|test| test.starts_with(&of) && test.contains(name));
            assert!(found, "{command}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}
