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

mod failure;
mod names;

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::names::AnyOfNames;
use super::deployment::files::{FileKind, Material};
use super::deployment::{self, CertificateSide, Known};
use super::error::{Error, TlsFailure};
use crate::config::{Address, Endpoint, Tls, TlsFiles, TlsMaterial, tls_provider};

pub(super) use self::failure::TlsPlace;

/// Encrypts a connection that was made to `address`, whose host is `host`. Cancel safe: a dropped future leaves nothing
/// behind.
///
/// # Errors
/// If either side does not accept the other.
pub(super) async fn encrypt(
    stream: TcpStream,
    endpoint: &Endpoint,
    tls: &Tls,
    material: Material,
    address: &Address,
    host: &str,
) -> Result<TlsStream<TcpStream>, Error> {
    let known = deployment::of(endpoint);
    let names = names(endpoint, tls, host);
    let Some(asked_for) = asked_for(tls, &names) else {
        let what = format!("TLS: {host:?} is not a valid name for a certificate");
        let hint = format!("set {}", TlsPlace::of(endpoint).option("server_name"));
        return Err(Error::Tls(TlsFailure::new(what, Some(hint))));
    };
    let mut config = material.config;
    let tried: Vec<String> = names.iter().map(|name| name.to_str().into_owned()).collect();
    let verifier = AnyOfNames { material: material.read, names, known, address: address.clone() };
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    let connected = TlsConnector::from(Arc::new(config)).connect(asked_for, stream).await;
    connected.map_err(|error| match rustls_error(&error) {
        Some(inner) => Error::Tls(TlsPlace::of(endpoint).handshake_failure(inner, &tried)),
        None => Error::from(error),
    })
}

/// An error of TLS in an error of the socket.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The error of an open connection, with the words for the operator.
pub(super) fn explained(error: io::Error, place: &TlsPlace) -> io::Error {
    match rustls_error(&error).map(|inner| place.failure(inner)) {
        Some(failure) => io::Error::new(error.kind(), failure),
        None => error,
    }
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

/// The files' content now, or when they were last good. Cancel safe.
///
/// # Errors
/// If they cannot be used, and never could.
pub(super) async fn current(endpoint: &Endpoint, tls: &Tls) -> Result<Material, Error> {
    let known = deployment::of(endpoint);
    match read(endpoint, tls, &known).await {
        Ok(material) => Ok(material),
        Err(failure) => {
            let error = Error::Tls(failure);
            known.report_files(endpoint, FileKind::Tls, Some(&error));
            known.material().ok_or(error)
        }
    }
}

/// Reads the files beside the loop, and parses them if one changed. Cancel safe.
///
/// # Errors
/// If they cannot be used. What is in use stays.
pub(super) async fn read(endpoint: &Endpoint, tls: &Tls, known: &Arc<Known>) -> Result<Material, TlsFailure> {
    let (of, files, owner) = (endpoint.clone(), tls.clone(), known.clone());
    let read = known.read(FileKind::Tls, move || read_blocking(&of, &files, &owner)).await;
    read.unwrap_or_else(|error| {
        let hint = format!("check the mounts of the files in {}", endpoint.key("tls"));
        Err(TlsFailure::new(format!("TLS: the files cannot be read: {error}"), Some(hint)))
    })
}

fn read_blocking(endpoint: &Endpoint, tls: &Tls, known: &Known) -> Result<Material, TlsFailure> {
    let refused = |error| TlsPlace::of(endpoint).file_failure(error);
    let files = TlsFiles::read(tls).map_err(refused)?;
    let digest = files.digest();
    let before = known.material().filter(|before| before.digest == digest);
    let material = match before {
        Some(before) => before,
        None => {
            let read = files.parse(tls).map_err(refused)?;
            let config = client_config(tls, &read).map_err(|error| TlsPlace::of(endpoint).failure(&error))?;
            known.set_expiry(CertificateSide::Client, read.expiry);
            let material = Material { digest, read, config };
            known.set_material(material.clone());
            material
        }
    };
    known.report_files(endpoint, FileKind::Tls, None);
    Ok(material)
}

fn client_config(tls: &Tls, read: &TlsMaterial) -> Result<ClientConfig, rustls::Error> {
    let versions: &[_] = if tls.only_1_3 { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
    let builder = ClientConfig::builder_with_provider(Arc::new(tls_provider()))
        .with_protocol_versions(versions)?
        .with_webpki_verifier(read.chain.clone());
    let mut config = match &read.own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
