//! The daemon's HTTP server: `/metrics`, `/healthz`, `/readyz`, `/status`, and a page at `/`.
//!
//! **Constraints.** Any client on the network may reach it (the container image listens on all addresses), so nothing
//! may grow: one request a connection, a fixed number of connections (`places`), a fixed time for each, a fixed buffer
//! for headers, and no request body is read. Requests with a foreign host name are refused (`hosts`).
//!
//! **Operation.** A scrape, a probe or a command asks once and leaves, so keeping connections alive would save little.
//! Closing each makes two time-outs enough: one for the request, one for all.
//!
//! **Failure.** A client's error ends its connection and is not logged. An error of accepting (no file descriptors
//! left) is logged, at most one line in 30 s, and tried again.

mod handlers;
mod hosts;
mod page;
mod places;

use std::time::{Duration, Instant};

use hyper::service::Service as _;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::places::{ConnectionPlace, ConnectionPlaces};
use super::report::About;
use crate::logs::{Limited, LogCode};
use crate::metrics::Metrics;
use crate::rt;
use crate::status::Board;

/// For the whole of a connection. A scrape takes milliseconds, and Prometheus gives up after 10 s.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// For the request's header, which a client has ready when it connects.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// hyper's smallest buffer; our requests need less than a tenth of it.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// How long to wait before accepting again when the system refuses: descriptors come free meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The data that the server shows.
#[derive(Debug, Clone)]
pub struct ServedState {
    /// The process.
    pub about: About,
    /// The routes.
    pub board: Board,
    /// The metrics.
    pub metrics: Metrics,
    /// By which names it may be asked, beside those that no stranger can own.
    pub hosts: Vec<String>,
}

/// Serves until it is stopped; then it interrupts running answers, and returns when the last connection is closed.
/// Cancel safe: dropping it stops accepting, and connections end by themselves in time.
pub async fn serve(listener: TcpListener, view: ServedState, stop: CancellationToken) {
    let router = handlers::router(view);
    let places = ConnectionPlaces::new();
    let connections = TaskTracker::new();
    let mut limited = Limited::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                // If every place has a connection that is being answered, the new one is closed.
                let Some(place) = places.take(peer.ip()).await else { continue };
                let answer = answer(stream, place, router.clone());
                let stop = stop.clone();
                rt::spawn(
                    "http_connection",
                    connections.track_future(async move {
                        stop.run_until_cancelled(tokio::time::timeout(CONNECTION_TIMEOUT, answer)).await;
                    }),
                );
            }
            Err(error) => {
                if let Some(suppressed) = limited.admit(LogCode::HttpAccept.as_str(), Instant::now()) {
                    tracing::warn!(
                        event = LogCode::HttpAccept.as_str(),
                        %error,
                        suppressed,
                        "cannot accept HTTP connections, so probes and scrapes fail; tidegate retries"
                    );
                }
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

/// Answers one request, if it comes in time.
async fn answer(stream: TcpStream, place: ConnectionPlace, router: axum::Router) {
    let gives_way = place.gives_way();
    let heard = CancellationToken::new();
    let hears = heard.clone();
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |request| {
        place.is_heard();
        hears.cancel();
        router.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let silent_for_too_long = async {
        if tokio::time::timeout(HEADER_TIMEOUT, heard.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(event = LogCode::HttpConnection.as_str(), %error, "a client's connection ended early");
        },
        () = silent_for_too_long => {}
        () = gives_way.cancelled() => {}
    }
}
