//! What went wrong with TLS, and what an operator can do about it.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, OtherError};

/// What went wrong. Never holds what stands in a key.
#[derive(Debug)]
pub struct TlsFailure {
    what: String,
    hint: Option<&'static str>,
}

impl TlsFailure {
    pub(super) fn new(what: String, hint: &'static str) -> Self {
        Self { what, hint: Some(hint) }
    }

    /// Says which names were tried, where that is what it is about.
    pub(super) fn with_names(mut self, error: &Error, names: &[String]) -> Self {
        if let Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) = error {
            let presented = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            self.what = format!(
                "TLS: the server's certificate is for none of the names that were tried ({}), but for {presented}",
                names.join(", ")
            );
        }
        self
    }

    /// What an operator can do about it.
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
                "the server wants a client certificate (tls-auth-clients): set cert_file and key_file"
            }
            AlertDescription::UnknownCA => "the server does not trust the issuer of cert_file",
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown => "the server refuses our certificate: look at cert_file",
            // Before TLS 1.3 this is also how a missing client certificate is refused.
            AlertDescription::HandshakeFailure => {
                "no cipher in common, or the server wants a client certificate: set cert_file and key_file"
            }
            AlertDescription::ProtocolVersion => {
                "no version of TLS in common: look at min_version and at the server's tls-protocols"
            }
            AlertDescription::UnrecognisedName => "the server does not know the name: set server_name",
            _ => return None,
        },
        Error::InvalidCertificate(error) => of_certificate(error)?,
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            "this port does not seem to speak TLS"
        }
        Error::PeerIncompatible(_) => "no version of TLS or no cipher in common: look at min_version",
        _ => return None,
    })
}

fn of_certificate(error: &CertificateError) -> Option<&'static str> {
    Some(match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is issued by none of ca_file, or of the system's store where there is no ca_file"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "name a host of the certificate in url, or as server_name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "renew the server's certificate; or a clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "a clock is wrong, or the server's certificate was put in place too early"
        }
        CertificateError::Revoked => "crl_file revokes the server's certificate: give it a new one",
        CertificateError::UnknownRevocationStatus => {
            "crl_file must hold a list of each issuer in the server's chain"
        }
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "put a newer list into crl_file"
        }
        CertificateError::Other(OtherError(inner))
            if inner.to_string().contains("UnsupportedCertVersion") =>
        {
            "the server's certificate is of X.509 version 1: make it again, with a subjectAltName"
        }
        _ => return None,
    })
}
