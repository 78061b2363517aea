//! The page at `/`, in a real browser: what it shows of a daemon, in a light and in a dark scheme.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use tidegate::metrics::Metrics;
use tidegate::observe::http::{ServedState, serve};
use tidegate::observe::report::About;
use tidegate::rt::unix_ms;
use tidegate::status::{Board, CacheActivity, CacheSlot, FailedReload, RouteKind, RouteState, RouteStatus};
use tokio_util::sync::CancellationToken;

/// A capture that works, a broadcast whose source quotes markup, one that is disabled, an invalidation, and a daemon that refused a reload. The cache is
/// shown while its place is kept.
fn view() -> (ServedState, CacheSlot) {
    let (board, now) = (Board::default(), unix_ms());
    let orders = board.place(RouteStatus::new("orders", RouteKind::Capture, "shop", "events", now));
    orders.update(|status| {
        status.state = RouteState::Live;
        status.leader = true;
        status.other_instances = 1;
        for link in [&mut status.source, &mut status.destination] {
            link.connected = true;
            link.last_answer_unix_ms = Some(now + 60_000);
        }
        if let Some(ledger) = &mut status.counts {
            (ledger.received, ledger.stored, ledger.rejected, ledger.gaps) = (12_350, 12_345, 5, 3);
            ledger.last_gap_unix_ms = Some(now - 3_600_000);
        }
    });
    let stock = board.place(RouteStatus::new("stock", RouteKind::Broadcast, "events", "shop", now));
    stock.update(|status| {
        status.state = RouteState::Blocked;
        status.reason = Some("NOPERM <script>document.title = 'hurt'</script><b id=hurt>".to_owned());
    });
    let off = board.place(RouteStatus::new("later", RouteKind::Broadcast, "events", "shop", now));
    off.update(|status| status.state = RouteState::Disabled);
    let products = board.place(RouteStatus::new("products", RouteKind::Invalidate, "events", "cache", now));
    products.update(|status| {
        if let Some(shown) = &mut status.invalidate {
            (shown.behind_ms, shown.fills_refused) = (Some(3), 12);
            (shown.cleared, shown.written, shown.kept) = (90_000, 876, 2);
        }
    });
    let cache = board.place_cache("cache");
    cache.update(|status| {
        (status.read_unix_ms, status.policy) = (Some(now), "allkeys-lru".to_owned());
        (status.memory_bytes, status.memory_limit_bytes) = (27 << 20, 32 << 20);
        let done = CacheActivity { over_ms: 10_000, hits: 962, misses: 38, evicted: 120, expired: 0 };
        status.lately = Some(done);
    });
    board.update_daemon(|daemon| {
        daemon.reload_failed = Some(FailedReload { at_unix_ms: now, problems: 1 });
    });
    let about = About {
        version: "1.2.3".to_owned(),
        instance: "host-1".to_owned(),
        started_unix_ms: now,
        configuration: "/etc/tidegate/tidegate.toml".into(),
    };
    (ServedState { about, board, metrics: Metrics::new(), hosts: Vec::new() }, cache)
}

/// What the browser has made of the page after some seconds of its own time.
fn shown(address: &std::net::SocketAddr, arguments: &[&str]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .args(arguments)
        .arg(format!("http://{address}/"))
        .output()
        .unwrap_or_else(|error| panic!("chromium must be installed (Debian: chromium): {error}"));
    let (dom, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("CONSOLE") || said.contains("favicon"), "the page complains: {said}");
    dom.into_owned()
}

#[test]
fn the_page_shows_every_route_and_why_one_does_not_work() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (served, _cache) = view();
    let guard = runtime.enter();
    let served = tidegate::rt::spawn("http", serve(listener, served, stop.clone()));
    drop(guard);
    for scheme in [&[][..], &["--blink-settings=preferredColorScheme=0"]] {
        let dom = shown(&address, scheme);
        for text in [
            "1 of 3 routes ready, 1 disabled",
            "1.2.3, instance host-1",
            "The last reload failed",
            "12,345",
            "active, with standby",
            "3, the last 60 min ago",
            "blocked since",
            "90,876",
            "behind 3 ms, refused 12, written 876, kept 2, cache hits 96.2 %, 27.0 MiB of 32.0 MiB allkeys-lru, evicted 12/s",
            // As text, and not as markup.
            "NOPERM &lt;script&gt;document.title",
        ] {
            assert!(dom.contains(text), "{text}: {dom}");
        }
        assert!(dom.contains("<title>tidegate</title>") && !dom.contains("id=\"hurt\""), "{dom}");
    }
    stop.cancel();
    runtime.block_on(served).unwrap();
}
