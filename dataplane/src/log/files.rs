//! The log on real files: two ways to make the tail durable, mappings for reading, segments made ahead of need.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use io_uring::{IoUring, opcode, types};
use memmap2::{Mmap, MmapMut};

use super::MAX_ANCHOR;
use super::device::{ANCHOR, Device, SYNCED_TO, Write, segment_name};
use super::error::LogError;
use super::maker::{Maker, forget_pages, make_durable};
use crate::types::Digest;

/// Mapped segments kept at a time; the rest are mapped again when read.
const MAX_MAPPED: usize = 2;
/// Zeros written at a time.
pub(super) const ZEROS: usize = 1024 * 1024;

/// How the tail becomes durable; the module doc has the figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Aligned O_DIRECT writes with RWF_DSYNC, from the staging buffer.
    Direct,
    /// A copy into a writable mapping, then msync.
    Mapped,
}

/// A segment mapped for reading.
pub struct Mapping(Arc<Mmap>);

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// The segment that is written to now.
struct Tail {
    segment: u32,
    file: File,
    map: Option<MmapMut>,
}

/// Moves `dir/log` to the first free of `dir/log.set-aside-1`, `-2` ... and says where it is now; `None` where there is none. Nothing is
/// deleted. The replica that starts on the directory next finds no log.
///
/// # Errors
/// [`LogError::Locked`] while a replica runs there; the file system's own.
pub fn set_aside(dir: &Path) -> Result<Option<PathBuf>, LogError> {
    let _lock = lock(dir)?;
    move_aside(dir, "log")
}

/// The same for any name in a data directory that the caller holds.
pub(crate) fn move_aside(dir: &Path, name: &str) -> Result<Option<PathBuf>, LogError> {
    let found = dir.join(name);
    if !found.try_exists().map_err(fault(&found, "look for"))? {
        return Ok(None);
    }
    let free = (1..)
        .map(|number| dir.join(format!("{name}.set-aside-{number}")))
        .find(|aside| fs::symlink_metadata(aside).is_err());
    let aside = free.unwrap_or_else(|| dir.join(format!("{name}.set-aside")));
    fs::rename(&found, &aside).map_err(fault(&found, "move aside"))?;
    sync_dir(dir)?;
    Ok(Some(aside))
}

/// Holds a data directory, as a replica does that runs there, until what it gives is dropped.
///
/// # Errors
/// [`LogError::Locked`] while a replica runs there; the file system's own.
pub fn hold(dir: &Path) -> Result<impl Sized + use<>, LogError> {
    lock(dir)
}

/// Takes `dir/lock`, which the kernel frees when the file is closed.
fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true).mode(super::maker::FILE_MODE);
    let lock = options.open(&path).map_err(fault(&path, "open"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked { dir: dir.into() }),
        Err(TryLockError::Error(source)) => Err(LogError::Io { file: path, doing: "lock", source }),
    }
}

/// A log directory, held by its lock until this is dropped.
pub struct FileDevice {
    log_dir: PathBuf,
    method: Method,
    direct: bool,
    maker: Maker,
    tail: Option<Tail>,
    mapped: Vec<(u32, Arc<Mmap>)>,
    synced_to: Option<MmapMut>,
    ring: Option<IoUring>,
    in_flight: Option<(u32, u32)>,
    // Released last: everything above is closed by then.
    _lock: File,
}

impl FileDevice {
    /// Opens (and where needed creates) `dir/log` and takes `dir/lock`, which the kernel frees when the process ends.
    pub fn open(dir: &Path, genesis: Digest, segment_bytes: u32, method: Method) -> Result<Self, LogError> {
        let log_dir = dir.join("log");
        DirBuilder::new().recursive(true).mode(0o700).create(&log_dir).map_err(fault(&log_dir, "create"))?;
        let lock = lock(dir)?;
        sync_dir(dir)?;
        let direct = method == Method::Direct && probe_direct(&log_dir)?;
        let mut device = Self {
            maker: Maker::new(&log_dir, genesis, segment_bytes),
            log_dir,
            method,
            direct,
            tail: None,
            mapped: Vec::with_capacity(MAX_MAPPED),
            synced_to: None,
            ring: None,
            in_flight: None,
            _lock: lock,
        };
        let segments = device.segments()?;
        device.maker.made = segments.last().map_or(0, |last| last + 1);
        Ok(device)
    }

    /// False where the file system refuses O_DIRECT (tmpfs does): writes are then buffered, and synced all the same.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The file to which a [`Write`] for this segment goes; `None` unless the log has just asked for that write.
    pub fn fd(&self, segment: u32) -> Option<RawFd> {
        self.tail.as_ref().filter(|tail| tail.segment == segment).map(|tail| tail.file.as_raw_fd())
    }

    /// As [`FileDevice::fd`], borrowed.
    pub fn file(&self, segment: u32) -> Option<BorrowedFd<'_>> {
        self.tail.as_ref().filter(|tail| tail.segment == segment).map(|tail| tail.file.as_fd())
    }

    fn open_segment(&self, segment: u32, direct: bool) -> Result<File, LogError> {
        let path = self.path(&segment_name(segment));
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags).open(&path).map_err(fault(&path, "open"))
    }

    fn open_tail(&mut self, segment: u32) -> Result<(), LogError> {
        if self.fd(segment).is_some() {
            return Ok(());
        }
        let file = self.open_segment(segment, self.direct)?;
        let map = if self.method == Method::Mapped {
            let path = self.path(&segment_name(segment));
            // SAFETY: the directory is locked to this process, and segments are never truncated.
            let map = unsafe { MmapMut::map_mut(&file) };
            Some(map.map_err(fault(&path, "map"))?)
        } else {
            None
        };
        self.tail = Some(Tail { segment, file, map });
        Ok(())
    }

    fn ring(&mut self) -> io::Result<&mut IoUring> {
        if self.ring.is_none() {
            self.ring = Some(IoUring::new(2)?);
        }
        self.ring.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn map_synced(&mut self) -> Result<(), LogError> {
        let path = self.path(SYNCED_TO);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(fault(&path, "open"))?;
        // SAFETY: the directory is locked to this process, and `synced_to` is never truncated.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(fault(&path, "map"))?;
        self.synced_to = Some(map);
        self.maker.sync_also(file);
        Ok(())
    }
}

/// Turns a system error on a file into a [`LogError`].
pub(super) fn fault<'a>(file: &'a Path, doing: &'static str) -> impl Fn(io::Error) -> LogError + 'a {
    move |source| LogError::Io { file: file.into(), doing, source }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), LogError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(fault(dir, "sync"))
}

/// The numbers of the segments in a log's directory, ascending.
pub(super) fn list_segments(log_dir: &Path) -> Result<Vec<u32>, LogError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(log_dir).map_err(fault(log_dir, "list"))? {
        let name = entry.map_err(fault(log_dir, "list"))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|n| n.parse().ok());
        numbers.extend(number.filter(|&n| name.to_str() == Some(&segment_name(n))));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The content of a file, cut off behind `most` bytes and one: a foreign file of any size must not fill the memory, its length is
/// judged from one byte more. `None` where there is no such file.
fn load(path: &Path, most: usize) -> Result<Option<Vec<u8>>, LogError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fault(path, "open")(error)),
    };
    let mut image = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut image).map_err(fault(path, "read"))?;
    Ok(Some(image))
}

/// Whether the directory's file system takes O_DIRECT.
fn probe_direct(log_dir: &Path) -> Result<bool, LogError> {
    let path = log_dir.join("probe.tmp");
    let mut options = OpenOptions::new();
    let opened = options
        .create(true)
        .truncate(true)
        .write(true)
        .mode(super::maker::FILE_MODE)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let direct = match opened {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(source) => Err(LogError::Io { file: path.clone(), doing: "create", source }),
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(&path, "remove")(error)),
        _ => direct,
    }
}

impl Device for FileDevice {
    type Map = Mapping;

    fn path(&self, file: &str) -> PathBuf {
        self.log_dir.join(file)
    }

    fn segments(&mut self) -> Result<Vec<u32>, LogError> {
        list_segments(&self.log_dir)
    }

    fn map(&mut self, segment: u32) -> Result<Mapping, LogError> {
        if let Some((_, map)) = self.mapped.iter().find(|(number, _)| *number == segment) {
            return Ok(Mapping(Arc::clone(map)));
        }
        let path = self.path(&segment_name(segment));
        let file = File::open(&path).map_err(fault(&path, "open"))?;
        // SAFETY: the directory is locked to this process, segments are never truncated, and readers look only at bytes
        // below the last completed sync, which are never changed again.
        let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(fault(&path, "map"))?);
        if self.mapped.len() == MAX_MAPPED {
            self.mapped.remove(0);
        }
        self.mapped.push((segment, Arc::clone(&map)));
        Ok(Mapping(map))
    }

    fn load_synced(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        load(&self.path(SYNCED_TO), super::format::SYNCED_BYTES)
    }

    fn create_synced(&mut self, image: &[u8]) -> Result<(), LogError> {
        make_durable(&self.log_dir, SYNCED_TO, |file| file.write_all_at(image, 0))
    }

    fn load_anchor(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        load(&self.path(ANCHOR), MAX_ANCHOR)
    }

    fn truncate(&mut self, first: u32, anchor: &[u8]) -> Result<(), LogError> {
        self.mapped.retain(|(number, _)| *number >= first);
        self.maker.truncate(first, anchor.to_vec())
    }

    fn truncated(&mut self) -> Option<Result<(), LogError>> {
        self.maker.truncated()
    }

    fn publish(&mut self, at: usize, slot: &[u8]) -> Result<(), LogError> {
        if self.synced_to.is_none() {
            self.map_synced()?;
        }
        let room = self.synced_to.as_mut().and_then(|map| map.get_mut(at..at + slot.len()));
        let path = self.log_dir.join(SYNCED_TO);
        room.ok_or(LogError::Missing { file: path })?.copy_from_slice(slot);
        Ok(())
    }

    fn settle(&mut self, segment: u32) -> Result<(), LogError> {
        let path = self.path(&segment_name(segment));
        let file = self.open_segment(segment, false)?;
        file.sync_data().map_err(fault(&path, "sync"))?;
        forget_pages(&file);
        Ok(())
    }

    fn zero(&mut self, segment: u32, from: u32) -> Result<(), LogError> {
        let path = self.path(&segment_name(segment));
        let file = self.open_segment(segment, false)?;
        let end = file.metadata().map_err(fault(&path, "read"))?.len();
        let zeros = vec![0; ZEROS];
        let mut at = u64::from(from);
        while at < end {
            let length = (end - at).min(ZEROS as u64) as usize;
            file.write_all_at(&zeros[..length], at).map_err(fault(&path, "zero"))?;
            at += length as u64;
        }
        file.sync_data().map_err(fault(&path, "sync"))?;
        self.mapped.retain(|(number, _)| *number != segment);
        forget_pages(&file);
        Ok(())
    }

    fn prepare(&mut self, segment: u32, wait: bool) -> Result<bool, LogError> {
        if !self.maker.ready(segment, wait)? {
            return Ok(false);
        }
        self.open_tail(segment)?;
        Ok(true)
    }

    unsafe fn submit(&mut self, write: &Write, bytes: &[u8]) -> io::Result<()> {
        let fd = self.fd(write.segment).ok_or(io::ErrorKind::NotFound)?;
        self.in_flight = Some((write.offset, write.len));
        if let Some(map) = self.tail.as_mut().and_then(|tail| tail.map.as_mut()) {
            let at = write.offset as usize;
            map.get_mut(at..at + bytes.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
            return Ok(());
        }
        let entry = opcode::Write::new(types::Fd(fd), bytes.as_ptr(), write.len)
            .offset(u64::from(write.offset))
            .rw_flags(libc::RWF_DSYNC)
            .build();
        let ring = self.ring()?;
        // SAFETY: the file stays open while it is the tail, which changes only when no write is in flight; the caller
        // keeps `bytes` until `wait` returned.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        ring.submit()?;
        Ok(())
    }

    fn wait(&mut self) -> io::Result<usize> {
        let (offset, len) = self.in_flight.take().ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(map) = self.tail.as_ref().and_then(|tail| tail.map.as_ref()) {
            map.flush_range(offset as usize, len as usize)?;
            return Ok(len as usize);
        }
        let ring = self.ring()?;
        loop {
            if let Some(done) = ring.completion().next() {
                let written = usize::try_from(done.result());
                return written.map_err(|_| io::Error::from_raw_os_error(-done.result()));
            }
            match ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }
}

impl Drop for FileDevice {
    fn drop(&mut self) {
        // The kernel may still read the staging buffer; its outcome concerns nobody any more.
        if self.in_flight.is_some() {
            let _ = self.wait();
        }
    }
}
