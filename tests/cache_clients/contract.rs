//! The contract as text: cases, and the steps of each.

use std::ops::RangeInclusive;

use serde_json::Value;

/// A reader's number within its case.
pub(crate) type Reader = u32;

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Each with the line that it stands in.
    pub(crate) steps: Vec<(String, Step)>,
}

#[derive(Debug)]
pub(crate) enum Step {
    /// How long the helper waits for the load of another, or for an answer.
    HelperWaits {
        seconds: String,
        answer: bool,
    },
    /// Its loads give a version as well.
    HelperKeepsVersions,
    Gets {
        readers: RangeInclusive<Reader>,
        key: String,
        twice: bool,
    },
    /// A function that makes the key of its argument.
    Calls {
        reader: Reader,
        argument: String,
    },
    Loads(Reader),
    Loaded(Reader, Value),
    LoadedAt {
        reader: Reader,
        value: Value,
        version: Value,
    },
    Fails(Reader, String),
    Got(Reader, Value),
    GotTheFailure(Reader, String),
    /// Each gets it; one that loads is given it.
    AllGot(RangeInclusive<Reader>, Value),
    Changed(Vec<String>),
    Redis {
        words: Vec<String>,
        reply: Reply,
    },
    RedisWasAsked {
        times: u64,
        command: String,
    },
    RedisIsKilled,
    RedisIsFrozen,
}

#[derive(Debug)]
pub(crate) enum Reply {
    Is(String),
    MoreThan(i64),
}

impl Case {
    /// Whether it is for helpers that keep versions.
    pub(crate) fn has_versions(&self) -> bool {
        self.steps.iter().any(|(_, step)| matches!(step, Step::HelperKeepsVersions))
    }
}

/// The cases of a contract.
pub(crate) fn cases(text: &str) -> Vec<Case> {
    let parts = text.split("\n# ").skip(1);
    let cases = parts.map(|part| {
        let mut lines = part.lines();
        let name = lines.next().unwrap().to_owned();
        let steps = lines.filter(|line| !line.is_empty()).map(|line| {
            let step = step(line).unwrap_or_else(|| panic!("{name}: no step: {line}"));
            (line.to_owned(), step)
        });
        let steps = steps.collect();
        Case { name, steps }
    });
    cases.collect()
}

fn step(line: &str) -> Option<Step> {
    if line == "the helper keeps versions" {
        return Some(Step::HelperKeepsVersions);
    }
    if let Some(rest) = line.strip_prefix("the helper waits ") {
        let (seconds, what) = rest.split_once(" s for ")?;
        let answer = match what {
            "an answer" => true,
            "another's load" => false,
            _ => return None,
        };
        return Some(Step::HelperWaits { seconds: seconds.to_owned(), answer });
    }
    if let Some(keys) = line.strip_prefix("the writer changed ") {
        return Some(Step::Changed(words(keys)));
    }
    if let Some(rest) = line.strip_prefix("readers ") {
        let (first, rest) = rest.split_once(" to ")?;
        let (last, does) = rest.split_once(' ')?;
        return of_readers(first.parse().ok()?..=last.parse().ok()?, does);
    }
    if let Some(rest) = line.strip_prefix("reader ") {
        let (reader, does) = rest.split_once(' ')?;
        return of_reader(reader.parse().ok()?, does);
    }
    of_redis(line.strip_prefix("redis ")?)
}

fn of_readers(readers: RangeInclusive<Reader>, does: &str) -> Option<Step> {
    if let Some(key) = does.strip_prefix("gets ").or_else(|| does.strip_prefix("get ")) {
        let twice = key.strip_suffix(", sending each SET twice");
        let key = twice.unwrap_or(key).to_owned();
        return Some(Step::Gets { readers, key, twice: twice.is_some() });
    }
    let value = does.strip_prefix("got ")?.strip_suffix(", or loaded it")?;
    Some(Step::AllGot(readers, serde_json::from_str(value).ok()?))
}

fn of_reader(reader: Reader, does: &str) -> Option<Step> {
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    let text = |quoted: &str| json(quoted)?.as_str().map(str::to_owned);
    if let Some(argument) = does.strip_prefix("calls the function of product:{0} with ") {
        Some(Step::Calls { reader, argument: argument.to_owned() })
    } else if does == "loads" {
        Some(Step::Loads(reader))
    } else if let Some((value, version)) =
        does.strip_prefix("loaded ").and_then(|loaded| loaded.split_once(" at version "))
    {
        Some(Step::LoadedAt { reader, value: json(value)?, version: json(version)? })
    } else if let Some(value) = does.strip_prefix("loaded ") {
        Some(Step::Loaded(reader, json(value)?))
    } else if let Some(error) = does.strip_prefix("fails with ") {
        Some(Step::Fails(reader, text(error)?))
    } else if let Some(error) = does.strip_prefix("got the failure ") {
        Some(Step::GotTheFailure(reader, text(error)?))
    } else if let Some(value) = does.strip_prefix("got ") {
        Some(Step::Got(reader, json(value)?))
    } else {
        of_readers(reader..=reader, does)
    }
}

fn of_redis(does: &str) -> Option<Step> {
    match does {
        "is killed" => return Some(Step::RedisIsKilled),
        "is frozen" => return Some(Step::RedisIsFrozen),
        _ => {}
    }
    if let Some(rest) = does.strip_prefix("has been asked ") {
        let (times, command) = rest.split_once(" times to ")?;
        return Some(Step::RedisWasAsked { times: times.parse().ok()?, command: command.to_lowercase() });
    }
    if let Some((command, reply)) = does.split_once(" = ") {
        return Some(Step::Redis { words: words(command), reply: Reply::Is(reply.to_owned()) });
    }
    let (command, least) = does.split_once(" > ")?;
    Some(Step::Redis { words: words(command), reply: Reply::MoreThan(least.parse().ok()?) })
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
