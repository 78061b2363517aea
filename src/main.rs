//! The daemon's program: arguments → command → exit code.

use std::process::ExitCode;

use tidegate::cli::Cli;

fn main() -> ExitCode {
    match Cli::read() {
        Ok(cli) => cli.execute(),
        Err(code) => code,
    }
}
