//! `tidegate config`: the configuration as it counts, and where each value comes from.

use std::io::{self, Write};
use std::path::Path;

use clap::Args;

use super::output::{self, Printer};
use crate::config::{self, EffectiveValue};

#[derive(Debug, Args)]
pub(super) struct ConfigArguments {
    /// Only keys that begin with this, such as daemon or capture.orders
    key: Option<String>,
    /// Print one JSON object per line; `from` is null for a default
    #[arg(long)]
    json: bool,
}

/// Prints every value, or what is wrong with the configuration.
pub(super) fn config(path: &Path, arguments: &ConfigArguments) -> u8 {
    let values = match config::effective(path, super::environment()) {
        Ok(values) => values,
        Err(problems) => return super::refused(&problems),
    };
    let wanted = |key: &str| {
        let Some(begin) = &arguments.key else { return true };
        key.strip_prefix(begin.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let values: Vec<_> = values.into_iter().filter(|value| wanted(&value.key)).collect();
    if let (Some(key), []) = (&arguments.key, values.as_slice()) {
        output::tell!("there is no key '{key}' with a value; tidegate config lists all");
        return super::USAGE;
    }
    output::printed(super::OK, |out| {
        if !arguments.json {
            return print(out, &values);
        }
        values.iter().try_for_each(|value| out.json(value))
    })
}

/// Prints values as lines of TOML with their places.
pub(super) fn print(out: &mut Printer<impl Write>, values: &[EffectiveValue]) -> io::Result<()> {
    values.iter().try_for_each(|value| {
        let from = value.from.as_deref().unwrap_or("default");
        out.line(format_args!("{} = {}  # {from}", value.key, value.toml()))
    })
}
