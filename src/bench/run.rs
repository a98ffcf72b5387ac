//! A run: connects the clients, fills the store, drives the load, and puts the report together.
//!
//! One thread drives all clients, as it leaves the other cores to the replicas and takes no lock between them.
//!
//! # Steps
//! 1. The floor, by [`measure_floor`], before the replicas of an own cluster start, so that nothing disturbs it.
//! 2. All 16,000 properties are written once, 16 in an operation; left out where such an operation is larger than
//!    [`MAX_FILL_OPERATION`].
//! 3. The load ([`super::load`]) for the warm-up and the measured time; in an open loop then at most [`DRAIN`] more for what is
//!    under way. What has no result by then counts as an error.

use std::path::Path;
use std::time::{Duration, SystemTime};

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::types::Code;
use hdrhistogram::{CreationError, Histogram};

use super::floor::{DEFAULT_BUDGET, Floor, FloorError};
use super::load::{Finished, Plan};
use super::pump::{Pump, nanoseconds, options};
use super::report::{Environment, Outcome, Report, Workload};
use super::workload::{Generator, PayloadError, TWINS};
use crate::cli::interrupt::Interrupt;
use crate::client::{ClientError, ClientId, Completion, Driver, Error, SubmitError};

/// When an operation without a result counts as failed, and how long an open loop waits after its end.
pub const DRAIN: Duration = Duration::from_secs(10);
/// The largest operation that fills a twin, in bytes: two fit an entry.
pub const MAX_FILL_OPERATION: usize = 30_000;
/// Bytes of operations in a bundle that fills; the rest of an entry is for signature and outcomes.
const FILL_BUNDLE_BYTES: usize = 40_000;
/// Bundles under way while filling.
const FILL_IN_FLIGHT: usize = 4;
/// What an outcome adds to an entry for an operation that fills a twin, in bytes, at most.
const FILL_OUTCOME_BYTES: usize = 16 * 28 + 8;
/// How long is waited before it is looked whether a signal has come.
const LOOK: Duration = Duration::from_millis(100);

/// What is asked of the cluster, and for how long.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// Clients, each with its own session.
    pub clients: usize,
    /// Bundles that each keeps under way.
    pub in_flight: usize,
    /// Operations in a bundle; 1 for reads.
    pub bundle: usize,
    /// Whether properties are read instead of written.
    pub reads: bool,
    /// Bytes of an operation.
    pub payload: usize,
    /// Operations due a second in all; `None` for a closed loop.
    pub rate: Option<f64>,
    /// How long is counted.
    pub measured: Duration,
    /// How long is run before that.
    pub warm_up: Duration,
    /// Seed of the operations.
    pub seed: u64,
}

/// Whom it is asked of, and by whom.
#[derive(Debug)]
pub struct Target {
    /// The cluster.
    pub cluster: Cluster,
    /// The key of each client, as many as [`Settings::clients`]; a key may stand there several times.
    pub keys: Vec<SecretKey>,
}

/// What a run found.
#[derive(Debug)]
pub struct Measured {
    /// The result.
    pub report: Report,
    /// All latencies, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// When counting began.
    pub started: SystemTime,
    /// How long was counted.
    pub elapsed: Duration,
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No operation of this size.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The floor could not be measured.
    #[error(transparent)]
    Floor(#[from] FloorError),
    /// The histogram could not be made.
    #[error("cannot record latencies: {0}")]
    Histogram(#[from] CreationError),
    /// The clients could not be set up, or their sockets failed.
    #[error(transparent)]
    Client(#[from] Error),
    /// The load does not fit what a client may have under way.
    #[error("{0}; choose a smaller --bundle or --payload")]
    Submit(SubmitError),
    /// Too few replicas answered while the store was filled.
    #[error("the store could not be filled: {0}")]
    NoQuorum(String),
    /// The cluster refused while the store was filled.
    #[error("the cluster refused to fill the store: {code}: {detail}")]
    Refused {
        /// Why.
        code: Code,
        /// In its words.
        detail: String,
    },
    /// A signal came.
    #[error("interrupted; nothing was measured to the end")]
    Interrupted,
}

/// Measures this host's floor for a cluster whose data lie in `dir`.
///
/// # Errors
/// [`BenchError::Floor`].
pub fn measure_floor(dir: &Path, replicas: usize) -> Result<Floor, BenchError> {
    Ok(Floor::measure(dir, replicas, DEFAULT_BUDGET)?)
}

/// Runs the load against a cluster that serves.
///
/// # Errors
/// See [`BenchError`]. Operations that fail while the load runs are counted, not returned.
pub fn run(target: Target, settings: &Settings, floor: Floor, interrupt: &Interrupt) -> Result<Measured, BenchError> {
    run_filled(target, settings, floor, interrupt, || ())
}

/// As [`run`]; `filled` is called when the store is filled and the load begins.
///
/// # Errors
/// As [`run`].
pub fn run_filled(
    target: Target,
    settings: &Settings,
    floor: Floor,
    interrupt: &Interrupt,
    filled: impl FnOnce(),
) -> Result<Measured, BenchError> {
    let mut generator = Generator::new(settings.seed, settings.payload)?;
    let replicas = target.cluster.n();
    let mut driver = Driver::new(&target.cluster, None, settings.clients)?;
    let clients = target.keys.into_iter().map(|key| driver.add_client(key)).collect::<Result<Vec<_>, _>>()?;
    fill(&mut driver, &clients, &mut generator, interrupt)?;
    filled();
    let (finished, began) = drive(&mut driver, &clients, &mut generator, settings, interrupt)?;
    let Finished { latencies, counted_ns, errors, refused } = finished;
    let elapsed = Duration::from_nanos(counted_ns);
    let Settings { clients, in_flight, bundle, reads, payload, rate, .. } = *settings;
    let workload = Workload { bundle, reads, payload, clients, in_flight, rate, replicas };
    let outcome = Outcome { elapsed, errors, refused };
    let report = Report::new(workload, outcome, &latencies, floor, Environment::here());
    Ok(Measured { report, latencies, started: began + settings.warm_up, elapsed })
}

/// Writes every property once; nothing where an operation for a whole twin is too large.
pub(super) fn fill(
    driver: &mut Driver,
    clients: &[ClientId],
    generator: &mut Generator,
    interrupt: &Interrupt,
) -> Result<(), BenchError> {
    fill_twins(driver, clients, generator, TWINS, interrupt)
}

/// Writes every property of so many twins once; nothing where an operation for a whole twin is too large.
pub(super) fn fill_twins(
    driver: &mut Driver,
    clients: &[ClientId],
    generator: &mut Generator,
    twins: u64,
    interrupt: &Interrupt,
) -> Result<(), BenchError> {
    let operations: Vec<Vec<u8>> = (0..twins).map(|twin| generator.fill_twin(twin)).collect();
    let size = operations.iter().map(Vec::len).max().unwrap_or(0);
    if size > MAX_FILL_OPERATION {
        return Ok(());
    }
    let mut bundles = operations.chunks((FILL_BUNDLE_BYTES / (size + FILL_OUTCOME_BYTES)).max(1));
    let mut under_way = 0;
    let Some(&client) = clients.first() else { return Ok(()) };
    loop {
        while under_way < FILL_IN_FLIGHT
            && let Some(bundle) = bundles.next()
        {
            driver.submit(client, bundle, &options())?;
            under_way += 1;
        }
        if under_way == 0 {
            return Ok(());
        }
        if interrupt.is_set() {
            return Err(BenchError::Interrupted);
        }
        driver.poll(LOOK)?;
        while let Some(done) = driver.next_done() {
            under_way -= 1;
            check_filled(done.result)?;
        }
    }
}

fn check_filled(result: Result<Completion, Error>) -> Result<(), BenchError> {
    match result {
        Ok(Completion::Executed(results)) => match results.into_iter().find(|result| result.code != Code::DONE) {
            Some(refused) => Err(BenchError::Refused { code: refused.code, detail: refused.detail }),
            None => Ok(()),
        },
        Ok(Completion::Read(_) | Completion::Status(_) | Completion::Proof { .. }) => Ok(()),
        Err(Error::Operation { source: ClientError::Refused { code, .. }, .. }) => {
            Err(BenchError::Refused { code, detail: String::new() })
        }
        Err(error @ Error::Operation { .. }) => Err(BenchError::NoQuorum(error.to_string())),
        Err(other) => Err(other.into()),
    }
}

/// Drives the load of the settings through clients that are connected; also when it began.
pub(super) fn drive(
    driver: &mut Driver,
    clients: &[ClientId],
    generator: &mut Generator,
    settings: &Settings,
    interrupt: &Interrupt,
) -> Result<(Finished, SystemTime), BenchError> {
    let &Settings { in_flight, bundle, rate, measured, warm_up, .. } = settings;
    let (warm_up_ns, measured_ns) = (nanoseconds(warm_up), nanoseconds(measured));
    let plan = Plan { clients: clients.len(), in_flight, bundle, rate, warm_up_ns, measured_ns };
    let give_up_ns = nanoseconds(warm_up + measured + DRAIN);
    let began = SystemTime::now();
    let mut pump = Pump::new(driver, clients, generator, plan)?;
    if settings.reads {
        pump.reads();
    }
    while !pump.load().is_over(pump.now_ns()) {
        if pump.now_ns() > give_up_ns {
            pump.give_up();
            break;
        }
        if interrupt.is_set() {
            return Err(BenchError::Interrupted);
        }
        pump.turn(LOOK, |_| {})?;
    }
    Ok((pump.finish(), began))
}
