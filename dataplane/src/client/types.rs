//! What goes into the client core and what comes out of it.

use std::fmt;
use std::sync::Arc;

use crate::evidence::Sealed;
use crate::types::{Code, EntryIndex, Position, PublicKey, ReplicaId, Signature, TimeMs};
use crate::wire::error::{BundleError, Malformed};
use crate::wire::frame::Kind;
use crate::wire::limits::MAX_REPLICAS;
use crate::wire::message::{
    self, ASKS_ABSENCE, ASKS_CHECKPOINT, ASKS_ENTRIES, ASKS_LEAVES, ASKS_RECEIPT, ASKS_STATE, ArchivedAnswer,
    ArchivedEvidence, ArchivedProof, ArchivedRefused, ArchivedReplies, ArchivedStatusAnswer, Prove,
};

/// Signs bundles in the name of the core's identity.
pub trait Signer {
    /// The identity's public key.
    fn public(&self) -> PublicKey;
    /// Signs these very bytes.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// What a core must know of its cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreConfig {
    /// The cluster's name, which bundles are signed for.
    pub origin: String,
    /// Number of replicas, 1 to 32.
    pub replicas: usize,
    /// Numbers that a session's window holds, at least 2; the cluster's setting.
    pub session_window: u64,
    /// Most requests in a bundle, up to 256; the cluster's setting.
    pub max_bundle_requests: usize,
}

impl CoreConfig {
    /// Most faulty replicas: floor((n-1)/3).
    pub fn faults(&self) -> usize {
        self.replicas.clamp(1, MAX_REPLICAS).saturating_sub(1) / 3
    }
}

/// Some replicas, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplicaSet(pub(super) u32);

impl ReplicaSet {
    /// Whether the replica is in it.
    pub fn contains(self, replica: ReplicaId) -> bool {
        self.0 & bit(replica.index()) != 0
    }

    /// The replicas, by index.
    pub fn iter(self) -> impl Iterator<Item = ReplicaId> {
        (0..MAX_REPLICAS as u8).map(ReplicaId).filter(move |replica| self.contains(*replica))
    }
}

/// The bit of a replica; none for an index that no replica has.
pub(super) fn bit(replica: usize) -> u32 {
    u32::try_from(replica).ok().and_then(|shift| 1u32.checked_shl(shift)).unwrap_or(0)
}

/// Names a submission, read or status question of one core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub(super) u64);

/// Names a subscription of one core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subscription(pub(super) u64);

/// Until which agreed time an operation may be executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NotAfter {
    /// Until the ticket's deadline by the caller's clock.
    #[default]
    Deadline,
    /// Until this time.
    At(TimeMs),
    /// For ever.
    Never,
}

/// How a submission is to be treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubmitOptions {
    /// Priority class; 0 is the most urgent.
    pub class: u8,
    /// When the ticket ends with [`ClientError::Timeout`], ms from now.
    pub timeout_ms: u32,
    /// When the operations expire.
    pub not_after: NotAfter,
}

impl Default for SubmitOptions {
    fn default() -> Self {
        Self { class: 0, timeout_ms: 10_000, not_after: NotAfter::Deadline }
    }
}

/// How a read is to be treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOptions {
    /// Lowest history size that is accepted; `None`: the highest that this core has seen proved.
    pub min_size: Option<u64>,
    /// How long a replica that is not there yet may wait for it, ms.
    pub wait_ms: u32,
    /// When the ticket ends with [`ClientError::Timeout`], ms from now.
    pub timeout_ms: u32,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { min_size: None, wait_ms: 500, timeout_ms: 10_000 }
    }
}

/// The agreed result of one operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestResult {
    /// Which operation of the submission.
    pub operation: usize,
    /// Where it stands in the order.
    pub position: Position,
    /// Sequence number at which it was executed.
    pub sequence: u64,
    /// Agreed time, ms.
    pub time_ms: TimeMs,
    /// Outcome: [`Code::DONE`], or why the application refused it.
    pub code: Code,
    /// CBOR of what changed, as in the history.
    pub changes: Vec<u8>,
    /// Why it was refused, for people.
    pub detail: String,
}

/// A read that f+1 replicas answered alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadResult {
    /// Outcome of the read.
    pub code: Code,
    /// History size at which the answer holds.
    pub size: u64,
    /// Highest entry that the answer depends on.
    pub valid_from: u64,
    /// The application's answer.
    pub body: Vec<u8>,
}

/// What one replica says about itself; nobody vouches for it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the fields are those of wire::message::StatusAnswer")]
pub struct ReplicaStatus {
    pub view: u64,
    pub leader: u8,
    pub sequence: u64,
    pub size: u64,
    pub history_root: [u8; 32],
    pub state_root: [u8; 32],
    pub state_digest: [u8; 32],
    pub log_bytes: u64,
    pub resident_bytes: u64,
    pub anonymous_bytes: u64,
    pub links: u32,
    pub abstains: bool,
    pub needs: u64,
    pub pid: u32,
    pub free_bytes: u64,
    pub low_space: bool,
    pub version: String,
    pub counters: Vec<(String, u64)>,
    pub evidence: Vec<Evidence>,
}

impl From<&ArchivedStatusAnswer> for ReplicaStatus {
    fn from(answer: &ArchivedStatusAnswer) -> Self {
        Self {
            view: answer.view.to_native(),
            leader: answer.leader,
            sequence: answer.sequence.to_native(),
            size: answer.size.to_native(),
            history_root: answer.history_root,
            state_root: answer.state_root,
            state_digest: answer.state_digest,
            log_bytes: answer.log_bytes.to_native(),
            resident_bytes: answer.resident_bytes.to_native(),
            anonymous_bytes: answer.anonymous_bytes.to_native(),
            links: answer.links.to_native(),
            abstains: answer.abstains,
            needs: answer.needs.to_native(),
            pid: answer.pid.to_native(),
            free_bytes: answer.free_bytes.to_native(),
            low_space: answer.low_space,
            version: answer.version.as_str().to_owned(),
            counters: answer.counters.iter().map(|c| (c.name.as_str().to_owned(), c.value.to_native())).collect(),
            evidence: answer.evidence.iter().map(Evidence::from).collect(),
        }
    }
}

/// A misbehaviour of a replica as another one saw it; nobody vouches for it but who signed its messages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the fields are those of wire::message::Evidence")]
pub struct Evidence {
    pub replica: u8,
    pub kind: String,
    pub at_ms: i64,
    pub view: Option<u64>,
    pub sequence: Option<u64>,
    pub digests: Vec<[u8; 32]>,
    pub statement: String,
    pub messages: Vec<Sealed>,
}

impl From<&ArchivedEvidence> for Evidence {
    fn from(evidence: &ArchivedEvidence) -> Self {
        let some = |value: u64| (value != u64::MAX).then_some(value);
        Self {
            replica: evidence.replica,
            kind: evidence.kind.as_str().to_owned(),
            at_ms: evidence.at_ms.to_native(),
            view: some(evidence.view.to_native()),
            sequence: some(evidence.sequence.to_native()),
            digests: evidence.digests.to_vec(),
            statement: evidence.statement.as_str().to_owned(),
            messages: evidence
                .messages
                .iter()
                .filter_map(|message| {
                    Some(Sealed {
                        kind: Kind::ALL.into_iter().find(|kind| *kind as u8 == message.kind)?,
                        replica: ReplicaId(message.replica),
                        body: message.body.to_vec(),
                        signature: Signature(message.signature),
                    })
                })
                .collect(),
        }
    }
}

/// What a ticket ended with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Completion {
    /// The results of a submission, in the order of its operations.
    Executed(Vec<RequestResult>),
    /// The answer to a read.
    Read(ReadResult),
    /// What each replica said about itself, `None` where it said nothing in time.
    Status(Vec<Option<ReplicaStatus>>),
    /// What one replica gave for a question after a proof. Nothing of it is to be believed before it is verified.
    Proof {
        /// DONE, or why it gave none.
        code: Code,
        /// Entries that it has.
        size: u64,
        /// What was asked for.
        body: Vec<u8>,
    },
}

/// What to ask a replica to prove ([`crate::replica`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProofQuestion {
    /// The newest certified checkpoint, once it has so many entries: a C2SP note.
    Checkpoint(u64),
    /// The receipt of an entry: a C2SP tlog-proof.
    Receipt(EntryIndex),
    /// A slot, as the application names it, in the next STATE entry that is not before this entry: a C2SP tlog-proof.
    State(EntryIndex, Vec<u8>),
    /// That there is no such slot, in the next checkpoint's STATE entry that is not before this entry: a C2SP tlog-proof.
    Absence(EntryIndex, Vec<u8>),
    /// Entries from the first on, at most so many: each with its length (u32, little-endian) before it.
    Entries(EntryIndex, u64),
    /// Leaf hashes from the first on, at most so many.
    Leaves(EntryIndex, u64),
}

impl ProofQuestion {
    /// The message that asks it.
    pub(super) fn message(&self, id: u64, wait_ms: u32) -> Prove {
        let (what, first, count, name) = match self {
            Self::Checkpoint(size) => (ASKS_CHECKPOINT, *size, 0, &[][..]),
            Self::Receipt(entry) => (ASKS_RECEIPT, *entry, 0, &[][..]),
            Self::State(entry, name) => (ASKS_STATE, *entry, 0, &name[..]),
            Self::Absence(entry, name) => (ASKS_ABSENCE, *entry, 0, &name[..]),
            Self::Entries(first, count) => (ASKS_ENTRIES, *first, *count, &[][..]),
            Self::Leaves(first, count) => (ASKS_LEAVES, *first, *count, &[][..]),
        };
        Prove { id, wait_ms, what, first, count, name: name.to_vec() }
    }
}

/// What the core wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this body to these replicas.
    Send {
        /// To whom; all of them have a link.
        to: ReplicaSet,
        /// Kind of the frame.
        kind: Kind,
        /// Its body, the same for all.
        body: Arc<[u8]>,
    },
    /// A ticket has ended.
    Done {
        /// Which.
        ticket: Ticket,
        /// How.
        result: Result<Completion, ClientError>,
    },
}

/// A message of a replica, read in place.
#[derive(Clone, Copy, Debug)]
pub enum ClientMessage<'a> {
    /// Results.
    Replies(&'a ArchivedReplies),
    /// A refusal.
    Refused(&'a ArchivedRefused),
    /// The answer to a read.
    Answer(&'a ArchivedAnswer),
    /// The answer to a status question.
    Status(&'a ArchivedStatusAnswer),
    /// The answer to a question after a proof.
    Proof(&'a ArchivedProof),
}

impl<'a> ClientMessage<'a> {
    /// Reads the body of a frame.
    ///
    /// # Errors
    /// The body is not one of this kind, or the kind is not for clients.
    pub fn access(kind: Kind, body: &'a [u8]) -> Result<Self, Malformed> {
        match kind {
            Kind::Replies => message::access::<message::Replies>(body).map(Self::Replies),
            Kind::Refused => message::access::<message::Refused>(body).map(Self::Refused),
            Kind::Answer => message::access::<message::Answer>(body).map(Self::Answer),
            Kind::StatusAnswer => message::access::<message::StatusAnswer>(body).map(Self::Status),
            Kind::Proof => message::access::<message::Proof>(body).map(Self::Proof),
            _ => Err(Malformed::Direction("this kind of frame")),
        }
    }
}

/// How often replicas refused bundles with one code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refusals {
    /// Times, of all replicas together.
    pub times: u64,
    /// Of those, how often the replica said when to try again.
    pub hinted: u64,
    /// The shortest and the longest such pause, ms.
    pub retry_ms: (u32, u32),
}

impl Refusals {
    /// Adds what others counted.
    pub fn merge(&mut self, other: &Self) {
        if other.hinted > 0 {
            let ((least, most), (low, high)) = (self.retry_ms, other.retry_ms);
            self.retry_ms = if self.hinted == 0 { (low, high) } else { (least.min(low), most.max(high)) };
        }
        self.times += other.times;
        self.hinted += other.hinted;
    }

    pub(super) fn add(&mut self, retry_ms: u32) {
        self.merge(&Self { times: 1, hinted: u64::from(retry_ms > 0), retry_ms: (retry_ms, retry_ms) });
    }
}

/// Why a submission or read was not begun. Nothing was sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The session's window has no room until older requests have results.
    #[error("{in_flight} requests are under way and the session's window holds {window}: wait for results first")]
    WindowFull {
        /// Numbers from the oldest unresolved request to the newest.
        in_flight: u64,
        /// The most there may be.
        window: u64,
    },
    /// As many reads as there may be.
    #[error("{} reads are under way: wait for one to end", super::limits::MAX_READS)]
    TooManyReads,
    /// As many subscriptions as there may be.
    #[error("{} subscriptions are open: end one first", super::limits::MAX_SUBSCRIPTIONS)]
    TooManySubscriptions,
    /// The operations do not fit a bundle.
    #[error("these operations cannot be submitted together: {0}")]
    Bundle(#[from] BundleError),
    /// The query is longer than may be sent.
    #[error("a query of {0} bytes, at most {limit} are allowed", limit = crate::wire::limits::MAX_QUERY)]
    QueryTooLong(usize),
}

/// What one replica has said about something that has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// There is no link to it.
    NotConnected,
    /// Nothing yet.
    Nothing,
    /// It refused.
    Refused(Code),
    /// It executed the first operation without a result at this position, with this code.
    Executed(Position, Code),
    /// It answered the read at this size, with this code.
    Answered(u64, Code),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected => f.write_str("not connected"),
            Self::Nothing => f.write_str("no answer"),
            Self::Refused(code) => write!(f, "refused: {code}"),
            Self::Executed(position, code) => write!(f, "executed at {position}: {code}"),
            Self::Answered(size, code) => write!(f, "answered at size {size}: {code}"),
        }
    }
}

/// Why a ticket ended without a completion.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// f+1 replicas refused with the same code.
    #[error("the cluster refused: {code}")]
    Refused {
        /// Why.
        code: Code,
        /// Operations of the submission that were executed nevertheless.
        executed: Vec<RequestResult>,
    },
    /// No f+1 replicas agreed before the deadline.
    #[error("no {needed} replicas agreed in time ({}){}", list(answered),
        if *sent { "; a submitted operation may still be executed until its own deadline" } else { "; nothing was sent" })]
    Timeout {
        /// Equal answers needed: f+1.
        needed: usize,
        /// What each replica has said, by index.
        answered: Vec<Said>,
        /// Whether anything was signed that replicas may still execute.
        sent: bool,
    },
    /// The replicas do not know the session, or what became of its numbers, any more.
    #[error(
        "the replicas closed or forgot this client's session; whether the operation was executed is unknown: read before you repeat it"
    )]
    SessionLost,
}

fn list(answered: &[Said]) -> String {
    let each: Vec<_> = answered.iter().enumerate().map(|(index, said)| format!("replica {index} {said}")).collect();
    each.join(", ")
}
