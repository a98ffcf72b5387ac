//! `atlas bench overload`: what the cluster does when more is asked of it than it can do, and when somebody forges.
//!
//! # Steps
//! 1. The peak: a closed loop with [`UNDER_WAY`] bundles under way, as `bench throughput` has it.
//! 2. For each factor, as many times the peak in an open loop: bundle k is due at `k * bundle / rate`, for client `k mod clients`, whoever
//!    waits for whatever. A bundle for which its client's session has no room is **turned away** at once, by the client itself
//!    (`WindowFull`); all others are signed and sent. Then what is under way ends, before the next.
//! 3. With `--forged`: half of the peak in an open loop, alone and then beside a flood ([`flood`]): a registered client that sends
//!    nothing but bundles with bad signatures, and a stranger that dials again and again.
//!
//! # What counts
//! What was due within the measured time is **offered**. Of it: unsent (the load itself was too slow), turned away, **refused** (f+1 replicas refused it for good),
//! **failed** (no result within [`super::run::DRAIN`]), or it was admitted and has a latency, from its sending. A load on a busy host is late
//! itself: by how much at worst stands beside it, and is no part of that latency. Throughput is of what ended within the measured time.
//! Refusals are told as replicas sent them, one for each replica and sending, with when they said to try again; the client library then
//! does so by itself.
//!
//! Fairness is of the operations x that each client had executed in the measured time: least and most, and Jain's index
//! `(sum x)^2 / (clients * sum x^2)`, 1 where all are served alike and `1 / clients` where one has everything.
//!
//! # On one machine
//! The load is made on the cores that the replicas need: signing four times the peak costs the replicas what it takes. `late_us` says by how
//! much the load itself was late at worst, and the flood's own CPU is told. On servers of their own put the load elsewhere (`--cluster`).
//!
//! Source: Jain, Chiu & Hawe, "A Quantitative Measure of Fairness and Discrimination" (DEC-TR-301, 1984).

pub mod flood;
pub mod offer;
pub mod report;
#[cfg(test)]
mod tests;

use std::time::Duration;

use flood::{Flood, FloodError};
use offer::{Offer, Offered};
use report::{Forged, Phase, Report};

use super::load::Finished;
use super::report::Environment;
use super::run::{self, BenchError, Settings, Target};
use super::workload::Generator;
use crate::cli::interrupt::Interrupt;
use crate::client::{ClientId, Driver};

/// Bundles under way at the peak.
pub const UNDER_WAY: usize = 128;
/// Share of the peak at which honest clients work beside a flood.
pub const BESIDE: f64 = 0.5;

/// What is to be measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Overload {
    /// Operations under a signature.
    pub bundle: usize,
    /// Bytes of an operation.
    pub payload: usize,
    /// How long each step counts.
    pub measured: Duration,
    /// How long each runs before that.
    pub warm_up: Duration,
    /// Times the peak.
    pub factors: Vec<f64>,
    /// Forged bundles a second, if somebody is to forge.
    pub forged: Option<f64>,
    /// Seed of the operations.
    pub seed: u64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum OverloadError {
    /// The honest load.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The hostile one.
    #[error(transparent)]
    Flood(#[from] FloodError),
    /// Nothing was executed, so there is nothing to compare with.
    #[error("the cluster executed nothing in the closed loop: no peak to overload")]
    NoPeak,
}

impl From<crate::client::Error> for OverloadError {
    fn from(error: crate::client::Error) -> Self {
        Self::Bench(error.into())
    }
}

/// Runs it against a cluster that serves. The last key of `target` is the forger's, all others are honest clients'.
///
/// # Errors
/// See [`OverloadError`].
pub fn run(target: Target, overload: &Overload, interrupt: &Interrupt) -> Result<Report, OverloadError> {
    let Target { cluster, mut keys } = target;
    let forger = keys.pop().filter(|_| overload.forged.is_some());
    let mut generator = Generator::new(overload.seed, overload.payload).map_err(BenchError::from)?;
    let mut driver = Driver::new(&cluster, None, keys.len())?;
    let clients = keys.into_iter().map(|key| driver.add_client(key)).collect::<Result<Vec<_>, _>>()?;
    run::fill(&mut driver, &clients, &mut generator, interrupt)?;
    let mut load = Load { driver, clients, generator, overload, interrupt };
    let peak = load.peak()?;
    if peak.ops_per_s <= 0.0 {
        return Err(OverloadError::NoPeak);
    }
    let mut phases = Vec::new();
    for factor in &overload.factors {
        let offered = load.offer(factor * peak.ops_per_s)?;
        phases.push(Phase::of(&offered, factor * peak.ops_per_s, overload.measured, peak.ops_per_s));
    }
    let mut forged = None;
    if let (Some(rate), Some(forger)) = (overload.forged, forger) {
        let honest = BESIDE * peak.ops_per_s;
        let alone = load.offer(honest)?;
        let flood = Flood::start(&cluster, forger, rate)?;
        let beside = load.offer(honest);
        let flood = flood.stop()?;
        let phase = |offered| Phase::of(offered, honest, overload.measured, peak.ops_per_s);
        forged = Some(Forged { alone: phase(&alone), beside: phase(&beside?), flood });
    }
    Ok(Report {
        replicas: cluster.n(),
        clients: load.clients.len(),
        bundle: overload.bundle,
        payload: overload.payload,
        seconds: overload.measured.as_secs_f64(),
        peak,
        phases,
        forged,
        environment: Environment::here(),
    })
}

/// The honest clients.
struct Load<'a> {
    driver: Driver,
    clients: Vec<ClientId>,
    generator: Generator,
    overload: &'a Overload,
    interrupt: &'a Interrupt,
}

impl Load<'_> {
    fn peak(&mut self) -> Result<report::Peak, OverloadError> {
        let Overload { bundle, payload, measured, warm_up, seed, .. } = *self.overload;
        let clients = self.clients.len();
        let in_flight = UNDER_WAY.div_ceil(clients);
        let settings =
            Settings { clients, in_flight, bundle, reads: false, payload, rate: None, measured, warm_up, seed };
        let Self { driver, clients, generator, interrupt, .. } = self;
        let (finished, _) = run::drive(driver, clients, generator, &settings, interrupt)?;
        let Finished { latencies, counted_ns, errors, .. } = finished;
        offer::settle(driver, interrupt)?;
        Ok(report::Peak::of(&latencies, counted_ns, errors))
    }

    fn offer(&mut self, rate: f64) -> Result<Offered, OverloadError> {
        let Overload { bundle, measured, warm_up, .. } = *self.overload;
        let offer = Offer { rate, bundle, warm_up, measured };
        Ok(offer.run(&mut self.driver, &self.clients, &mut self.generator, self.interrupt)?)
    }
}
