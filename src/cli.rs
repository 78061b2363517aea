//! The command line: one file a command.
//!
//! Exit codes: 0 fine, 64 usage, 69 Redis (or the daemon that is asked) unavailable, 78 configuration,
//! 1 anything else. A server that answers but cannot be used, because it is too old, a replica, or
//! grants too little, is unavailable too: the mistake is there, and not in the file.

mod acl;
mod check;
mod config;
mod confirm;
mod dead_letters;
mod explain;
mod gaps;
mod healthcheck;
mod init;
mod interrupt;
mod invalidate;
mod output;
mod replay;
mod report;
mod route_flags;
mod run;
mod spool;
mod status;
mod tap;
mod test_routes;
mod trial;
mod try_route;
mod wait;
mod warnings;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use serde::Deserialize;

use crate::config::{Config, Listen, Loaded, Problems};
use crate::observe::client::ClientError;
use crate::server::{Error, hinted};
use crate::text::printable::{self, PrintableLines};
use output::tell;
use route_flags::{ConfigurationPlace, RouteFlags};

/// Fine.
const OK: u8 = 0;
/// Anything that has no code of its own.
const FAILED: u8 = 1;
/// sysexits' EX_USAGE.
const USAGE: u8 = 64;
/// sysexits' EX_UNAVAILABLE; see the module's comment.
const UNAVAILABLE: u8 = 69;
/// sysexits' EX_CONFIG.
const CONFIGURATION: u8 = 78;

/// Bridge Redis Pub/Sub channels and Redis Streams
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// The configuration file; `conf.d/*.toml` beside it is read as well. Without this option, the file in the
    /// environment variable TIDEGATE_CONFIG, or else /etc/tidegate/tidegate.toml
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a first configuration, with comments, from flags or from answers on a terminal
    Init(init::InitArguments),
    /// Run the daemon
    Run(run::RunArguments),
    /// Check the configuration and print every error at once
    Check(check::CheckArguments),
    /// Print the configuration with its defaults, and where each value comes from
    Config(config::ConfigArguments),
    /// Print the ACL SETUSER lines that the configuration needs
    Acl(acl::AclArguments),
    /// Show the state of each route of the running daemon
    Status(status::StatusArguments),
    /// List recorded gaps: when messages may have been lost, and why
    Gaps(gaps::GapsArguments),
    /// List, show, requeue or drop messages that could not be stored or published
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Wait until every route of the running daemon is ready: live or standby
    Wait(wait::WaitArguments),
    /// Show new entries of a route, without affecting its consumers
    Tap(tap::TapArguments),
    /// Republish a range of a stream. Resumable: run the same command again to continue
    Replay(Box<replay::ReplayArguments>),
    /// Remove keys of an invalidation from its cache by hand. The position of the route stays
    Invalidate(invalidate::InvalidateArguments),
    /// Inspect the spool: buffered messages on disk
    #[command(subcommand)]
    Spool(spool::SpoolCommand),
    /// Show what a route makes of a message or of an entry, without a server
    Try(try_route::TryArguments),
    /// Compare what routes make of messages and entries with the cases of a file, without a server
    Test(test_routes::TestArguments),
    /// Explain a log event, a state, a cause of a gap, a reason of a dead letter or a metric
    Explain(explain::ExplainArguments),
    /// Print what a bug report needs, without passwords and payloads: version, system, configuration, state, servers
    Report,
    /// Exit with 0 if the event loops of the running daemon make progress (for container health checks)
    Healthcheck,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man {
        /// The command, such as `replay` or `dead-letters list`; without it, the page of the program
        command: Vec<String>,
    },
}

impl Cli {
    /// Reads the process's arguments; on a mistake prints what is wrong and gives the exit code.
    ///
    /// # Errors
    /// The exit code where there is nothing to run: `--help`, `--version`, or a mistake.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // The message quotes arguments as they are, so it is made once more from what can be shown.
            let shown = std::env::args_os().map(|argument| printable::text(argument.as_encoded_bytes()));
            let error = Self::try_parse_from(shown).err().unwrap_or(error);
            // Where even standard error is closed there is nobody left to tell.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { USAGE } else { OK })
        })
    }

    /// Carries out the command.
    #[must_use]
    pub fn execute(self) -> ExitCode {
        let named = self.config.as_deref();
        let file = named.map_or_else(configuration_file, Path::to_owned);
        let place = |flags: &RouteFlags| ConfigurationPlace::of(flags, named, file.clone());
        let file = file.as_path();
        ExitCode::from(match self.command {
            Command::Init(arguments) => init::init(file, named.is_some(), arguments),
            Command::Run(arguments) => with_place(place(&arguments.route), run::run),
            Command::Check(arguments) => {
                with_place(place(&arguments.route), |place| check::check(place, &arguments))
            }
            Command::Config(arguments) => config::config(file, &arguments),
            Command::Acl(arguments) => acl::acl(file, &arguments),
            Command::Status(arguments) => status::status(file, &arguments),
            Command::Gaps(arguments) => gaps::gaps(file, &arguments),
            Command::DeadLetters(command) => dead_letters::dead_letters(file, &command),
            Command::Wait(arguments) => wait::wait(file, &arguments),
            Command::Tap(arguments) => tap::tap(file, &arguments),
            Command::Replay(arguments) => replay::replay(file, &arguments),
            Command::Invalidate(arguments) => invalidate::invalidate(file, &arguments),
            Command::Spool(command) => spool::spool(file, &command),
            Command::Try(arguments) => try_route::try_route(file, arguments),
            Command::Test(arguments) => test_routes::test(file, &arguments),
            Command::Explain(arguments) => explain::explain(&arguments),
            Command::Report => report::report(file),
            Command::Healthcheck => healthcheck::healthcheck(file),
            Command::Completions { shell } => {
                // The generator panics where it cannot write.
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "tidegate", &mut script);
                output::printed(OK, |out| out.write_own(&script))
            }
            Command::Man { command } => manual(&command),
        })
    }
}

/// Carries out a command that can have its configuration in flags.
fn with_place(
    place: Result<ConfigurationPlace, Refusal>,
    command: impl FnOnce(ConfigurationPlace) -> u8,
) -> u8 {
    match place {
        Ok(place) => command(place),
        Err(refusal) => refusal.tell(),
    }
}

/// Prints the manual page of a command, or of the program.
fn manual(words: &[String]) -> u8 {
    let mut of = Cli::command();
    // Now each command knows its whole name, and the options that it has from above.
    of.build();
    for word in words {
        let Some(found) = of.find_subcommand(word) else {
            tell!("there is no command '{}'; tidegate --help lists all commands", words.join(" "));
            return USAGE;
        };
        of = found.clone();
    }
    let mut page = Vec::new();
    match clap_mangen::Man::new(of).render(&mut page) {
        Ok(()) => output::printed(OK, |out| out.write_own(&page)),
        Err(_) => FAILED,
    }
}

/// Reads the configuration, or prints everything that is wrong with it. A command that connects to few of the servers or
/// to none looks at no secret before it is used.
fn load_without_secrets(path: &Path) -> Result<Loaded, u8> {
    crate::config::load_without_secrets(path, environment()).map_err(|problems| refused(&problems))
}

fn refused(problems: &Problems) -> u8 {
    output::tell_lines(&problems.lines());
    CONFIGURATION
}

/// Where the running daemon listens, for a command that only asks it.
fn listen(path: &Path) -> Result<Listen, u8> {
    crate::config::listen(path, environment()).map_err(|problem| {
        tell!("{problem}");
        CONFIGURATION
    })
}

/// The main file where no option names it.
fn configuration_file() -> PathBuf {
    let named = std::env::var_os("TIDEGATE_CONFIG").filter(|name| !name.is_empty());
    named.map_or_else(|| PathBuf::from("/etc/tidegate/tidegate.toml"), PathBuf::from)
}

/// Why the daemon cannot be asked, and what may be the reason.
fn unreachable(listen: &Listen, error: &ClientError) -> Refusal {
    let mut lines = PrintableLines::from(error.to_string());
    lines.append(&listen.doubts);
    Refusal(UNAVAILABLE, lines)
}

/// Tells what the daemon has answered: the text of its error, or the whole body, whose lines it ends itself.
fn tell_body(body: &str) {
    #[derive(Deserialize)]
    struct DaemonProblem {
        error: String,
    }
    match serde_json::from_str::<DaemonProblem>(body) {
        Ok(problem) => tell!("{}", problem.error),
        Err(_) => body.trim_end().lines().for_each(|line| tell!("{line}")),
    }
}

/// The environment as text; what is not UTF-8 cannot be configuration.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// A runtime for a command that only asks.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, std::io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(future);
    // A read of a file whose file system hangs is not waited for.
    runtime.shutdown_background();
    Ok(done)
}

/// Why a command failed: its exit code and its message.
#[derive(Debug)]
struct Refusal(u8, PrintableLines);

impl Refusal {
    fn new(code: u8, text: impl Into<PrintableLines>) -> Self {
        Self(code, text.into())
    }

    fn usage(text: impl Into<PrintableLines>) -> Self {
        Self::new(USAGE, text)
    }

    fn server(server: &str, error: &Error) -> Self {
        Self::new(
            UNAVAILABLE,
            format!("server {server}: {}", hinted(error, error.hint_for_operator().as_deref())),
        )
    }

    /// Tells it, where there is something to tell, and gives the exit code.
    fn tell(self) -> u8 {
        let Self(code, lines) = self;
        output::tell_lines(&lines);
        code
    }
}

impl From<io::Error> for Refusal {
    /// An error of writing to standard output. Who reads may have seen enough, as `head` does.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self(OK, PrintableLines::default()),
            _ => Self::new(FAILED, format!("cannot write: {error}")),
        }
    }
}

/// Runs a command to its end and gives the exit code.
fn carry_out(command: impl Future<Output = Result<u8, Refusal>>) -> u8 {
    match block_on(command) {
        Ok(Ok(code)) => code,
        Ok(Err(refusal)) => refusal.tell(),
        Err(error) => {
            tell!("cannot start the runtime: {error}");
            FAILED
        }
    }
}

/// Says that no capture has this name.
fn no_capture(config: &Config, wanted: &str) -> u8 {
    if config.broadcast.contains_key(wanted) {
        tell!("'{wanted}' is a broadcast: only captures have gaps and a spool; see `tidegate status`");
        return USAGE;
    }
    if config.invalidate.contains_key(wanted) {
        tell!("'{wanted}' is an invalidation: only captures have gaps and a spool; see `tidegate status`");
        return USAGE;
    }
    let known: Vec<&str> = config.capture.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    tell!("there is no capture '{wanted}' in the configuration; known: {known}");
    USAGE
}
