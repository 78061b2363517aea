//! The configuration as it counts: each value of the merged layers and each default, with where it comes from.
//!
//! Defaults are those of the JSON Schema, which is made from the raw types. An option without value and default is left
//! out, and so is a table that is not written, such as `tls`. A password is never in here.

use figment::value::{Dict, Value};
use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::layers::Layers;
use super::problems::{Key, Problems};
use crate::text::printable::is_harmful;

/// What stands for a password.
const HIDDEN: &str = "***";

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EffectiveValue {
    /// Its key, as in a file.
    pub key: String,
    /// The value.
    pub value: Json,
    /// Where it was written: file and line, environment variable, or command line. `None` for a default.
    pub from: Option<String>,
}

/// Every value, in the order of the keys.
///
/// # Errors
/// If the layers cannot be merged.
pub(super) fn values(layers: &Layers) -> Result<Vec<EffectiveValue>, Problems> {
    let merged = layers.merged()?;
    let schema = super::schema();
    let mut listing = Listing { layers, schema: &schema, values: Vec::new() };
    listing.table(&Key::default(), Some(&merged), Some(&schema));
    Ok(listing.values)
}

struct Listing<'a> {
    layers: &'a Layers,
    schema: &'a Json,
    values: Vec<EffectiveValue>,
}

impl<'a> Listing<'a> {
    /// A table: what is written in it, and the defaults of what is not.
    fn table(&mut self, key: &Key, written: Option<&Dict>, schema: Option<&'a Json>) {
        let properties = schema.and_then(|schema| self.properties(schema));
        let others = schema.and_then(|schema| schema.get("additionalProperties"));
        let mut names: Vec<&str> = written.into_iter().flat_map(Dict::keys).map(String::as_str).collect();
        names.extend(properties.into_iter().flat_map(Map::keys).map(String::as_str));
        names.sort_unstable();
        names.dedup();
        for name in names {
            let below = properties.and_then(|known| known.get(name)).or(others);
            let key = key.at(name);
            match written.and_then(|written| written.get(name)) {
                Some(Value::Dict(_, dict)) => self.table(&key, Some(dict), below),
                Some(value) => self.written(&key, value, below),
                None => self.default(&key, below),
            }
        }
    }

    fn written(&mut self, key: &Key, value: &Value, schema: Option<&Json>) {
        let of_server = key.parts()[0] == "redis";
        let value = match (key.parts().last().map(String::as_str), value) {
            (Some("password"), _) if of_server => HIDDEN.into(),
            (Some("url"), Value::String(_, url)) if of_server => without_password(url).into(),
            _ => serde_json::to_value(value).unwrap_or_default(),
        };
        let from = Some(self.layers.place(key).to_string());
        let value = match schema {
            Some(schema) => self.typed(value, schema),
            None => value,
        };
        self.values.push(EffectiveValue { key: written_key(key), value, from });
    }

    fn default(&mut self, key: &Key, schema: Option<&'a Json>) {
        let Some(schema) = schema else { return };
        match schema.get("default") {
            Some(Json::Null) => {}
            Some(value) => {
                self.values.push(EffectiveValue { key: written_key(key), value: value.clone(), from: None });
            }
            // A table that is always there. One that may be missing stands behind `anyOf`.
            None if schema.get("$ref").is_some() => self.table(key, None, Some(schema)),
            None => {}
        }
    }

    /// The options of a table, behind a reference or beside other forms of the value.
    fn properties(&self, schema: &'a Json) -> Option<&'a Map<String, Json>> {
        let forms = schema.get("anyOf").and_then(Json::as_array);
        let mut inner = forms.into_iter().flatten();
        let own = self.resolved(schema).get("properties").and_then(Json::as_object);
        own.or_else(|| inner.find_map(|form| self.properties(form))).or_else(|| {
            let resolved = self.resolved(schema);
            if std::ptr::eq(resolved, schema) { None } else { self.properties(resolved) }
        })
    }

    /// The environment has only text, which counts as a number or as true or false where no text is expected.
    fn typed(&self, value: Json, schema: &Json) -> Json {
        let Json::String(text) = &value else { return value };
        if self.takes(schema, "string") {
            return value;
        }
        let whole = text.parse::<u64>().ok().filter(|_| self.takes(schema, "integer")).map(Json::from);
        let either = || text.parse::<bool>().ok().filter(|_| self.takes(schema, "boolean")).map(Json::from);
        whole.or_else(either).unwrap_or(value)
    }

    fn takes(&self, schema: &Json, kind: &str) -> bool {
        let schema = self.resolved(schema);
        let forms = schema.get("anyOf").and_then(Json::as_array);
        match schema.get("type") {
            Some(Json::String(only)) => only == kind,
            Some(Json::Array(kinds)) => kinds.iter().any(|one| one == kind),
            _ => forms.into_iter().flatten().any(|form| self.takes(form, kind)),
        }
    }

    fn resolved<'s>(&self, schema: &'s Json) -> &'s Json
    where
        'a: 's,
    {
        let name = schema.get("$ref").and_then(Json::as_str).and_then(|to| to.strip_prefix("#/$defs/"));
        name.and_then(|name| self.schema.get("$defs")?.get(name)).unwrap_or(schema)
    }
}

/// The key as in a file: a part that is no bare key has quotes.
fn written_key(key: &Key) -> String {
    let parts = key.parts().iter().map(|part| toml_edit::Key::new(part).display_repr().into_owned());
    parts.collect::<Vec<_>>().join(".")
}

/// The URL with its user and without the password, in which no '@' stands for itself.
fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (credentials, host) = rest.rsplit_once('@')?;
        let (user, _) = credentials.split_once(':')?;
        Some(format!("{scheme}://{user}:{HIDDEN}@{host}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

impl EffectiveValue {
    /// The value as in a file, on one line.
    #[must_use]
    pub fn toml(&self) -> String {
        toml(&self.value)
    }
}

/// A value as in a file, on one line. What JSON escapes in a text, TOML escapes alike; the rest that must not be shown as
/// it is has the escapes of TOML.
pub(crate) fn toml(value: &Json) -> String {
    match value {
        Json::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Json::Object(items) => {
            let item = |(name, value): (&String, &Json)| {
                format!("{} = {}", toml_edit::Key::new(name).display_repr(), toml(value))
            };
            format!("{{ {} }}", items.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        other => {
            let shown = |c: char| match u32::from(c) {
                _ if !is_harmful(c) => c.to_string(),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            };
            other.to_string().chars().map(shown).collect()
        }
    }
}
