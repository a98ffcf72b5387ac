//! Staging memory: two block-aligned buffers, taken at start and never grown.

use std::collections::VecDeque;

use super::Place;
use super::format::{BLOCK, Synced};

/// One block of memory, aligned as O_DIRECT wants it.
#[derive(Clone)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK]);

/// Memory in blocks, as O_DIRECT wants it, of zeros at first.
pub(crate) struct Blocks(Vec<Block>);

impl Blocks {
    /// At least so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(vec![Block([0; BLOCK]); bytes.div_ceil(BLOCK)])
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `Block` is 4096 bytes without padding (size equals alignment), so the vector is that many u8 on end.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * BLOCK) }
    }

    /// Likewise, to write to.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * BLOCK) }
    }
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

/// Bytes of one segment that go to the device in one write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The segment's file.
    pub segment: u32,
    /// Where the run goes in the file, a multiple of [`BLOCK`].
    pub offset: u32,
    /// Where the run starts in the buffer, a multiple of [`BLOCK`].
    pub start: usize,
    /// Where its bytes end in the buffer.
    pub end: usize,
    /// What is durable once it is synced; `turn` is filled in then.
    pub reach: Synced,
}

impl Run {
    /// The place in the log where the next record of this run would start.
    pub(super) fn next(&self) -> Place {
        Place { segment: self.segment, offset: self.offset + (self.end - self.start) as u32 }
    }
}

/// One of the two staging buffers, and the runs in it in the order of the log.
pub(super) struct Buffer {
    memory: Blocks,
    /// The kernel may still read the memory: dropping leaks it instead of freeing it under a write.
    pub busy: bool,
    pub runs: VecDeque<Run>,
}

impl Buffer {
    pub(super) fn new(bytes: usize) -> Self {
        Self { memory: Blocks::new(bytes), busy: false, runs: VecDeque::with_capacity(16) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut()
    }

    /// Zeroes the run's last block behind its bytes and returns its length in whole blocks.
    pub(super) fn seal_run(&mut self, run: &Run) -> usize {
        let end = run.end.next_multiple_of(BLOCK);
        self.bytes_mut()[run.end..end].fill(0);
        end - run.start
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.busy {
            std::mem::take(&mut self.memory.0).leak();
        }
    }
}
