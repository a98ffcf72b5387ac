//! The leaf of a slot, read in place (FORMATS.md, "State root"): what the state says of one property.
//!
//! `["atlas-slot/1", slot, twin, property, revision, last_entry, last_request, time_ms, source_time_ns / null, origin_key, quality,
//! value]`, the value undefined where the property is deleted. The twin store writes it; this reader asks nothing of names and
//! values but their place, so that a proof can be checked without the store.

use crate::cbor::{CborError, Reader};
use crate::types::{Position, PublicKey, TimeMs};

/// What a leaf begins with.
const LEAF_TAG: &str = "atlas-slot/1";

/// A value is a number, text, bytes or a boolean; nothing in it opens.
const VALUE_DEPTH: usize = 1;

/// The leaf of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotLeaf<'a> {
    /// Number of the slot.
    pub slot: u64,
    /// The twin.
    pub twin: &'a str,
    /// The property's path.
    pub property: &'a str,
    /// Its revision.
    pub revision: u64,
    /// Where it was changed last.
    pub position: Position,
    /// Agreed time of that change.
    pub time_ms: TimeMs,
    /// What the source said of time, nanoseconds.
    pub source_time_ns: Option<i64>,
    /// Who signed that change.
    pub origin: PublicKey,
    /// Quality by the store's numbering.
    pub quality: u64,
    /// The value as a CBOR item; `None` once deleted.
    pub value: Option<&'a [u8]>,
}

impl<'a> SlotLeaf<'a> {
    /// Reads a leaf.
    ///
    /// # Errors
    /// The bytes are not a leaf in deterministic CBOR.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CborError> {
        let reader = &mut Reader::new(bytes);
        reader.array_of(12)?;
        let at_tag = *reader;
        if reader.text()? != LEAF_TAG {
            return at_tag.unexpected();
        }
        let (slot, twin, property, revision) = (reader.uint()?, reader.text()?, reader.text()?, reader.uint()?);
        let position = Position { entry: reader.uint()?, request: reader.narrow()? };
        let (time_ms, source_time_ns) = (reader.int()?, reader.optional(Reader::int)?);
        let (origin, quality) = (PublicKey(reader.bytes32()?), reader.uint()?);
        let value = if reader.undefined() { None } else { Some(reader.item(VALUE_DEPTH)?) };
        reader.finish()?;
        Ok(Self { slot, twin, property, revision, position, time_ms, source_time_ns, origin, quality, value })
    }

    /// What the absence root sorts by.
    pub fn name(&self) -> (&'a str, &'a str) {
        (self.twin, self.property)
    }
}

#[cfg(test)]
#[path = "slot_leaf_tests.rs"]
mod tests;
