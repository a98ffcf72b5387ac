//! Snapshots in `DIR/state/`.
//!
//! `<sequence>.snapshot` has a header of [`HEADER_BYTES`] (magic, format version, zeros, genesis hash, length of the snapshot, digest over the hashes of its
//! pieces, the checkpoint's statement, checksum) and then the snapshot. `<sequence>.certificate` has the quorum's signatures under that statement. Each
//! is written as `.tmp`, synced, renamed, and the directory synced: it is whole or not there. The files of the history that a snapshot rests on are
//! synced before it gets its name.
//!
//! A thread of its own writes them. Where there is no room the snapshot is given up, and the log stays until the next fits. Any
//! other failure is the end of the replica, as a failed sync of the log is.
//!
//! At start each snapshot is read whole and held against its digest; one that does not match is moved aside as `.damaged` and
//! the one before it counts. A start uses the newest that is certified. Whatever the file says was written by this replica itself: nothing here is signed but the certificate.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use xxhash_rust::xxh3::xxh3_128;

use super::snapshots::Save;
use crate::ordering::checkpoint::{Certificate, STATEMENT_BYTES, Statement};
use crate::transfer::{self, Durable, Hasher, Kept, PIECE_BYTES, Shelf};
use crate::types::{Digest, Sequence};
use crate::wire::limits::MAX_CERTIFICATE;

const MAGIC: &[u8; 8] = b"ATLASNAP";
const VERSION: u32 = 1;

/// Bytes before the snapshot.
pub(super) const HEADER_BYTES: usize = 512;

const CHECKSUM: usize = 16;

/// Why a snapshot cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system failed.
    #[error("cannot {doing} {}: {source}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// What was to be done.
        doing: &'static str,
        /// What failed.
        source: io::Error,
    },
    /// It belongs to another cluster or a version that this program does not know; nothing was touched.
    #[error("{} is of {what}: check the data directory in the config, or run the build that wrote it", file.display())]
    Foreign {
        /// Which file.
        file: PathBuf,
        /// What it is of.
        what: &'static str,
    },
}

/// What the thread is asked for.
enum Order {
    Save(Box<Save>),
    Certify(Arc<Certificate>),
    Drop(Vec<Sequence>),
}

/// What became of a snapshot that was to be written.
pub(super) enum Outcome {
    Kept(Kept),
    /// There is no room for that of this checkpoint.
    NoRoom(Sequence),
    Failed(SnapshotError),
}

/// The directory, and the thread that writes there.
pub(super) struct SnapshotFiles {
    dir: PathBuf,
    orders: Sender<Order>,
    outcomes: Receiver<Outcome>,
    /// The one that was read last.
    open: Option<(Sequence, File)>,
}

impl SnapshotFiles {
    /// Starts the thread; it calls `wake` after each outcome, and ends with this.
    pub(super) fn start(data: &Path, genesis: Digest, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let dir = data.join("state");
        // What an earlier life did not finish.
        for path in files(&dir).filter(|path| path.extension().is_some_and(|extension| extension == "tmp")) {
            fs::remove_file(path)?;
        }
        let (orders, to_do) = channel();
        let (done, outcomes) = channel();
        let writer = SnapshotWriter { dir: dir.clone(), genesis, files: Vec::new(), certificates: Vec::new() };
        let work = move || writer.work(&to_do, &done, &wake);
        crate::cores::spawn("snapshots", work)?;
        Ok(Self { dir, orders, outcomes, open: None })
    }

    pub(super) fn save(&self, save: Save) {
        // Should the thread be gone, so is its last outcome: the failure that ended it.
        let _ = self.orders.send(Order::Save(Box::new(save)));
    }

    pub(super) fn certify(&self, certificate: &Arc<Certificate>) {
        let _ = self.orders.send(Order::Certify(Arc::clone(certificate)));
    }

    pub(super) fn remove(&self, sequences: &[Sequence]) {
        let _ = self.orders.send(Order::Drop(sequences.to_vec()));
    }

    /// What became of what was asked, if anything is new.
    pub(super) fn outcome(&self) -> Option<Outcome> {
        match self.outcomes.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            // Its thread is gone, which it never is by itself.
            Err(TryRecvError::Disconnected) => {
                let source = io::ErrorKind::BrokenPipe.into();
                Some(Outcome::Failed(SnapshotError::Io { file: self.dir.clone(), doing: "go on writing to", source }))
            }
        }
    }

    /// A piece; `None` where there is none or it cannot be read.
    pub(super) fn piece(&mut self, sequence: Sequence, piece: u64) -> Option<Vec<u8>> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != sequence) {
            self.open = Some((sequence, File::open(snapshot_path(&self.dir, sequence)).ok()?));
        }
        let file = &self.open.as_ref()?.1;
        let start = (HEADER_BYTES as u64).checked_add(piece.checked_mul(PIECE_BYTES as u64)?)?;
        let left = file.metadata().ok()?.len().checked_sub(start).filter(|left| *left > 0)?;
        let mut bytes = vec![0; left.min(PIECE_BYTES as u64) as usize];
        file.read_exact_at(&mut bytes, start).ok()?;
        Some(bytes)
    }
}

/// The thread's side.
struct SnapshotWriter {
    dir: PathBuf,
    genesis: Digest,
    /// Files that are still to be synced: what a snapshot that found no room left.
    files: Vec<PathBuf>,
    /// Certificates for which there was no room.
    certificates: Vec<Arc<Certificate>>,
}

impl SnapshotWriter {
    fn work(mut self, to_do: &Receiver<Order>, done: &Sender<Outcome>, wake: &impl Fn()) {
        for order in to_do {
            let outcome = match order {
                Order::Save(save) => Some(self.save(&save)),
                Order::Certify(certificate) => {
                    self.certificates.push(certificate);
                    match self.certify_all() {
                        Err(error) if !error.is_full() => Some(Outcome::Failed(error)),
                        _ => None,
                    }
                }
                Order::Drop(sequences) => {
                    // While certificates are missing those that are there are needed; the next start looks for what stays.
                    if self.certificates.is_empty() {
                        for sequence in sequences {
                            let _ = fs::remove_file(certificate_path(&self.dir, sequence));
                            let _ = fs::remove_file(snapshot_path(&self.dir, sequence));
                        }
                    }
                    None
                }
            };
            if let Some(outcome) = outcome {
                let is_end = matches!(outcome, Outcome::Failed(_));
                if done.send(outcome).is_err() || is_end {
                    wake();
                    return;
                }
                wake();
            }
        }
    }

    fn save(&mut self, save: &Save) -> Outcome {
        for file in &save.files {
            if !self.files.contains(file) {
                self.files.push(file.clone());
            }
        }
        for file in &self.files {
            if let Err(source) = File::open(file).and_then(|file| file.sync_all()) {
                return Outcome::Failed(SnapshotError::Io { file: file.clone(), doing: "sync", source });
            }
        }
        self.files.clear();
        match self.certify_all().and_then(|()| self.write(save)) {
            Ok(kept) => Outcome::Kept(kept),
            Err(error) if error.is_full() => Outcome::NoRoom(save.statement.sequence),
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Writes the certificates that are not on the disk.
    fn certify_all(&mut self) -> Result<(), SnapshotError> {
        while let Some(certificate) = self.certificates.first() {
            self.certify(certificate)?;
            self.certificates.remove(0);
        }
        Ok(())
    }

    fn write(&self, save: &Save) -> Result<Kept, SnapshotError> {
        let path = snapshot_path(&self.dir, save.statement.sequence);
        let fault = |doing, source| SnapshotError::Io { file: path.clone(), doing, source };
        let make = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
        let parent = self.dir.parent().map_or(Ok(()), |data| File::open(data)?.sync_all());
        make.and(parent).map_err(|source| fault("make the directory of", source))?;
        let mut kept = None;
        make_durable(&self.dir, &path, |file| {
            let mut writer = Hashing { out: BufWriter::with_capacity(1 << 20, file), hasher: Hasher::default() };
            writer.out.seek(io::SeekFrom::Start(HEADER_BYTES as u64))?;
            save.write(&mut writer)?;
            writer.out.flush()?;
            let (bytes, hashes) = writer.hasher.finish();
            let kept =
                kept.insert(Kept { statement: save.statement, bytes, hashes, certificate: None, durable: Durable::No });
            file.write_all_at(&header(self.genesis, kept), 0)
        })
        .map_err(|source| fault("write", source))?;
        let mut kept = kept.ok_or_else(|| fault("write", io::ErrorKind::WriteZero.into()))?;
        if let Some(certificate) = &save.certificate {
            self.certify(certificate)?;
            kept.certificate = Some(Arc::clone(certificate));
            kept.durable = Durable::Yes;
        }
        Ok(kept)
    }

    fn certify(&self, certificate: &Certificate) -> Result<(), SnapshotError> {
        let path = certificate_path(&self.dir, certificate.sequence());
        let written = make_durable(&self.dir, &path, |file| file.write_all_at(&certificate.bytes(), 0));
        written.map_err(|source| SnapshotError::Io { file: path, doing: "write", source })
    }
}

struct Hashing<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl SnapshotError {
    /// Whether it is for want of room.
    fn is_full(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Creates a file whole and durable under its name, or not at all.
fn make_durable(dir: &Path, path: &Path, write: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let written = || {
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        write(&file)?;
        file.sync_all()
    };
    if let Err(error) = written() {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

fn snapshot_path(dir: &Path, sequence: Sequence) -> PathBuf {
    dir.join(format!("{sequence}.snapshot"))
}

fn certificate_path(dir: &Path, sequence: Sequence) -> PathBuf {
    dir.join(format!("{sequence}.certificate"))
}

const STATEMENT_AT: usize = 88;

pub(super) fn header(genesis: Digest, kept: &Kept) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..48].copy_from_slice(&genesis.0);
    out[48..56].copy_from_slice(&kept.bytes.to_le_bytes());
    out[56..88].copy_from_slice(&kept.digest().0);
    out[STATEMENT_AT..STATEMENT_AT + STATEMENT_BYTES].copy_from_slice(&kept.statement.bytes());
    let sum = xxh3_128(&out[..HEADER_BYTES - CHECKSUM]);
    out[HEADER_BYTES - CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// A header's statement, length and digest; `None` where it is damaged.
fn read_header(bytes: &[u8; HEADER_BYTES]) -> Option<(Statement, u64, Digest)> {
    let sum = xxh3_128(&bytes[..HEADER_BYTES - CHECKSUM]);
    let length = u64::from_le_bytes(bytes[48..56].try_into().ok()?);
    let digest = Digest(bytes[56..88].try_into().ok()?);
    let statement = Statement::from_bytes(&bytes[STATEMENT_AT..STATEMENT_AT + STATEMENT_BYTES])?;
    (bytes[HEADER_BYTES - CHECKSUM..] == sum.to_le_bytes()).then_some((statement, length, digest))
}

/// The snapshots that are there and whole, with the certificates beside them, and those that are damaged, which are moved aside. Nothing
/// is removed: which of them are needed may stand in the log.
///
/// # Errors
/// Another cluster's, another version's, or the file system's.
pub(super) fn load(data: &Path, genesis: Digest) -> Result<(Shelf, Vec<PathBuf>), SnapshotError> {
    let dir = data.join("state");
    let (mut shelf, mut damaged) = (Vec::new(), Vec::new());
    for sequence in sequences(&dir)? {
        let path = snapshot_path(&dir, sequence);
        let Some((mut kept, _)) = read(&path, sequence, genesis)? else {
            damaged.push(set_aside(data, sequence)?);
            continue;
        };
        let mut certificate = Vec::new();
        if let Ok(file) = File::open(certificate_path(&dir, sequence)) {
            use io::Read;
            let read = file.take(MAX_CERTIFICATE as u64).read_to_end(&mut certificate);
            read.map_err(|source| SnapshotError::Io { file: path, doing: "read the certificate of", source })?;
        }
        kept.certificate = Certificate::from_bytes(&certificate)
            .filter(|certificate| *certificate.statement() == kept.statement)
            .map(Arc::new);
        kept.durable = if kept.certificate.is_some() { Durable::Yes } else { Durable::No };
        shelf.push(kept);
    }
    Ok((Shelf::new(shelf), damaged))
}

/// The bytes of a snapshot; `None` where it is damaged.
///
/// # Errors
/// As [`load`].
pub(super) fn image(data: &Path, genesis: Digest, sequence: Sequence) -> Result<Option<Vec<u8>>, SnapshotError> {
    let path = snapshot_path(&data.join("state"), sequence);
    Ok(read(&path, sequence, genesis)?.map(|(_, image)| image))
}

/// Moves a snapshot aside that is of no use, and says which it was.
///
/// # Errors
/// The file system's.
pub(super) fn set_aside(data: &Path, sequence: Sequence) -> Result<PathBuf, SnapshotError> {
    let path = snapshot_path(&data.join("state"), sequence);
    let moved = fs::rename(&path, path.with_extension("damaged"));
    moved.map_err(|source| SnapshotError::Io { file: path.clone(), doing: "move aside", source })?;
    Ok(path)
}

/// What is in a directory, as far as it can be read.
fn files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

pub(super) fn sequences(dir: &Path) -> Result<Vec<Sequence>, SnapshotError> {
    let fault = |source| SnapshotError::Io { file: dir.to_path_buf(), doing: "list", source };
    let mut sequences = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sequences),
        entries => entries.map_err(fault)?,
    };
    for entry in entries {
        let name = entry.map_err(fault)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".snapshot")).and_then(|name| name.parse().ok());
        sequences.extend(number.filter(|number: &Sequence| name.to_str() == Some(&format!("{number}.snapshot"))));
    }
    sequences.sort_unstable();
    Ok(sequences)
}

/// What the bytes of a snapshot's file are of, if they are whole and of this cluster; else what is wrong.
pub(super) fn check_file(file: &[u8], genesis: Digest) -> Result<Statement, &'static str> {
    let (head, image) = file.split_first_chunk::<HEADER_BYTES>().ok_or("is shorter than its header")?;
    if head[..8] != *MAGIC || head[8..12] != VERSION.to_le_bytes() {
        return Err("is no snapshot of this version");
    }
    let (statement, bytes, digest) = read_header(head).ok_or("has a damaged header")?;
    if head[16..48] != genesis.0 {
        return Err("is of another cluster");
    }
    if bytes != image.len() as u64 {
        return Err("has not the length that its header names");
    }
    let mut hasher = Hasher::default();
    hasher.update(image);
    match transfer::digest(&hasher.finish().1) == digest {
        true => Ok(statement),
        false => Err("does not have the digest that its header names"),
    }
}

/// A snapshot and its bytes; `None` where it is damaged.
fn read(path: &Path, sequence: Sequence, genesis: Digest) -> Result<Option<(Kept, Vec<u8>)>, SnapshotError> {
    let fault = |source| SnapshotError::Io { file: path.to_path_buf(), doing: "read", source };
    let foreign = |what| SnapshotError::Foreign { file: path.to_path_buf(), what };
    let file = File::open(path).map_err(fault)?;
    let length = file.metadata().map_err(fault)?.len();
    let mut head = [0; HEADER_BYTES];
    if length < HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut head, 0).map_err(fault)?;
    let Some((statement, bytes, digest)) = read_header(&head) else { return Ok(None) };
    if head[..8] != *MAGIC || head[8..12] != VERSION.to_le_bytes() {
        return Err(foreign("another format"));
    }
    if head[16..48] != genesis.0 {
        return Err(foreign("another cluster"));
    }
    if statement.sequence != sequence || Some(length) != bytes.checked_add(HEADER_BYTES as u64) {
        return Ok(None);
    }
    let mut image = vec![0; bytes as usize];
    file.read_exact_at(&mut image, HEADER_BYTES as u64).map_err(fault)?;
    let mut hasher = Hasher::default();
    hasher.update(&image);
    let hashes = hasher.finish().1;
    let kept = Kept { statement, bytes, hashes, certificate: None, durable: Durable::No };
    Ok((transfer::digest(&kept.hashes) == digest).then_some((kept, image)))
}

#[cfg(test)]
#[path = "snapshot_files_tests.rs"]
mod tests;
