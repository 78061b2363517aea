//! The same promises over TLS: with `TIDEGATE_TEST_TLS=1` every server of Debian's Redis 7.0 speaks nothing but TLS on its
//! port, with its replicas and sentinels as well, and the daemon's endpoints say so. The other servers have no TLS.
//!
//! One authority and one certificate serve every test. They are made once and kept beside the servers, under target/.

use std::path::PathBuf;
use std::sync::OnceLock;

use super::certificates::{Authority, Pair};
use super::server::Version;

/// What every server shows, and who signed it.
#[derive(Debug)]
pub(super) struct SharedCertificate {
    pub(super) authority: PathBuf,
    pub(super) pair: Pair,
}

/// The certificate of a server of this version, where everything is to run over TLS.
pub(super) fn certificate_for(version: Version) -> Option<&'static SharedCertificate> {
    static SHARED: OnceLock<SharedCertificate> = OnceLock::new();
    let wanted = std::env::var_os("TIDEGATE_TEST_TLS").is_some_and(|value| value == "1");
    (wanted && version == Version::Redis70).then(|| SHARED.get_or_init(SharedCertificate::make))
}

impl SharedCertificate {
    fn make() -> Self {
        let servers = super::server::servers();
        let kept = servers.join("tls");
        if !kept.exists() {
            let authority = Authority::new_in(&servers);
            authority.issue("server", "IP:127.0.0.1");
            // Another process may have been first.
            authority.move_to(&kept);
        }
        let file = |name| kept.join(name);
        Self {
            authority: file("ca.pem"),
            pair: Pair { certificate: file("server.pem"), key: file("server.key") },
        }
    }

    /// What an endpoint must say to believe such a server.
    pub(super) fn table(&self) -> String {
        format!("tls = {{ ca_file = \"{}\" }}", self.authority.display())
    }
}
