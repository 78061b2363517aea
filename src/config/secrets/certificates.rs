//! The files of TLS, and what is read from them.
//!
//! ```text
//! ca_file, crl_file, cert_file, key_file ──read──▶ TlsFiles ──parse──▶ TlsMaterial: verifier, own certificate and key
//! ```
//!
//! The configuration reads them once, so that a mistake shows at once, and each connect reads them again. An error names
//! the option and the path, and never contains the content of a file.

pub(crate) mod der;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};

use super::file;
use crate::config::settings::Tls;

/// The system's store is a directory of some hundred files: read again at a connect, but not at each of many.
const SYSTEM_STORE_AGE: Duration = Duration::from_secs(60);

/// Readable by every user of the machine.
const OTHERS_MAY_READ: u32 = 0o004;

/// The shortest RSA key that the cryptography accepts.
pub(crate) const SHORTEST_RSA_BITS: usize = 2048;

/// The cryptography. The one place that names it.
pub(crate) fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// Why a file of TLS cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFileError {
    /// The option that names the file.
    pub(crate) option: &'static str,
    /// The reason, with the path.
    pub(crate) what: String,
    /// Advice to the operator.
    pub(crate) hint: &'static str,
}

/// The files of a table `tls` as they are.
pub(crate) struct TlsFiles {
    authorities: Vec<CertificateDer<'static>>,
    revoked: Option<Vec<u8>>,
    own: Option<OwnFiles>,
}

/// The files of our own certificate.
struct OwnFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The usable content of the files.
#[derive(Debug, Clone)]
pub(crate) struct TlsMaterial {
    /// The trusted authorities.
    pub(crate) roots: Arc<RootCertStore>,
    /// Verifies chains up to them, by the lists of revoked certificates.
    pub(crate) chain: Arc<WebPkiServerVerifier>,
    /// Our own certificate and its key.
    pub(crate) own: Option<Arc<CertifiedKey>>,
    /// When our own certificate expires, in seconds since 1970.
    pub(crate) expiry: Option<u64>,
}

impl TlsFiles {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// If one cannot be read, or the authorities are not PEM.
    pub(crate) fn read(tls: &Tls) -> Result<Self, TlsFileError> {
        Ok(Self { authorities: authorities(tls)?, revoked: read_list(tls)?, own: read_own(tls)? })
    }

    /// A fingerprint of the content.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let (certificate, key) =
            self.own.as_ref().map(|own| (&*own.certificate, &*own.key)).unwrap_or_default();
        let parts = [self.revoked.as_deref().unwrap_or_default(), certificate, key];
        for part in self.authorities.iter().map(|authority| authority.as_ref()).chain(parts) {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// Makes the content usable.
    ///
    /// # Errors
    /// For the first file that is not what its option needs.
    pub(crate) fn parse(self, tls: &Tls) -> Result<TlsMaterial, TlsFileError> {
        let roots = Arc::new(roots(tls, self.authorities)?);
        let chain = chain(&roots, tls.crl_file.as_deref().zip(self.revoked.as_deref()))?;
        let own = tls.client.as_ref().zip(self.own.as_ref());
        let own = own.map(|(paths, content)| own_pair(paths, content)).transpose()?;
        let expiry = own.as_ref().and_then(|own| der::expiry(own.cert.first()?));
        Ok(TlsMaterial { roots, chain, own: own.map(Arc::new), expiry })
    }
}

/// Everything that is wrong with the configured files, at most one error for each of authorities, lists, and our own
/// certificate and key. Blocks.
pub(crate) fn problems(tls: &Tls) -> Vec<TlsFileError> {
    // The system's store is no file of the configuration, and may be another one where the daemon runs.
    let trusted = tls.ca_file.as_ref().map(|_| authorities(tls).and_then(|found| roots(tls, found)));
    let lists = read_list(tls).and_then(|content| {
        match (tls.crl_file.as_deref().zip(content.as_deref()), &trusted) {
            (Some(read), Some(Ok(roots))) => chain(&Arc::new(roots.clone()), Some(read)).map(drop),
            (Some((path, content)), _) => lists(path, content).map(drop),
            (None, _) => Ok(()),
        }
    });
    let own = read_own(tls).and_then(|content| {
        let own = tls.client.as_ref().zip(content.as_ref());
        own.map(|(paths, content)| own_pair(paths, content)).transpose()
    });
    [trusted.and_then(Result::err), lists.err(), own.err()].into_iter().flatten().collect()
}

fn read_list(tls: &Tls) -> Result<Option<Vec<u8>>, TlsFileError> {
    tls.crl_file.as_deref().map(|path| read("crl_file", path)).transpose()
}

fn read_own(tls: &Tls) -> Result<Option<OwnFiles>, TlsFileError> {
    let Some((certificate, key)) = &tls.client else { return Ok(None) };
    let content = read("key_file", key)?;
    refuse_certificate(key, &content)?;
    refuse_open_key(key)?;
    Ok(Some(OwnFiles { certificate: read("cert_file", certificate)?, key: content }))
}

/// A certificate in the place of a key is mostly one of two swapped options.
fn refuse_certificate(path: &Path, content: &[u8]) -> Result<(), TlsFileError> {
    let has = |what: &str| memchr::memmem::find(content, what.as_bytes()).is_some();
    if has("BEGIN CERTIFICATE") && !has("PRIVATE KEY") {
        return Err(TlsFileError {
            option: "key_file",
            what: format!("the file {} has a certificate, and no private key", path.display()),
            hint: "cert_file and key_file may be swapped",
        });
    }
    Ok(())
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, TlsFileError> {
    file::read(path).map_err(|error| TlsFileError {
        option,
        what: format!("the file {} cannot be read: {error}", path.display()),
        hint: match error.kind() {
            io::ErrorKind::NotFound => "create it, and let the user that tidegate runs as read it",
            io::ErrorKind::PermissionDenied => "let the user that tidegate runs as read it",
            _ => "put a regular file there",
        },
    })
}

/// What PEM is in a file, at least one.
fn pem_of<T: PemObject>(
    option: &'static str,
    path: &Path,
    content: &[u8],
    name: &str,
    begins: &'static str,
) -> Result<Vec<T>, TlsFileError> {
    let path = path.display();
    match T::pem_slice_iter(content).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(pem::Error::NoItemsFound) => {
            Err(TlsFileError { option, what: format!("the file {path} has no PEM {name}"), hint: begins })
        }
        Err(_) => Err(damaged(option, format!("the PEM {name} in {path}"))),
    }
}

fn damaged(option: &'static str, what: String) -> TlsFileError {
    TlsFileError {
        option,
        what: format!("{what} is cut off or damaged"),
        hint: "write the whole file again, under another name, and rename it",
    }
}

fn certificates(
    option: &'static str,
    path: &Path,
    content: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let found = pem_of(option, path, content, "certificate", "it begins with -----BEGIN CERTIFICATE-----")?;
    match found.iter().all(|found: &CertificateDer<'_>| der::is_whole(found)) {
        true => Ok(found),
        false => Err(damaged(option, format!("a certificate in {}", path.display()))),
    }
}

fn authorities(tls: &Tls) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    match &tls.ca_file {
        Some(path) => certificates("ca_file", path, &read("ca_file", path)?),
        None => system_store(),
    }
}

fn roots(tls: &Tls, authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsFileError> {
    let mut roots = RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(authorities);
    if taken == 0 { Err(no_authority(tls.ca_file.as_deref())) } else { Ok(roots) }
}

fn no_authority(path: Option<&Path>) -> TlsFileError {
    let (what, hint) = match path {
        Some(path) => (
            format!("the file {} has no certificate of an authority", path.display()),
            "put the certificate that signed the server's into it",
        ),
        None => (
            "the system has no certificate authorities".to_owned(),
            "set ca_file, or install the system's certificates (in a container, into the image)",
        ),
    };
    TlsFileError { option: "ca_file", what, hint }
}

fn lists(path: &Path, content: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsFileError> {
    let begins = "it begins with -----BEGIN X509 CRL-----";
    pem_of("crl_file", path, content, "list of revoked certificates", begins)
}

fn chain(
    roots: &Arc<RootCertStore>,
    revoked: Option<(&Path, &[u8])>,
) -> Result<Arc<WebPkiServerVerifier>, TlsFileError> {
    let mut chain = WebPkiServerVerifier::builder_with_provider(roots.clone(), Arc::new(provider()));
    if let Some((path, content)) = revoked {
        chain = chain.with_crls(lists(path, content)?).enforce_revocation_expiration();
    }
    chain.build().map_err(|_| {
        let path = revoked.map(|(path, _)| path.display().to_string()).unwrap_or_default();
        TlsFileError {
            option: "crl_file",
            what: format!("a list of revoked certificates in {path} is not valid, or damaged"),
            hint: "put lists of version 2 into it, as PEM",
        }
    })
}

/// A key is kept like a password: what every user may read is none.
fn refuse_open_key(path: &Path) -> Result<(), TlsFileError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & OTHERS_MAY_READ != 0 => Err(TlsFileError {
            option: "key_file",
            what: format!("every user of this machine can read the key {}", path.display()),
            hint: "run chmod o-r, and create a new key: this one is no longer secret",
        }),
        // A missing file is reported by the read.
        _ => Ok(()),
    }
}

/// Our own certificate with its key.
fn own_pair(
    (path, key_path): &(PathBuf, PathBuf),
    OwnFiles { certificate, key }: &OwnFiles,
) -> Result<CertifiedKey, TlsFileError> {
    let chain = certificates("cert_file", path, certificate)?;
    let at = key_path.display();
    let of_key = |what: String, hint| TlsFileError { option: "key_file", what, hint };
    if key.windows(b"ENCRYPTED".len()).any(|window| window == b"ENCRYPTED") {
        let hint = "use an unencrypted key, and protect the file like a password";
        return Err(of_key(format!("the key {at} is encrypted"), hint));
    }
    let parsed = match PrivateKeyDer::from_pem_slice(key) {
        Ok(parsed) if der::is_whole(parsed.secret_der()) => parsed,
        Err(pem::Error::NoItemsFound) => {
            let hint = "it begins with -----BEGIN PRIVATE KEY-----, or with EC or RSA in it";
            return Err(of_key(format!("the file {at} has no PEM private key"), hint));
        }
        _ => return Err(damaged("key_file", format!("the key in {at}"))),
    };
    let bits = chain.first().and_then(|first| der::rsa_bits(first));
    CertifiedKey::from_der(chain, parsed, &provider()).map_err(|error| match (error, bits) {
        (rustls::Error::InconsistentKeys(_), _) => of_key(
            format!("the key {at} does not belong to the certificate {}", path.display()),
            "use the two files of one pair",
        ),
        (rustls::Error::General(_), Some(bits)) if bits < SHORTEST_RSA_BITS => of_key(
            format!("the key {at} is too short: RSA with {bits} bits"),
            "create a certificate with 2048 bits or more, or with ECDSA",
        ),
        (rustls::Error::General(_), _) => of_key(
            format!("the kind of the key {at} is not supported"),
            "use RSA, Ed25519, or ECDSA with P-256 or P-384",
        ),
        // About the certificate, and not the key.
        _ => damaged("cert_file", format!("the certificate in {}", path.display())),
    })
}

/// The system's authorities, and when they were read.
static SYSTEM_STORE: Mutex<Option<(Instant, Vec<CertificateDer<'static>>)>> = Mutex::new(None);

fn system_store() -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
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
