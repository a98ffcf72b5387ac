//! What the log lets go is made good for by what it carries: plausible logs, read whole and cut.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;

use super::batch::Batch;
use super::checkpoint::{Statement, forged};
use super::choice::{Held, Report};
use super::record::Record;
use super::view_change::body;
use super::{Agreed, Ordering, Timing, seal};
use crate::cluster::Size;
use crate::crypto::keys::SecretKey;
use crate::log::{self, Log, Record as _, SimDisk};
use crate::types::{Digest, Now, ReplicaId, Sequence, View};
use crate::wire::bundle::{Bundle, OPEN_SESSION, Request};

const GENESIS: Digest = Digest([1; 32]);
const SEGMENT: u32 = 1 << 20;
const WINDOW: u64 = 8;
const ME: ReplicaId = ReplicaId(1);

/// A batch of its own for each time, some small and some of 300,000 bytes.
fn batch(time_ms: i64, is_big: bool) -> Arc<Batch> {
    static SMALL: LazyLock<Arc<Bundle>> = LazyLock::new(|| bundle(None, &OPEN_SESSION));
    static BIG: LazyLock<Arc<Bundle>> = LazyLock::new(|| {
        // A string of bytes.
        let mut operation = vec![0; 50_003];
        operation[..3].copy_from_slice(&[0x59, 0xc3, 0x50]);
        bundle(Some(1), &operation)
    });
    Arc::new(Batch::new(time_ms, if is_big { vec![Arc::clone(&BIG); 6] } else { vec![Arc::clone(&SMALL)] }))
}

fn bundle(session: Option<u64>, operation: &[u8]) -> Arc<Bundle> {
    let key = SecretKey::from_seed(&[1; 32]);
    let (requests, first) = ([Request { class: 0, not_after_ms: None, operation }.encode()], session.unwrap_or(0));
    let signed = Bundle::sign("atlas.example/test", key.public(), session, first, &requests, 1, |m| key.sign(m));
    Arc::new(signed.unwrap())
}

fn statement(sequence: Sequence) -> Statement {
    let none = Digest::NULL;
    Statement { sequence, size: sequence, history_root: none, state_root: none, sessions: none, members: none }
}

/// A replica as its log sees it.
struct Writer {
    records: Vec<Record>,
    view: View,
    active: bool,
    abstains: bool,
    leads: bool,
    executed: Sequence,
    stable: Sequence,
    accepted: Sequence,
    held: Held,
    /// What was voted for in this view, and what is still to be.
    voted: BTreeMap<Sequence, Digest>,
    chosen: BTreeMap<Sequence, Digest>,
    /// The batch that is logged last.
    bodies: BTreeMap<Sequence, Digest>,
    time_ms: i64,
    is_big: bool,
}

impl Writer {
    fn new(first: Record) -> Self {
        Self {
            abstains: first == Record::Abstains,
            active: first != Record::Abstains,
            records: vec![first],
            view: 0,
            leads: false,
            executed: 0,
            stable: 0,
            accepted: 0,
            held: Held::default(),
            voted: BTreeMap::new(),
            chosen: BTreeMap::new(),
            bodies: BTreeMap::new(),
            time_ms: 1_000,
            is_big: false,
        }
    }

    /// One step of those that are possible now; `kind` and `pick` say which.
    fn step(&mut self, kind: u8, pick: u8) {
        match kind {
            0..=29 => self.vote(pick),
            30..=49 => self.prepare(pick),
            50..=74 => self.execute(pick),
            75..=84 => self.stabilise(pick),
            85..=90 => self.leave(pick),
            91..=97 => self.enter(pick),
            _ => self.abstain(),
        }
    }

    fn vote(&mut self, pick: u8) {
        if !self.active {
            return;
        }
        if let Some((sequence, digest)) = self.chosen.pop_first() {
            return self.q(sequence, digest);
        }
        if self.accepted >= self.stable + WINDOW {
            return;
        }
        if self.view % 4 == 1 && !self.leads {
            self.leads = true;
            return self.records.push(Record::Leads { view: self.view });
        }
        self.accepted += 1;
        if pick.is_multiple_of(8) {
            return self.q(self.accepted, Digest::NULL);
        }
        // Leaders' clocks differ.
        self.time_ms += i64::from(pick) - 64;
        let (view, sequence, batch) = (self.view, self.accepted, batch(self.time_ms, self.is_big));
        self.bodies.insert(sequence, batch.digest());
        self.voted.insert(sequence, batch.digest());
        self.held.pre_prepare(view, sequence, batch.digest());
        self.records.push(Record::PrePrepared { view, sequence, batch });
    }

    fn q(&mut self, sequence: Sequence, digest: Digest) {
        self.bodies.insert(sequence, digest);
        self.voted.insert(sequence, digest);
        self.held.pre_prepare(self.view, sequence, digest);
        self.records.push(Record::Chosen { view: self.view, sequence, digest });
    }

    fn prepare(&mut self, pick: u8) {
        let Some((&sequence, &digest)) = self.voted.iter().nth(usize::from(pick) % self.voted.len().max(1)) else {
            return;
        };
        self.held.prepare(self.view, sequence, digest);
        self.records.push(Record::Prepared { view: self.view, sequence, digest });
    }

    fn execute(&mut self, pick: u8) {
        if self.executed >= self.stable + WINDOW {
            return;
        }
        self.executed += 1;
        let sequence = self.executed;
        self.records.push(match self.bodies.get(&sequence) {
            Some(digest) if !pick.is_multiple_of(4) => Record::Decided { sequence, digest: *digest },
            _ => {
                let batch = batch(-i64::from(pick), self.is_big);
                self.bodies.insert(sequence, batch.digest());
                Record::Learned { sequence, batch }
            }
        });
        self.accepted = self.accepted.max(sequence);
        if sequence.is_multiple_of(WINDOW) && !self.abstains {
            self.records.push(Record::Checkpoint(statement(sequence)));
        }
    }

    fn stabilise(&mut self, pick: u8) {
        // Now and then a checkpoint that others took.
        let reach = self.executed + if pick.is_multiple_of(8) { WINDOW } else { 0 };
        self.adopt(reach / WINDOW * WINDOW);
    }

    fn adopt(&mut self, sequence: Sequence) {
        if sequence > self.stable {
            self.stable = sequence;
            self.accepted = self.accepted.max(sequence);
            self.held.stable(sequence);
            self.chosen.retain(|other, _| *other > sequence);
            self.voted.retain(|other, _| *other > sequence);
            self.records.push(Record::Stable(Arc::new(forged(sequence))));
        }
    }

    fn end_view(&mut self) {
        self.leads = false;
        self.voted.clear();
        self.chosen.clear();
        self.accepted = self.executed.max(self.stable);
    }

    fn leave(&mut self, pick: u8) {
        self.view += 1 + u64::from(pick.is_multiple_of(4));
        (self.active, self.abstains) = (false, false);
        self.end_view();
        let body = body(self.view, ME, &forged(self.stable), &self.held.report());
        self.records.push(Record::Leaves { view: self.view, body });
    }

    fn enter(&mut self, pick: u8) {
        if self.abstains || self.active && !pick.is_multiple_of(8) {
            return;
        }
        self.view += u64::from(self.active || pick.is_multiple_of(4));
        if pick.is_multiple_of(5) {
            self.adopt((self.executed / WINDOW + 1) * WINDOW);
        }
        self.active = true;
        self.end_view();
        let start = self.stable;
        for sequence in start + 1..=start + u64::from(pick) % (WINDOW + 1) {
            let digest = self.bodies.get(&sequence).copied().unwrap_or(Digest::NULL);
            self.chosen.insert(sequence, digest);
            self.accepted = self.accepted.max(sequence);
        }
        let digests: Vec<Digest> = self.chosen.values().copied().collect();
        self.records.push(enters(self.view, start, &digests));
    }

    fn abstain(&mut self) {
        if !self.abstains {
            self.view -= u64::from(!self.active && self.view > 0);
            (self.active, self.abstains) = (false, true);
            self.end_view();
            self.records.push(Record::Abstains);
        }
    }
}

/// A NEW-VIEW of one VIEW-CHANGE and these choices, as it is read from a log: nothing is verified there.
fn enters(view: View, start: Sequence, digests: &[Digest]) -> Record {
    const ENTERS: u8 = 10;
    let change = body(view, ReplicaId(2), &forged(start), &Report { h: start, ..Report::default() });
    let mut bytes = [&[0; 8 + 64][..], &view.to_le_bytes(), &[0], &1u32.to_le_bytes()].concat();
    bytes.extend_from_slice(&(change.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&change);
    bytes.extend_from_slice(&[0; 64]);
    bytes.extend_from_slice(&start.to_le_bytes());
    bytes.extend_from_slice(&(digests.len() as u32).to_le_bytes());
    digests.iter().for_each(|digest| bytes.extend_from_slice(&digest.0));
    Record::decode(ENTERS, &bytes).unwrap()
}

/// A replica that reads these records from its log, with the state at `executed`.
fn read(records: &[Record], executed: Sequence) -> Ordering {
    read_disk(log_of(records).into_device(), executed)
}

fn log_of(records: &[Record]) -> Log<Record, SimDisk> {
    let mut log = log::recover(SimDisk::new(1, GENESIS, SEGMENT), GENESIS, SEGMENT, |_| {}).unwrap().log;
    for record in records {
        if let Err((record, _)) = log.append(record.clone()) {
            log.flush().unwrap();
            log.append(record).unwrap();
        }
    }
    log.flush().unwrap();
    log
}

fn read_disk(disk: SimDisk, executed: Sequence) -> Ordering {
    let agreed = Agreed { size: Size::new(4).unwrap(), window: WINDOW, interval: WINDOW, drift_ms: 100 };
    let mut ordering = Ordering::new(ME, agreed, Timing::default(), seal::sample(ME.0));
    ordering.executed = executed;
    log::recover(disk, GENESIS, SEGMENT, |record| ordering.replay(&record)).unwrap();
    ordering.start(Now { mono_us: 0, wall_ms: 0 });
    ordering
}

/// What a replica promised and knows, to compare: for a slot what is above the stable checkpoint.
fn says(ordering: &Ordering) -> impl Debug + PartialEq + use<> {
    let own = ordering.changes[ME.index()].as_ref().map(|change| (change.view(), change.parts().0.to_vec()));
    let begun = ordering.new_view.as_ref().map(|new_view| new_view.parts().0.to_vec());
    let slots = ordering.slots.range(ordering.stable.sequence() + 1..).map(|(sequence, slot)| {
        let votes = (slot.prepare_vote(), slot.commit_vote(), slot.prepares.clone(), slot.commits.clone());
        let body = (slot.decided, slot.logged, slot.executed, slot.batch.as_ref().map(|batch| batch.digest()));
        format!("{sequence}: {votes:?} {body:?}")
    });
    let view = (ordering.view, ordering.active, ordering.restarted_leader, ordering.accepted, ordering.executed);
    let standing = format!("{:?} leading {:?}", ordering.standing, ordering.leading);
    let held = (ordering.held.report(), ordering.stable.bytes(), ordering.unvoted.clone(), ordering.proposed_ms);
    (view, own, begun, standing, held, slots.collect::<Vec<_>>())
}

fn carried(records: &[Record]) -> Vec<Record> {
    let mut kept = Vec::new();
    records.iter().for_each(|record| Record::carry(&mut kept, record));
    kept
}

/// Reads a log whole, and cut wherever all before the cut is settled by the stable checkpoint and executed; once more where it was
/// cut before. Gives how many cuts were possible.
fn check(records: &[Record], cuts: &[usize]) -> usize {
    let executed = read(records, 0).executed;
    let below = Record::bound(&carried(records)).min(executed);
    let whole = says(&read(records, 0));
    let possible = records.iter().take_while(|record| record.sequence() <= below).count();
    for cut in cuts.iter().map(|cut| cut % (possible + 1)).chain([possible]) {
        let kept = carried(&records[..cut]);
        assert!(kept.len() <= 12, "{kept:?}");
        let rest: Vec<Record> = kept.iter().chain(&records[cut..]).cloned().collect();
        let again = says(&read(&rest, below));
        assert_eq!(again, whole, "cut at {cut} of {records:#?}\ncarried {kept:#?}");
        // The carried records are folded into themselves: a later cut carries what it would have without the first.
        let later = cut + (possible - cut) / 2;
        let mut folded = kept;
        records[cut..later].iter().for_each(|record| Record::carry(&mut folded, record));
        assert_eq!(folded, carried(&records[..later]));
        assert_eq!(carried(&folded), folded);
    }
    possible
}

fn written(abstains: bool, steps: &[(u8, u8)]) -> Vec<Record> {
    let mut writer = Writer::new(if abstains { Record::Abstains } else { Record::Begins });
    steps.iter().for_each(|(kind, pick)| writer.step(*kind, *pick));
    writer.records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_log_that_was_cut_says_what_the_whole_one_says(
        abstains in prop::bool::weighted(0.2),
        steps in prop::collection::vec((0..100u8, 0..128u8), 1..160),
        cuts in prop::collection::vec(any::<usize>(), 1..4),
    ) {
        check(&written(abstains, &steps), &cuts);
    }
}

fn steps(seed: u64, count: usize) -> Vec<(u8, u8)> {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |limit: u64| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((random >> 33) % limit) as u8
    };
    (0..count).map(|_| (next(100), next(128))).collect()
}

/// The same by way of the log itself, whose segments these batches fill.
#[test]
fn a_log_that_let_go_says_what_it_said() {
    let mut cut = 0;
    for seed in 0..12 {
        let mut writer = Writer::new(Record::Begins);
        writer.is_big = true;
        steps(seed, 150).iter().for_each(|(kind, pick)| writer.step(*kind, *pick));
        let records = writer.records;
        let whole = read(&records, 0);
        let mut log = log_of(&records);
        log.release(whole.executed).unwrap();
        while log.is_releasing() {}
        let (below, stable) = (log.dropped_below(), whole.low());
        assert!(below <= stable.min(whole.executed));
        cut += usize::from(log.first_segment() > 1);
        assert_eq!(says(&read_disk(log.into_device(), stable.min(whole.executed))), says(&whole), "{records:#?}");
    }
    assert!(cut > 6, "{cut}");
}

/// The check above must reach far enough, and be able to fail: without what is carried most logs say less.
#[test]
fn without_what_is_carried_the_check_fails() {
    let (mut reached, mut differ) = (0, 0);
    for seed in 0..60 {
        let records = written(false, &steps(seed, 120));
        let possible = check(&records, &[]);
        let whole = read(&records, 0);
        let below = whole.low().min(whole.executed);
        reached += usize::from(possible > 20);
        differ += usize::from(says(&read(&records[possible..], below)) != says(&whole));
    }
    assert!(reached > 30 && differ > 30, "{reached} {differ}");
}

#[test]
fn nothing_above_the_stable_checkpoint_may_go() {
    assert_eq!(Record::bound(&[]), 0);
    let stable = |sequence| Record::Stable(Arc::new(forged(sequence)));
    assert_eq!(Record::bound(&carried(&[stable(16), stable(8)])), 16);
    // A NEW-VIEW shows a certificate as well.
    assert_eq!(Record::bound(&carried(&[stable(8), enters(1, 24, &[])])), 24);
    let kept = carried(&(1..20).map(|k| Record::Checkpoint(statement(8 * k))).collect::<Vec<_>>());
    assert_eq!(kept, [16, 17, 18, 19].map(|k| Record::Checkpoint(statement(8 * k))));
    let kept = carried(&[Record::Checkpoint(statement(8)), stable(16)]);
    assert_eq!(kept, [Record::Checkpoint(statement(8)), stable(16)], "the last signature is known");
}
