//! A table for an operator, at most 100 columns wide.
//!
//! Columns are as wide as their cells. The last column is a text of any length. If it does not fit beside the others, it
//! is printed below them, indented and broken at spaces. A name that is too long for the first column gets a line of
//! its own. So nothing is cut, and a terminal breaks no line.

use crate::text::printable::{self, PrintableLines};

/// The longest line.
const WIDTH: usize = 100;
/// What stands before a line that continues the row above.
const INDENT: &str = "  ";
/// In a table without rows.
const NONE: &str = "none";

/// How a column is written.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Column {
    /// Words, from the left.
    Text(&'static str),
    /// Numbers, to the right.
    Number(&'static str),
}

impl Column {
    const fn heading(self) -> &'static str {
        match self {
            Self::Text(heading) | Self::Number(heading) => heading,
        }
    }
}

/// Rows under headings.
#[derive(Debug)]
pub(in crate::cli) struct Table {
    columns: Vec<Column>,
    note: &'static str,
    rows: Vec<TableRow>,
}

#[derive(Debug)]
struct TableRow {
    cells: Vec<String>,
    notes: Vec<String>,
}

impl Table {
    /// A table with these columns, and one of free text at the end.
    pub(in crate::cli) fn new(columns: Vec<Column>, note: &'static str) -> Self {
        Self { columns, note, rows: Vec::new() }
    }

    /// Adds a row: a cell for each column, and the text at its end. Each further text has a line of its own. They are
    /// escaped here, since an escape is wider than what it stands for.
    pub(in crate::cli) fn row(&mut self, cells: Vec<String>, notes: Vec<String>) {
        let escaped =
            |texts: Vec<String>| texts.iter().map(|text| printable::text(text.as_bytes())).collect();
        self.rows.push(TableRow { cells: escaped(cells), notes: escaped(notes) });
    }

    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The columns' widths.
    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.heading().len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let others: usize = widths.iter().skip(1).map(|width| width + 1).sum();
        if let (Some(first), Some(column)) = (widths.first_mut(), self.columns.first()) {
            *first = (*first).min(WIDTH.saturating_sub(others)).max(column.heading().len());
        }
        widths
    }

    fn line(&self, widths: &[usize], cells: &[&str]) -> String {
        let mut line = String::new();
        for ((column, width), cell) in self.columns.iter().zip(widths).zip(cells) {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&match column {
                Column::Text(_) => format!("{cell:<width$}"),
                Column::Number(_) => format!("{cell:>width$}"),
            });
        }
        line
    }

    /// The headings and the rows.
    pub(in crate::cli) fn lines(&self) -> PrintableLines {
        let mut out = PrintableLines::default();
        let widths = self.widths();
        let headings: Vec<&str> = self.columns.iter().map(|column| column.heading()).collect();
        add_row(&mut out, &self.line(&widths, &headings), self.note);
        if self.rows.is_empty() {
            out.push(NONE);
        }
        for TableRow { cells, notes } in &self.rows {
            let mut cells: Vec<&str> = cells.iter().map(String::as_str).collect();
            if let (Some(name), Some(width)) = (cells.first_mut(), widths.first())
                && name.chars().count() > *width
            {
                out.push(*name);
                *name = "";
            }
            let mut notes = notes.iter();
            add_row(&mut out, &self.line(&widths, &cells), notes.next().map_or("", String::as_str));
            for note in notes {
                add_below(&mut out, note);
            }
        }
        out
    }
}

/// A row, and its text beside it or below.
fn add_row(out: &mut PrintableLines, line: &str, note: &str) {
    if line.chars().count() + INDENT.len() + note.chars().count() <= WIDTH {
        out.push(format!("{line}{INDENT}{note}").trim_end());
        return;
    }
    out.push(line.trim_end());
    add_below(out, note);
}

/// A text on lines of its own, broken at spaces; a word that is longer than a line is broken too.
fn add_below(out: &mut PrintableLines, text: &str) {
    let most = WIDTH - INDENT.len();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.char_indices().nth(most).map_or(rest.len(), |(at, _)| at);
        let (line, next) = match rest[..end].rfind(' ') {
            Some(space) if end < rest.len() && space > 0 => (&rest[..space], &rest[space + 1..]),
            _ => rest.split_at(end),
        };
        out.push(format_args!("{INDENT}{line}"));
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(rows: &[(&str, &str, &str)]) -> String {
        let mut table = Table::new(vec![Column::Text("ROUTE"), Column::Number("DONE")], "REASON");
        for (name, done, reason) in rows {
            table.row(vec![(*name).to_owned(), (*done).to_owned()], vec![(*reason).to_owned()]);
        }
        format!("{}\n", table.lines())
    }

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        assert_eq!(
            table(&[("orders", "7", ""), ("stock", "12345", "no answer")]),
            "ROUTE   DONE  REASON\norders     7\nstock  12345  no answer\n"
        );
        assert_eq!(table(&[]), "ROUTE DONE  REASON\nnone\n");
    }

    #[test]
    fn what_does_not_fit_beside_stands_below() {
        let (name, reason) = ("n".repeat(99), "word ".repeat(30));
        let text = table(&[(&name, "7", reason.trim_end())]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[1], lines[2], lines[3].trim()), ("  REASON", name.as_str(), "7"));
        assert_eq!(lines[4..].iter().map(|line| line.len()).collect::<Vec<_>>(), [96, 56]);
        let words: Vec<&str> = lines[4..].iter().flat_map(|line| line.split_whitespace()).collect();
        assert_eq!(words.join(" "), reason.trim_end());
    }

    #[test]
    fn a_name_makes_no_row_and_no_column() {
        let text = table(&[("a\nb live 1", "7", "such as 'x: ok\nforged live 9'"), ("c\u{202e}", "8", "\t")]);
        assert_eq!(
            text,
            "ROUTE       DONE  REASON\na\\nb live 1    7  such as 'x: ok\\nforged live 9'\nc\\u{202e}      8  \\t\n"
        );
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_a_hundred_columns(
            rows in proptest::collection::vec(("[a-z]{1,48}", "[0-9]{1,20}", "[a-zé \\n]{0,300}"), 0..6),
        ) {
            let mut table = Table::new(vec![Column::Text("ROUTE"), Column::Number("DONE")], "REASON");
            for (name, done, reason) in rows {
                table.row(vec![name, done], vec![reason.clone(), reason]);
            }
            for line in table.lines().iter() {
                prop_assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }
}
