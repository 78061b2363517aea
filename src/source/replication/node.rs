//! Chooses the server of a deployment to read from.
//!
//! A replica is preferred: reading from it does not disturb the master's acknowledgements. But first of all it must
//! hold the stream from the place to continue. So INFO is asked of each: the history, its end, and where the backlog
//! begins.
//!
//! If several servers claim to be the master, two signs decide: being the only one with connected replicas, and being
//! the only one that holds what follows. If neither decides, none is read until one gives way, since the backlog of the
//! right one keeps the messages meanwhile.

use std::collections::{BTreeSet, HashMap};

use super::{HistoryId, ReplicationOffset};
use crate::config::{Address, Endpoint, Prefer};
use crate::server::{self, Connection, Error, Role};

/// A server's facts from INFO replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Info {
    pub(super) role: Role,
    /// True if a replica's link to its master is up.
    pub(super) linked: bool,
    /// The history that it is in, and how far.
    pub(super) history: HistoryId,
    pub(super) offset: u64,
    /// The history that it was in before, and the first offset that is no longer that one's.
    pub(super) before: Option<(HistoryId, u64)>,
    /// The first byte that the backlog holds; `None` if there is no backlog.
    pub(super) backlog_from: Option<u64>,
    /// Size of the backlog.
    pub(super) backlog_bytes: u64,
    /// Its replicas that have an address of their own.
    pub(super) replicas: Vec<Address>,
    /// Number of connected replicas, with or without an address.
    pub(super) connected: u64,
}

impl Info {
    /// Asks a server.
    ///
    /// # Errors
    /// If it does not answer, or the user may not ask. Nothing is known of the node then.
    pub(super) async fn ask(connection: &mut Connection, endpoint: &Endpoint) -> Result<Self, Error> {
        let deadline = endpoint.response_timeout;
        let reply =
            connection.ask(deadline, "asking for its replication", &[b"INFO", b"replication"]).await?;
        let text = String::from_utf8_lossy(reply.bytes().unwrap_or_default());
        Self::read(&text).ok_or_else(|| Error::Protocol("INFO replication has no replication id".to_owned()))
    }

    /// Reads the section `replication`.
    pub(super) fn read(text: &str) -> Option<Self> {
        let fields: HashMap<&str, &str> =
            text.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        let number = |name: &str| fields.get(name).and_then(|value| value.parse::<u64>().ok());
        let history = |name: &str| fields.get(name).and_then(|value| HistoryId::parse(value));
        let role = if fields.get("role") == Some(&"master") { Role::Master } else { Role::Replica };
        let active = number("repl_backlog_active") == Some(1);
        Some(Self {
            role,
            linked: role == Role::Master || fields.get("master_link_status") == Some(&"up"),
            history: history("master_replid")?,
            offset: number("master_repl_offset")?,
            // An offset of -1 means that there is none.
            before: history("master_replid2").zip(number("second_repl_offset")),
            backlog_from: number("repl_backlog_first_byte_offset").filter(|_| active),
            backlog_bytes: number("repl_backlog_size").unwrap_or_default(),
            replicas: replicas(&fields),
            connected: number("connected_slaves").unwrap_or_default(),
        })
    }

    /// The earlier of `place` and the end of the history that the server shares with it. They differ after a failover
    /// to a lagging replica.
    pub(super) fn up_to_the_fork(&self, place: &ReplicationOffset) -> ReplicationOffset {
        let last = match &self.before {
            Some((before, from)) if *before == place.history => from.saturating_sub(1),
            _ => place.offset,
        };
        ReplicationOffset { history: place.history.clone(), offset: place.offset.min(last) }
    }

    /// Returns how a server fits a place to continue from.
    fn fit(&self, place: Option<&ReplicationOffset>) -> Fit {
        let Some(ReplicationOffset { history, offset }) = place else {
            return Fit::Anew(NoContinuation::First);
        };
        let holds = self.backlog_from.is_some_and(|from| from <= offset + 1);
        let exceeded = || NoContinuation::Exceeded { offset: *offset, from: self.backlog_from };
        if *history == self.history {
            match (*offset <= self.offset, self.role) {
                (true, _) if holds => Fit::Continues,
                (true, _) => Fit::Anew(exceeded()),
                (false, Role::Replica) => Fit::Behind,
                (false, Role::Master) => Fit::Anew(NoContinuation::OtherHistory),
            }
        } else if let Some((before, from)) = &self.before
            && before == history
        {
            // Beyond the fork only the former server had something: the new history begins there.
            let begins = (offset + 1).min(*from);
            match self.backlog_from {
                Some(backlog) if backlog <= begins => Fit::Continues,
                _ => Fit::Anew(exceeded()),
            }
        } else {
            Fit::Anew(NoContinuation::OtherHistory)
        }
    }
}

/// `slave0:ip=10.0.0.2,port=6379,state=online,…`; readers such as this one have the port 0.
fn replicas(fields: &HashMap<&str, &str>) -> Vec<Address> {
    let of = |value: &str| {
        let parts: HashMap<&str, &str> = value.split(',').filter_map(|part| part.split_once('=')).collect();
        let port = parts.get("port")?.parse().ok().filter(|port| *port != 0)?;
        // Addresses are shown, and these are the server's words.
        let host =
            parts.get("ip").copied().filter(|host| host.bytes().all(|byte| byte.is_ascii_graphic()))?;
        (parts.get("state") == Some(&"online")).then(|| Address::Tcp { host: host.to_owned(), port })
    };
    (0..)
        .map_while(|index| fields.get(format!("slave{index}").as_str()))
        .filter_map(|value| of(value))
        .collect()
}

/// How a server fits a place to continue from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fit {
    /// It continues from that place, or from an earlier fork of the histories.
    Continues,
    /// A replica that has not replicated that far yet.
    Behind,
    Anew(NoContinuation),
}

/// Why reading begins anew, with the messages from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoContinuation {
    /// It never began.
    First,
    /// The backlog no longer holds the following bytes: it begins later, or there is none.
    Exceeded {
        /// The last offset read.
        offset: u64,
        /// The first offset of the backlog.
        from: Option<u64>,
    },
    /// The server is in another history: it was restarted, or became a master without the bytes read before.
    OtherHistory,
}

/// A server to read from.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) connection: Connection,
    pub(super) info: Info,
    fit: Fit,
}

/// Chooses among the endpoint's servers, and the replicas that its master names: first by whether one holds what
/// follows `place`, then by the preferred role. Cancel safe.
///
/// # Errors
/// If none can be read now; the last one's error.
pub(super) async fn choose(
    endpoint: &Endpoint,
    role: &str,
    prefer: Prefer,
    place: Option<&ReplicationOffset>,
) -> Result<Node, Error> {
    let wanted = match prefer {
        Prefer::Replica => Role::Replica,
        Prefer::Master => Role::Master,
    };
    let mut found = FoundNode { nodes: Vec::new(), last: None };
    let mut named = Vec::new();
    let known = server::known_addresses(endpoint).await?;
    for address in &known {
        named.extend(found.consider(endpoint, address, role, place).await);
    }
    if wanted == Role::Replica && !found.nodes.iter().any(|node| node.info.role == wanted) {
        for address in named.iter().filter(|named| !known.contains(named)) {
            found.consider(endpoint, address, role, place).await;
        }
    }
    let none = || Error::NotUsable("none of the addresses can be read now".to_owned());
    let nodes = of_one_master(found.nodes)?;
    let best =
        nodes.into_iter().rev().max_by_key(|node| (node.fit == Fit::Continues, node.info.role == wanted));
    best.ok_or_else(|| found.last.unwrap_or_else(none))
}

/// Leaves out the servers of another master than the one that leads.
fn of_one_master(mut nodes: Vec<Node>) -> Result<Vec<Node>, Error> {
    let masters: Vec<&Node> = nodes.iter().filter(|node| node.info.role == Role::Master).collect();
    let histories: BTreeSet<&str> = masters.iter().map(|node| node.info.history.as_str()).collect();
    if histories.len() < 2 {
        return Ok(nodes);
    }
    let only = |sign: fn(&Node) -> bool| {
        let signed: BTreeSet<&str> =
            masters.iter().filter(|node| sign(node)).map(|node| node.info.history.as_str()).collect();
        signed.first().filter(|_| signed.len() == 1).map(|history| (*history).to_owned())
    };
    let (followed, fits) = (only(|node| node.info.connected > 0), only(|node| node.fit == Fit::Continues));
    let Some(leading) = server::agreed(followed, fits) else {
        let names = masters.iter().map(|node| node.address.to_string());
        return Err(Error::SeveralMasters(names.collect::<Vec<_>>().join(", ")));
    };
    nodes.retain(|node| node.info.history.as_str() == leading);
    Ok(nodes)
}

struct FoundNode {
    nodes: Vec<Node>,
    last: Option<Error>,
}

impl FoundNode {
    /// Asks a server; returns the replicas that it names.
    async fn consider(
        &mut self,
        endpoint: &Endpoint,
        address: &Address,
        role: &str,
        place: Option<&ReplicationOffset>,
    ) -> Vec<Address> {
        let asked = async {
            let (mut connection, _) = server::connect_at(endpoint, address, role).await?;
            let info = Info::ask(&mut connection, endpoint).await?;
            Ok::<_, Error>((connection, info))
        };
        let (connection, info) = match asked.await {
            Ok(asked) => asked,
            Err(error) => {
                self.last = Some(error);
                return Vec::new();
            }
        };
        let replicas = info.replicas.iter().cloned().map(|told| endpoint.reached(told)).collect();
        let fit = info.fit(place);
        if !info.linked {
            self.last = Some(Error::NotUsable(format!("{address} has lost its master")));
        } else if fit == Fit::Behind {
            self.last = Some(Error::NotUsable(format!("{address} has not replicated that far yet")));
        } else {
            self.nodes.push(Node { address: address.clone(), connection, info, fit });
        }
        replicas
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef01234567";
    const NEW: &str = "fedcba9876543210fedcba9876543210fedcba98";

    fn info(role: &str, link: &str) -> Info {
        let text = format!(
            "# Replication\r\nrole:{role}\r\nmaster_link_status:{link}\r\nconnected_slaves:2\r\n\
             slave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0\r\n\
             slave1:ip=10.0.0.9,port=0,state=online,offset=1,lag=0\r\n\
             master_replid:{NEW}\r\nmaster_replid2:{OLD}\r\nmaster_repl_offset:5000\r\n\
             second_repl_offset:3001\r\nrepl_backlog_active:1\r\nrepl_backlog_size:1048576\r\n\
             repl_backlog_first_byte_offset:1001\r\nrepl_backlog_histlen:4000\r\n"
        );
        Info::read(&text).unwrap()
    }

    fn place(id: &str, offset: u64) -> ReplicationOffset {
        ReplicationOffset { history: HistoryId::parse(id).unwrap(), offset }
    }

    #[test]
    fn a_server_says_what_it_holds() {
        let master = info("master", "");
        assert!(master.linked);
        assert_eq!(master.replicas, [Address::Tcp { host: "10.0.0.2".to_owned(), port: 6379 }]);
        assert_eq!(master.fit(None), Fit::Anew(NoContinuation::First));
        let exceeded = |offset| Fit::Anew(NoContinuation::Exceeded { offset, from: Some(1001) });
        for (id, offset, expected) in [
            (NEW, 5000, Fit::Continues),
            (NEW, 1000, Fit::Continues),
            (NEW, 999, exceeded(999)),
            (NEW, 5001, Fit::Anew(NoContinuation::OtherHistory)),
            (OLD, 3000, Fit::Continues),
            (OLD, 3001, Fit::Continues),
            (OLD, 999, exceeded(999)),
        ] {
            assert_eq!(master.fit(Some(&place(id, offset))), expected, "{id} {offset}");
        }
        assert_eq!(info("slave", "up").fit(Some(&place(NEW, 5001))), Fit::Behind);
        assert!(!info("slave", "down").linked);
    }

    #[test]
    fn a_server_without_a_backlog_holds_nothing() {
        let fresh = format!(
            "role:master\r\nmaster_replid:{NEW}\r\nmaster_replid2:{}\r\nmaster_repl_offset:0\r\n\
             second_repl_offset:-1\r\nrepl_backlog_active:0\r\nrepl_backlog_first_byte_offset:0\r\n",
            "0".repeat(40)
        );
        let info = Info::read(&fresh).unwrap();
        let exceeded = Fit::Anew(NoContinuation::Exceeded { offset: 0, from: None });
        assert_eq!(info.fit(Some(&place(NEW, 0))), exceeded);
        assert_eq!(info.before, None);
    }
}
