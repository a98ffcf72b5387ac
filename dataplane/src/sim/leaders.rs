//! Leaders that do just enough: clusters of four without other faults, in which the first leader lets every proposal wait for nearly as long as the
//! timer, or starves a client. What clients get is measured, and held against what they get without it.

use super::SimConfig;
use super::plan::Plan;
use super::random::Random;
use super::world::World;
use crate::adversary::Tactic;
use crate::ordering::Timing;
use crate::ordering::mutants::{Mutant, with};

/// How long clients ask for things, us.
const LOADED_US: u64 = 10_000_000;

/// What clients get at the least: this part of what clients get without it, in percent.
const LEAST_PERCENT: u64 = 70;

/// A slow leader is not to lead for longer, us.
const SLOW_US: u64 = 4_000_000;

/// No client is to wait for longer because it is starved, us.
const STARVED_US: u64 = 2_500_000;

/// What became of a run.
#[derive(Debug)]
struct Seen {
    /// Bundles that got their results while clients asked.
    completed: u64,
    /// The longest that a client waited for one, us.
    longest_us: u64,
    /// When all correct replicas had left the first view, us.
    left_us: Option<u64>,
    views: u64,
}

/// Clients that ask for the next thing soon after they got the last.
fn run(seed: u64, tactics: &[Tactic]) -> Seen {
    let mut random = Random::new(seed);
    let mut plan = Plan::draw(&mut random, Some(4));
    plan.byzantine = if tactics.is_empty() { Vec::new() } else { vec![(0, tactics.to_vec())] };
    (plan.lost, plan.faults, plan.lying_client) = (Vec::new(), Vec::new(), false);
    (plan.loss, plan.duplicates, plan.corrupt, plan.late) = (0, 0, 0, 0);
    (plan.clients, plan.bundles, plan.think_us) = (3, u64::MAX / 2, 20_000);
    (plan.clock_ms, plan.safety_us) = (0, LOADED_US);
    (plan.delay_us, plan.jitter_us, plan.disk_us) = (plan.delay_us / 4, plan.jitter_us / 4 + 1, plan.disk_us / 4 + 1);
    plan.timing.bundle_age_us = Timing::default().bundle_age_us;
    let config = SimConfig { safety_only: true, ..SimConfig::new(seed) };
    let mut world = World::with(config, plan, random, false).unwrap();
    let mut seen = Seen { completed: 0, longest_us: 0, left_us: None, views: 0 };
    while !world.done {
        world.step().unwrap();
        let waits = world.clients.iter().filter_map(|client| client.waits_since_us()).min();
        seen.longest_us = seen.longest_us.max(world.now_us - waits.unwrap_or(world.now_us).min(world.now_us));
        let views =
            (1..4).filter_map(|replica| world.machines[replica].node.as_ref()).map(|node| node.ordering().view());
        if seen.left_us.is_none() && views.clone().all(|view| view > 0) {
            seen.left_us = Some(world.now_us);
        }
        seen.views = views.max().unwrap_or(0);
    }
    seen.completed = world.clients.iter().map(|client| client.completed).sum();
    seen
}

/// What a leader that delays its proposals must not achieve.
fn bears_delay(seed: u64) -> Result<(), String> {
    let (honest, slow) = (run(seed, &[]), run(seed, &[Tactic::Delay]));
    println!("seed {seed}: {honest:?}, {slow:?}");
    if honest.views > 2 {
        return Err(format!("seed {seed}: a correct leader is replaced: {honest:?}"));
    }
    if slow.left_us.is_none_or(|left_us| left_us > SLOW_US) {
        return Err(format!("seed {seed}: a slow leader stays: {slow:?}"));
    }
    if slow.completed * 100 < LEAST_PERCENT * honest.completed {
        return Err(format!("seed {seed}: a slow leader costs too much: {slow:?}, and {honest:?} without it"));
    }
    Ok(())
}

/// What a leader that starves a client must not achieve.
fn bears_starving(seed: u64) -> Result<(), String> {
    let starving = run(seed, &[Tactic::Starve]);
    println!("seed {seed}: {starving:?}");
    if starving.longest_us > STARVED_US {
        return Err(format!("seed {seed}: a client is starved for too long: {starving:?}"));
    }
    Ok(())
}

#[test]
fn a_leader_that_stays_just_under_the_timer_is_replaced() {
    (0..5).for_each(|seed| bears_delay(seed).unwrap());
}

#[test]
fn a_leader_that_starves_a_client_is_replaced() {
    (0..5).for_each(|seed| bears_starving(seed).unwrap());
}

#[test]
fn finds_that_slowness_is_borne() {
    with(Mutant::BearsSlowness, || assert!((0..3).any(|seed| bears_delay(seed).is_err())));
}

#[test]
fn finds_that_starving_is_borne() {
    with(Mutant::BearsUnfairness, || assert!((0..3).any(|seed| bears_starving(seed).is_err())));
}
