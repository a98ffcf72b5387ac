//! What a benchmark run found: as a table for people, as JSON for programs, as an HDR log for histogram tools.
//!
//! The JSON object has one field for each public field of [`Report`], by the same name; times are in microseconds.
//! Latency is that of an operation, from when it was due to be sent (open loop) or was sent (closed loop), until f+1
//! replicas gave the same reply. An operation without such a reply has no latency and counts in `errors`.
//!
//! The HDR log ([`write_hdr`]) is an interval log, version 1.3, with one interval and compressed V2 histograms in
//! nanoseconds, as HdrHistogram's log processor, plotter and merging tools read it. Percentiles of several runs are
//! to be taken from their merged logs; averages of percentiles mean nothing.

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use serde::Serialize;

use super::floor::{Floor, microseconds};

/// Maxima of a log are in milliseconds, as the tools expect.
const NS_PER_MS: f64 = 1_000_000.0;

/// What was asked of the cluster.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Workload {
    /// Operations under one signature.
    pub bundle: usize,
    /// Whether properties were read.
    pub reads: bool,
    /// Bytes of an operation.
    pub payload: usize,
    /// Clients, each with its own session.
    pub clients: usize,
    /// Bundles that each client keeps under way.
    pub in_flight: usize,
    /// Operations a second that were due in all, in an open loop; `None` in a closed one, which sends when it can.
    pub rate: Option<f64>,
    /// Replicas of the cluster.
    pub replicas: usize,
}

/// What came of it, beside the latencies.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outcome {
    /// How long operations were counted.
    pub elapsed: Duration,
    /// Operations without a result: expired, or no f+1 equal replies.
    pub errors: u64,
    /// Operations whose agreed result is a refusal; they have a latency like any other.
    pub refused: u64,
}

/// Where it ran.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Environment {
    /// Cores that this process may use.
    pub cpus: usize,
    /// The kernel's release, or empty where it does not say.
    pub kernel: String,
}

impl Environment {
    /// Asks this host.
    pub fn here() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { cpus, kernel: kernel.trim().to_owned() }
    }
}

/// The result of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Operations with a result, a second.
    pub ops_per_s: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 90 % of the operations took no longer.
    pub p90_us: f64,
    /// 99 % took no longer.
    pub p99_us: f64,
    /// 99.9 % took no longer.
    pub p999_us: f64,
    /// 99.99 % took no longer.
    pub p9999_us: f64,
    /// The slowest operation.
    pub max_us: f64,
    /// What one signed, durable, ordered operation costs this host at the least (p50); see [`Floor`]. Of a read: half of its hops, to the
    /// replicas and back.
    pub floor_us: f64,
    /// `p50_us` divided by `floor_us`.
    pub ratio_to_floor: f64,
    /// Operations under one signature.
    pub bundle: usize,
    /// Whether properties were read instead of written.
    pub reads: bool,
    /// Bytes of an operation.
    pub payload: usize,
    /// Clients.
    pub clients: usize,
    /// Bundles under way per client.
    pub in_flight: usize,
    /// Operations due a second in all; null in a closed loop.
    pub rate: Option<f64>,
    /// Replicas.
    pub replicas: usize,
    /// How long operations were counted.
    pub seconds: f64,
    /// Operations that have a latency.
    pub operations: u64,
    /// Operations without a result.
    pub errors: u64,
    /// Operations that were refused in the order.
    pub refused: u64,
    /// The parts of the floor.
    pub floor: Floor,
    /// Where it ran.
    pub environment: Environment,
}

impl Report {
    /// Puts a run together; `latencies` has the nanoseconds of each operation that got its result.
    pub fn new(
        workload: Workload,
        outcome: Outcome,
        latencies: &Histogram<u64>,
        floor: Floor,
        environment: Environment,
    ) -> Self {
        let at = |quantile| microseconds(latencies.value_at_quantile(quantile));
        let Workload { bundle, reads, payload, clients, in_flight, rate, replicas } = workload;
        let seconds = outcome.elapsed.as_secs_f64();
        let floor_us = if reads { floor.hops_us.p50 / 2.0 } else { floor.floor_us };
        Self {
            ops_per_s: quotient(latencies.len() as f64, seconds),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: microseconds(latencies.max()),
            floor_us,
            ratio_to_floor: quotient(at(0.5), floor_us),
            bundle,
            reads,
            payload,
            clients,
            in_flight,
            rate,
            replicas,
            seconds,
            operations: latencies.len(),
            errors: outcome.errors,
            refused: outcome.refused,
            floor,
            environment,
        }
    }
}

/// Zero where there is nothing to divide by, so that JSON never gets a number it cannot write.
fn quotient(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 { dividend / divisor } else { 0.0 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pace = match self.rate {
            Some(rate) => format!("open loop, {rate} operations/s due"),
            None => "closed loop".to_owned(),
        };
        let Self { replicas, clients, in_flight, bundle, payload, seconds, .. } = self;
        let what = if self.reads { "reads" } else { "bundles" };
        writeln!(f, "{replicas} replicas; {clients} clients, {in_flight} {what} in flight each, {pace}")?;
        if self.reads {
            writeln!(f, "reads of one property, f+1 equal answers each, {seconds:.1} s")?;
        } else {
            writeln!(f, "bundles of {bundle}, operations of {payload} bytes, {seconds:.1} s")?;
        }
        writeln!(f, "{} cores, Linux {}", self.environment.cpus, self.environment.kernel)?;
        writeln!(f)?;
        let what = if self.reads { "reads" } else { "operations" };
        writeln!(f, "{:<34}{:>10.0}", format!("{what} a second"), self.ops_per_s)?;
        writeln!(f, "{:<34}{:>10}", what, self.operations)?;
        writeln!(f, "{:<34}{:>10}", "refused", self.refused)?;
        writeln!(f, "{:<34}{:>10}", "errors", self.errors)?;
        writeln!(f)?;
        writeln!(f, "latency, microseconds")?;
        for (name, value) in [
            ("p50", self.p50_us),
            ("p90", self.p90_us),
            ("p99", self.p99_us),
            ("p99.9", self.p999_us),
            ("p99.99", self.p9999_us),
            ("max", self.max_us),
        ] {
            writeln!(f, "  {name:<32}{value:>10.1}")?;
        }
        writeln!(f)?;
        writeln!(f, "{}", self.floor)?;
        writeln!(f)?;
        let floor = if self.reads { "p50 in units of half the hops" } else { "p50 in units of the floor" };
        write!(f, "{floor:<34}{:>10.2}", self.ratio_to_floor)
    }
}

/// Writes `latencies`, in nanoseconds, as an HDR interval log of one interval that began at `start` and lasted
/// `elapsed`. The column of maxima is in milliseconds, as the tools expect.
///
/// # Errors
/// Those of `output`.
pub fn write_hdr(
    output: &mut impl Write,
    latencies: &Histogram<u64>,
    start: SystemTime,
    elapsed: Duration,
) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment("[Latency of operations in nanoseconds, written by atlas bench]")
        .with_start_time(start)
        .with_base_time(start)
        .begin_log_with(output, &mut serializer)?;
    writeln!(output, r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#)?;
    IntervalLogWriterBuilder::new()
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(output, &mut serializer)?
        .write_histogram(latencies, Duration::ZERO, elapsed, None)
        .map_err(io::Error::other)?;
    output.flush()
}

/// Writes what happened around an event, over several runs that are laid over each other, as an HDR interval log: an interval of
/// `width` for each of `ended`, which has the latencies in nanoseconds of what ended in it. Two comments tell `atlas plot` the number of
/// runs, and when and what the event was; other tools pass them over.
///
/// # Errors
/// Those of `output`.
pub fn write_hdr_around(
    output: &mut impl Write,
    ended: &[Vec<u64>],
    width: Duration,
    runs: usize,
    event: (Duration, &str),
) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    writeln!(output, "#[Histogram log format version 1.3]")?;
    writeln!(output, "#[Latency of operations in nanoseconds by when they ended, written by atlas bench failover]")?;
    writeln!(output, "#[Runs: {runs}]\n#[Event: {:.3} {}]", event.0.as_secs_f64(), event.1)?;
    writeln!(output, r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#)?;
    let mut log = IntervalLogWriterBuilder::new();
    let mut log = log.with_max_value_divisor(NS_PER_MS).begin_log_with(output, &mut serializer)?;
    for (index, latencies) in (0..).zip(ended) {
        let mut histogram = super::latencies().map_err(io::Error::other)?;
        latencies.iter().for_each(|latency| histogram.saturating_record(*latency));
        log.write_histogram(&histogram, width * index, width, None).map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
