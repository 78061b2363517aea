//! `tidegate init`: a first configuration of one capture, with comments.
//!
//! What no flag says is asked on a terminal. Elsewhere there is nobody to ask, so what has no default is required. The
//! answers are checked as a configuration before anything is written, and the file holds no password: others may read it.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use clap::Args;

use super::output::{self, tell};
use super::route_flags::RouteFlags;
use super::{Refusal, refused};
use crate::config::{self, Endpoint, SecretSource};

#[derive(Debug, Args)]
pub(super) struct InitArguments {
    /// Overwrite the file if there is one
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    route: RouteFlags,
}

/// Where a Redis usually is.
const USUAL_SERVER: &str = "redis://localhost:6379";
/// How much is kept where nobody says otherwise: a limit of each kind, so that a stream cannot fill a server.
const USUAL_KEEP: &str = "1000000 7d";

/// Writes the file. `named`: true if an option names it, as the next commands must, too.
pub(super) fn init(path: &Path, named: bool, arguments: InitArguments) -> u8 {
    match write(path, named, arguments) {
        Ok(()) => super::OK,
        Err(refusal) => refusal.tell(),
    }
}

fn write(path: &Path, named: bool, arguments: InitArguments) -> Result<(), Refusal> {
    let InitArguments { mut route, force } = arguments;
    if !force && path.try_exists().unwrap_or(true) {
        return Err(exists(path));
    }
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
        && !directory.is_dir()
    {
        let why = format!(
            "there is no directory {}: make it, or name another file with --config",
            directory.display()
        );
        return Err(Refusal::new(super::FAILED, why));
    }
    complete(&mut route)?;
    let loaded = config::load_without_files([], &route.overrides()?)
        .map_err(|problems| Refusal(refused(&problems), "nothing was written".into()))?;
    let inline = |endpoint: &Endpoint| matches!(endpoint.password, SecretSource::Inline(_));
    if loaded.config.redis.values().any(|endpoint| inline(endpoint)) {
        return Err(Refusal::usage(
            "a password in a URL would stand in a file that others may read: leave it out (redis://USER@HOST), and set \
             password_file in the file that init writes. Nothing was written",
        ));
    }
    let text = text(&route)?;
    let mut options = OpenOptions::new();
    options.write(true).truncate(true);
    // Somebody else may have written it while the questions were answered.
    let opened = if force { options.create(true).open(path) } else { options.create_new(true).open(path) };
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(path),
        _ => Refusal::new(
            super::FAILED,
            format!("{} cannot be written: {error}; name another file with --config", path.display()),
        ),
    })?;
    let shown = path.display();
    let named = if named { format!(" --config {shown}") } else { String::new() };
    tell!("{shown} was written; next: tidegate check --connect{named}, then tidegate run{named}");
    Ok(())
}

fn exists(path: &Path) -> Refusal {
    Refusal::new(
        super::FAILED,
        format!(
            "{} exists already: name another file with --config, or overwrite it with --force",
            path.display()
        ),
    )
}

/// Adds what no flag says: answers where there is a terminal, else defaults.
fn complete(route: &mut RouteFlags) -> Result<(), Refusal> {
    let asks = io::stdin().is_terminal();
    let answer = |question: &str, default: &str| {
        if asks { ask(question, default) } else { Ok(default.to_owned()) }
    };
    if route.source.is_none() {
        let server = answer("The Redis server whose channels are captured", USUAL_SERVER)?;
        route.source = Some(server);
    }
    while route.channel.is_empty() && route.pattern.is_empty() {
        if !asks {
            return Err(Refusal::usage(
                "which channels are captured? Give --channel or --pattern; without a terminal nothing is asked",
            ));
        }
        let names =
            ask("Its channels, with spaces between them; one with * is a pattern, such as orders.*", "")?;
        let (patterns, channels) = words(&names).partition(|name| name.contains(['*', '?', '[']));
        (route.pattern, route.channel) = (patterns, channels);
    }
    if route.stream.is_none() {
        let stream = answer("The stream that they are stored in", &stream_of(route))?;
        route.stream = Some(stream);
    }
    if asks && route.name().is_none() {
        route.route = Some(ask("The name of the route (a-z, 0-9, '_' and '-')", "events")?);
    }
    if route.destination.is_none() && asks {
        let server = ask("The server that holds the stream", "the same")?;
        route.destination = Some(server).filter(|server| server != "the same");
    }
    if route.keep.is_empty() {
        let kept = answer("How much is kept: a number of entries, an age, both, or forever", USUAL_KEEP)?;
        route.keep = words(&kept).collect();
    }
    if route.group.is_empty() && asks {
        let groups = ask("Consumer groups, with spaces between them", "none")?;
        route.group = words(&groups).filter(|group| group != "none").collect();
    }
    Ok(())
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split_whitespace().map(str::to_owned)
}

/// Asks one thing. No answer is the default.
fn ask(question: &str, default: &str) -> Result<String, Refusal> {
    let shown = if default.is_empty() { String::new() } else { format!(" [{default}]") };
    output::ask(&format!("{question}{shown}:"))?;
    let mut answer = String::new();
    match io::stdin().lock().read_line(&mut answer) {
        Ok(0) => return Err(Refusal::new(super::FAILED, "nothing was written")),
        Ok(_) => {}
        Err(error) => {
            let why = format!("the answer cannot be read: {error}. Nothing was written");
            return Err(Refusal::new(super::FAILED, why));
        }
    }
    let answer = answer.trim();
    Ok(if answer.is_empty() { default } else { answer }.to_owned())
}

/// The stream that is offered: the beginning that the first name has in common with all channels of its pattern.
fn stream_of(route: &RouteFlags) -> String {
    let first = route.channel.iter().chain(&route.pattern).next().map(String::as_str).unwrap_or_default();
    let literal = first.split(['*', '?', '[', '\\']).next().unwrap_or_default();
    let name = literal.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    if config::is_route_name(name) { name.to_owned() } else { "events".to_owned() }
}

/// The file.
fn text(route: &RouteFlags) -> Result<String, Refusal> {
    let quoted = |text: &str| config::toml(&text.into());
    let list = |names: &[String]| config::toml(&names.into());
    let mut lines = Lines::default();
    lines.comment("The configuration of tidegate. `tidegate check` prints every error in it, and `tidegate check --connect`");
    lines.comment(
        "tries the servers as well. docs/reference/configuration.md has every option with its default.",
    );
    lines.line("");
    lines.line("[daemon]");
    lines.comment("Where /metrics, /status, /readyz and the status page are served.");
    lines.comment("listen = \"127.0.0.1:7380\"");
    lines.comment("For the spool: messages that wait while a destination is away. Each instance needs a directory of its own.");
    lines.comment("state_directory = \"/var/lib/tidegate\"");
    let source = if route.destination.is_some() { "source" } else { "main" };
    let destination = if route.destination.is_some() { "destination" } else { "main" };
    lines.server(source, "The server whose channels are captured.", route.source.as_deref());
    if let Some(url) = &route.destination {
        lines.server(destination, "The server that holds the stream.", Some(url));
    }
    lines.line("");
    lines.comment("Each message of the channels becomes an entry of the stream, in order and once.");
    lines.line(&format!("[capture.{}]", route.name().unwrap_or_default()));
    lines.line(&format!("source = {}", quoted(source)));
    if !route.channel.is_empty() {
        lines.comment("By their exact names.");
        lines.line(&format!("channels = {}", list(&route.channel)));
    }
    if !route.pattern.is_empty() {
        lines.comment("As PSUBSCRIBE matches them.");
        lines.line(&format!("patterns = {}", list(&route.pattern)));
    }
    lines.comment(
        "\"replication\" also reads what was published while tidegate was away: docs/start/choosing.md.",
    );
    lines.comment("mode = \"replication\"");
    lines.comment("Only messages for which every condition holds: docs/guides/filter-and-format.md.");
    lines.comment("where = [{ field = \"kind\", equals = \"order\" }]");
    lines.line(&format!("destination = {}", quoted(destination)));
    lines.line(&format!("stream = {}", quoted(route.stream.as_deref().unwrap_or_default())));
    lines.comment("Consumer groups, which are made with the stream, so that they miss no entry.");
    if route.group.is_empty() {
        lines.comment("groups = [\"workers\"]");
    } else {
        lines.line(&format!("groups = {}", list(&route.group)));
    }
    lines.comment("How much of the stream is kept. \"forever\" is all of it.");
    let kept = route.kept()?;
    let limits = kept.iter().map(|(limit, amount)| match limit {
        Some(limit @ "age") => format!("{limit} = {}", quoted(amount)),
        Some(limit) => format!("{limit} = {}", amount.trim_start_matches('0')),
        None => quoted(amount),
    });
    let limits: Vec<String> = limits.collect();
    match kept.as_slice() {
        [(None, _)] => lines.line(&format!("keep = {}", limits.concat())),
        _ => lines.line(&format!("keep = {{ {} }}", limits.join(", "))),
    }
    Ok(lines.0)
}

/// A file as it grows.
#[derive(Debug, Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn comment(&mut self, text: &str) {
        self.line(&format!("# {text}"));
    }

    fn server(&mut self, name: &str, what: &str, url: Option<&str>) {
        self.line("");
        self.comment(what);
        self.line(&format!("[redis.{name}]"));
        self.line(&format!("url = {}", config::toml(&url.unwrap_or_default().into())));
        self.comment("If it needs a password: a file that only the user of tidegate can read. A user stands in the url, as in");
        self.comment("redis://USER@HOST; `tidegate acl` prints the rights that it needs.");
        self.comment(&format!("password_file = \"{name}.pass\""));
    }
}
