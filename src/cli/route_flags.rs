//! One capture as flags, in place of a configuration file.
//!
//! The flags are values of the layer `command line`, so they are checked as those of a file are, and what they do not say
//! comes from the environment or is a default.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Refusal, environment, refused};
use crate::config::{self, Loaded, Override, Problems};
use crate::text::userinfo::without_userinfo;

/// The names of the two servers.
const SOURCE: &str = "source";
const DESTINATION: &str = "destination";

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "One capture as flags")]
pub(super) struct RouteFlags {
    /// The server whose channels are captured, redis://host:port. A password does not belong here, where other users see
    /// it: run and check read it from the environment variable TIDEGATE_REDIS__SOURCE__PASSWORD
    #[arg(long, value_name = "URL")]
    pub(super) source: Option<String>,
    /// The server that holds the stream; without it, the source
    #[arg(long, value_name = "URL")]
    pub(super) destination: Option<String>,
    /// A channel; can be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) channel: Vec<String>,
    /// A pattern of channels, such as 'orders.*'; can be repeated
    #[arg(long, value_name = "PATTERN")]
    pub(super) pattern: Vec<String>,
    /// The stream, or a template of it
    #[arg(long, value_name = "NAME")]
    pub(super) stream: Option<String>,
    /// A consumer group that is made with the stream; can be repeated
    #[arg(long, value_name = "NAME")]
    pub(super) group: Vec<String>,
    /// How much of the stream is kept: a number of entries, an age such as 7d, both (twice), or forever
    #[arg(long, value_name = "AMOUNT")]
    pub(super) keep: Vec<String>,
    /// The route's name; without it, the stream's
    #[arg(long, value_name = "NAME")]
    pub(super) route: Option<String>,
}

/// Where the configuration is.
#[derive(Debug, Clone)]
pub(super) enum ConfigurationPlace {
    /// In this file, and beside it.
    File(PathBuf),
    /// In flags.
    CommandLine { overrides: Vec<Override>, warning: Option<String> },
}

impl ConfigurationPlace {
    /// The flags, where there are any, else the file.
    ///
    /// # Errors
    /// A file is named as well, or the route has no name.
    pub(super) fn of(flags: &RouteFlags, named: Option<&Path>, file: PathBuf) -> Result<Self, Refusal> {
        if *flags == RouteFlags::default() {
            return Ok(Self::File(file));
        }
        if named.is_some() {
            return Err(Refusal::usage(
                "--config names a file, and other flags describe a route without one: give one of the two",
            ));
        }
        Ok(Self::CommandLine { overrides: flags.overrides()?, warning: flags.warning() })
    }

    /// Reads it again.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) fn read(&self) -> Result<Loaded, Problems> {
        match self {
            Self::File(path) => config::load(path, environment(), &[]),
            Self::CommandLine { overrides, .. } => config::load_without_files(environment(), overrides),
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
            Self::CommandLine { .. } => Path::new("command line"),
        }
    }

    /// A warning about the place.
    pub(super) fn warning(&self) -> Option<String> {
        match self {
            Self::File(_) => None,
            Self::CommandLine { warning, .. } => warning.clone(),
        }
    }
}

impl RouteFlags {
    /// The values of the layer, which are not checked yet.
    ///
    /// # Errors
    /// There is no server or no stream, or the route has no name.
    pub(super) fn overrides(&self) -> Result<Vec<Override>, Refusal> {
        let (Some(source), Some(stream)) = (&self.source, &self.stream) else {
            return Err(Refusal::usage(
                "a route without a file needs --source, --stream, --keep, and --channel or --pattern",
            ));
        };
        let name = self.name().ok_or_else(|| {
            Refusal::usage(format!(
                "a route cannot have the name of the stream '{stream}': give it one with --route (a-z, 0-9, '_' and '-')"
            ))
        })?;
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
        for (key, names) in
            [("channels", &self.channel), ("patterns", &self.pattern), ("groups", &self.group)]
        {
            if !names.is_empty() {
                overrides.push(Override::list(&["capture", name, key], names));
            }
        }
        let keep = ["capture", name, "keep"];
        overrides.extend(self.kept()?.into_iter().map(|(limit, amount)| match limit {
            Some(limit) => Override::text(&[&keep[..], &[limit]].concat(), amount),
            None => Override::text(&keep, amount),
        }));
        Ok(overrides)
    }

    /// A password on the command line.
    fn warning(&self) -> Option<String> {
        let shown = [("source", &self.source), ("destination", &self.destination)];
        let (flag, _) = shown
            .into_iter()
            .find(|(_, url)| url.as_deref().is_some_and(|url| without_userinfo(url) != url))?;
        Some(format!(
            "--{flag} has a password, which every user of this machine can see in the list of processes: write it into the \
             environment variable TIDEGATE_REDIS__{}__PASSWORD",
            flag.to_uppercase()
        ))
    }

    /// The name of the route; none where it has no name of its own, and cannot have that of the stream.
    pub(super) fn name(&self) -> Option<&str> {
        let of_stream = || self.stream.as_deref().filter(|stream| config::is_route_name(stream));
        self.route.as_deref().or_else(of_stream)
    }

    /// How much is kept: the limit that each amount is, or one word without a limit.
    ///
    /// # Errors
    /// They do not go together.
    pub(super) fn kept(&self) -> Result<Vec<(Option<&'static str>, &str)>, Refusal> {
        let limit = |amount: &str| {
            // What is no number of TOML could not stand in a file.
            if amount.bytes().all(|byte| byte.is_ascii_digit()) && amount.parse::<i64>().is_ok() {
                Some("entries")
            } else {
                humantime::parse_duration(amount).is_ok().then_some("age")
            }
        };
        let kept: Vec<_> = self.keep.iter().map(|amount| (limit(amount), amount.as_str())).collect();
        match kept.as_slice() {
            [] | [_] => Ok(kept),
            [(Some(one), _), (Some(other), _)] if one != other => Ok(kept),
            _ => Err(Refusal::usage(
                "--keep takes a number of entries, an age such as 7d, one of each, or forever",
            )),
        }
    }
}
