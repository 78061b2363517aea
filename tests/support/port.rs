//! TCP ports for processes that cannot be asked which one they got.
//!
//! Binding port 0 and letting go again hands the port to the next one that asks. So a claim is held for
//! the process's whole life on another loopback address, where nobody is disturbed by it: two tests
//! never share a port, and a killed test leaves no claim behind. The range lies below the ports that
//! the kernel gives to outgoing connections (32768 and up).

use std::net::TcpListener;

const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// A port of 127.0.0.1 that is this test's as long as the claim lives.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _claim: TcpListener,
}

impl Port {
    /// Claims a free one.
    pub(crate) fn claim() -> Self {
        for _ in 0..1_000 {
            let number = fastrand::u16(FIRST..=LAST);
            let Ok(claim) = TcpListener::bind(("127.0.0.2", number)) else { continue };
            if TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _claim: claim };
            }
        }
        panic!("no free TCP port between {FIRST} and {LAST}");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}
