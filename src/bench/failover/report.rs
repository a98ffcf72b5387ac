//! What was found: as tables and drawings for people, as one JSON object a line for programs, one for each kind of fault and one
//! for the quiet phase, told apart by `what`. Times are in milliseconds.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::super::report::Environment;
use super::around::{Around, Bins};
use super::chart::{bars, columns};
use super::fault::Fault;
use super::stalls::{STALL, Stall};

/// Bins of a printed histogram at most.
const MAX_BINS: usize = 12;

/// What was asked for, and where.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Setting {
    /// Operations due a second in all.
    pub rate: f64,
    /// Bytes of an operation.
    pub payload: usize,
    /// Replicas.
    pub replicas: usize,
    /// Clients.
    pub clients: usize,
    /// Where it ran.
    pub environment: Environment,
}

/// All that a run found.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// What was asked for.
    pub setting: Setting,
    /// The quiet phase, if there was one.
    pub quiet: Option<QuietReport>,
    /// The kinds of fault.
    pub faults: Vec<FaultReport>,
}

/// What one kind of fault costs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FaultReport {
    /// The kind.
    pub what: Fault,
    /// The median of the times without a commit; null where no repetition counts.
    pub median_ms: Option<f64>,
    /// 99 % of them were no longer; the longest when there are fewer than 100.
    pub p99_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
    /// Repetitions that count.
    pub repetitions: usize,
    /// Views that were begun or asked for while nothing had been done to anybody.
    pub suspicions_without_cause: u64,
    /// Such views for which a stall of the host may be the reason.
    pub suspicions_excluded: u64,
    /// Repetitions that do not count, since the host stalled while nothing was committed.
    pub excluded: usize,
    /// Repetitions after which another replica led.
    pub replaced: usize,
    /// Below what the median is to stay; null where nothing is set.
    pub target_ms: Option<f64>,
    /// The median latency of operations that were due within 600 ms after the fault.
    pub latency_median_ms: Option<f64>,
    /// 99 % of them took no longer.
    pub latency_p99_ms: Option<f64>,
    /// The longest.
    pub latency_max_ms: Option<f64>,
    /// Operations without a result.
    pub errors: u64,
    /// Stalls of the host above 50 ms in all the time.
    pub host_stalls: usize,
    /// The longest of them; 0 without one.
    pub host_stall_max_ms: f64,
    /// The time without a commit of each repetition that counts, in their order.
    pub gaps_ms: Vec<f64>,
    /// For drawing.
    #[serde(skip)]
    pub around: Around,
}

/// What happened while nothing was done to anybody.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct QuietReport {
    /// `quiet`.
    pub what: &'static str,
    /// For how long.
    pub seconds: f64,
    /// Whether the load was as much as the cluster takes; else it was the rate.
    pub saturated: bool,
    /// Operations with a result.
    pub operations: u64,
    /// Operations without one.
    pub errors: u64,
    /// The longest time without a commit.
    pub longest_gap_ms: f64,
    /// Views that were begun or asked for.
    pub suspicions_without_cause: u64,
    /// Such views for which a stall of the host may be the reason; not among the former.
    pub suspicions_excluded: u64,
    /// Stalls of the host above 50 ms.
    pub host_stalls: usize,
    /// The longest of them; 0 without one.
    pub host_stall_max_ms: f64,
}

fn longest_ms(stalls: &[Stall]) -> f64 {
    stalls.iter().map(Stall::length).max().unwrap_or_default().as_secs_f64() * 1_000.0
}

fn quantile_ms(histogram: &Histogram<u64>, quantile: f64) -> Option<f64> {
    (!histogram.is_empty()).then(|| histogram.value_at_quantile(quantile) as f64 / 1e6)
}

impl FaultReport {
    /// Nothing yet.
    pub fn new(what: Fault) -> Self {
        Self {
            what,
            median_ms: None,
            p99_ms: None,
            max_ms: None,
            repetitions: 0,
            suspicions_without_cause: 0,
            suspicions_excluded: 0,
            excluded: 0,
            replaced: 0,
            target_ms: what.target_ms(),
            latency_median_ms: None,
            latency_p99_ms: None,
            latency_max_ms: None,
            errors: 0,
            host_stalls: 0,
            host_stall_max_ms: 0.0,
            gaps_ms: Vec::new(),
            around: Around::default(),
        }
    }

    /// Fills in what follows from all repetitions; histograms are of nanoseconds.
    pub(super) fn sum_up(
        &mut self,
        gaps: &Histogram<u64>,
        latencies: &Histogram<u64>,
        around: Around,
        stalls: &[Stall],
    ) {
        let of = |histogram, quantile| quantile_ms(histogram, quantile);
        (self.median_ms, self.p99_ms, self.max_ms) = (of(gaps, 0.5), of(gaps, 0.99), of(gaps, 1.0));
        self.latency_median_ms = of(latencies, 0.5);
        self.latency_p99_ms = of(latencies, 0.99);
        self.latency_max_ms = of(latencies, 1.0);
        (self.host_stalls, self.host_stall_max_ms) = (stalls.len(), longest_ms(stalls));
        self.around = around;
    }

    /// Whether the median is below the target; `None` without one of them.
    pub fn met(&self) -> Option<bool> {
        Some(self.median_ms? < self.target_ms?)
    }

    /// Whether the leader was replaced, in words.
    pub fn succession(&self) -> String {
        let Self { replaced, repetitions, .. } = self;
        match (self.what, replaced) {
            (Fault::Slow, 0) => "not once replaced in the time that it was slow: it got enough done".to_owned(),
            _ => format!("another replica led after {replaced} of {repetitions}"),
        }
    }
}

impl QuietReport {
    pub(super) fn new(planned: Duration, saturated: bool) -> Self {
        Self {
            what: "quiet",
            seconds: planned.as_secs_f64(),
            saturated,
            operations: 0,
            errors: 0,
            longest_gap_ms: 0.0,
            suspicions_without_cause: 0,
            suspicions_excluded: 0,
            host_stalls: 0,
            host_stall_max_ms: 0.0,
        }
    }

    pub(super) fn suspect(&mut self, views: u64, stalled: bool) {
        *if stalled { &mut self.suspicions_excluded } else { &mut self.suspicions_without_cause } += views;
    }

    pub(super) fn sum_up(&mut self, operations: u64, elapsed: Duration, stalls: &[Stall]) {
        (self.operations, self.seconds) = (operations, elapsed.as_secs_f64());
        (self.host_stalls, self.host_stall_max_ms) = (stalls.len(), longest_ms(stalls));
    }
}

/// Milliseconds, or a dash.
fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"))
}

fn stalls(f: &mut fmt::Formatter<'_>, count: usize, longest_ms: f64) -> fmt::Result {
    let limit = STALL.as_millis();
    let longest = if count > 0 { format!(", the longest {longest_ms:.0} ms") } else { String::new() };
    writeln!(f, "  {:<32}{count:>10}{longest}", format!("stalls of the host above {limit} ms"))
}

impl fmt::Display for QuietReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = if self.saturated { "saturated" } else { "at the rate" };
        writeln!(f, "no fault, {load}, {:.1} s", self.seconds)?;
        writeln!(f, "  {:<32}{:>10}", "operations", self.operations)?;
        writeln!(f, "  {:<32}{:>10}", "errors", self.errors)?;
        writeln!(f, "  {:<32}{:>10.1} ms", "longest time without a commit", self.longest_gap_ms)?;
        suspicions(f, self.suspicions_without_cause, self.suspicions_excluded)?;
        stalls(f, self.host_stalls, self.host_stall_max_ms)
    }
}

fn suspicions(f: &mut fmt::Formatter<'_>, counted: u64, excluded: u64) -> fmt::Result {
    let besides = if excluded > 0 { format!(", and {excluded} while the host stalled") } else { String::new() };
    writeln!(f, "  {:<32}{counted:>10}{besides}", "suspicions without cause")
}

impl fmt::Display for FaultReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let excluded = match self.excluded {
            0 => String::new(),
            excluded => format!(", {excluded} more left out, since the host stalled"),
        };
        writeln!(f, "{}: {} repetitions{excluded}", self.what.title(), self.repetitions)?;
        writeln!(f, "  {}", self.succession())?;
        writeln!(f, "  {:<32}{:>10}{:>10}{:>10}", "milliseconds", "median", "p99", "max")?;
        for (name, values) in [
            ("time without a commit", [self.median_ms, self.p99_ms, self.max_ms]),
            ("latency, due in 600 ms after", [self.latency_median_ms, self.latency_p99_ms, self.latency_max_ms]),
        ] {
            let [median, p99, max] = values.map(ms);
            writeln!(f, "  {name:<32}{median:>10}{p99:>10}{max:>10}")?;
        }
        if let Some(target) = self.target_ms {
            let verdict = match self.met() {
                Some(true) => "met",
                Some(false) => "missed",
                None => "nothing to hold against it",
            };
            writeln!(f, "  {:<32}{:>10} {verdict}", "target for the median", format!("< {target:.0}"))?;
        }
        suspicions(f, self.suspicions_without_cause, self.suspicions_excluded)?;
        writeln!(f, "  {:<32}{:>10}", "operations without a result", self.errors)?;
        stalls(f, self.host_stalls, self.host_stall_max_ms)?;
        if self.repetitions == 0 {
            return Ok(());
        }
        writeln!(f, "\n  time without a commit, ms, and how often")?;
        bars(f, &Bins::new(&self.gaps_ms, MAX_BINS))?;
        let buckets = self.around.buckets(2);
        writeln!(f, "\n  commits a second, mean")?;
        let commits: Vec<_> = buckets.iter().map(|bucket| (bucket.commits_per_s, bucket.commits_per_s)).collect();
        columns(f, &commits)?;
        writeln!(f, "\n  latency by when operations were due, ms: median █, worst of all repetitions ░")?;
        let latencies: Vec<_> = buckets.iter().map(|bucket| (bucket.median_ms, bucket.worst_ms)).collect();
        columns(f, &latencies)?;
        super::chart::axis(f, self.what.mark())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { rate, payload, replicas, clients, environment } = &self.setting;
        writeln!(f, "{replicas} replicas; {clients} clients, open loop, {rate} operations/s due")?;
        writeln!(f, "bundles of 1, operations of {payload} bytes")?;
        writeln!(f, "{} cores, Linux {}", environment.cpus, environment.kernel)?;
        if let Some(quiet) = &self.quiet {
            write!(f, "\n{quiet}")?;
        }
        for fault in &self.faults {
            write!(f, "\n{fault}")?;
        }
        Ok(())
    }
}

/// A line of JSON: what was found, and what was asked for.
#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(flatten)]
    found: &'a T,
    #[serde(flatten)]
    setting: &'a Setting,
}

impl Report {
    /// As JSON, one object for each kind of fault and one for the quiet phase.
    ///
    /// # Errors
    /// Those of the serializer: none that these types can cause.
    pub fn json(&self) -> Result<Vec<String>, serde_json::Error> {
        let setting = &self.setting;
        let quiet = self.quiet.iter().map(|found| serde_json::to_string(&Line { found, setting }));
        let faults = self.faults.iter().map(|found| serde_json::to_string(&Line { found, setting }));
        faults.chain(quiet).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::latencies;

    fn report(gaps_ms: &[u64]) -> FaultReport {
        let mut gaps = latencies().unwrap();
        let mut report = FaultReport::new(Fault::Kill);
        for gap in gaps_ms {
            gaps.record(gap * 1_000_000).unwrap();
            report.gaps_ms.push(*gap as f64);
            report.repetitions += 1;
        }
        report.sum_up(&gaps, &latencies().unwrap(), Around::default(), &[]);
        report
    }

    #[test]
    fn quantiles_are_those_of_the_repetitions_in_milliseconds() {
        let report = report(&[60, 70, 80, 90, 300]);
        let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() / expected < 0.002;
        assert!(near(report.median_ms, 80.0) && near(report.p99_ms, 300.0) && near(report.max_ms, 300.0), "{report:?}");
        assert_eq!(report.met(), Some(true));
    }

    #[test]
    fn a_target_is_met_only_below_it_and_by_something() {
        assert_eq!(report(&[]).met(), None);
        assert_eq!(report(&[121]).met(), Some(false));
        assert_eq!(report(&[]).median_ms, None);
        assert!(report(&[]).to_string().contains("nothing to hold"));
        assert_eq!(FaultReport::new(Fault::Slow).met(), None);
    }

    #[test]
    fn a_slow_leader_that_stays_is_said_to_stay() {
        let mut slow = FaultReport { repetitions: 3, ..FaultReport::new(Fault::Slow) };
        assert!(slow.succession().contains("not once replaced"));
        slow.replaced = 1;
        assert!(slow.succession().contains("after 1 of 3"));
    }

    #[test]
    fn every_line_of_json_has_its_kind_and_what_was_asked_for() {
        let environment = Environment { cpus: 2, kernel: "6.1".to_owned() };
        let setting = Setting { rate: 1_000.0, payload: 128, replicas: 4, clients: 16, environment };
        let mut quiet = QuietReport::new(Duration::from_secs(1), true);
        quiet.suspect(2, false);
        quiet.suspect(3, true);
        let all = Report { setting, quiet: Some(quiet), faults: vec![report(&[60]), FaultReport::new(Fault::Slow)] };
        let lines: Vec<serde_json::Value> =
            all.json().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<_> = lines.iter().map(|line| line["what"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["kill", "slow", "quiet"]);
        for line in &lines {
            assert_eq!(
                (line["rate"].as_f64(), line["environment"]["cpus"].as_u64()),
                (Some(1_000.0), Some(2)),
                "{line}"
            );
        }
        assert_eq!(lines[0]["repetitions"], 1);
        assert!(lines[1]["median_ms"].is_null());
        assert_eq!((&lines[2]["suspicions_without_cause"], &lines[2]["suspicions_excluded"]), (&2.into(), &3.into()));
        let text = all.to_string();
        assert!(text.contains("no fault, saturated") && text.contains("kill -9"), "{text}");
    }
}
