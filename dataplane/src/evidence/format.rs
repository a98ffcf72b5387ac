//! The bytes of the evidence file; the module doc has the layout. Pure.

use xxhash_rust::xxh3::xxh3_64;

use super::{Evidence, MAX_BYTES, Sealed};
use crate::types::{Digest, ReplicaId, Signature, TimeMs};
use crate::wire::error::Misbehaviour;
use crate::wire::frame::Kind;
use crate::wire::limits::MAX_REPLICAS;

const MAGIC: &[u8; 8] = b"ATLSEVID";
const VERSION: u32 = 1;
const CHECKSUM: usize = 8;

/// Bytes of the header.
pub(super) const HEADER: usize = 8 + 4 + 32 + CHECKSUM;

/// Longest statement, bytes.
pub(super) const MAX_STATEMENT: usize = 512;

const EVIDENCE: u8 = 1;
const COUNT: u8 = 2;

/// A view or sequence that there is none of.
const NONE: u64 = u64::MAX;

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Record {
    Evidence(Evidence),
    Count { replica: ReplicaId, kind: &'static str, count: u64, at_ms: TimeMs },
}

/// What stands at the beginning of the bytes that are left.
pub(super) enum Next<'a> {
    /// Nothing: the end.
    End,
    /// A record that does not end: a write that a crash cut short.
    Torn,
    /// Bytes that are no record.
    Damaged,
    /// A record and all its bytes. Without content: of a kind that this program does not know.
    Record(Option<Record>, &'a [u8]),
}

pub(super) fn header(genesis: &Digest) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&genesis.0);
    let sum = xxh3_64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

pub(super) fn evidence(evidence: &Evidence) -> Vec<u8> {
    let mut out = begin(EVIDENCE, evidence.at_ms, evidence.count, evidence.replica, evidence.kind);
    out.extend_from_slice(&evidence.view.unwrap_or(NONE).to_le_bytes());
    out.extend_from_slice(&evidence.sequence.unwrap_or(NONE).to_le_bytes());
    out.push(evidence.digests.len() as u8);
    evidence.digests.iter().for_each(|digest| out.extend_from_slice(&digest.0));
    out.extend_from_slice(&(evidence.statement.len() as u16).to_le_bytes());
    out.extend_from_slice(evidence.statement.as_bytes());
    out.push(evidence.messages.len() as u8);
    for message in &evidence.messages {
        out.extend_from_slice(&[message.kind as u8, message.replica.0]);
        out.extend_from_slice(&(message.body.len() as u32).to_le_bytes());
        out.extend_from_slice(&message.body);
        out.extend_from_slice(&message.signature.0);
    }
    end(out)
}

pub(super) fn count(at_ms: TimeMs, replica: ReplicaId, kind: &str, count: u64) -> Vec<u8> {
    end(begin(COUNT, at_ms, count, replica, kind))
}

fn begin(tag: u8, at_ms: TimeMs, count: u64, replica: ReplicaId, kind: &str) -> Vec<u8> {
    // Room for the length.
    let mut out = vec![0; 4];
    out.push(tag);
    out.extend_from_slice(&at_ms.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.push(replica.0);
    out.push(kind.len() as u8);
    out.extend_from_slice(kind.as_bytes());
    out
}

fn end(mut out: Vec<u8>) -> Vec<u8> {
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_le_bytes());
    let sum = xxh3_64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Reads the record at the beginning of `bytes`.
pub(super) fn next(bytes: &[u8]) -> Next<'_> {
    if bytes.is_empty() {
        return Next::End;
    }
    let Some((length, _)) = bytes.split_first_chunk() else { return Next::Torn };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_BYTES {
        return Next::Damaged;
    }
    let Some((record, _)) = length.checked_add(4 + CHECKSUM).and_then(|whole| bytes.split_at_checked(whole)) else {
        return Next::Torn;
    };
    let (content, sum) = record.split_at(record.len() - CHECKSUM);
    if xxh3_64(content).to_le_bytes() != sum {
        return Next::Damaged;
    }
    Next::Record(read(&content[4..]), record)
}

/// What is not read yet.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn replica(&mut self) -> Option<ReplicaId> {
        self.u8().map(ReplicaId).filter(|replica| replica.index() < MAX_REPLICAS)
    }
}

fn read(payload: &[u8]) -> Option<Record> {
    let mut input = Input(payload);
    let tag = input.u8()?;
    let at_ms = TimeMs::from_le_bytes(input.array()?);
    let (count, replica) = (input.u64()?, input.replica()?);
    let length = input.u8()?;
    let name = input.take(length.into())?;
    let kind = Misbehaviour::KINDS.into_iter().find(|kind| kind.as_bytes() == name)?;
    let record = match tag {
        COUNT => Record::Count { replica, kind, count, at_ms },
        EVIDENCE => {
            let some = |value: u64| (value != NONE).then_some(value);
            let (view, sequence) = (some(input.u64()?), some(input.u64()?));
            let digests = (0..input.u8()?).map(|_| input.array().map(Digest)).collect::<Option<_>>()?;
            let length = u16::from_le_bytes(input.array()?);
            let statement = std::str::from_utf8(input.take(length.into())?).ok()?.to_owned();
            let messages = (0..input.u8()?).map(|_| sealed(&mut input)).collect::<Option<_>>()?;
            Record::Evidence(Evidence { at_ms, replica, kind, count, view, sequence, digests, statement, messages })
        }
        _ => return None,
    };
    input.0.is_empty().then_some(record)
}

fn sealed(input: &mut Input<'_>) -> Option<Sealed> {
    let byte = input.u8()?;
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)?;
    let replica = input.replica()?;
    let length = u32::from_le_bytes(input.array()?) as usize;
    let body = input.take(length)?.to_vec();
    Some(Sealed { kind, replica, body, signature: Signature(input.array()?) })
}
