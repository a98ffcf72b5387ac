//! The world of a simulated cluster: network, disks, clocks, crashes and adversaries in virtual time, from one seed.
//!
//! A run builds real [`Node`](crate::replica::Node)s over the simulator's disk and drives them from one queue of events ordered by (time, number).
//! Messages travel as the encoded bodies that real links would carry. One seed is one run, bit for bit: every event goes into a
//! chain of hashes, [`Report::chain`]; [`replay`] runs a seed again and tells each event.
//!
//! # A run
//! 1. **Draw.** The seed draws the run's own mix (a swarm): size 4, 7 or, rarely, 10; which replicas are Byzantine, how, and
//!    whether together; what a Byzantine client does; which faults come and how often; loss, duplicates, damage, delays, disk
//!    latency, clock errors within and beyond the drift bound, sizes of window and batches, of operations (so that some logs grow
//!    beyond a segment), and how much room a replica wants before it takes writes.
//! 2. **Safety phase.** Clients submit while faults come and go: kill -9 between any two events and in the middle of a turn,
//!    power cuts of one machine or of all together with any subset of unsynced sectors lost, failed syncs, slow disks, partitions
//!    (two groups, one way, one isolated replica), links that break again and again, pauses, wall clocks that jump, drift and
//!    stop; disks that are lost, set back, damaged while the machine is down or under the running replica, and disks that lose or misdirect a
//!    write which they acknowledge, where one more faulty replica is to be borne: until it notices, nothing is
//!    expected of a replica on such a disk, and then it must come back (`disks`). Disks that cannot be read: the replica ends, and
//!    comes back once they can. Full disks, one or all: nobody ends. Half of the faults hit whoever leads.
//!    In many runs snapshots are taken often and the log's segments are so small that it is truncated again and again, and machines
//!    stay down for so long that they must take history and state from the others (`shelf`); snapshots are lost and damaged like logs.
//! 3. **Convergence.** Faults stop, replicas come back, except Byzantine ones (who go on) and some that stay down, at most f
//!    together; or one disk stays full. Then every submitted bundle and read of a correct client must get its result, the full disk gets room
//!    and its replica goes on in the same life, and all correct replicas that are up must
//!    reach the same sequence and state. After that the idle cluster must order nothing and its traffic must stay within that of
//!    idle statuses. A run with [`SimConfig::safety_only`] ends before this.
//!
//! # What is checked
//! By `check`, after every turn and message of every correct replica, restated without the code under test: the same history,
//! state and executions at every sequence, across restarts; each execution signed by its origin and done once per number; each
//! result that a client took, ordered reads among them, is what a model of the registers gives at its place in the order; each read of
//! a position, or of what is, gives what the model has there; never two PREPAREs, COMMITs, proposals, VIEW-CHANGEs, NEW-VIEWs
//! or CHECKPOINTs for one place, crashes included; no COMMIT without PREPAREs of a quorum; each
//! vote that leaves stands in a record that the disk would keep at that instant; no replica goes back, in what it executed but by a
//! crash, in views not even so; what was acknowledged is there in the end; slots, waiting bundles and records stay within their
//! bounds; no correct replica accuses another correct one; writes are refused for want of room only where there is little.
//!
//! And by `linear`, from the clients' side alone: what stands behind what in real time stands behind it in the order, and all results
//! together are those of one history of each register. Byzantine replicas lie to clients as well.
//!
//! # Limits
//! Runs end after [`MAX_EVENTS`] events. Links here may reorder and duplicate, which real sessions do not; the cores must bear it.
//! Bytes that are damaged on their way end the link, as sealed sessions do; damage that a link passes on is what the `Mutate`
//! tactic sends. Processes' own clocks (timers) run true; only the wall clock is ever wrong.
//!
//! Sources: TigerBeetle's VOPR (swarm, safety then liveness), Groce et al., "Swarm Testing" (ISSTA 2012).

mod administrator;
mod application;
mod check;
mod client;
mod clients;
mod converge;
mod describe;
mod disks;
mod faults;
mod heads;
#[cfg(test)]
mod leaders;
mod linear;
mod links;
mod machine;
mod network;
mod outbox;
mod plan;
pub(crate) mod random;
mod reads;
mod report;
mod setup;
mod shelf;
mod total;
mod verifiers;
mod world;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod transfers;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use serde::{Serialize, Serializer};
pub use total::Total;
use world::World;

/// Events in one run at most: one that needs more does not get anywhere.
pub const MAX_EVENTS: u64 = 3_000_000;

/// Replicas of a simulated cluster at most.
pub const MAX_REPLICAS: usize = 16;

/// The safety phase of a run with [`SimConfig::rate`], us.
pub const RATED_US: u64 = 20_000_000;

/// What to run. The same configuration is the same run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimConfig {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Number of replicas, 4 to [`MAX_REPLICAS`]; `None`: drawn.
    pub replicas: Option<usize>,
    /// Operations that the clients together ask for in a second of a safety phase of [`RATED_US`]; `None`: both are drawn.
    pub rate: Option<u32>,
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
        Self { seed, replicas: None, rate: None, safety_only: false, skip_syncs: false, check_disk: true }
    }
}

/// What a run was like.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Hash over all events: equal in every run of a seed. 16 hexadecimal digits in JSON, which has no such numbers.
    #[serde(serialize_with = "hexadecimal")]
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
    pub faults: BTreeMap<String, u64>,
}

/// A rule that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// [`replay`] it with this.
    pub config: SimConfig,
    /// When, us of virtual time.
    pub at_us: u64,
    /// What.
    pub what: String,
    /// What the run was like until then.
    pub report: Report,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} at {} us: {}", self.config.seed, self.at_us, self.what)
    }
}

impl std::error::Error for Failure {}

/// An event in words. The first of a run is its draw.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TraceLine {
    /// When, us of virtual time.
    pub at_us: u64,
    /// What.
    pub event: String,
}

impl fmt::Display for TraceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9} {}", self.at_us, self.event)
    }
}

fn hexadecimal<S: Serializer>(chain: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{chain:016x}"))
}

/// Runs one seed.
///
/// # Errors
/// The first rule that does not hold. A panic in a replica is one, too.
pub fn run(config: SimConfig) -> Result<Report, Box<Failure>> {
    World::new(config, false)?.run(&mut |_| {})
}

/// Runs one seed and tells every event as it comes, the draw first. Several times slower than [`run`], otherwise the same.
///
/// # Errors
/// As [`run`].
pub fn replay(config: SimConfig, each: &mut dyn FnMut(TraceLine)) -> Result<Report, Box<Failure>> {
    World::new(config, true)?.run(each)
}

/// Runs one seed for its draw and the last events before its end.
pub fn last_events(config: SimConfig, count: usize) -> Vec<TraceLine> {
    let (mut draw, mut last) = (None, VecDeque::new());
    // How it ends is for `run` to say.
    let _ = replay(config, &mut |line| {
        if draw.is_none() {
            draw = Some(line);
            return;
        }
        last.push_back(line);
        if last.len() > count {
            last.pop_front();
        }
    });
    draw.into_iter().chain(last).collect()
}
