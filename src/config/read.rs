//! From the merged tree to the raw types, with every error instead of the first.
//!
//! serde stops at the first value that does not fit. So: note the error with its key, take the value
//! out of the tree, and read again, until what is left fits. Each round takes one value out, so it
//! ends. What was taken out counts as given when later checks look for what is missing.

mod reserved;

use figment::error::{Actual, Error, Kind};
use figment::value::{Dict, Value};

use super::layers::Layers;
use super::problems::{Key, Problem, Problems, near, one_of};
use super::raw::{Count, Raw};

/// Options that had another name before 0.1.0 was released.
const RENAMED: [(&str, &str); 1] = [("max_holes", "max_ack_pending")];

/// The tables that could be read.
pub(crate) struct ReadTables {
    /// The valid part.
    pub(crate) raw: Raw,
    /// The keys of the values that did not fit and were reported.
    pub(crate) refused: Vec<Key>,
}

/// Reads the tree; what does not fit is reported.
pub(crate) fn read(tree: Dict, layers: &Layers, problems: &mut Problems) -> ReadTables {
    let mut refused = Vec::new();
    let mut tree = Value::from(tree);
    for key in lists_for_tables(&tree) {
        problems.push(layers.problem(&key, "expected a table, found a list"));
        replace(&mut tree, key.parts(), None);
        refused.push(key);
    }
    loop {
        let error: Error = match tree.deserialize() {
            Ok(raw) => return ReadTables { raw, refused },
            Err(error) => error,
        };
        let key = as_written(&error.path, &refused);
        let value = value_in_text(&error.kind, &key, layers);
        if value.is_some_and(|value| replace(&mut tree, &error.path, Some(value))) {
            continue;
        }
        problems.push(problem(&error.kind, &key, layers));
        if !replace(&mut tree, &error.path, None) {
            return ReadTables { raw: Raw::default(), refused };
        }
        refused.push(key);
    }
}

/// Lists that stand where a table belongs. serde would fill the table from them by position.
fn lists_for_tables<'v>(tree: &'v Value) -> Vec<Key> {
    let mut found = Vec::new();
    for (name, value) in tree.as_dict().into_iter().flatten() {
        let top = Key::top(name);
        let below = value.as_dict().into_iter().flatten().map(|(name, value)| (top.at(name), value));
        let named: Vec<(Key, &Value)> = if name == "daemon" { Vec::new() } else { below.collect() };
        let in_named = |(key, value): &(Key, &'v Value), table: &str| {
            Some((key.at(table), value.as_dict()?.get(table)?))
        };
        let inner: Vec<(Key, &Value)> = named
            .iter()
            .flat_map(|found| ["cloudevents", "fields", "add"].map(|table| in_named(found, table)))
            .flatten()
            .collect();
        let tables = [(top, value)].into_iter().chain(named).chain(inner);
        found.extend(tables.filter(|(_, value)| value.as_array().is_some()).map(|(key, _)| key));
    }
    found
}

/// The key as it is in the file: elements of a list that were taken out before have moved the
/// ones behind them forward.
fn as_written(path: &[String], refused: &[Key]) -> Key {
    path.iter().fold(Key::default(), |list, part| match part.parse() {
        // Names of routes may be numbers; the first list stands below them.
        Ok(index) if list.parts().len() >= 3 => element(&list, index, refused),
        _ => list.at(part),
    })
}

/// The key of an element of a list, by its place among those that were not taken out.
pub(crate) fn element(list: &Key, mut index: usize, refused: &[Key]) -> Key {
    let mut taken: Vec<usize> = refused
        .iter()
        .filter_map(|key| key.parts().split_last().filter(|(_, above)| *above == list.parts()))
        .filter_map(|(last, _)| last.parse().ok())
        .collect();
    taken.sort_unstable();
    for earlier in taken {
        index += usize::from(earlier <= index);
    }
    list.at(&index.to_string())
}

/// The environment has only text: it becomes a number, true or false where one is expected, and nowhere else, so
/// that a name or a password made of digits stays what it is.
fn value_in_text(kind: &Kind, key: &Key, layers: &Layers) -> Option<Value> {
    let Kind::InvalidType(Actual::Str(text), expected) = kind else { return None };
    if layers.stands_in_file(key) {
        return None;
    }
    match expected.as_str() {
        Count::EXPECTED | "u32" => text.parse().ok().map(|number: u64| number.into()),
        "a boolean" => text.parse().ok().map(|value: bool| value.into()),
        _ => None,
    }
}

fn problem(kind: &Kind, key: &Key, layers: &Layers) -> Problem {
    match kind {
        Kind::UnknownField(..) if reserved::is_key(key) => layers
            .problem(key, "is not available in this version of tidegate")
            .help("remove it; the changelog lists the options of each version"),
        Kind::UnknownField(name, known) => {
            if let Some((_, new)) = RENAMED.iter().find(|(old, new)| old == name && known.contains(new)) {
                return layers
                    .problem(key, format!("is now called {new}"))
                    .help("rename it; its meaning is unchanged");
            }
            let names = format!("known here: {}", known.join(", "));
            let help = match near(name, known.iter().copied()) {
                Some(guess) => format!("{guess} ({names})"),
                None => names,
            };
            layers.problem(key, "is not a known key").help(help)
        }
        Kind::UnknownVariant(value, known) => {
            let message = format!("expected {}, found \"{value}\"", one_of(known.iter().copied()));
            let problem = layers.problem(key, message);
            match near(value, known.iter().copied()) {
                Some(guess) => problem.help(guess),
                None => problem,
            }
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            let message = format!("expected {}, found {}", plain(expected), shown(found, key, expected));
            layers.problem(key, message)
        }
        // No other kind arises from these types, and its text could hold a value: say only where.
        _ => layers.problem(key, "does not fit"),
    }
}

/// serde's words for an operator who knows TOML.
fn plain(expected: &str) -> &str {
    match expected {
        "a string" => "a text in quotes",
        "a sequence" => "a list in brackets, such as [\"a\", \"b\"]",
        "a map" => "a table",
        "a boolean" => "true or false",
        other => other,
    }
}

/// The value found, unless it may be a secret. In `[redis.NAME]`, a text instead of a list or table can be a whole URL.
fn shown(found: &Actual, key: &Key, expected: &str) -> String {
    let named = key.parts().iter().any(|part| part.contains("password") || part == "url");
    let of_server = key.parts().first().is_some_and(|part| part == "redis");
    let secret = named || of_server && matches!(expected, "a sequence" | "a map" | "a table");
    match found {
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        _ if secret => "something else".to_owned(),
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => format!("the number {value}"),
        Actual::Signed(value) => format!("the number {value}"),
        Actual::Float(value) => format!("the number {value}"),
        Actual::Char(value) => format!("\"{value}\""),
        Actual::Str(value) => format!("\"{value}\""),
        _ => "something else".to_owned(),
    }
}

/// Replaces or removes a value. Returns false if there is none.
fn replace(tree: &mut Value, path: &[String], with: Option<Value>) -> bool {
    match (tree, path) {
        (Value::Dict(_, dict), [last]) => match with {
            Some(value) => dict.insert(last.clone(), value).is_some(),
            None => dict.remove(last).is_some(),
        },
        (Value::Dict(_, dict), [first, rest @ ..]) => {
            dict.get_mut(first).is_some_and(|below| replace(below, rest, with))
        }
        (Value::Array(_, items), [first, rest @ ..]) => {
            let Some(at) = first.parse().ok().filter(|at: &usize| *at < items.len()) else { return false };
            match (rest, with) {
                ([], Some(value)) => items[at] = value,
                ([], None) => drop(items.remove(at)),
                (_, with) => return replace(&mut items[at], rest, with),
            }
            true
        }
        _ => false,
    }
}
