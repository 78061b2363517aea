//! What an entry of a capture looks like, as it is written.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// What an entry looks like.
#[derive(Clone, Copy, Default, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// The fields channel, pattern (where one matched) and payload.
    #[default]
    Raw,
    /// The members of a JSON object as fields.
    Fields,
    /// A CloudEvents 1.0 document in the field event.
    CloudEvents,
}

/// Attributes of CloudEvents.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct CloudEvents {
    /// The attribute source, a template as for stream; without it "/tidegate/ROUTE".
    pub(crate) source: Option<String>,
    /// The attribute type, a template as for stream; without it "<channel>".
    pub(crate) r#type: Option<String>,
}

/// What is added to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Include {
    /// The event's position.
    Id,
    /// Milliseconds since 1970 by the daemon's clock.
    ReceivedAt,
    /// The channel that the message was published on. With format = "raw" it is there already.
    Channel,
    /// The pattern that matched, if one did. With format = "raw" it is there already.
    Pattern,
}

/// What the fields of an entry are called.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct FieldNames {
    /// The field of the channel; false for none.
    pub(crate) channel: Option<FieldName>,
    /// The field of the pattern; false for none.
    pub(crate) pattern: Option<FieldName>,
    /// The field of the payload, with format = "raw".
    pub(crate) payload: Option<String>,
    /// The field of the event, with format = "cloudevents".
    pub(crate) event: Option<String>,
    /// The field of the position, with include = ["id"].
    pub(crate) id: Option<String>,
    /// The field of the time, with include = ["received_at"].
    pub(crate) received_at: Option<String>,
}

/// A field's name, or false.
pub(crate) enum FieldName {
    /// It is called so.
    Named(String),
    /// The entry does not have it.
    LeftOut,
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = FieldName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field in quotes, or false for none")
            }

            fn visit_str<E>(self, name: &str) -> Result<FieldName, E> {
                Ok(FieldName::Named(name.to_owned()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<FieldName, E> {
                if value {
                    Err(E::invalid_value(Unexpected::Bool(value), &self))
                } else {
                    Ok(FieldName::LeftOut)
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for FieldName {
    fn schema_name() -> Cow<'static, str> {
        "FieldName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "const": false }] })
    }
}
