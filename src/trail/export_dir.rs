//! Rows of an export directory (`docs/formats.md`): the entries in its `tile/entries`, with the names that its CONFIG entries
//! tell and the times at which its checkpoints were cosigned.
//!
//! Nothing is proved here: the files are believed as they are, once they can be read. `atlas audit` proves them.
//!
//! # Limits
//! [`MAX_TILES`] entry bundles, [`MAX_CHECKPOINTS`] checkpoints. One bundle is held in memory at a time.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::size::Size;
use atlas_dataplane::history::entry::{EntryError, EntryView};
use atlas_dataplane::types::{EntryIndex, TimeMs};
use atlas_dataplane::wire::limits::MAX_ENTRY;
use data_encoding::BASE64;

use super::names::Names;
use super::row::{Row, rows_of_record};
use crate::twin::follow::Follower;
use crate::twin::record::Filter;

/// The most entry bundles: 4 thousand million entries.
pub const MAX_TILES: usize = 1 << 24;
/// The most checkpoints; the certified times of later entries are not told.
pub const MAX_CHECKPOINTS: usize = 1 << 20;
/// Entries of a full bundle.
const WIDTH: u64 = 256;
/// The largest bundle, bytes.
const MAX_BUNDLE: u64 = WIDTH * (2 + MAX_ENTRY as u64);
/// The largest checkpoint, bytes.
const MAX_NOTE: u64 = 64 * 1024;
/// Directories below `tile/entries`: 16 digits in groups of three.
const MAX_DEPTH: usize = 7;

/// Why an export cannot be read. The text names the file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file system refuses.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// There are no entries.
    #[error("{} has no entries: an export has them in tile/entries", .0.display())]
    Empty(PathBuf),
    /// A name that no bundle of entries has.
    #[error("{} is no bundle of entries: groups of three digits, all but the last with x, and .p/ with 1 to 255 for a partial one", .0.display())]
    Name(PathBuf),
    /// Beyond a limit.
    #[error("{}: {what}", path.display())]
    TooLarge {
        /// The file or directory.
        path: PathBuf,
        /// What is too large, and the limit.
        what: &'static str,
    },
    /// Entries are missing between others.
    #[error("{}: the bundle before it does not reach it; entries from {first} to {last} are missing", path.display())]
    Gap {
        /// The file behind the gap.
        path: PathBuf,
        /// The first that is missing.
        first: EntryIndex,
        /// The last.
        last: EntryIndex,
    },
    /// The bytes are not so many entries with their lengths.
    #[error("{}: malformed at byte {at}: an entry is its length in two bytes, then so many bytes, {expected} times", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Where in it.
        at: usize,
        /// How many entries its name promises.
        expected: u64,
    },
    /// An entry is none.
    #[error("{}, byte {at}: entry {index}: {source}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Where the entry begins in it.
        at: usize,
        /// Its index.
        index: EntryIndex,
        /// What is wrong.
        source: EntryError,
    },
    /// The output of the rows, which is no file of the export.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> ExportError {
    let path = path.to_owned();
    move |source| ExportError::Read { path, source }
}

/// Reads at most `limit` bytes of a file.
fn read(path: &Path, limit: u64, what: &'static str) -> Result<Vec<u8>, ExportError> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(read_error(path))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(read_error(path))?;
    if bytes.len() as u64 > limit {
        return Err(ExportError::TooLarge { path: path.to_owned(), what });
    }
    Ok(bytes)
}

/// A bundle of entries: its file and how many entries its name promises.
struct Tile {
    path: PathBuf,
    width: u64,
}

/// The rows of an export, in the agreed order.
pub struct ExportRows {
    filter: Filter,
    tiles: std::vec::IntoIter<(u64, Tile)>,
    next: Option<EntryIndex>,
    follower: Follower,
    names: Names,
    certified: Certified,
    ready: VecDeque<Row>,
    /// What ended it, to be told behind the rows before it.
    error: Option<ExportError>,
    ended: bool,
}

impl ExportRows {
    /// Finds the files. Names that the filter's origins were given by must be resolved before: see [`names_in`].
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn open(dir: &Path, filter: Filter) -> Result<Self, ExportError> {
        let tiles = tiles(dir)?;
        let certified = Certified::read(dir)?;
        let (follower, names) = (Follower::new(), Names::default());
        let tiles = tiles.into_iter().collect::<Vec<_>>().into_iter();
        let ready = VecDeque::new();
        Ok(Self { filter, tiles, next: None, follower, names, certified, ready, error: None, ended: false })
    }

    fn read_tile(&mut self, number: u64, tile: &Tile) -> Result<(), ExportError> {
        let first = number * WIDTH;
        if let Some(next) = self.next.filter(|next| *next != first) {
            return Err(ExportError::Gap { path: tile.path.clone(), first: next, last: first.saturating_sub(1) });
        }
        let bytes = read(&tile.path, MAX_BUNDLE, "a bundle of entries has at most 256 entries of 65,535 bytes")?;
        for (index, (at, entry)) in (first..).zip(split(&bytes, tile)?) {
            let wrong = |source| ExportError::Entry { path: tile.path.clone(), at, index, source };
            match EntryView::decode(entry) {
                Ok(EntryView::Config(config)) => {
                    self.names.learn_config(&config);
                    self.certified.quorum = Size::new(config.members.len()).map(Size::quorum);
                }
                Ok(EntryView::Key(key)) => self.names.learn_statement(key.cose),
                Ok(_) | Err(EntryError::Unknown { .. }) => {}
                Err(source) => return Err(wrong(source)),
            }
            for record in self.follower.records(index, entry, &self.filter).map_err(wrong)? {
                let certified_ms = self.certified.of(index);
                let rows = rows_of_record(&record, &self.names).into_iter();
                self.ready.extend(rows.map(|row| Row { certified_ms, ..row }));
            }
        }
        self.next = Some(first + tile.width);
        Ok(())
    }
}

impl Iterator for ExportRows {
    type Item = Result<Row, ExportError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Some(Ok(row));
            }
            if self.ended {
                return self.error.take().map(Err);
            }
            let (number, tile) = self.tiles.next()?;
            self.error = self.read_tile(number, &tile).err();
            self.ended = self.error.is_some();
        }
    }
}

/// The names that the export's entries tell, all of them read: what `--by` may name.
///
/// # Errors
/// [`ExportError`]; entries that are none are passed over.
pub fn names_in(dir: &Path) -> Result<Names, ExportError> {
    let mut names = Names::default();
    for tile in tiles(dir)?.into_values() {
        let bytes = read(&tile.path, MAX_BUNDLE, "a bundle of entries has at most 256 entries of 65,535 bytes")?;
        for (_, entry) in split(&bytes, &tile)? {
            match EntryView::decode(entry) {
                Ok(EntryView::Config(config)) => names.learn_config(&config),
                Ok(EntryView::Key(key)) => names.learn_statement(key.cose),
                _ => {}
            }
        }
    }
    Ok(names)
}

/// The entries of a bundle, each with where it begins.
fn split<'a>(bytes: &'a [u8], tile: &Tile) -> Result<Vec<(usize, &'a [u8])>, ExportError> {
    let wrong = |at| ExportError::Bundle { path: tile.path.clone(), at, expected: tile.width };
    let (mut at, mut entries) = (0, Vec::new());
    while at < bytes.len() {
        let length = bytes.get(at..at + 2).ok_or_else(|| wrong(at))?;
        let start = at + 2;
        let end = start + usize::from(u16::from_be_bytes([length[0], length[1]]));
        entries.push((start, bytes.get(start..end).ok_or_else(|| wrong(at))?));
        at = end;
    }
    if entries.len() as u64 == tile.width { Ok(entries) } else { Err(wrong(bytes.len())) }
}

/// Every bundle of entries by its number; of a partial one the widest, and none beside a full one.
fn tiles(dir: &Path) -> Result<BTreeMap<u64, Tile>, ExportError> {
    let root = dir.join("tile").join("entries");
    let mut found = BTreeMap::new();
    let mut open = vec![(root, 0_u64, 0_usize)];
    while let Some((path, number, depth)) = open.pop() {
        for item in std::fs::read_dir(&path).map_err(read_error(&path))? {
            let item = item.map_err(read_error(&path))?.path();
            let name = item.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let wrong = || ExportError::Name(item.clone());
            let (digits, is_inner) = name.strip_prefix('x').map_or((name, false), |digits| (digits, true));
            let (digits, is_partial) = digits.strip_suffix(".p").map_or((digits, false), |digits| (digits, true));
            let is_group = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !is_group || (is_inner && is_partial) || depth == MAX_DEPTH {
                return Err(wrong());
            }
            let group: u64 = digits.parse().map_err(|_| wrong())?;
            let number = number.checked_mul(1_000).and_then(|number| number.checked_add(group)).ok_or_else(wrong)?;
            if is_inner {
                open.push((item, number, depth + 1));
                continue;
            }
            let tile = if is_partial { widest(&item)? } else { Tile { path: item, width: WIDTH } };
            let known = found.get(&number).map_or(0, |known: &Tile| known.width);
            if tile.width > known {
                found.insert(number, tile);
            }
            if found.len() > MAX_TILES || number > u64::MAX / WIDTH {
                return Err(ExportError::TooLarge { path, what: "more bundles of entries than this version reads" });
            }
        }
    }
    if found.is_empty() { Err(ExportError::Empty(dir.to_owned())) } else { Ok(found) }
}

/// The widest partial bundle in its directory.
fn widest(dir: &Path) -> Result<Tile, ExportError> {
    let mut best: Option<Tile> = None;
    for item in std::fs::read_dir(dir).map_err(read_error(dir))? {
        let path = item.map_err(read_error(dir))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let width = name.parse().ok().filter(|width| (1..WIDTH).contains(width) && !name.starts_with(['0', '+']));
        let width = width.ok_or_else(|| ExportError::Name(path.clone()))?;
        if best.as_ref().is_none_or(|best| best.width < width) {
            best = Some(Tile { path, width });
        }
    }
    best.ok_or_else(|| ExportError::Empty(dir.to_owned()))
}

/// When entries were certified, as the export's checkpoints say.
struct Certified {
    /// Cosignature times of each checkpoint by its size, ascending, seconds.
    checkpoints: BTreeMap<u64, Vec<u64>>,
    /// How many of them make it certified; known once a CONFIG entry was read.
    quorum: Option<usize>,
}

impl Certified {
    fn read(dir: &Path) -> Result<Self, ExportError> {
        let mut checkpoints = BTreeMap::new();
        let mut files = vec![dir.join("checkpoint")];
        let older = dir.join("checkpoints");
        if older.is_dir() {
            for item in std::fs::read_dir(&older).map_err(read_error(&older))?.take(MAX_CHECKPOINTS) {
                files.push(item.map_err(read_error(&older))?.path());
            }
        }
        for file in files.iter().filter(|file| file.is_file()) {
            let bytes = read(file, MAX_NOTE, "a checkpoint has at most 64 KiB")?;
            if let Some((size, times)) = cosigned(&String::from_utf8_lossy(&bytes)) {
                checkpoints.insert(size, times);
            }
        }
        Ok(Self { checkpoints, quorum: None })
    }

    /// When a quorum had cosigned the first checkpoint that covers the entry.
    fn of(&self, index: EntryIndex) -> Option<TimeMs> {
        let quorum = self.quorum?;
        let mut covering = self.checkpoints.range(index.checked_add(1)?..);
        let seconds = covering.find_map(|(_, times)| times.get(quorum.checked_sub(1)?))?;
        i64::try_from(*seconds).ok()?.checked_mul(1_000)
    }
}

/// Size and cosignature times of a checkpoint, one time a name; `None` where it is none. No signature is verified.
fn cosigned(note: &str) -> Option<(u64, Vec<u64>)> {
    let (body, signatures) = note.split_once("\n\n")?;
    let size = body.lines().nth(1)?.parse().ok()?;
    let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
    for line in signatures.lines() {
        let (name, signature) = line.strip_prefix("— ")?.rsplit_once(' ')?;
        let bytes = BASE64.decode(signature.as_bytes()).ok()?;
        // Key id, time, signature; a log line has no time.
        if let (76, Some(time)) = (bytes.len(), bytes.get(4..12).and_then(|time| <[u8; 8]>::try_from(time).ok())) {
            by_name.entry(name).or_insert(u64::from_be_bytes(time));
        }
    }
    let mut times: Vec<u64> = by_name.into_values().collect();
    times.sort_unstable();
    Some((size, times))
}

#[cfg(test)]
#[path = "export_dir_tests.rs"]
mod tests;
