//! The configuration as an operator meets it: the commented file and the examples load, every error is
//! printed as its golden file says, the layers override each other, and revisions stay what they are.
//!
//! `UPDATE_GOLDEN=1 cargo test --test config` writes the golden files anew; read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod disabled;
mod layers;
mod loops;
mod revisions;
mod shared_streams;

use std::fs;
use std::path::{Path, PathBuf};

use tidegate::config::acl::PasswordRule;
use tidegate::config::{self, Condition, Config, Loaded, Problems, Scalar, SecretSource, Subject, Test};
use tidegate::text::json_pointer::Pointer;

const GOLDEN: &str = "tests/golden/config";
const EXAMPLES: &str = "config/examples";
const COMMENTED: &str = "config/tidegate.toml";

fn load(path: &Path) -> Result<Loaded, Problems> {
    config::load(path, [], &[])
}

fn load_good(path: &Path) -> Config {
    load(path).unwrap_or_else(|problems| panic!("{} is refused:\n{problems}", path.display())).config
}

/// `*.toml` in a directory, and `tidegate.toml` of each directory in it.
fn main_files(directory: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { path.join("tidegate.toml") } else { path })
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml") && path.is_file())
        .collect();
    found.sort();
    found
}

/// Compares a text with its golden file, or writes the file.
fn assert_golden(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, expected, "{} differs; UPDATE_GOLDEN=1 writes it anew", path.display());
}

/// A directory with files, and what they load to.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("tidegate.toml")
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        config::load(&self.path(), environment, &[])
            .map(|loaded| loaded.config)
            .map_err(|problems| problems.to_string())
    }
}

const ORDERS: &str = r#"
[redis.main]
url = "redis://localhost"

[capture.orders]
source = "main"
channels = ["orders"]
destination = "main"
stream = "orders"
keep = { entries = 1000 }
"#;

#[test]
fn every_error_is_printed_as_its_golden_file_says() {
    let cases = main_files(GOLDEN);
    assert!(cases.len() >= 15, "only {} cases in {GOLDEN}", cases.len());
    for path in cases {
        let problems = load(&path).err().unwrap_or_else(|| panic!("{} is accepted", path.display()));
        let text = format!("{problems}\n");
        assert!(!text.contains("hunter2") && !text.contains("12345678"), "{} tells a secret", path.display());
        assert_golden(&path.with_extension("expected"), &text);
    }
}

#[test]
fn the_commented_file_loads_and_shows_the_defaults() {
    let commented = load_good(Path::new(COMMENTED));
    let bare = Files::new(&[(
        "tidegate.toml",
        r#"
        [redis.main]
        url = "redis://localhost:6379"
        [capture.orders]
        source = "main"
        channels = ["orders.placed", "orders.paid"]
        destination = "main"
        stream = "orders"
        keep = { entries = 1_000_000, age = "7d" }
        [broadcast.stock]
        source = "main"
        stream = "stock"
        destination = "main"
        channel = "stock.changed"
        [invalidate.products]
        source = "main"
        stream = "products"
        destination = "main"
        keys = ["product:<pointer:/sku>"]
        "#,
    )]);
    let bare = bare.load(&[]).unwrap();
    assert_eq!(commented.daemon, bare.daemon);
    assert_eq!(commented.redis, bare.redis);
    assert_eq!(commented.capture, bare.capture);
    assert_eq!(commented.broadcast, bare.broadcast);
    assert_eq!(commented.invalidate, bare.invalidate);
}

#[test]
fn the_commented_file_names_every_option() {
    let text = fs::read_to_string(COMMENTED).unwrap();
    let mut options = Vec::new();
    let schema = config::schema();
    let definitions = schema["$defs"].as_object().unwrap();
    for (name, definition) in definitions {
        let Some(properties) = definition["properties"].as_object() else { continue };
        options.extend(properties.keys().map(|option| (name, option)));
    }
    assert!(options.len() > 30, "only {} options in the schema", options.len());
    for (table, option) in options {
        let named = text.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.starts_with(&format!("{option} ="))
                || line.contains(&format!("{{ {option} ="))
                || line.contains(&format!(", {option} ="))
        });
        assert!(named, "{COMMENTED} does not name {option} of {table}");
    }
}

#[test]
fn every_example_loads() {
    let examples = main_files(EXAMPLES);
    assert!(examples.len() >= 7, "only {} examples in {EXAMPLES}", examples.len());
    for path in examples {
        let config = load_good(&path);
        assert!(
            !config.capture.is_empty() || !config.broadcast.is_empty() || !config.invalidate.is_empty(),
            "{} has no route",
            path.display()
        );
    }
}

#[test]
fn the_acl_lines_of_every_example_are_as_their_golden_file_says() {
    let mut text = String::new();
    for path in main_files(EXAMPLES) {
        text.push_str(&format!("## {}\n", path.display()));
        for user in config::acl::users(&load_good(&path)) {
            let command = user.command(&PasswordRule::Missing);
            text.push_str(&format!("{}\n{command}\n\n", user.comments().join("\n")));
        }
    }
    assert_golden(&Path::new(GOLDEN).join("acl.txt"), &text);
}

#[test]
fn the_schema_describes_every_key() {
    let schema = config::schema();
    assert_eq!(schema["title"], "tidegate");
    assert_eq!(schema["additionalProperties"], false);
    let capture = &schema["$defs"]["Capture"];
    let required: Vec<&str> =
        capture["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(required, ["source", "destination", "stream", "keep"]);
    assert_eq!(capture["properties"]["max_message_size"]["default"], "16MiB");
    let definitions = schema["$defs"].as_object().unwrap();
    for (table, definition) in definitions {
        for (key, property) in definition["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{table}.{key} has no description");
        }
    }
}

#[test]
fn a_missing_main_file_is_named() {
    let problems = load(Path::new("/nonexistent/tidegate.toml")).unwrap_err().to_string();
    assert!(problems.starts_with("/nonexistent/tidegate.toml: cannot be read: No such file"), "{problems}");
}

#[test]
fn one_user_of_one_server_has_one_acl_line() {
    let files = Files::new(&[(
        "tidegate.toml",
        r#"
        [redis.one]
        url = "redis://me@h"
        [redis.two]
        url = "redis://me@h:6379"
        [redis.unused]
        url = "redis://me@other"
        [capture.in]
        source = "one"
        patterns = ["a b*", "a.*"]
        destination = "two"
        stream = "in:<pattern>"
        keep = "forever"
        "#,
    )]);
    let users = config::acl::users(&files.load(&[]).unwrap());
    assert_eq!(users.len(), 1, "{users:?}");
    let rules = users[0].rules(&PasswordRule::Plain("secret".to_owned()));
    for rule in ["reset", "on", ">secret", "~in:*", "~tidegate:in:state", "~tidegate:epoch", "+psubscribe"] {
        assert!(rules.iter().any(|found| found == rule), "{rule} is missing in {rules:?}");
    }
    assert!(rules.contains(&"allchannels".to_owned()), "a pattern with a space cannot be named: {rules:?}");
    assert!(users[0].rules(&PasswordRule::None).contains(&"nopass".to_owned()));
    let printed = users[0].command(&PasswordRule::Missing);
    assert!(printed.starts_with("ACL SETUSER me reset on PASSWORD "), "{printed}");
}

#[test]
fn the_comment_on_the_optional_right_says_all_that_it_is_for() {
    let route = |name: &str, rest: &str| {
        format!(
            "[capture.{name}]\nsource = \"{name}\"\n{rest}\ndestination = \"events\"\nstream = \"{name}\"\nkeep = \"forever\"\n"
        )
    };
    let endpoints =
        ["events", "tapped", "notified"].map(|name| format!("[redis.{name}]\nurl = \"redis://me@{name}\"\n"));
    let routes = [
        route("tapped", "channels = [\"orders\"]\nmode = \"replication\""),
        route("notified", "channels = [\"__keyevent@0__:expired\"]"),
    ];
    let files = Files::new(&[("tidegate.toml", &(endpoints.concat() + &routes.concat()))]);
    for user in config::acl::users(&files.load(&[]).unwrap()) {
        let (comments, name) = (user.comments().join("\n"), user.endpoints.first().unwrap().as_str());
        assert!(comments.contains("+config|get (it shows requirepass and masterauth as well)"), "{comments}");
        assert!(comments.contains("#     with it tidegate check --connect tells"), "{comments}");
        assert_eq!(
            comments.contains("(repl-backlog-ttl); else it assumes an hour"),
            name == "tapped",
            "{comments}"
        );
        assert_eq!(comments.contains("/readyz tells which letters"), name == "notified", "{comments}");
    }
}
