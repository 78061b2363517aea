//! A configuration that changes while the daemon runs: reloads, signals, and routes that come and go.

mod comes_back;
mod drained_routes;
mod reload;
mod signals;
mod switched_off;
