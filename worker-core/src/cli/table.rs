//! Rows and columns: aligned for a person, tab-separated for a program.

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table as Aligned, Width, presets,
};

use crate::cli::out::{cut, escape};

/// Between two columns on a terminal.
const GAP: u16 = 2;

/// A last column narrower than this goes to a line of its own below the row.
const REST_MIN: usize = 30;

/// Where a terminal does not say how wide it is.
const WIDTH_DEFAULT: u16 = 80;

/// One column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    title: &'static str,
    fit: Fit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// Always whole.
    Text,
    /// Always whole, to the right.
    Number,
    /// Broken into lines where the terminal is narrow.
    Wrapped,
    /// Whole, on a line of its own where it does not fit beside the others. Only as the last column.
    Last,
    /// The same, but cut rather than longer than a line.
    Rest,
}

impl Column {
    pub(super) const fn text(title: &'static str) -> Self {
        Self { title, fit: Fit::Text }
    }

    pub(super) const fn number(title: &'static str) -> Self {
        Self { title, fit: Fit::Number }
    }

    pub(super) const fn last(title: &'static str) -> Self {
        Self { title, fit: Fit::Last }
    }

    pub(super) const fn wrapped(title: &'static str) -> Self {
        Self { title, fit: Fit::Wrapped }
    }

    pub(super) const fn rest(title: &'static str) -> Self {
        Self { title, fit: Fit::Rest }
    }
}

/// Rows under titles. Every cell is escaped on its way in.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let row: Vec<_> = cells.into_iter().map(|cell| escape(&cell).into_owned()).collect();
        debug_assert_eq!(row.len(), self.columns.len(), "a cell for each column");
        self.rows.push(row);
    }

    /// Whether there are no rows.
    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Titles and rows, with tabs between the cells.
    pub(super) fn separated(&self) -> String {
        let titles = self.columns.iter().map(|column| column.title).collect::<Vec<_>>().join("\t");
        let rows = self.rows.iter().map(|row| row.join("\t"));
        std::iter::once(titles).chain(rows).map(|line| line + "\n").collect()
    }

    /// Titles and rows in columns, for a terminal of this width.
    pub(super) fn aligned(&self, width: Option<u16>, style: bool) -> String {
        let width = width.unwrap_or(WIDTH_DEFAULT);
        let Some((last, columns)) = self.columns.split_last() else {
            return String::new();
        };
        let taken: usize = (0..columns.len()).map(|index| self.widest(index) + usize::from(GAP)).sum();
        let (left, wanted) = (usize::from(width).saturating_sub(taken), self.widest(columns.len()));
        match last.fit {
            Fit::Rest if left >= REST_MIN.min(wanted) => {
                lines(&self.columns, &self.with_last_cut(left), u16::MAX, style)
            }
            Fit::Last if left >= wanted => lines(&self.columns, &self.rows, u16::MAX, style),
            Fit::Rest | Fit::Last => self.with_last_below(usize::from(width), style),
            Fit::Text | Fit::Number | Fit::Wrapped => lines(&self.columns, &self.rows, width, style),
        }
    }

    fn with_last_cut(&self, chars: usize) -> Vec<Vec<String>> {
        let mut rows = self.rows.clone();
        for cell in rows.iter_mut().filter_map(|row| row.last_mut()) {
            *cell = cut(cell, chars).into_owned();
        }
        rows
    }

    /// Each row's last cell on the line after it.
    fn with_last_below(&self, width: usize, style: bool) -> String {
        let (last, columns) = (self.columns.len() - 1, &self.columns[..self.columns.len() - 1]);
        let rows: Vec<_> = self.rows.iter().map(|row| row[..last].to_vec()).collect();
        let table = lines(columns, &rows, u16::MAX, style);
        let Column { title, fit } = self.columns[last];
        let below = |row: &Vec<String>| {
            let room = if fit == Fit::Rest { width.saturating_sub(title.len() + 4) } else { usize::MAX };
            match &*row[last] {
                "" => String::new(),
                cell => format!("  {}: {}\n", title.to_lowercase(), cut(cell, room)),
            }
        };
        let mut text = String::new();
        for (index, line) in table.lines().enumerate() {
            text.extend([line, "\n"]);
            text.extend(index.checked_sub(1).and_then(|index| self.rows.get(index)).map(below));
        }
        text
    }

    fn widest(&self, index: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[index].chars().count());
        cells.max().unwrap_or(0).max(self.columns[index].title.len())
    }
}

fn lines(columns: &[Column], rows: &[Vec<String>], width: u16, style: bool) -> String {
    let mut table = Aligned::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    let title = |column: &Column| {
        let cell = Cell::new(column.title);
        if style { cell.add_attribute(Attribute::Bold) } else { cell }
    };
    table.set_header(columns.iter().map(title).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.iter().map(Cell::new).collect::<Vec<_>>());
    }
    if style {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for (column, aligned) in columns.iter().zip(table.column_iter_mut()) {
        aligned.set_padding((0, GAP));
        match column.fit {
            Fit::Wrapped => drop(aligned.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(12)))),
            _ => drop(aligned.set_constraint(ColumnConstraint::ContentWidth)),
        }
        if column.fit == Fit::Number {
            aligned.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([Column::text("JOB"), Column::number("ATTEMPTS"), Column::rest("ERROR")]);
        table.row(["poison".into(), "4".into(), "it always fails, on purpose, so that there is a dead letter".into()]);
        table.row(["x".into(), "12".into(), "a\tb\u{1b}".into()]);
        table
    }

    #[test]
    fn in_a_pipe_cells_are_separated_by_tabs_and_hold_none() {
        assert_eq!(
            table().separated(),
            "JOB\tATTEMPTS\tERROR\n\
             poison\t4\tit always fails, on purpose, so that there is a dead letter\n\
             x\t12\ta\\tb\\u{1b}\n"
        );
    }

    #[test]
    fn on_a_terminal_the_last_column_is_cut_to_the_width() {
        assert_eq!(
            table().aligned(Some(60), false),
            "JOB     ATTEMPTS  ERROR\n\
             poison         4  it always fails, on purpose, so that ther…\n\
             x             12  a\\tb\\u{1b}\n"
        );
    }

    #[test]
    fn on_a_narrow_terminal_the_last_column_has_lines_of_its_own() {
        assert_eq!(
            table().aligned(Some(40), false),
            "JOB     ATTEMPTS\n\
             poison         4\n  error: it always fails, on purpose, s…\n\
             x             12\n  error: a\\tb\\u{1b}\n"
        );
    }

    #[test]
    fn no_line_is_longer_than_the_terminal() {
        for width in 40..200 {
            let text = table().aligned(Some(width), false);
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{width}:\n{text}");
        }
    }
}
