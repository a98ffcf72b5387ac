//! Crashes of real replica processes under load: nothing that was acknowledged is ever lost, nothing is executed twice, and
//! whoever was down comes back with every vote.

mod support;

use std::time::Duration;

use atlas::local::Signal;
use rand_core::{OsRng, RngCore};
use support::checker::{Load, check};
use support::{Cluster, until};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// A pause that no two runs share: it only chooses the moment of a crash, nothing waits for it.
fn random_moment() {
    std::thread::sleep(Duration::from_micros(u64::from(OsRng.next_u32() % 60_000)));
}

#[test]
fn any_replica_is_killed_at_random_moments() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(20);
    // Every replica twice, whoever leads: the work goes on without it.
    for round in 0..8 {
        let victim = round % 4;
        random_moment();
        cluster.kill(victim);
        load.wait_more(20);
        random_moment();
        cluster.restart(victim);
        load.wait_more(20);
        cluster.wait_linked(&ALL);
    }
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

#[test]
fn all_four_are_killed_at_once() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    for _ in 0..3 {
        load.wait_more(40);
        random_moment();
        ALL.iter().for_each(|&index| cluster.signal(index, Signal::KILL));
        ALL.iter().for_each(|&index| cluster.kill(index));
        ALL.iter().for_each(|&index| cluster.restart(index));
    }
    load.wait_more(40);
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

/// Each step between staging a promise and telling it, at a backup and at the leader, the log being busy.
fn dies_at(step: &str) {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(20);
    for victim in [2, 0] {
        cluster.kill(victim);
        cluster.crash_at(victim, step, 3 + u64::from(OsRng.next_u32() % 20));
        cluster.restart(victim);
        cluster.wait_ended(victim);
        cluster.crash_no_more(victim);
        if victim != 0 {
            load.wait_more(10);
        }
        cluster.restart(victim);
        cluster.wait_linked(&ALL);
        load.wait_more(10);
    }
    // Replica 2 has a vote again: without replica 1 nothing is decided unless it votes.
    cluster.kill(1);
    load.wait_more(10);
    cluster.restart(1);
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

#[test]
fn killed_when_records_are_staged() {
    dies_at("staged");
}

#[test]
fn killed_when_records_are_written() {
    dies_at("written");
}

#[test]
fn killed_when_records_are_synced() {
    dies_at("synced");
}

#[test]
fn killed_when_votes_are_published() {
    dies_at("published");
}

#[test]
fn a_stopped_backup_is_not_missed_and_catches_up() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(20);
    cluster.signal(1, Signal::STOP);
    load.wait_more(200);
    cluster.signal(1, Signal::CONT);
    load.wait_more(20);
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

/// Thousands of sequences behind, it catches up while the others go on, and its vote counts again: with another replica gone
/// nothing is decided without it.
#[test]
fn original_mistake_a_replica_that_rejoined_does_not_vote() {
    let mut cluster = Cluster::start();
    cluster.kill(3);
    let load = Load::start(&cluster, 6);
    until("two thousand sequences", || {
        load.wait_more(50);
        cluster.status(0).is_some_and(|status| status.sequence > 2_000)
    });
    cluster.restart(3);
    cluster.wait_linked(&ALL);
    until("replica 3 catches up", || {
        let here = cluster.status(3).map_or(0, |status| status.sequence);
        cluster.status(1).is_some_and(|status| status.sequence < here + 100)
    });
    cluster.kill(2);
    load.wait_more(100);
    cluster.restart(2);
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

/// The original had no fsync: what it acknowledged was in nobody's disk. Here every acknowledged write survives the end of all.
#[test]
fn original_mistake_no_fsync() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let acknowledged: Vec<_> = (0..20).map(|_| client.write_one()).collect();
    // Nothing may be left to a later write: all end within moments of the last acknowledgement.
    ALL.iter().for_each(|&index| cluster.signal(index, Signal::KILL));
    ALL.iter().for_each(|&index| cluster.kill(index));
    ALL.iter().for_each(|&index| cluster.restart(index));
    cluster.wait_all();
    // Decisions need not be flushed; Q and P decide the same again with the next exchange of statuses.
    check(&cluster, &ALL, &acknowledged);
}
