//! Asks sentinels which server is the master.

use std::borrow::Cow;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use crate::config::{Address, Endpoint, Sentinels};
use crate::server::connect::connect_to_sentinel;
use crate::server::connection::Connection;
use crate::server::deployment::sentinels::Opinion;
use crate::server::error::{Class, Error};
use crate::server::redacted::redacted;
use crate::server::resp::Value;
use crate::server::socket::TimeLimit;

/// The longest host name of DNS.
const MAX_HOST_BYTES: usize = 255;
/// Longest time for one sentinel, its connection included.
const ANSWER: Duration = Duration::from_secs(1);
/// The step, for an error.
const ASKING: &str = "asking a sentinel";
/// Time for the others once more than half of the sentinels have answered.
const OTHERS: Duration = Duration::from_millis(200);

/// The answer of each sentinel, in the order of the configuration.
pub async fn opinions(endpoint: &Endpoint) -> Vec<(Address, Result<Opinion, Error>)> {
    let Some(sentinels) = endpoint.sentinels() else { return Vec::new() };
    let asked = sentinels.endpoint.addresses().iter().map(|address| async move {
        (address.clone(), ask_anew(endpoint, sentinels, address).await.map(|(opinion, _)| opinion))
    });
    join_all(asked).await
}

/// Asks every sentinel, and waits for a slow one only until most have answered and a little longer.
pub(super) async fn ask_all(endpoint: &Endpoint, sentinels: &Sentinels) -> Vec<Result<Opinion, Error>> {
    let addresses = sentinels.endpoint.addresses();
    let mut asked: FuturesUnordered<_> =
        addresses.iter().map(|address| ask_anew(endpoint, sentinels, address)).collect();
    // Each has its own limit, and its error says what was waited for.
    let (mut said, mut until) = (Vec::new(), Instant::now() + ANSWER + OTHERS);
    while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
        said.push(answer.map(|(opinion, _)| opinion));
        if said.iter().filter(|answer| answer.is_ok()).count() * 2 > addresses.len() {
            until = until.min(Instant::now() + OTHERS);
        }
    }
    let missing = addresses.len() - said.len();
    said.extend((0..missing).map(|_| Err(Error::Timeout(ANSWER, ASKING))));
    said
}

/// Asks one sentinel on a new connection, and returns that connection.
pub(super) async fn ask_anew(
    endpoint: &Endpoint,
    sentinels: &Sentinels,
    address: &Address,
) -> Result<(Opinion, Connection), Error> {
    let limit = TimeLimit::new(ANSWER);
    let answer = async {
        let mut connection = connect_to_sentinel(&sentinels.endpoint, address, limit).await?;
        let opinion = limit.of(ASKING, ask(endpoint, sentinels, &mut connection)).await??;
        Ok((opinion, connection))
    };
    answer.await.map_err(|error: Error| {
        let (hint, class) = match error.code() {
            // Unlike a server's: they rarely change, and then the watch over the sentinels authenticates again.
            Some("WRONGPASS" | "NOAUTH") => {
                let hint = format!(
                    "check {} and the password beside it: they belong to the sentinels, and not to the servers; a password_file \
                     is read again on every connection",
                    sentinels.endpoint.key("username")
                );
                (Some(hint), Class::Block)
            }
            _ => (error.hint().map(Cow::into_owned), error.class()),
        };
        let class = if class == Class::Block { Class::Block } else { Class::Retry };
        Error::Sentinel { reason: format!("sentinel {address}: {error}"), hint, class }
    })
}

/// Asks over an open connection. The epoch first: a failover between the two answers then counts for less than it is,
/// and the old master never counts for more.
pub(super) async fn ask(
    endpoint: &Endpoint,
    sentinels: &Sentinels,
    connection: &mut Connection,
) -> Result<Opinion, Error> {
    let name = sentinels.master.as_bytes();
    let details = match connection.ask(ANSWER, ASKING, &[b"SENTINEL", b"MASTER", name]).await {
        Ok(details) => details,
        Err(error) if error.code() == Some("ERR") => {
            return Ok(Opinion::Unknown(masters(&connection.ask(ANSWER, ASKING, &[b"ROLE"]).await?)));
        }
        Err(error) => return Err(error),
    };
    let command: [&[u8]; 3] = [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name];
    let address = connection.ask(ANSWER, ASKING, &command).await?;
    let told = epoch_in(&details).zip(address_in(&address));
    let (epoch, address) = told
        .ok_or_else(|| Error::Protocol("its answer about the master is not that of a sentinel".to_owned()))?;
    Ok(Opinion::Master { epoch, address: endpoint.reached(address) })
}

fn epoch_in(details: &Value) -> Option<u64> {
    let mut pairs = details.elements()?.chunks_exact(2);
    let pair = pairs.find(|pair| pair[0].bytes() == Some(b"config-epoch"))?;
    std::str::from_utf8(pair[1].bytes()?).ok()?.parse().ok()
}

fn address_in(answer: &Value) -> Option<Address> {
    let [host, port] = answer.elements()? else { return None };
    let host = std::str::from_utf8(host.bytes()?).ok()?;
    let port = std::str::from_utf8(port.bytes()?).ok()?.parse().ok()?;
    // Addresses are shown, and these are the server's words.
    let is_plain =
        (1..=MAX_HOST_BYTES).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic());
    is_plain.then(|| Address::Tcp { host: host.to_owned(), port })
}

/// The names in a sentinel's answer to ROLE: `["sentinel", [name, …]]`.
fn masters(role: &Value) -> Vec<String> {
    let Some([_, names]) = role.elements() else { return Vec::new() };
    names.elements().unwrap_or_default().iter().filter_map(Value::bytes).map(redacted).collect()
}
