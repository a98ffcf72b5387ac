//! The checker finds what it is there to find: each rule, broken by hand.

use super::*;
use crate::types::EntryIndex;
use crate::wire::message::{Reply, Vote};

const N: usize = 4;

fn checker() -> Checker {
    let mut checker = Checker::new(N, false);
    checker.window = 8;
    checker
}

fn votes(checker: &mut Checker, replica: usize, kind: Kind, view: u64, digest: u8) -> Result<(), String> {
    let mut body = Vec::new();
    Votes { view, votes: vec![Vote { sequence: 5, digest: [digest; 32] }] }.encode(&mut body);
    checker.leaves(replica, kind, &body, None)
}

/// A VIEW-CHANGE that reports nothing; `stable` is what it says is stable.
fn asks(checker: &mut Checker, replica: usize, view: u64, stable: u64) -> Result<(), String> {
    let mut bytes = vec![0; 157 + 8];
    bytes[..8].copy_from_slice(&view.to_le_bytes());
    bytes[9..17].copy_from_slice(&stable.to_le_bytes());
    let mut body = Vec::new();
    message::encode(&ViewChange { body: bytes, signature: [0; 64] }, &mut body);
    checker.leaves(replica, Kind::ViewChange, &body, None)
}

fn found(result: Result<(), String>, what: &str) {
    let error = result.unwrap_err();
    assert!(error.contains(what), "{error}");
}

#[test]
fn a_commit_takes_prepares_of_a_quorum() {
    let mut checker = checker();
    votes(&mut checker, 0, Kind::Prepare, 1, 7).unwrap();
    votes(&mut checker, 1, Kind::Prepare, 1, 7).unwrap();
    votes(&mut checker, 2, Kind::Prepare, 1, 8).unwrap();
    found(votes(&mut checker, 0, Kind::Commit, 1, 7), "without a quorum of PREPAREs");
    // What a Byzantine replica sent to whom is not known.
    checker.faulty.insert(3);
    votes(&mut checker, 0, Kind::Commit, 1, 7).unwrap();
}

#[test]
fn nobody_goes_back_to_a_view() {
    let mut checker = checker();
    votes(&mut checker, 0, Kind::Prepare, 3, 7).unwrap();
    found(votes(&mut checker, 0, Kind::Prepare, 2, 7), "after it took part in 3");
    found(asks(&mut checker, 0, 2, 9), "after it took part in 3");
    asks(&mut checker, 0, 4, 9).unwrap();
    found(votes(&mut checker, 0, Kind::Prepare, 3, 7), "after it asked for 4");
    checker.stands(1, 5, false, 0).unwrap();
    found(checker.stands(1, 4, false, 0), "goes back from view 5 to 4");
    // One that lost its records does not know where it was.
    checker.stands(2, 5, false, 0).unwrap();
    checker.stands(2, 4, true, 0).unwrap();
    found(checker.stands(3, 0, false, 10_000), "wait for its log");
}

#[test]
fn nobody_asks_for_a_view_in_two_ways() {
    let mut checker = checker();
    asks(&mut checker, 0, 4, 9).unwrap();
    asks(&mut checker, 0, 4, 9).unwrap();
    found(asks(&mut checker, 0, 4, 10), "two VIEW-CHANGEs");
    // It lost its records, and all that it can have said before is void by now.
    asks(&mut checker, 0, 4, 17).unwrap();
    found(asks(&mut checker, 0, 4, 18), "two VIEW-CHANGEs");
    votes(&mut checker, 1, Kind::Prepare, 3, 7).unwrap();
    found(asks(&mut checker, 1, 4, 0), "conceals");
}

/// A write at an entry, executed and known.
fn write(checker: &mut Checker, number: u64, entry: EntryIndex) -> (Operation, Applied) {
    let operation =
        Operation { client: 0, session: 0, number, variant: 0, register: 1, revision: u64::MAX, padding: 0 };
    checker.signed(operation, PublicKey([1; 32]));
    let position = Position { entry, request: 0 };
    let applied = Applied { position, origin: PublicKey([1; 32]), time_ms: 0, operation };
    checker.apply(0, &applied).unwrap();
    while checker.entries.len() as u64 <= entry {
        checker.entries.push(Vec::new());
    }
    (operation, applied)
}

#[test]
fn a_read_gives_what_the_order_has_there() {
    let mut checker = checker();
    write(&mut checker, 0, 3);
    write(&mut checker, 1, 6);
    let answer = |at: Option<u64>, revision: u64, entry: u64, size| Found {
        register: 1,
        at,
        body: [revision.to_be_bytes(), entry.to_be_bytes()].concat(),
        valid_from: entry,
        size,
    };
    for right in [answer(Some(5), 1, 3, 9), answer(Some(6), 2, 6, 9), answer(Some(2), 0, 0, 9), answer(None, 1, 3, 6)] {
        checker.read(0, &right).unwrap();
    }
    // Too old, too new, holding longer than it does, and of a place that nobody has.
    for wrong in [answer(Some(6), 1, 3, 9), answer(Some(5), 2, 6, 9), answer(None, 1, 3, 7), answer(Some(9), 2, 6, 10)]
    {
        checker.read(0, &wrong).unwrap_err();
    }
}

#[test]
fn a_result_is_that_of_its_operation_where_the_order_has_it() {
    let mut checker = checker();
    let (operation, _) = write(&mut checker, 0, 3);
    let good = Reply {
        session: 0,
        number: 0,
        sequence: 1,
        entry: 3,
        request: 0,
        time_ms: 0,
        code: 0,
        changes: message::Changes::from_slice(&[0x81, 0x83, 0, 1, 0xf6]),
        detail: String::new(),
    };
    let mut takes = |change: fn(&mut Reply)| {
        let mut reply = good.clone();
        change(&mut reply);
        checker.accepted(0, &Accepted { reply, operation: Some(operation) })
    };
    for change in [
        |reply: &mut Reply| reply.entry = 2,
        |reply: &mut Reply| reply.code = 300,
        |reply: &mut Reply| reply.changes[3] = 2,
        |reply: &mut Reply| reply.time_ms = 1,
        |reply: &mut Reply| reply.detail.push('?'),
    ] {
        takes(change).unwrap_err();
    }
    takes(|_| {}).unwrap();
    found(takes(|_| {}), "two results stand at");
    found(checker.apply(1, &write(&mut Checker::new(N, false), 0, 9).1), "executes a number twice");
}
