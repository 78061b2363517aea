//! The tables of docs/performance.md, written between markers from what was measured: no figure is typed.
//!
//! ```text
//! <!-- measured: capture -->
//! …
//! <!-- end -->
//! ```

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::deployments::{Deployments, Failovers};
use crate::invalidate::{IDEAL_INVALIDATE, INVALIDATE, Invalidations};
use crate::latency::{ACKNOWLEDGED, CLEARED, DIRECT, DIRECT_PUBLISH, Point};
use crate::memory::Memory;
use crate::peers::{Damage, Peer};
use crate::results::{Part, Results};
use crate::sample::{Sample, Spread};
use crate::scaling::Scaling;
use crate::spool::{Measured, Setting};
use crate::throughput::{IDEAL, IDEAL_BESIDE_A_GROUP, IDEAL_BROADCAST, Row, TAP, Unrelated, XADD};

const END: &str = "<!-- end -->";

fn path() -> PathBuf {
    crate::repository().join("docs/performance.md")
}

/// Writes every table that there are results for.
pub(crate) fn write(results: &Results) {
    let mut document = fs::read_to_string(path()).expect("docs/performance.md is there");
    for (name, table) in tables(results) {
        let begin = format!("<!-- measured: {name} -->\n");
        let at = document.find(&begin).unwrap_or_else(|| panic!("docs/performance.md has no {begin}"))
            + begin.len();
        let end = at + document[at..].find(END).unwrap_or_else(|| panic!("{begin} has no end"));
        document.replace_range(at..end, &table);
    }
    fs::write(path(), document).expect("docs/ is writable");
}

fn tables(results: &Results) -> Vec<(&'static str, String)> {
    let mut tables = Vec::new();
    if let Some(part) = &results.captures {
        let unrelated = results.unrelated.as_ref().map(|part| &part.found);
        tables.push(("capture", captures(part, unrelated)));
    }
    if let Some(part) = &results.broadcasts {
        tables.push(("broadcast", broadcasts(part)));
    }
    if let Some(part) = &results.invalidations {
        tables.push(("invalidate", invalidations(part)));
    }
    if let Some(part) = &results.latency {
        tables.push(("latency", latency(part)));
    }
    if let Some(part) = &results.memory {
        tables.push(("memory", memory(part)));
    }
    if let Some(part) = &results.scaling {
        tables.push(("scaling", scaling(part)));
    }
    if let Some(part) = &results.deployments {
        tables.push(("deployments", deployments(part)));
    }
    if let Some(part) = &results.peers {
        tables.push(("peers", peers(part)));
    }
    if let Some(part) = &results.spool {
        tables.push(("spool", spool(part)));
    }
    tables
}

fn conditions<T>(part: &Part<T>) -> String {
    let on = &part.on;
    format!(
        "Measured on {}: tidegate {}, {}, {} cores of {}, Linux {}, {}.\n\n",
        on.day, on.tidegate, on.server, on.cores, on.processor, on.kernel, on.libc
    )
}

/// Lines of a table, with its head.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        assert_eq!(row.len(), head.len(), "a cell for each column");
        writeln!(text, "| {} |", row.join(" | ")).expect("a String takes everything");
    }
    text
}

/// A number with its thousands apart.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn captures(part: &Part<Vec<Row>>, unrelated: Option<&Unrelated>) -> String {
    let mut text = conditions(part);
    text += &throughput(&part.found, &[IDEAL, TAP, XADD]);
    if let Some(Unrelated { writes, messages, ideal, alone, beside }) = unrelated {
        let micros = |of: &Spread| format!("{:.2} µs ({:.2} to {:.2})", of.median, of.least, of.most);
        write!(
            text,
            "\nA route in replication mode reads every write of its source. Of {} writes/s that are nobody's, each costs \
             it {}, and an ideal client that taps {}. Where {} messages/s are published as well, the writes cost it {} \
             each above what these messages do.\n",
            grouped(*writes),
            micros(alone),
            micros(ideal),
            grouped(*messages),
            micros(beside)
        )
        .expect("a String takes everything");
    }
    text
}

fn broadcasts(part: &Part<Vec<Row>>) -> String {
    conditions(part) + &throughput(&part.found, &[IDEAL_BROADCAST, IDEAL_BESIDE_A_GROUP])
}

fn invalidations(part: &Part<Invalidations>) -> String {
    let Invalidations { row, backlog, caught_up_seconds } = &part.found;
    let lines = row.runs.iter().map(|runs| {
        let ratio = if runs.name == INVALIDATE { row.ratio(INVALIDATE, IDEAL_INVALIDATE) } else { None };
        vec![
            runs.name.clone(),
            grouped(runs.spread(Sample::per_second).median),
            ratio.map_or_else(String::new, |ratio| ratio.to_string()),
            format!("{:.2}", runs.spread(Sample::server_micros).median),
            format!("{:.2}", runs.spread(Sample::client_micros).median),
        ]
    });
    let of_ideal = format!("of {IDEAL_INVALIDATE}");
    let head = ["client", "keys/s", of_ideal.as_str(), "cache µs/key", "client µs/key"];
    let caught_up = format!(
        "\nA backlog of {} entries was applied in {caught_up_seconds} s, with the second pass on.\n",
        grouped(*backlog as f64)
    );
    conditions(part) + &table(&head, lines) + &caught_up
}

fn throughput(rows: &[Row], ceilings: &[&str]) -> String {
    let against: Vec<String> = ceilings.iter().map(|ceiling| format!("of {ceiling}")).collect();
    let mut head = vec!["cell", "client", "messages/s"];
    head.extend(against.iter().map(String::as_str));
    head.extend(["server, of a core", "server µs/message", "client µs/message"]);
    let lines = rows.iter().flat_map(|row| {
        row.runs.iter().map(|runs| {
            let mut line = vec![
                row.cell.to_string(),
                runs.name.clone(),
                grouped(runs.spread(Sample::per_second).median),
            ];
            for ceiling in ceilings {
                let ratio = if runs.name == *ceiling { None } else { row.ratio(&runs.name, ceiling) };
                line.push(ratio.map_or_else(String::new, |ratio| ratio.to_string()));
            }
            line.push(format!("{:.0} %", runs.spread(Sample::server_share).median * 100.0));
            line.push(format!("{:.2}", runs.spread(Sample::server_micros).median));
            line.push(format!("{:.2}", runs.spread(Sample::client_micros).median));
            line
        })
    });
    let pairs = rows.first().and_then(|row| row.runs.first()).map_or(0, |runs| runs.samples.len());
    let table = table(&head, lines);
    format!(
        "{table}\nEach is the median of {pairs} runs in turns; ratios are of neighbours, with the least and the most.\n"
    )
}

fn latency(part: &Part<Vec<Point>>) -> String {
    let micros = |value: f64| format!("{} µs", grouped(value));
    let lines = part.found.iter().map(|point| {
        let direct = if point.name.starts_with("broadcast") { DIRECT_PUBLISH } else { DIRECT };
        let base = part.found.iter().find(|other| other.rate == point.rate && other.name == direct);
        let added = base.filter(|_| {
            let own = [ACKNOWLEDGED, CLEARED].iter().any(|begin| point.name.starts_with(begin));
            point.name != DIRECT && point.name != DIRECT_PUBLISH && !own
        });
        let rate = grouped(point.rate as f64) + if point.half { " (half of what it sustains)" } else { "" };
        vec![
            rate,
            point.name.clone(),
            micros(point.at(0.5)),
            micros(point.at(0.99)),
            micros(point.at(0.999)),
            added.map_or_else(String::new, |base| format!("{:+.0} µs", point.at(0.99) - base.at(0.99))),
        ]
    });
    conditions(part) + &table(&["messages/s", "way", "p50", "p99", "p99.9", "p99, added"], lines)
}

fn memory(part: &Part<Memory>) -> String {
    let Memory { over_messages, many, many_channels_mib, many_streams_mib, outage } = &part.found;
    let mib = |mib: f64| format!("{mib:.1} MiB");
    let after = |tenth: usize| {
        let (count, resident) = over_messages[tenth];
        vec![format!("{} messages through one route", grouped(count as f64)), mib(resident)]
    };
    let many = grouped(*many as f64);
    let lines = [
        after(0),
        after(over_messages.len() - 1),
        vec![format!("{many} channels into one stream"), mib(*many_channels_mib)],
        vec![format!("{many} channels into {many} streams"), mib(*many_streams_mib)],
        vec![
            format!(
                "destination stopped for {:.0} s at {} messages/s, `memory_limit` {} MiB; {:.0} MiB on disk",
                outage.seconds,
                grouped(outage.rate as f64),
                outage.memory_limit_mib,
                outage.on_disk_mib
            ),
            mib(outage.most_mib) + " at most",
        ],
    ];
    let caught_up = format!(
        "\nAfter that outage everything that had waited was stored in {:.1} s, while the traffic went on.\n",
        outage.catch_up_seconds
    );
    conditions(part) + &table(&["after or while", "resident"], lines) + &caught_up
}

fn scaling(part: &Part<Scaling>) -> String {
    let Scaling { routes, pairs, take_over_seconds, take_overs, idle, start_seconds } = &part.found;
    let lines = routes.iter().map(|(count, sample)| {
        vec![
            count.to_string(),
            grouped(sample.per_second()),
            format!("{:.0} %", sample.server_share() * 100.0),
            format!("{:.2}", sample.client_micros()),
        ]
    });
    let mut text = conditions(part);
    text += &table(&["routes on one channel", "entries/s", "server, of a core", "tidegate µs/entry"], lines);
    let with = crate::sample::Spread::of(
        pairs.iter().map(|[alone, with, _]| with.per_second() / alone.per_second()),
    );
    let cpu = crate::sample::Spread::of(
        pairs.iter().map(|[_, with, standby]| standby.client_micros() / with.client_micros()),
    );
    let lines = [
        vec!["throughput with a standby, of that without".to_owned(), with.to_string()],
        vec!["processor time of the standby, of the leader's".to_owned(), cpu.to_string()],
        vec![format!("take-over after `kill -9`, {take_overs} times"), format!("{take_over_seconds} s")],
        vec![format!("each of {} idle routes: memory", idle.routes), format!("{:.0} KiB", idle.kib_each)],
        vec![
            "each: processor time".to_owned(),
            format!("{:.0} millionths of a core", idle.core_millionths_each),
        ],
        vec!["each: commands to the server".to_owned(), format!("{:.1} a second", idle.commands_each)],
        vec![format!("from start to READY with {} routes", idle.routes), format!("{start_seconds} s")],
    ];
    text.push('\n');
    text + &table(&["figure", "measured"], lines)
}

fn deployments(part: &Part<Deployments>) -> String {
    let Deployments { tls, failovers } = &part.found;
    let of = |which: usize, what: fn(&Sample) -> f64| Spread::of(tls.iter().map(|pair| what(&pair[which])));
    let ratio = |what: fn(&Sample) -> f64| {
        Spread::of(tls.iter().map(|pair| what(&pair[1]) / what(&pair[0]))).to_string()
    };
    let line = |name: &str, which: usize| {
        vec![
            name.to_owned(),
            grouped(of(which, Sample::per_second).median),
            format!("{:.2}", of(which, Sample::server_micros).median),
            format!("{:.2}", of(which, Sample::client_micros).median),
        ]
    };
    let lines = [
        line("TCP", 0),
        line("TCP with TLS", 1),
        vec![
            "TLS, of that without".to_owned(),
            ratio(Sample::per_second),
            ratio(Sample::server_micros),
            ratio(Sample::client_micros),
        ],
    ];
    let mut text = conditions(part);
    text += &table(&["128 B", "messages/s", "server µs/message", "tidegate µs/message"], lines);
    let lines = failovers.iter().map(|Failovers { name, times, seconds }| {
        vec![name.clone(), times.to_string(), format!("{seconds} s")]
    });
    text.push('\n');
    text + &table(&["failover", "times", "from the sentinels' agreement to the subscription"], lines)
}

fn peers(part: &Part<Vec<Peer>>) -> String {
    let damage = |damage: &Damage| {
        format!(
            "{} lost, {} twice, {} gap records, of {}",
            damage.lost,
            damage.twice,
            damage.gaps,
            grouped(damage.published as f64)
        )
    };
    let lines = part.found.iter().map(|peer| {
        vec![
            peer.name.clone(),
            peer.sample.map_or_else(String::new, |sample| grouped(sample.per_second())),
            peer.sample.map_or_else(String::new, |sample| format!("{:.2}", sample.client_micros())),
            damage(&peer.destination_restarted),
            damage(&peer.killed),
        ]
    });
    conditions(part)
        + &table(
            &["bridge", "messages/s", "its µs/message", "destination restarted", "`kill -9`, started again"],
            lines,
        )
}

fn spool(part: &Part<Vec<Setting>>) -> String {
    let lines = part.found.iter().flat_map(|setting| {
        let log = |log: &Measured| {
            vec![setting.fsync.clone(), log.name.clone(), log.append.to_string(), log.drain.to_string()]
        };
        let plain = format!("{:.0} MB/s", setting.plain);
        let plain = vec![setting.fsync.clone(), "plain writes".to_owned(), plain, String::new()];
        std::iter::once(plain).chain(setting.logs.iter().map(log)).collect::<Vec<_>>()
    });
    conditions(part) + &table(&["`fsync`", "log", "append", "read back"], lines)
}
