//! The test application, hand-written cases, and runs against the naive model in `model.rs`.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::*;
use crate::cluster::Settings;
use crate::cluster::sample::{SampleClient, cluster_text, parse, public};
use crate::crypto::hash::{leaf_hash, root_by_definition};
use crate::history::entry::EntryView;
use crate::history::store::{FileStore, MemoryStore};
use crate::state::{Change, Entries, Frozen, StateError};
use crate::types::{PublicKey, Signature};

mod image;
mod keys;
mod model;

const ORIGIN: &str = "test.example/cluster";
const START: TimeMs = 1_000_000;

/// Operation `[9, register, add]`: adds to a register of the twin `reg-REGISTER`. Adding 0 is refused with a detail.
#[derive(Clone, Default)]
struct Registers {
    /// Value, revision and last entry of each.
    registers: BTreeMap<u8, (u64, u64, EntryIndex)>,
}

fn operation(register: u8, add: u8) -> Vec<u8> {
    minicbor::to_vec((9u8, register, add)).unwrap()
}

fn decode(operation: &[u8]) -> Option<(u8, u8)> {
    let (kind, register, add) = minicbor::decode::<(u8, u8, u8)>(operation).ok()?;
    (kind == 9).then_some((register, add))
}

impl Application for Registers {
    fn check(&self, operation: &[u8]) -> Result<usize, Code> {
        match decode(operation) {
            // A register that claims more changes than any entry has room for.
            Some((255, _)) => Ok(5_000),
            Some(_) => Ok(1),
            None => Err(Code::MALFORMED),
        }
    }

    fn execute(&mut self, context: &OperationContext<'_>, operation: &[u8], outcome: &mut Outcome) {
        let Some((register, add)) = decode(operation) else {
            return outcome.refuse(Code::MALFORMED, format_args!(""));
        };
        if !context.access.may_write(&format!("reg-{register}"), "value") {
            return outcome.refuse(Code::FORBIDDEN, format_args!(""));
        }
        if add == 0 {
            return outcome.refuse(Code::BAD_VALUE, format_args!("nothing to add at {}", context.position));
        }
        let slot = self.registers.entry(register).or_default();
        let previous = (slot.1 > 0).then_some(slot.2);
        *slot = (slot.0 + u64::from(add), slot.1 + 1, context.position.entry);
        outcome.changes.push(Change { path: u64::from(register), revision: slot.1, previous });
    }

    fn query(&self, history: &dyn Entries, query: &[u8], answer: &mut Answer) -> Code {
        let Some(value) = query.first().and_then(|register| self.registers.get(register)) else {
            return Code::UNKNOWN_TWIN;
        };
        answer.valid_from = value.2;
        answer.body = [value.0.to_be_bytes(), history.size().to_be_bytes()].concat();
        Code::DONE
    }

    fn slot_count(&self) -> u64 {
        self.registers.len() as u64
    }

    fn state_root(&mut self) -> Digest {
        sha256(&[b"state", format!("{:?}", self.registers).as_bytes()])
    }

    fn absence_root(&mut self) -> Digest {
        sha256(&[b"absence", format!("{:?}", self.registers).as_bytes()])
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(self.clone())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let (rows, rest) = bytes.as_chunks::<25>();
        if !rest.is_empty() {
            return Err(StateError::Malformed { at: bytes.len(), what: "a row has 25 bytes" });
        }
        let number = |row: &[u8; 25], at: usize| u64::from_be_bytes(row[at..at + 8].try_into().unwrap());
        self.registers = rows.iter().map(|row| (row[0], (number(row, 1), number(row, 9), number(row, 17)))).collect();
        Ok(())
    }
}

impl Frozen for Registers {
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.registers.iter().try_for_each(|(register, slot)| {
            out.write_all(
                &[[*register].as_slice(), &slot.0.to_be_bytes(), &slot.1.to_be_bytes(), &slot.2.to_be_bytes()].concat(),
            )
        })
    }
}

/// Identities 1 and 2 may write everything, 3 the registers whose name begins with `reg-1`, 4 nothing; others are unknown.
fn key(identity: u8) -> PublicKey {
    // Made once: it is asked for all the time.
    static KEYS: LazyLock<[PublicKey; 8]> = LazyLock::new(|| std::array::from_fn(|i| public(100 + i as u8)));
    KEYS[usize::from(identity)]
}

/// A cluster whose numbers are so small that short tests come to their ends.
fn cluster() -> Cluster {
    let head = format!("origin = {ORIGIN:?}\ncreated = 1970-01-01T00:16:40Z\n\n");
    let all = &["*"];
    let clients: [SampleClient<'_>; 4] =
        [("viewer", 104, &[]), ("second-2", 102, all), ("first-1", 101, all), ("some", 103, &["reg-1*:value"])];
    let settings = Settings {
        checkpoint_interval: 5,
        window: 5,
        drift_ms: 1_000,
        max_properties: 1_000,
        session_window: 4,
        sessions_per_identity: 2,
        session_idle_ms: 100,
        state_interval_ms: 30,
        snapshot_mib: 1,
    };
    parse(&cluster_text(&head, &clients)).unwrap().with_settings(settings)
}

fn start() -> Execution<Registers, MemoryStore> {
    Execution::new(&cluster(), Registers::default(), MemoryStore::new()).unwrap()
}

fn request(not_after_ms: Option<TimeMs>, operation: &[u8]) -> Vec<u8> {
    Request { class: 1, not_after_ms, operation }.encode()
}

fn add(register: u8, amount: u8) -> Vec<u8> {
    request(None, &operation(register, amount))
}

fn sign(identity: u8, session: Option<u64>, first: u64, requests: &[Vec<u8>], time_ms: TimeMs) -> Arc<Bundle> {
    let fake = |_: &[u8]| Signature([0; 64]);
    Arc::new(Bundle::sign(ORIGIN, key(identity), session, first, requests, time_ms, fake).unwrap())
}

fn open(identity: u8, time_ms: TimeMs, more: &[Vec<u8>]) -> Arc<Bundle> {
    let requests = [&[request(None, &crate::wire::bundle::OPEN_SESSION)], more].concat();
    sign(identity, None, 0, &requests, time_ms)
}

/// Executes one batch at `time_ms`.
fn step<S: EntryStore>(execution: &mut Execution<Registers, S>, time_ms: TimeMs, bundles: &[&Arc<Bundle>]) -> Executed {
    let mut out = Executed::default();
    let batch = Batch::new(time_ms, bundles.iter().map(|bundle| Arc::clone(bundle)).collect());
    execution.execute(execution.sequence() + 1, &batch, &mut out).unwrap();
    out
}

fn codes(settled: &Settled) -> Vec<(u64, u16)> {
    settled.replies.iter().map(|reply| (reply.number, reply.code)).collect()
}

fn refusals(settled: &Settled) -> Vec<(u64, u32, u16)> {
    settled.refusals.iter().map(|refusal| (refusal.first, refusal.count, refusal.code.0)).collect()
}

fn settled(admission: Admission) -> Settled {
    match admission {
        Admission::Settled(settled) => settled,
        Admission::Order => panic!("to be ordered"),
    }
}

fn entries<S: EntryStore>(execution: &Execution<Registers, S>) -> Vec<Vec<u8>> {
    (0..execution.size()).map(|index| execution.entry(index).unwrap().into_owned()).collect()
}

#[test]
fn the_genesis_is_entry_0() {
    let execution = start();
    let entry = execution.entry(0).unwrap();
    let Ok(EntryView::Config(view)) = EntryView::decode(&entry) else { panic!("no CONFIG") };
    assert_eq!((view.sequence, view.time_ms, view.epoch, view.members.len()), (0, START, 0, 4));
    assert_eq!(view.setting("session_window"), Some([4].as_slice()));
    assert_eq!(view.setting("max_properties"), Some([0x19, 0x03, 0xe8].as_slice()));
    assert_eq!(view.setting("genesis").map(|hash| &hash[2..]), Some(cluster().genesis().0.as_slice()));
    assert_eq!((view.policy, view.administrators().count()), (cluster().policy_text().as_str(), 0));
    assert_eq!((execution.size(), execution.history_root()), (1, leaf_hash(&entry)));
}

#[test]
fn a_bundle_opens_a_session_and_runs_in_it() {
    let mut execution = start();
    let bundle = open(1, START, &[add(1, 5), add(2, 0)]);
    assert_eq!(execution.admit(&bundle), Admission::Order);
    let out = step(&mut execution, START + 1, &[&bundle]);
    assert_eq!((out.sequence, out.time_ms, out.first_entry, out.size), (1, START + 1, 1, 2));
    assert_eq!(codes(&out.bundles[0]), [(0, 0), (1, 0), (2, Code::BAD_VALUE.0)]);
    let reply = &out.bundles[0].replies[2];
    assert_eq!((reply.session, reply.entry, reply.request, reply.detail.as_str()), (1, 1, 2, "nothing to add at 1.2"));
    // The same bundle again: the same replies at once, and nothing when it is ordered all the same.
    assert_eq!(settled(execution.admit(&bundle)), out.bundles[0]);
    let again = step(&mut execution, START + 2, &[&bundle, &bundle]);
    assert_eq!((again.first_entry, again.size), (2, 2));
    assert!(again.bundles.iter().all(|settled| settled.replies.is_empty() && settled.refusals.is_empty()));
    let mut answer = Answer::default();
    assert_eq!(execution.query(&[1], &mut answer).0, Code::DONE);
    assert_eq!((answer.valid_from, answer.body), (1, [5u64.to_be_bytes(), 2u64.to_be_bytes()].concat()));
    assert_eq!(execution.query(&[7], &mut Answer::default()).0, Code::UNKNOWN_TWIN);
}

#[test]
fn bundles_that_use_up_nothing_append_nothing() {
    let mut execution = start();
    step(&mut execution, START, &[&open(1, START, &[])]);
    let cases = [
        (sign(7, Some(1), 0, &[add(1, 1)], START), Code::UNKNOWN_IDENTITY),
        (open(7, START, &[]), Code::UNKNOWN_IDENTITY),
        (sign(1, Some(0), 0, &[add(1, 1)], START), Code::UNKNOWN_SESSION),
        (sign(2, Some(1), 1, &[add(1, 1)], START), Code::FOREIGN_SESSION),
        (sign(1, Some(1), 0, &[add(1, 1)], START), Code::CONFLICT),
        (sign(1, Some(1), 9, &[add(1, 1)], START), Code::BEYOND_WINDOW),
        (sign(1, Some(1), u64::MAX - 1, &[add(1, 1)], START), Code::BEYOND_WINDOW),
        (open(1, START - 101, &[]), Code::EXPIRED),
    ];
    for (bundle, code) in cases {
        let expected = [(bundle.header().first, 1, code.0)];
        assert_eq!(refusals(&settled(execution.admit(&bundle))), expected);
        let out = step(&mut execution, START, &[&bundle]);
        assert_eq!((refusals(&out.bundles[0]), out.bundles[0].replies.len()), (expected.to_vec(), 0));
    }
    // The eight batches passed one checkpoint; nothing else was appended.
    assert_eq!(execution.size(), 3);
    // A lagging replica cannot know of later sessions, nor of the time that a bundle will meet.
    for bundle in [sign(1, Some(50), 0, &[add(1, 1)], START), open(1, START + 500, &[])] {
        assert_eq!(execution.admit(&bundle), Admission::Order);
    }
    let out = step(&mut execution, START, &[&open(1, START + 101, &[])]);
    assert_eq!(refusals(&out.bundles[0]), [(0, 1, Code::EXPIRED.0)]);
}

#[test]
fn a_window_admits_any_order_and_forgets_what_lies_far_below() {
    let mut execution = start();
    step(&mut execution, START, &[&open(1, START, &[])]);
    let at = |first, count: u64| sign(1, Some(1), first, &vec![add(1, 1); count as usize], START);
    assert_eq!(codes(&step(&mut execution, START, &[&at(3, 2)]).bundles[0]), [(3, 0), (4, 0)]);
    // 1 and 2 are new, 3 and 4 skipped, 5 and 6 come into the window as it moves.
    let out = step(&mut execution, START, &[&at(1, 6)]);
    assert_eq!(codes(&out.bundles[0]), [(1, 0), (2, 0), (5, 0), (6, 0)]);
    // low is 7: 3 to 6 are answered, 2 is forgotten.
    let low = settled(execution.admit(&at(2, 3)));
    assert_eq!((refusals(&low), codes(&low)), (vec![(2, 1, Code::STALE_NUMBER.0)], vec![(3, 0), (4, 0)]));
    let replies: Vec<_> = low.replies.iter().map(|reply| (reply.entry, reply.request)).collect();
    assert_eq!(replies, [(2, 0), (2, 1)]);
    let out = step(&mut execution, START, &[&at(10, 2)]);
    assert_eq!((codes(&out.bundles[0]), refusals(&out.bundles[0])), (vec![(10, 0)], vec![(11, 1, 402)]));
}

#[test]
fn deadlines_are_judged_by_agreed_time_and_use_up_the_number() {
    let mut execution = start();
    step(&mut execution, START + 10, &[&open(1, START, &[])]);
    let late = sign(1, Some(1), 1, &[request(Some(START + 9), &operation(1, 1)), add(1, 1)], START);
    // The leader's clock went back; agreed time does not.
    let out = step(&mut execution, START, &[&late]);
    assert_eq!((out.time_ms, codes(&out.bundles[0])), (START + 10, vec![(1, Code::EXPIRED.0), (2, 0)]));
    assert_eq!(execution.application().registers[&1].0, 1);
    assert_eq!(settled(execution.admit(&late)), out.bundles[0]);
    let open_late = sign(2, None, 0, &[request(Some(START), &crate::wire::bundle::OPEN_SESSION)], START);
    let out = step(&mut execution, START, &[&open_late]);
    assert_eq!((refusals(&out.bundles[0]), execution.session_count()), (vec![(0, 1, 400)], 1));
}

#[test]
fn an_opening_bundle_cannot_be_replayed_once_its_session_is_closed() {
    // Closed early by two more sessions, and its time lies ahead: age alone would let it in.
    let mut execution = start();
    let first = open(1, START + 90, &[add(1, 1)]);
    step(&mut execution, START, &[&first]);
    let others = [open(1, START + 95, &[]), open(1, START + 96, &[])];
    step(&mut execution, START, &[&others[0], &others[1]]);
    assert_eq!(execution.session_count(), 2);
    assert_eq!(refusals(&settled(execution.admit(&first))), [(0, 2, Code::EXPIRED.0)]);
    let out = step(&mut execution, START + 90, &[&first]);
    assert_eq!(refusals(&out.bundles[0]), [(0, 2, Code::EXPIRED.0)]);

    // Closed for being idle: likewise, and a fresh one opens at once.
    let out = step(&mut execution, START + 250, &[&others[1], &open(1, START + 250, &[])]);
    assert_eq!(refusals(&out.bundles[0]), [(0, 1, Code::EXPIRED.0)]);
    assert_eq!((codes(&out.bundles[1]), execution.session_count()), (vec![(0, 0)], 1));
    assert_eq!(execution.application().registers[&1].0, 1);
}

#[test]
fn one_more_session_closes_the_one_used_longest_ago() {
    let mut execution = start();
    step(&mut execution, START, &[&open(1, START, &[]), &open(1, START + 1, &[]), &open(2, START, &[])]);
    // Session 1 is used after session 2, so the third closes 2; the other identity's stays.
    let third = open(1, START + 2, &[]);
    step(&mut execution, START, &[&sign(1, Some(1), 1, &[add(1, 1)], START), &third]);
    let next = |identity, session, first| execution.admit(&sign(identity, Some(session), first, &[add(1, 1)], START));
    assert_eq!(refusals(&settled(next(1, 2, 1))), [(1, 1, Code::UNKNOWN_SESSION.0)]);
    for (identity, session, first) in [(1, 1, 2), (2, 3, 1), (1, 5, 1)] {
        assert_eq!(next(identity, session, first), Admission::Order);
    }
}

#[test]
fn an_identity_remembers_so_much_and_no_more() {
    let mut execution = start();
    execution.sessions.keep_numbers(6);
    step(&mut execution, START, &[&open(1, START, &[add(1, 1), add(1, 1)]), &open(1, START + 1, &[add(1, 1)])]);
    assert_eq!(execution.session_count(), 2);
    // The seventh number: the session used longest ago forgets its first, and stays open.
    step(&mut execution, START, &[&sign(1, Some(2), 2, &[add(1, 1), add(1, 1)], START)]);
    let at = |session, first| sign(1, Some(session), first, &[add(1, 1)], START);
    assert_eq!(refusals(&settled(execution.admit(&at(1, 0)))), [(0, 1, Code::STALE_NUMBER.0)]);
    assert_eq!(codes(&settled(execution.admit(&at(1, 2)))), [(2, 0)]);
    assert_eq!(execution.admit(&at(1, 3)), Admission::Order);
    // Numbers in an open window are never forgotten: a session that they leave no room for is closed, the one in use is not.
    let gap = |session, first| sign(1, Some(session), first, &vec![add(1, 1); 3], START);
    step(&mut execution, START, &[&gap(1, 4), &gap(2, 5)]);
    assert_eq!(execution.session_count(), 2);
    execution.sessions.keep_numbers(2);
    step(&mut execution, START, &[&at(2, 4)]);
    assert_eq!(refusals(&settled(execution.admit(&at(1, 3)))), [(3, 1, Code::UNKNOWN_SESSION.0)]);
    assert_eq!((execution.session_count(), execution.admit(&at(2, 8))), (1, Admission::Order));
    assert!(execution.session_memory_bound() < 64 << 20, "{}", execution.session_memory_bound());
}

#[test]
fn a_session_that_keeps_nothing_makes_no_room() {
    let mut execution = start();
    execution.sessions.keep_numbers(1);
    // The first session forgets its only number, which leaves it open; the second fills the room with its window.
    step(&mut execution, START, &[&open(1, START, &[]), &open(1, START + 1, &[])]);
    step(&mut execution, START, &[&sign(1, Some(2), 2, &[add(1, 1), add(1, 1)], START)]);
    assert_eq!(execution.session_count(), 2);
    assert_eq!(execution.admit(&sign(1, Some(1), 1, &[add(1, 1)], START)), Admission::Order);
}

#[test]
fn a_repeated_bundle_reads_few_entries() {
    let settings = Settings { session_window: 64, ..*cluster().settings() };
    let mut execution =
        Execution::new(&cluster().with_settings(settings), Registers::default(), MemoryStore::new()).unwrap();
    step(&mut execution, START, &[&open(1, START, &[])]);
    for number in 1..=20 {
        step(&mut execution, START, &[&sign(1, Some(1), number, &[add(1, 1)], START)]);
    }
    let all = settled(execution.admit(&sign(1, Some(1), 1, &vec![add(1, 1); 20], START)));
    assert_eq!((all.replies.len(), all.refusals.len()), (MAX_REPEATED_ENTRIES, 0));
}

#[test]
fn roles_say_who_writes_where() {
    let mut execution = start();
    for (identity, expected) in [(1, [0, 0]), (3, [0, Code::FORBIDDEN.0]), (4, [Code::FORBIDDEN.0; 2])] {
        let out = step(&mut execution, START, &[&open(identity, START, &[add(12, 1), add(2, 1)])]);
        assert_eq!(codes(&out.bundles[0])[1..], [(1, expected[0]), (2, expected[1])]);
    }
}

#[test]
fn hostile_bundles_are_found_before_they_are_ordered() {
    let execution = start();
    assert_eq!(execution.check(&open(1, START, &[add(1, 1), add(2, 0)])), Ok(()));
    assert_eq!(execution.check(&open(1, START, &[request(None, &[0x80])])), Err(Code::MALFORMED));
    assert_eq!(execution.check(&sign(1, Some(1), 1, &[add(255, 1)], START)), Err(Code::TOO_LARGE));
    assert_eq!(execution.check(&sign(1, Some(1), 1, &vec![add(255, 1); 256], START)), Err(Code::TOO_LARGE));
}

#[test]
fn state_entries_stand_at_checkpoints_and_when_due() {
    let mut execution = start();
    let mut out = Executed::default();
    step(&mut execution, START + 29, &[&open(1, START + 29, &[])]);
    step(&mut execution, START + 30, &[]);
    // Due by time, but nothing happened since: none. Null batches move neither time nor sessions.
    step(&mut execution, START + 70, &[]);
    execution.run(4, None, &[], &mut out).unwrap();
    assert_eq!((out.time_ms, out.size), (START + 70, 3));
    execution.run(5, None, &[], &mut out).unwrap();
    let states: Vec<_> = entries(&execution)
        .iter()
        .enumerate()
        .filter_map(|(index, bytes)| match EntryView::decode(bytes) {
            Ok(EntryView::State(view)) => {
                Some((index, view.sequence, view.time_ms, view.previous, view.absence_root.is_some()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(states, [(2, 2, START + 30, None, false), (3, 5, START + 70, Some(2), true)]);
    let wrong = execution.run(7, None, &[], &mut out).unwrap_err();
    assert!(matches!(wrong, ExecutionError::Sequence { expected: 6, found: 7 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn execution_equals_the_naive_model(
        script in model::script(),
        numbers in prop::sample::select(vec![1_000usize, 9, 4]),
    ) {
        let mut execution = start();
        let run = model::run(&script, numbers, &mut execution);
        let written = entries(&execution);
        let leaves: Vec<_> = written.iter().map(|entry| leaf_hash(entry)).collect();
        prop_assert_eq!(execution.history_root(), root_by_definition(&leaves));

        // The same batches on files, in a directory that already saw half of them.
        let directory = tempfile::tempdir().unwrap();
        let mut out = Executed::default();
        for count in [run.len() / 2, run.len()] {
            let store = FileStore::open(directory.path(), cluster().genesis()).unwrap();
            let mut replica = Execution::new(&cluster(), Registers::default(), store).unwrap();
            replica.sessions.keep_numbers(numbers);
            for (batch, expected) in &run[..count] {
                replica.execute(expected.sequence, batch, &mut out).unwrap();
                replica.flush().unwrap();
                prop_assert_eq!(&out, expected);
            }
            if count == run.len() {
                prop_assert_eq!(entries(&replica), written.clone());
                // Asked for once at the end here, and after every batch there.
                prop_assert_eq!(replica.state_digest(), execution.state_digest());
            }
        }
    }
}
