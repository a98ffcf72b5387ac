//! The naive model: a sorted list of properties, a log of changes, and a history written with another CBOR encoder.

use std::borrow::Cow;
use std::collections::BTreeMap;

use atlas_dataplane::state::{Answer, Application, Entries, OperationContext, Outcome};
use atlas_dataplane::types::{Code, EntryIndex, Position, PublicKey, TimeMs};
use minicbor::Encoder;
use minicbor::data::Tag;

use crate::twin::TwinStore;
use crate::twin::operation::{Comparison, Condition, Operation, Test, Write};
use crate::twin::query::Query;
use crate::twin::value::{Quality, Value};

/// One property, alive or deleted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub(super) slot: u64,
    pub(super) value: Option<Value>,
    pub(super) revision: u64,
    pub(super) quality: Quality,
    pub(super) source: Option<i64>,
    pub(super) origin: PublicKey,
    pub(super) time: TimeMs,
    pub(super) position: Position,
}

/// One change, in the order in which it was made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Logged {
    pub(super) position: Position,
    pub(super) time: TimeMs,
    pub(super) origin: PublicKey,
    pub(super) twin: String,
    pub(super) path: String,
    pub(super) value: Option<Value>,
    pub(super) quality: Quality,
    pub(super) source: Option<i64>,
    pub(super) reason: Option<String>,
    pub(super) revision: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) cells: BTreeMap<(String, String), Cell>,
    pub(super) log: Vec<Logged>,
    max: usize,
}

/// The identity that may not write twins whose names end in `locked`.
pub(super) const GUEST: PublicKey = PublicKey([9; 32]);

pub(super) fn may_write(origin: &PublicKey, twin: &str) -> bool {
    *origin != GUEST || !twin.ends_with("locked")
}

fn number(value: &Value) -> Option<Result<i64, f64>> {
    match value {
        Value::I64(int) => Some(Ok(*int)),
        Value::F64(float) => Some(Err(*float)),
        _ => None,
    }
}

/// Small test numbers only: exact as floats.
fn order(a: &Value, b: &Value) -> Option<std::cmp::Ordering> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => {
            let float = |value: &Value| number(value).map(|number| number.map_or_else(|float| float, |int| int as f64));
            float(a)?.partial_cmp(&float(b)?)
        }
    }
}

impl Model {
    fn alive(&self, twin: &str) -> Vec<String> {
        let cells = self.cells.iter().filter(|((name, _), cell)| name == twin && cell.value.is_some());
        cells.map(|((_, path), _)| path.clone()).collect()
    }

    fn holds(&self, condition: &Condition) -> bool {
        let cell = self.cells.get(&(condition.twin.clone(), condition.path.clone()));
        let value = cell.and_then(|cell| cell.value.as_ref());
        match &condition.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Revision(revision) => cell.map_or(0, |cell| cell.revision) == *revision,
            Test::Value(comparison, expected) => {
                let order = value.and_then(|value| order(value, expected));
                match comparison {
                    Comparison::Equal => order == Some(std::cmp::Ordering::Equal),
                    Comparison::NotEqual => order != Some(std::cmp::Ordering::Equal),
                    Comparison::Less => order == Some(std::cmp::Ordering::Less),
                    Comparison::Greater => order == Some(std::cmp::Ordering::Greater),
                    Comparison::LessOrEqual => order.is_some() && order != Some(std::cmp::Ordering::Greater),
                    Comparison::GreaterOrEqual => order.is_some() && order != Some(std::cmp::Ordering::Less),
                }
            }
        }
    }

    /// Executes on a copy; the copy counts only where nothing was refused. Gives (path, revision, previous) per change.
    fn execute(&mut self, at: &At, operation: &Operation) -> Result<Vec<(u64, u64, Option<u64>)>, Code> {
        let nothing: (&[Condition], &[Write], Option<&String>) = match operation {
            Operation::Write(write) => (&[], std::slice::from_ref(write), None),
            Operation::Transaction { conditions, writes, reason } => (conditions, writes, reason.as_ref()),
        };
        let (conditions, writes, outer) = nothing;
        for write in writes {
            let (Write::Set { twin, .. } | Write::Delete { twin, .. }) = write;
            let writes_something = match write {
                Write::Delete { paths: None, .. } => !self.alive(twin).is_empty(),
                _ => true,
            };
            if writes_something && !may_write(&at.origin, twin) {
                return Err(Code::FORBIDDEN);
            }
        }
        if !conditions.iter().all(|condition| self.holds(condition)) {
            return Err(Code::CONDITION_FAILED);
        }
        let mut copy = self.clone();
        let mut changes = Vec::new();
        let mut target = 0;
        for write in writes {
            match write {
                Write::Set { twin, properties, reason } => {
                    for p in properties {
                        let value = (p.value.clone(), p.quality, p.source_time_ns);
                        let reason = reason.as_ref().or(outer);
                        changes.push(copy.put(at, twin, &p.path, Some(value), reason, target)?);
                        target += 1;
                    }
                }
                Write::Delete { twin, paths, reason } => {
                    let alive = copy.alive(twin);
                    if alive.is_empty() {
                        return Err(Code::UNKNOWN_TWIN);
                    }
                    let reason = reason.as_ref().or(outer);
                    for path in paths.as_ref().unwrap_or(&alive) {
                        if !alive.contains(path) {
                            return Err(Code::UNKNOWN_PROPERTY);
                        }
                        let slot = copy.cells[&(twin.clone(), path.clone())].slot;
                        let label = if paths.is_some() { target } else { 256 + slot };
                        changes.push(copy.put(at, twin, path, None, reason, label)?);
                        target += u64::from(paths.is_some());
                    }
                    target += u64::from(paths.is_none());
                }
            }
        }
        if copy.cells.len() > self.max {
            return Err(Code::STORE_FULL);
        }
        *self = copy;
        Ok(changes)
    }

    fn put(
        &mut self,
        at: &At,
        twin: &str,
        path: &str,
        new: Option<(Value, Quality, Option<i64>)>,
        reason: Option<&String>,
        label: u64,
    ) -> Result<(u64, u64, Option<u64>), Code> {
        let key = (twin.to_owned(), path.to_owned());
        let slot = self.cells.len() as u64;
        let old = self.cells.get(&key).cloned();
        let written = new.as_ref().map(|new| new.0.clone());
        let (mut value, quality, source) = match new {
            Some((value, quality, source)) => (Some(value), quality, source),
            None => (None, Quality::Good, None),
        };
        if let (Some(new), Some(Some(old))) = (&mut value, old.as_ref().map(|old| &old.value)) {
            if let (Value::I64(int), Value::F64(_)) = (&*new, old) {
                if (*int as f64) as i128 != i128::from(*int) {
                    return Err(Code::TYPE_CONFLICT);
                }
                *new = Value::F64(*int as f64);
            }
            if std::mem::discriminant(&*new) != std::mem::discriminant(old) {
                return Err(Code::TYPE_CONFLICT);
            }
        }
        let cell = Cell {
            slot: old.as_ref().map_or(slot, |old| old.slot),
            value,
            revision: old.as_ref().map_or(1, |old| old.revision + 1),
            quality,
            source,
            origin: at.origin,
            time: at.time,
            position: at.position,
        };
        let change = (label, cell.revision, old.map(|old| old.position.entry));
        self.log.push(Logged {
            position: at.position,
            time: at.time,
            origin: at.origin,
            twin: key.0.clone(),
            path: key.1.clone(),
            value: written,
            quality,
            source,
            reason: reason.cloned(),
            revision: cell.revision,
        });
        self.cells.insert(key, cell);
        Ok(change)
    }

    /// The slot leaves by number, encoded by another encoder.
    pub(super) fn leaves(&self) -> Vec<Vec<u8>> {
        let mut leaves = vec![Vec::new(); self.cells.len()];
        for ((twin, path), cell) in &self.cells {
            leaves[cell.slot as usize] = leaf(twin, path, cell);
        }
        leaves
    }

    pub(super) fn leaves_by_name(&self) -> Vec<Vec<u8>> {
        self.cells.iter().map(|((twin, path), cell)| leaf(twin, path, cell)).collect()
    }
}

fn leaf(twin: &str, path: &str, cell: &Cell) -> Vec<u8> {
    let mut e = Encoder::new(Vec::new());
    e.array(12).unwrap().str("atlas-slot/1").unwrap().u64(cell.slot).unwrap().str(twin).unwrap().str(path).unwrap();
    e.u64(cell.revision).unwrap().u64(cell.position.entry).unwrap().u16(cell.position.request).unwrap();
    e.i64(cell.time).unwrap();
    match cell.source {
        None => e.null().unwrap(),
        Some(source) => e.i64(source).unwrap(),
    };
    e.bytes(&cell.origin.0).unwrap().u8(cell.quality as u8).unwrap();
    match &cell.value {
        None => e.undefined().unwrap(),
        Some(Value::Bool(value)) => e.bool(*value).unwrap(),
        Some(Value::I64(value)) => e.i64(*value).unwrap(),
        Some(Value::F64(value)) => {
            if f64::from(half::f16::from_f64(*value)) == *value {
                e.f16(*value as f32).unwrap()
            } else if f64::from(*value as f32) == *value {
                e.f32(*value as f32).unwrap()
            } else {
                e.f64(*value).unwrap()
            }
        }
        Some(Value::Text(value)) => e.str(value).unwrap(),
        Some(Value::Bytes(value)) => e.bytes(value).unwrap(),
    };
    e.into_writer()
}

#[derive(Clone, Copy)]
struct At {
    position: Position,
    time: TimeMs,
    origin: PublicKey,
}

/// Entry bytes with their agreed times.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(pub(super) Vec<(TimeMs, Vec<u8>)>);

impl Entries for Log {
    fn size(&self) -> EntryIndex {
        self.0.len() as u64
    }

    fn entry(&self, index: EntryIndex) -> Option<Cow<'_, [u8]>> {
        self.0.get(index as usize).map(|(_, bytes)| Cow::Borrowed(bytes.as_slice()))
    }

    fn first_at_or_after(&self, time_ms: TimeMs) -> EntryIndex {
        self.0.partition_point(|(time, _)| *time < time_ms) as u64
    }
}

/// Store and model side by side; entry 0 stands for the genesis.
pub(super) struct World {
    pub(super) store: TwinStore,
    pub(super) model: Model,
    pub(super) log: Log,
}

impl World {
    pub(super) fn new(max_properties: usize) -> Self {
        let mut e = Encoder::new(Vec::new());
        e.array(9).unwrap().u8(1).unwrap().u8(0).unwrap().u8(0).unwrap().u8(0).unwrap().u8(0).unwrap();
        e.str("").unwrap().array(0).unwrap().array(0).unwrap().map(0).unwrap();
        Self {
            store: TwinStore::new(max_properties as u64),
            model: Model { max: max_properties, ..Model::default() },
            log: Log(vec![(0, e.into_writer())]),
        }
    }

    /// Appends an entry without a bundle.
    pub(super) fn other_entry(&mut self, time: TimeMs) {
        let mut e = Encoder::new(Vec::new());
        e.array(8).unwrap().u8(1).unwrap().u8(2).unwrap().u8(0).unwrap().i64(time).unwrap().u8(0).unwrap();
        e.bytes(&[0; 32]).unwrap().null().unwrap().null().unwrap();
        self.log.0.push((time, e.into_writer()));
    }

    /// Executes one bundle on both, compares the outcomes and appends its entry. `None` is a request that is skipped.
    pub(super) fn bundle(&mut self, time: TimeMs, origin: PublicKey, operations: &[Option<Operation>]) -> Vec<Outcome> {
        let entry = self.log.size();
        let mut outcomes = Vec::new();
        for (request, operation) in operations.iter().enumerate() {
            let Some(operation) = operation else { continue };
            let position = Position { entry, request: request as u16 };
            let access = |twin: &str, _: &str| may_write(&origin, twin);
            let context = OperationContext { time_ms: time, position, origin: &origin, access: &access };
            let bytes = operation.encode();
            let mut outcome = Outcome::default();
            self.store.execute(&context, &bytes, &mut outcome);
            let (code, changes) = match self.model.execute(&At { position, time, origin }, operation) {
                Ok(changes) => (Code::DONE, changes),
                Err(code) => (code, Vec::new()),
            };
            assert_eq!(outcome.code, code, "{operation:?}: {}", outcome.detail);
            let got: Vec<_> = outcome.changes.iter().map(|c| (c.path, c.revision, c.previous)).collect();
            assert_eq!(got, changes, "{operation:?}");
            assert_eq!(outcome.detail.is_empty(), code == Code::DONE);
            assert!(outcome.changes.len() <= self.store.check(&bytes).unwrap());
            outcomes.push(outcome);
        }
        self.log.0.push((time, encode_entry(entry, time, &origin, operations, &outcomes)));
        outcomes
    }

    pub(super) fn ask(&self, query: &Query) -> (Code, Answer) {
        let mut answer = Answer { valid_from: 77, body: vec![7], wait: true };
        let code = self.store.query(&self.log, &query.encode(), &mut answer);
        (code, answer)
    }
}

fn encode_entry(
    sequence: u64,
    time: TimeMs,
    origin: &PublicKey,
    operations: &[Option<Operation>],
    outcomes: &[Outcome],
) -> Vec<u8> {
    let mut header = Encoder::new(Vec::new());
    header.map(2).unwrap().u8(1).unwrap().i8(-8).unwrap().u8(4).unwrap().bytes(&origin.0).unwrap();
    let mut e = Encoder::new(Vec::new());
    e.array(7).unwrap().u8(1).unwrap().u8(1).unwrap().u64(sequence).unwrap().i64(time).unwrap();
    e.tag(Tag::new(18)).unwrap().array(4).unwrap().bytes(&header.into_writer()).unwrap().map(0).unwrap();
    e.bytes(b"payload").unwrap().bytes(&[0; 64]).unwrap();
    e.array(operations.len() as u64).unwrap();
    for operation in operations {
        e.array(3).unwrap().u8(1).unwrap().null().unwrap();
        let bytes = operation.as_ref().map_or(vec![0x81, 3], Operation::encode);
        e.writer_mut().extend_from_slice(&bytes);
    }
    e.array(operations.len() as u64).unwrap();
    let mut outcomes = outcomes.iter();
    for operation in operations {
        if operation.is_none() {
            e.null().unwrap();
            continue;
        }
        let outcome = outcomes.next().unwrap();
        e.array(2).unwrap().u16(outcome.code.0).unwrap().array(outcome.changes.len() as u64).unwrap();
        for change in &outcome.changes {
            e.array(3).unwrap().u64(change.path).unwrap().u64(change.revision).unwrap();
            match change.previous {
                None => e.null().unwrap(),
                Some(previous) => e.u64(previous).unwrap(),
            };
        }
    }
    e.into_writer()
}
