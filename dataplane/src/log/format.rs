//! Bytes on disk: the segment header, the record header with its chained checksum, and `synced_to`. Pure.

use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_128, xxh3_128_with_seed};

use super::error::{Damage, LogError};
use super::{Lsn, MAX_RECORD, Place};
use crate::types::Digest;

/// Unit of writing and alignment; the segment header takes one block.
pub const BLOCK: usize = 4096;
/// Version of everything under `log/`.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes before a record's payload.
pub const RECORD_HEADER: usize = 40;
/// Offset of the first record in a segment.
pub(super) const FIRST: u32 = BLOCK as u32;
/// Kind of the marker behind a segment's last record; an application's kinds are `1..=254`.
pub(super) const KIND_END: u8 = 255;
/// Length of `synced_to`: a header sector and two slots, each in a 512-byte sector of its own.
pub(super) const SYNCED_BYTES: usize = 1536;
const SECTOR: usize = 512;
const SEGMENT_MAGIC: &[u8; 8] = b"ATLASLOG";
const SYNCED_MAGIC: &[u8; 8] = b"ATLASSYN";
pub(super) const CHECKSUM: usize = 16;

/// Records start at multiples of 8 bytes.
pub(super) fn padded(length: usize) -> usize {
    length.next_multiple_of(8)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub(super) fn u128_at(bytes: &[u8], at: usize) -> u128 {
    bytes.get(at..at + 16).and_then(|b| b.try_into().ok()).map_or(0, u128::from_le_bytes)
}

pub(super) fn digest_at(bytes: &[u8], at: usize) -> Digest {
    Digest(bytes.get(at..at + 32).and_then(|b| b.try_into().ok()).unwrap_or([0; 32]))
}

/// Checks magic and version, the fields that every format version must keep in place.
pub(super) fn check_kind(bytes: &[u8], magic: &[u8; 8], file: &Path, damaged: LogError) -> Result<(), LogError> {
    if bytes.get(..8) != Some(magic.as_slice()) {
        return Err(damaged);
    }
    match u32_at(bytes, 8) {
        FORMAT_VERSION => Ok(()),
        found => Err(LogError::WrongVersion { file: file.into(), found, expected: FORMAT_VERSION }),
    }
}

pub(super) fn check_cluster(found: Digest, expected: Digest, file: &Path) -> Result<(), LogError> {
    if found == expected { Ok(()) } else { Err(LogError::WrongCluster { file: file.into(), found, expected }) }
}

/// The header block of a segment: magic 8, version 4, segment 4, file length 8, genesis 32, zeros, checksum 16.
pub(super) fn segment_header(genesis: Digest, segment: u32, file_bytes: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..8].copy_from_slice(SEGMENT_MAGIC);
    block[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    block[12..16].copy_from_slice(&segment.to_le_bytes());
    block[16..24].copy_from_slice(&file_bytes.to_le_bytes());
    block[24..56].copy_from_slice(&genesis.0);
    let sum = xxh3_128(&block[..BLOCK - CHECKSUM]);
    block[BLOCK - CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    block
}

/// Checks a whole segment file's header and length.
pub(super) fn check_segment(bytes: &[u8], genesis: Digest, segment: u32, file: &Path) -> Result<(), LogError> {
    let damaged = |what| LogError::Damaged { file: file.into(), segment, offset: 0, what };
    let wrong_length = |expected| LogError::WrongLength { file: file.into(), found: bytes.len() as u64, expected };
    let Some(block) = bytes.get(..BLOCK) else { return Err(wrong_length(BLOCK as u64)) };
    check_kind(block, SEGMENT_MAGIC, file, damaged(Damage::Magic))?;
    if xxh3_128(&block[..BLOCK - CHECKSUM]) != u128_at(block, BLOCK - CHECKSUM) {
        return Err(damaged(Damage::Header));
    }
    check_cluster(digest_at(block, 24), genesis, file)?;
    if u32_at(block, 12) != segment {
        return Err(damaged(Damage::Number));
    }
    match u64_at(block, 16) {
        expected if expected == bytes.len() as u64 => Ok(()),
        expected => Err(wrong_length(expected)),
    }
}

/// Where the chain of checksums starts: different for every cluster.
pub(super) fn first_chain(genesis: Digest) -> u128 {
    xxh3_128_with_seed(&genesis.0, u64::from(FORMAT_VERSION))
}

/// The position is mixed into each checksum by the seed, so bytes copied elsewhere never match.
fn seed(place: Place) -> u64 {
    u64::from(place.segment) << 32 | u64::from(place.offset)
}

/// Writes the header of a record whose payload already stands behind it in `record`, and returns the new chain value.
///
/// Layout, little-endian: checksum 16, length 4, kind 1, zeros 3, LSN 8, key 8. While it is computed the checksum
/// field holds the previous record's checksum: one pass over contiguous bytes chains them.
pub(super) fn seal(record: &mut [u8], place: Place, chain: u128, kind: u8, lsn: Lsn, key: u64) -> u128 {
    let length = (record.len() - RECORD_HEADER) as u32;
    record[..16].copy_from_slice(&chain.to_le_bytes());
    record[16..20].copy_from_slice(&length.to_le_bytes());
    record[20..24].copy_from_slice(&[kind, 0, 0, 0]);
    record[24..32].copy_from_slice(&lsn.0.to_le_bytes());
    record[32..40].copy_from_slice(&key.to_le_bytes());
    let sum = xxh3_128_with_seed(record, seed(place));
    record[..16].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// What stands at a place of a segment, judged with the chain value and LSN of the record before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found<'a> {
    /// An intact record, and the place and chain value behind it.
    Record { kind: u8, key: u64, lsn: Lsn, payload: &'a [u8], next: u32, chain: u128 },
    /// The segment ends here; the chain goes on in the next.
    End { next: u32, chain: u128 },
    /// Nothing was written here yet.
    Zeros,
    /// Neither a record nor nothing.
    Bad,
}

/// Reads what stands at `place`. `window` holds the segment's bytes from file offset `base` on.
pub(super) fn parse(window: &[u8], base: u32, place: Place, chain: u128, last: Lsn) -> Found<'_> {
    let Some(rest) = place.offset.checked_sub(base).and_then(|at| window.get(at as usize..)) else { return Found::Bad };
    let Some(header) = rest.get(..RECORD_HEADER) else { return Found::End { next: place.offset, chain } };
    if header.iter().all(|&b| b == 0) {
        return Found::Zeros;
    }
    let (length, kind) = (u32_at(header, 16) as usize, header[20]);
    if length > MAX_RECORD || header[21..24] != [0; 3] {
        return Found::Bad;
    }
    let end = RECORD_HEADER + length;
    let (Some(record), Some(padding)) = (rest.get(..end), rest.get(end..padded(end))) else { return Found::Bad };
    let mut hasher = Xxh3::with_seed(seed(place));
    hasher.update(&chain.to_le_bytes());
    hasher.update(&record[CHECKSUM..]);
    let sum = hasher.digest128();
    if sum != u128_at(header, 0) || padding.iter().any(|&b| b != 0) {
        return Found::Bad;
    }
    let (lsn, next) = (Lsn(u64_at(header, 24)), place.offset + padded(end) as u32);
    match kind {
        KIND_END if lsn == last && length == 0 => Found::End { next, chain: sum },
        0 | KIND_END => Found::Bad,
        _ if lsn.0 != last.0.wrapping_add(1) => Found::Bad,
        _ => Found::Record { kind, key: u64_at(header, 32), lsn, payload: &record[RECORD_HEADER..], next, chain: sum },
    }
}

/// The position up to which everything is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Synced {
    /// Behind the last durable record.
    pub place: Place,
    /// The last durable record.
    pub lsn: Lsn,
    /// Its checksum.
    pub chain: u128,
    /// Counts the advances; chooses the slot, the higher valid one counts.
    pub turn: u64,
}

impl Synced {
    /// The beginning of a new log.
    pub(super) fn start(genesis: Digest) -> Self {
        Self { place: Place { segment: 0, offset: FIRST }, lsn: Lsn(0), chain: first_chain(genesis), turn: 0 }
    }

    /// The slot's bytes (turn 8, segment 4, offset 4, LSN 8, chain 16, checksum 16) and where they stand in the file.
    pub(super) fn slot(&self) -> (usize, [u8; 56]) {
        let mut slot = [0; 56];
        slot[..8].copy_from_slice(&self.turn.to_le_bytes());
        slot[8..12].copy_from_slice(&self.place.segment.to_le_bytes());
        slot[12..16].copy_from_slice(&self.place.offset.to_le_bytes());
        slot[16..24].copy_from_slice(&self.lsn.0.to_le_bytes());
        slot[24..40].copy_from_slice(&self.chain.to_le_bytes());
        let sum = xxh3_128(&slot[..40]);
        slot[40..].copy_from_slice(&sum.to_le_bytes());
        (SECTOR * (1 + (self.turn % 2) as usize), slot)
    }

    /// The image of a fresh `synced_to`; both slots hold a valid position from the start.
    pub(super) fn image(&self, genesis: Digest) -> [u8; SYNCED_BYTES] {
        let mut image = [0; SYNCED_BYTES];
        image[..8].copy_from_slice(SYNCED_MAGIC);
        image[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        image[12..44].copy_from_slice(&genesis.0);
        let sum = xxh3_128(&image[..SECTOR - CHECKSUM]);
        image[SECTOR - CHECKSUM..SECTOR].copy_from_slice(&sum.to_le_bytes());
        for turn in [self.turn, self.turn + 1] {
            let (at, slot) = Self { turn, ..*self }.slot();
            image[at..at + slot.len()].copy_from_slice(&slot);
        }
        image
    }

    /// Reads a `synced_to` image.
    pub(super) fn parse(image: &[u8], genesis: Digest, file: &Path) -> Result<Self, LogError> {
        let damaged = || LogError::SyncedToDamaged { file: file.into() };
        if image.len() != SYNCED_BYTES {
            let (found, expected) = (image.len() as u64, SYNCED_BYTES as u64);
            return Err(LogError::WrongLength { file: file.into(), found, expected });
        }
        check_kind(image, SYNCED_MAGIC, file, damaged())?;
        if xxh3_128(&image[..SECTOR - CHECKSUM]) != u128_at(image, SECTOR - CHECKSUM) {
            return Err(damaged());
        }
        check_cluster(digest_at(image, 12), genesis, file)?;
        let slots = [SECTOR, 2 * SECTOR].map(|at| &image[at..at + 56]);
        let valid = slots.into_iter().filter(|slot| xxh3_128(&slot[..40]) == u128_at(slot, 40));
        let read = valid.map(|slot| Self {
            turn: u64_at(slot, 0),
            place: Place { segment: u32_at(slot, 8), offset: u32_at(slot, 12) },
            lsn: Lsn(u64_at(slot, 16)),
            chain: u128_at(slot, 24),
        });
        read.max_by_key(|synced| synced.turn).ok_or_else(damaged)
    }
}
