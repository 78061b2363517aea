//! The pages of the documentation that explain codes, compiled in, so that there is no second text: their tables, and
//! sections whose headings are codes.

/// A page, and what it explains.
struct Page {
    path: &'static str,
    text: &'static str,
    topics: &'static [Topic],
}

/// One kind of codes on a page.
struct Topic {
    /// What such a code is.
    kind: &'static str,
    /// The heading of level 2 of its section; none for the whole page.
    section: Option<&'static str>,
    /// The header of the first column of its tables; none without tables.
    column: Option<&'static str>,
    /// What a heading begins with that is a code; none without such headings.
    heading: Option<&'static str>,
}

const fn table(kind: &'static str, section: Option<&'static str>, column: &'static str) -> Topic {
    Topic { kind, section, column: Some(column), heading: None }
}

const PAGES: [Page; 6] = [
    Page {
        path: "docs/reference/log-events.md",
        text: include_str!("../../../docs/reference/log-events.md"),
        topics: &[table("log event", None, "event"), table("kind of group_changed", None, "kind")],
    },
    Page {
        path: "docs/reference/states.md",
        text: include_str!("../../../docs/reference/states.md"),
        topics: &[Topic {
            kind: "state of a route",
            section: None,
            column: Some("state"),
            heading: Some("## "),
        }],
    },
    Page {
        path: "docs/reference/gap-record.md",
        text: include_str!("../../../docs/reference/gap-record.md"),
        topics: &[
            Topic { kind: "cause of a gap", section: Some("Causes"), column: None, heading: Some("### ") },
            table("reason of dropped messages", Some("Drop reasons"), "reason"),
        ],
    },
    Page {
        path: "docs/reference/dead-letter-record.md",
        text: include_str!("../../../docs/reference/dead-letter-record.md"),
        topics: &[
            table("reason of a capture's dead letter", Some("Reasons of a capture"), "reason"),
            table("reason of a broadcast's dead letter", Some("Reasons of a broadcast"), "reason"),
            table("reason of an invalidation's dead letter", Some("Reasons of an invalidation"), "reason"),
        ],
    },
    Page {
        path: "docs/guides/invalidate.md",
        text: include_str!("../../../docs/guides/invalidate.md"),
        topics: &[
            table("trigger of an invalidation's replay", None, "cause"),
            table("loss of an invalidation", None, "loss"),
        ],
    },
    Page {
        path: "docs/metrics.md",
        text: include_str!("../../../docs/metrics.md"),
        topics: &[table("metric", None, "name")],
    },
];

/// What one code means.
#[derive(Debug)]
pub(super) struct Explanation {
    pub(super) code: &'static str,
    /// What such a code is.
    pub(super) kind: &'static str,
    /// The page that it is from.
    pub(super) page: &'static str,
    /// Plain text, a paragraph or a cell of a table each.
    pub(super) paragraphs: Vec<String>,
}

/// Everything that the pages explain, in their order. A code may have several kinds.
pub(super) fn explanations() -> Vec<Explanation> {
    PAGES.iter().flat_map(|page| page.topics.iter().flat_map(|topic| page.explained(topic))).collect()
}

impl Page {
    fn explained(&self, topic: &Topic) -> Vec<Explanation> {
        let mut found: Vec<Explanation> = Vec::new();
        let mut within = topic.section.is_none();
        let mut header: Option<Vec<&str>> = None;
        // The section of a code, its last paragraph still open.
        let mut section: Option<(&str, String)> = None;
        let mut fenced = false;
        for line in self.text.lines().chain([""]) {
            fenced ^= line.starts_with("```");
            if fenced || line.starts_with("```") {
                continue;
            }
            if let Some(heading) = line.strip_prefix("## ") {
                within = topic.section.is_none_or(|wanted| wanted == heading);
            }
            if let (Some((code, paragraph)), true) = (&mut section, line.is_empty() || line.starts_with('#'))
            {
                if !paragraph.is_empty() {
                    self.add(&mut found, topic, code, vec![self.plain(paragraph)]);
                    paragraph.clear();
                }
                if line.starts_with('#') {
                    section = None;
                }
            }
            if !within {
                continue;
            }
            if let Some(row) = line.strip_prefix("| ") {
                let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
                match &header {
                    None => header = Some(cells),
                    Some(names) if names.first().copied() == topic.column => {
                        let codes = cells[0].split('`').skip(1).step_by(2);
                        let filled = names.iter().zip(&cells).skip(1).filter(|(_, cell)| !cell.is_empty());
                        let text: Vec<String> =
                            filled.map(|(name, cell)| format!("{name}: {}", self.plain(cell))).collect();
                        codes.for_each(|code| self.add(&mut found, topic, code, text.clone()));
                    }
                    Some(_) => {}
                }
                continue;
            }
            if !line.starts_with('|') {
                header = None;
            }
            match (topic.heading.and_then(|mark| line.strip_prefix(mark)), &mut section) {
                (Some(code), _) => section = Some((code, String::new())),
                (None, Some((_, paragraph))) => {
                    paragraph.push_str(if paragraph.is_empty() { "" } else { " " });
                    paragraph.push_str(line);
                }
                (None, None) => {}
            }
        }
        found
    }

    fn add(&self, found: &mut Vec<Explanation>, topic: &Topic, code: &'static str, paragraphs: Vec<String>) {
        match found.iter_mut().find(|known| known.code == code) {
            Some(known) => known.paragraphs.extend(paragraphs),
            None => found.push(Explanation { code, kind: topic.kind, page: self.path, paragraphs }),
        }
    }

    /// Text of the page without its marks. A link to another page has its path behind it.
    fn plain(&self, text: &str) -> String {
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('[') {
            plain.push_str(before);
            let link = after.split_once("](").filter(|(words, _)| !words.contains(['[', ']']));
            let Some((words, (target, behind))) =
                link.and_then(|(words, rest)| Some((words, rest.split_once(')')?)))
            else {
                plain.push('[');
                rest = after;
                continue;
            };
            plain.push_str(words);
            if let Some(path) = self.linked(target) {
                plain.push_str(&format!(" ({path})"));
            }
            rest = behind;
        }
        plain.push_str(rest);
        // In code, a '*' is itself.
        let pieces = plain.split('`').enumerate();
        pieces
            .map(|(at, piece)| if at % 2 == 1 { piece.to_owned() } else { piece.replace('*', "") })
            .collect()
    }

    /// Where a link leads, from the root of the repository; none within the page.
    fn linked(&self, target: &str) -> Option<String> {
        if target.starts_with('#') {
            return None;
        }
        if target.contains("://") {
            return Some(target.to_owned());
        }
        let mut parts: Vec<&str> = self.path.split('/').collect();
        parts.pop();
        for part in target.split('/') {
            match part {
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        Some(parts.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broadcast::DELETED_UNREAD;
    use crate::capture::mapping::RejectReason;
    use crate::event::{DropReason, GapCause, InvalidateLoss, ReplayTrigger};
    use crate::logs::LogCode;
    use crate::metrics;
    use crate::status::{GroupChange, RouteState};

    /// Each list of the program, with what `explain` calls its codes.
    fn codes() -> Vec<(&'static str, Vec<&'static str>)> {
        vec![
            ("log event", LogCode::ALL.iter().map(|code| code.as_str()).collect()),
            ("kind of group_changed", GroupChange::ALL.map(GroupChange::as_str).into()),
            ("state of a route", RouteState::ALL.map(RouteState::as_str).into()),
            ("cause of a gap", GapCause::ALL.map(GapCause::as_str).into()),
            ("reason of dropped messages", DropReason::ALL.map(DropReason::as_str).into()),
            ("reason of a capture's dead letter", RejectReason::ALL.map(RejectReason::as_str).into()),
            ("reason of a broadcast's dead letter", vec!["missing_field", "refused", DELETED_UNREAD]),
            ("reason of an invalidation's dead letter", vec!["no_key", "too_many_keys"]),
            ("trigger of an invalidation's replay", ReplayTrigger::ALL.map(ReplayTrigger::as_str).into()),
            ("loss of an invalidation", InvalidateLoss::ALL.map(InvalidateLoss::as_str).into()),
            ("metric", metrics::names().collect()),
        ]
    }

    #[test]
    fn every_code_of_the_program_is_explained_as_plain_text() {
        let explanations = explanations();
        let kinds = codes();
        for (kind, codes) in &kinds {
            for code in codes {
                let found = explanations.iter().find(|found| found.kind == *kind && found.code == *code);
                let found = found.unwrap_or_else(|| panic!("{code} is not explained as a {kind}"));
                assert!(!found.paragraphs.is_empty(), "{kind} {code}");
                for text in &found.paragraphs {
                    let marks = ["](", "`", "*Do", "| ", "..", "\n"];
                    assert!(
                        !text.is_empty() && !marks.iter().any(|mark| text.contains(mark)),
                        "{code}: {text}"
                    );
                }
            }
        }
        let stray: Vec<_> =
            explanations.iter().filter(|found| kinds.iter().all(|(kind, _)| *kind != found.kind)).collect();
        assert!(stray.is_empty(), "a kind without a list of the program: {stray:?}");
    }

    #[test]
    fn a_table_and_a_section_of_one_code_stand_together() {
        let explanations = explanations();
        let of = |kind: &str, code: &str| {
            let found = explanations.iter().find(|found| found.kind == kind && found.code == code);
            found.unwrap().paragraphs.clone()
        };
        let live = of("state of a route", "live");
        assert_eq!(live[..2], ["ready: yes", "what to do: nothing"]);
        assert!(live[2].starts_with("The route does its work"), "{live:?}");
        let silent = of("cause of a gap", "source_silent");
        assert_eq!(silent.len(), 2, "{silent:?}");
        assert!(silent[1].starts_with("Do: look for slow scripts"), "{silent:?}");
        let gap = of("log event", "gap");
        let full = of("cause of a gap", "spool_full");
        assert!(full.iter().any(|text| text.ends_with("raise [daemon.spool] limit.")), "{full:?}");
        let aside = of("log event", "spool_put_aside");
        assert!(aside.iter().any(|text| text.contains("kept as *.damaged,")), "{aside:?}");
        assert!(
            gap.contains(&"what to do: runbook (docs/operate/runbooks/gap-recorded.md)".to_owned()),
            "{gap:?}"
        );
    }
}
