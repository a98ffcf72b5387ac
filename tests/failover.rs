//! Leaders of real clusters that die, stand still or come back: another one leads, and nothing that was acknowledged is lost.

mod support;

use atlas::local::Signal;
use support::checker::{Load, check};
use support::{Cluster, until};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// The leader of the highest view that a replica takes part in.
fn leader(cluster: &Cluster) -> usize {
    let mut leader = None;
    until("somebody leads", || {
        let said = cluster.statuses().into_iter().flatten().max_by_key(|status| status.view);
        leader = said.map(|status| usize::from(status.leader)).filter(|index| cluster.running(*index));
        leader.is_some()
    });
    leader.unwrap()
}

#[test]
fn a_leader_that_is_killed_is_replaced_again_and_again() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    let mut led = Vec::new();
    for _ in 0..4 {
        load.wait_more(20);
        let victim = leader(&cluster);
        led.push(victim);
        cluster.kill(victim);
        // It is not there, and the work goes on.
        load.wait_more(50);
        assert_ne!(leader(&cluster), victim);
        cluster.restart(victim);
        cluster.wait_linked(&ALL);
    }
    led.sort_unstable();
    led.dedup();
    assert!(led.len() > 1, "only {led:?} ever led");
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

#[test]
fn a_leader_that_stands_still_is_replaced_and_follows_when_it_wakes() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(20);
    let victim = leader(&cluster);
    cluster.signal(victim, Signal::STOP);
    load.wait_more(100);
    cluster.signal(victim, Signal::CONT);
    load.wait_more(50);
    until("it follows", || {
        let view = |index: usize| cluster.status(index).map(|status| status.view);
        view(victim) == view((victim + 1) % 4) && view(victim) > Some(0)
    });
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

/// Two leaders in a row die before they lead for long; with two of four gone nothing is ordered, with three it is.
#[test]
fn a_leader_and_its_successor_die() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(20);
    let first = leader(&cluster);
    cluster.kill(first);
    load.wait_more(20);
    let second = leader(&cluster);
    cluster.kill(second);
    cluster.restart(first);
    load.wait_more(50);
    cluster.restart(second);
    cluster.wait_linked(&ALL);
    load.wait_more(50);
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

/// The low watermark follows stable checkpoints: far more is ordered than lies in a window.
#[test]
fn checkpoints_let_the_order_go_on_for_ever() {
    let cluster = Cluster::start();
    let window = cluster.file.settings().window;
    let load = Load::start(&cluster, 6);
    until("three windows", || {
        load.wait_more(50);
        cluster.status(0).is_some_and(|status| status.sequence > 3 * window)
    });
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}
