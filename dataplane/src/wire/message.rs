//! The messages: rkyv archives, read in place after a check.
//!
//! rkyv's own check proves that the archive stays inside its bytes and that its parts do not overlap; [`Message::check`] then
//! holds every count against its limit and adds up the parts: a body with bytes that belong to none of them is malformed, so
//! nothing can be hidden in a frame. No digest and no signature ever covers these bytes. The encodings are pinned by
//! `tests/conformance.txt`.

use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Strategy};
use rkyv::validation::Validator;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::validation::shared::SharedValidator;
use rkyv::{Archive, Portable, Serialize};
use smallvec::SmallVec;

use super::error::Malformed;
use super::frame::Kind;
use super::limits::{
    ARCHIVED_LIST, MAX_BATCH_BUNDLES, MAX_BATCH_BYTES, MAX_BUNDLE_REQUESTS, MAX_CERTIFICATE, MAX_COUNTERS,
    MAX_EVIDENCE, MAX_EVIDENCE_BYTES, MAX_EVIDENCE_PARTS, MAX_PIECE, MAX_PIECES, MAX_QUERY, MAX_REPLICAS, MAX_REPLIES,
    MAX_STATUS_SLOTS, MAX_VOTES,
};

/// The leader's proposal for one sequence: what is in the batch, by digest. Covers neither the leader nor the view with its
/// digest (FORMATS.md). Backups hold the bundles, or ask for them.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct PrePrepare {
    /// View of the leader.
    pub view: u64,
    /// Sequence number proposed for.
    pub sequence: u64,
    /// The leader's time, ms since the Unix epoch.
    pub time_ms: i64,
    /// Batch digest.
    pub digest: [u8; 32],
    /// Bundle digests in order.
    pub bundles: Vec<[u8; 32]>,
}

/// One vote for (view of the message, sequence, digest).
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Vote {
    /// Sequence number voted on.
    pub sequence: u64,
    /// Batch digest voted for.
    pub digest: [u8; 32],
}

/// Votes of one view that were ready together: PREPAREs or COMMITs, by the frame's kind.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Votes {
    /// View of all votes.
    pub view: u64,
    /// The votes.
    pub votes: Vec<Vote>,
}

/// Sequences that the sender knows committed.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Decided {
    /// Sequence and digest of each, ascending.
    pub decided: Vec<Vote>,
}

/// What the sender has of one open sequence.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct OpenSlot {
    /// The sequence.
    pub sequence: u64,
    /// Whether the sender has the proposal of its current view.
    pub proposed: bool,
    /// Replicas whose PREPARE the sender has, a bit each.
    pub prepares: u32,
    /// Replicas whose COMMIT of its current view the sender has, a bit each.
    pub commits: u32,
}

/// What the sender has; what it lacks is sent again.
#[derive(Archive, Serialize, Clone, PartialEq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct Status {
    /// The sender's view.
    pub view: u64,
    /// Low watermark.
    pub low: u64,
    /// Highest sequence executed.
    pub executed: u64,
    /// Whether the sender takes part in its view; otherwise it waits for the NEW-VIEW.
    pub active: bool,
    /// Whether the sender asks to be answered with its own status (after a reconnect).
    pub ask: bool,
    /// Whether the sender lost its records and says nothing that counts.
    pub abstains: bool,
    /// Where it abstains: the sequence at which a checkpoint must be stable for it to come back; 0 while it does not know.
    pub needs: u64,
    /// The last vote that the sender has of each replica, by index.
    pub heard: Vec<Heard>,
    /// Open sequences above `executed`, ascending.
    pub open: Vec<OpenSlot>,
}

/// The last vote of a replica: the highest view, and in it the highest sequence.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Heard {
    /// The view.
    pub view: u64,
    /// The sequence; 0 for a VIEW-CHANGE alone.
    pub sequence: u64,
}

/// Asks for the body of a batch.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct FetchBatch {
    /// Its sequence.
    pub sequence: u64,
    /// Its digest.
    pub digest: [u8; 32],
}

/// A bundle as the client sent it.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct WireBundle {
    /// The COSE_Sign1.
    pub cose: Vec<u8>,
    /// The encoded requests under its root.
    pub requests: Vec<Vec<u8>>,
}

/// The body of a batch, verified against its digest by whoever receives it.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Batch {
    /// Its sequence.
    pub sequence: u64,
    /// Its digest.
    pub digest: [u8; 32],
    /// The leader's time that the digest covers.
    pub time_ms: i64,
    /// The bundles in order.
    pub bundles: Vec<WireBundle>,
}

/// What its sender, who leaves every view below, reports. The body is plain bytes ([`crate::ordering::view_change`]).
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct ViewChange {
    /// What is signed.
    pub body: Vec<u8>,
    /// The sender's signature.
    pub signature: [u8; 64],
}

/// How a view begins. The body is plain bytes ([`crate::ordering::view_change`]).
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct NewView {
    /// What is signed.
    pub body: Vec<u8>,
    /// The leader's signature.
    pub signature: [u8; 64],
}

/// The sender's state at a checkpoint. The body is plain bytes ([`crate::ordering::checkpoint`]).
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Checkpoint {
    /// What is signed.
    pub body: Vec<u8>,
    /// The sender's signature.
    pub signature: [u8; 64],
}

/// A checkpoint with the signatures of a quorum, in plain bytes ([`crate::ordering::checkpoint`]).
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Stable {
    /// The certificate.
    pub certificate: Vec<u8>,
}

/// A client's bundle that a backup waits for, sent on to the leader.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Relay {
    /// The bundle.
    pub bundle: WireBundle,
}

/// A snapshot that the sender keeps: who has fallen behind its log may take the state from it.
#[derive(Archive, Serialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Offer {
    /// The certificate of its checkpoint, in plain bytes ([`crate::ordering::checkpoint`]).
    pub certificate: Vec<u8>,
    /// Bytes of the snapshot.
    pub bytes: u64,
    /// SHA-256 over the hashes of its pieces, in order.
    pub digest: [u8; 32],
}

/// Asks for pieces ([`crate::transfer`]), or for what they hash to.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct FetchPieces {
    /// The snapshot's checkpoint.
    pub sequence: u64,
    /// Pieces of the snapshot; otherwise of the history up to it.
    pub of_state: bool,
    /// Their hashes; otherwise one piece itself.
    pub hashes: bool,
    /// The first one: of the state its number, of the history its first entry.
    pub first: u64,
}

/// The hash of a piece.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct PieceHash {
    /// Entries in it; 0 for one of the state.
    pub entries: u64,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
}

/// Answers [`FetchPieces`] for hashes.
#[derive(Archive, Serialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Pieces {
    /// The snapshot's checkpoint.
    pub sequence: u64,
    /// Pieces of the snapshot; otherwise of the history.
    pub of_state: bool,
    /// The first one.
    pub first: u64,
    /// Their hashes, one piece after the other.
    pub hashes: Vec<PieceHash>,
}

/// Answers [`FetchPieces`] for a piece.
#[derive(Archive, Serialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Piece {
    /// The snapshot's checkpoint.
    pub sequence: u64,
    /// A piece of the snapshot; otherwise of the history.
    pub of_state: bool,
    /// Which.
    pub first: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A client's bundle.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Submit {
    /// The bundle.
    pub bundle: WireBundle,
}

/// The changes of one request as the outcome has them: those of a request that writes a single property need no memory of their own.
pub type Changes = SmallVec<[u8; 24]>;

/// The result of one request.
#[derive(Archive, Serialize, Clone, PartialEq, Eq, Debug)]
#[rkyv(derive(Debug))]
pub struct Reply {
    /// The session in which the request was executed.
    pub session: u64,
    /// The request's number in its session.
    pub number: u64,
    /// Sequence at which it was executed.
    pub sequence: u64,
    /// Entry of the history.
    pub entry: u64,
    /// Request inside the entry.
    pub request: u16,
    /// Agreed time, ms.
    pub time_ms: i64,
    /// Outcome code.
    pub code: u16,
    /// CBOR `[[path, revision, previous entry / null] ...]` as in the entry's outcome.
    pub changes: Changes,
    /// Why, for people, where refused.
    pub detail: String,
}

/// Results of requests of one bundle.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Replies {
    /// Digest of the bundle that these answer, so that a client that opens a session recognises it.
    pub bundle: [u8; 32],
    /// The results.
    pub replies: Vec<Reply>,
}

/// The replica will not have this bundle ordered, or not now; one replica's word, to be believed from f+1.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Refused {
    /// SHA-256 of the bytes that were sent as the bundle's COSE_Sign1, whether or not they are one.
    pub bundle: [u8; 32],
    /// Number of the first request that it is about.
    pub first: u64,
    /// How many requests; 0: all of the bundle's, whatever `first` says.
    pub count: u32,
    /// Why.
    pub code: u16,
    /// When to try again, ms; 0: not at all with these bytes.
    pub retry_after_ms: u32,
}

/// A read: answered as soon as the replica's history has at least `min_size` entries.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Query {
    /// The client's number for it.
    pub id: u64,
    /// Lowest history size at which it may be answered.
    pub min_size: u64,
    /// How long the replica may wait for that, or for news where the application says so, ms.
    pub wait_ms: u32,
    /// The application's query.
    pub query: Vec<u8>,
}

/// The answer to a read.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Answer {
    /// The client's number for it.
    pub id: u64,
    /// Outcome code of the read.
    pub code: u16,
    /// History size at which it was answered.
    pub size: u64,
    /// Highest entry that touched anything that the answer depends on: the answer holds from there to `size`.
    pub valid_from: u64,
    /// The application's answer.
    pub body: Vec<u8>,
}

pub use super::proofs::*;

/// How is the replica?
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct StatusQuery {
    /// The client's number for it.
    pub id: u64,
}

/// What an operator wants to know first.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct StatusAnswer {
    /// The client's number for it.
    pub id: u64,
    /// The replica's index.
    pub replica: u8,
    /// Its view.
    pub view: u64,
    /// Leader of that view.
    pub leader: u8,
    /// Highest sequence executed.
    pub sequence: u64,
    /// History size (entries executed).
    pub size: u64,
    /// History root at that size.
    pub history_root: [u8; 32],
    /// Slot root of the state.
    pub state_root: [u8; 32],
    /// Digest over history, state and sessions.
    pub state_digest: [u8; 32],
    /// Bytes of log written.
    pub log_bytes: u64,
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// Anonymous resident memory, bytes.
    pub anonymous_bytes: u64,
    /// Replicas with a live link, a bit each.
    pub links: u32,
    /// Whether it lost its records and says nothing that counts.
    pub abstains: bool,
    /// Where it abstains: the sequence at which a checkpoint must be stable for it to come back; 0 while it does not know.
    pub needs: u64,
    /// Process id.
    pub pid: u32,
    /// Free bytes where the replica's data lies; all ones where that is not known.
    pub free_bytes: u64,
    /// Whether that is too little for new writes.
    pub low_space: bool,
    /// Version of the binary.
    pub version: String,
    /// Counters by name: frames dropped, refusals, misbehaviour by kind and replica.
    pub counters: Vec<Counter>,
    /// What other replicas did that a correct one does not do.
    pub evidence: Vec<Evidence>,
}

/// One misbehaviour of a replica, as the answering replica saw it ([`crate::evidence`]).
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Evidence {
    /// Of whom.
    pub replica: u8,
    /// Its kind, of [`super::error::Misbehaviour::KINDS`].
    pub kind: String,
    /// When it was seen, by the answering replica's clock, ms.
    pub at_ms: i64,
    /// The view that it is about; all ones: none.
    pub view: u64,
    /// The sequence that it is about; all ones: none.
    pub sequence: u64,
    /// The digests that contradict each other.
    pub digests: Vec<[u8; 32]>,
    /// What happened, for people.
    pub statement: String,
    /// What convicts it, where that was signed.
    pub messages: Vec<Sealed>,
}

/// A message that its sender signed.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Sealed {
    /// Kind of the frame: CHECKPOINT, VIEW-CHANGE, NEW-VIEW or a cosignature.
    pub kind: u8,
    /// Who signed it.
    pub replica: u8,
    /// The signed bytes; empty where they are too long for the answer.
    pub body: Vec<u8>,
    /// The signature ([`crate::ordering::seal`]).
    pub signature: [u8; 64],
}

/// A named counter.
#[derive(Archive, Serialize, Clone, PartialEq, Debug)]
#[rkyv(derive(Debug))]
pub struct Counter {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: u64,
}

type ArchiveCheck<'a> = Strategy<Validator<ArchiveValidator<'a>, SharedValidator>, Failure>;

/// A message that is a frame's body: which kind, and its counts' limits.
pub trait Message: Archive {
    /// The kind of frame that carries it.
    const KIND: Kind;

    /// Holds every count against its limit, and returns how many bytes the message has beyond its fixed part.
    ///
    /// # Errors
    /// The first count beyond its limit.
    fn check(archived: &Self::Archived) -> Result<usize, Malformed>;
}

/// Reads a body in place.
///
/// # Errors
/// The bytes are not exactly one archive of this message, or a count is beyond its limit.
pub fn access<M>(body: &[u8]) -> Result<&M::Archived, Malformed>
where
    M: Message,
    M::Archived: Portable + for<'a> CheckBytes<ArchiveCheck<'a>>,
{
    let archived = rkyv::access::<M::Archived, Failure>(body).map_err(|_| Malformed::Archive)?;
    exact(body, archived, M::check(archived)?)
}

/// Appends a message's archive to `out`.
pub fn encode<M>(message: &M, out: &mut Vec<u8>)
where
    M: Message
        + for<'a> Serialize<rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, Failure>>,
{
    let taken = std::mem::take(out);
    // The writer is a Vec and our messages hold no shared pointers, so there is nothing that could fail.
    if let Ok(bytes) = rkyv::api::high::to_bytes_in::<_, Failure>(message, taken) {
        *out = bytes;
    }
}

/// The archive, if the body holds it and nothing else.
fn exact<'a, A>(body: &[u8], archived: &'a A, beyond: usize) -> Result<&'a A, Malformed> {
    if body.len() == size_of::<A>() + beyond { Ok(archived) } else { Err(Malformed::Archive) }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), Malformed> {
    if count <= limit { Ok(()) } else { Err(Malformed::Count { what, count, limit }) }
}

/// Bytes of a list of at most `limit` elements of fixed size.
fn list<T>(what: &'static str, elements: &[T], limit: usize) -> Result<usize, Malformed> {
    at_most(what, elements.len(), limit)?;
    Ok(size_of_val(elements))
}

/// Bytes of a text outside the place that names it: rkyv keeps a short one there.
fn text(text: &str) -> usize {
    if text.len() <= ARCHIVED_LIST { 0 } else { text.len() }
}

/// Bytes of the COSE_Sign1 and of the requests, and of the lists that name the requests.
fn check_bundle(bundle: &ArchivedWireBundle) -> Result<(usize, usize), Malformed> {
    let lists = list("requests in a bundle", &bundle.requests, MAX_BUNDLE_REQUESTS)?;
    Ok((bundle.cose.len() + bundle.requests.iter().map(|request| request.len()).sum::<usize>(), lists))
}

fn check_batch(batch: &ArchivedBatch) -> Result<usize, Malformed> {
    let mut beyond = list("bundles in a batch", &batch.bundles, MAX_BATCH_BUNDLES)?;
    let mut bytes = 0;
    for bundle in batch.bundles.iter() {
        let (content, lists) = check_bundle(bundle)?;
        bytes += content;
        beyond += lists;
    }
    at_most("bytes in a batch", bytes, MAX_BATCH_BYTES)?;
    Ok(beyond + bytes)
}

fn check_replies(replies: &[ArchivedReply]) -> Result<usize, Malformed> {
    let fixed = list("replies", replies, MAX_REPLIES)?;
    Ok(fixed + replies.iter().map(|reply| reply.changes.len() + text(&reply.detail)).sum::<usize>())
}

fn check_status_answer(answer: &ArchivedStatusAnswer) -> Result<usize, Malformed> {
    let fixed = list("counters", &answer.counters, MAX_COUNTERS)?;
    let counters = answer.counters.iter().map(|counter| text(&counter.name)).sum::<usize>();
    let mut beyond = fixed + text(&answer.version) + counters + list("evidence", &answer.evidence, MAX_EVIDENCE)?;
    let mut bytes = 0;
    for evidence in answer.evidence.iter() {
        beyond += text(&evidence.kind) + text(&evidence.statement);
        beyond += list("digests in evidence", &evidence.digests, MAX_EVIDENCE_PARTS)?;
        beyond += list("messages in evidence", &evidence.messages, MAX_EVIDENCE_PARTS)?;
        bytes += evidence.messages.iter().map(|message| message.body.len()).sum::<usize>();
    }
    at_most("bytes of evidence", bytes, MAX_EVIDENCE_BYTES)?;
    Ok(beyond + bytes)
}

macro_rules! messages {
    ($($message:ident, |$archived:ident| $check:expr;)+) => {
        $(impl Message for $message {
            const KIND: Kind = Kind::$message;

            fn check($archived: &Self::Archived) -> Result<usize, Malformed> {
                $check
            }
        })+
    };
}

messages! {
    PrePrepare, |m| list("bundles in a proposal", &m.bundles, MAX_BATCH_BUNDLES);
    Decided, |m| list("decisions", &m.decided, MAX_VOTES);
    Status, |m| {
        let heard = list("replicas heard in a status", &m.heard, MAX_REPLICAS)?;
        Ok(heard + list("open sequences in a status", &m.open, MAX_STATUS_SLOTS)?)
    };
    FetchBatch, |_m| Ok(0);
    Batch, |m| check_batch(m);
    ViewChange, |m| Ok(m.body.len());
    NewView, |m| Ok(m.body.len());
    Checkpoint, |m| list("bytes of a checkpoint", &m.body, MAX_CERTIFICATE);
    Stable, |m| list("bytes of a certificate", &m.certificate, MAX_CERTIFICATE);
    Relay, |m| check_bundle(&m.bundle).map(|(content, lists)| content + lists);
    Offer, |m| list("bytes of a certificate", &m.certificate, MAX_CERTIFICATE);
    FetchPieces, |_m| Ok(0);
    Pieces, |m| list("hashes of pieces", &m.hashes, MAX_PIECES);
    Piece, |m| list("bytes of a piece", &m.bytes, MAX_PIECE);
    Submit, |m| check_bundle(&m.bundle).map(|(content, lists)| content + lists);
    Replies, |m| check_replies(&m.replies);
    Refused, |_m| Ok(0);
    Query, |m| list("bytes of a query", &m.query, MAX_QUERY);
    Answer, |m| Ok(m.body.len());
    StatusQuery, |_m| Ok(0);
    StatusAnswer, |m| check_status_answer(m);
    Prove, |m| list("bytes of a name", &m.name, MAX_QUERY);
    Proof, |m| Ok(m.body.len());
    Cosignature, |_m| Ok(0);
}

/// Votes travel under two kinds, so they are not a [`Message`] of one: the frame's kind says which.
impl Votes {
    /// Appends the archive to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let taken = std::mem::take(out);
        if let Ok(bytes) = rkyv::api::high::to_bytes_in::<_, Failure>(self, taken) {
            *out = bytes;
        }
    }

    /// Reads a body in place.
    ///
    /// # Errors
    /// As [`access`].
    pub fn access(body: &[u8]) -> Result<&ArchivedVotes, Malformed> {
        let archived = rkyv::access::<ArchivedVotes, Failure>(body).map_err(|_| Malformed::Archive)?;
        exact(body, archived, list("votes", &archived.votes, MAX_VOTES)?)
    }
}
