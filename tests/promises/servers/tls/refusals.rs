//! What is refused, and in which words.

use std::net::TcpStream;
use std::process::Stdio;

use super::*;
use crate::support::{Guarded, Port};

/// What `check --connect` says of the one endpoint.
fn report(setup: Setup) -> String {
    let daemon = setup.prepare();
    let output = daemon.run_command(&["check", "--connect"]);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    format!("{report}{errors}")
}

fn only(server: &Server, settings: &str) -> Setup {
    Setup::new().endpoint_with("shop", server, settings).routes(
        "[capture.orders]\nsource = \"shop\"\nchannels = [\"orders\"]\ndestination = \"shop\"\n\
         stream = \"orders\"\nkeep = \"forever\"\n",
    )
}

#[track_caller]
fn assert_says(report: &str, words: &[&str]) {
    assert!(report.contains("problem: cannot be used: "), "{report}");
    for word in words {
        assert!(report.contains(word), "no {word:?} in\n{report}");
    }
}

#[track_caller]
fn assert_good(report: &str) {
    assert!(report.contains("permissions: everything that the routes need"), "{report}");
    assert!(!report.contains("problem"), "{report}");
}

#[test]
fn a_client_certificate_that_is_missing_or_unknown() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = server(&authority, &authority.issue("server", HERE), "yes");
    let stranger = other.issue("stranger", "DNS:stranger");
    for (min_version, none) in [("1.3", "CertificateRequired"), ("1.2", "CertificateRequired")] {
        let version = format!(", min_version = \"{min_version}\"");
        let found = report(only(&server, &table(&authority, &version)));
        assert_says(&found, &[none, "set cert_file and key_file"]);
        let found = report(only(&server, &table(&authority, &format!("{version}{}", client(&stranger)))));
        assert_says(
            &found,
            &["UnknownCA", "does not trust the issuer of /", "stranger.pem (redis.shop.tls.cert_file)"],
        );
    }
    let own = authority.issue("tidegate", "DNS:tidegate");
    assert_good(&report(only(&server, &table(&authority, &client(&own)))));
}

#[test]
fn a_server_s_certificate_that_does_not_hold() {
    let (authority, other) = (Authority::new(), Authority::new());
    let expired = authority.issue_with(
        "expired",
        HERE,
        crate::support::EC,
        &["-startdate", "200101000000Z", "-enddate", "210101000000Z"],
    );
    let future = authority.issue_with(
        "future",
        HERE,
        crate::support::EC,
        &["-startdate", "400101000000Z", "-enddate", "410101000000Z"],
    );
    let version_1 = authority.issue_version_1("old");
    for (certificate, trusted, words) in [
        (&expired, &authority, ["expired at 2021-01-01T00:00:00.000Z", "renew the server's certificate"]),
        (&future, &authority, ["is not valid before 2040-01-01T00:00:00.000Z", "correct the clock"]),
        (&version_1, &authority, ["UnsupportedCertVersion", "create it with a subjectAltName"]),
        (&authority.issue("server", HERE), &other, ["UnknownIssuer", "ca.pem (redis.shop.tls.ca_file)"]),
    ] {
        let server = server(&authority, certificate, "no");
        assert_says(&report(only(&server, &table(trusted, ""))), &words);
    }
    // Without ca_file the system's store decides, and there is no such authority in it.
    let server = server(&authority, &authority.issue("server", HERE), "no");
    assert_says(&report(only(&server, "")), &["TLS: ", "set redis.shop.tls.ca_file"]);
}

#[test]
fn a_certificate_is_for_the_host_or_for_a_name_that_the_user_wrote() {
    let authority = Authority::new();
    let named = authority.issue("named", "DNS:shop.example");
    let wildcard = authority.issue("wildcard", "DNS:*.shop.example");
    let nameless = authority.issue("nameless", "email:nobody@shop.example");
    for (certificate, written, words) in [
        (&named, "", Some("for shop.example, but tidegate expects one of 127.0.0.1 ")),
        (&named, ", server_name = \"shop.example\"", None),
        (&named, ", server_name = \"stock.example\"", Some("one of 127.0.0.1, stock.example ")),
        (&wildcard, ", server_name = \"one.shop.example\"", None),
        (&wildcard, ", server_name = \"shop.example\"", Some("one of 127.0.0.1, shop.example ")),
        (
            &nameless,
            ", server_name = \"shop.example\"",
            Some("but tidegate expects one of 127.0.0.1, shop.example "),
        ),
        (&authority.issue("here", HERE), ", server_name = \"shop.example\"", None),
    ] {
        let server = server(&authority, certificate, "no");
        let found = report(only(&server, &table(&authority, written)));
        match words {
            None => assert_good(&found),
            Some(words) => assert_says(
                &found,
                &[
                    words,
                    "use a host of the certificate in redis.shop.url, or set redis.shop.tls.server_name",
                ],
            ),
        }
    }
    // Another address of the deployment, reached by what the url does not say.
    let server = server(&authority, &named, "no");
    let further = format!("addresses = [\"shop.example:1\"]\n{}", table(&authority, ""));
    assert_good(&report(only(&server, &further)));
}

#[test]
fn what_was_revoked_and_a_list_that_is_out_of_date() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (good, bad) = (authority.issue("good", HERE), authority.issue("bad", HERE));
    let list = authority.list(&[&bad], &[]);
    let with_list = table(&authority, &format!(", crl_file = \"{}\"", list.display()));
    assert_good(&report(only(&server(&authority, &good, "no"), &with_list)));
    let revoked = server(&authority, &bad, "no");
    assert_says(
        &report(only(&revoked, &with_list)),
        &["Revoked", "install a new one on the server; the list is /", "crl.pem (redis.shop.tls.crl_file)"],
    );
    authority.list(&[], &["-crl_lastupdate", "200101000000Z", "-crl_nextupdate", "210101000000Z"]);
    let found = report(only(&server(&authority, &good, "no"), &with_list));
    let words =
        ["expired at 2021-01-01T00:00:00.000Z", "put a newer list into /", "(redis.shop.tls.crl_file)"];
    assert_says(&found, &words);
    // A list of another authority says nothing of this one.
    put(&other.list(&[], &[]), &list);
    let found = report(only(&server(&authority, &good, "no"), &with_list));
    assert_says(&found, &["UnknownRevocationStatus", "crl.pem (redis.shop.tls.crl_file)"]);
}

#[test]
fn the_wrong_kind_of_port() {
    let authority = Authority::new();
    let plain = Server::with(Version::Redis70, Options::default().tcp());
    let encrypted = server(&authority, &authority.issue("server", HERE), "no");
    let tls = format!("connect_timeout = \"1s\"\n{}", table(&authority, ""));
    let found = report(only(&plain, &tls).with_scheme("rediss"));
    assert_says(
        &found,
        &[
            "no reply within 1s while making the TLS handshake",
            "check that this port expects TLS",
            "use redis:// in redis.shop.url",
        ],
    );
    let found = report(only(&encrypted, "").with_scheme("redis"));
    assert_says(
        &found,
        &["the server closed the connection before it answered", "use rediss:// in redis.shop.url"],
    );
}

/// Redis takes no such key. Others do, and a verifier without a look at its length would call it a forgery.
#[test]
fn an_rsa_key_that_is_too_short() {
    let authority = Authority::new();
    let short = authority.issue_with("short", HERE, &["rsa:1024"], &[]);
    authority.openssl(&[
        "req",
        "-x509",
        "-config",
        "openssl.cnf",
        "-newkey",
        "rsa:1024",
        "-nodes",
        "-subj",
        "/CN=short authority",
        "-keyout",
        "weak.key",
        "-out",
        "weak.pem",
    ]);
    let signed = authority.issue("signed", HERE);
    authority.openssl(&[
        "x509",
        "-req",
        "-in",
        "signed.csr",
        "-CA",
        "weak.pem",
        "-CAkey",
        "weak.key",
        "-CAcreateserial",
        "-copy_extensions",
        "copy",
        "-out",
        "signed.pem",
    ]);
    for (own, trusted, words) in [
        (
            &short,
            authority.certificate(),
            "TLS: the RSA key of the server's certificate is too short: 1024 bits",
        ),
        (
            &signed,
            authority.path("weak.pem"),
            "the RSA key of an issuer of the server's certificate is too short: 1024",
        ),
    ] {
        let port = Port::claim();
        let address = format!("127.0.0.1:{}", port.number());
        let (certificate, key) = (own.certificate.as_os_str(), own.key.as_os_str());
        let _other = Guarded::start("openssl", "/bin/sh".as_ref(), |command| {
            command.args(["-c", "exec openssl s_server -quiet -cipher DEFAULT@SECLEVEL=0 \"$@\"", "openssl"]);
            command.args(["-accept", &address]).arg("-cert").arg(certificate).arg("-key").arg(key);
            command.stdin(Stdio::piped());
        });
        eventually("it listens", PATIENCE, || {
            TcpStream::connect(&address).map(drop).map_err(|error| error.to_string())
        });
        let server = server(&authority, &authority.issue("unused", HERE), "no");
        let tls = format!("tls = {{ ca_file = \"{}\" }}", trusted.display());
        let found = report(only(&server, &tls).with_address(&address));
        assert_says(&found, &[words, "create it again with 2048 bits or more"]);
    }
}
