//! `[broadcast.NAME]`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Check;
use super::templates::Setting;
use crate::config::channels::lookup;
use crate::config::problems::{Key, near};
use crate::config::raw::{self, defaults};
use crate::config::redis_keys;
use crate::config::settings::{
    Acknowledged, After, Broadcast, Endpoint, MessageFormat, Order, Start, StreamPattern, Streams,
};
use crate::text::template::{Part, Template};

/// Each stream has two connections, or three across two servers, and a server has 10,000 by default.
const MOST_STREAMS: u32 = 1_000;
/// The largest message. An entry is read as a whole, in a reply of at most 64 MiB.
const MOST: (u64, &str) = (60 << 20, "60MiB, since an entry is read as a whole");

/// Returns whether a message can never be a JSON object.
fn is_no_object(message: &MessageFormat) -> bool {
    let MessageFormat::Template(template) = message else { return false };
    match template.parts() {
        [Part::Literal(text), ..] => !text.trim_ascii_start().starts_with('{'),
        [Part::Id | Part::Stream, ..] => true,
        _ => false,
    }
}

impl Check<'_> {
    pub(super) fn broadcast(
        &mut self,
        key: &Key,
        name: &str,
        raw: raw::Broadcast,
        endpoints: &BTreeMap<String, Arc<Endpoint>>,
        memory_limit: u64,
    ) -> Option<Broadcast> {
        let source = self.endpoint_named(raw.source, &key.at("source"), endpoints);
        let destination = self.endpoint_named(raw.destination, &key.at("destination"), endpoints);
        let reserved = source.as_ref().and_then(|name| endpoints.get(name)).map(|at| at.key_prefix.clone());
        let several = raw.streams.is_some();
        let streams = self.streams(key, raw.stream, raw.streams, raw.max_streams, reserved);
        let channel = self
            .required(raw.channel, &key.at("channel"), "the name of a channel, or a template for it")
            .and_then(|text| self.template(&key.at("channel"), &text, Setting::Entry));
        if let Some(channel) = &channel {
            let endpoint = destination.as_ref().and_then(|name| endpoints.get(name));
            self.channel(&key.at("channel"), channel, endpoint.map(|at| &**at));
        }
        let message = self.message(key, &raw.message, raw.envelope.0);
        let conditions = self.conditions(&key.at("where"), raw.r#where);
        self.origin(&key.at("origin"), raw.origin.as_deref());
        if raw.origin.is_some() && message.as_ref().is_some_and(is_no_object) {
            self.report_with(
                &key.at("origin"),
                "cannot travel with this message, which is no JSON object",
                "use envelope = \"json\", or a message that is a JSON object",
            );
        }
        self.name(&key.at("payload_field"), "field", &raw.payload_field);
        let start = match raw.start {
            None => None,
            Some(text) => Some(self.start(&key.at("start"), &text)?),
        };
        if several && raw.after != defaults::after() {
            self.report_with(
                &key.at("after"),
                "cannot be used with streams: a broadcast from several streams waits for no consumer group",
                "remove after, or make one route with stream for each stream",
            );
        }
        let after = self.after(key, raw.after, raw.order, raw.mode, raw.max_ack_pending);
        let size = &key.at("max_message_size");
        let max_message_size = self.max_message_size(size, raw.max_message_size, memory_limit, MOST);
        Some(Broadcast {
            name: name.to_owned(),
            source: source?,
            streams: streams?,
            after,
            destination: destination?,
            channel: channel?,
            message: message?,
            conditions,
            payload_field: raw.payload_field,
            origin: raw.origin,
            sharded: raw.sharded,
            rate_limit: raw.rate_limit.map(|rate| rate.0),
            max_deliveries: raw.max_deliveries.0,
            start,
            max_message_size,
        })
    }

    /// One stream by its name, or several by a pattern. `reserved` is what tidegate's own keys begin with there.
    fn streams(
        &mut self,
        key: &Key,
        stream: Option<String>,
        pattern: Option<String>,
        max_streams: Option<raw::Count>,
        reserved: Option<String>,
    ) -> Option<Streams> {
        let at = key.at("streams");
        let Some(pattern) = pattern else {
            if max_streams.is_some() {
                self.report(&key.at("max_streams"), "has no effect with stream; expected streams with it");
            }
            let expected = "the name of a stream, or streams with a pattern of names";
            let stream = self.required(stream, &key.at("stream"), expected)?;
            self.name(&key.at("stream"), "stream", &stream);
            return Some(Streams::One(stream));
        };
        if stream.is_some() {
            self.report_with(&at, "cannot be used with stream", "remove one of the two");
        }
        self.name(&at, "stream", &pattern);
        let reserved = reserved.unwrap_or_else(defaults::key_prefix);
        if pattern.starts_with(&reserved) {
            self.report(&at, format!("matches only tidegate's own keys, which begin with \"{reserved}\""));
        }
        // A rule for the keys of a user holds no space.
        if pattern.contains(char::is_whitespace) {
            self.report_with(&at, "has a space, which no ACL rule can hold", "write '?' in its place");
        }
        let max = max_streams.map_or(defaults::MAX_BROADCAST_STREAMS, |count| count.0);
        match u32::try_from(max) {
            Ok(max_streams @ 1..=MOST_STREAMS) => {
                Some(Streams::Matching(StreamPattern { pattern, max_streams, reserved }))
            }
            _ => {
                let message = format!("expected a number from 1 to {MOST_STREAMS}, found {max}");
                let why = "each stream has connections of its own";
                self.report_with(&key.at("max_streams"), message, why);
                None
            }
        }
    }

    /// The envelope holds the whole entry, so that a template beside it would say nothing.
    fn message(&mut self, key: &Key, template: &str, envelope: raw::Envelope) -> Option<MessageFormat> {
        match envelope {
            raw::Envelope::None => {
                self.template(&key.at("message"), template, Setting::Message).map(MessageFormat::Template)
            }
            raw::Envelope::Json if template == raw::defaults::message() => Some(MessageFormat::Envelope),
            raw::Envelope::Json => {
                self.report_with(
                    &key.at("message"),
                    "has no effect with envelope = \"json\", which makes the whole message",
                    "remove one of the two",
                );
                None
            }
        }
    }

    /// "added" is the one word that is no consumer group's name.
    fn after(
        &mut self,
        key: &Key,
        after: String,
        order: Option<raw::Word<raw::Order>>,
        mode: Option<raw::Word<raw::Watch>>,
        max_ack_pending: Option<raw::Count>,
    ) -> After {
        let at = &key.at("after");
        if after == "added" {
            for (given, option) in [
                (order.is_some(), "order"),
                (mode.is_some(), "mode"),
                (max_ack_pending.is_some(), "max_ack_pending"),
            ] {
                if given {
                    self.report(
                        &key.at(option),
                        "has no effect with after = \"added\"; expected the name of a consumer group there",
                    );
                }
            }
            return After::Added;
        }
        self.name(at, "consumer group", &after);
        if after.starts_with(redis_keys::OWN_GROUP) {
            let message =
                format!("\"{after}\": names that begin with \"tidegate:\" are for tidegate's own groups");
            self.report(at, message);
        }
        let order = match order.map(|word| word.0) {
            Some(raw::Order::Acknowledgement) => Order::Acknowledgement {
                max_ack_pending: max_ack_pending.map_or(defaults::MAX_ACK_PENDING, |count| count.0),
            },
            None | Some(raw::Order::Stream) => {
                if max_ack_pending.is_some() {
                    self.report(
                        &key.at("max_ack_pending"),
                        "has no effect; expected order = \"acknowledgement\" with it",
                    );
                }
                Order::Stream
            }
        };
        let replication = matches!(mode.map(|word| word.0), Some(raw::Watch::Replication));
        After::Acknowledged(Acknowledged { group: after, order, replication })
    }

    /// Never the control channel. A template is refused where its fixed beginning lies among
    /// tidegate's own names; one that begins with a field can only be watched at run time.
    fn channel(&mut self, key: &Key, channel: &Template, destination: Option<&Endpoint>) {
        if let Some(literal) = channel.literal() {
            self.name(key, "channel", literal);
        }
        let Some(endpoint) = destination else { return };
        if lookup::is_control(endpoint, channel) {
            let control = redis_keys::control(&endpoint.key_prefix);
            let message = format!("can publish on \"{control}\", the channel of tidegate's own heartbeats");
            self.report(key, message);
        }
    }

    fn start(&mut self, key: &Key, text: &str) -> Option<Start> {
        let id = || {
            let (milliseconds, sequence) = text.split_once('-')?;
            Some(Start::After(milliseconds.parse().ok()?, sequence.parse().ok()?))
        };
        let start = match text {
            "beginning" => Some(Start::Beginning),
            "end" => Some(Start::End),
            _ => id(),
        };
        if start.is_none() {
            let message = format!(
                "expected \"beginning\", \"end\" or the id of an entry such as \"1700000000000-0\", found \"{text}\""
            );
            let problem = self.layers.problem(key, message);
            self.problems.push(match near(text, ["beginning", "end"]) {
                Some(guess) => problem.help(guess),
                None => problem,
            });
        }
        start
    }
}
