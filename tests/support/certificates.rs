//! Certificates of the test's own, made by openssl.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What an authority remembers, as `openssl ca` wants it.
const CONFIGURATION: &str = "
[req]
distinguished_name = names
x509_extensions = authority
[names]
[authority]
basicConstraints = critical,CA:TRUE
subjectKeyIdentifier = hash
[ca]
default_ca = own
[own]
database = index.txt
rand_serial = yes
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha256
policy = any
default_days = 365
default_crl_days = 30
copy_extensions = copy
unique_subject = no
crlnumber = crlnumber
crl_extensions = list
[list]
authorityKeyIdentifier = keyid
[any]
commonName = supplied
";

/// The usual kind of key.
pub(crate) const EC: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// An authority that signs whatever it is asked to.
#[derive(Debug)]
pub(crate) struct Authority {
    directory: TempDir,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::new_in(&std::env::temp_dir())
    }

    /// The same in a directory of another one.
    pub(crate) fn new_in(parent: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("tidegate-ca-").tempdir_in(parent);
        let directory = directory.expect("a temporary directory");
        fs::write(directory.path().join("openssl.cnf"), CONFIGURATION).expect("it is writable");
        fs::write(directory.path().join("index.txt"), "").expect("it is writable");
        fs::write(directory.path().join("crlnumber"), "01").expect("it is writable");
        // Each has a name of its own, or one would be taken for the other.
        let subject = format!("/CN=authority {:016x}", fastrand::u64(..));
        let made = Self { directory };
        made.openssl(&[
            "req",
            "-x509",
            "-config",
            "openssl.cnf",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &subject,
            "-days",
            "365",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        made
    }

    /// Moves it to a place of its own for good, unless another one is there.
    pub(crate) fn move_to(self, place: &Path) {
        drop(fs::rename(self.directory.path(), place));
    }

    /// The authority's own certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A file beside the authority's.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Signs a certificate for names such as `DNS:shop.example,IP:127.0.0.1`.
    pub(crate) fn issue(&self, name: &str, names: &str) -> Pair {
        self.issue_with(name, names, EC, &[])
    }

    /// The same with another kind of key, and with options of `openssl ca`.
    pub(crate) fn issue_with(&self, name: &str, names: &str, key: &[&str], options: &[&str]) -> Pair {
        self.request(name, names, key);
        let (request, file) = (format!("{name}.csr"), format!("{name}.pem"));
        let mut sign =
            vec!["ca", "-batch", "-notext", "-config", "openssl.cnf", "-in", &request, "-out", &file];
        sign.extend(options);
        self.openssl(&sign);
        self.pair(name)
    }

    /// A certificate of X.509 version 1, as openssl makes it where nothing is said of extensions.
    pub(crate) fn issue_version_1(&self, name: &str) -> Pair {
        self.request(name, "DNS:unused", EC);
        let (request, file) = (format!("{name}.csr"), format!("{name}.pem"));
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            &file,
        ]);
        self.pair(name)
    }

    fn request(&self, name: &str, names: &str, key: &[&str]) {
        let (key_file, request) = (format!("{name}.key"), format!("{name}.csr"));
        let (subject, names) = (format!("/CN={name}"), format!("subjectAltName={names}"));
        let mut arguments = vec!["req", "-new", "-config", "openssl.cnf", "-newkey"];
        arguments.extend(key);
        arguments
            .extend(["-nodes", "-subj", &subject, "-addext", &names, "-keyout", &key_file, "-out", &request]);
        self.openssl(&arguments);
    }

    fn pair(&self, name: &str) -> Pair {
        let pair =
            Pair { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) };
        fs::set_permissions(&pair.key, fs::Permissions::from_mode(0o600)).expect("it is ours");
        pair
    }

    /// Writes a list of what was revoked, with options of `openssl ca -gencrl`.
    pub(crate) fn list(&self, revoked: &[&Pair], options: &[&str]) -> PathBuf {
        for pair in revoked {
            let file = pair.certificate.display().to_string();
            self.openssl(&["ca", "-config", "openssl.cnf", "-revoke", &file]);
        }
        let mut arguments = vec!["ca", "-config", "openssl.cnf", "-gencrl", "-out", "crl.pem"];
        arguments.extend(options);
        self.openssl(&arguments);
        self.path("crl.pem")
    }

    /// Runs openssl in the authority's directory.
    #[track_caller]
    pub(crate) fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .expect("openssl is installed");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {}: {errors}", arguments.join(" "));
    }
}

impl Pair {
    /// Puts another pair into the same files.
    pub(crate) fn replace_with(&self, other: &Pair) {
        put(&other.key, &self.key);
        put(&other.certificate, &self.certificate);
    }
}

/// As a tool does that renews certificates: at no moment is half a file there.
pub(crate) fn put(from: &Path, to: &Path) {
    let beside = to.with_extension("new");
    fs::copy(from, &beside).expect("the directory is writable");
    fs::rename(&beside, to).expect("the directory is writable");
}
