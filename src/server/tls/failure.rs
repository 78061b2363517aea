//! Errors of TLS, and advice to the operator.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

/// An error of TLS. It never contains a key.
#[derive(Debug)]
pub struct TlsFailure {
    what: String,
    hint: Option<&'static str>,
}

impl TlsFailure {
    pub(super) fn new(what: String, hint: &'static str) -> Self {
        Self { what, hint: Some(hint) }
    }

    /// Adds the tried names, if the error is about names.
    pub(super) fn with_names(mut self, error: &Error, names: &[String]) -> Self {
        if let Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) = error {
            let presented = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            self.what = format!(
                "TLS: the server's certificate is for {presented}, but tidegate expects one of {}",
                names.join(", ")
            );
        }
        self
    }

    /// Advice to the operator.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl From<&Error> for TlsFailure {
    fn from(error: &Error) -> Self {
        Self { what: format!("TLS: {error}"), hint: hint(error) }
    }
}

fn hint(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the server requires a client certificate (tls-auth-clients); set cert_file and key_file"
            }
            AlertDescription::UnknownCA => "the server does not trust the issuer of cert_file",
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown => {
                "the server rejects tidegate's certificate; check cert_file"
            }
            // Before TLS 1.3 this is also how a missing client certificate is refused.
            AlertDescription::HandshakeFailure => {
                "no common cipher, or the server requires a client certificate; set cert_file and key_file"
            }
            AlertDescription::ProtocolVersion => {
                "no common version of TLS; check min_version and the server's tls-protocols"
            }
            AlertDescription::UnrecognisedName => "the server does not know the name; set server_name",
            _ => return None,
        },
        Error::InvalidCertificate(error) => of_certificate(error)?,
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            "this port does not use TLS; use redis:// in the url, or the tls-port"
        }
        Error::PeerIncompatible(_) => "no common version of TLS or no common cipher; check min_version",
        _ => return None,
    })
}

fn of_certificate(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the issuer of the server's certificate is not in ca_file (without ca_file: not in the system's store)"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "use a host of the certificate in url, or set server_name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the server's certificate, or correct the clock"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "correct the clock, or install a certificate that is valid already"
        }
        CertificateError::Revoked => "crl_file revokes the server's certificate; install a new one",
        CertificateError::UnknownRevocationStatus => {
            "add the list of every issuer in the server's chain to crl_file"
        }
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "put a newer list into crl_file"
        }
        CertificateError::Other(OtherError(inner))
            if inner.to_string().contains("UnsupportedCertVersion") =>
        {
            "the server's certificate has X.509 version 1; create a new one with a subjectAltName"
        }
        _ => return None,
    })
}
