//! What a seed draws: each run has its own mix of faults, so that rare combinations come up and some runs have hardly any.

use super::RATED_US;
use super::client::MEAN_OPERATIONS_X2;
use super::random::Random;
use crate::adversary::{TACTICS, Tactic};
use crate::ordering::Timing;

/// Faults that come and go while a run's safety phase lasts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fault {
    /// A process dies; what it wrote stays in the page cache.
    Kill,
    /// A process dies in the middle of a turn: only a part of what it sends leaves.
    KillInTurn,
    /// A machine loses power and what was not synced.
    Power,
    /// All machines lose power together.
    PowerAll,
    /// The replicas fall into two groups, for a while.
    Partition,
    /// What one node sends to another is lost, for a while.
    OneWay,
    /// One replica hears and reaches nobody, clients included.
    Isolated,
    /// Links of one replica break and are made again, over and over.
    Flapping,
    /// Writes take long, for a while.
    SlowDisk,
    /// A wall clock goes too fast or too slow from now on.
    ClockDrifts,
    /// A wall clock stands still from now on.
    ClockStops,
    /// A process stands still.
    Pause,
    /// A clock is set to another time.
    ClockJump,
    /// A sync fails.
    SyncFails,
    /// A machine loses its disk and gets an empty one.
    Wipe,
    /// A disk is set back to what it held some time ago.
    RollBack,
    /// A machine goes down, and a bit of what its disk holds is another afterwards.
    BitFlip,
    /// A bit of what a disk holds becomes another while the replica runs.
    BitRots,
    /// A disk acknowledges a write that it does not do; later its machine or process goes down.
    LostWrite,
    /// A disk does a write at another place, of the same or another segment, and acknowledges it; later the same.
    MisdirectedWrite,
    /// Nothing can be read from a disk, for a while: by a replica that runs, or by one that starts.
    ReadsFail,
    /// A disk has no room for more than a segment or two, for a while.
    DiskFull,
    /// All disks have none, together.
    DisksFull,
}

const FAULTS: [Fault; 23] = [
    Fault::Kill,
    Fault::KillInTurn,
    Fault::Power,
    Fault::PowerAll,
    Fault::Partition,
    Fault::OneWay,
    Fault::Isolated,
    Fault::Flapping,
    Fault::SlowDisk,
    Fault::ClockDrifts,
    Fault::ClockStops,
    Fault::Pause,
    Fault::ClockJump,
    Fault::SyncFails,
    Fault::Wipe,
    Fault::RollBack,
    Fault::BitFlip,
    Fault::BitRots,
    Fault::LostWrite,
    Fault::MisdirectedWrite,
    Fault::ReadsFail,
    Fault::DiskFull,
    Fault::DisksFull,
];

/// What a Byzantine client does; several at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum ClientTactic {
    /// Other requests under the same numbers to other replicas, and some without a signature that holds.
    Reuse,
    /// Many bundles at once: ahead of their turn, beyond its window, in sessions that it does not have.
    Flood,
    /// Bundles of more requests than were signed, of too many, of too large ones and of none.
    Oversize,
}

const CLIENT_TACTICS: [ClientTactic; 3] = [ClientTactic::Reuse, ClientTactic::Flood, ClientTactic::Oversize];

/// One run's draw.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) n: usize,
    /// Byzantine replicas with what they do.
    pub(super) byzantine: Vec<(u8, Vec<Tactic>)>,
    /// They deceive the same replicas with the same lies.
    pub(super) collude: bool,
    /// Replicas that stay down once the faults stop.
    pub(super) lost: Vec<u8>,
    pub(super) clients: usize,
    /// Of them the last sends different bundles with the same numbers to different replicas.
    /// Whether the last client is Byzantine.
    pub(super) lying_client: bool,
    /// What that one does.
    pub(super) client_tactics: Vec<ClientTactic>,
    /// Bundles that each client submits.
    pub(super) bundles: u64,
    /// Longest pause between two bundles of a client, us.
    pub(super) think_us: u64,
    pub(super) safety_us: u64,
    pub(super) faults: Vec<Fault>,
    /// Mean time between faults, us.
    pub(super) fault_gap_us: u64,
    /// Longest duration of a fault, us.
    pub(super) fault_us: u64,
    pub(super) loss: u64,
    pub(super) duplicates: u64,
    /// Per mille of messages that are damaged on their way, which breaks the link.
    pub(super) corrupt: u64,
    pub(super) delay_us: u64,
    pub(super) jitter_us: u64,
    /// Per mille of messages that take twenty times as long.
    pub(super) late: u64,
    pub(super) disk_us: u64,
    /// Longest time from a message's arrival to the end of its round, us.
    pub(super) round_us: u64,
    pub(super) drift_ms: i64,
    /// Highest clock error, ms; beyond `drift_ms` in some runs.
    pub(super) clock_ms: i64,
    pub(super) window: u64,
    pub(super) timing: Timing,
    pub(super) slow_segments: bool,
    /// Longest padding of an operation, bytes: with it logs grow beyond a segment.
    pub(super) padding: u64,
    /// Free segments below which a replica takes no new writes; 0: it takes them while it can.
    pub(super) low_segments: u64,
    /// A snapshot of the state is due whenever so much was executed, bytes.
    pub(super) snapshot_bytes: u64,
    /// Bytes of a segment of the log: in some runs so few that it is truncated many times.
    pub(super) segment_bytes: u32,
    /// Jobs of signatures that are checked beside each replica at a time; none: each checks its own.
    pub(super) verifiers: Option<usize>,
}

impl Plan {
    /// Draws a run.
    pub(super) fn draw(random: &mut Random, n: Option<usize>) -> Self {
        // The larger ones are slow.
        let n = n.unwrap_or(match random.below(100) {
            0..3 => 10,
            3..20 => 7,
            _ => 4,
        });
        let tolerated = (n as u64 - 1) / 3;
        let faulty = random.between(0, tolerated);
        let mut byzantine: Vec<(u8, Vec<Tactic>)> = Vec::new();
        while (byzantine.len() as u64) < faulty {
            // Who leads the first views does the most harm.
            let among = if random.chance(500) { 2 } else { n as u64 };
            let replica = random.below(among) as u8;
            if byzantine.iter().all(|(other, _)| *other != replica) {
                byzantine.push((replica, some(random, &TACTICS, 350)));
            }
        }
        let mut lost = Vec::new();
        if faulty < tolerated && random.chance(400) {
            let replica = random.below(n as u64) as u8;
            if byzantine.iter().all(|(other, _)| *other != replica) {
                lost.push(replica);
            }
        }
        let quiet = random.chance(100);
        let faults = if quiet { Vec::new() } else { some(random, &FAULTS, 350) };
        let fills = faults.iter().any(|fault| matches!(fault, Fault::DiskFull | Fault::DisksFull));
        let is_padded = random.chance(if fills { 700 } else { 100 });
        // What is voted on in a window must fit a record.
        let is_small = n == 4 && !is_padded && random.chance(500);
        let drift_ms = random.between(20, 500) as i64;
        let often = |random: &mut Random, most: u64| if random.chance(500) { random.between(0, most) } else { 0 };
        Self {
            n,
            collude: byzantine.len() > 1 && random.chance(500),
            byzantine,
            lost,
            clients: random.between(1, 3) as usize,
            lying_client: random.chance(250),
            client_tactics: some(random, &CLIENT_TACTICS, 500),
            bundles: match (is_padded, is_small) {
                (true, _) => random.between(20, 60),
                (_, true) => random.between(20, 160),
                _ => random.between(3, 25),
            },
            think_us: random.between(100, if is_padded || is_small { 40_000 } else { 200_000 }),
            safety_us: random.between(500_000, if is_small { 5_000_000 } else { 3_000_000 }),
            faults,
            fault_gap_us: random.between(20_000, 600_000),
            fault_us: random.between(1_000, 800_000),
            loss: if quiet { 0 } else { often(random, 250) },
            duplicates: if quiet { 0 } else { often(random, 200) },
            corrupt: if quiet { 0 } else { often(random, 10) },
            delay_us: random.between(20, 3_000),
            jitter_us: random.between(1, 5_000),
            late: if quiet { 0 } else { often(random, 50) },
            disk_us: random.between(20, 8_000),
            round_us: random.between(0, 500),
            drift_ms,
            clock_ms: random.between(0, 2 * drift_ms as u64) as i64,
            window: random.between(2, if is_small { 4 } else { 32 }),
            timing: Timing {
                open_batches: random.between(1, 8),
                batch_bytes: random.between(200, if is_small { 3_000 } else { 20_000 }) as usize,
                bundle_age_us: random.between(500_000, 30_000_000),
                ..Timing::default()
            },
            slow_segments: random.chance(200),
            padding: if is_padded { random.between(8_000, 15_000) } else { 0 },
            low_segments: if random.chance(600) { 0 } else { random.between(1, 2) },
            snapshot_bytes: random.between(300, if is_small { 3_000 } else { 12_000 }),
            segment_bytes: if is_small { 20 << 10 } else { 1 << 20 },
            verifiers: None,
        }
    }

    /// Gives the clients so many operations a second to ask for, all the time.
    pub(super) fn set_rate(&mut self, rate: u32) {
        let rate = u64::from(rate.max(1));
        self.clients = 3;
        self.safety_us = RATED_US;
        // Half of the longest pause on average.
        self.think_us = 2 * self.clients as u64 * MEAN_OPERATIONS_X2 * 500_000 / rate;
        self.bundles = (2 * RATED_US / self.think_us.max(1)).max(1);
    }

    pub(super) fn is_byzantine(&self, replica: usize) -> bool {
        self.byzantine.iter().any(|(other, _)| usize::from(*other) == replica)
    }
}

/// Some of `all`, each with the given chance, at least one.
fn some<T: Copy>(random: &mut Random, all: &[T], per_mille: u64) -> Vec<T> {
    let mut chosen: Vec<T> = all.iter().copied().filter(|_| random.chance(per_mille)).collect();
    if chosen.is_empty() {
        chosen.extend(all.get(random.index(all.len())));
    }
    chosen
}

/// The names of all faults and tactics, as [`Report::faults`](super::Report::faults) counts them.
pub(super) fn names() -> impl Iterator<Item = String> {
    let tactics = TACTICS.iter().map(|tactic| format!("byzantine {tactic:?}"));
    let clients = CLIENT_TACTICS.iter().map(|tactic| format!("client {tactic:?}"));
    FAULTS.iter().map(|fault| format!("{fault:?}")).chain(tactics).chain(clients)
}
