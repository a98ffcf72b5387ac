//! Machines that stay down until the others' logs begin behind them, and one source that lies: clusters of four in which history and state are taken
//! from others again and again.

use super::plan::{Fault, Plan};
use super::random::Random;
use super::world::World;
use super::{Failure, Report, SimConfig};
use crate::adversary::Tactic;
use crate::ordering::Timing;
use crate::ordering::mutants::{Mutant, with};

fn run(seed: u64) -> Result<Report, Box<Failure>> {
    let mut random = Random::new(seed);
    let mut plan = Plan::draw(&mut random, Some(4));
    // It is asked first.
    plan.byzantine = vec![(0, vec![Tactic::LieInTransfer])];
    (plan.lost, plan.faults, plan.lying_client) = (Vec::new(), vec![Fault::Kill, Fault::Power], false);
    (plan.loss, plan.duplicates, plan.corrupt, plan.late) = (0, 0, 0, 0);
    (plan.clients, plan.bundles, plan.think_us) = (3, 250, 10_000);
    (plan.safety_us, plan.fault_gap_us, plan.fault_us) = (6_000_000, 900_000, 500_000);
    (plan.delay_us, plan.jitter_us, plan.disk_us) = (200, 100, 200);
    (plan.window, plan.padding, plan.segment_bytes, plan.snapshot_bytes) = (4, 0, 20 << 10, 2_000);
    plan.timing = Timing { batch_bytes: 2_000, ..Timing::default() };
    World::with(SimConfig::new(seed), plan, random, false)?.run(&mut |_| {})
}

#[test]
fn replicas_come_back_behind_the_logs_and_the_source_that_lies_is_seen() {
    let (mut taken, mut seen) = (0, 0);
    for seed in 0..30 {
        let report = run(seed).unwrap();
        assert!(report.converged, "seed {seed}");
        taken += report.faults.get("state taken from others").copied().unwrap_or(0);
        seen += report.faults.get("seen wrong_piece").copied().unwrap_or(0);
    }
    println!("{taken} times taken, {seen} lies seen");
    assert!(taken >= 6, "history and state were taken {taken} times");
    assert!(seen >= 1, "no lie of a source was seen");
}

#[test]
fn finds_pieces_that_are_believed() {
    with(Mutant::BelievesPieces, || assert!((0..120).any(|seed| run(seed).is_err())));
}

#[test]
fn finds_one_voucher_that_is_enough() {
    with(Mutant::OneVoucher, || assert!((100..400).any(|seed| run(seed).is_err())));
}
