//! Images: the whole replicated state at a checkpoint, to be written down, sent to a peer, and resumed from.
//!
//! # Bytes
//! Equal on all correct replicas; numbers big-endian:
//! * [`MAGIC`], which holds the version;
//! * sequence u64;
//! * length u32 of the history's right edge, and the edge ([`HistoryTree::to_bytes`]);
//! * length u64 of the table of identities, and the table (`identities::coding`);
//! * length u64 of the session table, and the table (`sessions::coding`);
//! * the application's state, up to the end.
//!
//! Agreed time and the last STATE entry are not in it: the last entry of the history, which a resuming replica must have, is
//! the checkpoint's own STATE entry and says both. It holds the application's roots too, so an image whose application is another's is
//! always found; that edge, identities and session table are the right ones shows by the checkpoint's certificate alone.
//!
//! # Snapshot points
//! A *snapshot point* is a checkpoint at which enough was executed since the last one, or since the genesis: entries count their bytes
//! and [`ENTRY_GROWTH`], sequences [`SEQUENCE_GROWTH`], and together they must reach `snapshot_mib` and [`SLOT_GROWTH`] for each slot. That
//! depends on the agreed order alone, so all replicas take images of the same sequences. The count begins anew there; that is why
//! an image, taken at a snapshot point only, need not hold it.

use std::io;

use super::identities::Identities;
use super::reading::{Reading, Unreadable};
use super::{Execution, Sessions};
use crate::cluster::Cluster;
use crate::history::entry::{EntryView, StateView};
use crate::history::store::EntryStore;
use crate::history::tree::{EdgeError, HistoryTree};
use crate::ordering::checkpoint::Statement;
use crate::state::{Application, Entries, Frozen, Outcome, StateError};
use crate::types::{EntryIndex, Sequence};

/// What an image begins with; the last two digits are the version.
pub const MAGIC: &[u8; 8] = b"ATLIMG03";

/// What an entry counts beside its bytes towards the next snapshot point: its place in the index and its frame in the log.
pub const ENTRY_GROWTH: u64 = 64;

/// What a sequence counts towards the next snapshot point, bytes: what the log keeps of it even where it has no bundle.
pub const SEQUENCE_GROWTH: u64 = 256;

/// So much must be executed between two snapshot points for each slot of the application, bytes: so a large state is not written
/// more often than a small part of what is executed anyway.
pub const SLOT_GROWTH: u64 = 512;

/// The replicated state as it was at a checkpoint. It may be written by another thread.
pub struct Image {
    /// The checkpoint's sequence.
    pub sequence: Sequence,
    /// All but the application's state, encoded.
    pub head: Vec<u8>,
    /// The application's state.
    pub application: Box<dyn Frozen>,
}

impl Image {
    /// Writes the image. Equal on all correct replicas.
    ///
    /// # Errors
    /// Those of `out`, which holds a part of the image then.
    pub fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        out.write_all(&self.head)?;
        self.application.write(out)
    }
}

/// Why an execution cannot go on from an image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResumeError {
    /// The bytes are no image of this version and cluster.
    #[error("image of the state is malformed at byte {at}: {what}")]
    Malformed {
        /// Offset in the image.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The image's edge of the history is none.
    #[error("image of the state: {0}")]
    Edge(#[from] EdgeError),
    /// The application cannot restore its part; offsets count from where that begins.
    #[error("image of the state, from byte {start}: {source}")]
    Application {
        /// Where the application's part begins.
        start: usize,
        /// What is wrong with it.
        source: StateError,
    },
    /// The store does not hold the entries that the image follows from.
    #[error("image of the state at entry {expected}, while the store holds {found} entries")]
    StoreSize {
        /// Entries that the image follows from.
        expected: EntryIndex,
        /// Entries that the store has.
        found: EntryIndex,
    },
    /// The last entry is not the checkpoint's: another history, or a store that lost what was written last.
    #[error("image of the state at sequence {sequence}: entry {entry} is not the STATE entry of that checkpoint")]
    NoState {
        /// The image's sequence.
        sequence: Sequence,
        /// The last entry.
        entry: EntryIndex,
    },
    /// The history's nodes cannot be held against the image's edge.
    #[error("{0}")]
    Store(String),
    /// The execution is there already; nothing is ever rolled back.
    #[error("image of the state at sequence {found}, while sequence {executed} is executed already")]
    NotAhead {
        /// The last executed sequence.
        executed: Sequence,
        /// The image's.
        found: Sequence,
    },
    /// The image is of another state than the certificate, or the STATE entry, says.
    #[error("image of the state at sequence {sequence}: {what} is another than the checkpoint has")]
    Differs {
        /// The image's sequence.
        sequence: Sequence,
        /// What differs.
        what: &'static str,
    },
}

/// An image as read, except for the application's state.
struct Parts<'a> {
    sequence: Sequence,
    tree: HistoryTree,
    identities: Identities,
    sessions: Sessions,
    application: &'a [u8],
    /// Offset of `application` in the image.
    start: usize,
}

impl<'a> Parts<'a> {
    fn decode(cluster: &Cluster, image: &'a [u8]) -> Result<Self, ResumeError> {
        let malformed = |error: Unreadable| ResumeError::Malformed { at: error.at, what: error.what };
        let input = &mut Reading::new(image);
        let (sequence, edge) = read_edge(input).map_err(malformed)?;
        let tree = HistoryTree::from_bytes(edge)?;
        let within = |start| move |error: Unreadable| ResumeError::Malformed { at: start + error.at, what: error.what };
        let (start, table) = read_table(input).map_err(malformed)?;
        let identities = Identities::from_bytes(Identities::of(cluster), table).map_err(within(start))?;
        let (start, table) = read_table(input).map_err(malformed)?;
        let sessions =
            Sessions::from_bytes(cluster.settings(), identities.all().len(), table).map_err(within(start))?;
        if sequence == 0 || !sequence.is_multiple_of(cluster.settings().checkpoint_interval) {
            return Err(ResumeError::Malformed { at: MAGIC.len(), what: "not the sequence of a checkpoint" });
        }
        Ok(Self { sequence, tree, identities, sessions, application: input.rest(), start: input.at() })
    }

    /// The STATE entry of the checkpoint, which must be the last in the store, and where it is.
    fn last_state(&self, store: &impl Entries) -> Result<(EntryIndex, StateView), ResumeError> {
        let (expected, found) = (self.tree.size(), store.size());
        if expected != found {
            return Err(ResumeError::StoreSize { expected, found });
        }
        let entry = expected.saturating_sub(1);
        Ok((entry, self.state_in(entry, store.entry(entry).as_deref())?))
    }

    /// The same of the bytes of the last entry.
    fn state_in(&self, entry: EntryIndex, bytes: Option<&[u8]>) -> Result<StateView, ResumeError> {
        let state = match bytes.map(EntryView::decode) {
            Some(Ok(EntryView::State(state))) if state.sequence == self.sequence => state,
            _ => return Err(ResumeError::NoState { sequence: self.sequence, entry }),
        };
        let is_later = |(used, time_ms)| used >= entry || time_ms > state.time_ms;
        if self.sessions.last_use().is_some_and(is_later) {
            return Err(self.differs("the session table"));
        }
        if self.identities.last_entry() >= entry {
            return Err(self.differs("the table of identities"));
        }
        Ok(state)
    }

    /// Compares all but the application's state with a certified checkpoint.
    fn compare(&mut self, expected: &Statement) -> Result<(), ResumeError> {
        let compared = [
            (self.sequence == expected.sequence, "the sequence"),
            (self.tree.size() == expected.size, "the number of entries"),
            (self.tree.root() == expected.history_root, "the history root"),
            (self.sessions.digest(&self.identities.digest()) == expected.sessions, "the session table"),
        ];
        match compared.into_iter().find(|(is_same, _)| !is_same) {
            Some((_, what)) => Err(self.differs(what)),
            None => Ok(()),
        }
    }

    /// Restores the application and compares it with the STATE entry. After an error it holds the state of before or, where it
    /// differs, the image's.
    fn restore(&self, application: &mut impl Application, state: &StateView) -> Result<(), ResumeError> {
        let start = self.start;
        application.restore(self.application).map_err(|source| ResumeError::Application { start, source })?;
        if application.slot_count() != state.slot_count || application.state_root() != state.state_root {
            return Err(self.differs("the application's state"));
        }
        if Some(application.absence_root()) != state.absence_root {
            return Err(self.differs("the application's absence root"));
        }
        Ok(())
    }

    fn differs(&self, what: &'static str) -> ResumeError {
        ResumeError::Differs { sequence: self.sequence, what }
    }
}

fn read_edge<'a>(input: &mut Reading<'a>) -> Result<(Sequence, &'a [u8]), Unreadable> {
    if input.take(MAGIC.len())? != MAGIC {
        return Err(Unreadable { at: 0, what: "no image of this version" });
    }
    let sequence = input.u64()?;
    let length = input.u32()? as usize;
    Ok((sequence, input.take(length)?))
}

/// A table with its length before it, and where it begins.
fn read_table<'a>(input: &mut Reading<'a>) -> Result<(usize, &'a [u8]), Unreadable> {
    let length = usize::try_from(input.u64()?).unwrap_or(usize::MAX);
    Ok((input.at(), input.take(length)?))
}

/// Appends a table with its length before it.
fn put_table(head: &mut Vec<u8>, table: impl FnOnce(&mut Vec<u8>)) {
    let length_at = head.len();
    head.extend_from_slice(&[0; 8]);
    table(head);
    let length = (head.len() - length_at - 8) as u64;
    head[length_at..length_at + 8].copy_from_slice(&length.to_be_bytes());
}

/// Holds an image against a certified checkpoint, without an execution: what [`Execution::install`] compares. `last_entry` is the last entry of
/// the history there, and under the certified root. `application` takes the state.
///
/// # Errors
/// The image is malformed, or of another state than `expected`.
pub fn check<A: Application>(
    cluster: &Cluster,
    mut application: A,
    image: &[u8],
    expected: &Statement,
    last_entry: &[u8],
) -> Result<(), ResumeError> {
    let mut parts = Parts::decode(cluster, image)?;
    parts.compare(expected)?;
    let state = parts.state_in(expected.size.saturating_sub(1), Some(last_entry))?;
    if state.state_root != expected.state_root {
        return Err(parts.differs("the state root in the last entry"));
    }
    parts.restore(&mut application, &state)
}

impl<A: Application, S: EntryStore> Execution<A, S> {
    /// The state as it is now, to be written elsewhere. To be called right after a snapshot point was executed
    /// ([`Execution::snapshot_due`]): an image of any other place is refused, or leads to other snapshot points, when it is resumed.
    /// It encodes the session table, at most [`Execution::session_memory_bound`]; the application is frozen, not copied.
    pub fn freeze(&self) -> Image {
        let edge = self.tree.to_bytes();
        let mut head = Vec::with_capacity(64 + edge.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&self.sequence.to_be_bytes());
        head.extend_from_slice(&(edge.len() as u32).to_be_bytes());
        head.extend_from_slice(&edge);
        put_table(&mut head, |head| self.identities.to_bytes(head));
        put_table(&mut head, |head| self.sessions.to_bytes(head));
        Image { sequence: self.sequence, head, application: self.application.freeze() }
    }

    /// Begins where an image was taken, with an `application` in any state and a `store` that holds the entries up to there. The
    /// image is believed as far as the last entry does not tell; whoever kept it compares it with a certificate
    /// ([`Execution::install`] does).
    ///
    /// # Errors
    /// The image is malformed, or not of this store's last entry.
    pub fn resume(cluster: &Cluster, mut application: A, mut store: S, image: &[u8]) -> Result<Self, ResumeError> {
        let parts = Parts::decode(cluster, image)?;
        if parts.tree.size() == store.size() {
            store.hold_nodes(&parts.tree).map_err(|error| ResumeError::Store(error.to_string()))?;
        }
        let (entry, state) = parts.last_state(&store)?;
        parts.restore(&mut application, &state)?;
        Ok(Self {
            application,
            store,
            tree: parts.tree,
            identities: parts.identities,
            sessions: parts.sessions,
            cluster: cluster.clone(),
            sequence: parts.sequence,
            time_ms: state.time_ms,
            last_state: Some((entry, state.time_ms)),
            bundle_since_state: false,
            forgets: false,
            grown: 0,
            snapshot_bytes: cluster.settings().snapshot_mib << 20,
            entry: Vec::new(),
            outcome: Outcome::default(),
        })
    }

    /// Goes on from an image that others took, instead of executing what lies between. The store must hold the entries up to
    /// `expected.size` already, and they must be those under `expected.history_root`: the caller has checked them. `expected` is
    /// certified, and of this cluster's members. All is compared with it before anything is replaced, the application's
    /// roots after it is restored.
    ///
    /// # Errors
    /// The image is malformed, behind, or of another state than `expected`. This execution and its application are as they were, except
    /// where the application was restored and its roots differ ([`ResumeError::Differs`]): the execution is spent then, if the entries
    /// in the store have not made it so.
    pub fn install(&mut self, image: &[u8], expected: &Statement) -> Result<(), ResumeError> {
        let mut parts = Parts::decode(&self.cluster, image)?;
        if parts.sequence <= self.sequence {
            return Err(ResumeError::NotAhead { executed: self.sequence, found: parts.sequence });
        }
        parts.compare(expected)?;
        let (entry, state) = parts.last_state(&self.store)?;
        if state.state_root != expected.state_root {
            return Err(parts.differs("the state root in the last entry"));
        }
        parts.restore(&mut self.application, &state)?;
        self.tree = parts.tree;
        self.identities = parts.identities;
        self.sessions = parts.sessions;
        self.sequence = parts.sequence;
        self.time_ms = state.time_ms;
        self.last_state = Some((entry, state.time_ms));
        self.bundle_since_state = false;
        self.grown = 0;
        Ok(())
    }

    /// Whether the state is that of a snapshot point (see the module `image`): right after it was executed, resumed or installed, until
    /// the next sequence is executed.
    pub fn snapshot_due(&self) -> bool {
        self.grown == 0
    }

    /// Sets what must be executed between two snapshot points, bytes, in place of the setting `snapshot_mib`: for simulations,
    /// which take more of them. All replicas must be told the same before they execute anything; an image does not hold it.
    pub fn set_snapshot_bytes(&mut self, bytes: u64) {
        self.snapshot_bytes = bytes;
    }

    pub(super) fn is_checkpoint(&self) -> bool {
        self.sequence.is_multiple_of(self.cluster.settings().checkpoint_interval)
    }

    /// Counts the sequence that was executed last, and begins anew where it is a snapshot point.
    pub(super) fn note_growth(&mut self) {
        self.grown = self.grown.saturating_add(SEQUENCE_GROWTH);
        let least = self.snapshot_bytes.max(self.application.slot_count().saturating_mul(SLOT_GROWTH));
        if self.is_checkpoint() && self.grown >= least {
            self.grown = 0;
        }
    }
}
