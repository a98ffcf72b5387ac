//! A Byzantine replica: a real node whose outgoing messages are changed, withheld, doubled and invented.
//!
//! The node inside is honest and signs with its own keys; all lies happen between it and its links. The simulator has such replicas in its
//! runs, and [`run_hostile`](crate::replica::process::run_hostile) makes one a process, for tests and demonstrations with real clusters.
//!
//! # Nobody lies by accident
//! No setting and no environment variable makes a replica lie: [`run`](crate::replica::process::run) has no adversary and nothing to
//! give it one. A hostile process is another function, called by a command of its own, and refuses to start in a cluster of which any
//! replica has an address other than this host's loopback.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;

use crate::crypto::context;
use crate::history::cosign::Head;
use crate::history::notary::Notary;
use crate::ordering::Agreed;
use crate::ordering::batch::batch_digest;
use crate::ordering::checkpoint::forged;
use crate::ordering::choice::{Entry, Report};
use crate::ordering::seal::Seals;
use crate::ordering::view_change::lies;
use crate::replica::NodeConfig;
use crate::sim::random::Random;
use crate::types::{Digest, PublicKey, ReplicaId, Signature};
use crate::wire::bundle::{Bundle, Request, signer};
use crate::wire::frame::Kind;
use crate::wire::message::{
    self, ArchivedPrePrepare, Decided, FetchBatch, Heard, OpenSlot, PieceHash, PrePrepare, Status, Vote, Votes,
    WireBundle,
};

/// What a Byzantine replica does; several at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Tactic {
    /// As leader, other batches to some backups, with votes to match.
    Equivocate,
    /// As leader, another content under the same digest to some backups.
    WrongDigest,
    /// As leader, batches with bundles that nobody signed.
    Forge,
    /// As backup, proposals that only the leader may make.
    Usurp,
    /// Every vote twice, and votes for several digests.
    DoubleVote,
    /// Random changes to the bytes of messages.
    Mutate,
    /// Old messages again.
    Replay,
    /// Says nothing to some or to all.
    Silent,
    /// Invented decisions and statuses.
    Lie,
    /// VIEW-CHANGEs that conceal and invent, another to each replica, and NEW-VIEWs built on them.
    LieInChange,
    /// Offers snapshots that nobody has, and supplies wrong pieces and hashes, or none.
    LieInTransfer,
    /// Leaves its view now and again for no reason, and never begins one that it leads.
    Restless,
    /// Takes no bundles of one client, so that none is proposed where it leads.
    Starve,
    /// As leader, proposes so late that those who wait nearly leave its view; in the simulator alone.
    Delay,
}

/// All.
pub const TACTICS: [Tactic; 14] = [
    Tactic::Equivocate,
    Tactic::WrongDigest,
    Tactic::Forge,
    Tactic::Usurp,
    Tactic::DoubleVote,
    Tactic::Mutate,
    Tactic::Replay,
    Tactic::Silent,
    Tactic::Lie,
    Tactic::LieInChange,
    Tactic::LieInTransfer,
    Tactic::Restless,
    Tactic::Starve,
    Tactic::Delay,
];

impl fmt::Display for Tactic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equivocate => "equivocate",
            Self::WrongDigest => "wrong-digest",
            Self::Forge => "forge",
            Self::Usurp => "usurp",
            Self::DoubleVote => "double-vote",
            Self::Mutate => "mutate",
            Self::Replay => "replay",
            Self::Silent => "silent",
            Self::Lie => "lie",
            Self::LieInChange => "lie-in-change",
            Self::LieInTransfer => "lie-in-transfer",
            Self::Restless => "restless",
            Self::Starve => "starve",
            Self::Delay => "delay",
        })
    }
}

/// A name that no tactic has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "no tactic is called {0:?}; there are equivocate, wrong-digest, forge, usurp, double-vote, mutate, replay, silent, lie, lie-in-change, lie-in-transfer, restless, starve, delay"
)]
pub struct UnknownTactic(String);

impl FromStr for Tactic {
    type Err = UnknownTactic;

    fn from_str(text: &str) -> Result<Self, UnknownTactic> {
        let named = TACTICS.into_iter().find(|tactic| tactic.to_string() == text);
        named.ok_or_else(|| UnknownTactic(text.chars().take(64).collect()))
    }
}

/// How a process is hostile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hostility {
    /// What it does.
    pub tactics: Vec<Tactic>,
    /// Chooses whom it lies to and when.
    pub seed: u64,
    /// An operation that the application takes, for bundles that nobody signed.
    pub operation: Vec<u8>,
}

/// Old messages kept for replay.
const KEPT: usize = 64;

/// A message on its way.
pub(crate) type Sent = (ReplicaId, Kind, Vec<u8>);

/// Who is deceived and how: one of its own for each adversary, or the same for all who collude.
#[derive(Clone)]
pub(crate) struct Plot {
    /// Replicas that are lied to, a bit each.
    victims: u32,
    lies: Rc<RefCell<Lies>>,
}

#[derive(Default)]
struct Lies {
    /// What the victims are told instead of a digest.
    variants: BTreeMap<[u8; 32], [u8; 32]>,
    /// Bodies of batches that were forged, by digest.
    forged: BTreeMap<[u8; 32], Vec<u8>>,
}

impl Plot {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self { victims: random.next() as u32, lies: Rc::default() }
    }
}

/// See the module.
pub(crate) struct Adversary {
    tactics: Vec<Tactic>,
    random: Random,
    victims: u32,
    lies: Rc<RefCell<Lies>>,
    /// Whose bundles are not taken.
    starved: PublicKey,
    suspect_us: u64,
    origin: String,
    /// In whose name bundles are forged, and the operation at a sequence.
    forged_for: PublicKey,
    forged_operation: Box<dyn Fn(u64) -> Vec<u8>>,
    kept: Vec<(Kind, Vec<u8>)>,
    executed: u64,
    me: ReplicaId,
    agreed: Agreed,
    seals: Arc<Seals>,
    notary: Arc<Notary>,
}

impl Adversary {
    /// Lies on behalf of the node that `config` is for; `forged_operation` makes an operation that the application takes.
    pub(crate) fn new(
        tactics: &[Tactic],
        plot: Plot,
        random: Random,
        config: &NodeConfig,
        forged_for: PublicKey,
        forged_operation: Box<dyn Fn(u64) -> Vec<u8>>,
        starved: PublicKey,
    ) -> Self {
        Self {
            tactics: tactics.to_vec(),
            victims: if tactics.contains(&Tactic::Forge) { u32::MAX } else { plot.victims },
            lies: plot.lies,
            starved,
            suspect_us: config.timing.suspect_us,
            random,
            origin: config.origin.clone(),
            me: config.me,
            agreed: config.agreed,
            seals: Arc::clone(&config.seals),
            notary: Arc::clone(&config.notary),
            forged_for,
            forged_operation,
            kept: Vec::new(),
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
    pub(crate) fn outgoing(&mut self, to: ReplicaId, kind: Kind, body: Vec<u8>, out: &mut Vec<Sent>) {
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
            Kind::Cosignature if self.does(Tactic::LieInChange) && self.is_victim(to) => body = self.cosignature(&body),
            Kind::Offer | Kind::Pieces | Kind::Piece if self.does(Tactic::LieInTransfer) => {
                match self.supply(kind, &body) {
                    Some(supplied) => body = supplied,
                    None => return,
                }
            }
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

    /// What it says in place of an offer, hashes or a piece; nothing at times.
    fn supply(&mut self, kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
        if self.random.chance(250) {
            return None;
        }
        let mut out = Vec::new();
        // Whoever lies about what it has is not asked for it.
        if self.random.chance(if kind == Kind::Offer { 800 } else { 300 }) {
            out.extend_from_slice(body);
            return Some(out);
        }
        match kind {
            Kind::Offer => {
                let offer = message::access::<message::Offer>(body).ok()?;
                let (mut digest, mut bytes) = (offer.digest, offer.bytes.to_native());
                if self.random.chance(500) {
                    digest[3] ^= 1;
                } else {
                    bytes += 1;
                }
                let certificate = match self.random.chance(300) {
                    true => forged(self.random.between(1, 1_000)).bytes(),
                    false => offer.certificate.to_vec(),
                };
                message::encode(&message::Offer { certificate, bytes, digest }, &mut out);
            }
            Kind::Pieces => {
                let pieces = message::access::<message::Pieces>(body).ok()?;
                let mut hashes: Vec<_> = pieces
                    .hashes
                    .iter()
                    .map(|piece| PieceHash { entries: piece.entries.to_native(), hash: piece.hash })
                    .collect();
                let place = self.random.index(hashes.len().max(1));
                match hashes.get_mut(place) {
                    Some(piece) if self.random.chance(500) => piece.hash[5] ^= 1,
                    Some(piece) => piece.entries = self.random.next(),
                    None => {}
                }
                let (sequence, first) = (pieces.sequence.to_native(), pieces.first.to_native());
                message::encode(&message::Pieces { sequence, of_state: pieces.of_state, first, hashes }, &mut out);
            }
            _ => {
                let piece = message::access::<message::Piece>(body).ok()?;
                let mut bytes = piece.bytes.to_vec();
                let place = self.random.index(bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= 1 << self.random.below(8);
                }
                let (sequence, first) = (piece.sequence.to_native(), piece.first.to_native());
                message::encode(&message::Piece { sequence, of_state: piece.of_state, first, bytes }, &mut out);
            }
        }
        Some(out)
    }

    /// Whether it behaves as if a message had not come.
    pub(crate) fn ignores(&self, kind: Kind, body: &[u8]) -> bool {
        let bundle = match kind {
            _ if !self.does(Tactic::Starve) => return false,
            Kind::Submit => message::access::<message::Submit>(body).map(|message| &message.bundle),
            Kind::Relay => message::access::<message::Relay>(body).map(|message| &message.bundle),
            _ => return false,
        };
        bundle.is_ok_and(|bundle| signer(&bundle.cose) == Some(self.starved))
    }

    /// How long a message is held back, us.
    pub(crate) fn delay_us(&mut self, kind: Kind) -> u64 {
        if kind == Kind::PrePrepare && self.does(Tactic::Delay) {
            self.suspect_us * self.random.between(60, 98) / 100
        } else {
            0
        }
    }

    /// What it answers by itself, beside the node's own answer.
    pub(crate) fn incoming(&mut self, from: ReplicaId, kind: Kind, body: &[u8], out: &mut Vec<Sent>) {
        match kind {
            Kind::FetchBatch => {
                if let Ok(fetch) = message::access::<FetchBatch>(body)
                    && let Some(batch) = self.lies.borrow().forged.get(&fetch.digest)
                {
                    out.push((from, Kind::Batch, batch.clone()));
                }
            }
            Kind::PrePrepare if self.does(Tactic::Usurp) && from == ReplicaId(0) => {
                let Ok(proposal) = message::access::<PrePrepare>(body) else { return };
                let variant = self.variant(proposal, 1);
                for replica in 0..crate::sim::MAX_REPLICAS {
                    out.push((ReplicaId(replica as u8), Kind::PrePrepare, variant.clone()));
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
        let (random, told) = (&mut self.random, self.lies.borrow());
        let variants = &told.variants;
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

    /// Another root, signed.
    fn cosignature(&self, body: &[u8]) -> Vec<u8> {
        let Ok(message) = message::access::<message::Cosignature>(body) else { return body.to_vec() };
        let mut root = message.root;
        root[7] ^= 1;
        let head = Head { size: message.size.to_native(), root: Digest(root) };
        let claim = self.notary.cosign(head, message.time_s.to_native());
        let (time_s, signature) = (claim.time_s, claim.signature.0);
        let mut out = Vec::new();
        message::encode(
            &message::Cosignature {
                size: head.size,
                root,
                time_s,
                signature,
                again: message.again,
                wanted: message.wanted,
            },
            &mut out,
        );
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
        self.lies.borrow_mut().variants.insert(proposal.digest, variant.digest);
        encode(&variant)
    }

    /// A batch with a bundle that its client did not sign.
    fn forge(&mut self, proposal: &ArchivedPrePrepare) -> Option<Vec<u8>> {
        let sequence = proposal.sequence.to_native();
        let operation = (self.forged_operation)(sequence);
        let requests = vec![Request { class: 0, not_after_ms: None, operation: &operation }.encode()];
        let unsigned = |_: &[u8]| Signature([7; 64]);
        let bundle =
            Bundle::sign(&self.origin, self.forged_for, Some(1), 20 + sequence, &requests, 0, unsigned).ok()?;
        let mut forged = read(proposal);
        forged.bundles = vec![bundle.digest().0];
        forged.digest = batch_digest(forged.time_ms, [bundle.digest()].into_iter()).0;
        self.lies.borrow_mut().variants.insert(proposal.digest, forged.digest);
        let batch = message::Batch {
            sequence,
            digest: forged.digest,
            time_ms: forged.time_ms,
            bundles: vec![WireBundle { cose: bundle.cose().to_vec(), requests }],
        };
        let mut body = Vec::new();
        message::encode(&batch, &mut body);
        self.lies.borrow_mut().forged.insert(forged.digest, body);
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
                vote.digest = self.lies.borrow().variants.get(&vote.digest).copied().unwrap_or(vote.digest);
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
            abstains: self.random.chance(100),
            needs: executed.saturating_add(self.random.below(100)),
            heard: vec![Heard { view: u64::MAX, sequence: 1 }; self.agreed.size.n()],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tactic_has_a_name_of_its_own() {
        for tactic in TACTICS {
            assert_eq!(tactic.to_string().parse(), Ok(tactic));
        }
        let error = "nice".parse::<Tactic>().unwrap_err().to_string();
        assert!(TACTICS.iter().all(|tactic| error.contains(&tactic.to_string())), "{error}");
    }
}
