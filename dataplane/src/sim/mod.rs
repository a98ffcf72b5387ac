//! The world of a simulated cluster: network, disks, clocks, crashes and adversaries in virtual time, from one seed.
//!
//! A run builds real [`Node`](crate::replica::Node)s over the simulator's disk and drives them from one queue of events ordered by (time, number).
//! Messages travel as the encoded bodies that real links would carry. One seed is one run, bit for bit: every event goes into a
//! chain of hashes, [`Report::chain`]; a run that fails is run again to write down its last events.
//!
//! # A run
//! 1. **Draw.** The seed draws the run's own mix (a swarm): size 4 or 7, which replicas are Byzantine and how, which faults come and
//!    how often, loss, duplicates, delays, disk latency, clock errors within and beyond the drift bound, sizes of window and batches.
//! 2. **Safety phase.** Clients submit while faults come and go: kill -9 between any two events and in the middle of a turn,
//!    power cuts of one machine or of all together with any subset of unsynced sectors lost, failed syncs, partitions (two groups,
//!    one way, one isolated replica), pauses, clock jumps.
//! 3. **Convergence.** Faults stop, replicas come back, except Byzantine ones (who go on) and some that stay down, at most f
//!    together. Then every submitted bundle must get its result, and all correct replicas that are up must reach the same sequence
//!    and state. After that the idle cluster must order nothing and its traffic must stay within that of idle statuses.
//!    There is no view change yet, so this needs the leader of view 0 correct and up; a run whose leader is Byzantine has the safety
//!    phase only, as has one with [`SimConfig::safety_only`].
//!
//! # What is checked
//! By `check`, after every turn and message of every correct replica, restated without the code under test: the same history,
//! state and executions at every sequence, across restarts; each execution signed by its origin and done once per number; each
//! result that a client took is what the order gives; never two PREPAREs or COMMITs for one (view, sequence), crashes included; each
//! vote that leaves stands in a record that the disk would keep at that instant; no replica goes back but by a crash; what was
//! acknowledged is there in the end; slots and waiting bundles stay within their bounds; no correct replica accuses another correct one.
//!
//! # Limits
//! Runs end after [`MAX_EVENTS`] events. Links here may reorder and duplicate, which real sessions do not; the cores must bear it.
//! Bytes that are damaged on their way are what the `Mutate` tactic sends: sealed links turn all other damage into loss.
//!
//! Sources: TigerBeetle's VOPR (swarm, safety then liveness), Groce et al., "Swarm Testing" (ISSTA 2012).

mod adversary;
mod application;
mod check;
mod client;
mod converge;
mod describe;
mod faults;
mod network;
mod plan;
mod random;
mod setup;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;

use world::World;

/// Events in one run at most: one that needs more does not get anywhere.
pub const MAX_EVENTS: u64 = 3_000_000;

/// What to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimConfig {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Number of replicas, 4 to 8; `None`: drawn, 4 or 7.
    pub replicas: Option<usize>,
    /// Without the convergence phase.
    pub safety_only: bool,
    /// Disks report writes durable that are not: what a build without its sync does. Such a run must fail.
    pub skip_syncs: bool,
    /// Whether votes are held against the disk, which finds a missing sync before any crash does.
    pub check_disk: bool,
}

impl SimConfig {
    /// A run with everything that the seed draws.
    pub fn new(seed: u64) -> Self {
        Self { seed, replicas: None, safety_only: false, skip_syncs: false, check_disk: true }
    }
}

/// What a run was like.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Hash over all events: equal in every run of a seed.
    pub chain: u64,
    /// Events.
    pub events: u64,
    /// Virtual time, us.
    pub simulated_us: u64,
    /// Operations executed.
    pub executions: u64,
    /// Results that clients took.
    pub accepted: u64,
    /// Votes held against earlier ones and the disk.
    pub votes: u64,
    /// Sequences decided by PREPAREs of all, by COMMITs, by DECIDED; over all lives of all replicas that were up in the end.
    pub decided: [u64; 3],
    /// Whether the run ended converged, not by its safety phase alone.
    pub converged: bool,
    /// How often each kind of fault came, by name.
    pub faults: std::collections::BTreeMap<String, u64>,
}

/// A rule that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Run it again with this.
    pub config: SimConfig,
    /// When, us of virtual time.
    pub at_us: u64,
    /// What.
    pub what: String,
    /// The draw and the last events before it.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {} at {} us: {}\n{:?}", self.config.seed, self.at_us, self.what, self.config)
    }
}

impl std::error::Error for Failure {}

/// Runs one seed.
///
/// # Errors
/// The first rule that does not hold, with the last events before it.
pub fn run(config: SimConfig) -> Result<Report, Box<Failure>> {
    World::new(config, false).and_then(World::run).or_else(|_| {
        // The same run again, writing its events down.
        World::new(config, true).and_then(World::run)
    })
}
