//! `atlas bench`: what the cluster reaches, stated beside what this host could reach at best.
//!
//! An absolute latency says little, for it changes with the machine, its neighbours and the day. So each run measures
//! two things side by side:
//!
//! - [`run`]: one run from connecting to the report, with the operations of [`workload`], sent when [`load`] says so;
//! - [`floor`]: the least that one signed, durable, ordered operation costs on this host, from raw parts that share no
//!   code with the replica;
//! - [`report`]: latencies and throughput of the cluster, their ratio to that floor, as a table, as JSON and as an HDR
//!   histogram log.
//!
//! What a fault costs is measured by [`failover`]: how long nothing is committed when the leader dies, stands still or is slow.
//!
//! What it takes to bring back a replica without its disk is measured by [`transfer`].
//!
//! What a replica takes while it has nothing to do is measured by [`idle`].
//!
//! What becomes of work beyond the peak, and of honest work beside forgers, is measured by [`overload`].
//!
//! What a cluster should reach elsewhere is worked out by [`model`] from what each stage costs here.
//!
//! Latencies are recorded in nanoseconds in one [`hdrhistogram::Histogram`] of three significant digits, once per
//! operation, and converted to microseconds only when shown.

pub mod failover;
pub mod floor;
pub mod history;
pub mod idle;
pub mod load;
pub mod model;
pub mod overload;
mod pump;
pub mod report;
pub mod run;
pub mod transfer;
pub mod workload;

use hdrhistogram::{CreationError, Histogram};

/// The longest latency a histogram tells apart, in nanoseconds: ten minutes. Longer ones are recorded as this.
pub const MAX_LATENCY_NS: u64 = 600_000_000_000;
/// Significant decimal digits kept of a latency: 1 microsecond is told from 1.001.
const SIGNIFICANT_DIGITS: u8 = 3;

/// An empty histogram of latencies in nanoseconds, from 1 ns to [`MAX_LATENCY_NS`]; about 250 KiB at its largest.
///
/// Record into it with `saturating_record`.
///
/// # Errors
/// None with these constants; the library's error is passed on rather than hidden.
pub fn latencies() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, MAX_LATENCY_NS, SIGNIFICANT_DIGITS)
}
