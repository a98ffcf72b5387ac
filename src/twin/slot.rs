//! A slot: the state of one property, alive or deleted, and its leaf.

use std::sync::Arc;

use atlas_dataplane::types::{Position, PublicKey, TimeMs};

use super::store::TwinIndex;
use super::value::{Quality, Value, ValueRef};
use atlas_dataplane::cbor::{CborError, Fault, Reader, Writer};

/// What a leaf begins with.
const LEAF_TAG: &str = "atlas-slot/1";

/// The state of one property.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Slot {
    pub(super) twin: Arc<str>,
    pub(super) property: Arc<str>,
    /// Where the store keeps the twin.
    pub(super) row: TwinIndex,
    /// `None` once deleted.
    pub(super) value: Option<Value>,
    pub(super) revision: u64,
    /// Where it was changed last.
    pub(super) position: Position,
    /// Agreed time of that change.
    pub(super) time_ms: TimeMs,
    pub(super) source_time_ns: Option<i64>,
    pub(super) origin: PublicKey,
    pub(super) quality: Quality,
}

impl Slot {
    /// Appends the leaf input (FORMATS: state root): `["atlas-slot/1", slot, twin, property, revision, last_entry, last_request, time_ms,
    /// source_time_ns / null, origin_key, quality, value]`, the value undefined once deleted.
    pub(super) fn encode_leaf(&self, number: u64, out: &mut Writer<'_>) {
        out.array(12).text(LEAF_TAG).uint(number).text(&self.twin).text(&self.property).uint(self.revision);
        out.uint(self.position.entry).uint(u64::from(self.position.request)).int(self.time_ms);
        out.optional(self.source_time_ns, |out, time| {
            out.int(time);
        });
        out.bytes(&self.origin.0).uint(self.quality as u64);
        encode_value(self.value.as_ref().map(Value::borrowed), out);
    }
}

/// Bytes of a line of the processor's caches.
const LINE: usize = 64;

impl Slot {
    /// Reads something of each line of memory that the slot points to.
    pub(super) fn touch(&self) -> u64 {
        let value = match &self.value {
            Some(Value::Text(text)) => text.as_bytes(),
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        };
        let lines =
            value.iter().step_by(LINE).chain(self.twin.as_bytes().first()).chain(self.property.as_bytes().first());
        lines.fold(0, |touched, byte| touched ^ u64::from(*byte))
    }
}

/// Appends a value, or undefined for none.
pub(super) fn encode_value(value: Option<ValueRef<'_>>, out: &mut Writer<'_>) {
    match value {
        Some(value) => value.encode(out),
        None => {
            out.undefined();
        }
    }
}

/// Reads a value, or `None` for undefined.
pub(super) fn decode_value<'a>(reader: &mut Reader<'a>) -> Result<Option<ValueRef<'a>>, CborError> {
    if reader.undefined() { Ok(None) } else { ValueRef::decode(reader).map(Some) }
}

/// A leaf as read; names are not yet shared with others of the same twin.
pub(super) struct Leaf<'a> {
    pub(super) number: u64,
    pub(super) twin: &'a str,
    pub(super) property: &'a str,
    pub(super) revision: u64,
    pub(super) position: Position,
    pub(super) time_ms: TimeMs,
    pub(super) source_time_ns: Option<i64>,
    pub(super) origin: PublicKey,
    pub(super) quality: Quality,
    pub(super) value: Option<ValueRef<'a>>,
}

impl<'a> Leaf<'a> {
    pub(super) fn decode(reader: &mut Reader<'a>) -> Result<Self, CborError> {
        let at = reader.offset();
        reader.array_of(12)?;
        if reader.text()? != LEAF_TAG {
            return Err(CborError { at, fault: Fault::Unexpected });
        }
        Ok(Self {
            number: reader.uint()?,
            twin: reader.text()?,
            property: reader.text()?,
            revision: reader.uint()?,
            position: Position { entry: reader.uint()?, request: reader.narrow()? },
            time_ms: reader.int()?,
            source_time_ns: reader.optional(Reader::int)?,
            origin: PublicKey(reader.bytes32()?),
            quality: Quality::decode(reader)?,
            value: decode_value(reader)?,
        })
    }
}
