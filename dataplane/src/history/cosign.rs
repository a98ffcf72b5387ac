//! Cosigning: which heads of the history this replica signs, and what a quorum's signatures make of them.
//!
//! The history has a head, (size, root), at the end of every sequence. No vote waits for its signatures: a replica signs a head
//! when its signer is free, which is once in [`Cosigner::new`]'s interval and once the head that it promised last is durable.
//!
//! # Which head (PROTOCOL.md, "History and certificates")
//! Among the heads newer than the last signed one, the one whose sequence number has most trailing zero bits, of several the latest;
//! never beyond a checkpoint that is not signed yet. So replicas under load meet at the same heads, though each signs at its own
//! times. Of heads that are waiting only those can ever be chosen that have more zeros than all later ones up to the next checkpoint:
//! [`Cosigner`] keeps no others, 64 between two checkpoints.
//!
//! # What is durable when
//! A head is *promised* by a record in the log ([`Record::Cosigned`](crate::ordering::record::Record::Cosigned)) and its signature is made from
//! the durable record. After a restart nothing smaller is promised, and the promised head may be signed again: its root
//! is the same, or this replica has diverged and stops. A replica that lost its records, or has not heard yet from enough others whether it
//! did, says nothing ([`Cosigner::rests`]), and forgets what it would have signed: when it comes back it has executed all that it can have
//! signed before, and begins with the head at which it stands.
//!
//! # Who believes what
//! Each replica tells the others its signatures ([`Claim`]). Roots are compared as they come; signatures are verified when a
//! certificate is to be made of them, each by itself and without cofactor, as the tools of auditors do. Signatures of q
//! replicas, the own among them where there is one, CERTIFY a head. Where the roots of q *other* replicas agree, are signed, and differ
//! from the own, this replica has diverged ([`Finding::Diverged`]). One that differs from a certified root has lied
//! ([`Finding::Lie`]).
//!
//! # Pace
//! Nobody waits for most certificates, so a signer rests for the interval that it is set to after each signature. A replica of which
//! somebody wants a proof *hurries* ([`Cosigner::hurry`]), and so do those whom it asks for their signatures; each for
//! [`HURRY_FOR_US`] after the last asking. Whom it asks answers with its last signature. In a hurry a signer is free at once for a head
//! whose number is a multiple of `2^z`, with the least `z` at which these come [`HURRY_US`] apart: so all who hurry sign the same
//! heads, and where two of them see another pace those of the one are among those of the other. For whatever waits it is free
//! [`HURRY_AT_MOST_US`] after its last promise.
//!
//! # Messages that get lost
//! A replica whose last signature is not part of a certificate known here tells it again every [`AGAIN_US`], asking the others to do
//! the same; on a new link each side tells its last one.
//!
//! # Limits
//! Of each replica the last [`MAX_CLAIMS`] signatures; waiting heads [`MAX_WAITING`], of which the oldest go.
//!
//! Sources: C2SP tlog-cosignature (cosignature/v1); PROTOCOL.md.

use std::collections::VecDeque;

use crate::cluster::Size;
use crate::types::{Digest, EntryIndex, ReplicaId, Sequence, Signature};

/// Signatures of one replica that are kept above the newest certified head; the oldest go. At the fastest pace these are some seconds.
pub const MAX_CLAIMS: usize = 512;

/// Heads that wait to be signed.
pub const MAX_WAITING: usize = 1_024;

/// A signature that is not part of a certificate is told again after so long, us.
pub const AGAIN_US: u64 = 500_000;

/// While somebody waits for certificates heads are signed so far apart, us, if more come: signatures cost some hundredths of a core then.
pub const HURRY_US: u64 = 2_000;

/// With somebody waiting a head waits for a rounder one no longer than this, us.
pub const HURRY_AT_MOST_US: u64 = 4 * HURRY_US;

/// It stays so for so long after it was asked to, us.
pub const HURRY_FOR_US: u64 = 100_000;

/// A head of the history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Head {
    /// Entries.
    pub size: EntryIndex,
    /// RFC 6962 root over them.
    pub root: Digest,
}

/// A replica's signature under a head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The head.
    pub head: Head,
    /// The signer's clock when it signed, seconds since the Unix epoch.
    pub time_s: u64,
    /// Its cosignature.
    pub signature: Signature,
}

/// A head with the cosignatures of a quorum, all verified, by replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certified {
    /// The head.
    pub head: Head,
    /// Who signed it.
    pub claims: Vec<(ReplicaId, Claim)>,
}

/// What comparing signatures found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A signature that is none, sent over an authenticated link.
    BadSignature(ReplicaId),
    /// A replica signed another root than a quorum did.
    Lie(ReplicaId, Claim),
    /// A quorum of others signed this, and it is not the history that is here.
    Diverged(Certified),
}

/// A head that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    sequence: Sequence,
    head: Head,
    is_checkpoint: bool,
}

/// A claim, and whether its signature was found to hold.
#[derive(Clone, Copy, Debug)]
struct Heard {
    claim: Claim,
    holds: bool,
}

/// One replica's cosigning. See the module.
#[derive(Debug)]
pub struct Cosigner {
    me: ReplicaId,
    size: Size,
    interval_us: u64,
    waiting: VecDeque<Waiting>,
    /// The head that was promised last.
    promised: Option<Head>,
    /// It is not durable yet.
    is_staged: bool,
    promised_at_us: Option<u64>,
    /// Of the head that was promised last here.
    promised_sequence: Sequence,
    /// Zeros at the end of the numbers of the heads that one in a hurry is free for.
    zeros: u32,
    hurries_until_us: u64,
    claims: Vec<VecDeque<Heard>>,
    certified: Option<Certified>,
    /// Something came since certificates were last looked for.
    is_new: bool,
    /// A quorum signed a head of so many entries, which are not here yet.
    ahead: Option<EntryIndex>,
    told_at_us: u64,
}

impl Cosigner {
    /// A signer that is free once in `interval_us`.
    pub fn new(me: ReplicaId, size: Size, interval_us: u64) -> Self {
        Self {
            me,
            size,
            interval_us,
            waiting: VecDeque::new(),
            promised: None,
            is_staged: false,
            promised_at_us: None,
            promised_sequence: 0,
            zeros: 0,
            hurries_until_us: 0,
            claims: vec![VecDeque::new(); size.n()],
            certified: None,
            is_new: false,
            ahead: None,
            told_at_us: 0,
        }
    }

    /// From its next promise on it is free once in so long, us.
    pub fn set_interval(&mut self, interval_us: u64) {
        self.interval_us = interval_us;
    }

    /// What the log says was promised; the highest counts.
    pub fn resume(&mut self, promised: Head) {
        if self.promised.is_none_or(|head| head.size <= promised.size) {
            self.promised = Some(promised);
        }
    }

    /// The head that was promised last.
    pub fn promised(&self) -> Option<Head> {
        self.promised
    }

    /// A sequence was executed: this is its head.
    pub fn executed(&mut self, sequence: Sequence, head: Head, is_checkpoint: bool) {
        let size = head.size;
        if self.ahead.take_if(|ahead| *ahead <= size).is_some() {
            self.is_new = true;
        }
        if size == 0 || self.promised.is_some_and(|promised| size <= promised.size) {
            return;
        }
        while let Some(last) = self.waiting.back()
            && !last.is_checkpoint
            && last.sequence.trailing_zeros() <= sequence.trailing_zeros()
        {
            self.waiting.pop_back();
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { sequence, head, is_checkpoint });
    }

    /// This replica may not sign now: it forgets what it signed and would have signed. What it promised stays promised.
    pub fn rests(&mut self) {
        self.waiting.clear();
        self.claims[self.me.index()].clear();
        self.is_staged = false;
    }

    /// The head to promise now, if the signer is free; [`Cosigner::promise`] follows.
    pub fn choose(&mut self, now_us: u64) -> Option<Head> {
        if self.is_staged || now_us < self.free_at_us() {
            return None;
        }
        while let Some(Waiting { head, sequence, .. }) = self.waiting.pop_front() {
            if self.promised.is_none_or(|promised| head.size > promised.size) {
                self.keep_pace(sequence, now_us);
                return Some(head);
            }
        }
        None
    }

    /// Sets how round the numbers are that a signer in a hurry is free for, by the sequences since the last promise.
    fn keep_pace(&mut self, sequence: Sequence, now_us: u64) {
        let passed = sequence.saturating_sub(std::mem::replace(&mut self.promised_sequence, sequence));
        let took_us = self.promised_at_us.map_or(u64::MAX, |promised_at| now_us.saturating_sub(promised_at));
        let in_time = passed.saturating_mul(HURRY_US).div_ceil(took_us.max(1));
        self.zeros = if in_time <= 1 { 0 } else { (in_time - 1).ilog2() + 1 };
    }

    /// The promise of a head was staged.
    pub fn promise(&mut self, head: Head, now_us: u64) {
        self.promised = Some(head);
        self.is_staged = true;
        self.promised_at_us = Some(now_us);
    }

    /// Somebody waits for a certificate, here or at a peer.
    pub fn hurry(&mut self, now_us: u64) {
        self.hurries_until_us = now_us + HURRY_FOR_US;
    }

    /// When the signer is free for what waits, us.
    fn free_at_us(&self) -> u64 {
        let Some(promised_at) = self.promised_at_us else { return 0 };
        let rested = promised_at + self.interval_us;
        let is_round = |next: &Waiting| next.is_checkpoint || next.sequence.trailing_zeros() >= self.zeros;
        let hurried = match self.waiting.front() {
            Some(next) if is_round(next) => promised_at,
            _ => promised_at + HURRY_AT_MOST_US,
        };
        if hurried < self.hurries_until_us { hurried.min(rested) } else { rested }
    }

    /// Whether something came since certificates were last looked for.
    pub fn has_news(&self) -> bool {
        self.is_new
    }

    /// When [`Cosigner::choose`] or [`Cosigner::tells_again`] may have something, us.
    pub fn due_us(&self) -> u64 {
        let choose = if self.waiting.is_empty() || self.is_staged { u64::MAX } else { self.free_at_us() };
        let again = if self.is_open() { self.told_at_us + AGAIN_US } else { u64::MAX };
        choose.min(again)
    }

    /// The promise became durable and this was signed: to be told to all.
    pub fn signed(&mut self, claim: Claim, now_us: u64) {
        self.is_staged = false;
        self.told_at_us = now_us;
        self.keep(self.me, Heard { claim, holds: true });
    }

    /// Whether the own last signature is not known to be part of a certificate.
    fn is_open(&self) -> bool {
        let certified = self.certified.as_ref().map_or(0, |certified| certified.head.size);
        self.own().is_some_and(|claim| claim.head.size > certified)
    }

    /// The own last signature.
    pub fn own(&self) -> Option<Claim> {
        self.claims[self.me.index()].back().map(|heard| heard.claim)
    }

    /// The own last signature, where it is time to tell it to all again.
    pub fn tells_again(&mut self, now_us: u64) -> Option<Claim> {
        if !self.is_open() || now_us < self.told_at_us + AGAIN_US {
            return None;
        }
        self.told_at_us = now_us;
        self.own()
    }

    /// A peer's signature. What is older than its last is dropped, and so is what is further ahead than anybody can be heard of.
    pub fn heard(&mut self, from: ReplicaId, claim: Claim) {
        if from != self.me && from.index() < self.claims.len() && claim.head.size > 0 {
            self.keep(from, Heard { claim, holds: false });
        }
    }

    fn keep(&mut self, from: ReplicaId, heard: Heard) {
        let claims = &mut self.claims[from.index()];
        let size = heard.claim.head.size;
        // A replica that signed two roots for one size shows both; of one that signed again the first stays.
        if claims.iter().any(|other| other.claim.head == heard.claim.head)
            || claims.back().is_some_and(|last| last.claim.head.size > size)
        {
            return;
        }
        let certified = self.certified.as_ref().map_or(0, |certified| certified.head.size);
        while claims.front().is_some_and(|first| first.claim.head.size < certified) || claims.len() >= MAX_CLAIMS {
            claims.pop_front();
        }
        claims.push_back(heard);
        self.is_new = true;
    }

    /// The newest certificate.
    pub fn certified(&self) -> Option<&Certified> {
        self.certified.as_ref()
    }

    /// Looks for a newer certificate, for a divergence and for lies. `root_of` gives the own root at a size that the own history
    /// has, `holds` verifies a signature. Costs a few comparisons where nothing new came.
    pub fn look(
        &mut self,
        own_size: EntryIndex,
        root_of: impl Fn(EntryIndex) -> Option<Digest>,
        holds: impl Fn(ReplicaId, &Claim) -> bool,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !std::mem::take(&mut self.is_new) {
            return findings;
        }
        let floor = self.certified.as_ref().map_or(0, |certified| certified.head.size);
        let here = self.candidates(floor);
        // What is ahead of the own history is looked at once that has got there.
        self.ahead = here.iter().map(|head| head.size).filter(|size| *size > own_size).min();
        let mut here: Vec<Head> = here.into_iter().filter(|head| head.size <= own_size).collect();
        while let Some(head) = here.pop() {
            let bad = self.verify(head, &holds);
            findings.extend(bad.into_iter().map(Finding::BadSignature));
            if self.count(head) < self.size.quorum() {
                continue;
            }
            let Some(root) = root_of(head.size) else { continue };
            let claims = self.claims_of(head);
            let certified = Certified { head, claims };
            if root != head.root {
                let others = certified.claims.iter().filter(|(replica, _)| *replica != self.me).count();
                if others >= self.size.quorum() {
                    findings.push(Finding::Diverged(certified));
                }
                break;
            }
            self.certified = Some(certified);
            findings.extend(self.lies(head, &holds));
            for claims in &mut self.claims {
                claims.retain(|heard| heard.claim.head.size >= head.size);
            }
            break;
        }
        findings
    }

    /// The heads above `floor` that a quorum claims, the smallest first.
    fn candidates(&self, floor: EntryIndex) -> Vec<Head> {
        let heads = self.claims.iter().flatten().map(|heard| heard.claim.head).filter(|head| head.size > floor);
        let mut heads: Vec<Head> = heads.collect();
        heads.sort_unstable();
        // No replica has two claims of one head.
        let quorum = self.size.quorum();
        heads.chunk_by(|left, right| left == right).filter(|same| same.len() >= quorum).map(|same| same[0]).collect()
    }

    fn count(&self, head: Head) -> usize {
        self.claims.iter().filter(|claims| claims.iter().any(|heard| heard.claim.head == head)).count()
    }

    /// Verifies the signatures under a head that were not verified before; those that do not hold are dropped.
    fn verify(&mut self, head: Head, holds: &impl Fn(ReplicaId, &Claim) -> bool) -> Vec<ReplicaId> {
        let mut bad = Vec::new();
        for (replica, claims) in self.size.replicas().zip(&mut self.claims) {
            claims.retain_mut(|heard| {
                if heard.claim.head == head && !heard.holds {
                    heard.holds = holds(replica, &heard.claim);
                    if !heard.holds {
                        bad.push(replica);
                        return false;
                    }
                }
                true
            });
        }
        bad
    }

    fn claims_of(&self, head: Head) -> Vec<(ReplicaId, Claim)> {
        let of =
            |claims: &VecDeque<Heard>| claims.iter().find(|heard| heard.claim.head == head).map(|heard| heard.claim);
        self.size.replicas().zip(&self.claims).filter_map(|(replica, claims)| Some((replica, of(claims)?))).collect()
    }

    /// Signatures under another root than the certified one of that size.
    fn lies(&mut self, head: Head, holds: &impl Fn(ReplicaId, &Claim) -> bool) -> Vec<Finding> {
        let mut found = Vec::new();
        for (replica, claims) in self.size.replicas().zip(&mut self.claims) {
            claims.retain(|heard| {
                let differs = heard.claim.head.size == head.size && heard.claim.head.root != head.root;
                if differs && holds(replica, &heard.claim) {
                    found.push(Finding::Lie(replica, heard.claim));
                } else if differs {
                    found.push(Finding::BadSignature(replica));
                }
                !differs
            });
        }
        found
    }
}

#[cfg(test)]
#[path = "cosign_tests.rs"]
mod tests;
