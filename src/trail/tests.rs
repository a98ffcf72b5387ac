//! Rows as they are written.

use atlas_dataplane::types::{Code, Position, PublicKey};

use super::row::rows_of_record;
use super::*;
use crate::twin::record::{Old, Record, RecordItem, Subject};
use crate::twin::value::{Quality, Value};

const KEY: PublicKey = PublicKey([7; 32]);

pub(super) fn item(property: &str, old: Old, value: Option<Value>) -> RecordItem {
    RecordItem {
        twin: "plant/turbine-1".to_owned(),
        property: Some(property.to_owned()),
        value,
        quality: Quality::Good,
        source_time_ns: None,
        revision: Some(2),
        old,
    }
}

pub(super) fn record(entry: u64, time_ms: i64, code: Code, items: Vec<RecordItem>) -> Record {
    let position = Position { entry, request: 3 };
    let reason = Some("=cmd|' /C calc'!A0".to_owned());
    let subject = if items.is_empty() { Subject::Session } else { Subject::Twins };
    Record { position, time_ms, signed_ms: Some(time_ms - 5), origin: KEY, code, reason, items, subject }
}

pub(super) fn rows(record: &Record, name: &str) -> Vec<Row> {
    let mut names = Names::default();
    names.learn(KEY, name);
    rows_of_record(record, &names)
}

fn written(rows: Vec<Row>, format: Format) -> String {
    let mut out = Vec::new();
    export(rows.into_iter().map(Ok::<_, io::Error>), format, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn sample() -> Vec<Row> {
    let set = item("state", Old::Value(Value::Text("run,ning".into())), Some(Value::Text("say \"stop\"\r\n".into())));
    let negative = item("power", Old::Nothing, Some(Value::I64(-5)));
    let deleted = RecordItem { quality: Quality::Good, ..item("pitch", Old::Unknown, None) };
    let done = record(9, 1_427_766_000_123, Code::DONE, vec![set, negative, deleted]);
    let whole = RecordItem { property: None, revision: None, old: Old::Unknown, ..item("", Old::Unknown, None) };
    let refused = record(10, 1_427_766_001_000, Code::FORBIDDEN, vec![whole]);
    let opened = record(11, 1_427_766_002_000, Code::DONE, vec![]);
    [done, refused, opened].iter().flat_map(|record| rows(record, "Ada, \"the\" first")).collect()
}

/// A reader of RFC 4180 that knows nothing of the writer.
fn parse(text: &str) -> Vec<Vec<String>> {
    let (mut lines, mut line, mut cell, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (quoted, c) {
            (true, '"') if characters.peek() == Some(&'"') => cell.extend(characters.next()),
            (true, '"') => quoted = false,
            (true, c) => cell.push(c),
            (false, '"') => quoted = true,
            (false, ',') => line.push(std::mem::take(&mut cell)),
            (false, '\r') => {
                assert_eq!(characters.next(), Some('\n'));
                line.push(std::mem::take(&mut cell));
                lines.push(std::mem::take(&mut line));
            }
            (false, c) => cell.push(c),
        }
    }
    assert!(!quoted && line.is_empty() && cell.is_empty(), "it ends with a line's end");
    lines
}

#[test]
fn a_csv_gives_back_what_was_written() {
    let lines = parse(&written(sample(), Format::Csv));
    assert!(lines.iter().all(|line| line.len() == csv::HEADER.len()));
    let column = |name: &str| csv::HEADER.iter().position(|column| *column == name).unwrap();
    let cell = |line: usize, name: &str| {
        let cell = &lines[line][column(name)];
        cell.strip_prefix('\'').unwrap_or(cell).to_owned()
    };
    assert_eq!(lines[0], csv::HEADER);
    assert_eq!((lines.len(), cell(1, "position")), (6, "9.3".to_owned()));
    assert_eq!((cell(1, "old_value"), cell(1, "value")), ("run,ning".to_owned(), "say \"stop\"\r\n".to_owned()));
    assert_eq!(
        (cell(1, "agreed_time"), cell(1, "signed_time")),
        ("2015-03-31T01:40:00.123Z".to_owned(), "2015-03-31T01:40:00.118Z".to_owned())
    );
    assert_eq!((cell(1, "origin"), cell(1, "key")), ("Ada, \"the\" first".to_owned(), KEY.to_string()));
    assert_eq!((cell(2, "value"), cell(2, "type"), cell(2, "old_type")), ("-5".into(), "i64".into(), String::new()));
    assert_eq!(
        (cell(3, "action"), cell(3, "old_type"), cell(3, "quality")),
        ("delete".into(), "unknown".into(), String::new())
    );
    assert_eq!(
        (cell(4, "code"), cell(4, "outcome"), cell(4, "property")),
        ("201".into(), "not permitted for this role".into(), String::new())
    );
    assert_eq!((cell(5, "action"), cell(5, "twin")), ("open session".into(), String::new()));
    // No cell begins a formula, whatever was written; numbers are numbers.
    for line in &lines {
        for (cell, name) in line.iter().zip(csv::HEADER) {
            assert!(
                !cell.starts_with(['=', '+', '@', '\t', '\r']) && (!cell.starts_with('-') || name == "value"),
                "{cell}"
            );
        }
    }
    assert_eq!(cell(1, "reason"), "=cmd|' /C calc'!A0");
}

#[test]
fn an_empty_csv_has_its_header() {
    assert_eq!(parse(&written(Vec::new(), Format::Csv)), [csv::HEADER.map(str::to_owned)]);
    assert_eq!(written(Vec::new(), Format::Json), "");
}

#[test]
fn json_has_an_object_a_row() {
    let text = written(sample(), Format::Json);
    let objects: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 5);
    assert_eq!((&objects[0]["old_value"], &objects[0]["value"]), (&"run,ning".into(), &"say \"stop\"\r\n".into()));
    assert_eq!((&objects[1]["value"], &objects[1]["old_type"]), (&(-5).into(), &serde_json::Value::Null));
    assert_eq!((&objects[2]["old_type"], &objects[2]["value"]), (&"unknown".into(), &serde_json::Value::Null));
    assert_eq!((&objects[3]["code"], &objects[3]["revision"]), (&201.into(), &serde_json::Value::Null));
}

#[test]
fn a_table_writes_nothing_to_the_terminal_but_text() {
    let evil = item("state", Old::Nothing, Some(Value::Text("\u{1b}[2Jgone".into())));
    let mut record = record(1, 0, Code::DONE, vec![evil]);
    record.reason = Some("\u{1b}]0;title\u{7}".to_owned());
    let text = written(rows(&record, "eve\u{1b}[31m"), Format::Table);
    assert!(text.contains("REASON") && text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}
