//! The configuration as it is written: every table and key, with its default and its description.
//!
//! These types are the one list of what exists: the reader, the JSON Schema and the test that the
//! commented `tidegate.toml` is complete all use them. A key that must be given is an `Option` here
//! and is missed by the check, so that it is reported together with everything else.

#![allow(
    rustdoc::invalid_html_tags,
    rustdoc::broken_intra_doc_links,
    reason = "these comments are the schema's descriptions, which are plain text"
)]

mod condition;
mod entry;
mod invalidate;
mod values;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use condition::{Condition, EntryCondition};
pub(crate) use entry::{CloudEvents, FieldName, FieldNames, Format, Include};
pub(crate) use invalidate::{IfMissed, Invalidate, SetValue};
pub(crate) use values::{Count, Fsync, Rate, Size, Span, Table, True, Word};

use super::settings::Secret;

/// The configuration of tidegate.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
#[schemars(title = "tidegate")]
pub(crate) struct Raw {
    /// What concerns the process.
    #[serde(default)]
    pub(crate) daemon: Daemon,
    /// The Redis deployments by name; a name is 1 to 48 of a-z, 0-9, '_' and '-'.
    #[serde(default)]
    pub(crate) redis: BTreeMap<String, Endpoint>,
    /// The routes from Pub/Sub channels into streams, by name.
    #[serde(default)]
    pub(crate) capture: BTreeMap<String, Capture>,
    /// The routes from a stream to Pub/Sub channels, by name.
    #[serde(default)]
    pub(crate) broadcast: BTreeMap<String, Broadcast>,
    /// The routes from a stream to a cache, by name.
    #[serde(default)]
    pub(crate) invalidate: BTreeMap<String, Invalidate>,
}

/// What concerns the process.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Daemon {
    /// Address and port where /metrics, /healthz, /readyz, /status and a page for a browser (/) are served.
    pub(crate) listen: String,
    /// Host names that HTTP clients may use, beside addresses, localhost and names without a public domain.
    pub(crate) hosts: Vec<String>,
    /// Directory for the files of the daemon.
    pub(crate) state_directory: String,
    /// Memory for buffered messages of all routes together; at least "16MiB". Without it "256MiB", or half the limit
    /// of the process's control group if that is less.
    pub(crate) memory_limit: Option<Size>,
    /// How long a graceful shutdown may take.
    pub(crate) shutdown_timeout: Span,
    /// How long to wait for another instance that can take over without a gap, before taking over with one.
    pub(crate) force_after: Span,
    /// The spool: buffered messages in state_directory while a destination is not available.
    pub(crate) spool: Spool,
}

/// What is written to disk while a destination is away.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Spool {
    /// Size for all captures together; "0B" for no spool.
    pub(crate) limit: Size,
    /// When it is synced to disk: "always", at an interval ("1s"), or "never".
    pub(crate) fsync: Fsync,
}

impl Default for Spool {
    fn default() -> Self {
        Self { limit: Size::mebibytes(1024), fsync: Fsync::Every(Span::seconds(1)) }
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7380".to_owned(),
            hosts: Vec::new(),
            state_directory: "/var/lib/tidegate".to_owned(),
            memory_limit: None,
            shutdown_timeout: Span::seconds(10),
            force_after: Span::seconds(5),
            spool: Spool::default(),
        }
    }
}

/// One Redis deployment.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Endpoint {
    /// redis://[user[:password]@]host[:port][/database], the same with rediss:// for TLS, or
    /// redis+unix:///path/of/socket?db=0&user=name.
    #[schemars(with = "String")]
    pub(crate) url: Option<Secret>,
    /// Other servers of the same deployment, as host:port or as the path of a unix socket. tidegate connects to the
    /// one that is master.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
    /// Translation of addresses that servers report for other servers: reported host:port = reachable host:port.
    #[serde(default)]
    pub(crate) address_map: BTreeMap<String, String>,
    /// The password; only as the environment variable TIDEGATE_REDIS__NAME__PASSWORD.
    #[schemars(with = "Option<String>")]
    pub(crate) password: Option<Secret>,
    /// The file with the password, read on every connection: an absolute path, or a name that is searched for
    /// in $CREDENTIALS_DIRECTORY, beside the configuration file, in credentials/ there, and among the
    /// credentials of running units of tidegate.
    pub(crate) password_file: Option<String>,
    /// Whether open connections authenticate again when the content of password_file changes.
    #[serde(default)]
    pub(crate) reauthenticate: Word<Reauthenticate>,
    /// Prefix of every key and channel that tidegate creates on this server.
    #[serde(default = "defaults::key_prefix")]
    pub(crate) key_prefix: String,
    /// How long it may take to connect and authenticate.
    #[serde(default = "defaults::connect_timeout")]
    pub(crate) connect_timeout: Span,
    /// How long to wait for a reply before its outcome counts as unknown.
    #[serde(default = "defaults::response_timeout")]
    pub(crate) response_timeout: Span,
    /// For a destination of captures: when a stored message counts as durable, so that tidegate can forget it.
    #[serde(default)]
    pub(crate) durability: Word<Durability>,
    /// With durability = "replicated": the number of replicas.
    pub(crate) replicas: Option<u32>,
    /// With rediss://: certificates.
    pub(crate) tls: Option<Tls>,
    /// The sentinels that know which server is the master; the url has no host then.
    pub(crate) sentinel: Option<Sentinel>,
}

/// The sentinels of a deployment. Their user, password and certificates are their own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Sentinel {
    /// The name under which they watch the deployment, as in `sentinel monitor NAME …`.
    #[schemars(with = "String")]
    pub(crate) master: Option<String>,
    /// The sentinels, all of them, as host:port.
    #[serde(default)]
    pub(crate) addresses: Vec<String>,
    /// The ACL user at the sentinels; with a password alone, their user default.
    pub(crate) username: Option<String>,
    /// The password at the sentinels; only as the environment variable TIDEGATE_REDIS__NAME__SENTINEL__PASSWORD.
    #[schemars(with = "Option<String>")]
    pub(crate) password: Option<Secret>,
    /// The file with that password, found as that of the servers.
    pub(crate) password_file: Option<String>,
    /// Certificates; with this table, connections to the sentinels are encrypted.
    pub(crate) tls: Option<Tls>,
}

/// When open connections log in again.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reauthenticate {
    /// When the file has another password.
    #[default]
    Changed,
    /// Never: the next connect reads it.
    Off,
}

/// Which certificates are accepted, and which one is shown. A file is an absolute path, or a name that is looked for
/// in $CREDENTIALS_DIRECTORY and then beside the configuration file; it is read at every connect.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub(crate) struct Tls {
    /// The authorities that a server's certificate may come from, as PEM; the system's where it is not given.
    pub(crate) ca_file: Option<String>,
    /// Our certificate with its chain, as PEM, for servers that want one.
    pub(crate) cert_file: Option<String>,
    /// Its key, as unencrypted PEM that only tidegate may read.
    pub(crate) key_file: Option<String>,
    /// A name that the server's certificate may be for, beside the hosts in url and addresses.
    pub(crate) server_name: Option<String>,
    /// Lists of revoked certificates, as PEM; one that has expired refuses.
    pub(crate) crl_file: Option<String>,
    /// The oldest version of TLS.
    pub(crate) min_version: Word<TlsVersion>,
}

/// A version of TLS.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
pub(crate) enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// When what is stored counts as durable.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Durability {
    /// Once the server has applied it.
    #[default]
    Applied,
    /// Once this many replicas have it.
    Replicated,
    /// Once the server's append-only file is synced to disk.
    Fsynced,
}

/// One route from Pub/Sub channels into streams.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Capture {
    /// Whether the route runs. With false it is checked like any other, and makes no connections.
    #[serde(default = "defaults::enabled")]
    pub(crate) enabled: bool,
    /// The server whose channels tidegate subscribes to.
    #[schemars(with = "String")]
    pub(crate) source: Option<String>,
    /// Channels by their exact names.
    #[serde(default)]
    pub(crate) channels: Vec<String>,
    /// Channel patterns, as PSUBSCRIBE matches them.
    #[serde(default)]
    pub(crate) patterns: Vec<String>,
    /// How the source is read.
    #[serde(default)]
    pub(crate) mode: Word<Mode>,
    /// With mode = "replication": which node is read.
    pub(crate) prefer: Option<Word<Prefer>>,
    /// With mode = "replication": whether what is published with SPUBLISH is captured as well.
    pub(crate) sharded: Option<bool>,
    /// With mode = "replication": where the source's backlog covers a shorter absence than this, tidegate
    /// warns.
    pub(crate) min_backlog_cover: Option<Span>,
    /// Which messages are captured: those for which every condition holds. The others are counted as
    /// filtered.
    #[serde(default)]
    pub(crate) r#where: Vec<Table<Condition>>,
    /// Leaves out messages that carry this origin, so that two routes can bridge both ways: a broadcast with the same
    /// origin has published them.
    pub(crate) origin: Option<String>,
    /// The endpoint that holds the streams.
    #[schemars(with = "String")]
    pub(crate) destination: Option<String>,
    /// The stream, or a template with <channel> and <pointer:/PATH>, a value in the JSON payload; with patterns alone
    /// also <pattern>, <1> to <9>.
    #[schemars(with = "String")]
    pub(crate) stream: Option<String>,
    /// Consumer groups that are made with each stream.
    #[serde(default)]
    pub(crate) groups: Vec<String>,
    /// Where a group begins that is made on a stream which already has entries: "0" at the first,
    /// "$" after the last.
    pub(crate) groups_start: Option<Word<GroupsStart>>,
    /// How much of a stream is kept: { entries = 1_000_000, age = "7d" }, one of the two, or
    /// "forever".
    #[schemars(with = "Keep")]
    pub(crate) keep: Option<Keep>,
    /// What an entry looks like.
    #[serde(default)]
    pub(crate) format: Word<Format>,
    /// Attributes of the events; only with format = "cloudevents".
    pub(crate) cloudevents: Option<CloudEvents>,
    /// What is added to each entry.
    #[serde(default)]
    pub(crate) include: Vec<Word<Include>>,
    /// What the fields of an entry are called, for readers that expect other names.
    pub(crate) fields: Option<FieldNames>,
    /// Fields that are added to each entry: name = value, a template as for stream.
    #[serde(default)]
    pub(crate) add: BTreeMap<String, String>,
    /// How many streams a template may make; the rest becomes dead letters.
    #[serde(default = "defaults::max_streams")]
    pub(crate) max_streams: Count,
    /// The largest message that is appended; a larger one becomes a dead letter.
    #[serde(default = "defaults::max_message_size")]
    pub(crate) max_message_size: Size,
}

/// How a source is read.
#[derive(Clone, Copy, Default, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// SUBSCRIBE and PSUBSCRIBE.
    #[default]
    Subscribe,
    /// The replication stream, as a replica reads it: what is missed is read later.
    Replication,
}

/// Which node's replication stream is read.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Prefer {
    /// A replica's where there is one, else the master's.
    Replica,
    /// The master's.
    Master,
}

/// Where a consumer group begins.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
pub(crate) enum GroupsStart {
    /// At the first entry.
    #[serde(rename = "0")]
    Beginning,
    /// After the last entry.
    #[serde(rename = "$")]
    End,
}

/// How much of a stream is kept.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(crate) enum Keep {
    /// Everything.
    Forever(Forever),
    /// Up to a number of entries, an age, or both.
    Limits(KeepLimits),
}

/// The word "forever".
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Forever {
    /// Everything.
    Forever,
}

/// Up to a number of entries, an age, or both.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct KeepLimits {
    /// About how many entries: Redis trims whole nodes of a stream.
    pub(crate) entries: Option<Count>,
    /// How old an entry may grow, by its id.
    pub(crate) age: Option<Span>,
    /// Consumer groups: an entry goes only once all of them have acknowledged it and it has reached the age, if
    /// one is given, or where the stream has more than entries, which must be given.
    #[serde(default)]
    pub(crate) until_acknowledged: Vec<String>,
}

/// One route from a stream to Pub/Sub channels.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub(crate) struct Broadcast {
    /// Whether the route runs. With false it is checked like any other, and makes no connections.
    #[serde(default = "defaults::enabled")]
    pub(crate) enabled: bool,
    /// The server of the stream.
    #[schemars(with = "String")]
    pub(crate) source: Option<String>,
    /// The exact name of the stream; or streams is given.
    pub(crate) stream: Option<String>,
    /// In place of stream: a pattern of names, as SCAN matches it. Streams that match are found while the route runs.
    pub(crate) streams: Option<String>,
    /// With streams: how many are read at most.
    pub(crate) max_streams: Option<Count>,
    /// When an entry is published: "added" is as soon as it is in the stream; the name of a consumer group is once
    /// that group has acknowledged it.
    #[serde(default = "defaults::after")]
    pub(crate) after: String,
    /// In which order acknowledged entries are published; "stream" by default.
    pub(crate) order: Option<Word<Order>>,
    /// How acknowledgements are noticed; "poll" by default.
    pub(crate) mode: Option<Word<Watch>>,
    /// With order = "acknowledgement": maximum number of unacknowledged entries left behind; 10,000 by default.
    pub(crate) max_ack_pending: Option<Count>,
    /// The server to publish on.
    #[schemars(with = "String")]
    pub(crate) destination: Option<String>,
    /// The channel, or a template with <field:NAME>, <pointer:/PATH>, <stream> and <id>.
    #[schemars(with = "String")]
    pub(crate) channel: Option<String>,
    /// The message: a template as for channel, or with <json>, the whole entry.
    #[serde(default = "defaults::message")]
    pub(crate) message: String,
    /// The envelope of the message.
    #[serde(default)]
    pub(crate) envelope: Word<Envelope>,
    /// Filter: an entry is published if every condition holds. The others are counted as filtered.
    #[serde(default)]
    pub(crate) r#where: Vec<Table<EntryCondition>>,
    /// The field of an entry that holds the payload, which conditions with field and pointer, and <pointer:/PATH> in
    /// templates, look at.
    #[serde(default = "defaults::payload_field")]
    pub(crate) payload_field: String,
    /// Adds this origin to each message, which must be a JSON object, so that a capture with the same origin leaves it out.
    pub(crate) origin: Option<String>,
    /// Whether to publish with SPUBLISH, for subscribers that use SSUBSCRIBE.
    #[serde(default)]
    pub(crate) sharded: bool,
    /// Maximum publish rate, such as "1000/s"; without it the rate is not limited.
    pub(crate) rate_limit: Option<Rate>,
    /// Maximum attempts for an entry that the server rejects individually; then it becomes a dead letter.
    #[serde(default = "defaults::max_deliveries")]
    pub(crate) max_deliveries: Count,
    /// Where a new route starts on a stream that already has entries: "beginning", "end", or the id of the entry to
    /// start after.
    pub(crate) start: Option<String>,
    /// Maximum size of a published message; an entry with a larger message becomes a dead letter.
    #[serde(default = "defaults::max_message_size")]
    pub(crate) max_message_size: Size,
}

/// What is put around a broadcast's message.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, serde::Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Envelope {
    /// Nothing: the message is what `message` makes.
    #[default]
    None,
    /// The message is a JSON document with the stream's name, the entry's id and its fields.
    Json,
}

/// In which order acknowledged entries are published.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    /// As they stand in the stream: an entry that is not acknowledged holds up those after it.
    Stream,
    /// As they are acknowledged.
    Acknowledgement,
}

/// How acknowledgements are noticed.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Watch {
    /// By looking again and again, often while some come and seldom while none do.
    Poll,
    /// By reading the replication stream, as a replica does, where each is seen at once.
    Replication,
}

/// What a key means that is not given. A revision leaves these values out, so changing one changes
/// what running routes do without their revision saying so: it needs a note in the changelog.
pub(crate) mod defaults {
    use super::{Count, Size, Span};

    pub(crate) fn enabled() -> bool {
        true
    }

    pub(crate) fn key_prefix() -> String {
        "tidegate:".to_owned()
    }

    /// A connect that takes longer is better begun anew: the address may have moved.
    pub(crate) fn connect_timeout() -> Span {
        Span::seconds(5)
    }

    /// The time within which a stopped server has to be noticed.
    pub(crate) fn response_timeout() -> Span {
        Span::seconds(5)
    }

    pub(crate) fn min_backlog_cover() -> Span {
        Span::seconds(60)
    }

    pub(crate) fn max_streams() -> Count {
        Count(10_000)
    }

    pub(crate) fn max_message_size() -> Size {
        Size::mebibytes(16)
    }

    pub(crate) fn after() -> String {
        "added".to_owned()
    }

    /// Each has connections of its own.
    pub(crate) const MAX_BROADCAST_STREAMS: u64 = 100;

    /// Each is an entry in a pending list, some 100 bytes of the server.
    pub(crate) const MAX_ACK_PENDING: u64 = 10_000;

    /// What a raw capture calls the payload, so that a round trip needs no key.
    pub(crate) fn message() -> String {
        "<field:payload>".to_owned()
    }

    /// Enough that a right which is being granted, or a server that is being restarted, is waited for.
    pub(crate) fn max_deliveries() -> Count {
        Count(5)
    }

    /// A suffix, so that a prefix that a client library puts in front of keys is in front of the lease as well.
    pub(crate) fn lease() -> String {
        "<key>:tidegate".to_owned()
    }

    /// Longer than nearly every load of a value, and than a database's replica is behind.
    pub(crate) fn again_after() -> Span {
        Span::seconds(2)
    }

    /// Each change is applied as soon as it is read.
    pub(crate) fn collect() -> Span {
        Span::seconds(0)
    }

    /// What a raw capture calls the payload.
    pub(crate) fn payload_field() -> String {
        "payload".to_owned()
    }

    /// The attribute `type` of a CloudEvent.
    pub(crate) const CLOUDEVENTS_TYPE: &str = "<channel>";

    /// The attribute `source` of a CloudEvent.
    pub(crate) fn cloudevents_source(route: &str) -> String {
        format!("/tidegate/{route}")
    }
}
