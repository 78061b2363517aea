//! Which names a server's certificate may be for.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use crate::config::{Address, SHORTEST_RSA_BITS, TlsMaterial, der};
use crate::server::deployment::{CertificateSide, Known};

/// Accepts a valid chain if the certificate names the connected host or any name in the endpoint's configuration, which
/// the operator trusts. So servers may share one certificate or have one each, and addresses announced by another
/// server are accepted.
#[derive(Debug)]
pub(super) struct AnyOfNames {
    pub(super) material: TlsMaterial,
    /// The host first.
    pub(super) names: Vec<ServerName<'static>>,
    /// Records when the certificate expires.
    pub(super) known: Arc<Known>,
    /// The server.
    pub(super) address: Address,
}

/// An RSA key below the length that the cryptography accepts. Without a look at it, the error would be that of a forged
/// signature.
#[derive(Debug)]
pub(super) struct ShortKey {
    pub(super) bits: usize,
    /// True if it is the key of an issuer.
    pub(super) is_issuers: bool,
}

impl fmt::Display for ShortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an RSA key of {} bits", self.bits)
    }
}

impl std::error::Error for ShortKey {}

impl ShortKey {
    fn find(bits: Option<usize>, is_issuers: bool) -> Option<Self> {
        bits.filter(|bits| *bits < SHORTEST_RSA_BITS).map(|bits| Self { bits, is_issuers })
    }

    fn error(self) -> Error {
        CertificateError::Other(OtherError(Arc::new(self))).into()
    }
}

impl AnyOfNames {
    /// A short key above a certificate, which explains a signature that cannot be verified.
    fn short_issuer(&self, intermediates: &[CertificateDer<'_>]) -> Option<ShortKey> {
        let sent = intermediates.iter().map(|issuer| der::rsa_bits(issuer));
        let trusted = self.material.roots.roots.iter();
        let trusted = trusted.map(|root| der::rsa_bits_of_key(&root.subject_public_key_info));
        sent.chain(trusted).find_map(|bits| ShortKey::find(bits, true))
    }
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
        if let Some(short) = ShortKey::find(der::rsa_bits(end_entity), false) {
            return Err(short.error());
        }
        let mut refused = Error::General("no name to verify".to_owned());
        for name in self.names.iter().rev() {
            match self.material.chain.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
            {
                Err(error @ Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => {
                    refused = error;
                }
                Ok(verified) => {
                    self.known.set_expiry(CertificateSide::Server(&self.address), der::expiry(end_entity));
                    return Ok(verified);
                }
                // Another name changes nothing.
                Err(error) => {
                    let is_unsigned = error == Error::InvalidCertificate(CertificateError::BadSignature);
                    let short = if is_unsigned { self.short_issuer(intermediates) } else { None };
                    return Err(short.map_or(error, ShortKey::error));
                }
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
        self.material.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.material.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.material.chain.supported_verify_schemes()
    }
}
