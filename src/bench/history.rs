//! `atlas bench history`: what the history and its certificates cost, and how soon a receipt is there.
//!
//! The same loads in turn against replicas such as always and against such that hash, keep and cosign nothing: whatever the host does
//! meanwhile it does to both. Receipts are asked for by a client of its own while others give half the load.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::history::tlog_policy::Policy;
use atlas_dataplane::history::tlog_proof::TlogProof;
use atlas_dataplane::types::ReplicaId;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::floor::Floor;
use super::run::{self, BenchError, Settings, Target};
use super::workload::Generator;
use crate::cli::interrupt::Interrupt;
use crate::client::{Client, ClientConfig, ProofQuestion};

/// Keys that receipts are asked for with.
pub const RECEIPT_CLIENTS: usize = 1;
/// How long a receipt may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One turn of the comparison: with the history and without.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Round {
    /// Operations a second.
    pub throughput: [f64; 2],
    /// Median of one operation at a time, us.
    pub latency_us: [f64; 2],
}

/// The result.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Turns.
    pub rounds: usize,
    /// Operations a second, median of the turns.
    pub operations_per_second: f64,
    /// The same without a history.
    pub without_history_per_second: f64,
    /// Median over the turns of what of the throughput the history costs.
    pub throughput_cost: f64,
    /// One operation at a time, median, us.
    pub latency_us: f64,
    /// The same without a history.
    pub without_history_latency_us: f64,
    /// Median over the turns of what it adds to that, of one.
    pub latency_cost: f64,
    /// The least and the most that a turn said of the throughput's cost.
    pub throughput_costs: [f64; 2],
    /// Likewise of what it adds to the latency. What has both signs is the host's noise.
    pub latency_costs: [f64; 2],
    /// Operations a second while receipts were asked for.
    pub receipts_at: f64,
    /// Receipts.
    pub receipts: u64,
    /// From an operation's reply until its receipt is there and verified, ms.
    pub receipt_p50_ms: f64,
    /// Likewise.
    pub receipt_p99_ms: f64,
    /// Likewise.
    pub receipt_max_ms: f64,
}

/// The median of values; 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Report {
    /// Of all turns, and of receipts in nanoseconds.
    pub fn new(rounds: &[Round], receipts_at: f64, receipts: &Histogram<u64>) -> Self {
        let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
        let range = |value: fn(&Round) -> f64| {
            let least = rounds.iter().map(value).fold(f64::INFINITY, f64::min);
            [least, rounds.iter().map(value).fold(f64::NEG_INFINITY, f64::max)]
        };
        let throughput_cost = |round: &Round| 1.0 - round.throughput[0] / round.throughput[1];
        let latency_cost = |round: &Round| round.latency_us[0] / round.latency_us[1] - 1.0;
        let ms = |quantile| receipts.value_at_quantile(quantile) as f64 / 1e6;
        Self {
            rounds: rounds.len(),
            operations_per_second: of(|round| round.throughput[0]),
            without_history_per_second: of(|round| round.throughput[1]),
            throughput_cost: of(throughput_cost),
            throughput_costs: range(throughput_cost),
            latency_us: of(|round| round.latency_us[0]),
            without_history_latency_us: of(|round| round.latency_us[1]),
            latency_cost: of(latency_cost),
            latency_costs: range(latency_cost),
            receipts_at,
            receipts: receipts.len(),
            receipt_p50_ms: ms(0.5),
            receipt_p99_ms: ms(0.99),
            receipt_max_ms: receipts.max() as f64 / 1e6,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "medians of {} turns          with history    without       cost   least to most", self.rounds)?;
        let mut line = |what, with: f64, without: f64, cost: f64, [least, most]: [f64; 2]| {
            let [cost, least, most] = [cost, least, most].map(|share| 100.0 * share);
            writeln!(f, "  {what:<24} {with:>14.0} {without:>10.0} {cost:>8.1} % {least:>6.1} to {most:.1}")
        };
        let (with, without) = (self.operations_per_second, self.without_history_per_second);
        line("operations/s", with, without, self.throughput_cost, self.throughput_costs)?;
        let (with, without) = (self.latency_us, self.without_history_latency_us);
        line("one at a time, p50, us", with, without, self.latency_cost, self.latency_costs)?;
        writeln!(f, "receipts at {:.0} operations/s: {} of them", self.receipts_at, self.receipts)?;
        write!(
            f,
            "  after the reply, ms        p50 {:.1}   p99 {:.1}   longest {:.1}",
            self.receipt_p50_ms, self.receipt_p99_ms, self.receipt_max_ms
        )
    }
}

/// Asks for receipts, one after the other, while the load runs; gives the times in nanoseconds.
///
/// # Errors
/// As [`run::run`]; a receipt that does not hold or does not come.
pub fn receipts(
    target: Target,
    asker: Vec<SecretKey>,
    load: &Settings,
    floor: Floor,
    interrupt: &Interrupt,
) -> Result<Histogram<u64>, BenchError> {
    let cluster = target.cluster.clone();
    let time = load.measured + load.warm_up;
    thread::scope(|scope| {
        let asking = scope.spawn(move || -> Result<Histogram<u64>, BenchError> {
            let mut times = Histogram::new(3)?;
            let policy = Policy::parse(cluster.policy_text().as_bytes()).ok();
            let mut generator = Generator::new(7, load.payload)?;
            let n = cluster.n();
            let Some(key) = asker.into_iter().next() else { return Ok(times) };
            let mut client = Client::connect(ClientConfig::new(cluster, key))?;
            let (start, mut number) = (Instant::now(), 0usize);
            while start.elapsed() < time {
                let result = client.execute(vec![generator.operation()])?;
                let replied = Instant::now();
                let Some(result) = result.first() else { continue };
                let of = ReplicaId((number % n) as u8);
                let proof = client.prove(&ProofQuestion::Receipt(result.position.entry), of, PATIENCE)?;
                let holds = TlogProof::parse(&proof).ok().zip(policy.as_ref());
                if holds.is_none_or(|(proof, policy)| proof.check(policy).is_err()) {
                    return Err(BenchError::NoQuorum(format!("replica {of} gave a receipt that does not hold")));
                }
                if start.elapsed() > load.warm_up {
                    times.record(replied.elapsed().as_nanos() as u64).unwrap_or_default();
                }
                number += 1;
            }
            Ok(times)
        });
        let loaded = run::run(target, load, floor, interrupt);
        let times = asking.join().unwrap_or(Err(BenchError::Interrupted));
        loaded?;
        times
    })
}
