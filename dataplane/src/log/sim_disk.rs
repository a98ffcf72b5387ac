//! The simulator's disk: in memory, seeded, and it forgets what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::device::{ANCHOR, Device, SYNCED_TO, Write, segment_name};
use super::error::LogError;
use super::format::{BLOCK, segment_header};
use crate::types::Digest;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// How a simulated machine goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// kill -9: the page cache survives; a direct write in flight may have reached any of its sectors.
    Kill,
    /// Power cut: of everything not synced any subset of sectors survives.
    Power,
}

/// What becomes of a write that the disk acknowledges all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Astray {
    /// It is not done.
    Lost,
    /// It is done at another block, which the number chooses, and not where it belongs.
    Misdirected(u64),
}

/// A file: what a process sees, what the disk holds, and the sectors between the two in the order of writing.
struct File {
    seen: Arc<[u8]>,
    disk: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl File {
    fn durable(bytes: Vec<u8>) -> Self {
        Self { seen: bytes.clone().into(), disk: bytes, unsynced: Vec::new() }
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        put(Arc::make_mut(&mut self.seen), at, bytes);
        for (i, sector) in bytes.chunks(SECTOR).enumerate() {
            self.unsynced.push((at + i * SECTOR, sector.to_vec()));
        }
    }

    fn sync(&mut self) {
        for (at, sector) in self.unsynced.drain(..) {
            put(&mut self.disk, at, &sector);
        }
    }

    fn crash(&mut self, keep: &mut impl FnMut() -> bool) {
        for (at, sector) in self.unsynced.drain(..) {
            if keep() {
                put(&mut self.disk, at, &sector);
            }
        }
        self.seen = self.disk.clone().into();
    }

    /// Changes a bit under whoever uses the file, and nothing else.
    fn flip(&mut self, place: u64, bit: u64) {
        let used = self.disk.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let at = place as usize % used;
        for bytes in [self.disk.as_mut_slice(), Arc::make_mut(&mut self.seen)] {
            bytes[at] ^= 1 << bit;
        }
    }

    fn tamper(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.disk);
        self.seen = self.disk.clone().into();
        self.unsynced.clear();
    }
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = file.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

/// A disk for one log. The same seed and calls give the same disk.
pub struct SimDisk {
    genesis: Digest,
    segment_bytes: u32,
    random: u64,
    segments: BTreeMap<u32, File>,
    synced_to: Option<File>,
    anchor: Option<Vec<u8>>,
    /// The anchor that is to be, and the first segment that stays then.
    truncating: Option<(u32, Vec<u8>)>,
    in_flight: Option<(u32, usize)>,
    max_segments: u32,
    fail_sync: bool,
    fail_truncation: bool,
    skip_sync: bool,
    slow_segments: bool,
    unreadable: bool,
    astray: Option<Astray>,
    /// Writes that were acknowledged and are not where they belong.
    pub strayed: u64,
    /// Writes that were reported durable.
    pub syncs: u64,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64, genesis: Digest, segment_bytes: u32) -> Self {
        Self {
            genesis,
            segment_bytes,
            random: seed,
            segments: BTreeMap::new(),
            synced_to: None,
            anchor: None,
            truncating: None,
            in_flight: None,
            max_segments: u32::MAX,
            fail_sync: false,
            fail_truncation: false,
            skip_sync: false,
            slow_segments: false,
            unreadable: false,
            astray: None,
            strayed: 0,
            syncs: 0,
        }
    }

    /// The machine or the process goes down; take the disk out of the log first.
    pub fn crash(&mut self, how: Crash) {
        let mut random = self.random;
        let in_flight = self.in_flight.take();
        let mut keep = || next(&mut random) & 1 == 1;
        for (&segment, file) in &mut self.segments {
            // A write that the process had not seen complete may be half done even when the machine lives on.
            let torn = how == Crash::Power || in_flight.is_some_and(|(flying, _)| flying == segment);
            if torn { file.crash(&mut keep) } else { file.sync() }
        }
        if let Some(file) = &mut self.synced_to {
            if how == Crash::Power { file.crash(&mut keep) } else { file.sync() }
        }
        // Once the new anchor is there, any of the files below may be gone.
        if let Some((first, anchor)) = self.truncating.take().filter(|_| keep()) {
            self.anchor = Some(anchor);
            self.segments.retain(|segment, _| *segment >= first || keep());
        }
        self.random = random;
        self.fail_sync = false;
        self.astray = None;
    }

    /// The next write to complete fails.
    pub fn fail_next_sync(&mut self) {
        self.fail_sync = true;
    }

    /// The next truncation fails for want of room, or the one under way.
    pub fn fail_next_truncation(&mut self) {
        self.fail_truncation = true;
    }

    /// From now on reports writes complete without making them durable: what a build without its sync does.
    pub fn skip_syncs(&mut self, skip: bool) {
        self.skip_sync = skip;
    }

    /// The disk holds no more than this many segments.
    pub fn limit_segments(&mut self, segments: u32) {
        self.max_segments = segments;
    }

    /// Segments are not ready when first asked for, as with a slow disk.
    pub fn slow_segments(&mut self, slow: bool) {
        self.slow_segments = slow;
    }

    /// Bytes that the disk has room for; all ones where nothing limits them.
    pub fn free_bytes(&self) -> u64 {
        let free = self.max_segments.saturating_sub(self.segments.len() as u32);
        if self.max_segments == u32::MAX { u64::MAX } else { u64::from(free) * u64::from(self.segment_bytes) }
    }

    /// From now on nothing can be read, or everything can be read again.
    pub fn set_unreadable(&mut self, unreadable: bool) {
        self.unreadable = unreadable;
    }

    /// Whether it cannot be read, or has not room for everything.
    pub fn is_short(&self) -> bool {
        self.unreadable || self.max_segments < u32::MAX
    }

    /// Whether nothing can be read.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// The next write is acknowledged and goes astray.
    pub fn lead_astray(&mut self, how: Astray) {
        self.astray = Some(how);
    }

    /// From now on the disk does what it should: it can be read, has room, and takes writes.
    pub fn clear_faults(&mut self) {
        self.fail_sync = false;
        self.unreadable = false;
        self.astray = None;
        self.max_segments = u32::MAX;
    }

    /// The bytes of a segment that a power cut at this instant would leave.
    pub fn durable(&self, segment: u32) -> Option<&[u8]> {
        self.segments.get(&segment).map(|file| file.disk.as_slice())
    }

    /// The numbers of the segments on the disk.
    pub fn segment_numbers(&self) -> Vec<u32> {
        self.segments.keys().copied().collect()
    }

    /// Changes a segment's bytes on the disk: bit rot, truncation.
    pub fn tamper(&mut self, segment: u32, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(file) = self.segments.get_mut(&segment) {
            file.tamper(change);
        }
    }

    /// Changes `synced_to` on the disk.
    pub fn tamper_synced_to(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(file) = &mut self.synced_to {
            file.tamper(change);
        }
    }

    /// All that a power cut at this instant would leave, as a disk of its own.
    pub fn copy(&self) -> Self {
        let file = |file: &File| File::durable(file.disk.clone());
        Self {
            segments: self.segments.iter().map(|(number, segment)| (*number, file(segment))).collect(),
            synced_to: self.synced_to.as_ref().map(file),
            anchor: self.anchor.clone(),
            truncating: None,
            in_flight: None,
            fail_sync: false,
            ..*self
        }
    }

    /// The disk holds nothing any more.
    pub fn wipe(&mut self) {
        self.segments.clear();
        self.synced_to = None;
        self.anchor = None;
        self.truncating = None;
        self.in_flight = None;
        self.clear_faults();
    }

    /// One bit of what was written becomes another, under whoever uses the disk: of a segment, or in one of eight cases of
    /// `synced_to` or, where there is one, of the anchor.
    pub fn flip(&mut self, place: u64, bit: u64) {
        if place.is_multiple_of(16)
            && let Some(anchor) = &mut self.anchor
        {
            let length = anchor.len().max(1);
            if let Some(byte) = anchor.get_mut((place / 64) as usize % length) {
                *byte ^= 1 << bit;
            }
            return;
        }
        let segment = (place / 8) as usize % self.segments.len().max(1);
        let file = match self.segments.values_mut().nth(segment) {
            Some(segment) if !place.is_multiple_of(8) => Some(segment),
            _ => self.synced_to.as_mut(),
        };
        if let Some(file) = file {
            file.flip(place / 64, bit);
        }
    }

    /// Removes a segment.
    pub fn remove(&mut self, segment: u32) {
        self.segments.remove(&segment);
    }

    /// Removes `synced_to`.
    pub fn remove_synced_to(&mut self) {
        self.synced_to = None;
    }

    /// Changes the anchor on the disk.
    pub fn tamper_anchor(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(anchor) = &mut self.anchor {
            change(anchor);
        }
    }

    /// Removes the anchor.
    pub fn remove_anchor(&mut self) {
        self.anchor = None;
    }

    /// All that the disk holds, by file: to compare.
    pub fn content(&self) -> Vec<(String, Vec<u8>)> {
        let segments = self.segments.iter().map(|(n, file)| (segment_name(*n), file.disk.clone()));
        let synced = self.synced_to.iter().map(|file| (SYNCED_TO.to_owned(), file.disk.clone()));
        let anchor = self.anchor.iter().map(|anchor| (ANCHOR.to_owned(), anchor.clone()));
        segments.chain(synced).chain(anchor).collect()
    }

    /// The truncation that was begun is through.
    fn finish_truncating(&mut self) {
        if let Some((first, anchor)) = self.truncating.take() {
            self.anchor = Some(anchor);
            self.segments = self.segments.split_off(&first);
        }
    }

    /// Where a write lands that was to go to `(segment, offset)`, `length` bytes long: at another block of what was written, or of
    /// all that there is, in any segment.
    fn elsewhere(&self, place: u64, segment: u32, offset: usize, length: usize) -> (u32, usize) {
        let number = (place / 2) as usize % self.segments.len().max(1);
        let Some((&target, file)) = self.segments.iter().nth(number) else { return (segment, offset) };
        let used = file.seen.iter().rposition(|byte| *byte != 0).map_or(1, |last| last / BLOCK + 1);
        let last = (file.seen.len() - length.min(file.seen.len())) / BLOCK;
        let blocks = if place.is_multiple_of(2) { used.min(last + 1) } else { last + 1 };
        let at = (place / 64) as usize % blocks * BLOCK;
        if (target, at) == (segment, offset) { (target, (at + BLOCK).min(last * BLOCK)) } else { (target, at) }
    }

    fn read(&self, file: &str) -> Result<(), LogError> {
        if !self.unreadable {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(libc::EIO);
        Err(LogError::Io { file: self.path(file), doing: "read", source })
    }

    fn file(&mut self, segment: u32) -> Result<&mut File, LogError> {
        let file = self.path(&segment_name(segment));
        self.segments.get_mut(&segment).ok_or(LogError::Missing { file })
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Device for SimDisk {
    type Map = Arc<[u8]>;

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from("simulated/log").join(file)
    }

    fn segments(&mut self) -> Result<Vec<u32>, LogError> {
        // An earlier process that came to a clean end had the time.
        self.finish_truncating();
        Ok(self.segment_numbers())
    }

    fn map(&mut self, segment: u32) -> Result<Self::Map, LogError> {
        self.read(&segment_name(segment))?;
        self.file(segment).map(|file| Arc::clone(&file.seen))
    }

    fn load_synced(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        self.read(SYNCED_TO)?;
        Ok(self.synced_to.as_ref().map(|file| file.seen.to_vec()))
    }

    fn create_synced(&mut self, image: &[u8]) -> Result<(), LogError> {
        self.synced_to = Some(File::durable(image.to_vec()));
        Ok(())
    }

    fn load_anchor(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        Ok(self.anchor.clone())
    }

    fn truncate(&mut self, first: u32, anchor: &[u8]) -> Result<(), LogError> {
        if let Some(file) = &mut self.synced_to {
            file.sync();
        }
        self.truncating = Some((first, anchor.to_vec()));
        Ok(())
    }

    fn truncated(&mut self) -> Option<Result<(), LogError>> {
        if std::mem::take(&mut self.fail_truncation) {
            self.truncating = None;
            return Some(Err(LogError::NoSpace { dir: self.path(""), needed: 0, free: 0 }));
        }
        let is_through = self.truncating.is_none() || next(&mut self.random) & 1 == 1;
        is_through.then(|| {
            self.finish_truncating();
            Ok(())
        })
    }

    fn publish(&mut self, at: usize, slot: &[u8]) -> Result<(), LogError> {
        let file = self.path(SYNCED_TO);
        self.synced_to.as_mut().ok_or(LogError::Missing { file })?.write(at, slot);
        Ok(())
    }

    fn settle(&mut self, segment: u32) -> Result<(), LogError> {
        self.file(segment)?.sync();
        Ok(())
    }

    fn zero(&mut self, segment: u32, from: u32) -> Result<(), LogError> {
        let file = self.file(segment)?;
        file.sync();
        file.tamper(|bytes| bytes.iter_mut().skip(from as usize).for_each(|byte| *byte = 0));
        Ok(())
    }

    fn prepare(&mut self, segment: u32, wait: bool) -> Result<bool, LogError> {
        if self.segments.contains_key(&segment) {
            return Ok(true);
        }
        if self.segments.len() as u32 >= self.max_segments {
            let needed = u64::from(self.segment_bytes);
            return Err(LogError::NoSpace { dir: self.path(""), needed, free: 0 });
        }
        let header = segment_header(self.genesis, segment, u64::from(self.segment_bytes));
        let mut bytes = vec![0; self.segment_bytes as usize];
        bytes[..BLOCK].copy_from_slice(&header);
        self.segments.insert(segment, File::durable(bytes));
        Ok(wait || !self.slow_segments)
    }

    unsafe fn submit(&mut self, write: &Write, bytes: &[u8]) -> io::Result<()> {
        let mut place = (write.segment, write.offset as usize);
        let astray = self.astray.take();
        self.strayed += u64::from(astray.is_some());
        if let Some(Astray::Misdirected(to)) = astray {
            place = self.elsewhere(to, place.0, place.1, bytes.len());
        }
        let file = self.segments.get_mut(&place.0).ok_or(io::ErrorKind::NotFound)?;
        if astray != Some(Astray::Lost) {
            file.write(place.1, bytes);
        }
        self.in_flight = Some((place.0, bytes.len()));
        Ok(())
    }

    fn wait(&mut self) -> io::Result<usize> {
        let (segment, written) = self.in_flight.ok_or(io::ErrorKind::InvalidInput)?;
        if std::mem::take(&mut self.fail_sync) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.in_flight = None;
        self.syncs += 1;
        if !self.skip_sync {
            self.segments.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?.sync();
        }
        Ok(written)
    }
}
