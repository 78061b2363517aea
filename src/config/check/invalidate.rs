//! `[invalidate.NAME]`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Check;
use super::templates::Setting;
use crate::config::channels::loops;
use crate::config::channels::pattern_overlap::Glob;
use crate::config::problems::Key;
use crate::config::raw::{self, defaults};
use crate::config::read::element;
use crate::config::redis_keys;
use crate::config::settings::{
    Capture, Endpoint, FieldNames, Format, IfMissed, Invalidate, Keep, OwnKeys, SetValue, fixed_beginning,
};
use crate::text::template::{Part, Template};

/// Until then, the keys of each entry are held in memory or read from the stream once more.
const LONGEST_AGAIN: Duration = Duration::from_secs(3600);
/// Meanwhile readers get the old value.
const LONGEST_COLLECT: Duration = Duration::from_secs(10);
/// What the stream of channels keeps: an outage of the cache of a day.
const STORED_ENTRIES: u64 = 100_000;
const STORED_AGE: Duration = Duration::from_secs(24 * 3600);
/// Each is made of every entry.
const MOST_TEMPLATES: usize = 100;

impl Check<'_> {
    pub(super) fn invalidate(
        &mut self,
        key: &Key,
        name: &str,
        raw: raw::Invalidate,
        endpoints: &BTreeMap<String, Arc<Endpoint>>,
    ) -> Option<(Invalidate, Option<Capture>)> {
        let source = self.endpoint_named(raw.source, &key.at("source"), endpoints);
        let destination = self.endpoint_named(raw.destination, &key.at("destination"), endpoints);
        let (channels, patterns) = (raw.channels, raw.patterns);
        let at_source = source.as_ref().and_then(|name| endpoints.get(name));
        let stored = !channels.is_empty() || !patterns.is_empty();
        let stream = if stored {
            if raw.stream.is_some() {
                let help = "remove one of the two; what a capture stores is named with stream alone";
                self.report_with(&key.at("stream"), "cannot be used with channels or patterns", help);
            }
            let prefix = at_source.map_or_else(defaults::key_prefix, |source| source.key_prefix.clone());
            Some(redis_keys::of_route(&prefix, name, redis_keys::EVENTS))
        } else {
            if raw.mode.is_some() {
                self.report(
                    &key.at("mode"),
                    "has no effect with stream; expected channels or patterns with it",
                );
            }
            let expected = "the name of a stream, or channels or patterns";
            self.required(raw.stream, &key.at("stream"), expected)
        };
        if let Some(stream) = stream.as_ref().filter(|_| !stored) {
            self.name(&key.at("stream"), "stream", stream);
        }
        let mode = raw.mode.map_or(raw::Mode::Subscribe, |word| word.0);
        let capture = match (&source, &stream) {
            (Some(source), Some(stream)) if stored => {
                let at_source = at_source.map(|at| &**at);
                Some(self.stored(key, name, (source, stream), (&channels, &patterns), mode, at_source))
            }
            _ => None,
        };
        let at = |name: &Option<String>| name.as_ref().and_then(|name| endpoints.get(name)).cloned();
        let (from, cache) = (at(&source), at(&destination));
        let reserved = cache.as_ref().map_or_else(defaults::key_prefix, |cache| cache.key_prefix.clone());
        let here = stream.clone().unwrap_or_default();
        // Only on one server, in one database, can a key be the stream.
        let own_stream = from.zip(cache).is_some_and(|(from, cache)| {
            loops::same_server(&from, &cache) && from.database == cache.database
        });
        let own_stream = stream.as_deref().filter(|_| own_stream);
        let setting = if stored {
            Setting::Stored { channels: &channels, patterns: &patterns }
        } else {
            Setting::Entry
        };
        let keys = self.keys(&key.at("keys"), &raw.keys, setting, (&here, &reserved), own_stream);
        let lease = self.lease(&key.at("lease"), &raw.lease, &reserved);
        let set = match raw.set {
            Some(raw::Table(set)) => {
                self.set(key, set, keys.as_deref().unwrap_or_default(), setting).map(Some)
            }
            None => Some(None),
        };
        let again_after = raw.again_after.0;
        self.at_most(&key.at("again_after"), again_after, LONGEST_AGAIN);
        self.at_most(&key.at("collect"), raw.collect.0, LONGEST_COLLECT);
        let conditions = self.conditions(&key.at("where"), raw.r#where);
        self.name(&key.at("payload_field"), "field", &raw.payload_field);
        let route = Invalidate {
            name: name.to_owned(),
            source: source?,
            stream: stream?,
            // Captures that are not checked yet may write it, too.
            gaps: Vec::new(),
            destination: destination?,
            reserved,
            keys: keys?,
            lease: lease?,
            collect: raw.collect.0,
            again_after: (!again_after.is_zero()).then_some(again_after),
            if_missed: match raw.if_missed.0 {
                raw::IfMissed::Record => IfMissed::Record,
                raw::IfMissed::Clear => IfMissed::Clear,
            },
            set: set?,
            conditions,
            payload_field: raw.payload_field,
        };
        Some((route, capture))
    }

    /// The capture that channels stand for: into a stream of the source among tidegate's own keys.
    fn stored(
        &mut self,
        key: &Key,
        name: &str,
        (source, stream): (&str, &str),
        (channels, patterns): (&[String], &[String]),
        mode: raw::Mode,
        endpoint: Option<&Endpoint>,
    ) -> Capture {
        self.subscriptions(key, channels, patterns, endpoint);
        let mode = self.mode(key, mode, (None, None, None));
        if mode.replication().is_some() {
            self.no_notifications(key, channels, patterns);
        }
        Capture {
            name: format!("{name}-events"),
            source: source.to_owned(),
            channels: channels.to_vec(),
            patterns: patterns.to_vec(),
            mode,
            conditions: Vec::new(),
            origin: None,
            destination: source.to_owned(),
            reserved: endpoint.map(|endpoint| endpoint.key_prefix.clone()).unwrap_or_default(),
            own: OwnKeys::default(),
            stream: Template::of_text(stream),
            groups: Vec::new(),
            groups_start: None,
            keep: Keep::Limits { entries: Some(STORED_ENTRIES), age: Some(STORED_AGE) },
            format: Format::Raw,
            include: Vec::new(),
            fields: FieldNames::default(),
            add: Vec::new(),
            max_streams: u32::try_from(defaults::max_streams().0).unwrap_or(u32::MAX),
            max_message_size: defaults::max_message_size().0,
        }
    }

    fn at_most(&mut self, key: &Key, found: Duration, most: Duration) {
        if found > most {
            let [found, most] = [found, most].map(humantime::format_duration);
            self.report(key, format!("expected at most \"{most}\", found \"{found}\""));
        }
    }

    /// `reserved` is what tidegate's own keys begin with on the cache; `own_stream` is there where it is on the cache too.
    fn keys(
        &mut self,
        list: &Key,
        raw: &[String],
        setting: Setting<'_>,
        (stream, reserved): (&str, &str),
        own_stream: Option<&str>,
    ) -> Option<Vec<Template>> {
        if raw.is_empty() && self.refused.iter().all(|refused| !refused.parts().starts_with(list.parts())) {
            let expected = "the keys that an entry is about, such as [\"product:<pointer:/sku>\"]";
            self.report(list, format!("is missing; expected {expected}"));
        }
        if raw.len() > MOST_TEMPLATES {
            self.report(list, format!("has {} templates; at most {MOST_TEMPLATES}", raw.len()));
        }
        self.names(list, "key", raw);
        let mut keys = Vec::new();
        for (index, text) in raw.iter().enumerate() {
            let key = element(list, index, self.refused);
            let Some(template) = self.template(&key, text, setting) else { continue };
            self.not_own(&key, &template, (stream, reserved));
            let entries = Glob::name(stream.as_bytes());
            let made = Glob::of_entry(&template, &entries);
            if own_stream.is_some_and(|own| made.overlaps(&Glob::name(own.as_bytes()))) {
                let message =
                    format!("\"{text}\" can make the name of the stream itself, which would be removed");
                self.report_with(
                    &key,
                    message,
                    "put something in front that the stream's name does not begin with",
                );
            }
            keys.push(template);
        }
        (!keys.is_empty() && keys.len() == raw.len()).then_some(keys)
    }

    /// The inner `None` is no lease.
    fn lease(&mut self, key: &Key, text: &str, reserved: &str) -> Option<Option<Template>> {
        if text.is_empty() {
            return Some(None);
        }
        let template = self.template(key, text, Setting::Lease)?;
        let keys = template.parts().iter().filter(|part| matches!(part, Part::Key)).count();
        if keys != 1 || template.parts().len() < 2 {
            let message =
                "expected <key> once and something else, such as \"<key>:tidegate\"; \"\" for no lease";
            self.report(key, message);
            return None;
        }
        self.not_own(key, &template, ("", reserved));
        Some(Some(template))
    }

    /// Write-through: one value and its version, for each key of an entry.
    fn set(
        &mut self,
        route: &Key,
        raw: raw::SetValue,
        keys: &[Template],
        setting: Setting<'_>,
    ) -> Option<SetValue> {
        let key = route.at("set");
        let mut part = |name: &str, text: Option<String>, example: &str| {
            let at = key.at(name);
            let text = self.required(text, &at, example)?;
            let template = self.template(&at, &text, setting)?;
            if has_each(&template) {
                let help = "name one element by its place, such as /0, or the whole array";
                self.report_with(
                    &at,
                    format!("\"{text}\" has a step \"*\", which names several values"),
                    help,
                );
                return None;
            }
            Some(template)
        };
        let value = part("value", raw.value, "the value, such as \"<pointer:/product>\"");
        let version = part("version", raw.version, "its version, such as \"<pointer:/version>\"");
        if let Some(several) = keys.iter().find(|template| has_each(template)) {
            let help = "remove set, or write an entry for each key; keys that are to be removed belong in a route of \
                        their own";
            let message = format!(
                "cannot be used with \"{several}\" in keys: an entry has one value, and this makes several keys"
            );
            self.report_with(&key, message, help);
        }
        Some(SetValue { value: value?, version: version? })
    }

    /// Refuses a template whose keys may begin as those of tidegate do, among them the cursor. What begins with a key does
    /// not, where keys do not.
    fn not_own(&mut self, key: &Key, template: &Template, (stream, reserved): (&str, &str)) {
        let (beginning, whole) = fixed_beginning(template, stream);
        let begins = beginning.starts_with(reserved) || !whole && reserved.starts_with(&beginning);
        if begins && !matches!(template.parts(), [Part::Key, ..]) {
            let message = format!("\"{template}\" can make a key of tidegate's own (\"{reserved}…\")");
            self.report_with(key, message, "put something fixed in front");
        }
    }
}

/// Returns whether a template makes several texts of one entry.
fn has_each(template: &Template) -> bool {
    template
        .parts()
        .iter()
        .any(|part| matches!(part, Part::Pointer(pointer) if pointer.split_at_each().len() > 1))
}
