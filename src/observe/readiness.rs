//! Two questions, as pure functions with their reasons as data: does a route work now, and do the
//! loops come round.
//!
//! Times are by the system's clock, as on the board. A clock that is set back makes things look
//! younger for as long as it was set back, never older; one that is set forward can make a loop look
//! stuck until it next comes round, which is within a second.

use std::time::{Duration, UNIX_EPOCH};

use crate::status::{Board, DaemonStatus, RouteState, RouteStatus, SideStatus};

/// A heartbeat goes out every second when idle, and its absence ends the connection after 5 s.
const SOURCE_SILENT_MS: u64 = 5_000;

/// A destination may be quiet between two checks of an idle route, and one reply may take its
/// time-out; twice the source's bound covers both.
const DESTINATION_SILENT_MS: u64 = 10_000;

/// Loops come round at least once a second, so ten rounds are missing.
const STUCK_MS: u64 = 10_000;

/// Checks whether a route works now.
///
/// # Errors
/// Every reason why it does not, for an operator. A reason keeps its text as long as it lasts.
pub fn ready(status: &RouteStatus, now_unix_ms: u64) -> Result<(), Vec<String>> {
    let mut reasons = Vec::new();
    if status.state == RouteState::Disabled {
        // Nobody expects its servers to answer.
        return Err(vec![format!("disabled since {}: enabled = false", time(status.since_unix_ms))]);
    }
    if !works(status.state) {
        let mut text = format!("{} since {}", status.state.as_str(), time(status.since_unix_ms));
        if let Some(reason) = &status.reason {
            text.push_str(": ");
            text.push_str(reason);
        }
        reasons.push(text);
    }
    // A route becomes live by answers of both sides.
    let answered = works(status.state).then_some(status.since_unix_ms);
    let (source, destination) = (&status.source, &status.destination);
    for (name, side, bound) in
        [("source", source, SOURCE_SILENT_MS), ("destination", destination, DESTINATION_SILENT_MS)]
    {
        // Both sides may be one server, and a capture's state may already name its source's doubt.
        if let Some(doubt) =
            side.doubt.as_ref().filter(|doubt| !reasons.iter().any(|said| said.contains(*doubt)))
        {
            reasons.push(format!("{name} {}: {doubt}", side.server));
        }
        let is_away = status.away().any(|(away, _)| away == name);
        let Some(mut text) = silent(name, side, is_away, answered, bound, now_unix_ms) else { continue };
        let said = |words: &str| reasons.iter().any(|said| said.contains(words));
        // The state's reason may name the server with its error.
        if side.error.as_ref().is_some_and(|error| said(&format!("{}: {error}", side.server))) {
            continue;
        }
        // An error is said once: the state's reason often is that of a side, or both sides are one server.
        let error = side.error.iter().find(|error| !said(error));
        if let Some(error) = error {
            text.push_str(": ");
            text.push_str(error);
        }
        reasons.push(text);
    }
    if let Some(error) = &status.spool_error {
        reasons.push(format!("no spool: {error}"));
    }
    if let Some(error) = &status.durability_error {
        reasons.push(format!("not durable: {error}"));
    }
    reasons.extend(status.missing_notifications.iter().cloned());
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

/// Returns whether a route in this state does its work, or could continue with it.
fn works(state: RouteState) -> bool {
    matches!(state, RouteState::Live | RouteState::Standby)
}

/// Checks whether the process itself works.
///
/// # Errors
/// Every reason why it does not.
pub fn daemon_ready(daemon: &DaemonStatus) -> Result<(), Vec<String>> {
    let error = daemon.state_directory_error.as_ref();
    error.map_or(Ok(()), |error| Err(vec![error.clone()]))
}

/// Says for how long a side has been silent, if it has.
fn silent(
    name: &str,
    side: &SideStatus,
    is_away: bool,
    answered_unix_ms: Option<u64>,
    bound_ms: u64,
    now_unix_ms: u64,
) -> Option<String> {
    let server = &side.server;
    match side.last_answer_unix_ms.max(answered_unix_ms) {
        _ if is_away => Some(format!("{name} {server}: not connected")),
        _ if !side.connected => None,
        None => Some(format!("{name} {server}: connected, but it has not answered yet")),
        Some(last) if now_unix_ms.saturating_sub(last) > bound_ms => {
            Some(format!("{name} {server}: no answer since {}", time(last)))
        }
        Some(_) => None,
    }
}

/// A loop that does not come round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The route's name.
    pub route: String,
    /// When it last came round; milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// The loops that have not come round for 10 s. A route that has ended, or is disabled, has no loop.
#[must_use]
pub fn stuck(board: &Board, now_unix_ms: u64) -> Vec<Stuck> {
    let late = |since| now_unix_ms.saturating_sub(since) > STUCK_MS;
    board
        .running()
        .into_iter()
        .map(|(route, slot)| (Stuck { route, since_unix_ms: slot.progress_unix_ms() }, slot))
        .filter(|(stuck, slot)| late(stuck.since_unix_ms) && slot.read().state != RouteState::Stopped)
        .map(|(stuck, _)| stuck)
        .collect()
}

/// A time for an operator: RFC 3339, UTC, whole seconds.
pub(super) fn time(unix_ms: u64) -> String {
    /// The last second of the year 9999, where RFC 3339 ends.
    const LAST_MS: u64 = 253_402_300_799_000;
    let since = Duration::from_millis(unix_ms.min(LAST_MS));
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{RouteEndpoint, RouteKind};

    const NOW: u64 = 1_700_000_000_000;

    fn live() -> RouteStatus {
        let mut status = RouteStatus::new("orders", RouteKind::Capture, "shop", "events", NOW - 60_000);
        status.state = RouteState::Live;
        for link in [&mut status.source, &mut status.destination] {
            link.connected = true;
            link.last_answer_unix_ms = Some(NOW);
        }
        status
    }

    fn reasons(change: impl FnOnce(&mut RouteStatus)) -> Vec<String> {
        let mut status = live();
        change(&mut status);
        ready(&status, NOW).err().unwrap_or_default()
    }

    #[test]
    fn a_live_route_that_both_sides_answer_is_ready() {
        assert_eq!(ready(&live(), NOW), Ok(()));
        assert_eq!(reasons(|status| status.source.last_answer_unix_ms = Some(NOW - 5_000)), [""; 0]);
        assert_eq!(reasons(|status| status.destination.last_answer_unix_ms = Some(NOW - 10_000)), [""; 0]);
        assert_eq!(reasons(|status| status.source.last_answer_unix_ms = Some(NOW + 9_000)), [""; 0]);
    }

    #[test]
    fn each_condition_alone_is_a_reason() {
        assert_eq!(
            reasons(|status| {
                status.state = RouteState::Blocked;
                status.reason = Some("WRONGTYPE on stream orders".to_owned());
            }),
            ["blocked since 2023-11-14T22:12:20Z: WRONGTYPE on stream orders"]
        );
        assert_eq!(
            reasons(|status| {
                status.source.connected = false;
                status.source.error = Some("connection refused".to_owned());
            }),
            ["source shop: not connected: connection refused"]
        );
        assert_eq!(
            reasons(|status| status.source.last_answer_unix_ms = Some(NOW - 5_001)),
            ["source shop: no answer since 2023-11-14T22:13:14Z"]
        );
        assert_eq!(
            reasons(|status| {
                status.state = RouteState::Waiting;
                status.source.last_answer_unix_ms = None;
            }),
            ["waiting since 2023-11-14T22:12:20Z", "source shop: connected, but it has not answered yet"]
        );
        assert_eq!(
            reasons(|status| status.spool_error = Some("the disk is full".to_owned())),
            ["no spool: the disk is full"]
        );
        assert_eq!(
            reasons(|status| status.durability_error = Some("0 of 1 replicas have it".to_owned())),
            ["not durable: 0 of 1 replicas have it"]
        );
        let doubt = "no sentinel has confirmed for 10 s that h:1 is the master";
        assert_eq!(
            reasons(|status| status.destination.doubt = Some(doubt.to_owned())),
            [format!("destination events: {doubt}")]
        );
        assert_eq!(
            reasons(|status| status.doubt(Some(doubt.to_owned()), Some(doubt.to_owned()))),
            [format!("source shop: {doubt}")]
        );
        let missing = "notify-keyspace-events is \"\"";
        assert_eq!(reasons(|status| status.missing_notifications = vec![missing.to_owned()]), [missing]);
        assert_eq!(
            reasons(|status| status.destination.last_answer_unix_ms = Some(NOW - 10_001)),
            ["destination events: no answer since 2023-11-14T22:13:09Z"]
        );
        assert_eq!(
            reasons(|status| status.destination.connected = false),
            ["destination events: not connected"]
        );
    }

    /// It is live by an answer of both sides, and the first heartbeat is on its way.
    #[test]
    fn a_route_that_has_just_become_live_is_ready() {
        let just_live = |since_unix_ms| {
            reasons(|status| {
                status.since_unix_ms = since_unix_ms;
                status.source.last_answer_unix_ms = None;
                status.destination.last_answer_unix_ms = None;
            })
        };
        assert_eq!(just_live(NOW), [""; 0]);
        assert_eq!(just_live(NOW - 5_001), ["source shop: no answer since 2023-11-14T22:13:14Z"]);
    }

    #[test]
    fn every_reason_is_given() {
        assert_eq!(
            reasons(|status| {
                status.state = RouteState::Waiting;
                status.source.connected = false;
                status.destination.connected = false;
            })
            .len(),
            3
        );
    }

    #[test]
    fn an_error_is_said_once() {
        assert_eq!(
            reasons(|status| {
                status.state = RouteState::Waiting;
                status.reason = Some("cannot connect: connection refused".to_owned());
                for side in [&mut status.source, &mut status.destination] {
                    side.connected = false;
                    side.error = Some("connection refused".to_owned());
                }
            }),
            [
                "waiting since 2023-11-14T22:12:20Z: cannot connect: connection refused",
                "source shop: not connected",
                "destination events: not connected"
            ]
        );
    }

    /// A session that ends closes both connections, and one server is the cause.
    #[test]
    fn the_server_that_failed_is_named_and_no_other() {
        for (from, expected) in [
            (RouteEndpoint::Source, "source shop: NOPERM no right"),
            (RouteEndpoint::Destination, "destination events: NOPERM no right"),
        ] {
            let failed = |status: &mut RouteStatus| {
                status.state = RouteState::Blocked;
                status.reason = Some(status.session_failed(from, "NOPERM no right"));
            };
            assert_eq!(reasons(failed), [format!("blocked since 2023-11-14T22:12:20Z: {expected}")]);
            let mut status = live();
            failed(&mut status);
            let away: Vec<&str> = status.away().map(|(name, _)| name).collect();
            assert_eq!(away, [expected.split(' ').next().unwrap()]);
        }
    }

    #[test]
    fn no_state_but_live_is_ready() {
        for state in RouteState::ALL {
            assert_eq!(
                reasons(|status| status.state = state).is_empty(),
                matches!(state, RouteState::Live | RouteState::Standby),
                "{state:?}"
            );
        }
    }

    /// Nobody expects an answer of its servers, and its loop does not run.
    #[test]
    fn a_disabled_route_has_one_reason_and_no_loop() {
        let disabled = RouteStatus::new("orders", RouteKind::Capture, "shop", "events", NOW);
        let disabled = RouteStatus { state: RouteState::Disabled, ..disabled };
        let reasons = ready(&disabled, NOW + 60_000).err().unwrap_or_default();
        assert_eq!(reasons, ["disabled since 2023-11-14T22:13:20Z: enabled = false"]);
        let board = Board::default();
        board.show("orders", crate::status::Slot::new(disabled));
        assert_eq!(stuck(&board, NOW + 60_000), []);
        assert_eq!((board.slots().len(), board.running().len()), (1, 0));
    }

    #[test]
    fn a_loop_that_does_not_come_round_is_named_whatever_its_route_does() {
        let board = Board::default();
        let slot = board.place(live());
        let other = board.place(RouteStatus::new("stock", RouteKind::Broadcast, "events", "shop", NOW));
        other.update(|status| status.state = RouteState::Waiting);
        slot.progressed(NOW - 10_000);
        other.progressed(NOW);
        assert_eq!(stuck(&board, NOW), []);
        assert_eq!(
            stuck(&board, NOW + 1),
            [Stuck { route: "orders".to_owned(), since_unix_ms: NOW - 10_000 }]
        );
        slot.update(|status| status.state = RouteState::Stopped);
        assert_eq!(stuck(&board, NOW + 1), [], "a route that has ended has no loop");
    }

    #[test]
    fn times_of_any_size_can_be_written() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
