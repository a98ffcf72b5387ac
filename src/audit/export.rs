//! Writing an export: from any source of certified entries, checked while it is written, there whole or not at all.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use atlas_dataplane::crypto::hash::{RootBuilder, leaf_hash, sha256};
use atlas_dataplane::history::note::{Note, NoteError};
use atlas_dataplane::history::tiles::{MAX_LEVELS, TILE_WIDTH, Tile, TileKind, put_entry};
use atlas_dataplane::history::tlog_policy::{Certified, CheckError, Policy, PolicyError};
use atlas_dataplane::types::{Digest, EntryIndex};

use super::layout::{CHECKPOINT, CHECKPOINTS, FORMAT, Listed, MANIFEST, Manifest, POLICIES, POLICY};

/// Leaf hashes, and entries, that are asked for at a time.
const AT_A_TIME: usize = TILE_WIDTH as usize;

/// Where an export comes from. It is not trusted.
pub trait Source {
    /// Why it cannot give what is asked.
    type Error: std::error::Error;

    /// A certified checkpoint: a note's text.
    ///
    /// # Errors
    /// The source's own.
    fn checkpoint(&mut self) -> Result<Vec<u8>, Self::Error>;

    /// Entries from `first` on, at least one and at most `max`, of those under the checkpoint.
    ///
    /// # Errors
    /// The source's own.
    fn entries(&mut self, first: EntryIndex, max: usize) -> Result<Vec<Vec<u8>>, Self::Error>;

    /// Leaf hashes from entry `first` on, at least one and at most `max`, of those under the checkpoint.
    ///
    /// # Errors
    /// The source's own.
    fn leaf_hashes(&mut self, first: EntryIndex, max: usize) -> Result<Vec<Digest>, Self::Error>;

    /// Older certified checkpoints that should go with it.
    ///
    /// # Errors
    /// The source's own.
    fn older_checkpoints(&mut self) -> Result<Vec<Vec<u8>>, Self::Error> {
        Ok(Vec::new())
    }
}

/// Where tiles go.
pub trait Sink {
    /// Writes a file of this path.
    ///
    /// # Errors
    /// It cannot be written.
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), DirectoryError>;

    /// Whether the entries of a tile are there already, so that nobody needs to be asked: they hash to these leaves.
    ///
    /// # Errors
    /// What is there cannot be looked at.
    fn has_entries(&mut self, _tile: Tile, _leaves: &[Digest]) -> Result<bool, DirectoryError> {
        Ok(false)
    }
}

/// Why nothing was exported. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ExportError<E: std::error::Error> {
    /// The directory cannot be made.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The policy.
    #[error("the policy: {0}")]
    Policy(#[from] PolicyError),
    /// The checkpoint.
    #[error("the source's checkpoint: {0}")]
    Note(#[from] NoteError),
    /// The checkpoint.
    #[error("the source's checkpoint is not certified: {0}")]
    Uncertified(#[from] CheckError),
    /// A range beyond the history.
    #[error("entries {from} to {to} are asked for; the checkpoint covers {size}")]
    Range {
        /// First.
        from: u64,
        /// Behind the last.
        to: u64,
        /// Entries of the history.
        size: u64,
    },
    /// The source failed.
    #[error("the source: {0}")]
    Source(E),
    /// The source gave none or too many.
    #[error("the source gave {found} {what} from {first} on where 1 to {max} were asked for")]
    Count {
        /// Entries or leaf hashes.
        what: &'static str,
        /// From which on.
        first: u64,
        /// How many.
        found: usize,
        /// How many at most.
        max: usize,
    },
    /// An entry that is not under the checkpoint.
    #[error("the source's entry {0} is not the one under its leaf hash: the source lies or is damaged")]
    Entry(EntryIndex),
    /// An entry that is too long.
    #[error("the source's entry {0} is longer than an entry may be")]
    EntryTooLong(EntryIndex),
    /// Hashes that are not those under the checkpoint.
    #[error("the source's leaf hashes make root {found}, certified is {certified}: the source lies or is damaged")]
    Root {
        /// What they make.
        found: Digest,
        /// What was certified.
        certified: Digest,
    },
}

/// Why a directory cannot be made, or a file in it.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// There is something already.
    #[error("{} exists and is not an empty directory; choose another one", .0.display())]
    NotEmpty(PathBuf),
    /// A path without a name.
    #[error("{} names no directory that can be made; name a new one below an existing one", .0.display())]
    NoName(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What failed.
        source: io::Error,
    },
}

/// Exports the entries `[from, to)`, widened to whole files of 256, into the new directory `dir`; all hashes go with them. `to` being
/// `None` means all. Tells `progress` how many of how many entries of the history are done.
///
/// # Errors
/// See [`ExportError`]; nothing is left behind.
pub fn export<S: Source>(
    source: &mut S,
    policy: &[u8],
    (from, to): (u64, Option<u64>),
    dir: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<Manifest, ExportError<S::Error>> {
    let parsed = Policy::parse(policy)?;
    let checkpoint = source.checkpoint().map_err(ExportError::Source)?;
    let certified = parsed.check(&Note::parse(&checkpoint)?)?;
    let size = certified.size;
    let to = to.unwrap_or(size);
    if from >= to || to > size {
        return Err(ExportError::Range { from, to, size });
    }
    let width = u64::from(TILE_WIDTH);
    let range = (from - from % width, to.div_ceil(width).saturating_mul(width).min(size));
    let mut out = Staged::new(dir)?;
    out.put(CHECKPOINT, &checkpoint)?;
    out.put(&format!("{CHECKPOINTS}/{size}"), &checkpoint)?;
    out.put(POLICY, policy)?;
    out.put(&format!("{POLICIES}/0"), policy)?;
    for older in source.older_checkpoints().map_err(ExportError::Source)? {
        let older_size = parsed.check(&Note::parse(&older)?)?.size;
        if older_size < size {
            out.put(&format!("{CHECKPOINTS}/{older_size}"), &older)?;
        }
    }
    put_tiles(source, &certified, range, &mut out, progress)?;
    let Staged { files, .. } = &mut out;
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    files.dedup_by(|a, b| a.path == b.path);
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        origin: certified.origin,
        from: range.0,
        to: range.1,
        size,
        root: certified.root.to_string(),
        files: std::mem::take(files),
    };
    let json = serde_json::to_vec_pretty(&manifest).map_err(|error| out.failed(MANIFEST, error.into()))?;
    out.put(MANIFEST, &json)?;
    out.finish(dir)?;
    Ok(manifest)
}

/// Puts all hashes under a checkpoint, and the entries of a range of whole tiles; each is held against the certified root, the last of it at the end.
///
/// # Errors
/// The source's, the sink's, and what the source gave that is not under the checkpoint.
pub fn put_tiles<S: Source, O: Sink>(
    source: &mut S,
    certified: &Certified,
    (from, to): (u64, u64),
    out: &mut O,
    progress: &dyn Fn(u64, u64),
) -> Result<(), ExportError<S::Error>> {
    let size = certified.size;
    let mut root = RootBuilder::default();
    // The tile that is being filled, of each level.
    let mut levels: Vec<Vec<Digest>> = vec![Vec::with_capacity(AT_A_TIME); usize::from(MAX_LEVELS) + 1];
    let mut first = 0;
    while first < size {
        let leaves = gather(first, size, "leaf hashes", |first, max| source.leaf_hashes(first, max))?;
        leaves.iter().for_each(|leaf| root.push_hash(*leaf));
        if from <= first && first < to {
            put_entries(source, first, &leaves, out)?;
        }
        let (is_full, index) = (leaves.len() == AT_A_TIME, first / u64::from(TILE_WIDTH));
        put_hashes(0, index, &leaves, out)?;
        first += leaves.len() as u64;
        if is_full {
            rise(&mut levels, index, root_over(&leaves), out)?;
        }
        progress(first, size);
    }
    for (level, hashes) in levels.iter().enumerate().skip(1).filter(|(_, hashes)| !hashes.is_empty()) {
        let level = level as u8;
        let index = (size >> (8 * u32::from(level))) / u64::from(TILE_WIDTH);
        put_hashes(level, index, hashes, out)?;
    }
    let found = root.root();
    if found == certified.root { Ok(()) } else { Err(ExportError::Root { found, certified: certified.root }) }
}

/// Puts the root of full tile `index` of a level into the level above, and so on upwards.
fn rise<O: Sink>(
    levels: &mut [Vec<Digest>],
    mut index: u64,
    mut hash: Digest,
    out: &mut O,
) -> Result<(), DirectoryError> {
    for (level, hashes) in (0u8..).zip(levels).skip(1) {
        hashes.push(hash);
        if hashes.len() < AT_A_TIME {
            return Ok(());
        }
        index /= u64::from(TILE_WIDTH);
        put_hashes(level, index, hashes, out)?;
        hash = root_over(hashes);
        hashes.clear();
    }
    Ok(())
}

fn put_hashes<O: Sink>(level: u8, index: u64, hashes: &[Digest], out: &mut O) -> Result<(), DirectoryError> {
    let tile = Tile { kind: TileKind::Hashes(level), index, width: hashes.len() as u16 };
    out.put(&tile.path(), hashes.iter().flat_map(|hash| hash.0).collect::<Vec<u8>>().as_slice())
}

fn put_entries<S: Source, O: Sink>(
    source: &mut S,
    first: u64,
    leaves: &[Digest],
    out: &mut O,
) -> Result<(), ExportError<S::Error>> {
    let end = first + leaves.len() as u64;
    let tile = Tile { kind: TileKind::Entries, index: first / u64::from(TILE_WIDTH), width: leaves.len() as u16 };
    if out.has_entries(tile, leaves)? {
        return Ok(());
    }
    let entries = gather(first, end, "entries", |first, max| source.entries(first, max))?;
    let mut bytes = Vec::new();
    for ((index, entry), leaf) in (first..).zip(&entries).zip(leaves) {
        if leaf_hash(entry) != *leaf {
            return Err(ExportError::Entry(index));
        }
        if !put_entry(&mut bytes, entry) {
            return Err(ExportError::EntryTooLong(index));
        }
    }
    Ok(out.put(&tile.path(), &bytes)?)
}

/// Asks until a tile's worth is there, or all up to `end`.
fn gather<T, E: std::error::Error>(
    first: u64,
    end: u64,
    what: &'static str,
    mut ask: impl FnMut(u64, usize) -> Result<Vec<T>, E>,
) -> Result<Vec<T>, ExportError<E>> {
    let due = usize::try_from(end - first).unwrap_or(AT_A_TIME).min(AT_A_TIME);
    let mut items = Vec::with_capacity(due);
    while items.len() < due {
        let (first, max) = (first + items.len() as u64, due - items.len());
        let more = ask(first, max).map_err(ExportError::Source)?;
        let found = more.len();
        if !(1..=max).contains(&found) {
            return Err(ExportError::Count { what, first, found, max });
        }
        items.extend(more);
    }
    Ok(items)
}

fn root_over(hashes: &[Digest]) -> Digest {
    let mut builder = RootBuilder::default();
    hashes.iter().for_each(|hash| builder.push_hash(*hash));
    builder.root()
}

/// A directory beside the target, removed unless it was renamed.
struct Staged {
    path: PathBuf,
    files: Vec<Listed>,
    is_done: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_done {
            // What cannot be removed is named after the process and found by its name.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Sink for Staged {
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        let target = self.path.join(path);
        let write = || {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            File::create(&target)?.write_all(bytes)
        };
        write().map_err(|source| self.failed(path, source))?;
        let sha256 = sha256(&[bytes]).to_string();
        self.files.push(Listed { path: path.to_owned(), bytes: bytes.len() as u64, sha256 });
        Ok(())
    }
}

impl Staged {
    fn new(dir: &Path) -> Result<Self, DirectoryError> {
        let name = dir.file_name().ok_or_else(|| DirectoryError::NoName(dir.to_owned()))?;
        match fs::read_dir(dir).map(|entries| entries.take(1).count()) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => return Err(DirectoryError::NotEmpty(dir.to_owned())),
        }
        let name = format!(".{}.partial-{}", name.to_string_lossy(), std::process::id());
        let path = dir.with_file_name(name);
        let failed = |source| DirectoryError::Io { path: path.clone(), source };
        DirBuilder::new().mode(0o755).create(&path).map_err(failed)?;
        Ok(Self { path, files: Vec::new(), is_done: false })
    }

    fn failed(&self, path: &str, source: io::Error) -> DirectoryError {
        DirectoryError::Io { path: self.path.join(path), source }
    }

    /// Makes everything durable and gives it its name.
    fn finish(mut self, dir: &Path) -> Result<(), DirectoryError> {
        let staged = File::open(&self.path).map_err(|source| self.failed("", source))?;
        // One sync of the file system instead of one for each of thousands of files.
        rustix::fs::syncfs(&staged).map_err(|error| self.failed("", error.into()))?;
        fs::rename(&self.path, dir).map_err(|source| DirectoryError::Io { path: dir.to_owned(), source })?;
        self.is_done = true;
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|source| DirectoryError::Io { path: parent.to_owned(), source })
    }
}
