//! Fuzzing of every decoder on stable Rust: mutated valid encodings, in a loop, for a given time.
//!
//! - `ATLAS_FUZZ_SECONDS`: time for all targets together; 5 where it is not set.
//! - `ATLAS_FUZZ_SEED`: where to begin. Not set: a fixed seed in the short run, the clock in one whose time was given.
//!
//! Each target prints how many inputs passed its header check and how many its body check; the run fails where either is none
//! or all, because then the mutations do not reach the decoder or do not hurt it. It fails as well on a panic, on an allocation
//! beyond what the input's own size explains, and where something was accepted that does not read the same again. A failure
//! prints the target, the seed of that very input and the input in hex.
//!
//! A new decoder is a new row in [`targets`].

#[path = "fuzz/disk.rs"]
mod disk;
mod samples;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atlas_dataplane::crypto::hash::merkle_root;
use atlas_dataplane::wire::bundle::{Bundle, Request};
use atlas_dataplane::wire::error::{BundleError, Malformed};
use atlas_dataplane::wire::frame::{FrameReader, Header, Kind, Sender};
use atlas_dataplane::wire::limits::{HEADER_BYTES, TAG_BYTES};
use atlas_dataplane::wire::message::{
    Answer, Batch, Decided, FetchBatch, PrePrepare, Query, Refused, Replies, Status, StatusAnswer, StatusQuery, Submit,
    Votes, access,
};
use samples::{ORIGIN, Rng};

/// Inputs of each target however little time there is.
const MIN_INPUTS: u64 = 500;

/// Inputs between two looks at the clock.
const INPUTS_PER_LOOK: u64 = 64;

/// How far an input got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reached {
    /// Refused by the header check.
    Nothing,
    /// Passed the header check.
    Header,
    /// Accepted.
    Body,
}

type Input = Box<dyn Fn(&mut Rng) -> Vec<u8>>;
type Run = Box<dyn Fn(&[u8]) -> Reached>;

/// One decoder under test.
struct Target {
    name: String,
    /// A mutated encoding.
    input: Input,
    /// Decodes it inside [`counted`], and panics where something accepted does not hold.
    run: Run,
}

/// Every decoder that outsiders' bytes reach.
fn targets() -> Vec<Target> {
    let target = |name: &str, input: fn(&mut Rng) -> Vec<u8>, run: fn(&[u8]) -> Reached| Target {
        name: name.to_owned(),
        input: Box::new(input),
        run: Box::new(run),
    };
    macro_rules! messages {
        ($($message:ident)+) => {
            vec![$(message(Kind::$message, |body| accepts(body, access::<$message>))),+]
        };
    }
    let mut targets = messages!(PrePrepare Decided Status FetchBatch Batch Submit Replies Refused Query Answer StatusQuery StatusAnswer);
    targets.push(message(Kind::Prepare, |body| accepts(body, Votes::access)));
    targets.push(message(Kind::Commit, |body| accepts(body, Votes::access)));
    targets.push(target("frames", stream, run_stream));
    targets.push(target("request", |rng| mutated(rng, |rng| samples::request(rng, false)), run_request));
    targets.push(target("bundle", bundle, run_bundle));
    targets.push(target("entry", disk::entry, disk::run_entry));
    targets.push(target("record", disk::record, disk::run_record));
    targets.push(target("cluster file", disk::cluster, disk::run_cluster));
    targets.push(target("handshake", disk::handshake, disk::run_handshake));
    targets
}

// ---- Messages -----------------------------------------------------------------------------------------------------------

/// A frame with this kind of body: half of the inputs have the body mutated below a right header.
fn message(kind: Kind, accepts: fn(&[u8]) -> bool) -> Target {
    let frame = move |rng: &mut Rng, body: &[u8]| {
        let header = samples::header(rng, kind, body.len() + TAG_BYTES);
        [&header.encode()[..], body, &[0; TAG_BYTES]].concat()
    };
    let input = move |rng: &mut Rng| {
        if rng.one_in(2) {
            let body = mutated(rng, |rng| samples::body(rng, kind));
            frame(rng, &body)
        } else {
            mutated(rng, |rng| {
                let body = samples::body(rng, kind);
                frame(rng, &body)
            })
        }
    };
    let run = move |input: &[u8]| {
        let (frames, _) = read_frames(input, sender_of(kind));
        let Some((_, body)) = frames.iter().find(|(header, _)| header.kind == kind) else { return Reached::Nothing };
        // What sealing would have taken off.
        if accepts(&body[..body.len() - TAG_BYTES]) { Reached::Body } else { Reached::Header }
    };
    Target { name: format!("{kind:?}"), input: Box::new(input), run: Box::new(run) }
}

/// Whether a body is accepted; then it must say the same at another address, and refuse one more byte on either side.
fn accepts<A: Debug + ?Sized>(body: &[u8], access: for<'a> fn(&'a [u8]) -> Result<&'a A, Malformed>) -> bool {
    let Ok(archived) = counted(body.len(), || access(body)) else { return false };
    let padded = [&[0], body, &[0]].concat();
    let again = access(&padded[1..=body.len()]).expect("accepted at one address, refused at another");
    assert_eq!(format!("{archived:?}"), format!("{again:?}"));
    assert!(access(&padded[1..]).is_err() && access(&padded[..=body.len()]).is_err(), "accepted with a byte too many");
    true
}

// ---- Frames -------------------------------------------------------------------------------------------------------------

fn sender_of(kind: Kind) -> Sender {
    match kind {
        Kind::Handshake => Sender::Unknown,
        Kind::Submit | Kind::Query | Kind::StatusQuery => Sender::Client,
        Kind::Replies | Kind::Refused | Kind::Answer | Kind::StatusAnswer => Sender::Server,
        _ => Sender::Replica,
    }
}

/// A few frames between replicas, mutated as one piece.
fn stream(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |rng| {
        let mut bytes = Vec::new();
        for _ in 0..=rng.below(4) {
            let body = rng.bytes(100);
            bytes.extend_from_slice(&samples::header(rng, Kind::Status, body.len() + TAG_BYTES).encode());
            bytes.extend_from_slice(&body);
            bytes.extend_from_slice(&[0; TAG_BYTES]);
        }
        bytes
    })
}

fn run_stream(input: &[u8]) -> Reached {
    let (frames, result) = read_frames(input, Sender::Replica);
    let bytes: Vec<u8> = frames.iter().flat_map(|(header, body)| [&header.encode()[..], body].concat()).collect();
    assert!(input.starts_with(&bytes), "frames handed out are not what was sent");
    match frames.len() {
        0 => Reached::Nothing,
        _ if result.is_ok() && bytes.len() == input.len() => Reached::Body,
        _ => Reached::Header,
    }
}

type Frames = Vec<(Header, Vec<u8>)>;

/// The frames of a stream, which must be the same whole and cut in three.
fn read_frames(input: &[u8], sender: Sender) -> (Frames, Result<(), Malformed>) {
    let whole = read_cut(input, [0, 0], sender);
    let sum = input.iter().map(|byte| usize::from(*byte)).sum::<usize>();
    let (a, b) = (sum % (input.len() + 1), (sum / 7) % (input.len() + 1));
    assert_eq!(read_cut(input, [a.min(b), a.max(b)], sender), whole, "cut at {a} and {b}");
    whole
}

fn read_cut(input: &[u8], [a, b]: [usize; 2], sender: Sender) -> (Frames, Result<(), Malformed>) {
    let mut bytes = input.to_vec();
    // Ranges into what was sent, with room for all: the handler's memory is not the decoder's.
    let mut copied = Vec::with_capacity(input.len());
    let mut headers = Vec::with_capacity(input.len() / HEADER_BYTES + 1);
    let mut state = (&mut copied, &mut headers);
    let result = counted(input.len(), || {
        let mut reader = FrameReader::default();
        let (first, rest) = bytes.split_at_mut(a);
        let (second, third) = rest.split_at_mut(b - a);
        [first, second, third].into_iter().try_for_each(|chunk| {
            reader.push(
                chunk,
                &mut state,
                |_| sender,
                |(copied, headers), header, raw, body| {
                    assert_eq!(header.encode(), raw, "an accepted header encodes to other bytes");
                    copied.extend_from_slice(body);
                    headers.push(header);
                    Ok::<(), Malformed>(())
                },
            )
        })
    });
    let mut rest = copied.as_slice();
    let mut frames = Vec::new();
    for header in headers {
        let (body, after) = rest.split_at(header.length as usize);
        frames.push((header, body.to_vec()));
        rest = after;
    }
    (frames, result)
}

// ---- Bundles ------------------------------------------------------------------------------------------------------------

fn run_request(input: &[u8]) -> Reached {
    match counted(input.len(), || Request::decode(input)) {
        Some(request) => {
            assert_eq!(request.encode(), input, "an accepted request encodes to other bytes");
            Reached::Body
        }
        // Array head, a class of one byte and no deadline: the operation is at fault.
        None if matches!(input, [0x83, 0..24, 0xf6, ..]) => Reached::Header,
        None => Reached::Nothing,
    }
}

/// A bundle in a form of this harness: count, two bytes of length per request, requests, COSE_Sign1. Every other one has the
/// requests mutated below a right root, so that they are reached at all.
fn bundle(rng: &mut Rng) -> Vec<u8> {
    let (session, mut requests) = samples::requests(rng);
    if rng.one_in(2) {
        let hurt = rng.below(requests.len());
        requests[hurt] = mutated(rng, |_| requests[hurt].clone());
    }
    let cose = cose(rng, session, &requests);
    let cose = if rng.one_in(2) { mutated(rng, |_| cose.clone()) } else { cose };
    if rng.one_in(8) {
        let at = rng.below(requests.len());
        requests[at] = mutated(rng, |rng| samples::request(rng, false));
    }
    let mut out = vec![requests.len() as u8];
    requests.iter().for_each(|request| out.extend_from_slice(&(request.len() as u16).to_be_bytes()));
    requests.iter().for_each(|request| out.extend_from_slice(request));
    out.extend_from_slice(&cose);
    out
}

fn cose(rng: &mut Rng, session: Option<u64>, requests: &[Vec<u8>]) -> Vec<u8> {
    let root = merkle_root(requests.iter().map(Vec::as_slice));
    let mut payload = minicbor::Encoder::new(Vec::new());
    payload.array(7).unwrap().str("atlas-bundle/1").unwrap().str(ORIGIN).unwrap();
    let first = match session {
        Some(session) => payload.u64(session).map(|_| rng.number()).unwrap(),
        None => payload.null().map(|_| 0).unwrap(),
    };
    payload.u64(first).unwrap().u64(requests.len() as u64).unwrap().bytes(&root.0).unwrap();
    payload.i64(rng.number() as i64).unwrap();
    let key = [&[0xa2, 0x01, 0x27, 0x04, 0x58, 0x20], &[7; 32][..]].concat();
    let payload = payload.into_writer();
    [&[0xd2, 0x84, 0x58, 38], &key[..], &[0xa0, 0x58, payload.len() as u8], &payload, &[0x58, 64], &[9; 64]].concat()
}

fn run_bundle(input: &[u8]) -> Reached {
    let count = usize::from(input[0]);
    let (lengths, mut rest) = input[1..].split_at(2 * count);
    let mut requests = Vec::new();
    for length in lengths.chunks_exact(2) {
        let (request, after) = rest.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
        requests.push(request);
        rest = after;
    }
    match counted(input.len(), || Bundle::parse(rest, requests.iter().copied(), ORIGIN)) {
        Ok(bundle) => {
            assert_eq!(bundle.cose(), rest, "an accepted bundle has other bytes");
            assert!(bundle.requests().eq(requests.iter().copied()), "an accepted bundle has other requests");
            assert_eq!(bundle.decoded_requests().count(), count);
            assert!(bundle.fits_entry(0));
            let header = bundle.header();
            let again = Bundle::sign(
                ORIGIN,
                *bundle.key(),
                header.session,
                header.first,
                &requests.iter().map(|request| request.to_vec()).collect::<Vec<_>>(),
                header.client_time_ms,
                |_| *bundle.signature(),
            );
            assert_eq!(again.as_ref(), Ok(&bundle), "an accepted bundle encodes to other bytes");
            Reached::Body
        }
        Err(BundleError::Cose | BundleError::Payload) => Reached::Nothing,
        Err(_) => Reached::Header,
    }
}

// ---- Mutations ----------------------------------------------------------------------------------------------------------

/// Numbers at the borders of lengths and widths.
const BORDERS: [u64; 12] = [0, 1, 0x17, 0x18, 0x7f, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

/// A sample with a few mutations; other samples of its kind serve as material.
fn mutated(rng: &mut Rng, sample: impl Fn(&mut Rng) -> Vec<u8>) -> Vec<u8> {
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
fn counted<T>(length: usize, decode: impl FnOnce() -> T) -> T {
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

#[test]
fn mutated_encodings_harm_no_decoder() {
    let given = number("ATLAS_FUZZ_SECONDS");
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let seed = number("ATLAS_FUZZ_SEED").unwrap_or_else(|| given.map_or(1, |_| clock()));
    let targets = targets();
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
