//! `[redis.NAME]`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::Check;
use crate::config::Secrets;
use crate::config::problems::Key;
use crate::config::raw;
use crate::config::secrets::certificates::{self, TlsFileError};
use crate::config::secrets::password::read_password;
use crate::config::secrets::{file, location};
use crate::config::settings::{
    Address, Durability, Endpoint, Reauthenticate, Secret, SecretSource, Sentinels, Servers, Tls,
};
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
                self.report(&key.at(option), "expected more than 0s");
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
        let tls = self.tls(key, raw.tls, parsed.as_ref());
        let further = self.addresses(&key.at("addresses"), &raw.addresses);
        let sentinels = raw.sentinel.map(|sentinel| {
            let made = self.sentinels(
                &key.at("sentinel"),
                name,
                sentinel,
                raw.connect_timeout,
                raw.response_timeout,
            );
            made.ok_or(())
        });
        let servers = parsed.as_ref().and_then(|parsed| self.servers(key, parsed, further, sentinels));
        let address_map = self.address_map(&key.at("address_map"), &raw.address_map);
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
                    "sets how many replicas must have what is stored",
                    "add durability = \"replicated\"",
                );
                Durability::Applied
            }
        };
        let password = self.password(key, in_url, raw.password, raw.password_file);
        let parsed = parsed?;
        Some(Endpoint {
            name: name.to_owned(),
            servers: servers?,
            address_map,
            username: parsed.username,
            password: password?,
            database: parsed.database,
            key_prefix: raw.key_prefix,
            connect_timeout: raw.connect_timeout.0,
            response_timeout: raw.response_timeout.0,
            durability,
            reauthenticate: match raw.reauthenticate.0 {
                raw::Reauthenticate::Changed => Reauthenticate::Changed,
                raw::Reauthenticate::Off => Reauthenticate::Off,
            },
            tls: tls?,
        })
    }

    /// Where the servers are: in the url and in `addresses`, or with the sentinels.
    fn servers(
        &mut self,
        key: &Key,
        url: &url::Parsed,
        further: Vec<Address>,
        sentinels: Option<Result<Sentinels, ()>>,
    ) -> Option<Servers> {
        match (&url.address, sentinels) {
            (Some(address), None) if further.is_empty() => Some(Servers::One(address.clone())),
            (Some(address), None) => {
                Some(Servers::Several(std::iter::once(address.clone()).chain(further).collect()))
            }
            (None, None) => {
                let help = "only with [redis.NAME.sentinel] a url has no host";
                self.report_with(&key.at("url"), url::UrlError::NoHost.to_string(), help);
                None
            }
            (None, Some(sentinels)) if further.is_empty() => {
                sentinels.ok().map(|sentinels| Servers::Sentinel(Box::new(sentinels)))
            }
            (address, Some(_)) => {
                let (option, help) = if address.is_some() {
                    ("url", "write it without a host, as redis://user@/0, or remove the table sentinel")
                } else {
                    ("addresses", "remove it, or the table sentinel")
                };
                self.report_with(&key.at(option), "the sentinels know where the servers are", help);
                None
            }
        }
    }

    /// `[redis.NAME.sentinel]`.
    fn sentinels(
        &mut self,
        key: &Key,
        deployment: &str,
        raw: raw::Sentinel,
        connect_timeout: raw::Span,
        response_timeout: raw::Span,
    ) -> Option<Sentinels> {
        let master =
            self.required(raw.master, &key.at("master"), "the name of the master, as the sentinels have it");
        if let Some(name) = &master
            && (name.is_empty() || name.contains(|c: char| c.is_control() || c.is_whitespace()))
        {
            self.report(&key.at("master"), "expected a name without spaces and control characters");
        }
        let at = key.at("addresses");
        let addresses = self.addresses(&at, &raw.addresses);
        if raw.addresses.is_empty() {
            self.report(&at, "is missing; expected the addresses of the sentinels, such as [\"host:26379\"]");
        }
        for (index, address) in addresses.iter().enumerate() {
            if addresses[..index].contains(address) {
                self.report(&at, format!("{address} is given twice; each sentinel counts once"));
            }
        }
        let password = self.password(key, None, raw.password, raw.password_file);
        let tls = match raw.tls {
            Some(tls) => self.certificates(&key.at("tls"), tls).map(Some),
            None => Some(None),
        };
        Some(Sentinels {
            master: master?,
            endpoint: Endpoint {
                name: Endpoint::name_of_sentinels(deployment),
                servers: Servers::Several(addresses),
                address_map: Vec::new(),
                username: raw.username,
                password: password?,
                database: 0,
                key_prefix: String::new(),
                connect_timeout: connect_timeout.0,
                response_timeout: response_timeout.0,
                durability: Durability::default(),
                reauthenticate: Reauthenticate::default(),
                tls: tls?,
            },
        })
    }

    /// `rediss://` is what turns TLS on, and nothing turns verification off.
    fn tls(&mut self, key: &Key, raw: Option<raw::Tls>, url: Option<&url::Parsed>) -> Option<Option<Tls>> {
        let (table, url) = (key.at("tls"), url?);
        let Some(raw) = raw else { return Some(url.tls.then(Tls::default)) };
        if !url.tls {
            let (message, help) = match url.address {
                Some(Address::Unix(_)) => ("TLS is not available on a unix socket", "remove the table"),
                _ => ("the url is without TLS", "begin it with rediss:// instead of redis://"),
            };
            self.report_with(&table, message, help);
            return None;
        }
        self.certificates(&table, raw).map(Some)
    }

    /// A table of certificates.
    fn certificates(&mut self, table: &Key, raw: raw::Tls) -> Option<Tls> {
        let mut file = |name: &str, value: Option<String>| match value {
            None => Some(None),
            Some(value) => self.file(&table.at(name), &value).map(Some),
        };
        let (ca_file, crl_file) = (file("ca_file", raw.ca_file), file("crl_file", raw.crl_file));
        let (certificate, own_key) = (file("cert_file", raw.cert_file), file("key_file", raw.key_file));
        let mut complete = ca_file.is_some() && crl_file.is_some();
        let client = match (certificate, own_key) {
            (Some(None), Some(None)) => None,
            (Some(Some(certificate)), Some(Some(own_key))) => Some((certificate, own_key)),
            (certificate, own_key) => {
                complete = false;
                match (certificate, own_key) {
                    (_, Some(None)) => self.report(&table.at("cert_file"), "expected key_file as well"),
                    (Some(None), _) => self.report(&table.at("key_file"), "expected cert_file as well"),
                    _ => {}
                }
                None
            }
        };
        if let Some(name) = raw.server_name.as_deref()
            && !is_host(name)
        {
            complete = false;
            self.report(
                &table.at("server_name"),
                "expected the name of a host or an address, without a port",
            );
        }
        let tls = Tls {
            ca_file: ca_file.flatten(),
            client,
            server_name: raw.server_name,
            crl_file: crl_file.flatten(),
            only_1_3: raw.min_version.0 == raw::TlsVersion::V13,
        };
        let problems = match self.secrets {
            Secrets::Read => certificates::problems(&tls),
            Secrets::Located => Vec::new(),
        };
        complete &= problems.is_empty();
        for TlsFileError { option, what, hint } in problems {
            self.report_with(&table.at(option), what, hint);
        }
        complete.then_some(tls)
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

    fn address_map(&mut self, key: &Key, texts: &BTreeMap<String, String>) -> Vec<(Address, Address)> {
        let mut map = Vec::new();
        for (told, reached) in texts {
            match (url::address(told), url::address(reached)) {
                (Ok(told @ Address::Tcp { .. }), Ok(reached)) => map.push((told, reached)),
                (Ok(Address::Unix(_)), _) => {
                    self.report(key, format!("servers never report a path such as {told:?}"))
                }
                (Err(error), _) => self.report(key, format!("{told:?} {error}")),
                (_, Err(error)) => self.report(key, format!("{reached:?} {error}")),
            }
        }
        map
    }

    fn key_prefix(&mut self, key: &Key, prefix: &str) {
        let printable = prefix.bytes().all(|byte| byte.is_ascii_graphic());
        if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !printable {
            self.report_with(
                key,
                format!("expected 1 to {MAX_PREFIX_BYTES} printable ASCII characters without a space"),
                "it separates the keys of tidegate from yours, and those of one tidegate from another",
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
            self.report_with(&inline_key, "a password is not allowed in a configuration file", help);
            return None;
        }
        let given = [
            (in_url.is_some(), "in url"),
            (inline.is_some(), "as password"),
            (file.is_some(), "as password_file"),
        ];
        let places: Vec<&str> = given.into_iter().filter_map(|(is, place)| is.then_some(place)).collect();
        if places.len() > 1 {
            let message = format!("the password is set {}; expected one of them", places.join(" and "));
            self.report(&key.at(if file.is_some() { "password_file" } else { "password" }), message);
            return None;
        }
        if inline.as_ref().is_some_and(|secret| secret.reveal().is_empty()) {
            self.report(&inline_key, "is empty; expected the password");
            return None;
        }
        let configuration = self.layers.file_of(&key.at("url"));
        match (in_url, inline, file) {
            (Some(secret), ..) => Some(match configuration {
                Some(path) => SecretSource::InConfiguration(secret, path.to_owned()),
                None => SecretSource::Inline(secret),
            }),
            (None, Some(secret), _) => Some(SecretSource::Inline(secret)),
            (None, None, Some(name)) => {
                self.password_file(&key.at("password_file"), &name).map(SecretSource::File)
            }
            (None, None, None) => Some(SecretSource::None),
        }
    }

    /// The file with the password. Where that is wanted it is read once, so that a mistake shows now and not at night.
    fn password_file(&mut self, key: &Key, name: &str) -> Option<PathBuf> {
        let path = self.file(key, name)?;
        if self.secrets == Secrets::Located {
            return Some(path);
        }
        match read_password(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                self.report(key, format!("the file {} {error}", path.display()));
                None
            }
        }
    }

    /// Finds a file and, where that is wanted, reads it once, so that a missing permission shows now and not at night. What it
    /// holds is dropped: each connect reads it again.
    fn file(&mut self, key: &Key, name: &str) -> Option<PathBuf> {
        let candidates = self.places.of(name);
        let found = location::first(&candidates);
        if self.secrets == Secrets::Located {
            return found.or(candidates.first()).cloned();
        }
        let Some(path) = found else {
            let looked: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            let help = "create the file, or pass it as a credential of the service manager";
            self.report_with(key, format!("there is no such file: {}", looked.join(", nor ")), help);
            return None;
        };
        match file::read(path) {
            Ok(_) => Some(path.clone()),
            Err(error) => {
                let help = match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "give read permission to the user that tidegate runs as"
                    }
                    _ => "put a regular file there",
                };
                self.report_with(key, format!("the file {} cannot be read: {error}", path.display()), help);
                None
            }
        }
    }
}

/// Returns whether a name can stand in a certificate.
fn is_host(name: &str) -> bool {
    rustls::pki_types::ServerName::try_from(name).is_ok()
}
