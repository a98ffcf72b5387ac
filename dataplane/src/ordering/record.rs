//! What the ordering core writes to the log, and the votes that may leave once it is durable.

use std::sync::Arc;

use super::batch::Batch;
use crate::log::{Durable, Record as LogRecord, Sink};
use crate::types::{Digest, Sequence, TimeMs, View};
use crate::wire::bundle::Bundle;
use crate::wire::limits::{MAX_BATCH_BUNDLES, MAX_BUNDLE_REQUESTS};

/// A record of the log.
#[derive(Clone, PartialEq, Debug)]
pub enum Record {
    /// Q: this replica pre-prepared the batch at the sequence in the view. Holds the batch and its bundles.
    PrePrepared {
        /// The view.
        view: View,
        /// The sequence.
        sequence: Sequence,
        /// The batch.
        batch: Arc<Batch>,
    },
    /// P: this replica prepared the digest at the sequence in the view.
    Prepared {
        /// The view.
        view: View,
        /// The sequence.
        sequence: Sequence,
        /// The batch's digest.
        digest: Digest,
    },
    /// The digest is committed at the sequence. No vote waits for it and it is never flushed for its own sake: after a power
    /// cut Q and P decide the same again.
    Decided {
        /// The sequence.
        sequence: Sequence,
        /// The batch's digest.
        digest: Digest,
    },
    /// The batch is committed at the sequence, and this replica had not pre-prepared it: a body learned from peers.
    Learned {
        /// The sequence.
        sequence: Sequence,
        /// The batch.
        batch: Arc<Batch>,
    },
}

impl Record {
    /// The sequence that the record is about.
    pub fn sequence(&self) -> Sequence {
        match self {
            Self::PrePrepared { sequence, .. }
            | Self::Prepared { sequence, .. }
            | Self::Decided { sequence, .. }
            | Self::Learned { sequence, .. } => *sequence,
        }
    }

    /// Whether something waits for the record to be durable; the others ride along with the next sync.
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::PrePrepared { .. } | Self::Prepared { .. })
    }
}

const PRE_PREPARED: u8 = 1;
const PREPARED: u8 = 2;
const DECIDED: u8 = 3;
const LEARNED: u8 = 4;

impl LogRecord for Record {
    fn kind(&self) -> u8 {
        match self {
            Self::PrePrepared { .. } => PRE_PREPARED,
            Self::Prepared { .. } => PREPARED,
            Self::Decided { .. } => DECIDED,
            Self::Learned { .. } => LEARNED,
        }
    }

    fn key(&self) -> u64 {
        self.sequence()
    }

    fn encode(&self, out: &mut Sink<'_>) {
        out.put(&self.sequence().to_le_bytes());
        match self {
            Self::PrePrepared { view, batch, .. } => {
                out.put(&view.to_le_bytes());
                encode_batch(batch, out);
            }
            Self::Prepared { view, digest, .. } => {
                out.put(&view.to_le_bytes());
                out.put(&digest.0);
            }
            Self::Decided { digest, .. } => out.put(&digest.0),
            Self::Learned { batch, .. } => encode_batch(batch, out),
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        let mut input = Input(payload);
        let sequence = input.u64()?;
        let record = match kind {
            PRE_PREPARED => Self::PrePrepared { view: input.u64()?, sequence, batch: decode_batch(&mut input)? },
            PREPARED => Self::Prepared { view: input.u64()?, sequence, digest: input.digest()? },
            DECIDED => Self::Decided { sequence, digest: input.digest()? },
            LEARNED => Self::Learned { sequence, batch: decode_batch(&mut input)? },
            _ => return None,
        };
        input.0.is_empty().then_some(record)
    }
}

fn encode_batch(batch: &Batch, out: &mut Sink<'_>) {
    out.put(&batch.time_ms().to_le_bytes());
    out.put(&(batch.bundles().len() as u32).to_le_bytes());
    for bundle in batch.bundles() {
        let requests = bundle.requests();
        out.put(&(bundle.cose().len() as u32).to_le_bytes());
        out.put(&(requests.len() as u32).to_le_bytes());
        for request in requests.clone() {
            out.put(&(request.len() as u32).to_le_bytes());
        }
        out.put(bundle.cose());
        for request in requests {
            out.put(request);
        }
    }
}

fn decode_batch(input: &mut Input<'_>) -> Option<Arc<Batch>> {
    let time_ms = i64::from_le_bytes(input.take(8)?.try_into().ok()?);
    let count = input.u32()? as usize;
    if count > MAX_BATCH_BUNDLES {
        return None;
    }
    let mut bundles = Vec::with_capacity(count);
    for _ in 0..count {
        let cose_length = input.u32()? as usize;
        let request_count = input.u32()? as usize;
        if request_count > MAX_BUNDLE_REQUESTS {
            return None;
        }
        let lengths = input.take(4 * request_count)?;
        let cose = input.take(cose_length)?;
        let mut requests = Vec::with_capacity(request_count);
        for length in lengths.chunks_exact(4) {
            requests.push(input.take(u32::from_le_bytes(length.try_into().ok()?) as usize)?);
        }
        bundles.push(Arc::new(Bundle::read_back(cose, requests.into_iter()).ok()?));
    }
    // A batch without bundles is the null batch, whose digest and time are fixed.
    Some(Arc::new(Batch::new(time_ms, bundles)))
}

/// The rest of a payload.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn digest(&mut self) -> Option<Digest> {
        Some(Digest(self.take(32)?.try_into().ok()?))
    }
}

/// Which vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// PREPARE: Q is durable.
    Prepare,
    /// COMMIT: P is durable.
    Commit,
}

/// A vote whose record is durable. It can be made from nothing else, so no vote leaves before its promise is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurableVote {
    phase: Phase,
    view: View,
    sequence: Sequence,
    digest: Digest,
}

impl DurableVote {
    /// The vote that a durable record permits; decisions permit none.
    pub fn of(record: &Durable<Record>) -> Option<Self> {
        match &**record {
            Record::PrePrepared { view, sequence, batch } => {
                Some(Self { phase: Phase::Prepare, view: *view, sequence: *sequence, digest: batch.digest() })
            }
            Record::Prepared { view, sequence, digest } => {
                Some(Self { phase: Phase::Commit, view: *view, sequence: *sequence, digest: *digest })
            }
            Record::Decided { .. } | Record::Learned { .. } => None,
        }
    }

    /// PREPARE or COMMIT.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The view voted in.
    pub fn view(&self) -> View {
        self.view
    }

    /// The sequence voted on.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The digest voted for.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// A proposal whose Q is durable at the leader: a leader that restarts must find what it proposed.
#[derive(Clone, Debug)]
pub struct DurableProposal {
    view: View,
    sequence: Sequence,
    digest: Digest,
    time_ms: TimeMs,
    bundles: Arc<[Digest]>,
}

impl DurableProposal {
    /// The proposal in a durable Q.
    pub fn of(record: &Durable<Record>) -> Option<Self> {
        match &**record {
            Record::PrePrepared { view, sequence, batch } => {
                let bundles = batch.bundles().iter().map(|bundle| bundle.digest()).collect();
                let (digest, time_ms) = (batch.digest(), batch.time_ms());
                Some(Self { view: *view, sequence: *sequence, digest, time_ms, bundles })
            }
            _ => None,
        }
    }

    /// The view proposed in.
    pub fn view(&self) -> View {
        self.view
    }

    /// The sequence proposed for.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The batch's digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The leader's time.
    pub fn time_ms(&self) -> TimeMs {
        self.time_ms
    }

    /// The digests of the batch's bundles.
    pub fn bundles(&self) -> &[Digest] {
        &self.bundles
    }
}
