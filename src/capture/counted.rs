//! How many messages the source itself has counted: what bounds the loss of a gap.
//!
//! `INFO commandstats` counts every PUBLISH and SPUBLISH since the server started, whoever sent it and on
//! whatever channel. Of two counts of one run of a server the difference is how many messages were published
//! between, at most so many of them a route's. A restart of the server, or CONFIG RESETSTAT, breaks the line:
//! then nothing is known.

use std::fmt;
use std::str::FromStr;

/// A count, at some moment of one run of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    run: String,
    published: u64,
}

impl Counted {
    /// Reads the sections `server` and `commandstats` of INFO.
    pub(crate) fn read(server: &str, stats: &str) -> Option<Self> {
        let run = server.lines().find_map(|line| line.strip_prefix("run_id:"))?.trim().to_owned();
        let calls = |name: &str| -> u64 {
            let line = stats.lines().find_map(|line| line.strip_prefix(name));
            let calls = line.and_then(|line| line.strip_prefix(":calls=")?.split(',').next()?.parse().ok());
            calls.unwrap_or(0)
        };
        let published = calls("cmdstat_publish") + calls("cmdstat_spublish");
        Some(Self { run, published })
    }

    /// How many messages were published since an earlier count, where that can be known.
    pub(crate) fn since(&self, earlier: &Self) -> Option<u64> {
        (self.run == earlier.run).then(|| self.published.checked_sub(earlier.published)).flatten()
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.run, self.published)
    }
}

impl FromStr for Counted {
    type Err = NotACount;

    fn from_str(text: &str) -> Result<Self, NotACount> {
        let (run, published) = text.split_once(' ').ok_or(NotACount)?;
        Ok(Self { run: run.to_owned(), published: published.parse().map_err(|_| NotACount)? })
    }
}

/// A text that is no count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotACount;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_counts_of_one_run_have_a_difference() {
        let count = |run: &str, calls: u64| {
            let stats = format!(
                "# Commandstats\r\ncmdstat_publish:calls={calls},usec=7\r\ncmdstat_spublish:calls=2,x=1\r\n"
            );
            Counted::read(&format!("redis_version:7.0.15\r\nrun_id:{run}\r\n"), &stats).unwrap()
        };
        assert_eq!(count("a", 12).since(&count("a", 5)), Some(7));
        assert_eq!(count("a", 5).since(&count("a", 12)), None, "the counters were reset");
        assert_eq!(count("b", 12).since(&count("a", 5)), None, "it is another run");
        assert_eq!(count("a", 5).to_string().parse(), Ok(count("a", 5)));
        assert_eq!(Counted::read("", ""), None);
    }
}
