//! The range of a stream that an operator means, in ids.

use super::bound::Bound;
use crate::broadcast::replay::Range;
use crate::cli::{FAILED, Refusal};
use crate::config::Endpoint;
use crate::server::{self, ControlConnection, Error};
use crate::stream::EntryId;

/// The range from the first entry that is in it; without an end, to the last one that the stream has now. `client` names
/// the connection.
pub(in crate::cli) async fn find(
    source: &Endpoint,
    client: &'static str,
    stream: &str,
    (from, to): (Bound, Option<Bound>),
) -> Result<Range, Refusal> {
    let refused = |error: Error| Refusal::server(&source.name, &error);
    let mut connection = server::control(source, client).await.map_err(refused)?;
    let (seconds, micros): (u64, u64) = ask(&mut connection, &["TIME"]).await.map_err(refused)?;
    let now = seconds * 1000 + micros / 1000;
    let last = one_id(&mut connection, &["XREVRANGE", stream, "+", "-", "COUNT", "1"]).await;
    let empty = || Refusal::new(FAILED, format!("the stream '{stream}' has no entries in that range"));
    let from = from.lowest(now);
    let until = to.map(|to| to.highest(now));
    if until.is_some_and(|until| until < from) {
        return Err(Refusal::usage("--to is before --from".to_owned()));
    }
    let last = last.map_err(refused)?.ok_or_else(|| {
        let text = format!("{} has no stream '{stream}', or it has no entries", source.name);
        Refusal::new(FAILED, text)
    })?;
    let to = until.map_or(last, |until| until.min(last));
    if from > to {
        return Err(empty());
    }
    let (low, high) = (from.to_string(), to.to_string());
    let first = one_id(&mut connection, &["XRANGE", stream, &low, &high, "COUNT", "1"]).await;
    let first = first.map_err(refused)?.ok_or_else(empty)?;
    Ok(Range { from: first, to })
}

pub(super) async fn ask<T: redis::FromRedisValue>(
    connection: &mut ControlConnection,
    command: &[&str],
) -> Result<T, Error> {
    let mut request = redis::Cmd::new();
    for word in command {
        request.arg(word);
    }
    Ok(request.query_async(connection).await?)
}

/// The id that a command on a stream brings, which is its first argument.
async fn one_id(connection: &mut ControlConnection, command: &[&str]) -> Result<Option<EntryId>, Error> {
    let entries = ask(connection, command).await;
    let entries: Vec<(String, redis::Value)> = entries.map_err(|error| error.at(&command[1..2]))?;
    Ok(entries.first().and_then(|(id, _)| EntryId::parse(id.as_bytes())))
}
