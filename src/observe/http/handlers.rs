//! One function per path. All answers but `/metrics` and the page are JSON; 200 means yes and 503 means no.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde::{Deserialize, Serialize};

use super::hosts::only_ours;
use super::{ServedState, page};
use crate::observe::readiness::{daemon_ready, ready, stuck, time};
use crate::observe::report::StatusReport;
use crate::rt;
use crate::status::Slot;

pub(super) fn router(view: ServedState) -> Router {
    let hosts: Arc<[String]> = view.hosts.clone().into();
    Router::new()
        .route("/", get(page::index))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(hosts, only_ours))
        .with_state(view)
}

async fn metrics(State(view): State<ServedState>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, view.metrics.render()).into_response()
}

async fn status(State(view): State<ServedState>) -> Response {
    Json(StatusReport::new(&view.about, &view.board)).into_response()
}

/// `/healthz`.
#[derive(Serialize)]
struct HealthReport {
    healthy: bool,
    /// Loops that have not come round for 10 s.
    stuck: Vec<StuckLoop>,
}

#[derive(Serialize)]
struct StuckLoop {
    route: String,
    since: String,
}

async fn healthz(State(view): State<ServedState>) -> Response {
    let stuck: Vec<StuckLoop> = stuck(&view.board, rt::unix_ms())
        .into_iter()
        .map(|stuck| StuckLoop { route: stuck.route, since: time(stuck.since_unix_ms) })
        .collect();
    let healthy = stuck.is_empty();
    (yes_or_no(healthy), Json(HealthReport { healthy, stuck })).into_response()
}

/// A misspelt parameter must not quietly ask about every route.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadyQuery {
    route: Option<String>,
}

/// `/readyz`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// Why the process itself is not ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
    routes: Vec<RouteReadiness>,
}

#[derive(Serialize)]
struct RouteReadiness {
    route: String,
    ready: bool,
    /// Why not.
    reasons: Vec<String>,
    /// Servers that were tried and are not connected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    away: Vec<String>,
}

async fn readyz(State(view): State<ServedState>, Query(query): Query<ReadyQuery>) -> Response {
    let now = rt::unix_ms();
    let slots = match query.route {
        // Who asks for a route by its name wants to know whether it works, and a disabled one does not.
        Some(route) => match view.board.slot(&route) {
            Some(slot) => vec![slot],
            None => return problem(StatusCode::NOT_FOUND, &format!("there is no route named {route:?}")),
        },
        None => view.board.running().into_iter().map(|(_, slot)| slot).collect(),
    };
    let routes: Vec<RouteReadiness> = slots.iter().map(|slot| RouteReadiness::new(slot, now)).collect();
    let reasons = daemon_ready(&view.board.daemon()).err().unwrap_or_default();
    let ready = reasons.is_empty() && routes.iter().all(|route| route.ready);
    (yes_or_no(ready), Json(Readiness { ready, reasons, routes })).into_response()
}

impl RouteReadiness {
    fn new(slot: &Slot, now_unix_ms: u64) -> Self {
        let status = slot.read();
        let reasons = ready(&status, now_unix_ms).err().unwrap_or_default();
        let away = status.away().filter(|_| slot.was_tried());
        let away = away.map(|(_, side)| side.server.clone()).collect();
        Self { ready: reasons.is_empty(), route: status.route, reasons, away }
    }
}

async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "tidegate serves /, /metrics, /healthz, /readyz and /status")
}

fn yes_or_no(yes: bool) -> StatusCode {
    if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn problem(code: StatusCode, message: &str) -> Response {
    (code, Json(serde_json::json!({ "error": message }))).into_response()
}
