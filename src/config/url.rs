//! Addresses of servers: `redis://[user[:password]@]host[:port][/database]`, the same with `rediss://`, and
//! `redis+unix:///path?db=&user=`. A URL may hold a password, so no error quotes any of it.

use std::borrow::Cow;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use url::Url;

use super::settings::{Address, Secret};

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Where to connect; `None` if the URL has no host.
    pub(crate) address: Option<Address>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: u32,
    /// True if it begins with `rediss://`.
    pub(crate) tls: bool,
}

/// Why a text is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("is not a URL; expected redis://host:port or redis+unix:///path/of/socket")]
    NotAUrl,
    #[error(
        "is not a URL: in a user or password, \"#\" is written %23, \"/\" %2F, \"?\" %3F, \"@\" %40 and \"%\" %25; or leave the password out and name a password_file"
    )]
    Unescaped,
    #[error(
        "has an unknown scheme; expected redis://host:port, rediss://host:port or redis+unix:///path/of/socket"
    )]
    Scheme,
    #[error("has no host; expected redis://host:port")]
    NoHost,
    #[error("has no socket; expected redis+unix:///path/of/socket (three slashes)")]
    NoSocket,
    #[error("has a database that is not a number; expected redis://host:port/0 or redis+unix:///path?db=0")]
    Database,
    #[error("has an unknown part after '?' or '#'; only redis+unix:// has options: db and user")]
    Options,
    #[error("is not an address; expected host:port or the path of a unix socket, without user and password")]
    NotAnAddress,
    #[error("has a \"%\" without two hexadecimal digits after it; a \"%\" itself is written %25")]
    Escape,
    #[error("has percent-encoded bytes that are not UTF-8")]
    Encoding,
}

/// Port of a URL that names none.
const DEFAULT_PORT: u16 = 6379;

/// Takes a URL apart.
pub(crate) fn parse(text: &str) -> Result<Parsed, UrlError> {
    // An '@' behind the host shows that some character ended the password too early, but not which one.
    let ended_early = text.split_once("://").is_some_and(|(_, rest)| {
        rest.find(['/', '?', '#']).is_some_and(|at| rest[at..].contains('@')) && !rest.starts_with('/')
    });
    let unescaped = |error| if ended_early { UrlError::Unescaped } else { error };
    let (text, has_host) = with_host(text);
    let url = Url::parse(&text).map_err(|_| unescaped(UrlError::NotAUrl))?;
    // The standard takes such a '%' as it is, so a mistyped password would be another one.
    if matches!(url.scheme(), "redis" | "rediss" | "redis+unix") && has_bad_escape(&text) {
        return Err(UrlError::Escape);
    }
    match url.scheme() {
        "redis" | "rediss" => {
            let parsed = tcp(&url).map_err(unescaped)?;
            Ok(Parsed { address: parsed.address.filter(|_| has_host), ..parsed })
        }
        "redis+unix" => unix(&url),
        _ => Err(UrlError::Scheme),
    }
}

fn has_bad_escape(text: &str) -> bool {
    text.split('%').skip(1).any(|rest| {
        let digits = rest.as_bytes().get(..2);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Adds a host to a URL without one, as in `redis://user@/0`: a URL with a user must have one. Returns whether it had
/// one.
fn with_host(text: &str) -> (Cow<'_, str>, bool) {
    let Some((scheme @ ("redis" | "rediss"), rest)) = text.split_once("://") else {
        return (text.into(), true);
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !authority.is_empty() && !authority.ends_with('@') {
        return (text.into(), true);
    }
    (format!("{scheme}://{authority}none{path}").into(), false)
}

/// Reads a plain address: `host:port`, `[::1]:port`, `host`, or the path of a unix socket.
pub(crate) fn address(text: &str) -> Result<Address, UrlError> {
    if text.starts_with('/') {
        return Ok(Address::Unix(PathBuf::from(text)));
    }
    // A plain address has no path, user or query.
    if text.is_empty() || text.contains(['/', '@', '?', '#']) {
        return Err(UrlError::NotAnAddress);
    }
    parse(&format!("redis://{text}")).ok().and_then(|parsed| parsed.address).ok_or(UrlError::NotAnAddress)
}

fn tcp(url: &Url) -> Result<Parsed, UrlError> {
    if url.query().is_some() || url.fragment().is_some() {
        return Err(UrlError::Options);
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or(UrlError::NoHost)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Ok(Parsed {
        address: Some(Address::Tcp { host: host.to_owned(), port: url.port().unwrap_or(DEFAULT_PORT) }),
        username: Some(url.username()).filter(|user| !user.is_empty()).map(decode).transpose()?,
        password: url.password().map(decode).transpose()?.map(Secret::new),
        database: database(url.path().trim_start_matches('/'))?,
        tls: url.scheme() == "rediss",
    })
}

fn unix(url: &Url) -> Result<Parsed, UrlError> {
    if url.host_str().is_some_and(|host| !host.is_empty()) || url.path().len() < 2 {
        return Err(UrlError::NoSocket);
    }
    let mut parsed = Parsed {
        address: Some(Address::Unix(PathBuf::from(decode(url.path())?))),
        username: None,
        password: None,
        database: 0,
        tls: false,
    };
    if url.fragment().is_some() {
        return Err(UrlError::Options);
    }
    for (name, value) in url.query_pairs() {
        match &*name {
            "db" => parsed.database = database(&value)?,
            "user" => parsed.username = Some(value.into_owned()),
            _ => return Err(UrlError::Options),
        }
    }
    Ok(parsed)
}

fn database(text: &str) -> Result<u32, UrlError> {
    if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| UrlError::Database) }
}

fn decode(text: &str) -> Result<String, UrlError> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Encoding)?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> String {
        parse(text).unwrap().address.unwrap().to_string()
    }

    #[test]
    fn every_part_of_a_tcp_url_is_taken() {
        let parsed = parse("redis://tide%40gate:p%2Fw+1@shop-redis:6380/3").unwrap();
        assert_eq!(parsed.address.unwrap().to_string(), "shop-redis:6380");
        assert_eq!(parsed.username.as_deref(), Some("tide@gate"));
        assert_eq!(parsed.password.unwrap().reveal(), "p/w+1");
        assert_eq!(parsed.database, 3);
        assert_eq!(address("redis://h"), "h:6379");
        assert_eq!(address("redis://h/"), "h:6379");
        assert_eq!(address("redis://[::1]:7000"), "[::1]:7000");
        assert_eq!(parse("redis://:secret@h").unwrap().username, None);
        assert!(!parse("redis://h").unwrap().tls);
        assert!(parse("rediss://tidegate@[::1]:7000/3").unwrap().tls);
    }

    #[test]
    fn a_socket_has_a_path_a_database_and_a_user() {
        let parsed = parse("redis+unix:///run/my%20redis.sock?db=2&user=tidegate").unwrap();
        assert_eq!(parsed.address, Some(Address::Unix("/run/my redis.sock".into())));
        assert_eq!(parsed.database, 2);
        assert_eq!(parsed.username.as_deref(), Some("tidegate"));
    }

    #[test]
    fn a_url_without_a_host_has_user_and_database() {
        for (text, user, database) in [
            ("redis://tidegate@/3", Some("tidegate"), 3),
            ("rediss://tidegate@", Some("tidegate"), 0),
            ("redis:///1", None, 1),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(
                (parsed.address, parsed.username.as_deref(), parsed.database),
                (None, user, database),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_address_says_why_and_not_what() {
        for (text, error) in [
            ("shop", UrlError::NotAUrl),
            ("redis+tls://:hunter2@h", UrlError::Scheme),
            ("http://:hunter2@h", UrlError::Scheme),
            ("redis://:hunter2#x@h", UrlError::Unescaped),
            ("redis://me:hunter2#x@h", UrlError::Unescaped),
            ("redis://me:12#hunter2@h", UrlError::Unescaped),
            ("redis://me:12/hunter2@h:6379", UrlError::Unescaped),
            ("redis://me:hunter2?@h/0", UrlError::Unescaped),
            ("redis+unix://run/redis.sock", UrlError::NoSocket),
            ("redis+unix:///", UrlError::NoSocket),
            ("redis://:hunter2@h/first", UrlError::Database),
            ("redis://:hunter2@h?db=1", UrlError::Options),
            ("redis+unix:///run/s?password=hunter2", UrlError::Options),
            ("redis://:%FF@h", UrlError::Encoding),
            ("redis://me:hunter2%ZZ9@h", UrlError::Escape),
            ("redis://me:hunter2%@h", UrlError::Escape),
            ("redis://me%4:hunter2@h", UrlError::Escape),
            ("redis+unix:///run/s?user=100%&db=1", UrlError::Escape),
            ("redis+unix:///run/100%.sock", UrlError::Escape),
        ] {
            let found = parse(text).unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("hunter2"));
        }
    }
}
