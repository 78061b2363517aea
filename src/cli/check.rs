//! `tidegate check`.

use std::path::Path;

use clap::Args;

use crate::config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print a JSON Schema of the configuration file, for editors
    #[arg(long)]
    schema: bool,
}

/// Checks the configuration.
pub(super) fn check(path: &Path, arguments: &Arguments) -> u8 {
    if arguments.schema {
        println!("{:#}", config::schema());
        return super::OK;
    }
    match super::load(path) {
        Ok(loaded) => {
            let config = &loaded.config;
            println!(
                "configuration is valid: {} captures, {} broadcasts, {} endpoints",
                config.capture.len(),
                config.broadcast.len(),
                config.redis.len()
            );
            super::OK
        }
        Err(code) => code,
    }
}
