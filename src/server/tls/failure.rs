//! Errors of TLS, and advice to the operator.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

use super::names::ShortKey;
use crate::config::{Endpoint, TlsFileError};
use crate::rt;
use crate::server::error::TlsFailure;

/// Most names of a certificate that an error lists.
const MAX_SHOWN_NAMES: usize = 8;

/// Where the configuration has what an error is about: its keys, and the files that they name.
#[derive(Debug, Clone)]
pub(in crate::server) struct TlsPlace {
    /// The table, such as `redis.shop.tls`.
    table: String,
    /// The keys with the hosts; `None` if sentinels report them.
    hosts: Option<String>,
    /// Whose certificate is verified.
    peer: &'static str,
    /// The scheme turns TLS on, or the sentinels' table does.
    turned_on_by: String,
    authorities: Option<String>,
    lists: Option<String>,
    own: Option<String>,
}

impl TlsPlace {
    pub(in crate::server) fn of(endpoint: &Endpoint) -> Self {
        let files = endpoint.tls.as_ref();
        let shown = |path: &std::path::PathBuf| path.display().to_string();
        Self {
            table: endpoint.key("tls"),
            hosts: endpoint.hosts_key(),
            peer: if endpoint.is_sentinels() { "sentinel" } else { "server" },
            turned_on_by: endpoint.encryption_key(),
            authorities: files.and_then(|tls| tls.ca_file.as_ref()).map(shown),
            lists: files.and_then(|tls| tls.crl_file.as_ref()).map(shown),
            own: files.and_then(|tls| tls.client.as_ref()).map(|(certificate, _)| shown(certificate)),
        }
    }

    /// The key of an option of the table.
    pub(super) fn option(&self, name: &str) -> String {
        format!("{}.{name}", self.table)
    }

    /// An error of one of the files.
    pub(super) fn file_failure(&self, TlsFileError { option, what, hint }: TlsFileError) -> TlsFailure {
        TlsFailure::new(format!("TLS: {}: {what}", self.option(option)), Some(hint.to_owned()))
    }

    /// An error of a handshake, or of an open connection.
    pub(super) fn failure(&self, error: &Error) -> TlsFailure {
        let (what, hint) = match error {
            Error::InvalidCertificate(error) => self.of_certificate(error),
            Error::InvalidCertRevocationList(error) => (
                format!("the list of revoked certificates cannot be used ({})", word(error)),
                Some(format!("put a list of the {}'s issuer into {}", self.peer, self.lists())),
            ),
            other => (other.to_string(), self.hint(other)),
        };
        TlsFailure::new(format!("TLS: {what}"), hint)
    }

    /// An error of a handshake in which these names were tried, which an error about names lists.
    pub(super) fn handshake_failure(&self, error: &Error, tried: &[String]) -> TlsFailure {
        let failure = self.failure(error);
        let Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }) = error else {
            return failure;
        };
        let what = format!("{failure}, but tidegate expects one of {}", tried.join(", "));
        TlsFailure::new(what, failure.hint().map(str::to_owned))
    }

    fn hint(&self, error: &Error) -> Option<String> {
        let peer = self.peer;
        Some(match error {
            Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired => format!(
                    "the {peer} requires a client certificate (tls-auth-clients); set cert_file and key_file in {}",
                    self.table
                ),
                AlertDescription::UnknownCA => {
                    format!("the {peer} does not trust the issuer of {}", self.own())
                }
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown => {
                    format!("the {peer} rejects tidegate's certificate; check {}", self.own())
                }
                // Before TLS 1.3 this is also how a missing client certificate is refused.
                AlertDescription::HandshakeFailure => format!(
                    "no common cipher, or the {peer} requires a client certificate; set cert_file and key_file in {}",
                    self.table
                ),
                AlertDescription::ProtocolVersion => format!(
                    "no common version of TLS; check {} and the {peer}'s tls-protocols",
                    self.option("min_version")
                ),
                AlertDescription::UnrecognisedName => {
                    format!("the {peer} does not know the name; set {}", self.option("server_name"))
                }
                _ => return None,
            },
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
                format!("this port does not use TLS; {}, or use the tls-port", self.turned_on_by)
            }
            Error::PeerIncompatible(_) => {
                format!("no common version of TLS or no common cipher; check {}", self.option("min_version"))
            }
            _ => return None,
        })
    }

    fn of_certificate(&self, error: &CertificateError) -> (String, Option<String>) {
        let peer = self.peer;
        let its = format!("the {peer}'s certificate");
        let (what, hint) = match error {
            CertificateError::UnknownIssuer => {
                (format!("the issuer of {its} is unknown (UnknownIssuer)"), self.wrong_authorities())
            }
            CertificateError::BadSignature => {
                (format!("{its} is not signed by a known issuer (BadSignature)"), self.wrong_authorities())
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let presented = shown_names(presented);
                let name = self.option("server_name");
                let hint = match &self.hosts {
                    Some(hosts) => format!("use a host of the certificate in {hosts}, or set {name}"),
                    None => format!("set {name} to a name of the certificate"),
                };
                (format!("{its} is for {presented}"), hint)
            }
            CertificateError::ExpiredContext { not_after, .. } => {
                let at = date(not_after.as_secs());
                (
                    format!("{its} expired at {at}"),
                    format!("renew the {peer}'s certificate, or correct the clock"),
                )
            }
            CertificateError::NotValidYetContext { not_before, .. } => (
                format!("{its} is not valid before {}", date(not_before.as_secs())),
                "correct the clock, or install a certificate that is valid already".to_owned(),
            ),
            CertificateError::Revoked => (
                format!("{its} is revoked (Revoked)"),
                format!("install a new one on the {peer}; the list is {}", self.lists()),
            ),
            CertificateError::UnknownRevocationStatus => (
                format!("no list tells whether {its} is revoked (UnknownRevocationStatus)"),
                format!("add the list of every issuer in its chain to {}", self.lists()),
            ),
            CertificateError::ExpiredRevocationListContext { next_update, .. } => (
                format!("the list of revoked certificates expired at {}", date(next_update.as_secs())),
                format!("put a newer list into {}", self.lists()),
            ),
            CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => (
                format!("{its} is not for servers (InvalidPurpose)"),
                "create it again with the extendedKeyUsage serverAuth, or without any".to_owned(),
            ),
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
                format!("{its} has a key or a signature of a kind that is not supported"),
                "use RSA with 2048 bits or more, Ed25519, or ECDSA with P-256 or P-384".to_owned(),
            ),
            CertificateError::Other(OtherError(inner)) => match inner.downcast_ref::<ShortKey>() {
                Some(ShortKey { bits, is_issuers }) => (
                    format!(
                        "the RSA key of {}{its} is too short: {bits} bits",
                        if *is_issuers { "an issuer of " } else { "" }
                    ),
                    "create it again with 2048 bits or more, or with ECDSA".to_owned(),
                ),
                None if inner.to_string().contains("UnsupportedCertVersion") => (
                    format!("{its} has X.509 version 1 (UnsupportedCertVersion)"),
                    format!("the {peer} needs a new one; create it with a subjectAltName"),
                ),
                None => return (format!("{its} is not accepted ({})", word(inner)), None),
            },
            other => return (format!("{its} is not accepted ({})", word(other)), None),
        };
        (what, Some(hint))
    }

    fn wrong_authorities(&self) -> String {
        let key = self.option("ca_file");
        match &self.authorities {
            Some(path) => format!("the issuer is not in {path} ({key}): add its certificate there"),
            None => format!("the issuer is not in the system's store: set {key}"),
        }
    }

    fn lists(&self) -> String {
        self.file("crl_file", self.lists.as_deref())
    }

    fn own(&self) -> String {
        self.file("cert_file", self.own.as_deref())
    }

    fn file(&self, option: &str, path: Option<&str>) -> String {
        let key = self.option(option);
        path.map_or(key.clone(), |path| format!("{path} ({key})"))
    }
}

/// Names of a certificate, bounded: it may have hundreds.
fn shown_names(presented: &[String]) -> String {
    let shown: Vec<&str> = presented.iter().take(MAX_SHOWN_NAMES).map(|name| plain_name(name)).collect();
    match presented.len() {
        0 => "no name".to_owned(),
        count if count > shown.len() => {
            format!("{} and {} more names", shown.join(", "), count - shown.len())
        }
        _ => shown.join(", "),
    }
}

/// A moment in UTC.
fn date(unix_seconds: u64) -> String {
    rt::rfc3339(unix_seconds.saturating_mul(1_000))
}

/// The name of an error, by which it can be searched for, without its content.
fn word(error: &impl fmt::Debug) -> String {
    let text = format!("{error:?}");
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_owned()
}

/// A name of a certificate as it is written: rustls passes on `DnsName("shop.example")`.
fn plain_name(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.map_or(name, |inner| inner.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_errors_are_shown_without_their_forms_in_the_program() {
        for (name, plain) in [
            ("DnsName(\"shop.example\")", "shop.example"),
            ("IpAddress(10.0.0.1)", "10.0.0.1"),
            ("DirectoryName", "DirectoryName"),
            ("", ""),
        ] {
            assert_eq!(plain_name(name), plain);
        }
        let names = |count: usize| shown_names(&vec!["DnsName(\"a\")".to_owned(); count]);
        assert_eq!((names(0), names(2)), ("no name".to_owned(), "a, a".to_owned()));
        assert_eq!(names(300), "a, a, a, a, a, a, a, a and 292 more names");
        assert_eq!(word(&CertificateError::UnhandledCriticalExtension), "UnhandledCriticalExtension");
        assert_eq!(word(&Some(1)), "Some");
    }
}
