use proptest::prelude::*;

use super::*;
use crate::twin::operation::{Condition, Operation, SetProperty, Test, Write};
use crate::twin::value::Value;

fn property(path: &str, value: Value) -> SetProperty {
    SetProperty { path: path.to_owned(), value, quality: Quality::Good, source_time_ns: None }
}

fn set(twin: &str, properties: Vec<SetProperty>) -> Write {
    Write::Set { twin: twin.to_owned(), properties, reason: None }
}

fn delete(twin: &str, paths: Option<&[&str]>) -> Write {
    let paths = paths.map(|paths| paths.iter().map(|path| (*path).to_owned()).collect());
    Write::Delete { twin: twin.to_owned(), paths, reason: None }
}

fn code_of(operation: &Operation) -> Code {
    OperationView::decode(&operation.encode()).map_or_else(|refusal| refusal.code, |_| Code::DONE)
}

fn write_code(write: Write) -> Code {
    code_of(&Operation::Write(write))
}

fn transaction(conditions: usize, writes: Vec<Write>) -> Operation {
    let condition = Condition { twin: "a/b".into(), path: "p".into(), test: Test::Exists };
    Operation::Transaction { conditions: vec![condition; conditions], writes, reason: None }
}

#[test]
fn the_bytes_are_those_of_the_format() {
    let write = Write::Set {
        twin: "plant/t".into(),
        properties: vec![SetProperty {
            path: "power".into(),
            value: Value::F64(1.5),
            quality: Quality::Stale,
            source_time_ns: Some(-1),
        }],
        reason: Some("why".into()),
    };
    let hex = "840067706c616e742f74818465706f776572f93e00032063776879";
    assert_eq!(data_encoding::HEXLOWER.encode(&Operation::Write(write).encode()), hex);
    let bytes = Operation::Write(delete("a/b", None)).encode();
    assert_eq!(data_encoding::HEXLOWER.encode(&bytes), "840163612f62f6f6");
}

#[test]
fn each_limit_holds_at_its_value_and_refuses_above() {
    let many = |count: usize| (0..count).map(|i| property(&format!("p{i}"), Value::Bool(true))).collect::<Vec<_>>();
    assert_eq!(write_code(set("a/b", many(MAX_TARGETS))), Code::DONE);
    assert_eq!(write_code(set("a/b", many(MAX_TARGETS + 1))), Code::TOO_LARGE);
    let text = |length: usize| set("a/b", vec![property("p", Value::Text("x".repeat(length)))]);
    assert_eq!(write_code(text(4096)), Code::DONE);
    assert_eq!(write_code(text(4097)), Code::TOO_LARGE);
    let bytes = |length: usize| set("a/b", vec![property("p", Value::Bytes(vec![0; length]))]);
    assert_eq!(write_code(bytes(4096)), Code::DONE);
    assert_eq!(write_code(bytes(4097)), Code::TOO_LARGE);
    let reason = |length: usize| Write::Delete { twin: "a/b".into(), paths: None, reason: Some("x".repeat(length)) };
    assert_eq!(write_code(reason(MAX_REASON)), Code::DONE);
    assert_eq!(write_code(reason(MAX_REASON + 1)), Code::TOO_LARGE);
    assert_eq!(code_of(&transaction(MAX_CONDITIONS, vec![delete("a/b", None)])), Code::DONE);
    assert_eq!(code_of(&transaction(MAX_CONDITIONS + 1, vec![delete("a/b", None)])), Code::TOO_LARGE);
    let deletes = |count: usize| (0..count).map(|i| delete(&format!("a/b{i}"), None)).collect();
    assert_eq!(code_of(&transaction(0, deletes(MAX_WRITES))), Code::DONE);
    assert_eq!(code_of(&transaction(0, deletes(MAX_WRITES + 1))), Code::TOO_LARGE);
    let full = |last| transaction(0, vec![set("a/b", many(MAX_TARGETS)), last]);
    assert_eq!(code_of(&full(delete("c/d", None))), Code::TOO_LARGE);
    assert_eq!(code_of(&full(delete("c/d", Some(&["p"])))), Code::TOO_LARGE);
}

#[test]
fn empty_lists_and_repeated_properties_are_malformed() {
    assert_eq!(write_code(set("a/b", vec![])), Code::MALFORMED);
    assert_eq!(write_code(delete("a/b", Some(&[]))), Code::MALFORMED);
    assert_eq!(code_of(&transaction(1, vec![])), Code::MALFORMED);
    assert_eq!(write_code(delete("a/b", Some(&["p", "q", "p"]))), Code::MALFORMED);
    let one = |twin: &str, path: &str| set(twin, vec![property(path, Value::I64(1))]);
    for (writes, code) in [
        (vec![one("a/b", "p"), one("a/b", "q"), one("a/c", "p")], Code::DONE),
        (vec![one("a/b", "p"), one("a/b", "p")], Code::MALFORMED),
        (vec![one("a/b", "p"), delete("a/b", Some(&["p"]))], Code::MALFORMED),
        (vec![one("a/b", "p"), delete("a/b", None)], Code::MALFORMED),
        (vec![delete("a/b", None), delete("a/b", None)], Code::MALFORMED),
        (vec![delete("a/b", None), one("a/c", "p")], Code::DONE),
    ] {
        assert_eq!(code_of(&transaction(0, writes)), code);
    }
}

#[test]
fn names_and_values_have_codes_of_their_own() {
    assert_eq!(write_code(set("ab", vec![property("p", Value::I64(1))])), Code::BAD_NAME);
    assert_eq!(write_code(set("a/b", vec![property("p//q", Value::I64(1))])), Code::BAD_NAME);
    let decode = |hex: &str| {
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        OperationView::decode(&bytes).map_or_else(|refusal| refusal.code, |_| Code::DONE)
    };
    assert_eq!(decode("840063612f62818461700100f6f6"), Code::DONE);
    for (hex, code) in [
        ("840063612f628184617 0f97c0000f6f6", Code::BAD_VALUE), // infinite
        ("840063612f6281846170f97e0000f6f6", Code::BAD_VALUE),  // not a number
        ("840063612f62818461701b800000000000000000f6f6", Code::BAD_VALUE), // above i64
        ("840063612f6281846170f600f6f6", Code::BAD_VALUE),      // null
        ("840063612f6281846170f700f6f6", Code::BAD_VALUE),      // undefined
        ("840063612f62818461708000f6f6", Code::BAD_VALUE),      // an array
        ("840063612f62818461700104f6f6", Code::MALFORMED),      // quality 4
        ("840063612f6281846170180100f6f6", Code::MALFORMED),    // a long head
        ("840063612f62818461700100f6f600", Code::MALFORMED),    // a byte behind
        ("840063612f62818461700100f6", Code::MALFORMED),        // cut short
        ("840363612f62818461700100f6f6", Code::MALFORMED),      // unknown kind
        ("8103", Code::MALFORMED),                              // open session: not ours
        ("", Code::MALFORMED),
        ("8402", Code::MALFORMED),
        ("84028184 63612f62617009 01818401 63612f62f6f6f6", Code::MALFORMED), // comparison 9
        ("8402818463612f6261700701818401 63612f62f6f6f6", Code::MALFORMED),   // exists with a value
    ] {
        assert_eq!(decode(&hex.replace(' ', "")), code, "{hex}");
    }
    assert_eq!(decode("8402818463612f62617007f681840163612f62f6f6f6"), Code::DONE);
}

/// The operation that a view of a plain write came from.
fn rebuilt(view: &OperationView<'_>) -> Operation {
    let first = &view.targets[0];
    let (twin, reason) = (first.twin.to_owned(), first.reason.map(str::to_owned));
    Operation::Write(match first.action {
        Action::Set { .. } => {
            let properties = view.targets.iter().filter_map(|target| match target.action {
                Action::Set { path, value, quality, source_time_ns } => {
                    Some(SetProperty { path: path.to_owned(), value: value.to_owned(), quality, source_time_ns })
                }
                _ => None,
            });
            Write::Set { twin, properties: properties.collect(), reason }
        }
        Action::Delete { .. } => {
            let paths = view.targets.iter().filter_map(Target::path).map(str::to_owned);
            Write::Delete { twin, paths: Some(paths.collect()), reason }
        }
        Action::DeleteAll => Write::Delete { twin, paths: None, reason },
    })
}

fn write() -> impl Strategy<Value = Write> {
    let value = prop_oneof![
        any::<i64>().prop_map(Value::I64),
        any::<bool>().prop_map(Value::Bool),
        (-100i32..100).prop_map(|number| Value::F64(f64::from(number) / 8.0)),
        "[a-z]{0,30}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..30).prop_map(Value::Bytes),
    ];
    let properties = prop::collection::btree_map("[a-z]{1,3}", (value, 0usize..4, any::<Option<i64>>()), 1..5);
    let paths = prop::collection::btree_set("[a-z]{1,3}", 1..5);
    let reason = || prop::option::of("[a-z ]{0,30}");
    prop_oneof![
        (properties, reason()).prop_map(|(properties, reason)| {
            let qualities = [Quality::Good, Quality::Uncertain, Quality::Bad, Quality::Stale];
            let properties = properties.into_iter().map(|(path, (value, quality, source_time_ns))| SetProperty {
                path,
                value,
                quality: qualities[quality],
                source_time_ns,
            });
            Write::Set { twin: "a/b".into(), properties: properties.collect(), reason }
        }),
        (prop::option::of(paths), reason()).prop_map(|(paths, reason)| Write::Delete {
            twin: "a/b".into(),
            paths: paths.map(|paths| paths.into_iter().collect()),
            reason
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_accepted_has_no_other_encoding(write in write(), at: prop::sample::Index, with: u8, kind in 0..4) {
        let operation = Operation::Write(write);
        let mut bytes = operation.encode();
        prop_assert_eq!(rebuilt(&OperationView::decode(&bytes).unwrap()), operation);
        let at = at.index(bytes.len());
        match kind {
            0 => bytes[at] = with,
            1 => bytes.insert(at, with),
            2 => { bytes.remove(at); }
            _ => bytes.truncate(at),
        }
        if let Ok(view) = OperationView::decode(&bytes) && bytes[1] != 2 {
            prop_assert_eq!(rebuilt(&view).encode(), &*bytes);
        }
    }

    #[test]
    fn mutated_transactions_never_panic(writes in prop::collection::vec(write(), 1..4), at: prop::sample::Index, with: u8) {
        let mut bytes = transaction(2, writes).encode();
        let at = at.index(bytes.len());
        bytes[at] = with;
        if let Ok(view) = OperationView::decode(&bytes) {
            prop_assert!(!view.targets.is_empty() && view.targets.len() <= MAX_TARGETS);
        }
    }
}
