//! TLS to the sentinels: what is wrong is told with the keys of their own table, and their certificates are watched.

use super::*;

struct Encrypted {
    authority: Authority,
    master: Server,
    events: Server,
}

impl Encrypted {
    fn start() -> Self {
        Self {
            authority: Authority::new(),
            master: Server::with(Version::Redis70, Options::default().tcp()),
            events: Server::start(Version::Redis70),
        }
    }

    /// A sentinel with a certificate for this name; a plain one for none.
    fn sentinel(&self, name: &str, days: &str) -> Server {
        let options = match name {
            "" => Options::default(),
            name => {
                let own = self.authority.issue_with("sentinel", name, crate::support::EC, &["-days", days]);
                Options::default().tls(&self.authority, &own, "no")
            }
        };
        Server::sentinel_with(Version::Redis70, "shop", &self.master, 1, options)
    }

    fn setup(&self, sentinel: &Server, table: &str) -> Setup {
        Setup::new()
            .endpoint("events", &self.events)
            .watched("shop", &[&self.master], &[sentinel], "")
            .with_settings(table)
            .routes(CAPTURE)
    }

    fn trusting(authority: &Authority) -> String {
        format!("tls = {{ ca_file = \"{}\" }}", authority.certificate().display())
    }
}

fn report(setup: Setup) -> String {
    let output = setup.prepare().run_command(&["check", "--connect"]);
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_wrong_with_their_tls_is_told_with_their_keys() {
    let encrypted = Encrypted::start();
    let trusting = Encrypted::trusting(&encrypted.authority);
    let other = Authority::new();
    let stranger = Encrypted::trusting(&other);
    for (certificate, table, words) in [
        ("", &trusting, &["making the TLS handshake", "remove redis.shop.sentinel.tls"] as &[&str]),
        ("IP:127.0.0.1", &String::new(), &["closed the connection", "add redis.shop.sentinel.tls"]),
        ("IP:127.0.0.1", &stranger, &["UnknownIssuer", "ca.pem (redis.shop.sentinel.tls.ca_file)"]),
        (
            "DNS:sentinel.example",
            &trusting,
            &[
                "the sentinel's certificate is for sentinel.example, but tidegate expects one of 127.0.0.1",
                "in redis.shop.sentinel.addresses, or set redis.shop.sentinel.tls.server_name",
            ],
        ),
    ] {
        let sentinel = encrypted.sentinel(certificate, "365");
        let found = report(encrypted.setup(&sentinel, table));
        assert!(
            found.contains("problem: cannot be used: no sentinel of \"shop\" answers: sentinel 127"),
            "{found}"
        );
        for word in words {
            assert_eq!(
                found.matches(word).count(),
                2,
                "{word:?} of the server and of the sentinel in\n{found}"
            );
        }
    }
}

#[test]
fn their_certificates_are_shown_and_warned_of() {
    let encrypted = Encrypted::start();
    let sentinel = encrypted.sentinel("IP:127.0.0.1", "13");
    let setup = encrypted.setup(&sentinel, &Encrypted::trusting(&encrypted.authority));
    let daemon = setup.start_ready();
    let output = daemon.run_command(&["check", "--connect"]);
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(found.contains("  TLS: a certificate of the sentinels expires 20"), "{found}");
    assert!(
        found.contains("warning: a certificate of the sentinels expires in less than 14 days"),
        "{found}"
    );
    let metrics = daemon.get("/metrics").unwrap().1;
    let now: f64 = encrypted.events.ask::<(String, String)>(&["TIME"]).0.parse().unwrap();
    let value = |server: &str| {
        let series = format!(
            "tidegate_tls_certificate_expiry_timestamp_seconds{{server=\"{server}\",side=\"server\"}} "
        );
        metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse::<f64>().unwrap()
    };
    let days = (value("shop.sentinel") - now) / 86_400.0;
    assert!((12.0..=13.0).contains(&days), "{days}");
    assert!(value("shop").is_nan(), "its servers have none");
}
