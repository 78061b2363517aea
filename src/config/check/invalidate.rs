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
use crate::config::settings::{Endpoint, Invalidate, fixed_beginning};
use crate::text::template::{Part, Template};

/// Until then, the keys of each entry are held in memory or read from the stream once more.
const LONGEST_AGAIN: Duration = Duration::from_secs(3600);
/// Meanwhile readers get the old value.
const LONGEST_COLLECT: Duration = Duration::from_secs(10);
/// Each is made of every entry.
const MOST_TEMPLATES: usize = 100;

impl Check<'_> {
    pub(super) fn invalidate(
        &mut self,
        key: &Key,
        name: &str,
        raw: raw::Invalidate,
        endpoints: &BTreeMap<String, Arc<Endpoint>>,
    ) -> Option<Invalidate> {
        let source = self.endpoint_named(raw.source, &key.at("source"), endpoints);
        let destination = self.endpoint_named(raw.destination, &key.at("destination"), endpoints);
        let stream = self.required(raw.stream, &key.at("stream"), "the name of a stream");
        if let Some(stream) = &stream {
            self.name(&key.at("stream"), "stream", stream);
        }
        let at = |name: &Option<String>| name.as_ref().and_then(|name| endpoints.get(name)).cloned();
        let (from, cache) = (at(&source), at(&destination));
        let reserved = cache.as_ref().map_or_else(defaults::key_prefix, |cache| cache.key_prefix.clone());
        let here = stream.clone().unwrap_or_default();
        // Only on one server, in one database, can a key be the stream.
        let own_stream = from.zip(cache).is_some_and(|(from, cache)| {
            loops::same_server(&from, &cache) && from.database == cache.database
        });
        let own_stream = stream.as_deref().filter(|_| own_stream);
        let keys = self.keys(&key.at("keys"), &raw.keys, (&here, &reserved), own_stream);
        let lease = self.lease(&key.at("lease"), &raw.lease, &reserved);
        let again_after = raw.again_after.0;
        self.at_most(&key.at("again_after"), again_after, LONGEST_AGAIN);
        self.at_most(&key.at("collect"), raw.collect.0, LONGEST_COLLECT);
        let conditions = self.conditions(&key.at("where"), raw.r#where);
        self.name(&key.at("payload_field"), "field", &raw.payload_field);
        Some(Invalidate {
            name: name.to_owned(),
            source: source?,
            stream: stream?,
            destination: destination?,
            reserved,
            keys: keys?,
            lease: lease?,
            collect: raw.collect.0,
            again_after: (!again_after.is_zero()).then_some(again_after),
            conditions,
            payload_field: raw.payload_field,
        })
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
            let Some(template) = self.template(&key, text, Setting::Entry) else { continue };
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
