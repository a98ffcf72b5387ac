//! Reads interval logs of HdrHistogram. A file may come from anywhere: what it can make this program take is bounded before it does.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

use crate::cli::output::printable;

/// The longest file, in bytes.
pub const MAX_FILE: u64 = 64 << 20;
/// The most intervals of a file.
pub const MAX_INTERVALS: usize = 20_000;
/// The longest histogram when inflated, in bytes: four significant digits over all of 64 bits, each place with a count.
const MAX_INFLATED: u64 = 8 << 20;
/// The most significant digits.
const MAX_DIGITS: u32 = 4;
/// The most events, and the most characters of their text and of a name.
const MAX_EVENTS: usize = 16;
const MAX_TEXT: usize = 60;
/// The latest time in a log, in seconds: a year after its start.
const MAX_SECONDS: f64 = 31_536_000.0;

/// Cookies of HdrHistogram's V2 encoding with words of one byte, compressed and plain.
const COMPRESSED: u32 = 0x1c84_9304 | 0x10;
const PLAIN: u32 = 0x1c84_9303 | 0x10;
/// Bytes of the plain header.
const HEADER: usize = 40;

/// What a value of a log counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Unit {
    /// Nanoseconds, as `atlas bench` writes.
    Ns,
    /// Microseconds.
    Us,
    /// Milliseconds.
    Ms,
}

impl Unit {
    fn nanoseconds(self) -> u64 {
        match self {
            Self::Ns => 1,
            Self::Us => 1_000,
            Self::Ms => 1_000_000,
        }
    }
}

/// Why a file is no log.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is too long.
    #[error("{} has more than {} MiB: split it by time", .0.display(), MAX_FILE >> 20)]
    TooLong(PathBuf),
    /// A line is none of a log.
    #[error("{}, line {line}: {problem}; an HDR interval log is expected, as `atlas bench latency --hdr FILE` writes it", file.display())]
    Line {
        /// Of which file.
        file: PathBuf,
        /// Which, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It has no interval.
    #[error("{} holds no interval with an operation", .0.display())]
    Empty(PathBuf),
    /// No histogram could be made; the library's error.
    #[error(transparent)]
    Histogram(#[from] hdrhistogram::CreationError),
}

/// What happened in one interval.
#[derive(Clone, Debug)]
pub struct Interval {
    /// When it began, in seconds after the log's start.
    pub start: f64,
    /// How long it lasted, in seconds.
    pub seconds: f64,
    /// Latencies in nanoseconds.
    pub latencies: Histogram<u64>,
}

/// One file.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it is called in the legend.
    pub name: String,
    /// Its intervals in their order.
    pub intervals: Vec<Interval>,
    /// Moments to mark: seconds after the log's start, and what happened.
    pub events: Vec<(f64, String)>,
    /// How many runs were laid over each other.
    pub runs: u32,
    /// All its latencies in nanoseconds.
    pub all: Histogram<u64>,
}

impl Run {
    /// Reads a file; its name is that of the file without its ending.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn load(file: &Path, unit: Unit) -> Result<Self, ReadError> {
        let cannot = |source| ReadError::File { file: file.to_owned(), source };
        let mut bytes = Vec::new();
        File::open(file).map_err(cannot)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(ReadError::TooLong(file.to_owned()));
        }
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &bytes, unit).map_err(|error| match error {
            ParseError::Line(line, problem) => ReadError::Line { file: file.to_owned(), line, problem },
            ParseError::Empty => ReadError::Empty(file.to_owned()),
            ParseError::Histogram(error) => error.into(),
        })
    }

    /// The same run under another name, cut to what a legend has room for.
    pub fn named(self, name: &str) -> Self {
        Self { name: clean(name), ..self }
    }

    /// Reads a log.
    pub(super) fn parse(name: &str, bytes: &[u8], unit: Unit) -> Result<Self, ParseError> {
        let (mut intervals, mut events, mut runs) = (Vec::new(), Vec::new(), 1);
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |problem| ParseError::Line(index + 1, problem);
            let line = std::str::from_utf8(line).map_err(|_| wrong("it is not UTF-8"))?.trim();
            if line.is_empty() || line.starts_with('"') {
                continue;
            }
            if let Some(comment) = line.strip_prefix('#') {
                match meaning(comment) {
                    Some(Meaning::Event(at, text)) if events.len() < MAX_EVENTS => events.push((at, text)),
                    Some(Meaning::Runs(number)) => runs = number,
                    _ => {}
                }
                continue;
            }
            if intervals.len() == MAX_INTERVALS {
                return Err(wrong("there are more than 20,000 intervals"));
            }
            intervals.push(interval(line, unit).map_err(wrong)?);
        }
        let all = super::merged(intervals.iter().map(|interval| &interval.latencies)).map_err(ParseError::Histogram)?;
        if all.is_empty() {
            return Err(ParseError::Empty);
        }
        intervals.sort_by(|a, b| a.start.total_cmp(&b.start));
        // Times may count from 1970.
        let first = intervals.first().map_or(0.0, |interval| interval.start);
        if first > MAX_SECONDS {
            intervals.iter_mut().for_each(|interval| interval.start -= first);
        }
        Ok(Self { name: clean(name), intervals, events, runs, all })
    }
}

#[derive(Debug)]
pub(super) enum ParseError {
    Line(usize, &'static str),
    Empty,
    Histogram(hdrhistogram::CreationError),
}

/// Text of others, short and without control characters.
pub(super) fn clean(text: &str) -> String {
    printable(text.trim()).chars().take(MAX_TEXT).collect()
}

enum Meaning {
    Event(f64, String),
    Runs(u32),
}

fn meaning(comment: &str) -> Option<Meaning> {
    let inside = comment.trim().strip_prefix('[')?.strip_suffix(']')?;
    if let Some(runs) = inside.strip_prefix("Runs:") {
        return runs.trim().parse().ok().filter(|runs| *runs > 0).map(Meaning::Runs);
    }
    let (at, text) = inside.strip_prefix("Event:")?.trim().split_once(' ')?;
    let at: f64 = at.parse().ok().filter(|at| (0.0..=MAX_SECONDS).contains(at))?;
    Some(Meaning::Event(at, clean(text)))
}

/// `[Tag=T,]start,length,max,histogram`.
fn interval(line: &str, unit: Unit) -> Result<Interval, &'static str> {
    let mut fields = line.split(',').filter(|field| !field.starts_with("Tag="));
    let mut number = || fields.next().and_then(|field| field.trim().parse::<f64>().ok()).filter(|it| it.is_finite());
    let (start, seconds, max) = (number(), number(), number());
    let (Some(start), Some(seconds), Some(_)) = (start, seconds, max) else {
        return Err("it does not begin with three numbers");
    };
    // 2^53 seconds would be exact; nobody's clock shows them.
    if !(0.0..=1e12).contains(&start) || !(0.0..=MAX_SECONDS).contains(&seconds) {
        return Err("its time is out of range");
    }
    let encoded = fields.next().ok_or("it has no histogram")?.trim();
    let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| "its histogram is not in base64")?;
    Ok(Interval { start, seconds, latencies: histogram(&bytes, unit)? })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A histogram in nanoseconds. Its size is known from a header that is looked at before any of it is taken.
fn histogram(bytes: &[u8], unit: Unit) -> Result<Histogram<u64>, &'static str> {
    const DAMAGED: &str = "its histogram is damaged";
    let mut plain = Vec::new();
    let bytes = match word(bytes, 0) {
        Some(COMPRESSED) => {
            let inside = bytes.get(8..).ok_or(DAMAGED)?;
            ZlibDecoder::new(inside).take(MAX_INFLATED + 1).read_to_end(&mut plain).map_err(|_| DAMAGED)?;
            plain.as_slice()
        }
        Some(PLAIN) => bytes,
        _ => return Err("its histogram is not in the V2 encoding"),
    };
    if bytes.len() as u64 > MAX_INFLATED {
        return Err("its histogram is too large");
    }
    if word(bytes, 0) != Some(PLAIN) || word(bytes, 4).map(|length| length as usize + HEADER) != Some(bytes.len()) {
        return Err(DAMAGED);
    }
    if word(bytes, 12).is_none_or(|digits| digits > MAX_DIGITS) {
        return Err("its histogram has more than four significant digits");
    }
    let read = Deserializer::new().deserialize::<u64, _>(&mut &*bytes).map_err(|_| DAMAGED)?;
    if unit == Unit::Ns {
        return Ok(read);
    }
    let mut scaled = crate::bench::latencies().map_err(|_| DAMAGED)?;
    for step in read.iter_recorded() {
        let value = step.value_iterated_to().saturating_mul(unit.nanoseconds());
        scaled.saturating_record_n(value, step.count_at_value());
    }
    Ok(scaled)
}
