//! The destination of log lines: standard error, as text for an operator at a terminal, as JSON for a machine, and with
//! syslog priorities for journald.
//!
//! `TIDEGATE_LOG` (or else `RUST_LOG`) sets the level: `info` (default), `debug`,
//! `warn,tidegate::capture=debug`. A value that is no filter is said in the first line and ignored:
//! a typing error there must not keep the daemon from starting.
//!
//! Lines go through a bounded queue (`sink`), so that no loop waits for their reader.

use super::LogCode;
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::MetadataExt as _;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;

use super::sink::{self, Sink};
use crate::text::printable;

const DEFAULT_FILTER: &str = "info";

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For an operator.
    Text,
    /// One JSON object a line.
    Json,
    /// The same behind `<N>`, the syslog priority, which journald takes off and stores.
    Journal,
}

impl Style {
    /// The style for where standard error leads. `journal_stream` is `$JOURNAL_STREAM`, which systemd
    /// sets to the device and inode of the journal's socket; a process that was started from a service
    /// inherits the variable but may write elsewhere, so both are compared.
    #[must_use]
    pub fn choose(terminal: bool, journal_stream: Option<&str>, stderr: Option<(u64, u64)>) -> Self {
        let journal = journal_stream.and_then(|value| {
            let (device, inode) = value.split_once(':')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        });
        match (terminal, journal) {
            (true, _) => Self::Text,
            (false, Some(journal)) if stderr == Some(journal) => Self::Journal,
            (false, _) => Self::Json,
        }
    }
}

/// Sets the process's logs up, and logs a panic before it ends the process. Once, in `main`.
pub fn init() {
    let stderr = std::fs::metadata("/proc/self/fd/2").ok().map(|data| (data.dev(), data.ino()));
    let journal_stream = std::env::var("JOURNAL_STREAM").ok();
    let style = Style::choose(io::stderr().is_terminal(), journal_stream.as_deref(), stderr);
    let wanted = ["TIDEGATE_LOG", "RUST_LOG"].into_iter().find_map(|name| {
        std::env::var(name).ok().filter(|value| !value.trim().is_empty()).map(|v| (name, v))
    });
    let (filter, refused) = match &wanted {
        None => (EnvFilter::new(DEFAULT_FILTER), None),
        Some((name, value)) => match EnvFilter::try_new(value) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some((name, error))),
        },
    };
    if tracing::subscriber::set_global_default(subscriber(style, filter, Sink::stderr)).is_err() {
        // Somebody set logs up before; theirs stay.
        return;
    }
    if let Some((name, error)) = refused {
        tracing::warn!(
            event = LogCode::LogFilter.as_str(),
            variable = name,
            %error,
            "not a valid log filter; the level info is used"
        );
    }
    std::panic::set_hook(Box::new(log_panic));
}

/// A subscriber that writes to `out`.
pub fn subscriber<W>(style: Style, filter: EnvFilter, out: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let base = tracing_subscriber::fmt().with_env_filter(filter);
    match style {
        // The formatter's own colours stay, so names are escaped before they stand beside them.
        Style::Text => {
            let fields = debug_fn(|out, field, value| {
                let value = printable::text(format!("{value:?}").as_bytes());
                if field.name() == "message" {
                    write!(out, "{value}")
                } else {
                    write!(out, "{field}={value}")
                }
            });
            let base = base.fmt_fields(fields.delimited(" ")).with_ansi(true).with_target(false);
            Box::new(base.with_writer(out).finish())
        }
        Style::Json | Style::Journal => {
            let base = base.json().flatten_event(true).with_span_list(false);
            Box::new(base.with_writer(JsonLines { style, out }).finish())
        }
    }
}

/// Only the place is logged: a formatted message may quote the text that was being worked on, and
/// payloads never appear in logs.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("(not shown)");
    tracing::error!(
        event = LogCode::Panic.as_str(),
        place,
        message,
        "the process aborts because of a bug; please report this line"
    );
    sink::flush();
}

/// Escapes in each line what JSON lets through, and puts the syslog priority before it where journald reads it.
struct JsonLines<W> {
    style: Style,
    out: W,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for JsonLines<W> {
    type Writer = Line<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { style: self.style, level: Level::INFO, out: self.out.make_writer() }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        Line { style: self.style, level: *meta.level(), out: self.out.make_writer_for(meta) }
    }
}

/// `sd-daemon(3)`: 3 error, 4 warning, 6 informational, 7 debug.
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// One line: the formatter hands it over whole, and it leaves in one write, so that lines of two
/// threads do not mix.
struct Line<W> {
    style: Style,
    level: Level,
    out: W,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let prefix = if self.style == Style::Journal { priority(self.level) } else { "" };
        let whole = format!("{prefix}{}", printable::json(&String::from_utf8_lossy(line)));
        self.out.write_all(whole.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(style: Style, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let out = kept.clone();
        let subscriber = subscriber(style, EnvFilter::new("info"), move || out.clone());
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    fn logged(style: Style) -> String {
        written(style, || {
            tracing::debug!("below the level");
            tracing::warn!(
                event = LogCode::Gap.as_str(),
                route = "orders",
                suppressed = 3,
                "events may be missing"
            );
            tracing::error!(event = LogCode::Blocked.as_str(), route = "orders", "may not write");
        })
    }

    #[test]
    fn a_name_begins_no_line_and_turns_no_text() {
        let name = "a\nWARN forged\t\r\u{202e}\u{9b}31m\x1b[2J";
        for style in [Style::Text, Style::Json, Style::Journal] {
            let text = written(style, || {
                tracing::warn!(event = LogCode::Gap.as_str(), stream = %name, route = name, "the stream {name}");
            });
            assert_eq!(text.lines().count(), 1, "{text:?}");
            let harmful = |c: char| c != '\x1b' && printable::is_harmful(c);
            assert!(!text.trim_end().contains(harmful), "{style:?}: {text:?}");
            assert!(!text.contains("\x1b[2J"), "{style:?}: {text:?}");
            if style == Style::Json {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(value["stream"], name);
            }
        }
    }

    #[test]
    fn journald_gets_a_priority_and_json_and_others_get_json() {
        for (style, warn, error) in [(Style::Journal, "<4>", "<3>"), (Style::Json, "", "")] {
            let text = logged(style);
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 2, "{text}");
            for (line, prefix, event) in [(lines[0], warn, "gap"), (lines[1], error, "blocked")] {
                let json = line.strip_prefix(prefix).unwrap();
                let value: serde_json::Value = serde_json::from_str(json).unwrap();
                assert_eq!(value["event"], event, "the code stands at the top level");
                assert_eq!(value["route"], "orders");
            }
        }
    }

    #[test]
    fn a_person_gets_text() {
        let text = logged(Style::Text);
        assert!(text.contains("events may be missing") && !text.contains('{'), "{text}");
    }

    #[test]
    fn the_style_follows_where_standard_error_leads() {
        let here = Some((8, 123));
        assert_eq!(Style::choose(true, Some("8:123"), here), Style::Text);
        assert_eq!(Style::choose(false, Some("8:123"), here), Style::Journal);
        assert_eq!(Style::choose(false, Some("8:124"), here), Style::Json, "inherited, but redirected");
        assert_eq!(Style::choose(false, Some("nonsense"), here), Style::Json);
        assert_eq!(Style::choose(false, Some("8:123"), None), Style::Json);
        assert_eq!(Style::choose(false, None, here), Style::Json);
    }
}
