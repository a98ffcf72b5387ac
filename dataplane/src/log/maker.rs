//! Makes segments ahead of need and removes those that are let go, on a thread of its own: both take as long as the disk takes.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::buffer::Blocks;
use super::device::{ANCHOR, SYNCED_TO, segment_name};
use super::error::LogError;
use super::files::{ZEROS, fault, list_segments, sync_dir};
use super::format::{BLOCK, segment_header};
use crate::types::Digest;

/// Mode of the log's files: what clients wrote is theirs, so nobody else on the host reads it.
pub(super) const FILE_MODE: u32 = 0o600;

/// What the thread is asked to do. One segment at a time is made and one truncation is under way: with a file to sync, that bounds
/// the channels.
enum Order {
    Make(u32),
    /// A file to sync whenever a segment was made: `synced_to`, so that a power cut finds it reasonably new.
    SyncAlso(File),
    /// Makes the anchor durable, then removes the segments below the first.
    Truncate {
        first: u32,
        anchor: Vec<u8>,
    },
}

/// Orders that may wait for the thread.
const MAX_ORDERS: usize = 3;

/// The log's side of the thread.
pub(super) struct Maker {
    log_dir: PathBuf,
    genesis: Digest,
    segment_bytes: u32,
    /// Segments below this number exist.
    pub made: u32,
    asked: bool,
    /// The segment after the current one could not be made; asked for again once it is needed.
    gave_up: bool,
    thread: Option<Thread>,
    /// The log ends: a segment that is being made is given up, so that nobody waits for the zeros of a whole one.
    stop: Arc<AtomicBool>,
}

struct Thread {
    orders: SyncSender<Order>,
    outcomes: Receiver<Result<(), LogError>>,
    truncated: Receiver<Result<(), LogError>>,
    handle: JoinHandle<()>,
}

impl Maker {
    pub(super) fn new(log_dir: &Path, genesis: Digest, segment_bytes: u32) -> Self {
        Self {
            log_dir: log_dir.into(),
            genesis,
            segment_bytes,
            made: 0,
            asked: false,
            gave_up: false,
            thread: None,
            stop: Arc::default(),
        }
    }

    /// Whether a segment exists; asks for the next when this one is the last.
    pub(super) fn ready(&mut self, segment: u32, wait: bool) -> Result<bool, LogError> {
        let waited = wait && segment >= self.made;
        if waited && !self.asked {
            self.order()?;
        }
        match self.outcome(waited) {
            Some(Ok(())) => self.made += 1,
            Some(Err(error)) if segment >= self.made => return Err(error),
            Some(Err(_)) => self.gave_up = true,
            None => {}
        }
        if !self.asked && segment.checked_add(1).is_some_and(|next| next >= self.made) {
            let needed = segment >= self.made;
            if needed || !self.gave_up {
                self.order()?;
            }
        }
        Ok(segment < self.made)
    }

    pub(super) fn sync_also(&mut self, file: File) {
        if let Ok(thread) = self.thread() {
            // The thread ends only with this sender; a file that is not synced is merely older after a power cut.
            let _ = thread.orders.send(Order::SyncAlso(file));
        }
    }

    fn order(&mut self) -> Result<(), LogError> {
        let segment = self.made;
        let dir = self.log_dir.clone();
        let sent = self.thread()?.orders.send(Order::Make(segment));
        sent.map_err(|_| fault(&dir, "make segments in")(io::ErrorKind::BrokenPipe.into()))?;
        (self.asked, self.gave_up) = (true, false);
        Ok(())
    }

    fn outcome(&mut self, wait: bool) -> Option<Result<(), LogError>> {
        let thread = self.thread.as_ref().filter(|_| self.asked)?;
        let outcome = if wait { thread.outcomes.recv().ok() } else { thread.outcomes.try_recv().ok() }?;
        self.asked = false;
        Some(outcome)
    }

    /// Has the anchor replaced and the segments below removed; [`Maker::truncated`] tells the outcome.
    pub(super) fn truncate(&mut self, first: u32, anchor: Vec<u8>) -> Result<(), LogError> {
        let dir = self.log_dir.clone();
        let sent = self.thread()?.orders.send(Order::Truncate { first, anchor });
        sent.map_err(|_| fault(&dir, "remove segments in")(io::ErrorKind::BrokenPipe.into()))
    }

    /// The outcome of the last truncation, told once.
    pub(super) fn truncated(&mut self) -> Option<Result<(), LogError>> {
        match self.thread.as_ref()?.truncated.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                Some(Err(fault(&self.log_dir, "remove segments in")(io::ErrorKind::BrokenPipe.into())))
            }
        }
    }

    fn thread(&mut self) -> Result<&Thread, LogError> {
        if self.thread.is_none() {
            let (orders, to_do) = sync_channel(MAX_ORDERS);
            let (made, outcomes) = sync_channel(1);
            let (removed, truncated) = sync_channel(1);
            let worker = Worker {
                dir: self.log_dir.clone(),
                genesis: self.genesis,
                segment_bytes: self.segment_bytes,
                stop: Arc::clone(&self.stop),
                also: None,
                made,
                doomed: VecDeque::new(),
                removed,
            };
            let handle = crate::cores::spawn("log-segments", move || worker.run(&to_do));
            let handle = handle.map_err(fault(&self.log_dir, "start the thread that makes segments in"))?;
            self.thread = Some(Thread { orders, outcomes, truncated, handle });
        }
        self.thread.as_ref().ok_or_else(|| fault(&self.log_dir, "make segments in")(io::ErrorKind::NotFound.into()))
    }
}

/// The thread's side.
struct Worker {
    dir: PathBuf,
    genesis: Digest,
    segment_bytes: u32,
    stop: Arc<AtomicBool>,
    also: Option<File>,
    made: SyncSender<Result<(), LogError>>,
    /// Segments to remove, the oldest first. One goes at a time, so that a segment that is needed does not wait for all of them.
    doomed: VecDeque<u32>,
    removed: SyncSender<Result<(), LogError>>,
}

impl Worker {
    /// Ends with the log; what is left to remove goes at the next start.
    fn run(mut self, to_do: &Receiver<Order>) {
        loop {
            let order = match self.doomed.is_empty() {
                true => to_do.recv().map_err(|_| TryRecvError::Disconnected),
                false => to_do.try_recv(),
            };
            let told = match order {
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => self.remove_next(),
                Ok(Order::SyncAlso(file)) => {
                    self.also = Some(file);
                    true
                }
                Ok(Order::Make(segment)) => {
                    let outcome = make_segment(&self.dir, self.genesis, segment, self.segment_bytes, &self.stop);
                    // An error of this disk shows at the log's next write as well, which is where it counts.
                    let _ = self.also.as_ref().map(File::sync_data);
                    self.made.send(outcome).is_ok()
                }
                Ok(Order::Truncate { first, anchor }) => match replace_anchor(&self.dir, first, &anchor) {
                    Ok(doomed) if doomed.is_empty() => self.removed.send(Ok(())).is_ok(),
                    Ok(doomed) => {
                        self.doomed = doomed;
                        true
                    }
                    Err(error) => self.removed.send(Err(error)).is_ok(),
                },
            };
            if !told {
                return;
            }
        }
    }

    /// Removes the oldest of the segments that are to go; false where nobody wants to know any more.
    fn remove_next(&mut self) -> bool {
        let Some(segment) = self.doomed.pop_front() else { return true };
        let path = self.dir.join(segment_name(segment));
        let outcome = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(&path, "remove")(error)),
            _ if !self.doomed.is_empty() => return true,
            _ => sync_dir(&self.dir),
        };
        self.doomed.clear();
        self.removed.send(outcome).is_ok()
    }
}

/// Makes the anchor durable, behind `synced_to`, which must never be older on the disk; gives the segments that may go.
fn replace_anchor(dir: &Path, first: u32, anchor: &[u8]) -> Result<VecDeque<u32>, LogError> {
    let synced_to = dir.join(SYNCED_TO);
    File::open(&synced_to).and_then(|file| file.sync_data()).map_err(fault(&synced_to, "sync"))?;
    let made = make_durable(dir, ANCHOR, |file| file.write_all_at(anchor, 0));
    or_no_space(made, dir, anchor.len() as u64)?;
    Ok(list_segments(dir)?.into_iter().filter(|segment| *segment < first).collect())
}

impl Drop for Maker {
    fn drop(&mut self) {
        if let Some(Thread { orders, outcomes, truncated, handle }) = self.thread.take() {
            self.stop.store(true, Ordering::Relaxed);
            drop((orders, outcomes, truncated));
            let _ = handle.join();
        }
    }
}

fn make_segment(dir: &Path, genesis: Digest, segment: u32, bytes: u32, stop: &AtomicBool) -> Result<(), LogError> {
    // Trying takes all the room that there is for a moment, and others write to this disk. 0 may mean that nobody knows.
    let free = free_bytes(dir);
    if (1..u64::from(bytes)).contains(&free) {
        return Err(LogError::NoSpace { dir: dir.into(), needed: u64::from(bytes), free });
    }
    let header = segment_header(genesis, segment, u64::from(bytes));
    let made = make_durable(dir, &segment_name(segment), |file| fill(file, &header, u64::from(bytes), stop));
    or_no_space(made, dir, u64::from(bytes))
}

/// Tells a disk without room for a file of `needed` bytes from other faults.
fn or_no_space(made: Result<(), LogError>, dir: &Path, needed: u64) -> Result<(), LogError> {
    match made {
        Err(LogError::Io { source, .. }) if is_full(&source) => {
            Err(LogError::NoSpace { dir: dir.into(), needed, free: free_bytes(dir) })
        }
        other => other,
    }
}

/// Fills a file with a header and zeros, synced in small steps so that the log's own writes are not held up behind it. Gives up
/// between two steps when told to.
fn fill(file: &File, header: &[u8], bytes: u64, stop: &AtomicBool) -> io::Result<()> {
    // SAFETY: plain call on an open file; it returns an error number and keeps nothing.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    // Past the page cache where the file system knows how: these pages are of no use to anybody.
    let flags = fcntl_getfl(file)?;
    let direct = bytes.is_multiple_of(BLOCK as u64) && fcntl_setfl(file, flags | OFlags::DIRECT).is_ok();
    let zeros = Blocks::new(ZEROS);
    let mut at = 0;
    while at < bytes {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let length = (bytes - at).min(ZEROS as u64);
        let zeros = &zeros.bytes()[..length as usize];
        match file.write_all_at(zeros, at) {
            // Its blocks are larger, or it took the flag and cannot do it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                fcntl_setfl(file, flags)?;
                file.write_all_at(zeros, at)?;
            }
            written => written?,
        }
        file.sync_data()?;
        at += length;
    }
    if direct {
        fcntl_setfl(file, flags)?;
    }
    file.write_all_at(header, 0)
}

/// Creates a file whole and durable under its name, or not at all: a crash leaves at most a `.tmp` behind.
pub(super) fn make_durable(
    dir: &Path,
    name: &str,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), LogError> {
    let (temporary, path) = (dir.join(format!("{name}.tmp")), dir.join(name));
    let written = || -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(FILE_MODE).open(&temporary)?;
        write(&file)?;
        file.sync_all()?;
        forget_pages(&file);
        Ok(())
    };
    if let Err(error) = written() {
        // The half-made file would only take room on a disk that may be full.
        let _ = fs::remove_file(&temporary);
        return Err(fault(&temporary, "write")(error));
    }
    fs::rename(&temporary, &path).map_err(fault(&path, "create"))?;
    sync_dir(dir)
}

/// Drops a file's clean pages from the cache, so that the next read asks the disk.
pub(super) fn forget_pages(file: &File) {
    // SAFETY: plain call on an open file; it is advice, and its outcome changes no content.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Bytes that an ordinary user can still write; 0 where the system does not say.
fn free_bytes(dir: &Path) -> u64 {
    let Ok(path) = std::ffi::CString::new(dir.as_os_str().as_bytes()) else { return 0 };
    // SAFETY: all zeros is a valid value of this plain struct of integers.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends with a zero byte and `stat` is a live struct of the type that the call fills.
    match unsafe { libc::statvfs(path.as_ptr(), &raw mut stat) } {
        0 => stat.f_bavail * stat.f_frsize,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_given_up_when_the_log_ends() {
        let dir = tempfile::tempdir().unwrap();
        let make = |stop: bool| make_segment(dir.path(), Digest([1; 32]), 3, 4 << 20, &AtomicBool::new(stop));
        assert!(matches!(make(true), Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::Interrupted));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        make(false).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
