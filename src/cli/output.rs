//! How results are shown: aligned tables for people, one JSON object a line for programs.
//!
//! A property as JSON has exactly the fields `twin`, `property`, `type`, `value`, `revision`, `quality`, `source_time`,
//! `agreed_time`, `origin`, `position`. `value` is a JSON boolean, number or string; bytes are `hex:` and digits, as they
//! are typed. `origin` is the client's name where the cluster file has one for the key, else the key in base64. A change
//! (of `watch`; `history` has more, see [`crate::trail`]) has `reason` besides; of a deleted property `type` and `value` are null. Times are RFC 3339
//! in UTC, positions `ENTRY.REQUEST`.
//!
//! Control characters of values are escaped, so that nobody who writes a property writes to the reader's terminal.

use std::io::{self, IsTerminal, Write};

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::types::{Code, Position, PublicKey, TimeMs};
use serde::Serialize;
use serde_json::Value as Json;

use super::time::{format_ms, format_ns};
use crate::twin::query::{ChangeSet, Property, PropertyChange};
use crate::twin::value::{Quality, Value};

/// A property, or one change of it, as it is shown.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// `namespace/name`.
    pub twin: String,
    /// The property's path.
    pub property: String,
    /// `bool`, `i64`, `f64`, `text` or `bytes`; null once deleted.
    #[serde(rename = "type")]
    pub kind: Option<&'static str>,
    /// The value; null once deleted.
    pub value: Json,
    /// Its revision.
    pub revision: u64,
    /// `good`, `uncertain`, `bad` or `stale`.
    pub quality: &'static str,
    /// When the source took it.
    pub source_time: Option<String>,
    /// Agreed time of the change.
    pub agreed_time: String,
    /// Who signed it.
    pub origin: String,
    /// Where it stands in the order.
    pub position: String,
    /// Why: a field of changes only.
    #[serde(flatten)]
    pub reason: Option<Reason>,
    /// The value as a table shows it.
    #[serde(skip)]
    text: String,
}

/// The reason of a change; null where none was given.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Reason {
    /// For people.
    pub reason: Option<String>,
}

/// A time as text; a number where no calendar has the date.
pub fn agreed_time(milliseconds: TimeMs) -> String {
    format_ms(milliseconds).unwrap_or_else(|_| milliseconds.to_string())
}

/// A client's name in the cluster file, else its key: names that were registered since stand in the order (`atlas key list`).
pub fn origin_name(cluster: &Cluster, key: &PublicKey) -> String {
    cluster.name_of(key).map_or_else(|| key.to_string(), str::to_owned)
}

/// A value as JSON: bytes are text of `hex:` and digits.
pub fn json_value(value: &Value) -> Json {
    match value {
        Value::Bool(value) => Json::from(*value),
        Value::I64(value) => Json::from(*value),
        Value::F64(value) => Json::from(*value),
        Value::Text(value) => Json::from(value.as_str()),
        Value::Bytes(_) => Json::from(value.to_string()),
    }
}

/// What a property and its change have in common.
struct Facts<'a> {
    value: Option<&'a Value>,
    quality: Quality,
    source_time_ns: Option<i64>,
    time_ms: TimeMs,
    origin: &'a PublicKey,
    position: Position,
}

impl Row {
    fn new(cluster: &Cluster, twin: &str, property: &str, revision: u64, facts: &Facts<'_>) -> Self {
        Self {
            twin: twin.to_owned(),
            property: property.to_owned(),
            kind: facts.value.map(Value::type_name),
            value: facts.value.map_or(Json::Null, json_value),
            revision,
            quality: facts.quality.name(),
            source_time: facts.source_time_ns.map(format_ns),
            agreed_time: agreed_time(facts.time_ms),
            origin: origin_name(cluster, facts.origin),
            position: facts.position.to_string(),
            reason: None,
            text: facts.value.map_or_else(|| "(deleted)".to_owned(), Value::to_string),
        }
    }

    /// The state of a property.
    pub fn of_property(cluster: &Cluster, property: &Property) -> Self {
        let facts = Facts {
            value: Some(&property.value),
            quality: property.quality,
            source_time_ns: property.source_time_ns,
            time_ms: property.time_ms,
            origin: &property.origin,
            position: property.position,
        };
        Self::new(cluster, &property.twin, &property.property, property.revision, &facts)
    }

    /// One change of an operation.
    pub fn of_change(cluster: &Cluster, set: &ChangeSet, change: &PropertyChange) -> Self {
        let facts = Facts {
            value: change.value.as_ref(),
            quality: change.quality,
            source_time_ns: change.source_time_ns,
            time_ms: set.time_ms,
            origin: &set.origin,
            position: set.position,
        };
        let row = Self::new(cluster, &change.twin, &change.property, change.revision, &facts);
        Self { reason: Some(Reason { reason: set.reason.clone() }), ..row }
    }

    /// The value as tables show it, `(deleted)` where there is none.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The cells of [`PROPERTY_COLUMNS`].
    pub fn property_cells(&self) -> Vec<String> {
        let source = self.source_time.as_deref().unwrap_or("-");
        [
            &self.twin,
            &self.property,
            &self.text,
            self.kind.unwrap_or("-"),
            &self.revision.to_string(),
            self.quality,
            source,
            &self.agreed_time,
            &self.origin,
            &self.position,
        ]
        .map(str::to_owned)
        .into()
    }
}

/// The columns of a table of properties.
pub const PROPERTY_COLUMNS: [&str; 10] =
    ["TWIN", "PROPERTY", "VALUE", "TYPE", "REVISION", "QUALITY", "SOURCE TIME", "AGREED TIME", "ORIGIN", "POSITION"];
/// Text of others with its control characters escaped.
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}

/// The widest that a column is made; a longer cell pushes the rest of its line.
const MAX_WIDTH: usize = 48;

/// Writes rows under their headings, each column as wide as its widest cell.
///
/// # Errors
/// Those of `out`.
pub fn table(out: &mut impl Write, style: Style, columns: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().min(MAX_WIDTH).max(*width);
        }
    }
    let headings: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
    writeln!(out, "{}", style.paint(Colour::Bold, &line(&headings, &widths)))?;
    rows.iter().try_for_each(|row| writeln!(out, "{}", line(row, &widths)))
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

/// Writes one JSON object as a line.
///
/// # Errors
/// Those of `out`.
pub fn json_line(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")
}

/// What became of an operation, as JSON.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WriteResult {
    /// Where it stands in the order.
    pub position: String,
    /// The sequence number of its batch.
    pub sequence: u64,
    /// Agreed time.
    pub agreed_time: String,
    /// The outcome's code: 0 is done.
    pub code: u16,
    /// What the code means.
    pub text: &'static str,
    /// What the application says about a refusal; empty where it was carried out.
    pub detail: String,
    /// What changed.
    pub changes: Vec<WrittenChange>,
}

/// A property that an operation changed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WrittenChange {
    /// `namespace/name`; null where the reply does not tell, for a property deleted with its whole twin.
    pub twin: Option<String>,
    /// The property's path; null as above.
    pub property: Option<String>,
    /// Its revision after the change.
    pub revision: u64,
    /// The entry that wrote it before; null for the first write.
    pub previous: Option<u64>,
}

impl WriteResult {
    /// A line for people, then one for each change.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write, style: Style) -> io::Result<()> {
        let colour = if Code(self.code) == Code::DONE { Colour::Green } else { Colour::Red };
        let text = style.paint(colour, self.text);
        writeln!(out, "{text} at {}, agreed {}, sequence {}", self.position, self.agreed_time, self.sequence)?;
        for change in &self.changes {
            match (&change.twin, &change.property) {
                (Some(twin), Some(property)) => writeln!(out, "  {twin} {property} revision {}", change.revision)?,
                _ => writeln!(out, "  one property revision {}", change.revision)?,
            }
        }
        Ok(())
    }
}

/// Whether to colour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Style {
    coloured: bool,
}

/// A colour of the terminal's own palette.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Colour {
    /// The usual colour, bold.
    Bold,
    /// Went well.
    Green,
    /// Did not go well.
    Red,
    /// Wants attention.
    Yellow,
}

impl Style {
    /// No colour.
    pub const PLAIN: Self = Self { coloured: false };

    /// Colour where the stream is a terminal, unless `NO_COLOR` is set to anything or the terminal is `dumb`.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { coloured: stream.is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// The text in the colour, or as it is.
    pub fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Bold => "1",
            Colour::Green => "32",
            Colour::Red => "31",
            Colour::Yellow => "33",
        };
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests;
