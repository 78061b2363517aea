//! Which variables a template may use, by the setting that it stands in.

use super::Check;
use crate::config::channels::pattern_overlap::Glob;
use crate::config::problems::{Key, near};
use crate::text::template::{Part, Template, TemplateError};

/// The variables whose names can be misspelt.
const VARIABLES: [&str; 6] = ["channel", "pattern", "stream", "id", "json", "key"];

/// A setting that takes a template, and what its variables can come from.
#[derive(Clone, Copy)]
pub(super) enum Setting<'a> {
    /// Made from an event: a capture's stream, a field of `add`, a CloudEvents attribute.
    Event { channels: &'a [String], patterns: &'a [String] },
    /// Made from an entry: a broadcast's channel, a key of a cache.
    Entry,
    /// Made from an entry that a capture made of an event: a key of a cache.
    Stored { channels: &'a [String], patterns: &'a [String] },
    /// Made from an entry, and may be all of it: a broadcast's message.
    Message,
    /// Made from a key: its lease.
    Lease,
}

impl Check<'_> {
    /// A template all of whose variables have a value wherever it is used.
    pub(super) fn template(&mut self, key: &Key, text: &str, setting: Setting<'_>) -> Option<Template> {
        let template = match Template::parse(text) {
            Ok(template) => template,
            Err(error) => {
                let problem = self.layers.problem(key, format!("the template {error}"));
                let guess = match &error {
                    TemplateError::Unknown(name) => near(name, VARIABLES),
                    TemplateError::Empty | TemplateError::Unclosed | TemplateError::Pointer(..) => None,
                };
                self.problems.push(match guess {
                    Some(guess) => problem.help(guess),
                    None => problem,
                });
                return None;
            }
        };
        let mut good = true;
        for part in template.parts() {
            if let Some(reason) = refusal(part, setting) {
                self.report(key, reason);
                good = false;
            }
        }
        good.then_some(template)
    }
}

/// A template that a command is given: of a channel, or of a message, which may be the whole entry.
///
/// # Errors
/// Why it is none, or which variable has no value there.
pub(crate) fn of_entry(text: &str, message: bool) -> Result<Template, String> {
    let template = Template::parse(text).map_err(|error| format!("the template {error}"))?;
    let setting = if message { Setting::Message } else { Setting::Entry };
    match template.parts().iter().find_map(|part| refusal(part, setting)) {
        Some(reason) => Err(reason),
        None => Ok(template),
    }
}

/// Why a variable has no value in a setting.
fn refusal(part: &Part, setting: Setting<'_>) -> Option<String> {
    let variable = match part {
        Part::Literal(_) => return None,
        Part::Channel => "<channel>".to_owned(),
        Part::Pattern => "<pattern>".to_owned(),
        Part::Wildcard(number) => format!("<{number}>"),
        Part::Pointer(pointer) => format!("<pointer:{pointer}>"),
        Part::Field(name) => format!("<field:{name}>"),
        Part::Stream => "<stream>".to_owned(),
        Part::Id => "<id>".to_owned(),
        Part::Json => "<json>".to_owned(),
        Part::Key => "<key>".to_owned(),
    };
    let known = match (setting, part) {
        (Setting::Event { .. }, Part::Channel | Part::Pointer(_))
        | (
            Setting::Entry | Setting::Stored { .. } | Setting::Message,
            Part::Pointer(_) | Part::Field(_) | Part::Stream | Part::Id,
        )
        | (Setting::Message, Part::Json)
        | (Setting::Lease, Part::Key) => return None,
        (Setting::Event { channels, patterns }, Part::Pattern | Part::Wildcard(_))
        | (Setting::Stored { channels, patterns }, Part::Wildcard(_)) => {
            return pattern_refusal(&variable, part, channels, patterns);
        }
        (Setting::Event { .. }, _) => {
            "<channel> and <pointer:/PATH>, and with patterns alone <pattern> and <1> to <9>"
        }
        (Setting::Entry, _) => "<field:NAME>, <pointer:/PATH>, <stream> and <id>",
        (Setting::Stored { .. }, _) => {
            "<field:NAME>, <pointer:/PATH>, <stream> and <id>, and with patterns alone <1> to <9>"
        }
        (Setting::Message, _) => "<field:NAME>, <pointer:/PATH>, <stream>, <id> and <json>",
        (Setting::Lease, _) => "<key>",
    };
    Some(format!("{variable} means nothing here; a template may use {known}"))
}

/// A message that came by a plain channel has no pattern, and one by a pattern with fewer `*` has no
/// such part.
fn pattern_refusal(variable: &str, part: &Part, channels: &[String], patterns: &[String]) -> Option<String> {
    if !channels.is_empty() {
        return Some(format!(
            "{variable} has no value for messages of the plain channels; use it in a route with patterns alone"
        ));
    }
    let Part::Wildcard(number) = part else { return None };
    let few = patterns.iter().find(|pattern| Glob::parse(pattern.as_bytes()).stars() < usize::from(*number));
    few.map(|pattern| format!("{variable} has no value for the pattern \"{pattern}\": it has too few '*'"))
}
