//! Entries as the sink gets them, for each format.

use std::time::Duration;

use super::*;
use crate::config::{AddedField, FieldNames, Keep, Mode, OwnKeys};
use crate::text::template::Template;

#[derive(Default)]
struct Entry {
    stream: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl FieldSink for Entry {
    fn stream(&mut self, name: &[u8]) {
        assert!(self.stream.is_empty() && self.fields.is_empty(), "the stream comes once and first");
        self.stream = name.to_vec();
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.fields.push((name.to_vec(), value.to_vec()));
    }
}

fn settings(stream: &str, format: Format) -> Capture {
    Capture {
        name: "orders".into(),
        source: "shop".into(),
        channels: vec![],
        patterns: vec!["orders.*".into()],
        mode: Mode::Subscribe,
        conditions: vec![],
        origin: None,
        destination: "events".into(),
        reserved: "tidegate:".into(),
        own: OwnKeys::default(),
        stream: Template::parse(stream).unwrap(),
        groups: vec![],
        groups_start: None,
        keep: Keep::Limits { entries: None, age: Some(Duration::from_secs(60)) },
        format,
        include: vec![],
        fields: FieldNames::default(),
        add: vec![],
        max_streams: 2,
        max_message_size: 64 * 1024,
    }
}

fn cloudevents() -> Format {
    Format::CloudEvents {
        source: Template::parse("/redis/\"shop\"/<channel>").unwrap(),
        r#type: Template::parse("com.example.<1>").unwrap(),
    }
}

fn message<'a>(channel: &'a str, payload: &'a [u8]) -> Message<'a> {
    Message { channel: channel.as_bytes(), pattern: Some(b"orders.*"), payload }
}

fn map(mapping: &mut Mapping, message: &Message<'_>) -> Result<Entry, Rejection> {
    let mut entry = Entry::default();
    let context = Context { position: &"5-abc-7", received_unix_ms: 1_700_000_000_123 };
    mapping.map(message, message.payload.len(), &context, &mut entry).map(|()| entry)
}

fn fields(entry: &Entry) -> Vec<(&str, &str)> {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    entry.fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

#[test]
fn raw_keeps_bytes_and_names_the_pattern_where_one_matched() {
    let mut mapping = Mapping::new(&settings("orders", Format::Raw));
    let entry = map(&mut mapping, &message("orders.eu", b"\xff\x00")).unwrap();
    assert_eq!(entry.stream, b"orders");
    assert_eq!(
        entry.fields,
        [
            (b"channel".to_vec(), b"orders.eu".to_vec()),
            (b"pattern".to_vec(), b"orders.*".to_vec()),
            (b"payload".to_vec(), b"\xff\x00".to_vec()),
        ]
    );
    let plain = Message { channel: b"orders.eu", pattern: None, payload: b"x" };
    let entry = map(&mut mapping, &plain).unwrap();
    assert_eq!(fields(&entry), [("channel", "orders.eu"), ("payload", "x")]);
}

#[test]
fn included_values_stand_behind_a_raw_message_and_before_members() {
    let both = vec![Include::Id, Include::ReceivedAt];
    let mut mapping = Mapping::new(&Capture { include: both.clone(), ..settings("s", Format::Raw) });
    let entry = map(&mut mapping, &Message { channel: b"c", pattern: None, payload: b"p" }).unwrap();
    assert_eq!(
        fields(&entry),
        [("channel", "c"), ("payload", "p"), ("id", "5-abc-7"), ("received_at", "1700000000123")]
    );
    let mut mapping = Mapping::new(&Capture { include: both, ..settings("s", Format::Fields) });
    let entry = map(&mut mapping, &message("orders.x", b"{\"a\":1}")).unwrap();
    assert_eq!(fields(&entry), [("id", "5-abc-7"), ("received_at", "1700000000123"), ("a", "1")]);
}

#[test]
fn fields_are_called_and_left_out_as_the_configuration_says() {
    let names = FieldNames {
        channel: Some("topic".into()),
        pattern: None,
        payload: "data".into(),
        id: "position".into(),
        ..FieldNames::default()
    };
    let with = |format, include: &[Include], fields: &FieldNames| {
        let include = include.to_vec();
        Mapping::new(&Capture { include, fields: fields.clone(), ..settings("s", format) })
    };
    let mut mapping = with(Format::Raw, &[Include::Id], &names);
    let entry = map(&mut mapping, &message("orders.x", b"p")).unwrap();
    assert_eq!(fields(&entry), [("topic", "orders.x"), ("data", "p"), ("position", "5-abc-7")]);
    let alone = FieldNames { channel: None, ..names };
    let entry = map(&mut with(Format::Raw, &[], &alone), &message("orders.x", b"p")).unwrap();
    assert_eq!(fields(&entry), [("data", "p")]);
    let event = FieldNames { event: "data".into(), ..FieldNames::default() };
    let entry =
        map(&mut with(cloudevents(), &[Include::Channel], &event), &message("orders.x", b"p")).unwrap();
    assert_eq!(entry.fields[0].0, b"data");
    assert_eq!(fields(&entry)[1..], [("channel", "orders.x")]);
}

#[test]
fn an_entry_of_members_says_where_its_message_came_from() {
    let include = vec![Include::Channel, Include::Pattern];
    let mut mapping = Mapping::new(&Capture { include, ..settings("s", Format::Fields) });
    let entry = map(&mut mapping, &message("orders.x", b"{\"channel\":1}")).unwrap();
    assert_eq!(fields(&entry), [("channel", "orders.x"), ("pattern", "orders.*"), ("channel", "1")]);
    let plain = Message { channel: b"c", pattern: None, payload: b"{}" };
    assert_eq!(fields(&map(&mut mapping, &plain).unwrap()), [("channel", "c")]);
    // Without a pattern nothing is left.
    let mut mapping =
        Mapping::new(&Capture { include: vec![Include::Pattern], ..settings("s", Format::Fields) });
    assert_eq!(map(&mut mapping, &plain).err().unwrap().reason, RejectReason::NoFields);
}

#[test]
fn members_become_fields_as_they_are_written() {
    let mut mapping = Mapping::new(&settings("s", Format::Fields));
    let json = br#" {"z":"a\nb\u00e9","n":1.50,"big":12345678901234567890123,"o":{"k": [1, 2]},"z":null,"t":true,"":""} "#;
    let entry = map(&mut mapping, &message("orders.x", json)).unwrap();
    assert_eq!(
        fields(&entry),
        [
            ("z", "a\nbé"),
            ("n", "1.50"),
            ("big", "12345678901234567890123"),
            ("o", "{\"k\": [1, 2]}"),
            ("z", "null"),
            ("t", "true"),
            ("", ""),
        ]
    );
}

#[test]
fn what_is_no_object_of_fields_is_rejected_with_its_reason() {
    let mut mapping = Mapping::new(&settings("s", Format::Fields));
    let members = |count: usize| {
        let members: Vec<String> = (0..count).map(|number| format!("\"f{number}\":{number}")).collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    };
    let cases: [(&[u8], RejectReason); 9] = [
        (b"", RejectReason::NotJsonObject),
        (b"[1]", RejectReason::NotJsonObject),
        (b"\"a\"", RejectReason::NotJsonObject),
        (b"{\"a\":1", RejectReason::NotJsonObject),
        (b"{\"a\":1} x", RejectReason::NotJsonObject),
        (b"{\"a\":\"\\ud800\"}", RejectReason::NotJsonObject),
        (b"{\"a\":\"\xff\"}", RejectReason::NotJsonObject),
        (b"{}", RejectReason::NoFields),
        (&members(1001), RejectReason::TooManyFields),
    ];
    for (payload, reason) in cases {
        let rejection = map(&mut mapping, &message("orders.x", payload)).err().unwrap();
        assert_eq!(rejection.reason, reason, "{}", payload.escape_ascii());
    }
    assert_eq!(map(&mut mapping, &message("orders.x", &members(1000))).unwrap().fields.len(), 1000);
}

#[test]
fn a_message_over_the_limit_is_rejected() {
    let mut mapping = Mapping::new(&settings("s", Format::Raw));
    let limit = vec![b'x'; 64 * 1024];
    assert!(map(&mut mapping, &message("orders.x", &limit)).is_ok());
    let over = vec![b'x'; 64 * 1024 + 1];
    let rejection = map(&mut mapping, &message("orders.x", &over)).err().unwrap();
    assert_eq!(rejection.reason, RejectReason::TooLarge);
    assert_eq!(rejection.to_string(), "too_large: the payload has 65537 bytes, max_message_size is 65536");
}

#[test]
fn streams_are_named_from_the_message() {
    let mut mapping = Mapping::new(&settings("s:<1>:<channel>", Format::Raw));
    for (channel, expected) in
        [("orders.a", "s:a:orders.a"), ("orders.", "s::orders."), ("orders.b", "s:b:orders.b")]
    {
        assert_eq!(map(&mut mapping, &message(channel, b"")).unwrap().stream, expected.as_bytes());
    }
}

#[test]
fn a_template_that_asks_for_what_is_not_there_says_so() {
    let mut mapping = Mapping::new(&settings("s:<2>", Format::Raw));
    let rejection = map(&mut mapping, &message("orders.x", b"")).err().unwrap();
    assert_eq!(
        rejection.to_string(),
        "missing_variable: a template uses <2>, but the pattern 'orders.*' has only 1 '*'"
    );
    let plain = Message { channel: b"c", pattern: None, payload: b"" };
    assert_eq!(map(&mut mapping, &plain).err().unwrap().reason, RejectReason::MissingVariable);
}

fn added(name: &str, value: &str) -> AddedField {
    AddedField { name: name.into(), value: Template::parse(value).unwrap() }
}

#[test]
fn names_and_fields_are_made_from_values_of_the_payload() {
    let add = vec![
        added("trace", "<pointer:/trace/parent>"),
        added("from", "<1>@<pointer:/tenant>"),
        added("v", "1"),
    ];
    let with = |format| Capture { add: add.clone(), ..settings("{<pointer:/tenant>}:<1>", format) };
    let payload = br#"{"tenant":"ac\u006de","trace":{"parent":7}}"#;
    let extra = [("trace", "7"), ("from", "eu@acme"), ("v", "1")];
    let entry = map(&mut Mapping::new(&with(Format::Raw)), &message("orders.eu", payload)).unwrap();
    assert_eq!(entry.stream, b"{acme}:eu");
    assert_eq!(fields(&entry)[3..], extra, "behind the message");
    let entry = map(&mut Mapping::new(&with(Format::Fields)), &message("orders.eu", payload)).unwrap();
    assert_eq!(fields(&entry)[..3], extra, "before the members");
    let entry = map(&mut Mapping::new(&with(cloudevents())), &message("orders.eu", payload)).unwrap();
    assert_eq!(fields(&entry)[1..], extra, "behind the event");

    let format = Format::CloudEvents {
        source: Template::parse("/a").unwrap(),
        r#type: Template::parse("<pointer:/t>").unwrap(),
    };
    let mut mapping = Mapping::new(&settings("s", format));
    assert!(event(&mut mapping, "orders.x", br#"{"t":"a b"}"#).contains(r#""type":"a%20b""#));
    assert_eq!(
        map(&mut mapping, &message("orders.x", b"{}")).err().unwrap().reason,
        RejectReason::MissingVariable
    );
}

#[test]
fn a_message_without_the_value_that_a_template_names_is_rejected() {
    let of_stream = settings("s:<pointer:/t>", Format::Raw);
    let of_field = Capture { add: vec![added("t", "<pointer:/t>")], ..settings("s", Format::Raw) };
    for settings in [of_stream, of_field] {
        let mut mapping = Mapping::new(&settings);
        let payloads: [&[u8]; 8] = [
            b"",
            b"text",
            b"{}",
            b"[1]",
            br#"{"t":null}"#,
            br#"{"t":{}}"#,
            br#"{"t":["x"]}"#,
            br#"{"t":"x""#,
        ];
        for payload in payloads {
            let rejection = map(&mut mapping, &message("orders.x", payload)).err().unwrap();
            assert_eq!(
                rejection.to_string(),
                "missing_variable: a template uses <pointer:/t>, but the payload has no text, number, true or false there",
                "{}",
                payload.escape_ascii()
            );
        }
        assert!(map(&mut mapping, &message("orders.x", br#"{"t":""}"#)).is_ok(), "an empty text is one");
    }
}

#[test]
fn a_name_from_a_payload_obeys_the_rules_of_one_from_a_channel() {
    let mut mapping =
        Mapping::new(&Capture { max_message_size: 8 << 20, ..settings("<pointer:/t>", Format::Raw) });
    let mut reason = |name: &str| {
        let payload = serde_json::json!({ "t": name }).to_string();
        map(&mut mapping, &message("orders.x", payload.as_bytes()))
            .map(|entry| entry.stream.len())
            .map_err(|r| r.reason)
    };
    assert_eq!(reason("tidegate:orders:gaps"), Err(RejectReason::ReservedName));
    assert_eq!(reason(""), Err(RejectReason::MissingVariable));
    assert_eq!(reason(&"n".repeat(CHANNEL_BYTES)), Ok(CHANNEL_BYTES));
    assert_eq!(reason(&"n".repeat(CHANNEL_BYTES + 1)), Err(RejectReason::StreamTooLong));
    assert_eq!(reason("é\0\n"), Ok(4));
    let mut mapping = Mapping::new(&settings("<1>", Format::Raw));
    let rejection = map(&mut mapping, &message("orders.", b"")).err().unwrap();
    assert_eq!(
        rejection.to_string(),
        "missing_variable: the template results in an empty name for the stream"
    );
}

#[test]
fn added_fields_are_no_longer_than_a_message_may_be() {
    let add = (0..3).map(|n| added(&n.to_string(), "<pointer:/t>")).collect();
    let mut mapping = Mapping::new(&Capture { add, ..settings("s", Format::Raw) });
    let mut with = |bytes: usize| {
        let payload = format!("{{\"t\":\"{}\"}}", "x".repeat(bytes));
        map(&mut mapping, &message("orders.x", payload.as_bytes())).map_err(|rejection| rejection.reason)
    };
    assert!(with(64 * 1024 / 3).is_ok());
    assert_eq!(with(64 * 1024 / 3 + 1).err(), Some(RejectReason::TooLarge));
}

fn event(mapping: &mut Mapping, channel: &str, payload: &[u8]) -> String {
    let entry = map(mapping, &message(channel, payload)).unwrap();
    assert_eq!(entry.fields.len(), 1);
    assert_eq!(entry.fields[0].0, b"event");
    let document = String::from_utf8(entry.fields[0].1.clone()).unwrap();
    serde_json::from_str::<serde_json::Value>(&document).unwrap();
    document
}

#[test]
fn a_cloudevent_carries_json_text_or_bytes() {
    let mut mapping = Mapping::new(&settings("s", cloudevents()));
    let head = r#"{"specversion":"1.0","id":"5-abc-7","source":"/redis/\"shop\"/orders.a%20b%25","type":"com.example.a%20b%25","time":"2023-11-14T22:13:20.123Z","#;
    for (payload, tail) in [
        (b" {\"n\": 1.50} ".as_slice(), r#""datacontenttype":"application/json","data":{"n": 1.50}}"#),
        (b"17", r#""datacontenttype":"application/json","data":17}"#),
        (b"a \"b\"\n", r#""datacontenttype":"text/plain","data":"a \"b\"\n"}"#),
        (b"", r#""datacontenttype":"text/plain","data":""}"#),
        (b"\xff\x00", r#""datacontenttype":"application/octet-stream","data_base64":"/wA="}"#),
    ] {
        assert_eq!(event(&mut mapping, "orders.a b%", payload), format!("{head}{tail}"));
    }
}

#[test]
fn a_cloudevent_carries_well_formed_tracing() {
    let mut mapping = Mapping::new(&settings("s", cloudevents()));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let read = |document: String, name: &str| {
        let document: serde_json::Value = serde_json::from_str(&document).unwrap();
        document.get(name).map(|value| value.as_str().unwrap().to_owned())
    };
    let good = format!("{{\"tracestate\":\"a=b\",\"traceparent\":\"{parent}\",\"n\":1}}");
    let document = event(&mut mapping, "orders.x", good.as_bytes());
    assert_eq!(read(document.clone(), "traceparent").as_deref(), Some(parent));
    assert_eq!(read(document, "tracestate").as_deref(), Some("a=b"));
    for without in [
        format!("{{\"deep\":{{\"traceparent\":\"{parent}\"}}}}"),
        "{\"traceparent\":7}".to_owned(),
        "{\"traceparent\":\"00-0\",\"tracestate\":\"a=b\"}".to_owned(),
        format!("[\"traceparent\",\"{parent}\"]"),
    ] {
        let document = event(&mut mapping, "orders.x", without.as_bytes());
        assert_eq!(read(document.clone(), "traceparent"), None, "{without}");
        assert_eq!(read(document, "tracestate"), None, "{without}");
    }
}

#[test]
fn an_attribute_that_would_be_empty_is_rejected() {
    let format = Format::CloudEvents {
        source: Template::parse("<1>").unwrap(),
        r#type: Template::parse("t").unwrap(),
    };
    let mut mapping = Mapping::new(&settings("s", format));
    let rejection = map(&mut mapping, &message("orders.", b"")).err().unwrap();
    assert_eq!(rejection.reason, RejectReason::MissingVariable);
}
