//! `tidegate init`: a first configuration that is valid.

use std::io::Write as _;

use super::*;

/// Writes a configuration with these flags, and gives what was said and the file.
fn init(flags: &[&str], code: i32) -> (String, Option<String>) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let output = tidegate(&[&["init", "--config", file.to_str().unwrap()], flags].concat());
    assert_eq!(printed(&output, code), "");
    let written = fs::read_to_string(&file).ok();
    assert_eq!(written.is_some(), code == OK, "{flags:?}");
    if written.is_some() {
        printed(&tidegate(&["check", "--config", file.to_str().unwrap()]), OK);
    }
    (text(&output.stderr), written)
}

#[test]
fn what_init_writes_is_valid_and_as_its_golden_file_says() {
    let (said, written) = init(&["--pattern", "orders.*"], OK);
    assert!(
        said.contains("tidegate.toml was written; next: tidegate check --connect --config ")
            && said.ends_with("tidegate.toml\n"),
        "{said}"
    );
    assert_golden("init.toml", &written.unwrap());
    let two_servers = ["--source", "redis://shop", "--destination", "rediss://tidegate@events:7/2"];
    let names = ["--channel", "a \"b\"\\", "--channel", "\u{202e}é\t", "--pattern", "__keyevent@0__:*"];
    let rest = [
        "--stream",
        "{a}:<channel>",
        "--route",
        "r",
        "--group",
        "one",
        "--group",
        "two",
        "--keep",
        "forever",
    ];
    let (_, written) = init(&[&two_servers[..], &names, &rest].concat(), OK);
    assert_golden("init-two-servers.toml", &written.unwrap());
    for keep in [&["--keep", "007"][..], &["--keep", "1h 5m"], &["--keep", "30d", "--keep", "5"]] {
        init(&[&["--channel", "orders:"], keep].concat(), OK);
    }
}

#[test]
fn init_writes_nothing_that_is_wrong_and_nothing_over_a_file() {
    let channel = ["--channel", "a"];
    for (flags, code, expected) in [
        (&[][..], USAGE, "which channels are captured?"),
        (&["--keep", "7x"], CONFIGURATION, "capture.a.keep: expected { entries"),
        (&["--keep", "99999999999999999999"], CONFIGURATION, "capture.a.keep: expected { entries"),
        (&["--source", "http://h"], CONFIGURATION, "redis.source.url: has an unknown scheme"),
        (&["--source", "redis://u:hunter2@h"], USAGE, "a password in a URL would stand in a file"),
        (&["--destination", "redis://:hunter2@h"], USAGE, "a password in a URL would stand in a file"),
        (&["--stream", "{a}"], USAGE, "give it one with --route"),
        (&["--keep", "1", "--keep", "2"], USAGE, "--keep takes a number of entries"),
    ] {
        let channel = if flags.is_empty() { &[][..] } else { &channel };
        let (said, _) = init(&[channel, flags].concat(), code);
        assert!(said.contains(expected) && !said.contains("hunter2"), "{flags:?}: {said}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, "# mine, and longer than nothing").unwrap();
    let command = ["init", "--channel", "a", "--config", file.to_str().unwrap()];
    let refused = tidegate(&command);
    printed(&refused, 1);
    assert!(text(&refused.stderr).contains("exists already: name another file with --config"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "# mine, and longer than nothing");
    printed(&tidegate(&[&command[..], &["--force"]].concat()), OK);
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.contains("[capture.a]") && !written.contains("mine"), "{written}");
    let nowhere = tidegate(&["init", "--channel", "a", "--config", "/nonexistent/tidegate.toml"]);
    printed(&nowhere, 1);
    assert!(text(&nowhere.stderr).contains("name another file with --config"), "{}", text(&nowhere.stderr));
}

/// Answers, one a line, to what no flag says.
fn answered(flags: &str, answers: &str, directory: &Path) -> (Option<i32>, String, Option<String>) {
    let file = directory.join("tidegate.toml");
    let command = format!("{} init --config {} {flags}", env!("CARGO_BIN_EXE_tidegate"), file.display());
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script, of bsdutils, is there");
    script.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said, fs::read_to_string(file).ok())
}

#[test]
fn init_asks_on_a_terminal_what_no_flag_says() {
    let directory = tempfile::tempdir().unwrap();
    // The channels have no default, so they are asked again.
    let answers = "redis://shop\n\norders.* paid\n{o}:all\norders\n\n500 2h\nbilling mail\n";
    let (code, said, written) = answered("", answers, directory.path());
    assert_eq!(code, Some(OK), "{said}");
    let written = written.unwrap();
    for line in [
        "[redis.main]",
        "url = \"redis://shop\"",
        "[capture.orders]",
        "channels = [\"paid\"]",
        "patterns = [\"orders.*\"]",
        "stream = \"{o}:all\"",
        "groups = [\"billing\", \"mail\"]",
        "keep = { entries = 500, age = \"2h\" }",
    ] {
        assert!(written.lines().any(|found| found == line), "{line}: {written}");
    }
    let file = directory.path().join("tidegate.toml");
    printed(&tidegate(&["check", "--config", file.to_str().unwrap()]), OK);

    let (code, said, written) = answered("--channel a --force", "\n\n\nforever\n\n", directory.path());
    assert_eq!(code, Some(OK), "{said}");
    assert!(!said.contains("Its channels"), "a flag said it: {said}");
    assert!(written.unwrap().contains("keep = \"forever\"\n"));

    // The end of the answers, as Ctrl-D makes it.
    let empty = tempfile::tempdir().unwrap();
    let (code, said, written) = answered("", "redis://shop\n\u{4}", empty.path());
    assert_eq!((code, written), (Some(1), None), "{said}");
    assert!(said.contains("nothing was written"), "{said}");
}
