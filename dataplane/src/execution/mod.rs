//! Execution: agreed batches, one after the other, become entries, state and replies.
//!
//! [`Execution`] is a deterministic state machine: the same genesis and the same batches give the same entries, roots, replies and
//! [`Execution::state_digest`] on every replica. It reads no clock; its only output besides its answers is an
//! [`EntryStore`]. Only committed batches come here, in sequence order and once each; nothing is ever rolled back.
//!
//! # A sequence
//! 1. Agreed time becomes the batch's time or stays, whichever is later. A null batch has no time and no bundle.
//! 2. Idle sessions are closed (at most 256 a sequence).
//! 3. Each bundle in order: its session is found or opened, its requests are executed or skipped, and if at least one was
//!    executed the bundle is appended as an entry. A bundle that is refused as a whole, or has nothing new, appends none.
//! 4. A STATE entry with the absence root at every multiple of the checkpoint interval, null batch or not (a checkpoint needs its
//!    roots); else one without it where a bundle was appended since the last STATE entry and `state_interval_ms` of agreed
//!    time have passed since that entry (since the genesis for the first).
//!
//! # Identities
//! Who may do what is replicated state too, changed by key statements: [`identities`]. An operation `[4, cose_sign1]` is one, and never
//! comes to the application; where it is carried out its KEY entry follows the bundle's.
//!
//! # Sessions: every request runs at most once
//! * The bundle with session null whose request 0 is `[3]` opens a session, named by the index of that bundle's entry; its further
//!   requests run in it. A session belongs to the key that opened it.
//! * A session's window begins at the lowest number not executed, `low`. Numbers in `[low, low + W)` run in any order. What was
//!   executed in `[low - W, low + W)` is known by the digest of the request: the same request again gets its reply, another one
//!   CONFLICT. Below is STALE_NUMBER, beyond it BEYOND_WINDOW.
//! * **An outcome other than null uses up its number**, for ever: DONE, the application's refusal, or EXPIRED where agreed time is
//!   past the request's deadline. Null is everything else: repeated, in conflict, stale, beyond the window. So an auditor finds
//!   each (session, number) with exactly one outcome.
//! * A bundle is refused as a whole, without an entry, where it would use up nothing: UNKNOWN_IDENTITY, REVOKED, NOT_VALID,
//!   UNKNOWN_SESSION, FOREIGN_SESSION, and EXPIRED for one that may not open a session. So no old bundle can be replayed to make the history grow.
//! * An identity's sessions remember at most 8 MiB of executed numbers (some 65,000). Beyond it those used longest ago forget the
//!   replies below their windows, whose numbers are STALE_NUMBER then; where only numbers in open windows are left, they are closed.
//!   So STALE_NUMBER says that the number was used up, never that its request did not run.
//! * An identity has at most `sessions_per_identity` sessions; one more closes that whose last entry is oldest. A session without
//!   an entry for `session_idle_ms` of agreed time is closed.
//! * **An opening bundle opens once.** While its session exists its digest leads to it. When a session is closed, the client time of
//!   its opening bundle becomes the identity's floor (if it is higher), and a bundle whose time is not above the floor opens
//!   nothing. Client times further than `session_idle_ms` from agreed time open nothing either: so the floor that an idle
//!   session leaves is never ahead of agreed time, and a client with a sound clock is never locked out by it. (Age alone would not do: a
//!   session may be closed early, and a time may lie ahead.)
//!
//! # Replies
//! A reply is what the entry says; for a repeated request it is read from the history again, so the session table keeps 64 bytes a
//! request and the detail of a refusal. Replies to repeated requests come from [`Execution::admit`] alone: were they made during
//! execution, a client could have every replica read its old entries at no cost to itself.
//!
//! # Images
//! At some checkpoints the whole of it is frozen, to be written down and resumed from: [`image`].
//!
//! # Limits
//! Table: for each client 8 MiB, one open window (`session_window` numbers, 128 bytes and at most 256 of detail each), and
//! 1 KiB a session ([`Execution::session_memory_bound`]); memory is taken for what was executed, never for gaps. Replies
//! to one repeated bundle: [`MAX_REPEATED_BYTES`], read from [`MAX_REPEATED_ENTRIES`] entries. An entry:
//! 65,535 bytes, held by [`Execution::check`] before ordering. After an error the execution is spent: the replica stops.
//!
//! Sources: Castro & Liskov, "Practical Byzantine Fault Tolerance" (OSDI 1999), 4.2; Lee, Park, Kejriwal, Matsushita & Ousterhout,
//! "Implementing Linearizability at Large Scale and Low Latency" (SOSP 2015), for exactly-once by windows of numbers.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::crypto::hash::sha256;
use crate::history::entry::{self, EntryView, StateView};
use crate::history::store::{EntryStore, StoreError};
use crate::history::tree::HistoryTree;
use crate::ordering::batch::Batch;
use crate::state::{Altered, Answer, Application, Entries, OperationContext, Outcome};
use crate::types::{Code, Digest, EntryIndex, Position, Sequence, TimeMs};
use crate::wire::bundle::{Bundle, Request};
use crate::wire::limits::{MAX_BUNDLE_STATEMENTS, MAX_ENTRY};
use crate::wire::message::{Changes, Reply};
use crate::wire::statement::{SignedStatement, carried, is_statement};

mod admission;
pub mod identities;
pub mod image;
mod reading;
mod sessions;

use identities::Identities;
use sessions::{Executed as Done, MAX_IDENTITY_BYTES, SESSION_BYTES, Sessions, Standing, Target, window_bound};

/// Changes and details in the replies to one repeated bundle at most, bytes. Requests beyond it get no reply: the client asks again
/// with fewer of them.
pub const MAX_REPEATED_BYTES: usize = 256 << 10;

/// Entries that are read for one repeated bundle at most. A bundle's requests are executed in one entry, unless its client signed
/// their numbers again in other bundles; what lies beyond gets no reply.
pub const MAX_REPEATED_ENTRIES: usize = 16;

/// Entries that are kept in any case: clients that connect one after the other have replies read from them.
const REMEMBERED: EntryIndex = 1_024;

/// What reading an entry for a query counts beside the entry's bytes.
pub const ENTRY_READ_BYTES: usize = 256;

/// Requests of a bundle that are not executed, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Number of the first.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Why. Final, except BEYOND_WINDOW, and UNKNOWN_SESSION from a replica that lags.
    pub code: Code,
}

/// What became of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// Its digest.
    pub bundle: Digest,
    /// Replies to its requests, in order.
    pub replies: Vec<Reply>,
    /// Requests that were refused, in order. None where it has neither reply nor refusal: executed before.
    pub refusals: Vec<Refusal>,
}

impl Settled {
    fn new(bundle: Digest, replies: usize) -> Self {
        Self { bundle, replies: Vec::with_capacity(replies), refusals: Vec::new() }
    }

    fn refuse(&mut self, number: u64, code: Code) {
        match self.refusals.last_mut() {
            Some(last) if last.code == code && last.first.checked_add(u64::from(last.count)) == Some(number) => {
                last.count += 1;
            }
            _ => self.refusals.push(Refusal { first: number, count: 1, code }),
        }
    }

    fn refuse_all(mut self, bundle: &Bundle, code: Code) -> Self {
        let header = bundle.header();
        self.refusals.push(Refusal { first: header.first, count: u32::from(header.count), code });
        self
    }
}

/// What the present state says of a bundle that is to be ordered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It may have something new: order it.
    Order,
    /// Ordering it would change nothing: answer with this.
    Settled(Settled),
}

/// What executing a batch gave. Reused from batch to batch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Executed {
    /// The sequence.
    pub sequence: Sequence,
    /// Agreed time.
    pub time_ms: TimeMs,
    /// History size before.
    pub first_entry: EntryIndex,
    /// History size after.
    pub size: EntryIndex,
    /// What became of each bundle, in order; replies only to what was executed just now.
    pub bundles: Vec<Settled>,
}

/// Why execution cannot begin or go on: the replica stops.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// The history cannot be kept.
    #[error("history: {0}")]
    Store(#[from] StoreError),
    /// The store has entries already.
    #[error("execution begins with the genesis, the store has {0} entries: open it anew")]
    StoreInUse(u64),
    /// Not the next sequence: a fault of ours.
    #[error("sequence {found} was handed to execution where {expected} is next")]
    Sequence {
        /// The one that is due.
        expected: Sequence,
        /// The one that came.
        found: Sequence,
    },
    /// A bundle's entry is larger than an entry may be: one that no check let through, or an application that reported more
    /// changes than it said it would.
    #[error("bundle {bundle} makes an entry of {bytes} bytes at sequence {sequence}, at most {MAX_ENTRY} are allowed")]
    EntryTooLarge {
        /// The bundle.
        bundle: Digest,
        /// Where it was ordered.
        sequence: Sequence,
        /// What its entry takes.
        bytes: usize,
    },
}

/// The replicated state: application, sessions, history and agreed time.
pub struct Execution<A: Application, S: EntryStore> {
    application: A,
    store: S,
    tree: HistoryTree,
    cluster: Cluster,
    /// Sessions know each by its place.
    identities: Identities,
    sessions: Sessions,
    sequence: Sequence,
    time_ms: TimeMs,
    /// Entry and agreed time of the last STATE entry.
    last_state: Option<(EntryIndex, TimeMs)>,
    bundle_since_state: bool,
    /// See [`Execution::forget_history`].
    forgets: bool,
    /// What was executed since the last snapshot point, bytes; see `image`.
    grown: u64,
    /// The least that lies between two snapshot points, bytes.
    snapshot_bytes: u64,
    /// Reused for every entry.
    entry: Vec<u8>,
    outcome: Outcome,
}

impl<A: Application, S: EntryStore> Execution<A, S> {
    /// Begins with `application` in its first state; appends the genesis as entry 0 to the empty `store`.
    ///
    /// # Errors
    /// The store fails or is not empty.
    pub fn new(cluster: &Cluster, application: A, store: S) -> Result<Self, ExecutionError> {
        if store.size() != 0 {
            return Err(ExecutionError::StoreInUse(store.size()));
        }
        let mut config = Vec::with_capacity(MAX_ENTRY);
        cluster.put_config_entry(&mut config);
        let identities = Identities::of(cluster);
        let mut execution = Self {
            application,
            store,
            tree: HistoryTree::new(),
            sessions: Sessions::new(cluster.settings(), identities.all().len()),
            identities,
            cluster: cluster.clone(),
            sequence: 0,
            time_ms: cluster.created_ms(),
            last_state: None,
            bundle_since_state: false,
            forgets: false,
            grown: 0,
            snapshot_bytes: cluster.settings().snapshot_mib << 20,
            entry: config,
            outcome: Outcome::default(),
        };
        execution.append()?;
        Ok(execution)
    }

    /// Executes the batch of the next sequence. `out` is overwritten.
    ///
    /// # Errors
    /// Faults of ours and of the disk; the execution must not be used any more.
    pub fn execute(&mut self, sequence: Sequence, batch: &Batch, out: &mut Executed) -> Result<(), ExecutionError> {
        let time_ms = (batch.digest() != Digest::NULL).then_some(batch.time_ms());
        self.run(sequence, time_ms, batch.bundles(), out)
    }

    /// Executes a sequence; one without a time is the null batch.
    fn run(
        &mut self,
        sequence: Sequence,
        time_ms: Option<TimeMs>,
        bundles: &[Arc<Bundle>],
        out: &mut Executed,
    ) -> Result<(), ExecutionError> {
        let expected = self.sequence.saturating_add(1);
        if sequence != expected {
            return Err(ExecutionError::Sequence { expected, found: sequence });
        }
        self.sequence = sequence;
        out.bundles.clear();
        out.first_entry = self.tree.size();
        if let Some(time_ms) = time_ms {
            self.time_ms = self.time_ms.max(time_ms);
            self.sessions.close_idle(self.time_ms);
            for bundle in bundles {
                let settled = self.execute_bundle(bundle)?;
                out.bundles.push(settled);
            }
        }
        self.append_due_state()?;
        self.note_growth();
        out.sequence = sequence;
        out.time_ms = self.time_ms;
        out.size = self.tree.size();
        Ok(())
    }

    fn execute_bundle(&mut self, bundle: &Bundle) -> Result<Settled, ExecutionError> {
        let header = bundle.header();
        let digest = bundle.digest();
        let mut settled = Settled::new(digest, usize::from(header.count));
        let Some(place) = self.identities.place(bundle.key()) else {
            return Ok(settled.refuse_all(bundle, Code::UNKNOWN_IDENTITY));
        };
        let barred = self.identities.may(bundle.key(), self.time_ms).err();
        let id = match self.sessions.resolve(header, &digest, place, self.time_ms) {
            Err(code) => return Ok(settled.refuse_all(bundle, code)),
            Ok(Target::Known(id)) => id,
            Ok(Target::Opens) => {
                if let Some(code) = barred {
                    return Ok(settled.refuse_all(bundle, code));
                }
                let opening = bundle.decoded_requests().next();
                let is_late = opening.is_none_or(|request| is_expired(&request, self.time_ms));
                if is_late || self.sessions.is_ahead(header.client_time_ms, self.time_ms) {
                    return Ok(settled.refuse_all(bundle, Code::EXPIRED));
                }
                let id = self.tree.size();
                self.sessions.open(id, place, header, digest, self.time_ms);
                id
            }
        };
        let bytes_before = self.sessions.bytes(id);
        let statement = self.execute_requests(bundle, id, &mut settled);
        if settled.replies.is_empty() {
            return Ok(settled);
        }
        if self.entry.len() > MAX_ENTRY {
            let (sequence, bytes) = (self.sequence, self.entry.len());
            return Err(ExecutionError::EntryTooLarge { bundle: digest, sequence, bytes });
        }
        let index = self.append()?;
        self.sessions.touch(id, bytes_before, index, self.time_ms);
        self.bundle_since_state = true;
        if let Some((signed, operation)) = statement {
            self.append_key(&signed, operation)?;
        }
        Ok(settled)
    }

    /// Carries out a statement that was judged well.
    fn append_key(&mut self, signed: &SignedStatement<'_>, operation: &[u8]) -> Result<(), ExecutionError> {
        let known = self.identities.all().len();
        let applied = self.identities.apply(signed, self.time_ms, self.tree.size());
        // Nothing happened since it was judged, so it is.
        let (Ok(()), Some(cose)) = (applied, carried(operation)) else { return Ok(()) };
        (known..self.identities.all().len()).for_each(|_| self.sessions.add_identity());
        self.entry.clear();
        entry::put_key(&mut self.entry, self.sequence, self.time_ms, cose);
        self.append().map(drop)
    }

    /// Runs what is new in the bundle and builds its entry, which counts only if `settled` has a reply then. Gives the key statement
    /// that is to be carried out behind it, and its operation.
    fn execute_requests<'a>(
        &mut self,
        bundle: &'a Bundle,
        id: u64,
        settled: &mut Settled,
    ) -> Option<(SignedStatement<'a>, &'a [u8])> {
        let Self { application, sessions, identities, entry, outcome, .. } = self;
        let session = sessions.get_mut(id)?;
        let rights = identities.may(bundle.key(), self.time_ms);
        application.foresee(bundle.decoded_requests().map(|request| request.operation));
        let (mut statement, mut statements) = (None, 0);
        let (entry_index, time_ms, sequence) = (self.tree.size(), self.time_ms, self.sequence);
        entry.clear();
        entry::put_bundle_start(entry, sequence, time_ms, bundle.cose(), bundle.requests());
        for (index, (request, &digest)) in bundle.decoded_requests().zip(bundle.request_hashes()).enumerate() {
            // No bundle parses whose numbers run past the largest one.
            let number = bundle.header().first + index as u64;
            match (session.standing(number, &digest), rights) {
                (Standing::New, Ok(rights)) => {
                    let position = Position { entry: entry_index, request: index as u16 };
                    let context = OperationContext { time_ms, position, origin: bundle.key(), access: &rights };
                    outcome.clear();
                    if is_expired(&request, time_ms) {
                        outcome.code = Code::EXPIRED;
                    } else if is_statement(request.operation) {
                        statements += 1;
                        if statements > MAX_BUNDLE_STATEMENTS {
                            outcome.refuse(Code::TOO_LARGE, format_args!("a bundle brings one key statement"));
                        } else {
                            match identities.examine(request.operation, time_ms) {
                                Ok(signed) => statement = Some((signed, request.operation)),
                                Err(refused) => outcome.refuse(refused.code, format_args!("{}", refused.detail)),
                            }
                        }
                    } else if !request.opens_session() {
                        application.execute(&context, request.operation, outcome);
                    }
                    let changes = entry::put_outcome(entry, outcome.code, &outcome.changes);
                    let detail = (!outcome.detail.is_empty()).then(|| outcome.detail.as_str().into());
                    session
                        .record(number, Done { request: digest, entry: entry_index, index: position.request, detail });
                    settled.replies.push(Reply {
                        session: id,
                        number,
                        sequence,
                        entry: entry_index,
                        request: position.request,
                        time_ms,
                        code: outcome.code.0,
                        changes: Changes::from_slice(&entry[changes..]),
                        detail: outcome.detail.clone(),
                    });
                }
                // What was used up or forgotten stays so; what would not be is refused for the key.
                (Standing::New | Standing::Refused(Code::BEYOND_WINDOW), Err(code)) | (Standing::Refused(code), _) => {
                    entry::put_skipped(entry);
                    settled.refuse(number, code);
                }
                _ => entry::put_skipped(entry),
            }
        }
        statement
    }

    fn append_due_state(&mut self) -> Result<(), ExecutionError> {
        let is_checkpoint = self.is_checkpoint();
        let since = self.last_state.map_or(self.cluster.created_ms(), |state| state.1);
        let interval = TimeMs::try_from(self.cluster.settings().state_interval_ms).unwrap_or(TimeMs::MAX);
        let is_due = self.bundle_since_state && self.time_ms.saturating_sub(since) >= interval;
        if !is_checkpoint && !is_due {
            return Ok(());
        }
        let state = StateView {
            sequence: self.sequence,
            time_ms: self.time_ms,
            slot_count: self.application.slot_count(),
            state_root: self.application.state_root(),
            previous: self.last_state.map(|state| state.0),
            absence_root: is_checkpoint.then(|| self.application.absence_root()),
        };
        self.entry.clear();
        entry::put_state(&mut self.entry, &state);
        let index = self.append()?;
        self.last_state = Some((index, self.time_ms));
        self.bundle_since_state = false;
        Ok(())
    }

    /// Appends the built entry to store and tree.
    fn append(&mut self) -> Result<EntryIndex, ExecutionError> {
        let index = if self.forgets && self.tree.size() >= REMEMBERED {
            self.tree.append_hash(Digest::NULL);
            self.store.append(&[], self.time_ms, &[])?
        } else {
            let nodes = self.tree.append(&self.entry);
            self.store.append(&self.entry, self.time_ms, &nodes)?
        };
        self.grown = self.grown.saturating_add(self.entry.len() as u64 + image::ENTRY_GROWTH);
        Ok(index)
    }

    /// From entry [`REMEMBERED`] on entries are neither hashed nor kept: to measure what the history costs, and for nothing else.
    pub(crate) fn forget_history(&mut self) {
        self.forgets = true;
    }

    /// Hands appended entries to the operating system, where the store has not yet.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn flush(&mut self) -> Result<(), ExecutionError> {
        Ok(self.store.flush()?)
    }

    /// Answers a query from the state and the history as they are now; `answer` is overwritten. Gives also what it cost: the bytes
    /// of the entries that were read for it, and [`ENTRY_READ_BYTES`] for each.
    pub fn query(&self, query: &[u8], answer: &mut Answer) -> (Code, usize) {
        if let Some(code) = self.identities.answer(query, answer) {
            return (code, 0);
        }
        let entries = CountedEntries { store: &self.store, bytes: Cell::new(0), lacks: Cell::new(false) };
        let code = self.application.query(&entries, query, answer);
        // What lies in cold storage that does not answer is no fault of anybody's.
        let is_fault = matches!(code, Code::INTERNAL | Code::BAD_QUERY);
        let code = if is_fault && entries.lacks.get() { Code::UNAVAILABLE } else { code };
        (code, entries.bytes.get())
    }

    /// The last executed sequence; 0 before the first.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Agreed time of the last executed sequence.
    pub fn time_ms(&self) -> TimeMs {
        self.time_ms
    }

    /// The number of entries.
    pub fn size(&self) -> EntryIndex {
        self.tree.size()
    }

    /// One entry of the history.
    pub fn entry(&self, index: EntryIndex) -> Option<Cow<'_, [u8]>> {
        self.store.entry(index)
    }

    /// RFC 6962 root over all entries.
    pub fn history_root(&self) -> Digest {
        self.tree.root()
    }

    /// Holds some of the application's slots against their leaves: [`Application::scrub`].
    ///
    /// # Errors
    /// A slot that is not what its leaf was made of.
    pub fn scrub(&mut self, slots: usize) -> Result<(), Box<Altered>> {
        self.application.scrub(slots)
    }

    /// RFC 6962 root over the application's slots.
    pub fn state_root(&mut self) -> Digest {
        self.application.state_root()
    }

    /// Digest of the session table and the identities.
    pub fn session_digest(&mut self) -> Digest {
        self.sessions.digest(&self.identities.digest())
    }

    /// Who may do what, as of the last executed sequence.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Open sessions.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// One digest of all that is replicated: equal on replicas that executed the same sequences.
    /// `SHA-256("atlas-replica-state/1" || size as u64 big-endian || history root || state root || session table digest)`.
    pub fn state_digest(&mut self) -> Digest {
        let (state, sessions) = (self.application.state_root(), self.session_digest());
        let size = self.tree.size().to_be_bytes();
        sha256(&[b"atlas-replica-state/1", &size, &self.tree.root().0, &state.0, &sessions.0])
    }

    /// The most bytes that the session table can take, were every identity that is known now to fill it.
    pub fn session_memory_bound(&self) -> u64 {
        let settings = self.cluster.settings();
        let numbers = MAX_IDENTITY_BYTES as u64 + window_bound(settings.session_window);
        let sessions = settings.sessions_per_identity.saturating_mul(SESSION_BYTES as u64);
        (self.identities.all().len() as u64).saturating_mul(numbers.saturating_add(sessions))
    }

    /// Where the entries are, for transfers: entries of the same history may be staged there.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// The right edge of the history, and the store.
    pub fn tree_and_store(&mut self) -> (&HistoryTree, &mut S) {
        (&self.tree, &mut self.store)
    }

    /// The entries.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The last STATE entry, and whether it is a checkpoint's, while the state is still the one that it names.
    pub fn stated(&self) -> Option<(EntryIndex, bool)> {
        let (entry, _) = self.last_state.filter(|_| !self.bundle_since_state)?;
        let bytes = self.store.entry(entry)?;
        let EntryView::State(state) = EntryView::decode(&bytes).ok()? else { return None };
        Some((entry, state.absence_root.is_some()))
    }

    /// The application, for reading.
    pub fn application(&self) -> &A {
        &self.application
    }
}

/// The history as a query sees it, and how much of it it has read.
struct CountedEntries<'a, S> {
    store: &'a S,
    bytes: Cell<usize>,
    /// An entry that there is could not be read.
    lacks: Cell<bool>,
}

impl<S: EntryStore> Entries for CountedEntries<'_, S> {
    fn size(&self) -> EntryIndex {
        Entries::size(self.store)
    }

    fn entry(&self, index: EntryIndex) -> Option<Cow<'_, [u8]>> {
        let entry = self.store.entry(index);
        let bytes = entry.as_ref().map_or(0, |entry| entry.len());
        self.lacks.set(self.lacks.get() || (entry.is_none() && index < Entries::size(self.store)));
        self.bytes.set(self.bytes.get().saturating_add(bytes).saturating_add(ENTRY_READ_BYTES));
        entry
    }

    fn first_at_or_after(&self, time_ms: TimeMs) -> EntryIndex {
        self.store.first_at_or_after(time_ms)
    }
}

fn is_expired(request: &Request<'_>, now_ms: TimeMs) -> bool {
    request.not_after_ms.is_some_and(|limit| now_ms > limit)
}

#[cfg(test)]
mod tests;
