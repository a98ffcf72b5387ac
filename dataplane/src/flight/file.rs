//! Recordings in files: the one that is kept up to date while the replica runs, and those that are written out.
//!
//! # The file
//! Little-endian words of 64 bits; all sizes in bytes.
//!
//! ```text
//! word  0  magic "ATLSFLIT"              8  when it was written, us since 1970; 0 in the file of a running replica
//!       1  layout version, 2             9  bytes of the reason
//!       2  length of the file           10  XXH3-64 of all behind the header; 0 in the file of a running replica
//!       3  pid                          11  0
//!       4  replica's index              12  0
//!       5  wall clock at time 0, us     13  0
//!       6  rings, at most 16            14  0
//!       7  why it was written           15  XXH3-64 of words 0 to 7
//! rings from byte 128, 64 bytes each: name (16 bytes, zeros behind it), capacity in events (a power of two), place of the events in
//!       the file, events begun, events done, 0, 0
//! reason: 512 bytes of UTF-8, zeros behind it
//! clock: 512 bytes, pairs of words: from this time of the events on, us, the wall clock's time 0 is that, us since 1970; zeros behind
//!       them. It was set, or has drifted by 20 ms.
//! events of each ring: 32 bytes each, number i at place i modulo the capacity: time in us << 16 | kind, three words
//!       (`crate::flight::event`); a first word of 0: no event
//! ```
//!
//! The running replica's file (`flight`) is written in place: first the number of events that are begun, then the events, then the
//! number of those that are done. A reader reads the numbers that are begun once more when it has read all else, and takes those events
//! that nothing was begun over; it tries again where that leaves none. Other files are written whole beside their names, then
//! renamed.
//!
//! # How many are kept
//! [`KEPT`] that were asked for and [`KEPT`] others (panics, errors, processes that were killed), the newest of each: asking for one never
//! takes away what a crash left.
//!
//! # Who reads them
//! [`Recording::open`]. A file of another layout, a short, long or damaged one is refused with what is wrong; nothing is taken on trust.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::clock::{Clock, MAX_STEPS};
use super::{Event, Flight, MAX_RINGS, Ring, flight, wall_us};

/// The first word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ATLSFLIT");

/// The layout that this program writes and reads.
pub const LAYOUT: u64 = 2;

/// The name of the running replica's file in its run directory.
pub const LIVE: &str = "flight";

/// Recordings of each sort that are kept.
pub const KEPT: usize = 8;

/// The largest ring of a file, events: twice what this program writes.
const MAX_CAPACITY: u64 = 1 << 17;

/// The longest file that is read, bytes: three times what this program writes. What is read of one takes some ten times as much memory.
pub const MAX_FILE: u64 = 8 << 20;

/// How often a running replica's file is read where all of a ring was written over meanwhile.
const READS: usize = 5;

const HEADER: usize = 128;
const TABLE_ROW: usize = 64;
const REASON: usize = 512;
const CLOCK: usize = 16 * MAX_STEPS;
const EVENT: usize = 32;

/// Names in a directory that are looked at.
const MAX_NAMES: usize = 4_096;

/// Why a recording was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Why {
    /// The replica runs, or was killed.
    Running = 0,
    /// Somebody asked.
    Asked = 1,
    /// A thread panicked.
    Panic = 2,
    /// The replica ended with an error.
    Error = 3,
}

impl Why {
    const ALL: [Self; 4] = [Self::Running, Self::Asked, Self::Panic, Self::Error];

    /// Its name.
    pub fn name(self) -> &'static str {
        ["running", "asked", "panic", "error"][self as usize]
    }
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This process records nothing.
    #[error("this process has no flight recorder")]
    None,
    /// It is something else.
    #[error("{} is no recording of a replica", .0.display())]
    Magic(PathBuf),
    /// Another version of the layout.
    #[error("{} has layout {found}, and this program reads layout {LAYOUT}: use the `atlas` that the replica ran", file.display())]
    Layout {
        /// The file.
        file: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// It is not what it states.
    #[error("{} is damaged: {what}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// The bytes of header, table and reason; where each ring's events begin, and the length of the whole.
fn front(flight: &Flight, rings: &[&Ring], why: Why, reason: &str) -> (Vec<u8>, u64) {
    let clock = flight.look_at_clock();
    let events = HEADER + rings.len() * TABLE_ROW + REASON + CLOCK;
    let length = events + rings.iter().map(|ring| ring.capacity() * EVENT).sum::<usize>();
    let mut cut = reason.len().min(REASON);
    while !reason.is_char_boundary(cut) {
        cut -= 1;
    }
    let written = if why == Why::Running { 0 } else { wall_us() };
    let fixed = [
        MAGIC,
        LAYOUT,
        length as u64,
        u64::from(std::process::id()),
        flight.replica,
        clock.epoch_us,
        rings.len() as u64,
        why as u64,
    ];
    let mut bytes = bytes_of(&fixed);
    let checksum = xxh3_64(&bytes);
    bytes.extend(bytes_of(&[written, cut as u64, 0, 0, 0, 0, 0, checksum]));
    let mut place = events;
    for ring in rings {
        let mut name = [0; 16];
        let long = ring.name().len().min(name.len());
        name[..long].copy_from_slice(&ring.name().as_bytes()[..long]);
        bytes.extend(name);
        bytes.extend(bytes_of(&[ring.capacity() as u64, place as u64, 0, 0, 0, 0]));
        place += ring.capacity() * EVENT;
    }
    bytes.extend(&reason.as_bytes()[..cut]);
    bytes.resize(events - CLOCK, 0);
    bytes.extend(clock_bytes(&clock));
    (bytes, length as u64)
}

fn clock_bytes(clock: &Clock) -> Vec<u8> {
    let mut bytes = bytes_of(&clock.steps.iter().flat_map(|(at, epoch)| [*at, *epoch]).collect::<Vec<_>>());
    bytes.resize(CLOCK, 0);
    bytes
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

static DUMPING: Mutex<()> = Mutex::new(());
static FAILED: AtomicBool = AtomicBool::new(false);

/// Writes all rings of this process to a new file in `dir`; gives its path. The file is whole or not there.
///
/// # Errors
/// [`RecordingError::None`], [`RecordingError::Write`].
pub fn dump(dir: &Path, why: Why, reason: &str) -> Result<PathBuf, RecordingError> {
    // Several threads may end at once: each has a file of its own.
    let _one_by_one = DUMPING.lock().unwrap_or_else(PoisonError::into_inner);
    let written = dump_alone(dir, why, reason);
    FAILED.fetch_or(written.is_err(), Ordering::Relaxed);
    written
}

/// Whether a recording was to be written and could not be: then the live file is what there is.
pub fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

fn dump_alone(dir: &Path, why: Why, reason: &str) -> Result<PathBuf, RecordingError> {
    let flight = flight().ok_or(RecordingError::None)?;
    let rings = flight.rings();
    let (mut bytes, length) = front(flight, &rings, why, reason);
    let events = bytes.len();
    bytes.resize(length as usize, 0);
    let mut place = events;
    for (row, ring) in rings.iter().enumerate() {
        let mut words = Vec::with_capacity(ring.capacity());
        let first = ring.read(0, &mut words);
        let done = first + words.len() as u64;
        for (number, event) in (first..).zip(&words) {
            let at = place + (number as usize & (ring.capacity() - 1)) * EVENT;
            bytes[at..at + EVENT].copy_from_slice(&bytes_of(event));
        }
        // Nothing is begun over what stands here.
        let at = HEADER + row * TABLE_ROW + 32;
        bytes[at..at + 16].copy_from_slice(&bytes_of(&[done, done]));
        place += ring.capacity() * EVENT;
    }
    let checksum = xxh3_64(&bytes[HEADER..]);
    bytes[80..88].copy_from_slice(&checksum.to_le_bytes());
    let path = free_name(dir, why.name(), wall_us());
    let mut new = path.clone().into_os_string();
    new.push(".new");
    let failed = |source| RecordingError::Write { file: path.clone(), source };
    // One that an earlier process did not finish is in nobody's way.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| fs::rename(&new, &path)).map_err(|source| {
        let _ = fs::remove_file(&new);
        failed(source)
    })?;
    prune(dir);
    Ok(path)
}

/// `flight-20261122T060102.345Z-asked`, with a number behind it where there is one already.
fn free_name(dir: &Path, why: &str, at_us: u64) -> PathBuf {
    let time = jiff::Timestamp::from_microsecond(i64::try_from(at_us).unwrap_or(0)).unwrap_or_default();
    let time = time.strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    let name = |more: &str| dir.join(format!("{LIVE}-{time}{more}-{why}"));
    let mut all = std::iter::once(name("")).chain((1..100).map(|number| name(&format!("-{number}"))));
    all.find(|path| !path.exists()).unwrap_or_else(|| name("-100"))
}

/// Removes the oldest beyond [`KEPT`] of each sort. Names begin with the time, so their order is that of time.
fn prune(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let names = entries.take(MAX_NAMES).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let of_ours = |name: &String| name.starts_with("flight-") && name.contains("Z");
    let mut names: Vec<String> = names.filter(of_ours).collect();
    names.sort_unstable();
    let (asked, others): (Vec<String>, Vec<String>) = names.into_iter().partition(|name| name.ends_with("-asked"));
    for sort in [asked, others] {
        let old = sort.len().saturating_sub(KEPT);
        for name in &sort[..old] {
            // What cannot be removed now is tried again with the next.
            let _ = fs::remove_file(dir.join(name));
        }
    }
}

/// The file that is kept up to date; by one thread that is not the replica's.
#[derive(Debug)]
pub struct Mirror {
    file: File,
    rings: Vec<(&'static Ring, u64)>,
    path: PathBuf,
    first_event: u64,
    /// What the file says of the wall clock.
    clock: Option<Clock>,
}

impl Mirror {
    /// Makes the file in `dir` for the rings that there are now. That of an earlier process that did not end well is kept under another
    /// name, which is given.
    ///
    /// # Errors
    /// [`RecordingError::None`], [`RecordingError::Write`].
    pub fn create(dir: &Path) -> Result<(Self, Option<PathBuf>), RecordingError> {
        let flight = flight().ok_or(RecordingError::None)?;
        let path = dir.join(LIVE);
        let failed = |source| RecordingError::Write { file: path.clone(), source };
        let kept = keep_old(dir, &path).map_err(failed)?;
        let rings = flight.rings();
        let (mut bytes, length) = front(flight, &rings, Why::Running, "");
        let first_event = bytes.len() as u64;
        // All blocks are there from the start: later writes find their place, also on a disk that is full.
        bytes.resize(length as usize, 0);
        let new = path.with_extension("new");
        let make = || {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o640).open(&new)?;
            file.write_all(&bytes)?;
            fs::rename(&new, &path)?;
            Ok(file)
        };
        let file = make().map_err(failed)?;
        let rings = rings.into_iter().map(|ring| (ring, 0)).collect();
        let mut mirror = Self { file, rings, path: path.clone(), first_event, clock: None };
        mirror.refresh()?;
        Ok((mirror, kept))
    }

    /// Copies what is new.
    ///
    /// # Errors
    /// [`RecordingError::Write`]; the next call tries again.
    pub fn refresh(&mut self) -> Result<(), RecordingError> {
        let failed = |source| RecordingError::Write { file: self.path.clone(), source };
        if let Some(clock) = flight().map(Flight::look_at_clock).filter(|clock| self.clock.as_ref() != Some(clock)) {
            self.file.write_all_at(&clock_bytes(&clock), self.first_event - CLOCK as u64).map_err(failed)?;
            self.clock = Some(clock);
        }
        let mut place = self.first_event;
        let mut words = Vec::new();
        for (row, (ring, next)) in self.rings.iter_mut().enumerate() {
            let capacity = ring.capacity() as u64;
            words.clear();
            let first = ring.read(*next, &mut words);
            // What was stored over before it could be copied is no event there.
            let missed = (first - *next).min(capacity - words.len() as u64);
            let first = first - missed;
            words.splice(0..0, std::iter::repeat_n([0; 4], missed as usize));
            let done = first + words.len() as u64;
            let counts = (HEADER + row * TABLE_ROW + 32) as u64;
            let write = |file: &File| {
                if words.is_empty() {
                    return Ok(());
                }
                file.write_all_at(&done.to_le_bytes(), counts)?;
                let start = (first % capacity) as usize;
                let (before, behind) = words.split_at(words.len().min(capacity as usize - start));
                for (events, at) in [(before, start), (behind, 0)].into_iter().filter(|(events, _)| !events.is_empty())
                {
                    let bytes: Vec<u8> = events.iter().flat_map(|event| bytes_of(event)).collect();
                    file.write_all_at(&bytes, place + (at * EVENT) as u64)?;
                }
                file.write_all_at(&done.to_le_bytes(), counts + 8)
            };
            write(&self.file).map_err(|source| RecordingError::Write { file: self.path.clone(), source })?;
            *next = done;
            place += capacity * EVENT as u64;
        }
        Ok(())
    }
}

/// Keeps the file of a process that did not remove it.
fn keep_old(dir: &Path, path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    // By the time when that process began; where that cannot be read, by the present.
    let began = Recording::open(path).map_or_else(|_| wall_us(), |old| old.clock.epoch_us);
    let kept = free_name(dir, "killed", began);
    fs::rename(path, &kept)?;
    prune(dir);
    Ok(Some(kept))
}

/// A thread's part of a recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Track {
    /// The thread.
    pub name: String,
    /// Events that were noted before the first here.
    pub before: u64,
    /// The events in the order in which they were noted.
    pub events: Vec<Event>,
}

/// What a file holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recording {
    /// Pid of the replica.
    pub pid: u64,
    /// Its index.
    pub replica: u64,
    /// What the wall clock said.
    pub clock: Clock,
    /// When it was written, us since 1970; none of a replica that runs or was killed.
    pub written_us: Option<u64>,
    /// Why it was written.
    pub why: Why,
    /// More about that.
    pub reason: String,
    /// Its threads.
    pub tracks: Vec<Track>,
}

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let read = |source| RecordingError::Read { file: path.to_owned(), source };
        // A pipe without a writer would never open.
        let metadata = fs::metadata(path).map_err(read)?;
        if !metadata.is_file() {
            return Err(RecordingError::Magic(path.to_owned()));
        }
        let mut left = READS;
        loop {
            left -= 1;
            let file = File::open(path).map_err(read)?;
            let mut bytes = Vec::new();
            (&file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(read)?;
            // What a killed replica left, or one that runs writes meanwhile.
            let is_whole = overtaken(&mut bytes, &file).map_err(read)?;
            if is_whole || left == 0 {
                return Self::parse(&bytes, path);
            }
        }
    }

    /// What the bytes of a file hold; its path is for the error.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self, RecordingError> {
        Self::read(bytes).map_err(|fault| match fault {
            Fault::Magic => RecordingError::Magic(path.to_owned()),
            Fault::Layout(found) => RecordingError::Layout { file: path.to_owned(), found },
            Fault::Damaged(what) => RecordingError::Damaged { file: path.to_owned(), what },
        })
    }

    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let damaged = |what: &str| Err(Fault::Damaged(what.to_owned()));
        if words(bytes, 0, 1) != Some(vec![MAGIC]) {
            return Err(Fault::Magic);
        }
        let Some(head) = words(bytes, 0, HEADER / 8) else { return damaged("its header is short") };
        if head[1] != LAYOUT {
            return Err(Fault::Layout(head[1]));
        }
        if head[15] != xxh3_64(&bytes[..64]) {
            return damaged("its header does not have the checksum that it states");
        }
        if head[2] != bytes.len() as u64 || bytes.len() as u64 > MAX_FILE {
            return Err(Fault::Damaged(format!("it has {} bytes and states {}", bytes.len(), head[2])));
        }
        let Some(why) = Why::ALL.into_iter().find(|why| *why as u64 == head[7]) else {
            return damaged("nobody knows why it was written");
        };
        if why != Why::Running && head[10] != checksum(&bytes[HEADER..]) {
            return damaged("it does not have the checksum that it states");
        }
        if head[6] > MAX_RINGS as u64 {
            return Err(Fault::Damaged(format!("it states {} rings, there are {MAX_RINGS} at most", head[6])));
        }
        let rings = head[6] as usize;
        let running = why == Why::Running;
        let reason_at = HEADER + rings * TABLE_ROW;
        let clock = clock(bytes, reason_at + REASON, head[5], running)?;
        let Some(reason) = bytes.get(reason_at..reason_at + REASON) else { return damaged("its table is short") };
        let reason = reason.get(..head[9] as usize).and_then(|reason| std::str::from_utf8(reason).ok());
        let Some(reason) = reason else { return damaged("its reason is no text") };
        let mut tracks = Vec::new();
        let mut place = (reason_at + REASON + CLOCK) as u64;
        for row in 0..rings {
            tracks.push(track(bytes, HEADER + row * TABLE_ROW, &mut place, running)?);
        }
        if place != head[2] {
            return damaged("its parts do not make up its length");
        }
        Ok(Self {
            pid: head[3],
            replica: head[4],
            clock,
            written_us: Some(head[8]).filter(|_| !running),
            why,
            reason: reason.to_owned(),
            tracks,
        })
    }
}

enum Fault {
    Magic,
    Layout(u64),
    Damaged(String),
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(bytes);
    hasher.digest()
}

fn words(bytes: &[u8], at: usize, count: usize) -> Option<Vec<u64>> {
    let bytes = bytes.get(at..at.checked_add(count * 8)?)?;
    Some(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// What the wall clock said. While it is written it may be of two times: then what makes no sense is left out.
fn clock(bytes: &[u8], at: usize, epoch_us: u64, running: bool) -> Result<Clock, Fault> {
    let words = words(bytes, at, CLOCK / 8).ok_or_else(|| Fault::Damaged("its table is short".to_owned()))?;
    let pairs = words.as_chunks::<2>().0.iter().map(|[at, epoch]| (*at, *epoch));
    let mut steps: Vec<(u64, u64)> = pairs.take_while(|pair| *pair != (0, 0)).collect();
    if let Some(place) = steps.windows(2).position(|pair| pair[0].0 > pair[1].0) {
        if !running {
            return Err(Fault::Damaged("its times of the wall clock are not in order".to_owned()));
        }
        steps.truncate(place + 1);
    }
    Ok(Clock { epoch_us, steps })
}

/// Has the numbers of events that were begun while the bytes were read, where a running replica's file is read: what was written over
/// meanwhile is left out. False where nothing is left of a ring.
fn overtaken(bytes: &mut [u8], file: &File) -> io::Result<bool> {
    let Some(head) = words(bytes, 0, HEADER / 8).filter(|head| head[7] == Why::Running as u64) else { return Ok(true) };
    let mut is_whole = true;
    for row in 0..head[6].min(MAX_RINGS as u64) as usize {
        let at = HEADER + row * TABLE_ROW + 16;
        let Some([capacity, _, _, done]) = words(bytes, at, 4).and_then(|counts| <[u64; 4]>::try_from(counts).ok())
        else {
            break;
        };
        let mut begun = [0; 8];
        file.read_exact_at(&mut begun, at as u64 + 16)?;
        let most = done.saturating_add(capacity);
        let begun = u64::from_le_bytes(begun);
        is_whole &= begun < most || done == 0;
        bytes[at + 16..at + 24].copy_from_slice(&begun.min(most).to_le_bytes());
    }
    Ok(is_whole)
}

/// The ring of a row of the table, whose events begin at `place`.
fn track(bytes: &[u8], row: usize, place: &mut u64, running: bool) -> Result<Track, Fault> {
    let short = || Fault::Damaged("its table is short".to_owned());
    let name = bytes.get(row..row + 16).ok_or_else(short)?;
    let name = std::str::from_utf8(name).ok().map(|name| name.trim_end_matches('\0'));
    let name = name.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
    let name = name.ok_or_else(|| Fault::Damaged("a ring has no name".to_owned()))?.to_owned();
    let wrong = |what: String| Fault::Damaged(format!("ring {name}: {what}"));
    let counts = words(bytes, row + 16, 4).ok_or_else(short)?;
    let [capacity, stated, begun, done] = counts[..] else { return Err(short()) };
    if !capacity.is_power_of_two() || capacity > MAX_CAPACITY {
        return Err(wrong(format!("{capacity} events are no power of two up to {MAX_CAPACITY}")));
    }
    if stated != *place {
        return Err(wrong(format!("its events are said to be at byte {stated}, and are at {place}")));
    }
    // Before memory is taken for them.
    if *place + capacity * EVENT as u64 > bytes.len() as u64 {
        return Err(wrong(format!("its {capacity} events lie beyond the end")));
    }
    // Between two writes of a running replica's file the events that are being written are unknown.
    if begun < done || begun - done > capacity || (!running && begun != done) {
        return Err(wrong(format!("{done} events are done of {begun} that were begun")));
    }
    let first = begun.saturating_sub(capacity).min(done);
    let mut events = Vec::with_capacity((done - first) as usize);
    let mut before = first;
    for number in first..done {
        let at = *place as usize + (number & (capacity - 1)) as usize * EVENT;
        let event = words(bytes, at, 4).ok_or_else(|| wrong(format!("event {number} lies beyond the end")))?;
        let [a, b, c, d] = event[..] else { return Err(short()) };
        match Event::of_words([a, b, c, d]) {
            Ok(Some(event)) => events.push(event),
            Ok(None) => before += 1,
            Err(kind) => {
                let what = format!("event {number} is of kind {kind}, which this program does not know");
                return Err(wrong(what));
            }
        }
    }
    if let Some(pair) = events.windows(2).find(|pair| pair[0].at_us > pair[1].at_us) {
        return Err(wrong(format!("an event of {} us follows one of {} us", pair[1].at_us, pair[0].at_us)));
    }
    *place += capacity * EVENT as u64;
    Ok(Track { name, before, events })
}
