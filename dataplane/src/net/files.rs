//! Durable file writes: registered files and buffers, and the writes under way.

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{opcode, squeue};

use super::completions::Kind;
use super::memory::WriteBuffer;
use super::probe::limit;
use super::reactor::Reactor;
use super::ring::Ring;
use super::{NetError, Warning};

/// Files registered with one reactor at one time.
pub const MAX_FILES: usize = 16;
/// Write buffers registered with one reactor.
pub const MAX_WRITE_BUFFERS: usize = 64;
/// Writes and syncs of one reactor under way at one time.
pub const MAX_WRITES_IN_FLIGHT: usize = 64;

/// Tells the buffers of one reactor from those of another.
static NEXT_REACTOR: AtomicU64 = AtomicU64::new(0);

/// Names a registered file of one reactor, and after it is unregistered none at all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId {
    index: u32,
    generation: u32,
}

/// What a completed write promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The bytes are in the page cache, or on their way to the disk; a later [`Reactor::sync`] makes them durable.
    Cached,
    /// The bytes, and what is needed to read them back, are on stable storage.
    Durable,
}

/// Why a write was not begun.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// [`MAX_WRITES_IN_FLIGHT`] are under way: wait for one to complete.
    #[error("{MAX_WRITES_IN_FLIGHT} writes are under way, more are not permitted")]
    Full,
    /// The id names no registered file.
    #[error("the file is not registered")]
    UnknownFile,
    /// The range is not inside the buffer, or 4 GiB and longer.
    #[error("the range to be written is not inside the buffer")]
    OutOfBounds,
    /// [`MAX_FILES`] are registered.
    #[error("{MAX_FILES} files are registered, more are not permitted")]
    TooManyFiles,
    /// A file with writes under way cannot be unregistered.
    #[error("writes to the file are under way")]
    FileBusy,
    /// The kernel refused to register the file.
    #[error("cannot register the file: {0}")]
    Register(io::Error),
}

#[derive(Clone, Copy, Default)]
struct FileSlot {
    generation: u32,
    used: bool,
    writes: u32,
}

struct PendingWrite {
    token: u64,
    file: u32,
    /// Keeps the bytes in place and unchanged.
    _buffer: Option<Arc<WriteBuffer>>,
}

/// The files of a reactor and the writes under way.
pub(super) struct Files {
    reactor: u64,
    files: [FileSlot; MAX_FILES],
    writes: Vec<Option<PendingWrite>>,
    buffers_registered: bool,
}

impl Files {
    pub(super) fn new(ring: &Ring) -> io::Result<Self> {
        ring.inner().submitter().register_files_sparse(MAX_FILES as u32)?;
        let mut writes = Vec::new();
        writes.resize_with(MAX_WRITES_IN_FLIGHT, || None);
        let reactor = NEXT_REACTOR.fetch_add(1, Ordering::Relaxed);
        Ok(Self { reactor, files: [FileSlot::default(); MAX_FILES], writes, buffers_registered: false })
    }

    /// Ends a write; gives its token.
    pub(super) fn completed(&mut self, index: u32) -> Option<u64> {
        let write = self.writes.get_mut(index as usize)?.take()?;
        if let Some(file) = self.files.get_mut(write.file as usize) {
            file.writes = file.writes.saturating_sub(1);
        }
        Some(write.token)
    }

    /// Never frees the buffers of the writes under way.
    pub(super) fn leak(&mut self) {
        mem::forget(mem::take(&mut self.writes));
    }

    fn file(&mut self, id: FileId) -> Result<&mut FileSlot, WriteError> {
        let file = self.files.get_mut(id.index as usize);
        file.filter(|file| file.used && file.generation == id.generation).ok_or(WriteError::UnknownFile)
    }

    fn begin(&mut self, id: FileId, token: u64, buffer: Option<Arc<WriteBuffer>>) -> Result<u32, WriteError> {
        let free = self.writes.iter().position(Option::is_none);
        let file = self.file(id)?;
        let index = free.ok_or(WriteError::Full)?;
        file.writes += 1;
        self.writes[index] = Some(PendingWrite { token, file: id.index, _buffer: buffer });
        Ok(index as u32)
    }
}

impl Reactor {
    /// Registers a file for writing. The caller may close its descriptor; the kernel keeps the file until
    /// [`Reactor::unregister_file`].
    ///
    /// # Errors
    /// [`WriteError::TooManyFiles`], [`WriteError::Register`].
    pub fn register_file(&mut self, file: BorrowedFd<'_>) -> Result<FileId, WriteError> {
        let index = self.files.files.iter().position(|file| !file.used && file.generation < u32::MAX);
        let index = index.ok_or(WriteError::TooManyFiles)?;
        self.update_file(index, file.as_raw_fd()).map_err(WriteError::Register)?;
        let slot = &mut self.files.files[index];
        slot.used = true;
        slot.generation += 1;
        Ok(FileId { index: index as u32, generation: slot.generation })
    }

    /// Lets go of a file.
    ///
    /// # Errors
    /// [`WriteError::FileBusy`] while writes to it are under way, [`WriteError::UnknownFile`].
    pub fn unregister_file(&mut self, id: FileId) -> Result<(), WriteError> {
        let file = self.files.file(id)?;
        // An operation still in the queue finds its file by this place when it starts.
        if file.writes > 0 {
            return Err(WriteError::FileBusy);
        }
        file.used = false;
        self.update_file(id.index as usize, -1).map_err(WriteError::Register)
    }

    fn update_file(&mut self, index: usize, raw: i32) -> io::Result<()> {
        self.ring.inner().submitter().register_files_update(index as u32, &[raw]).map(drop)
    }

    /// Takes `count` zero-filled buffers of `bytes` (rounded up to pages) and registers them, so that writes from them
    /// need not pin their pages one by one. Where locked memory does not suffice they are taken all the same, with a
    /// [`Warning`]; [`ReactorConfig::registered_memory`](super::ReactorConfig::registered_memory) switches it off.
    ///
    /// # Errors
    /// [`NetError::BuffersRegistered`] the second time, [`NetError::TooManyBuffers`], [`NetError::System`] when there
    /// is no memory at all.
    pub fn write_buffers(&mut self, count: usize, bytes: usize) -> Result<Vec<Arc<WriteBuffer>>, NetError> {
        if count > MAX_WRITE_BUFFERS {
            return Err(NetError::TooManyBuffers);
        }
        if mem::replace(&mut self.files.buffers_registered, true) {
            return Err(NetError::BuffersRegistered);
        }
        let buffers: io::Result<Vec<_>> = (0..count).map(|_| WriteBuffer::new(bytes)).collect();
        let mut buffers =
            buffers.map_err(|source| NetError::System { action: "take memory for write buffers", source })?;
        if self.registers_memory() && count > 0 {
            self.register_buffers(&mut buffers)?;
        }
        Ok(buffers.into_iter().map(Arc::new).collect())
    }

    fn register_buffers(&mut self, buffers: &mut [WriteBuffer]) -> Result<(), NetError> {
        let vectors: Vec<_> = buffers
            .iter()
            .map(|buffer| libc::iovec { iov_base: buffer.as_ptr().cast_mut().cast(), iov_len: buffer.len() })
            .collect();
        // SAFETY: each vector is a live mapping. The kernel holds its pages itself, and is told to read them only by
        // `write`, from a buffer that is alive.
        match unsafe { self.ring.inner().submitter().register_buffers(&vectors) } {
            Ok(()) => {
                for (index, buffer) in (0..).zip(buffers) {
                    buffer.registered = Some((self.files.reactor, index));
                }
                Ok(())
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::EPERM)) => {
                let bytes = vectors.iter().map(|vector| vector.iov_len as u64).sum();
                self.warnings.push(Warning::UnregisteredBuffers { bytes, limit: limit(libc::RLIMIT_MEMLOCK) });
                Ok(())
            }
            Err(source) => Err(NetError::System { action: "register write buffers", source }),
        }
    }

    /// Begins to write `range` of `buffer` at `offset` of the file; [`Event::Written`](super::Event::Written) with
    /// `token` follows. Writes under way together may be carried out in any order. A file opened with O_DIRECT wants
    /// range, offset and length in whole blocks.
    ///
    /// # Errors
    /// [`WriteError::Full`], [`WriteError::UnknownFile`], [`WriteError::OutOfBounds`]; nothing was begun.
    pub fn write(
        &mut self,
        file: FileId,
        buffer: &Arc<WriteBuffer>,
        range: Range<usize>,
        offset: u64,
        durability: Durability,
        token: u64,
    ) -> Result<(), WriteError> {
        let bytes = buffer.get(range).ok_or(WriteError::OutOfBounds)?;
        let length = u32::try_from(bytes.len()).map_err(|_| WriteError::OutOfBounds)?;
        let target = Fixed(file.index);
        let flags = match durability {
            Durability::Cached => 0,
            Durability::Durable => libc::RWF_DSYNC,
        };
        let entry = match buffer.registered {
            Some((reactor, index)) if reactor == self.files.reactor => {
                opcode::WriteFixed::new(target, bytes.as_ptr(), length, index).offset(offset).rw_flags(flags).build()
            }
            _ => opcode::Write::new(target, bytes.as_ptr(), length).offset(offset).rw_flags(flags).build(),
        };
        let index = self.files.begin(file, token, Some(Arc::clone(buffer)))?;
        self.start_write(index, entry);
        Ok(())
    }

    /// [`Reactor::write`] whose completion means that the bytes are on stable storage.
    ///
    /// # Errors
    /// Those of [`Reactor::write`].
    pub fn write_durable(
        &mut self,
        file: FileId,
        buffer: &Arc<WriteBuffer>,
        range: Range<usize>,
        offset: u64,
        token: u64,
    ) -> Result<(), WriteError> {
        self.write(file, buffer, range, offset, Durability::Durable, token)
    }

    /// Begins to make durable all that writes to the file which have completed have written (fdatasync);
    /// [`Event::Written`](super::Event::Written) with `token` follows.
    ///
    /// # Errors
    /// [`WriteError::Full`], [`WriteError::UnknownFile`]; nothing was begun.
    pub fn sync(&mut self, file: FileId, token: u64) -> Result<(), WriteError> {
        let entry = opcode::Fsync::new(Fixed(file.index)).flags(FsyncFlags::DATASYNC).build();
        let index = self.files.begin(file, token, None)?;
        self.start_write(index, entry);
        Ok(())
    }

    fn start_write(&mut self, index: u32, entry: squeue::Entry) {
        // SAFETY: the buffer's memory is held by the write's clone of the `Arc`, dropped when it has completed; until
        // then nobody has it exclusively, so its bytes do not change.
        unsafe { self.ring.push(entry.user_data(Kind::Write.tag(index, 0))) };
    }
}
