//! Rows as JSON, one object a line; the module above has the fields.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value as Json;

use super::row::Row;
use crate::cli::output::{agreed_time, json_line, json_value};
use crate::cli::time::format_ns;
use crate::twin::record::Old;
use crate::twin::value::Value;

#[derive(Serialize)]
struct Object<'a> {
    position: String,
    agreed_time: String,
    signed_time: Option<String>,
    source_time: Option<String>,
    certified_time: Option<String>,
    origin: String,
    key: String,
    action: &'static str,
    twin: Option<&'a str>,
    property: Option<&'a str>,
    old_type: Option<&'static str>,
    old_value: Json,
    #[serde(rename = "type")]
    kind: Option<&'static str>,
    value: Json,
    quality: Option<&'static str>,
    revision: Option<u64>,
    code: u16,
    outcome: &'static str,
    reason: Option<&'a str>,
}

/// Writes a row.
///
/// # Errors
/// Those of the output.
pub fn line(out: &mut impl Write, row: &Row) -> io::Result<()> {
    let (old_type, old_value) = match &row.old {
        Old::Unknown => (Some("unknown"), Json::Null),
        Old::Nothing => (None, Json::Null),
        Old::Value(value) => (Some(value.type_name()), json_value(value)),
    };
    let object = Object {
        position: row.position.to_string(),
        agreed_time: agreed_time(row.agreed_ms),
        signed_time: row.signed_ms.map(agreed_time),
        source_time: row.source_ns.map(format_ns),
        certified_time: row.certified_ms.map(agreed_time),
        origin: row.who(),
        key: row.key.to_string(),
        action: row.action.name(),
        twin: row.twin.as_deref(),
        property: row.property.as_deref(),
        old_type,
        old_value,
        kind: row.value.as_ref().map(Value::type_name),
        value: row.value.as_ref().map_or(Json::Null, json_value),
        quality: row.quality.map(|quality| quality.name()),
        revision: row.revision,
        code: row.code.0,
        outcome: row.code.text(),
        reason: row.reason.as_deref(),
    };
    json_line(out, &object)
}
