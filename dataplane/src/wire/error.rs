//! Errors of frames and messages, by who is at fault.

use super::frame::Kind;
use crate::types::{Code, Digest, Sequence, View};

/// Bytes that break the format. The frame is dropped and counted, the link closed: its stream cannot be trusted any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's message is its documentation")]
pub enum Malformed {
    #[error("the frame does not begin with the magic bytes ATLS")]
    Magic,
    #[error("frame version {0}, this build speaks version 1")]
    Version(u8),
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    #[error("reserved header bytes are not zero")]
    Reserved,
    #[error("a body of {length} bytes where at most {limit} are allowed")]
    TooLong { length: u32, limit: usize },
    #[error("a sealed body of {0} bytes is shorter than its tag")]
    TooShort(u32),
    #[error("the frame is for another cluster")]
    Cluster,
    #[error("the body is not a valid archive of its kind")]
    Archive,
    #[error("{what}: {count} where at most {limit} are allowed")]
    Count { what: &'static str, count: usize, limit: usize },
    #[error("{0} may not be sent by this side")]
    Direction(&'static str),
    #[error("bundle: {0}")]
    Bundle(#[from] BundleError),
}

/// What a correct replica does not send, whatever its disk, its clock and the network do to it: [`crate::evidence`] counts and keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's message is its documentation")]
pub enum Misbehaviour {
    #[error("two digests for view {view}, sequence {sequence}: {first} and {second}")]
    Equivocation { view: u64, sequence: u64, first: Digest, second: Digest },
    #[error("a proposal from a replica that does not lead view {view}")]
    NotLeader { view: u64 },
    #[error("the digest of sequence {sequence} does not cover what was sent")]
    WrongDigest { sequence: u64 },
    #[error("the time of sequence {sequence} is {drift_ms} ms off this replica's clock")]
    Drift { sequence: u64, drift_ms: i64 },
    #[error("a batch of sequence {sequence} beyond the limits")]
    BatchLimits { sequence: u64 },
    #[error("a bundle in a batch for sequence {sequence} that is malformed or not properly signed")]
    BadBundle { sequence: u64 },
    #[error("a client's bundle, sent on, that is malformed or not properly signed")]
    BadRelay,
    #[error("{said} is said to be decided at sequence {sequence}, where {decided} is")]
    WrongDecided { sequence: u64, decided: Digest, said: Digest },
    #[error("the signature of a {what} does not hold")]
    BadSignature { what: &'static str },
    #[error("two states at the checkpoint of sequence {sequence}")]
    TwoCheckpoints { sequence: u64 },
    #[error("another state at the checkpoint of sequence {sequence} than the one that a quorum signed")]
    WrongCheckpoint { sequence: u64 },
    #[error("a VIEW-CHANGE for view {view} that no correct replica signs")]
    InvalidViewChange { view: u64 },
    #[error(
        "a VIEW-CHANGE for view {view} that conceals the sender's vote for {voted} in view {voted_in}, sequence {sequence}"
    )]
    ConcealedVote { view: u64, voted_in: u64, sequence: u64, voted: Digest },
    #[error("two VIEW-CHANGEs for view {view}")]
    TwoViewChanges { view: u64 },
    #[error("a NEW-VIEW for view {view} that does not follow from its VIEW-CHANGEs")]
    InvalidNewView { view: u64 },
    #[error("two NEW-VIEWs for view {view}")]
    TwoNewViews { view: u64 },
    #[error(
        "a piece of the {what} at the snapshot of sequence {sequence}, or its hash, that is not what f+1 replicas have"
    )]
    WrongPiece { sequence: u64, what: &'static str },
    #[error("a cosignature of {size} entries whose root is not the one that a quorum signed")]
    WrongCosignature { size: u64 },
    #[error("a frame of kind {kind:?} whose content is malformed")]
    Malformed { kind: Kind },
}

impl Misbehaviour {
    /// The names of all kinds, as counters, evidence and `atlas status --json` have them.
    pub const KINDS: [&str; 19] = [
        "equivocation",
        "not_leader",
        "wrong_digest",
        "drift",
        "batch_limits",
        "bad_bundle",
        "bad_relay",
        "wrong_decided",
        "bad_signature",
        "two_checkpoints",
        "wrong_checkpoint",
        "invalid_view_change",
        "concealed_vote",
        "two_view_changes",
        "invalid_new_view",
        "two_new_views",
        "malformed",
        "wrong_piece",
        "wrong_cosignature",
    ];

    /// Its kind, of [`Misbehaviour::KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Equivocation { .. } => "equivocation",
            Self::NotLeader { .. } => "not_leader",
            Self::WrongDigest { .. } => "wrong_digest",
            Self::Drift { .. } => "drift",
            Self::BatchLimits { .. } => "batch_limits",
            Self::BadBundle { .. } => "bad_bundle",
            Self::BadRelay => "bad_relay",
            Self::WrongDecided { .. } => "wrong_decided",
            Self::BadSignature { .. } => "bad_signature",
            Self::TwoCheckpoints { .. } => "two_checkpoints",
            Self::WrongCheckpoint { .. } => "wrong_checkpoint",
            Self::InvalidViewChange { .. } => "invalid_view_change",
            Self::ConcealedVote { .. } => "concealed_vote",
            Self::TwoViewChanges { .. } => "two_view_changes",
            Self::InvalidNewView { .. } => "invalid_new_view",
            Self::TwoNewViews { .. } => "two_new_views",
            Self::WrongPiece { .. } => "wrong_piece",
            Self::WrongCosignature { .. } => "wrong_cosignature",
            Self::Malformed { .. } => "malformed",
        }
    }

    /// Whether it is certain whose fault it is. A proposal's time may be off because either clock is.
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Drift { .. })
    }

    /// The view that it is about.
    pub fn view(&self) -> Option<View> {
        match self {
            Self::Equivocation { view, .. }
            | Self::NotLeader { view }
            | Self::InvalidViewChange { view }
            | Self::ConcealedVote { view, .. }
            | Self::TwoViewChanges { view }
            | Self::InvalidNewView { view }
            | Self::TwoNewViews { view } => Some(*view),
            _ => None,
        }
    }

    /// The sequence that it is about.
    pub fn sequence(&self) -> Option<Sequence> {
        match self {
            Self::Equivocation { sequence, .. }
            | Self::WrongDigest { sequence }
            | Self::Drift { sequence, .. }
            | Self::BatchLimits { sequence }
            | Self::BadBundle { sequence }
            | Self::WrongDecided { sequence, .. }
            | Self::TwoCheckpoints { sequence }
            | Self::WrongCheckpoint { sequence }
            | Self::WrongPiece { sequence, .. }
            | Self::ConcealedVote { sequence, .. } => Some(*sequence),
            _ => None,
        }
    }

    /// The digests that contradict each other.
    pub fn digests(&self) -> Vec<Digest> {
        match self {
            Self::Equivocation { first, second, .. } => vec![*first, *second],
            Self::WrongDecided { decided, said, .. } => vec![*decided, *said],
            Self::ConcealedVote { voted, .. } => vec![*voted],
            _ => Vec::new(),
        }
    }
}

/// Why bytes are not a bundle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's message is its documentation")]
pub enum BundleError {
    #[error("not a COSE_Sign1 in deterministic encoding with the protected header {{1: -8, 4: kid}}")]
    Cose,
    #[error("payload is not [\"atlas-bundle/1\", origin, session / null, first, count, root, time]")]
    Payload,
    #[error("{count} requests where 1 to 256 are allowed")]
    Count { count: usize },
    #[error("the header says {signed} requests, {sent} were sent")]
    CountMismatch { signed: u64, sent: usize },
    #[error("the requests do not hash to the signed root")]
    Root,
    #[error("request {0} is not [class, not_after_ms / null, operation]")]
    Request(usize),
    #[error("a bundle that opens a session starts with number 0 and the operation [3], and no other bundle holds [3]")]
    Open,
    #[error("signed for another cluster")]
    Origin,
    #[error("request numbers run past the largest number")]
    Numbers,
    #[error("the worst-case entry would have more than 65,535 bytes")]
    TooLarge,
}

impl BundleError {
    /// The code that a client is answered with.
    pub fn code(self) -> Code {
        match self {
            Self::Origin => Code::WRONG_ORIGIN,
            Self::TooLarge | Self::Count { .. } => Code::TOO_LARGE,
            _ => Code::MALFORMED,
        }
    }
}

/// What is wrong with a frame or message, and whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Not a valid frame or body: drop, count, close.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// Valid bytes that no correct peer sends: evidence.
    #[error("misbehaving: {0}")]
    Misbehaving(#[from] Misbehaviour),
    /// A client asked for what it may not have: answer with the code.
    #[error("refused: {0}")]
    Refused(Code),
}
