use super::*;
use crate::bench::latencies;

const MS: u64 = 1_000_000;
const DONE: Ending = Ending::Results { refused: 0 };

fn plan(rate: Option<f64>) -> Plan {
    Plan { clients: 2, in_flight: 2, bundle: 10, rate, warm_up_ns: 100 * MS, measured_ns: 1_000 * MS }
}

fn load(plan: Plan) -> Load {
    Load::new(plan, latencies().unwrap())
}

#[test]
fn a_closed_loop_fills_every_client_and_then_waits() {
    let mut load = load(plan(None));
    let clients: Vec<_> = std::iter::from_fn(|| load.next(0)).map(|sending| sending.client).collect();
    assert_eq!(clients, [0, 1, 0, 1]);
    load.end(Sending { client: 1, from_ns: 0 }, DONE, 7);
    assert_eq!(load.next(7), Some(Sending { client: 1, from_ns: 7 }));
    assert_eq!(load.next(7), None);
    assert_eq!(load.wake_ns(7), 1_100 * MS);
}

#[test]
fn a_closed_loop_counts_what_ends_in_the_measured_time() {
    let mut load = load(plan(None));
    let sendings: Vec<_> = std::iter::from_fn(|| load.next(0)).collect();
    load.end(sendings[0], DONE, 99 * MS);
    load.end(sendings[1], Ending::Results { refused: 3 }, 100 * MS);
    load.end(sendings[2], Ending::None, 1_099 * MS);
    assert!(!load.is_over(1_099 * MS));
    assert_eq!(load.next(1_100 * MS), None);
    assert!(load.is_over(1_100 * MS));
    load.end(sendings[3], DONE, 1_100 * MS);
    let found = load.finish();
    assert_eq!((found.latencies.len(), found.errors, found.refused), (10, 10, 3));
    assert_eq!(found.counted_ns, 1_000 * MS);
    assert!(found.latencies.equivalent(found.latencies.max(), 100 * MS));
}

/// A cluster that answers nothing between 300 and 800 ms, under a load of one bundle each 10 ms.
#[test]
fn a_stall_shows_in_an_open_loop_as_every_user_would_have_seen_it() {
    let mut load = load(plan(Some(1_000.0)));
    let mut under_way: VecDeque<Sending> = VecDeque::new();
    let mut now = 0;
    while !load.is_over(now) {
        under_way.extend(std::iter::from_fn(|| load.next(now)));
        if !(300 * MS..800 * MS).contains(&now) {
            under_way.drain(..).for_each(|sending| load.end(sending, DONE, now));
        }
        now += MS;
    }
    let found = load.finish();
    // Due at 100, 110 ... 1,090 ms: a hundred bundles of ten.
    assert_eq!((found.latencies.len(), found.errors), (1_000, 0));
    // Half of them were due in the stall and waited 250 ms on average, though only four could be sent.
    let slow = found.latencies.count_between(11 * MS, 600 * MS);
    assert!((480..=520).contains(&slow), "{slow}");
    assert!(found.latencies.equivalent(found.latencies.max(), 500 * MS));
    assert_eq!(found.counted_ns, 1_000 * MS);
}

#[test]
fn an_open_loop_sends_on_time_and_counts_what_was_due_though_it_ends_late() {
    let mut load = load(Plan { in_flight: 100, ..plan(Some(1_000.0)) });
    assert_eq!(load.next(0).map(|sending| sending.from_ns), Some(0));
    assert_eq!(load.next(9 * MS), None);
    assert_eq!(load.wake_ns(9 * MS), 10 * MS);
    assert_eq!(load.next(12 * MS).map(|sending| sending.from_ns), Some(10 * MS));
    let late: Vec<_> = std::iter::from_fn(|| load.next(1_200 * MS)).collect();
    // Bundles 2 to 109: the one of 1,100 ms is due after the end.
    assert_eq!(late.len(), 108);
    assert!(!load.is_over(1_200 * MS));
    late.iter().for_each(|sending| load.end(*sending, DONE, 2_100 * MS));
    assert_eq!(load.under_way(), 2);
    load.give_up();
    let found = load.finish();
    assert_eq!((found.latencies.len(), found.errors), (1_000, 20));
    assert_eq!(found.counted_ns, 2_000 * MS);
}

#[test]
fn what_was_due_and_never_sent_counts_as_an_error() {
    let mut load = load(plan(Some(1_000.0)));
    let sent = std::iter::from_fn(|| load.next(2_000 * MS)).count();
    assert_eq!(sent, 4);
    load.give_up();
    // Four under way; of the rest, those due from 100 ms on: numbers 10 to 109.
    assert_eq!(load.finish().errors, 40 + 1_000);
}

#[test]
fn a_held_bundle_goes_again_when_its_client_has_room() {
    let mut load = load(plan(Some(1e9)));
    let first = load.next(100).unwrap();
    let other = load.next(100).unwrap();
    let third = load.next(100).unwrap();
    assert_eq!(third.client, first.client);
    load.hold(third);
    assert_eq!(load.next(100).map(|sending| sending.client), Some(other.client));
    assert_eq!(load.next(100), None);
    load.end(other, DONE, 101);
    assert_eq!(load.next(101).map(|sending| sending.client), Some(other.client));
    load.end(first, DONE, 102);
    assert_eq!(load.next(102), Some(third));
}
