//! Files, `conf.d` and the environment: the later override the earlier, and secrets stay out of sight.

use super::*;

#[test]
fn later_layers_override_earlier_ones() {
    let files = Files::new(&[
        ("tidegate.toml", "[daemon]\nlisten = \"127.0.0.1:1\"\nmemory_limit = \"32MiB\""),
        ("conf.d/20.toml", "[daemon]\nlisten = \"127.0.0.1:3\""),
        ("conf.d/10.toml", "[daemon]\nlisten = \"127.0.0.1:2\"\nshutdown_timeout = \"3s\""),
        ("conf.d/30.txt", "not read"),
    ]);
    let listen = |config: &Config| config.daemon.listen.to_string();
    let config = files.load(&[]).unwrap();
    assert_eq!(listen(&config), "127.0.0.1:3");
    assert_eq!(config.daemon.memory_limit, 32 << 20);
    assert_eq!(config.daemon.shutdown_timeout.as_secs(), 3);
    let variable = ("TIDEGATE_DAEMON__LISTEN", "[::1]:4");
    assert_eq!(listen(&files.load(&[variable]).unwrap()), "[::1]:4");
    let flag = [config::Override::text(&["daemon", "listen"], "127.0.0.1:5")];
    let environment = [(variable.0.to_owned(), variable.1.to_owned())];
    let loaded = config::load(&files.path(), environment, &flag).unwrap();
    assert_eq!(listen(&loaded.config), "127.0.0.1:5");
    let names: Vec<_> = loaded.files.iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, ["tidegate.toml", "10.toml", "20.toml"]);
}

#[test]
fn the_environment_overrides_with_lists_tables_and_numbers() {
    let files = Files::new(&[("tidegate.toml", ORDERS)]);
    let config = files
        .load(&[
            ("TIDEGATE_CAPTURE__ORDERS__CHANNELS", r#"["a", "b.c"]"#),
            ("TIDEGATE_CAPTURE__ORDERS__MAX_STREAMS", "7"),
            ("TIDEGATE_CAPTURE__ORDERS__STREAM", "0123"),
            ("TIDEGATE_CAPTURE__ORDERS__KEEP__ENTRIES", "12"),
            ("TIDEGATE_CAPTURE__ORDERS__GROUPS_START", "0"),
            ("TIDEGATE_CAPTURE__ORDERS__GROUPS", r#"["g"]"#),
            ("TIDEGATE_PORT", "tcp://10.0.0.1:7380"),
            ("TIDEGATE_PORT_7380_TCP", "tcp://10.0.0.1:7380"),
            ("OTHER__NAME", "x"),
        ])
        .unwrap();
    let orders = &config.capture["orders"];
    assert_eq!(orders.channels, ["a", "b.c"]);
    assert_eq!(orders.max_streams, 7);
    assert_eq!(orders.stream.literal(), Some("0123"));
    assert_eq!(orders.keep, config::Keep::Limits { entries: Some(12), age: None });
    assert_eq!(orders.groups_start, Some(config::GroupsStart::Beginning));
}

/// As a container without a file has it: every type of value, and a help where something is missing.
#[test]
fn the_environment_alone_is_enough() {
    let alone = [
        ("TIDEGATE_REDIS__MAIN__URL", "redis://localhost"),
        ("TIDEGATE_REDIS__MAIN__DURABILITY", "replicated"),
        ("TIDEGATE_REDIS__MAIN__REPLICAS", "2"),
        ("TIDEGATE_DAEMON__SPOOL__LIMIT", "1MiB"),
        ("TIDEGATE_CAPTURE__ORDERS__SOURCE", "main"),
        ("TIDEGATE_CAPTURE__ORDERS__CHANNELS", r#"["orders"]"#),
        ("TIDEGATE_CAPTURE__ORDERS__WHERE", r#"[{ channel = true, prefix = "o" }]"#),
        ("TIDEGATE_CAPTURE__ORDERS__DESTINATION", "main"),
        ("TIDEGATE_CAPTURE__ORDERS__STREAM", "orders"),
        ("TIDEGATE_CAPTURE__ORDERS__KEEP", "{ entries = 10 }"),
        ("TIDEGATE_CAPTURE__ORDERS__MODE", "replication"),
        ("TIDEGATE_CAPTURE__ORDERS__SHARDED", "true"),
    ];
    let files = Files::new(&[]);
    let config = files.load(&alone).unwrap();
    assert_eq!(config.redis["main"].durability, config::Durability::Replicated(2));
    assert!(config.capture["orders"].mode.replication().unwrap().sharded);
    assert_eq!(config.capture["orders"].keep, config::Keep::Limits { entries: Some(10), age: None });

    let problems = files.load(&alone[1..]).unwrap_err();
    let expected = "environment variable TIDEGATE_REDIS__MAIN: redis.main.url: is missing";
    assert!(problems.starts_with(expected), "{problems}");
    // An endpoint's password does not make a missing file right.
    let problems = files.load(&[("TIDEGATE_REDIS__MAIN__PASSWORD", "x")]).unwrap_err();
    assert!(problems.contains("tidegate.toml: cannot be read"), "{problems}");
}

#[test]
fn an_error_in_the_environment_names_the_variable() {
    let files = Files::new(&[("tidegate.toml", ORDERS)]);
    let problems = files.load(&[("TIDEGATE_CAPTURE__ORDERS__MAX_STREAMS", "many")]).unwrap_err();
    let expected = "environment variable TIDEGATE_CAPTURE__ORDERS__MAX_STREAMS: capture.orders.max_streams: \
                    expected a whole number, at least 1, found \"many\"";
    assert!(problems.starts_with(expected), "{problems}");
    let problems = files.load(&[("TIDEGATE_CAPTURE__ORDERS__CHANELS", "[\"x\"]")]).unwrap_err();
    assert!(problems.contains("did you mean \"channels\"?"), "{problems}");
    let problems = files.load(&[("TIDEGATE_CAPTURE__ORDERS", "x")]).unwrap_err();
    let expected =
        "environment variable TIDEGATE_CAPTURE__ORDERS: capture.orders: expected a table, found \"x\"";
    assert!(problems.starts_with(expected), "{problems}");
}

#[test]
fn a_password_of_the_environment_stays_as_it_is_and_is_never_shown() {
    let files = Files::new(&[("tidegate.toml", ORDERS)]);
    for password in ["0123", "[1, 2]", "{x", "true", "pass word"] {
        let variable = ("TIDEGATE_REDIS__MAIN__PASSWORD", password);
        let config = files.load(&[variable]).unwrap();
        match &config.redis["main"].password {
            SecretSource::Inline(secret) => assert_eq!(secret.reveal(), password),
            other => panic!("{other:?}"),
        }
        assert!(!format!("{config:?}").contains(password), "the password is in the debug output");
        let broken = ("TIDEGATE_REDIS__MAIN__URL", "redis://:0123@h?x=hunter2");
        let problems = files.load(&[variable, broken]).unwrap_err();
        assert!(!problems.contains(password) && !problems.contains("hunter2"), "{problems}");
    }
    let problems = files.load(&[("TIDEGATE_REDIS__MAIN__PASSWORD", "")]).unwrap_err();
    assert!(problems.contains("redis.main.password: is empty"), "{problems}");
}

#[test]
fn a_password_file_is_looked_for_among_the_credentials_first() {
    let text = "[redis.main]\nurl = \"redis://h\"\npassword_file = \"main.pass\"";
    let files =
        Files::new(&[("tidegate.toml", text), ("main.pass", "x\n"), ("credentials/main.pass", "y\n")]);
    let directory = files.0.path().join("credentials");
    let found = |environment: &[(&str, &str)]| match &files.load(environment).unwrap().redis["main"].password
    {
        SecretSource::File(path) => path.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found(&[]), files.0.path().join("main.pass"));
    let credentials = ("CREDENTIALS_DIRECTORY", directory.to_str().unwrap());
    assert_eq!(found(&[credentials]), directory.join("main.pass"));
    fs::remove_file(directory.join("main.pass")).unwrap();
    assert_eq!(found(&[credentials]), files.0.path().join("main.pass"));
}

#[test]
fn conditions_can_stand_in_tables_and_in_the_environment() {
    let expected = vec![
        Condition { subject: Subject::Channel, test: Test::Prefix("o".to_owned()), negated: false },
        Condition {
            subject: Subject::Payload(Pointer::member("n")),
            test: Test::OneOf(vec![Scalar::Integer(-5), Scalar::Float(0.5), Scalar::Text("05".to_owned())]),
            negated: true,
        },
        Condition {
            subject: Subject::Payload(Pointer::parse("/a/0").unwrap()),
            test: Test::OneOf(vec![Scalar::Bool(true)]),
            negated: false,
        },
        Condition {
            subject: Subject::Payload(Pointer::parse("").unwrap()),
            test: Test::Exists(false),
            negated: false,
        },
    ];
    let tables = r#"
        [[capture.orders.where]]
        channel = true
        prefix = "o"
        [[capture.orders.where]]
        field = "n"
        in = [-5, 0.5, "05"]
        not = true
        [[capture.orders.where]]
        pointer = "/a/0"
        equals = true
        [[capture.orders.where]]
        pointer = ""
        exists = false
    "#;
    let config = Files::new(&[("tidegate.toml", &format!("{ORDERS}{tables}"))]).load(&[]).unwrap();
    assert_eq!(config.capture["orders"].conditions, expected);
    let variable = (
        "TIDEGATE_CAPTURE__ORDERS__WHERE",
        r#"[{channel=true, prefix="o"}, {field="n", in=[-5, 0.5, "05"], not=true}, {pointer="/a/0", equals=true}, {pointer="", exists=false}]"#,
    );
    let config = Files::new(&[("tidegate.toml", ORDERS)]).load(&[variable]).unwrap();
    assert_eq!(config.capture["orders"].conditions, expected);
}

#[test]
fn lists_do_not_fill_tables() {
    for (text, key) in [
        ("daemon = [\"127.0.0.1:1\"]", "daemon"),
        ("capture = [1]", "capture"),
        ("redis.main = [\"redis://h\"]", "redis.main"),
        ("[capture.a]\ncloudevents = [\"x\"]", "capture.a.cloudevents"),
        ("[capture.a]\nfields = [\"x\"]", "capture.a.fields"),
        ("[capture.a]\nadd = [\"x\"]", "capture.a.add"),
    ] {
        let problems = Files::new(&[("tidegate.toml", text)]).load(&[]).unwrap_err();
        assert!(problems.contains(&format!(": {key}: expected a table, found a list")), "{problems}");
    }
}

/// What `tidegate config` prints is a configuration that means the same.
#[test]
fn the_values_that_count_are_the_configuration_itself() {
    let directories = main_files(EXAMPLES);
    assert!(directories.len() > 10, "{directories:?}");
    for path in directories.iter().map(PathBuf::as_path).chain([Path::new(COMMENTED)]) {
        let values = config::effective(path, []).unwrap_or_else(|problems| panic!("{problems}"));
        let lines: Vec<String> =
            values.iter().map(|value| format!("{} = {}", value.key, value.toml())).collect();
        let again = Files::new(&[("tidegate.toml", &lines.join("\n"))]);
        let loaded = config::load_without_secrets(&again.path(), []);
        let loaded =
            loaded.unwrap_or_else(|problems| panic!("{}: {problems}\n{lines:#?}", path.display())).config;
        let original = config::load_without_secrets(path, []).unwrap().config;
        let of = |config: &Config| (config.daemon.clone(), config.capture.clone(), config.broadcast.clone());
        assert_eq!(of(&loaded), of(&original), "{}", path.display());
        assert_eq!(loaded.invalidate, original.invalidate, "{}", path.display());
        assert_eq!(loaded.redis.len(), original.redis.len());
    }
}

#[test]
fn each_value_says_where_it_comes_from_and_no_password_is_among_them() {
    let files = Files::new(&[
        ("tidegate.toml", ORDERS),
        ("conf.d/10.toml", "[daemon]\nshutdown_timeout = \"3s\"\n[redis.main]\ndurability = \"applied\"\n"),
    ]);
    // A table of a server stands in one file.
    assert!(config::effective(&files.path(), []).is_err());
    let files =
        Files::new(&[("tidegate.toml", ORDERS), ("conf.d/10.toml", "[daemon]\nshutdown_timeout = \"3s\"\n")]);
    let environment = [
        ("TIDEGATE_REDIS__MAIN__URL", "redis://me:hunter2@other:6379"),
        ("TIDEGATE_REDIS__SECOND__URL", "redis://other:6380"),
        ("TIDEGATE_REDIS__SECOND__PASSWORD", "hunter2"),
        ("TIDEGATE_CAPTURE__ORDERS__MAX_STREAMS", "7"),
        ("TIDEGATE_CAPTURE__ORDERS__KEEP__ENTRIES", "12"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let values = config::effective(&files.path(), environment).unwrap_or_else(|e| panic!("{e}"));
    assert!(!format!("{values:?}").contains("hunter2"), "{values:?}");
    let at =
        |name: &str, line: usize| Some(format!("{}:{line}", files.path().with_file_name(name).display()));
    let variable = |name: &str| Some(format!("environment variable TIDEGATE_{name}"));
    for (key, value, from) in [
        ("redis.main.url", "\"redis://me:***@other:6379\"", variable("REDIS__MAIN__URL")),
        ("redis.second.password", "\"***\"", variable("REDIS__SECOND__PASSWORD")),
        ("redis.main.key_prefix", "\"tidegate:\"", None),
        ("daemon.shutdown_timeout", "\"3s\"", at("conf.d/10.toml", 2)),
        ("daemon.spool.limit", "\"1GiB\"", None),
        ("capture.orders.channels", "[\"orders\"]", at("tidegate.toml", 7)),
        ("capture.orders.max_streams", "7", variable("CAPTURE__ORDERS__MAX_STREAMS")),
        ("capture.orders.keep.entries", "12", variable("CAPTURE__ORDERS__KEEP__ENTRIES")),
        ("capture.orders.format", "\"raw\"", None),
    ] {
        let found = values.iter().find(|value| value.key == key);
        let found = found.unwrap_or_else(|| panic!("{key} is not there: {values:#?}"));
        assert_eq!((found.toml().as_str(), &found.from), (value, &from), "{key}");
    }
}
