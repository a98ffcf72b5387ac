//! Operations and values.

use std::mem::size_of;

use atlas::twin::operation::{
    Comparison, Condition, MAX_CONDITIONS, MAX_REASON, MAX_TARGETS, Operation, SetProperty, Test, Write,
};
use atlas::twin::value::{MAX_VALUE, Quality, Value, ValueRef};
use atlas::twin::view::{Action, ConditionView, OperationView, Target, TestView};
use atlas_dataplane::cbor::{Reader, Writer};

use crate::harness::{Reached, counted, mutated};
use crate::random::Rng;

// ---- Samples ------------------------------------------------------------------------------------------------------------

const TWINS: [&str; 4] = ["farm/a", "farm/b", "farm/c.1", "port/a"];
const PATHS: [&str; 5] = ["p", "q", "q/r", "temp_max", "z-9"];
const QUALITIES: [Quality; 4] = [Quality::Good, Quality::Uncertain, Quality::Bad, Quality::Stale];

pub(crate) fn twin(rng: &mut Rng) -> String {
    TWINS[rng.below(TWINS.len())].to_owned()
}

pub(crate) fn path(rng: &mut Rng) -> String {
    PATHS[rng.below(PATHS.len())].to_owned()
}

pub(crate) fn quality(rng: &mut Rng) -> Quality {
    QUALITIES[rng.below(QUALITIES.len())]
}

pub(crate) fn reason(rng: &mut Rng) -> Option<String> {
    rng.one_in(2).then(|| rng.text(12))
}

pub(crate) fn time(rng: &mut Rng) -> Option<i64> {
    rng.one_in(2).then(|| rng.number() as i64)
}

pub(crate) fn sample_value(rng: &mut Rng) -> Value {
    match rng.below(7) {
        0 => Value::Bool(rng.one_in(2)),
        1 => Value::I64(rng.next() as i64 >> rng.below(64)),
        // One that is a half float, one that takes four bytes, one that takes eight.
        2 => Value::F64(f64::from(rng.next() as i8) / 8.0),
        3 => Value::F64(f64::from(rng.next() as i32 as f32 / 3.0)),
        4 => Value::F64(f64::from_bits(0x3ff1_2345_6789_abcd ^ (rng.next() >> 12))),
        5 => Value::Text(rng.text(20)),
        _ => Value::Bytes(rng.bytes(20)),
    }
}

/// A few of the paths, each once, from `first` on.
fn some_paths(rng: &mut Rng) -> Vec<String> {
    let first = rng.below(PATHS.len());
    let count = 1 + rng.below((PATHS.len() - first).min(3));
    PATHS[first..first + count].iter().map(|path| (*path).to_owned()).collect()
}

fn write_to(rng: &mut Rng, twin: String) -> Write {
    match rng.below(6) {
        0 => Write::Delete { twin, paths: None, reason: reason(rng) },
        1 => Write::Delete { twin, paths: Some(some_paths(rng)), reason: reason(rng) },
        _ => {
            let paths = some_paths(rng).into_iter();
            let mut property =
                |path| SetProperty { path, value: sample_value(rng), quality: quality(rng), source_time_ns: time(rng) };
            let properties = paths.map(&mut property).collect();
            Write::Set { twin, properties, reason: reason(rng) }
        }
    }
}

fn condition(rng: &mut Rng) -> Condition {
    let test = match rng.below(5) {
        0 => Test::Revision(rng.number()),
        1 => Test::Exists,
        2 => Test::Absent,
        _ => Test::Value(Comparison::ALL[rng.below(6)], sample_value(rng)),
    };
    Condition { twin: twin(rng), path: path(rng), test }
}

pub(crate) fn sample_operation(rng: &mut Rng) -> Operation {
    if rng.one_in(2) {
        let twin = twin(rng);
        return Operation::Write(write_to(rng, twin));
    }
    let conditions = rng.list(3, condition);
    // Each twin once, so that no property is written twice.
    let count = 1 + rng.below(TWINS.len());
    let writes = TWINS[..count].iter().map(|twin| write_to(rng, (*twin).to_owned())).collect();
    Operation::Transaction { conditions, writes, reason: reason(rng) }
}

pub(crate) fn operation(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| sample_operation(rng).encode())
}

// ---- Operations ---------------------------------------------------------------------------------------------------------

/// What the lists of an operation take however short their items are: their limits bound it.
const LISTS: usize = MAX_TARGETS * size_of::<Target<'_>>() + MAX_CONDITIONS * size_of::<ConditionView<'_>>();

pub(crate) fn run_operation(input: &[u8]) -> Reached {
    match counted(input.len() + LISTS, || OperationView::decode(input)) {
        Ok(view) => {
            assert!((1..=MAX_TARGETS).contains(&view.targets.len()));
            let rebuilt = if input[1] == 2 { transaction(input, &view) } else { Operation::Write(rebuilt(&view)) };
            assert_eq!(rebuilt.encode(), input, "an accepted operation encodes to other bytes");
            assert!(OperationView::decode(&[input, &[0]].concat()).is_err(), "accepted with a byte too many");
            Reached::Body
        }
        Err(refusal) => {
            assert!(refusal.at <= input.len(), "refused at byte {}", refusal.at);
            if matches!(input, [0x84, 0..=2, ..]) { Reached::Header } else { Reached::Nothing }
        }
    }
}

/// The write that the view of one came from.
fn rebuilt(view: &OperationView<'_>) -> Write {
    let first = &view.targets[0];
    assert!(view.conditions.is_empty());
    assert!(view.targets.iter().all(|target| (target.twin, target.reason) == (first.twin, first.reason)));
    assert!(first.reason.is_none_or(|reason| reason.len() <= MAX_REASON));
    let (twin, reason) = (first.twin.to_owned(), first.reason.map(str::to_owned));
    if first.action == Action::DeleteAll {
        assert_eq!(view.targets.len(), 1);
        return Write::Delete { twin, paths: None, reason };
    }
    let mut properties = Vec::new();
    let mut paths = Vec::new();
    for target in &view.targets {
        match target.action {
            Action::Set { path, value, quality, source_time_ns } => {
                assert!(value.fits());
                let (path, value) = (path.to_owned(), value.to_owned());
                properties.push(SetProperty { path, value, quality, source_time_ns });
            }
            Action::Delete { path } => paths.push(path.to_owned()),
            Action::DeleteAll => panic!("a whole twin among the paths of one"),
        }
    }
    if paths.is_empty() {
        Write::Set { twin, properties, reason }
    } else {
        assert!(properties.is_empty());
        Write::Delete { twin, paths: Some(paths), reason }
    }
}

/// The transaction that a view came from. Which write a target stood in, the view does not say: another decoder finds the
/// writes, and the view of each must be its part of the whole.
fn transaction(input: &[u8], view: &OperationView<'_>) -> Operation {
    let whole = "minicbor reads what was accepted";
    let mut decoder = minicbor::Decoder::new(input);
    assert_eq!((decoder.array().expect(whole), decoder.u8().expect(whole)), (Some(4), 2));
    for _ in 0..decoder.array().expect(whole).expect(whole) {
        decoder.skip().expect(whole);
    }
    let mut parts = Vec::new();
    for _ in 0..decoder.array().expect(whole).expect(whole) {
        let start = decoder.position();
        decoder.skip().expect(whole);
        parts.push(OperationView::decode(&input[start..decoder.position()]).expect("a write is an operation"));
    }
    let reason = decoder.decode::<Option<&str>>().expect(whole);
    let targets = parts.iter().flat_map(|part| &part.targets);
    assert!(
        targets.map(|target| Target { reason: target.reason.or(reason), ..*target }).eq(view.targets.iter().copied())
    );
    Operation::Transaction {
        conditions: view.conditions.iter().map(owned).collect(),
        writes: parts.iter().map(rebuilt).collect(),
        reason: reason.map(str::to_owned),
    }
}

fn owned(condition: &ConditionView<'_>) -> Condition {
    let test = match condition.test {
        TestView::Value(comparison, value) => Test::Value(comparison, value.to_owned()),
        TestView::Revision(revision) => Test::Revision(revision),
        TestView::Exists => Test::Exists,
        TestView::Absent => Test::Absent,
    };
    Condition { twin: condition.twin.to_owned(), path: condition.path.to_owned(), test }
}

// ---- Values -------------------------------------------------------------------------------------------------------------

pub(crate) fn value(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let mut out = Vec::new();
        sample_value(rng).borrowed().encode(&mut Writer(&mut out));
        out
    })
}

pub(crate) fn run_value(input: &[u8]) -> Reached {
    let decoded = counted(input.len(), || {
        let mut reader = Reader::new(input);
        let value = ValueRef::decode(&mut reader)?;
        reader.finish().map(|()| value.to_owned())
    });
    match decoded {
        Ok(value) => {
            let mut again = Vec::new();
            value.borrowed().encode(&mut Writer(&mut again));
            assert_eq!(again, input, "an accepted value encodes to other bytes");
            assert_eq!(value.to_string().parse().as_ref(), Ok(&value), "its text is another value");
            Reached::Body
        }
        Err(error) => {
            assert!(error.at <= input.len());
            // The initial byte is that of an integer, bytes, text, a boolean or a float.
            let is_head = |byte| matches!(byte, 0..=0x3b | 0x40..=0x5b | 0x60..=0x7b | 0xf4 | 0xf5 | 0xf9..=0xfb);
            if input.first().copied().is_some_and(is_head) { Reached::Header } else { Reached::Nothing }
        }
    }
}

/// A value as people type it.
pub(crate) fn text(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| sample_value(rng).to_string().into_bytes())
}

/// The header check of a text is that it is one.
pub(crate) fn run_text(input: &[u8]) -> Reached {
    let Ok(text) = str::from_utf8(input) else { return Reached::Nothing };
    match counted(input.len(), || text.parse::<Value>()) {
        Ok(value) => {
            assert!(value.borrowed().fits() && input.len() <= 6 * MAX_VALUE);
            assert_eq!(value.to_string().parse(), Ok(value), "its text is another value");
            Reached::Body
        }
        Err(_) => Reached::Header,
    }
}
