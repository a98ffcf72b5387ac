//! Bytes of `anchor`, the file that says where a log begins whose oldest segments are gone. Pure.
//!
//! ```text
//! magic 8, version 4, bytes of the file 4, genesis 32, chain 16, LSN 8, dropped 8, segment 4, count 4, zeros 8
//! count times: length 4, kind 1, zeros 3, key 8, payload, zeros up to a multiple of 8
//! checksum 16: XXH3-128 of all before
//! ```
//! Little-endian. Chain and LSN are those of the record before the segment's first one.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::error::LogError;
use super::format::{
    CHECKSUM, FIRST, FORMAT_VERSION, check_cluster, check_kind, digest_at, padded, u32_at, u64_at, u128_at,
};
use super::read::Cursor;
use super::{Lsn, MAX_ANCHOR, MAX_RECORD, Place, Record, Sink};
use crate::types::Digest;

const MAGIC: &[u8; 8] = b"ATLASANC";
/// Bytes before the first carried record.
const HEADER: usize = 96;
/// Bytes before a carried record's payload.
const ENTRY: usize = 16;
/// Fields of the header.
const LENGTH_AT: usize = 12;
const GENESIS_AT: usize = 16;
const CHAIN_AT: usize = 48;
const LSN_AT: usize = 64;
const DROPPED_AT: usize = 72;
const SEGMENT_AT: usize = 80;
const COUNT_AT: usize = 84;
const ZEROS_AT: usize = 88;

/// Where a log begins, in place of the genesis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Anchor<T> {
    /// The first record that is left, the first of its segment.
    pub cursor: Cursor,
    /// No record before has a higher key.
    pub dropped: u64,
    /// What the records before left standing, in their order.
    pub carried: Vec<T>,
}

/// Writes an anchor's bytes; `None` where they are more than [`MAX_ANCHOR`].
pub(super) fn encode<T: Record>(cursor: Cursor, dropped: u64, carried: &[T], genesis: Digest) -> Option<Vec<u8>> {
    // Zeroed memory that is never touched costs nothing.
    let mut out = vec![0; MAX_ANCHOR];
    let mut at = HEADER;
    for record in carried {
        let payload = at + ENTRY;
        let room = MAX_ANCHOR.checked_sub(payload + CHECKSUM + 8)?;
        let mut sink = Sink::new(&mut out, payload, room.min(MAX_RECORD));
        record.encode(&mut sink);
        let length = sink.finish()?;
        out[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
        out[at + 4] = record.kind();
        out[at + 8..at + ENTRY].copy_from_slice(&record.key().to_le_bytes());
        at = payload + padded(length);
    }
    out[..8].copy_from_slice(MAGIC);
    out[8..LENGTH_AT].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[LENGTH_AT..GENESIS_AT].copy_from_slice(&((at + CHECKSUM) as u32).to_le_bytes());
    out[GENESIS_AT..CHAIN_AT].copy_from_slice(&genesis.0);
    out[CHAIN_AT..LSN_AT].copy_from_slice(&cursor.chain.to_le_bytes());
    out[LSN_AT..DROPPED_AT].copy_from_slice(&cursor.last.0.to_le_bytes());
    out[DROPPED_AT..SEGMENT_AT].copy_from_slice(&dropped.to_le_bytes());
    out[SEGMENT_AT..COUNT_AT].copy_from_slice(&cursor.place.segment.to_le_bytes());
    out[COUNT_AT..ZEROS_AT].copy_from_slice(&(carried.len() as u32).to_le_bytes());
    let sum = xxh3_128(&out[..at]);
    out[at..at + CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    out.truncate(at + CHECKSUM);
    Some(out)
}

/// Reads an anchor's bytes.
pub(super) fn decode<T: Record>(image: &[u8], genesis: Digest, file: &Path) -> Result<Anchor<T>, LogError> {
    let damaged = || LogError::AnchorDamaged { file: file.into() };
    check_kind(image, MAGIC, file, damaged())?;
    let expected = (u32_at(image, LENGTH_AT) as usize).max(HEADER + CHECKSUM);
    if image.len() != expected {
        let (found, expected) = (image.len() as u64, expected as u64);
        return Err(LogError::WrongLength { file: file.into(), found, expected });
    }
    let (body, sum) = image.split_at(image.len() - CHECKSUM);
    if xxh3_128(body) != u128_at(sum, 0) {
        return Err(damaged());
    }
    check_cluster(digest_at(body, GENESIS_AT), genesis, file)?;
    let (header, mut rest) = body.split_at(HEADER);
    let mut carried = Vec::new();
    for _ in 0..u32_at(header, COUNT_AT) {
        let offset = (body.len() - rest.len()) as u32;
        let (kind, key, payload) = split_entry(&mut rest).ok_or_else(damaged)?;
        let record = T::decode(kind, payload).filter(|record| record.key() == key);
        carried.push(record.ok_or(LogError::Undecodable { file: file.into(), offset, kind })?);
    }
    if !rest.is_empty() || u64_at(header, ZEROS_AT) != 0 {
        return Err(damaged());
    }
    let place = Place { segment: u32_at(header, SEGMENT_AT), offset: FIRST };
    let cursor = Cursor { place, chain: u128_at(header, CHAIN_AT), last: Lsn(u64_at(header, LSN_AT)) };
    Ok(Anchor { cursor, dropped: u64_at(header, DROPPED_AT), carried })
}

/// Takes the next carried record off: kind, key and payload.
fn split_entry<'a>(rest: &mut &'a [u8]) -> Option<(u8, u64, &'a [u8])> {
    let (entry, behind) = rest.split_at_checked(ENTRY)?;
    let length = u32_at(entry, 0) as usize;
    let (padded, behind) = behind.split_at_checked(padded(length))?;
    let (payload, zeros) = padded.split_at(length);
    let zeros = entry[5..8].iter().chain(zeros).all(|&byte| byte == 0);
    *rest = behind;
    zeros.then_some((entry[4], u64_at(entry, 8), payload))
}

/// Reads what an anchor's bytes carry: for tools, and to be fuzzed.
///
/// # Errors
/// As at a start: [`LogError::AnchorDamaged`], `WrongVersion`, `WrongLength`, `WrongCluster`, `Undecodable`.
pub fn carried_by<T: Record>(image: &[u8], genesis: Digest) -> Result<Vec<T>, LogError> {
    decode(image, genesis, Path::new(super::device::ANCHOR)).map(|anchor| anchor.carried)
}
