//! `tidegate report`: what a report of a bug needs, as one text without passwords and payloads.
//!
//! It is made when something is broken: a part that is not available is reported in its place, and the others follow.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::output::{self, Printer};
use super::{check, dead_letters, gaps, warnings};
use crate::config::{self, Config};
use crate::observe::client;
use crate::{memory, rt};

/// Prints everything.
pub(super) fn report(path: &Path) -> u8 {
    super::carry_out(async { Ok(print(&mut output::stdout(), path).await?) })
}

/// Prints every part and gives the exit code; an error is one of writing.
async fn print(out: &mut Printer<impl Write>, path: &Path) -> io::Result<u8> {
    out.line(format_args!("# tidegate {}, {}", env!("CARGO_PKG_VERSION"), rt::rfc3339(rt::unix_ms())))?;
    system(out)?;
    let loaded = configuration(out, path)?;
    daemon(out, path)?;
    let code = match loaded {
        Ok(config) => {
            servers(out, &config).await?;
            super::OK
        }
        Err(code) => code,
    };
    out.flush()?;
    Ok(code)
}

fn part(out: &mut Printer<impl Write>, name: &str) -> io::Result<()> {
    out.line("")?;
    out.line(format_args!("## {name}"))
}

/// As this command sees it: the daemon may have other limits.
fn system(out: &mut Printer<impl Write>) -> io::Result<()> {
    part(out, "system of this command")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    out.line(format_args!("{} {}, {}", std::env::consts::OS, kernel.trim(), std::env::consts::ARCH))?;
    match std::thread::available_parallelism() {
        Ok(processors) => out.line(format_args!("processors: {processors}"))?,
        Err(error) => out.line(format_args!("processors: {error}"))?,
    }
    let shown = |limit: Option<u64>| limit.map_or_else(|| "no limit".to_owned(), |limit| limit.to_string());
    let files = getrlimit(Resource::Nofile);
    out.line(format_args!("open files: {}, at most {}", shown(files.current), shown(files.maximum)))?;
    out.line(format_args!("memory of the control group, in bytes: {}", shown(memory::limit_bytes())))
}

/// Each value with its place, or what is wrong.
fn configuration(out: &mut Printer<impl Write>, path: &Path) -> io::Result<Result<Config, u8>> {
    part(out, "configuration")?;
    let values = config::effective(path, super::environment());
    let loaded = values
        .and_then(|values| Ok((values, config::load_without_secrets(path, super::environment())?.config)));
    match loaded {
        Ok((values, config)) => {
            super::config::print(out, &values)?;
            let environment = warnings::of_environment(super::environment());
            let warnings = warnings::of_settings(&config).into_iter().chain(environment);
            for warning in warnings.chain(warnings::of_system(&config)) {
                out.line(format_args!("warning: {warning}"))?;
            }
            Ok(Ok(config))
        }
        Err(problems) => {
            out.lines(&problems.lines())?;
            Ok(Err(super::refused(&problems)))
        }
    }
}

/// What the running daemon says of itself.
fn daemon(out: &mut Printer<impl Write>, path: &Path) -> io::Result<()> {
    for page in ["/status", "/readyz"] {
        part(out, page)?;
        let listen = match config::listen(path, super::environment()) {
            Ok(listen) => listen,
            Err(problem) => {
                out.line(problem)?;
                continue;
            }
        };
        match client::get(listen.address, page) {
            Ok((_, body)) => out.json_text(body.trim_end())?,
            Err(error) => out.lines(&super::unreachable(&listen, &error).1)?,
        }
    }
    Ok(())
}

/// What the servers are and hold.
async fn servers(out: &mut Printer<impl Write>, config: &Config) -> io::Result<()> {
    part(out, "check --connect")?;
    let (lines, _) = check::connect::connect(config.clone(), true).await;
    out.lines(&lines)?;
    part(out, "gaps")?;
    gaps::print_for_report(out, config).await?;
    part(out, "dead letters")?;
    for (route, count) in dead_letters::counts(config).await {
        match count {
            Ok(count) => out.line(format_args!("{route}: {count}"))?,
            Err(why) => {
                for line in why.1.iter() {
                    out.line(format_args!("{route}: {line}"))?;
                }
            }
        }
    }
    Ok(())
}
