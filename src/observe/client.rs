//! How the commands (`status`, `healthcheck`) ask the daemon that runs: one blocking request.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The daemon answers from memory; a runtime that needs longer is not healthy.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A status of ten thousand routes is under 10 MiB.
const MAX_BODY_BYTES: u64 = 32 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error(
    "no reply from tidegate at {url}: {reason} (check that it runs, and that it uses daemon.listen of this configuration)"
)]
pub struct ClientError {
    url: String,
    reason: String,
}

/// Asks the daemon that listens on `listen` for `path`: the HTTP status code and the body. An
/// unspecified address (`0.0.0.0`, `[::]`) is asked on loopback. Blocks for at most 5 s; proxies in
/// the environment are not used.
///
/// # Errors
/// If there is no whole answer in time. An answer that says no (503) is not an error.
pub fn get(listen: SocketAddr, path: &str) -> Result<(u16, String), ClientError> {
    let url = format!("http://{}{path}", reachable(listen));
    request(&url).map_err(|reason| ClientError { url, reason })
}

fn request(url: &str) -> Result<(u16, String), String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .build()
        .into();
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    let code = response.status().as_u16();
    let mut body = String::new();
    response
        .body_mut()
        .with_config()
        .limit(MAX_BODY_BYTES)
        .reader()
        .read_to_string(&mut body)
        .map_err(|error| error.to_string())?;
    Ok((code, body))
}

fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:7380", "127.0.0.1:7380"),
            ("[::]:7380", "[::1]:7380"),
            ("10.0.0.7:7380", "10.0.0.7:7380"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }

    #[test]
    fn nobody_there_is_an_error_that_says_where_and_what_to_look_at() {
        // Bound and not listening: no other process can take the port meanwhile.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let error = get(address, "/healthz").unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("no reply from tidegate at http://{address}/healthz: ")),
            "{error}"
        );
        assert!(error.contains("daemon.listen"), "{error}");
    }
}
