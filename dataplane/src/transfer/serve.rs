//! The source's side: snapshots on the shelf, pieces, and whose turn it is.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Durable, HASHES_AT_ONCE, Kept, MAX_ASKED, PIECE_BYTES, SNAPSHOTS_KEPT};
use crate::crypto::hash::sha256;
use crate::ordering::checkpoint::Certificate;
use crate::state::Entries;
use crate::types::{EntryIndex, ReplicaId, Sequence};
use crate::wire::message::{FetchPieces, PieceHash};

/// The snapshots that this replica has on its disk, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    kept: Vec<Kept>,
}

impl Shelf {
    /// What a start found.
    pub fn new(mut kept: Vec<Kept>) -> Self {
        kept.sort_by_key(Kept::sequence);
        Self { kept }
    }

    /// Puts a snapshot there. Gives the sequences of those that are not needed any more.
    #[must_use]
    pub fn put(&mut self, kept: Kept) -> Vec<Sequence> {
        self.remove(kept.sequence());
        let place = self.kept.partition_point(|other| other.sequence() < kept.sequence());
        self.kept.insert(place, kept);
        self.clear_out()
    }

    /// Takes a snapshot away that turned out to be of no use.
    pub fn remove(&mut self, sequence: Sequence) {
        self.kept.retain(|kept| kept.sequence() != sequence);
    }

    /// A quorum signed a checkpoint. Gives whether there is a snapshot of it which lacked that.
    pub fn certify(&mut self, certificate: &Arc<Certificate>) -> bool {
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.statement == *certificate.statement()) else {
            return false;
        };
        let is_new = kept.certificate.is_none();
        kept.certificate.get_or_insert_with(|| Arc::clone(certificate));
        is_new
    }

    /// Certificates that do not hold are none.
    pub fn check(&mut self, holds: impl Fn(&Certificate) -> bool) {
        for kept in &mut self.kept {
            kept.certificate.take_if(|certificate| !holds(certificate));
        }
    }

    /// Older ones than the two newest that are certified go, and of those that are not certified all but the newest. Gives their
    /// sequences.
    pub fn clear_out(&mut self) -> Vec<Sequence> {
        let (mut certified, mut bare, mut gone) = (0, 0, Vec::new());
        for at in (0..self.kept.len()).rev() {
            let is_certified = self.kept[at].certificate.is_some();
            let count = if is_certified { &mut certified } else { &mut bare };
            *count += 1;
            if certified > SNAPSHOTS_KEPT || (!is_certified && (bare > 1 || certified > 0)) {
                gone.push(self.kept.remove(at).sequence());
            }
        }
        gone
    }

    /// The certificates that are known now will be on the disk before the next snapshot is.
    pub fn will_be_durable(&mut self) {
        for kept in &mut self.kept {
            kept.durable = kept.durable.max(if kept.certificate.is_some() { Durable::Soon } else { Durable::No });
        }
    }

    /// A snapshot became durable, and with it what was to be before.
    pub fn is_durable(&mut self) {
        for kept in &mut self.kept {
            if kept.durable == Durable::Soon {
                kept.durable = Durable::Yes;
            }
        }
    }

    /// All, the oldest first.
    pub fn all(&self) -> &[Kept] {
        &self.kept
    }

    /// Up to here the log is not needed: as many snapshots as are kept lie there or above, each with its certificate on the disk.
    pub fn covers(&self) -> Sequence {
        let mut certified = self.kept.iter().rev().filter(|kept| kept.durable == Durable::Yes);
        certified.nth(SNAPSHOTS_KEPT - 1).map_or(0, Kept::sequence)
    }

    /// Who is behind this is offered the snapshots, whether or not the own log would reach back.
    pub fn offers(&self) -> Sequence {
        let mut certified = self.kept.iter().rev().filter(|kept| kept.certificate.is_some());
        certified.nth(SNAPSHOTS_KEPT - 1).map_or(0, Kept::sequence)
    }

    /// The snapshot of a checkpoint, if it may be offered.
    pub fn get(&self, sequence: Sequence) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.sequence() == sequence && kept.certificate.is_some())
    }
}

/// A piece of the history: [`Entries::run`] of [`PIECE_BYTES`].
pub fn history_piece(history: &impl Entries, first: EntryIndex, end: EntryIndex) -> Option<(Vec<u8>, u64)> {
    history.run(first, end, PIECE_BYTES)
}

/// The hashes of the next pieces of the history; none where one of them cannot be read: all who have them answer alike.
pub fn history_hashes(history: &impl Entries, first: EntryIndex, end: EntryIndex) -> Vec<PieceHash> {
    let mut next = first;
    let mut hashes = Vec::new();
    for _ in 0..HASHES_AT_ONCE {
        if next >= end {
            break;
        }
        let Some((bytes, entries)) = history_piece(history, next, end) else { return Vec::new() };
        hashes.push(PieceHash { entries, hash: sha256(&[&bytes]).0 });
        next += entries;
    }
    hashes
}

/// What peers ask for, one peer after the other, within a number of bytes a second.
#[derive(Debug)]
pub struct Questions {
    asked: Vec<VecDeque<FetchPieces>>,
    next: usize,
    bytes_per_second: u64,
    /// Bytes that may be sent now; negative after more were sent.
    allowed: i64,
    at_us: u64,
}

impl Questions {
    /// For `n` replicas.
    pub fn new(n: usize, bytes_per_second: u64) -> Self {
        Self { asked: vec![VecDeque::new(); n], next: 0, bytes_per_second, allowed: 0, at_us: 0 }
    }

    /// From now on so many bytes a second.
    pub fn set_rate(&mut self, bytes_per_second: u64) {
        self.bytes_per_second = bytes_per_second;
    }

    /// A peer asks.
    pub fn ask(&mut self, from: ReplicaId, question: FetchPieces) {
        if let Some(asked) = self.asked.get_mut(from.index())
            && asked.len() < MAX_ASKED
            && !asked.contains(&question)
        {
            asked.push_back(question);
        }
    }

    /// The next question to answer, if the rate permits one.
    pub fn next(&mut self, now_us: u64) -> Option<(ReplicaId, FetchPieces)> {
        let passed_us = now_us.saturating_sub(self.at_us).min(1_000_000);
        self.at_us = now_us;
        // What was not used within a tenth of a second is gone: no burst after a pause.
        let gained = (u128::from(self.bytes_per_second) * u128::from(passed_us) / 1_000_000) as i64;
        self.allowed = self.allowed.saturating_add(gained).min((self.bytes_per_second / 10) as i64);
        if self.allowed < 0 {
            return None;
        }
        let n = self.asked.len();
        let peer = (0..n).map(|step| (self.next + step) % n).find(|peer| !self.asked[*peer].is_empty())?;
        self.next = (peer + 1) % n;
        Some((ReplicaId(peer as u8), self.asked[peer].pop_front()?))
    }

    /// So many bytes were read and sent for an answer.
    pub fn spent(&mut self, bytes: usize) {
        self.allowed = self.allowed.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// When the next question may be answered, us; `None` where there is none.
    pub fn due_us(&self) -> Option<u64> {
        self.asked.iter().any(|asked| !asked.is_empty()).then(|| {
            let lacking = u128::from(self.allowed.min(0).unsigned_abs());
            self.at_us + (lacking * 1_000_000 / u128::from(self.bytes_per_second.max(1))) as u64
        })
    }
}
