//! Cold storage: whole segments of old entries, moved out of the data directory and never lost.
//!
//! A replica whose configuration names a directory for it (`[history] cold`) keeps there what is old by both classes: further
//! back than `keep_mib` of history, and than `keep_days` of agreed time, counted from the newest settled entry. `index` and `nodes`
//! always stay, so that roots, consistency and the inclusion of every entry can be proved whether or not cold storage is there.
//!
//! | file | meaning |
//! | --- | --- |
//! | `DIR/history/entries-N` | the segment is hot; it is what counts, whatever else is there |
//! | `DIR/history/entries-N.moved` | a whole copy is in cold storage: one line, with its length |
//! | `COLD/GENESIS/replica-I/entries-N` | that copy, the same bytes; each replica has a folder of its own |
//! | `COLD/GENESIS/replica-I/entries-N.part` | a copy that is not whole; made anew |
//!
//! # Moving
//! Only *settled* segments move: those before the last entry of the oldest snapshot that is kept, so that everything in them is synced, and no start
//! that finds a snapshot whole executes or writes them again (one that finds none writes hot files anew, and the copies stay). One after the other is copied to `.part`, synced, read back past the page cache, each
//! entry held against its leaf hash in `nodes`, renamed, its folder synced; then the `.moved` line is made durable, and only then
//! the hot file goes. So after a crash at any point at least one whole copy is there: either the hot one, or, by then, one that
//! was read back. What was begun is gone on with at the next look; a hot file whose `.moved` line is there already goes only after its
//! copy was read back again. A hot segment that does not hash right is not moved, and is reported.
//!
//! A thread of its own moves, at most `move_mib_s`. Where cold storage is full, fails or is not there, nothing goes, it is
//! reported once, counted, and tried again every minute. The directory itself is never made, nor is its folder once something was moved:
//! so an empty mount point takes nothing.
//!
//! # Reading
//! An entry whose hot file is gone, or rotten, is read from cold storage and held against its checksum. That happens on the replica's thread,
//! as all reads do: so it reads only while looks at the storage, one a second by another thread, get answers. What cannot be read is
//! no entry to whoever asks: clients get UNAVAILABLE, peers that lack history no hashes and no pieces, and ask another.
//!
//! A start reads nothing in cold storage, and does without it: the last entry of every snapshot, which it needs, is never moved. A segment that
//! is neither hot nor has its `.moved` line is lost, as ever. Nodes that are damaged are made again from all entries, the only thing
//! that needs all; without cold storage the replica then takes the history from its peers anew.
//! A replica that lost its disk does so too, and its old folder in cold storage is used again: copies that hash right are not written anew.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::ledger::{CHUNK_BYTES, fault};
pub use super::ledger::{ColdError, Ledger, Span};
use super::segments::segment_path;
use crate::types::{Digest, EntryIndex, ReplicaId, TimeMs};

/// So long after an answer of cold storage it is taken for reachable, ms.
pub const REACHABLE_MS: u64 = 5_000;

/// The longest `.moved` line that is read.
const MAX_STUB: u64 = 256;

/// What a `.moved` line begins with.
const STUB: &str = "atlas-moved/1";

/// What the store, the mover and the status share of one replica's cold storage.
#[derive(Debug)]
pub struct Cold {
    root: PathBuf,
    folder: PathBuf,
    started: Instant,
    reachable_until_ms: AtomicU64,
    moves: AtomicU64,
    numbers: [AtomicU64; NAMES.len()],
}

/// What is counted, as `atlas status` shows it: the first three as of now, the others since the start.
const NAMES: [&str; 5] = [
    "history.segments.hot",
    "history.segments.cold",
    "history.segments.cold_unreachable",
    "history.moved_bytes",
    "history.move_failed",
];

impl Cold {
    /// Cold storage of a replica in the directory `root`, which somebody made.
    pub fn new(root: &Path, genesis: Digest, replica: ReplicaId) -> Self {
        let folder = root.join(genesis.to_string()).join(format!("replica-{replica}"));
        let (reachable_until_ms, moves, numbers) = Default::default();
        Self { root: root.to_path_buf(), folder, started: Instant::now(), reachable_until_ms, moves, numbers }
    }

    /// Where the replica's segments are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether cold storage has answered a moment ago.
    pub fn is_reachable(&self) -> bool {
        self.now_ms() < self.reachable_until_ms.load(Relaxed)
    }

    /// Changes whenever segments have moved.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Relaxed)
    }

    /// Counters and their values.
    pub fn counts(&self) -> [(&'static str, u64); NAMES.len()] {
        std::array::from_fn(|at| (NAMES[at], self.numbers[at].load(Relaxed)))
    }

    /// Asks cold storage for an answer: whoever reads may rely on it for a while.
    ///
    /// # Errors
    /// It is not there, or does not answer rightly.
    pub fn probe(&self) -> Result<(), ColdError> {
        let is_there = self.root.is_dir();
        rustix::fs::statvfs(&self.root)
            .map_err(io::Error::from)
            .map_err(|source| match is_there {
                true => fault(&self.root, "use")(source),
                false => ColdError::Absent { path: self.root.clone() },
            })
            .map(|_| self.reachable_until_ms.store(self.now_ms() + REACHABLE_MS, Relaxed))
    }

    /// Something is tried and did not work.
    pub fn failed(&self) {
        self.numbers[4].fetch_add(1, Relaxed);
    }

    /// A copy that does not fit is not begun: others may write there too.
    fn look_for_room(&self, bytes: u64) -> Result<(), ColdError> {
        let found = rustix::fs::statvfs(&self.folder).map_err(|error| fault(&self.folder, "use")(error.into()))?;
        match found.f_bavail.saturating_mul(found.f_frsize) < bytes {
            true => Err(fault(&self.folder, "find room in")(io::ErrorKind::StorageFull.into())),
            false => Ok(()),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes the folder, unless something must be in it already.
    fn prepare(&self, is_used: bool) -> Result<(), ColdError> {
        let needed = if is_used { &self.folder } else { &self.root };
        if !needed.is_dir() {
            return Err(ColdError::Absent { path: needed.clone() });
        }
        if self.folder.is_dir() {
            return Ok(());
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(fault(&self.folder, "create"))?;
        let made = [Some(self.root.as_path()), self.folder.parent()];
        made.into_iter().flatten().try_for_each(sync_dir)
    }
}

/// What stays hot: whatever is within either of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    /// The newest bytes of entries.
    pub bytes: u64,
    /// The newest milliseconds of agreed time.
    pub ms: u64,
}

/// A point in the move of a segment, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Copied,
    Synced,
    Checked,
    Renamed,
    Told,
    Removed,
}

/// What a look at all segments led to.
#[derive(Debug, Default)]
pub struct Tended {
    /// How many segments were moved.
    pub moved: u64,
    /// Segments that stay for their own fault, the first of them.
    pub stays: Option<ColdError>,
    /// Why it was ended early.
    pub ended: Option<ColdError>,
}

/// Moves segments of one history.
#[derive(Debug)]
pub struct Mover<'a> {
    ledger: &'a Ledger,
    cold: &'a Cold,
    keep: Keep,
}

impl<'a> Mover<'a> {
    /// For the history of this ledger.
    pub fn new(ledger: &'a Ledger, cold: &'a Cold, keep: Keep) -> Self {
        Self { ledger, cold, keep }
    }

    /// Moves what may be moved, of the entries below `settled`. `pace` is told what was read or written, as it goes, and may wait.
    pub fn tend(&self, settled: EntryIndex, pace: &mut dyn FnMut(usize)) -> Tended {
        let mut tended = Tended::default();
        let below = self.movable_below(settled);
        for segment in hot(self.ledger.directory()).into_iter().filter(|segment| *segment < below) {
            match self.move_segment(segment, settled, pace, &mut |_| Ok(())) {
                Ok(()) => tended.moved += 1,
                Err(error) => {
                    self.cold.failed();
                    // Should this fail as well, the next copy is made anew all the same.
                    let _ = fs::remove_file(part_path(self.cold.folder(), segment));
                    if !error.is_of_one_segment() {
                        tended.ended = Some(error);
                        break;
                    }
                    tended.stays.get_or_insert(error);
                }
            }
        }
        tended
    }

    /// Segments below this may go.
    pub(super) fn movable_below(&self, settled: EntryIndex) -> u64 {
        let below = || {
            let last = settled.checked_sub(1)?;
            let (end, time_ms) = self.ledger.end_of(last)?;
            let by_size = end.saturating_sub(self.keep.bytes) / self.ledger.segment_bytes();
            let keep_ms = TimeMs::try_from(self.keep.ms).unwrap_or(TimeMs::MAX);
            let newer = self.ledger.first_after(time_ms.saturating_sub(keep_ms), settled);
            let by_age = self.ledger.segment_of(newer.min(last))?;
            // That of the last settled entry stays: a start needs this entry, and goes on behind it.
            Some(by_size.min(by_age).min(self.ledger.segment_of(last)?))
        };
        below().unwrap_or(0)
    }

    /// Moves one segment; `pass` is told each step when it is done.
    pub(super) fn move_segment(
        &self,
        segment: u64,
        settled: EntryIndex,
        pace: &mut dyn FnMut(usize),
        pass: &mut dyn FnMut(Step) -> Result<(), ColdError>,
    ) -> Result<(), ColdError> {
        let directory = self.ledger.directory();
        self.cold.prepare(!moved(directory).is_empty())?;
        let span = self.ledger.span(segment, settled)?;
        let (from, to) = (segment_path(directory, segment), segment_path(self.cold.folder(), segment));
        // A copy that is there already may be an earlier life's, or somebody put it there.
        if sync_whole(&to).and_then(|()| self.ledger.check(&to, span, pace)).is_err() {
            let part = part_path(self.cold.folder(), segment);
            if fs::metadata(&from).map_err(fault(&from, "look at"))?.len() < span.bytes {
                return self.ledger.check(&from, span, pace);
            }
            self.cold.look_for_room(span.bytes)?;
            copy(&from, &part, span.bytes, pace)?;
            pass(Step::Copied)?;
            sync_whole(&part)?;
            pass(Step::Synced)?;
            // A fault of the hot file itself is told as such.
            self.ledger.check(&part, span, pace).map_err(|error| match self.ledger.check(&from, span, pace) {
                Err(of_hot) => of_hot,
                Ok(()) => error,
            })?;
            pass(Step::Checked)?;
            fs::rename(&part, &to).map_err(fault(&to, "rename the copy to"))?;
            self.cold.numbers[3].fetch_add(span.bytes, Relaxed);
        }
        sync_dir(self.cold.folder())?;
        pass(Step::Renamed)?;
        self.write_stub(segment, span.bytes)?;
        pass(Step::Told)?;
        fs::remove_file(&from).map_err(fault(&from, "remove"))?;
        self.cold.moves.fetch_add(1, Relaxed);
        pass(Step::Removed)?;
        sync_dir(directory)
    }

    fn write_stub(&self, segment: u64, bytes: u64) -> Result<(), ColdError> {
        let directory = self.ledger.directory();
        let (stub, temporary) = (stub_path(directory, segment), directory.join("moved.tmp"));
        let failed = fault(&stub, "write");
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(true).write(true).mode(0o600);
        let mut file = options.open(&temporary).map_err(&failed)?;
        let written = writeln!(file, "{STUB} bytes={bytes}").and_then(|()| file.sync_all());
        written.and_then(|()| fs::rename(&temporary, &stub)).map_err(&failed)?;
        sync_dir(directory)
    }

    /// Removes what earlier lives did not finish.
    pub fn clean_up(&self) {
        for segment in numbered(self.cold.folder(), ".part") {
            let _ = fs::remove_file(part_path(self.cold.folder(), segment));
        }
    }

    /// Counts segments; those are unreachable whose copy is not there in its full length.
    pub fn count(&self) {
        let directory = self.ledger.directory();
        let moved = moved(directory);
        let gone = moved.iter().filter(|segment| {
            let found = fs::metadata(segment_path(self.cold.folder(), **segment)).map(|found| found.len());
            !stub_bytes(directory, **segment).is_some_and(|bytes| found.is_ok_and(|found| found >= bytes))
        });
        let counted = [hot(directory).len(), moved.len(), gone.count()];
        for (number, count) in self.cold.numbers.iter().zip(counted) {
            number.store(count as u64, Relaxed);
        }
    }
}

/// Brings a segment back into a history's directory from `folder`, where its copy stays. The replica must not run.
///
/// # Errors
/// The copy is not there or not right, or the file system fails: nothing has changed then.
pub fn bring_back(ledger: &Ledger, folder: &Path, segment: u64) -> Result<Span, ColdError> {
    let span = ledger.span(segment, ledger.size()?)?;
    let (directory, from) = (ledger.directory(), segment_path(folder, segment));
    let (to, part) = (segment_path(directory, segment), part_path(directory, segment));
    ledger.check(&from, span, &mut |_| ())?;
    let made = copy(&from, &part, span.bytes, &mut |_| ())
        .and_then(|()| sync_whole(&part))
        .and_then(|()| ledger.check(&part, span, &mut |_| ()))
        .and_then(|()| fs::rename(&part, &to).map_err(fault(&to, "rename the copy to")))
        .and_then(|()| sync_dir(directory));
    if let Err(error) = made {
        let _ = fs::remove_file(&part);
        return Err(error);
    }
    let stub = stub_path(directory, segment);
    match fs::remove_file(&stub) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(&stub, "remove")(error)),
        _ => sync_dir(directory)?,
    }
    Ok(span)
}

/// Checks the copy of a segment in `folder` against a history.
///
/// # Errors
/// What is wrong with it.
pub fn check(ledger: &Ledger, folder: &Path, segment: u64) -> Result<Span, ColdError> {
    let span = ledger.span(segment, ledger.size()?)?;
    ledger.check(&segment_path(folder, segment), span, &mut |_| ())?;
    Ok(span)
}

/// Segments that were moved from a history's directory and are not in it any more, in their order.
pub fn moved(directory: &Path) -> Vec<u64> {
    let is_gone = |segment: &u64| !segment_path(directory, *segment).exists();
    numbered(directory, ".moved").into_iter().filter(is_gone).collect()
}

/// Segments in a directory, in their order.
fn hot(directory: &Path) -> Vec<u64> {
    numbered(directory, "")
}

/// The numbers of the files `entries-N` with this ending, in their order.
fn numbered(directory: &Path, ending: &str) -> Vec<u64> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let number = |name: &str| {
        let number = name.strip_prefix("entries-")?.strip_suffix(ending)?;
        number.parse::<u64>().ok().filter(|parsed| parsed.to_string() == number)
    };
    let mut numbers: Vec<u64> = names.filter_map(|name| number(name.to_str()?)).collect();
    numbers.sort_unstable();
    numbers
}

/// The line that says that a segment was moved.
pub(super) fn stub_path(directory: &Path, segment: u64) -> PathBuf {
    directory.join(format!("entries-{segment}.moved"))
}

fn part_path(folder: &Path, segment: u64) -> PathBuf {
    folder.join(format!("entries-{segment}.part"))
}

/// The length that the `.moved` line of a segment names.
fn stub_bytes(directory: &Path, segment: u64) -> Option<u64> {
    use io::Read;
    let mut text = String::new();
    File::open(stub_path(directory, segment)).ok()?.take(MAX_STUB).read_to_string(&mut text).ok()?;
    text.strip_prefix(STUB)?.strip_prefix(" bytes=")?.trim_end().parse().ok()
}

fn copy(from: &Path, to: &Path, bytes: u64, pace: &mut dyn FnMut(usize)) -> Result<(), ColdError> {
    let source = File::open(from).map_err(fault(from, "open"))?;
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(true).write(true).mode(0o600);
    let target = options.open(to).map_err(fault(to, "create"))?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(CHUNK_BYTES as u64) as usize;
        source.read_exact_at(&mut chunk[..length], at).map_err(fault(from, "read"))?;
        target.write_all_at(&chunk[..length], at).map_err(fault(to, "write"))?;
        at += length as u64;
        pace(length);
    }
    Ok(())
}

/// Syncs a file, and lets the page cache forget it: what is read next comes from the storage.
fn sync_whole(path: &Path) -> Result<(), ColdError> {
    let file = File::open(path).map_err(fault(path, "open"))?;
    file.sync_all().map_err(fault(path, "sync"))?;
    // Advice that a file system does not take costs only the strength of the check.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(())
}

fn sync_dir(directory: &Path) -> Result<(), ColdError> {
    File::open(directory).and_then(|dir| dir.sync_all()).map_err(fault(directory, "sync"))
}

#[cfg(test)]
#[path = "cold_tests.rs"]
mod tests;
