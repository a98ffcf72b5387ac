//! Rows of an export directory (`docs/formats.md`): the entries in its `tile/entries`, with the names that its CONFIG and KEY
//! entries tell and the times at which its checkpoints were cosigned.
//!
//! Entries are believed as they are, once they can be read; `atlas audit` proves them. Certified times are those of checkpoints
//! that the export's own `policy.txt` believes; where it has none, none is told.
//!
//! # Limits
//! One bundle of 256 entries is held in memory at a time, and [`MAX_LISTED`] checkpoints are read.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use atlas_dataplane::history::entry::{EntryError, EntryView};
use atlas_dataplane::history::note::{MAX_NOTE, Note, NoteError};
use atlas_dataplane::history::tiles::{MAX_BUNDLE_BYTES, TILE_WIDTH, Tile, TileError, TileKind, parse_entries};
use atlas_dataplane::history::tlog_policy::{MAX_POLICY, Policy};
use atlas_dataplane::types::{EntryIndex, TimeMs};

use super::names::Names;
use super::row::{Row, rows_of_record};
use crate::audit::files::{FileFault, Tree};
use crate::audit::layout::{CHECKPOINT, CHECKPOINTS, MANIFEST, MAX_LISTED, MAX_MANIFEST, Manifest, POLICY};
use crate::twin::follow::Follower;
use crate::twin::record::Filter;

/// Why an export cannot be read. The text names the file, as it is called below the directory.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The directory.
    #[error("{}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("{file}: {source}")]
    File {
        /// Which.
        file: String,
        /// What is wrong.
        source: FileFault,
    },
    /// The checkpoint is none.
    #[error("{CHECKPOINT}: {0}")]
    Checkpoint(#[from] NoteError),
    /// The manifest is none.
    #[error("{MANIFEST}: {0}")]
    Manifest(String),
    /// The bytes are not so many entries with their lengths.
    #[error("{file}: {source}")]
    Bundle {
        /// The file.
        file: String,
        /// What is wrong.
        source: TileError,
    },
    /// An entry is none.
    #[error("{file}, byte {at}: entry {index}: {source}")]
    Entry {
        /// The file.
        file: String,
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

/// The files of an export, and which entries they should have.
struct Export {
    tree: Tree,
    /// Entries under the checkpoint.
    size: u64,
    /// Number of the next bundle of entries.
    next: u64,
    /// Behind the last.
    end: u64,
}

impl Export {
    fn open(dir: &Path) -> Result<Self, ExportError> {
        let tree = Tree::open(dir).map_err(|source| ExportError::Directory { path: dir.to_owned(), source })?;
        let size = Note::parse(&read(&tree, CHECKPOINT, MAX_NOTE)?)?.body.size;
        // Without a manifest it has all entries.
        let (from, to) = match tree.read(MANIFEST, MAX_MANIFEST) {
            Err(FileFault::Missing) => (0, size),
            Err(source) => return Err(ExportError::File { file: MANIFEST.to_owned(), source }),
            Ok(bytes) => {
                let wrong = |error: serde_json::Error| ExportError::Manifest(error.to_string());
                let Manifest { from, to, .. } = serde_json::from_slice(&bytes).map_err(wrong)?;
                if from >= to || to > size {
                    let text = format!("it says entries {from} to {to}, and the checkpoint covers {size}");
                    return Err(ExportError::Manifest(text));
                }
                (from, to)
            }
        };
        let width = u64::from(TILE_WIDTH);
        Ok(Self { tree, size, next: from / width, end: to.div_ceil(width) })
    }

    /// The next bundle of entries, with the bytes of its file.
    fn next(&mut self) -> Option<Result<(Tile, Vec<u8>), ExportError>> {
        let index = self.next;
        if index >= self.end {
            return None;
        }
        self.next += 1;
        let tile = Tile::holding(TileKind::Entries, index.checked_mul(u64::from(TILE_WIDTH))?, self.size)?;
        Some(read(&self.tree, &tile.path(), MAX_BUNDLE_BYTES).map(|bytes| (tile, bytes)))
    }
}

fn read(tree: &Tree, file: &str, max: usize) -> Result<Vec<u8>, ExportError> {
    tree.read(file, max).map_err(|source| ExportError::File { file: file.to_owned(), source })
}

fn split(tile: Tile, bytes: &[u8]) -> Result<Vec<(usize, &[u8])>, ExportError> {
    parse_entries(bytes, tile.width).map_err(|source| ExportError::Bundle { file: tile.path(), source })
}

/// The rows of an export, in the agreed order; at the first file that is wrong an error, and nothing behind it.
pub struct ExportRows {
    filter: Filter,
    export: Export,
    follower: Follower,
    names: Names,
    certified: BTreeMap<u64, TimeMs>,
    ready: VecDeque<Row>,
    /// What ended it, to be told behind the rows before it.
    error: Option<ExportError>,
    ended: bool,
}

impl ExportRows {
    /// Opens it. Names by which the filter's origins were given must be resolved before: see [`names_in`].
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn open(dir: &Path, filter: Filter) -> Result<Self, ExportError> {
        let export = Export::open(dir)?;
        let certified = certified(&export.tree)?;
        let (follower, names, ready) = (Follower::new(), Names::default(), VecDeque::new());
        Ok(Self { filter, export, follower, names, certified, ready, error: None, ended: false })
    }

    fn add(&mut self, tile: Tile, bytes: &[u8]) -> Result<(), ExportError> {
        for (index, (at, entry)) in (tile.first()..).zip(split(tile, bytes)?) {
            let wrong = |source| ExportError::Entry { file: tile.path(), at, index, source };
            learn(&mut self.names, entry).map_err(wrong)?;
            // The first certified checkpoint that covers it.
            let certified_ms = self.certified.range(index + 1..).next().map(|(_, time)| *time);
            for record in self.follower.records(index, entry, &self.filter).map_err(wrong)? {
                let rows = rows_of_record(&record, &self.names).into_iter();
                self.ready.extend(rows.map(|row| Row { certified_ms, ..row }));
            }
        }
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
            let added = self.export.next()?.and_then(|(tile, bytes)| self.add(tile, &bytes));
            self.error = added.err();
            self.ended = self.error.is_some();
        }
    }
}

/// The names that the export's entries tell, all of them read: what `--by` may name.
///
/// # Errors
/// [`ExportError`]; entries that are none are passed over.
pub fn names_in(dir: &Path) -> Result<Names, ExportError> {
    let mut export = Export::open(dir)?;
    let mut names = Names::default();
    while let Some(next) = export.next() {
        let (tile, bytes) = next?;
        for (_, entry) in split(tile, &bytes)? {
            let _ = learn(&mut names, entry);
        }
    }
    Ok(names)
}

fn learn(names: &mut Names, entry: &[u8]) -> Result<(), EntryError> {
    match EntryView::decode(entry) {
        Ok(EntryView::Config(config)) => names.learn_config(&config),
        Ok(EntryView::Key(key)) => names.learn_statement(key.cose),
        Ok(_) | Err(EntryError::Unknown { .. }) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The time by which each checkpoint was there, by its size, as far as the export's policy believes it.
fn certified(tree: &Tree) -> Result<BTreeMap<u64, TimeMs>, ExportError> {
    let policy = match tree.read(POLICY, MAX_POLICY) {
        Err(FileFault::Missing) => return Ok(BTreeMap::new()),
        read => read.map_err(|source| ExportError::File { file: POLICY.to_owned(), source })?,
    };
    let Ok(policy) = Policy::parse(&policy) else { return Ok(BTreeMap::new()) };
    let folder = |source| ExportError::File { file: CHECKPOINTS.to_owned(), source };
    let older = tree.names(CHECKPOINTS, MAX_LISTED).map_err(folder)?.unwrap_or_default();
    let older = older.into_iter().map(|name| format!("{CHECKPOINTS}/{name}"));
    let mut times = BTreeMap::new();
    for file in older.chain([CHECKPOINT.to_owned()]) {
        let note = Note::parse(&read(tree, &file, MAX_NOTE)?).ok();
        let believed = note.and_then(|note| policy.check(&note).ok());
        let time = believed.and_then(|it| Some((it.size, i64::try_from(it.time_s(policy.liars())?).ok()?)));
        if let Some((size, time_ms)) = time.and_then(|(size, time)| Some((size, time.checked_mul(1_000)?))) {
            times.insert(size, time_ms);
        }
    }
    Ok(times)
}

#[cfg(test)]
#[path = "export_dir_tests.rs"]
mod tests;
