//! Reading of the plain big-endian bytes that an image of the state is made of.

use crate::types::TimeMs;

/// Bytes are not what was to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unreadable {
    /// How many bytes had been read.
    pub(super) at: usize,
    /// What is wrong there.
    pub(super) what: &'static str,
}

/// Bytes and how far they are read.
pub(super) struct Reading<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reading<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes are read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What is not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Fails at where reading has come to.
    pub(super) fn wrong<T>(&self, what: &'static str) -> Result<T, Unreadable> {
        Err(Unreadable { at: self.at, what })
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        match self.rest().get(..count) {
            Some(bytes) => {
                self.at += count;
                Ok(bytes)
            }
            None => self.wrong("it ends too early"),
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Unreadable> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Unreadable> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Unreadable> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn time(&mut self) -> Result<TimeMs, Unreadable> {
        self.array().map(TimeMs::from_be_bytes)
    }

    /// A count of elements of at least `size` bytes each, which can all be here.
    pub(super) fn count(&mut self, size: usize) -> Result<usize, Unreadable> {
        let count = self.u32()? as usize;
        if count.saturating_mul(size) > self.rest().len() {
            self.wrong("more is counted than is there")
        } else {
            Ok(count)
        }
    }
}
