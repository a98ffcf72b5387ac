//! Reads: queued as they come, answered at the end of a turn under a budget, so that no client's questions hold up the order.

use std::collections::{BTreeMap, VecDeque};

use super::node::{ClientId, Node, Shell};
use super::{MAX_PARKED, MAX_PARKED_PER_CLIENT, MAX_WAIT_MS};
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::ordering::mutants::{self, Mutant};
use crate::state::{Answer, Application};
use crate::types::{Code, Now, PublicKey, Sequence};
use crate::wire::frame::Kind;
use crate::wire::limits::{MAX_ANSWER_BODY, MAX_COUNTERS};
use crate::wire::message::{self, ArchivedQuery, StatusAnswer};

/// Reads of one key that wait for their turn; beyond it a read is answered OVERLOADED.
pub(super) const MAX_QUEUED_READS: usize = 64;

/// Reads that a turn answers unless local settings say otherwise; the rest come at the next, which follows at once.
pub(super) const READS_A_TURN: usize = 64;

/// Bytes of entries read and of answers made after which a turn answers no more reads, unless local settings say otherwise.
const BYTES_A_TURN: usize = 512 << 10;

/// Of these one key may use one part in so many in each turn. A read that takes more keeps its key waiting for the turns that it has used up.
const KEY_SHARES: usize = 4;

/// What reads may take of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadBudget {
    /// So many are answered.
    pub reads: usize,
    /// Bytes of entries read and of answers made after which no more are.
    pub bytes: usize,
}

impl Default for ReadBudget {
    fn default() -> Self {
        Self { reads: READS_A_TURN, bytes: BYTES_A_TURN }
    }
}

impl ReadBudget {
    /// What one key may use of it, bytes.
    fn of_key(self) -> usize {
        (self.bytes / KEY_SHARES).max(1)
    }
}

/// The least and the most time between two computations of a status's digests, us: they cost more than other answers. In
/// between it is [`STATUS_PART`] times what the last one cost. Who asks earlier waits, since a status tells what is, not what was.
const STATUS_INTERVAL_US: (u64, u64) = (20_000, 2_000_000);

/// The digests of statuses take at most one part in so many of the time.
const STATUS_PART: u64 = 20;

/// How old what a status tells of the host may be, us.
const HOST_AGE_US: u64 = 1_000_000;

/// What is asked.
enum Question {
    Status,
    Query {
        query: Vec<u8>,
        min_size: u64,
        /// Answered then, whatever there is, us.
        until_us: u64,
    },
}

/// A read that is not answered yet.
struct Read {
    client: ClientId,
    key: PublicKey,
    id: u64,
    question: Question,
    /// Looked at when the history had this size.
    seen_size: Option<u64>,
}

impl Read {
    /// Whether looking at it again can give another answer.
    fn is_due(&self, size: u64, now_us: u64) -> bool {
        match &self.question {
            Question::Status => true,
            Question::Query { min_size, until_us, .. } => {
                *until_us <= now_us || (self.seen_size != Some(size) && size >= *min_size)
            }
        }
    }

    fn until_us(&self) -> u64 {
        match &self.question {
            Question::Status => 0,
            Question::Query { until_us, .. } => *until_us,
        }
    }
}

/// All reads of a node.
#[derive(Default)]
pub(super) struct Reads {
    /// What is to be looked at, by key; no queue is empty.
    queued: BTreeMap<PublicKey, VecDeque<Read>>,
    /// The key that was served last.
    last: Option<PublicKey>,
    /// What waits for the history to grow.
    parked: Vec<Read>,
    parked_of: BTreeMap<PublicKey, usize>,
    /// The parked were looked through at this size.
    seen_size: u64,
    /// Bytes that keys have used and that no turn has made good for yet.
    used: BTreeMap<PublicKey, usize>,
    status: Option<Facts>,
    /// Status questions that wait for the next digests, one of each connection: its newest.
    statuses: BTreeMap<ClientId, Read>,
}

/// What a status tells of one sequence, and of the host.
struct Facts {
    at_us: u64,
    /// The next may be found out then, us; unknown until the turn after, which follows at once, tells what these cost.
    next_us: Option<u64>,
    sequence: Sequence,
    answer: StatusAnswer,
}

impl Reads {
    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// When the next turn has something to do here, us; 0 for at once.
    pub(super) fn next_deadline_us(&self) -> u64 {
        let status = self.status.as_ref().map(|facts| facts.next_us);
        if !self.queued.is_empty() || status == Some(None) {
            return 0;
        }
        let status = status.flatten().filter(|_| !self.statuses.is_empty());
        self.parked.iter().map(Read::until_us).chain(status).min().unwrap_or(u64::MAX)
    }

    /// A turn begins: every key gets its share of it.
    fn begin(&mut self, budget: ReadBudget, size: u64, now_us: u64) {
        self.used.retain(|_, used| {
            *used = used.saturating_sub(budget.of_key());
            *used > 0
        });
        if let Some(facts) = self.status.as_mut().filter(|facts| facts.next_us.is_none()) {
            let (least, most) = STATUS_INTERVAL_US;
            let cost_us = now_us.saturating_sub(facts.at_us);
            facts.next_us = Some(now_us + cost_us.saturating_mul(STATUS_PART).clamp(least, most));
        }
        if self.status.as_ref().and_then(|facts| facts.next_us).is_none_or(|next_us| next_us <= now_us) {
            for (_, read) in std::mem::take(&mut self.statuses) {
                self.queue(read);
            }
        }
        self.unpark(size, now_us);
    }

    fn has_room(&self, key: &PublicKey) -> bool {
        self.queued.get(key).is_none_or(|queue| queue.len() < MAX_QUEUED_READS)
    }

    fn queue(&mut self, read: Read) {
        self.queued.entry(read.key).or_default().push_back(read);
    }

    /// Takes back those that can be answered now.
    fn unpark(&mut self, size: u64, now_us: u64) {
        if self.seen_size == size && self.parked.iter().all(|read| read.until_us() > now_us) {
            return;
        }
        self.seen_size = size;
        for read in self.parked.extract_if(.., |read| read.is_due(size, now_us)).collect::<Vec<_>>() {
            self.count_out(&read.key);
            self.queue(read);
        }
    }

    fn count_out(&mut self, key: &PublicKey) {
        if let Some(count) = self.parked_of.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.parked_of.remove(key);
            }
        }
    }

    /// Keeps a read for when the history has grown, or gives it back.
    fn park(&mut self, read: Read) -> Result<(), Read> {
        let count = self.parked_of.entry(read.key).or_default();
        if *count >= MAX_PARKED_PER_CLIENT || self.parked.len() >= MAX_PARKED {
            if *count == 0 {
                self.parked_of.remove(&read.key);
            }
            return Err(read);
        }
        *count += 1;
        self.parked.push(read);
        Ok(())
    }

    /// The next read, one key after the other; none of a key that has used its share of the turn.
    fn next(&mut self, budget: ReadBudget) -> Option<Read> {
        let may = |key: &PublicKey| self.used.get(key).is_none_or(|used| *used < budget.of_key());
        let after = self.last.and_then(|last| {
            let range = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            self.queued.range(range).map(|(key, _)| *key).find(may)
        });
        let key = after.or_else(|| self.queued.keys().copied().find(may))?;
        self.last = Some(key);
        let queue = self.queued.get_mut(&key)?;
        let read = queue.pop_front();
        if queue.is_empty() {
            self.queued.remove(&key);
        }
        read
    }

    pub(super) fn forget(&mut self, client: ClientId) {
        self.statuses.remove(&client);
        for read in self.parked.extract_if(.., |read| read.client == client).collect::<Vec<_>>() {
            self.count_out(&read.key);
        }
        self.queued.retain(|_, queue| {
            queue.retain(|read| read.client != client);
            !queue.is_empty()
        });
    }
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    pub(super) fn client_query(
        &mut self,
        client: ClientId,
        key: &PublicKey,
        query: &ArchivedQuery,
        now: Now,
        shell: &mut impl Shell<D>,
    ) {
        let id = query.id.to_native();
        if !self.reads.has_room(key) {
            return self.answer(client, id, Code::OVERLOADED, Answer::default(), shell);
        }
        let wait_us = u64::from(query.wait_ms.to_native().min(MAX_WAIT_MS)) * 1_000;
        let question = Question::Query {
            query: query.query.to_vec(),
            min_size: query.min_size.to_native(),
            until_us: now.mono_us.saturating_add(wait_us),
        };
        self.reads.queue(Read { client, key: *key, id, question, seen_size: None });
    }

    /// Queues a question for the status; one too many is dropped, and asked again. A key that is not in force gets no answer.
    pub(super) fn client_status(&mut self, client: ClientId, key: &PublicKey, id: u64) {
        let is_in_force = self.execution.identities().may(key, self.execution.time_ms()).is_ok();
        if is_in_force && self.reads.has_room(key) {
            self.reads.queue(Read { client, key: *key, id, question: Question::Status, seen_size: None });
        }
    }

    /// Answers what is due, as far as a turn's budget goes.
    pub(super) fn answer_reads(&mut self, now: Now, shell: &mut impl Shell<D>) {
        let budget = self.config.read_budget;
        self.reads.begin(budget, self.execution.size(), now.mono_us);
        let mut bytes = 0;
        for _ in 0..budget.reads {
            if bytes >= budget.bytes {
                return;
            }
            let Some(read) = self.reads.next(budget) else { return };
            // Who does not take answers gets none: it asks again when it does.
            if shell.takes(read.client) {
                let key = read.key;
                let used = self.answer_read(read, now, shell);
                *self.reads.used.entry(key).or_default() += used;
                bytes += used;
            }
        }
    }

    /// Answers a read, or parks it; gives the bytes that were read and made for it.
    fn answer_read(&mut self, mut read: Read, now: Now, shell: &mut impl Shell<D>) -> usize {
        let (client, id, size) = (read.client, read.id, self.execution.size());
        let Question::Query { query, min_size, until_us } = &read.question else {
            return self.answer_status(read, now, shell);
        };
        let late = *until_us <= now.mono_us;
        let mut answer = Answer::default();
        let has_grown = size >= *min_size || mutants::on(Mutant::ReadsEarly);
        // Judged where it is answered: at the size that was asked for, and by the agreed time there.
        let (code, bytes) = match self.execution.identities().may(&read.key, self.execution.time_ms()) {
            _ if !has_grown => (Code::UNAVAILABLE, 0),
            Err(code) => (code, 0),
            Ok(_) => self.execution.query(query, &mut answer),
        };
        if !late && (!has_grown || (code == Code::DONE && answer.wait)) {
            read.seen_size = Some(size);
            if self.reads.park(read).is_err() {
                self.answer(client, id, Code::OVERLOADED, Answer::default(), shell);
            }
            return bytes;
        }
        let bytes = bytes + answer.body.len();
        self.answer(client, id, code, answer, shell);
        self.close_barred(client, &read.key, shell);
        bytes
    }

    fn answer(&mut self, client: ClientId, id: u64, code: Code, answer: Answer, shell: &mut impl Shell<D>) {
        let fits = answer.body.len() + 256 <= MAX_ANSWER_BODY;
        let message = message::Answer {
            id,
            code: if fits { code.0 } else { Code::TOO_LARGE.0 },
            size: self.execution.size(),
            valid_from: answer.valid_from,
            body: if fits { answer.body } else { Vec::new() },
        };
        self.body.clear();
        message::encode(&message, &mut self.body);
        shell.to_client(client, Kind::Answer, &self.body);
    }

    fn answer_status(&mut self, read: Read, now: Now, shell: &mut impl Shell<D>) -> usize {
        let sequence = self.ordering.executed();
        let answer = match &self.reads.status {
            Some(facts) if facts.sequence == sequence && now.mono_us.saturating_sub(facts.at_us) < HOST_AGE_US => {
                facts.answer.clone()
            }
            Some(facts) if facts.next_us.is_none_or(|next_us| next_us > now.mono_us) => {
                self.reads.statuses.insert(read.client, read);
                return 0;
            }
            _ => {
                let answer = self.status(shell);
                self.reads.status = Some(Facts { at_us: now.mono_us, next_us: None, sequence, answer: answer.clone() });
                answer
            }
        };
        let Read { client, id, .. } = read;
        let evidence = self.evidence.shown();
        let (links, low_space) = (self.links, self.low_space);
        let answer = StatusAnswer { id, counters: self.all_counters(shell), evidence, links, low_space, ..answer };
        self.body.clear();
        message::encode(&answer, &mut self.body);
        shell.to_client(client, Kind::StatusAnswer, &self.body);
        self.body.len()
    }

    fn all_counters(&self, shell: &impl Shell<D>) -> Vec<message::Counter> {
        let decisions = self.ordering.decisions();
        let mut counters = self.counters.clone();
        for (name, value) in [
            ("decided.fast", decisions.fast),
            ("decided.slow", decisions.slow),
            ("decided.told", decisions.told),
            ("pool.bundles", self.ordering.pooled() as u64),
            ("reads.parked", self.reads.parked() as u64),
            ("evidence.lost", shell.evidence_lost()),
        ] {
            counters.add(name, value);
        }
        for (replica, kind, count) in self.evidence.counts() {
            counters.add(&format!("misbehaviour.replica-{replica}.{kind}"), count);
        }
        let mut all = counters.all();
        all.truncate(MAX_COUNTERS);
        all
    }

    fn status(&mut self, shell: &impl Shell<D>) -> StatusAnswer {
        let host = shell.host();
        StatusAnswer {
            id: 0,
            replica: self.config.me.0,
            view: self.ordering.view(),
            leader: self.ordering.leader().0,
            sequence: self.ordering.executed(),
            size: self.execution.size(),
            history_root: self.execution.history_root().0,
            state_root: self.execution.state_root().0,
            state_digest: self.execution.state_digest().0,
            log_bytes: self.log.bytes(),
            resident_bytes: host.resident_bytes,
            anonymous_bytes: host.anonymous_bytes,
            links: self.links,
            abstains: self.ordering.abstains().is_some(),
            needs: self.ordering.abstains().flatten().unwrap_or(0),
            pid: host.pid,
            free_bytes: host.free_bytes,
            low_space: self.low_space,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            counters: Vec::new(),
            evidence: Vec::new(),
        }
    }
}
