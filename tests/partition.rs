//! Networks that break between real replicas under load: nothing that was acknowledged is lost, nothing is executed twice, all come to
//! the same state, and the work goes on by itself, without any restart.

mod support;

use std::time::Duration;

use atlas::local::Signal;
use rand_core::{OsRng, RngCore};
use support::checker::{Load, check};
use support::proxy::Net;
use support::{Cluster, until};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// A cluster under load, and the processes that it began with.
struct Run {
    net: Net,
    cluster: Cluster,
    load: Load,
    pids: Vec<Option<u32>>,
}

impl Run {
    fn start() -> Self {
        let (net, cluster) = Net::start();
        let load = Load::start(&cluster, 4);
        load.wait_more(20);
        let pids = ALL.map(|index| cluster.local.pid(index)).to_vec();
        Self { net, cluster, load, pids }
    }

    /// The leader of the highest view that a replica takes part in.
    fn leader(&self) -> usize {
        let said = self.cluster.statuses().into_iter().flatten().max_by_key(|status| status.view);
        usize::from(said.expect("somebody serves").leader)
    }

    fn sequence(&self, index: usize) -> u64 {
        self.cluster.status(index).expect("it serves").sequence
    }

    /// Ends well: by itself all links are there again, all follow, and every result stands.
    fn end(self) {
        self.cluster.wait_linked(&ALL);
        self.load.wait_more(20);
        let acknowledged = self.load.stop();
        assert!(acknowledged.len() > 40);
        check(&self.cluster, &ALL, &acknowledged);
        for (index, pid) in self.pids.iter().enumerate() {
            assert!(self.cluster.running(index) && self.cluster.local.pid(index) == *pid, "replica {index} ended");
        }
        drop(self.net);
    }
}

/// It stands still while the others go on, and follows once it hears them.
fn isolated(victim: impl Fn(&Run) -> usize) {
    let run = Run::start();
    let victim = victim(&run);
    run.net.split(&[victim], true);
    run.load.wait_more(20);
    let stuck = run.sequence(victim);
    run.load.wait_more(60);
    assert!(run.sequence(victim) <= stuck + 1, "replica {victim} hears nobody and executes");
    run.net.split(&[victim], false);
    until("it follows", || run.sequence(victim) > stuck + 10);
    run.end();
}

#[test]
fn an_isolated_leader_is_replaced_and_follows() {
    isolated(Run::leader);
}

#[test]
fn an_isolated_follower_is_not_missed_and_follows() {
    isolated(|run| (run.leader() + 2) % 4);
}

/// Two against two: neither half decides anything, whoever leads, and neither forgets anything.
#[test]
fn two_halves_decide_nothing_until_they_are_one() {
    let run = Run::start();
    let leader = run.leader();
    let half = [leader, (leader + 1) % 4];
    // Who is on the same side.
    let partner =
        |index: usize| ALL.into_iter().find(|other| *other != index && half.contains(other) == half.contains(&index));
    let passed = || ALL.map(|index| run.net.passed(index, partner(index).unwrap()));
    run.net.split(&half, true);
    // What was under way may still come to its end: from there on nothing does.
    until("both halves stand still", || {
        let before = run.load.done();
        std::thread::sleep(Duration::from_millis(300));
        run.load.done() == before
    });
    let (done, before) = (run.load.done(), ALL.map(|index| run.sequence(index)));
    let heard = passed();
    std::thread::sleep(Duration::from_millis(1_000));
    assert_eq!(run.load.done(), done, "half of the replicas acknowledged writes");
    assert_eq!(ALL.map(|index| run.sequence(index)), before, "half of the replicas executed");
    // They did try, with those whom they reach.
    assert!(passed().iter().zip(heard).all(|(now, before)| *now > before));
    run.net.split(&half, false);
    run.load.wait_more(40);
    run.end();
}

/// What a replica says gets nowhere, and it hears everything; then the reverse. Leader and follower.
#[test]
fn one_way_loss_stops_nobody() {
    let run = Run::start();
    for hears in [true, false] {
        let leader = run.leader();
        for victim in [leader, (leader + 1) % 4] {
            let others = ALL.iter().filter(|other| **other != victim);
            let hold = |held: bool| {
                for &other in others.clone() {
                    let (from, to) = if hears { (victim, other) } else { (other, victim) };
                    run.net.hold(from, to, held);
                }
            };
            hold(true);
            run.load.wait_more(30);
            hold(false);
            run.load.wait_more(10);
        }
    }
    // And one pair alone, for good: all can still hear all by way of the others.
    run.net.hold(1, 3, true);
    run.load.wait_more(30);
    run.net.hold(1, 3, false);
    run.end();
}

/// Links that break and come back, again and again: those of the leader, those of all.
#[test]
fn flapping_links_stop_nobody_for_good() {
    let run = Run::start();
    for round in 0..40 {
        let (a, b) = match round % 2 {
            0 => (run.leader(), OsRng.next_u32() as usize % 4),
            _ => (OsRng.next_u32() as usize % 4, OsRng.next_u32() as usize % 4),
        };
        if a != b {
            run.net.cut(a, b);
            std::thread::sleep(Duration::from_millis(u64::from(OsRng.next_u32() % 40)));
            run.net.join(a, b);
        }
    }
    // All at once.
    for (a, b) in ALL.iter().flat_map(|a| (0..*a).map(move |b| (*a, b))) {
        run.net.cut(a, b);
    }
    until("no link is left", || {
        ALL.iter().all(|index| run.cluster.status(*index).is_some_and(|status| status.links == 0))
    });
    for (a, b) in ALL.iter().flat_map(|a| (0..*a).map(move |b| (*a, b))) {
        run.net.join(a, b);
    }
    run.end();
}

/// Behind a partition the replicas of the other side stand still as well, and their leader wakes in a view that is over.
#[test]
fn a_leader_that_was_cut_off_and_stood_still_does_not_lead_on() {
    let mut run = Run::start();
    let leader = run.leader();
    run.net.split(&[leader], true);
    run.cluster.signal(leader, Signal::STOP);
    run.load.wait_more(40);
    run.cluster.signal(leader, Signal::CONT);
    run.load.wait_more(20);
    run.net.split(&[leader], false);
    until("it follows", || {
        let view = |index: usize| run.cluster.status(index).map(|status| status.view);
        view(leader) == view((leader + 1) % 4) && view(leader) > Some(0)
    });
    run.end();
}
