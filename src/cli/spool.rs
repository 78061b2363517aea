//! `tidegate spool verify`: whether what is on disk is what was written.

use std::io::{self, Write};
use std::path::Path;

use clap::{Args, Subcommand};

use super::output::{self, Printer, tell};
use crate::spool::{self, Loss, Stretch, VerifyReport};

#[derive(Debug, Subcommand)]
pub(super) enum SpoolCommand {
    /// Read every record of the spool and print a report. Changes nothing; safe beside a running daemon
    Verify(SpoolArguments),
}

#[derive(Debug, Args)]
pub(super) struct SpoolArguments {
    /// Only this route; without it, all of them
    #[arg(long)]
    route: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Carries out the command.
pub(super) fn spool(path: &Path, command: &SpoolCommand) -> u8 {
    let SpoolCommand::Verify(arguments) = command;
    let config = match super::load_without_secrets(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let directory = spool::spools(&config.daemon.state_directory);
    // A capture that was removed may have left its spool.
    if let Some(wanted) = &arguments.route
        && !config.capture.contains_key(wanted)
        && !directory.join(wanted).exists()
    {
        return super::no_capture(&config, wanted);
    }
    match verify(&mut output::stdout_to_the_end(), &directory, arguments) {
        Ok(code) => code,
        Err(error) => {
            tell!("cannot verify the spool in {}: {error}", directory.display());
            super::FAILED
        }
    }
}

/// Prints what each route's spool holds and gives the exit code.
fn verify(out: &mut Printer<impl Write>, directory: &Path, arguments: &SpoolArguments) -> io::Result<u8> {
    let mut routes = Vec::new();
    match std::fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                routes.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        // A daemon that never had a capture has written nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    routes.sort();
    routes.retain(|route| arguments.route.as_ref().is_none_or(|wanted| wanted == route));
    if routes.is_empty() && !arguments.json {
        out.line(format_args!("the spool in {} is empty", directory.display()))?;
    }
    let mut code = super::OK;
    for route in routes {
        let report = spool::verify(&route, &directory.join(&route)).map_err(io::Error::other)?;
        if report.is_damaged() {
            code = super::FAILED;
        }
        if arguments.json {
            out.json(&report)?;
        } else {
            print(out, &report)?;
        }
    }
    Ok(code)
}

fn print(out: &mut Printer<impl Write>, report: &VerifyReport) -> io::Result<()> {
    let VerifyReport { route, segments, records, bytes, first, last, tail_bytes, .. } = report;
    out.line(format_args!("{route}: {records} records in {segments} files, {bytes} bytes"))?;
    if let (Some(first), Some(last)) = (first, last) {
        out.line(format_args!("  positions up to {first} … {last}"))?;
    }
    for file in &report.files {
        out.line(format_args!("  {}: {} records, {} bytes", file.file, file.records, file.bytes))?;
        for stretch in &file.damaged {
            let Stretch { offset, bytes, detail } = stretch;
            out.line(format_args!("    DAMAGED: {bytes} bytes at byte {offset}: {detail}"))?;
        }
    }
    if *tail_bytes > 0 {
        out.line(format_args!("  incomplete record at the end: {tail_bytes} bytes, still being written or cut off by a crash; the next start \
             removes them"
        ))?;
    }
    for loss in &report.losses {
        let Loss { file, offset, records, events, after, upto, detail } = loss;
        let count = |count: &Option<u64>| count.map_or("an unknown number of".to_owned(), |n| n.to_string());
        let place = |mark: &Option<String>| mark.clone().unwrap_or_else(|| "an unknown position".to_owned());
        out.line(format_args!("  LOST: {} messages in {} records, after {} up to {}, at byte {offset} of {file}: {detail}. The daemon stores \
             all other messages, records a gap and keeps the file as *.damaged",
            count(events),
            count(records),
            place(after),
            place(upto),
        ))?;
    }
    for refused in &report.refused {
        out.line(format_args!(
            "  UNREADABLE: {refused}. Check the disk; the daemon retries three times, then records a gap"
        ))?;
    }
    for file in &report.aside {
        out.line(format_args!("  kept from earlier damage: {file}; delete it if you do not need it"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::spool::{Fsync, Log, Options, Record, StateDirectory};

    fn run(state: &Path, json: bool) -> (u8, String) {
        let mut out = Printer::memory();
        let arguments = SpoolArguments { route: None, json };
        let code = verify(&mut out, &spool::spools(state), &arguments).unwrap();
        (code, out.printed())
    }

    fn files(state: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(state.join("spool/orders")).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn damage_is_told_with_its_place_and_size_and_a_torn_tail_is_none() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(place.path()).unwrap();
        let options = Options { limit_bytes: 1 << 20, segment_bytes: 400, fsync: Fsync::Always };
        let (mut log, _) = Log::open(state.spool("orders").unwrap(), options).unwrap();
        let records: Vec<Record> =
            (1..=8).map(|number| Record { mark: [number; 24], events: 5, body: vec![7; 40] }).collect();
        log.write(&records).unwrap();
        log.sync().unwrap();
        // The log is open, and holds the lock: verifying needs none.
        let (code, text) = run(place.path(), false);
        assert!(code == 0 && text.contains("orders: 8 records in 4 files"), "{text}");
        drop(log);
        let files = files(place.path());
        let whole = fs::read(&files[3]).unwrap();
        // The seal goes, and the end of the last record.
        fs::write(&files[3], &whole[..whole.len() - 72 - 30]).unwrap();
        let (code, text) = run(place.path(), false);
        assert!(code == 0 && text.contains("incomplete record at the end: "), "{text}");
        assert!(text.contains("orders: 7 records"), "{text}");
        fs::write(&files[3], &whole).unwrap();
        let mut damaged = fs::read(&files[1]).unwrap();
        damaged[72 + 80] ^= 1;
        fs::write(&files[1], damaged).unwrap();
        let (code, text) = run(place.path(), false);
        assert_eq!(code, super::super::FAILED, "{text}");
        assert!(text.contains("DAMAGED: 112 bytes at byte 72: "), "{text}");
        assert!(text.contains("LOST: 5 messages in 1 records, after "), "{text}");
        let (code, json) = run(place.path(), true);
        assert_eq!(code, super::super::FAILED);
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&report["losses"][0]["events"], &report["records"]), (&5.into(), &7.into()));
        fs::remove_file(&files[1]).unwrap();
        let (code, text) = run(place.path(), false);
        assert!(code == super::super::FAILED && text.contains("a file before this one is missing"), "{text}");
    }
}
