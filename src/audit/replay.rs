//! Executing the history again: the same operations in the same order must give the same outcomes and the same state roots.
//!
//! Begins with the genesis. It shares the twin store with the replica; what decides which requests run is told anew (`sessions`),
//! and so is when a STATE entry is due:
//! * at every multiple of the checkpoint interval, with the absence root;
//! * else at the first sequence at which `state_interval_ms` have passed since the last one and a bundle was executed since, without
//!   it. (Only a sequence that has entries shows its time: that one is missing in a sequence that left no other entry is not seen.)

use atlas_dataplane::history::entry::{BundleView, ConfigView, EntryView, KeyView, StateView, put_outcome};
use atlas_dataplane::state::{Application, OperationContext, Outcome};
use atlas_dataplane::types::{Code, Digest, EntryIndex, Position, PublicKey, Sequence, TimeMs};
use atlas_dataplane::wire::bundle::{BundleHeader, Request};

use super::finding::Fault;
use super::roster::Roster;
use super::sessions::{Sessions, Use};
use crate::twin::TwinStore;
use atlas_dataplane::execution::identities::Identities;
use atlas_dataplane::wire::limits::MAX_BUNDLE_STATEMENTS;
use atlas_dataplane::wire::statement::{SignedStatement, carried, is_statement};

/// What of a bundle was read and checked before.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Who signed it.
    pub key: PublicKey,
    /// What was signed.
    pub header: BundleHeader,
    /// SHA-256 of the COSE_Sign1.
    pub digest: Digest,
}

/// How a replayed history differs from what is written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Divergence {
    /// The key that signed stood for nobody then.
    #[error("signed by {key}, which might do nothing then ({}): such a bundle leaves no entry", code.text())]
    Identity {
        /// The key.
        key: String,
        /// Why.
        code: Code,
    },
    /// A key statement that was carried out has no entry.
    #[error("the KEY entry of the statement that the bundle before brought is missing")]
    KeyMissing,
    /// A KEY entry that no bundle brought.
    #[error("no bundle right before brought the statement of this KEY entry")]
    KeyNotDue,
    /// A statement that nobody carries out.
    #[error("the statement would not be carried out: {0}")]
    Statement(String),
    /// No such session, or one that was closed.
    #[error("session {session} does not exist, or was closed before")]
    NoSession {
        /// The session.
        session: u64,
    },
    /// Somebody else's session.
    #[error("session {session} belongs to another key")]
    ForeignSession {
        /// The session.
        session: u64,
    },
    /// A session that cannot have been opened.
    #[error("opens a session, with a client's time too far from agreed time or not above that of an earlier one")]
    Opening,
    /// An outcome where there is none, or none where there is one.
    #[error("request {request}: number {number} of session {session} {}", if *is_new { "was not used and has no outcome" } else { "is used up or beyond the window, and has an outcome" })]
    Number {
        /// Index in the bundle.
        request: u16,
        /// The session.
        session: u64,
        /// The number.
        number: u64,
        /// Whether it was free to run.
        is_new: bool,
    },
    /// A bundle of which nothing ran.
    #[error("nothing of this bundle was executed: such a bundle leaves no entry")]
    NothingNew,
    /// Another outcome.
    #[error("request {request}: executed again it is {replayed}, written is {written}")]
    Outcome {
        /// Index in the bundle.
        request: u16,
        /// By replay.
        replayed: Code,
        /// In the entry.
        written: Code,
    },
    /// The same code, other changes.
    #[error("request {request}: executed again its changes are {replayed}, written are {written}")]
    Changes {
        /// Index in the bundle.
        request: u16,
        /// By replay, CBOR in hexadecimal.
        replayed: String,
        /// In the entry, likewise.
        written: String,
    },
    /// A STATE entry where none is due.
    #[error("no STATE entry is due at sequence {0}")]
    StateNotDue(Sequence),
    /// A STATE entry that is missing before this entry.
    #[error("a STATE entry is due at sequence {0} and missing before this entry")]
    StateMissing(Sequence),
    /// A history that ends within a sequence; no replica signs such a one.
    #[error("the history ends where the STATE entry of sequence {0} is due")]
    EndsBeforeState(Sequence),
    /// The same before a KEY entry.
    #[error("the history ends where the KEY entry of the statement that its last bundle brought is due")]
    EndsBeforeKey,
    /// Another number in a STATE entry.
    #[error("the STATE entry's {field} is {written}, replay gives {replayed}")]
    State {
        /// Which.
        field: &'static str,
        /// In the entry.
        written: String,
        /// By replay.
        replayed: String,
    },
}

/// Counts of what was replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Requests that ran.
    pub operations: u64,
    /// STATE entries compared.
    pub states: u64,
    /// KEY entries carried out again.
    pub keys: u64,
}

/// The state up to an entry.
pub struct Replay {
    store: TwinStore,
    roster: Roster,
    identities: Identities,
    /// The KEY entry that must come next.
    owed: Option<Vec<u8>>,
    sessions: Sessions,
    outcome: Outcome,
    encoded: Vec<u8>,
    last_state: Option<(EntryIndex, TimeMs)>,
    created_ms: TimeMs,
    /// Sequence and time of the last entry, and whether that is a STATE entry.
    last: (Sequence, TimeMs, bool),
    bundle_since_state: bool,
    /// The last multiple of the checkpoint interval whose STATE entry was met.
    checkpointed: Sequence,
    counts: Counts,
}

impl Replay {
    /// Begins with the genesis.
    ///
    /// # Errors
    /// Its settings are not of their form.
    pub fn new(genesis: &ConfigView<'_>) -> Result<Self, Fault> {
        let roster = Roster::from_config(genesis)?;
        Ok(Self {
            store: TwinStore::new(roster.max_properties),
            roster,
            identities: Identities::genesis(genesis).map_err(Fault::Identities)?,
            owed: None,
            sessions: Sessions::default(),
            outcome: Outcome::default(),
            encoded: Vec::new(),
            last_state: None,
            created_ms: genesis.time_ms,
            last: (0, genesis.time_ms, false),
            bundle_since_state: false,
            checkpointed: 0,
            counts: Counts::default(),
        })
    }

    /// The cluster's name.
    pub fn origin(&self) -> &str {
        &self.roster.origin
    }

    /// What was replayed so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Slots of the state, its root and that by name.
    pub fn roots(&mut self) -> (u64, Digest, Digest) {
        (self.store.slot_count(), self.store.state_root(), self.store.absence_root())
    }

    /// Replays the next entry behind the genesis; `signed` is what was read of a bundle.
    ///
    /// # Errors
    /// The first difference.
    pub fn entry(&mut self, index: EntryIndex, view: &EntryView<'_>, signed: Option<&Signed>) -> Result<(), Fault> {
        self.check_states_before(view.sequence())?;
        if self.owed.is_some() && !matches!(view, EntryView::Key(_)) {
            return Err(Divergence::KeyMissing.into());
        }
        match (view, signed) {
            (EntryView::Key(key), _) => self.key(index, key)?,
            (EntryView::Bundle(bundle), Some(signed)) => self.bundle(index, bundle, signed)?,
            (EntryView::State(state), _) => self.state(index, state)?,
            (EntryView::Config(config), _) => self.roster = Roster::from_config(config)?,
            (EntryView::Bundle(_), None) => return Err(Fault::Bundle(atlas_dataplane::wire::error::BundleError::Cose)),
        }
        self.last = (view.sequence(), view.time_ms(), matches!(view, EntryView::State(_)));
        Ok(())
    }

    /// Whether the history may end here: heads are signed at the end of a sequence.
    ///
    /// # Errors
    /// An entry is due still.
    pub fn finish(&self) -> Result<(), Divergence> {
        let (sequence, time_ms, is_state) = self.last;
        if self.owed.is_some() {
            return Err(Divergence::EndsBeforeKey);
        }
        let is_checkpoint = sequence > self.checkpointed && sequence.is_multiple_of(self.roster.checkpoint_interval);
        if !is_state && (is_checkpoint || self.is_due(time_ms)) {
            return Err(Divergence::EndsBeforeState(sequence));
        }
        Ok(())
    }

    /// Whether STATE entries that were due before sequence `next` are there.
    fn check_states_before(&self, next: Sequence) -> Result<(), Divergence> {
        let (sequence, time_ms, is_state) = self.last;
        if next <= sequence {
            // Nothing follows a STATE entry in its sequence, nor can one be missing yet.
            return if is_state { Err(Divergence::StateNotDue(sequence)) } else { Ok(()) };
        }
        let due = self.checkpointed.saturating_add(self.roster.checkpoint_interval);
        if due < next {
            return Err(Divergence::StateMissing(due));
        }
        if !is_state && self.is_due(time_ms) { Err(Divergence::StateMissing(sequence)) } else { Ok(()) }
    }

    fn is_due(&self, time_ms: TimeMs) -> bool {
        let since = self.last_state.map_or(self.created_ms, |state| state.1);
        self.bundle_since_state && time_ms.saturating_sub(since) >= self.roster.state_interval_ms
    }

    fn state(&mut self, index: EntryIndex, state: &StateView) -> Result<(), Divergence> {
        let is_checkpoint = state.sequence > 0 && state.sequence.is_multiple_of(self.roster.checkpoint_interval);
        if !is_checkpoint && !self.is_due(state.time_ms) {
            return Err(Divergence::StateNotDue(state.sequence));
        }
        let text = |entry: Option<EntryIndex>| entry.map_or_else(|| "null".to_owned(), |entry| entry.to_string());
        let root = |root: Option<Digest>| root.map_or_else(|| "null".to_owned(), |root| root.to_string());
        let absence = if is_checkpoint { Some(self.store.absence_root()) } else { None };
        let fields = [
            ("slot_count", state.slot_count.to_string(), self.store.slot_count().to_string()),
            ("state_root", state.state_root.to_string(), self.store.state_root().to_string()),
            ("previous_state_entry", text(state.previous), text(self.last_state.map(|state| state.0))),
            ("absence_root", root(state.absence_root), root(absence)),
        ];
        for (field, written, replayed) in fields {
            if written != replayed {
                return Err(Divergence::State { field, written, replayed });
            }
        }
        if is_checkpoint {
            self.checkpointed = state.sequence;
        }
        self.last_state = Some((index, state.time_ms));
        self.bundle_since_state = false;
        self.counts.states += 1;
        Ok(())
    }

    /// A KEY entry follows the bundle that brought its statement.
    fn key(&mut self, index: EntryIndex, key: &KeyView<'_>) -> Result<(), Divergence> {
        if self.owed.take().as_deref() != Some(key.cose) {
            return Err(Divergence::KeyNotDue);
        }
        let signed = SignedStatement::parse(key.cose, &self.roster.origin);
        let signed = signed.map_err(|error| Divergence::Statement(error.to_string()))?;
        if !signed.holds() {
            return Err(Divergence::Statement("its signature does not hold".to_owned()));
        }
        let applied = self.identities.apply(&signed, key.time_ms, index);
        applied.map_err(|refused| Divergence::Statement(format!("{} ({})", refused.code.text(), refused.detail)))?;
        self.counts.keys += 1;
        Ok(())
    }

    fn bundle(&mut self, entry: EntryIndex, bundle: &BundleView<'_>, signed: &Signed) -> Result<(), Divergence> {
        let Self { store, roster, identities, owed, sessions, outcome, encoded, counts, .. } = self;
        let time_ms = bundle.time_ms;
        let access = identities.may(&signed.key, time_ms);
        let access = access.map_err(|code| Divergence::Identity { key: signed.key.to_string(), code })?;
        let header = &signed.header;
        let place = Use { entry, time_ms, key: &signed.key, header, digest: &signed.digest };
        let session = sessions.enter(&place, roster)?;
        let (mut has_run, mut statements) = (false, 0);
        for (request, (bytes, written)) in (0u16..).zip(bundle.requests().zip(bundle.outcomes())) {
            let number = header.first.saturating_add(u64::from(request));
            let is_new = sessions.takes(session, number, roster);
            let written = match (is_new, written) {
                (true, Some(written)) => written,
                (false, None) => continue,
                _ => return Err(Divergence::Number { request, session, number, is_new }),
            };
            has_run = true;
            counts.operations += 1;
            outcome.clear();
            let Some(decoded) = Request::decode(bytes) else { continue };
            if decoded.not_after_ms.is_some_and(|limit| time_ms > limit) {
                // One that opens a session late opens none, so it would not be here.
                if decoded.opens_session() {
                    return Err(Divergence::Opening);
                }
                outcome.code = Code::EXPIRED;
            } else if is_statement(decoded.operation) {
                statements += 1;
                if statements > MAX_BUNDLE_STATEMENTS {
                    outcome.code = Code::TOO_LARGE;
                } else {
                    match identities.examine(decoded.operation, time_ms) {
                        Ok(_) => *owed = carried(decoded.operation).map(<[u8]>::to_vec),
                        Err(refused) => outcome.code = refused.code,
                    }
                }
            } else if !decoded.opens_session() {
                let position = Position { entry, request };
                let context = OperationContext { time_ms, position, origin: &signed.key, access: &access };
                store.execute(&context, decoded.operation, outcome);
            }
            if outcome.code != written.code {
                return Err(Divergence::Outcome { request, replayed: outcome.code, written: written.code });
            }
            encoded.clear();
            let start = put_outcome(encoded, outcome.code, &outcome.changes);
            if encoded[start..] != *written.changes {
                let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
                let (replayed, written) = (hex(&encoded[start..]), hex(written.changes));
                return Err(Divergence::Changes { request, replayed, written });
            }
        }
        if !has_run {
            return Err(Divergence::NothingNew);
        }
        sessions.touch(session, entry);
        self.bundle_since_state = true;
        Ok(())
    }
}
