//! Passwords inside addresses, in texts that quote what an operator wrote.

/// What stands in the place of a user and a password.
const HIDDEN: &str = "***";

/// The text without the user and password of each URL (`redis://user:password@host`) and each `user:password@host:port`
/// in it. Other uses of '@' stay, as in the name of a channel.
#[must_use]
pub(crate) fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // No address has one of these in it.
    let ends =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '<' | '>' | '{' | '}' | '(' | ')');
    for word in text.split_inclusive(ends) {
        out.push_str(&hidden(word).unwrap_or_else(|| word.to_owned()));
    }
    out
}

/// The word without its password, if it has one. A password may have an '@' in it, so the last one counts.
fn hidden(word: &str) -> Option<String> {
    let (before, host) = word.rsplit_once('@')?;
    if let Some((scheme, user)) = before.split_once("://") {
        return user.contains(':').then(|| format!("{scheme}://{HIDDEN}@{host}"));
    }
    let (_, port) = host.trim_end_matches(|c: char| !c.is_alphanumeric()).rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (before.contains(':') && is_port).then(|| format!("{HIDDEN}@{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_and_names_of_channels_stay() {
        for (text, shown) in [
            ("\"redis://u:pw@h:1\" is not an address", "\"redis://***@h:1\" is not an address"),
            ("redis://:p@w@h", "redis://***@h"),
            ("rediss://u:p@[::1]:6379/0, and more", "rediss://***@[::1]:6379/0, and more"),
            ("write redis://user@/0", "write redis://user@/0"),
            ("the key \"u:pw@h:1\" is none", "the key \"***@h:1\" is none"),
            ("redis.u:pw@h:6379: no", "***@h:6379: no"),
            ("__keyevent@0__:set and news:a@b stay", "__keyevent@0__:set and news:a@b stay"),
            ("tidegate@.service", "tidegate@.service"),
        ] {
            assert_eq!(without_userinfo(text), shown);
        }
    }
}
