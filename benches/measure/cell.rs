//! What is published in one row of a table.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Messages on the way, published and not yet dealt with: many batches, so that nobody waits for work, and
/// far from every buffer limit of the server.
const WINDOW: usize = 16_384;
const WINDOW_BYTES: usize = 16 << 20;
/// How much a stream keeps, so that memory does not grow with the length of a run.
const KEPT: usize = 100_000;
const KEPT_BYTES: usize = 64 << 20;

/// Payloads, channels and streams of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cell {
    pub(crate) bytes: usize,
    pub(crate) channels: usize,
    /// One, or as many as channels.
    pub(crate) streams: usize,
}

impl Cell {
    pub(crate) const fn of_bytes(bytes: usize) -> Self {
        Self { bytes, channels: 1, streams: 1 }
    }

    /// What most streams look like; the goals are stated for it.
    pub(crate) const PLAIN: Self = Self::of_bytes(128);

    /// What shows that everything works.
    pub(crate) fn some() -> Vec<Self> {
        vec![
            Self::PLAIN,
            Self { bytes: 16 * 1024, channels: 1, streams: 1 },
            Self { bytes: 128, channels: 1_000, streams: 1_000 },
        ]
    }

    /// The cells of a table, and with `full` every combination.
    pub(crate) fn all(full: bool) -> Vec<Self> {
        const SIZES: [usize; 4] = [16, 128, 1024, 16 * 1024];
        let mut cells: Vec<Self> = SIZES.into_iter().map(Self::of_bytes).collect();
        let shapes = [(100, 1), (1_000, 1_000)];
        let sizes = if full { &SIZES[..] } else { &[128] };
        for (channels, streams) in shapes {
            cells.extend(sizes.iter().map(|bytes| Self { bytes: *bytes, channels, streams }));
        }
        cells
    }

    /// What tells it apart from the others in a plot.
    pub(crate) fn short(self) -> String {
        match self {
            Self { streams, .. } if streams > 1 => format!("{streams} streams"),
            Self { channels, .. } if channels > 1 => format!("{channels} channels"),
            plain => plain.to_string(),
        }
    }

    /// Every name is equally long, so that an ideal client finds messages by counting bytes.
    pub(crate) fn channel(self, number: usize) -> String {
        if self.channels == 1 { "bench".to_owned() } else { format!("bench.{:05}", number % self.channels) }
    }

    /// The subscriptions of a route, as TOML.
    pub(crate) fn subscriptions(self) -> &'static str {
        if self.channels == 1 { "channels = [\"bench\"]" } else { "patterns = [\"bench.*\"]" }
    }

    /// The stream of a route, as TOML and as an ideal client names it.
    pub(crate) fn stream(self) -> &'static str {
        if self.streams == 1 { "captured" } else { "captured:<channel>" }
    }

    pub(crate) fn window(self) -> u64 {
        WINDOW.min(WINDOW_BYTES / self.bytes) as u64
    }

    /// Entries that each stream keeps.
    pub(crate) fn keep(self) -> usize {
        (KEPT.min(KEPT_BYTES / self.bytes) / self.streams).max(1)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes {
            bytes if bytes >= 1024 => write!(f, "{} KiB", bytes / 1024)?,
            bytes => write!(f, "{bytes} B")?,
        }
        if self.channels > 1 {
            write!(f, ", {} channels", self.channels)?;
        }
        if self.streams > 1 {
            write!(f, ", {} streams", self.streams)?;
        }
        Ok(())
    }
}
