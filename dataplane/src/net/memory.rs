//! Page-aligned memory that the kernel reads or writes: owned mappings and the write buffers of the log.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

/// The unit in which memory is mapped and in which direct file writes are aligned, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// An anonymous private mapping, zero-filled, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping has one owner and is plain memory, tied to no thread.
unsafe impl Send for Pages {}
// SAFETY: a shared reference gives out only the address and the length.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `bytes` (more than 0), already backed by memory so that no page fault comes later.
    pub(super) fn map(bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self { start, bytes })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping made in `map`, which nobody else unmaps; a failure could
        // only leave it mapped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A page-aligned buffer from which files are written, see [`Reactor::write`](super::Reactor::write).
///
/// It is filled while its owner holds the only `Arc` (`Arc::get_mut`). While a write is under way the reactor holds
/// another, so its bytes can still be read, and cannot change under the kernel.
#[derive(Debug)]
pub struct WriteBuffer {
    pages: Pages,
    /// The reactor and the index under which the kernel has it registered.
    pub(super) registered: Option<(u64, u16)>,
}

impl WriteBuffer {
    /// Takes a zero-filled buffer of `bytes`, rounded up to whole pages and at least one.
    ///
    /// # Errors
    /// The system's error when there is no memory.
    pub fn new(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.max(1).checked_next_multiple_of(PAGE_BYTES);
        let bytes = bytes.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
        Ok(Self { pages: Pages::map(bytes)?, registered: None })
    }

    /// Whether a reactor has it registered with the kernel, which then need not pin its pages for each write.
    pub fn is_registered(&self) -> bool {
        self.registered.is_some()
    }
}

impl Deref for WriteBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is initialised (zero-filled) and lives as long as self; the kernel only reads from it.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr(), self.pages.bytes()) }
    }
}

impl DerefMut for WriteBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the exclusive borrow excludes the reactor's clone of the `Arc`, hence any write.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_ptr(), self.pages.bytes()) }
    }
}
