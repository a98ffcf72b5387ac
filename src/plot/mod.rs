//! `atlas plot`: latencies as pictures, from the HDR histogram logs that `atlas bench --hdr` writes.
//!
//! # Input
//! [`read`]: interval logs of HdrHistogram (version 1.3, compressed V2 histograms), one or many intervals. All intervals of a file are
//! one run. Two comment lines mean something here and nothing to other tools: `#[Event: SECONDS TEXT]`, a moment to mark, on the
//! time of the intervals; and `#[Runs: N]`, that N runs were laid over each other, so that a rate is a mean over them.
//!
//! # Output
//! One SVG that needs nothing else. [`percentile`]: latency by percentile, several runs in one drawing. [`timeline`]: operations a
//! second and latency over time, a panel for each run. Both have scales by decades, for a median and a maximum are often a
//! thousandfold apart, and a legend that is a table below the drawing with the numbers that people compare.
//!
//! # Limits
//! [`MAX_RUNS`] files of [`read::MAX_FILE`] bytes with [`read::MAX_INTERVALS`] intervals.

mod axis;
pub mod percentile;
pub mod read;
pub mod timeline;

#[cfg(test)]
mod tests;

use hdrhistogram::Histogram;
use serde::Serialize;

pub use read::{Interval, ReadError, Run, Unit};

/// Runs in one picture: more could not be told apart.
pub const MAX_RUNS: usize = 8;

/// Colours that people with each kind of colour blindness tell apart (Okabe and Ito, 2008), the faintest left out.
const COLOURS: [&str; MAX_RUNS] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b4a2f", "#444444"];
/// Dashes, for prints without colour.
const DASHES: [&str; MAX_RUNS] = ["", "7 3", "2 2", "9 3 2 3", "", "7 3", "2 2", "9 3 2 3"];

const WIDTH: f64 = 960.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 924.0;
/// Height of what stands above the drawings.
const HEAD: f64 = 70.0;

const STYLE: &str = "\
text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#44505c}\
.h{font-size:18px;font-weight:600;fill:#1b2530}.t{font-size:13px;font-weight:600;fill:#1b2530}\
.s{font-size:11px;fill:#5b6774}.m{font-weight:600;fill:#b3261e}.n{font-variant-numeric:tabular-nums}\
.g{stroke:#e4e8ec;stroke-width:1}.f{stroke:#f1f4f6;stroke-width:1}.a{stroke:#98a3ae;stroke-width:1}\
.e{stroke:#b3261e;stroke-width:1.5;stroke-dasharray:4 3}.l{fill:none;stroke-width:2;stroke-linejoin:round}";

/// What people compare of a run; times in microseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Numbers {
    /// The run's name.
    pub run: String,
    /// Operations with a latency.
    pub operations: u64,
    /// Operations a second over its intervals, as a mean over the runs that were laid over each other; null where no time is told.
    pub ops_per_s: Option<f64>,
    /// Half took no longer.
    pub p50_us: f64,
    /// 90 % took no longer.
    pub p90_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// 99.99 %.
    pub p9999_us: f64,
    /// The slowest.
    pub max_us: f64,
}

impl Numbers {
    /// Of a run.
    pub fn of(run: &Run) -> Self {
        let all = &run.all;
        let at = |quantile| microseconds(all.value_at_quantile(quantile));
        let seconds: f64 = run.intervals.iter().map(|interval| interval.seconds).sum::<f64>() * f64::from(run.runs);
        Self {
            run: run.name.clone(),
            operations: all.len(),
            ops_per_s: (seconds > 0.0).then(|| all.len() as f64 / seconds),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: if all.is_empty() { 0.0 } else { microseconds(all.max()) },
        }
    }
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// A time for people, with three digits: `870 ns`, `71.3 us`, `1.24 ms`, `2 s`.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", short(value))
}

/// A number with about three digits and no zeros that say nothing.
fn short(value: f64) -> String {
    let text = match value.abs() {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A count with its thousands apart.
fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Latencies in nanoseconds of several intervals together.
///
/// # Errors
/// None with the constants of [`crate::bench::latencies`].
fn merged<'a>(all: impl Iterator<Item = &'a Histogram<u64>>) -> Result<Histogram<u64>, hdrhistogram::CreationError> {
    let mut merged = crate::bench::latencies()?;
    for histogram in all {
        for step in histogram.iter_recorded() {
            merged.saturating_record_n(step.value_iterated_to(), step.count_at_value());
        }
    }
    Ok(merged)
}
