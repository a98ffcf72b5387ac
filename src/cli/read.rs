//! `atlas get` and `atlas list`: pages of answers that f+1 replicas gave alike.

use std::io::Write;

use super::args::{Connection, Format, Freshness, GetArgs, ListArgs};
use super::error::CliError;
use super::output::{PROPERTY_COLUMNS, Row, Style, json_line, table};
use super::session::{Session, unreadable};
use crate::twin::query::{MAX_PAGE, Properties, Query};

/// `atlas get`.
///
/// # Errors
/// As [`super::error`] has them; a twin or property that does not exist is refused.
pub fn get(args: &GetArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let (twin, property) = (args.twin.clone(), args.property.clone());
    properties(&args.connection, args.freshness, args.format, out, style, |next| Query::Get {
        twin: twin.clone(),
        property: property.clone(),
        after: next.map(|(_, property)| property),
    })
}

/// `atlas list`.
///
/// # Errors
/// As [`super::error`] has them.
pub fn list(args: &ListArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let prefix = args.prefix.clone();
    properties(&args.connection, args.freshness, args.format, out, style, |after| Query::List {
        prefix: prefix.clone(),
        after,
        limit: MAX_PAGE as u64,
    })
}

fn properties(
    connection: &Connection,
    freshness: Freshness,
    format: Format,
    out: &mut impl Write,
    style: Style,
    query: impl Fn(Option<(String, String)>) -> Query,
) -> Result<(), CliError> {
    let mut session = Session::open(connection)?;
    let mut lines = Lines::new(format, style, &PROPERTY_COLUMNS);
    let mut next = None;
    let mut read = session.read(&query(None), freshness)?;
    loop {
        let page = Properties::decode(&read.body).map_err(unreadable)?;
        for property in &page.items {
            let row = Row::of_property(session.cluster(), property);
            lines.add(&row, row.property_cells(), out)?;
        }
        // A page behind which it goes on where it began would go on for ever.
        if page.next.is_none() || page.next == next {
            return lines.finish(out);
        }
        next = page.next;
        read = session.read_on(&query(next.clone()), read.size)?;
    }
}

/// The most rows that a table is laid out for at once; a longer one is written in several, each with its headings.
const MAX_TABLE: usize = 1_000;

/// Prints rows: JSON at once, tables when enough are there to lay them out.
struct Lines<'a> {
    format: Format,
    style: Style,
    columns: &'a [&'a str],
    rows: Vec<Vec<String>>,
}

impl<'a> Lines<'a> {
    fn new(format: Format, style: Style, columns: &'a [&'a str]) -> Self {
        Self { format, style, columns, rows: Vec::new() }
    }

    fn add(&mut self, row: &Row, cells: Vec<String>, out: &mut impl Write) -> Result<(), CliError> {
        if self.format.json {
            return Ok(json_line(out, row)?);
        }
        self.rows.push(cells);
        if self.rows.len() == MAX_TABLE { self.write(out) } else { Ok(()) }
    }

    fn write(&mut self, out: &mut impl Write) -> Result<(), CliError> {
        table(out, self.style, self.columns, &self.rows)?;
        self.rows.clear();
        Ok(())
    }

    fn finish(mut self, out: &mut impl Write) -> Result<(), CliError> {
        if self.rows.is_empty() { Ok(()) } else { self.write(out) }
    }
}
