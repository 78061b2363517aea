//! `tidegate test`: cases beside the configuration, each of what a route must make of a message or of an entry.
//!
//! A case is tried by the functions of `tidegate try`. Of the outcome only what the case names is compared, so that a new
//! field of an entry breaks no case that is about another one.

mod cases;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output::{self, tell};
use super::trial::Outcome;
use crate::config::Config;
use crate::text::plural;
use crate::text::printable::PrintableLines;
use cases::{Case, Unread};

/// Bytes of the longest file with cases.
const LONGEST_FILE: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct TestArguments {
    /// Files with cases; without them, tests/*.toml beside the configuration file
    files: Vec<PathBuf>,
}

/// Tries every case of every file. The exit code is 0 if all of them pass, and 1 if not.
pub(super) fn test(path: &Path, arguments: &TestArguments) -> u8 {
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let files = if arguments.files.is_empty() { beside(path) } else { Ok(arguments.files.clone()) };
    let files = match files {
        Ok(files) => files,
        Err(why) => {
            tell!("{why}; name files with cases, or write them there");
            return super::USAGE;
        }
    };
    let mut report = Report::default();
    for file in &files {
        report.file(&config, file);
    }
    let code = if report.failed == 0 { super::OK } else { super::FAILED };
    let lines = report.lines();
    output::printed(code, |out| out.lines(&lines))
}

/// The files beside the configuration, in the order of their names.
fn beside(configuration: &Path) -> Result<Vec<PathBuf>, String> {
    let directory = configuration.with_file_name("tests");
    let shown = directory.display();
    let unread = |error: io::Error| format!("the directory {shown} cannot be read: {error}");
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).map_err(unread)? {
        files.push(entry.map_err(unread)?.path());
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    if files.is_empty() { Err(format!("there is no file *.toml in {shown}")) } else { Ok(files) }
}

/// A file's text. A pipe or a device could have no end.
fn text(file: &Path) -> Result<String, String> {
    let unread = |error: io::Error| format!("cannot be read: {error}");
    let found = fs::metadata(file).map_err(unread)?;
    if !found.is_file() || found.len() > LONGEST_FILE {
        return Err(format!("is no regular file of at most {LONGEST_FILE} bytes"));
    }
    fs::read_to_string(file).map_err(unread)
}

/// What the cases showed.
#[derive(Debug, Default)]
struct Report {
    lines: PrintableLines,
    passed: u64,
    failed: u64,
}

impl Report {
    fn file(&mut self, config: &Config, file: &Path) {
        let shown = file.display();
        let cases = match text(file) {
            Ok(text) => cases::read(&text),
            Err(why) => vec![Err(Unread { line: None, why })],
        };
        for case in cases {
            match case {
                Ok(case) => self.case(config, file, &case),
                Err(Unread { line: Some(line), why }) => self.fail(format_args!("{shown}:{line}: {why}")),
                Err(Unread { line: None, why }) => self.fail(format_args!("{shown}: {why}")),
            }
        }
    }

    fn case(&mut self, config: &Config, file: &Path, case: &Case) {
        let outcome = Outcome::of(config, &case.route, &case.given);
        let missed = outcome.as_ref().map(|outcome| case.expect.missed(outcome));
        if missed.as_ref().is_ok_and(Vec::is_empty) {
            self.passed += 1;
            return;
        }
        let name = case.name.as_deref().unwrap_or(&case.route);
        self.fail(format_args!("{}:{}: {name}", file.display(), case.line));
        for expected in missed.unwrap_or_default() {
            self.lines.push(format_args!("  expected {expected}"));
        }
        match outcome {
            Ok(outcome) => {
                let got = outcome.lines();
                let mut got = got.iter();
                self.lines.push(format_args!(
                    "  got {}",
                    got.next().unwrap_or("nothing: no key and no dead letter")
                ));
                got.for_each(|line| self.lines.push(format_args!("    {}", line.trim_start())));
            }
            Err(why) => self.lines.push(format_args!("  cannot be tried: {why}")),
        }
    }

    fn fail(&mut self, what: std::fmt::Arguments<'_>) {
        self.failed += 1;
        self.lines.push(what);
    }

    fn lines(mut self) -> PrintableLines {
        match self.failed {
            0 => self.lines.push(format_args!("{} passed", plural::of(self.passed, "case"))),
            failed => self.lines.push(format_args!("{failed} failed, {} passed", self.passed)),
        }
        self.lines
    }
}
