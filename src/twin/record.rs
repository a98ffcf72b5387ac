//! Records: what one operation did or was refused, as an audit trail tells it; and filters that choose among them.
//!
//! A record is one operation, or that part of it which has a reason of its own: `[entry, request, time_ms, signed_ms / null, origin, code,
//! reason / null, [item ...], besides]`. An item is one property: `[twin, property / null, value / undefined, quality, source_time_ns / null, revision /
//! null, old value / undefined / null]`. A refused operation has items for what it would have written, without revision and old
//! value (null); property null there means the whole twin. Without items, `besides` says what it was: true for the opening of a
//! session, the COSE_Sign1 as bytes for a key statement, null for what was refused before it was read. A KEY entry is a record as
//! well, at request 0, of the administrator and without signed time.
//!
//! A filter is `[twin, is_whole_name, property / null, [origin ...], lowest code, highest code, from / null, to / null]`. It passes over
//! the marks by which ordered reads find their place ([`MARK`]), unless their twin is asked for.

use atlas_dataplane::cbor::{CborError, Fault, Reader, Writer};
use atlas_dataplane::types::{Code, Position, PublicKey, TimeMs};

use super::entry::{Besides, BundleEntry, Executed, Item, SlotNames};
use super::names::MAX_NAME;
use super::operation::MAX_REASON;
use super::query::{Bound, Cursor};
use super::slot::{decode_value, encode_value};
use super::value::{Quality, Value, ValueRef};
use atlas_dataplane::wire::limits::MAX_STATEMENT;

/// CBOR of true.
const TRUE: u8 = 0xf5;

/// The most origins of a filter.
pub const MAX_ORIGINS: usize = 8;

/// Ordered reads mark a place in the order by a delete of this twin, on condition that this property of it has a revision that none
/// has: so it is always refused.
pub const MARK: (&str, &str) = ("atlas/order", "mark");

/// Which operations are asked for: all that it names must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// The twin's name, or what it begins with; empty, and not whole, for all, operations without any twin included.
    pub twin: String,
    /// Whether `twin` is the whole name.
    pub is_whole: bool,
    /// Only this property.
    pub property: Option<String>,
    /// Only operations that one of these keys signed, at most [`MAX_ORIGINS`]; empty for anybody's.
    pub origins: Vec<PublicKey>,
    /// Lowest and highest code, included.
    pub codes: (Code, Code),
    /// Not before; included.
    pub from: Option<Bound>,
    /// Not after; included.
    pub to: Option<Bound>,
}

/// Every code.
pub const ALL_CODES: (Code, Code) = (Code::DONE, Code(u16::MAX));
/// The code of what was carried out.
pub const DONE_CODES: (Code, Code) = (Code::DONE, Code::DONE);
/// The codes of what was refused.
pub const REFUSED_CODES: (Code, Code) = (Code(1), Code(u16::MAX));

/// What a property was before a change.
#[derive(Clone, PartialEq, Debug)]
pub enum Old {
    /// Not told: the operation was refused, or what was before lies outside of what was read.
    Unknown,
    /// It was never written, or deleted.
    Nothing,
    /// This, as it was written.
    Value(Value),
}

/// One property that an operation wrote or would have written.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordItem {
    /// `namespace/name`; empty where it cannot be told.
    pub twin: String,
    /// The property's path; `None` for a whole twin that was to be deleted, or where it cannot be told.
    pub property: Option<String>,
    /// The value as it was written; `None` for a delete.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
    /// When the source took it, in nanoseconds since the Unix epoch.
    pub source_time_ns: Option<i64>,
    /// The property's revision after the change; `None` where there was none.
    pub revision: Option<u64>,
    /// What was before.
    pub old: Old,
}

/// What an operation is about, if not about twins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// It writes twins, or was refused before it was read.
    Twins,
    /// It opened a session.
    Session,
    /// It brings a key statement, or the entry is one: the COSE_Sign1.
    Statement(Vec<u8>),
}

/// What one operation did, or was refused.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// Where it stands in the order.
    pub position: Position,
    /// Its agreed time.
    pub time_ms: TimeMs,
    /// The client's clock when it signed.
    pub signed_ms: Option<TimeMs>,
    /// Who signed it.
    pub origin: PublicKey,
    /// What became of it.
    pub code: Code,
    /// Why, for people.
    pub reason: Option<String>,
    /// In the order of the writes.
    pub items: Vec<RecordItem>,
    /// What it is about.
    pub subject: Subject,
}

/// The answer to a query for records: `[[record ...], cursor / null]`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Records {
    /// Newest first.
    pub records: Vec<Record>,
    /// Where to go on, if there may be more.
    pub cursor: Option<Cursor>,
}

type Result<T> = core::result::Result<T, CborError>;

impl Filter {
    /// Everything.
    pub fn all() -> Self {
        let (twin, property, origins) = (String::new(), None, Vec::new());
        Self { twin, is_whole: false, property, origins, codes: ALL_CODES, from: None, to: None }
    }

    /// Whether an operation with this outcome is asked for.
    pub(super) fn takes_code(&self, code: Code) -> bool {
        (self.codes.0..=self.codes.1).contains(&code)
    }

    pub(super) fn takes_origin(&self, origin: &PublicKey) -> bool {
        self.origins.is_empty() || self.origins.contains(origin)
    }

    pub(super) fn takes_item(&self, item: &Item<'_>) -> bool {
        let twin = if self.is_whole { item.twin == self.twin } else { item.twin.starts_with(&self.twin) };
        // Nothing that changed anything is ever taken for a mark.
        let is_mark = item.twin == MARK.0 && item.revision == 0 && item.path.is_empty() && item.value.is_none();
        let is_left_out = is_mark && (self.twin.is_empty() || !MARK.0.starts_with(&self.twin));
        // A refused delete of the whole twin was about each of its properties.
        let of_property = |asked: &String| item.path.is_empty() || item.path == asked;
        twin && !is_left_out && self.property.as_ref().is_none_or(of_property)
    }

    /// Whether an operation that names no twin is asked for.
    fn takes_nameless(&self) -> bool {
        self.twin.is_empty() && !self.is_whole && self.property.is_none()
    }

    /// Whether what happened then is asked for.
    pub(super) fn takes_time(&self, position: Position, time_ms: TimeMs) -> bool {
        let after = match self.from {
            None => true,
            Some(Bound::Position(from)) => from <= position,
            Some(Bound::Time(from)) => from <= time_ms,
        };
        after
            && match self.to {
                None => true,
                Some(Bound::Position(to)) => position <= to,
                Some(Bound::Time(to)) => time_ms <= to,
            }
    }

    /// The items of an operation that are asked for; `None` where the operation is not.
    pub(super) fn items<'b>(&self, executed: &'b Executed<'_>, slots: &'b impl SlotNames) -> Option<Vec<Item<'b>>> {
        let done = executed.code == Code::DONE;
        let all: Vec<Item<'b>> = if done { executed.items(slots).collect() } else { executed.attempts().collect() };
        if all.is_empty() {
            return self.takes_nameless().then_some(all);
        }
        let asked: Vec<Item<'b>> = all.into_iter().filter(|item| self.takes_item(item)).collect();
        (!asked.is_empty()).then_some(asked)
    }

    pub(super) fn encode(&self, out: &mut Writer<'_>) {
        out.array(8).text(&self.twin).bool(self.is_whole).optional(self.property.as_deref(), |out, property| {
            out.text(property);
        });
        out.array(self.origins.len());
        for origin in &self.origins {
            out.bytes(&origin.0);
        }
        out.uint(u64::from(self.codes.0.0)).uint(u64::from(self.codes.1.0));
        out.optional(self.from, Bound::encode).optional(self.to, Bound::encode);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(8)?;
        let (twin, is_whole, property) = (name(reader)?, reader.bool()?, reader.optional(name)?);
        let at = reader.offset();
        let count = reader.array()?;
        if count > MAX_ORIGINS {
            return Err(CborError { at, fault: Fault::Range });
        }
        let origins = (0..count).map(|_| reader.bytes32().map(PublicKey)).collect::<Result<_>>()?;
        let codes = (Code(reader.narrow()?), Code(reader.narrow()?));
        let (from, to) = (reader.optional(Bound::decode)?, reader.optional(Bound::decode)?);
        Ok(Self { twin, is_whole, property, origins, codes, from, to })
    }
}

/// The runs of items that have one reason; one empty run where there is no item.
pub(super) fn runs<'a, 'b>(items: &'a [Item<'b>]) -> Vec<&'a [Item<'b>]> {
    if items.is_empty() { vec![items] } else { items.chunk_by(|a, b| a.reason == b.reason).collect() }
}

/// Appends a record; `old` gives for each item what was before, in its order.
pub(super) fn encode_record(
    bundle: &BundleEntry<'_>,
    executed: &Executed<'_>,
    items: &[Item<'_>],
    old: &[Old],
    out: &mut Writer<'_>,
) {
    let Executed { position, code, .. } = executed;
    out.array(9).uint(position.entry).uint(u64::from(position.request)).int(bundle.time_ms);
    out.optional(bundle.signed_ms, put_int).bytes(&bundle.origin.0).uint(u64::from(code.0));
    let reason = items.first().map_or_else(|| executed.reason(), |item| item.reason);
    out.optional(reason, |out, reason| {
        out.text(reason);
    });
    out.array(items.len());
    for (item, old) in items.iter().zip(old) {
        out.array(7).text(item.twin).optional(Some(item.path).filter(|path| !path.is_empty()), |out, path| {
            out.text(path);
        });
        encode_value(item.value, out);
        out.uint(item.quality as u64).optional(item.source_time_ns, put_int);
        out.optional(Some(item.revision).filter(|revision| *revision > 0), |out, revision| {
            out.uint(revision);
        });
        match old {
            Old::Unknown => {
                out.null();
            }
            Old::Nothing => encode_value(None, out),
            Old::Value(value) => encode_value(Some(value.borrowed()), out),
        }
    }
    match executed.besides {
        Besides::Nothing => out.null(),
        Besides::Session => out.bool(true),
        Besides::Statement(cose) => out.bytes(cose),
    };
}

/// The record that [`encode_record`] would write.
pub(super) fn record_of(
    bundle: &BundleEntry<'_>,
    executed: &Executed<'_>,
    items: &[Item<'_>],
    old: Vec<Old>,
) -> Record {
    let item = |(item, old): (&Item<'_>, Old)| RecordItem {
        twin: item.twin.to_owned(),
        property: Some(item.path.to_owned()).filter(|path| !path.is_empty()),
        value: item.value.map(ValueRef::to_owned),
        quality: item.quality,
        source_time_ns: item.source_time_ns,
        revision: Some(item.revision).filter(|revision| *revision > 0),
        old,
    };
    Record {
        position: executed.position,
        time_ms: bundle.time_ms,
        signed_ms: bundle.signed_ms,
        origin: bundle.origin,
        code: executed.code,
        reason: items.first().map_or_else(|| executed.reason(), |item| item.reason).map(str::to_owned),
        items: items.iter().zip(old).map(item).collect(),
        subject: match executed.besides {
            Besides::Nothing => Subject::Twins,
            Besides::Session => Subject::Session,
            Besides::Statement(cose) => Subject::Statement(cose.to_vec()),
        },
    }
}

fn put_int(out: &mut Writer<'_>, value: i64) {
    out.int(value);
}

fn name(reader: &mut Reader<'_>) -> Result<String> {
    short(reader, MAX_NAME)
}

fn short(reader: &mut Reader<'_>, limit: usize) -> Result<String> {
    let at = reader.offset();
    let text = reader.text()?;
    if text.len() <= limit { Ok(text.to_owned()) } else { Err(CborError { at, fault: Fault::Range }) }
}

fn subject(reader: &mut Reader<'_>) -> Result<Subject> {
    let at = reader.offset();
    match reader.peek() {
        Some(TRUE) => reader.bool().map(|_| Subject::Session),
        _ => match reader.bytes()? {
            cose if cose.len() <= MAX_STATEMENT => Ok(Subject::Statement(cose.to_vec())),
            _ => Err(CborError { at, fault: Fault::Range }),
        },
    }
}

impl Records {
    /// Reads an answer to a query for records.
    ///
    /// # Errors
    /// The bytes are no such answer.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let reader = &mut Reader::new(bytes);
        reader.array_of(2)?;
        let mut records = Vec::new();
        for _ in 0..reader.array()? {
            records.push(Record::decode(reader)?);
        }
        let cursor = reader.optional(Cursor::decode)?;
        reader.finish()?;
        Ok(Self { records, cursor })
    }
}

impl Record {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(9)?;
        let position = Position { entry: reader.uint()?, request: reader.narrow()? };
        let (time_ms, signed_ms) = (reader.int()?, reader.optional(Reader::int)?);
        let (origin, code) = (PublicKey(reader.bytes32()?), Code(reader.narrow()?));
        let reason = reader.optional(|reader| short(reader, MAX_REASON))?;
        let mut items = Vec::new();
        for _ in 0..reader.array()? {
            items.push(RecordItem::decode(reader)?);
        }
        let subject = match reader.optional(subject)? {
            None => Subject::Twins,
            Some(subject) => subject,
        };
        Ok(Self { position, time_ms, signed_ms, origin, code, reason, items, subject })
    }
}

impl RecordItem {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(7)?;
        Ok(Self {
            twin: name(reader)?,
            property: reader.optional(name)?,
            value: decode_value(reader)?.map(ValueRef::to_owned),
            quality: Quality::decode(reader)?,
            source_time_ns: reader.optional(Reader::int)?,
            revision: reader.optional(Reader::uint)?,
            old: match reader.optional(decode_value)? {
                None => Old::Unknown,
                Some(None) => Old::Nothing,
                Some(Some(value)) => Old::Value(value.to_owned()),
            },
        })
    }
}
