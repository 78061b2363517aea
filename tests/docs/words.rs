//! Plain English: short sentences, short cells, the field's words.

use super::pages::{all, cells, files, lines, text};

const SENTENCE_WORDS: usize = 35;
const CELL_WORDS: usize = 25;

/// Words of an older dialect of this project, and what to write instead.
const UNWANTED: [(&str, &str); 14] = [
    ("mended", "fixed, corrected"),
    ("so many", "the number"),
    ("told of", "reported"),
    ("in hand", "buffered"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("made-up", "simulated, random"),
    ("comes to terms", "the event itself"),
    ("whoever", "the subject, or leave it out"),
    ("a person", "an operator"),
    ("parked", "blocked"),
    ("superseded", "outdated"),
    ("stands by", "is standby"),
    ("says so", "logs, reports"),
];

/// What other programs or the catalogue write.
const GENERATED: [&str; 2] = ["docs/metrics.md", "docs/performance.md"];

fn written() -> impl Iterator<Item = String> {
    all().into_iter().filter(|name| !GENERATED.contains(&name.as_str()))
}

/// The text without code, whose words are names. A link is its text.
fn prose(text: &str) -> String {
    let mut text: String =
        text.split('`').enumerate().map(|(at, part)| if at % 2 == 1 { "code" } else { part }).collect();
    while let Some(at) = text.find("](") {
        let end = text[at..].find(')').map_or(text.len(), |end| at + end + 1);
        text.replace_range(at..end, "");
    }
    text
}

fn words(text: &str) -> usize {
    text.split_whitespace().filter(|word| word.chars().any(char::is_alphanumeric)).count()
}

/// Paragraphs and list items, each in one line. Headings and tables are none.
fn paragraphs(content: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for line in lines(content) {
        let item = line.trim_start();
        let numbered = item.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        let table_or_heading = item.starts_with('|') || item.starts_with('#');
        if item.is_empty() || table_or_heading || item.starts_with("- ") || numbered {
            found.push(String::new());
        }
        if !table_or_heading {
            let last = found.last_mut().unwrap();
            last.push_str(item);
            last.push(' ');
        }
    }
    found
}

fn sentences(paragraph: &str) -> Vec<String> {
    let text = prose(paragraph);
    let mut found = vec![String::new()];
    for word in text.split_whitespace() {
        let last = found.last_mut().unwrap();
        last.push_str(word);
        last.push(' ');
        if word.trim_end_matches([')', '*', '"']).ends_with(['.', '?', '!', ':', ';']) {
            found.push(String::new());
        }
    }
    found
}

#[test]
fn sentences_are_short() {
    let mut long = Vec::new();
    let mut seen = 0;
    for document in written() {
        for sentence in paragraphs(&text(&document)).iter().flat_map(|paragraph| sentences(paragraph)) {
            seen += 1;
            if words(&sentence) > SENTENCE_WORDS {
                long.push(format!("{document}: {} words: {sentence}", words(&sentence)));
            }
        }
    }
    assert!(seen > 1000, "{seen}");
    assert!(long.is_empty(), "more than {SENTENCE_WORDS} words:\n{}", long.join("\n"));
}

#[test]
fn cells_of_tables_are_short() {
    let mut long = Vec::new();
    let mut seen = 0;
    for document in written() {
        let content = text(&document);
        for cell in lines(&content).filter(|line| line.starts_with('|')).flat_map(cells) {
            seen += 1;
            let count = words(&prose(&cell));
            if count > CELL_WORDS {
                long.push(format!("{document}: {count} words: {cell}"));
            }
        }
    }
    assert!(seen > 1000, "{seen}");
    assert!(long.is_empty(), "more than {CELL_WORDS} words:\n{}", long.join("\n"));
}

/// The first unwanted words of a text, each with what to write instead and where it stands.
fn unwanted(name: &str, text: &str) -> Vec<String> {
    let text = prose(text).to_lowercase();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for (unwanted, instead) in UNWANTED {
        let whole = |at: usize| {
            let end = at + unwanted.len();
            !text[..at].ends_with(char::is_alphanumeric) && !text[end..].starts_with(char::is_alphanumeric)
        };
        if let Some((at, _)) = text.match_indices(unwanted).find(|&(at, _)| whole(at)) {
            let around: String = text[at..].chars().take(60).collect();
            found.push(format!("{name}: {unwanted:?} ({instead}): {around}"));
        }
    }
    found
}

#[test]
fn words_are_those_of_the_field() {
    let found: Vec<String> = written()
        .flat_map(|document| {
            let content = text(&document);
            unwanted(&document, &lines(&content).collect::<Vec<_>>().join(" "))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// A comment has a line of its own.
#[test]
fn words_of_comments_are_those_of_the_field() {
    let mut seen = 0;
    let mut found = Vec::new();
    let languages = [("rs", &["//!", "///", "//"] as &[&str]), ("lua", &["--"])];
    for (folder, (extension, marks)) in ["src", "tests", "benches", "clients", "examples"]
        .into_iter()
        .flat_map(|folder| languages.map(|one| (folder, one)))
    {
        for file in files(folder, extension) {
            let content = text(&file);
            let comments: Vec<&str> = content
                .lines()
                .filter_map(|line| marks.iter().find_map(|mark| line.trim_start().strip_prefix(mark)))
                .collect();
            seen += comments.len();
            found.extend(unwanted(&file, &comments.join(" ")));
        }
    }
    assert!(seen > 5000, "{seen}");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
