//! The only unsafe code of the measurement: rings for messages and for appends.
//!
//! Both are made with SINGLE_ISSUER and DEFER_TASKRUN, so a ring belongs to the thread that made it, and sleep in one
//! `io_uring_enter`. Sockets and files are registered. What the kernel may write to is either kept until the kernel is
//! known to be done with it (receive buffers) or pinned by it (registered buffers).

use std::fs::File;
use std::io;
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::types::{BufRingEntry, CancelBuilder, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use memmap2::MmapMut;

/// Bytes of each message: an operation of 128 bytes and a header of 32.
pub(super) const MESSAGE_BYTES: usize = 160;
static MESSAGE: [u8; MESSAGE_BYTES] = [0xa5; MESSAGE_BYTES];

/// Bytes of an append.
pub(super) const BLOCK_BYTES: usize = 4096;

/// Submission entries: about the messages a thread sends between two waits; when full they are submitted early. Small,
/// as rings count against the lockable memory that a user's replicas share.
const ENTRIES: u32 = 64;
/// Receive buffers a ring provides; a power of two. When they run out, receives are armed again after the wait.
const BUFFERS: u16 = 64;
/// Bytes of one receive buffer.
const BUFFER_BYTES: usize = 4096;
/// The group id of the receive buffers in their ring.
const GROUP: u16 = 0;
/// Marks a send's completion; a receive's completion carries its link.
const SEND: u64 = 1 << 32;

fn new_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries)
}

/// Connected sockets; dropping them ends both directions at once, even while a ring still refers to them.
#[derive(Default)]
pub(super) struct Links(Vec<TcpStream>);

impl Links {
    pub(super) fn push(&mut self, link: TcpStream) {
        self.0.push(link);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for link in &self.0 {
            // It fails only where the peer was first.
            let _ = link.shutdown(Shutdown::Both);
        }
    }
}

/// What a wait ended with.
pub(super) enum Progress {
    /// Bytes may have arrived and are counted.
    Received,
    /// A peer closed its link.
    Closed,
    /// Nothing arrived in time.
    TimedOut,
}

/// Sends and counts messages over a set of links.
pub(super) struct Messenger {
    ring: IoUring,
    pool: Option<BufferPool>,
    patience: Option<Timespec>,
    _links: Links,
}

impl Messenger {
    /// Starts receiving on all links; at most 64.
    pub(super) fn new(links: Links, patience: Option<Duration>) -> io::Result<Self> {
        let ring = new_ring(ENTRIES)?;
        let sockets: Vec<_> = links.0.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&sockets)?;
        let pool = BufferPool::register(&ring)?;
        let count = links.len();
        let mut messenger = Self { ring, pool: Some(pool), patience: patience.map(Timespec::from), _links: links };
        for link in 0..count {
            messenger.receive(link)?;
        }
        Ok(messenger)
    }

    fn receive(&mut self, link: usize) -> io::Result<()> {
        self.push(&opcode::RecvMulti::new(Fixed(link as u32), GROUP).build().user_data(link as u64))
    }

    /// Queues one message; it leaves with the next [`Self::exchange`].
    pub(super) fn send(&mut self, link: usize) -> io::Result<()> {
        let entry = opcode::Send::new(Fixed(link as u32), MESSAGE.as_ptr(), MESSAGE_BYTES as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .flags(Flags::SKIP_SUCCESS)
            .user_data(SEND | link as u64);
        self.push(&entry)
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: a send reads `MESSAGE`, which is static; a receive writes to the registered buffers, which outlive
        // every request (`Drop`). Both name registered sockets.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        self.ring.submit()?;
        // SAFETY: as above.
        unsafe { self.ring.submission().push(entry) }.map_err(io::Error::other)
    }

    /// Submits what is queued, sleeps until something arrives, and adds the bytes that came to each link's count.
    pub(super) fn exchange(&mut self, received: &mut [u64]) -> io::Result<Progress> {
        let mut arguments = SubmitArgs::new();
        if let Some(patience) = &self.patience {
            arguments = arguments.timespec(patience);
        }
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => return Ok(Progress::TimedOut),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Progress::Received),
            Err(error) => return Err(error),
        }
        let mut progress = Progress::Received;
        let mut ended = 0u64;
        for completion in self.ring.completion() {
            let link = completion.user_data();
            match completion.result() {
                0 => progress = Progress::Closed,
                bytes if bytes > 0 => {
                    if let Some(count) = received.get_mut(link as usize) {
                        *count += u64::from(bytes.unsigned_abs());
                    }
                }
                error if matches!(-error, libc::ECONNRESET | libc::EPIPE) => progress = Progress::Closed,
                error if -error == libc::ENOBUFS && link & SEND == 0 => {}
                error => return Err(io::Error::from_raw_os_error(-error)),
            }
            if let (Some(buffer), Some(pool)) = (cqueue::buffer_select(completion.flags()), &mut self.pool) {
                pool.offer(buffer);
            }
            if link & SEND == 0 && !cqueue::more(completion.flags()) {
                ended |= 1 << link;
            }
        }
        if let Some(pool) = &self.pool {
            pool.publish();
        }
        if matches!(progress, Progress::Received) {
            for link in (0..received.len()).filter(|link| ended >> link & 1 == 1) {
                self.receive(link)?;
            }
        }
        Ok(progress)
    }
}

impl Drop for Messenger {
    fn drop(&mut self) {
        let cancelled = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        let idle = match cancelled {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        };
        if !idle {
            // A receive may still be under way: its memory stays.
            mem::forget(self.pool.take());
        }
    }
}

/// Receive buffers that the kernel picks from.
struct BufferPool {
    entries: MmapMut,
    buffers: MmapMut,
    tail: u16,
}

impl BufferPool {
    fn register(ring: &IoUring) -> io::Result<Self> {
        let entries = MmapMut::map_anon(usize::from(BUFFERS) * size_of::<BufRingEntry>())?;
        let buffers = MmapMut::map_anon(usize::from(BUFFERS) * BUFFER_BYTES)?;
        let mut pool = Self { entries, buffers, tail: 0 };
        // SAFETY: the entries are page-aligned, of the length stated, and live until no receive is under way.
        unsafe { ring.submitter().register_buf_ring_with_flags(pool.entries.as_ptr() as u64, BUFFERS, GROUP, 0)? };
        for buffer in 0..BUFFERS {
            pool.offer(buffer);
        }
        pool.publish();
        Ok(pool)
    }

    /// Gives a buffer to the kernel with the next [`Self::publish`].
    fn offer(&mut self, buffer: u16) {
        if buffer >= BUFFERS {
            return;
        }
        let slot = usize::from(self.tail % BUFFERS);
        let address = self.buffers.as_ptr() as u64 + u64::from(buffer) * BUFFER_BYTES as u64;
        // SAFETY: `slot` is below the number of entries mapped, the mapping is page-aligned and zeroed at the start,
        // and the kernel reads an entry only once the tail has passed it.
        let entry = unsafe { &mut *self.entries.as_mut_ptr().cast::<BufRingEntry>().add(slot) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the mapping begins with the first entry, which is initialised (zeroed).
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr().cast()) };
        // SAFETY: the tail is an aligned u16 inside a mapping that is writable and shared with the kernel only.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Appends blocks durably, one after the other.
pub(super) struct Appender {
    ring: IoUring,
    block: MmapMut,
    offset: u64,
    size: u64,
    _file: File,
}

impl Appender {
    /// `file` has `size` bytes already, a multiple of [`BLOCK_BYTES`].
    pub(super) fn new(file: File, size: u64) -> io::Result<Self> {
        let ring = new_ring(4)?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let mut block = MmapMut::map_anon(BLOCK_BYTES)?;
        block.fill(0xa5);
        let buffer = libc::iovec { iov_base: block.as_mut_ptr().cast(), iov_len: BLOCK_BYTES };
        // SAFETY: the buffer is mapped and of that length, and is kept as long as the ring.
        unsafe { ring.submitter().register_buffers(&[buffer])? };
        Ok(Self { ring, block, offset: 0, size, _file: file })
    }

    /// Returns once the block is durable.
    pub(super) fn append(&mut self) -> io::Result<()> {
        // No two blocks are the same, as in a log: a disk that compresses or compares has no advantage.
        for (byte, new) in self.block.iter_mut().zip(self.offset.to_le_bytes()) {
            *byte = new;
        }
        let entry = opcode::WriteFixed::new(Fixed(0), self.block.as_ptr(), BLOCK_BYTES as u32, 0)
            .offset(self.offset % self.size)
            .rw_flags(libc::RWF_DSYNC)
            .build();
        self.offset += BLOCK_BYTES as u64;
        // SAFETY: the block is the registered buffer 0, whose pages the ring keeps; nothing changes it before the
        // completion below, unless the wait itself fails, after which it is only freed.
        unsafe { self.ring.submission().push(&entry) }.map_err(io::Error::other)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        let result = self.ring.completion().next().map(|completion| completion.result());
        match result {
            Some(written) if written == BLOCK_BYTES as i32 => Ok(()),
            Some(error) if error < 0 => Err(io::Error::from_raw_os_error(-error)),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Whether a file lies on a file system that lives in memory.
pub(super) fn is_in_memory(file: &File) -> io::Result<bool> {
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    let mut status = mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open and the structure has room for the answer.
    if unsafe { libc::fstatfs(file.as_raw_fd(), status.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the kernel filled it.
    let kind = unsafe { status.assume_init() }.f_type;
    Ok(kind == libc::TMPFS_MAGIC || kind == RAMFS_MAGIC)
}
