//! `[redis.NAME]`.

use std::fs;
use std::path::PathBuf;

use super::Check;
use crate::config::Secrets;
use crate::config::credentials;
use crate::config::problems::Key;
use crate::config::raw;
use crate::config::settings::{Address, Durability, Endpoint, Secret, SecretSource};
use crate::config::url;

/// The longest key prefix: it is repeated in every key and channel of tidegate's own.
const MAX_PREFIX_BYTES: usize = 64;

impl Check<'_> {
    pub(super) fn endpoint(&mut self, key: &Key, name: &str, raw: raw::Endpoint) -> Option<Endpoint> {
        self.key_prefix(&key.at("key_prefix"), &raw.key_prefix);
        for (timeout, option) in
            [(raw.connect_timeout, "connect_timeout"), (raw.response_timeout, "response_timeout")]
        {
            if timeout.0.is_zero() {
                self.report(&key.at(option), "expected more than no time at all");
            }
        }
        let text = self.required(raw.url, &key.at("url"), "a URL such as \"redis://host:6379\"");
        let parsed = text.and_then(|text| match url::parse(text.reveal()) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.report(&key.at("url"), error.to_string());
                None
            }
        });
        let further = self.addresses(&key.at("addresses"), &raw.addresses);
        let in_url = parsed.as_ref().and_then(|parsed| parsed.password.clone());
        let durability = match (raw.durability.0, raw.replicas) {
            (raw::Durability::Applied, None) => Durability::Applied,
            (raw::Durability::Fsynced, None) => Durability::Fsynced,
            (raw::Durability::Replicated, replicas) => {
                if replicas == Some(0) {
                    self.report(&key.at("replicas"), "expected at least 1");
                }
                Durability::Replicated(replicas.unwrap_or(1))
            }
            (raw::Durability::Applied | raw::Durability::Fsynced, Some(_)) => {
                self.report_with(
                    &key.at("replicas"),
                    "this says how many replicas must have what is stored",
                    "it needs durability = \"replicated\"",
                );
                Durability::Applied
            }
        };
        let password = self.password(key, in_url, raw.password, raw.password_file);
        let parsed = parsed?;
        Some(Endpoint {
            name: name.to_owned(),
            address: parsed.address,
            further,
            username: parsed.username,
            password: password?,
            database: parsed.database,
            key_prefix: raw.key_prefix,
            connect_timeout: raw.connect_timeout.0,
            response_timeout: raw.response_timeout.0,
            durability,
        })
    }

    fn addresses(&mut self, key: &Key, texts: &[String]) -> Vec<Address> {
        let mut addresses = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match url::address(text) {
                Ok(address) => addresses.push(address),
                Err(error) => self.report(&key.at(&index.to_string()), error.to_string()),
            }
        }
        addresses
    }

    fn key_prefix(&mut self, key: &Key, prefix: &str) {
        let printable = prefix.bytes().all(|byte| byte.is_ascii_graphic());
        if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !printable {
            self.report_with(
                key,
                format!("expected 1 to {MAX_PREFIX_BYTES} printable ASCII characters without a space"),
                "it tells the keys of tidegate from yours, and one tidegate's from another's",
            );
        }
    }

    /// The one place that the password comes from.
    fn password(
        &mut self,
        key: &Key,
        in_url: Option<Secret>,
        inline: Option<Secret>,
        file: Option<String>,
    ) -> Option<SecretSource> {
        let inline_key = key.at("password");
        if inline.is_some() && self.layers.stands_in_file(&inline_key) {
            let variable = inline_key.parts().join("__").to_uppercase();
            let help = format!(
                "put it into a file that only tidegate may read and name that with password_file, \
                 or set the environment variable TIDEGATE_{variable}"
            );
            self.report_with(&inline_key, "a password does not stand in a configuration file", help);
            return None;
        }
        let given = [
            (in_url.is_some(), "in url"),
            (inline.is_some(), "as password"),
            (file.is_some(), "as password_file"),
        ];
        let places: Vec<&str> = given.into_iter().filter_map(|(is, place)| is.then_some(place)).collect();
        if places.len() > 1 {
            let message = format!("the password is given {}; expected one of them", places.join(" and "));
            self.report(&key.at(if file.is_some() { "password_file" } else { "password" }), message);
            return None;
        }
        if inline.as_ref().is_some_and(|secret| secret.reveal().is_empty()) {
            self.report(&inline_key, "is empty; expected the password");
            return None;
        }
        match (in_url.or(inline), file) {
            (Some(secret), _) => Some(SecretSource::Inline(secret)),
            (None, Some(name)) => self.password_file(&key.at("password_file"), &name).map(SecretSource::File),
            (None, None) => Some(SecretSource::None),
        }
    }

    /// Finds the file and, where that is wanted, reads it once, so that a missing right shows now and not at night.
    /// What it holds is dropped: each connect reads it again.
    fn password_file(&mut self, key: &Key, name: &str) -> Option<PathBuf> {
        let candidates = self.places.of(name);
        let found = credentials::first(&candidates);
        if self.secrets == Secrets::Located {
            return found.or(candidates.first()).cloned();
        }
        let Some(path) = found else {
            let looked: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            let help = "make the file, or let the service manager hand it over as a credential";
            self.report_with(key, format!("there is no such file: {}", looked.join(", nor ")), help);
            return None;
        };
        match fs::read_to_string(path) {
            Ok(text) if text.trim_end_matches(['\r', '\n']).is_empty() => {
                self.report(key, format!("the file {} is empty; expected the password", path.display()));
                None
            }
            Ok(_) => Some(path.clone()),
            Err(error) => {
                let help = "let the user that tidegate runs as read it";
                self.report_with(key, format!("the file {} cannot be read: {error}", path.display()), help);
                None
            }
        }
    }
}
