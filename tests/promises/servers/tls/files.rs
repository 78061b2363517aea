//! Keys and certificates as files: which are taken, and what happens when they change.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn only(server: &Server, authority: &Authority, own: &Pair) -> Daemon {
    Setup::new()
        .endpoint_with("shop", server, &table(authority, &client(own)))
        .routes(
            "[capture.orders]\nsource = \"shop\"\nchannels = [\"orders\"]\ndestination = \"shop\"\n\
             stream = \"orders\"\nkeep = \"forever\"\n",
        )
        .prepare()
}

fn report(daemon: &Daemon) -> String {
    let output = daemon.run_command(&["check", "--connect"]);
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn every_usual_kind_of_key_is_taken_and_no_other() {
    const P384: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"];
    const P521: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-521"];
    let authority = Authority::new();
    let server = server(&authority, &authority.issue("server", HERE), "yes");
    let kinds: [(&str, &[&str]); 4] =
        [("ec", crate::support::EC), ("p384", P384), ("rsa", &["rsa:2048"]), ("ed25519", &["ed25519"])];
    for (name, key) in kinds {
        let own = authority.issue_with(name, "DNS:tidegate", key, &[]);
        let found = report(&only(&server, &authority, &own));
        assert!(found.contains("permissions: everything that the routes need"), "{name}: {found}");
    }
    let daemon = only(&server, &authority, &authority.issue_with("p521", "DNS:tidegate", P521, &[]));
    let found = report(&daemon);
    assert!(found.contains("is not supported\n  use RSA, Ed25519, or ECDSA with P-256"), "{found}");
    let daemon =
        only(&server, &authority, &authority.issue_with("short", "DNS:tidegate", &["rsa:1024"], &[]));
    let found = report(&daemon);
    assert!(found.contains("short.key is too short: RSA with 1024 bits\n  create a certificate"), "{found}");
    // The older forms of the same keys.
    for (name, convert, good) in [
        ("rsa", &["rsa", "-traditional"] as &[&str], true),
        ("ec", &["ec"], true),
        ("rsa", &["rsa", "-traditional", "-aes128", "-passout", "pass:hunter2"], false),
        ("ec", &["pkcs8", "-topk8", "-passout", "pass:hunter2"], false),
    ] {
        let from = format!("{name}.key");
        let mut arguments = convert.to_vec();
        arguments.extend(["-in", &from, "-out", "converted.key"]);
        authority.openssl(&arguments);
        let own = Pair {
            certificate: authority.path(&format!("{name}.pem")),
            key: authority.path("converted.key"),
        };
        fs::set_permissions(&own.key, fs::Permissions::from_mode(0o600)).unwrap();
        let found = report(&only(&server, &authority, &own));
        if good {
            assert!(found.contains("permissions: everything that the routes need"), "{convert:?}: {found}");
        } else {
            let words = "is encrypted\n  use an unencrypted key, and protect the file like a password";
            assert!(found.contains(words), "{convert:?}: {found}");
        }
    }
    // `openssl ecparam -genkey` writes the parameters before the key.
    let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    authority.openssl(&["ec", "-in", "ec.key", "-out", "plain.key"]);
    let key = parameters.to_owned() + &fs::read_to_string(authority.path("plain.key")).unwrap();
    fs::write(authority.path("converted.key"), key).unwrap();
    let own = Pair { certificate: authority.path("ec.pem"), key: authority.path("converted.key") };
    assert!(
        report(&only(&server, &authority, &own)).contains("permissions: everything that the routes need")
    );
}

#[test]
fn a_key_that_everybody_may_read_or_of_another_certificate_or_that_is_none() {
    let authority = Authority::new();
    let server = server(&authority, &authority.issue("server", HERE), "yes");
    let (own, other) = (authority.issue("one", "DNS:tidegate"), authority.issue("two", "DNS:tidegate"));
    let mixed = Pair { certificate: own.certificate.clone(), key: other.key.clone() };
    let found = report(&only(&server, &authority, &mixed));
    assert!(found.contains("does not belong to the certificate"), "{found}");
    let swapped = Pair { certificate: own.key.clone(), key: own.key.clone() };
    let found = report(&only(&server, &authority, &swapped));
    assert!(found.contains("has no PEM certificate"), "{found}");
    let secret = fs::read_to_string(&own.key).unwrap();
    assert!(!found.contains(secret.lines().nth(1).unwrap()), "what a key holds is in no error");
    let none = Pair { certificate: own.certificate.clone(), key: own.certificate.clone() };
    let found = report(&only(&server, &authority, &none));
    assert!(found.contains("cert_file and key_file may be swapped"), "{found}");
    assert!(!found.contains("every user of this machine"), "it is no key: {found}");
    fs::set_permissions(&own.key, fs::Permissions::from_mode(0o644)).unwrap();
    let found = report(&only(&server, &authority, &own));
    assert!(found.contains("every user of this machine can read the key"), "{found}");
}

/// Both sides get new certificates of a new authority, step by step as an operator does it, under load.
#[test]
fn certificates_and_authorities_change_without_a_restart() {
    let mutual = Mutual::start();
    let routes = ROUTES.split("[broadcast").next().unwrap();
    let mut daemon =
        mutual.setup(routes).expects(&[alert::SOURCE, alert::GAP, alert::TLS_FILES]).start_ready();
    let oracle = Oracle::new(&mutual.source);
    daemon.watch(&oracle);
    let load =
        oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(3_000));
    let reconnect = || {
        mutual.source.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        eventually("it listens again", PATIENCE, || {
            match mutual.source.ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "orders"]).1 {
                0 => Err("nobody".to_owned()),
                _ => Ok(()),
            }
        });
        mutual.destination.wait_longer("orders", 300);
    };

    // Half a pair, an empty authority: what was good before stays, and is told once.
    let kept = fs::read(&mutual.own.key).unwrap();
    put(&mutual.authority.issue("stray", "DNS:stray").key, &mutual.own.key);
    reconnect();
    daemon.wait_alert(alert::TLS_FILES);
    reconnect();
    let told = |text: &str| daemon.log().iter().filter(|line| line.text.contains(text)).count();
    assert_eq!(told("does not belong to the certificate"), 1, "it is told once");
    fs::write(&mutual.own.key, kept).unwrap();
    let trusted = mutual.authority.certificate();
    let old = fs::read_to_string(&trusted).unwrap();
    fs::write(&trusted, "nothing").unwrap();
    reconnect();

    // Trust both, then the server's new certificate, then ours, then only the new authority.
    let next = Authority::new();
    let new = fs::read_to_string(next.certificate()).unwrap();
    fs::write(&trusted, format!("{old}{new}")).unwrap();
    let server = next.issue("server", HERE);
    for file in [("tls-ca-cert-file", &trusted), ("tls-cert-file", &server.certificate)] {
        let (name, path) = (file.0, file.1.display().to_string());
        if name == "tls-cert-file" {
            let key = server.key.display().to_string();
            mutual.source.ask::<()>(&["CONFIG", "SET", name, &path, "tls-key-file", &key]);
        } else {
            mutual.source.ask::<()>(&["CONFIG", "SET", name, &path]);
        }
    }
    reconnect();
    mutual.own.replace_with(&next.issue("tidegate", "DNS:tidegate"));
    reconnect();
    fs::write(&trusted, new).unwrap();
    reconnect();
    load.stop();
    oracle.publish_last("orders", &mutual.destination, "orders", PATIENCE);
    let causes: Vec<_> = gaps(&mutual.destination, "orders").into_iter().map(|gap| gap.cause).collect();
    assert_eq!(causes, ["source_disconnected"; 6], "those that the test made");
    for line in daemon.log() {
        assert!(!line.text.contains("PRIVATE KEY"), "{}", line.text);
    }
}

/// Under load. Open connections stay, as at the servers, and the next connect reads the list anew.
#[test]
fn a_certificate_is_revoked_without_a_restart() {
    let authority = Authority::new();
    let old = authority.issue("server", HERE);
    let (source, destination) = (server(&authority, &old, "no"), Server::start(Version::Redis82));
    let list = authority.path("list.pem");
    put(&authority.list(&[], &[]), &list);
    let tls = table(&authority, &format!(", crl_file = \"{}\"", list.display()));
    let mut daemon = Setup::new()
        .endpoint_with("shop", &source, &tls)
        .endpoint("events", &destination)
        .routes(ROUTES.split("[broadcast").next().unwrap())
        .expects(&[alert::SOURCE, alert::GAP, alert::TLS_FILES])
        .start_ready();
    let oracle = Oracle::new(&source);
    daemon.watch(&oracle);
    let load =
        oracle.start(&Load::new(3, usize::MAX / 2, &["orders"]).payloads(Payloads::Unique).rate(3_000));
    let disconnect = || source.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let wait_connected = || {
        eventually("it listens again", PATIENCE, || {
            match source.ask::<(String, usize)>(&["PUBSUB", "NUMSUB", "orders"]).1 {
                0 => Err("nobody".to_owned()),
                _ => Ok(()),
            }
        });
        destination.wait_longer("orders", 300);
    };

    // What is no list leaves the one before in force, and is told.
    fs::write(&list, "nothing").unwrap();
    disconnect();
    wait_connected();
    let line = daemon.wait_alert(alert::TLS_FILES);
    assert!(line.text.contains("list.pem has no PEM list of revoked"), "{}", line.text);

    put(&authority.list(&[&old], &[]), &list);
    destination.wait_longer("orders", 300);
    disconnect();
    eventually("the certificate is rejected", PATIENCE, || match daemon.route("orders")?.source.error {
        Some(error) if error.contains("Revoked") => Ok(()),
        other => Err(format!("{other:?}")),
    });

    let new = authority.issue("next", HERE);
    let [certificate, key] = [&new.certificate, &new.key].map(|path| path.display().to_string());
    source.ask::<()>(&["CONFIG", "SET", "tls-cert-file", &certificate, "tls-key-file", &key]);
    wait_connected();
    load.stop();
    oracle.publish_last("orders", &destination, "orders", PATIENCE);
    let causes: Vec<_> = gaps(&destination, "orders").into_iter().map(|gap| gap.cause).collect();
    assert_eq!(causes, ["source_disconnected"; 2], "those that the test made");
}

#[test]
fn a_certificate_that_expires_soon_is_warned_of() {
    let authority = Authority::new();
    let soon = authority.issue_with("soon", HERE, crate::support::EC, &["-days", "13"]);
    let server = server(&authority, &soon, "yes");
    let own = authority.issue_with("own", "DNS:tidegate", crate::support::EC, &["-days", "15"]);
    let found = report(&only(&server, &authority, &own));
    assert!(found.contains("  TLS: the server's certificate expires 20"), "{found}");
    assert!(found.contains("  TLS: tidegate's own certificate expires 20"), "{found}");
    assert!(found.contains("warning: the server's certificate expires in less than 14 days"), "{found}");
    assert!(!found.contains("warning: tidegate's own certificate"), "{found}");
}

/// Every file is looked into by `check` alone, and each mistake is told with the option and the path.
#[test]
fn what_the_files_have_is_checked_before_anything_connects() {
    let authority = Authority::new();
    let server = server(&authority, &authority.issue("server", HERE), "yes");
    let (own, other) = (authority.issue("one", "DNS:tidegate"), authority.issue("two", "DNS:tidegate"));
    let whole = fs::read(authority.certificate()).unwrap();
    fs::write(authority.path("cut.pem"), &whole[..whole.len() / 2]).unwrap();
    fs::write(authority.path("garbage.pem"), "garbage").unwrap();
    // Whole as PEM, and cut off before it was encoded.
    let text = String::from_utf8(whole).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let short = [&lines[..3], &lines[lines.len() - 1..]].concat().join("\n");
    fs::write(authority.path("inside.pem"), short).unwrap();
    fs::write(authority.path("cut.key"), &fs::read(&own.key).unwrap()[..100]).unwrap();
    fs::set_permissions(authority.path("cut.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let path = |name: &str| authority.path(name).display().to_string();
    let pair = |certificate: &str, key: &str| {
        format!("cert_file = \"{}\", key_file = \"{}\"", path(certificate), path(key))
    };
    for (table, told) in [
        (format!("ca_file = \"{}\"", path("none.pem")), "tls.ca_file: there is no such file: PATH/none.pem"),
        (
            format!("ca_file = \"{}\"", path("garbage.pem")),
            "tls.ca_file: the file PATH/garbage.pem has no PEM certificate",
        ),
        (
            format!("ca_file = \"{}\"", path("cut.pem")),
            "tls.ca_file: the PEM certificate in PATH/cut.pem is cut off or damaged",
        ),
        (
            format!("ca_file = \"{}\"", path("inside.pem")),
            "tls.ca_file: a certificate in PATH/inside.pem is cut off or damaged",
        ),
        (
            format!("crl_file = \"{}\"", path("garbage.pem")),
            "tls.crl_file: the file PATH/garbage.pem has no PEM list of revoked",
        ),
        (
            pair("one.pem", "two.key"),
            "tls.key_file: the key PATH/two.key does not belong to the certificate PATH/one.pem",
        ),
        (
            pair("cut.pem", "one.key"),
            "tls.cert_file: the PEM certificate in PATH/cut.pem is cut off or damaged",
        ),
        (
            pair("inside.pem", "one.key"),
            "tls.cert_file: a certificate in PATH/inside.pem is cut off or damaged",
        ),
        (pair("one.pem", "cut.key"), "tls.key_file: the key in PATH/cut.key is cut off or damaged"),
        (pair("one.pem", "one.pem"), "tls.key_file: "),
    ] {
        let daemon = Setup::new()
            .endpoint_with("shop", &server, &format!("tls = {{ {table} }}"))
            .routes(ROUTES.split("[broadcast").next().unwrap().replace("\"events\"", "\"shop\"").as_str())
            .prepare();
        let output = daemon.run_command(&["check"]);
        let found = String::from_utf8_lossy(&output.stderr);
        let told = told.replace("PATH", authority.path("").display().to_string().trim_end_matches('/'));
        assert!(found.contains(&format!("redis.shop.{told}")), "{told}:\n{found}");
        assert_eq!(output.status.code(), Some(78));
    }
    // All at once, of several tables.
    let table = format!("tls = {{ ca_file = \"{}\", {} }}", path("garbage.pem"), pair("one.pem", "two.key"));
    let daemon = Setup::new()
        .endpoint_with("shop", &server, &table)
        .endpoint_with("events", &server, &table)
        .routes(ROUTES)
        .prepare();
    let found = String::from_utf8_lossy(&daemon.run_command(&["check"]).stderr).into_owned();
    assert!(found.contains("4 problems"), "{found}");
    assert!(other.key.exists());
}

/// What is wrong with them is known before the server is back.
#[test]
fn an_authority_that_is_gone_is_told_while_the_server_is_away() {
    let mut mutual = Mutual::start();
    let routes = ROUTES.split("[broadcast").next().unwrap();
    let daemon = mutual.setup(routes).expects(&[alert::TLS_FILES, alert::SOURCE]).start_ready();
    mutual.source.kill();
    daemon.wait_alert(alert::SOURCE);
    let gauge = |value: u8| {
        let line = format!("tidegate_credential_files_invalid{{server=\"shop\"}} {value}");
        eventually(&line, PATIENCE, || {
            let metrics = daemon.get("/metrics")?.1;
            if metrics.lines().any(|found| found == line) { Ok(()) } else { Err(line.clone()) }
        });
    };
    gauge(0);
    let authority = mutual.authority.certificate().to_owned();
    let away = authority.with_extension("away");
    fs::rename(&authority, &away).unwrap();
    gauge(1);
    eventually("the log says it", PATIENCE, || {
        let told =
            |text: &str| text.contains("\"server\":\"shop\"") && text.contains(".tls.ca_file: the file ");
        let lines = daemon.log();
        let mut lines = lines.iter().filter(|line| line.event.as_deref() == Some("tls_files_invalid"));
        lines.find(|line| told(&line.text)).map(drop).ok_or_else(|| "no line".to_owned())
    });
    fs::rename(&away, &authority).unwrap();
    gauge(0);
}

/// Connections stay, and what the next one would need is told now.
#[test]
fn files_that_are_gone_are_told_once_while_connections_stay() {
    let mutual = Mutual::start();
    let routes = ROUTES.split("[broadcast").next().unwrap();
    let daemon = mutual.setup(routes).expects(&[alert::TLS_FILES, &["password_file_invalid"]]).start_ready();
    let oracle = Oracle::new(&mutual.source);
    let gauge = |server: &str, value: u8| {
        let line = format!("tidegate_credential_files_invalid{{server=\"{server}\"}} {value}");
        eventually(&line, PATIENCE, || {
            let metrics = daemon.get("/metrics")?.1;
            if metrics.lines().any(|found| found == line) {
                Ok(())
            } else {
                Err(daemon.log().len().to_string())
            }
        });
    };
    let password = daemon.configuration().with_file_name("shop.pass");
    let (away, key_away) = (password.with_extension("away"), mutual.own.key.with_extension("away"));
    gauge("shop", 0);
    fs::rename(&password, &away).unwrap();
    gauge("shop", 1);
    gauge("events", 0);
    let told = daemon.wait_alert(&["password_file_invalid"]).text;
    for words in ["redis.shop.password_file: the file ", "shop.pass cannot be read", "open connections stay"]
    {
        assert!(told.contains(words), "{told}");
    }
    fs::rename(&mutual.own.key, &key_away).unwrap();
    gauge("events", 1);
    eventually("both endpoints tell of the key", PATIENCE, || match daemon.logged("tls_files_invalid") {
        2 => Ok(()),
        count => Err(count.to_string()),
    });
    let told = daemon.wait_alert(alert::TLS_FILES).text;
    for words in [".tls.key_file: the file ", "tidegate.key cannot be read", "the previous files stay in use"]
    {
        assert!(told.contains(words), "{told}");
    }
    fs::rename(&key_away, &mutual.own.key).unwrap();
    gauge("events", 0);
    fs::rename(&away, &password).unwrap();
    gauge("shop", 0);
    for (event, count) in [
        ("password_file_invalid", 1),
        ("tls_files_invalid", 2),
        ("password_file_valid", 1),
        ("tls_files_valid", 2),
    ] {
        assert_eq!(daemon.logged(event), count, "{event}");
    }
    assert_captured(&oracle, &mutual.destination);
    assert_eq!(daemon.logged("source_lost"), 0);
}
