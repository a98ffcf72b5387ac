//! The day of the La Haute Borne wind farm that the demonstration replays: ten-minute means of four turbines.
//!
//! The file is part of the program; `data/la-haute-borne/README.md` has its source, licence and attribution, which
//! [`ATTRIBUTION`] repeats for wherever the data are shown. Parsing is strict: the header, the number of cells, every
//! number and every time must be right, or the error names the line. Numbers are binary64 and written back by
//! [`cell_text`] exactly as the file has them, which is how a demonstration shows that nothing was lost.

use std::str::FromStr;

use crate::cli::time::{TimeError, parse_ns};

/// 31 March 2015, from 00:00 UTC on, all four turbines: 576 rows.
pub const LA_HAUTE_BORNE: &str = include_str!("../../data/la-haute-borne/la-haute-borne-2015-03-31.csv");

/// To be shown with the data, as their licence (Licence Ouverte 2.0) asks.
pub const ATTRIBUTION: &str =
    "ENGIE - original data downloaded from opendata-renewables.engie.com, updated on 9 October 2019";

/// The most rows a file may have.
pub const MAX_ROWS: usize = 100_000;

/// A measured column: what the file calls it, the property it becomes, and its unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Column {
    /// Name in the file's header.
    pub cell: &'static str,
    /// Path of the property in a turbine's twin.
    pub property: &'static str,
    /// Unit of the value.
    pub unit: &'static str,
}

/// The measured columns in the file's order, which is that of [`Row::values`].
pub const COLUMNS: [Column; 7] = [
    Column { cell: "Ba_avg", property: "pitch", unit: "deg" },
    Column { cell: "P_avg", property: "power", unit: "kW" },
    Column { cell: "Ws_avg", property: "wind_speed", unit: "m/s" },
    Column { cell: "Va_avg", property: "vane_position", unit: "deg" },
    Column { cell: "Ot_avg", property: "outdoor_temperature", unit: "deg C" },
    Column { cell: "Ya_avg", property: "nacelle_angle", unit: "deg" },
    Column { cell: "Wa_avg", property: "wind_direction", unit: "deg" },
];

/// The header's first two cells, before those of [`COLUMNS`].
const KEYS: [&str; 2] = ["Wind_turbine_name", "Date_time"];

/// One turbine's means over ten minutes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Row<'a> {
    /// The turbine's name, such as `R80790`: ASCII letters and digits.
    pub turbine: &'a str,
    /// When it was measured, by the farm's clock: nanoseconds since the Unix epoch, UTC.
    pub source_time_ns: i64,
    /// One value for each of [`COLUMNS`], all finite; `None` where the file has no value.
    pub values: [Option<f64>; COLUMNS.len()],
    /// The line in the file, from 1 for the header.
    pub line: usize,
}

impl Row<'_> {
    /// The values that there are, with their columns.
    pub fn measured(&self) -> impl Iterator<Item = (Column, f64)> {
        COLUMNS.into_iter().zip(self.values).filter_map(|(column, value)| Some((column, value?)))
    }
}

/// Why a file of measurements was refused; lines count from 1, the header.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DataError {
    /// Another header, hence other columns or another order.
    #[error("line 1: the header must be the turbine, the time and the {} known columns in their order", COLUMNS.len())]
    Header,
    /// Too few or too many cells.
    #[error("line {line}: {found} cells where {} are due", KEYS.len() + COLUMNS.len())]
    Cells {
        /// Where.
        line: usize,
        /// How many there are.
        found: usize,
    },
    /// A turbine's name is empty or not of ASCII letters and digits.
    #[error("line {line}: a turbine's name is made of ASCII letters and digits")]
    Turbine {
        /// Where.
        line: usize,
    },
    /// A time is not RFC 3339.
    #[error("line {line}: {error}")]
    Time {
        /// Where.
        line: usize,
        /// What is wrong with it.
        #[source]
        error: TimeError,
    },
    /// A cell is neither empty nor a finite number.
    #[error("line {line}, column {column}: not a finite number")]
    Number {
        /// Where.
        line: usize,
        /// The column's name in the file.
        column: &'static str,
    },
    /// A turbine has two rows for one time.
    #[error("line {line}: line {earlier} has this turbine and time already")]
    Duplicate {
        /// Where.
        line: usize,
        /// The row before it.
        earlier: usize,
    },
    /// More than [`MAX_ROWS`].
    #[error("more than {MAX_ROWS} rows")]
    TooLong,
}

/// Reads a file of measurements; the rows come in the order of time, those of one time by turbine.
///
/// # Errors
/// [`DataError`] for the first line that is not as it should be.
pub fn parse(csv: &str) -> Result<Vec<Row<'_>>, DataError> {
    let mut lines = csv.lines();
    let header = lines.next().unwrap_or_default();
    if !header.split(',').eq(KEYS.into_iter().chain(COLUMNS.map(|column| column.cell))) {
        return Err(DataError::Header);
    }
    let mut rows = Vec::new();
    for (index, text) in lines.enumerate() {
        if index == MAX_ROWS {
            return Err(DataError::TooLong);
        }
        rows.push(parse_row(text, index + 2)?);
    }
    rows.sort_by_key(|row| (row.source_time_ns, row.turbine, row.line));
    for pair in rows.windows(2) {
        if let [first, second] = pair
            && (first.source_time_ns, first.turbine) == (second.source_time_ns, second.turbine)
        {
            return Err(DataError::Duplicate { line: second.line, earlier: first.line });
        }
    }
    Ok(rows)
}

fn parse_row(text: &str, line: usize) -> Result<Row<'_>, DataError> {
    let found = text.split(',').count();
    if found != KEYS.len() + COLUMNS.len() {
        return Err(DataError::Cells { line, found });
    }
    let mut cells = text.split(',');
    let turbine = cells.next().unwrap_or_default();
    if turbine.is_empty() || !turbine.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(DataError::Turbine { line });
    }
    let time = cells.next().unwrap_or_default();
    let source_time_ns = parse_ns(time).map_err(|error| DataError::Time { line, error })?;
    let mut values = [None; COLUMNS.len()];
    for ((value, column), cell) in values.iter_mut().zip(COLUMNS).zip(cells) {
        if !cell.is_empty() {
            let number = f64::from_str(cell).ok().filter(|number| number.is_finite());
            *value = Some(number.ok_or(DataError::Number { line, column: column.cell })?);
        }
    }
    Ok(Row { turbine, source_time_ns, values, line })
}

/// A value as the file writes it: the shortest decimal that reads back as the same number, always with a point.
pub fn cell_text(value: Option<f64>) -> String {
    value.map(|number| format!("{number:?}")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
