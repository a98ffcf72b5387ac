//! Images: frozen, written, resumed, installed, damaged.

use super::*;
use crate::execution::image::{Image, ResumeError, check};
use crate::ordering::checkpoint::Statement;

type Replica = Execution<Registers, MemoryStore>;

/// What a sequence gave: its result, the state afterwards, and whether it was a snapshot point.
type Expected = (Executed, Digest, bool);

/// An image, and its bytes as they were when it was taken.
struct Kept {
    image: Image,
    bytes: Vec<u8>,
    statement: Statement,
    root: Digest,
}

fn bytes(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write(&mut bytes).unwrap();
    bytes
}

fn statement(execution: &mut Replica) -> Statement {
    Statement {
        sequence: execution.sequence(),
        size: execution.size(),
        history_root: execution.history_root(),
        state_root: execution.state_root(),
        sessions: execution.session_digest(),
        members: Digest([7; 32]),
    }
}

/// Makes what was drawn small.
fn limit(execution: &mut Replica, numbers: usize, snapshot_bytes: u64) {
    execution.sessions.keep_numbers(numbers);
    execution.set_snapshot_bytes(snapshot_bytes);
}

/// The first entries of a store.
fn prefix(store: &MemoryStore, size: u64) -> MemoryStore {
    store.first(size).unwrap()
}

fn next(execution: &mut Replica, batch: &Batch) -> Expected {
    let mut out = Executed::default();
    execution.execute(execution.sequence() + 1, batch, &mut out).unwrap();
    (out, execution.state_digest(), execution.snapshot_due())
}

/// Runs the rest of the batches from an image and compares everything.
fn goes_on(replica: &mut Replica, batches: &[Batch], expected: &[Expected]) -> Result<(), TestCaseError> {
    let from = replica.sequence() as usize;
    prop_assert_eq!((replica.state_digest(), replica.snapshot_due()), (expected[from - 1].1, true));
    for (batch, expected) in batches[from..].iter().zip(&expected[from..]) {
        prop_assert_eq!(&next(replica, batch), expected);
    }
    Ok(())
}

/// Batches that a drawn script makes.
fn batches(script: &[model::Step], numbers: usize) -> Vec<Batch> {
    model::run(script, numbers, &mut start()).into_iter().map(|(batch, _)| batch).collect()
}

/// A replica with sessions of two identities, floors, details and numbers above gaps, at a snapshot point; and its image.
fn rich() -> (Replica, Vec<u8>) {
    let mut execution = start();
    execution.set_snapshot_bytes(0);
    step(&mut execution, START, &[&open(1, START, &[add(1, 5)]), &open(1, START + 1, &[]), &open(2, START, &[])]);
    step(&mut execution, START, &[&open(1, START + 2, &[add(2, 0)])]);
    step(&mut execution, START, &[&sign(2, Some(3), 1, &[add(2, 0), add(3, 1), add(1, 1), add(2, 0)], START)]);
    step(&mut execution, START + 1, &[&sign(2, Some(3), 6, &[add(12, 1), add(12, 0)], START)]);
    step(&mut execution, START + 2, &[]);
    assert!(execution.snapshot_due());
    let image = bytes(&execution.freeze());
    (execution, image)
}

/// Some more batches for whatever `rich` became; gives the state's digest.
fn use_it(replica: &mut Replica) -> Digest {
    for time in [0, 50, 500] {
        let bundles = [
            open(1, START + time, &[add(1, 1)]),
            sign(2, Some(3), 5, &[add(1, 1), add(2, 1), add(2, 0)], START),
            sign(1, Some(4), 1, &[add(2, 0), add(2, 0)], START),
        ];
        let bundles: Vec<_> = bundles.iter().collect();
        bundles.iter().for_each(|bundle| drop(replica.admit(bundle)));
        step(replica, START + time, &bundles);
    }
    replica.state_digest()
}

fn resume(store: &MemoryStore, image: &[u8]) -> Result<Replica, ResumeError> {
    Execution::resume(&cluster(), Registers::default(), store.clone(), image)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_resumed_replica_goes_on_as_the_others(
        script in (model::script(), model::script()).prop_map(|(first, second)| [first, second].concat()),
        numbers in prop::sample::select(vec![1_000usize, 9, 4]),
        snapshot_bytes in prop::sample::select(vec![0u64, 2_000, 4_000]),
        late in any::<prop::sample::Index>(),
    ) {
        let batches = batches(&script, numbers);
        let mut execution = start();
        limit(&mut execution, numbers, snapshot_bytes);
        let mut kept = Vec::new();
        let mut expected = Vec::new();
        for batch in &batches {
            expected.push(next(&mut execution, batch));
            if execution.snapshot_due() {
                prop_assert!(execution.sequence().is_multiple_of(5));
                let image = execution.freeze();
                prop_assert_eq!(image.sequence, execution.sequence());
                let (bytes, root) = (bytes(&image), execution.state_digest());
                kept.push(Kept { image, bytes, statement: statement(&mut execution), root });
            }
        }
        for Kept { image, bytes: written, statement, root } in &kept {
            prop_assert_eq!(&bytes(image), written, "what is executed afterwards shows in the image");
            let store = prefix(&execution.store, statement.size);
            let mut resumed = resume(&store, written).unwrap();
            limit(&mut resumed, numbers, snapshot_bytes);
            prop_assert_eq!((resumed.state_digest(), resumed.time_ms()), (*root, expected[image.sequence as usize - 1].0.time_ms));
            prop_assert_eq!(&bytes(&resumed.freeze()), written);
            goes_on(&mut resumed, &batches, &expected)?;
            for bundle in batches.iter().flat_map(Batch::bundles) {
                prop_assert_eq!(resumed.admit(bundle), execution.admit(bundle));
            }
            prop_assert_eq!(entries(&resumed), entries(&execution));

            // A replica that executed some of it before.
            let mut lagging = start();
            limit(&mut lagging, numbers, snapshot_bytes);
            for batch in &batches[..late.index(statement.sequence as usize)] {
                next(&mut lagging, batch);
            }
            lagging.store = store;
            lagging.install(written, statement).unwrap();
            lagging.sessions.keep_numbers(numbers);
            goes_on(&mut lagging, &batches, &expected)?;
        }
    }
}

#[test]
fn snapshot_points_follow_what_was_executed() {
    // An empty sequence counts 256 bytes, a checkpoint's STATE entry some 100 and 64.
    let mut execution = start();
    execution.set_snapshot_bytes(4_000);
    let mut points = Vec::new();
    let mut grown = 64 + execution.entry(0).unwrap().len() as u64;
    for sequence in 1..=40 {
        let out = step(&mut execution, START, &[]);
        grown +=
            256 + (out.first_entry..out.size).map(|it| 64 + execution.entry(it).unwrap().len() as u64).sum::<u64>();
        if sequence % 5 == 0 && grown >= 4_000 {
            points.push(sequence);
            grown = 0;
        }
        assert_eq!(execution.snapshot_due(), points.last() == Some(&sequence), "{sequence}");
    }
    assert!(points.len() == 3 || points.len() == 4, "{points:?}");
    // By the number of slots: with eight of them 4,096 bytes at least, four checkpoints' worth of empty sequences.
    let mut execution = start();
    execution.set_snapshot_bytes(0);
    let many: Vec<_> = (1..=3).map(|register| add(register, 1)).collect();
    step(&mut execution, START, &[&open(1, START, &many), &open(2, START, &[add(4, 1), add(5, 1), add(6, 1)])]);
    let slots = execution.application().slot_count();
    let points: Vec<_> = (2..=40u64)
        .filter(|_| {
            step(&mut execution, START, &[]);
            execution.snapshot_due()
        })
        .collect();
    let checkpoint = 5 * 256 + 64 + execution.entry(execution.size() - 1).unwrap().len() as u64;
    let apart = 5 * (512 * slots).div_ceil(checkpoint);
    assert!(points.windows(2).all(|pair| pair[1] - pair[0] == apart) && points.len() > 2, "{points:?} {apart}");
    // The setting counts in MiB.
    assert_eq!(start().snapshot_bytes, 1 << 20);
}

#[test]
fn a_damaged_image_is_refused_or_shows_by_its_roots() {
    let (mut execution, image) = rich();
    let expected = statement(&mut execution);
    let store = execution.store.clone();
    let digest = execution.state_digest();
    assert_eq!(resume(&store, &image).unwrap().state_digest(), digest);
    for length in 0..image.len() {
        assert!(resume(&store, &image[..length]).is_err(), "{length}");
    }
    assert!(resume(&store, &[&image[..], &[0]].concat()).is_err());
    let (mut accepted, mut lagging) = (0, start());
    let last = store.entry(execution.size() - 1).unwrap().into_owned();
    check(&cluster(), Registers::default(), &image, &expected, &last).unwrap();
    lagging.store = store.clone();
    for at in 0..image.len() {
        for with in [1, 0x80, 0xff, image[at]] {
            let mut bytes = image.clone();
            bytes[at] ^= with;
            if bytes == image {
                continue;
            }
            if let Ok(mut resumed) = resume(&store, &bytes) {
                accepted += 1;
                assert_ne!(resumed.state_digest(), digest, "byte {at}");
                use_it(&mut resumed);
            }
            assert!(lagging.install(&bytes, &expected).is_err(), "byte {at}");
            let alone = || check(&cluster(), Registers::default(), &bytes, &expected, &last);
            assert!(with != 1 || alone().is_err(), "byte {at}");
        }
    }
    // Only the digests and times in it have no rule of their own.
    assert!(accepted > 100);
    lagging.install(&image, &expected).unwrap();
    assert_eq!(lagging.state_digest(), digest);
}

proptest! {
    #[test]
    fn damage_in_several_places_harms_nobody(
        damage in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![0u8, 1, 2, 4, 0x7f, 0x80, 0xff])), 1..6),
        cut in prop::option::of((any::<prop::sample::Index>(), 0..12usize)),
    ) {
        let (mut execution, image) = rich();
        let mut bytes = image.clone();
        for (at, with) in &damage {
            bytes[at.index(image.len())] = *with;
        }
        if let Some((at, count)) = cut {
            let at = at.index(bytes.len());
            bytes.drain(at..(at + count).min(image.len()));
        }
        let resumed = resume(&execution.store, &bytes);
        if bytes != image && let Ok(mut resumed) = resumed {
            prop_assert_ne!(resumed.state_digest(), execution.state_digest());
            use_it(&mut resumed);
        }
    }
}

#[test]
fn only_the_right_store_and_checkpoint_are_resumed() {
    let (mut execution, image) = rich();
    let expected = statement(&mut execution);
    let store = execution.store.clone();
    let size = execution.size();
    let short = resume(&prefix(&store, size - 1), &image).err();
    assert_eq!(short, Some(ResumeError::StoreSize { expected: size, found: size - 1 }));
    let mut other = prefix(&store, size - 1);
    other.append(&store.entry(1).unwrap(), START, &[]).unwrap();
    assert_eq!(resume(&other, &image).err(), Some(ResumeError::NoState { sequence: 5, entry: size - 1 }));
    // Nothing is rolled back.
    let behind = execution.install(&image, &expected);
    assert_eq!(behind, Err(ResumeError::NotAhead { executed: 5, found: 5 }));

    let last = store.entry(size - 1).unwrap().into_owned();
    let before_last = store.entry(size - 2).unwrap();
    let alone = check(&cluster(), Registers::default(), &image, &expected, &before_last);
    assert_eq!(alone, Err(ResumeError::NoState { sequence: 5, entry: size - 1 }));
    let zero = Digest::default();
    let cases = [
        (Statement { sequence: 10, ..expected }, "the sequence"),
        (Statement { size: size + 1, ..expected }, "the number of entries"),
        (Statement { history_root: zero, ..expected }, "the history root"),
        (Statement { sessions: zero, ..expected }, "the session table"),
        (Statement { state_root: zero, ..expected }, "the state root in the last entry"),
    ];
    let mut lagging = start();
    step(&mut lagging, START, &[&open(1, START, &[add(1, 5)]), &open(1, START + 1, &[]), &open(2, START, &[])]);
    let (own_store, before) = (std::mem::replace(&mut lagging.store, store), lagging.state_digest());
    for (statement, what) in cases {
        assert_eq!(lagging.install(&image, &statement), Err(ResumeError::Differs { sequence: 5, what }));
        let alone = check(&cluster(), Registers::default(), &image, &statement, &last);
        assert_eq!(alone, Err(ResumeError::Differs { sequence: 5, what }));
        assert_eq!(lagging.state_digest(), before);
    }
    // Refused, it goes on as if nothing had been.
    lagging.store = own_store;
    step(&mut lagging, START, &[&open(1, START + 2, &[add(2, 0)])]);
    assert_eq!(lagging.sequence(), 2);
}

#[test]
fn a_table_that_no_replica_can_have_is_refused() {
    let (execution, _) = rich();
    let (settings, clients) = (cluster().settings().clone(), cluster().clients().len());
    let read = |bytes: &[u8]| Sessions::from_bytes(&settings, clients, bytes).err();
    let mut good = Vec::new();
    execution.sessions.to_bytes(&mut good);
    assert!(read(&good).is_none());
    // Identities of 9 bytes behind their count; a session of 88 bytes and its numbers behind the sessions' count.
    let first = 4 + 9 * clients + 4;
    let low = first + 8 + 4 + 32 + 8 + 8 + 8;
    let number = first + 88;
    let cases: [(usize, Vec<u8>, &str); 10] = [
        (0, 5u32.to_be_bytes().to_vec(), "there is another number of identities"),
        (4, vec![2], "a floor is there or not"),
        (first - 4, u32::MAX.to_be_bytes().to_vec(), "more is counted than is there"),
        (first + 8, 4u32.to_be_bytes().to_vec(), "a session's owner is no client"),
        (low, u64::MAX.to_be_bytes().to_vec(), "a session was used first at its opening"),
        (low + 8, u64::MAX.to_be_bytes().to_vec(), "a session remembers at most one window below its lowest number"),
        (number - 4, u32::MAX.to_be_bytes().to_vec(), "more is counted than is there"),
        (number, u64::MAX.to_be_bytes().to_vec(), "a session's lowest number is another"),
        (number + 40, u64::MAX.to_be_bytes().to_vec(), "a number was executed while its session was open"),
        (number + 50, 257u16.to_be_bytes().to_vec(), "no detail is that long"),
    ];
    for (at, with, what) in cases {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(&with);
        let error = read(&bytes);
        assert_eq!(error.map(|error| error.what), Some(what));
        assert!(error.is_some_and(|error| error.at >= at && error.at <= bytes.len()));
    }
    assert_eq!(read(&[&good[..], &[0]].concat()).map(|error| error.at), Some(good.len()));
}
