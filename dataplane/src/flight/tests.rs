//! Rings under a writer that does not stop, and files as they are written and as hostile hands leave them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use super::event::Cause;
use super::file::{KEPT, LIVE, Mirror, Recording, RecordingError, Why, dump};
use super::lines::Level;
use super::*;

fn ring(events: usize) -> &'static Ring {
    Box::leak(Box::new(Ring::new("test", events, Instant::now())))
}

#[test]
fn the_oldest_give_way_and_a_reader_goes_on_where_it_was() {
    let ring = ring(8);
    let mut out = Vec::new();
    assert_eq!(ring.read(0, &mut out), 0);
    (0..5).for_each(|n| ring.put([n, n, n, n]));
    assert_eq!(ring.read(0, &mut out), 0);
    assert_eq!(out.iter().map(|words| words[0]).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    out.clear();
    (5..30).for_each(|n| ring.put([n, n, n, n]));
    assert_eq!(ring.read(5, &mut out), 22, "17 were stored over");
    assert_eq!(out.iter().map(|words| words[0]).collect::<Vec<_>>(), (22..30).collect::<Vec<_>>());
    out.clear();
    assert_eq!(ring.read(30, &mut out), 30);
    assert!(out.is_empty());
}

#[test]
fn a_reader_never_has_an_event_that_is_half_stored() {
    let ring = ring(64);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Relaxed) {
                ring.put([n, n, n, n]);
                n += 1;
                // Without a pause a reader would always find all stored over.
                if n.is_multiple_of(40) {
                    std::thread::yield_now();
                }
            }
        });
        let (mut next, mut read, mut out) = (0, 0, Vec::new());
        while read < 100_000 {
            out.clear();
            next = ring.read(next, &mut out);
            for words in &out {
                assert_eq!(words, &[next; 4]);
                next += 1;
                read += 1;
            }
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn kinds_have_their_own_numbers_and_names_and_come_back_from_words() {
    for kind in Kind::ALL {
        assert!((*kind as usize) < event::KINDS);
        let event = Event::of_words([7 << 16 | *kind as u64, 1, 2, 3]).unwrap().unwrap();
        assert_eq!(event, Event { at_us: 7, kind: *kind, words: [1, 2, 3] });
        assert!(!event.text().is_empty());
        let same = Kind::ALL.iter().filter(|other| other.name() == kind.name()).count();
        assert_eq!(same, 1, "{}", kind.name());
    }
    assert_eq!(Event::of_words([9 << 16, 0, 0, 0]), Ok(None));
    assert_eq!(Event::of_words([0xffff, 0, 0, 0]), Err(0xffff));
}

#[test]
fn people_are_told_in_words() {
    let text = |kind, words| Event { at_us: 0, kind, words }.text();
    assert_eq!(
        text(Kind::ViewLeft, [3, 1, 0]),
        "asking for view 3, which replica 1 would lead: nothing was executed for too long"
    );
    assert_eq!(
        text(Kind::ViewLeft, [3, 1, event::OTHERS_DO]),
        "asking for view 3, which replica 1 would lead: others do"
    );
    let refused = text(Kind::LinkFailed, [2, Cause::Connect as u64, libc::ECONNREFUSED as u64]);
    assert!(refused.starts_with("no link to replica 2: could not connect: Connection refused"), "{refused}");
    assert_eq!(text(Kind::LinkDown, [2, 999, 0]), "link to replica 2 is down: cause 999");
    let bundle = Event { at_us: 0, kind: Kind::BundleArrived, words: [0xabc, 5, 1] };
    assert_eq!(bundle.text(), "bundle_arrived bundle 0000000000000abc connection 5 requests 1");
    assert_eq!(Kind::ViewLeft.level(), Some(Level::Warn));
    let command = |word| Event { at_us: 0, kind: Kind::Command, words: [1, 1_000, word] }.text();
    assert_eq!(command(event::word("configure")), "command level operator uid 1000 command configur");
    assert_eq!(command(u64::from_le_bytes(*b"a\x1b[2J\0\0\0")), "command level operator uid 1000 command a.[2J");
    let json: Vec<_> = bundle.json_fields().collect();
    let expected = [("bundle", Err("0000000000000abc".to_owned())), ("connection", Ok(5)), ("requests", Ok(1))];
    assert_eq!(json, expected);
}

/// One test for the process's own recorder: it is one for all.
#[test]
fn what_is_noted_is_in_the_files_and_what_is_no_file_of_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(dump(dir.path(), Why::Asked, ""), Err(RecordingError::None) | Ok(_)));
    begin(3);
    note(Kind::Decided, [1, 0, 0]);
    attach("replica", 64);
    attach("replica", 64);
    for sequence in 1..=100 {
        note(Kind::Decided, [sequence, 1, 0]);
    }
    // Outsiders cannot push out everything else.
    for number in 0..10_000 {
        note(Kind::ClientRefused, [number, 500, 0]);
    }
    let (mut mirror, kept) = Mirror::create(dir.path()).unwrap();
    assert_eq!(kept, None);
    let live = Recording::open(&dir.path().join(LIVE)).unwrap();
    assert_eq!((live.replica, live.why, live.written_us), (3, Why::Running, None));
    let own = |recording: &Recording| recording.tracks.iter().find(|track| track.name == "replica").unwrap().clone();
    let track = own(&live);
    assert_eq!(track.events.len(), 64);
    assert!(track.before >= 100);
    let refused = track.events.iter().filter(|event| event.kind == Kind::ClientRefused).count();
    assert!(refused as u32 <= 2 * OUTSIDE_PER_SECOND);
    note(Kind::CheckpointStable, [256, 0, 0]);
    mirror.refresh().unwrap();
    let live = own(&Recording::open(&dir.path().join(LIVE)).unwrap());
    assert_eq!(live.events.last().unwrap().field("sequence"), Some(256));
    let reason = "ü".repeat(400);
    let path = dump(dir.path(), Why::Panic, &reason).unwrap();
    let dumped = Recording::open(&path).unwrap();
    assert_eq!((dumped.why, dumped.reason.as_str()), (Why::Panic, "ü".repeat(256).as_str()));
    assert_eq!(own(&dumped).events, live.events);
    // The file of a process that is no more stays.
    let (_mirror, kept) = Mirror::create(dir.path()).unwrap();
    assert_eq!(own(&Recording::open(&kept.unwrap()).unwrap()).events, live.events);
    // Asking takes nothing away that a crash left.
    for _ in 0..KEPT + 3 {
        dump(dir.path(), Why::Asked, "").unwrap();
    }
    let names: Vec<String> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let count = |ending: &str| names.iter().filter(|name| name.ends_with(ending)).count();
    assert_eq!((count("-asked"), count("-panic"), count("-killed"), count(".new")), (KEPT, 1, 1, 0), "{names:?}");
    refusals(&path, dir.path());
}

fn refusals(path: &std::path::Path, dir: &std::path::Path) {
    let good = std::fs::read(path).unwrap();
    let other = dir.join("hostile");
    let open = |bytes: &[u8]| {
        std::fs::write(&other, bytes).unwrap();
        Recording::open(&other)
    };
    assert!(open(&good).is_ok());
    assert!(matches!(open(b""), Err(RecordingError::Magic(_))));
    assert!(matches!(open(&[0x41; 5_000]), Err(RecordingError::Magic(_))));
    for cut in [8, 100, 127, 128, 200, 600, good.len() - 1] {
        assert!(matches!(open(&good[..cut]), Err(RecordingError::Damaged { .. })), "cut to {cut}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(matches!(open(&longer), Err(RecordingError::Damaged { .. })));
    let mut layout = good.clone();
    layout[8] = 3;
    assert!(matches!(open(&layout), Err(RecordingError::Layout { found: 3, .. })));
    for at in (16..good.len()).step_by(97) {
        let mut damaged = good.clone();
        damaged[at] ^= 0x10;
        // Words 8, 9 and 11 to 14 are behind no checksum: when it was written and how long the reason is.
        if !(64..80).contains(&at) && !(88..120).contains(&at) {
            assert!(matches!(open(&damaged), Err(RecordingError::Damaged { .. })), "byte {at}");
        }
    }
    // With checksums that hold, as somebody hostile makes them.
    let forged = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..64]);
        bytes[120..128].copy_from_slice(&sum.to_le_bytes());
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[128..]);
        bytes[80..88].copy_from_slice(&sum.to_le_bytes());
        open(&bytes)
    };
    let put = |bytes: &mut Vec<u8>, at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    for (at, word) in [
        (48, 17),
        (48, u64::MAX),
        (56, 9),
        (72, 513),
        (72, u64::MAX),
        (144, 0),
        (144, 63),
        (144, 1 << 40),
        (152, 0),
        (152, u64::MAX),
        (160, 1),
        (168, u64::MAX),
    ] {
        let opened = forged(&|bytes| put(bytes, at, word));
        assert!(matches!(opened, Err(RecordingError::Damaged { .. })), "{word} at {at}: {opened:?}");
    }
    let first_event = good.len() - 64 * 32;
    let opened = forged(&|bytes| put(bytes, first_event, 0xfffe));
    assert!(opened.unwrap_err().to_string().contains("kind 65534"));
    let opened = forged(&|bytes| put(bytes, first_event, u64::MAX << 16 | 12));
    assert!(opened.unwrap_err().to_string().contains("follows one of"));
    assert!(matches!(Recording::open(dir), Err(RecordingError::Magic(_))));
    assert!(matches!(Recording::open(&dir.join("none")), Err(RecordingError::Read { .. })));
}

#[test]
fn a_thread_without_a_ring_records_nothing_and_its_stages_take_no_time() {
    std::thread::spawn(|| {
        note(Kind::Serves, [0; 3]);
        begin_round();
        assert_eq!(stage(Stage::Execute), Stage::Execute);
        assert_eq!(round(), [0; Stage::COUNT]);
    })
    .join()
    .unwrap();
}

/// `cargo test --release -p atlas-dataplane --lib -- --ignored --nocapture what_an_event_costs`
#[test]
#[ignore = "a measurement"]
fn what_an_event_costs() {
    begin(3);
    std::thread::spawn(|| {
        const TIMES: u32 = 5_000_000;
        let measure = |what: &str, work: &dyn Fn(u64)| {
            let since = Instant::now();
            (0..u64::from(TIMES)).for_each(work);
            println!("{what:28} {:6.1} ns", since.elapsed().as_nanos() as f64 / f64::from(TIMES));
        };
        measure("an event without a ring", &|n| note(Kind::Decided, [n, 0, 0]));
        attach("measured", EVENTS);
        measure("an event", &|n| note(Kind::Decided, [n, 0, 0]));
        measure("a bundle that is not sampled", &|n| note_bundle(Kind::BundleArrived, &[n as u8; 32], 0, 0));
        measure("a change of stage", &|n| {
            std::hint::black_box(stage(if n % 2 == 0 { Stage::Order } else { Stage::Execute }));
        });
    })
    .join()
    .unwrap();
}
