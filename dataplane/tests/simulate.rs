//! Seeds through the simulated cluster (`atlas_dataplane::sim`).
//!
//! `ATLAS_SIM_SECONDS` bounds the default run (20), `ATLAS_SIM_SEEDS=A..B` runs those seeds instead, however long it takes.
//! A seed that fails prints its draw and its last events; it is run again by `ATLAS_SIM_SEEDS=N..N+1`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use atlas_dataplane::sim::{self, Report, SimConfig};

/// What some runs came to together.
#[derive(Default)]
struct Total {
    seeds: u64,
    converged: u64,
    events: u64,
    simulated_us: u64,
    executions: u64,
    votes: u64,
    decided: [u64; 3],
    faults: BTreeMap<String, u64>,
}

impl Total {
    fn add(&mut self, report: Report) {
        self.seeds += 1;
        self.converged += u64::from(report.converged);
        self.events += report.events;
        self.simulated_us += report.simulated_us;
        self.executions += report.executions;
        self.votes += report.votes;
        for (sum, decided) in self.decided.iter_mut().zip(report.decided) {
            *sum += decided;
        }
        for (fault, count) in report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
    }

    fn print(&self, took: Duration) {
        let seconds = took.as_secs_f64().max(1e-9);
        println!(
            "{} seeds in {seconds:.1} s, {:.1} seeds/s, simulated time is {:.0} times real time; {} converged",
            self.seeds,
            self.seeds as f64 / seconds,
            self.simulated_us as f64 / 1e6 / seconds,
            self.converged
        );
        let [fast, slow, told] = self.decided;
        println!("{} events, {} executions, {} votes checked", self.events, self.executions, self.votes);
        println!("decided by all PREPAREs {fast}, by COMMITs {slow}, by DECIDED {told}");
        for (fault, count) in &self.faults {
            println!("  {count:>9} {fault}");
        }
    }
}

fn seed(seed: u64, total: &mut Total) {
    match sim::run(SimConfig::new(seed)) {
        Ok(report) => total.add(report),
        Err(failure) => panic!("{failure}"),
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
    total.print(begun.elapsed());
}

/// Each found a fault of the core once, which `ordering/tests.rs` pins by itself.
#[test]
fn seeds_that_once_failed_hold() {
    let mut total = Total::default();
    for number in [0, 14, 221, 243, 377, 517, 601, 652, 658, 750, 1053, 2372, 207, 359, 525, 1089, 3346, 5733] {
        seed(number, &mut total);
    }
}
