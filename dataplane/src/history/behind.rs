//! Writes pieces of entries behind the store's back: on a thread of its own, past the page cache where the file system allows it.
//!
//! The history is as many bytes as the log and is read rarely. In the page cache each of its pages would be copied to, kept and written
//! back at times that the kernel chooses, beside the log's own writes; for who orders that is a tenth of all work.
//! One piece is under way at a time, and stays readable in memory until it is written. Nothing here is durable: whoever keeps a
//! snapshot syncs the files.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::segments::{io_error, open_existing, segment_path};
use super::store::StoreError;
use crate::log::Blocks;
use crate::types::Digest;

/// Pieces begin and end at multiples of this in their files, as O_DIRECT wants it.
pub(super) const BLOCK: u64 = 4_096;

/// Bytes of a segment, from one block boundary to another.
pub(super) struct Piece {
    pub(super) segment: u64,
    /// Where they begin in its file.
    pub(super) offset: u64,
    memory: Blocks,
    length: usize,
}

impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {} of segment {}", self.length, self.offset, self.segment)
    }
}

impl Piece {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory.bytes()[..self.length]
    }
}

#[derive(Debug)]
struct Thread {
    pieces: SyncSender<Arc<Piece>>,
    written: Receiver<io::Result<()>>,
    handle: JoinHandle<()>,
}

/// The store's side of the thread, which is started with the first piece.
#[derive(Debug)]
pub(super) struct Behind {
    writer: Writer,
    thread: Option<Thread>,
    under_way: Option<Arc<Piece>>,
    /// A piece could not be written: nothing is any more.
    failed: bool,
    /// The memory of the last piece, for the next.
    spare: Option<Blocks>,
}

impl Behind {
    /// For the segments of a directory.
    pub(super) fn new(directory: PathBuf, genesis: Digest, segment_bytes: u64) -> Self {
        let writer = Writer { directory, genesis, segment_bytes, open: None };
        Self { writer, thread: None, under_way: None, failed: false, spare: None }
    }

    /// The piece that is being written, to read from.
    pub(super) fn under_way(&self) -> Option<&Piece> {
        self.under_way.as_deref()
    }

    /// Whether the next piece can be begun; with `wait` it is waited for.
    ///
    /// # Errors
    /// The last piece could not be written: what its file holds is not known.
    pub(super) fn is_free(&mut self, wait: bool) -> Result<bool, StoreError> {
        if self.failed {
            return Err(io_error(&self.writer.directory, io::ErrorKind::BrokenPipe.into()));
        }
        let (Some(piece), Some(thread)) = (&self.under_way, &self.thread) else { return Ok(true) };
        let told = if wait {
            thread.written.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            thread.written.try_recv()
        };
        let result = match told {
            Err(TryRecvError::Empty) => return Ok(false),
            Err(TryRecvError::Disconnected) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(result) => result,
        };
        let path = segment_path(&self.writer.directory, piece.segment);
        self.failed = result.is_err();
        result.map_err(|source| io_error(&path, source))?;
        // The thread lets go of it before it tells.
        self.spare = self.under_way.take().and_then(Arc::into_inner).map(|piece| piece.memory);
        Ok(true)
    }

    /// Begins to write bytes, whole blocks of them, at a block of a segment that is there. Only while [`Behind::is_free`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn write(&mut self, segment: u64, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let spare = self.spare.take().filter(|spare| spare.bytes().len() >= bytes.len());
        let mut memory = spare.unwrap_or_else(|| Blocks::new(bytes.len()));
        memory.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        let piece = Arc::new(Piece { segment, offset, memory, length: bytes.len() });
        let failed = |source| io_error(&self.writer.directory, source);
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => self.writer.clone().start().map_err(failed)?,
        };
        let sent = thread.pieces.send(Arc::clone(&piece));
        self.under_way = Some(piece);
        self.thread = Some(thread);
        sent.map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        if let Some(Thread { pieces, written, handle }) = self.thread.take() {
            drop((pieces, written));
            let _ = handle.join();
        }
    }
}

/// The thread's side.
#[derive(Debug)]
struct Writer {
    directory: PathBuf,
    genesis: Digest,
    segment_bytes: u64,
    /// The segment that was written to last.
    open: Option<(u64, File)>,
}

impl Clone for Writer {
    fn clone(&self) -> Self {
        Self { directory: self.directory.clone(), open: None, ..*self }
    }
}

impl Writer {
    fn start(mut self) -> io::Result<Thread> {
        let (pieces, to_write) = sync_channel::<Arc<Piece>>(1);
        let (done, written) = sync_channel(1);
        let run = move || {
            while let Ok(piece) = to_write.recv() {
                let result = self.write(&piece);
                drop(piece);
                if done.send(result).is_err() {
                    return;
                }
            }
        };
        let handle = crate::cores::spawn("history", run)?;
        Ok(Thread { pieces, written, handle })
    }

    fn write(&mut self, piece: &Piece) -> io::Result<()> {
        let file = match self.open.take() {
            Some((segment, file)) if segment == piece.segment => file,
            _ => self.open(piece.segment)?,
        };
        let mut result = file.write_all_at(piece.bytes(), piece.offset);
        if result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput) {
            // Its blocks are larger, or it took the flag and cannot do it.
            let flags = fcntl_getfl(&file)?;
            fcntl_setfl(&file, flags & !OFlags::DIRECT)?;
            result = file.write_all_at(piece.bytes(), piece.offset);
        }
        self.open = Some((piece.segment, file));
        result
    }

    fn open(&self, segment: u64) -> io::Result<File> {
        let path = segment_path(&self.directory, segment);
        let mut options = OpenOptions::new();
        let file = open_existing(&path, self.genesis, self.segment_bytes, options.read(true).write(true));
        let file = file.map_err(|error| match error {
            StoreError::Io { source, .. } => source,
            other => io::Error::other(other),
        })?;
        // Where the file system knows no O_DIRECT its writes pass through the cache.
        let _ = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::DIRECT));
        Ok(file)
    }
}
