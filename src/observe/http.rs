//! The daemon's HTTP server: `/metrics`, `/healthz`, `/readyz`, `/status`, and a page at `/`.
//!
//! **Constraints.** It may be reachable by anybody on the network (the container image listens on all
//! addresses), so nothing about it may grow: one request a connection, a fixed number of connections,
//! a fixed time for each, a fixed buffer for headers, and no request body is ever read.
//!
//! **Operation.** A scrape, a probe or a command asks once and goes, so keeping connections alive
//! would save nothing that matters, and closing each makes one time-out enough for slow headers, slow
//! bodies and slow readers alike.
//!
//! **Failure.** What a client does wrong ends its connection and is not logged. An error of accepting
//! (no file descriptors left) is logged, at most one line in 30 s, and tried again.

mod handlers;
mod page;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::report::About;
use crate::logs::Limited;
use crate::metrics::Metrics;
use crate::rt;
use crate::status::Board;

/// Probes, a few Prometheus servers and people: far fewer at once. The next ones wait in the kernel.
const MAX_CONNECTIONS: usize = 64;

/// For the whole of a connection. A scrape takes milliseconds, and Prometheus gives up after 10 s.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What hyper takes as its smallest buffer; no request of ours needs a tenth of it.
const MAX_HEADER_BYTES: usize = 8 * 1024;

/// How long to wait before accepting again when the system refuses: descriptors come free meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What the server shows.
#[derive(Debug, Clone)]
pub struct View {
    /// The process.
    pub about: About,
    /// The routes.
    pub board: Board,
    /// The metrics.
    pub metrics: Metrics,
}

/// Serves until it is told to stop; then what is being answered is cut off, and it returns when the
/// last connection is closed. Cancel safe: dropping it stops accepting, and connections end by
/// themselves in time.
pub async fn serve(listener: TcpListener, view: View, stop: CancellationToken) {
    let router = handlers::router(view);
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let mut limited = Limited::new();
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &room)).await {
        match accepted {
            Ok((stream, permit)) => {
                let answer = answer(stream, router.clone());
                let stop = stop.clone();
                rt::spawn(
                    "http_connection",
                    connections.track_future(async move {
                        stop.run_until_cancelled(tokio::time::timeout(CONNECTION_TIMEOUT, answer)).await;
                        drop(permit);
                    }),
                );
            }
            Err(error) => {
                if let Some(suppressed) = limited.admit("http_accept", Instant::now()) {
                    tracing::warn!(
                        event = "http_accept",
                        %error,
                        suppressed,
                        "cannot accept HTTP connections (probes and scrapes fail); trying again"
                    );
                }
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

/// Takes a place first, so that a connection which is accepted is also served.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = room.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// One request, one answer.
async fn answer(stream: TcpStream, router: axum::Router) {
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::debug!(event = "http_connection", %error, "a client's connection ended early");
    }
}
