//! Replicas that lost their records, in a network of four cores: when they notice, what they say meanwhile, when they come back.

use super::change_tests::{ALL, Four};
use super::record::Record;
use super::{Outgoing, seal};
use crate::types::ReplicaId;
use crate::wire::message::{self, Status};

/// Three of four.
const REST: [usize; 3] = [0, 1, 2];

fn counts(message: &Outgoing) -> bool {
    !matches!(
        message,
        Outgoing::Decided(_)
            | Outgoing::Status(_)
            | Outgoing::FetchBatch(..)
            | Outgoing::Stable(_)
            | Outgoing::Relay(_)
    )
}

/// Replica 3 lost its disk in an idle cluster: null batches take it to a checkpoint, and the others follow it into the next view.
#[test]
fn a_replica_without_its_records_is_silent_until_a_checkpoint_and_then_votes() {
    let mut four = Four::new();
    four.cores[3].ordering.abstain();
    four.passes = |from, _, message| {
        assert!(from != 3 || !counts(message) || matches!(message, Outgoing::ViewChange(change) if change.view() == 1));
        from != 3 || !matches!(message, Outgoing::ViewChange(_))
    };
    four.run(&ALL, 1_000);
    assert_eq!(four.cores[3].ordering.abstains(), None, "a checkpoint is stable that takes it back");
    assert!(four.cores[3].ordering.low() >= four.window(), "that was made of null batches");
    four.passes = |_, _, _| true;
    four.run(&ALL, 5_000);
    assert_eq!(four.views(&ALL), [(1, true); 4]);
    // Now its votes are needed.
    four.submit(1, &REST);
    four.run(&[1, 2, 3], 1_000);
    four.assert_executed(&[1, 2, 3], four.window() as usize + 1);
}

/// Any one replica can sign a VIEW-CHANGE for any view, and tell it to one replica alone.
#[test]
fn a_view_that_one_replica_names_takes_nobody_far_away() {
    for view in [3, 1_000_000, u64::MAX] {
        let mut four = Four::new();
        four.cores[3].ordering.abstain();
        let (body, signature) = super::view_change::lies::leave(view, ReplicaId(1), &seal::sample(1));
        let mut bytes = Vec::new();
        message::encode(&message::ViewChange { body, signature: signature.0 }, &mut bytes);
        let (core, now) = (&mut four.cores[3].ordering, four.now);
        core.on_view_change(ReplicaId(1), message::access::<message::ViewChange>(&bytes).unwrap(), now);
        let mut bytes = Vec::new();
        message::encode(&Status { view, ..Status::default() }, &mut bytes);
        core.on_status(ReplicaId(1), message::access::<Status>(&bytes).unwrap());
        // It is told the truth later, and then comes back; who asks alone is followed now and then, a view at a time.
        four.run(&ALL, 20_000);
        let core = &four.cores[3].ordering;
        assert!(core.abstains().is_none() && core.view() < 10, "named view {view}: {:?}", four.views(&ALL));
    }
}

/// Found in review: it would have asked for a view that nobody follows it to.
#[test]
fn who_left_alone_before_it_abstained_comes_back() {
    let mut four = Four::new();
    four.cores[3].ordering.leave(1);
    four.cores[3].ordering.abstain();
    four.run(&ALL, 20_000);
    assert!(four.views(&ALL).iter().all(|(view, active)| *active && *view > 0), "{:?}", four.views(&ALL));
}

/// Found in review: what a leader stages after its start, to be replaced, hid what its peers had heard of it.
#[test]
fn a_leader_that_was_set_back_is_noticed() {
    for first in [vec![Record::Begins], vec![Record::Begins, Record::Leads { view: 0 }]] {
        let mut four = Four::new();
        for identity in 1..=3 {
            four.submit(identity, &ALL);
            four.run(&ALL, 10);
        }
        four.set_back(0, first);
        let mut noticed = false;
        for _ in 0..500 {
            four.run(&ALL, 1);
            noticed |= four.cores[0].ordering.abstains().is_some();
        }
        assert!(noticed);
    }
}

/// Found in review: a certificate in a NEW-VIEW made it abstain, and then it began the view all the same.
#[test]
fn who_abstains_over_a_new_view_does_not_begin_it() {
    let mut four = Four::new();
    // The certificate has replica 3's signature, not replica 1's.
    four.passes = |from, _, message| {
        !(matches!(message, Outgoing::Stable(_)) || from == 1 && matches!(message, Outgoing::Checkpoint(_)))
    };
    for identity in 1..=16 {
        four.submit(identity, &ALL);
        four.run(&ALL, 10);
    }
    four.set_back(3, vec![Record::Begins]);
    // It hears nothing but how the next view begins.
    four.passes = |_, to, message| to != 3 || matches!(message, Outgoing::NewView(_));
    four.cores[0].ordering.leave(1);
    four.cores[2].ordering.leave(1);
    four.run(&ALL, 100);
    assert_eq!(four.views(&[0, 1, 2]), [(1, true); 3]);
    let core = &four.cores[3].ordering;
    assert!(core.abstains().is_some() && !core.is_active(), "{:?}", four.views(&ALL));
    four.passes = |_, _, _| true;
    four.run(&ALL, 10_000);
    let abstains = four.cores[3].ordering.abstains();
    assert!(four.views(&ALL).iter().all(|(view, active)| *active && *view > 1), "{:?} {abstains:?}", four.views(&ALL));
}

/// Found in review: nothing was to be ordered, so nobody suspected a leader that does not fill up.
#[test]
fn a_leader_that_does_not_fill_up_is_replaced() {
    let mut four = Four::new();
    four.cores[3].ordering.abstain();
    four.passes = |from, _, message| !(from == 0 && matches!(message, Outgoing::PrePrepare(_)));
    four.run(&ALL, 20_000);
    assert!(four.cores[3].ordering.is_active(), "{:?}", four.views(&ALL));
}

/// After a start nothing that counts leaves before a quorum has told what it heard.
#[test]
fn nobody_votes_before_a_quorum_has_told() {
    let mut four = Four::new();
    four.submit(1, &ALL);
    four.run(&ALL, 20);
    four.assert_executed(&ALL, 1);
    four.restart(3);
    four.passes = |from, to, message| {
        assert!(from != 3 || !counts(message), "3 says {message:?}");
        // One peer alone is heard.
        to != 3 || from == 0
    };
    four.submit(2, &ALL);
    four.run(&ALL, 100);
    four.assert_executed(&REST, 2);
    four.passes = |_, _, _| true;
    four.run(&ALL, 100);
    four.submit(3, &ALL);
    four.run(&[0, 1, 3], 2_000);
    four.assert_executed(&[0, 1, 3], 3);
}
