//! What many runs came to together.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Failure, Report, hexadecimal, plan};

/// How often a fault came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Coverage {
    /// In how many runs.
    pub seeds: u64,
    /// How often in all of them.
    pub times: u64,
}

/// What some runs came to together; in whatever order they are added.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Total {
    /// Runs.
    pub seeds: u64,
    /// Of these, in which a rule did not hold.
    pub failed: u64,
    /// Of these, which ended converged.
    pub converged: u64,
    /// Hash over the seeds and their chains: equal for equal seeds.
    #[serde(serialize_with = "hexadecimal")]
    pub chain: u64,
    /// Events.
    pub events: u64,
    /// Virtual time, us.
    pub simulated_us: u64,
    /// Operations executed.
    pub executions: u64,
    /// Results that clients took.
    pub accepted: u64,
    /// Votes held against earlier ones and the disk.
    pub votes: u64,
    /// Sequences decided by PREPAREs of all, by COMMITs, by DECIDED.
    pub decided: [u64; 3],
    /// Every fault and tactic that a seed can draw, and what else came, by name. What never came has zeros.
    pub faults: BTreeMap<String, Coverage>,
}

impl Default for Total {
    fn default() -> Self {
        Self {
            seeds: 0,
            failed: 0,
            converged: 0,
            chain: 0,
            events: 0,
            simulated_us: 0,
            executions: 0,
            accepted: 0,
            votes: 0,
            decided: [0; 3],
            faults: plan::names().map(|name| (name, Coverage::default())).collect(),
        }
    }
}

impl Total {
    /// Adds a run.
    pub fn add(&mut self, seed: u64, result: &Result<Report, Box<Failure>>) {
        let report = match result {
            Ok(report) => report,
            Err(failure) => {
                self.failed += 1;
                &failure.report
            }
        };
        self.seeds += 1;
        self.converged += u64::from(report.converged && result.is_ok());
        self.chain = self.chain.wrapping_add(xxh3_64_with_seed(&report.chain.to_le_bytes(), seed));
        self.events += report.events;
        self.simulated_us += report.simulated_us;
        self.executions += report.executions;
        self.accepted += report.accepted;
        self.votes += report.votes;
        for (sum, decided) in self.decided.iter_mut().zip(report.decided) {
            *sum += decided;
        }
        for (fault, times) in report.faults.iter().filter(|(_, times)| **times > 0) {
            let coverage = self.faults.entry(fault.clone()).or_default();
            coverage.seeds += 1;
            coverage.times += times;
        }
    }

    /// In words, a line each. With the real time that it took also how fast it was; all else depends on the seeds alone.
    pub fn words(&self, took: Option<Duration>) -> String {
        let mut text = String::new();
        // A String takes everything.
        let _ = self.write(&mut text, took);
        text
    }

    fn write(&self, text: &mut String, took: Option<Duration>) -> fmt::Result {
        let simulated_s = self.simulated_us as f64 / 1e6;
        writeln!(text, "{} seeds, {} failed, {} converged", self.seeds, self.failed, self.converged)?;
        writeln!(text, "chain over all seeds {:016x}", self.chain)?;
        writeln!(text, "{} events, {} votes checked", self.events, self.votes)?;
        let rate = self.executions as f64 / simulated_s.max(1e-6);
        writeln!(text, "{} operations executed, {rate:.0} in a simulated second", self.executions)?;
        let [fast, slow, told] = self.decided;
        writeln!(text, "decided by all PREPAREs {fast}, by COMMITs {slow}, by DECIDED {told}")?;
        if let Some(took) = took {
            let seconds = took.as_secs_f64().max(1e-9);
            let (pace, seeds) = (simulated_s / seconds, self.seeds as f64 / seconds);
            writeln!(text, "{seconds:.1} s, {seeds:.1} seeds/s, {pace:.1} simulated seconds a second")?;
        }
        writeln!(text, "{:>9} {:>9} what came", "seeds", "times")?;
        // Of many seeds it is news what never came; of one it is not.
        for (fault, Coverage { seeds, times }) in
            self.faults.iter().filter(|(_, came)| came.seeds > 0 || self.seeds > 1)
        {
            writeln!(text, "{seeds:>9} {times:>9} {fault}")?;
        }
        Ok(())
    }
}
