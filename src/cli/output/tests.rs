use std::path::Path;

use atlas_dataplane::cluster::init::{InitOptions, init};
use serde_json::json;

use super::*;

struct Fixture {
    cluster: Cluster,
    gateway: PublicKey,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let summary = init(&dir.path().join("cluster"), &InitOptions::new(1_427_760_000_000)).unwrap();
    let cluster = Cluster::load(Path::new(&summary.cluster_file)).unwrap();
    let gateway = cluster.clients().iter().find(|client| client.name == "gateway").unwrap().key;
    Fixture { cluster, gateway }
}

fn property(origin: PublicKey, value: Value) -> Property {
    Property {
        twin: "plant/turbine-1".to_owned(),
        property: "power".to_owned(),
        value,
        revision: 7,
        quality: Quality::Uncertain,
        source_time_ns: Some(1_427_760_000_000_000_001),
        time_ms: 1_427_760_000_250,
        origin,
        position: Position { entry: 1042, request: 3 },
    }
}

#[test]
fn a_property_has_exactly_the_promised_fields() {
    let Fixture { cluster, gateway } = fixture();
    let row = Row::of_property(&cluster, &property(gateway, Value::F64(37.0)));
    let expected = r#"{"twin":"plant/turbine-1","property":"power","type":"f64","value":37.0,"revision":7,"quality":"uncertain","source_time":"2015-03-31T00:00:00.000000001Z","agreed_time":"2015-03-31T00:00:00.250Z","origin":"gateway","position":"1042.3"}"#;
    assert_eq!(serde_json::to_string(&row).unwrap(), expected);
}

#[test]
fn values_keep_their_type_and_strangers_their_key() {
    let Fixture { cluster, .. } = fixture();
    let stranger = PublicKey([7; 32]);
    let cases = [
        (Value::Bool(true), "bool", json!(true)),
        (Value::I64(i64::MIN), "i64", json!(i64::MIN)),
        (Value::F64(-0.5), "f64", json!(-0.5)),
        (Value::Text("a\"b\n".to_owned()), "text", json!("a\"b\n")),
        (Value::Bytes(vec![0, 255]), "bytes", json!("hex:00ff")),
    ];
    for (value, kind, shown) in cases {
        let row = serde_json::to_value(Row::of_property(&cluster, &property(stranger, value))).unwrap();
        assert_eq!((&row["type"], &row["value"]), (&json!(kind), &shown));
        assert_eq!(row["origin"], json!(stranger.to_string()));
    }
}

#[test]
fn a_change_adds_its_reason_and_a_delete_has_no_value() {
    let Fixture { cluster, gateway } = fixture();
    let change = PropertyChange {
        twin: "plant/turbine-1".to_owned(),
        property: "power".to_owned(),
        value: None,
        quality: Quality::Good,
        source_time_ns: None,
        revision: 8,
    };
    let set = ChangeSet {
        position: Position { entry: 5, request: 0 },
        time_ms: 0,
        origin: gateway,
        reason: Some("retired\x1b[2J".to_owned()),
        changes: vec![change.clone()],
    };
    let row = Row::of_change(&cluster, &set, &change);
    let json = serde_json::to_value(&row).unwrap();
    assert_eq!((&json["type"], &json["value"], &json["source_time"]), (&Json::Null, &Json::Null, &Json::Null));
    assert_eq!(json["reason"], json!("retired\u{1b}[2J"));
    assert_eq!((row.text(), printable("retired\x1b[2J").as_str()), ("(deleted)", "retired\\u{1b}[2J"));
    let unexplained = Row::of_change(&cluster, &ChangeSet { reason: None, ..set }, &change);
    assert_eq!(serde_json::to_value(&unexplained).unwrap()["reason"], Json::Null);
}

#[test]
fn a_table_aligns_and_ends_lines_without_blanks() {
    let rows = vec![vec!["plant/turbine-1".to_owned(), "-".to_owned()], vec!["é".to_owned(), "12".to_owned()]];
    let mut out = Vec::new();
    table(&mut out, Style::PLAIN, &["TWIN", "N"], &rows).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "TWIN             N\nplant/turbine-1  -\né                12\n");
    let mut out = Vec::new();
    table(&mut out, Style { coloured: true }, &["TWIN"], &[]).unwrap();
    assert_eq!(out, b"\x1b[1mTWIN\x1b[0m\n");
}

#[test]
fn a_result_is_a_line_and_a_line_for_each_change() {
    let change = |name: Option<&str>| WrittenChange {
        twin: name.map(|_| "plant/t".to_owned()),
        property: name.map(str::to_owned),
        revision: 2,
        previous: Some(9),
    };
    let result = WriteResult {
        position: "10.0".to_owned(),
        sequence: 4,
        agreed_time: agreed_time(0),
        code: 0,
        text: Code::DONE.text(),
        detail: String::new(),
        changes: vec![change(Some("power")), change(None)],
    };
    let mut out = Vec::new();
    result.print(&mut out, Style::PLAIN).unwrap();
    let expected = "done at 10.0, agreed 1970-01-01T00:00:00.000Z, sequence 4\n  plant/t power revision 2\n  one \
                    property revision 2\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    json_line(&mut out, &result).unwrap();
    let expected = "{\"position\":\"10.0\",\"sequence\":4,\"agreed_time\":\"1970-01-01T00:00:00.000Z\",\"code\":0,\
                    \"text\":\"done\",\"detail\":\"\",\"changes\":[{\"twin\":\"plant/t\",\"property\":\"power\",\
                    \"revision\":2,\"previous\":9},{\"twin\":null,\"property\":null,\"revision\":2,\"previous\":9}]}\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_date_beyond_the_calendar_is_a_number() {
    assert_eq!(agreed_time(i64::MAX), i64::MAX.to_string());
}
