//! Which names a server's certificate may be for.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::expiry;
use crate::server::connect::deployment::{CertificateSide, Known};

/// Accepts a valid chain if the certificate names the connected host or any name in the endpoint's configuration, which
/// the operator trusts. So servers may share one certificate or have one each, and addresses announced by another
/// server are accepted.
#[derive(Debug)]
pub(super) struct AnyOfNames {
    pub(super) chain: Arc<WebPkiServerVerifier>,
    /// The host first.
    pub(super) names: Vec<ServerName<'static>>,
    /// Records when the certificate expires.
    pub(super) known: Arc<Known>,
}

impl ServerCertVerifier for AnyOfNames {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _asked_for: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut refused = Error::General("no name to verify".to_owned());
        for name in self.names.iter().rev() {
            match self.chain.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
                Err(error @ Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
                    refused = error;
                }
                Ok(verified) => {
                    self.known.set_expiry(CertificateSide::Server, expiry::of(end_entity));
                    return Ok(verified);
                }
                // Another name changes nothing.
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
