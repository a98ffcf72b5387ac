//! C2SP tlog-tiles: how a history lies in files that any static web server serves.
//!
//! * `tile/<L>/<N>`: 256 hashes of 32 bytes; at level 0 leaf hashes, above the roots of full tiles of the level below.
//! * `tile/entries/<N>`: 256 entries, each with its length before it (u16, big-endian).
//! * `.p/<W>` behind either: the last one of its level, with `W` of 256.
//!
//! `<N>` is written in groups of three digits, all but the last behind an `x`: 1234067 is `x001/x234/067`.

use super::proof::NodeHashes;
use super::tree::MAX_SIZE;
use crate::crypto::hash::RootBuilder;
use crate::types::{Digest, EntryIndex};
use crate::wire::limits::MAX_ENTRY;

/// Hashes of a full tile, and entries of a full entry bundle.
pub const TILE_WIDTH: u16 = 256;

/// Levels of the tree between two levels of tiles.
pub const TILE_HEIGHT: u8 = 8;

/// Most levels of tiles that a history can have: it has fewer than 2^63 entries.
pub const MAX_LEVELS: u8 = 8;

/// Most bytes of a full tile.
pub const TILE_BYTES: usize = TILE_WIDTH as usize * 32;

/// Most bytes of an entry bundle.
pub const MAX_BUNDLE_BYTES: usize = TILE_WIDTH as usize * (2 + MAX_ENTRY);

/// What a tile holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TileKind {
    /// Hashes of this level.
    Hashes(u8),
    /// Entries.
    Entries,
}

/// Which tile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Tile {
    /// What it holds.
    pub kind: TileKind,
    /// Its number in its level.
    pub index: u64,
    /// How many hashes or entries it has, 1 to [`TILE_WIDTH`].
    pub width: u16,
}

impl Tile {
    /// The tile that holds hash or entry number `item` of its kind in a history of `size` entries; `None` where that history has no
    /// such item.
    pub fn holding(kind: TileKind, item: u64, size: u64) -> Option<Self> {
        let items = items_of(kind, size);
        let index = item / u64::from(TILE_WIDTH);
        let width = items.saturating_sub(index * u64::from(TILE_WIDTH)).min(u64::from(TILE_WIDTH)) as u16;
        (item < items).then_some(Self { kind, index, width })
    }

    /// The path below the export's directory.
    pub fn path(&self) -> String {
        let kind = match self.kind {
            TileKind::Hashes(level) => level.to_string(),
            TileKind::Entries => "entries".to_owned(),
        };
        let mut number = format!("{:03}", self.index % 1_000);
        let mut rest = self.index / 1_000;
        while rest > 0 {
            number = format!("x{:03}/{number}", rest % 1_000);
            rest /= 1_000;
        }
        match self.width {
            TILE_WIDTH => format!("tile/{kind}/{number}"),
            width => format!("tile/{kind}/{number}.p/{width}"),
        }
    }

    /// Reads a path: exactly what [`Tile::path`] makes. `None` for any other text.
    pub fn parse(path: &str) -> Option<Self> {
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes(level.parse().ok().filter(|level| *level < MAX_LEVELS)?),
        };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok().filter(|width| (1..TILE_WIDTH).contains(width))?),
            None => (rest, TILE_WIDTH),
        };
        let mut index: u64 = 0;
        for part in number.split('/') {
            let digits = part.strip_prefix('x').unwrap_or(part);
            index = index.checked_mul(1_000)?.checked_add(digits.parse().ok().filter(|group| *group < 1_000)?)?;
        }
        let tile = Self { kind, index, width };
        // The one way to write it: no signs, no other zeros, no `x` too many or too few.
        (tile.path() == path).then_some(tile)
    }

    /// Number of its first hash or entry.
    pub fn first(&self) -> u64 {
        self.index.saturating_mul(u64::from(TILE_WIDTH))
    }
}

/// How many hashes or entries of a kind a history of `size` entries has in tiles.
pub fn items_of(kind: TileKind, size: u64) -> u64 {
    match kind {
        TileKind::Entries => size,
        TileKind::Hashes(level) => size.checked_shr(u32::from(level) * u32::from(TILE_HEIGHT)).unwrap_or(0),
    }
}

/// All tiles of a kind in a history of `size` entries, the last one perhaps partial.
pub fn tiles_of(kind: TileKind, size: u64) -> impl Iterator<Item = Tile> {
    let count = items_of(kind, size).div_ceil(u64::from(TILE_WIDTH));
    (0..count).filter_map(move |index| Tile::holding(kind, index * u64::from(TILE_WIDTH), size))
}

/// The levels of hash tiles that a history of `size` entries has.
pub fn levels_of(size: u64) -> impl Iterator<Item = u8> {
    (0..MAX_LEVELS).take_while(move |level| items_of(TileKind::Hashes(*level), size) > 0)
}

/// Why bytes are not those of a tile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TileError {
    /// A hash tile of another length.
    #[error("{found} bytes, a tile of {width} hashes has {}", 32 * usize::from(*width))]
    Length {
        /// Hashes that it should have.
        width: u16,
        /// Bytes that it has.
        found: usize,
    },
    /// An entry bundle ends early.
    #[error("the bytes end at {at}, inside entry {entry} of the bundle")]
    Truncated {
        /// Which entry of the bundle, from 0.
        entry: u16,
        /// Where it begins.
        at: usize,
    },
    /// An entry bundle goes on.
    #[error("{width} entries end at byte {at}, and bytes follow")]
    Trailing {
        /// How many entries it should have.
        width: u16,
        /// Where they end.
        at: usize,
    },
}

/// The hashes of a tile of `width`.
///
/// # Errors
/// Another number of bytes.
pub fn parse_hashes(bytes: &[u8], width: u16) -> Result<Vec<Digest>, TileError> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() != usize::from(width) {
        return Err(TileError::Length { width, found: bytes.len() });
    }
    Ok(hashes.iter().map(|hash| Digest(*hash)).collect())
}

/// Appends an entry to an entry bundle; `false`, and nothing done, where it is longer than [`MAX_ENTRY`].
pub fn put_entry(out: &mut Vec<u8>, entry: &[u8]) -> bool {
    let Ok(length) = u16::try_from(entry.len()) else { return false };
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(entry);
    true
}

/// The entries of an entry bundle of `width`, each with the offset at which its bytes begin.
///
/// # Errors
/// Fewer entries, or bytes behind them.
pub fn parse_entries(bytes: &[u8], width: u16) -> Result<Vec<(usize, &[u8])>, TileError> {
    let mut entries = Vec::with_capacity(usize::from(width).min(bytes.len() / 2));
    let mut at = 0;
    for entry in 0..width {
        let rest = bytes.get(at..).unwrap_or_default();
        let cut = rest.split_first_chunk::<2>().and_then(|(length, rest)| {
            let length = usize::from(u16::from_be_bytes(*length));
            rest.get(..length)
        });
        let cut = cut.ok_or(TileError::Truncated { entry, at })?;
        entries.push((at + 2, cut));
        at += 2 + cut.len();
    }
    if at < bytes.len() { Err(TileError::Trailing { width, at }) } else { Ok(entries) }
}

/// Nodes of a history of a known size from its tiles.
pub struct TileNodes<R> {
    size: u64,
    read: R,
}

impl<R: Fn(Tile) -> Option<Vec<Digest>>> TileNodes<R> {
    /// `read` gives the hashes of a tile, as many as its width says; `None` where it cannot.
    pub fn new(size: u64, read: R) -> Self {
        Self { size: size.min(MAX_SIZE), read }
    }
}

impl<R: Fn(Tile) -> Option<Vec<Digest>>> NodeHashes for TileNodes<R> {
    fn node(&self, level: u8, index: u64) -> Option<Digest> {
        let (tile_level, rest) = (level / TILE_HEIGHT, level % TILE_HEIGHT);
        let first: EntryIndex = index.checked_mul(1 << rest)?;
        let tile = Tile::holding(TileKind::Hashes(tile_level), first, self.size)?;
        let hashes = (self.read)(tile)?;
        let start = usize::try_from(first - tile.first()).ok()?;
        let mut builder = RootBuilder::default();
        hashes.get(start..start + (1 << rest))?.iter().for_each(|hash| builder.push_hash(*hash));
        Some(builder.root())
    }
}

#[cfg(test)]
#[path = "tiles_tests.rs"]
mod tests;
