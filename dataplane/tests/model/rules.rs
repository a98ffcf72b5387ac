//! The rules once more: the choice as a naive restatement, and with one rule left out at a time.

use std::collections::BTreeSet;

use atlas_dataplane::cluster::Size;
use atlas_dataplane::ordering::choice::{self, Choice, Choices, Held, Report};
use atlas_dataplane::types::{Digest, ReplicaId, Sequence, View};

/// One rule of PROTOCOL.md left out or bent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutant {
    /// Castro's own rule: a candidate must stand in some P of S.
    CandidateNeedsP,
    /// f+1 supporters are enough: nobody blocks.
    NobodyBlocks,
    /// v' is the highest view that anybody gives d, not the (f+1)-th.
    OneSupporter,
    /// No candidate: null, whoever holds P.
    NullInsteadOfWaiting,
    /// Choices run to the highest sequence in a P; what is in Q alone is free.
    RangeEndsAtP,
    /// Choices start above the lowest h in S.
    StartIsLowest,
    /// Every quorum is one too small.
    SmallQuorum,
    /// PRE-PREPARE and NEW-VIEW count as the leader's PREPARE.
    ProposalIsVote,
    /// PREPARE leaves before Q is durable, and a crash may take Q.
    PrepareBeforeSync,
    /// COMMIT leaves before P is durable, and a crash may take P.
    CommitBeforeSync,
    /// A replica that sent VIEW-CHANGE goes on voting below it.
    VotesAfterLeaving,
    /// A choice is voted on, but Q is not written under the new view.
    ChoicesNotInQ,
    /// Null is voted on, but kept in neither Q nor P.
    NullNotKept,
    /// A new digest at a sequence drops the older ones from Q.
    QKeepsOneDigest,
    /// Q keeps the first view of a digest, not the last.
    QKeepsFirstView,
    /// P is not replaced by that of a higher view.
    PKeepsFirst,
    /// A backup believes the leader's choices and does not recompute them from S.
    ChoicesBelieved,
    /// A replica does not vote on what it has executed.
    ExecutedIsSilent,
    /// A replica that lost its disk votes again at once.
    AmnesiacVotes,
    /// What a replica knows to be decided it prepares without the quorum's PREPAREs of the view.
    PreparesDecided,
    /// Null carries the time of the view that it is chosen in.
    NullHasTime,
    /// The agreed time is the batch's own, whatever was before.
    TimeIsNotMax,
}

/// What S chooses under the rules, or under all but one of them.
pub(crate) fn choose(mutant: Option<Mutant>, reports: &[(ReplicaId, &Report)], size: Size) -> Choice {
    match mutant {
        None => choice::choose(reports, size),
        Some(mutant) => restated(Some(mutant), reports, size),
    }
}

/// q, or one less where that is the fault.
pub(crate) fn quorum(mutant: Option<Mutant>, size: Size) -> usize {
    size.quorum() - usize::from(mutant == Some(Mutant::SmallQuorum))
}

/// PROTOCOL.md's sentences one by one, slowly, with the fault in its place.
pub(crate) fn restated(mutant: Option<Mutant>, reports: &[(ReplicaId, &Report)], size: Size) -> Choice {
    let is = |fault| mutant == Some(fault);
    let quorum = quorum(mutant, size);
    if reports.len() < quorum {
        return Choice::Wait;
    }
    let checkpoints = reports.iter().map(|(_, report)| report.h);
    let start = if is(Mutant::StartIsLowest) { checkpoints.min() } else { checkpoints.max() }.unwrap_or(0);
    let mut sequences = BTreeSet::new();
    for (_, report) in reports {
        sequences.extend(report.prepared.iter().map(|entry| entry.sequence));
        if !is(Mutant::RangeEndsAtP) {
            sequences.extend(report.pre_prepared.iter().map(|entry| entry.sequence));
        }
    }
    let mut digests = Vec::new();
    for sequence in start + 1..=sequences.last().copied().unwrap_or(0) {
        match restated_at(mutant, sequence, reports, size, quorum) {
            Some(digest) => digests.push(digest),
            None => return Choice::Wait,
        }
    }
    Choice::Choices(Choices { start, digests })
}

fn restated_at(
    mutant: Option<Mutant>,
    sequence: Sequence,
    reports: &[(ReplicaId, &Report)],
    size: Size,
    quorum: usize,
) -> Option<Digest> {
    let is = |fault| mutant == Some(fault);
    let p = |report: &Report| report.prepared.iter().find(|p| p.sequence == sequence).map(|p| (p.digest, p.view));
    let q = |report: &Report, digest: Digest| {
        report.pre_prepared.iter().find(|q| q.sequence == sequence && q.digest == digest).map(|q| q.view)
    };
    let here = reports.iter().flat_map(|(_, report)| &report.pre_prepared).filter(|q| q.sequence == sequence);
    let digests: BTreeSet<Digest> = here.map(|q| q.digest).collect();
    let needed = if is(Mutant::OneSupporter) { 1 } else { size.f() + 1 };
    let mut candidates: Vec<(View, Digest)> = Vec::new();
    for digest in digests {
        // The (f+1)-th highest view is the highest that f+1 members reach.
        let reach = |view: View| reports.iter().filter(|(_, r)| q(r, digest) >= Some(view)).count() >= needed;
        let Some(v) = reports.iter().filter_map(|(_, r)| q(r, digest)).filter(|view| reach(*view)).max() else {
            continue;
        };
        let clear = reports.iter().filter(|(_, report)| match p(report) {
            None => true,
            Some((other, view)) => view < v || view == v && other == digest,
        });
        let somewhere_in_p = reports.iter().any(|(_, report)| p(report).is_some_and(|(named, _)| named == digest));
        if (clear.count() >= quorum || is(Mutant::NobodyBlocks)) && (somewhere_in_p || !is(Mutant::CandidateNeedsP)) {
            candidates.push((v, digest));
        }
    }
    if let Some(v) = candidates.iter().map(|(view, _)| *view).max() {
        let mut best: Vec<Digest> =
            candidates.iter().filter(|(view, _)| *view == v).map(|(_, digest)| *digest).collect();
        let named = |digest: &Digest| reports.iter().any(|(_, report)| p(report) == Some((*digest, v)));
        if best.iter().any(named) {
            best.retain(named);
        }
        return best.into_iter().min();
    }
    let without = reports.iter().filter(|(_, report)| p(report).is_none()).count();
    (without >= quorum || is(Mutant::NullInsteadOfWaiting)).then_some(Digest::NULL)
}

/// Writes Q for an accepted proposal or choice, by the product's [`Held`].
pub(crate) fn pre_prepare(
    mutant: Option<Mutant>,
    held: &mut Held,
    view: View,
    sequence: Sequence,
    digest: Digest,
    choice: bool,
) {
    let is = |fault| mutant == Some(fault);
    let report = held.report();
    let known = report.pre_prepared.iter().any(|q| q.sequence == sequence && q.digest == digest);
    if is(Mutant::NullNotKept) && digest == Digest::NULL
        || is(Mutant::QKeepsFirstView) && known
        || is(Mutant::ChoicesNotInQ) && choice
    {
        return;
    }
    if is(Mutant::QKeepsOneDigest) {
        *held = Held::default();
        held.stable(report.h);
        for p in &report.prepared {
            held.prepare(p.view, p.sequence, p.digest);
        }
        for q in report.pre_prepared.iter().filter(|q| q.sequence != sequence) {
            held.pre_prepare(q.view, q.sequence, q.digest);
        }
    }
    held.pre_prepare(view, sequence, digest);
}

/// Writes P for a prepared digest, by the product's [`Held`].
pub(crate) fn prepare(mutant: Option<Mutant>, held: &mut Held, view: View, sequence: Sequence, digest: Digest) {
    let has_p = || held.report().prepared.iter().any(|p| p.sequence == sequence);
    let left_out = match mutant {
        Some(Mutant::NullNotKept) => digest == Digest::NULL,
        Some(Mutant::PKeepsFirst) => has_p(),
        _ => false,
    };
    if !left_out {
        held.prepare(view, sequence, digest);
    }
}
