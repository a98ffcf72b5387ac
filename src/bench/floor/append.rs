//! A durable 4 KiB append, by one log or by several at once.
//!
//! The fastest way known to make a small append durable: `WRITE_FIXED` with `RWF_DSYNC` on a file opened with
//! `O_DIRECT`, whose blocks were written before (zero-filled, so that no append changes the file's extents or size),
//! from a registered, page-aligned buffer. Each log has its own thread, ring and file, and one append under way.
//!
//! At its end a file is written again from the start, which to the file system and the disk is the same work.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io, process, thread};

use hdrhistogram::{CreationError, Histogram};
use memmap2::MmapMut;
use serde::Serialize;

use super::ring::{Appender, BLOCK_BYTES, is_in_memory};
use super::{FloorError, repeat};
use crate::bench::latencies;

/// Bytes of a log's file.
const FILE_BYTES: usize = 4 << 20;
/// Bytes that one write of the zero-filling takes.
const FILL_BYTES: usize = 1 << 20;

/// How appends were made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendMethod {
    /// `WRITE_FIXED`, `O_DIRECT`, `RWF_DSYNC`.
    Direct,
    /// `WRITE_FIXED`, `RWF_DSYNC` through the page cache, as the file system refuses `O_DIRECT`.
    Buffered,
    /// The file system lives in memory: nothing in it is durable, and the figures say nothing about a disk.
    Memory,
}

impl fmt::Display for AppendMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "WRITE_FIXED + O_DIRECT + RWF_DSYNC",
            Self::Buffered => "WRITE_FIXED + RWF_DSYNC (O_DIRECT is refused here)",
            Self::Memory => "writing to a file system in memory, where NOTHING is durable",
        })
    }
}

/// Measures `logs` of them at once for `budget`: all their appends in one histogram, and how they were made.
pub(super) fn measure(
    directory: &Path,
    logs: usize,
    budget: Duration,
) -> Result<(Histogram<u64>, AppendMethod), FloorError> {
    let disk = |source| FloorError::Disk { directory: directory.to_owned(), source };
    let mut files = Vec::with_capacity(logs);
    let mut method = AppendMethod::Direct;
    for _ in 0..logs {
        let (file, used) = prepare(directory).map_err(disk)?;
        method = used;
        files.push(file);
    }
    let start = Barrier::new(logs);
    let times = thread::scope(|scope| {
        let threads: Vec<_> = files.into_iter().map(|file| scope.spawn(|| run(file, &start, budget))).collect();
        let mut all = latencies()?;
        for thread in threads {
            let times = thread.join().map_err(|_| FloorError::Thread(io::Error::other("a log's thread panicked")))?;
            let times = times.map_err(|error| match error {
                LogError::Ring(source) => FloorError::Ring(source),
                LogError::Disk(source) => disk(source),
                LogError::Histogram(error) => FloorError::Histogram(error),
            })?;
            for value in times.iter_recorded() {
                all.saturating_record_n(value.value_iterated_to(), value.count_at_value());
            }
        }
        Ok::<_, FloorError>(all)
    })?;
    Ok((times, method))
}

enum LogError {
    Ring(io::Error),
    Disk(io::Error),
    Histogram(CreationError),
}

impl From<CreationError> for LogError {
    fn from(error: CreationError) -> Self {
        Self::Histogram(error)
    }
}

fn run(file: File, start: &Barrier, budget: Duration) -> Result<Histogram<u64>, LogError> {
    let appender = Appender::new(file, FILE_BYTES as u64);
    // All logs reach this, also one that failed: the others wait for it.
    start.wait();
    let mut appender = appender.map_err(LogError::Ring)?;
    repeat(budget, 1, || appender.append().map_err(LogError::Disk))
}

/// A zero-filled, synced file without a name.
fn prepare(directory: &Path) -> io::Result<(File, AppendMethod)> {
    let direct = open(directory, libc::O_DIRECT).and_then(|file| fill(&file).map(|()| file));
    let (file, method) = match direct {
        Ok(file) => (file, AppendMethod::Direct),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let file = open(directory, 0)?;
            fill(&file)?;
            (file, AppendMethod::Buffered)
        }
        Err(error) => return Err(error),
    };
    // Some file systems in memory take O_DIRECT for good.
    let method = if is_in_memory(&file)? { AppendMethod::Memory } else { method };
    Ok((file, method))
}

fn open(directory: &Path, flags: i32) -> io::Result<File> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = format!(".atlas-floor-{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let path = directory.join(name);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(&path);
    if let Err(error) = &opened
        && error.kind() == io::ErrorKind::AlreadyExists
    {
        return opened;
    }
    // A file system that refuses O_DIRECT may have made the file before it refused to open it.
    let removed = std::fs::remove_file(&path);
    let file = opened?;
    removed?;
    Ok(file)
}

fn fill(file: &File) -> io::Result<()> {
    let zeros = MmapMut::map_anon(FILL_BYTES)?;
    for offset in (0..FILE_BYTES).step_by(FILL_BYTES) {
        file.write_all_at(&zeros, offset as u64)?;
    }
    file.sync_all()
}

const _: () = assert!(FILE_BYTES.is_multiple_of(FILL_BYTES) && FILE_BYTES.is_multiple_of(BLOCK_BYTES));
