//! The gaps of one capture, counted by cause; planned restarts apart from others.

use std::time::Duration;

use serde::Serialize;

use super::{GapRecord, shown_cause};
use crate::cli::output::table::{Column, Table};
use crate::rt;

/// The gaps of one cause, planned or not.
#[derive(Debug, Serialize)]
pub(super) struct CauseSummary<'a> {
    route: &'a str,
    cause: &'a str,
    /// They begin with an ordered stop.
    planned: bool,
    gaps: u64,
    /// How long they lasted together; parts that two have in common count twice.
    milliseconds: u64,
    dropped: u64,
    last_ended_at: u64,
}

/// Counts the gaps of one capture, the cause of the latest gap last.
pub(super) fn of<'a>(gaps: impl IntoIterator<Item = &'a GapRecord<'a>>) -> Vec<CauseSummary<'a>> {
    let mut causes: Vec<CauseSummary<'a>> = Vec::new();
    for gap in gaps {
        let lasted = gap.ended_at.saturating_sub(gap.started_at);
        let known = causes.iter().position(|known| (known.cause, known.planned) == (&gap.cause, gap.planned));
        let mut cause = match known {
            Some(index) => causes.remove(index),
            None => CauseSummary {
                route: gap.route,
                cause: &gap.cause,
                planned: gap.planned,
                gaps: 0,
                milliseconds: 0,
                dropped: 0,
                last_ended_at: 0,
            },
        };
        cause.gaps += 1;
        cause.milliseconds = cause.milliseconds.saturating_add(lasted);
        cause.dropped = cause.dropped.saturating_add(gap.dropped);
        cause.last_ended_at = gap.ended_at;
        causes.push(cause);
    }
    causes
}

/// The table for them.
pub(super) fn table() -> Table {
    let columns = vec![
        Column::Text("ROUTE"),
        Column::Text("CAUSE"),
        Column::Number("GAPS"),
        Column::Number("DROPPED"),
        Column::Text("LAST END"),
    ];
    Table::new(columns, "TOGETHER")
}

impl CauseSummary<'_> {
    pub(super) fn add_to(&self, table: &mut Table) {
        let together = humantime::format_duration(Duration::from_millis(self.milliseconds)).to_string();
        let cells = vec![
            self.route.to_owned(),
            shown_cause(self.cause, self.planned),
            self.gaps.to_string(),
            self.dropped.to_string(),
            rt::rfc3339(self.last_ended_at),
        ];
        table.row(cells, vec![together]);
    }
}
