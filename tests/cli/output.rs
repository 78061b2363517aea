//! Where the output goes, and what a hostile server would put there.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    for arguments in [
        &["check", "--config", FULL][..],
        &["check", "--schema"],
        &["acl", "--config", FULL],
        &["man"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.args(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(OK), "{arguments:?}: {}", text(&output.stderr));
        // The example's password file is as everybody may read it in the repository, and `acl` has its comments there.
        let expected = |line: &&str| line.contains("every user of this machine") || line.starts_with('#');
        let words = text(&output.stderr).lines().filter(|line| !expected(line)).count();
        assert_eq!(words, 0, "{arguments:?}: {}", text(&output.stderr));

        // A full disk is told, and standard error that is full too is nobody's.
        let full = || fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.args(arguments).stdout(full()).stderr(full()).output().unwrap();
        assert!(output.status.code().is_some_and(|code| code < 100), "{arguments:?}: {}", output.status);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = command.args(["gaps", "--config", "/nonexistent"]).stderr(full).output().unwrap();
    assert_eq!(output.status.code(), Some(CONFIGURATION));
}

/// A server that answers HELLO with `greeting`, and everything else with `answer`, and then `flood` for ever.
struct Hostile {
    directory: tempfile::TempDir,
    sent: Arc<AtomicUsize>,
}

impl Hostile {
    fn start(greeting: &'static [u8], answer: &'static [u8], flood: &'static [u8]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("redis.sock")).unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let count = count.clone();
                std::thread::spawn(move || Self::serve(stream, greeting, answer, flood, &count));
            }
        });
        Self { directory, sent }
    }

    fn serve(mut stream: UnixStream, greeting: &[u8], answer: &[u8], flood: &[u8], sent: &AtomicUsize) {
        let mut buffer = [0; 4096];
        let mut greeted = false;
        while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
            let reply = if greeted { answer } else { greeting };
            if stream.write_all(reply).is_err() {
                return;
            }
            let last = greeted || greeting.starts_with(b"$");
            greeted = true;
            while last && !flood.is_empty() {
                if stream.write_all(flood).is_err() {
                    return;
                }
                sent.fetch_add(flood.len(), Ordering::Relaxed);
            }
        }
    }

    /// What `tidegate gaps` says of it.
    fn gaps(&self) -> String {
        let daemon = Setup::new()
            .raw_endpoint("main", &self.directory.path().join("redis.sock"))
            .routes(
                "[capture.orders]\nsource = \"main\"\nchannels = [\"orders\"]\ndestination = \"main\"\n\
                 stream = \"orders\"\nkeep = \"forever\"\n",
            )
            .prepare();
        let output = daemon.run_command(&["gaps"]);
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{}", text(&output.stderr));
        text(&output.stderr).to_owned()
    }
}

const GREETS: &[u8] = b"%1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n";

#[test]
fn a_server_cannot_steer_the_terminal_or_begin_a_line() {
    let hostile =
        Hostile::start(GREETS, b"!31\r\nERR \x1b[2J\r\nforged\0\xe2\x80\xae\x9b31m line\x7f!\r\n", b"");
    let said = hostile.gaps();
    assert_eq!(said.lines().count(), 1, "{said:?}");
    assert!(said.contains("ERR \\u{1b}[2J\\r\\nforged\\u{0}\\u{202e}"), "{said:?}");
    assert!(!said.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{said:?}");
}

#[test]
fn nothing_of_a_refused_handshake_is_passed_on() {
    for greeting in [
        b"-ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'tidegate-main' 'first-main'\r\n"
            .as_slice(),
        b"-WRONGPASS first-main is wrong\r\n",
        b"-first-main\r\n",
        b"-ERR first\x1b-main first-main\r\n",
        b"$first-main\r\n",
        b":first-main\r\n",
    ] {
        let said = Hostile::start(greeting, b"", b"").gaps();
        assert!(!said.contains("first-main") && said.contains("server main"), "{said}");
    }
}

#[test]
fn a_known_password_is_cut_out_of_later_errors_too() {
    let said = Hostile::start(GREETS, b"-ERR the password is first-main\r\n", b"").gaps();
    assert!(said.contains("the password is (secret)"), "{said}");
}

#[test]
fn an_endless_reply_is_left_before_it_takes_memory() {
    const FLOOD: &[u8] = &[b'x'; 64 * 1024];
    const MIB: usize = 1024 * 1024;
    for (greeting, answer, most) in [
        (GREETS, b"$4000000000\r\n".as_slice(), 70 * MIB),
        (GREETS, b"*2\r\n$1\r\nx\r\n$4000000000\r\n", 70 * MIB),
        // A server that is not known yet has nothing long to say.
        (b"$4000000000\r\n", b"", MIB),
    ] {
        let hostile = Hostile::start(greeting, answer, FLOOD);
        let said = hostile.gaps();
        assert!(said.contains("larger than"), "{said}");
        let sent = hostile.sent.load(Ordering::Relaxed);
        assert!(sent < most, "{sent} bytes were taken");
    }
}

/// What a terminal obeys, what begins a line or a column, and what turns the direction of text.
const STEERS: &str = "\x1b[2J\nforged\t\u{202e}\u{9b}31m";
/// The same in a TOML text.
const STEERS_TOML: &str = "\\u001b[2J\\nforged\\t\\u202e\\u009b31m";

/// Every line is one that tidegate has ended, and STEERS is shown as escapes.
#[track_caller]
fn assert_steers_nothing(command: &[&str], said: &str) {
    let harmful = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!said.contains(harmful), "{command:?}: {said:?}");
    assert!(!said.lines().any(|line| line.trim_start().starts_with("forged")), "{command:?}: {said}");
    let shown = ["u{1b}[2J", "u001b[2J", "x1b[2J"].iter().any(|escape| said.contains(escape));
    assert!(shown, "{command:?}: {said}");
}

/// A name on the command line is pasted from somewhere, and a stream's name comes from who publishes.
#[test]
fn names_cannot_steer_the_terminal_either() {
    let server = Server::start(Version::Redis70);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[capture.orders]\nsource = \"main\"\npatterns = [\"orders.*\"]\ndestination = \"main\"\n\
             stream = \"<channel>\"\nkeep = \"forever\"\n",
        )
        .prepare();
    let stream = &format!("orders{STEERS}");
    let letter = ["channel", STEERS, "reason", STEERS, "detail", STEERS, "payload", STEERS];
    server.ask::<String>(&[&["XADD", "tidegate:orders:dead-letters", "1-0"], &letter[..]].concat());
    let gap = ["started_at", "1", "ended_at", "2", "cause", STEERS, "from", STEERS, "detail", STEERS];
    server.ask::<String>(&[&["XADD", "tidegate:orders:gaps", "1-0"], &gap[..]].concat());
    server.ask::<String>(&["XADD", stream, "1-0", "payload", STEERS]);
    let (again, none) = (format!("again{STEERS}"), format!("no{STEERS}"));
    let operator = daemon.operator(&["again*"]);
    let file = daemon.configuration().with_file_name("hostile.toml");
    let configuration = fs::read_to_string(daemon.configuration()).unwrap();
    fs::write(
        &file,
        configuration
            .replace("orders.*", &format!("orders{STEERS_TOML}*"))
            .replace("<channel>", &format!("s{STEERS_TOML}")),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let mut outputs = vec![
        (vec!["check"], tidegate(&["check", "--config", file])),
        (vec!["acl"], tidegate(&["acl", "--config", file])),
    ];
    let wrong = daemon.configuration().with_file_name("wrong.toml");
    let unknown = format!("\"x{STEERS_TOML}\" = 1\n[capture.orders]\nformat = \"{STEERS_TOML}\"\n");
    fs::write(&wrong, unknown).unwrap();
    outputs.push((vec!["check"], tidegate(&["check", "--config", wrong.to_str().unwrap()])));
    for command in [
        &["dead-letters", "list"][..],
        &["dead-letters", "list", "--json"],
        &["dead-letters", "show", "orders", "1-0"],
        &["dead-letters", "drop", STEERS, "1-0"],
        &["gaps", "--verbose"],
        &["gaps", "--json"],
        &["gaps", STEERS],
        &["tap", STEERS],
        &["spool", "verify", "--route", STEERS],
        &["man", STEERS],
        &["invalidate", STEERS, "--missed"],
        &["replay", stream, "--from", "0", "--channel", &again],
        &["replay", &none, "--from", "0", "--channel", "again"],
        &["replay", stream, "--from", STEERS, "--channel", "again"],
        &[STEERS],
    ] {
        outputs.push((command.to_vec(), operator.run_command(command)));
    }
    for (command, output) in outputs {
        assert_steers_nothing(&command, &(text(&output.stdout) + &text(&output.stderr)));
    }
}

/// A stream that `streams` finds has a name that nobody has looked at, and its route's reason quotes it.
#[test]
fn a_name_that_is_found_forges_no_row_of_status() {
    let server = Server::start(Version::Redis70);
    let stream = format!("found:{STEERS}");
    server.ask::<String>(&["XADD", &stream, "1-0", "n", "1"]);
    // The route of this stream cannot use it as its cursor.
    server.ask::<()>(&["SET", &format!("tidegate:found:cursor:{stream}"), "x"]);
    let daemon = Setup::new()
        .endpoint("main", &server)
        .routes(
            "[broadcast.found]\nsource = \"main\"\nstreams = \"found:*\"\ndestination = \"main\"\n\
             channel = \"out\"\nmessage = \"<field:n>\"\nstart = \"beginning\"\n",
        )
        .expects(&[&["broadcast_blocked"]])
        .start();
    daemon.wait_state("found", tidegate::status::RouteState::Blocked);
    for command in [&["status"][..], &["status", "--json"]] {
        let output = daemon.run_command(command);
        assert_steers_nothing(command, &text(&output.stdout));
    }
}
