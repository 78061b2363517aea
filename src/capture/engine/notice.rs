//! Log lines as data: the engine says what is to be logged, and the route writes it.

use std::time::Instant;

use crate::logs::Limited;

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Info,
    Warn,
    /// The operator must act.
    Error,
}

/// The server that a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// A log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) severity: Severity,
    /// The stable code.
    pub(crate) event: &'static str,
    pub(crate) text: String,
    pub(crate) side: Option<Side>,
    pub(crate) class: Option<&'static str>,
    pub(crate) cause: Option<&'static str>,
    pub(crate) position: Option<String>,
    pub(crate) by: Option<String>,
    pub(crate) events: Option<u64>,
    /// How many lines of the same code were held back before this one.
    pub(crate) suppressed: u64,
    /// Written each time: its number is bounded by something that the line tells of.
    always: bool,
}

impl Notice {
    fn new(severity: Severity, event: &'static str, text: impl Into<String>) -> Self {
        Self {
            severity,
            event,
            text: text.into(),
            side: None,
            class: None,
            cause: None,
            position: None,
            by: None,
            events: None,
            suppressed: 0,
            always: false,
        }
    }

    pub(crate) fn info(event: &'static str, text: impl Into<String>) -> Self {
        Self::new(Severity::Info, event, text)
    }

    pub(crate) fn warn(event: &'static str, text: impl Into<String>) -> Self {
        Self::new(Severity::Warn, event, text)
    }

    pub(crate) fn error(event: &'static str, text: impl Into<String>) -> Self {
        Self::new(Severity::Error, event, text)
    }

    pub(crate) fn of(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }

    pub(crate) fn class(mut self, class: &'static str) -> Self {
        self.class = Some(class);
        self
    }

    pub(crate) fn cause(mut self, cause: &'static str) -> Self {
        self.cause = Some(cause);
        self
    }

    pub(crate) fn position(mut self, position: impl ToString) -> Self {
        self.position = Some(position.to_string());
        self
    }

    pub(crate) fn by(mut self, by: impl ToString) -> Self {
        self.by = Some(by.to_string());
        self
    }

    pub(crate) fn events(mut self, events: u64) -> Self {
        self.events = Some(events);
        self
    }

    /// Never held back. For lines that tell of a record, whose number is bounded by itself.
    pub(crate) fn always(mut self) -> Self {
        self.always = true;
        self
    }
}

/// Holds back repeats: one line in 30 s for each code.
#[derive(Debug, Default)]
pub(crate) struct Notices(Limited);

impl Notices {
    /// The line, unless it is held back.
    pub(crate) fn admit(&mut self, mut notice: Notice, now: Instant) -> Option<Notice> {
        if !notice.always {
            notice.suppressed = self.0.admit(notice.event, now)?;
        }
        Some(notice)
    }
}
