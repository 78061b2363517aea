//! One capture as flags, in place of a configuration file.
//!
//! The flags are values of the layer `command line`, so they are checked as those of a file are, and what they do not say
//! comes from the environment or is a default.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Refusal, environment, refused};
use crate::config::{self, Loaded, Override, Problems};

/// The names of the two servers.
const SOURCE: &str = "source";
const DESTINATION: &str = "destination";

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "One capture, without a configuration file")]
pub(super) struct RouteFlags {
    /// The server whose channels are captured, redis://host:port. A password does not belong here, where other users see
    /// it: write it into the environment variable TIDEGATE_REDIS__SOURCE__PASSWORD
    #[arg(long, value_name = "URL", requires = "stream")]
    source: Option<String>,
    /// The server that holds the stream; without it, the source
    #[arg(long, value_name = "URL", requires = "source")]
    destination: Option<String>,
    /// A channel; can be repeated
    #[arg(long, value_name = "NAME", requires = "source")]
    channel: Vec<String>,
    /// A pattern of channels, such as 'orders.*'; can be repeated
    #[arg(long, value_name = "PATTERN", requires = "source")]
    pattern: Vec<String>,
    /// The stream, or a template of it
    #[arg(long, value_name = "NAME", requires = "source")]
    stream: Option<String>,
    /// How much of the stream is kept: a number of entries, an age such as 7d, both (twice), or forever
    #[arg(long, value_name = "AMOUNT", requires = "source")]
    keep: Vec<String>,
    /// The route's name; without it, the stream's
    #[arg(long, value_name = "NAME", requires = "source")]
    route: Option<String>,
}

/// Where the configuration is.
#[derive(Debug, Clone)]
pub(super) enum ConfigurationPlace {
    /// In this file, and beside it.
    File(PathBuf),
    /// In flags.
    CommandLine(Vec<Override>),
}

impl ConfigurationPlace {
    /// The flags, where there are any, else the file.
    ///
    /// # Errors
    /// A file is named as well, or the route has no name.
    pub(super) fn of(flags: &RouteFlags, named: Option<&Path>, file: PathBuf) -> Result<Self, Refusal> {
        let Some(source) = &flags.source else { return Ok(Self::File(file)) };
        if named.is_some() {
            return Err(Refusal::usage(
                "--source describes a route without a file: leave out --config, or --source",
            ));
        }
        Ok(Self::CommandLine(flags.overrides(source)?))
    }

    /// Reads it again.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) fn read(&self) -> Result<Loaded, Problems> {
        match self {
            Self::File(path) => config::load(path, environment(), &[]),
            Self::CommandLine(overrides) => config::load_without_files(environment(), overrides),
        }
    }

    /// Reads it, or prints what is wrong.
    pub(super) fn load(&self) -> Result<Loaded, u8> {
        self.read().map_err(|problems| refused(&problems))
    }

    /// The file, or words for the command line.
    pub(super) fn shown(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::CommandLine(_) => Path::new("command line"),
        }
    }
}

impl RouteFlags {
    fn overrides(&self, source: &str) -> Result<Vec<Override>, Refusal> {
        let stream = self.stream.as_deref().unwrap_or_default();
        let name = match &self.route {
            Some(name) => name.as_str(),
            None if config::is_route_name(stream) => stream,
            None => {
                return Err(Refusal::usage(format!(
                    "a route cannot have the name of the stream '{stream}': give it one with --route (a-z, 0-9, '_' and '-')"
                )));
            }
        };
        let of_route = |key: &str, text: &str| Override::text(&["capture", name, key], text);
        let mut overrides = vec![
            Override::text(&["redis", SOURCE, "url"], source),
            of_route("source", SOURCE),
            of_route("stream", stream),
        ];
        match &self.destination {
            Some(url) => {
                overrides.push(Override::text(&["redis", DESTINATION, "url"], url));
                overrides.push(of_route("destination", DESTINATION));
            }
            None => overrides.push(of_route("destination", SOURCE)),
        }
        for (key, names) in [("channels", &self.channel), ("patterns", &self.pattern)] {
            if !names.is_empty() {
                overrides.push(Override::list(&["capture", name, key], names));
            }
        }
        overrides.extend(self.kept(name)?);
        Ok(overrides)
    }

    /// How much is kept: a limit of each kind, or one word.
    fn kept(&self, name: &str) -> Result<Vec<Override>, Refusal> {
        let kind = |amount: &str| {
            if amount.bytes().all(|byte| byte.is_ascii_digit()) {
                Some("entries")
            } else {
                humantime::parse_duration(amount).is_ok().then_some("age")
            }
        };
        let keep = ["capture", name, "keep"];
        let kinds: Vec<_> = self.keep.iter().map(|amount| kind(amount)).collect();
        match (self.keep.as_slice(), kinds.as_slice()) {
            ([word], [None]) => Ok(vec![Override::text(&keep, word)]),
            ([_] | [], _) | (_, [Some("entries"), Some("age")] | [Some("age"), Some("entries")]) => {
                let limits = self.keep.iter().zip(kinds.iter().flatten());
                Ok(limits
                    .map(|(amount, kind)| Override::text(&[&keep[..], &[*kind]].concat(), amount))
                    .collect())
            }
            _ => Err(Refusal::usage(
                "--keep takes a number of entries, an age such as 7d, one of each, or forever",
            )),
        }
    }
}
