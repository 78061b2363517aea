//! TLS: from an endpoint's files to an encrypted byte stream.
//!
//! ```text
//! ca_file, crl_file, cert_file, key_file ──read at every connect──▶ Material ──▶ handshake ──▶ TlsStream
//!                                          parsed where one changed    │
//!                                          bad: the one before stays ◀─┘
//! ```
//!
//! Constraints. A certificate is good if its chain is valid and it names the connected host or a name in the
//! configuration (`names`); no option turns that off. No session is resumed: connections are few and long, a handshake
//! costs a millisecond, and a resumed session trusts an earlier verification. Errors never contain the content of a key
//! file.
//!
//! Failure. If files cannot be used and there were good ones before, the error is logged and the good ones stay: a
//! failed rotation must not end a working route. Open connections continue whatever the files contain.

mod expiry;
mod failure;
mod names;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, version};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::names::AnyOfNames;
use super::connect::deployment::{self, CertificateSide, Known};
use super::error::Error;
use crate::config::{Address, Endpoint, Tls};
use crate::logs::LogCode;

pub use self::failure::TlsFailure;

/// The step that failed, for a connection without an answer to its greeting.
pub(super) const HANDSHAKE: &str = "making the TLS handshake";

/// The system's store is a directory of some hundred files: read again at a connect, but not at each of many.
const SYSTEM_STORE_AGE: Duration = Duration::from_secs(60);

/// Readable by every user of the machine.
const OTHERS_MAY_READ: u32 = 0o004;

/// The cryptography. The one place that names it.
fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// The content of an endpoint's files when they were last good.
#[derive(Debug, Clone)]
pub(super) struct Material {
    /// Digest of the files.
    digest: [u8; 32],
    chain: Arc<WebPkiServerVerifier>,
    config: ClientConfig,
}

/// Encrypts a connection that was made to `host`. Cancel safe: a dropped future leaves nothing behind.
///
/// # Errors
/// If the files cannot be used, or either side does not accept the other.
pub(super) async fn encrypt(
    stream: TcpStream,
    endpoint: &Endpoint,
    tls: &Tls,
    host: &str,
) -> Result<TlsStream<TcpStream>, Error> {
    let known = deployment::of(endpoint);
    let material = current(endpoint, tls, &known)?;
    let names = names(endpoint, tls, host);
    let Some(asked_for) = asked_for(tls, &names) else {
        let what = format!("TLS: {host:?} is not a valid name for a certificate");
        return Err(Error::Tls(TlsFailure::new(what, "set server_name")));
    };
    let mut config = material.config;
    let tried: Vec<String> = names.iter().map(|name| name.to_str().into_owned()).collect();
    let verifier = AnyOfNames { chain: material.chain, names, known };
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    let connected = TlsConnector::from(Arc::new(config)).connect(asked_for, stream).await;
    connected.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner) => Error::Tls(TlsFailure::from(inner).with_names(inner, &tried)),
        None => Error::from(error),
    })
}

/// The names that a certificate may be for, the host first, each once.
fn names(endpoint: &Endpoint, tls: &Tls, host: &str) -> Vec<ServerName<'static>> {
    let written = endpoint.addresses().iter().filter_map(|address| match address {
        Address::Tcp { host, .. } => Some(host.as_str()),
        Address::Unix(_) => None,
    });
    let mut names: Vec<ServerName<'static>> = Vec::new();
    for name in [host].into_iter().chain(tls.server_name.as_deref()).chain(written) {
        if let Ok(name) = ServerName::try_from(name.to_owned())
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// SNI name, by which proxies choose: `server_name`; else the host; else, if the host is an IP address, the first
/// configured name.
fn asked_for(tls: &Tls, names: &[ServerName<'static>]) -> Option<ServerName<'static>> {
    let given = tls.server_name.as_ref().and_then(|name| ServerName::try_from(name.clone()).ok());
    let named = || names.iter().find(|name| matches!(name, ServerName::DnsName(_))).cloned();
    given.or_else(named).or_else(|| names.first().cloned())
}

/// The files' content now, or when they were last good.
fn current(endpoint: &Endpoint, tls: &Tls, known: &Known) -> Result<Material, Error> {
    let before = known.material();
    let read = Files::read(tls);
    if let (Ok(files), Some(before)) = (&read, &before)
        && files.digest() == before.digest
    {
        return Ok(before.clone());
    }
    match (read.and_then(|files| files.parse(tls)), before) {
        (Ok((material, expiry)), _) => {
            known.set_expiry(CertificateSide::Client, expiry);
            known.set_material(material.clone());
            Ok(material)
        }
        (Err(failure), Some(before)) => {
            if known.is_news(&failure.to_string()) {
                tracing::warn!(
                    event = LogCode::TlsFilesInvalid.as_str(),
                    server = endpoint.name,
                    "{failure}; the previous files stay in use ({})",
                    failure.hint().unwrap_or_default()
                );
            }
            Ok(before)
        }
        (Err(failure), None) => Err(Error::Tls(failure)),
    }
}

/// The files of an endpoint as they are.
struct Files {
    authorities: Vec<CertificateDer<'static>>,
    revoked: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    fn read(tls: &Tls) -> Result<Self, TlsFailure> {
        let authorities = match &tls.ca_file {
            Some(path) => certificates(path, &read(path)?)?,
            None => system_store()?,
        };
        let revoked = tls.crl_file.as_deref().map(read).transpose()?;
        let client = match &tls.client {
            Some((certificate, key)) => {
                refuse_open_key(key)?;
                Some((read(certificate)?, read(key)?))
            }
            None => None,
        };
        Ok(Self { authorities, revoked, client })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let (certificate, key) =
            self.client.as_ref().map(|(one, other)| (&**one, &**other)).unwrap_or_default();
        let parts = [self.revoked.as_deref().unwrap_or_default(), certificate, key];
        for part in self.authorities.iter().map(|authority| authority.as_ref()).chain(parts) {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// The configuration, and when our certificate expires.
    fn parse(self, tls: &Tls) -> Result<(Material, Option<u64>), TlsFailure> {
        let digest = self.digest();
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        let (taken, _) = roots.add_parsable_certificates(self.authorities);
        if taken == 0 {
            return Err(no_authority(tls.ca_file.as_deref()));
        }
        let mut chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        if let (Some(path), Some(content)) = (&tls.crl_file, &self.revoked) {
            chain = chain.with_crls(lists(path, content)?).enforce_revocation_expiration();
        }
        let chain = chain.build().map_err(|error| {
            let what = format!("TLS: the lists of revoked certificates cannot be used: {error}");
            TlsFailure::new(what, "put lists of version 2, as PEM, into crl_file")
        })?;
        let versions: &[_] =
            if tls.only_1_3 { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(|error| TlsFailure::from(&error))?
            .with_webpki_verifier(chain.clone());
        let (mut config, expiry) = match (&tls.client, self.client) {
            (Some((path, key_path)), Some((certificate, key))) => {
                let own = certificates(path, &certificate)?;
                let expiry = own.first().and_then(|first| expiry::of(first));
                let own = own_key(own, &key, path, key_path, &provider)?;
                (builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))), expiry)
            }
            _ => (builder.with_no_client_auth(), None),
        };
        config.resumption = Resumption::disabled();
        Ok((Material { digest, chain, config }, expiry))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFailure> {
    fs::read(path).map_err(|error| {
        let what = format!("TLS: the file {} cannot be read: {}", path.display(), error.kind());
        TlsFailure::new(what, "create it, and let the user that tidegate runs as read it")
    })
}

fn certificates(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    match CertificateDer::pem_slice_iter(content).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => {
            let what = format!("TLS: the file {} has no PEM certificate", path.display());
            Err(TlsFailure::new(what, "it begins with -----BEGIN CERTIFICATE-----"))
        }
    }
}

fn no_authority(path: Option<&Path>) -> TlsFailure {
    match path {
        Some(path) => {
            let what = format!("TLS: the file {} has no certificate of an authority", path.display());
            TlsFailure::new(what, "put the certificate that signed the server's into ca_file")
        }
        None => TlsFailure::new(
            "TLS: the system has no certificate authorities".to_owned(),
            "set ca_file, or install the system's certificates (in a container, into the image)",
        ),
    }
}

fn lists(path: &Path, content: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsFailure> {
    match CertificateRevocationListDer::pem_slice_iter(content).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => {
            let what = format!("TLS: the file {} has no PEM list of revoked certificates", path.display());
            Err(TlsFailure::new(what, "it begins with -----BEGIN X509 CRL-----"))
        }
    }
}

/// A key is kept like a password: what every user may read is none.
fn refuse_open_key(path: &Path) -> Result<(), TlsFailure> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & OTHERS_MAY_READ != 0 => {
            let what = format!("TLS: every user of this machine can read the key {}", path.display());
            Err(TlsFailure::new(what, "run chmod o-r, and create a new key: this one is no longer secret"))
        }
        // A missing file is reported by the read.
        _ => Ok(()),
    }
}

fn own_key(
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
    path: &Path,
    key_path: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsFailure> {
    let at = key_path.display();
    let is_encrypted = key.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED");
    let parsed = match PrivateKeyDer::from_pem_slice(key) {
        _ if is_encrypted => {
            let what = format!("TLS: the key {at} is encrypted");
            return Err(TlsFailure::new(
                what,
                "use an unencrypted key, and protect the file like a password",
            ));
        }
        Ok(parsed) => parsed,
        Err(_) => {
            let what = format!("TLS: the file {at} has no PEM private key");
            return Err(TlsFailure::new(
                what,
                "it begins with -----BEGIN PRIVATE KEY-----, or with EC or RSA in it",
            ));
        }
    };
    CertifiedKey::from_der(chain, parsed, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let what = format!("TLS: the key {at} does not belong to the certificate {}", path.display());
            TlsFailure::new(what, "use the two files of one pair")
        }
        rustls::Error::General(_) => {
            let what = format!("TLS: the kind of the key {at} is not supported");
            TlsFailure::new(what, "use RSA, Ed25519, or ECDSA with P-256 or P-384")
        }
        // About the certificate, and not the key.
        other => TlsFailure::from(&other),
    })
}

/// The system's authorities, and when they were read.
static SYSTEM_STORE: Mutex<Option<(Instant, Vec<CertificateDer<'static>>)>> = Mutex::new(None);

fn system_store() -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    let mut store = SYSTEM_STORE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((read, store)) = &*store
        && read.elapsed() < SYSTEM_STORE_AGE
    {
        return Ok(store.clone());
    }
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        return Err(no_authority(None));
    }
    *store = Some((Instant::now(), found.clone()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(hosts: &[&str]) -> Endpoint {
        let address = |host: &&str| Address::Tcp { host: (*host).to_owned(), port: 6379 };
        Endpoint {
            name: "shop".to_owned(),
            servers: crate::config::Servers::Several(hosts.iter().map(address).collect()),
            username: None,
            password: crate::config::SecretSource::None,
            database: 0,
            key_prefix: "tidegate:".to_owned(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            durability: crate::config::Durability::default(),
            address_map: Vec::new(),
            reauthenticate: crate::config::Reauthenticate::default(),
            tls: Some(Tls::default()),
        }
    }

    #[test]
    fn what_the_user_wrote_may_stand_in_a_certificate_and_the_server_is_asked_for_a_name() {
        let with = |name: Option<&str>| Tls { server_name: name.map(str::to_owned), ..Tls::default() };
        for (hosts, server_name, host, expected, asked) in [
            (&["a.example"] as &[&str], None, "a.example", "a.example", "a.example"),
            (&["a.example", "10.0.0.1"], None, "10.0.0.1", "10.0.0.1 a.example", "a.example"),
            (&["10.0.0.1"], Some("b.example"), "10.0.0.1", "10.0.0.1 b.example", "b.example"),
            (&["a.example"], Some("b.example"), "10.0.0.1", "10.0.0.1 b.example a.example", "b.example"),
            (&["::1"], None, "::1", "::1", "::1"),
        ] {
            let (endpoint, tls) = (endpoint(hosts), with(server_name));
            let names = names(&endpoint, &tls, host);
            let shown: Vec<_> = names.iter().map(|name| name.to_str().into_owned()).collect();
            assert_eq!(shown.join(" "), expected);
            assert_eq!(asked_for(&tls, &names).unwrap().to_str(), asked, "{hosts:?}");
        }
        assert_eq!(names(&endpoint(&["under score!"]), &with(None), "under score!"), []);
    }
}
