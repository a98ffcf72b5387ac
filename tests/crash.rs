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
    // Every replica twice, the leader (0) included: until there is a view change it must come back for the work to go on.
    for round in 0..8 {
        let victim = round % 4;
        random_moment();
        cluster.kill(victim);
        if victim != 0 {
            load.wait_more(20);
        }
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
        ALL.map(|index| cluster.signal(index, Signal::KILL));
        ALL.map(|index| cluster.kill(index));
        ALL.map(|index| cluster.restart(index));
    }
    load.wait_more(40);
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}
