//! A table for an operator, at most 100 columns wide.
//!
//! Columns are as wide as what stands in them. The last column is a text of any length: where it does not fit beside
//! the others it stands below them, indented and broken at spaces. A name that is too long for the first column stands
//! on a line of its own. So nothing is cut, and a terminal breaks no line.

use std::fmt;

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

    /// Adds a row: a cell for each column, and the text at its end. Each further text has a line of its own.
    pub(in crate::cli) fn row(&mut self, cells: Vec<String>, notes: Vec<String>) {
        self.rows.push(TableRow { cells, notes });
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
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let headings: Vec<&str> = self.columns.iter().map(|column| column.heading()).collect();
        write_row(f, self.line(&widths, &headings), self.note)?;
        if self.rows.is_empty() {
            writeln!(f, "{NONE}")?;
        }
        for TableRow { cells, notes } in &self.rows {
            let mut cells: Vec<&str> = cells.iter().map(String::as_str).collect();
            if let (Some(name), Some(width)) = (cells.first_mut(), widths.first())
                && name.chars().count() > *width
            {
                writeln!(f, "{name}")?;
                *name = "";
            }
            let mut notes = notes.iter();
            write_row(f, self.line(&widths, &cells), notes.next().map_or("", String::as_str))?;
            for note in notes {
                write_below(f, note)?;
            }
        }
        Ok(())
    }
}

/// A row, and its text beside it or below.
fn write_row(f: &mut fmt::Formatter<'_>, line: String, note: &str) -> fmt::Result {
    if line.chars().count() + INDENT.len() + note.chars().count() <= WIDTH {
        return writeln!(f, "{}", format!("{line}{INDENT}{note}").trim_end());
    }
    writeln!(f, "{}", line.trim_end())?;
    write_below(f, note)
}

/// A text on lines of its own, broken at spaces; a word that is longer than a line is broken too.
fn write_below(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let most = WIDTH - INDENT.len();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.char_indices().nth(most).map_or(rest.len(), |(at, _)| at);
        let (line, next) = match rest[..end].rfind(' ') {
            Some(space) if end < rest.len() && space > 0 => (&rest[..space], &rest[space + 1..]),
            _ => rest.split_at(end),
        };
        writeln!(f, "{INDENT}{line}")?;
        rest = next;
    }
    Ok(())
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
        table.to_string()
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

    proptest! {
        #[test]
        fn no_line_is_longer_than_a_hundred_columns(
            rows in proptest::collection::vec(("[a-z]{1,48}", "[0-9]{1,20}", "[a-zé ]{0,300}"), 0..6),
        ) {
            let mut table = Table::new(vec![Column::Text("ROUTE"), Column::Number("DONE")], "REASON");
            for (name, done, reason) in rows {
                table.row(vec![name, done], vec![reason.clone(), reason]);
            }
            for line in table.to_string().lines() {
                prop_assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }
}
