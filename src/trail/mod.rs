//! The audit trail for people: who did what, when and why, what it was before, and what was refused.
//!
//! # Rows
//! A [`Row`] is one property that one operation wrote or would have written; an operation that names no property (the opening of
//! a session, a refusal before it was read) is one row without twin. Rows are made of [`Record`](crate::twin::record::Record)s, which a
//! cluster's replicas tell alike (`atlas history`) or a [`Follower`](crate::twin::follow::Follower) makes of an export's entries
//! (`atlas trail`). From there on nothing knows where a row came from.
//!
//! | field | JSON, CSV column | what |
//! | --- | --- | --- |
//! | position | `position` | `ENTRY.REQUEST` in the agreed order |
//! | agreed time | `agreed_time` | when the cluster agreed; never goes backwards |
//! | signed time | `signed_time` | the client's clock when it signed |
//! | source time | `source_time` | when the source took the value, as the client says |
//! | certified time | `certified_time` | when a quorum had cosigned a checkpoint that covers it; in exports only |
//! | who | `origin` (printed name, else the key), `key` | whose signature it carries |
//! | action | `action` | `set`, `delete`, `open session`; `register`, `rotate`, `revoke key` as asked for, `key registered`, `rotated`, `revoked` as done; `other` for what was refused unread |
//! | what | `twin`, `property` | property empty: the whole twin |
//! | old value | `old_type`, `old_value` | type empty: there was none; `unknown`: not told |
//! | new value | `type`, `value` | as it was written; empty for a delete |
//! | quality | `quality` | `good`, `uncertain`, `bad`, `stale` |
//! | revision | `revision` | after the change; empty where refused |
//! | outcome | `code`, `outcome` | 0 is done; FORMATS has the ranges |
//! | reason | `reason` | what the client gave |
//!
//! Times are RFC 3339 in UTC. In JSON what is empty is null.
//!
//! # CSV
//! RFC 4180: a header, CRLF, commas, UTF-8 without byte order mark; a cell with comma, quote, CR or LF stands in quotes, quotes doubled.
//! Spreadsheets take cells that begin with `=`, `+`, `-`, `@`, tab or CR for formulas: a cell of text that begins so, or with an
//! apostrophe, gets an apostrophe before it. So whoever reads the file takes one apostrophe from the front of each cell that
//! has one and holds what was written. Numbers are not touched: `-5` of type `i64` stays.
//!
//! # Timeline
//! [`timeline`] draws the changes of a twin around a moment as an SVG.

pub mod csv;
pub mod export_dir;
pub mod json;
pub mod names;
pub mod row;
pub mod timeline;

pub use names::Names;
pub use row::{Action, Row};

use std::io::{self, Write};

use crate::cli::output::{Style, table};

/// How rows are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// For people: aligned columns.
    #[default]
    Table,
    /// RFC 4180 with a header.
    Csv,
    /// One object a line.
    Json,
}

/// The most rows that a table is laid out for at once; a longer one is written in several, each with its headings.
const MAX_TABLE: usize = 1_000;

/// Writes rows one after the other.
pub struct Printer<W> {
    out: W,
    format: Format,
    style: Style,
    /// Rows of a table that is not full.
    cells: Vec<Vec<String>>,
    begun: bool,
}

impl<W: Write> Printer<W> {
    /// Nothing is written before the first row, or [`Printer::finish`].
    pub fn new(out: W, format: Format, style: Style) -> Self {
        Self { out, format, style, cells: Vec::new(), begun: false }
    }

    /// Writes a row.
    ///
    /// # Errors
    /// Those of the output.
    pub fn add(&mut self, row: &Row) -> io::Result<()> {
        self.begin()?;
        match self.format {
            Format::Csv => csv::line(&mut self.out, row),
            Format::Json => json::line(&mut self.out, row),
            Format::Table => {
                self.cells.push(row.cells());
                if self.cells.len() == MAX_TABLE { self.lay_out() } else { Ok(()) }
            }
        }
    }

    /// Writes what is left; a CSV has its header even without rows.
    ///
    /// # Errors
    /// Those of the output.
    pub fn finish(mut self) -> io::Result<()> {
        self.begin()?;
        if self.cells.is_empty() { Ok(()) } else { self.lay_out() }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.begun, true) && self.format == Format::Csv {
            csv::header(&mut self.out)?;
        }
        Ok(())
    }

    fn lay_out(&mut self) -> io::Result<()> {
        table(&mut self.out, self.style, &row::COLUMNS, &self.cells)?;
        self.cells.clear();
        Ok(())
    }
}

/// Writes all rows; stops at the first that is an error.
///
/// # Errors
/// A row's, or that of the output.
pub fn export<E: From<io::Error>>(
    rows: impl IntoIterator<Item = Result<Row, E>>,
    format: Format,
    out: impl Write,
) -> Result<(), E> {
    let mut printer = Printer::new(out, format, Style::PLAIN);
    for row in rows {
        printer.add(&row?)?;
    }
    Ok(printer.finish()?)
}

#[cfg(test)]
mod tests;
