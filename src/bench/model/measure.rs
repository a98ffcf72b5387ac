//! Measures the costs: each stage by the code that the replica runs, one after the other on this thread, for a share of the time each.
//!
//! A cost is the median of at least [`MIN_SAMPLES`] tries, so that being interrupted now and then does not show; and everything is measured
//! [`ROUNDS`] times, of which each number's median counts, so that a burst of somebody else's work does not show either. What helpers do
//! (the history's files) is this process's CPU time less this thread's, a mean.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use atlas_dataplane::client::SubmitError;
use atlas_dataplane::cluster::ConfigError;
use atlas_dataplane::cluster::init::InitError;
use atlas_dataplane::crypto::keys::KeyError;
use atlas_dataplane::crypto::link::LinkError;
use atlas_dataplane::crypto::session::SessionError;
use atlas_dataplane::crypto::{BatchVerifier, SecretKey, verify};
use atlas_dataplane::execution::ExecutionError;
use atlas_dataplane::history::store::StoreError;
use atlas_dataplane::log::{AppendError, LogError};
use atlas_dataplane::net::NetError;
use atlas_dataplane::types::Code;
use atlas_dataplane::wire::error::{BundleError, Malformed};

use super::costs::{Costs, Verify, medians};
use super::way::{Found, Way};
use super::{link, order, syncs};
use crate::bench::workload::PayloadError;

/// How often everything is measured.
pub const ROUNDS: u32 = 3;
/// Samples that a part takes even when its share of the time is over.
pub const MIN_SAMPLES: usize = 16;
/// Samples that a part takes at most: they are kept until their median is known.
const MAX_SAMPLES: usize = 1 << 16;
/// Clusters that are predicted.
pub const SIZES: [usize; 3] = [4, 7, 10];
/// Operations under a signature.
pub const BUNDLES: [usize; 2] = [1, 64];
/// Signatures in a batch.
const BATCHES: [usize; 5] = [1, 4, 16, 64, 256];
/// Logs on one disk.
const LOGS: [usize; 2] = [4, 10];
/// Bytes under a bundle's signature, about.
const SIGNED_BYTES: usize = 160;
/// Parts that share the time: links, verifying, ordering, execution, the log alone, and each number of logs.
const PARTS: u32 = 7;

/// Why a cost could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// Loopback or io_uring.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The encrypted session.
    #[error("a session between two ends of this process failed: {0}")]
    Session(#[from] SessionError),
    /// Its handshake.
    #[error("a link between two ends of this process failed: {0}")]
    Link(#[from] LinkError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log's buffers.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The history's files.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Execution.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// The cluster whose client and replica are measured.
    #[error(transparent)]
    Init(#[from] InitError),
    /// Likewise.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No operation of this size.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The measured client could not submit.
    #[error("the measured client cannot submit: {0}; choose a smaller --payload")]
    Submit(#[from] SubmitError),
    /// A bundle of that payload is not one.
    #[error("the measured bundle is none: {0}; choose a smaller --payload")]
    Bundle(#[from] BundleError),
    /// A bundle was refused.
    #[error("the measured replica refuses a bundle with {0}; choose a smaller --payload")]
    Refused(Code),
    /// Ours: a message just made could not be read.
    #[error("a message just made cannot be read: {0}; this build cannot be trusted")]
    Malformed(#[from] Malformed),
    /// A file.
    #[error("cannot measure in the data directory: {0}; choose another with --dir")]
    Io(#[from] io::Error),
    /// The host, or a fault of ours: something that takes microseconds did not happen within seconds.
    #[error("a part of the measurement did not come to its end; is the host overloaded?")]
    Stalled,
}

/// Times of one thing.
#[derive(Debug, Default)]
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Whether more are wanted of what began then.
    pub(super) fn lacks(&self, began: Instant, budget: Duration) -> bool {
        self.0.len() < MIN_SAMPLES || (self.0.len() < MAX_SAMPLES && began.elapsed() < budget)
    }

    /// The median in microseconds; 0 of none.
    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The median of the slowest of `n` that are like these: the share of `0.5^(1/n)` takes no longer.
    pub(super) fn slowest_of(&self, n: usize) -> f64 {
        self.quantile(0.5f64.powf(1.0 / n as f64))
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut times = self.0.clone();
        times.sort_unstable();
        let place = (times.len() as f64 * share) as usize;
        times.get(place.min(times.len().saturating_sub(1))).map_or(0.0, |time| time.as_secs_f64() * 1e6)
    }
}

/// Measures everything for about `budget`, with files in `dir`, operations of `payload` bytes and so many clients. Under
/// [`ROUNDS`] seconds it is measured once.
///
/// # Errors
/// See [`MeasureError`].
pub fn measure(dir: &Path, payload: usize, clients: usize, budget: Duration) -> Result<Costs, MeasureError> {
    let rounds = if budget.as_secs() < u64::from(ROUNDS) { 1 } else { ROUNDS };
    let mut all = Vec::new();
    for round in 0..rounds {
        let dir = dir.join(round.to_string());
        all.push(once(&dir, payload, clients, budget / rounds)?);
        std::fs::remove_dir_all(&dir)?;
    }
    medians(&all).ok_or(MeasureError::Stalled)
}

fn once(dir: &Path, payload: usize, clients: usize, budget: Duration) -> Result<Costs, MeasureError> {
    let share = budget / PARTS;
    let link = link::measure(share)?;
    let verify = signatures(clients, share)?;
    let order = SIZES.map(|n| order::measure(n, share / SIZES.len() as u32));
    let order = order.into_iter().collect::<Result<_, _>>()?;
    let mut way = Way::new(&dir.join("way"), payload)?;
    let found = BUNDLES.map(|bundle| way.measure(bundle, share / BUNDLES.len() as u32));
    let [one, many] = found;
    let (one, many): (Found, Found) = (one?, many?);
    let (small, large) = (&one.sample.first(), &many.sample);
    let (log, alone) = syncs::measure(dir, small, large, share)?;
    let mut all = vec![alone];
    for logs in LOGS {
        all.push(syncs::shared(dir, logs, small, large, share)?);
    }
    Ok(Costs {
        link,
        verify,
        order,
        log,
        syncs: all,
        roots_us: many.roots_us,
        checkpoint_us: many.checkpoint_us,
        bundles: vec![one.costs, many.costs],
    })
}

/// Signatures in batches, of so many clients.
fn signatures(clients: usize, budget: Duration) -> Result<Vec<Verify>, MeasureError> {
    let keys: Vec<SecretKey> = (0..clients.max(1)).map(|_| SecretKey::generate()).collect::<Result<_, _>>()?;
    let mut found = Vec::with_capacity(BATCHES.len());
    for batch in BATCHES {
        let signed: Vec<_> = (0..batch)
            .map(|index| {
                let mut message = [3; SIGNED_BYTES];
                message[..8].copy_from_slice(&index.to_le_bytes());
                let key = &keys[index % keys.len()];
                (key.public(), key.sign(&message), message)
            })
            .collect();
        let (mut times, began) = (Times::default(), Instant::now());
        while times.lacks(began, budget / BATCHES.len() as u32) {
            let start = Instant::now();
            // As the replica does: one alone is checked alone.
            let hold = match &signed[..] {
                [(key, signature, message)] => verify(key, message, signature),
                all => {
                    let mut verifier = BatchVerifier::with_capacity(batch);
                    all.iter().for_each(|(key, signature, message)| verifier.push(key, message, signature, ()));
                    verifier.all_hold()
                }
            };
            times.add(start.elapsed());
            if !hold {
                return Err(MeasureError::Refused(Code::BAD_SIGNATURE));
            }
        }
        found.push(Verify { batch: batch as f64, signature_us: times.median() / batch as f64 });
    }
    Ok(found)
}
