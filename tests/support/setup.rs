//! What a configuration is made of: endpoints, routes, and the users that `tidegate acl` prints.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use redis::Client;

use super::proxy::Proxy;
use super::server::Server;

/// One `[redis.NAME]` of the daemon under test.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    name: String,
    url: String,
    password: String,
    /// Where the user is made; nowhere where nothing listens.
    admins: Vec<Client>,
    /// The sentinels that know its servers: each gets a user as well.
    sentinels: Vec<Client>,
    /// Further settings of the endpoint, as TOML lines.
    settings: String,
}

/// What a daemon is to run, before it runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    endpoints: Vec<Endpoint>,
    daemon: String,
    routes: String,
    expected: BTreeSet<String>,
    /// Of an operator and not of the daemon: the channels that it may replay onto.
    operator: Option<Vec<String>>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// From the server `shop` to the server `events`, each with a user of its own.
    pub(crate) fn between(shop: &Server, events: &Server) -> Self {
        Self::new().endpoint("shop", shop).endpoint("events", events)
    }

    /// The plain case: one channel of `shop` into one stream of `events`, with positions.
    pub(crate) fn orders(source: &Server, destination: &Server) -> Self {
        Self::between(source, destination).routes(
            r#"
            [capture.orders]
            source = "shop"
            channels = ["orders"]
            destination = "events"
            stream = "orders"
            keep = "forever"
            include = ["id"]
            "#,
        )
    }

    /// Adds `[redis.NAME]` with a user of its own, `tidegate-NAME`.
    #[must_use]
    pub(crate) fn endpoint(self, name: &str, server: &Server) -> Self {
        self.endpoint_with(name, server, "")
    }

    /// Adds `[redis.NAME]` with further TOML lines.
    #[must_use]
    pub(crate) fn endpoint_with(mut self, name: &str, server: &Server, settings: &str) -> Self {
        self.endpoints.push(Endpoint {
            name: name.to_owned(),
            url: server.url(&user_of(name)),
            password: format!("first-{name}"),
            admins: vec![server.client()],
            sentinels: Vec::new(),
            settings: format!("{}\n{settings}", server.settings()),
        });
        self
    }

    /// Adds `[redis.NAME]` with several addresses: a master and its replicas, by TCP.
    #[must_use]
    pub(crate) fn deployment(self, name: &str, servers: &[&Server]) -> Self {
        let address = |server: &&Server| format!("\"127.0.0.1:{}\"", server.port().expect("it has a port"));
        let further: Vec<String> = servers[1..].iter().map(address).collect();
        let mut made = self.endpoint_with(name, servers[0], &format!("addresses = [{}]", further.join(", ")));
        let endpoint = made.endpoints.last_mut().expect("it was added");
        // Users are not replicated.
        endpoint.admins = servers.iter().map(|server| server.client()).collect();
        made
    }

    /// Adds `[redis.NAME]` whose servers sentinels know as `name`, with the users of both and further TOML lines. What
    /// [`Self::with_settings`] adds then stands in the sentinels' table.
    #[must_use]
    pub(crate) fn watched(
        mut self,
        name: &str,
        servers: &[&Server],
        sentinels: &[&Server],
        settings: &str,
    ) -> Self {
        let scheme = servers[0].url("").split_once(':').expect("it is a url").0.to_owned();
        let address = |server: &&Server| format!("\"127.0.0.1:{}\"", server.port().expect("it has a port"));
        let addresses: Vec<String> = sentinels.iter().map(address).collect();
        self.endpoints.push(Endpoint {
            name: name.to_owned(),
            url: format!("{scheme}://{}@/0", user_of(name)),
            password: format!("first-{name}"),
            admins: servers.iter().map(|server| server.client()).collect(),
            sentinels: sentinels.iter().map(|sentinel| sentinel.client()).collect(),
            settings: format!(
                "{}\n{settings}\n[redis.{name}.sentinel]\nmaster = \"{name}\"\naddresses = [{}]\nusername = \"{}\"\n\
                 password_file = \"{name}.pass\"\n{}",
                servers[0].settings(),
                addresses.join(", "),
                watcher_of(name),
                sentinels[0].settings()
            ),
        });
        self
    }

    /// Further TOML lines of the endpoint that was added last.
    #[must_use]
    pub(crate) fn with_settings(mut self, lines: &str) -> Self {
        let endpoint = self.endpoints.last_mut().expect("one was added");
        endpoint.settings.push('\n');
        endpoint.settings.push_str(lines);
        self
    }

    /// Replaces some of the further TOML lines of the endpoint that was added last.
    #[must_use]
    pub(crate) fn with_settings_replaced(mut self, lines: &str, by: &str) -> Self {
        let endpoint = self.endpoints.last_mut().expect("one was added");
        assert!(endpoint.settings.contains(lines), "{}", endpoint.settings);
        endpoint.settings = endpoint.settings.replace(lines, by);
        self
    }

    /// Another server in the url of the endpoint that was added last, as host:port.
    #[must_use]
    pub(crate) fn with_address(mut self, address: &str) -> Self {
        let endpoint = self.endpoints.last_mut().expect("one was added");
        let (before, _) = endpoint.url.split_once('@').expect("it has a user");
        endpoint.url = format!("{before}@{address}");
        self
    }

    /// Another scheme in the url of the endpoint that was added last.
    #[must_use]
    pub(crate) fn with_scheme(mut self, scheme: &str) -> Self {
        let endpoint = self.endpoints.last_mut().expect("one was added");
        let (_, rest) = endpoint.url.split_once("://").expect("it is a url");
        endpoint.url = format!("{scheme}://{rest}");
        self
    }

    /// Adds `[redis.NAME]` that reaches its server through a proxy, with further TOML lines.
    #[must_use]
    pub(crate) fn endpoint_through(self, name: &str, server: &Server, proxy: &Proxy, settings: &str) -> Self {
        let mut made = self.endpoint_with(name, server, settings);
        let endpoint = made.endpoints.last_mut().expect("it was added");
        // It forwards to the unix socket.
        endpoint.url = format!("redis://{}@127.0.0.1:{}", user_of(name), proxy.port());
        settings.clone_into(&mut endpoint.settings);
        made
    }

    /// Adds `[redis.NAME]` at a socket where nothing listens.
    #[must_use]
    pub(crate) fn dead_endpoint(self, name: &str) -> Self {
        let socket = PathBuf::from(format!("/nonexistent/{name}.sock"));
        self.raw_endpoint(name, &socket)
    }

    /// Adds `[redis.NAME]` at a socket where no real server listens, so that no user is made.
    #[must_use]
    pub(crate) fn raw_endpoint(mut self, name: &str, socket: &Path) -> Self {
        self.endpoints.push(Endpoint {
            name: name.to_owned(),
            url: format!("redis+unix://{}?user={}", socket.display(), user_of(name)),
            password: format!("first-{name}"),
            admins: Vec::new(),
            sentinels: Vec::new(),
            settings: String::new(),
        });
        self
    }

    /// TOML lines of `[daemon]`, beside the address and the directory that the harness writes.
    #[must_use]
    pub(crate) fn daemon(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.daemon);
        self
    }

    /// The routes, as TOML.
    #[must_use]
    pub(crate) fn routes(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.routes);
        self
    }

    /// Announces WARN and ERROR lines by their `event=` codes. Any other fails the test.
    #[must_use]
    pub(crate) fn expects(mut self, alerts: &[&[&str]]) -> Self {
        self.expected.extend(alerts.iter().copied().flatten().map(|event| (*event).to_owned()));
        self
    }

    /// Other routes.
    pub(super) fn set_routes(&mut self, toml: &str) {
        toml.clone_into(&mut self.routes);
    }

    /// Whether the test has announced alerts with this `event=` code.
    pub(super) fn announced(&self, event: &str) -> bool {
        self.expected.contains(event)
    }

    /// The same routes for an operator and not for a daemon: with the users that `tidegate acl --operator` prints.
    pub(super) fn of_operator(&self, replay_channels: &[&str]) -> Self {
        let mut setup = self.clone();
        setup.operator = Some(replay_channels.iter().map(|channel| (*channel).to_owned()).collect());
        for endpoint in &mut setup.endpoints {
            endpoint.url =
                endpoint.url.replace(&user_of(&endpoint.name), &setup_user("operator", &endpoint.name));
        }
        setup
    }

    fn user_of(&self, endpoint: &str) -> String {
        setup_user(if self.operator.is_some() { "operator" } else { "tidegate" }, endpoint)
    }

    /// Writes the main file and the files of its passwords.
    pub(super) fn write(&self, file: &Path, port: u16, state_directory: &Path) {
        let mut toml = format!(
            "[daemon]\nlisten = \"127.0.0.1:{port}\"\nstate_directory = \"{}\"\n{}\n",
            state_directory.display(),
            self.daemon,
        );
        for endpoint in &self.endpoints {
            endpoint.write_password(file);
            write!(
                toml,
                "[redis.{0}]\nurl = \"{1}\"\npassword_file = \"{0}.pass\"\n{2}\n",
                endpoint.name, endpoint.url, endpoint.settings
            )
            .expect("a String takes everything");
        }
        toml.push_str(&self.routes);
        std::fs::write(file, toml).expect("the temporary directory is writable");
    }

    /// The command that prints the users of this configuration.
    pub(super) fn acl_command(&self) -> Vec<&str> {
        let mut command = vec!["acl"];
        if let Some(channels) = &self.operator {
            command.push("--operator");
            command.extend(channels.iter().flat_map(|channel| match channel.strip_prefix("shard:") {
                Some(channel) => ["--replay-shard-channel", channel],
                None => ["--replay-channel", channel],
            }));
        }
        command
    }

    /// Makes the users that `tidegate acl` printed. Of each line the words `keep` are left out.
    pub(super) fn make_users(&self, printed: &str, keep: &[&str]) {
        let mut made = BTreeSet::new();
        for line in printed.lines().filter_map(|line| line.trim().strip_prefix("ACL SETUSER ")) {
            let mut words = line.split_whitespace();
            let user = words.next().expect("a user's name after SETUSER");
            let of_servers = |endpoint: &Endpoint| self.user_of(&endpoint.name) == user;
            let own = |endpoint: &&Endpoint| of_servers(endpoint) || watcher_of(&endpoint.name) == user;
            let endpoint = self.endpoints.iter().find(own);
            let endpoint = endpoint.unwrap_or_else(|| panic!("tidegate acl names an unknown user: {line}"));
            let admins = if of_servers(endpoint) { &endpoint.admins } else { &endpoint.sentinels };
            if of_servers(endpoint) {
                made.insert(endpoint.name.clone());
            }
            let mut command = redis::cmd("ACL");
            command.arg("SETUSER").arg(user);
            for word in words.filter(|word| !keep.contains(word)) {
                if word == "PASSWORD" {
                    command.arg(format!(">{}", endpoint.password));
                } else {
                    command.arg(word);
                }
            }
            for admin in admins {
                let mut connection = admin.get_connection().expect("the server runs");
                command.exec(&mut connection).unwrap_or_else(|error| panic!("{line}: {error}"));
                if of_servers(endpoint) {
                    let save = redis::cmd("ACL").arg("SAVE").exec(&mut connection);
                    save.expect("the server has a file for its users");
                }
            }
        }
        let wanted: BTreeSet<_> = self.endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        // An operator has nothing to do where messages only come from.
        let enough = if self.operator.is_some() { made.is_subset(&wanted) } else { made == wanted };
        assert!(enough, "tidegate acl has a line for every endpoint {wanted:?}, and printed:\n{printed}");
    }

    /// Another password of an endpoint, in its file beside the main one.
    pub(super) fn set_password(&mut self, file: &Path, endpoint: &str, password: &str) -> &Endpoint {
        let endpoint = self.endpoints.iter_mut().find(|known| known.name == endpoint);
        let endpoint = endpoint.expect("a known endpoint");
        password.clone_into(&mut endpoint.password);
        endpoint.write_password(file);
        endpoint
    }
}

impl Endpoint {
    /// Writes the file that the configuration names, beside the main file.
    fn write_password(&self, main: &Path) {
        let path = main.with_file_name(format!("{}.pass", self.name));
        std::fs::write(&path, format!("{}\n", self.password)).expect("the temporary directory is writable");
        let own = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, own).expect("the file is the test's own");
    }

    /// Gives the server the password that the file has, and ends the connections of the user.
    pub(super) fn apply_password(&self) {
        let user = user_of(&self.name);
        let mut connection = self.admins.first().expect("a live endpoint").get_connection().expect("it runs");
        redis::cmd("ACL")
            .arg(&["SETUSER", &user, "resetpass", &format!(">{}", self.password)])
            .exec(&mut connection)
            .expect("the default user may");
        // Redis does not disconnect who is logged in already.
        redis::cmd("CLIENT")
            .arg(&["KILL", "USER", &user])
            .exec(&mut connection)
            .expect("the default user may");
    }
}

fn user_of(endpoint: &str) -> String {
    setup_user("tidegate", endpoint)
}

/// A user of the sentinels.
fn watcher_of(endpoint: &str) -> String {
    format!("watcher-{endpoint}")
}

fn setup_user(who: &str, endpoint: &str) -> String {
    format!("{who}-{endpoint}")
}
