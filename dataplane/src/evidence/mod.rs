//! What other replicas did that a correct one does not do: counted by replica and kind, and kept.
//!
//! # What is kept
//! Of each kind of misbehaviour of each replica the first [`KEPT`] are kept in full, the rest only counted. In full means: when, what, the
//! view, sequence and digests that it is about, and, where the replica signed what convicts it (CHECKPOINT, VIEW-CHANGE,
//! NEW-VIEW), the messages with their signatures, both where they contradict each other. Those convince a third party who has the
//! cluster file: each is signed over what [`crate::ordering::seal`] says. Everything else (votes, proposals, bodies) came over a link
//! that proves its sender to this replica alone: it is this replica's word.
//!
//! # Whom it may name
//! Nobody correct. What a restart, a repetition, a lost message or a wrong clock can bring about is not misbehaviour
//! ([`crate::wire::error::Misbehaviour::is_certain`]), nor is a frame that does not open (whoever is on the wire can do that).
//! Signing is deterministic and what is signed is durable first, so a correct replica never signs two different things where it
//! may sign one. The simulator holds every run against this.
//!
//! # The file
//! `evidence` in the data directory, appended to: a header, then records, little-endian, each with its own checksum.
//!
//! ```text
//! header    magic "ATLSEVID", version 4, genesis 32, checksum 8 (XXH3-64 of what is before)
//! record    length of the payload 4, payload, checksum 8 (XXH3-64 of length and payload)
//! payload   1 (evidence): time in ms 8, count so far 8, replica 1, kind: length 1 and name, view 8, sequence 8 (all ones: none),
//!           digests: count 1 and 32 each, statement: length 2 and UTF-8, messages: count 1 and {frame kind 1, replica 1, length 4,
//!           signed bytes, signature 64}
//!           2 (count): time in ms 8, count so far 8, replica 1, kind: length 1 and name
//! ```
//!
//! A torn last record is dropped. A file with a damaged record, of another cluster or of an unknown version is set aside as
//! `evidence.damaged` (the last such file is kept) and begun anew with what was before the damage. Nothing about it keeps a
//! replica from starting. At start superseded counts are left out.
//!
//! # Who writes it when
//! The node notes in memory; the process hands new records to a thread of its own at the end of a round, which appends and
//! syncs. No vote waits for it. If it cannot keep up, or the disk fails or is full, the record is lost to the file, counted
//! (`evidence.lost`), and everything goes on.
//!
//! # Limits
//! [`KEPT`] of each kind and replica, [`MAX_BYTES`] of records for each replica, after that counts only. A count is written each time up
//! to [`COUNTED_EACH`] and then whenever it has grown by an eighth, and at a clean end: whatever an attacker does, its share
//! of the file stays below 4 MiB and some hundred short records of each kind, and a crash forgets at most an eighth of a large count.
//! In memory signed messages are held up to [`MAX_SHOWN`] bytes for each replica; longer ones are in the file alone.

mod file;
mod format;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use file::EvidenceFile;
use format::MAX_STATEMENT;

use crate::cluster::Cluster;
use crate::crypto::{context, verify};
use crate::history::note::verify_cofactorless;
use crate::ordering::seal::signed_bytes;
use crate::types::{Digest, ReplicaId, Sequence, Signature, TimeMs, View};
use crate::wire::error::Misbehaviour;
use crate::wire::frame::Kind;
use crate::wire::limits::{MAX_EVIDENCE, MAX_EVIDENCE_BYTES, MAX_REPLICAS};
use crate::wire::message;

/// Kept in full of each kind and replica; the first is enough to convict, the others show whether it goes on.
pub const KEPT: u64 = 4;

/// Bytes of records about one replica; two of the longest NEW-VIEWs fit.
pub const MAX_BYTES: usize = 4 << 20;

/// Bytes of signed messages about one replica that are held in memory, to be shown by a status.
pub const MAX_SHOWN: usize = 64 << 10;

/// Up to here each count is written.
pub const COUNTED_EACH: u64 = 64;

/// A message that its sender signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// CHECKPOINT, VIEW-CHANGE, NEW-VIEW or a cosignature.
    pub kind: Kind,
    /// Who signed it.
    pub replica: ReplicaId,
    /// The signed bytes; empty where they are too long to be held in memory.
    pub body: Vec<u8>,
    /// The signature over context, epoch, origin and body ([`crate::ordering::seal`]); a cosignature's is over the body alone.
    pub signature: Signature,
}

impl Sealed {
    /// Whether its signer signed it, by nothing but the cluster file.
    pub fn holds(&self, cluster: &Cluster) -> bool {
        if self.kind == Kind::Cosignature {
            let key = cluster.member(self.replica).map(|member| member.cosign_key);
            return key.is_some_and(|key| verify_cofactorless(&key, &self.body, &self.signature.0));
        }
        let context = match self.kind {
            Kind::Checkpoint => context::CHECKPOINT,
            Kind::ViewChange => context::VIEW_CHANGE,
            Kind::NewView => context::NEW_VIEW,
            _ => return false,
        };
        let Some(member) = cluster.member(self.replica) else { return false };
        // Membership does not change yet: all is of the first epoch.
        let signed = signed_bytes(context, 0, cluster.origin(), &self.body);
        verify(&member.protocol_key, &signed, &self.signature)
    }
}

/// One misbehaviour, kept in full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// When it was seen, by this replica's clock.
    pub at_ms: TimeMs,
    /// Of whom.
    pub replica: ReplicaId,
    /// Its kind, of [`Misbehaviour::KINDS`].
    pub kind: &'static str,
    /// How many of this kind there were with it.
    pub count: u64,
    /// The view that it is about.
    pub view: Option<View>,
    /// The sequence that it is about.
    pub sequence: Option<Sequence>,
    /// The digests that contradict each other.
    pub digests: Vec<Digest>,
    /// What happened, for people; at most 512 bytes.
    pub statement: String,
    /// What convicts it, where that was signed.
    pub messages: Vec<Sealed>,
}

/// How often, of one kind and replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tally {
    count: u64,
    /// The count that the file has, or is about to have.
    written: u64,
    /// How many are kept in full.
    kept: u64,
    at_ms: TimeMs,
}

/// What is known of the other replicas' misbehaviour. Pure: [`Book::take_records`] has what is to be written.
#[derive(Debug, Default)]
pub struct Book {
    tallies: BTreeMap<(ReplicaId, &'static str), Tally>,
    kept: Vec<Evidence>,
    /// Bytes of records, by replica.
    bytes: BTreeMap<ReplicaId, usize>,
    /// Bytes of messages in memory, by replica.
    shown: BTreeMap<ReplicaId, usize>,
    records: Vec<Vec<u8>>,
}

impl Book {
    /// Notes a misbehaviour, with the signed messages that convict it if there are any.
    pub fn note(&mut self, replica: ReplicaId, what: &Misbehaviour, messages: Vec<Sealed>, at_ms: TimeMs) {
        if replica.index() >= MAX_REPLICAS {
            return;
        }
        let kind = what.kind();
        let tally = self.tallies.entry((replica, kind)).or_default();
        tally.count = tally.count.saturating_add(1);
        tally.at_ms = at_ms;
        let count = tally.count;
        if tally.kept < KEPT {
            let mut statement = what.to_string();
            statement.truncate(statement.floor_char_boundary(MAX_STATEMENT));
            let (view, sequence, digests) = (what.view(), what.sequence(), what.digests());
            let evidence = Evidence { at_ms, replica, kind, count, view, sequence, digests, statement, messages };
            let record = format::evidence(&evidence);
            let bytes = self.bytes.entry(replica).or_default();
            if *bytes + record.len() <= MAX_BYTES {
                *bytes += record.len();
                tally.written = count;
                self.records.push(record);
                self.keep(evidence);
                return;
            }
        }
        let tally = self.tallies.entry((replica, kind)).or_default();
        if count <= COUNTED_EACH || count - tally.written >= tally.written / 8 {
            tally.written = count;
            self.records.push(format::count(at_ms, replica, kind, count));
        }
    }

    /// Holds evidence in memory, without messages that are too long for it.
    fn keep(&mut self, mut evidence: Evidence) {
        let shown = self.shown.entry(evidence.replica).or_default();
        for message in &mut evidence.messages {
            if *shown + message.body.len() <= MAX_SHOWN {
                *shown += message.body.len();
            } else {
                message.body = Vec::new();
            }
        }
        self.tallies.entry((evidence.replica, evidence.kind)).or_default().kept += 1;
        self.kept.push(evidence);
    }

    /// Takes back what a file says, in its order.
    fn restore(&mut self, record: format::Record, bytes: usize) {
        let (replica, kind, count, at_ms) = match &record {
            format::Record::Evidence(evidence) => (evidence.replica, evidence.kind, evidence.count, evidence.at_ms),
            format::Record::Count { replica, kind, count, at_ms } => (*replica, *kind, *count, *at_ms),
        };
        let tally = self.tallies.entry((replica, kind)).or_default();
        tally.count = tally.count.max(count);
        tally.written = tally.count;
        tally.at_ms = tally.at_ms.max(at_ms);
        if let format::Record::Evidence(evidence) = record
            && tally.kept < KEPT
        {
            *self.bytes.entry(replica).or_default() += bytes;
            self.keep(evidence);
        }
    }

    /// Records that are to be appended to the file, in order.
    pub fn take_records(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.records)
    }

    /// Counts that the file does not have yet, for a clean end.
    pub fn take_counts(&mut self) -> Vec<Vec<u8>> {
        let mut records = self.take_records();
        for ((replica, kind), tally) in self.tallies.iter_mut().filter(|(_, tally)| tally.written != tally.count) {
            tally.written = tally.count;
            records.push(format::count(tally.at_ms, *replica, kind, tally.count));
        }
        records
    }

    /// How often each replica did what, by replica and kind.
    pub fn counts(&self) -> impl Iterator<Item = (ReplicaId, &'static str, u64)> + '_ {
        self.tallies.iter().map(|((replica, kind), tally)| (*replica, *kind, tally.count))
    }

    /// What is kept in full, in the order in which it was seen.
    pub fn kept(&self) -> &[Evidence] {
        &self.kept
    }

    /// What a status shows of it: what was seen first of each kind before what was seen later, as far as the answer's limits go.
    /// Messages that do not fit are shown without their bytes.
    pub fn shown(&self) -> Vec<message::Evidence> {
        let mut all: Vec<(u64, &Evidence)> = Vec::with_capacity(self.kept.len());
        let mut ranks: BTreeMap<(ReplicaId, &str), u64> = BTreeMap::new();
        for evidence in &self.kept {
            let rank = ranks.entry((evidence.replica, evidence.kind)).or_default();
            all.push((*rank, evidence));
            *rank += 1;
        }
        all.sort_by_key(|(rank, evidence)| (*rank, evidence.messages.is_empty()));
        let mut left = MAX_EVIDENCE_BYTES;
        let shown = all.into_iter().take(MAX_EVIDENCE).map(|(_, evidence)| message::Evidence {
            replica: evidence.replica.0,
            kind: evidence.kind.to_owned(),
            at_ms: evidence.at_ms,
            view: evidence.view.unwrap_or(u64::MAX),
            sequence: evidence.sequence.unwrap_or(u64::MAX),
            digests: evidence.digests.iter().map(|digest| digest.0).collect(),
            statement: evidence.statement.clone(),
            messages: evidence
                .messages
                .iter()
                .map(|sealed| {
                    let fits = sealed.body.len() <= left;
                    left -= if fits { sealed.body.len() } else { 0 };
                    message::Sealed {
                        kind: sealed.kind as u8,
                        replica: sealed.replica.0,
                        body: if fits { sealed.body.clone() } else { Vec::new() },
                        signature: sealed.signature.0,
                    }
                })
                .collect(),
        });
        shown.collect()
    }
}
