mod status;
mod world;

use self::world::{ORIGIN, Random, TestPages, TestSigner, WALL_MS, World, body, core, operation};
use super::*;
use crate::crypto::SecretKey;
use crate::types::{Code, Now, Position, ReplicaId};
use crate::wire::bundle::Bundle;
use crate::wire::error::BundleError;
use crate::wire::frame::Kind;
use crate::wire::message::{self, Answer, Refused, Replies, Reply, Submit};

fn check_results(world: &World, expected: &[Vec<u8>], results: &[RequestResult]) {
    assert_eq!(results.len(), expected.len());
    for (place, result) in results.iter().enumerate() {
        let entry = &world.order.entries[result.position.entry as usize - 1];
        let executed = &entry.requests[usize::from(result.position.request)];
        assert_eq!(executed.operation, expected[place]);
        assert_eq!(result.operation, place);
        let Reply { sequence, time_ms, code, changes, detail, .. } = executed.reply.clone();
        let told = (result.sequence, result.time_ms, result.code.0, result.changes.clone(), result.detail.clone());
        assert_eq!(told, (sequence, time_ms, code, changes.into_vec(), detail));
    }
}

/// A whole day: submissions, reads of both kinds and a subscription against f liars on a bad network.
fn day(seed: u64, replicas: usize, liars: usize, loss: u64) {
    let mut world = World::new(seed, replicas, liars, loss);
    let patient = SubmitOptions { timeout_ms: 3_600_000, ..SubmitOptions::default() };
    let reads = ReadOptions { timeout_ms: 3_600_000, ..ReadOptions::default() };
    let changes = world.client.subscribe(Box::new(TestPages), Position::default(), world.now()).unwrap();
    let (mut submitted, mut asked, mut events) = (Vec::new(), Vec::new(), Vec::new());
    let mut number = 0;
    while number < 60 {
        let now = world.now();
        match world.random.below(10) {
            0..4 => {
                let count = 1 + world.random.below(4) as u32;
                let operations: Vec<_> = (0..count).map(|n| operation((number + n) as u8 % 5, number + n)).collect();
                if let Ok(ticket) = world.client.submit(&operations, &patient, now) {
                    number += count;
                    submitted.push((ticket, operations));
                }
            }
            4 => {
                let before = world.client.highest_size();
                if let Ok(ticket) = world.client.query(&[number as u8 % 5], &reads, now) {
                    asked.push((ticket, number as u8 % 5, before));
                }
            }
            5 => {
                // Whatever was agreed before the call lies below the size of the read.
                let before = world.client.highest_size();
                let (barrier, key) = (operation(99, number), number as u8 % 5);
                if let Ok(ticket) = world.client.read_ordered(&barrier, &[key], &reads, now) {
                    number += 1;
                    asked.push((ticket, key, before.max(world.order.entries.len() as u64 + 1)));
                }
            }
            6 => {
                let replica = world.random.below(replicas as u64) as usize;
                world.blink(replica);
            }
            _ => {}
        }
        for _ in 0..world.random.below(40) {
            world.step();
        }
        let now = world.now();
        events.extend(std::iter::from_fn(|| world.client.next_change(changes, now)));
    }
    world.settle();
    for (ticket, operations) in &submitted {
        match &world.done[ticket] {
            Ok(Completion::Executed(results)) => check_results(&world, operations, results),
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    for (ticket, key, at_least) in &asked {
        match &world.done[ticket] {
            Ok(Completion::Read(read)) => {
                assert!(read.size >= *at_least);
                let truth = world.order.answer(*key, read.size);
                assert_eq!((read.valid_from, read.body.clone()), truth, "seed {seed}");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    let all = world.order.events(Position::default(), u64::MAX);
    for _ in 0..100_000 {
        let now = world.now();
        events.extend(std::iter::from_fn(|| world.client.next_change(changes, now)));
        if events.len() >= all.len() {
            break;
        }
        world.step();
    }
    assert_eq!(events, all, "seed {seed}");
    assert!(world.client.resume_position(changes) >= all.last().map(|(position, _)| *position));
    assert!(world.client.lies()[liars..].iter().all(|lies| *lies == 0), "an honest replica was called a liar");
}

#[test]
fn results_and_reads_are_the_honest_ones_and_all_complete() {
    for seed in 1..60 {
        day(seed, 4, 1, 0);
        day(seed, 4, 1, 10);
    }
}

#[test]
fn seven_replicas_stand_two_liars() {
    for seed in 1..20 {
        day(seed, 7, 2, 5);
    }
}

#[test]
fn one_replica_needs_no_second() {
    for seed in 1..5 {
        day(seed, 1, 0, 10);
    }
}

#[test]
fn who_asks_to_be_asked_again_soon_is_asked_alone_and_less_often() {
    let mut hand = Hand::new(16);
    hand.submit(&[operation(1, 1)]);
    let (_, bundle) = hand.sent().remove(0);
    let (mut sendings, begin) = (0, hand.now.mono_us);
    while hand.now.mono_us < begin + 450_000 {
        hand.refuse(2, &bundle, Code::OVERLOADED, 1);
        hand.wait(10);
        for (replicas, _) in hand.sent() {
            assert_eq!(replicas, 1);
            sendings += 1;
        }
    }
    // After 10, 20, 40, 80, 160 ms, then all are asked.
    assert!((2..=6).contains(&sendings), "{sendings}");
    hand.wait(400);
    assert!(hand.sent().iter().any(|(replicas, _)| *replicas >= 3));
}

#[test]
fn liars_are_counted() {
    let mut found = 0;
    for seed in 1..10 {
        let mut world = World::new(seed, 4, 1, 0);
        for number in 0..5 {
            let now = world.now();
            world.client.submit(&[operation(1, number)], &SubmitOptions::default(), now).unwrap();
            world.settle();
        }
        found += world.client.lies()[0];
    }
    assert!(found > 0);
}

/// A core with four links, its clock, and the bundles that it sent, by hand.
struct Hand {
    core: ClientCore,
    now: Now,
}

impl Hand {
    fn new(window: u64) -> Self {
        let mut core = core(4, window);
        let now = Now { mono_us: 1_000, wall_ms: WALL_MS };
        (0..4).for_each(|replica| core.on_link(ReplicaId(replica), true, now));
        Self { core, now }
    }

    fn submit(&mut self, operations: &[Vec<u8>]) -> Ticket {
        self.core.submit(operations, &SubmitOptions::default(), self.now).unwrap()
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.core.next_output()).collect()
    }

    /// What is sent next: to how many, and the bundle.
    fn sent(&mut self) -> Vec<(usize, Bundle)> {
        let submit = |output| match output {
            Output::Send { to, kind: Kind::Submit, body } => {
                let submit = message::access::<Submit>(&body).unwrap();
                let requests = submit.bundle.requests.iter().map(|request| request.as_slice());
                Some((to.iter().count(), Bundle::parse(&submit.bundle.cose, requests, ORIGIN).unwrap()))
            }
            _ => None,
        };
        self.outputs().into_iter().filter_map(submit).collect()
    }

    fn result(&mut self, ticket: Ticket) -> Result<Completion, ClientError> {
        let done = |output| match output {
            Output::Done { ticket: other, result } if other == ticket => Some(result),
            _ => None,
        };
        self.outputs().into_iter().find_map(done).expect("the ticket has not ended")
    }

    fn replies(&mut self, replica: u8, bundle: &Bundle, session: u64, entry: u64, code: Code) {
        let reply = |place: usize| Reply {
            session,
            number: bundle.header().first + place as u64,
            sequence: entry,
            entry,
            request: place as u16,
            time_ms: WALL_MS,
            code: if place == 0 && bundle.header().session.is_none() { 0 } else { code.0 },
            changes: message::Changes::from_slice(&[0x80]),
            detail: String::new(),
        };
        let replies = (0..usize::from(bundle.header().count)).map(reply).collect();
        let message = body(&Replies { bundle: bundle.digest().0, replies });
        self.core.on_message(ReplicaId(replica), ClientMessage::access(Kind::Replies, &message).unwrap(), self.now);
    }

    fn refuse(&mut self, replica: u8, bundle: &Bundle, code: Code, retry_after_ms: u32) {
        let (first, count) = (bundle.header().first, u32::from(bundle.header().count));
        let message = body(&Refused { bundle: bundle.digest().0, first, count, code: code.0, retry_after_ms });
        self.core.on_message(ReplicaId(replica), ClientMessage::access(Kind::Refused, &message).unwrap(), self.now);
    }

    fn wait(&mut self, ms: u64) {
        let end = self.now.mono_us + ms * 1_000;
        while let Some(due) = self.core.next_deadline().filter(|due| *due <= end) {
            self.at(due);
            self.core.tick(self.now);
        }
        self.at(end);
    }

    fn at(&mut self, us: u64) {
        self.now.wall_ms += ((us - self.now.mono_us) / 1_000) as i64;
        self.now.mono_us = us;
    }

    /// Opens the session 7 by a first operation.
    fn opened(window: u64) -> Self {
        let mut hand = Self::new(window);
        let ticket = hand.submit(&[operation(0, 0)]);
        let (_, bundle) = hand.sent().remove(0);
        hand.replies(0, &bundle, 7, 7, Code::DONE);
        hand.replies(1, &bundle, 7, 7, Code::DONE);
        hand.result(ticket).unwrap();
        hand
    }
}

#[test]
fn the_first_submission_opens_the_session_in_one_round_trip_and_others_wait() {
    let mut hand = Hand::new(64);
    let first = hand.submit(&[operation(0, 0), operation(0, 1)]);
    let second = hand.submit(&[operation(0, 2)]);
    let sent = hand.sent();
    assert_eq!(sent.len(), 1);
    let (to, opening) = &sent[0];
    assert_eq!((*to, opening.header().session, opening.header().count), (4, None, 3));
    hand.replies(2, opening, 5, 5, Code::DONE);
    assert!(hand.outputs().is_empty(), "one replica's word is no result");
    hand.replies(2, opening, 5, 5, Code::DONE);
    assert!(hand.outputs().is_empty(), "nor is saying it twice");
    hand.replies(0, opening, 5, 5, Code::DONE);
    let outputs = hand.outputs();
    let Output::Done { ticket, result: Ok(Completion::Executed(results)) } = &outputs[1] else { panic!("{outputs:?}") };
    assert_eq!((*ticket, results.len(), results[0].position), (first, 2, Position { entry: 5, request: 1 }));
    let Output::Send { body, .. } = &outputs[0] else { panic!("{outputs:?}") };
    let submit = message::access::<Submit>(body).unwrap();
    let requests = submit.bundle.requests.iter().map(|request| request.as_slice());
    let next = Bundle::parse(&submit.bundle.cose, requests, ORIGIN).unwrap();
    assert_eq!((next.header().session, next.header().first), (Some(5), 3));
    hand.replies(1, &next, 5, 6, Code::CONDITION_FAILED);
    hand.replies(3, &next, 5, 6, Code::CONDITION_FAILED);
    let Ok(Completion::Executed(results)) = hand.result(second) else { panic!("no result") };
    assert_eq!(results[0].code, Code::CONDITION_FAILED);
    assert_eq!(hand.core.highest_size(), 7);
}

#[test]
fn a_reply_that_differs_in_one_field_does_not_count() {
    let mut hand = Hand::opened(64);
    let ticket = hand.submit(&[operation(0, 1)]);
    let (_, bundle) = hand.sent().remove(0);
    hand.replies(0, &bundle, 7, 8, Code::DONE);
    hand.replies(1, &bundle, 7, 9, Code::DONE);
    hand.replies(2, &bundle, 7, 8, Code::FORBIDDEN);
    assert!(hand.outputs().is_empty());
    hand.replies(3, &bundle, 7, 8, Code::DONE);
    assert!(hand.result(ticket).is_ok());
    assert_eq!(hand.core.lies(), [0, 1, 1, 0]);
}

#[test]
fn the_window_is_never_passed_and_moves_with_the_oldest() {
    let mut hand = Hand::opened(8);
    let operations: Vec<_> = (0..4).map(|n| operation(0, n)).collect();
    hand.submit(&operations);
    hand.submit(&operations);
    let full = hand.core.submit(&[operation(0, 9)], &SubmitOptions::default(), hand.now);
    assert_eq!(full, Err(SubmitError::WindowFull { in_flight: 8, window: 8 }));
    let sent = hand.sent();
    // The younger bundle has its result, the older has not: still no room.
    hand.replies(0, &sent[1].1, 7, 9, Code::DONE);
    hand.replies(1, &sent[1].1, 7, 9, Code::DONE);
    assert!(hand.core.submit(&[operation(0, 9)], &SubmitOptions::default(), hand.now).is_err());
    hand.replies(0, &sent[0].1, 7, 10, Code::DONE);
    hand.replies(1, &sent[0].1, 7, 10, Code::DONE);
    hand.submit(&[operation(0, 9)]);
}

#[test]
fn a_refusal_by_f_plus_1_ends_the_ticket_and_the_session() {
    let mut hand = Hand::opened(64);
    let ticket = hand.submit(&[operation(0, 1)]);
    let (_, bundle) = hand.sent().remove(0);
    hand.refuse(0, &bundle, Code::FORBIDDEN, 0);
    hand.refuse(0, &bundle, Code::FORBIDDEN, 0);
    hand.refuse(1, &bundle, Code::TOO_LARGE, 0);
    assert!(hand.outputs().is_empty());
    hand.refuse(2, &bundle, Code::TOO_LARGE, 0);
    assert_eq!(hand.result(ticket), Err(ClientError::Refused { code: Code::TOO_LARGE, executed: Vec::new() }));
    hand.submit(&[operation(0, 2)]);
    let (_, next) = hand.sent().remove(0);
    assert_eq!(next.header().session, None, "the gap in the numbers would hold the old window for ever");
    assert!(next.header().client_time_ms > WALL_MS, "an opening never repeats the time of the last");
}

#[test]
fn who_refused_and_then_executed_counts_for_the_result() {
    let mut hand = Hand::opened(64);
    let ticket = hand.submit(&[operation(0, 1)]);
    let (_, bundle) = hand.sent().remove(0);
    hand.refuse(0, &bundle, Code::EXPIRED, 0);
    hand.replies(0, &bundle, 7, 8, Code::DONE);
    hand.replies(1, &bundle, 7, 8, Code::DONE);
    assert!(hand.result(ticket).is_ok());
}

#[test]
fn overloaded_replicas_are_asked_again_when_they_said() {
    let mut hand = Hand::opened(64);
    let ticket = hand.submit(&[operation(0, 1)]);
    let (_, bundle) = hand.sent().remove(0);
    (0..4).for_each(|replica| hand.refuse(replica, &bundle, Code::OVERLOADED, 50));
    assert!(hand.outputs().is_empty());
    hand.refuse(3, &bundle, Code::OVERLOADED, 0);
    hand.refuse(3, &bundle, Code::OVERLOADED, 40);
    let told = hand.core.take_refusals();
    assert_eq!(told, [(Code::OVERLOADED, Refusals { times: 6, hinted: 5, retry_ms: (40, 50) })].into());
    assert!(hand.core.take_refusals().is_empty());
    hand.wait(49);
    assert!(hand.sent().is_empty());
    hand.wait(2);
    assert_eq!(hand.sent()[0].0, 4);
    hand.replies(0, &bundle, 7, 8, Code::DONE);
    hand.replies(1, &bundle, 7, 8, Code::DONE);
    assert!(hand.result(ticket).is_ok());
}

#[test]
fn a_lost_session_is_told_and_nothing_runs_again() {
    let mut hand = Hand::opened(64);
    let ticket = hand.submit(&[operation(0, 1)]);
    let (_, bundle) = hand.sent().remove(0);
    for _ in 0..3 {
        hand.refuse(0, &bundle, Code::UNKNOWN_SESSION, 0);
        hand.refuse(0, &bundle, Code::UNKNOWN_SESSION, 0);
        hand.refuse(1, &bundle, Code::UNKNOWN_SESSION, 0);
        if hand.core.open_tickets() > 0 {
            hand.wait(1_000);
        }
    }
    assert_eq!(hand.result(ticket), Err(ClientError::SessionLost));
    hand.submit(&[operation(0, 2)]);
    let sent = hand.sent();
    assert_eq!((sent.len(), sent[0].1.header().session), (1, None));
}

#[test]
fn what_replicas_may_have_forgotten_is_not_called_refused() {
    // Executed, the replies lost, and its number forgotten since.
    let mut hand = Hand::opened(64);
    let ticket = hand.submit(&[operation(0, 1)]);
    let (_, bundle) = hand.sent().remove(0);
    hand.refuse(0, &bundle, Code::STALE_NUMBER, 0);
    hand.refuse(1, &bundle, Code::STALE_NUMBER, 0);
    assert_eq!(hand.result(ticket), Err(ClientError::SessionLost));
    // The same of an opening, whose session was closed since: only what was sent once is known not to have run.
    for again in [false, true] {
        let mut hand = Hand::new(64);
        let ticket = hand.submit(&[operation(0, 1)]);
        let (_, bundle) = hand.sent().remove(0);
        hand.refuse(0, &bundle, Code::EXPIRED, 0);
        if again {
            hand.core.on_link(ReplicaId(2), false, hand.now);
            hand.core.on_link(ReplicaId(2), true, hand.now);
            assert_eq!(hand.sent()[0].0, 1);
        }
        hand.refuse(1, &bundle, Code::EXPIRED, 0);
        let refused = ClientError::Refused { code: Code::EXPIRED, executed: Vec::new() };
        assert_eq!(hand.result(ticket), Err(if again { ClientError::SessionLost } else { refused }));
        hand.submit(&[operation(0, 2)]);
        assert_eq!(hand.sent()[0].1.header().session, None);
    }
}

#[test]
fn a_timeout_tells_who_said_what_and_the_bundle_goes_on() {
    let mut hand = Hand::opened(64);
    hand.core.on_link(ReplicaId(3), false, hand.now);
    let ticket = hand.submit(&[operation(0, 1)]);
    let (to, bundle) = hand.sent().remove(0);
    assert_eq!(to, 3);
    let not_after = bundle.decoded_requests().next().unwrap().not_after_ms;
    assert_eq!(not_after, Some(hand.now.wall_ms + 10_000));
    hand.replies(0, &bundle, 7, 8, Code::DONE);
    hand.refuse(1, &bundle, Code::OVERLOADED, 20);
    hand.wait(10_000);
    let position = Position { entry: 8, request: 0 };
    let answered =
        vec![Said::Executed(position, Code::DONE), Said::Refused(Code::OVERLOADED), Said::Nothing, Said::NotConnected];
    let error = hand.result(ticket).unwrap_err();
    assert_eq!(error, ClientError::Timeout { needed: 2, answered, sent: true });
    assert!(error.to_string().contains("replica 3 not connected"), "{error}");
    // Its number must be used up, so it is sent further, to who owes an answer.
    hand.wait(6_000);
    assert!(hand.sent().iter().any(|(_, sent)| sent.digest() == bundle.digest()));
    hand.core.on_link(ReplicaId(3), true, hand.now);
    assert_eq!(hand.sent()[0].0, 1);
    hand.replies(3, &bundle, 7, 8, Code::DONE);
    hand.wait(20_000);
    assert!(hand.outputs().is_empty());
    assert_eq!(hand.core.next_deadline(), None);
}

#[test]
fn what_was_never_signed_is_known_not_to_run() {
    let mut hand = Hand::new(64);
    hand.submit(&[operation(0, 0)]);
    let second = hand.submit(&[operation(0, 1)]);
    let (_, opening) = hand.sent().remove(0);
    hand.wait(10_000);
    let error = hand.result(second).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { sent: false, .. }));
    hand.replies(0, &opening, 5, 5, Code::EXPIRED);
    hand.replies(1, &opening, 5, 5, Code::EXPIRED);
    assert!(hand.sent().is_empty());
}

#[test]
fn a_full_first_submission_follows_its_opening() {
    let mut hand = Hand::new(1_024);
    let operations: Vec<_> = (0..256).map(|n| operation(0, n)).collect();
    let ticket = hand.submit(&operations);
    let (_, opening) = hand.sent().remove(0);
    assert_eq!(opening.header().count, 1);
    hand.replies(0, &opening, 5, 5, Code::DONE);
    hand.replies(1, &opening, 5, 5, Code::DONE);
    let (_, bundle) = hand.sent().remove(0);
    assert_eq!((bundle.header().first, bundle.header().count), (1, 256));
    hand.replies(0, &bundle, 5, 6, Code::DONE);
    hand.replies(1, &bundle, 5, 6, Code::DONE);
    let Ok(Completion::Executed(results)) = hand.result(ticket) else { panic!("no result") };
    assert_eq!(results.len(), 256);
}

#[test]
fn what_does_not_fit_is_refused_at_once() {
    let mut hand = Hand::new(1_024);
    let options = SubmitOptions::default();
    for count in [0, 257] {
        let operations = vec![operation(0, 0); count];
        let result = hand.core.submit(&operations, &options, hand.now);
        assert_eq!(result, Err(SubmitError::Bundle(BundleError::Count { count })));
    }
    let mut large = vec![0x5a, 0, 1, 0, 0];
    large.resize(5 + 65_536, 0);
    let result = hand.core.submit(&[large], &options, hand.now);
    assert_eq!(result, Err(SubmitError::Bundle(BundleError::TooLarge)));
    assert_eq!(hand.core.open_tickets(), 0);
    let query = vec![0; crate::wire::limits::MAX_QUERY + 1];
    let result = hand.core.query(&query, &ReadOptions::default(), hand.now);
    assert_eq!(result, Err(SubmitError::QueryTooLong(query.len())));
    for _ in 0..limits::MAX_READS {
        hand.core.query(&[1], &ReadOptions::default(), hand.now).unwrap();
    }
    let result = hand.core.query(&[1], &ReadOptions::default(), hand.now);
    assert_eq!(result, Err(SubmitError::TooManyReads));
}

fn query_id(outputs: &[Output]) -> (u64, u64) {
    let Some(Output::Send { kind: Kind::Query, body, .. }) = outputs.last() else { panic!("{outputs:?}") };
    let query = message::access::<message::Query>(body).unwrap();
    (query.id.to_native(), query.min_size.to_native())
}

fn answer(hand: &mut Hand, replica: u8, id: u64, size: u64, valid_from: u64, text: &[u8]) {
    let message = body(&Answer { id, code: 0, size, valid_from, body: text.to_vec() });
    hand.core.on_message(ReplicaId(replica), ClientMessage::access(Kind::Answer, &message).unwrap(), hand.now);
}

#[test]
fn a_read_holds_at_the_smallest_of_the_matching_sizes() {
    let mut hand = Hand::opened(64);
    let ticket = hand.core.query(b"x", &ReadOptions::default(), hand.now).unwrap();
    let (id, min_size) = query_id(&hand.outputs());
    assert_eq!(min_size, 8, "a client sees its own writes");
    answer(&mut hand, 0, id, 7, 3, b"old");
    answer(&mut hand, 1, id, 1 << 50, 3, b"true");
    answer(&mut hand, 1, id, 20, 3, b"old");
    answer(&mut hand, 2, id, 9, 9, b"true");
    assert!(!hand.outputs().iter().any(|output| matches!(output, Output::Done { .. })));
    answer(&mut hand, 3, id, 12, 3, b"true");
    let read = ReadResult { code: Code::DONE, size: 12, valid_from: 3, body: b"true".to_vec() };
    assert_eq!(hand.result(ticket), Ok(Completion::Read(read)));
    assert_eq!(hand.core.highest_size(), 12, "no single replica can move it");
    assert_eq!(hand.core.lies(), [0, 0, 1, 0]);
}

/// Who was asked with the outputs since the last look, as bits.
fn readers(hand: &mut Hand) -> Vec<u32> {
    let to = |output| match output {
        Output::Send { to, kind: Kind::Query, .. } => Some(to.iter().map(|replica| 1 << replica.0).sum()),
        _ => None,
    };
    hand.outputs().into_iter().filter_map(to).collect()
}

#[test]
fn a_read_asks_as_many_as_must_agree_and_the_others_once_that_does_not_do() {
    let mut hand = Hand::opened(64);
    let begin = |hand: &mut Hand| {
        let ticket = hand.core.query(b"x", &ReadOptions::default(), hand.now).unwrap();
        let outputs = hand.outputs();
        let asked = outputs.iter().find_map(|output| match output {
            Output::Send { to, kind: Kind::Query, .. } => Some(to.iter().map(|replica| replica.index()).collect()),
            _ => None,
        });
        (ticket, query_id(&outputs).0, asked.unwrap())
    };
    let say = |hand: &mut Hand, replica: usize, id, text| answer(hand, replica as u8, id, 20, 3, text);
    // Two that agree are enough, and nobody else is troubled.
    let (ticket, id, asked): (_, _, Vec<usize>) = begin(&mut hand);
    assert_eq!(asked.len(), 2);
    asked.iter().for_each(|replica| say(&mut hand, *replica, id, b"true"));
    assert!(matches!(hand.result(ticket).unwrap(), Completion::Read(read) if read.body == b"true"));
    assert_eq!(readers(&mut hand), [] as [u32; 0]);
    // Two that do not: the others are asked at once.
    let (ticket, id, asked) = begin(&mut hand);
    say(&mut hand, asked[0], id, b"true");
    say(&mut hand, asked[1], id, b"false");
    let others = 0b1111 & !asked.iter().map(|replica| 1 << replica).sum::<u32>();
    assert_eq!(readers(&mut hand), [others]);
    say(&mut hand, others.trailing_zeros() as usize, id, b"true");
    assert!(matches!(hand.result(ticket).unwrap(), Completion::Read(read) if read.body == b"true"));
    // One that stays silent: the others are asked when that is longer than answers take, and it is passed over from then on.
    let (ticket, id, asked) = begin(&mut hand);
    say(&mut hand, asked[0], id, b"true");
    hand.wait(30);
    let others = 0b1111 & !asked.iter().map(|replica| 1 << replica).sum::<u32>();
    assert_eq!(readers(&mut hand), [others]);
    say(&mut hand, others.trailing_zeros() as usize, id, b"true");
    assert!(hand.result(ticket).is_ok());
    for _ in 0..8 {
        let (_, id, chosen) = begin(&mut hand);
        assert!(!chosen.contains(&asked[1]), "{chosen:?}");
        chosen.iter().for_each(|replica| say(&mut hand, *replica, id, b"true"));
    }
    // A link that ends is as good as silence.
    let (ticket, id, asked) = begin(&mut hand);
    hand.core.on_link(ReplicaId(asked[1] as u8), false, hand.now);
    assert_eq!(readers(&mut hand).len(), 1);
    say(&mut hand, asked[0], id, b"true");
    let third = (0..4).find(|replica| !asked.contains(replica)).unwrap();
    say(&mut hand, third, id, b"true");
    assert!(hand.result(ticket).is_ok());
}

#[test]
fn without_a_match_a_read_asks_again_where_a_correct_replica_is() {
    let mut hand = Hand::opened(64);
    hand.core.query(b"x", &ReadOptions::default(), hand.now).unwrap();
    let (id, _) = query_id(&hand.outputs());
    answer(&mut hand, 0, id, 1 << 50, 3, b"lie");
    answer(&mut hand, 1, id, 10, 9, b"b");
    answer(&mut hand, 2, id, 14, 13, b"c");
    hand.wait(10);
    let (again, min_size) = query_id(&hand.outputs());
    assert!(again != id);
    assert_eq!(min_size, 14, "the second highest of the sizes named");
}

#[test]
fn a_subscription_takes_nothing_from_one_replica_and_resumes() {
    let mut hand = Hand::new(64);
    let from = Position { entry: 3, request: 0 };
    let subscription = hand.core.subscribe(Box::new(TestPages), from, hand.now).unwrap();
    let polls: Vec<u64> = hand.outputs().iter().map(|output| query_id(std::slice::from_ref(output)).0).collect();
    assert_eq!(polls.len(), 4);
    let page = |covered: u64, events: &[(u64, u8)]| {
        let mut out = Vec::new();
        world::put(Position { entry: covered, request: u16::MAX }, &mut out);
        for (entry, key) in events {
            world::put(Position { entry: *entry, request: 0 }, &mut out);
            out.extend(operation(*key, 0));
        }
        out
    };
    answer(&mut hand, 0, polls[0], 99, 0, &page(9, &[(5, 1), (6, 1)]));
    // Another replica cannot answer a poll that it was not sent.
    answer(&mut hand, 1, polls[0], 99, 0, &page(9, &[(5, 1), (6, 1)]));
    assert_eq!(hand.core.next_change(subscription, hand.now), None);
    assert_eq!(hand.core.resume_position(subscription), Some(from));
    answer(&mut hand, 1, polls[1], 99, 0, &page(9, &[(6, 2)]));
    assert_eq!(hand.core.next_change(subscription, hand.now), None);
    answer(&mut hand, 2, polls[2], 99, 0, &page(5, &[(5, 1)]));
    let five = Position { entry: 5, request: 0 };
    assert_eq!(hand.core.next_change(subscription, hand.now), Some((five, operation(1, 0))));
    assert_eq!(hand.core.next_change(subscription, hand.now), None);
    assert_eq!(hand.core.lies(), [0, 1, 0, 0], "replica 1 passed over entry 5");
    let resumed = hand.core.resume_position(subscription).unwrap();
    assert!(resumed >= five && resumed < Position { entry: 6, request: 0 });
    hand.core.unsubscribe(subscription);
    assert_eq!(hand.core.next_deadline(), None);
    assert_eq!(hand.core.next_change(subscription, hand.now), None);
}

#[test]
fn a_signers_key_is_the_bundles_key() {
    let mut hand = Hand::new(64);
    hand.submit(&[operation(0, 0)]);
    let (_, bundle) = hand.sent().remove(0);
    let signer = TestSigner(SecretKey::from_seed(&[5; 32]));
    assert_eq!(*bundle.key(), signer.public());
    assert!(crate::crypto::verify(bundle.key(), &bundle.signed_bytes(), bundle.signature()));
}

/// Garbage in well-formed messages about what was never asked changes nothing.
#[test]
fn unknown_digests_and_questions_are_ignored() {
    let mut hand = Hand::opened(64);
    let mut random = Random(77);
    for _ in 0..200 {
        let refused = Refused {
            bundle: [random.below(256) as u8; 32],
            first: random.below(u64::MAX),
            count: random.below(1 << 32) as u32,
            code: random.below(700) as u16,
            retry_after_ms: random.below(1 << 32) as u32,
        };
        let message = body(&refused);
        hand.core.on_message(ReplicaId(9), ClientMessage::access(Kind::Refused, &message).unwrap(), hand.now);
        hand.core.on_message(ReplicaId(1), ClientMessage::access(Kind::Refused, &message).unwrap(), hand.now);
        let id = random.below(u64::MAX);
        answer(&mut hand, 1, id, id, 0, b"?");
    }
    assert!(hand.outputs().is_empty());
    assert_eq!(hand.core.next_deadline(), None);
}
