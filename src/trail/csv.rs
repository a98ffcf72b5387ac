//! Rows as CSV (RFC 4180), safe to open in a spreadsheet; the module above has the rules.

use std::io::{self, Write};

use super::row::Row;
use crate::cli::output::agreed_time;
use crate::cli::time::format_ns;
use crate::twin::record::Old;
use crate::twin::value::Value;

/// The columns.
pub const HEADER: [&str; 19] = [
    "position",
    "agreed_time",
    "signed_time",
    "source_time",
    "certified_time",
    "origin",
    "key",
    "action",
    "twin",
    "property",
    "old_type",
    "old_value",
    "type",
    "value",
    "quality",
    "revision",
    "code",
    "outcome",
    "reason",
];

/// Writes the header.
///
/// # Errors
/// Those of the output.
pub fn header(out: &mut impl Write) -> io::Result<()> {
    write!(out, "{}\r\n", HEADER.join(","))
}

/// Writes a row.
///
/// # Errors
/// Those of the output.
pub fn line(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let time = |time: Option<i64>| time.map(agreed_time).unwrap_or_default();
    let (old_type, old_value) = match &row.old {
        Old::Unknown => ("unknown", String::new()),
        Old::Nothing => ("", String::new()),
        Old::Value(value) => (value.type_name(), cell_of(value)),
    };
    let value = row.value.as_ref();
    let cells: [String; HEADER.len()] = [
        row.position.to_string(),
        agreed_time(row.agreed_ms),
        time(row.signed_ms),
        row.source_ns.map(format_ns).unwrap_or_default(),
        time(row.certified_ms),
        text(&row.who()),
        text(&row.key.to_string()),
        row.action.name().to_owned(),
        text(row.twin.as_deref().unwrap_or_default()),
        text(row.property.as_deref().unwrap_or_default()),
        old_type.to_owned(),
        old_value,
        value.map_or("", Value::type_name).to_owned(),
        value.map(cell_of).unwrap_or_default(),
        row.quality.map_or("", |quality| quality.name()).to_owned(),
        row.revision.map(|revision| revision.to_string()).unwrap_or_default(),
        row.code.0.to_string(),
        row.code.text().to_owned(),
        text(row.reason.as_deref().unwrap_or_default()),
    ];
    write!(out, "{}\r\n", cells.join(","))
}

/// A value's cell: a text as it is, all else as it is typed.
fn cell_of(value: &Value) -> String {
    match value {
        Value::Text(value) => text(value),
        Value::Bool(_) | Value::I64(_) | Value::F64(_) | Value::Bytes(_) => value.to_string(),
    }
}

/// A text of others as a cell: no spreadsheet takes it for a formula, and quotes stand where they must.
fn text(text: &str) -> String {
    // The wide forms are taken for the others where the language is Japanese or Chinese.
    let is_risky =
        text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '\'', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}']);
    let guarded = if is_risky { format!("'{text}") } else { text.to_owned() };
    if guarded.contains([',', '"', '\r', '\n']) { format!("\"{}\"", guarded.replace('"', "\"\"")) } else { guarded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_where_it_must_be() {
        for (given, cell) in [
            ("", ""),
            ("plain text", "plain text"),
            ("a,b", "\"a,b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\r\nlines", "\"two\r\nlines\""),
            ("=1+1", "'=1+1"),
            ("+33 1", "'+33 1"),
            ("-5", "'-5"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\tx", "'\tx"),
            ("'quoted", "''quoted"),
            ("=HYPERLINK(\"http://x\",1)", "\"'=HYPERLINK(\"\"http://x\"\",1)\""),
            ("\u{ff1d}1", "'\u{ff1d}1"),
            ("1=1", "1=1"),
        ] {
            assert_eq!(text(given), cell, "{given:?}");
        }
    }

    #[test]
    fn only_texts_are_guarded() {
        assert_eq!(cell_of(&Value::I64(-5)), "-5");
        assert_eq!(cell_of(&Value::F64(-0.5)), "-0.5");
        assert_eq!(cell_of(&Value::Text("-5".into())), "'-5");
        assert_eq!(cell_of(&Value::Text("5".into())), "5");
        assert_eq!(cell_of(&Value::Bytes(vec![0, 255])), "hex:00ff");
    }
}
