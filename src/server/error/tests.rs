//! Which class an error has, and what its text says.

use super::*;

/// Each that a connection ends or does not begin with, as the system reports it.
#[test]
fn every_error_of_a_connection_says_what_can_be_done() {
    use rustix::io::Errno;
    for (errno, hint) in [
        (Errno::CONNREFUSED, "does it listen on this address"),
        (Errno::HOSTUNREACH, "no way to this address"),
        (Errno::NETUNREACH, "no way to this address"),
        (Errno::TIMEDOUT, "nothing answers at this address"),
        (Errno::CONNRESET, "look at the server's log"),
        (Errno::CONNABORTED, "look at the server's log"),
        (Errno::PIPE, "look at the server's log"),
    ] {
        let error = Error::from(io::Error::from(errno));
        let back = Error::from(redis::RedisError::from(Error::from(io::Error::from(errno))));
        for error in [error, back] {
            assert!(error.with_hint().contains(hint), "{error:?}");
        }
    }
    assert!(
        Error::Protocol("no RESP".to_owned()).with_hint().contains("the port of a Redis or Valkey server")
    );
    assert!(Error::Closed.with_hint().contains("look at the server's log"));
    assert!(Error::Timeout(Duration::from_secs(1), "asking").with_hint().contains("response_timeout"));
}

#[test]
fn the_code_alone_decides_the_class() {
    let class = |text: &str| Error::reply(text.as_bytes()).class();
    assert_eq!(class("OOM command not allowed when used memory > 'maxmemory'."), Class::Retry);
    assert_eq!(class("READONLY You can't write against a read only replica."), Class::Resolve);
    assert_eq!(class("NOSCRIPT No matching script."), Class::Repair);
    assert_eq!(class("WRONGTYPE Operation against a key"), Class::Block);
    assert_eq!(class("ERR the word WRONGTYPE stands in the text"), Class::Retry);
    assert_eq!(Error::Closed.class(), Class::Retry);
}

#[test]
fn a_key_of_another_type_is_named() {
    let text = b"WRONGTYPE Operation against a key holding the wrong kind of value";
    let at = |keys: &[&str]| Error::reply(text).at(keys).to_string();
    assert_eq!(at(&["orders"]), "WRONGTYPE the key 'orders' has another type");
    assert_eq!(at(&["a", "b"]), "WRONGTYPE one of the keys 'a', 'b' has another type");
    let named = Error::reply_at(text, "orders").at(&["a"]);
    assert_eq!(named.to_string(), "WRONGTYPE the key 'orders' has another type");
    assert_eq!((named.code(), named.class()), (Some("WRONGTYPE"), Class::Block));
    assert_eq!(Error::reply(b"OOM no memory").at(&["a"]).to_string(), "OOM no memory");
}

#[test]
fn a_time_is_told_in_milliseconds_at_most() {
    let waited = Duration::from_nanos(5_000_173_581);
    assert_eq!(Error::Timeout(waited, "asking").to_string(), "no reply within 5s while asking");
    let waited = Duration::from_micros(1_200_900);
    assert_eq!(Error::Timeout(waited, "asking").to_string(), "no reply within 1s 200ms while asking");
}

#[test]
fn an_unknown_command_is_told_without_its_arguments() {
    for (text, told) in [
        (
            "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'tidegate' 'hunter2' ",
            "UNKNOWNCOMMAND the server does not know the command HELLO",
        ),
        (
            "ERR unknown command `publish`, with args beginning with: `orders`, `the payload`, ",
            "UNKNOWNCOMMAND the server does not know the command PUBLISH",
        ),
        (
            "ERR unknown command 'hunter2'",
            "UNKNOWNCOMMAND the server does not know a command that tidegate needs; `tidegate check --connect` names it",
        ),
        (
            "ERR Unknown Redis command called from script script: 54fc, on @user_script:12.",
            "UNKNOWNCOMMAND the server does not know a command that tidegate needs; `tidegate check --connect` names it",
        ),
    ] {
        let error = Error::reply(text.as_bytes());
        assert_eq!(error.to_string(), told);
        assert_eq!((error.code(), error.class()), (Some(UNKNOWN_COMMAND), Class::Block));
    }
}

#[test]
fn a_right_that_is_missing_inside_a_script_is_a_missing_right() {
    for refusal in [
        "The user executing the script can't run this command or subcommand",
        "The user executing the script can't publish to the channel mentioned in the command",
        "ACL failure in script: User tidegate has no permissions to run the 'xadd' command",
    ] {
        let error = Error::reply(format!("ERR {refusal}").as_bytes());
        assert_eq!(error.to_string(), format!("NOPERM {refusal}"));
        assert_eq!((error.code(), error.class()), (Some("NOPERM"), Class::Block));
    }
    let placed = Error::reply(
        b"ERR Error running script (call to f_d7fa): @user_script:1: @user_script: 1: The user executing the script \
          can't run this command or subcommand",
    );
    assert_eq!(
        placed.to_string(),
        "NOPERM The user executing the script can't run this command or subcommand"
    );
    let quoted = Error::reply(b"ERR no such key 'ACL failure in script: x'");
    assert_eq!(quoted.code(), Some("ERR"));
}

#[test]
fn nothing_of_a_handshake_is_passed_on_but_a_known_code() {
    let told = |text: &str| Error::reply(text.as_bytes()).of_handshake("authenticating").to_string();
    assert_eq!(
        told("WRONGPASS invalid username-password pair 'me' 'hunter2'"),
        "WRONGPASS the server does not accept this user with this password, authenticating"
    );
    assert_eq!(told("hunter2 is wrong"), "ERR the server rejected it, authenticating");
    assert_eq!(
        told("ERR Syntax error in HELLO option 'hunter2'"),
        "ERR the server rejected it, authenticating"
    );
}

#[test]
fn an_error_goes_through_the_client_crate_and_back() {
    let back = |error: Error| Error::from(redis::RedisError::from(error));
    assert_eq!(back(Error::reply(b"OOM of memory")).to_string(), "OOM of memory");
    assert!(matches!(back(Error::Closed), Error::Closed));
    let waited = Duration::from_secs(3);
    assert!(
        matches!(back(Error::Timeout(waited, "asking")), Error::Timeout(for_, "asking") if for_ == waited)
    );
    assert!(matches!(back(Error::Protocol("odd".to_owned())), Error::Protocol(what) if what == "odd"));
    let odd: redis::RedisResult<u64> =
        redis::from_redis_value(redis::Value::BulkString(b"a payload".to_vec())).map_err(Into::into);
    assert!(!Error::from(odd.unwrap_err()).to_string().contains("payload"));
}
