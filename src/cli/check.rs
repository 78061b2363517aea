//! `tidegate check`: the configuration, and with `--connect` what it meets.

pub(super) mod connect;

use clap::Args;

use super::output::{self, tell};
use super::route_flags::{ConfigurationPlace, RouteFlags};
use super::warnings;
use crate::config::{self, Broadcast, Capture, FieldNames, Format, Invalidate, Keep, Loaded};
use crate::text::printable::PrintableLines;

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Print a JSON Schema of the configuration file, for editors
    #[arg(long, conflicts_with = "connect")]
    schema: bool,
    /// Also connect to every server: print its version, missing permissions, and the guarantees of each route.
    /// Nothing is written or published. Exits with 69 if a server cannot be used
    #[arg(long)]
    connect: bool,
    /// With --connect: also print the reasons for each guarantee
    #[arg(long, requires = "connect")]
    explain: bool,
    #[command(flatten)]
    pub(super) route: RouteFlags,
}

/// Checks the configuration.
pub(super) fn check(place: ConfigurationPlace, arguments: &CheckArguments) -> u8 {
    if arguments.schema {
        return output::printed(super::OK, |out| out.json_text(&format!("{:#}", config::schema())));
    }
    let loaded = match place.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    for readable in config::readable_passwords(&loaded.config) {
        tell!("warning: {readable}");
    }
    let warnings = place.warning().into_iter().chain(warnings::of_settings(&loaded.config));
    let mut lines = summary(&place, &loaded);
    let of_environment = warnings::of_environment(super::environment());
    for warning in warnings.chain(of_environment).chain(warnings::of_system(&loaded.config)) {
        lines.push(format_args!("  warning: {warning}"));
    }
    if let Err(refusal) = output::print(|out| out.lines(&lines)) {
        return refusal.tell();
    }
    if !arguments.connect {
        return super::OK;
    }
    match super::block_on(connect::connect(loaded.config, arguments.explain)) {
        Ok((report, usable)) => {
            let code = if usable { super::OK } else { super::UNAVAILABLE };
            output::printed(code, |out| {
                out.line("")?;
                out.lines(&report)
            })
        }
        Err(error) => {
            tell!("cannot start the runtime: {error}");
            super::FAILED
        }
    }
}

/// Says which channels count their subscribers: Socket.IO's adapter asks `PUBSUB NUMSUB` how many servers there are, and
/// waits for an answer of each.
fn counted_subscribers(out: &mut PrintableLines, route: &Capture) {
    if route.mode.replication().is_some() {
        return;
    }
    let counted = |name: &&String| name.starts_with("socket.io") && name.contains('#');
    for channel in route.channels.iter().filter(counted) {
        out.push(format_args!(
                "    note: Socket.IO counts each subscriber of \"{channel}\" as one of its servers (PUBSUB NUMSUB), so its \
                 fetchSockets waits for tidegate: use a pattern instead, or set mode = \"replication\""
            ),
        );
    }
}

/// What was read and what it makes, one line a route.
fn summary(place: &ConfigurationPlace, loaded: &Loaded) -> PrintableLines {
    let mut out = PrintableLines::from("the configuration is valid");
    for file in &loaded.files {
        out.push(format_args!("  read {}", file.display()));
    }
    match place {
        ConfigurationPlace::CommandLine { .. } => {
            out.push("  read no file: only the command line and environment variables")
        }
        ConfigurationPlace::File(_) if loaded.files.is_empty() => {
            out.push("  read no file: only environment variables");
        }
        ConfigurationPlace::File(_) => {}
    }
    let off = |name: &str| if loaded.config.is_enabled(name) { "" } else { "disabled: " };
    for route in loaded.config.capture.values() {
        out.push(format_args!("  {}{}", off(&route.name), capture(route)));
        out.push(format_args!("    {}", stored(route)));
        entry_fields(&mut out, route);
        counted_subscribers(&mut out, route);
    }
    for route in loaded.config.broadcast.values() {
        out.push(format_args!("  {}{}", off(&route.name), broadcast(route)));
    }
    for route in loaded.config.invalidate.values() {
        out.push(format_args!("  {}{}", off(&route.name), invalidate(route)));
    }
    out
}

fn capture(route: &Capture) -> String {
    let groups = match route.groups.as_slice() {
        [] => "no groups".to_owned(),
        [one] => format!("group {one}"),
        several => format!("groups {}", several.join(", ")),
    };
    let subscriptions: Vec<&str> = route.channels.iter().chain(&route.patterns).map(String::as_str).collect();
    format!(
        "capture {}: {} ({}) → {}, stream {}, {groups}",
        route.name,
        route.source,
        subscriptions.join(", "),
        route.destination,
        route.stream,
    )
}

/// How much is kept, in which format, and of which messages.
fn stored(route: &Capture) -> String {
    let entries = |entries: u64| format!("at most about {entries} entries");
    let kept = match &route.keep {
        Keep::Forever => "everything".to_owned(),
        Keep::Limits { entries: limit, age } => {
            let age = age.map(|age| format!("{} by age", humantime::format_duration(age)));
            limit.map(entries).into_iter().chain(age).collect::<Vec<_>>().join(", ")
        }
        Keep::UntilAcknowledged(until) => {
            let groups = until.groups.join(", ");
            let age = until.age.map(|age| format!(" and for {}", humantime::format_duration(age)));
            let age = age.unwrap_or_default();
            format!("until acknowledged by {groups}{age}, {}", entries(until.entries))
        }
    };
    let format = match route.format {
        Format::Raw => "raw",
        Format::Fields => "fields",
        Format::CloudEvents { .. } => "cloudevents",
    };
    let conditions: Vec<String> = route.conditions.iter().map(ToString::to_string).collect();
    let filter = match conditions.as_slice() {
        [] => "no filter".to_owned(),
        conditions => format!("only if {}", conditions.join(" and ")),
    };
    format!("keeps {kept}; format {format}; {filter}")
}

/// The fields of an entry, where the configuration gives them other names or adds some.
fn entry_fields(out: &mut PrintableLines, route: &Capture) {
    if route.fields == FieldNames::default() && route.add.is_empty() {
        return;
    }
    let fields = route.fields.of_entry(&route.format, &route.include);
    let added = route.add.iter().map(|field| field.name.as_str());
    let mut fields: Vec<&str> = fields.into_iter().map(|(_, name)| name).chain(added).collect();
    if route.format == Format::Fields {
        fields.push("those of the payload");
    }
    out.push(format_args!("    fields of an entry: {}", fields.join(", ")));
}

fn broadcast(route: &Broadcast) -> String {
    format!(
        "broadcast {}: {}, {} {} → {}, channel {}",
        route.name,
        route.source,
        if route.pattern().is_some() { "streams" } else { "stream" },
        route.stream(),
        route.destination,
        route.channel
    )
}

fn invalidate(route: &Invalidate) -> String {
    let keys: Vec<String> = route.keys.iter().map(ToString::to_string).collect();
    let lease = route.lease.as_ref().map_or_else(|| "no lease".to_owned(), |lease| format!("lease {lease}"));
    let again = route.again_after.map_or_else(
        || "once".to_owned(),
        |after| format!("once more after {}", humantime::format_duration(after)),
    );
    let set = route.set.as_ref().map_or_else(String::new, |set| {
        format!(", set to {} where the version is below {}", set.value, set.version)
    });
    format!(
        "invalidate {}: {}, stream {} → {}, keys {}{set}, {lease}, {again}",
        route.name,
        route.source,
        route.stream,
        route.destination,
        keys.join(", "),
    )
}
