//! Deliberate faults, to prove that the simulator finds such faults. Outside of this crate's own tests none can be switched on,
//! and the questions compile to nothing.

/// One rule left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutant {
    /// Quorums are one too small.
    SmallQuorum,
    /// A batch's digest is believed, not recomputed.
    DigestBelieved,
    /// The same vote of the same replica counts again.
    DuplicatesCount,
    /// A replica that restarts has forgotten what it pre-prepared.
    ForgetsQ,
    /// Nobody checks the signatures of bundles.
    SignaturesUnchecked,
    /// A batch is executed once it is pre-prepared.
    ExecutesUndecided,
    /// One DECIDED is enough.
    OneTeller,
    /// A second proposal for a sequence replaces the first.
    SecondProposal,
    /// A request that was executed is executed again when it is ordered again.
    ExecutesTwice,
    /// What a peer lacks by its status is not sent again.
    NothingAgain,
    /// A replica that restarts has forgotten that it left a view.
    ForgetsView,
    /// Votes that become durable after their view was left go out all the same.
    VotesAfterLeaving,
    /// A VIEW-CHANGE does not report what was prepared.
    ConcealsP,
    /// A NEW-VIEW's choices are believed, not worked out again.
    ChoicesBelieved,
    /// A leader that restarts goes on proposing in its view.
    LeaderGoesOn,
    /// Checkpoint certificates are believed.
    CertificatesBelieved,
    /// A replica votes though it lost its records.
    VotesUnknowing,
    /// Something is kept of every sequence that anybody names.
    NoWindow,
    /// A read of a position is answered before that position is there.
    ReadsEarly,
    /// A leader that lets work lie, or gets little done, is not suspected.
    BearsSlowness,
    /// A leader that passes over a client is not suspected.
    BearsUnfairness,
    /// Pieces of history and state are used without being held against their hashes.
    BelievesPieces,
    /// A snapshot and hashes that one replica alone vouches for are believed.
    OneVoucher,
    /// A VIEW-CHANGE is said to conceal votes that a stable checkpoint has made needless.
    AccusesRashly,
    /// A head of the history is cosigned before the promise of it is durable.
    CosignsBeforeSync,
    /// A replica that restarts has forgotten which head it promised.
    ForgetsPromises,
}

#[cfg(test)]
thread_local! {
    static MUTANT: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this build has the fault now.
#[cfg(test)]
pub(crate) fn on(mutant: Mutant) -> bool {
    MUTANT.get() == Some(mutant)
}

/// Whether this build has the fault now: no.
#[cfg(not(test))]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}

/// Switches a fault on for this thread while `run` runs.
#[cfg(test)]
pub(crate) fn with<T>(mutant: Mutant, run: impl FnOnce() -> T) -> T {
    MUTANT.set(Some(mutant));
    let result = run();
    MUTANT.set(None);
    result
}
