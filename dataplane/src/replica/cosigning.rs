//! Cosigning in a node: promises through the log, signatures to and from peers, certificates ([`crate::history::cosign`]).
//!
//! A promise rides along with the next write of the log; if there is none within [`WRITE_WITHIN_US`] it gets one of its own. Signatures
//! of others are verified when somebody waits for a certificate, and otherwise once in [`LOOK_US`], which also finds out when this
//! replica has diverged. While somebody waits this replica signs at a faster pace, and asks the others once in [`ASK_US`] for their
//! last signatures and for the same.

use std::sync::Arc;

use super::node::{Node, Shell};
use super::node_error::NodeError;
use crate::cluster::Size;
use crate::history::cosign::{Certified, Claim, Cosigner, Finding, Head};
use crate::history::notary::Notary;
use crate::history::proof;
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::ordering::mutants::{self, Mutant};
use crate::ordering::record::Record;
use crate::state::Application;
use crate::types::{Digest, EntryIndex, Now, ReplicaId, Signature};
use crate::wire::error::Misbehaviour;
use crate::wire::frame::Kind;
use crate::wire::message::{self, ArchivedCosignature, Cosignature};

/// A promise that no other record takes along is written by itself after so long, us.
const WRITE_WITHIN_US: u64 = 2_000;

/// With nobody waiting, certificates are made once in so long, us.
const LOOK_US: u64 = 250_000;

/// With somebody waiting likewise, us.
const LOOK_SOON_US: u64 = 1_000;

/// With somebody waiting the others are asked for signatures once in so long, us.
const ASK_US: u64 = 20_000;

/// The newest certified head and its note.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) head: Head,
    pub(super) note: Arc<str>,
}

/// The interval of a replica that cosigns nothing, us.
pub(super) const NEVER_US: u64 = u64::MAX / 2;

/// What a signature that is told asks of the others.
#[derive(Clone, Copy, Default)]
struct Asks {
    /// Their last ones.
    again: bool,
    /// To hurry.
    wanted: bool,
}

/// What a node has to do with cosigning.
pub(super) struct Cosigning {
    cosigner: Cosigner,
    /// Signed in this round, for all.
    told: Option<Claim>,
    /// The promise of an earlier life is to be signed again.
    resumes: bool,
    /// Peers that asked for the last signature, or whose link came up, a bit each.
    asked: u32,
    looked_at_us: u64,
    asked_at_us: Option<u64>,
    /// This replica may not sign, or could not when it was asked last.
    rests: bool,
    write_by_us: Option<u64>,
    certificate: Option<Certificate>,
}

impl Cosigning {
    pub(super) fn new(notary: &Notary, size: Size, interval_us: u64, promised: Option<Head>) -> Self {
        let mut cosigner = Cosigner::new(notary.me(), size, interval_us);
        promised.into_iter().for_each(|head| cosigner.resume(head));
        Self {
            cosigner,
            told: None,
            resumes: promised.is_some(),
            asked: 0,
            looked_at_us: 0,
            asked_at_us: None,
            rests: false,
            write_by_us: None,
            certificate: None,
        }
    }

    /// Entries under the head that was promised last.
    pub(super) fn promised_size(&self) -> EntryIndex {
        self.cosigner.promised().map_or(0, |head| head.size)
    }

    /// For other settings.
    pub(super) fn cosigner_mut(&mut self) -> &mut Cosigner {
        &mut self.cosigner
    }

    /// The newest certificate.
    pub(super) fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_ref()
    }

    /// Entries under the newest certificate.
    pub(super) fn certified_size(&self) -> EntryIndex {
        self.certificate.as_ref().map_or(0, |certificate| certificate.head.size)
    }

    /// When it has something to do, us; one that may not sign has nothing to promise or to tell.
    pub(super) fn due_us(&self, may_sign: bool, wanted: bool) -> u64 {
        let look = if self.cosigner.has_news() { self.look_due_us(wanted) } else { u64::MAX };
        match may_sign {
            true if self.told.is_some() || self.asked != 0 || self.rests => 0,
            true => self.cosigner.due_us().min(look),
            false => look,
        }
    }

    fn look_due_us(&self, wanted: bool) -> u64 {
        self.looked_at_us + if wanted { LOOK_SOON_US } else { LOOK_US }
    }

    /// When a promise must be written, us.
    pub(super) fn write_by_us(&self) -> Option<u64> {
        self.write_by_us
    }

    /// The log has begun a write, which took all that was staged or not.
    pub(super) fn wrote(&mut self, took_all: bool, now: Now) {
        self.write_by_us = self.write_by_us.filter(|_| !took_all).map(|_| now.mono_us + WRITE_WITHIN_US);
    }

    /// A promise has waited long enough for another record.
    pub(super) fn must_write(&self, now: Now) -> bool {
        self.write_by_us.is_some_and(|by_us| by_us <= now.mono_us)
    }

    /// The link to a peer came up.
    pub(super) fn link_up(&mut self, peer: ReplicaId) {
        self.asked |= 1 << peer.0;
    }
}

/// The own root at a size that the history has.
pub(super) fn root_at(store: &impl EntryStore, size: EntryIndex) -> Option<Digest> {
    if size <= store.size() { proof::root(store, size) } else { None }
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// The history after a sequence.
    pub(super) fn note_head(&mut self) {
        let sequence = self.execution.sequence();
        let head = Head { size: self.execution.size(), root: self.execution.history_root() };
        let is_checkpoint = sequence.is_multiple_of(self.config.agreed.interval);
        self.cosigning.cosigner.executed(sequence, head, is_checkpoint);
    }

    /// A promise became durable: now it may be signed.
    pub(super) fn cosigned_durable(&mut self, head: Head, now: Now) {
        if self.ordering.may_cosign() && !mutants::on(Mutant::CosignsBeforeSync) {
            self.sign_head(head, now);
        }
    }

    fn sign_head(&mut self, head: Head, now: Now) {
        let claim = self.config.notary.cosign(head, u64::try_from(now.wall_ms / 1_000).unwrap_or(0));
        self.cosigning.cosigner.signed(claim, now.mono_us);
        self.cosigning.told = Some(claim);
    }

    /// Promises the next head, tells signatures, and makes certificates.
    pub(super) fn cosign(&mut self, now: Now, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        let wanted = self.proofs.wait_beyond(self.cosigning.certified_size(), self.execution.size());
        if wanted {
            self.cosigning.cosigner.hurry(now.mono_us);
        }
        if self.ordering.may_cosign() {
            if std::mem::take(&mut self.cosigning.rests) {
                self.note_head();
            }
            self.promise(now)?;
            self.tell_signatures(wanted, now, shell);
        } else {
            // What it promised before it lost its records it cannot know; what it promised before it was sure, it may sign again.
            self.cosigning.rests = true;
            self.cosigning.told = None;
            self.cosigning.asked = 0;
            self.cosigning.resumes &= self.ordering.abstains().is_none();
            self.cosigning.cosigner.rests();
        }
        if now.mono_us >= self.cosigning.look_due_us(wanted) {
            self.certify_heads(now)?;
        }
        Ok(())
    }

    fn tell_signatures(&mut self, wanted: bool, now: Now, shell: &mut impl Shell<D>) {
        let asks = wanted && self.cosigning.asked_at_us.is_none_or(|asked_at| now.mono_us >= asked_at + ASK_US);
        let told = self.cosigning.told.take();
        if let Some(claim) = told.or_else(|| self.cosigning.cosigner.own().filter(|_| asks)) {
            self.tell_all(&claim, Asks { again: asks, wanted: asks }, shell);
            self.cosigning.asked_at_us = if asks { Some(now.mono_us) } else { self.cosigning.asked_at_us };
        }
        if let Some(claim) = self.cosigning.cosigner.tells_again(now.mono_us) {
            self.tell_all(&claim, Asks { again: true, wanted: false }, shell);
        }
        let asked = std::mem::take(&mut self.cosigning.asked);
        if let Some(claim) = self.cosigning.cosigner.own().filter(|_| asked != 0) {
            for peer in self.config.agreed.size.replicas().filter(|peer| asked & (1 << peer.0) != 0) {
                self.tell(peer, &claim, Asks::default(), shell);
            }
        }
    }

    fn promise(&mut self, now: Now) -> Result<(), NodeError> {
        // A promise of an earlier life is signed again once the history is there: what follows is larger in any case.
        if self.cosigning.resumes
            && let Some(head) = self.cosigning.cosigner.promised()
            && let Some(own) = root_at(self.execution.store(), head.size)
        {
            self.cosigning.resumes = false;
            if own != head.root {
                let Head { size, root } = head;
                return Err(NodeError::DivergedHistory { size, own, certified: root, note: String::new() });
            }
            self.sign_head(head, now);
        }
        let Some(head) = self.cosigning.cosigner.choose(now.mono_us) else { return Ok(()) };
        self.cosigning.cosigner.promise(head, now.mono_us);
        self.cosigning.write_by_us = Some(now.mono_us + WRITE_WITHIN_US);
        if mutants::on(Mutant::CosignsBeforeSync) {
            self.sign_head(head, now);
        }
        self.append(Record::Cosigned(head), now)
    }

    fn tell_all(&mut self, claim: &Claim, asks: Asks, shell: &mut impl Shell<D>) {
        let me = self.config.me;
        for peer in self.config.agreed.size.replicas().filter(|peer| *peer != me) {
            self.tell(peer, claim, asks, shell);
        }
    }

    fn tell(&mut self, peer: ReplicaId, claim: &Claim, asks: Asks, shell: &mut impl Shell<D>) {
        let Claim { head, time_s, signature } = *claim;
        let Asks { again, wanted } = asks;
        let message = Cosignature { size: head.size, root: head.root.0, time_s, signature: signature.0, again, wanted };
        self.body.clear();
        message::encode(&message, &mut self.body);
        shell.to_peer(peer, Kind::Cosignature, &self.body);
    }

    /// A peer's signature.
    pub(super) fn peer_cosignature(&mut self, from: ReplicaId, message: &ArchivedCosignature, now: Now) {
        let head = Head { size: message.size.to_native(), root: Digest(message.root) };
        let claim = Claim { head, time_s: message.time_s.to_native(), signature: Signature(message.signature) };
        self.cosigning.cosigner.heard(from, claim);
        if message.again {
            self.cosigning.asked |= 1 << from.0;
        }
        if message.wanted {
            self.cosigning.cosigner.hurry(now.mono_us);
        }
    }

    fn certify_heads(&mut self, now: Now) -> Result<(), NodeError> {
        self.cosigning.looked_at_us = now.mono_us;
        let (store, notary) = (self.execution.store(), &self.config.notary);
        let findings = self.cosigning.cosigner.look(
            store.size(),
            |size| root_at(store, size),
            |replica, claim| notary.holds(replica, claim),
        );
        for finding in findings {
            match finding {
                Finding::BadSignature(replica) => {
                    self.accuse(replica, &Misbehaviour::BadSignature { what: "cosignature" }, Vec::new(), now);
                }
                Finding::Lie(replica, claim) => {
                    let what = Misbehaviour::WrongCosignature { size: claim.head.size };
                    let sealed = self.config.notary.sealed(replica, &claim);
                    self.accuse(replica, &what, vec![sealed], now);
                }
                // A damaged file of nodes is no divergence: it is made again at the next start.
                Finding::Diverged(_) if !self.nodes_hold() => return Err(NodeError::Nodes),
                Finding::Diverged(certified) => return Err(self.diverged(&certified)),
            }
        }
        if let Some(certified) = self.cosigning.cosigner.certified()
            && certified.head.size > self.cosigning.certified_size()
            && let Some(note) = self.config.notary.note(certified)
        {
            self.cosigning.certificate = Some(Certificate { head: certified.head, note: note.into() });
            self.counters.add("history.certified", 1);
        }
        Ok(())
    }

    /// Whether the nodes on the disk are those of the history in memory.
    fn nodes_hold(&self) -> bool {
        let store = self.execution.store();
        root_at(store, store.size()) == Some(self.execution.history_root())
    }

    /// The end: a quorum of others has another history than this replica.
    fn diverged(&self, certified: &Certified) -> NodeError {
        let own = root_at(self.execution.store(), certified.head.size).unwrap_or(Digest::NULL);
        let note = self.config.notary.note(certified).unwrap_or_default();
        NodeError::DivergedHistory { size: certified.head.size, own, certified: certified.head.root, note }
    }
}
