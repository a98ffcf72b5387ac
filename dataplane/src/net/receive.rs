//! The ring of receive buffers that the kernel fills, and the guard through which one is read and given back.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::memory::{PAGE_BYTES, Pages};
use super::ring::Ring;

/// The number of the one group of receive buffers.
pub(super) const BUFFER_GROUP: u16 = 0;

/// Buffers of one size, and the ring in which those that are free are offered to the kernel.
///
/// Each buffer is at any time either the kernel's (listed in the ring, or named in a completion that has not been
/// looked at) or that of exactly one [`ReceiveBuffer`].
pub(super) struct ReceivePool {
    pages: Pages,
    buffers: u16,
    buffer_bytes: u32,
    /// Bytes before the first buffer: the ring's entries, in whole pages.
    ring_bytes: usize,
    /// Number of entries published so far, wrapping.
    tail: Cell<u16>,
    taken: Cell<u16>,
}

impl ReceivePool {
    /// Takes the memory and offers every buffer; `buffers` is a power of two.
    pub(super) fn new(buffers: u16, buffer_bytes: u32) -> io::Result<Rc<Self>> {
        let ring_bytes = (usize::from(buffers) * size_of::<BufRingEntry>()).next_multiple_of(PAGE_BYTES);
        let pages = Pages::map(ring_bytes + usize::from(buffers) * buffer_bytes as usize)?;
        let pool = Self { pages, buffers, buffer_bytes, ring_bytes, tail: Cell::new(0), taken: Cell::new(buffers) };
        for index in 0..buffers {
            pool.give_back(index);
        }
        Ok(Rc::new(pool))
    }

    /// Makes it the ring from which the kernel takes the buffers of [`BUFFER_GROUP`]; `ring` holds on to `self`
    /// no longer than it has receives under way.
    pub(super) fn register(&self, ring: &Ring) -> io::Result<()> {
        let address = self.pages.as_ptr() as u64;
        let submitter = ring.inner().submitter();
        // SAFETY: the mapping is page-aligned and holds that many entries. Without an operation that selects from the
        // group the kernel touches neither ring nor buffers, and whoever drops the pool first drains the operations.
        unsafe { submitter.register_buf_ring_with_flags(address, self.buffers, BUFFER_GROUP, 0) }
    }

    /// Buffers that no [`ReceiveBuffer`] holds.
    pub(super) fn free(&self) -> u16 {
        self.buffers - self.taken.get()
    }

    /// The guard of the buffer that a completion named, with the bytes that were received in it.
    ///
    /// # Safety
    /// The kernel named `index` in a completion for which no guard was made yet.
    pub(super) unsafe fn take(self: &Rc<Self>, index: u16, bytes: u32) -> ReceiveBuffer {
        self.taken.set(self.taken.get() + 1);
        ReceiveBuffer { pool: Rc::clone(self), index, bytes: bytes.min(self.buffer_bytes) }
    }

    fn buffer(&self, index: u16) -> *mut u8 {
        let offset = self.ring_bytes + usize::from(index) * self.buffer_bytes as usize;
        debug_assert!(offset + self.buffer_bytes as usize <= self.pages.bytes(), "no such receive buffer");
        self.pages.as_ptr().wrapping_add(offset)
    }

    fn give_back(&self, index: u16) {
        let ring = self.pages.as_ptr().cast::<BufRingEntry>();
        let position = self.tail.get() & (self.buffers - 1);
        // SAFETY: position is below the number of entries of the ring at the start of the mapping. The kernel does not
        // read an entry before the tail has passed it, and at most `buffers` are listed, so this one is not in use.
        let entry = unsafe { &mut *ring.add(usize::from(position)) };
        entry.set_addr(self.buffer(index) as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(index);
        self.tail.set(self.tail.get().wrapping_add(1));
        // SAFETY: ring is the page-aligned base of the ring in a live, zero-filled mapping; its tail is an aligned u16
        // that only atomic operations of ours and the kernel's loads touch.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(ring).cast_mut()) };
        tail.store(self.tail.get(), Ordering::Release);
        self.taken.set(self.taken.get() - 1);
    }
}

/// Bytes that were received, in the buffer into which the kernel wrote them; dropping it gives the buffer back.
///
/// Keep it no longer than it takes to read: while all are held nothing is received on any connection.
pub struct ReceiveBuffer {
    pool: Rc<ReceivePool>,
    index: u16,
    bytes: u32,
}

impl Deref for ReceiveBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer lies in a live, initialised mapping, and belongs to this guard alone until it is dropped.
        unsafe { std::slice::from_raw_parts(self.pool.buffer(self.index), self.bytes as usize) }
    }
}

impl DerefMut for ReceiveBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pool.buffer(self.index), self.bytes as usize) }
    }
}

impl fmt::Debug for ReceiveBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveBuffer({}: {} bytes)", self.index, self.bytes)
    }
}

impl Drop for ReceiveBuffer {
    fn drop(&mut self) {
        self.pool.give_back(self.index);
    }
}
