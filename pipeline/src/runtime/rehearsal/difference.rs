//! Shows what came out otherwise than expected: a table in which what differs stands one below the
//! other.

use std::collections::BTreeSet;
use std::fmt::Write;

use waterwheel_config::schema::SchemaRef;
use waterwheel_config::value::{Row, Value, format_timestamp, write_json_string};

use super::compare::{Mismatch, cell};
use crate::graph::rehearsal::{Expectation, ExpectedRow, ExpectedValue};

/// Longer cells are cut: a payload must not push the next column off the screen.
const CELL_LETTERS_MAX: usize = 60;

/// Of each kind of difference so many rows are shown.
const ROWS_MAX: usize = 20;

/// What one expectation of a test did not find.
#[derive(Clone, Debug)]
pub struct Difference {
    title: String,
    schema: SchemaRef,
    columns: Vec<usize>,
    mismatch: Mismatch,
}

impl Difference {
    pub(super) fn new(moment: &str, expectation: &Expectation, mismatch: Mismatch) -> Self {
        let mut title = moment.to_owned();
        title.push_str(if expectation.only_final { ", final rows of `" } else { ", `" });
        title.push_str(&expectation.name);
        title.push('`');
        if let Some((_, text)) = &expectation.condition {
            // Writing to a String cannot fail.
            let _ = write!(title, " where {text}");
        }
        title.push_str(": ");
        title.push_str(&summary(&mismatch));
        let columns = columns(expectation);
        Self { title, schema: expectation.schema.clone(), columns, mismatch }
    }

    /// The difference as text, each line ended.
    pub fn render(&self, colour: bool) -> String {
        let mut table = Table::default();
        let names = self.columns.iter().map(|column| self.schema.columns[*column].name.clone());
        table.line(' ', names);
        let Mismatch { wrong, missing, unexpected, count: _ } = &self.mismatch;
        for (expected, actual) in wrong.iter().take(ROWS_MAX) {
            table.line('-', self.expected(expected));
            table.line('+', self.actual(actual));
            let differs = self.columns.iter().map(|column| {
                let cells = &mut expected.cells.iter();
                cells.any(|(at, value)| at == column && !value.matches(cell(actual, *column)))
            });
            table.underline(differs.collect());
        }
        missing.iter().take(ROWS_MAX).for_each(|row| table.line('-', self.expected(row)));
        unexpected.iter().take(ROWS_MAX).for_each(|row| table.line('+', self.actual(row)));
        let mut text = format!("{}\n", self.title);
        if table.lines.len() > 1 {
            text.push_str("  - expected\n  + came out\n");
            table.render(colour, &mut text);
        }
        let lengths = [wrong.len(), missing.len(), unexpected.len()];
        let hidden: usize = lengths.iter().map(|length| length.saturating_sub(ROWS_MAX)).sum();
        if hidden > 0 {
            let _ = writeln!(text, "  and {hidden} more");
        }
        text
    }

    fn expected(&self, row: &ExpectedRow) -> impl Iterator<Item = String> {
        self.columns.iter().map(|column| {
            let found = row.cells.iter().find(|(at, _)| at == column);
            found.map_or_else(String::new, |(_, value)| shown_expected(value))
        })
    }

    fn actual(&self, row: &Row) -> impl Iterator<Item = String> {
        self.columns.iter().map(|column| shown(cell(row, *column)))
    }
}

/// How much differs, in words.
fn summary(mismatch: &Mismatch) -> String {
    let Mismatch { wrong, missing, unexpected, count } = mismatch;
    if let Some((expected, actual)) = count
        && wrong.is_empty()
        && missing.is_empty()
    {
        return format!("{} instead of {expected}", rows(*actual));
    }
    let mut parts = Vec::new();
    for (count, one, several) in [
        (wrong.len(), "differs", "differ"),
        (missing.len(), "is missing", "are missing"),
        (unexpected.len(), "is not expected", "are not expected"),
    ] {
        match count {
            0 => {}
            1 => parts.push(format!("1 row {one}")),
            count => parts.push(format!("{count} rows {several}")),
        }
    }
    if let Some((expected, actual)) = count {
        parts.push(format!("there are {} instead of {expected}", rows(*actual)));
    }
    parts.join(", ")
}

fn rows(count: usize) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// The columns that are shown: the key, and whatever is named; all where nothing is.
fn columns(expectation: &Expectation) -> Vec<usize> {
    let rows = expectation.rows.iter().flatten().chain(&expectation.contains);
    let named = rows.chain(&expectation.absent).flat_map(|row| &row.cells).map(|(at, _)| *at);
    let named: BTreeSet<usize> = named.collect();
    if named.is_empty() {
        return (0..expectation.schema.columns.len()).collect();
    }
    named
        .into_iter()
        .chain(expectation.schema.key.iter().copied())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Text(text) => shown_text(text),
        other => other.to_plain(),
    }
}

fn shown_expected(value: &ExpectedValue) -> String {
    match value {
        ExpectedValue::Null => "NULL".to_owned(),
        ExpectedValue::Boolean(flag) => flag.to_string(),
        ExpectedValue::Integer(number) => number.to_string(),
        ExpectedValue::Number(number) => shown(&Value::double(*number)),
        ExpectedValue::About(number, _) => format!("about {}", shown(&Value::double(*number))),
        ExpectedValue::Timestamp(micros) => format_timestamp(*micros),
        ExpectedValue::Text(text) => shown_text(text),
        ExpectedValue::Json(value) => value.to_string(),
    }
}

/// Text as it is, or in quotes where it could not be told from nothing or from NULL.
fn shown_text(text: &str) -> String {
    let is_plain = !text.is_empty()
        && text != "NULL"
        && text.trim() == text
        && !text.chars().any(char::is_control);
    if is_plain {
        return text.to_owned();
    }
    let mut quoted = String::new();
    write_json_string(text, &mut quoted);
    quoted
}

/// Lines of cells, each column as wide as its widest cell.
#[derive(Default)]
struct Table {
    lines: Vec<(char, Vec<String>)>,
}

impl Table {
    fn line(&mut self, mark: char, cells: impl Iterator<Item = String>) {
        let cut = |cell: String| match cell.char_indices().nth(CELL_LETTERS_MAX) {
            Some(_) => cell.chars().take(CELL_LETTERS_MAX - 1).chain(['\u{2026}']).collect(),
            None => cell,
        };
        self.lines.push((mark, cells.map(cut).collect()));
    }

    /// Underlines cells of the last two lines.
    fn underline(&mut self, differs: Vec<bool>) {
        let length = |line: Option<&(char, Vec<String>)>, at: usize| {
            line.and_then(|(_, cells)| cells.get(at)).map_or(0, |cell| cell.chars().count())
        };
        let (last, before) = (self.lines.last(), self.lines.iter().rev().nth(1));
        let carets = |(at, differs): (usize, &bool)| match differs {
            true => "^".repeat(length(last, at).max(length(before, at))),
            false => String::new(),
        };
        let line = differs.iter().enumerate().map(carets).collect();
        self.lines.push((' ', line));
    }

    fn render(&self, colour: bool, out: &mut String) {
        let columns = self.lines.iter().map(|(_, cells)| cells.len()).max().unwrap_or(0);
        let width = |at: usize| {
            let cells = self.lines.iter().filter_map(|(_, cells)| cells.get(at));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (mark, cells) in &self.lines {
            let mut line = format!("  {mark}");
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(line, "  {cell:width$}");
            }
            let (begin, end) = match (colour, mark) {
                (true, '-') => ("\u{1b}[31m", "\u{1b}[0m"),
                (true, '+') => ("\u{1b}[32m", "\u{1b}[0m"),
                _ => ("", ""),
            };
            let _ = writeln!(out, "{begin}{}{end}", line.trim_end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use waterwheel_config::schema::{Column, Finality, Schema};
    use waterwheel_config::value::ColumnType;

    use crate::graph::InputRef;

    fn expectation(rows: Vec<ExpectedRow>) -> Expectation {
        let schema = Schema {
            columns: vec![
                Column::new("window_start", ColumnType::Timestamp),
                Column::new("symbol", ColumnType::Text),
                Column::new("trades", ColumnType::Bigint),
                Column::new("notional", ColumnType::Double),
            ],
            key: vec![0, 1],
            finality: Finality::Immediate,
            append_only: false,
            time: Some(0),
        };
        Expectation {
            name: "volume".to_owned(),
            input: InputRef::Operator(0),
            schema: Arc::new(schema),
            only_final: false,
            condition: None,
            rows: Some(rows),
            contains: Vec::new(),
            absent: Vec::new(),
            count: None,
        }
    }

    fn expected(minute: i64, symbol: &str, trades: i64) -> ExpectedRow {
        ExpectedRow {
            cells: vec![
                (0, ExpectedValue::Timestamp(minute * 60_000_000)),
                (1, ExpectedValue::Text(symbol.to_owned())),
                (2, ExpectedValue::Integer(trades)),
            ],
        }
    }

    fn row(minute: i64, symbol: Value, trades: i64) -> Row {
        let window = Value::Timestamp(minute * 60_000_000);
        vec![window, symbol, Value::Bigint(trades), Value::double(0.5)].into()
    }

    fn shown_for(expectation: &Expectation, rows: &[Row], colour: bool) -> String {
        let mismatch = super::super::compare::compare(expectation, rows).expect("a mismatch");
        Difference::new("after step 2", expectation, mismatch).render(colour)
    }

    #[test]
    fn what_differs_stands_below_each_other() {
        let expectation =
            expectation(vec![expected(0, "BTC", 10), expected(1, "BTC", 1), expected(2, "", 1)]);
        let rows = [
            row(0, Value::text("BTC"), 7),
            row(2, Value::text(""), 1),
            row(3, Value::Null, 123_456_789),
        ];
        let text = "\
after step 2, `volume`: 1 row differs, 1 row is missing, 1 row is not expected
  - expected
  + came out
     window_start          symbol  trades
  -  1970-01-01T00:00:00Z  BTC     10
  +  1970-01-01T00:00:00Z  BTC     7
                                   ^^
  -  1970-01-01T00:01:00Z  BTC     1
  +  1970-01-01T00:03:00Z  NULL    123456789
";
        assert_eq!(shown_for(&expectation, &rows, false), text);
        let coloured = shown_for(&expectation, &rows, true);
        assert!(
            coloured.contains("\u{1b}[31m  -  1970-01-01T00:01:00Z  BTC     1\u{1b}[0m\n"),
            "{coloured}"
        );
        assert_eq!(
            coloured.replace("\u{1b}[31m", "").replace("\u{1b}[32m", "").replace("\u{1b}[0m", ""),
            text
        );
    }

    #[test]
    fn nothing_where_something_was_expected() {
        let text = "\
after step 2, `volume`: 2 rows are missing
  - expected
  + came out
     window_start          symbol  trades
  -  1970-01-01T00:00:00Z  \"NULL\"  1
  -  1970-01-01T00:01:00Z  ETH     2
";
        let expectation = expectation(vec![expected(0, "NULL", 1), expected(1, "ETH", 2)]);
        assert_eq!(shown_for(&expectation, &[], false), text);
    }

    #[test]
    fn a_wrong_count_shows_every_column() {
        let expectation =
            Expectation { rows: None, count: Some(0), only_final: true, ..expectation(vec![]) };
        let text = "\
after step 2, final rows of `volume`: 1 row instead of 0
  - expected
  + came out
     window_start          symbol  trades  notional
  +  1970-01-01T00:00:00Z  BTC     1       0.5
";
        assert_eq!(shown_for(&expectation, &[row(0, Value::text("BTC"), 1)], false), text);
        let none = Expectation { count: Some(3), ..expectation };
        assert_eq!(
            shown_for(&none, &[], false),
            "after step 2, final rows of `volume`: 0 rows instead of 3\n"
        );
    }

    #[test]
    fn long_cells_and_long_lists_are_cut() {
        let expectation = expectation(vec![]);
        let rows: Vec<Row> =
            (0..30).map(|minute| row(minute, Value::text(&"x".repeat(100)), 1)).collect();
        let text = shown_for(&expectation, &rows, false);
        assert!(text.contains(&format!("  {}\u{2026}  1", "x".repeat(59))), "{text}");
        assert!(text.ends_with("  and 10 more\n"), "{text}");
        assert_eq!(text.lines().count(), 1 + 2 + 1 + 20 + 1);
    }
}
