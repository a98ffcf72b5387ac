//! What overload and floods did.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::flood::Flooded;
use super::offer::Offered;
use crate::bench::floor::microseconds;
use crate::bench::report::Environment;

/// The closed loop.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Peak {
    /// Operations a second.
    pub ops_per_s: f64,
    /// Median latency, us.
    pub p50_us: f64,
    /// 99 % took no longer, us.
    pub p99_us: f64,
    /// Operations without a result.
    pub errors: u64,
}

impl Peak {
    /// Of latencies in nanoseconds, counted over such a time.
    pub(super) fn of(latencies: &Histogram<u64>, counted_ns: u64, errors: u64) -> Self {
        Self {
            ops_per_s: quotient(latencies.len() as f64 * 1e9, counted_ns as f64),
            p50_us: microseconds(latencies.value_at_quantile(0.5)),
            p99_us: microseconds(latencies.value_at_quantile(0.99)),
            errors,
        }
    }
}

/// What replicas refused with one code.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RefusalLine {
    /// The code.
    pub code: u16,
    /// In words.
    pub text: &'static str,
    /// How often, all replicas and sendings together.
    pub times: u64,
    /// How often with a hint when to try again.
    pub hinted: u64,
    /// The shortest hint, ms.
    pub least_retry_ms: u32,
    /// The longest, ms.
    pub most_retry_ms: u32,
}

/// One open loop. Numbers are of operations.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Phase {
    /// Due a second.
    pub rate: f64,
    /// Executed a second.
    pub ops_per_s: f64,
    /// The same in units of the peak.
    pub of_peak: f64,
    /// Due in the measured time.
    pub offered: u64,
    /// Never sent: the load itself was too slow.
    pub unsent: u64,
    /// Turned away by their clients.
    pub turned_away: u64,
    /// Refused for good.
    pub refused: u64,
    /// Without a result.
    pub failed: u64,
    /// Latency of what was executed: median, us.
    pub p50_us: f64,
    /// 99 %, us.
    pub p99_us: f64,
    /// 99.9 %, us.
    pub p999_us: f64,
    /// The longest, us.
    pub max_us: f64,
    /// What replicas refused.
    pub refusals: Vec<RefusalLine>,
    /// Operations of the client that was served least.
    pub least_served: u64,
    /// And most.
    pub most_served: u64,
    /// Jain's index.
    pub jain: f64,
    /// How late the load itself was at worst, us.
    pub late_us: f64,
}

impl Phase {
    /// Of what was offered at a rate for a time, beside that peak.
    pub(super) fn of(found: &Offered, rate: f64, measured: Duration, peak: f64) -> Self {
        let served: u64 = found.served.iter().sum();
        let ops_per_s = quotient(served as f64, measured.as_secs_f64());
        let at = |quantile| microseconds(found.latencies.value_at_quantile(quantile));
        let refusals = found.refusals.iter().map(|(code, refusals)| RefusalLine {
            code: code.0,
            text: code.text(),
            times: refusals.times,
            hinted: refusals.hinted,
            least_retry_ms: refusals.retry_ms.0,
            most_retry_ms: refusals.retry_ms.1,
        });
        Self {
            rate,
            ops_per_s,
            of_peak: quotient(ops_per_s, peak),
            offered: found.offered,
            unsent: found.unsent,
            turned_away: found.turned_away,
            refused: found.refused,
            failed: found.failed,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: microseconds(found.latencies.max()),
            refusals: refusals.collect(),
            least_served: found.served.iter().copied().min().unwrap_or(0),
            most_served: found.served.iter().copied().max().unwrap_or(0),
            jain: jain(&found.served),
            late_us: microseconds(found.late_ns),
        }
    }
}

/// Jain's index of fairness; 0 where nobody was served.
pub(super) fn jain(served: &[u64]) -> f64 {
    let sum: f64 = served.iter().map(|served| *served as f64).sum();
    let squares: f64 = served.iter().map(|served| (*served as f64).powi(2)).sum();
    quotient(sum * sum, served.len() as f64 * squares)
}

/// Half of the peak, alone and beside a flood.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Forged {
    /// Alone.
    pub alone: Phase,
    /// Beside it.
    pub beside: Phase,
    /// The flood.
    pub flood: Flooded,
}

/// The result.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Replicas.
    pub replicas: usize,
    /// Honest clients.
    pub clients: usize,
    /// Operations under a signature.
    pub bundle: usize,
    /// Bytes of an operation.
    pub payload: usize,
    /// How long each step counted.
    pub seconds: f64,
    /// The closed loop.
    pub peak: Peak,
    /// Open loops beyond it.
    pub phases: Vec<Phase>,
    /// Beside forgers; null unless that was asked for.
    pub forged: Option<Forged>,
    /// Where it ran.
    pub environment: Environment,
}

/// Zero where there is nothing to divide by, so that JSON never gets a number that it cannot write.
fn quotient(dividend: f64, divisor: f64) -> f64 {
    if divisor > 0.0 { dividend / divisor } else { 0.0 }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replicas, clients, bundle, payload, seconds, .. } = self;
        let Environment { cpus, kernel } = &self.environment;
        writeln!(
            f,
            "{replicas} replicas, {clients} honest clients, bundles of {bundle}, operations of {payload} bytes, {seconds:.1} s each"
        )?;
        writeln!(
            f,
            "{cpus} cores, Linux {kernel}, which the load shares with the replicas unless --cluster is elsewhere\n"
        )?;
        let Peak { ops_per_s, p50_us, p99_us, errors } = self.peak;
        let (p50, p99) = (p50_us / 1e3, p99_us / 1e3);
        writeln!(
            f,
            "peak, closed loop: {ops_per_s:.0} operations/s, p50 {p50:.1} ms, p99 {p99:.1} ms, {errors} errors\n"
        )?;
        head(f)?;
        for phase in &self.phases {
            show(f, &format!("{:.1} times", quotient(phase.rate, ops_per_s)), phase)?;
        }
        for phase in &self.phases {
            refusals(f, quotient(phase.rate, ops_per_s), phase)?;
        }
        if let Some(Forged { alone, beside, flood }) = &self.forged {
            writeln!(f)?;
            head(f)?;
            show(f, "half, alone", alone)?;
            show(f, "half, flood", beside)?;
            refusals(f, quotient(beside.rate, ops_per_s), beside)?;
            let Flooded { bundles, bundles_per_s, forger_links, stranger_dials, cpu_share } = flood;
            writeln!(
                f,
                "flood: {bundles} forged bundles ({bundles_per_s:.0}/s) over {forger_links} links, {stranger_dials} handshakes by a \
                 stranger; it took {:.0} % of a core itself",
                100.0 * cpu_share
            )?;
        }
        Ok(())
    }
}

fn head(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "{:<12}{:>11}{:>12}{:>9}{:>10}{:>10}{:>10}{:>9}{:>12}{:>10}{:>9}{:>10}{:>10}{:>7}{:>10}",
        "of the peak",
        "offered/s",
        "executed/s",
        "of peak",
        "p50, ms",
        "p99, ms",
        "max, ms",
        "unsent",
        "turned away",
        "refused",
        "failed",
        "least",
        "most",
        "Jain",
        "late, ms"
    )
}

fn show(f: &mut fmt::Formatter<'_>, name: &str, phase: &Phase) -> fmt::Result {
    let Phase { rate, ops_per_s, unsent, turned_away, refused, failed, least_served, most_served, jain, .. } = phase;
    let of_peak = format!("{:.1} %", 100.0 * phase.of_peak);
    let [p50, p99, max, late] = [phase.p50_us, phase.p99_us, phase.max_us, phase.late_us].map(|us| us / 1e3);
    writeln!(
        f,
        "{name:<12}{rate:>11.0}{ops_per_s:>12.0}{of_peak:>9}{p50:>10.1}{p99:>10.1}{max:>10.1}{unsent:>9}{turned_away:>12}{refused:>10}\
         {failed:>9}{least_served:>10}{most_served:>10}{jain:>7.3}{late:>10.1}"
    )
}

fn refusals(f: &mut fmt::Formatter<'_>, factor: f64, phase: &Phase) -> fmt::Result {
    for line in &phase.refusals {
        let RefusalLine { code, text, times, hinted, least_retry_ms, most_retry_ms } = line;
        let hint = match hinted {
            0 => "never with a hint when to try again".to_owned(),
            _ => format!("{hinted} with a hint to try again after {least_retry_ms} to {most_retry_ms} ms"),
        };
        writeln!(f, "  {factor:.1} times: replicas refused {times} times with {code} ({text}), {hint}")?;
    }
    Ok(())
}
