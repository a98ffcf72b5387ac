//! Entries in files.
//!
//! `DIR/history/index` has a record of 24 bytes per entry: its offset (u64), agreed time (i64), length (u32) and checksum (low half
//! of XXH3-64, u32), all big-endian. `DIR/history/entries-N` holds the bytes: offset `N * SEGMENT_BYTES + i` is byte `i` of the file N, and no
//! entry lies in two files. Every file begins with a header of 64 bytes: magic (8), version (u32), zeros (4), `SEGMENT_BYTES` of this
//! directory (u64; 0 for 256 MiB), zeros (8), genesis hash (32). Old segments may be in cold storage ([`super::cold`]).
//!
//! Appended entries gather in buffers, from which they can be read at once. When [`FLUSH_BYTES`] of them are there a thread writes them
//! ([`super::behind`]); when somebody needs the files they are written at once. Nothing is lost with the buffers: until a snapshot
//! vouches for an entry the log has what it comes from. Reads of written entries are positioned reads. Memory is the
//! buffers, [`MAX_BUFFERED`] and an entry at most, and [`super::segments::MAX_OPEN_SEGMENTS`] open files, however long the history gets.
//!
//! A store is opened with as many entries as a durable snapshot vouches for: whoever keeps a snapshot syncs
//! [`written_files`](EntryStore::written_files) first. What follows is executed again from the log, or supplied by peers, and the same
//! bytes are written over themselves. Until then old records are not served, so nothing that a crash tore is ever read.
//! Opening reads what is hot of the newest 16 GiB against its checksums; a replica whose history is damaged takes what is from its peers.
//! [`left_behind`](EntryStore::left_behind) shows them to a transfer, which believes them only if they hash right.

use std::borrow::Cow;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use super::behind::{BLOCK, Behind};
use super::proof::NodeHashes;
use super::segments::{
    HEADER_BYTES, Layout, NODE_BYTES, Place, RECORD_BYTES, Record, Segments, checksum, io_error, node_offset,
    open_file, record_offset, segment_path,
};
use super::store::{EntryStore, StoreError, bisect};
use super::tree::{HistoryTree, node_count, node_position};
use crate::state::{Entries, run_of};
use crate::types::{Digest, EntryIndex, TimeMs};
use crate::wire::limits::MAX_ENTRY;

/// So many appended bytes are written together.
pub(super) const FLUSH_BYTES: usize = 256 << 10;

/// Where so many wait for the disk, appending waits too.
pub(super) const MAX_BUFFERED: usize = 4 << 20;

/// When a store is opened again so much of its newest bytes is read and held against its checksums.
const CHECKED_BYTES: u64 = 16 << 30;

/// Bytes and records read at a time for that.
const READ_BYTES: usize = 1 << 20;
const RECORDS_AT_ONCE: u64 = 4_096;

/// Entries in `DIR/history/`. One process at a time; the caller holds the directory's lock.
#[derive(Debug)]
pub struct FileStore {
    segments: Segments,
    index: File,
    nodes: File,
    behind: Behind,
    tail: Tail,
    /// Where entries that peers supply are written, while they are.
    staged: Option<Tail>,
    /// The lowest segment written to since somebody asked.
    unsynced: Option<u64>,
}

/// An end at which entries are added.
#[derive(Clone, Debug, Default)]
struct Tail {
    /// Entries whose records are in the index file.
    written: u64,
    records: Vec<u8>,
    /// Segment of the buffered bytes, and where in it they begin.
    segment: u64,
    offset: u64,
    bytes: Vec<u8>,
    /// Nodes that the entries behind `written` complete.
    nodes: Vec<u8>,
}

impl Tail {
    /// Bytes in memory.
    fn held(&self) -> usize {
        self.bytes.len() + self.records.len() + self.nodes.len()
    }

    fn size(&self) -> EntryIndex {
        self.written + (self.records.len() / RECORD_BYTES) as u64
    }
}

impl FileStore {
    /// Opens `directory` (made if missing) for the cluster with this genesis hash; the store is empty until entries are
    /// appended again.
    ///
    /// # Errors
    /// A file there is of another cluster or format, or the file system fails. Nothing was written over then.
    pub fn open(directory: &Path, genesis: Digest) -> Result<Self, StoreError> {
        Self::open_at(&Layout::new(directory, genesis))
    }

    /// The same for any layout.
    ///
    /// # Errors
    /// As [`FileStore::open`].
    pub fn open_at(layout: &Layout) -> Result<Self, StoreError> {
        let directory = &layout.directory;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        let parent = directory.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all());
        made.and(parent).map_err(|source| io_error(directory, source))?;
        let (index, segment_bytes) = open_file(&directory.join("index"), layout.genesis, layout.segment_bytes)?;
        let (nodes, _) = open_file(&directory.join("nodes"), layout.genesis, segment_bytes)?;
        let segments = Segments::new(layout, segment_bytes);
        if !segments.is_moved(0) {
            segments.make(0)?;
        }
        let tail = Tail { offset: HEADER_BYTES as u64, ..Tail::default() };
        let behind = Behind::new(directory.clone(), layout.genesis, segment_bytes);
        Ok(Self { segments, index, nodes, behind, tail, staged: None, unsynced: Some(0) })
    }

    /// The same with its first `size` entries, which were durable once.
    ///
    /// # Errors
    /// Also [`StoreError::Lost`], where one of them is damaged or not there, as far as they are read: the newest 16 GiB, and of those
    /// what was not moved to cold storage.
    pub fn reopen(layout: &Layout, size: EntryIndex) -> Result<Self, StoreError> {
        Self::open_at(layout)?.resume(size)
    }

    /// The first of `size` entries, from this place of the files on, that is not what its record says.
    fn damaged(&self, size: EntryIndex, oldest: u64) -> Option<EntryIndex> {
        let mut records = vec![0; RECORD_BYTES * RECORDS_AT_ONCE as usize];
        let (mut held, mut held_at) = (Vec::new(), u64::MAX);
        let mut moved = None;
        for first in (0..size).step_by(RECORDS_AT_ONCE as usize) {
            let count = RECORDS_AT_ONCE.min(size - first) as usize;
            let bytes = &mut records[..count * RECORD_BYTES];
            if self.index.read_exact_at(bytes, record_offset(first)).is_err() {
                return Some(first);
            }
            for (entry, record) in (first..).zip(bytes.chunks_exact(RECORD_BYTES)) {
                let Some(record) = Record::from_bytes(record) else { return Some(entry) };
                let segment = self.segments.place(record).0;
                if record.at < oldest || moved == Some(segment) || self.holds(record, &mut held, &mut held_at) {
                    continue;
                }
                if !self.segments.is_moved(segment) {
                    return Some(entry);
                }
                moved = Some(segment);
            }
        }
        None
    }

    /// Whether an entry is what its record says, read by way of a larger run of its file from `held_at` on.
    fn holds(&self, record: Record, held: &mut Vec<u8>, held_at: &mut u64) -> bool {
        let length = record.length as usize;
        let (segment, at) = self.segments.place(record);
        if length > MAX_ENTRY || at + u64::from(record.length) > self.segments.bytes {
            return false;
        }
        let held_end = held_at.saturating_add(held.len() as u64);
        if record.at < *held_at || record.at + u64::from(record.length) > held_end {
            held.resize(READ_BYTES, 0);
            let read = self.segments.read(segment, Place::Hot, |file| read_at_most(file, held, at));
            held.truncate(read.unwrap_or(0));
            *held_at = record.at;
        }
        let start = (record.at - *held_at) as usize;
        held.get(start..start + length).is_some_and(|entry| checksum(entry) == record.checksum)
    }

    /// As if `size` entries had been appended.
    pub(super) fn resume(mut self, size: EntryIndex) -> Result<Self, StoreError> {
        let Some(last) = size.checked_sub(1) else { return Ok(self) };
        let lost = |entry| StoreError::Lost { path: self.segments.directory.clone(), entry };
        let record = self.read_record(last).ok_or_else(|| lost(last))?;
        let oldest = record.at.saturating_sub(CHECKED_BYTES);
        if let Some(entry) = self.damaged(size, oldest) {
            return Err(lost(entry));
        }
        let (segment, at) = self.segments.place(record);
        self.unsynced = None;
        self.tail = Tail { written: size, segment, offset: at + u64::from(record.length), ..self.tail };
        Ok(self)
    }

    /// Whether the nodes file has what the leaf hashes in it give, up to this edge.
    fn nodes_hold(&self, edge: &HistoryTree) -> bool {
        let (mut tree, mut bytes, mut end) = (HistoryTree::new(), Vec::new(), 0);
        while tree.size() < edge.size() {
            let first = node_count(tree.size());
            if first == end {
                let last = edge.size().min(tree.size() + READ_BYTES as u64 / (2 * NODE_BYTES as u64));
                end = node_count(last);
                bytes.resize((end - first) as usize * NODE_BYTES, 0);
                if self.nodes.read_exact_at(&mut bytes, node_offset(first)).is_err() {
                    return false;
                }
            }
            let at = bytes.len() - (end - first) as usize * NODE_BYTES;
            let Some(leaf) = bytes[at..].first_chunk::<NODE_BYTES>() else { return false };
            let completed = tree.append_hash(Digest(*leaf));
            let found = bytes[at..].as_chunks::<NODE_BYTES>().0;
            if !completed.iter().zip(found).all(|(node, found)| node.0 == *found) {
                return false;
            }
        }
        tree.subtrees() == edge.subtrees()
    }

    /// Makes the nodes again from the entries.
    fn make_nodes(&self, edge: &HistoryTree) -> Result<(), StoreError> {
        let lost = |entry| StoreError::Lost { path: self.segments.directory.clone(), entry };
        let write = |bytes: &[u8], first: EntryIndex| {
            let written = self.nodes.write_all_at(bytes, node_offset(node_count(first)));
            written.map_err(|source| io_error(&self.segments.directory.join("nodes"), source))
        };
        let (mut tree, mut bytes, mut first) = (HistoryTree::new(), Vec::with_capacity(READ_BYTES), 0);
        while tree.size() < edge.size() {
            let index = tree.size();
            let completed = tree.append(&self.entry(index).ok_or_else(|| lost(index))?);
            completed.iter().for_each(|node| bytes.extend_from_slice(&node.0));
            if bytes.len() >= READ_BYTES {
                write(&bytes, first)?;
                first = tree.size();
                bytes.clear();
            }
        }
        write(&bytes, first)?;
        let failed = |source| io_error(&self.segments.directory.join("nodes"), source);
        self.nodes.sync_data().map_err(failed)?;
        if tree.subtrees() == edge.subtrees() { Ok(()) } else { Err(lost(edge.size().saturating_sub(1))) }
    }

    fn record(&self, index: EntryIndex) -> Option<Record> {
        match index.checked_sub(self.tail.written) {
            Some(buffered) => {
                let start = usize::try_from(buffered).ok()?.checked_mul(RECORD_BYTES)?;
                Record::from_bytes(self.tail.records.get(start..start.checked_add(RECORD_BYTES)?)?)
            }
            None => self.read_record(index),
        }
    }

    /// What the index file has for an entry.
    fn read_record(&self, index: EntryIndex) -> Option<Record> {
        Record::read(&self.index, index)
    }

    /// Writes so many of the buffered bytes, at once and through the page cache.
    fn write_bytes(&mut self, tail: &mut Tail, count: usize) -> Result<(), StoreError> {
        self.behind.is_free(true)?;
        if count > 0 {
            self.unsynced = Some(self.unsynced.map_or(tail.segment, |first| first.min(tail.segment)));
            self.segments.write(tail.segment, &tail.bytes[..count], tail.offset)?;
            tail.offset += count as u64;
            tail.bytes.drain(..count);
        }
        Ok(())
    }

    fn write(&mut self, tail: &mut Tail) -> Result<(), StoreError> {
        self.write_bytes(tail, tail.bytes.len())?;
        self.write_records(tail)
    }

    /// Has the buffered bytes written behind, as far as they fill blocks; what waits for the disk is looked at again later.
    fn write_behind(&mut self, tail: &mut Tail) -> Result<(), StoreError> {
        self.segments.let_go();
        if !self.behind.is_free(tail.held() >= MAX_BUFFERED)? {
            return Ok(());
        }
        // After a start, or a write through the cache, the next block's first bytes are written already.
        let to_block = (tail.offset.next_multiple_of(BLOCK) - tail.offset) as usize;
        self.write_bytes(tail, to_block.min(tail.bytes.len()))?;
        let whole = tail.bytes.len() - tail.bytes.len() % BLOCK as usize;
        if whole > 0 {
            self.unsynced = Some(self.unsynced.map_or(tail.segment, |first| first.min(tail.segment)));
            self.behind.write(tail.segment, tail.offset, &tail.bytes[..whole])?;
            tail.offset += whole as u64;
            tail.bytes.drain(..whole);
        }
        self.write_records(tail)
    }

    fn write_records(&mut self, tail: &mut Tail) -> Result<(), StoreError> {
        if !tail.records.is_empty() {
            self.nodes
                .write_all_at(&tail.nodes, node_offset(node_count(tail.written)))
                .map_err(|source| io_error(&self.segments.directory.join("nodes"), source))?;
            self.index
                .write_all_at(&tail.records, record_offset(tail.written))
                .map_err(|source| io_error(&self.segments.directory.join("index"), source))?;
            tail.written = tail.size();
            tail.records.clear();
            tail.nodes.clear();
        }
        Ok(())
    }

    /// Where in the tail's segment the bytes begin that may not be in its file yet.
    fn in_memory_from(&self) -> u64 {
        self.behind.under_way().map_or(self.tail.offset, |piece| piece.offset)
    }

    /// Bytes of the tail's segment, some of which are not in its file yet.
    fn in_memory(&self, at: u64, end: u64) -> Option<Cow<'_, [u8]>> {
        let of = |held: &'_ [u8], begin: u64, from: u64, to: u64| -> Option<std::ops::Range<usize>> {
            let range =
                usize::try_from(from.checked_sub(begin)?).ok()?..usize::try_from(to.checked_sub(begin)?).ok()?;
            (range.start <= range.end && range.end <= held.len()).then_some(range)
        };
        let tail = &self.tail;
        if at >= tail.offset {
            return Some(Cow::Borrowed(&tail.bytes[of(&tail.bytes, tail.offset, at, end)?]));
        }
        let memory_from = self.in_memory_from();
        let mut joined = vec![0; usize::try_from(memory_from.saturating_sub(at)).ok()?];
        if !joined.is_empty() && !self.segments.fill(tail.segment, &mut joined, at) {
            return None;
        }
        if let Some(piece) = self.behind.under_way() {
            let range = of(piece.bytes(), piece.offset, at.max(memory_from), end.min(tail.offset))?;
            joined.extend_from_slice(&piece.bytes()[range]);
        }
        if end > tail.offset {
            joined.extend_from_slice(&tail.bytes[of(&tail.bytes, tail.offset, tail.offset, end)?]);
        }
        Some(Cow::Owned(joined))
    }

    fn add(&mut self, tail: &mut Tail, entry: &[u8], time_ms: TimeMs, nodes: &[Digest]) -> Result<(), StoreError> {
        if entry.len() > MAX_ENTRY {
            return Err(StoreError::TooLarge(entry.len()));
        }
        if tail.offset + (tail.bytes.len() + entry.len()) as u64 > self.segments.bytes {
            self.write_bytes(tail, tail.bytes.len())?;
            tail.segment += 1;
            tail.offset = HEADER_BYTES as u64;
        }
        let record = Record {
            at: tail.segment * self.segments.bytes + tail.offset + tail.bytes.len() as u64,
            time_ms,
            length: entry.len() as u32,
            checksum: checksum(entry),
        };
        tail.bytes.extend_from_slice(entry);
        tail.records.extend_from_slice(&record.to_bytes());
        nodes.iter().for_each(|node| tail.nodes.extend_from_slice(&node.0));
        Ok(())
    }

    /// Works on the tail, which is given back whatever happens.
    fn at_tail<T>(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Tail) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut tail = std::mem::take(&mut self.tail);
        let result = work(self, &mut tail);
        self.tail = tail;
        result
    }
}

impl Entries for FileStore {
    fn size(&self) -> EntryIndex {
        self.tail.size()
    }

    fn entry(&self, index: EntryIndex) -> Option<Cow<'_, [u8]>> {
        let record = self.record(index)?;
        let (segment, at) = self.segments.place(record);
        let end = at.checked_add(u64::from(record.length))?;
        if segment != self.tail.segment || end <= self.in_memory_from() {
            return self.segments.entry(record).map(Cow::Owned);
        }
        let entry = self.in_memory(at, end)?;
        (checksum(&entry) == record.checksum).then_some(entry)
    }

    fn first_at_or_after(&self, time_ms: TimeMs) -> EntryIndex {
        bisect(self.size(), time_ms, |index| self.record(index).map(|record| record.time_ms))
    }

    /// With two reads of the files where all of it is written and lies in one file, which is nearly always so.
    fn run(&self, first: EntryIndex, end: EntryIndex, bytes: usize) -> Option<(Vec<u8>, u64)> {
        let end = end.min(self.size());
        let written = end.min(self.tail.written).checked_sub(first).filter(|written| *written > 0);
        let count = written.map_or(0, |written| written.min(RECORDS_AT_ONCE)) as usize;
        let mut records = vec![0; count * RECORD_BYTES];
        self.index.read_exact_at(&mut records, record_offset(first)).ok()?;
        let records: Vec<Record> = records.chunks_exact(RECORD_BYTES).filter_map(Record::from_bytes).collect();
        let (mut length, mut taken) = (0usize, 0usize);
        for record in &records {
            if length >= bytes || record.length as usize > MAX_ENTRY {
                break;
            }
            length += 4 + record.length as usize;
            taken += 1;
        }
        let whole = length >= bytes || first + taken as u64 == end;
        let (Some(head), Some(tail), true) = (records.first(), records.get(taken.wrapping_sub(1)), whole) else {
            return run_of(self, first, end, bytes);
        };
        let (segment, at) = self.segments.place(*head);
        let span = (tail.at + u64::from(tail.length)).checked_sub(head.at);
        let span = span.filter(|span| *span == (length - 4 * taken) as u64 && tail.at / self.segments.bytes == segment);
        // What is not in the files yet is in memory.
        let span = span.filter(|span| segment != self.tail.segment || at + span <= self.in_memory_from());
        let Some(span) = span else { return run_of(self, first, end, bytes) };
        let mut held = vec![0; span as usize];
        if !self.segments.fill(segment, &mut held, at) {
            return None;
        }
        let (mut run, mut rest) = (Vec::with_capacity(length), &held[..]);
        for record in &records[..taken] {
            let (entry, later) = rest.split_at_checked(record.length as usize)?;
            if checksum(entry) != record.checksum {
                return run_of(self, first, end, bytes);
            }
            run.extend_from_slice(&record.length.to_le_bytes());
            run.extend_from_slice(entry);
            rest = later;
        }
        Some((run, taken as u64))
    }
}

impl NodeHashes for FileStore {
    fn node(&self, level: u8, index: u64) -> Option<Digest> {
        let position = node_position(level, index)?;
        let written = node_count(self.tail.written);
        let mut node = Digest::NULL;
        match position.checked_sub(written) {
            Some(buffered) => {
                let start = usize::try_from(buffered).ok()?.checked_mul(NODE_BYTES)?;
                node.0.copy_from_slice(self.tail.nodes.get(start..start.checked_add(NODE_BYTES)?)?);
            }
            None => self.nodes.read_exact_at(&mut node.0, node_offset(position)).ok()?,
        }
        Some(node)
    }
}

impl EntryStore for FileStore {
    fn append(&mut self, entry: &[u8], time_ms: TimeMs, nodes: &[Digest]) -> Result<EntryIndex, StoreError> {
        self.staged = None;
        let index = self.size();
        self.at_tail(|store, tail| {
            store.add(tail, entry, time_ms, nodes)?;
            if tail.held() >= FLUSH_BYTES { store.write_behind(tail) } else { Ok(()) }
        })?;
        Ok(index)
    }

    /// With one read where all are written: between two leaves there are few other nodes.
    fn leaf_hashes(&self, first: EntryIndex, count: u64) -> Vec<Digest> {
        let end = first.saturating_add(count).min(self.tail.written);
        if first >= end {
            return (first..first.saturating_add(count)).map_while(|index| self.node(0, index)).collect();
        }
        let start = node_count(first);
        let mut bytes = vec![0; (node_count(end) - start) as usize * NODE_BYTES];
        if self.nodes.read_exact_at(&mut bytes, node_offset(start)).is_err() {
            return Vec::new();
        }
        let nodes = bytes.as_chunks::<NODE_BYTES>().0;
        (first..end)
            .map_while(|index| nodes.get((node_count(index) - start) as usize).map(|node| Digest(*node)))
            .collect()
    }

    fn hold_nodes(&mut self, edge: &HistoryTree) -> Result<bool, StoreError> {
        self.flush()?;
        if self.nodes_hold(edge) {
            return Ok(false);
        }
        self.make_nodes(edge)?;
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.segments.let_go();
        self.at_tail(Self::write)
    }

    fn stage(&mut self, entry: &[u8], time_ms: TimeMs, nodes: &[Digest]) -> Result<(), StoreError> {
        self.flush()?;
        let mut staged = self.staged.take().unwrap_or_else(|| self.tail.clone());
        let mut result = self.add(&mut staged, entry, time_ms, nodes);
        if result.is_ok() && staged.held() >= FLUSH_BYTES {
            result = self.write(&mut staged);
        }
        self.staged = Some(staged);
        result
    }

    fn staged(&self) -> EntryIndex {
        self.staged.as_ref().unwrap_or(&self.tail).size()
    }

    fn unstage(&mut self) {
        self.staged = None;
    }

    fn adopt(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        let Some(mut staged) = self.staged.take() else { return Ok(()) };
        self.write(&mut staged)?;
        self.tail = staged;
        Ok(())
    }

    fn left_behind(&self, index: EntryIndex) -> Option<Vec<u8>> {
        self.segments.entry(self.read_record(index)?)
    }

    fn written_files(&mut self) -> Result<Vec<PathBuf>, StoreError> {
        self.flush()?;
        if let Some(mut staged) = self.staged.take() {
            let written = self.write(&mut staged);
            self.staged = Some(staged);
            written?;
        }
        let Some(first) = self.unsynced.take() else { return Ok(Vec::new()) };
        let last = self.tail.segment.max(self.staged.as_ref().map_or(0, |staged| staged.segment));
        let segments = (first..=last).map(|segment| segment_path(&self.segments.directory, segment));
        Ok(segments
            .chain(["index", "nodes"].map(|file| self.segments.directory.join(file)))
            .chain([self.segments.directory.clone()])
            .collect())
    }
}

/// Fills as much of `bytes` as the file has from `at` on.
fn read_at_most(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}
