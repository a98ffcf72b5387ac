//! The metrics of a replica in a file that any program can read while the replica writes it.
//!
//! # The file
//! Little-endian words of 64 bits, then a table, then the values:
//!
//! ```text
//! word  0  magic "ATLSMETR"            6  time of the last round that was published here, ms since 1970
//!       1  layout version, 1           7  generation: odd while values are being stored
//!       2  length of the file, bytes   8  length of the table, bytes
//!       3  pid of the replica          9  XXH3-64 of the table
//!       4  replica's index            10  values
//!       5  start of the process, ms   11  0
//! table from byte 96: UTF-8, a line a series, seven fields with tabs between them:
//!       kind (counter, gauge, histogram), unit (-, seconds, bytes), name, label's name, label's value, values, help
//!       filled with zeros to a multiple of 8
//! values in the order of the table. Seconds are stored as microseconds. A histogram: its sum, then its buckets
//!       (`atlas_dataplane::histogram`: exact below 16 us, then 16 equal ones in each power of two)
//! ```
//!
//! # Who writes it
//! One thread of the management plane, by pwrite between two increments of the generation: who maps the file sees the same. The
//! replica's own thread never touches it. All its blocks are there from the start; a disk that fails or is full all the same is an error
//! of that thread, which tries again, and never a SIGBUS as it would be behind a mapping. The file is made beside its
//! name and renamed, so a reader finds a whole one or none; that of an earlier process stays until the next starts.
//!
//! # Who reads it
//! [`Reading::open`] reads the file like any other and maps nothing, so that one which is cut off while it is read is an error and not a
//! signal. It takes values of one even generation only. A file of another layout, a short or damaged one is refused with what is wrong.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use atlas_dataplane::replica::telemetry::{Board, Kind, Label, Series, Unit};
use rustix::fs::OFlags;
use xxhash_rust::xxh3::xxh3_64;

/// The first word of the file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ATLSMETR");

/// The layout that this program writes and reads.
pub const LAYOUT: u64 = 1;

/// The longest file that is read, bytes.
pub const MAX_FILE: u64 = 4 << 20;

const HEADER_WORDS: usize = 12;
const GENERATION: usize = 7;
const HEARTBEAT: usize = 6;

/// How often a reader tries for values of one generation.
const TRIES: usize = 1_000;

/// Why metrics cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MappedError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}; is the replica running, with its management plane?", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be made.
    #[error("cannot make {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, pipe, socket or device.
    #[error("{} is not a regular file; a replica's metrics are in one named `metrics` in its run directory", .0.display())]
    NoFile(PathBuf),
    /// It is something else.
    #[error("{} holds no metrics of a replica", .0.display())]
    Magic(PathBuf),
    /// Another version of the layout.
    #[error("{} has layout {found}, and this program reads layout {LAYOUT}: use the `atlas` that the replica runs", file.display())]
    Layout {
        /// The file.
        file: PathBuf,
        /// Its layout.
        found: u64,
    },
    /// It is too short, too long, or not what its checksum says.
    #[error("{} is damaged: {what}; it is made anew when the replica starts", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The writer was in the middle of it each time.
    #[error("{} never came to rest while it was read: its writer ended in the middle, or the host is very busy", .0.display())]
    Restless(PathBuf),
}

/// The writer's side.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    generation: u64,
    first_value: usize,
    values: usize,
}

impl Writer {
    /// Makes the file for a board, readable by everybody who may enter the directory.
    ///
    /// # Errors
    /// [`MappedError::Write`].
    pub fn create(path: &Path, board: &Board, replica: u64, start_ms: u64) -> Result<Self, MappedError> {
        let table = table(board.series());
        let values = board.values().len();
        let first_value = HEADER_WORDS + table.len() / 8;
        let length = (first_value + values) * 8;
        let header = [
            MAGIC,
            LAYOUT,
            length as u64,
            u64::from(std::process::id()),
            replica,
            start_ms,
            0,
            0,
            table.len() as u64,
            xxh3_64(&table),
            values as u64,
            0,
        ];
        let mut bytes: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend_from_slice(&table);
        bytes.resize(length, 0);
        let file = create(path, &bytes).map_err(|source| MappedError::Write { file: path.to_owned(), source })?;
        Ok(Self { file, path: path.to_owned(), generation: 0, first_value, values })
    }

    /// Stores the values of the board, and when the replica published them, ms.
    ///
    /// # Errors
    /// [`MappedError::Write`]; readers find the file restless until a later call succeeds.
    pub fn store(&mut self, values: &[u64], heartbeat_ms: u64) -> Result<(), MappedError> {
        let bytes: Vec<u8> = values.iter().take(self.values).flat_map(|value| value.to_le_bytes()).collect();
        let odd = self.generation | 1;
        let word = |place: usize, value: u64| self.file.write_all_at(&value.to_le_bytes(), place as u64 * 8);
        let write = || {
            word(GENERATION, odd)?;
            self.file.write_all_at(&bytes, self.first_value as u64 * 8)?;
            word(HEARTBEAT, heartbeat_ms)?;
            word(GENERATION, odd.wrapping_add(1))
        };
        write().map_err(|source| MappedError::Write { file: self.path.clone(), source })?;
        self.generation = odd.wrapping_add(1);
        Ok(())
    }
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o644).open(&new)?;
    // Whatever the umask of the process is: what everybody may ask at a socket stands in it.
    file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    // All blocks are there from the start: later writes find their place, also on a disk that is full.
    file.write_all_at(bytes, 0)?;
    std::fs::rename(&new, path)?;
    Ok(file)
}

fn table(series: &[Series]) -> Vec<u8> {
    let mut text = String::new();
    for series in series {
        let family = series.family;
        let label = match series.label {
            Label::None => String::new(),
            Label::Number(number) => number.to_string(),
            Label::Name(name) => name.to_owned(),
        };
        let fields = [kind_name(family.kind), unit_name(family.unit), family.name, family.label, &label];
        text += &format!("{}\t{}\t{}\n", fields.join("\t"), series.values(), family.help);
    }
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::None => "-",
        Unit::Seconds => "seconds",
        Unit::Bytes => "bytes",
    }
}

/// A series with its values, as a reader has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// The label's name and value.
    pub label: Option<(String, String)>,
    /// What it means.
    pub help: String,
    /// Its value; a histogram's sum and then its buckets. Seconds are in microseconds.
    pub values: Vec<u64>,
}

impl Measured {
    /// Every series of a board.
    pub fn of_board(board: &Board) -> Vec<Self> {
        let all = board.values();
        board.series().iter().map(|series| Self::of_series(series, &all)).collect()
    }

    fn of_series(series: &Series, all: &[u64]) -> Self {
        let family = series.family;
        let value = match series.label {
            Label::None => None,
            Label::Number(number) => Some(number.to_string()),
            Label::Name(name) => Some(name.to_owned()),
        };
        let values = all.get(series.first..series.first + series.values()).unwrap_or_default().to_vec();
        Self {
            name: family.name.to_owned(),
            kind: family.kind,
            unit: family.unit,
            label: value.map(|value| (family.label.to_owned(), value)),
            help: family.help.to_owned(),
            values,
        }
    }

    /// The value of a counter or gauge; the sum of a histogram.
    pub fn value(&self) -> u64 {
        self.values.first().copied().unwrap_or(0)
    }

    /// The buckets of a histogram.
    pub fn buckets(&self) -> &[u64] {
        self.values.get(1..).unwrap_or_default()
    }
}

/// What a file held at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Pid of the replica.
    pub pid: u64,
    /// Its index.
    pub replica: u64,
    /// When its process started, ms since 1970.
    pub start_ms: u64,
    /// When its thread last published what is here, ms since 1970.
    pub heartbeat_ms: u64,
    /// Every series.
    pub series: Vec<Measured>,
}

impl Reading {
    /// Reads a file.
    ///
    /// # Errors
    /// [`MappedError`].
    pub fn open(path: &Path) -> Result<Self, MappedError> {
        let read = |source| MappedError::Read { file: path.to_owned(), source };
        let damaged = |what| MappedError::Damaged { file: path.to_owned(), what };
        // Without O_NONBLOCK a pipe that nobody writes to would be waited for.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        let length = metadata.len();
        if !metadata.is_file() {
            return Err(MappedError::NoFile(path.to_owned()));
        }
        let head = words(&file, 0, HEADER_WORDS.min(length as usize / 8)).map_err(read)?;
        if head.first() != Some(&MAGIC) {
            return Err(MappedError::Magic(path.to_owned()));
        }
        let [_, layout, stated, pid, replica, start_ms, _, _, table_bytes, checksum, values, _] = head[..] else {
            return Err(damaged("its header is short"));
        };
        if layout != LAYOUT {
            return Err(MappedError::Layout { file: path.to_owned(), found: layout });
        }
        if length > MAX_FILE || stated != length {
            return Err(damaged("it has not the length that it states"));
        }
        let parts = table_bytes.checked_add(values.saturating_mul(8)).and_then(|sum| sum.checked_add(96));
        if parts != Some(length) || table_bytes % 8 != 0 {
            return Err(damaged("its parts do not make up its length"));
        }
        let mut table = vec![0; table_bytes as usize];
        file.read_exact_at(&mut table, 96).map_err(read)?;
        if xxh3_64(&table) != checksum {
            return Err(damaged("its table does not have the checksum that it states"));
        }
        let (values, heartbeat_ms) = steady(&file, 96 + table_bytes, values as usize, path)?;
        let series = series(&table, &values).ok_or_else(|| damaged("its table does not describe its values"))?;
        Ok(Self { pid, replica, start_ms, heartbeat_ms, series })
    }
}

/// The values and heartbeat of one generation.
fn steady(file: &File, at: u64, count: usize, path: &Path) -> Result<(Vec<u64>, u64), MappedError> {
    let read = |source| MappedError::Read { file: path.to_owned(), source };
    for _ in 0..TRIES {
        let before = words(file, GENERATION * 8, 1).map_err(read)?;
        let values = words(file, at as usize, count).map_err(read)?;
        let heartbeat = words(file, HEARTBEAT * 8, 1).map_err(read)?;
        if before[0].is_multiple_of(2) && words(file, GENERATION * 8, 1).map_err(read)? == before {
            return Ok((values, heartbeat[0]));
        }
        std::thread::yield_now();
    }
    Err(MappedError::Restless(path.to_owned()))
}

fn words(file: &File, at: usize, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, at as u64)?;
    let words = bytes.as_chunks::<8>().0;
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

fn series(table: &[u8], values: &[u64]) -> Option<Vec<Measured>> {
    let text = std::str::from_utf8(table).ok()?.trim_end_matches('\0');
    let (mut all, mut rest) = (Vec::new(), values);
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [kind, unit, name, label, label_value, count, help] = fields[..] else { return None };
        let kind = [Kind::Counter, Kind::Gauge, Kind::Histogram].into_iter().find(|it| kind_name(*it) == kind)?;
        let unit = [Unit::None, Unit::Seconds, Unit::Bytes].into_iter().find(|it| unit_name(*it) == unit)?;
        let (own, others) = rest.split_at_checked(count.parse().ok()?)?;
        rest = others;
        let label = (!label.is_empty()).then(|| (label.to_owned(), label_value.to_owned()));
        all.push(Measured { name: name.to_owned(), kind, unit, label, help: help.to_owned(), values: own.to_vec() });
    }
    rest.is_empty().then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_dataplane::histogram::Histogram;
    use atlas_dataplane::replica::telemetry::Vitals;

    fn made(path: &Path) -> Writer {
        let mut sync = Histogram::default();
        [5, 700].into_iter().for_each(|us| sync.record(us));
        let vitals = Vitals { replica: 1, replicas: 4, view: 9, sync: Some(&sync), ..Vitals::default() };
        let board = Board::new(&vitals);
        let mut writer = Writer::create(path, &board, 1, 1_000).unwrap();
        writer.store(&board.values(), 5_000).unwrap();
        writer
    }

    #[test]
    fn what_is_written_is_read_by_its_own_description() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        let mut writer = made(&path);
        let reading = Reading::open(&path).unwrap();
        assert_eq!((reading.replica, reading.start_ms, reading.heartbeat_ms), (1, 1_000, 5_000));
        assert_eq!(reading.pid, u64::from(std::process::id()));
        let get =
            |reading: &Reading, name: &str| reading.series.iter().find(|series| series.name == name).unwrap().clone();
        assert_eq!(get(&reading, "atlas_view").value(), 9);
        let sync = get(&reading, "atlas_log_sync_seconds");
        assert_eq!((sync.value(), sync.buckets().iter().sum::<u64>(), sync.buckets()[5]), (705, 2, 1));
        // A reader that has the file open sees the next values, and so does one that opens it later.
        let board = Board::new(&Vitals { replica: 1, replicas: 4, view: 10, ..Vitals::default() });
        writer.store(&board.values(), 6_000).unwrap();
        let reading = Reading::open(&path).unwrap();
        assert_eq!((get(&reading, "atlas_view").value(), reading.heartbeat_ms), (10, 6_000));
        assert_eq!(reading.series, Measured::of_board(&board));
    }

    #[test]
    fn another_process_in_its_place_makes_a_new_file_and_leaves_the_old_one_to_who_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        let _first = made(&path);
        let old = File::open(&path).unwrap();
        let _second = made(&path);
        assert_eq!(words(&old, 0, 1).unwrap(), [MAGIC]);
        Reading::open(&path).unwrap();
    }

    #[test]
    fn what_is_no_such_file_is_refused_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        drop(made(&path));
        let good = std::fs::read(&path).unwrap();
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Reading::open(&path).unwrap_err()
        };
        let with = |at: usize, value: u64| {
            let mut bytes = good.clone();
            bytes[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
            bytes
        };
        assert!(matches!(open(b""), MappedError::Magic(_)));
        assert!(matches!(open(&[7; 4_096]), MappedError::Magic(_)));
        assert!(matches!(open(&with(1, 2)), MappedError::Layout { found: 2, .. }));
        for cut in [8, 64, 95, 96, 200, good.len() - 8, good.len() - 1] {
            assert!(matches!(open(&good[..cut]), MappedError::Damaged { .. }), "cut to {cut}");
        }
        for (at, value) in [(2, 8), (8, 0), (8, u64::MAX), (9, 1), (10, u64::MAX), (10, 1)] {
            assert!(matches!(open(&with(at, value)), MappedError::Damaged { .. }), "word {at} = {value}");
        }
        assert!(matches!(open(&with(GENERATION, 7)), MappedError::Restless(_)));
        let mut damaged = good.clone();
        damaged[100] ^= 1;
        assert!(matches!(open(&damaged), MappedError::Damaged { .. }));
        assert!(matches!(Reading::open(dir.path()), Err(MappedError::NoFile(_))));
        let pipe = dir.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        assert!(matches!(Reading::open(&pipe), Err(MappedError::NoFile(_))), "and does not wait for a writer");
        assert!(matches!(Reading::open(Path::new("/dev/null")), Err(MappedError::NoFile(_))));
        assert!(matches!(Reading::open(&dir.path().join("none")), Err(MappedError::Read { .. })));
        std::fs::write(&path, &good).unwrap();
        Reading::open(&path).unwrap();
    }
}
