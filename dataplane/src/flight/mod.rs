//! The flight recorder: what a replica did in its last seconds, kept without cost to what it does, and readable after its end.
//!
//! # Rings
//! A thread that records has a ring of its own ([`attach`]): [`EVENTS`] events of 32 bytes for the replica's thread, in memory that is
//! taken at the start. [`note`] reads the clock (no system call), stores four words and moves a number on: no allocation, no lock, no
//! wait. The oldest event gives way. Under full load a replica notes some thousand events in a second, so the ring holds some ten
//! seconds. What people outside cause (refusals, connections, misbehaviour) is noted at most [`OUTSIDE_PER_SECOND`] times a
//! second and kind, so nobody can wash the ring clean. Where a thread has no ring, as in the simulator, [`note`] does nothing: nothing of
//! a recorder flows back into what is recorded.
//!
//! An event is a time (microseconds since the process began to record), a kind, and three words whose meaning the [`Kind`] names.
//! Operations are noted by sample: one bundle of [`sampling`], chosen by its digest, so that all replicas choose the same.
//!
//! # Readers
//! Any other thread may read a ring ([`Ring::read`]): the writer says what it begins to store before, and what it has stored after, so
//! a reader leaves out what may have been stored over meanwhile. The lines of the log are made of the same events ([`lines`]).
//!
//! # What stays
//! The ring lies in plain memory and not in a mapped file: a store into a mapped page waits while the kernel writes the page back, and ends
//! the process with SIGBUS where the disk fails. Instead a thread of the management plane copies what is new into the file `flight` of
//! the run directory ten times a second ([`file::Mirror`]). That file has its whole length from the start and is written with pwrite:
//! a full or failing disk is an error there and costs the replica nothing. It outlives `kill -9` and the watchdog's SIGABRT with all but
//! the last tenth of a second; the next start keeps it under another name. On a panic, and where the replica ends with an
//! error, the whole is written out from memory ([`file::dump`]), management plane or not. [`mod@file`] has the format, and how many are kept.
//!
//! # Stages
//! The thread that runs rounds also says what it works on ([`stage`]): the time of each part is added up, and a round that takes too long
//! is told with the part that took most of it.

pub mod clock;
pub mod event;
pub mod file;
pub mod lines;
pub mod stages;
pub mod stderr;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clock::Clock;
pub use event::{Event, Kind};

/// Events that the ring of the replica's thread holds: 2 MiB.
pub const EVENTS: usize = 1 << 16;

/// Events that the ring of a helper holds.
pub const HELPER_EVENTS: usize = 1 << 10;

/// Rings of a process; a thread beyond that records nothing.
pub const MAX_RINGS: usize = 16;

/// Events of a kind that people outside cause which are noted in a second.
pub const OUTSIDE_PER_SECOND: u32 = 64;

/// Bits of an event's first word that hold its kind; the others hold the time.
const KIND_BITS: u32 = 16;

/// What a thread works on; see [`stage`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Stage {
    /// Opening frames, and what single messages cause.
    Receive,
    /// Checking the signatures of a round.
    Verify,
    /// Ordering, and making messages.
    Order,
    /// Executing batches and answering them.
    Execute,
    /// Stating a checkpoint, freezing a state.
    Checkpoint,
    /// History and state for others, or from them.
    Transfer,
    /// Cosigning, and proofs.
    Cosign,
    /// Handing writes to the kernel.
    Write,
    /// Reads.
    Read,
    /// Sealing and queueing what is sent.
    Send,
    /// Orders of the management, publishing.
    Manage,
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = 11;

    /// Their names, in order: the metrics' label.
    pub const NAMES: [&'static str; Self::COUNT] = [
        "receive",
        "verify",
        "order",
        "execute",
        "checkpoint",
        "transfer",
        "cosign",
        "write",
        "read",
        "send",
        "manage",
    ];
}

/// The events of one thread.
#[derive(Debug)]
pub struct Ring {
    name: &'static str,
    epoch: Instant,
    /// Events that were begun, and that are whole.
    begun: AtomicU64,
    done: AtomicU64,
    slots: Box<[[AtomicU64; 4]]>,
}

impl Ring {
    fn new(name: &'static str, events: usize, epoch: Instant) -> Self {
        let slots = (0..events.next_power_of_two()).map(|_| [const { AtomicU64::new(0) }; 4]).collect();
        Self { name, epoch, begun: AtomicU64::new(0), done: AtomicU64::new(0), slots }
    }

    /// The thread's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Events that it holds.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Events that were noted since the start.
    pub fn noted(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// By its own thread alone.
    fn put(&self, words: [u64; 4]) {
        let number = self.done.load(Ordering::Relaxed);
        self.begun.store(number + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        let slot = &self.slots[number as usize & (self.slots.len() - 1)];
        slot.iter().zip(words).for_each(|(place, word)| place.store(word, Ordering::Relaxed));
        self.done.store(number + 1, Ordering::Release);
    }

    /// Appends the events from number `from` on that are still there to `out`; gives the number of the first that was appended. The
    /// next call continues behind the last.
    pub fn read(&self, from: u64, out: &mut Vec<[u64; 4]>) -> u64 {
        let (done, capacity, start) = (self.done.load(Ordering::Acquire), self.slots.len() as u64, out.len());
        let first = from.max(done.saturating_sub(capacity));
        for number in first..done {
            let slot = &self.slots[number as usize & (self.slots.len() - 1)];
            out.push([0, 1, 2, 3].map(|place: usize| slot[place].load(Ordering::Relaxed)));
        }
        fence(Ordering::Acquire);
        // What was begun since may have been stored over the oldest of these.
        let kept = self.begun.load(Ordering::Relaxed).saturating_sub(capacity).clamp(first, done.max(first));
        out.drain(start..start + (kept - first) as usize);
        kept
    }
}

/// What a process records.
#[derive(Debug)]
pub struct Flight {
    /// The replica's index.
    pub replica: u64,
    epoch: Instant,
    clock: Mutex<Clock>,
    rings: Mutex<Vec<&'static Ring>>,
}

static FLIGHT: OnceLock<Flight> = OnceLock::new();

/// One bundle of so many is followed; 0: none.
static SAMPLING: AtomicU64 = AtomicU64::new(0);

struct Local {
    ring: Cell<Option<&'static Ring>>,
    stage: Cell<Stage>,
    /// Since when it works on that, ns.
    since_ns: Cell<u64>,
    spent_ns: [Cell<u64>; Stage::COUNT],
    /// The second in which outside events are counted, and their counts.
    second: Cell<u64>,
    outside: [Cell<u32>; event::KINDS],
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            ring: Cell::new(None),
            stage: Cell::new(Stage::Receive),
            since_ns: Cell::new(0),
            spent_ns: [const { Cell::new(0) }; Stage::COUNT],
            second: Cell::new(0),
            outside: [const { Cell::new(0) }; event::KINDS],
        }
    };
}

/// Begins to record in this process; a second call changes nothing.
pub fn begin(replica: u64) -> &'static Flight {
    FLIGHT.get_or_init(|| Flight {
        replica,
        epoch: Instant::now(),
        clock: Mutex::new(Clock::new(wall_us())),
        rings: Mutex::new(Vec::with_capacity(MAX_RINGS)),
    })
}

/// What this process records, if it does.
pub fn flight() -> Option<&'static Flight> {
    FLIGHT.get()
}

impl Flight {
    /// The rings of its threads.
    pub fn rings(&self) -> Vec<&'static Ring> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The time of an event by the wall clock, us since 1970.
    pub fn wall_us(&self, event: &Event) -> u64 {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).wall_us(event.at_us)
    }

    /// Looks whether the wall clock has moved, and gives what is known of it. Not for the replica's thread: it takes a lock.
    pub fn look_at_clock(&self) -> Clock {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        clock.look(self.epoch.elapsed().as_micros() as u64, wall_us());
        clock.clone()
    }
}

/// This thread records from now on, under a name; nothing where it does already, where the process does not, or where
/// [`MAX_RINGS`] threads do. The memory is never given back: threads that record live as long as the process.
pub fn attach(name: &'static str, events: usize) {
    let Some(flight) = FLIGHT.get() else { return };
    LOCAL.with(|local| {
        let mut rings = flight.rings.lock().unwrap_or_else(PoisonError::into_inner);
        if local.ring.get().is_none() && rings.len() < MAX_RINGS {
            let ring: &'static Ring = Box::leak(Box::new(Ring::new(name, events, flight.epoch)));
            rings.push(ring);
            local.ring.set(Some(ring));
        }
    });
}

/// Notes an event of this thread; what the words mean is in the [`Kind`].
pub fn note(kind: Kind, words: [u64; 3]) {
    LOCAL.with(|local| {
        let Some(ring) = local.ring.get() else { return };
        let at_us = ring.epoch.elapsed().as_micros() as u64;
        if kind.is_outside() && !local.may_note(kind, at_us) {
            return;
        }
        let [a, b, c] = words;
        ring.put([at_us << KIND_BITS | kind as u64, a, b, c]);
    });
}

impl Local {
    fn may_note(&self, kind: Kind, at_us: u64) -> bool {
        let second = at_us / 1_000_000;
        if self.second.replace(second) != second {
            self.outside.iter().for_each(|count| count.set(0));
        }
        let Some(count) = self.outside.get(kind as usize) else { return false };
        count.set(count.get() + 1);
        count.get() <= OUTSIDE_PER_SECOND
    }

    fn turn_to(&self, ring: &Ring, stage: Stage) -> Stage {
        let now = ring.epoch.elapsed().as_nanos() as u64;
        let (before, since) = (self.stage.replace(stage), self.since_ns.replace(now));
        let spent = &self.spent_ns[before as usize];
        spent.set(spent.get() + now.saturating_sub(since));
        before
    }
}

/// This thread works on something else from now on; gives what it worked on before.
pub fn stage(stage: Stage) -> Stage {
    LOCAL.with(|local| local.ring.get().map_or(stage, |ring| local.turn_to(ring, stage)))
}

/// A round of this thread begins.
pub fn begin_round() {
    LOCAL.with(|local| {
        let Some(ring) = local.ring.get() else { return };
        local.spent_ns.iter().for_each(|spent| spent.set(0));
        local.stage.set(Stage::Receive);
        local.since_ns.set(ring.epoch.elapsed().as_nanos() as u64);
    });
}

/// What each stage took of the round up to now, ns.
pub fn round() -> [u64; Stage::COUNT] {
    LOCAL.with(|local| {
        if let Some(ring) = local.ring.get() {
            local.turn_to(ring, local.stage.get());
        }
        local.spent_ns.each_ref().map(Cell::get)
    })
}

/// One bundle of so many is followed from now on; 0: none.
pub fn set_sampling(one_of: u64) {
    SAMPLING.store(one_of, Ordering::Relaxed);
}

/// One bundle of so many is followed; 0: none.
pub fn sampling() -> u64 {
    SAMPLING.load(Ordering::Relaxed)
}

/// How a bundle is named in events: the first eight bytes of its digest.
pub fn bundle_name(digest: &[u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// Notes a stage of a bundle, where it is one that is followed.
pub fn note_bundle(kind: Kind, digest: &[u8; 32], b: u64, c: u64) {
    let (one_of, name) = (sampling(), bundle_name(digest));
    if one_of > 0 && name.is_multiple_of(one_of) {
        note(kind, [name, b, c]);
    }
}

/// The wall clock, us since 1970.
pub(crate) fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
