//! Aligned tables. Widths come from the first rows, so that a table of a million rows is printed as it arrives.

use std::io::{self, Write};

/// Rows that are held back to find the widths.
const SAMPLE: usize = 1000;

/// A table on its way to the output. Columns whose title begins with `>` are aligned to the right.
pub(super) struct Table<'o, W: Write> {
    out: &'o mut W,
    titles: Vec<&'static str>,
    widths: Vec<usize>,
    held: Vec<Vec<String>>,
    started: bool,
}

impl<'o, W: Write> Table<'o, W> {
    pub(super) fn new(out: &'o mut W, titles: &[&'static str]) -> Self {
        Self {
            out,
            titles: titles.to_vec(),
            widths: Vec::new(),
            held: Vec::new(),
            started: false,
        }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) -> io::Result<()> {
        if self.started {
            return self.print(&cells);
        }
        self.held.push(cells);
        if self.held.len() == SAMPLE {
            self.start()?;
        }
        Ok(())
    }

    /// Prints what is held back. A table without rows prints its titles.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.started { Ok(()) } else { self.start() }
    }

    fn start(&mut self) -> io::Result<()> {
        self.started = true;
        let titles: Vec<String> = self
            .titles
            .iter()
            .map(|title| title.trim_start_matches('>').to_owned())
            .collect();
        self.widths = titles.iter().map(|title| title.chars().count()).collect();
        let held = std::mem::take(&mut self.held);
        for row in &held {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        self.print(&titles)?;
        held.iter().try_for_each(|row| self.print(row))
    }

    fn print(&mut self, cells: &[String]) -> io::Result<()> {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            let width = self.widths.get(index).copied().unwrap_or_default();
            let right = self.titles.get(index).is_some_and(|title| title.starts_with('>'));
            let cell = if cell.is_empty() { "-" } else { cell };
            if index > 0 {
                line.push_str("  ");
            }
            if right {
                line.push_str(&format!("{cell:>width$}"));
            } else {
                line.push_str(&format!("{cell:<width$}"));
            }
        }
        writeln!(self.out, "{}", line.trim_end())
    }
}
