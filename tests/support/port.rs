//! TCP ports for processes that cannot be asked which one they got.
//!
//! Binding port 0 and letting go again hands the port to the next one that asks. So a claim is held for
//! the process's whole life on another loopback address, where nobody is disturbed by it: two tests
//! never share a port, and a killed test leaves no claim behind. The range lies below the ports that
//! the kernel gives to outgoing connections (32768 and up).

use std::net::TcpListener;

const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;
/// A cluster node listens on a second port, so far above its first.
const CLUSTER_BUS: u16 = 10_000;

/// A port of 127.0.0.1 that is this test's as long as the claim lives.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _claims: Vec<TcpListener>,
}

impl Port {
    /// Claims a free one.
    pub(crate) fn claim() -> Self {
        Self::claim_of(LAST, &[0])
    }

    /// Claims one for a cluster node, together with the port of its bus.
    pub(crate) fn claim_of_cluster() -> Self {
        Self::claim_of(LAST - CLUSTER_BUS, &[0, CLUSTER_BUS])
    }

    fn claim_of(last: u16, offsets: &[u16]) -> Self {
        for _ in 0..1_000 {
            let number = fastrand::u16(FIRST..=last);
            let bound = |host: &str| -> std::io::Result<Vec<TcpListener>> {
                offsets.iter().map(|offset| TcpListener::bind((host, number + offset))).collect()
            };
            let Ok(claims) = bound("127.0.0.2") else { continue };
            if bound("127.0.0.1").is_ok() {
                return Self { number, _claims: claims };
            }
        }
        panic!("no free TCP port between {FIRST} and {last}");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}
