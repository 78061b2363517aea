//! What is counted, and what it may cost.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Bytes of payload that a case publishes: enough that a run's beginning and end do not show.
const TOTAL_BYTES: usize = 64 * 1024 * 1024;
const MOST_MESSAGES: usize = 40_000;

/// Which way a message goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Subscribe,
    Replication,
    Broadcast,
}

/// One thing that is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    pub(crate) bytes: usize,
}

/// Instructions a message.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    pub(crate) stored: u64,
    pub(crate) ceiling: u64,
    /// How much it may rise without a word. Runs of the same program differ by less than one per cent, but where the
    /// number of calls depends on how fast the other server answers.
    #[serde(default = "tolerance_percent")]
    pub(crate) tolerance_percent: u64,
}

const fn tolerance_percent() -> u64 {
    5
}

impl Figure {
    /// Instructions that this number of messages may cost at most.
    pub(crate) fn limit(self, messages: usize) -> u64 {
        let stored = self.stored * (100 + self.tolerance_percent) / 100;
        stored.min(self.ceiling) * messages as u64
    }
}

impl Case {
    pub(crate) const fn subscribe(bytes: usize) -> Self {
        Self { kind: Kind::Subscribe, bytes }
    }

    pub(crate) const fn replication(bytes: usize) -> Self {
        Self { kind: Kind::Replication, bytes }
    }

    pub(crate) const fn broadcast(bytes: usize) -> Self {
        Self { kind: Kind::Broadcast, bytes }
    }

    pub(crate) fn messages(self) -> usize {
        MOST_MESSAGES.min(TOTAL_BYTES / self.bytes)
    }

    pub(crate) fn name(self) -> String {
        let kind = match self.kind {
            Kind::Subscribe => "subscribe",
            Kind::Replication => "replication",
            Kind::Broadcast => "broadcast",
        };
        format!("{kind}_{}", self.bytes)
    }

    pub(crate) fn figure(self) -> Figure {
        let figures: BTreeMap<String, Figure> = figment::Figment::new()
            .merge(<figment::providers::Toml as figment::providers::Format>::string(include_str!(
                "figures.toml"
            )))
            .extract()
            .expect("figures.toml holds figures");
        *figures.get(&self.name()).unwrap_or_else(|| panic!("figures.toml has no {}", self.name()))
    }
}
