//! What local settings of turns, group commit and exports change in a node.

use super::*;

fn at(us: u64) -> Now {
    Now { mono_us: NOW.mono_us + us, ..NOW }
}

/// An urgent record is staged; what of it is with the disk.
fn stage(node: &mut TestNode, now: Now) -> bool {
    node.append(Record::Begins, now).unwrap();
    node.turn(now, &mut World::default()).unwrap();
    let log = node.log_mut();
    log.written() == log.last()
}

#[test]
fn without_group_commit_a_vote_is_written_at_once() {
    assert!(stage(&mut node(), NOW));
}

#[test]
fn with_group_commit_it_waits_for_others_and_no_longer_than_that() {
    let mut node = node();
    node.turn(NOW, &mut World::default()).unwrap();
    node.log_finish(NOW).unwrap();
    node.config.group_commit_us = 400;
    assert!(!stage(&mut node, at(1_000)));
    assert!(node.next_deadline_us() <= at(1_400).mono_us);
    // Another does not begin the wait anew.
    assert!(!stage(&mut node, at(1_399)));
    node.turn(at(1_400), &mut World::default()).unwrap();
    assert_eq!(node.log_mut().written(), node.log_mut().last(), "one write for both");
    // While a write is under way nobody waits in vain: what came meanwhile is due when its own time is up.
    assert!(!stage(&mut node, at(1_500)));
    node.turn(at(1_900), &mut World::default()).unwrap();
    assert!(node.log_mut().written() < node.log_mut().last(), "the disk is busy");
    assert!(node.next_deadline_us() > at(1_900).mono_us, "and nothing is to be done until it is not");
    node.log_finish(at(2_000)).unwrap();
    node.turn(at(2_000), &mut World::default()).unwrap();
    assert_eq!(node.log_mut().written(), node.log_mut().last());
    // Back to none: the next goes at once.
    node.log_finish(at(2_100)).unwrap();
    node.config.group_commit_us = 0;
    assert!(stage(&mut node, at(2_200)));
}

#[test]
fn a_turn_answers_as_many_reads_as_it_is_given() {
    let (mut node, mut world) = (node(), World::default());
    node.config.read_budget.reads = 3;
    (0..20).for_each(|id| query(&mut node, &mut world, 0, id, &[7], 0));
    for turn in 1..=4 {
        node.turn(NOW, &mut world).unwrap();
        assert_eq!(world.answers(ClientId(0), Code::DONE), 3 * turn);
    }
    node.config.read_budget.reads = 100;
    node.turn(NOW, &mut world).unwrap();
    assert_eq!(world.answers(ClientId(0), Code::DONE), 20);
}

#[test]
fn exports_keep_to_their_rate_and_others_do_not_wait_for_them() {
    let (mut node, mut world) = (node(), World::default());
    let ask = |node: &mut TestNode, world: &mut World, id: u64, now: Now| {
        let question =
            message::Prove { id, what: message::ASKS_ENTRIES, first: 0, count: 1, wait_ms: 0, name: Vec::new() };
        let mut body = Vec::new();
        message::encode(&question, &mut body);
        node.on_client(ClientId(2), &secret(2).public(), Kind::Prove, &body, now, world).unwrap();
        node.turn(now, world).unwrap();
        world.sent.iter().filter(|(_, kind, _)| *kind == Kind::Proof).count()
    };
    assert_eq!(ask(&mut node, &mut world, 1, NOW), 1);
    assert_eq!(ask(&mut node, &mut world, 2, NOW), 2, "as fast as it goes");
    // The entry takes some hundred bytes, so the next is due within a second and not at once.
    node.proofs.set_rate(1_000);
    assert_eq!(ask(&mut node, &mut world, 3, NOW), 3);
    assert_eq!(ask(&mut node, &mut world, 4, NOW), 3);
    assert!((NOW.mono_us + 1..NOW.mono_us + 2_000_000).contains(&node.proofs.due_us()));
    query(&mut node, &mut world, 0, 1, &[7], 0);
    node.turn(NOW, &mut world).unwrap();
    assert_eq!(world.answers(ClientId(0), Code::DONE), 1);
    let due = Now { mono_us: node.proofs.due_us(), ..NOW };
    node.turn(due, &mut world).unwrap();
    assert_eq!(world.sent.iter().filter(|(_, kind, _)| *kind == Kind::Proof).count(), 4);
    // Another rate holds at once.
    ask(&mut node, &mut world, 5, due);
    node.proofs.set_rate(0);
    node.turn(due, &mut world).unwrap();
    assert_eq!(world.sent.iter().filter(|(_, kind, _)| *kind == Kind::Proof).count(), 5);
}
