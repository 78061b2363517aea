//! Where the running daemon listens, for the commands that only ask it.
//!
//! A daemon that refused a reload runs on, and its health must not depend on the file that it refused. So nothing
//! but `daemon.listen` is read here: no secret is opened, no other key is checked, and a file with a mistake still
//! says what stands in its other lines.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use toml_edit::{ImDocument, Item};

use super::layers;
use super::problems::{Key, Problems};
use super::raw;
use crate::text::printable::PrintableLines;

/// A file with more mistakes than this is not looked through any further.
const MAX_MISTAKES: usize = 100;

/// The address of the daemon, as far as it can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// Parts that could not be read: they may name another address.
    pub doubts: PrintableLines,
}

/// Finds where the daemon of this configuration listens. The environment comes first, then the files, the last one
/// first, then the default. Files are read in place: it blocks.
///
/// # Errors
/// The text that is no address. The daemon would not have started with it.
pub fn listen(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Listen, String> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    if let Some(text) = layers::environment_text(&environment, &Key::top("daemon").at("listen")) {
        let address = text.parse().map_err(|_| {
            format!("environment variable TIDEGATE_DAEMON__LISTEN: expected an address and a port, found \"{text}\"")
        })?;
        return Ok(Listen { address, doubts: PrintableLines::default() });
    }
    let mut problems = Problems::default();
    let mut files = vec![path.to_owned()];
    files.extend(layers::fragments(path, &mut problems));
    let mut doubts = problems.into_result().err().map(|problems| problems.lines()).unwrap_or_default();
    for file in files.iter().rev() {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => {
                doubts.push(format_args!("{}: cannot be read: {error}", file.display()));
                continue;
            }
        };
        match written(&text).map(|listen| listen.parse()) {
            Some(Ok(address)) => return Ok(Listen { address, doubts }),
            Some(Err(_)) => {
                doubts.push(format_args!("{}: daemon.listen is not an address and port", file.display()))
            }
            None => {}
        }
    }
    let address = raw::Daemon::default().listen.parse();
    Ok(Listen { address: address.map_err(|_| "the default address is not valid".to_owned())?, doubts })
}

/// What a file says of `daemon.listen`. A line that is no TOML is taken out, and the rest is read.
fn written(text: &str) -> Option<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    for _ in 0..MAX_MISTAKES {
        let text = lines.join("\n");
        match ImDocument::parse(text.as_str()) {
            Ok(document) => {
                return document.get("daemon")?.get("listen").and_then(Item::as_str).map(str::to_owned);
            }
            Err(error) => {
                let at = error.span()?.start.min(text.len());
                let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
                // Where an end is missing, the mistake stands behind the last line.
                let line = line.min(lines.len().checked_sub(1)?);
                if lines[line].is_empty() {
                    lines.truncate(line);
                } else {
                    lines[line] = "";
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_mistakes_still_says_where_the_daemon_listens() {
        let whole = "[daemon]\nlisten = \"127.0.0.1:1\"\n";
        let found = |text: &str| written(text);
        assert_eq!(found(whole).as_deref(), Some("127.0.0.1:1"));
        for (before, after) in [
            ("", "[redis.main\nurl = 1\n"),
            ("", "keep = { entries = \n"),
            ("", "text = \"\"\"never ends\n\n\nagain\n"),
            ("", "list = [\n1,\n2,\n"),
            ("", "[daemon]\nmemory_limit = \"1GiB\"\n"),
            ("= 5\n]]\n", "}\n"),
        ] {
            assert_eq!(found(&format!("{before}{whole}{after}")).as_deref(), Some("127.0.0.1:1"), "{after}");
        }
        assert_eq!(found("[daemon]\nmemory_limit = 5\n"), None);
        assert_eq!(found(&"=\n".repeat(MAX_MISTAKES + 1)), None);
    }
}
