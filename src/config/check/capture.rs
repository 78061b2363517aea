//! `[capture.NAME]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Check;
use super::templates::Setting;
use crate::config::problems::Key;
use crate::config::raw::{self, defaults};
use crate::config::settings::{
    Capture, Endpoint, GroupsStart, Keep, Mode, OwnKeys, Prefer, Replication, UntilAcknowledged,
};
use crate::config::{is_notification, redis_keys};
use crate::text::template::{Part, Template};

impl Check<'_> {
    pub(super) fn capture(
        &mut self,
        key: &Key,
        name: &str,
        raw: raw::Capture,
        endpoints: &BTreeMap<String, Arc<Endpoint>>,
        memory_limit: u64,
    ) -> Option<Capture> {
        let source = self.endpoint_named(raw.source, &key.at("source"), endpoints);
        let destination = self.endpoint_named(raw.destination, &key.at("destination"), endpoints);
        let source_endpoint = source.as_ref().and_then(|name| endpoints.get(name));
        self.subscriptions(key, &raw.channels, &raw.patterns, source_endpoint.map(|at| &**at));
        let conditions = self.conditions(&key.at("where"), raw.r#where);
        self.origin(&key.at("origin"), raw.origin.as_deref());
        let event = Setting::Event { channels: &raw.channels, patterns: &raw.patterns };
        let stream = self
            .required(raw.stream, &key.at("stream"), "the name of a stream, or a template for it")
            .and_then(|text| self.template(&key.at("stream"), &text, event));
        if let Some(stream) = &stream {
            let endpoint = destination.as_ref().and_then(|name| endpoints.get(name));
            self.stream(&key.at("stream"), name, stream, endpoint.map(|at| &**at));
        }
        self.groups(key, &raw.groups, raw.groups_start.is_some());
        let keep = self.keep(&key.at("keep"), raw.keep);
        let format = self.format(key, name, raw.format.0, raw.cloudevents, event);
        let include = self.include(&key.at("include"), raw.format.0, &raw.include);
        let fields = self.field_names(&key.at("fields"), raw.fields, format.as_ref(), &include);
        let add = self.added(
            &key.at("add"),
            raw.add,
            event,
            format.as_ref().map(|format| fields.of_entry(format, &include)),
        );
        let replication = (raw.prefer.map(|word| word.0), raw.sharded, raw.min_backlog_cover);
        let mode = self.mode(key, raw.mode.0, replication);
        if mode.replication().is_some() {
            self.no_notifications(key, &raw.channels, &raw.patterns);
        }
        let max_streams = u32::try_from(raw.max_streams.0).unwrap_or_else(|_| {
            self.report(&key.at("max_streams"), format!("expected at most {}", u32::MAX));
            u32::MAX
        });
        let size = &key.at("max_message_size");
        let most = (512 << 20, "512MiB, the limit of Redis");
        let max_message_size = self.max_message_size(size, raw.max_message_size, memory_limit, most);
        Some(Capture {
            name: name.to_owned(),
            source: source?,
            channels: raw.channels,
            patterns: raw.patterns,
            mode,
            conditions,
            origin: raw.origin,
            reserved: destination
                .as_ref()
                .and_then(|name| endpoints.get(name))
                .map(|endpoint| endpoint.key_prefix.clone())
                .unwrap_or_default(),
            // Routes that are not checked yet may write there, too.
            own: OwnKeys::default(),
            destination: destination?,
            stream: stream?,
            groups: raw.groups,
            groups_start: raw.groups_start.map(|start| match start.0 {
                raw::GroupsStart::Beginning => GroupsStart::Beginning,
                raw::GroupsStart::End => GroupsStart::End,
            }),
            keep: keep?,
            format: format?,
            include,
            fields,
            add,
            max_streams,
            max_message_size,
        })
    }

    pub(super) fn mode(
        &mut self,
        key: &Key,
        mode: raw::Mode,
        (prefer, sharded, cover): (Option<raw::Prefer>, Option<bool>, Option<raw::Span>),
    ) -> Mode {
        match mode {
            raw::Mode::Subscribe => {
                for (given, option) in [
                    (prefer.is_some(), "prefer"),
                    (sharded.is_some(), "sharded"),
                    (cover.is_some(), "min_backlog_cover"),
                ] {
                    if given {
                        self.report(
                            &key.at(option),
                            "has no effect; expected mode = \"replication\" with it",
                        );
                    }
                }
                Mode::Subscribe
            }
            raw::Mode::Replication => Mode::Replication(Replication {
                prefer: match prefer {
                    None | Some(raw::Prefer::Replica) => Prefer::Replica,
                    Some(raw::Prefer::Master) => Prefer::Master,
                },
                sharded: sharded.unwrap_or_default(),
                min_backlog_cover: cover.unwrap_or_else(defaults::min_backlog_cover).0,
            }),
        }
    }

    /// A server tells its own subscribers of keyspace events, and writes none of that into its replication stream.
    pub(super) fn no_notifications(&mut self, key: &Key, channels: &[String], patterns: &[String]) {
        for (list, names) in [(key.at("channels"), channels), (key.at("patterns"), patterns)] {
            for (index, name) in names.iter().enumerate().filter(|(_, name)| is_notification(name)) {
                let message =
                    format!("\"{name}\": the replication stream does not contain keyspace notifications");
                let help = "capture them in a separate route with mode = \"subscribe\"";
                self.report_with(&list.at(&index.to_string()), message, help);
            }
        }
    }

    pub(super) fn subscriptions(
        &mut self,
        key: &Key,
        channels: &[String],
        patterns: &[String],
        source: Option<&Endpoint>,
    ) {
        let reported =
            |key: &Key| self.refused.iter().any(|refused| refused.parts().starts_with(key.parts()));
        let (in_channels, in_patterns) = (key.at("channels"), key.at("patterns"));
        if channels.is_empty() && patterns.is_empty() && !reported(&in_channels) && !reported(&in_patterns) {
            self.report(key, "names no channel; expected channels, patterns or both");
        }
        self.names(&in_channels, "channel", channels);
        self.names(&in_patterns, "pattern", patterns);
        let Some(source) = source else { return };
        let control = redis_keys::control(&source.key_prefix);
        for (list, names) in [(in_channels, channels), (in_patterns, patterns)] {
            for (index, name) in names.iter().enumerate().filter(|(_, name)| **name == control) {
                let message =
                    format!("\"{name}\" is the channel of tidegate's own heartbeats on this server");
                self.report(&list.at(&index.to_string()), message);
            }
        }
    }

    fn stream(&mut self, key: &Key, route: &str, stream: &Template, destination: Option<&Endpoint>) {
        if let Some(literal) = stream.literal() {
            self.name(key, "stream", literal);
        }
        // Of a template, what it begins with; what the message adds is checked when it comes.
        let [Part::Literal(begin), ..] = stream.parts() else { return };
        if let Some(endpoint) = destination.filter(|endpoint| begin.starts_with(&endpoint.key_prefix)) {
            let message = format!(
                "\"{begin}\": names that begin with \"{}\" are tidegate's own on this server",
                endpoint.key_prefix
            );
            self.report_with(key, message, format!("choose another name, such as \"{route}\""));
        }
    }

    fn groups(&mut self, key: &Key, groups: &[String], start_given: bool) {
        let list = key.at("groups");
        self.names(&list, "consumer group", groups);
        for (index, group) in
            groups.iter().enumerate().filter(|(_, group)| group.starts_with(redis_keys::OWN_GROUP))
        {
            let message =
                format!("\"{group}\": names that begin with \"tidegate:\" are for tidegate's own groups");
            self.report(&list.at(&index.to_string()), message);
        }
        if start_given && groups.is_empty() && !self.refused.contains(&list) {
            self.report(&key.at("groups_start"), "has no effect without groups");
        }
    }

    fn keep(&mut self, key: &Key, raw: Option<raw::Keep>) -> Option<Keep> {
        let expected = "{ entries = 1_000_000, age = \"7d\" }, one of the two, or \"forever\"";
        match self.required(raw, key, expected)? {
            raw::Keep::Forever(raw::Forever::Forever) => Some(Keep::Forever),
            raw::Keep::Limits(raw::KeepLimits { entries, age, until_acknowledged: groups }) => {
                let below = |refused: &Key| refused.parts().starts_with(key.parts());
                let refused = self.refused.iter().any(below);
                if age.is_some_and(|age| age.0.as_millis() == 0) {
                    self.report(&key.at("age"), "expected at least 1ms, or the stream would stay empty");
                }
                let (entries, age) = (entries.map(|entries| entries.0), age.map(|age| age.0));
                self.names(&key.at("until_acknowledged"), "consumer group", &groups);
                match (entries, age) {
                    (Some(entries), age) if !groups.is_empty() => {
                        Some(Keep::UntilAcknowledged(UntilAcknowledged { groups, entries, age }))
                    }
                    (None, _) if !groups.is_empty() => {
                        if !refused {
                            let message = "is missing; expected with until_acknowledged: the most entries that \
                                           stay while a group acknowledges nothing";
                            self.report(&key.at("entries"), message);
                        }
                        None
                    }
                    (None, None) => {
                        if !refused {
                            self.report(key, format!("is an empty table; expected {expected}"));
                        }
                        None
                    }
                    (entries, age) => Some(Keep::Limits { entries, age }),
                }
            }
        }
    }
}
