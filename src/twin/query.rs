//! Queries on the twin store and their answers, in deterministic CBOR, for both sides.
//!
//! | query | bytes | answer |
//! | --- | --- | --- |
//! | get | `[0, twin, property / null, after / null]` | [`Properties`] of the twin, in the order of the paths |
//! | list | `[1, prefix, [twin, property] / null, limit]` | [`Properties`] of the twins whose names begin so, by name |
//! | history | `[2, twin, property / null, from / null, to / null, limit, cursor / null]` | [`History`], newest first |
//! | changes | `[3, prefix, [entry, request], to / null, limit]` | [`Changes`], oldest first |
//! | trail | `[4, filter, last entry, limit, cursor / null]` | [`Records`](super::record::Records), newest first |
//!
//! A bound of a history is `[0, entry, request]` or `[1, time_ms]`; both ends are included. Codes: DONE, BAD_QUERY, UNKNOWN_TWIN,
//! UNKNOWN_PROPERTY (at the position asked for: a history that ends before the first write is unknown), INTERNAL where an
//! entry of the history cannot be read.
//!
//! # Pages
//! An answer holds at most [`MAX_PAGE`] items and about [`MAX_PAGE_BYTES`]; of a history and of changes always whole operations,
//! at least one. It says where to go on: `next` as `after`, `cursor` as `cursor`, `covered` as `from`. Work is bounded
//! too, so a page may be empty and still not be the last.
//!
//! # Replicas at different positions answer alike
//! f+1 answers must be equal, so none tells how far its replica is. Get and list depend on the slots of their page, deleted
//! ones included; `valid_from` is the last entry that touched these. A history depends on the changes up to its upper end:
//! with `to` given it stays the same for ever. Changes up to `to` likewise: a replica that is not there yet waits. Without
//! `to`, changes end at the last one known, and quiet times are covered up to the last whole block of [`BLOCK`] entries;
//! while there is neither, the replica is to wait. Clients that see replicas run apart ask again with `to`. A trail looks at
//! nothing behind its last entry, which must be there: ask at a history of that size.
//!
//! # Trails
//! A [`Filter`] for what was done to one twin is answered along its chains, as a history is: in time by the changes of this twin. Any
//! other makes replicas read all entries backwards, in pages of at most [`BLOCK`] entries, empty ones among them.

use atlas_dataplane::types::{EntryIndex, Position, PublicKey, TimeMs};

use super::names::MAX_NAME;
use super::record::Filter;
use super::slot::decode_value;
use super::store::{MAX_TWIN_PROPERTIES, SlotIndex};
use super::value::{Quality, Value, ValueRef};
use atlas_dataplane::cbor::{CborError, Fault, Reader, Writer};

/// The most items in one answer; a larger limit is taken as this.
pub const MAX_PAGE: usize = 512;
/// The size at which a page ends, in bytes; the last item or operation may reach beyond by its own size.
pub const MAX_PAGE_BYTES: usize = 256 * 1024;
/// Entries are passed over in blocks of this size: a page that found nothing ends where a block does.
pub const BLOCK: u64 = 256;

/// A query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// The properties of one twin.
    Get {
        /// `namespace/name`.
        twin: String,
        /// Only this property.
        property: Option<String>,
        /// Go on behind this path.
        after: Option<String>,
    },
    /// The properties of all twins whose names begin with a prefix.
    List {
        /// May be empty: all twins.
        prefix: String,
        /// Go on behind this twin and property.
        after: Option<(String, String)>,
        /// The most properties.
        limit: u64,
    },
    /// What happened to a twin or property, newest first.
    History {
        /// `namespace/name`.
        twin: String,
        /// Only this property.
        property: Option<String>,
        /// Not before; included.
        from: Option<Bound>,
        /// Not after; included.
        to: Option<Bound>,
        /// The most changes.
        limit: u64,
        /// Go on where a page ended.
        cursor: Option<Cursor>,
    },
    /// Changes of all twins whose names begin with a prefix, in the agreed order.
    Changes {
        /// May be empty: all twins.
        prefix: String,
        /// Behind this position; nothing is before 0.0.
        from: Position,
        /// Up to this entry, included; a replica that is not there yet waits.
        to: Option<EntryIndex>,
        /// The most changes.
        limit: u64,
    },
    /// What was done and refused, newest first.
    Trail {
        /// Which operations.
        filter: Filter,
        /// Up to this entry, included; UNAVAILABLE where a replica is not there yet, so ask at a history that has it.
        last: EntryIndex,
        /// The most properties.
        limit: u64,
        /// Go on where a page ended.
        cursor: Option<Cursor>,
    },
}

/// An end of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// A position.
    Position(Position),
    /// Agreed time.
    Time(TimeMs),
}

/// Where a page of a history ended: opaque to clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// What comes next lies below this position.
    pub(super) below: Option<Position>,
    /// For each slot that has more: the entry that holds its next older change.
    pub(super) heads: Vec<(SlotIndex, EntryIndex)>,
}

/// The state of one property.
#[derive(Clone, PartialEq, Debug)]
pub struct Property {
    /// `namespace/name`.
    pub twin: String,
    /// The property's path.
    pub property: String,
    /// Its value; the type is the value's.
    pub value: Value,
    /// Changes since the property was first written, itself included.
    pub revision: u64,
    /// How far to trust it.
    pub quality: Quality,
    /// When the source took it, in nanoseconds since the Unix epoch.
    pub source_time_ns: Option<i64>,
    /// Agreed time of the last change.
    pub time_ms: TimeMs,
    /// Who signed the last change.
    pub origin: PublicKey,
    /// Where the last change stands in the order.
    pub position: Position,
}

/// The answer to get and list: `[[[twin, property, value, revision, quality, source_time_ns / null, time_ms, origin, entry, request] ...],
/// [twin, property] / null]`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Properties {
    /// By twin and property.
    pub items: Vec<Property>,
    /// Where to go on, if there may be more.
    pub next: Option<(String, String)>,
}

/// What one operation changed, as far as it was asked for: `[entry, request, time_ms, origin, reason / null, [[twin, property, value /
/// undefined, quality, source_time_ns / null, revision] ...]]`. Where parts have reasons of their own it comes in several.
#[derive(Clone, PartialEq, Debug)]
pub struct ChangeSet {
    /// Where the operation stands in the order.
    pub position: Position,
    /// Its agreed time.
    pub time_ms: TimeMs,
    /// Who signed it.
    pub origin: PublicKey,
    /// Why, for people.
    pub reason: Option<String>,
    /// In the order of the writes.
    pub changes: Vec<PropertyChange>,
}

/// One change of a property.
#[derive(Clone, PartialEq, Debug)]
pub struct PropertyChange {
    /// `namespace/name`.
    pub twin: String,
    /// The property's path.
    pub property: String,
    /// The value as it was written; `None` for a delete.
    pub value: Option<Value>,
    /// How far to trust it.
    pub quality: Quality,
    /// When the source took it, in nanoseconds since the Unix epoch.
    pub source_time_ns: Option<i64>,
    /// The property's revision after the change.
    pub revision: u64,
}

/// The answer to history: `[[change set ...], cursor / null]`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct History {
    /// Newest first.
    pub sets: Vec<ChangeSet>,
    /// Where to go on, if there may be more.
    pub cursor: Option<Cursor>,
}

/// The answer to changes: `[[change set ...], [entry, request]]`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    /// Oldest first.
    pub sets: Vec<ChangeSet>,
    /// The page is complete up to this position, included; request 65535 says the whole entry.
    pub covered: Position,
}

type Result<T> = core::result::Result<T, CborError>;

fn limited_text(reader: &mut Reader<'_>, limit: usize) -> Result<String> {
    let at = reader.offset();
    let text = reader.text()?;
    if text.len() <= limit { Ok(text.to_owned()) } else { Err(CborError { at, fault: Fault::Range }) }
}

fn name(reader: &mut Reader<'_>) -> Result<String> {
    limited_text(reader, MAX_NAME)
}

fn name_pair(reader: &mut Reader<'_>) -> Result<(String, String)> {
    reader.array_of(2)?;
    Ok((name(reader)?, name(reader)?))
}

fn position(reader: &mut Reader<'_>) -> Result<Position> {
    reader.array_of(2)?;
    Ok(Position { entry: reader.uint()?, request: reader.narrow()? })
}

fn put_position(out: &mut Writer<'_>, position: Position) {
    out.array(2).uint(position.entry).uint(u64::from(position.request));
}

fn put_text(out: &mut Writer<'_>, text: &str) {
    out.text(text);
}

fn put_pair(out: &mut Writer<'_>, (twin, property): &(String, String)) {
    out.array(2).text(twin).text(property);
}

fn finished<T>(reader: &Reader<'_>, value: T) -> Result<T> {
    reader.finish().map(|()| value)
}

impl Query {
    /// The query's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let out = &mut Writer(&mut bytes);
        match self {
            Self::Get { twin, property, after } => {
                out.array(4)
                    .uint(0)
                    .text(twin)
                    .optional(property.as_deref(), put_text)
                    .optional(after.as_deref(), put_text);
            }
            Self::List { prefix, after, limit } => {
                out.array(4).uint(1).text(prefix).optional(after.as_ref(), put_pair).uint(*limit);
            }
            Self::History { twin, property, from, to, limit, cursor } => {
                out.array(7).uint(2).text(twin).optional(property.as_deref(), put_text);
                out.optional(*from, Bound::encode).optional(*to, Bound::encode).uint(*limit);
                out.optional(cursor.as_ref(), Cursor::encode);
            }
            Self::Changes { prefix, from, to, limit } => {
                put_position(out.array(5).uint(3).text(prefix), *from);
                out.optional(*to, |out, to| {
                    out.uint(to);
                });
                out.uint(*limit);
            }
            Self::Trail { filter, last, limit, cursor } => {
                filter.encode(out.array(5).uint(4));
                out.uint(*last).uint(*limit).optional(cursor.as_ref(), Cursor::encode);
            }
        }
        bytes
    }

    /// Reads a query.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let reader = &mut Reader::new(bytes);
        let at = reader.offset();
        let count = reader.array()?;
        let query = match (reader.uint()?, count) {
            (0, 4) => {
                Self::Get { twin: name(reader)?, property: reader.optional(name)?, after: reader.optional(name)? }
            }
            (1, 4) => Self::List { prefix: name(reader)?, after: reader.optional(name_pair)?, limit: reader.uint()? },
            (2, 7) => Self::History {
                twin: name(reader)?,
                property: reader.optional(name)?,
                from: reader.optional(Bound::decode)?,
                to: reader.optional(Bound::decode)?,
                limit: reader.uint()?,
                cursor: reader.optional(Cursor::decode)?,
            },
            (3, 5) => Self::Changes {
                prefix: name(reader)?,
                from: position(reader)?,
                to: reader.optional(Reader::uint)?,
                limit: reader.uint()?,
            },
            (4, 5) => Self::Trail {
                filter: Filter::decode(reader)?,
                last: reader.uint()?,
                limit: reader.uint()?,
                cursor: reader.optional(Cursor::decode)?,
            },
            _ => return Err(CborError { at, fault: Fault::Unexpected }),
        };
        finished(reader, query)
    }
}

impl Bound {
    pub(super) fn encode(out: &mut Writer<'_>, bound: Self) {
        match bound {
            Self::Position(position) => {
                out.array(3).uint(0).uint(position.entry).uint(u64::from(position.request));
            }
            Self::Time(time_ms) => {
                out.array(2).uint(1).int(time_ms);
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let at = reader.offset();
        let count = reader.array()?;
        match (reader.uint()?, count) {
            (0, 3) => Ok(Self::Position(Position { entry: reader.uint()?, request: reader.narrow()? })),
            (1, 2) => reader.int().map(Self::Time),
            _ => Err(CborError { at, fault: Fault::Unexpected }),
        }
    }
}

impl Cursor {
    pub(super) fn encode(out: &mut Writer<'_>, cursor: &Self) {
        out.array(2).optional(cursor.below, put_position).array(cursor.heads.len());
        for (slot, entry) in &cursor.heads {
            out.array(2).uint(u64::from(*slot)).uint(*entry);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(2)?;
        let below = reader.optional(position)?;
        let at = reader.offset();
        let count = reader.array()?;
        if count > MAX_TWIN_PROPERTIES {
            return Err(CborError { at, fault: Fault::Range });
        }
        let mut heads = Vec::with_capacity(count);
        for _ in 0..count {
            reader.array_of(2)?;
            let slot = SlotIndex::try_from(reader.uint()?).map_err(|_| CborError { at, fault: Fault::Range })?;
            heads.push((slot, reader.uint()?));
        }
        Ok(Self { below, heads })
    }
}

impl Properties {
    /// Reads an answer to get or list.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let reader = &mut Reader::new(bytes);
        reader.array_of(2)?;
        let mut items = Vec::new();
        for _ in 0..reader.array()? {
            items.push(Property::decode(reader)?);
        }
        let next = reader.optional(name_pair)?;
        finished(reader, Self { items, next })
    }
}

impl Property {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(10)?;
        Ok(Self {
            twin: name(reader)?,
            property: name(reader)?,
            value: ValueRef::decode(reader)?.to_owned(),
            revision: reader.uint()?,
            quality: Quality::decode(reader)?,
            source_time_ns: reader.optional(Reader::int)?,
            time_ms: reader.int()?,
            origin: PublicKey(reader.bytes32()?),
            position: Position { entry: reader.uint()?, request: reader.narrow()? },
        })
    }
}

fn change_sets(reader: &mut Reader<'_>) -> Result<Vec<ChangeSet>> {
    let mut sets = Vec::new();
    for _ in 0..reader.array()? {
        sets.push(ChangeSet::decode(reader)?);
    }
    Ok(sets)
}

impl History {
    /// Reads an answer to history.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let reader = &mut Reader::new(bytes);
        reader.array_of(2)?;
        let (sets, cursor) = (change_sets(reader)?, reader.optional(Cursor::decode)?);
        finished(reader, Self { sets, cursor })
    }
}

impl Changes {
    /// Reads an answer to changes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let reader = &mut Reader::new(bytes);
        reader.array_of(2)?;
        let (sets, covered) = (change_sets(reader)?, position(reader)?);
        finished(reader, Self { sets, covered })
    }
}

impl ChangeSet {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(6)?;
        let position = Position { entry: reader.uint()?, request: reader.narrow()? };
        let time_ms = reader.int()?;
        let origin = PublicKey(reader.bytes32()?);
        let reason = reader.optional(|reader| reader.text().map(str::to_owned))?;
        let mut changes = Vec::new();
        for _ in 0..reader.array()? {
            changes.push(PropertyChange::decode(reader)?);
        }
        Ok(Self { position, time_ms, origin, reason, changes })
    }
}

impl PropertyChange {
    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        reader.array_of(6)?;
        Ok(Self {
            twin: name(reader)?,
            property: name(reader)?,
            value: decode_value(reader)?.map(ValueRef::to_owned),
            quality: Quality::decode(reader)?,
            source_time_ns: reader.optional(Reader::int)?,
            revision: reader.uint()?,
        })
    }
}
