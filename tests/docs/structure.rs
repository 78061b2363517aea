//! The imports of the source: no two files and no two rooms need each other.
//!
//! A file that imports from one that imports from it can be read only together with it. A part may name its whole: the
//! arrow from a module to one around it does not count. The imports are read as text: a path leads to the file of its
//! module, or to where that module has the name from.

use std::collections::{BTreeMap, BTreeSet};

use super::pages::{files, text};

/// Paths of a module: `["server", "error"]` for `src/server/error.rs`.
type Segments = Vec<String>;

/// A file's code, as far as it is read here.
struct Module {
    segments: Segments,
    /// The paths that it names.
    named: Vec<Segments>,
    /// The names that it has from elsewhere.
    taken: BTreeMap<String, Segments>,
}

fn segments(path: &str) -> Segments {
    path.split("::").map(|segment| segment.trim().to_owned()).filter(|segment| !segment.is_empty()).collect()
}

/// The code without comments, tests inside the file, and the modules that may see an item.
fn code(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut parts = code.split("pub(in ");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |code, part| code + "pub" + part.split_once(')').map_or(part, |(_, rest)| rest))
}

/// The paths of a tree of imports, such as `a::{b, c::d}`.
fn leaves(before: &str, tree: &str, into: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((path, inner)) = tree.split_once('{') else {
        into.push(format!("{before}{tree}"));
        return;
    };
    let (mut depth, mut from) = (0, 0);
    // A line of a text can begin with the same word.
    let Some(inner) = inner.trim_end().strip_suffix('}') else { return };
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[from..at].trim().is_empty() {
                    leaves(&format!("{before}{path}"), &inner[from..at], into);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// The statements that import, each without its `use`.
fn trees(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap().trim();
        if line.is_empty() || line.starts_with("pub") {
            found.push(code[at + 4..].split(';').next().unwrap());
        }
    }
    found
}

/// Paths in the code behind this word, outside of imports.
fn inline<'c>(code: &'c str, root: &'c str) -> impl Iterator<Item = &'c str> {
    code.match_indices(root).filter_map(move |(at, _)| {
        let free =
            code[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != ':');
        let path = &code[at..];
        let end = path.find(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter));
        free.then(|| &path[..end.unwrap_or(path.len())])
    })
}

/// Returns whether a name stands in the code outside of imports.
fn is_used(code: &str, name: &str) -> bool {
    let imports: Vec<&str> = trees(code);
    let inside = |at: usize| {
        imports.iter().any(|tree| {
            let begin = tree.as_ptr() as usize - code.as_ptr() as usize;
            (begin..begin + tree.len()).contains(&at)
        })
    };
    let is_of_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(name).any(|(at, _)| {
        let (before, behind) = (&code[..at], &code[at + name.len()..]);
        !before.ends_with(is_of_word) && !behind.starts_with(is_of_word) && !inside(at)
    })
}

impl Module {
    fn read(file: &str, all: &BTreeSet<Segments>) -> Self {
        let segments = of_file(file);
        let code = code(&text(file));
        let (mut named, mut taken) = (Vec::new(), BTreeMap::new());
        let mut paths = Vec::new();
        trees(&code).into_iter().for_each(|tree| leaves("", tree, &mut paths));
        for path in paths {
            let (path, name) = match path.split_once(" as ") {
                Some((path, name)) => (path.to_owned(), Some(name.trim().to_owned())),
                None => (path, None),
            };
            let Some(path) = absolute(&segments, &path, all) else { continue };
            let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
            // A name that is only passed on is needed by nobody here.
            if is_used(&code, &name) {
                named.push(path.clone());
            }
            taken.insert(name, path);
        }
        let roots = ["crate::", "super::", "self::"];
        named.extend(
            roots
                .iter()
                .flat_map(|root| inline(&code, root))
                .filter_map(|path| absolute(&segments, path, all)),
        );
        Self { segments, named, taken }
    }
}

fn of_file(file: &str) -> Segments {
    let inside = file.trim_start_matches("src/").trim_end_matches(".rs");
    inside.split('/').map(str::to_owned).filter(|segment| segment != "lib").collect()
}

/// A path from the crate's root; `None` if it leads out of the crate.
fn absolute(module: &[String], path: &str, all: &BTreeSet<Segments>) -> Option<Segments> {
    let mut path = segments(path);
    if path.last().is_some_and(|last| last == "self" || last == "*") {
        path.pop();
    }
    let first = path.first()?.clone();
    let mut from = module.to_vec();
    match first.as_str() {
        "crate" => {
            from.clear();
            path.remove(0);
        }
        "self" => drop(path.remove(0)),
        "super" => {
            while path.first().is_some_and(|first| first == "super") {
                path.remove(0);
                from.pop();
            }
        }
        _ => {
            let child = [module, &path[..1]].concat();
            if !all.contains(&child) {
                return None;
            }
        }
    }
    from.extend(path);
    Some(from)
}

/// The file behind a path: of its module, or of that from which the module has the name.
fn target(path: &[String], modules: &BTreeMap<Segments, Module>, depth: usize) -> Option<Segments> {
    let long = (0..=path.len()).rev().find(|&long| modules.contains_key(&path[..long]))?;
    let module = &modules[&path[..long]];
    match path.get(long).and_then(|name| module.taken.get(name)) {
        Some(from) if depth < 8 && from != path => target(from, modules, depth + 1),
        _ => Some(module.segments.clone()),
    }
}

/// The pairs that reach each other.
fn circles(arrows: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let reached = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(next) = open.pop() {
            open.extend(arrows.get(next).into_iter().flatten().filter(|to| seen.insert((*to).clone())));
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        arrows.keys().map(|from| (from, reached(from))).collect();
    let mut found = Vec::new();
    for (from, to) in arrows.iter().flat_map(|(from, all)| all.iter().map(move |to| (from, to))) {
        if reached.get(to).is_some_and(|back| back.contains(from)) {
            found.push(format!("{from} imports from {to}, which needs it"));
        }
    }
    found
}

#[test]
fn no_two_files_and_no_two_rooms_need_each_other() {
    // Simulations are tests: each is one story, told in several files.
    let is_test = |file: &String| file.contains("simulation") || file.ends_with("tests.rs");
    let sources: Vec<String> = files("src", "rs").into_iter().filter(|file| !is_test(file)).collect();
    let all: BTreeSet<Segments> = sources.iter().map(|file| of_file(file)).collect();
    let modules: BTreeMap<Segments, Module> =
        sources.iter().map(|file| (of_file(file), Module::read(file, &all))).collect();
    let (mut of_files, mut of_rooms) = (BTreeMap::new(), BTreeMap::new());
    let mut seen = 0;
    for module in modules.values() {
        let targets = module.named.iter().filter_map(|path| target(path, &modules, 0));
        for to in targets.filter(|to| !module.segments.starts_with(to)) {
            let arrow = |arrows: &mut BTreeMap<String, BTreeSet<String>>, from: String, to: String| {
                arrows.entry(from).or_default().insert(to);
            };
            arrow(&mut of_files, module.segments.join("::"), to.join("::"));
            if let (Some(from), Some(to)) = (module.segments.first(), to.first())
                && from != to
            {
                arrow(&mut of_rooms, from.clone(), to.clone());
            }
            seen += 1;
        }
    }
    assert!(seen > 1_000, "{seen} imports were found");
    let found = [circles(&of_files), circles(&of_rooms)].concat();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What happens comes in as an event, with its time.
#[test]
fn the_engines_have_no_clock_no_socket_no_file_and_no_task() {
    let mut seen = 0;
    for file in
        files("src", "rs").into_iter().filter(|file| file.contains("/engine") && !file.contains("tests"))
    {
        let code = code(&text(&file));
        for outside in ["::now(", "SystemTime", "::fs", "::net", "sleep", "timeout(", "spawn"] {
            assert!(!code.contains(outside), "{file} has {outside:?}");
        }
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn a_circle_is_found() {
    let arrows = |pairs: &[(&str, &str)]| {
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            arrows.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        circles(&arrows).len()
    };
    assert_eq!(arrows(&[("a", "b"), ("b", "c"), ("a", "c")]), 0);
    assert_eq!(arrows(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]), 3);
    let mut found = Vec::new();
    leaves("", "a::{self, b, c::{d, e as f}, }", &mut found);
    assert_eq!(found, ["a::self", "a::b", "a::c::d", "a::c::e as f"]);
}
