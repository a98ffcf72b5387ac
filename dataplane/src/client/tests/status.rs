//! Questions for the replicas' status.

use super::*;

#[test]
fn status_ends_with_what_was_said_in_time() {
    let mut hand = Hand::new(64);
    let ticket = hand.core.status(1_000, hand.now).unwrap();
    hand.wait(1_001);
    assert_eq!(hand.result(ticket), Ok(Completion::Status(vec![None; 4])));
    assert_eq!(hand.core.next_deadline(), None);
}

#[test]
fn a_status_question_that_got_lost_is_asked_again() {
    let mut hand = Hand::new(64);
    hand.core.status(10_000, hand.now).unwrap();
    let asked = |outputs: Vec<Output>| {
        let count = |output: &Output| match output {
            Output::Send { to, kind: Kind::StatusQuery, .. } => to.iter().count(),
            _ => 0,
        };
        outputs.iter().map(count).sum::<usize>()
    };
    assert_eq!(asked(hand.outputs()), 4);
    hand.wait(499);
    assert_eq!(asked(hand.outputs()), 0);
    hand.wait(2);
    assert_eq!(asked(hand.outputs()), 4);
}
