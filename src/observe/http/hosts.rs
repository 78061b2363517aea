//! The host names by which the server may be addressed.
//!
//! A page of any web site can make a visitor's browser ask any address, under a name of the site that its owner points
//! at that address (DNS rebinding), and the browser lets the page read the answer. The `Host` of such a request is a
//! stranger's name. So only these are answered: addresses, names that cannot be registered, and those in
//! `daemon.hosts`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// Domains in which names cannot be registered: loopback, the local network, Kubernetes and clouds.
const RESERVED: [&str; 5] = ["localhost", "local", "internal", "svc", "svc.cluster.local"];

/// Answers only what asks by a name of ours.
pub(super) async fn only_ours(State(hosts): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::HOST).map(|value| value.to_str().unwrap_or("?"));
    let asked = request.uri().authority().map(axum::http::uri::Authority::as_str).or(header);
    // A browser always sends it; some load balancers' health checks do not.
    if asked.is_none_or(|asked| is_ours(asked, &hosts)) {
        return next.run(request).await;
    }
    let words = "asked by a name that is not known here: add it to daemon.hosts\n";
    (StatusCode::MISDIRECTED_REQUEST, words).into_response()
}

fn is_ours(asked: &str, hosts: &[String]) -> bool {
    if let Some(address) = asked.strip_prefix('[') {
        let address = address.split(']').next().unwrap_or_default();
        return address.parse::<IpAddr>().is_ok();
    }
    let name = asked.split_once(':').map_or(asked, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_in =
        |domain: &&str| name.strip_suffix(*domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    name.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || RESERVED.iter().any(is_in)
        || hosts.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_stranger_can_own_is_not_ours() {
        let hosts = ["tidegate.example.com".to_owned()];
        for ours in [
            "127.0.0.1:7380",
            "10.0.0.7",
            "[::1]:7380",
            "localhost:7380",
            "LOCALHOST.",
            "tidegate:7380",
            "tidegate.monitoring.svc:7380",
            "tidegate.monitoring.svc.cluster.local",
            "box.local",
            "Tidegate.Example.com:7380",
        ] {
            assert!(is_ours(ours, &hosts), "{ours}");
        }
        for foreign in
            ["evil.example:7380", "example.com", "127.0.0.1.evil.example", "evillocal.x", "[evil.example]"]
        {
            assert!(!is_ours(foreign, &hosts), "{foreign}");
        }
    }
}
