//! Lines for people: who says them, and how they come to whoever prints.
//!
//! The replica's thread writes no text once it serves: what it has to tell are events of the recorder that have a level, and a thread that
//! prints makes lines of them ([`Lines`]). Start, end and helpers say theirs as text ([`say`]), which waits in a bounded queue for
//! the same thread. Who prints is the management plane; where there is none, [`print_plainly`] does. Before anybody prints, after
//! [`finish`], and where the printer cannot be started, text goes to the standard error at once.
//!
//! # Limits
//! [`MAX_QUEUED`] lines wait; more are counted and told as lost. [`BURST`] lines of one kind may come at once and [`PER_SECOND`] in a
//! second after that; what is beyond is counted and told, so that nobody outside fills a disk or hides a line among thousands.
//! A standard error that nobody reads holds up the printing thread alone, and the end of the process for [`AT_END`] or twice that.
//! A printing thread that fails begins again ([`print_with`]), and says so.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Event, Kind, Ring, flight, stderr, wall_us};

/// Lines that wait for the printer.
pub const MAX_QUEUED: usize = 256;

/// Lines of one kind at once.
pub const BURST: f64 = 30.0;

/// Lines of one kind in a second, after that.
pub const PER_SECOND: f64 = 3.0;

/// How long the end of the process waits for its last lines.
pub const AT_END: Duration = Duration::from_secs(1);

/// A printing thread fails so often before it is given up.
pub const MOST_FAILURES: u32 = 3;

/// Between two looks at the recorder.
const LOOK: Duration = Duration::from_millis(50);

/// How often lines that were left out are told.
const TELL_LEFT_OUT: Duration = Duration::from_secs(5);

/// How much a line matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    /// It does not work.
    Error = 0,
    /// Somebody should look at it.
    Warn = 1,
    /// It happened.
    Info = 2,
    /// Of use when something is looked into.
    Debug = 3,
}

impl Level {
    /// Every level, from the one that tells least.
    pub const ALL: [Self; 4] = [Self::Error, Self::Warn, Self::Info, Self::Debug];

    /// Its name.
    pub fn name(self) -> &'static str {
        ["error", "warn", "info", "debug"][self as usize]
    }

    /// The level of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// The level up to which lines are printed: of text when it is said, of events when they are looked at.
pub fn level() -> Level {
    Level::ALL[usize::from(LEVEL.load(Ordering::Relaxed)).min(Level::ALL.len() - 1)]
}

/// Prints lines up to this level from now on.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// A line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// When, us since 1970.
    pub at_us: u64,
    /// How much it matters.
    pub level: Level,
    /// Which part of the process says it.
    pub from: &'static str,
    /// What.
    pub text: String,
    /// The event that it was made of.
    pub event: Option<Event>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: VecDeque<Line>,
    lost: u64,
    /// Somebody prints.
    attached: bool,
    /// The process ends: the printer is to print what there is, and no more.
    ending: bool,
}

static SHARED: Mutex<Shared> = Mutex::new(Shared { lines: VecDeque::new(), lost: 0, attached: false, ending: false });
static CHANGED: Condvar = Condvar::new();

fn shared() -> MutexGuard<'static, Shared> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose lines say who changed what: they are said at every level, and none is left out for those before it. Whoever says them has limits.
pub const AUDIT: &str = "audit";

/// Says a line. Not for the replica's thread while it serves: it takes a lock, and may write.
pub fn say(level: Level, from: &'static str, text: &str) {
    if level > self::level() && from != AUDIT {
        return;
    }
    let mut shared = shared();
    if !shared.attached || shared.ending {
        drop(shared);
        plain(text);
    } else if shared.lines.len() < MAX_QUEUED {
        shared.lines.push_back(Line { at_us: wall_us(), level, from, text: text.to_owned(), event: None });
        CHANGED.notify_all();
    } else {
        shared.lost += 1;
    }
}

/// A standard error that nobody reads any more ends nothing, and holds up nobody for longer than [`AT_END`].
fn plain(text: &str) {
    let _ = stderr::write_all(format!("{text}\n").as_bytes(), |waited| waited < AT_END);
}

/// The standard error for whoever prints: a write waits until there is room or the process ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Printer;

impl io::Write for Printer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        stderr::write_all(bytes, |_| !shared().ending)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The printer's end.
#[derive(Debug)]
pub struct Lines {
    ring: Option<(&'static Ring, u64)>,
    limits: Limits,
    told: Instant,
    over: bool,
}

impl Lines {
    /// From now on lines wait for the caller, until this is dropped. `None` where another prints.
    pub fn attach() -> Option<Self> {
        let mut shared = shared();
        if shared.attached || shared.ending {
            return None;
        }
        shared.attached = true;
        Some(Self { ring: None, limits: Limits::default(), told: Instant::now(), over: false })
    }

    /// Lines of the replica's events; how many events were missed.
    fn events(&mut self, lines: &mut Vec<Line>) -> u64 {
        let Some(flight) = flight() else { return 0 };
        flight.look_at_clock();
        if self.ring.is_none() {
            self.ring = flight.rings().first().map(|ring| (*ring, GIVEN.load(Ordering::Relaxed)));
        }
        let Some((ring, next)) = &mut self.ring else { return 0 };
        let mut words = Vec::new();
        let first = ring.read(*next, &mut words);
        let missed = first - *next;
        *next = first + words.len() as u64;
        GIVEN.store(*next, Ordering::Relaxed);
        for event in words.into_iter().filter_map(|words| Event::of_words(words).ok().flatten()) {
            if let Some(level) = event.kind.level().filter(|level| *level <= self::level()) {
                let at_us = flight.wall_us(&event);
                lines.push(Line { at_us, level, from: "replica", text: event.text(), event: Some(event) });
            }
        }
        missed
    }
}

/// What is to be printed next, in the order of its time; waits a moment where there is nothing. The end comes once the process ends
/// and all was given.
impl Iterator for Lines {
    type Item = Vec<Line>;

    fn next(&mut self) -> Option<Vec<Line>> {
        if self.over {
            return None;
        }
        let (mut lines, lost) = {
            let mut shared = shared();
            if shared.lines.is_empty() && !shared.ending {
                shared = CHANGED.wait_timeout(shared, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            }
            self.over = shared.ending;
            (Vec::from(std::mem::take(&mut shared.lines)), std::mem::take(&mut shared.lost))
        };
        let lost = lost + self.events(&mut lines);
        lines.sort_by_key(|line| line.at_us);
        let now = Instant::now();
        lines.retain(|line| self.limits.permits(line, now));
        if self.over || now.duration_since(self.told) >= TELL_LEFT_OUT {
            self.told = now;
            lines.extend(self.limits.left_out());
        }
        if lost > 0 {
            lines.push(own(format!("{lost} lines were lost: they came faster than they could be printed")));
        }
        Some(lines)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let mut shared = shared();
        shared.attached = false;
        // Whoever printed ends: nothing that was said is lost with it.
        let left = std::mem::take(&mut shared.lines);
        drop(shared);
        left.iter().for_each(|line| plain(&line.text));
        CHANGED.notify_all();
    }
}

/// Events of the replica's ring that were given to whoever prints: another goes on behind them.
static GIVEN: AtomicU64 = AtomicU64::new(0);

/// Prints until the process ends, on this thread. Where that panics it begins again, and says so: what was about to be printed is lost.
/// After [`MOST_FAILURES`] only text is told, by those who say it.
pub fn print_with(lines: Lines, print: impl Fn(Lines)) {
    let mut next = Some(lines);
    for failure in 1..=MOST_FAILURES {
        let Some(lines) = next.take() else { return };
        if catch_unwind(AssertUnwindSafe(|| print(lines))).is_ok() {
            return;
        }
        next = Lines::attach();
        let then = match failure {
            MOST_FAILURES => "it does not begin again: what happens while this replica serves is not told any more",
            _ => "it begins again, and what it was about to print is lost",
        };
        say(
            Level::Error,
            "log",
            &format!("the thread that prints lines failed ({failure} of {MOST_FAILURES}): {then}"),
        );
    }
}

fn own(text: String) -> Line {
    Line { at_us: wall_us(), level: Level::Warn, from: "log", text, event: None }
}

/// Prints to the standard error without further ado, until the process ends: for a replica without a management plane.
pub fn print_plainly(lines: Lines) {
    for lines in lines {
        // Nobody is there to be told.
        lines.iter().for_each(|line| drop(writeln!(Printer, "{}", line.text)));
    }
}

/// The process ends: what was said is printed, for at most [`AT_END`], and from now on text goes to the standard error at once.
pub fn finish() {
    let deadline = Instant::now() + AT_END;
    let mut shared = shared();
    shared.ending = true;
    CHANGED.notify_all();
    while shared.attached {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        shared = CHANGED.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Who says a line, of which kind, about which replica.
type Sort = (&'static str, Option<Kind>, Option<u64>);

/// How much may be said of one sort, so that one replica's faults do not hide another's. The number of kinds and replicas is fixed.
#[derive(Debug, Default)]
struct Limits(BTreeMap<Sort, Limit>);

#[derive(Debug)]
struct Limit {
    left: f64,
    at: Instant,
    left_out: u64,
}

impl Limits {
    fn permits(&mut self, line: &Line, now: Instant) -> bool {
        if line.from == AUDIT {
            return true;
        }
        let about = line.event.filter(|event| event.kind.fields()[0] == "replica").map(|event| event.words[0]);
        let key = (line.from, line.event.map(|event| event.kind), about);
        let limit = self.0.entry(key).or_insert(Limit { left: BURST, at: now, left_out: 0 });
        let gained = now.saturating_duration_since(limit.at).as_secs_f64() * PER_SECOND;
        (limit.left, limit.at) = ((limit.left + gained).min(BURST), now);
        let permitted = limit.left >= 1.0;
        match permitted {
            true => limit.left -= 1.0,
            false => limit.left_out += 1,
        }
        permitted
    }

    fn left_out(&mut self) -> Vec<Line> {
        let limits = self.0.iter_mut().filter(|(_, limit)| limit.left_out > 0);
        let tell = limits.map(|((from, kind, about), limit)| {
            let of = about.map_or_else(String::new, |replica| format!(" of replica {replica}"));
            let what = format!("{}{of}", kind.map_or(*from, Kind::name));
            let count = std::mem::take(&mut limit.left_out);
            own(format!("{count} more lines of {what} were left out: they came too fast"))
        });
        tell.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line { at_us: 0, level: Level::Info, from: "test", text: text.to_owned(), event: None }
    }

    #[test]
    fn lines_of_a_kind_are_limited_and_others_are_not() {
        let (mut limits, now) = (Limits::default(), Instant::now());
        let permitted = (0..1_000).filter(|_| limits.permits(&line("flood"), now)).count();
        assert_eq!(permitted, BURST as usize);
        let other = Line { from: "other", ..line("once") };
        assert!(limits.permits(&other, now));
        let audit = Line { from: AUDIT, ..line("changed") };
        assert!((0..1_000).all(|_| limits.permits(&audit, now)));
        // One replica's links do not hide another's.
        let down = |replica| Event { at_us: 0, kind: Kind::LinkDown, words: [replica, 0, 0] };
        let down = |replica| Line { event: Some(down(replica)), from: "third", ..line("down") };
        assert!((0..1_000).filter(|_| limits.permits(&down(1), now)).count() < 1_000);
        assert!(limits.permits(&down(2), now));
        let told: Vec<String> = limits.left_out().into_iter().map(|line| line.text).collect();
        let about = "970 more lines of link_down of replica 1 were left out: they came too fast";
        assert_eq!(told, ["970 more lines of test were left out: they came too fast", about]);
        assert!(limits.left_out().is_empty());
        let later = now + Duration::from_secs(1);
        let permitted = (0..1_000).filter(|_| limits.permits(&line("flood"), later)).count();
        assert_eq!(permitted, PER_SECOND as usize);
    }

    #[test]
    fn levels_have_names() {
        for level in Level::ALL {
            assert_eq!(Level::parse(level.name()), Some(level));
        }
        assert_eq!(Level::parse("trace"), None);
        assert!(Level::Error < Level::Warn);
    }
}
