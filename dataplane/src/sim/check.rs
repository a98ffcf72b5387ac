//! What must hold, restated without the code under test.
//!
//! The checker sees what each correct replica sends, holds and has executed after every turn. It keeps one history and one
//! list of executions for the whole cluster; the first replica to get somewhere writes, all others, and the same one
//! after a crash, must have the same. It reads the records of the log from the disk's durable bytes by its own parser.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest::{SHA256, digest};

use super::application::{Applied, Operation};
use super::client::Accepted;
use super::heads::Heads;
use super::linear::Linear;
use super::reads::Found;
use crate::log::SimDisk;
use crate::types::{Digest, Position, PublicKey};
use crate::wire::frame::Kind;
use crate::wire::message::{self, Checkpoint, Cosignature, Decided, NewView, PrePrepare, ViewChange, Votes};

/// Records that may wait for a log, beside what a window gives.
const MOST_WAITING: u64 = 512;

type Vote = (Kind, u64, u64, [u8; 32]);

/// The votes that a disk's durable records promise, read on as they grow.
#[derive(Default)]
struct DurableVotes {
    segment: u32,
    offset: usize,
    votes: BTreeSet<Vote>,
    /// Views that the replica asked for.
    left: BTreeSet<u64>,
    /// Heads that it promised to sign.
    promised: BTreeSet<(u64, [u8; 32])>,
}

impl DurableVotes {
    fn read_on(&mut self, disk: &SimDisk) {
        let first = disk.segment_numbers().first().copied().unwrap_or(0);
        if self.segment < first {
            (self.segment, self.offset) = (first, 0);
        }
        if self.offset == 0 {
            self.offset = 4_096;
        }
        while let Some(bytes) = disk.durable(self.segment) {
            let header = bytes.get(self.offset..self.offset + 40);
            if header.is_none_or(|header| header[20] == 255) {
                (self.segment, self.offset) = (self.segment + 1, 4_096);
                continue;
            }
            let Some(header) = header else { return };
            if header[20] == 0 {
                return;
            }
            let length = number(&header[16..20]) as usize;
            let payload = &bytes[self.offset + 40..self.offset + 40 + length];
            self.offset += (40 + length).next_multiple_of(8);
            let (sequence, rest) = payload.split_at(8);
            match header[20] {
                1 => drop(self.votes.insert((
                    Kind::Prepare,
                    number(&rest[..8]),
                    number(sequence),
                    digest_of(&rest[8..]),
                ))),
                2 => {
                    let mut voted = [0; 32];
                    voted.copy_from_slice(&rest[8..40]);
                    self.votes.insert((Kind::Commit, number(&rest[..8]), number(sequence), voted));
                }
                5 => {
                    let mut voted = [0; 32];
                    voted.copy_from_slice(&rest[8..40]);
                    self.votes.insert((Kind::Prepare, number(&rest[..8]), number(sequence), voted));
                }
                6 => drop(self.left.insert(number(&rest[..8]))),
                14 => drop(self.promised.insert((number(&rest[..8]), digest_at(&rest[8..])))),
                _ => {}
            }
        }
    }
}

fn number(little_endian: &[u8]) -> u64 {
    little_endian.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn digest_at(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(bytes);
    out
}

/// The digest of a logged batch: time, count, and of each bundle the COSE bytes' digest.
fn digest_of(batch: &[u8]) -> [u8; 32] {
    let (time, mut rest) = batch.split_at(8);
    let mut bytes = b"atlas-batch/1".to_vec();
    bytes.extend(time.iter().rev());
    let count = number(&rest[..4]);
    bytes.extend(rest[..4].iter().rev());
    rest = &rest[4..];
    for _ in 0..count {
        let (cose, requests) = (number(&rest[..4]) as usize, number(&rest[4..8]) as usize);
        let lengths: usize = rest[8..8 + 4 * requests].chunks(4).map(|length| number(length) as usize).sum();
        rest = &rest[8 + 4 * requests..];
        bytes.extend_from_slice(digest(&SHA256, &rest[..cose]).as_ref());
        rest = &rest[cose + lengths..];
    }
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    out
}

/// What a correct replica shows after a turn.
pub(super) struct View<'a> {
    pub(super) replica: usize,
    pub(super) executed: u64,
    pub(super) size: u64,
    pub(super) state: Digest,
    /// Executions that its state was restored with, and those since.
    pub(super) before: usize,
    pub(super) applied: &'a [Applied],
}

/// What a replica was seen to have.
#[derive(Default)]
struct Seen {
    executed: u64,
    applied: usize,
    entries: u64,
    view: u64,
}

/// What the checker expects a client to be told.
struct Expected {
    operation: Operation,
    code: u16,
    /// CBOR of the changes.
    changes: Vec<u8>,
    time_ms: i64,
    detail: String,
}

/// See the module.
pub(super) struct Checker {
    /// Whether votes are held against the disk.
    pub(super) check_disk: bool,
    entries: Vec<Vec<u8>>,
    /// History size and state at the sequences where a replica was seen to stand.
    at: BTreeMap<u64, (u64, Digest)>,
    applied: Vec<Applied>,
    expected: BTreeMap<Position, Expected>,
    registers: BTreeMap<u8, (u64, u64)>,
    signed: BTreeMap<Operation, PublicKey>,
    executed_numbers: BTreeSet<(u32, u64, u64)>,
    /// The last revision that each entry wrote, by register and entry.
    written: BTreeMap<(u8, u64), u64>,
    accepted_at: BTreeSet<Position>,
    linear: Linear,
    heads: Heads,
    /// The cluster's window of sequences.
    pub(super) window: u64,
    /// Replicas that are Byzantine or lacked records without noticing: their votes are not noted, and may be anything.
    pub(super) faulty: BTreeSet<usize>,
    /// The highest view in which each replica voted or proposed, or that it began.
    voted_in: Vec<u64>,
    /// The VIEW-CHANGE of each view that a replica sent.
    changes: BTreeMap<(usize, u64), Vec<u8>>,
    votes: BTreeMap<(usize, Kind, u64, u64), [u8; 32]>,
    /// What a quorum of correct replicas voted COMMIT for at each sequence, and the lowest view in which it did.
    settled: BTreeMap<u64, (u64, [u8; 32])>,
    /// The latest view that each replica asked for.
    asked_for: Vec<u64>,
    /// What correct replicas said is decided, at each sequence.
    decided: BTreeMap<u64, [u8; 32]>,
    /// The NEW-VIEW of each view that a replica passed on or sent.
    began: BTreeMap<(usize, u64), Vec<u8>>,
    /// The state that was signed at each checkpoint.
    checkpoints: BTreeMap<u64, Vec<u8>>,
    durable: Vec<DurableVotes>,
    seen: Vec<Seen>,
    /// Results that clients took.
    pub(super) accepted: u64,
    pub(super) votes_checked: u64,
}

impl Checker {
    pub(super) fn new(n: usize, check_disk: bool) -> Self {
        Self {
            check_disk,
            entries: Vec::new(),
            at: BTreeMap::new(),
            applied: Vec::new(),
            expected: BTreeMap::new(),
            registers: BTreeMap::new(),
            signed: BTreeMap::new(),
            executed_numbers: BTreeSet::new(),
            written: BTreeMap::new(),
            accepted_at: BTreeSet::new(),
            linear: Linear::default(),
            heads: Heads::new(n),
            window: u64::MAX / 2,
            faulty: BTreeSet::new(),
            voted_in: vec![0; n],
            changes: BTreeMap::new(),
            votes: BTreeMap::new(),
            settled: BTreeMap::new(),
            asked_for: vec![0; n],
            decided: BTreeMap::new(),
            began: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            durable: (0..n).map(|_| DurableVotes::default()).collect(),
            seen: (0..n).map(|_| Seen::default()).collect(),
            accepted: 0,
            votes_checked: 0,
        }
    }

    /// A client signed an operation.
    pub(super) fn signed(&mut self, operation: Operation, key: PublicKey) {
        self.signed.insert(operation, key);
        self.linear.asked(operation);
    }

    /// Executions that the cluster agreed on.
    pub(super) fn executions(&self) -> usize {
        self.applied.len()
    }

    /// A replica went down: it may come back with less executed, never with other promises; `promised` are the entries that it says it
    /// promised to cosign, where its disk did what it should.
    ///
    /// # Errors
    /// It forgot what it promised.
    pub(super) fn restarted(&mut self, replica: usize, disk: &SimDisk, promised: Option<u64>) -> Result<(), String> {
        if let Some(promised) = promised {
            self.heads.comes_back(replica, promised)?;
        }
        self.seen[replica] = Seen::default();
        let first = disk.segment_numbers().first().copied().unwrap_or(0);
        let durable = &mut self.durable[replica];
        // What the disk let go it had, and it was read as it came. What was lost with a disk begins anew.
        let kept = if first > 0 { std::mem::take(durable) } else { DurableVotes::default() };
        *durable = DurableVotes { segment: first, offset: 0, ..kept };
        Ok(())
    }

    /// A correct replica sends a message; with its disk, where that does what it should.
    pub(super) fn leaves(
        &mut self,
        replica: usize,
        kind: Kind,
        body: &[u8],
        disk: Option<&SimDisk>,
    ) -> Result<(), String> {
        if kind == Kind::Decided {
            let decided = message::access::<Decided>(body).map_err(|error| format!("replica {replica}: {error}"))?;
            for item in decided.decided.iter() {
                let (sequence, said) = (item.sequence.to_native(), item.digest);
                let first = *self.decided.entry(sequence).or_insert(said);
                if first != said {
                    return Err(format!(
                        "replica {replica} says another digest is decided at {sequence} than one before"
                    ));
                }
            }
            return Ok(());
        }
        if kind == Kind::NewView {
            let message = message::access::<NewView>(body).map_err(|error| format!("replica {replica}: {error}"))?;
            let view = number(&message.body[..8]);
            let is_own = usize::from(message.body[8]) == replica;
            let first = self.began.entry((replica, view)).or_insert_with(|| message.body.to_vec());
            if is_own && *first != *message.body {
                return Err(format!("replica {replica} begins view {view} twice"));
            }
            return if is_own { self.goes_on(replica, kind, view) } else { Ok(()) };
        }
        if kind == Kind::Checkpoint {
            let message = message::access::<Checkpoint>(body).map_err(|error| format!("replica {replica}: {error}"))?;
            let first = self.checkpoints.entry(number(&message.body[..8])).or_insert_with(|| message.body.to_vec());
            return if *first == *message.body {
                Ok(())
            } else {
                Err(format!(
                    "replica {replica} signs another state at checkpoint {} than one before",
                    number(&message.body[..8])
                ))
            };
        }
        if kind == Kind::Cosignature {
            let message =
                message::access::<Cosignature>(body).map_err(|error| format!("replica {replica}: {error}"))?;
            let disk = disk.filter(|_| self.check_disk);
            if let Some(disk) = disk {
                self.durable[replica].read_on(disk);
            }
            let durable = disk.map(|_| &self.durable[replica].promised);
            return self.heads.leaves(replica, message, &self.entries, durable);
        }
        if kind == Kind::ViewChange {
            return self.view_change_leaves(replica, body, disk);
        }
        if kind == Kind::PrePrepare {
            let proposal =
                message::access::<PrePrepare>(body).map_err(|error| format!("replica {replica}: {error}"))?;
            let (view, sequence) = (proposal.view.to_native(), proposal.sequence.to_native());
            self.goes_on(replica, kind, view)?;
            let first = *self.votes.entry((replica, kind, view, sequence)).or_insert(proposal.digest);
            return if first == proposal.digest {
                Ok(())
            } else {
                Err(format!("replica {replica} proposes twice for view {view}, sequence {sequence}"))
            };
        }
        if !matches!(kind, Kind::Prepare | Kind::Commit) {
            return Ok(());
        }
        let votes = Votes::access(body).map_err(|error| format!("replica {replica} sends malformed votes: {error}"))?;
        let view = votes.view.to_native();
        let disk = disk.filter(|_| self.check_disk);
        if let Some(disk) = disk {
            self.durable[replica].read_on(disk);
        }
        self.goes_on(replica, kind, view)?;
        for vote in votes.votes.iter() {
            let (sequence, voted) = (vote.sequence.to_native(), vote.digest);
            self.votes_checked += 1;
            let first = *self.votes.entry((replica, kind, view, sequence)).or_insert(voted);
            if first != voted {
                return Err(format!("replica {replica} sends two {kind:?} for view {view}, sequence {sequence}"));
            }
            if disk.is_some() && !self.durable[replica].votes.contains(&(kind, view, sequence, voted)) {
                return Err(format!(
                    "replica {replica} sends {kind:?} for view {view}, sequence {sequence} without a durable record"
                ));
            }
            if kind == Kind::Commit {
                self.is_prepared(replica, view, sequence, voted)?;
            }
            self.settles(replica, kind, view, sequence, voted)?;
        }
        Ok(())
    }

    /// A replica speaks in a view: it asked for none above it, and spoke in none above it.
    fn goes_on(&mut self, replica: usize, kind: Kind, view: u64) -> Result<(), String> {
        let (asked_for, voted_in) = (self.asked_for[replica], self.voted_in[replica]);
        if view < asked_for {
            return Err(format!("replica {replica} sends {kind:?} for view {view} after it asked for {asked_for}"));
        }
        if view < voted_in {
            return Err(format!("replica {replica} sends {kind:?} for view {view} after it took part in {voted_in}"));
        }
        self.voted_in[replica] = view;
        Ok(())
    }

    /// Who votes COMMIT has PREPAREs of a quorum: its own, which may not have left yet, and others'; what faulty ones sent is not known.
    fn is_prepared(&self, replica: usize, view: u64, sequence: u64, voted: [u8; 32]) -> Result<(), String> {
        let n = self.seen.len();
        let prepared = |other: &usize| self.votes.get(&(*other, Kind::Prepare, view, sequence)) == Some(&voted);
        let count = (0..n).filter(|other| *other == replica || self.faulty.contains(other) || prepared(other)).count();
        if count > (n + (n - 1) / 3) / 2 {
            return Ok(());
        }
        Err(format!("replica {replica} sends COMMIT for view {view}, sequence {sequence} without a quorum of PREPAREs"))
    }

    /// What q correct replicas committed to is decided: later views may choose nothing else.
    fn settles(&mut self, replica: usize, kind: Kind, view: u64, sequence: u64, voted: [u8; 32]) -> Result<(), String> {
        if let Some((settled_in, settled)) = self.settled.get(&sequence) {
            return if view > *settled_in && voted != *settled {
                Err(format!(
                    "replica {replica} sends {kind:?} in view {view} against what view {settled_in} decided at {sequence}"
                ))
            } else {
                Ok(())
            };
        }
        let n = self.seen.len();
        let commits = (0..n).filter(|other| self.votes.get(&(*other, Kind::Commit, view, sequence)) == Some(&voted));
        // More than half of n + f.
        if commits.count() > (n + (n - 1) / 3) / 2 {
            self.settled.insert(sequence, (view, voted));
        }
        Ok(())
    }

    /// A correct replica says that it leaves: on disk first, and never for a lower view than before. It must report every vote
    /// that it ever sent above its checkpoint, but for later ones at the same sequence.
    fn view_change_leaves(&mut self, replica: usize, body: &[u8], disk: Option<&SimDisk>) -> Result<(), String> {
        let message = message::access::<ViewChange>(body).map_err(|error| format!("replica {replica}: {error}"))?;
        let bytes = &message.body;
        let view = number(&bytes[..8]);
        if view < self.asked_for[replica] {
            return Err(format!("replica {replica} asks for view {view} after {}", self.asked_for[replica]));
        }
        if view < self.voted_in[replica] {
            return Err(format!(
                "replica {replica} asks for view {view} after it took part in {}",
                self.voted_in[replica]
            ));
        }
        self.asked_for[replica] = view;
        let low = number(&bytes[9..17]);
        let first = self.changes.entry((replica, view)).or_insert_with(|| bytes.to_vec());
        // Who lost its records may ask again, from a checkpoint behind all that it can have said when it asked first.
        if low >= number(&first[9..17]) + self.window {
            *first = bytes.to_vec();
        }
        if *first != **bytes {
            return Err(format!("replica {replica} sends two VIEW-CHANGEs for view {view}"));
        }
        if let Some(disk) = disk.filter(|_| self.check_disk) {
            self.durable[replica].read_on(disk);
            if !self.durable[replica].left.contains(&view) {
                return Err(format!("replica {replica} asks for view {view} without a durable record"));
            }
        }
        let signatures = number(&bytes[153..157]) as usize;
        let mut rest = &bytes[157 + 65 * signatures..];
        let mut lists = [BTreeMap::new(), BTreeMap::new()];
        for list in &mut lists {
            let count = number(&rest[..4]) as usize;
            for entry in rest[4..4 + 48 * count].chunks(48) {
                list.insert((number(&entry[..8]), digest_at(&entry[8..40])), number(&entry[40..48]));
            }
            rest = &rest[4 + 48 * count..];
        }
        let [prepared, pre_prepared] = lists;
        for ((_, kind, voted_in, sequence), voted) in
            self.votes.range((replica, Kind::Handshake, 0, 0)..(replica + 1, Kind::Handshake, 0, 0))
        {
            if *sequence <= low || *voted_in >= view || *kind == Kind::PrePrepare {
                continue;
            }
            let reported = match kind {
                Kind::Prepare => pre_prepared.get(&(*sequence, *voted)).is_some_and(|last| last >= voted_in),
                _ => prepared.iter().any(|((at, digest), last)| {
                    at == sequence && (last > voted_in || last == voted_in && digest == voted)
                }),
            };
            if !reported {
                return Err(format!(
                    "replica {replica} asks for view {view} and conceals {kind:?} of view {voted_in}, sequence {sequence}"
                ));
            }
        }
        Ok(())
    }

    /// What a correct replica shows of its place after every turn: it goes back to no earlier view, unless it lost its records, and
    /// what waits for its log is bounded.
    pub(super) fn stands(&mut self, replica: usize, view: u64, abstains: bool, backlog: usize) -> Result<(), String> {
        let before = std::mem::replace(&mut self.seen[replica].view, view);
        if view < before && !abstains {
            return Err(format!("replica {replica} goes back from view {before} to {view}"));
        }
        if backlog as u64 > MOST_WAITING.saturating_add(self.window.saturating_mul(16)) {
            return Err(format!("replica {replica} keeps {backlog} records that wait for its log"));
        }
        Ok(())
    }

    /// What a replica had executed when it was looked at last.
    pub(super) fn executed(&self, replica: usize) -> u64 {
        self.seen[replica].executed
    }

    /// Whether every result that a client took lies below a history size.
    pub(super) fn all_there(&self, size: u64) -> bool {
        self.accepted_at.last().is_none_or(|last| last.entry < size)
    }

    /// The next entry that is to be compared of a replica's history.
    pub(super) fn next_entry(&self, replica: usize) -> u64 {
        self.seen[replica].entries
    }

    /// Compares an entry with what others have there.
    pub(super) fn entry(&mut self, replica: usize, index: u64, bytes: &[u8]) -> Result<(), String> {
        match self.entries.get(index as usize) {
            None => self.entries.push(bytes.to_vec()),
            Some(entry) if entry == bytes => {}
            Some(_) => return Err(format!("replica {replica} has another entry {index} than a replica before it")),
        }
        self.seen[replica].entries = index + 1;
        Ok(())
    }

    /// Compares what a replica has executed with what others have.
    pub(super) fn turned(&mut self, view: &View<'_>) -> Result<(), String> {
        let replica = view.replica;
        if view.executed < self.seen[replica].executed {
            let before = self.seen[replica].executed;
            return Err(format!("replica {replica} goes back from sequence {before} to {}", view.executed));
        }
        self.seen[replica].executed = view.executed;
        let now = (view.size, view.state);
        let first = *self.at.entry(view.executed).or_insert(now);
        if first != now {
            return Err(format!("replica {replica} differs at sequence {}: {now:?}, before {first:?}", view.executed));
        }
        if view.before > self.applied.len() {
            return Err(format!("replica {replica} took a state of {} executions that nobody has", view.before));
        }
        let known = self.seen[replica].applied.saturating_sub(view.before);
        for (index, applied) in view.applied.iter().enumerate().skip(known) {
            match self.applied.get(view.before + index) {
                Some(before) if before == applied => {}
                Some(before) => {
                    return Err(format!("replica {replica} executes {applied:?} where another executed {before:?}"));
                }
                None => self.apply(replica, applied)?,
            }
        }
        self.seen[replica].applied = view.before + view.applied.len();
        Ok(())
    }

    /// A first execution: signed by its origin, for the first time, later than all before. Works out what it must give.
    fn apply(&mut self, replica: usize, applied: &Applied) -> Result<(), String> {
        let operation = applied.operation;
        if self.signed.get(&operation) != Some(&applied.origin) {
            return Err(format!("replica {replica} executes {operation:?}, which {:?} did not sign", applied.origin));
        }
        if !self.executed_numbers.insert((operation.client, operation.session, operation.number)) {
            return Err(format!("replica {replica} executes a number twice: {operation:?}"));
        }
        if let Some(last) = self.applied.last()
            && (last.position >= applied.position || last.time_ms > applied.time_ms)
        {
            return Err(format!("replica {replica} executes {applied:?} after {last:?}"));
        }
        let (revision, previous) = self.registers.get(&operation.register).copied().unwrap_or((0, 0));
        let done = operation.revision == u64::MAX || operation.revision == revision;
        let mut changes = vec![0x80];
        if done {
            changes = vec![0x81, 0x83, 0x00];
            put_cbor(&mut changes, revision + 1);
            if revision == 0 {
                changes.push(0xf6);
            } else {
                put_cbor(&mut changes, previous);
            }
            self.registers.insert(operation.register, (revision + 1, applied.position.entry));
            self.written.insert((operation.register, applied.position.entry), revision + 1);
        }
        let detail = if done { String::new() } else { format!("the revision is {revision}") };
        let code = if done { 0 } else { 300 };
        let expected = Expected { operation, code, changes, time_ms: applied.time_ms, detail };
        self.expected.insert(applied.position, expected);
        self.applied.push(applied.clone());
        Ok(())
    }

    /// A client took a result: it must be that of its operation, where the order has it.
    pub(super) fn accepted(&mut self, client: usize, accepted: &Accepted) -> Result<(), String> {
        self.accepted += 1;
        let Some(operation) = accepted.operation else { return Ok(()) };
        let reply = &accepted.reply;
        let position = Position { entry: reply.entry, request: reply.request };
        self.accepted_at.insert(position);
        let Some(expected) = self.expected.get(&position) else {
            return Err(format!("client {client} took a result at {position} where nothing was executed"));
        };
        let same = expected.operation == operation
            && expected.code == reply.code
            && *expected.changes == *reply.changes
            && expected.detail == reply.detail
            && expected.time_ms == reply.time_ms;
        if !same {
            return Err(format!("client {client} took {reply:?}, which the order does not give"));
        }
        let told = self.linear.told(&operation, position, reply.time_ms, reply.code, &reply.changes, &reply.detail);
        told.map_err(|what| format!("client {client} took what is not linearizable: {what}"))
    }

    /// A client took the value of a register: the one at the position that it asked for, or at all positions for which the answer
    /// says that it holds.
    pub(super) fn read(&mut self, client: usize, found: &Found) -> Result<(), String> {
        let last = found.at.unwrap_or(found.size.saturating_sub(1).max(found.valid_from));
        let before = self.written.range((found.register, 0)..=(found.register, last)).next_back();
        let (revision, entry) = before.map_or((0, 0), |((_, entry), revision)| (*revision, *entry));
        let is_known = last < self.entries.len() as u64;
        let same = found.body == [revision.to_be_bytes(), entry.to_be_bytes()].concat() && found.valid_from == entry;
        if is_known && same {
            return Ok(());
        }
        Err(format!(
            "client {client} read {found:?}; the order gives revision {revision} of entry {entry} up to {last}"
        ))
    }
}

/// An unsigned number in CBOR, as short as it can be.
fn put_cbor(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=23 => out.push(value as u8),
        24..=0xff => out.extend([0x18, value as u8]),
        0x100..=0xffff => {
            out.push(0x19);
            out.extend((value as u16).to_be_bytes());
        }
        _ => {
            out.push(0x1a);
            out.extend((value as u32).to_be_bytes());
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
