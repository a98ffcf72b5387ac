//! What the ordering core writes to the log, and the votes that may leave once it is durable.

use std::sync::Arc;

use super::batch::Batch;
use super::bytes::Input;
use super::carry;
use super::checkpoint::{Certificate, Statement};
use super::view_change::SignedNewView;
use crate::history::cosign::Head;
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
    /// Q again: a choice of the view whose body is the latest that this log has for the sequence, or the null batch.
    Chosen {
        /// The view.
        view: View,
        /// The sequence.
        sequence: Sequence,
        /// The batch's digest.
        digest: Digest,
    },
    /// This replica leaves every view below this one: what its VIEW-CHANGE says. No vote of a lower view leaves any more.
    Leaves {
        /// The view that it asks for.
        view: View,
        /// The VIEW-CHANGE's signed bytes.
        body: Arc<[u8]>,
    },
    /// The first record of a replica that never ran before.
    Begins,
    /// This replica lost what it promised before, and says nothing that counts until it leaves its view.
    Abstains,
    /// This replica takes part in the view: the NEW-VIEW by which it began. It stands before every Q and P of the view.
    Enters(Arc<SignedNewView>),
    /// This replica may make proposals as leader of the view from here on. One that finds this in its log after a restart does
    /// not know what it proposed, and asks for the next view.
    Leads {
        /// The view.
        view: View,
    },
    /// This replica took a checkpoint: what it signs. All that it rests on stands before it in the log.
    Checkpoint(Statement),
    /// A checkpoint with the signatures of a quorum. Nothing waits for it: peers have it as well.
    Stable(Arc<Certificate>),
    /// This replica will sign this head of the history, and none that is smaller ([`crate::history::cosign`]).
    Cosigned(Head),
    /// What this replica voted in records that were let go: it stands in for them in the log's anchor and is never staged.
    Voted {
        /// The last view in which it voted, or for which it asked.
        view: View,
        /// The highest sequence there; 0 for a VIEW-CHANGE alone. The record is not about it.
        sequence: Sequence,
        /// The latest time of a batch that it pre-prepared.
        time_ms: TimeMs,
    },
}

impl Record {
    /// The sequence that the record is about; 0 where it is about none.
    pub fn sequence(&self) -> Sequence {
        match self {
            Self::PrePrepared { sequence, .. }
            | Self::Prepared { sequence, .. }
            | Self::Decided { sequence, .. }
            | Self::Learned { sequence, .. }
            | Self::Chosen { sequence, .. } => *sequence,
            Self::Leaves { .. }
            | Self::Begins
            | Self::Abstains
            | Self::Enters(_)
            | Self::Leads { .. }
            | Self::Checkpoint(_)
            | Self::Stable(_)
            | Self::Cosigned(_)
            | Self::Voted { .. } => 0,
        }
    }

    /// Whether something waits for the record to be durable; the others ride along with the next sync.
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Self::Decided { .. } | Self::Learned { .. } | Self::Stable(_) | Self::Cosigned(_))
    }
}

const PRE_PREPARED: u8 = 1;
const PREPARED: u8 = 2;
const DECIDED: u8 = 3;
const LEARNED: u8 = 4;
const CHOSEN: u8 = 5;
const LEAVES: u8 = 6;
const LEADS: u8 = 7;
const CHECKPOINT: u8 = 8;
const STABLE: u8 = 9;
const ENTERS: u8 = 10;
const BEGINS: u8 = 11;
const ABSTAINS: u8 = 12;
const VOTED: u8 = 13;
const COSIGNED: u8 = 14;

impl LogRecord for Record {
    fn kind(&self) -> u8 {
        match self {
            Self::PrePrepared { .. } => PRE_PREPARED,
            Self::Prepared { .. } => PREPARED,
            Self::Decided { .. } => DECIDED,
            Self::Learned { .. } => LEARNED,
            Self::Chosen { .. } => CHOSEN,
            Self::Leaves { .. } => LEAVES,
            Self::Enters(_) => ENTERS,
            Self::Begins => BEGINS,
            Self::Abstains => ABSTAINS,
            Self::Leads { .. } => LEADS,
            Self::Checkpoint(_) => CHECKPOINT,
            Self::Stable(_) => STABLE,
            Self::Voted { .. } => VOTED,
            Self::Cosigned(_) => COSIGNED,
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
            Self::Prepared { view, digest, .. } | Self::Chosen { view, digest, .. } => {
                out.put(&view.to_le_bytes());
                out.put(&digest.0);
            }
            Self::Decided { digest, .. } => out.put(&digest.0),
            Self::Learned { batch, .. } => encode_batch(batch, out),
            Self::Leaves { view, body } => {
                out.put(&view.to_le_bytes());
                out.put(body);
            }
            Self::Enters(new_view) => {
                let (body, signature) = new_view.parts();
                out.put(&signature.0);
                out.put(body);
            }
            Self::Leads { view } => out.put(&view.to_le_bytes()),
            Self::Begins | Self::Abstains => {}
            Self::Checkpoint(statement) => out.put(&statement.bytes()),
            Self::Stable(certificate) => out.put(&certificate.bytes()),
            Self::Cosigned(head) => {
                out.put(&head.size.to_le_bytes());
                out.put(&head.root.0);
            }
            Self::Voted { view, sequence, time_ms } => {
                out.put(&view.to_le_bytes());
                out.put(&sequence.to_le_bytes());
                out.put(&time_ms.to_le_bytes());
            }
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
            CHOSEN => Self::Chosen { view: input.u64()?, sequence, digest: input.digest()? },
            LEAVES => Self::Leaves { view: input.u64()?, body: std::mem::take(&mut input.0).into() },
            ENTERS => {
                let signature = input.signature()?;
                Self::Enters(Arc::new(SignedNewView::read_back(std::mem::take(&mut input.0), signature)?))
            }
            LEADS => Self::Leads { view: input.u64()? },
            BEGINS => Self::Begins,
            ABSTAINS => Self::Abstains,
            CHECKPOINT => Self::Checkpoint(Statement::read(&mut input)?),
            STABLE => Self::Stable(Arc::new(Certificate::read(&mut input)?)),
            COSIGNED => Self::Cosigned(Head { size: input.u64()?, root: input.digest()? }),
            VOTED => Self::Voted { view: input.u64()?, sequence: input.u64()?, time_ms: input.i64()? },
            _ => return None,
        };
        (input.0.is_empty() && record.sequence() == sequence).then_some(record)
    }

    fn carry(kept: &mut Vec<Self>, record: &Self) {
        carry::carry(kept, record);
    }

    fn bound(kept: &[Self]) -> u64 {
        carry::bound(kept)
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
    let time_ms = input.i64()?;
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
    // No leader may propose an empty batch, so one without bundles is the null batch, whose digest covers nothing.
    Some(Arc::new(if bundles.is_empty() { Batch::null() } else { Batch::new(time_ms, bundles) }))
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
            Record::Chosen { view, sequence, digest } => {
                Some(Self { phase: Phase::Prepare, view: *view, sequence: *sequence, digest: *digest })
            }
            Record::Prepared { view, sequence, digest } => {
                Some(Self { phase: Phase::Commit, view: *view, sequence: *sequence, digest: *digest })
            }
            Record::Decided { .. }
            | Record::Learned { .. }
            | Record::Leaves { .. }
            | Record::Begins
            | Record::Abstains
            | Record::Enters(_)
            | Record::Leads { .. }
            | Record::Checkpoint(_)
            | Record::Stable(_)
            | Record::Cosigned(_)
            | Record::Voted { .. } => None,
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
