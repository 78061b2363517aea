//! The layers that a configuration is made of: main file, `conf.d/*.toml` beside it in the order of
//! their names, environment, command line. A later layer overrides an earlier one, key by key.
//!
//! Where the environment configures routes, the main file may be missing. Where the command line does, no file is read.
//!
//! The environment is handed in and never read here, so that tests in parallel do not disturb each
//! other. Of it, only names that begin with `TIDEGATE_` and contain `__` count: an orchestrator
//! injects names such as `TIDEGATE_PORT`, which nobody wrote as configuration.
//!
//! Each layer is kept beside the merged tree, since the operator who reads an error wants the file and
//! the line. A file that cannot be read or is no TOML ends the load: what it would have said cannot
//! be known, and every further complaint would be noise.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use toml_edit::{Array, ArrayOfTables, ImDocument, Item, TableLike, Value as TomlValue};

use super::problems::{Key, Problem, Problems, ValuePlace};
use crate::text::printable::PrintableLines;

/// The tables whose entries belong to one file each.
const NAMED_TABLES: [&str; 4] = ["redis", "capture", "broadcast", "invalidate"];

/// One place that configuration comes from.
struct Layer {
    origin: Origin,
    tree: Dict,
}

enum Origin {
    File { path: PathBuf, document: Box<ImDocument<String>> },
    Environment,
    CommandLine,
}

/// A value of the command line.
#[derive(Clone)]
pub struct Override {
    key: Vec<String>,
    value: OverrideValue,
}

#[derive(Clone)]
enum OverrideValue {
    Text(String),
    List(Vec<String>),
}

impl Override {
    /// A text, which counts as a number or as true or false where no text is expected.
    #[must_use]
    pub fn text(key: &[&str], text: &str) -> Self {
        Self::new(key, OverrideValue::Text(text.to_owned()))
    }

    /// A list of texts.
    #[must_use]
    pub fn list(key: &[&str], texts: &[String]) -> Self {
        Self::new(key, OverrideValue::List(texts.to_vec()))
    }

    fn new(key: &[&str], value: OverrideValue) -> Self {
        Self { key: key.iter().map(|part| (*part).to_owned()).collect(), value }
    }
}

/// Without the value, which may be a password.
impl fmt::Debug for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Override").field("key", &self.key).finish_non_exhaustive()
    }
}

/// All layers, in the order in which they override each other.
pub(crate) struct Layers(Vec<Layer>);

impl Layers {
    /// Reads the files and takes the other layers in. Without a path no file is read.
    ///
    /// # Errors
    /// Every file that cannot be read or is no TOML.
    pub(crate) fn read(
        path: Option<&Path>,
        environment: &[(String, String)],
        overrides: &[Override],
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut paths = path.map(|path| fragments(path, &mut problems)).unwrap_or_default();
        if let Some(path) = path
            && (path.try_exists().unwrap_or(true) || !names_a_route(environment))
        {
            paths.insert(0, path.to_owned());
        }
        let mut layers = Vec::new();
        for (index, path) in paths.into_iter().enumerate() {
            match read_file(&path, index) {
                Ok(layer) => layers.push(layer),
                Err(problem) => problems.push(*problem),
            }
        }
        problems.into_result()?;
        layers.push(environment_layer(environment));
        layers.push(command_line_layer(overrides));
        Ok(Self(layers))
    }

    /// This text as the only file.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_text(path: &Path, text: &str) -> Result<Self, Problems> {
        file_layer(path, text.to_owned(), 0).map(|layer| Self(vec![layer])).map_err(|problem| {
            let mut problems = Problems::default();
            problems.push(*problem);
            problems
        })
    }

    /// The files that were read, in order.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let path = |layer: &Layer| match &layer.origin {
            Origin::File { path, .. } => Some(path.clone()),
            Origin::Environment | Origin::CommandLine => None,
        };
        self.0.iter().filter_map(path).collect()
    }

    /// The names in a table of the outermost level, in any layer.
    pub(crate) fn names(&self, table: &str) -> BTreeSet<String> {
        let tables = self.0.iter().filter_map(|layer| layer.tree.get(table).and_then(Value::as_dict));
        tables.flat_map(|table| table.keys().cloned()).collect()
    }

    /// One tree of all layers.
    ///
    /// # Errors
    /// If figment cannot merge them, which trees of tables do not cause.
    pub(crate) fn merged(&self) -> Result<Dict, Problems> {
        let mut figment = Figment::new();
        for layer in &self.0 {
            figment = figment.merge(layer);
        }
        figment.extract().map_err(|error| {
            let mut problems = Problems::default();
            problems.push(self.problem(&Key::default(), error.kind.to_string()));
            problems
        })
    }

    /// A problem with a value, placed where the value that counts was written.
    pub(crate) fn problem(&self, key: &Key, message: impl Into<PrintableLines>) -> Problem {
        Problem::new(self.place(key), key.clone(), message)
    }

    /// Where the value that counts was written: for a table the layer that began it, for a missing
    /// value the table that it is missing in.
    pub(crate) fn place(&self, key: &Key) -> ValuePlace {
        let mut wanted = Some(key.clone());
        while let Some(key) = wanted.filter(|key| !key.parts().is_empty()) {
            let mut having = self.0.iter().enumerate().filter(|(_, layer)| layer.get(&key).is_some());
            let table = |layer: &Layer| matches!(layer.get(&key), Some(Value::Dict(..)));
            let (first, last) = (having.next(), having.next_back());
            let found = match (first, last) {
                (Some(first), Some(last)) if table(first.1) && table(last.1) => Some(first),
                (first, last) => last.or(first),
            };
            if let Some((index, layer)) = found {
                return layer.place(index, &key);
            }
            wanted = key.parent();
        }
        let main = self.0.first().map(|layer| layer.place(0, &Key::default()));
        main.unwrap_or(ValuePlace { layer: 0, line: None, name: String::new() })
    }

    /// Returns whether the value that counts comes from a file, and not from the environment or the command line, which
    /// know only text.
    pub(crate) fn stands_in_file(&self, key: &Key) -> bool {
        self.file_of(key).is_some()
    }

    /// The file that the value which counts comes from, if it comes from one.
    pub(crate) fn file_of(&self, key: &Key) -> Option<&Path> {
        let last = self.0.iter().rev().find(|layer| layer.get(key).is_some());
        last.and_then(|layer| match &layer.origin {
            Origin::File { path, .. } => Some(path.as_path()),
            Origin::Environment | Origin::CommandLine => None,
        })
    }

    /// Routes and endpoints that two files define. Merging them in silence would let one team's file
    /// change half of another team's route.
    pub(crate) fn refuse_twice_defined(&self, problems: &mut Problems) {
        let files = || {
            let file = |layer: &Layer| matches!(layer.origin, Origin::File { .. });
            self.0.iter().enumerate().filter(move |(_, layer)| file(layer))
        };
        for table in NAMED_TABLES {
            for (later, layer) in files() {
                let Some(names) = layer.tree.get(table).and_then(Value::as_dict) else { continue };
                for name in names.keys() {
                    let key = Key::top(table).at(name);
                    let Some((first, other)) = files().find(|(_, other)| other.get(&key).is_some()) else {
                        continue;
                    };
                    if first < later {
                        let message = format!("is defined in {} too", other.place(first, &key));
                        let help = "a route or a server is defined in one file: rename one of them or \
                                    move its keys together";
                        problems.push(Problem::new(layer.place(later, &key), key, message).help(help));
                    }
                }
            }
        }
    }
}

impl Layer {
    fn get(&self, key: &Key) -> Option<&Value> {
        let (first, rest) = key.parts().split_first()?;
        rest.iter().try_fold(self.tree.get(first)?, |value, part| match value {
            Value::Dict(_, dict) => dict.get(part),
            Value::Array(_, items) => part.parse().ok().and_then(|at: usize| items.get(at)),
            _ => None,
        })
    }

    fn place(&self, layer: usize, key: &Key) -> ValuePlace {
        match &self.origin {
            Origin::File { path, document } => {
                ValuePlace { layer, line: line_of(document, key), name: path.display().to_string() }
            }
            Origin::Environment if key.parts().is_empty() => {
                ValuePlace { layer, line: None, name: "environment variables TIDEGATE_…".to_owned() }
            }
            Origin::Environment => {
                let variable = key.parts().join("__").to_uppercase();
                ValuePlace { layer, line: None, name: format!("environment variable TIDEGATE_{variable}") }
            }
            Origin::CommandLine => ValuePlace { layer, line: None, name: "command line".to_owned() },
        }
    }
}

impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named("tidegate configuration")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.tree.clone()))
    }
}

/// The files of `conf.d` beside the main file, in the order of their names. No directory is no file.
pub(super) fn fragments(main: &Path, problems: &mut Problems) -> Vec<PathBuf> {
    let directory = main.with_file_name("conf.d");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(unreadable(&directory, 1, &error));
            return Vec::new();
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(error) => problems.push(unreadable(&directory, 1, &error)),
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

fn read_file(path: &Path, layer: usize) -> Result<Layer, Box<Problem>> {
    let text = fs::read_to_string(path).map_err(|error| Box::new(unreadable(path, layer, &error)))?;
    file_layer(path, text, layer)
}

fn file_layer(path: &Path, text: String, layer: usize) -> Result<Layer, Box<Problem>> {
    let name = path.display().to_string();
    // Only the parser's message: its full text quotes the line, and that may hold a password.
    let document = ImDocument::parse(text.clone()).map_err(|error| {
        let line = error.span().map(|span| line_at(&text, span.start));
        let message = format!("is not TOML: {}", error.message().replace('\n', ", "));
        Box::new(Problem::new(ValuePlace { layer, line, name: name.clone() }, Key::default(), message))
    })?;
    let tree = Toml::from_str(&text).map_err(|_| {
        let place = ValuePlace { layer, line: None, name };
        Box::new(Problem::new(place, Key::default(), "is not a TOML table"))
    })?;
    Ok(Layer { origin: Origin::File { path: path.to_owned(), document: Box::new(document) }, tree })
}

fn unreadable(path: &Path, layer: usize, error: &std::io::Error) -> Problem {
    let place = ValuePlace { layer, line: None, name: path.display().to_string() };
    Problem::new(place, Key::default(), format!("cannot be read: {error}"))
        .help(
            "name another file with --config, make it readable for the user that tidegate runs as, or configure everything, \
             routes included, by environment variables",
        )
}

/// Returns whether the environment configures routes. Then there need not be a file: the daemon of a container may have
/// none. A file that was merely misspelt is not passed over by a password in the environment.
fn names_a_route(environment: &[(String, String)]) -> bool {
    let route =
        |name: &str| name.starts_with("TIDEGATE_CAPTURE__") || name.starts_with("TIDEGATE_BROADCAST__");
    environment.iter().any(|(name, _)| route(name))
}

/// The value at a key of the environment, as text.
pub(super) fn environment_text(environment: &[(String, String)], key: &Key) -> Option<String> {
    environment_layer(environment).get(key).and_then(Value::as_str).map(str::to_owned)
}

fn environment_layer(environment: &[(String, String)]) -> Layer {
    let mut tree = Dict::new();
    for (name, text) in environment {
        let Some(rest) = name.strip_prefix("TIDEGATE_").filter(|rest| rest.contains("__")) else { continue };
        let parts: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
        insert(&mut tree, &parts, text_value(&parts, text));
    }
    Layer { origin: Origin::Environment, tree }
}

fn command_line_layer(overrides: &[Override]) -> Layer {
    let mut tree = Dict::new();
    for Override { key, value } in overrides {
        let value = match value {
            OverrideValue::Text(text) => Value::from(text.as_str()),
            OverrideValue::List(texts) => Value::from(texts.clone()),
        };
        insert(&mut tree, key, value);
    }
    Layer { origin: Origin::CommandLine, tree }
}

/// Lists and tables are taken apart; everything else stays the text it is, so that a name or a
/// password such as `0123` keeps its zero. Where a number is expected, the text becomes one later.
fn text_value(parts: &[String], text: &str) -> Value {
    let secret = matches!(parts.last().map(String::as_str), Some("password" | "url"));
    if !secret && text.trim_start().starts_with(['[', '{']) {
        let Ok(value) = text.parse::<Value>();
        return value;
    }
    Value::from(text)
}

fn insert(tree: &mut Dict, parts: &[String], value: Value) {
    match parts {
        [] => {}
        [last] => {
            tree.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let below = tree.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
            if !matches!(below, Value::Dict(..)) {
                *below = Value::from(Dict::new());
            }
            if let Value::Dict(_, below) = below {
                insert(below, rest, value);
            }
        }
    }
}

/// The line of a key, or of the nearest table above it that has one.
fn line_of(document: &ImDocument<String>, key: &Key) -> Option<usize> {
    let mut node = TomlNode::of(document.as_item());
    let mut span = None;
    for part in key.parts() {
        let Some((found, below)) = node.below(part) else { break };
        span = found.or(span);
        node = below;
    }
    span.map(|span| line_at(document.raw(), span.start))
}

/// What can have something below it in a document.
enum TomlNode<'a> {
    Table(&'a dyn TableLike),
    List(&'a Array),
    Tables(&'a ArrayOfTables),
    Leaf,
}

impl<'a> TomlNode<'a> {
    fn of(item: &'a Item) -> Self {
        match item {
            Item::None => Self::Leaf,
            Item::Value(value) => Self::of_value(value),
            Item::Table(table) => Self::Table(table),
            Item::ArrayOfTables(tables) => Self::Tables(tables),
        }
    }

    fn of_value(value: &'a TomlValue) -> Self {
        match value {
            TomlValue::InlineTable(table) => Self::Table(table),
            TomlValue::Array(list) => Self::List(list),
            _ => Self::Leaf,
        }
    }

    /// What stands under a key or at a place of a list, and its span.
    fn below(&self, part: &str) -> Option<(Option<Range<usize>>, Self)> {
        let place = || part.parse::<usize>().ok();
        match self {
            Self::Table(table) => {
                let (key, item) = table.get_key_value(part)?;
                Some((key.span().or_else(|| item.span()), Self::of(item)))
            }
            Self::List(list) => {
                let value = list.get(place()?)?;
                Some((value.span(), Self::of_value(value)))
            }
            Self::Tables(tables) => {
                let table = tables.get(place()?)?;
                Some((table.span(), Self::Table(table)))
            }
            Self::Leaf => None,
        }
    }
}

/// The line of a place in a text, counted from 1.
pub(crate) fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}
