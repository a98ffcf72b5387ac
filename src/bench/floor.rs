//! The floor of this host: what one signed, durable, ordered operation costs at the very least, measured in the same
//! run as the cluster that is compared with it.
//!
//! # Parts
//! Each is measured by the fastest method known, with raw `io-uring` and the signature crate, and shares no code with
//! the replica; each is printed singly.
//!
//! - **hops**: the messages of one ordered request on the fast path, over loopback TCP and io_uring, by
//!   sleeping threads; no cryptography, no disk.
//! - **sign, verify, verify in batches of 64**: Ed25519 by the ZIP 215 rules. The batch is of 64 different
//!   keys and is given per signature.
//! - **append, append shared**: a durable 4 KiB append in the data directory, by one log alone and by one
//!   log per replica at once, as they share the disk when the whole cluster stands on this host.
//!
//! # The combined floor
//! ```text
//! floor = hops + sign + verify + append shared
//! ```
//! The client signs once; the replicas verify beside each other, so one verification lies on the path; all make the
//! vote durable beside each other, so one append lies on it, at the speed of a disk that all of them use. That is one
//! sync: the fast path needs no second. `floor_us` adds the four p50, `floor_p99_us` the four p99. A sum of percentiles
//! is not the percentile of the sum: at p99 it overstates, since the parts are seldom slow together.
//!
//! # Limits
//! Sleeping threads stand for the replicas' processes: a switch between threads of one process is no dearer than one
//! between processes, so the floor errs on the low side. On a host with fewer cores than replicas, appends and hops
//! queue for the cores as the replicas do. The time is bounded by the budget, plus the making of the files (4 MiB a
//! log) and [`MIN_SAMPLES`] samples of each part.

mod append;
mod crypto;
mod hops;
mod ring;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, io};

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

pub use append::AppendMethod;

/// Time for all parts together unless the user says otherwise.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(3);
/// The longest budget; a longer one is cut to this.
pub const MAX_BUDGET: Duration = Duration::from_secs(60);
/// The most replicas a floor is measured for: every one is a thread here and connected with every other.
pub const MAX_REPLICAS: usize = 16;
/// Samples that each part takes even when its share of the budget is over.
pub const MIN_SAMPLES: u64 = 64;

/// Shares of the budget in percent; each of the three signature parts has its own.
const HOPS_PERCENT: u32 = 35;
const SIGNATURE_PERCENT: u32 = 5;
const APPEND_PERCENT: u32 = 25;

/// Why a floor could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The caller's: no message pattern for so few or so many replicas.
    #[error("a floor is measured for 1 to {MAX_REPLICAS} replicas, not for {0}")]
    Replicas(usize),
    /// The host's: the kernel refuses a ring of the kind that the measurement needs.
    #[error(
        "cannot set up io_uring: {0}; it needs Linux 6.1 or newer, kernel.io_uring_disabled = 0, a container profile \
         that allows io_uring, and lockable memory beside what this user's other rings hold (ulimit -l)"
    )]
    Ring(#[source] io::Error),
    /// The host's: loopback connections cannot be made or broke.
    #[error("cannot measure hops over loopback: {0}")]
    Network(#[source] io::Error),
    /// The host's: a round of messages did not come back.
    #[error("cannot measure hops over loopback: no reply within {} s; is the host overloaded?", .0.as_secs())]
    Stalled(Duration),
    /// The data directory's: its disk is full, read-only, missing or fails.
    #[error("cannot measure appends in {}: {source}", directory.display())]
    Disk {
        /// The directory that was to be measured.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The host's: no thread for a replica, or one ended early.
    #[error("cannot run a thread for the floor's measurement: {0}")]
    Thread(#[source] io::Error),
    /// Ours: a signature just made was refused.
    #[error("the signature library refused a signature that it had made; this build cannot be trusted")]
    Signature,
    /// Ours: the histogram of the samples could not be made.
    #[error("cannot record samples: {0}")]
    Histogram(#[from] CreationError),
}

/// A distribution of times in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// 90 % took no longer.
    pub p90: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer; the slowest sample when there are fewer than 1,000.
    pub p999: f64,
    /// The slowest sample.
    pub max: f64,
    /// How many samples there are.
    pub samples: u64,
}

impl Percentiles {
    /// Reads them off a histogram of nanoseconds; all zero when it is empty.
    pub fn of(nanoseconds: &Histogram<u64>) -> Self {
        let at = |quantile| microseconds(nanoseconds.value_at_quantile(quantile));
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: microseconds(nanoseconds.max()),
            samples: nanoseconds.len(),
        }
    }
}

/// Nanoseconds as microseconds, for showing.
pub(super) fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1_000.0
}

/// The parts and the sum; see the module's documentation for what each means.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Floor {
    /// One round of messages as the client sees it.
    pub hops_us: Percentiles,
    /// One Ed25519 signature over 128 bytes.
    pub sign_us: Percentiles,
    /// One Ed25519 verification, alone.
    pub verify_us: Percentiles,
    /// One Ed25519 verification in a batch of 64 different keys: the batch's time divided by 64.
    pub verify_batch_us: Percentiles,
    /// One durable 4 KiB append by a log that has the disk for itself.
    pub append_us: Percentiles,
    /// One durable 4 KiB append while as many logs as replicas do the same.
    pub append_shared_us: Percentiles,
    /// How appends were made durable, which depends on the file system.
    pub append_method: AppendMethod,
    /// The sum of the p50 of hops, sign, verify and append shared.
    pub floor_us: f64,
    /// The sum of the p99 of the same parts; overstates the p99 of the whole.
    pub floor_p99_us: f64,
    /// Replicas in the message pattern, and logs that appended at once.
    pub replicas: usize,
}

impl Floor {
    /// Measures this host's floor for a cluster of `replicas` whose data lies in `directory`.
    ///
    /// Files of 4 MiB a replica are made in `directory`; they have no name from the moment they are open, so nothing
    /// is left behind, however the process ends. `budget` ([`DEFAULT_BUDGET`]) is the time for all parts together, at
    /// most [`MAX_BUDGET`]. Blocks the calling thread.
    ///
    /// # Errors
    /// See [`FloorError`]; nothing is measured by a slower method in silence, [`Floor::append_method`] tells.
    pub fn measure(directory: &Path, replicas: usize, budget: Duration) -> Result<Self, FloorError> {
        if !(1..=MAX_REPLICAS).contains(&replicas) {
            return Err(FloorError::Replicas(replicas));
        }
        let share = |percent: u32| budget.min(MAX_BUDGET) * percent / 100;
        let hops_us = Percentiles::of(&hops::measure(replicas, share(HOPS_PERCENT))?);
        let signatures = crypto::measure(share(SIGNATURE_PERCENT))?;
        let (alone, method) = append::measure(directory, 1, share(APPEND_PERCENT))?;
        let (shared, _) = append::measure(directory, replicas, share(APPEND_PERCENT))?;
        let append_shared_us = Percentiles::of(&shared);
        let path = [hops_us, signatures.sign, signatures.verify, append_shared_us];
        Ok(Self {
            hops_us,
            sign_us: signatures.sign,
            verify_us: signatures.verify,
            verify_batch_us: signatures.verify_batch,
            append_us: Percentiles::of(&alone),
            append_shared_us,
            append_method: method,
            floor_us: path.iter().map(|part| part.p50).sum(),
            floor_p99_us: path.iter().map(|part| part.p99).sum(),
            replicas,
        })
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<34}{:>10}{:>10}{:>10}{:>10}",
            "floor of this host, microseconds", "p50", "p90", "p99", "p99.9"
        )?;
        let batch = format!("Ed25519 verify, each of batch {}", crypto::BATCH);
        let shared = format!("durable 4 KiB append, {} logs", self.replicas);
        let hops = format!("hops, {} replicas", self.replicas);
        for (name, part) in [
            (hops.as_str(), &self.hops_us),
            ("Ed25519 sign", &self.sign_us),
            ("Ed25519 verify", &self.verify_us),
            (&batch, &self.verify_batch_us),
            ("durable 4 KiB append, 1 log", &self.append_us),
            (&shared, &self.append_shared_us),
        ] {
            writeln!(f, "  {name:<32}{:>10.1}{:>10.1}{:>10.1}{:>10.1}", part.p50, part.p90, part.p99, part.p999)?;
        }
        writeln!(
            f,
            "  {:<32}{:>10.1}{:>10}{:>10.1}",
            "hops + sign + verify + append", self.floor_us, "", self.floor_p99_us
        )?;
        write!(f, "  append by {}; the last line sums each column", self.append_method)
    }
}

/// Repeats `action` until `budget` is over, at least [`MIN_SAMPLES`] times, and records the time of each in
/// nanoseconds divided by `parts`. The first few runs warm caches and are not recorded.
fn repeat<E: From<CreationError>>(
    budget: Duration,
    parts: u64,
    mut action: impl FnMut() -> Result<(), E>,
) -> Result<Histogram<u64>, E> {
    const WARM_UP: u64 = 16;
    let mut times = super::latencies()?;
    for _ in 0..WARM_UP {
        action()?;
    }
    let start = Instant::now();
    let mut before = start;
    while times.len() < MIN_SAMPLES || before.duration_since(start) < budget {
        action()?;
        let after = Instant::now();
        let elapsed = u64::try_from(after.duration_since(before).as_nanos()).unwrap_or(u64::MAX);
        times.saturating_record(elapsed / parts);
        before = after;
    }
    Ok(times)
}
