//! Is what the store remembers what the file says? Row by row, as text, in both directions.
//!
//! [`Book::add`] takes what `history` says about each measured property; [`Book::compare`] then writes every row anew from
//! that and compares it with the file's own text. A value that is lost, changed, doubled, out of order, deleted, signed by
//! another identity, or that nobody measured, is a [`Mismatch`].

use std::collections::BTreeMap;

use atlas_dataplane::types::PublicKey;

use super::data::{COLUMNS, Row, cell_text};
use crate::cli::output::printable;
use crate::cli::time::format_ns;
use crate::twin::query::{ChangeSet, PropertyChange};
use crate::twin::value::{Quality, Value};

/// Why what was read is not what the file has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Mismatch {
    /// A change that the replay did not make: another type, quality, source or signer.
    #[error("{twin} {property} at {position}: {what}")]
    Foreign {
        /// The twin.
        twin: String,
        /// The property.
        property: String,
        /// Where it stands in the order.
        position: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A row reads otherwise.
    #[error("line {line}: the file has {expected:?}, the store {found:?}")]
    Differs {
        /// Its line in the file.
        line: usize,
        /// The measured cells in the file.
        expected: String,
        /// The same from the store.
        found: String,
    },
    /// The store has a measurement that the file has not.
    #[error("the store has values of {turbine} at {time} that the file has not")]
    Unexpected {
        /// The turbine.
        turbine: String,
        /// When.
        time: String,
    },
}

/// How much was compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compared {
    /// Rows.
    pub rows: usize,
    /// Cells, the empty ones included.
    pub cells: usize,
}

/// What was read, by turbine and time.
#[derive(Clone, Debug)]
pub struct Book {
    gateway: PublicKey,
    cells: BTreeMap<(String, i64), [Option<f64>; COLUMNS.len()]>,
}

impl Book {
    /// An empty one, for what `gateway` has signed.
    pub fn new(gateway: PublicKey) -> Self {
        Self { gateway, cells: BTreeMap::new() }
    }

    /// Takes the whole history of one measured property, newest first as `history` gives it.
    ///
    /// # Errors
    /// [`Mismatch::Foreign`].
    pub fn add(&mut self, turbine: &str, property: &str, newest_first: &[ChangeSet]) -> Result<(), Mismatch> {
        let mut last = None;
        let mut revision = 0;
        for set in newest_first.iter().rev() {
            for change in &set.changes {
                revision += 1;
                let place = self.place(turbine, property, set, change, revision, last);
                let (time, column, value) = place.map_err(|what| Mismatch::Foreign {
                    twin: printable(&change.twin),
                    property: printable(&change.property),
                    position: set.position.to_string(),
                    what,
                })?;
                last = Some(time);
                let cells = self.cells.entry((turbine.to_owned(), time)).or_default();
                if let Some(cell) = cells.get_mut(column) {
                    *cell = Some(value);
                }
            }
        }
        Ok(())
    }

    /// Where a change belongs: its time, column and value.
    fn place(
        &self,
        turbine: &str,
        property: &str,
        set: &ChangeSet,
        change: &PropertyChange,
        revision: u64,
        last: Option<i64>,
    ) -> Result<(i64, usize, f64), &'static str> {
        let column = COLUMNS.iter().position(|column| column.property == property).ok_or("not a measured property")?;
        let time = change.source_time_ns.ok_or("no source time")?;
        let Some(Value::F64(value)) = change.value else { return Err("not a float") };
        if change.twin != super::plan::twin(turbine) || change.property != property {
            return Err("not the property that was asked for");
        }
        if set.origin != self.gateway {
            return Err("not signed by the gateway");
        }
        if change.quality != Quality::Good {
            return Err("not of good quality");
        }
        if change.revision != revision {
            return Err("a revision is missing");
        }
        if last.is_some_and(|last| last >= time) {
            return Err("source times do not rise");
        }
        Ok((time, column, value))
    }

    /// Compares with the file that `rows` were parsed from.
    ///
    /// # Errors
    /// The first [`Mismatch`].
    pub fn compare(mut self, file: &str, rows: &[Row<'_>]) -> Result<Compared, Mismatch> {
        let lines: Vec<&str> = file.lines().collect();
        for row in rows {
            let read = self.cells.remove(&(row.turbine.to_owned(), row.source_time_ns)).unwrap_or_default();
            let found = read.map(cell_text).join(",");
            let line = row.line.checked_sub(1).and_then(|index| lines.get(index)).copied().unwrap_or_default();
            // Behind the turbine and the time, which are the key that the cells were found by.
            let expected = line.splitn(3, ',').nth(2).unwrap_or_default();
            if found != expected {
                return Err(Mismatch::Differs { line: row.line, expected: expected.to_owned(), found });
            }
        }
        match self.cells.pop_first() {
            None => Ok(Compared { rows: rows.len(), cells: rows.len() * COLUMNS.len() }),
            Some(((turbine, time), _)) => Err(Mismatch::Unexpected { turbine, time: format_ns(time) }),
        }
    }
}

#[cfg(test)]
mod tests;
