//! Finds the master among several addresses, by the servers' own answers.
//!
//! **Problem.** A master that died and comes back claims to be the master until it is demoted, which takes ten seconds
//! with Sentinel. A client that subscribes to it meanwhile is connected, and receives nothing.
//!
//! **Operation.** All addresses are asked at once. If one is a master, it is used. If several are, two signs decide:
//! being the only one with connected replicas, and being the one that this process used last, not restarted since. If
//! one sign is missing, the other decides. If both are missing or contradict each other, no server is used until one of
//! them gives way. Offsets are never compared: they count different histories.
//!
//! **Why no time-out picks one.** The wrong one loses messages without a trace. Waiting records a gap.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use crate::config::{Address, Endpoint};
use crate::server::connect::{Role, connect_to, role_in};
use crate::server::connection::Connection;
use crate::server::deployment;
use crate::server::error::{Class, Error};

/// Time for the other addresses to answer once one claims to be the master: enough for a working server, and short for
/// one that is gone.
const OTHERS: Duration = Duration::from_secs(1);

/// A master's facts about itself; `None` for those it does not report.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MasterClaim {
    address: Address,
    /// The server's own id, another one after each start.
    run_id: Option<String>,
    replicas: Option<u64>,
}

/// Connects to the master among addresses of an endpoint. Cancel safe.
///
/// # Errors
/// If no address is a master: the last one's error. If several are and neither sign decides.
pub(super) async fn connect(
    endpoint: &Endpoint,
    addresses: &[Address],
    role: &str,
) -> Result<Connection, Error> {
    let mut asked: FuturesUnordered<_> =
        addresses.iter().map(|address| claim(endpoint, address, role)).collect();
    let (mut found, mut last, mut until) = (Vec::new(), None, None);
    loop {
        let answer = match until {
            None => asked.next().await,
            Some(until) => timeout_at(until, asked.next()).await.unwrap_or(None),
        };
        match answer {
            None => break,
            Some(Ok(Some(master))) => {
                found.push(master);
                until.get_or_insert_with(|| Instant::now() + OTHERS);
            }
            Some(Ok(None)) => {}
            Some(Err(error)) => last = Some(error),
        }
    }
    drop(asked);
    let known = deployment::of(endpoint);
    let (claims, mut connections): (Vec<MasterClaim>, Vec<Connection>) = found.into_iter().unzip();
    match decide(&claims, known.master().as_deref()) {
        Some(at) => {
            known.set_master(claims[at].run_id.clone());
            Ok(connections.swap_remove(at))
        }
        None if claims.is_empty() => {
            Err(last.unwrap_or_else(|| Error::NotUsable("none of the addresses is a master now".to_owned())))
        }
        None => Err(Error::SeveralMasters(named(&claims))),
    }
}

/// Asks one address; `None` if it is a replica.
async fn claim(
    endpoint: &Endpoint,
    address: &Address,
    role: &str,
) -> Result<Option<(MasterClaim, Connection)>, Error> {
    let (mut connection, Role::Master) = connect_to(endpoint, address, role).await? else { return Ok(None) };
    let run_id = told(&mut connection, endpoint, "server", "run_id:").await?;
    let replicas = told(&mut connection, endpoint, "replication", "connected_slaves:").await?;
    let replicas = replicas.and_then(|count| count.parse().ok());
    Ok(Some((MasterClaim { address: address.clone(), run_id, replicas }, connection)))
}

/// A field of a section of INFO; `None` if the user has no right to it.
async fn told(
    connection: &mut Connection,
    endpoint: &Endpoint,
    section: &str,
    field: &str,
) -> Result<Option<String>, Error> {
    let command = [b"INFO".as_slice(), section.as_bytes()];
    match connection.ask(endpoint.response_timeout, "asking who is the master", &command).await {
        Ok(reply) => {
            let text = String::from_utf8_lossy(reply.bytes().unwrap_or_default()).into_owned();
            Ok(text.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned()))
        }
        Err(error) if error.class() == Class::Block => Ok(None),
        Err(error) => Err(error),
    }
}

/// Which of the servers that say master is it; `last` is the one that was used last.
fn decide(claims: &[MasterClaim], last: Option<&str>) -> Option<usize> {
    let distinct = distinct(claims);
    if let [only] = distinct[..] {
        return Some(only);
    }
    let followed: Vec<usize> =
        distinct.iter().copied().filter(|at| claims[*at].replicas != Some(0)).collect();
    let followed = match followed[..] {
        // A server that does not report its replicas may have some or none.
        [only] if claims[only].replicas.is_some() => Some(only),
        _ => None,
    };
    let used = distinct.iter().copied().find(|at| last.is_some() && claims[*at].run_id.as_deref() == last);
    agreed(followed, used)
}

/// The result of two signs together: `None` if they contradict each other.
pub(crate) fn agreed<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

/// The servers behind the addresses: two addresses may lead to the same one.
fn distinct(claims: &[MasterClaim]) -> Vec<usize> {
    let same = |one: &MasterClaim, other: &MasterClaim| one.run_id.is_some() && one.run_id == other.run_id;
    (0..claims.len()).filter(|at| claims[..*at].iter().all(|earlier| !same(earlier, &claims[*at]))).collect()
}

fn named(claims: &[MasterClaim]) -> String {
    let names = distinct(claims).into_iter().map(|at| claims[at].address.to_string());
    names.collect::<Vec<_>>().join(", ")
}

/// Checks, while one address is used, whether another one claims to be the master too. Keeps a connection to each.
#[derive(Debug)]
pub(crate) struct MasterWatch<'e> {
    endpoint: &'e Endpoint,
    role: &'e str,
    servers: Vec<(Address, Option<(MasterClaim, Connection)>)>,
}

impl<'e> MasterWatch<'e> {
    pub(crate) fn new(endpoint: &'e Endpoint, role: &'e str) -> Self {
        let servers = endpoint.addresses().iter().map(|address| (address.clone(), None)).collect();
        Self { endpoint, role, servers }
    }

    /// Asks every address, and reports several masters. An address that does not answer is none. Returns whether there
    /// are several.
    pub(crate) async fn look(&mut self) -> Result<bool, Error> {
        let (endpoint, role) = (self.endpoint, self.role);
        let asked = self.servers.iter_mut().map(|(address, kept)| async move {
            *kept = match kept.take() {
                Some((claim, connection)) => still(endpoint, claim, connection).await,
                None => claim(endpoint, address, role).await.ok().flatten(),
            };
            kept.as_ref().map(|(claim, _)| claim.clone())
        });
        let claims: Vec<MasterClaim> = join_all(asked).await.into_iter().flatten().collect();
        match distinct(&claims).len() {
            count @ (0 | 1) => Ok(count == 1),
            _ => Err(Error::SeveralMasters(named(&claims))),
        }
    }
}

/// Returns whether a server still claims to be the master.
async fn still(
    endpoint: &Endpoint,
    claim: MasterClaim,
    mut connection: Connection,
) -> Option<(MasterClaim, Connection)> {
    let hello = connection.ask(endpoint.response_timeout, "asking for the role", &[b"HELLO"]).await.ok()?;
    (role_in(&hello) == Some(Role::Master)).then_some((claim, connection))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(run_id: &str, replicas: Option<u64>) -> MasterClaim {
        let run_id = (!run_id.is_empty()).then(|| run_id.to_owned());
        MasterClaim { address: Address::Tcp { host: "h".to_owned(), port: 1 }, run_id, replicas }
    }

    #[test]
    fn one_master_is_taken_and_of_several_the_one_that_the_signs_name() {
        for (claims, last, expected) in [
            (vec![], Some("a"), None),
            (vec![claim("a", Some(0))], Some("b"), Some(0)),
            (vec![claim("", None)], None, Some(0)),
            // Two addresses of one server.
            (vec![claim("a", Some(0)), claim("a", Some(0))], None, Some(0)),
            // Replicas alone, the last one alone, both alike.
            (vec![claim("a", Some(0)), claim("b", Some(2))], None, Some(1)),
            (vec![claim("a", Some(0)), claim("b", Some(0))], Some("b"), Some(1)),
            (vec![claim("a", Some(0)), claim("b", Some(1))], Some("b"), Some(1)),
            (vec![claim("a", Some(1)), claim("b", Some(1))], Some("a"), Some(0)),
            // They contradict each other, or are silent.
            (vec![claim("a", Some(0)), claim("b", Some(1))], Some("a"), None),
            (vec![claim("a", Some(0)), claim("b", Some(0))], Some("c"), None),
            (vec![claim("a", Some(1)), claim("b", Some(1))], None, None),
            // A server that may not be asked does not know.
            (vec![claim("a", Some(1)), claim("b", None)], None, None),
            (vec![claim("a", Some(0)), claim("b", None)], None, None),
            (vec![claim("", None), claim("", None)], None, None),
            (vec![claim("a", None), claim("b", None)], Some("a"), Some(0)),
        ] {
            assert_eq!(decide(&claims, last), expected, "{claims:?} {last:?}");
        }
    }
}
