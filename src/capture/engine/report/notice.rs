//! Log lines as data: the engine decides what is logged, and the route writes it.

use std::time::Instant;

use crate::logs::{Limited, LogCode};

/// Severity of a line.
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
    pub(crate) event: LogCode,
    pub(crate) text: String,
    pub(crate) side: Option<Side>,
    pub(crate) class: Option<&'static str>,
    pub(crate) cause: Option<&'static str>,
    pub(crate) position: Option<String>,
    pub(crate) by: Option<String>,
    pub(crate) events: Option<u64>,
    /// The time in which something may be missing; milliseconds since 1970.
    pub(crate) span: Option<(u64, u64)>,
    /// True if every route of the endpoint reports the same: the server is down.
    pub(crate) of_an_outage: bool,
    /// Number of lines of the same code held back before this one; `None` for a line that is always written.
    pub(crate) suppressed: Option<u64>,
}

impl Notice {
    fn new(severity: Severity, code: LogCode, text: impl Into<String>) -> Self {
        Self {
            severity,
            event: code,
            text: text.into(),
            side: None,
            class: None,
            cause: None,
            position: None,
            by: None,
            events: None,
            span: None,
            of_an_outage: false,
            suppressed: Some(0),
        }
    }

    pub(crate) fn info(code: LogCode, text: impl Into<String>) -> Self {
        Self::new(Severity::Info, code, text)
    }

    pub(crate) fn warn(code: LogCode, text: impl Into<String>) -> Self {
        Self::new(Severity::Warn, code, text)
    }

    pub(crate) fn error(code: LogCode, text: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, text)
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

    pub(crate) fn position(mut self, position: Option<impl ToString>) -> Self {
        self.position = position.map(|position| position.to_string());
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

    pub(crate) fn span(mut self, started_unix_ms: u64, ended_unix_ms: u64) -> Self {
        self.span = Some((started_unix_ms, ended_unix_ms));
        self
    }

    /// About a server that is away, as every route of the endpoint finds it.
    pub(crate) fn of_an_outage(mut self) -> Self {
        self.of_an_outage = true;
        self
    }

    /// Never held back. For a line whose events are few.
    pub(crate) fn always(mut self) -> Self {
        self.suppressed = None;
        self
    }
}

/// Holds back repeats: one line in 30 s for each code.
#[derive(Debug, Default)]
pub(crate) struct Notices(Limited);

impl Notices {
    /// The line, unless it is held back.
    pub(crate) fn admit(&mut self, mut notice: Notice, now: Instant) -> Option<Notice> {
        if notice.suppressed.is_some() {
            notice.suppressed = Some(self.0.admit(notice.event.as_str(), now)?);
        }
        Some(notice)
    }
}
