//! Tests of the simulator itself: it repeats a run bit for bit, and it finds faults that are put in on purpose.

use super::machine::{BASE_MS, Machine};
use super::{SimConfig, Total, run};
use crate::log::SimDisk;
use crate::ordering::mutants::{Mutant, with};
use crate::types::Digest;

#[test]
fn a_seed_is_one_run_bit_for_bit() {
    for seed in 0..5 {
        assert_eq!(run(SimConfig::new(seed)), run(SimConfig::new(seed)));
    }
}

/// What of the draw shows in nothing but its effects.
const EFFECTS: [&str; 22] = [
    "10 replicas",
    "disk stays full",
    "ended over a disk that cannot be read",
    "ended over damage that it read",
    "lie to a client",
    "log full",
    "low on space",
    "not started on its disk",
    "read as it is",
    "read at a position",
    "refused for space",
    "write gone astray",
    "LostWrite done",
    "MisdirectedWrite done",
    "bundle starved",
    "byzantine replicas collude",
    "failed sync",
    "link broken while flapping",
    "messages damaged",
    "proposal delayed",
    "slow write",
    "torn tail",
];

#[test]
fn everything_that_can_be_drawn_comes_within_400_seeds() {
    let mut total = Total::default();
    for seed in 0..400 {
        total.add(seed, &run(SimConfig::new(seed)));
        let never = total.faults.values().any(|coverage| coverage.times == 0);
        if !never && EFFECTS.iter().all(|effect| total.faults.contains_key(*effect)) {
            return;
        }
    }
    panic!("{}", total.words(None));
}

#[test]
fn a_wall_clock_that_stops_stands_still_and_one_that_drifts_keeps_what_it_gained() {
    let mut machine = Machine::new(SimDisk::new(0, Digest([0; 32]), 1 << 20), 7, None);
    assert_eq!(machine.wall_ms(5_000), BASE_MS + 12);
    machine.clock_goes(-1_000_000, 5_000);
    assert_eq!(machine.wall_ms(900_000), BASE_MS + 12);
    machine.clock_goes(500_000, 900_000);
    assert_eq!(machine.wall_ms(1_900_000), BASE_MS + 1_512);
    machine.clock_goes(0, 1_900_000);
    assert_eq!(machine.wall_ms(2_900_000), BASE_MS + 2_512);
}

/// Runs seeds from 0 on until one fails; the seed and what failed.
fn found_within(seeds: u64, config: impl Fn(u64) -> SimConfig) -> (u64, String) {
    for seed in 0..seeds {
        if let Err(failure) = run(config(seed)) {
            println!("seed {seed}: {}", failure.what);
            return (seed, failure.what);
        }
    }
    panic!("not found within {seeds} seeds");
}

#[test]
fn a_build_without_the_sync_fails_at_its_first_vote() {
    let (seed, what) = found_within(1, |seed| SimConfig { skip_syncs: true, ..SimConfig::new(seed) });
    assert_eq!(seed, 0);
    assert!(what.contains("without a durable"), "{what}");
}

#[test]
fn a_build_without_the_sync_fails_by_its_crashes_alone() {
    found_within(20, |seed| SimConfig { skip_syncs: true, check_disk: false, ..SimConfig::new(seed) });
}

#[test]
fn finds_a_correct_replica_that_accuses_another() {
    let (_, what) = with(Mutant::AccusesRashly, || found_within(200, SimConfig::new));
    assert!(what.contains("accuses the correct replica"), "{what}");
}

#[test]
fn finds_a_commit_without_a_quorum_of_prepares() {
    let (_, what) = with(Mutant::SmallQuorum, || found_within(200, SimConfig::new));
    assert!(what.contains("without a quorum of PREPAREs"), "{what}");
}

#[test]
fn finds_a_read_that_is_answered_before_its_position_is_there() {
    let (_, what) = with(Mutant::ReadsEarly, || found_within(200, SimConfig::new));
    assert!(what.contains(" read Found"), "{what}");
}

#[test]
fn finds_promises_that_are_forgotten() {
    let (_, what) = with(Mutant::ForgetsPromises, || found_within(200, SimConfig::new));
    assert!(what.contains("comes back with a promise of"), "{what}");
}

macro_rules! mutants {
    ($($(#[$meta:meta])* $test:ident: $mutant:ident within $seeds:literal;)+) => {
        $($(#[$meta])* #[test]
        fn $test() {
            with(Mutant::$mutant, || found_within($seeds, SimConfig::new));
        })+
    };
}

mutants! {
    finds_a_digest_that_is_believed: DigestBelieved within 200;
    finds_duplicate_votes_that_count: DuplicatesCount within 200;
    finds_a_restart_that_forgets_what_was_pre_prepared: ForgetsQ within 200;
    finds_signatures_that_nobody_checks: SignaturesUnchecked within 200;
    finds_execution_before_the_decision: ExecutesUndecided within 200;
    finds_one_decided_that_is_enough: OneTeller within 200;
    finds_a_second_proposal_that_replaces_the_first: SecondProposal within 200;
    finds_execution_twice: ExecutesTwice within 200;
    finds_what_is_never_sent_again: NothingAgain within 200;
    finds_slots_without_a_window: NoWindow within 200;
    finds_a_restart_that_forgets_that_it_left: ForgetsView within 200;
    finds_votes_of_a_view_that_was_left: VotesAfterLeaving within 200;
    finds_a_view_change_that_conceals: ConcealsP within 200;
    finds_choices_that_are_believed: ChoicesBelieved within 1000;
    finds_a_restarted_leader_that_goes_on: LeaderGoesOn within 200;
    finds_certificates_that_are_believed: CertificatesBelieved within 400;
    finds_a_replica_that_votes_without_its_records: VotesUnknowing within 400;
    finds_cosignatures_before_their_promise: CosignsBeforeSync within 200;
    finds_a_replica_that_cosigns_without_its_records: CosignsUnknowing within 200;
}
