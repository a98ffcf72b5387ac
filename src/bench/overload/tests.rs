use std::collections::BTreeMap;
use std::time::Duration;

use atlas_dataplane::client::Refusals;
use atlas_dataplane::types::Code;

use super::offer::{Book, End, Offer};
use super::report::{Phase, jain};

const MS: u64 = 1_000_000;

/// Bundles of 10 at 1,000 operations a second: one each 10 ms; 20 ms do not count, then 50 do.
fn book(clients: usize) -> Book {
    let offer =
        Offer { rate: 1_000.0, bundle: 10, warm_up: Duration::from_millis(20), measured: Duration::from_millis(50) };
    Book::new(offer, clients).unwrap()
}

#[test]
fn bundles_are_due_by_the_rate_and_go_to_the_clients_in_turn() {
    let mut book = book(3);
    assert_eq!(book.take(0), Some((0, 0)));
    assert_eq!(book.take(9 * MS), None);
    // A load that is late sends what was due, and counts from then.
    let late: Vec<_> = std::iter::from_fn(|| book.take(45 * MS)).collect();
    assert_eq!(late, [(1, 10 * MS), (2, 20 * MS), (0, 30 * MS), (1, 40 * MS)]);
    assert_eq!(book.due_ns(), Some(50 * MS));
    assert_eq!(book.take(69 * MS), Some((2, 50 * MS)));
    // What is left when the time is over is not sent any more.
    book.close();
    assert_eq!((book.due_ns(), book.take(500 * MS)), (None, None));
    let found = book.finish();
    assert_eq!((found.offered, found.unsent, found.late_ns), (50, 10, 25 * MS));
}

#[test]
fn what_was_due_in_the_measured_time_has_one_end_and_what_ended_in_it_was_served() {
    let mut book = book(2);
    while book.take(70 * MS).is_some() {}
    // Due before, ended within: served, without a latency.
    book.ended(0, (10 * MS, 10 * MS), End::Executed, 25 * MS);
    book.ended(1, (20 * MS, 20 * MS), End::Executed, 69 * MS);
    // Due within, sent late, ended after: a latency from its sending, and not served.
    book.ended(1, (30 * MS, 40 * MS), End::Executed, 130 * MS);
    book.ended(0, (40 * MS, 40 * MS), End::Refused, 41 * MS);
    book.ended(0, (50 * MS, 50 * MS), End::Failed, 900 * MS);
    book.turned_away(60 * MS);
    book.turned_away(0);
    let found = book.finish();
    assert_eq!(found.served, [10, 10]);
    assert_eq!((found.offered, found.turned_away, found.refused, found.failed), (50, 10, 10, 10));
    assert_eq!(found.latencies.len(), 20);
    assert_eq!(found.offered, found.turned_away + found.refused + found.failed + found.latencies.len());
    assert!((89 * MS..92 * MS).contains(&found.latencies.max()) && found.latencies.min() <= 50 * MS);
}

#[test]
fn jains_index_is_one_where_all_are_alike_and_a_share_where_one_has_all() {
    assert_eq!(jain(&[5, 5, 5, 5]), 1.0);
    assert_eq!(jain(&[20, 0, 0, 0]), 0.25);
    // (1 + 3)^2 / (2 * 10).
    assert_eq!(jain(&[1, 3]), 0.8);
    assert_eq!((jain(&[0, 0]), jain(&[])), (0.0, 0.0));
}

#[test]
fn a_phase_is_told_in_units_of_the_peak_with_what_was_refused() {
    let mut book = book(2);
    while book.take(70 * MS).is_some() {}
    book.ended(0, (20 * MS, 20 * MS), End::Executed, 30 * MS);
    book.ended(0, (30 * MS, 30 * MS), End::Executed, 40 * MS);
    book.ended(1, (40 * MS, 40 * MS), End::Executed, 50 * MS);
    let mut found = book.finish();
    let overloaded = Refusals { times: 7, hinted: 6, retry_ms: (20, 80) };
    found.refusals = BTreeMap::from([(Code::OVERLOADED, overloaded)]);
    let phase = Phase::of(&found, 1_000.0, Duration::from_millis(50), 800.0);
    assert_eq!((phase.ops_per_s, phase.of_peak), (600.0, 0.75));
    assert_eq!((phase.least_served, phase.most_served, phase.jain), (10, 20, 0.9));
    let line = &phase.refusals[0];
    assert_eq!((line.code, line.times, line.hinted), (Code::OVERLOADED.0, 7, 6));
    assert_eq!((line.least_retry_ms, line.most_retry_ms), (20, 80));
}
