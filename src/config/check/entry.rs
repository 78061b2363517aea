//! What an entry of a capture looks like: format, added fields and the names of all.

use std::collections::{BTreeMap, HashSet};

use super::Check;
use super::templates::Setting;
use crate::config::problems::Key;
use crate::config::raw::{self, defaults};
use crate::config::read::element;
use crate::config::settings::{AddedField, FieldNames, Format, Include};

/// The most fields that a route adds: each is put together for every message.
const MAX_ADDED: usize = 100;

impl Check<'_> {
    pub(super) fn format(
        &mut self,
        key: &Key,
        route: &str,
        format: raw::Format,
        attributes: Option<raw::CloudEvents>,
        event: Setting<'_>,
    ) -> Option<Format> {
        let table = key.at("cloudevents");
        match (format, attributes) {
            (raw::Format::CloudEvents, attributes) => {
                let raw::CloudEvents { source, r#type } = attributes.unwrap_or_default();
                let source = source.unwrap_or_else(|| defaults::cloudevents_source(route));
                let r#type = r#type.unwrap_or_else(|| defaults::CLOUDEVENTS_TYPE.to_owned());
                let source = self.template(&table.at("source"), &source, event);
                let r#type = self.template(&table.at("type"), &r#type, event);
                Some(Format::CloudEvents { source: source?, r#type: r#type? })
            }
            (other, attributes) => {
                if attributes.is_some() {
                    self.report(&table, "has no effect; expected format = \"cloudevents\" with it");
                }
                Some(match other {
                    raw::Format::Fields => Format::Fields,
                    raw::Format::Raw | raw::Format::CloudEvents => Format::Raw,
                })
            }
        }
    }

    pub(super) fn include(
        &mut self,
        key: &Key,
        format: raw::Format,
        raw: &[raw::Word<raw::Include>],
    ) -> Vec<Include> {
        let mut seen = HashSet::new();
        let checked = |(index, word): (usize, &raw::Word<raw::Include>)| {
            let include = match word.0 {
                raw::Include::Id => Include::Id,
                raw::Include::ReceivedAt => Include::ReceivedAt,
                raw::Include::Channel => Include::Channel,
                raw::Include::Pattern => Include::Pattern,
            };
            let key = element(key, index, self.refused);
            if !seen.insert(word.0) {
                self.report(&key, "is listed twice");
                return None;
            }
            if matches!(format, raw::Format::Raw) && matches!(include, Include::Channel | Include::Pattern) {
                let message =
                    format!("is in every entry of format = \"raw\": remove \"{}\" here", include.as_str());
                self.report(&key, message);
                return None;
            }
            Some(include)
        };
        raw.iter().enumerate().filter_map(checked).collect()
    }

    /// What the fields are called. Each name that is given is one of a field that the entries have, and none is given
    /// to two.
    pub(super) fn field_names(
        &mut self,
        key: &Key,
        raw: Option<raw::FieldNames>,
        format: Option<&Format>,
        include: &[Include],
    ) -> FieldNames {
        let default = FieldNames::default();
        let (Some(raw), Some(format)) = (raw, format) else { return default };
        let there: Vec<&str> =
            default.of_entry(format, include).into_iter().map(|(field, _)| field).collect();
        for (field, given) in [
            ("channel", raw.channel.is_some()),
            ("pattern", raw.pattern.is_some()),
            ("payload", raw.payload.is_some()),
            ("event", raw.event.is_some()),
            ("id", raw.id.is_some()),
            ("received_at", raw.received_at.is_some()),
        ] {
            if given && !there.contains(&field) {
                let message = format!("has no effect; expected {} with it", needed(field));
                self.report(&key.at(field), message);
            }
        }
        let included = |field| !matches!(format, Format::Raw) && there.contains(&field);
        let [channel, pattern] = ["channel", "pattern"].map(included);
        let names = FieldNames {
            channel: self.field_or_none(&key.at("channel"), raw.channel, default.channel, channel),
            pattern: self.field_or_none(&key.at("pattern"), raw.pattern, default.pattern, pattern),
            payload: self.field_name(&key.at("payload"), raw.payload, default.payload),
            event: self.field_name(&key.at("event"), raw.event, default.event),
            id: self.field_name(&key.at("id"), raw.id, default.id),
            received_at: self.field_name(&key.at("received_at"), raw.received_at, default.received_at),
        };
        let found = names.of_entry(format, include);
        for (at, (field, name)) in found.iter().enumerate() {
            let Some((other, _)) = found[..at].iter().find(|(_, other)| other == name) else { continue };
            // By default each is called as its key, so one of the two has a new name.
            let (renamed, other) = if field == name { (other, field) } else { (field, other) };
            let message =
                format!("\"{name}\" is the name of the field \"{other}\" already: choose another name");
            self.report(&key.at(renamed), message);
        }
        names
    }

    /// The fields that are added, beside those that are there.
    pub(super) fn added(
        &mut self,
        key: &Key,
        raw: BTreeMap<String, String>,
        event: Setting<'_>,
        there: Option<Vec<(&'static str, &str)>>,
    ) -> Vec<AddedField> {
        if raw.len() > MAX_ADDED {
            self.report(key, format!("adds {} fields; at most {MAX_ADDED}", raw.len()));
        }
        let there = there.unwrap_or_default();
        let mut added = Vec::new();
        for (name, value) in raw {
            let at = key.at(&name);
            self.name(&at, "field", &name);
            if let Some((field, _)) = there.iter().find(|(_, taken)| *taken == name) {
                let message = format!("\"{name}\" is the name of the field \"{field}\" already");
                self.report_with(
                    &at,
                    message,
                    format!("choose another name here, or for \"{field}\" in fields"),
                );
            }
            if let Some(value) = self.template(&at, &value, event) {
                added.push(AddedField { name, value });
            }
        }
        added
    }

    fn field_name(&mut self, key: &Key, raw: Option<String>, default: String) -> String {
        let Some(name) = raw else { return default };
        self.name(key, "field", &name);
        name
    }

    fn field_or_none(
        &mut self,
        key: &Key,
        raw: Option<raw::FieldName>,
        default: Option<String>,
        included: bool,
    ) -> Option<String> {
        match raw {
            None => default,
            Some(raw::FieldName::Named(name)) => {
                self.name(key, "field", &name);
                Some(name)
            }
            Some(raw::FieldName::LeftOut) => {
                if included {
                    self.report(key, "leaves out what include adds: remove one of the two");
                }
                None
            }
        }
    }
}

/// What gives an entry a field.
fn needed(field: &str) -> String {
    match field {
        "payload" => "format = \"raw\"".to_owned(),
        "event" => "format = \"cloudevents\"".to_owned(),
        included => format!("include = [\"{included}\"]"),
    }
}
