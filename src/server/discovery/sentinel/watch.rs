//! Asks one sentinel each second, while connections are open or wanted.

use std::time::Duration;

use tokio::time::sleep;

use super::asking::{ask, ask_all, ask_anew};
use crate::config::{Address, Endpoint, Sentinels};
use crate::logs::LogCode;
use crate::server::connection::Connection;
use crate::server::deployment::sentinels::{Opinion, Seen};
use crate::server::error::Error;

/// Interval of questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// Asks one sentinel after the other, for ever.
pub(super) async fn run(endpoint: &Endpoint, seen: &Seen) {
    let Some(sentinels) = endpoint.sentinels() else { return };
    let mut watched: Vec<(&Address, Option<Connection>, bool)> =
        sentinels.endpoint.addresses().iter().map(|address| (address, None, true)).collect();
    let mut next = fastrand::usize(..watched.len().max(1));
    loop {
        sleep(INTERVAL).await;
        let count = watched.len();
        let Some((address, connection, answered)) = watched.get_mut(next % count.max(1)) else { return };
        next = (next + 1) % count;
        let asked = std::time::Instant::now();
        let answer = match connection.take() {
            Some(mut open) => match ask(endpoint, sentinels, &mut open).await {
                Ok(opinion) => Ok((opinion, open)),
                Err(_) => ask_anew(endpoint, sentinels, address).await,
            },
            None => ask_anew(endpoint, sentinels, address).await,
        };
        let error = match answer {
            Ok((opinion, open)) => {
                *connection = Some(open);
                report(sentinels, address, std::mem::replace(answered, true), None);
                objection(endpoint, sentinels, seen, opinion, asked).await
            }
            Err(error) => {
                report(sentinels, address, std::mem::replace(answered, false), Some(&error));
                Some(error)
            }
        };
        seen.object(address, error.as_ref());
        report_doubt(endpoint, seen);
    }
}

/// Says once that no sentinel confirms the master, and once that one does again.
fn report_doubt(endpoint: &Endpoint, seen: &Seen) {
    let doubt = seen.confirmation().and_then(|confirmation| confirmation.doubt);
    let server = &endpoint.name;
    match (seen.doubted(doubt.is_some()), doubt) {
        (false, Some(doubt)) => tracing::warn!(
            event = LogCode::MasterUnconfirmed.as_str(),
            server,
            "{doubt}; connections stay, and routes of this server are not ready until one master is confirmed"
        ),
        (true, None) => {
            tracing::info!(event = LogCode::OneMaster.as_str(), server, "one master is confirmed again");
        }
        _ => {}
    }
}

/// Why an answer does not confirm the master; `None` if it does, or all answers together do.
async fn objection(
    endpoint: &Endpoint,
    sentinels: &Sentinels,
    seen: &Seen,
    opinion: Opinion,
    asked: std::time::Instant,
) -> Option<Error> {
    if let Opinion::Master { epoch, address } = opinion
        && seen.confirm(epoch, &address, asked)
    {
        return None;
    }
    // One alone may be outdated. All answers decide, and if they are not believed, connections stay.
    let said = ask_all(endpoint, sentinels).await;
    seen.believe(sentinels, &said, asked).err()
}

/// Says once that a sentinel is away, and once that it is back.
fn report(sentinels: &Sentinels, address: &Address, answered: bool, error: Option<&Error>) {
    let server = &sentinels.endpoint.name;
    match error {
        Some(error) if answered => tracing::warn!(
            event = LogCode::SentinelUnavailable.as_str(),
            server,
            class = error.class().as_str(),
            "{}; the other sentinels are asked, and connections stay",
            error.with_hint()
        ),
        None if !answered => {
            tracing::info!(
                event = LogCode::SentinelAvailable.as_str(),
                server,
                "sentinel {address} answers again"
            );
        }
        _ => {}
    }
}
