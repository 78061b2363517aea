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
    assert!(found.contains("is not supported (use RSA, Ed25519, or ECDSA with P-256"), "{found}");
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
            let words = "is encrypted (use an unencrypted key, and protect the file like a password)";
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
    fs::set_permissions(&none.key, fs::Permissions::from_mode(0o640)).unwrap();
    let found = report(&only(&server, &authority, &none));
    assert!(found.contains("has no PEM private key"), "{found}");
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
