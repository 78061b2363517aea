//! Retention by age: entries older than `keep.age`, and the route's own records.
//!
//! `age.lua` trims a few streams at a time, if no newer configuration has written. It is a call of its own and works
//! when memory is full: it is what frees memory. It trims exactly (`MINID =`): `~` would leave a stream with fewer
//! entries than a node holds, about 100, as it is.

use std::time::{Duration, Instant};

use crate::capture::append::call::CaptureKeys;
use crate::config::{Capture, Keep};
use crate::logs::{Limited, LogCode};
use crate::server::{ControlConnection, Error, Script, script};
use crate::text::printable;

const TRIM: Script = script!("age.lua");

/// Maximum age of gap records and dead letters.
const RECORDS_AGE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Ids that are this far ahead of the server's clock are not removed in time by `keep.age`.
const AHEAD: Duration = Duration::from_secs(60 * 60);
/// Streams trimmed in one call: the server is held up for well under a millisecond, unless much is removed.
const STREAMS_A_CALL: usize = 100;

/// Trims by age, and keeps its state between the rounds.
#[derive(Debug, Default)]
pub(crate) struct AgeTrimming {
    /// `age.lua` as the connection knows it.
    hash: String,
    log: Limited,
}

/// A round of trimming: under which revision, and where age begins and ends.
#[derive(Debug)]
struct Round<'a> {
    connection: &'a mut ControlConnection,
    hash: &'a str,
    state: &'a [u8],
    revision: &'a str,
    now: u64,
}

impl AgeTrimming {
    /// Makes a new connection ready. Cancel safe.
    pub(crate) async fn on_connected(&mut self, connection: &mut ControlConnection) -> Result<(), Error> {
        self.hash = redis::cmd("SCRIPT").arg("LOAD").arg(TRIM.source).query_async(connection).await?;
        Ok(())
    }

    /// Trims the route's records and, with `keep.age`, its streams, unless a configuration newer than `revision` writes.
    pub(crate) async fn trim(
        &mut self,
        connection: &mut ControlConnection,
        capture: &Capture,
        keys: &CaptureKeys,
        revision: &str,
    ) -> Result<(), Error> {
        let now = server_unix_ms(connection).await?;
        let mut round = Round { connection, hash: &self.hash, state: &keys.state, revision, now };
        round.trim(&[keys.gaps.clone(), keys.dead_letters.clone()], RECORDS_AGE).await?;
        let Keep::Limits { age: Some(age), .. } = capture.keep else { return Ok(()) };
        let ahead = match capture.stream.literal() {
            Some(stream) => round.trim(&[stream.as_bytes().to_vec()], age).await?,
            None => round.trim_made(&keys.streams, age).await?,
        };
        if let Some(stream) = ahead
            && let Some(suppressed) = self.log.admit(LogCode::IdsAhead.as_str(), Instant::now())
        {
            let stream = printable::text(&stream);
            tracing::warn!(
                event = LogCode::IdsAhead.as_str(),
                route = capture.name,
                stream = %stream,
                suppressed,
                "the stream {stream:?} has entries with ids more than an hour ahead of the server's clock, so keep.age \
                 does not remove them before the clock has reached these ids. Limit the stream with keep.entries, or \
                 remove the entries with XTRIM"
            );
        }
        Ok(())
    }
}

/// The server's clock. Ids carry its time, so age is counted by it: this machine's clock may be wrong by hours.
pub(super) async fn server_unix_ms(connection: &mut ControlConnection) -> Result<u64, Error> {
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
    Ok(seconds.saturating_mul(1000))
}

impl Round<'_> {
    /// Trims the streams that the route's template made, a cursor's step at a time. Gives one with entries from the
    /// future.
    async fn trim_made(&mut self, set: &[u8], age: Duration) -> Result<Option<Vec<u8>>, Error> {
        let (mut cursor, mut ahead) = (0u64, None);
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(set).arg(cursor).arg("COUNT").arg(STREAMS_A_CALL);
            let (next, streams): (u64, Vec<Vec<u8>>) = scan.query_async(self.connection).await?;
            ahead = self.trim(&streams, age).await?.or(ahead);
            cursor = next;
            if cursor == 0 {
                return Ok(ahead);
            }
        }
    }

    /// Trims entries that are older than `age`. Gives a stream with entries from the future.
    async fn trim(&mut self, streams: &[Vec<u8>], age: Duration) -> Result<Option<Vec<u8>>, Error> {
        let (oldest, future) = (self.now.saturating_sub(millis(age)), self.now.saturating_add(millis(AHEAD)));
        let mut ahead = None;
        for some in streams.chunks(STREAMS_A_CALL) {
            let mut command = redis::cmd("EVALSHA");
            command.arg(self.hash).arg(1 + some.len()).arg(self.state).arg(some);
            command.arg(self.revision).arg(oldest).arg(future);
            let (verdict, stream): (String, Vec<u8>) = command.query_async(self.connection).await?;
            if verdict != "OK" {
                break;
            }
            ahead = ahead.or(Some(stream).filter(|stream| !stream.is_empty()));
        }
        Ok(ahead)
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::TRIM;
    use crate::server::real::RealServer;

    /// Trims the streams `old` and `young` and the text `other`, with `2-0` as the oldest id.
    fn trim(real: &mut RealServer, revision: &str) -> (String, String) {
        let mut script = redis::cmd("EVAL");
        script
            .arg(TRIM.source)
            .arg(4)
            .arg(&["state", "other", "old", "young"])
            .arg(revision)
            .arg("2-0")
            .arg("9-0");
        script.query(&mut real.connection).unwrap()
    }

    fn ids(real: &mut RealServer, stream: &str) -> Vec<String> {
        let entries: Vec<(String, Vec<String>)> =
            redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query(&mut real.connection).unwrap();
        entries.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn an_older_configuration_removes_nothing() {
        for server in ["redis-7.0", "redis-8.2", "valkey-8.0", "valkey-9.1"] {
            let mut real = RealServer::start(server);
            let mut setup = redis::pipe();
            setup.cmd("SET").arg(&["other", "no stream"]);
            setup.cmd("HSET").arg(&["state", "revision", "0000000002-00"]);
            for (stream, id) in [("old", "1-0"), ("old", "2-0"), ("young", "1-0"), ("young", "9-0")] {
                setup.cmd("XADD").arg(&[stream, id, "field", "value"]);
            }
            setup.exec(&mut real.connection).unwrap();
            assert_eq!(trim(&mut real, "0000000001-ff"), ("OUTDATED".to_owned(), String::new()));
            assert_eq!(ids(&mut real, "old"), ["1-0", "2-0"], "{server}");
            for revision in ["0000000002-00", "0000000003-00"] {
                assert_eq!(trim(&mut real, revision), ("OK".to_owned(), "young".to_owned()));
                assert_eq!(ids(&mut real, "old"), ["2-0"], "{server}");
                assert_eq!(ids(&mut real, "young"), ["9-0"], "{server}");
            }
        }
    }
}
