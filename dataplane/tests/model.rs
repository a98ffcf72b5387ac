//! The view change, explored exhaustively: no two digests are ever committed at one sequence, and no view change is stuck.
//!
//! The search calls what the replica calls: `ordering::choice` chooses, validates and keeps P and Q. Around it stands the protocol as
//! a game: replicas that follow PROTOCOL.md against an adversary who is one replica, all leaders, the network and the power supply.
//!
//! # Why the rule is safe, in the words of the model
//! A digest d is committed *fast* at view v if all n sent PREPARE, *slowly* if q sent COMMIT. Each PREPARE of a correct replica
//! stands in its Q, each COMMIT in its P, and what stands there is reported for ever after. So:
//!
//! * After a fast commit every S of q replicas holds f+1 correct ones with d in Q at v or later: d is a supported digest in
//!   every S. A correct P against it would need q PREPAREs, one of a correct replica for two digests in one view.
//! * After a slow commit every S holds f+1 of those with P at v or later, too many for another digest at or below v to get q
//!   members that do not object.
//! * A digest that is to win above v needs a correct supporter above v, who accepted it as a choice there: by induction, none.
//!
//! Every sentence rests on a rule, and the search shows it by leaving the rule out ([`MUTANTS`]): it answers with a history of few views,
//! told by [`trace`].
//!
//! # The abstraction
//! * *View by view.* A correct replica that left for view w never adds a record of a lower view, so what it reports in a
//!   change to w is all it ever records below w, whenever it sends it. Nothing that happens in a view depends on a later
//!   one. So every run can be reordered such that views come one after the other, and the search goes so.
//! * *Votes.* In a view each correct replica accepts one of the choices that the adversary can make it accept, or what the
//!   leader proposes where sequences are free, or nothing. Then any subset of those who may be prepared is. What may be
//!   committed by anybody counts as committed.
//! * *Leaders* are the adversary's in every view: they show each backup another S and propose each another digest. Correct leaders do
//!   less; and it makes the correct replicas interchangeable, so a state is the *multiset* of their disks.
//! * *S* is every set of q or more. The Byzantine replica gives each S any report valid by `Report::validate`, and sends
//!   PREPARE and COMMIT for everything. [`Lies::OneDigest`] leaves out reports with several digests in Q at one sequence:
//!   support for another digest only adds a rival to what it wants chosen. `every_lie` checks without that.
//! * *Crashes.* A staged record that a crash takes has told nobody anything: the replica did not vote. One that was synced stays. So a
//!   crash at any point is one of the outcomes above, and in mutants it takes what a vote had promised.
//! * *Digests.* A violation needs two. Two that leaders propose, and null, give every pattern of agreement and objection among
//!   them; a third proposal can only split votes further, and the full run has it.
//! * *Sequences.* One shows all rules but those on ranges, checkpoints and time; these have a variant with two, in which replicas take
//!   s only behind s-1, choices come from one S for both, and checkpoints at 1 become stable for any subset of replicas.
//!
//! Liveness: in every state, the VIEW-CHANGEs of all correct replicas, with any report of the Byzantine one or without, choose; and
//! a view in which all correct replicas then take part decides.
//!
//! # The rules marked [M], and where each is covered
//! * PRE-PREPARE and NEW-VIEW are no votes: [`Mutant::ProposalIsVote`]; durable before sent: [`Mutant::PrepareBeforeSync`],
//!   [`Mutant::CommitBeforeSync`].
//! * A leader that restarted proposes no more in its view: outside, since all leaders here are the adversary's and safety stands that.
//!   Without the rule a correct leader looks like an equivocator: the simulator, "no correct replica contradicts itself".
//! * Agreed time: [`Mutant::TimeIsNotMax`], [`Mutant::NullHasTime`].
//! * Which heads are signed: outside (history, off the path of agreement); the simulator, heads get certified under load.
//! * No vote below a VIEW-CHANGE that was sent, restarts included: [`Mutant::VotesAfterLeaving`].
//! * The range of choices: [`Mutant::RangeEndsAtP`], [`Mutant::StartIsLowest`].
//! * Null is kept like any other: [`Mutant::NullNotKept`]; waiting rather than null: [`Mutant::NullInsteadOfWaiting`].
//! * A choice is pre-prepared under the new view, also where it was executed: [`Mutant::ChoicesNotInQ`], [`Mutant::QKeepsFirstView`],
//!   [`Mutant::ExecutedIsSilent`].
//! * Different S for different backups: every run; not recomputing: [`Mutant::ChoicesBelieved`].
//! * The NEW-VIEW timer starts at q VIEW-CHANGEs: outside, no timers here; the simulator's liveness phase.
//! * A replica that lost its disk abstains: [`Mutant::AmnesiacVotes`]. When it may vote again (checkpoints, the bound, nulls to
//!   fill up): the simulator.
//!
//! Not marked, but load-bearing: [`Mutant::CandidateNeedsP`] (Castro's), [`Mutant::NobodyBlocks`], [`Mutant::OneSupporter`],
//! [`Mutant::SmallQuorum`], [`Mutant::QKeepsOneDigest`], [`Mutant::PKeepsFirst`], [`Mutant::PreparesDecided`].
//!
//! `ATLAS_MODEL=full cargo test --release -p atlas-dataplane --test model -- --nocapture` explores more views, digests and lies.

#[path = "model/explore.rs"]
mod explore;
#[path = "model/rules.rs"]
mod rules;
#[path = "model/state.rs"]
mod state;
#[path = "model/trace.rs"]
mod trace;

use std::time::Instant;

use explore::Explorer;
use rules::Mutant;
use state::{Config, Fault, Found, Lies};

const ONE: Config = Config {
    n: 4,
    views: 4,
    another: true,
    digests: &[2],
    lies: Lies::OneDigest,
    checkpoints: false,
    compare: false,
    mutant: None,
};
const TWO: Config = Config { views: 2, digests: &[2, 2], checkpoints: true, ..ONE };

/// What the search must find, and how it shows.
const MUTANTS: &[(Mutant, Config, Shows)] = &[
    (Mutant::CandidateNeedsP, ONE, Shows::Disagreement),
    (Mutant::NobodyBlocks, ONE, Shows::Disagreement),
    (Mutant::OneSupporter, ONE, Shows::Disagreement),
    (Mutant::NullInsteadOfWaiting, ONE, Shows::Disagreement),
    (Mutant::RangeEndsAtP, ONE, Shows::Disagreement),
    (Mutant::SmallQuorum, ONE, Shows::Disagreement),
    (Mutant::ProposalIsVote, ONE, Shows::Stuck),
    (Mutant::PrepareBeforeSync, ONE, Shows::Stuck),
    (Mutant::CommitBeforeSync, ONE, Shows::Disagreement),
    (Mutant::VotesAfterLeaving, ONE, Shows::Stuck),
    (Mutant::ChoicesNotInQ, ONE, Shows::Stuck),
    (Mutant::NullNotKept, ONE, Shows::Disagreement),
    (Mutant::QKeepsOneDigest, ONE, Shows::Stuck),
    (Mutant::QKeepsFirstView, ONE, Shows::Stuck),
    (Mutant::PKeepsFirst, ONE, Shows::Disagreement),
    (Mutant::ChoicesBelieved, ONE, Shows::Disagreement),
    (Mutant::ExecutedIsSilent, ONE, Shows::Stuck),
    // The one fault is the lost disk here, and two lose theirs one after the other.
    (Mutant::AmnesiacVotes, Config { lies: Lies::Nobody, ..ONE }, Shows::Disagreement),
    (Mutant::PreparesDecided, ONE, Shows::Stuck),
    (Mutant::NullHasTime, ONE, Shows::Time),
    (Mutant::StartIsLowest, TWO, Shows::Stuck),
    (Mutant::TimeIsNotMax, TWO, Shows::Time),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shows {
    /// Two digests are committed at one sequence.
    Disagreement,
    /// No view can start, or none decides.
    Stuck,
    /// Replicas differ on the agreed time, or it goes back.
    Time,
}

fn shows(fault: &Fault) -> Shows {
    match fault {
        Fault::TwoCommitted { .. } => Shows::Disagreement,
        Fault::Stuck { .. } | Fault::Wedged { .. } => Shows::Stuck,
        Fault::TwoTimes | Fault::TimeWentBack => Shows::Time,
    }
}

fn explore(config: Config) -> (Explorer, Option<Found>) {
    let started = Instant::now();
    let mut explorer = Explorer::new(config);
    let found = explorer.run();
    let Config { n, views, digests, lies, mutant, .. } = config;
    let fault = mutant.map_or(String::new(), |mutant| format!(" without a rule ({mutant:?})"));
    println!(
        "n = {n}, {views} views, {digests:?} digests and null, lies {lies:?}{fault}: {} states, {} different disks, {} steps, \
         {} choices, {:.1} s",
        explorer.states(),
        explorer.locals.len(),
        explorer.steps,
        explorer.chosen,
        started.elapsed().as_secs_f64()
    );
    (explorer, found)
}

/// Explores the rules as they are.
fn holds(config: Config) {
    let (mut explorer, found) = explore(config);
    assert!(explorer.states() > 1, "nothing was explored");
    if let Some(found) = found {
        panic!("the rules are violated: {}", trace::tell(&mut explorer, &found));
    }
}

/// More where asked for.
fn full() -> bool {
    std::env::var("ATLAS_MODEL").is_ok_and(|value| value == "full")
}

#[test]
fn four_replicas() {
    holds(ONE);
    if full() {
        holds(Config { views: 5, another: false, ..ONE });
        holds(Config { digests: &[3], ..ONE });
    }
}

#[test]
fn five_replicas() {
    holds(Config { n: 5, views: 4, another: false, ..ONE });
    if full() {
        holds(Config { n: 5, ..ONE });
    }
}

#[test]
fn six_replicas() {
    holds(Config { n: 6, views: 3, another: false, ..ONE });
    if full() {
        holds(Config { n: 6, views: 3, ..ONE });
        holds(Config { n: 6, views: 4, another: false, ..ONE });
    }
}

#[test]
fn two_sequences() {
    holds(Config { digests: &[1, 1], ..TWO });
    holds(Config { another: false, ..TWO });
    holds(Config { views: 3, digests: &[1, 1], another: false, ..TWO });
    if full() {
        holds(TWO);
        holds(Config { views: 3, digests: &[1, 1], ..TWO });
    }
}

/// Reports of any shape, and the choice compared with its restatement wherever the search calls it.
#[test]
fn every_lie() {
    holds(Config { views: 3, lies: Lies::Any, compare: true, ..ONE });
    if full() {
        holds(Config { views: 4, lies: Lies::Any, compare: true, ..ONE });
        holds(Config { n: 5, views: 3, lies: Lies::Any, compare: true, ..ONE });
    }
}

/// Every rule is needed: without it the search finds what goes wrong.
#[test]
fn mutants() {
    for (mutant, config, expected) in MUTANTS {
        let (mut explorer, found) = explore(Config { mutant: Some(*mutant), ..*config });
        let found = found.unwrap_or_else(|| panic!("{mutant:?} was not found"));
        println!("{}", trace::tell(&mut explorer, &found));
        assert_eq!(shows(&found.fault), *expected, "{mutant:?}");
    }
}
