//! A Byzantine replica: a real node whose outgoing messages are changed, withheld, doubled and invented.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::application::Operation;
use super::plan::Tactic;
use super::random::Random;
use crate::crypto::context;
use crate::ordering::Agreed;
use crate::ordering::batch::batch_digest;
use crate::ordering::checkpoint::forged;
use crate::ordering::choice::{Entry, Report};
use crate::ordering::seal::Seals;
use crate::ordering::view_change::lies;
use crate::replica::NodeConfig;
use crate::types::{Digest, PublicKey, ReplicaId, Signature};
use crate::wire::bundle::{Bundle, Request};
use crate::wire::frame::Kind;
use crate::wire::message::{
    self, ArchivedPrePrepare, Decided, FetchBatch, OpenSlot, PrePrepare, Status, Vote, Votes, WireBundle,
};

/// Old messages kept for replay.
const KEPT: usize = 64;

/// A message on its way.
pub(super) type Sent = (ReplicaId, Kind, Vec<u8>);

/// See the module.
pub(super) struct Adversary {
    tactics: Vec<Tactic>,
    random: Random,
    /// Replicas that are lied to, a bit each.
    victims: u32,
    origin: String,
    /// In whose name bundles are forged.
    forged_for: PublicKey,
    kept: Vec<(Kind, Vec<u8>)>,
    /// What the victims are told instead of a digest.
    variants: BTreeMap<[u8; 32], [u8; 32]>,
    forged: BTreeMap<[u8; 32], Vec<u8>>,
    executed: u64,
    me: ReplicaId,
    agreed: Agreed,
    seals: Arc<Seals>,
}

impl Adversary {
    pub(super) fn new(tactics: &[Tactic], mut random: Random, config: &NodeConfig, forged_for: PublicKey) -> Self {
        let victims = random.next() as u32;
        Self {
            tactics: tactics.to_vec(),
            victims: if tactics.contains(&Tactic::Forge) { u32::MAX } else { victims },
            random,
            origin: config.origin.clone(),
            me: config.me,
            agreed: config.agreed,
            seals: Arc::clone(&config.seals),
            forged_for,
            kept: Vec::new(),
            variants: BTreeMap::new(),
            forged: BTreeMap::new(),
            executed: 0,
        }
    }

    fn does(&self, tactic: Tactic) -> bool {
        self.tactics.contains(&tactic)
    }

    fn is_victim(&self, replica: ReplicaId) -> bool {
        self.victims & (1 << replica.0) != 0
    }

    /// What really leaves when the node sends a message.
    pub(super) fn outgoing(&mut self, to: ReplicaId, kind: Kind, body: Vec<u8>, out: &mut Vec<Sent>) {
        if self.does(Tactic::Silent) && (self.is_victim(to) || self.random.chance(300)) {
            return;
        }
        if self.does(Tactic::Replay) {
            if self.kept.len() < KEPT {
                self.kept.push((kind, body.clone()));
            } else {
                let place = self.random.index(KEPT);
                self.kept[place] = (kind, body.clone());
            }
            if self.random.chance(300) {
                let (kind, body) = self.kept[self.random.index(self.kept.len())].clone();
                out.push((to, kind, body));
            }
        }
        let mut body = body;
        match kind {
            Kind::PrePrepare if self.is_victim(to) => {
                if self.does(Tactic::Equivocate) && self.random.chance(300) {
                    out.push((to, kind, body.clone()));
                }
                body = self.proposal(body);
            }
            Kind::Prepare | Kind::Commit => body = self.votes(to, kind, body, out),
            Kind::NewView if self.does(Tactic::Restless) && self.random.chance(800) => return,
            Kind::ViewChange | Kind::NewView if self.does(Tactic::LieInChange) => body = self.change(to, kind, body),
            Kind::Checkpoint if self.does(Tactic::LieInChange) && self.is_victim(to) => body = self.checkpoint(body),
            Kind::Status => {
                if self.does(Tactic::Restless) && self.random.chance(50) {
                    let view = message::access::<Status>(&body).map_or(0, |status| status.view.to_native());
                    let (body, signature) = lies::leave(view + self.random.between(1, 2), self.me, &self.seals);
                    out.push((to, Kind::ViewChange, encode_change(Kind::ViewChange, body, signature)));
                }
                if self.does(Tactic::LieInChange) && self.random.chance(100) {
                    let certificate = forged(self.random.between(1, 100)).bytes();
                    let mut stable = Vec::new();
                    message::encode(&message::Stable { certificate }, &mut stable);
                    out.push((to, Kind::Stable, stable));
                }
                if self.does(Tactic::Lie) {
                    body = self.lie(to, body, out);
                }
            }
            _ => {}
        }
        if self.does(Tactic::Mutate) && self.random.chance(100) && !body.is_empty() {
            for _ in 0..self.random.between(1, 4) {
                let at = self.random.index(body.len());
                body[at] ^= 1 << self.random.below(8);
            }
        }
        out.push((to, kind, body));
    }

    /// What it answers by itself, beside the node's own answer.
    pub(super) fn incoming(&mut self, from: ReplicaId, kind: Kind, body: &[u8], out: &mut Vec<Sent>) {
        match kind {
            Kind::FetchBatch => {
                if let Ok(fetch) = message::access::<FetchBatch>(body)
                    && let Some(batch) = self.forged.get(&fetch.digest)
                {
                    out.push((from, Kind::Batch, batch.clone()));
                }
            }
            Kind::PrePrepare if self.does(Tactic::Usurp) && from == ReplicaId(0) => {
                let Ok(proposal) = message::access::<PrePrepare>(body) else { return };
                let variant = self.variant(proposal, 1);
                for replica in 0..8 {
                    out.push((ReplicaId(replica), Kind::PrePrepare, variant.clone()));
                }
            }
            _ => {}
        }
    }

    /// A report that conceals and invents, another one for each replica.
    fn change(&mut self, to: ReplicaId, kind: Kind, body: Vec<u8>) -> Vec<u8> {
        let Ok(message) = message::access::<message::ViewChange>(&body) else { return body };
        let view = message.body.first().copied().map_or(0, u64::from);
        // A NEW-VIEW that conceals says the same to all: nobody is there to contradict it.
        let conceals = kind == Kind::NewView && self.victims >> (8 + view % 24) & 1 != 0;
        if !conceals && !self.is_victim(to) && self.random.chance(500) {
            return body;
        }
        let (random, variants) = (&mut self.random, &self.variants);
        let lie = |report: &mut Report| {
            report.prepared.retain(|_| random.chance(500));
            report.pre_prepared.retain(|_| random.chance(700));
            for list in [&mut report.prepared, &mut report.pre_prepared] {
                for entry in list.iter_mut() {
                    if !random.chance(300) {
                        continue;
                    }
                    entry.digest = variants.get(&entry.digest.0).copied().map_or(Digest::NULL, Digest);
                    entry.view = view.saturating_sub(random.between(1, 2));
                }
                if random.chance(300) {
                    let sequence = report.h + random.between(1, 3);
                    let known: Vec<_> = variants.iter().flat_map(|(a, b)| [*a, *b]).collect();
                    let digest = known.get(random.index(known.len() + 1)).copied().map_or(Digest::NULL, Digest);
                    list.push(Entry { sequence, digest, view: view.saturating_sub(1) });
                }
                list.sort_unstable();
                list.dedup_by_key(|entry| (entry.sequence, entry.digest));
            }
            report.prepared.dedup_by_key(|entry| entry.sequence);
        };
        let conceal = |choices: &mut Vec<Digest>| choices.iter_mut().for_each(|choice| *choice = Digest::NULL);
        let changed = match kind {
            _ if conceals => lies::choices(&message.body, &self.seals, conceal),
            Kind::ViewChange => lies::view_change(&message.body, &self.seals, lie),
            _ => lies::new_view(&message.body, &self.agreed, &self.seals, lie),
        };
        changed.map_or(body, |(changed, signature)| encode_change(kind, changed, signature))
    }

    /// Another state at the checkpoint, signed.
    fn checkpoint(&self, body: Vec<u8>) -> Vec<u8> {
        let Ok(message) = message::access::<message::Checkpoint>(&body) else { return body };
        let mut body = message.body.to_vec();
        body[20] ^= 1;
        let signature = self.seals.sign(context::CHECKPOINT, &body);
        let mut out = Vec::new();
        message::encode(&message::Checkpoint { body, signature: signature.0 }, &mut out);
        out
    }

    fn proposal(&mut self, body: Vec<u8>) -> Vec<u8> {
        let Ok(proposal) = message::access::<PrePrepare>(&body) else { return body };
        if self.does(Tactic::Forge) {
            return self.forge(proposal).unwrap_or(body);
        }
        if self.does(Tactic::Equivocate) {
            return self.variant(proposal, 1);
        }
        if self.does(Tactic::WrongDigest) {
            let mut wrong = read(proposal);
            wrong.time_ms += 1;
            return encode(&wrong);
        }
        body
    }

    /// The same bundles at another time: as valid as the original.
    fn variant(&mut self, proposal: &ArchivedPrePrepare, later_ms: i64) -> Vec<u8> {
        let mut variant = read(proposal);
        variant.time_ms += later_ms;
        variant.digest = batch_digest(variant.time_ms, variant.bundles.iter().map(|digest| Digest(*digest))).0;
        self.variants.insert(proposal.digest, variant.digest);
        encode(&variant)
    }

    /// A batch with a bundle that its client did not sign.
    fn forge(&mut self, proposal: &ArchivedPrePrepare) -> Option<Vec<u8>> {
        let sequence = proposal.sequence.to_native();
        let operation =
            Operation { client: 0, session: 1, number: sequence, variant: 99, register: 0, revision: u64::MAX }
                .encode();
        let requests = vec![Request { class: 0, not_after_ms: None, operation: &operation }.encode()];
        let unsigned = |_: &[u8]| Signature([7; 64]);
        let bundle =
            Bundle::sign(&self.origin, self.forged_for, Some(1), 20 + sequence, &requests, 0, unsigned).ok()?;
        let mut forged = read(proposal);
        forged.bundles = vec![bundle.digest().0];
        forged.digest = batch_digest(forged.time_ms, [bundle.digest()].into_iter()).0;
        self.variants.insert(proposal.digest, forged.digest);
        let batch = message::Batch {
            sequence,
            digest: forged.digest,
            time_ms: forged.time_ms,
            bundles: vec![WireBundle { cose: bundle.cose().to_vec(), requests }],
        };
        let mut body = Vec::new();
        message::encode(&batch, &mut body);
        self.forged.insert(forged.digest, body);
        Some(encode(&forged))
    }

    fn votes(&mut self, to: ReplicaId, kind: Kind, body: Vec<u8>, out: &mut Vec<Sent>) -> Vec<u8> {
        let Ok(votes) = Votes::access(&body) else { return body };
        let mut told = Votes {
            view: votes.view.to_native(),
            votes: votes
                .votes
                .iter()
                .map(|vote| Vote { sequence: vote.sequence.to_native(), digest: vote.digest })
                .collect(),
        };
        if self.is_victim(to) {
            for vote in &mut told.votes {
                vote.digest = self.variants.get(&vote.digest).copied().unwrap_or(vote.digest);
            }
        }
        let mut body = Vec::new();
        told.encode(&mut body);
        if self.does(Tactic::DoubleVote) {
            out.push((to, kind, body.clone()));
            let mut other = told;
            other.view += self.random.below(2);
            for vote in &mut other.votes {
                vote.sequence +=
                    if self.random.chance(100) { self.random.below(1 << 40) } else { self.random.below(3) };
                vote.digest[self.random.index(32)] ^= 1;
            }
            let mut bytes = Vec::new();
            other.encode(&mut bytes);
            if self.random.chance(500) {
                out.push((to, kind, bytes));
            } else {
                out.push((to, kind, std::mem::replace(&mut body, bytes)));
            }
        }
        body
    }

    fn lie(&mut self, to: ReplicaId, body: Vec<u8>, out: &mut Vec<Sent>) -> Vec<u8> {
        let Ok(status) = message::access::<Status>(&body) else { return body };
        self.executed = self.executed.max(status.executed.to_native());
        let mut decided = Vec::new();
        for step in 0..self.random.between(1, 4) {
            decided.push(Vote { sequence: self.executed + step, digest: [self.random.next() as u8; 32] });
        }
        let mut bytes = Vec::new();
        message::encode(&Decided { decided }, &mut bytes);
        out.push((to, Kind::Decided, bytes));
        let claims = [0, self.executed, self.executed + 1_000, u64::MAX];
        let executed = claims[self.random.index(claims.len())];
        let open = OpenSlot { sequence: self.random.below(50), proposed: true, prepares: u32::MAX, commits: u32::MAX };
        let lie = Status {
            view: status.view.to_native(),
            low: executed,
            executed,
            active: self.random.chance(800),
            ask: self.random.chance(100),
            open: vec![open],
        };
        let mut bytes = Vec::new();
        message::encode(&lie, &mut bytes);
        bytes
    }
}

fn read(proposal: &ArchivedPrePrepare) -> PrePrepare {
    PrePrepare {
        view: proposal.view.to_native(),
        sequence: proposal.sequence.to_native(),
        time_ms: proposal.time_ms.to_native(),
        digest: proposal.digest,
        bundles: proposal.bundles.to_vec(),
    }
}

fn encode(proposal: &PrePrepare) -> Vec<u8> {
    let mut body = Vec::new();
    message::encode(proposal, &mut body);
    body
}

/// VIEW-CHANGE and NEW-VIEW travel alike.
fn encode_change(kind: Kind, body: Vec<u8>, signature: Signature) -> Vec<u8> {
    let mut out = Vec::new();
    match kind {
        Kind::ViewChange => message::encode(&message::ViewChange { body, signature: signature.0 }, &mut out),
        _ => message::encode(&message::NewView { body, signature: signature.0 }, &mut out),
    }
    out
}
