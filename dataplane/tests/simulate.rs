//! Seeds through the simulated cluster (`atlas_dataplane::sim`).
//!
//! `ATLAS_SIM_SECONDS` bounds the default run (20), `ATLAS_SIM_SEEDS=A..B` runs those seeds instead, however long it takes.
//! A seed that fails prints its draw and its last events; `atlas sim --seed N` tells all of them.

use std::ops::Range;
use std::time::{Duration, Instant};

use atlas_dataplane::sim::{self, SimConfig, Total};

/// Lines of the trace of a seed that fails.
const TRACE_LINES: usize = 400;

fn seed(seed: u64, total: &mut Total) {
    let result = sim::run(SimConfig::new(seed));
    total.add(seed, &result);
    if let Err(failure) = result {
        sim::last_events(failure.config, TRACE_LINES).iter().for_each(|line| println!("{line}"));
        panic!("{failure}");
    }
}

fn chosen() -> Option<Range<u64>> {
    let text = std::env::var("ATLAS_SIM_SEEDS").ok()?;
    let (first, last) = text.split_once("..").expect("ATLAS_SIM_SEEDS is A..B");
    Some(first.parse().expect("A is a number")..last.parse().expect("B is a number"))
}

#[test]
fn seeds_hold_every_rule() {
    let (mut total, begun) = (Total::default(), Instant::now());
    if let Some(range) = chosen() {
        range.for_each(|number| seed(number, &mut total));
    } else {
        let seconds = std::env::var("ATLAS_SIM_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
        let mut number = 0;
        while number == 0 || begun.elapsed() < Duration::from_secs(seconds) {
            seed(number, &mut total);
            number += 1;
        }
    }
    print!("{}", total.words(Some(begun.elapsed())));
}
