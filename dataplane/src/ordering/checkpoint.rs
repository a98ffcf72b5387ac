//! Checkpoints: what a replica says of its state every K sequences, and what a quorum says together.
//!
//! A replica that executed a multiple of K stages a [`Statement`] behind all that it rests on. Once that is durable it signs it and
//! tells the others. Signatures of q replicas under one statement are a [`Certificate`]: the checkpoint is stable, the low watermark
//! moves there, and what the log promised below it binds nobody any more. A peer whose low watermark is lower is sent the certificate;
//! one that lacks a signature is sent it again, both in answer to its status.
//!
//! A replica behind the certificate adopts it: it votes above it, and executes up to it from what others tell it. Where its own state
//! at that sequence differs from the certified one it has diverged and must stop ([`Effect::Diverged`]).
//!
//! # Limits
//! Statements are kept of sequences above the low watermark and at most two windows above the highest executed one: of each replica
//! at most three.

use std::sync::Arc;

use super::bytes::Input;
use super::mutants::{self, Mutant};
use super::record::Record;
use super::seal::{Seals, signed_bytes};
use super::{Effect, Ordering, Outgoing, To};
use crate::cluster::{Cluster, Size};
use crate::crypto::{context, verify};
use crate::log::Durable;
use crate::types::{Digest, EntryIndex, ReplicaId, Sequence, Signature};
use crate::wire::error::Misbehaviour;
use crate::wire::message;

/// The state at a sequence, as all correct replicas have it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Statement {
    /// The sequence: a multiple of K.
    pub sequence: Sequence,
    /// Entries in the history.
    pub size: EntryIndex,
    /// Root of the history.
    pub history_root: Digest,
    /// Root of the application's state.
    pub state_root: Digest,
    /// Digest of the session table.
    pub sessions: Digest,
    /// Hash of the membership: the genesis, until it changes.
    pub members: Digest,
}

/// Bytes of a statement.
pub const STATEMENT_BYTES: usize = 8 + 8 + 4 * 32;

impl Statement {
    /// What is signed: all fields in order, little-endian.
    pub fn bytes(&self) -> [u8; STATEMENT_BYTES] {
        let mut out = [0; STATEMENT_BYTES];
        out[..8].copy_from_slice(&self.sequence.to_le_bytes());
        out[8..16].copy_from_slice(&self.size.to_le_bytes());
        let digests = [&self.history_root, &self.state_root, &self.sessions, &self.members];
        for (place, digest) in out[16..].chunks_exact_mut(32).zip(digests) {
            place.copy_from_slice(&digest.0);
        }
        out
    }

    /// Reads what [`Statement::bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        Self::read(&mut input).filter(|_| input.0.is_empty())
    }

    pub(super) fn read(input: &mut Input<'_>) -> Option<Self> {
        Some(Self {
            sequence: input.u64()?,
            size: input.u64()?,
            history_root: input.digest()?,
            state_root: input.digest()?,
            sessions: input.digest()?,
            members: input.digest()?,
        })
    }
}

/// A statement that this replica signed, after it became durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignedStatement {
    /// What is stated.
    pub statement: Statement,
    /// The replica's signature.
    pub signature: Signature,
}

/// A statement with the signatures of a quorum; that of sequence 0, the genesis, needs none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    statement: Statement,
    pub(super) signatures: Vec<(ReplicaId, Signature)>,
}

impl Certificate {
    /// The beginning: nothing executed.
    pub(super) fn genesis() -> Self {
        let none = Digest::NULL;
        let statement =
            Statement { sequence: 0, size: 0, history_root: none, state_root: none, sessions: none, members: none };
        Self { statement, signatures: Vec::new() }
    }

    /// What is certified.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The sequence of the checkpoint.
    pub fn sequence(&self) -> Sequence {
        self.statement.sequence
    }

    /// The certificate as it travels and is logged.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.statement.bytes().to_vec();
        out.extend_from_slice(&(self.signatures.len() as u32).to_le_bytes());
        for (replica, signature) in &self.signatures {
            out.push(replica.0);
            out.extend_from_slice(&signature.0);
        }
        out
    }

    /// Reads what travels or is kept, whole; whether it holds is for [`Certificate::holds`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        Self::read(&mut input).filter(|_| input.0.is_empty())
    }

    pub(super) fn read(input: &mut Input<'_>) -> Option<Self> {
        let statement = Statement::read(input)?;
        let count = input.count(65)?;
        let signatures = (0..count).map(|_| Some((input.replica()?, input.signature()?))).collect::<Option<_>>()?;
        Some(Self { statement, signatures })
    }

    /// Whether a quorum of different members signed it.
    pub fn holds(&self, size: Size, seals: &Seals) -> bool {
        if self.statement.sequence == 0 {
            return *self == Self::genesis();
        }
        if mutants::on(Mutant::CertificatesBelieved) {
            return true;
        }
        self.is_signed(size, |replica, bytes, signature| seals.holds(replica, context::CHECKPOINT, bytes, signature))
    }

    /// The same for who holds no key of the cluster but its file: of this very cluster, behind the genesis.
    pub fn is_of(&self, cluster: &Cluster) -> bool {
        self.statement.members == cluster.genesis()
            && self.is_signed(cluster.size(), |replica, bytes, signature| {
                let message = signed_bytes(context::CHECKPOINT, 0, cluster.origin(), bytes);
                cluster.member(replica).is_some_and(|member| verify(&member.protocol_key, &message, signature))
            })
    }

    fn is_signed(&self, size: Size, holds: impl Fn(ReplicaId, &[u8], &Signature) -> bool) -> bool {
        let ascending = self.signatures.array_windows().all(|[(a, _), (b, _)]| a < b);
        let bytes = self.statement.bytes();
        ascending
            && self.signatures.len() == size.quorum()
            && self.signatures.iter().all(|(replica, signature)| holds(*replica, &bytes, signature))
    }
}

/// A certificate without signatures, for tests of what comes after they were verified.
#[cfg(test)]
pub(crate) fn certified(statement: Statement) -> Certificate {
    Certificate { statement, signatures: Vec::new() }
}

/// A certificate that nobody signed, for the simulator's adversary.
pub(crate) fn forged(sequence: Sequence) -> Certificate {
    let genesis = Certificate::genesis();
    let statement = Statement { sequence, ..genesis.statement };
    Certificate { statement, signatures: (0..3).map(|index| (ReplicaId(index), Signature([index; 64]))).collect() }
}

impl Ordering {
    /// The state after a multiple of K was executed: staged, and signed once it is durable.
    pub fn checkpoint(&mut self, statement: Statement) {
        let sequence = statement.sequence;
        if self.stable.sequence() == sequence && *self.stable.statement() != statement {
            self.effects.push_back(Effect::Diverged(sequence));
        }
        if sequence <= self.stable.sequence() || self.own_statements.contains_key(&sequence) {
            return;
        }
        self.own_statements.insert(sequence, (statement, None));
        if self.standing.rejoin.is_some() {
            return;
        }
        self.effects.push_back(Effect::Log(Record::Checkpoint(statement)));
    }

    /// A checkpoint in the own log, while it is read: execution has come to the same state, or the disk is not what it was.
    pub(super) fn replay_checkpoint(&mut self, statement: &Statement) {
        let known = self.own_statements.get(&statement.sequence).map(|(known, _)| known);
        if known.is_some_and(|known| known != statement) {
            self.effects.push_back(Effect::Diverged(statement.sequence));
        }
    }

    pub(super) fn checkpoint_synced(&mut self, record: &Durable<Record>) {
        let Record::Checkpoint(statement) = **record else { return };
        if statement.sequence <= self.stable.sequence() {
            return;
        }
        if !self.may_sign(statement.sequence) {
            return;
        }
        let signature = self.seals.sign(context::CHECKPOINT, &statement.bytes());
        let signed = SignedStatement { statement, signature };
        self.own_statements.insert(statement.sequence, (statement, Some(signature)));
        self.send(To::All, Outgoing::Checkpoint(signed));
        self.count_statement(self.me, signed);
    }

    /// CHECKPOINT from a peer.
    pub fn on_checkpoint(&mut self, from: ReplicaId, message: &message::ArchivedCheckpoint) {
        let Some(signed) = read_signed(&message.body, message.signature) else { return };
        let sequence = signed.statement.sequence;
        let farthest = self.executed.max(self.stable.sequence()).saturating_add(2 * self.agreed.window);
        if self.denies_stable(from, &signed)
            || sequence <= self.stable.sequence()
            || sequence > farthest
            || !sequence.is_multiple_of(self.agreed.interval)
        {
            return;
        }
        let known = self.statements.get(&sequence).and_then(|statements| statements[from.index()]);
        if known.is_some_and(|known| known.statement == signed.statement) || !self.may_verify(from) {
            return;
        }
        if !self.seals.holds(from, context::CHECKPOINT, &message.body, &signed.signature) {
            return self.report(from, Misbehaviour::BadSignature { what: "CHECKPOINT" });
        }
        if let Some(known) = known {
            let both = vec![known.sealed(from), signed.sealed(from)];
            return self.prove(from, Misbehaviour::TwoCheckpoints { sequence }, both);
        }
        self.count_statement(from, signed);
    }

    fn count_statement(&mut self, from: ReplicaId, signed: SignedStatement) {
        let (n, quorum) = (self.agreed.size.n(), self.agreed.size.quorum());
        let statements = self.statements.entry(signed.statement.sequence).or_insert_with(|| vec![None; n]);
        statements[from.index()] = Some(signed);
        let same = (0u8..).zip(statements.iter()).filter_map(|(index, other)| {
            other.filter(|other| other.statement == signed.statement).map(|other| (ReplicaId(index), other.signature))
        });
        let signatures: Vec<_> = same.take(quorum).collect();
        if signatures.len() == quorum {
            self.adopt(Arc::new(Certificate { statement: signed.statement, signatures }));
        }
    }

    /// A certificate from a peer.
    pub fn on_stable(&mut self, from: ReplicaId, message: &message::ArchivedStable) {
        let Some(certificate) = Certificate::from_bytes(&message.certificate) else { return };
        if certificate.sequence() <= self.stable.sequence() || !self.may_verify(from) {
            return;
        }
        if !certificate.holds(self.agreed.size, &self.seals) {
            return self.report(from, Misbehaviour::BadSignature { what: "certificate of a checkpoint" });
        }
        self.adopt(Arc::new(certificate));
    }

    /// A certified checkpoint: the low watermark moves there.
    pub(super) fn adopt(&mut self, certificate: Arc<Certificate>) {
        let sequence = certificate.sequence();
        if sequence <= self.stable.sequence() {
            return;
        }
        let own = self.own_statements.get(&sequence).map(|(own, _)| own);
        if own.is_some_and(|own| own != certificate.statement()) {
            return self.effects.push_back(Effect::Diverged(sequence));
        }
        let is_signed_here = certificate.signatures.iter().any(|(replica, _)| *replica == self.me);
        if self.has_forgotten(sequence, is_signed_here) {
            self.abstain();
        }
        self.effects.push_back(Effect::Log(Record::Stable(Arc::clone(&certificate))));
        self.stabilise(certificate);
    }

    /// As [`Ordering::adopt`], for what is in the log already.
    pub(super) fn stabilise(&mut self, certificate: Arc<Certificate>) {
        let sequence = certificate.sequence();
        if sequence <= self.stable.sequence() {
            return;
        }
        self.stable = certificate;
        self.report_wrong_checkpoints(sequence);
        self.held.stable(sequence);
        self.statements.retain(|other, _| *other > sequence);
        self.own_statements.retain(|other, _| *other >= sequence);
        self.unvoted.retain(|other, _| *other > sequence);
        self.accepted = self.accepted.max(sequence);
        self.failures = 0;
        let kept = self.executed.saturating_sub(2 * self.agreed.window).min(sequence);
        self.slots.retain(|slot, _| *slot > kept);
    }

    /// What a peer at a lower watermark, or without this replica's signature, is sent in answer to its status.
    pub(super) fn send_checkpoints(&mut self, to: ReplicaId, low: Sequence) {
        if low < self.stable.sequence() {
            let certificate = Arc::clone(&self.stable);
            self.send(To::One(to), Outgoing::Stable(certificate));
        }
        let pending: Vec<_> = self
            .own_statements
            .range(low.max(self.stable.sequence()).saturating_add(1)..)
            .map(|(_, own)| *own)
            .collect();
        for (statement, signature) in pending {
            if let Some(signature) = signature {
                self.send(To::One(to), Outgoing::Checkpoint(SignedStatement { statement, signature }));
            }
        }
    }
}

fn read_signed(body: &[u8], signature: [u8; 64]) -> Option<SignedStatement> {
    let mut input = Input(body);
    let statement = Statement::read(&mut input)?;
    input.0.is_empty().then_some(SignedStatement { statement, signature: Signature(signature) })
}
