//! The fuzz harness: mutations, counted memory and the loop, for the targets of a test binary.
//!
//! The dataplane's binary and the root crate's include this file and give [`run`] their targets; whoever includes it has
//! `Rng` in scope (`samples/random.rs`).
//!
//! - `ATLAS_FUZZ_SECONDS`: time for all targets of a binary together; 5 where it is not set.
//! - `ATLAS_FUZZ_SEED`: where to begin. Not set: a fixed seed in the short run, the clock in one whose time was given.
//!
//! Each target prints how many inputs passed its header check and how many its body check; the run fails where either is none
//! or all, because then the mutations do not reach the decoder or do not hurt it. It fails as well on a panic, on an allocation
//! beyond what the input's own size explains, and where something was accepted that does not read the same again. A failure
//! prints the target, the seed of that very input and the input in hex.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Rng;

/// Inputs of each target however little time there is.
const MIN_INPUTS: u64 = 500;

/// Inputs between two looks at the clock.
const INPUTS_PER_LOOK: u64 = 64;

/// How far an input got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reached {
    /// Refused by the header check.
    Nothing,
    /// Passed the header check.
    Header,
    /// Accepted.
    Body,
}

pub(crate) type Input = Box<dyn Fn(&mut Rng) -> Vec<u8>>;
pub(crate) type Run = Box<dyn Fn(&[u8]) -> Reached>;

/// One decoder under test.
pub(crate) struct Target {
    pub(crate) name: String,
    /// A mutated encoding.
    pub(crate) input: Input,
    /// Decodes it inside [`counted`], and panics where something accepted does not hold.
    pub(crate) run: Run,
}

impl Target {
    /// A target whose input and decoder need nothing else.
    pub(crate) fn new(name: &str, input: fn(&mut Rng) -> Vec<u8>, run: fn(&[u8]) -> Reached) -> Self {
        Self { name: name.to_owned(), input: Box::new(input), run: Box::new(run) }
    }
}

// ---- Mutations ----------------------------------------------------------------------------------------------------------

/// Numbers at the borders of lengths and widths.
const BORDERS: [u64; 12] = [0, 1, 0x17, 0x18, 0x7f, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// A sample with a few mutations; other samples of its kind serve as material.
pub(crate) fn mutated(rng: &mut Rng, sample: impl Fn(&mut Rng) -> Vec<u8>) -> Vec<u8> {
    let mut bytes = sample(rng);
    let times = if rng.one_in(3) { 1 + rng.below(6) } else { 1 };
    for _ in 0..times {
        mutate(rng, &mut bytes, &sample);
    }
    bytes
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, sample: impl Fn(&mut Rng) -> Vec<u8>) {
    if bytes.is_empty() {
        *bytes = sample(rng);
        return;
    }
    let at = rng.below(bytes.len());
    let end = at + rng.below((bytes.len() - at).min(32) + 1);
    match rng.below(10) {
        0 | 1 => bytes[at] ^= 1 << rng.below(8),
        2 => bytes[at] = rng.next() as u8,
        // An integer a little larger or smaller.
        3 => {
            let step = 1 + rng.below(4) as u8;
            bytes[at] = if rng.one_in(2) { bytes[at].wrapping_add(step) } else { bytes[at].wrapping_sub(step) };
        }
        // A length or another number at a border, in either order of bytes.
        4 => {
            let border = BORDERS[rng.below(BORDERS.len())];
            let bytes_of = if rng.one_in(2) { border.to_le_bytes() } else { border.rotate_left(32).to_be_bytes() };
            let width = (1 << rng.below(4)).min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&bytes_of[..width]);
        }
        5 => bytes.truncate(at),
        6 => drop(bytes.drain(at..end)),
        // A chunk twice.
        7 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
        // A chunk of another sample over or into this one.
        8 => {
            let other = sample(rng);
            let from = rng.below(other.len() + 1);
            let to = from + rng.below((other.len() - from).min(64) + 1);
            let end = if rng.one_in(2) { at } else { end };
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        _ => {
            let more = rng.bytes(16);
            bytes.splice(at..at, more);
        }
    }
}

// ---- Counting memory ----------------------------------------------------------------------------------------------------

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

struct CountingAllocator;

fn count(bytes: usize) {
    if COUNTING.get() {
        LARGEST.set(LARGEST.get().max(bytes));
        TOTAL.set(TOTAL.get() + bytes);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are cells without a destructor and allocate nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promises about `pointer`, `layout` and `size` are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `pointer` and `layout` is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Stops counting however the decoder ends.
struct StopCounting;

impl Drop for StopCounting {
    fn drop(&mut self) {
        COUNTING.set(false);
    }
}

/// Runs a decoder on `length` bytes of input and holds its memory against them: what it keeps and joins is a small multiple of
/// what arrived, whatever lengths and counts were declared.
pub(crate) fn counted<T>(length: usize, decode: impl FnOnce() -> T) -> T {
    LARGEST.set(0);
    TOTAL.set(0);
    COUNTING.set(true);
    let result = {
        let _stop = StopCounting;
        decode()
    };
    let (largest, total) = (LARGEST.get(), TOTAL.get());
    assert!(largest <= 2 * length + 4_096, "an allocation of {largest} bytes for an input of {length}");
    assert!(total <= 4 * length + 16_384, "allocations of {total} bytes together for an input of {length}");
    result
}

// ---- The run ------------------------------------------------------------------------------------------------------------

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a decimal number, not {text:?}")))
}

/// Fuzzes one target for `time` and returns how many inputs there were, passed the header check and passed the body check.
fn fuzz(target: &Target, seed: u64, time: Duration) -> [u64; 3] {
    let start = Instant::now();
    let mut reached = [0; 3];
    let mut at = 0;
    while at < MIN_INPUTS || !at.is_multiple_of(INPUTS_PER_LOOK) || start.elapsed() < time {
        let seed = seed.wrapping_add(at);
        // A stream of its own for each input, so that a failing one is made again at once.
        let input = (target.input)(&mut Rng(Rng(seed).next()));
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            Ok(far) => (0..=far as usize).for_each(|step| reached[step] += 1),
            Err(panic) => {
                let hex = data_encoding::HEXLOWER.encode(&input);
                eprintln!("target {}: ATLAS_FUZZ_SEED={seed} makes it the first input; it is\n{hex}", target.name);
                resume_unwind(panic);
            }
        }
        at += 1;
    }
    reached
}

/// Fuzzes all targets for the time that was given, in turn.
pub(crate) fn run(targets: Vec<Target>) {
    let given = number("ATLAS_FUZZ_SECONDS");
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let seed = number("ATLAS_FUZZ_SEED").unwrap_or_else(|| given.map_or(1, |_| clock()));
    let time = Duration::from_secs(given.unwrap_or(5)) / targets.len() as u32;
    // Written past the test harness, which would keep it to itself: a fuzz run that says nothing proves nothing.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "\nfuzz: seed {seed}, {} targets of {time:?} each", targets.len());
    for target in targets {
        let [inputs, headers, bodies] = fuzz(&target, seed, time);
        let _ = writeln!(
            out,
            "fuzz: {:12} {inputs:>9} inputs, {headers:>9} passed the header check, {bodies:>9} the body check",
            target.name
        );
        assert!(0 < headers && headers < inputs, "{}: the header check passed {headers} of {inputs}", target.name);
        assert!(0 < bodies && bodies < headers, "{}: the body check passed {bodies} of {headers}", target.name);
    }
}
