//! The choices of a view change: what a VIEW-CHANGE reports, when a report counts, and what a set of them decides.
//!
//! Plain data and functions of it (PROTOCOL.md, "View change"); signatures, frames and timers are other modules' concern. The
//! replica calls them, and `tests/model.rs` explores them exhaustively.
//!
//! # The report
//! [`Held`] is a replica's own P and Q, updated as records are *staged*, so that a VIEW-CHANGE, which is logged behind them,
//! reports them all. P is one (digest, view) per sequence, the last view in which it was prepared. Q is each digest that was
//! pre-prepared at a sequence, with the last such view. Nothing is dropped but what a stable checkpoint covers.
//!
//! A [`Report`] is valid ([`Report::validate`]) if it is canonical (strictly ascending, so at most one P per sequence and no digest
//! twice), every sequence lies in `(h, h + window]`, and every view below the new one.
//!
//! # The choice
//! S is a set of valid reports of at least q replicas; `start` is the highest h in it. What a member reports at or below `start` is
//! settled by the checkpoint and looked at no more; a member whose h is higher than a sequence says nothing of it, which is why
//! no sequence at or below `start` is chosen. For each sequence above, up to the highest that S names ([`choose`]):
//!
//! * v' of a digest is the (f+1)-th highest view that members give it in Q: at least one correct replica pre-prepared it at
//!   v' or later.
//! * It is a candidate if q members have no P above v', nor at v' with another digest. A digest that was committed slowly has
//!   q replicas with P at its view or above, and two quorums share f+1, so nothing else passes at or below that view.
//! * Of candidates the highest v' wins, then one that some P names at v', then the smallest digest.
//! * No candidate, and q members without any P: null. Neither: [`Choice::Wait`]. More reports never take a candidate away.
//!
//! # Limits
//! A replica with [`MAX_FREE_DIGESTS`] digests in Q at a sequence accepts only choices there; it holds more than that only by choices,
//! so validity permits more ([`max_digests`]): a correct replica's report must never be refused.
//!
//! Sources: Castro & Liskov, TOCS 2002, section 4.4 (P, Q and the shape of the decision); Abraham et al., "Revisiting Fast Practical
//! Byzantine Fault Tolerance" (2017), for why f+1 supporters alone do not do beside a fast path.

use std::collections::BTreeMap;

use crate::cluster::Size;
use crate::types::{Digest, ReplicaId, Sequence, View};

#[cfg(test)]
mod tests;

/// Digests in Q at one sequence from which on a replica accepts only choices there.
pub const MAX_FREE_DIGESTS: usize = 16;

/// Most digests that a correct replica can hold in Q at one sequence; a report with more is a lie.
///
/// A sequence is free only where q members of some S, q - f of them correct, hold nothing at it. So before the last view in
/// which a correct replica accepts a free proposal, at most n - q correct replicas had accepted any, [`MAX_FREE_DIGESTS`]
/// each; in that view each adds one. Every choice but null is one of those, since a correct replica supports it.
pub fn max_digests(size: Size) -> usize {
    MAX_FREE_DIGESTS * (size.n() - size.quorum()) + size.n() + 1
}

/// A digest at a sequence, and the last view in which the replica pre-prepared (in Q) or prepared it (in P).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Entry {
    /// The sequence.
    pub sequence: Sequence,
    /// The batch's digest; [`Digest::NULL`] for the null batch.
    pub digest: Digest,
    /// The view.
    pub view: View,
}

/// What a VIEW-CHANGE reports of its sender, without proof of h and signature.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Report {
    /// The sender's stable checkpoint.
    pub h: Sequence,
    /// P: ascending by sequence, one entry for each.
    pub prepared: Vec<Entry>,
    /// Q: ascending by sequence, then digest, one entry for each pair.
    pub pre_prepared: Vec<Entry>,
}

/// Which of a report's lists is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum List {
    /// P.
    #[error("P")]
    Prepared,
    /// Q.
    #[error("Q")]
    PrePrepared,
}

/// Why a report counts for nothing. A correct replica sends no such report: its signer is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Invalid {
    /// The list is not strictly ascending, or names something twice.
    #[error("{list} of the report is out of order or repeats itself at sequence {sequence}")]
    Order {
        /// The list.
        list: List,
        /// The sequence of the later entry.
        sequence: Sequence,
    },
    /// The sequence is not above h, or is beyond the window.
    #[error("{list} of the report names sequence {sequence}, which is not in ({h}, {h} + {window}]")]
    Range {
        /// The list.
        list: List,
        /// The sequence.
        sequence: Sequence,
        /// The report's h.
        h: Sequence,
        /// The window.
        window: u64,
    },
    /// The view is not below the one that the report is for.
    #[error("{list} of the report claims view {view} at sequence {sequence}, but leaves for view {new_view}")]
    View {
        /// The list.
        list: List,
        /// The sequence.
        sequence: Sequence,
        /// The claimed view.
        view: View,
        /// The view that the report is for.
        new_view: View,
    },
    /// More digests at one sequence than a correct replica can hold.
    #[error("Q of the report names {found} digests at sequence {sequence}; no correct replica holds more than {max}")]
    Digests {
        /// The sequence.
        sequence: Sequence,
        /// So many.
        found: usize,
        /// [`max_digests`].
        max: usize,
    },
}

impl Report {
    /// Whether the report counts in a change to `new_view`, `window` being the open sequences allowed above h. The proof of h is
    /// checked elsewhere.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn validate(&self, new_view: View, window: u64, size: Size) -> Result<(), Invalid> {
        self.validate_list(List::Prepared, &self.prepared, new_view, window)?;
        if let Some([_, twice]) = self.prepared.array_windows().find(|[a, b]| a.sequence == b.sequence) {
            return Err(Invalid::Order { list: List::Prepared, sequence: twice.sequence });
        }
        self.validate_list(List::PrePrepared, &self.pre_prepared, new_view, window)?;
        let max = max_digests(size);
        match self.pre_prepared.chunk_by(|a, b| a.sequence == b.sequence).find(|digests| digests.len() > max) {
            Some(digests) => Err(Invalid::Digests { sequence: digests[0].sequence, found: digests.len(), max }),
            None => Ok(()),
        }
    }

    fn validate_list(&self, list: List, entries: &[Entry], new_view: View, window: u64) -> Result<(), Invalid> {
        let h = self.h;
        let mut before = None;
        for &Entry { sequence, digest, view } in entries {
            if sequence <= h || sequence - h > window {
                return Err(Invalid::Range { list, sequence, h, window });
            }
            if view >= new_view {
                return Err(Invalid::View { list, sequence, view, new_view });
            }
            if before.is_some_and(|before| before >= (sequence, digest)) {
                return Err(Invalid::Order { list, sequence });
            }
            before = Some((sequence, digest));
        }
        Ok(())
    }

    fn prepared_at(&self, sequence: Sequence) -> Option<Entry> {
        let found = self.prepared.binary_search_by_key(&sequence, |entry| entry.sequence);
        found.ok().map(|index| self.prepared[index])
    }

    fn pre_prepared_at(&self, sequence: Sequence) -> &[Entry] {
        let from = self.pre_prepared.partition_point(|entry| entry.sequence < sequence);
        let count = self.pre_prepared[from..].partition_point(|entry| entry.sequence == sequence);
        &self.pre_prepared[from..from + count]
    }
}

/// What a set of reports comes to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Choice {
    /// Not decided: try again with a larger set.
    Wait,
    /// The new view starts with these.
    Choices(Choices),
}

/// The start of a new view.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Choices {
    /// The highest stable checkpoint in S: who is below adopts it.
    pub start: Sequence,
    /// What is pre-prepared in the new view at `start + 1`, `start + 2` and so on; [`Digest::NULL`] for null. Sequences beyond are free.
    pub digests: Vec<Digest>,
}

/// What S chooses. S is in ascending order of its members, each once, at least a quorum; with any other set it is [`Choice::Wait`].
///
/// Every report must be valid for the same view and window ([`Report::validate`]); then at most `window` digests come out and the
/// work is bounded by the entries of the reports and [`Size::n`] for each of their digests.
pub fn choose(reports: &[(ReplicaId, &Report)], size: Size) -> Choice {
    let in_order = reports.array_windows().all(|[(a, _), (b, _)]| a < b);
    let members = reports.last().is_some_and(|(last, _)| last.index() < size.n());
    if !in_order || !members || reports.len() < size.quorum() {
        return Choice::Wait;
    }
    let start = reports.iter().map(|(_, report)| report.h).max().unwrap_or_default();
    let lasts = reports.iter().flat_map(|(_, report)| [report.prepared.last(), report.pre_prepared.last()]);
    let last = lasts.flatten().map(|entry| entry.sequence).max().unwrap_or_default();
    let digests = (start..last).map(|before| choose_one(before + 1, reports, size)).collect::<Option<_>>();
    digests.map_or(Choice::Wait, |digests| Choice::Choices(Choices { start, digests }))
}

/// The choice for one sequence, `None` if more reports are needed.
fn choose_one(sequence: Sequence, reports: &[(ReplicaId, &Report)], size: Size) -> Option<Digest> {
    let prepared: Vec<Entry> = reports.iter().filter_map(|(_, report)| report.prepared_at(sequence)).collect();
    let mut supporters: BTreeMap<Digest, Vec<View>> = BTreeMap::new();
    for entry in reports.iter().flat_map(|(_, report)| report.pre_prepared_at(sequence)) {
        supporters.entry(entry.digest).or_default().push(entry.view);
    }
    let most_blockers = reports.len() - size.quorum();
    let mut best: Option<(View, bool, Digest)> = None;
    for (digest, mut views) in supporters {
        views.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&view) = views.get(size.f()) else { continue };
        let blocks = |p: &&Entry| p.view > view || p.view == view && p.digest != digest;
        if prepared.iter().filter(blocks).count() > most_blockers {
            continue;
        }
        let named = prepared.iter().any(|p| p.view == view && p.digest == digest);
        // Digests come in ascending order: of equals the first, so the smallest, stays.
        if best.is_none_or(|(best_view, best_named, _)| (view, named) > (best_view, best_named)) {
            best = Some((view, named, digest));
        }
    }
    match best {
        Some((_, _, digest)) => Some(digest),
        None => (prepared.len() <= most_blockers).then_some(Digest::NULL),
    }
}

/// A replica's own P and Q above its stable checkpoint.
///
/// To be told of every record as it is staged, and again when the log is read: repeating is harmless.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Held {
    h: Sequence,
    prepared: BTreeMap<Sequence, (View, Digest)>,
    pre_prepared: BTreeMap<(Sequence, Digest), View>,
}

impl Held {
    /// The stable checkpoint.
    pub fn h(&self) -> Sequence {
        self.h
    }

    /// Whether a free proposal may be pre-prepared here as far as Q's limit goes. A choice always may.
    pub fn accepts(&self, sequence: Sequence, digest: Digest) -> bool {
        let held = self.pre_prepared.range((sequence, Digest([0; 32]))..=(sequence, Digest([u8::MAX; 32])));
        self.pre_prepared.contains_key(&(sequence, digest)) || held.count() < MAX_FREE_DIGESTS
    }

    /// Q: the digest is pre-prepared in the view, as a free proposal or as a choice. At or below h it is not kept.
    pub fn pre_prepare(&mut self, view: View, sequence: Sequence, digest: Digest) {
        if sequence > self.h {
            let last = self.pre_prepared.entry((sequence, digest)).or_insert(view);
            *last = view.max(*last);
        }
    }

    /// P: the digest is prepared in the view. It needs the PREPAREs of a quorum *of that view*: one that rests on a decision alone
    /// would block the very digest that was decided, and no later view could start.
    pub fn prepare(&mut self, view: View, sequence: Sequence, digest: Digest) {
        if sequence > self.h {
            let last = self.prepared.entry(sequence).or_insert((view, digest));
            if view > last.0 {
                *last = (view, digest);
            }
        }
    }

    /// The checkpoint at `h` is stable: what it covers is forgotten. A lower one changes nothing.
    pub fn stable(&mut self, h: Sequence) {
        if h > self.h {
            self.h = h;
            self.prepared.retain(|sequence, _| *sequence > h);
            self.pre_prepared.retain(|(sequence, _), _| *sequence > h);
        }
    }

    /// What a VIEW-CHANGE reports now.
    pub fn report(&self) -> Report {
        let prepared =
            self.prepared.iter().map(|(&sequence, &(view, digest))| Entry { sequence, digest, view }).collect();
        let pre_prepared = self.pre_prepared.iter();
        let pre_prepared = pre_prepared.map(|(&(sequence, digest), &view)| Entry { sequence, digest, view }).collect();
        Report { h: self.h, prepared, pre_prepared }
    }
}
