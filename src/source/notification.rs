//! Keyspace notifications: the key and the event of a message.

use crate::config::OwnKeys;
use crate::server::resp::Message;
use crate::text::glob;

/// Prefix of all their channels.
const BEGIN: &[u8] = b"__key";
/// Text between the database and the rest of the channel.
const BEHIND_DATABASE: &[u8] = b"__:";
/// Events of a stream that captures cause, and other clients as well.
const STREAM_EVENTS: [&[u8]; 4] = [b"xadd", b"xtrim", b"xgroup-create", b"new"];

/// Returns whether a message is a notification of a key that tidegate itself writes.
#[inline]
pub(super) fn is_of(own: &OwnKeys, message: &Message<'_>) -> bool {
    message.channel.starts_with(BEGIN) && tells_of(own, message)
}

fn tells_of(own: &OwnKeys, message: &Message<'_>) -> bool {
    let Some((database, key, event)) = read(message) else { return false };
    own.prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
        || own.streams.iter().any(|(number, names)| {
            database == number.to_string().as_bytes()
                && STREAM_EVENTS.contains(&event)
                && glob::matches(names.as_bytes(), key)
        })
}

/// Database, key and event. The channel is `__keyspace@DB__:KEY` with the event as its message, or
/// `__keyevent@DB__:EVENT` with the key.
fn read<'a>(message: &Message<'a>) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
    let rest = message.channel.strip_prefix(BEGIN)?;
    let (by_key, rest) = match (rest.strip_prefix(b"space@"), rest.strip_prefix(b"event@")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return None,
    };
    let at = memchr::memmem::find(rest, BEHIND_DATABASE)?;
    let (database, name) = (&rest[..at], &rest[at + BEHIND_DATABASE.len()..]);
    let (key, event) = if by_key { (name, message.payload) } else { (message.payload, name) };
    Some((database, key, event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_of_own_keys_are_told_from_others() {
        let own = OwnKeys {
            prefixes: ["tidegate:".to_owned()].into(),
            streams: [(2, "orders:*".to_owned()), (0, "all".to_owned())].into(),
        };
        for (channel, payload, expected) in [
            ("__keyspace@0__:tidegate:epoch", "set", true),
            ("__keyspace@9__:tidegate:orders:state", "hset", true),
            ("__keyevent@0__:set", "tidegate:epoch", true),
            ("__keyevent@0__:expired", "tidegate:orders:lease", true),
            ("__keyevent@2__:xadd", "orders:eu", true),
            ("__keyspace@2__:orders:eu", "xtrim", true),
            ("__keyspace@2__:orders:eu", "new", true),
            ("__keyspace@2__:orders:eu", "del", false),
            ("__keyspace@0__:orders:eu", "xadd", false),
            ("__keyspace@0__:all", "xadd", true),
            ("__keyspace@0__:all__:", "xadd", false),
            ("__keyspace@0__:others", "xadd", false),
            ("__keyevent@0__:set", "others", false),
            ("__keyspace@0__", "tidegate:epoch", false),
            ("__keys@0__:tidegate:epoch", "set", false),
            ("orders", "tidegate:epoch", false),
        ] {
            let message = Message { channel: channel.as_bytes(), pattern: None, payload: payload.as_bytes() };
            assert_eq!(is_of(&own, &message), expected, "{channel} {payload}");
        }
    }
}
