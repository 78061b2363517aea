//! From an entry to its channel and message.
//!
//! `<json>` is the whole entry, `{"id":"5-0","fields":{"sku":"7",…}}`, and the envelope the same behind
//! `"stream":"orders",`. Fields keep the entry's order, and repeated names are repeated. A value that is not UTF-8 is
//! `{"base64":"…"}`, such a name is `base64:…`.
//!
//! A template of one variable or of text alone returns the entry's own bytes, so the usual message, `<field:payload>`,
//! is copied only once, into the command.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::broadcast::message::withheld::{Unrenderable, Withheld};
use crate::config::{self, MessageFormat};
use crate::stream::entries::StreamEntry;
use crate::text::json_values::JsonValues;
use crate::text::origin;
use crate::text::template::{Part, Template};

/// A rendered entry: channel and message, or the reason why it is not published.
pub(crate) type Rendered<'a> = Result<(&'a [u8], &'a [u8]), Withheld>;

/// A route's two templates.
#[derive(Debug)]
pub(crate) struct Renderer {
    stream: String,
    channel: Vec<Part>,
    /// `None` for the envelope.
    message: Option<Vec<Part>>,
    max_message_bytes: u64,
    /// The payload's field: the source of the templates' values, and of the origins in an envelope.
    payload_field: String,
    /// The values of the payload that the templates name.
    values: JsonValues,
    /// The origin that each message is marked with.
    origin: Option<String>,
    /// Buffer for a rendered channel; reused for each entry.
    channel_text: Vec<u8>,
    message_text: Vec<u8>,
    marked_text: Vec<u8>,
}

impl Renderer {
    pub(crate) fn new(settings: &config::Broadcast) -> Self {
        let (stream, channel, message) = (settings.stream(), &settings.channel, &settings.message);
        Self {
            origin: settings.origin.clone(),
            ..Self::of_templates(stream, channel, message, &settings.payload_field, settings.max_message_size)
        }
    }

    /// A renderer for templates outside a route.
    pub(crate) fn of_templates(
        stream: &str,
        channel: &Template,
        message: &MessageFormat,
        payload_field: &str,
        max_message_bytes: u64,
    ) -> Self {
        let channel = channel.parts().to_vec();
        let message = match message {
            MessageFormat::Template(template) => Some(template.parts().to_vec()),
            MessageFormat::Envelope => None,
        };
        let values = JsonValues::of(channel.iter().chain(message.iter().flatten()));
        Self {
            stream: stream.to_owned(),
            channel,
            message,
            max_message_bytes,
            payload_field: payload_field.to_owned(),
            values,
            origin: None,
            channel_text: Vec::new(),
            message_text: Vec::new(),
            marked_text: Vec::new(),
        }
    }

    /// The channel and the message for an entry.
    pub(crate) fn render<'b>(
        &'b mut self,
        entry: &StreamEntry<'b>,
    ) -> Result<(&'b [u8], &'b [u8]), Unrenderable> {
        self.values.read(|| entry.field(self.payload_field.as_bytes()).unwrap_or_default());
        let source = EntryInput { stream: &self.stream, values: &self.values, entry };
        let channel = put(&self.channel, source, &mut self.channel_text)?;
        if channel.is_empty() {
            return Err(Unrenderable::EmptyChannel);
        }
        let message = match &self.message {
            Some(parts) => put(parts, source, &mut self.message_text)?,
            None => {
                self.message_text.clear();
                json(&mut self.message_text, Some(&self.stream), entry);
                &self.message_text
            }
        };
        let message = match &self.origin {
            None => message,
            Some(origin) => {
                let inside =
                    if self.message.is_none() { entry.field(self.payload_field.as_bytes()) } else { None };
                origin::mark(message, inside, origin, &mut self.marked_text).map_err(Unrenderable::Origin)?;
                &self.marked_text
            }
        };
        let bytes = u64::try_from(message.len()).unwrap_or(u64::MAX);
        if bytes > self.max_message_bytes {
            return Err(Unrenderable::TooLarge(bytes, self.max_message_bytes));
        }
        Ok((channel, message))
    }
}

/// The values for a template.
#[derive(Clone, Copy)]
struct EntryInput<'e, 'b> {
    stream: &'b str,
    values: &'b JsonValues,
    entry: &'e StreamEntry<'b>,
}

fn put<'b>(
    parts: &'b [Part],
    input: EntryInput<'_, 'b>,
    text: &'b mut Vec<u8>,
) -> Result<&'b [u8], Unrenderable> {
    if let [only] = parts
        && !matches!(only, Part::Json)
    {
        return piece(only, input);
    }
    text.clear();
    for part in parts {
        if matches!(part, Part::Json) {
            json(text, None, input.entry);
        } else {
            text.extend_from_slice(piece(part, input)?);
        }
    }
    Ok(text)
}

/// The value of a part other than `<json>`.
fn piece<'b>(part: &'b Part, input: EntryInput<'_, 'b>) -> Result<&'b [u8], Unrenderable> {
    let EntryInput { stream, values, entry } = input;
    match part {
        Part::Literal(text) => Ok(text.as_bytes()),
        Part::Field(name) => {
            entry.field(name.as_bytes()).ok_or_else(|| Unrenderable::MissingField(name.clone()))
        }
        Part::Pointer(pointer) => {
            values.get(pointer).ok_or_else(|| Unrenderable::MissingValue(pointer.to_string()))
        }
        Part::Stream => Ok(stream.as_bytes()),
        Part::Id => Ok(entry.id_text),
        // The configuration refuses these here; `<json>` is put by the caller.
        Part::Channel | Part::Pattern | Part::Wildcard(_) | Part::Json | Part::Key => {
            Err(Unrenderable::ForeignVariable)
        }
    }
}

fn json(out: &mut Vec<u8>, stream: Option<&str>, entry: &StreamEntry<'_>) {
    out.push(b'{');
    if let Some(stream) = stream {
        out.extend_from_slice(b"\"stream\":");
        quote(out, stream);
        out.push(b',');
    }
    out.extend_from_slice(b"\"id\":\"");
    out.extend_from_slice(entry.id_text);
    out.extend_from_slice(b"\",\"fields\":{");
    for (index, (name, value)) in entry.fields().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match std::str::from_utf8(name) {
            Ok(name) => quote(out, name),
            Err(_) => quote(out, &format!("base64:{}", STANDARD.encode(name))),
        }
        out.push(b':');
        if let Ok(value) = std::str::from_utf8(value) {
            quote(out, value);
        } else {
            out.extend_from_slice(b"{\"base64\":\"");
            out.extend_from_slice(STANDARD.encode(value).as_bytes());
            out.extend_from_slice(b"\"}");
        }
    }
    out.extend_from_slice(b"}}");
}

fn quote(out: &mut Vec<u8>, text: &str) {
    // A string always has a JSON form, and writing into a Vec cannot fail.
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::entries::StreamEntries;
    use crate::stream::entries::tests::reply;

    /// Stands for it in the place of a template.
    const ENVELOPE: &str = "";

    fn render(
        channel: &str,
        message: &str,
        fields: &[(&[u8], &[u8])],
    ) -> Result<(String, String), Unrenderable> {
        let message = match message {
            ENVELOPE => MessageFormat::Envelope,
            template => MessageFormat::Template(Template::parse(template).unwrap()),
        };
        let mut renderer =
            Renderer::of_templates("orders", &Template::parse(channel).unwrap(), &message, "payload", 64);
        renderer.channel_text.extend_from_slice(b"left over");
        renderer.message_text.extend_from_slice(b"left over");
        let reply = reply(&[("5-1", fields)]);
        let mut entries = StreamEntries::new(&reply, Vec::new()).unwrap();
        let entry = entries.next().unwrap().unwrap();
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        renderer.render(&entry).map(|(channel, message)| (text(channel), text(message)))
    }

    #[test]
    fn templates_take_fields_stream_and_id() {
        let fields: &[(&[u8], &[u8])] = &[(b"sku", b"7"), (b"payload", b"\xffx"), (b"sku", b"8")];
        let (channel, message) = render("stock.<field:sku>", "<field:payload>", fields).unwrap();
        assert_eq!((channel.as_str(), message.as_str()), ("stock.7", "\\xffx"));
        let (channel, message) = render("<stream>", "<id>=<field:sku>", fields).unwrap();
        assert_eq!((channel.as_str(), message.as_str()), ("orders", "5-1=7"));
    }

    #[test]
    fn templates_take_values_of_the_payload() {
        let fields: &[(&[u8], &[u8])] = &[(b"a", b"{\"a\":2}"), (b"payload", br#"{"a":"x","n":{"m":1.50}}"#)];
        let (channel, message) = render("c.<pointer:/a>", "<pointer:/n/m>", fields).unwrap();
        assert_eq!((channel.as_str(), message.as_str()), ("c.x", "1.50"));
        for (channel, message) in [("<pointer:/no>", "m"), ("c", "<pointer:/n>"), ("<pointer:>", "m")] {
            assert_eq!(render(channel, message, fields).unwrap_err().reason(), "missing_value");
        }
        assert_eq!(render("<pointer:/a>", "m", &fields[..1]).unwrap_err().reason(), "missing_value");
        assert_eq!(render("c", "<json>", &fields[..1]).unwrap().0, "c");
    }

    #[test]
    fn json_keeps_order_and_bytes() {
        let fields: &[(&[u8], &[u8])] = &[(b"b", b"1"), (b"a", b"\xff"), (b"b", b"\n"), (b"\xfe", b"")];
        let error = render("c", "<json>", fields).unwrap_err();
        assert_eq!(error, Unrenderable::TooLarge(79, 64));
        let (_, message) = render("c", "<json>", &fields[..3]).unwrap();
        // As shown by escape_ascii: every quote and backslash of the JSON text has one backslash more.
        assert_eq!(
            message.replace("\\\"", "\"").replace("\\\\", "\\"),
            r#"{"id":"5-1","fields":{"b":"1","a":{"base64":"/w=="},"b":"\n"}}"#
        );
        let (_, message) = render("c", ENVELOPE, &[(b"b", b"1")]).unwrap();
        assert_eq!(message.replace("\\\"", "\""), r#"{"stream":"orders","id":"5-1","fields":{"b":"1"}}"#);
    }

    #[test]
    fn what_cannot_be_published_says_why() {
        let fields: &[(&[u8], &[u8])] = &[(b"empty", b""), (b"long", &[b'x'; 65])];
        for (channel, message, reason) in [
            ("<field:no>", "m", "missing_field"),
            ("c", "<field:no>", "missing_field"),
            ("<field:empty>", "m", "empty_channel"),
            ("c", "<field:long>", "too_large"),
        ] {
            assert_eq!(render(channel, message, fields).unwrap_err().reason(), reason);
        }
        assert_eq!(render("c", "<field:empty>", fields).unwrap().1, "");
    }
}
