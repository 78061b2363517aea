//! Keyspace notifications, by the names of channels and patterns.
//!
//! A server publishes `__keyspace@DB__:KEY` with the event, and `__keyevent@DB__:EVENT` with the key, and only those
//! that `notify-keyspace-events` names: `K` and `E` for the two, and a letter for each class of events.

use crate::config::settings::Capture;

/// Prefix of keyspace channels.
const KEYSPACE: &str = "__keyspace@";
const KEYEVENT: &str = "__keyevent@";

/// Flags in `notify-keyspace-events` for every class but key misses and new keys.
const ALL_CLASSES: &str = "g$lshztdxe";

/// Returns whether a channel is a notification's, or a pattern matches notifications only.
pub(crate) fn is_notification(name: &str) -> bool {
    !kinds(name).is_empty()
}

/// Which letters of `K` and `E` the channels of this name need.
fn kinds(name: &str) -> Vec<char> {
    let literal = name.split(['*', '?', '[', '\\']).next().unwrap_or_default();
    let is_pattern = literal.len() < name.len();
    let may_be = |begin: &str| {
        let begun = is_pattern && literal.starts_with("__key") && begin.starts_with(literal);
        begun || literal.starts_with(begin)
    };
    [(KEYSPACE, 'K'), (KEYEVENT, 'E')]
        .into_iter()
        .filter(|(begin, _)| may_be(begin))
        .map(|(_, kind)| kind)
        .collect()
}

/// The class of an event, if it belongs to one class alone.
fn class(event: &str) -> Option<char> {
    Some(match event {
        "expired" => 'x',
        "evicted" => 'e',
        "new" => 'n',
        "keymiss" => 'm',
        "set" | "setrange" | "append" | "incrby" | "incrbyfloat" => '$',
        "del" | "expire" | "persist" | "rename_from" | "rename_to" | "copy_to" | "move_from" | "move_to"
        | "restore" => 'g',
        _ => match event.chars().next() {
            Some('l' | 'r') if event.ends_with("push") || event.ends_with("pop") => 'l',
            Some('s') if matches!(event, "sadd" | "srem" | "spop") => 's',
            Some('h') if matches!(event, "hset" | "hdel" | "hincrby") => 'h',
            Some('z') => 'z',
            Some('x') => 't',
            _ => return None,
        },
    })
}

/// Returns whether a route has a channel or pattern that only notifications match.
pub(crate) fn wants_notifications(route: &Capture) -> bool {
    route.mode.replication().is_none()
        && route.channels.iter().chain(&route.patterns).any(|name| is_notification(name))
}

/// The channels and patterns of a route that the source does not publish with this `notify-keyspace-events`, each with
/// advice to the operator.
pub(crate) fn missing_notifications(route: &Capture, setting: &str) -> Vec<String> {
    let names = route.channels.iter().chain(&route.patterns);
    let missing = names.filter_map(|name| Some((name, lacking(name, setting)?)));
    let text = |(name, missing): (&String, String)| {
        format!(
            "notify-keyspace-events is \"{setting}\" on server {}: \"{name}\" needs {missing:?} in it (CONFIG SET \
             notify-keyspace-events \"{setting}{missing}\")",
            route.source
        )
    };
    missing.map(text).collect()
}

/// The flags that a route's channels and patterns need in `notify-keyspace-events`, if the source does not report it.
pub(crate) fn needed_notifications(route: &Capture) -> Vec<String> {
    let names = route.channels.iter().chain(&route.patterns);
    names.filter_map(|name| Some(format!("\"{name}\" needs {:?}", lacking(name, "")?))).collect()
}

/// Flags missing from `notify-keyspace-events` for this channel or pattern; `None` if none is known to be missing.
fn lacking(name: &str, setting: &str) -> Option<String> {
    let kinds = kinds(name);
    if kinds.is_empty() {
        return None;
    }
    let has =
        |letter: char| setting.contains(letter) || (setting.contains('A') && ALL_CLASSES.contains(letter));
    let mut missing: String = Vec::from_iter(kinds.iter().filter(|kind| !has(**kind))).into_iter().collect();
    // If either flag would do for a part of the pattern, neither is certainly missing.
    if kinds.len() == 2 && missing.len() == 1 {
        missing.clear();
    }
    let event = name
        .strip_prefix(KEYEVENT)
        .and_then(|rest| rest.split_once("__:"))
        .and_then(|(_, event)| class(event));
    match event {
        Some(class) if !has(class) => missing.push(class),
        None if !setting.chars().any(|letter| {
            letter == 'A' || letter == 'n' || letter == 'm' || ALL_CLASSES.contains(letter)
        }) =>
        {
            missing.push('A');
        }
        _ => {}
    }
    (!missing.is_empty()).then_some(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_are_known_by_their_names() {
        for name in ["__keyspace@0__:*", "__keyevent@0__:expired", "__key*__:*", "__keyevent@*__:set"] {
            assert!(is_notification(name), "{name}");
        }
        for name in ["*", "orders", "__k*", "__keys", "keyspace@0"] {
            assert!(!is_notification(name), "{name}");
        }
    }

    #[test]
    fn what_the_setting_lacks_is_told() {
        for (name, setting, missing) in [
            ("__keyevent@0__:expired", "", Some("Ex")),
            ("__keyevent@0__:expired", "KA", Some("E")),
            ("__keyevent@0__:expired", "Ex", None),
            ("__keyevent@0__:expired", "Eg", Some("x")),
            ("__keyevent@*__:set", "EA", None),
            ("__keyspace@0__:orders:*", "Kg", None),
            ("__keyspace@0__:orders:*", "K", Some("A")),
            ("__key*__:*", "", Some("KEA")),
            ("__key*__:*", "Kg", None),
            ("__keyevent@0__:new", "AKE", Some("n")),
            ("orders", "", None),
        ] {
            assert_eq!(lacking(name, setting).as_deref(), missing, "{name} {setting}");
        }
    }
}
