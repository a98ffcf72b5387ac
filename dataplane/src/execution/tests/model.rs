//! The rules once more, as simply as can be: nothing is ever forgotten, everything is searched from the start.

use super::*;

const WINDOW: u64 = 4;
const IDLE: TimeMs = 100;

/// One bundle of a script; numbers are reduced to what exists when it is made.
#[derive(Clone, Debug)]
pub(super) struct Pick {
    /// Below 40: an earlier bundle again.
    replay: u8,
    which: usize,
    identity: u8,
    /// 0 opens a session, 1 names one that never was, others one that was opened.
    session: u8,
    /// Distance of the first number from the lowest free one.
    first: i64,
    /// Register, amount, and deadline from now where below 20.
    operations: Vec<(u8, u8, i64)>,
    time: TimeMs,
}

/// One batch: how far the leader's time moves, and its bundles.
pub(super) type Step = (TimeMs, Vec<Pick>);

pub(super) fn script() -> impl Strategy<Value = Vec<Step>> {
    let operation = (prop::sample::select(vec![1u8, 2, 12]), 0..3u8, -3..60i64);
    let pick = (
        (0..100u8, any::<usize>(), prop::sample::select(vec![1u8, 1, 1, 2, 2, 3, 4, 7]), 0..12u8, -7..7i64),
        prop::collection::vec(operation, 1..7),
        prop::sample::select(vec![0, 0, 0, 1, -50, 50, -99, 100, 101, -101]),
    );
    let pick = pick.prop_map(|((replay, which, identity, session, first), operations, time)| Pick {
        replay,
        which,
        identity,
        session,
        first,
        operations,
        time,
    });
    let time = prop::sample::select(vec![0, 1, 5, -20, 40, 105]);
    prop::collection::vec((time, prop::collection::vec(pick, 0..5)), 1..25)
}

/// Path, revision, previous entry.
type ModelChange = (u64, u64, Option<u64>);

/// Whose key it is; 7 is unknown.
fn identity(of: &PublicKey) -> u8 {
    (1..=7).find(|identity| key(*identity) == *of).unwrap()
}

struct ModelSession {
    id: u64,
    owner: PublicKey,
    opening: Digest,
    opening_time_ms: TimeMs,
    last_entry: u64,
    last_time_ms: TimeMs,
    is_open: bool,
    /// What lies below was forgotten, for want of room.
    base: u64,
    /// Everything that was ever executed in it.
    done: BTreeMap<u64, (Vec<u8>, Reply)>,
}

impl ModelSession {
    fn low(&self) -> u64 {
        (0..).find(|number| !self.done.contains_key(number)).unwrap()
    }

    /// The lowest number that is remembered.
    fn floor(&self) -> u64 {
        self.base.max(self.low().saturating_sub(WINDOW))
    }

    fn bytes(&self) -> usize {
        self.done.range(self.floor()..).map(|(_, (_, reply))| 128 + reply.detail.len()).sum()
    }

    /// `Ok(None)`: new. `Ok(Some)`: the reply from before.
    fn judge(&self, number: u64, request: &[u8]) -> Result<Option<&Reply>, Code> {
        let low = i128::from(self.low());
        let n = i128::from(number);
        match self.done.get(&number) {
            _ if n < i128::from(self.floor()) => Err(Code::STALE_NUMBER),
            _ if n >= low + i128::from(WINDOW) => Err(Code::BEYOND_WINDOW),
            Some((before, reply)) if before == request => Ok(Some(reply)),
            Some(_) => Err(Code::CONFLICT),
            None => Ok(None),
        }
    }
}

struct Model {
    sessions: Vec<ModelSession>,
    size: u64,
    now: TimeMs,
    sequence: u64,
    /// Every write: register and entry.
    writes: Vec<(u8, u64)>,
    last_state_ms: TimeMs,
    bundle_since_state: bool,
    /// What an identity may keep.
    identity_bytes: usize,
}

fn refused(bundle: &Bundle, code: Code) -> Settled {
    let mut settled = Settled { bundle: bundle.digest(), replies: vec![], refusals: vec![] };
    for index in 0..u64::from(bundle.header().count) {
        note(&mut settled, bundle.header().first + index, code);
    }
    settled
}

fn note(settled: &mut Settled, number: u64, code: Code) {
    match settled.refusals.last_mut() {
        Some(last) if last.code == code && last.first + u64::from(last.count) == number => last.count += 1,
        _ => settled.refusals.push(Refusal { first: number, count: 1, code }),
    }
}

impl Model {
    /// The place of the bundle's session; `Ok(None)` where it opens one.
    fn find(&self, bundle: &Bundle, is_ordered: bool) -> Result<Option<usize>, Code> {
        if identity(bundle.key()) > 4 {
            return Err(Code::UNKNOWN_IDENTITY);
        }
        let header = bundle.header();
        let found = match header.session {
            Some(id) => self.sessions.iter().position(|s| s.is_open && s.id == id),
            None => self.sessions.iter().position(|s| s.is_open && s.opening == bundle.digest()),
        };
        match (found, header.session) {
            (Some(place), _) if self.sessions[place].owner != *bundle.key() => Err(Code::FOREIGN_SESSION),
            (Some(place), _) => Ok(Some(place)),
            (None, Some(_)) => Err(Code::UNKNOWN_SESSION),
            (None, None) => {
                let closed = self.sessions.iter().filter(|s| !s.is_open && s.owner == *bundle.key());
                let floor = closed.map(|s| s.opening_time_ms).max().unwrap_or(TimeMs::MIN);
                let (time, now) = (header.client_time_ms, self.now);
                let is_fresh = time >= now - IDLE && time > floor && !(is_ordered && time > now + IDLE);
                if is_fresh { Ok(None) } else { Err(Code::EXPIRED) }
            }
        }
    }

    fn admit(&self, bundle: &Bundle) -> Admission {
        if identity(bundle.key()) <= 4 && bundle.header().session.is_some_and(|id| id >= self.size) {
            return Admission::Order;
        }
        let session = match self.find(bundle, false) {
            Err(code) => return Admission::Settled(refused(bundle, code)),
            Ok(None) => return Admission::Order,
            Ok(Some(place)) => &self.sessions[place],
        };
        let mut settled = Settled { bundle: bundle.digest(), replies: vec![], refusals: vec![] };
        for (index, request) in bundle.requests().enumerate() {
            let number = bundle.header().first + index as u64;
            match session.judge(number, request) {
                Ok(None) => return Admission::Order,
                Ok(Some(reply)) => settled.replies.push(reply.clone()),
                Err(Code::BEYOND_WINDOW) if number < session.low() + 2 * WINDOW => return Admission::Order,
                Err(code) => note(&mut settled, number, code),
            }
        }
        Admission::Settled(settled)
    }

    fn execute(&mut self, bundle: &Bundle) -> Settled {
        let place = match self.find(bundle, true) {
            Err(code) => return refused(bundle, code),
            Ok(Some(place)) => place,
            Ok(None) => {
                let mine = |s: &&mut ModelSession| s.is_open && s.owner == *bundle.key();
                if self.sessions.iter_mut().filter(mine).count() == 2 {
                    self.sessions.iter_mut().filter(mine).min_by_key(|s| s.last_entry).unwrap().is_open = false;
                }
                self.sessions.push(ModelSession {
                    id: self.size,
                    owner: *bundle.key(),
                    opening: bundle.digest(),
                    opening_time_ms: bundle.header().client_time_ms,
                    last_entry: 0,
                    last_time_ms: 0,
                    is_open: true,
                    base: 0,
                    done: BTreeMap::new(),
                });
                self.sessions.len() - 1
            }
        };
        let mut settled = Settled { bundle: bundle.digest(), replies: vec![], refusals: vec![] };
        for (index, request) in bundle.requests().enumerate() {
            let number = bundle.header().first + index as u64;
            match self.sessions[place].judge(number, request) {
                Ok(Some(_)) => {}
                Err(code) => note(&mut settled, number, code),
                Ok(None) => {
                    let reply = self.reply(bundle, self.sessions[place].id, number, index as u16, request);
                    let before = self.sessions[place].done.insert(number, (request.to_vec(), reply.clone()));
                    assert!(before.is_none());
                    settled.replies.push(reply);
                }
            }
        }
        if !settled.replies.is_empty() {
            self.sessions[place].last_entry = self.size;
            self.sessions[place].last_time_ms = self.now;
            self.size += 1;
            self.bundle_since_state = true;
            self.make_room(place);
        }
        settled
    }

    fn make_room(&mut self, used: usize) {
        let owner = self.sessions[used].owner;
        loop {
            let mut mine: Vec<usize> = (0..self.sessions.len())
                .filter(|place| self.sessions[*place].is_open && self.sessions[*place].owner == owner)
                .collect();
            mine.sort_by_key(|place| self.sessions[*place].last_entry);
            if mine.iter().map(|place| self.sessions[*place].bytes()).sum::<usize>() <= self.identity_bytes {
                return;
            }
            let past = mine.iter().find(|place| self.sessions[**place].floor() < self.sessions[**place].low());
            if let Some(place) = past {
                self.sessions[*place].base = self.sessions[*place].floor() + 1;
            } else if mine[0] != used {
                self.sessions[mine[0]].is_open = false;
            } else {
                return;
            }
        }
    }

    fn reply(&mut self, bundle: &Bundle, session: u64, number: u64, request: u16, bytes: &[u8]) -> Reply {
        let (code, change, detail) = self.outcome(bundle, request, bytes);
        let changes = minicbor::to_vec(change.as_slice()).unwrap();
        let (sequence, entry, time_ms) = (self.sequence, self.size, self.now);
        Reply { session, number, sequence, entry, request, time_ms, code: code.0, changes: changes.into(), detail }
    }

    fn outcome(&mut self, bundle: &Bundle, index: u16, bytes: &[u8]) -> (Code, Vec<ModelChange>, String) {
        let request = Request::decode(bytes).unwrap();
        if request.not_after_ms.is_some_and(|limit| limit < self.now) {
            return (Code::EXPIRED, vec![], String::new());
        }
        let Some((register, amount)) = decode(request.operation) else { return (Code::DONE, vec![], String::new()) };
        match identity(bundle.key()) {
            1 | 2 => {}
            3 if register == 12 || register == 1 => {}
            _ => return (Code::FORBIDDEN, vec![], String::new()),
        }
        if amount == 0 {
            return (Code::BAD_VALUE, vec![], format!("nothing to add at {}.{index}", self.size));
        }
        let before: Vec<_> = self.writes.iter().filter(|write| write.0 == register).collect();
        let change = (u64::from(register), before.len() as u64 + 1, before.last().map(|write| write.1));
        self.writes.push((register, self.size));
        (Code::DONE, vec![change], String::new())
    }

    fn step(&mut self, time_ms: TimeMs, bundles: &[Arc<Bundle>]) -> Executed {
        self.sequence += 1;
        self.now = self.now.max(time_ms);
        for session in &mut self.sessions {
            session.is_open &= session.last_time_ms >= self.now - IDLE;
        }
        let first_entry = self.size;
        let settled = bundles.iter().map(|bundle| self.execute(bundle)).collect();
        let is_due = self.bundle_since_state && self.now - self.last_state_ms >= 30;
        if is_due || self.sequence.is_multiple_of(5) {
            self.size += 1;
            self.bundle_since_state = false;
            self.last_state_ms = self.now;
        }
        Executed { sequence: self.sequence, time_ms: self.now, first_entry, size: self.size, bundles: settled }
    }

    fn make(&self, pick: &Pick, pool: &[Arc<Bundle>]) -> Arc<Bundle> {
        if pick.replay < 40 && !pool.is_empty() {
            return Arc::clone(&pool[pick.which % pool.len()]);
        }
        let operation = |(register, amount, deadline): &(u8, u8, i64)| {
            let not_after_ms = (*deadline < 20).then_some(self.now + deadline);
            request(not_after_ms, &operation(*register, *amount))
        };
        let requests: Vec<_> = pick.operations.iter().map(operation).collect();
        let time_ms = self.now + pick.time;
        match (pick.session, self.sessions.len()) {
            (0, _) | (_, 0) => open(pick.identity, time_ms, &requests),
            (1, _) => sign(pick.identity, Some(pick.which as u64 % (self.size + 2)), 0, &requests, time_ms),
            (_, count) => {
                let session = &self.sessions[count - 1 - pick.which % count.min(4)];
                let first = session.low().saturating_add_signed(pick.first);
                // Mostly its owner; now and then somebody else.
                let identity = if pick.session < 11 { identity(&session.owner) } else { pick.identity };
                sign(identity, Some(session.id), first, &requests, time_ms)
            }
        }
    }
}

/// Runs a script on both, comparing what each batch and each admission gives, and every entry; returns the batches and what
/// they gave.
pub(super) fn run(
    script: &[Step],
    numbers: usize,
    execution: &mut Execution<Registers, MemoryStore>,
) -> Vec<(Batch, Executed)> {
    execution.sessions.keep_numbers(numbers);
    let mut model = Model {
        identity_bytes: 128 * numbers,
        sessions: vec![],
        size: 1,
        now: START,
        sequence: 0,
        writes: vec![],
        last_state_ms: START,
        bundle_since_state: false,
    };
    let mut pool: Vec<Arc<Bundle>> = vec![];
    let mut run = vec![];
    let mut out = Executed::default();
    for (time, picks) in script {
        let bundles: Vec<_> = picks.iter().map(|pick| model.make(pick, &pool)).collect();
        pool.extend(bundles.iter().cloned());
        let batch = Batch::new(model.now + time, bundles.clone());
        let expected = model.step(batch.time_ms(), &bundles);
        execution.execute(expected.sequence, &batch, &mut out).unwrap();
        assert_eq!(out, expected);
        check_entries(execution, &out, &bundles);
        for bundle in &pool {
            assert_eq!(execution.admit(bundle), model.admit(bundle), "{bundle:?}");
        }
        execution.state_digest();
        run.push((batch, expected));
    }
    run
}

/// The new entries are the bundles that had replies, in order, then perhaps a STATE; outcomes are null where there is no reply.
fn check_entries(execution: &Execution<Registers, MemoryStore>, out: &Executed, bundles: &[Arc<Bundle>]) {
    let with_entry = bundles.iter().zip(&out.bundles).filter(|(_, settled)| !settled.replies.is_empty());
    let mut index = out.first_entry;
    for (bundle, settled) in with_entry {
        let entry = execution.entry(index).unwrap();
        let Ok(EntryView::Bundle(view)) = EntryView::decode(&entry) else { panic!("entry {index}") };
        assert_eq!((view.sequence, view.time_ms, view.cose), (out.sequence, out.time_ms, bundle.cose()));
        let again = Bundle::parse(view.cose, view.requests(), ORIGIN).unwrap();
        assert_eq!(again, **bundle);
        for (place, outcome) in view.outcomes().enumerate() {
            let reply = settled.replies.iter().find(|reply| usize::from(reply.request) == place);
            let expected = reply.map(|reply| (reply.code, reply.changes.as_slice()));
            assert_eq!(outcome.map(|outcome| (outcome.code.0, outcome.changes)), expected);
        }
        index += 1;
    }
    if index < out.size {
        let entry = execution.entry(index).unwrap();
        let Ok(EntryView::State(view)) = EntryView::decode(&entry) else { panic!("entry {index}") };
        let mut application = execution.application().clone();
        assert_eq!(view.state_root, application.state_root());
        let absence = out.sequence.is_multiple_of(5).then(|| application.absence_root());
        assert_eq!((view.absence_root, view.slot_count), (absence, application.slot_count()));
        index += 1;
    }
    assert_eq!(index, out.size);
}
