//! `atlas bench model`: what a cluster should reach, worked out from what each stage costs on this host.
//!
//! The costs ([`costs`]) are measured in the same run, by the replica's own code on this host's cores, loopback and disk ([`measure`]).
//! Nothing else is put in but what the user says of links and disks. All times are microseconds, all rates bundles a second unless
//! said otherwise; a bundle has b operations of p bytes under one signature.
//!
//! # Who does what today
//! A replica has ONE data thread, which runs net, verify, order, the log's staging and execution to completion. Helpers (the history's
//! files, new segments, snapshots, management) run on other cores. So by default it gains nothing from a third core, and the figures for 8
//! to 64 cores say so. With `verify_cores` in its configuration, threads of their own check signatures: built, and off by default. Beside
//! them stands what the same costs would give with **all stages on cores of their own: that is not built**, and labelled so.
//!
//! # Batches
//! W bundles are under way (`--under-way`), a leader keeps [`OPEN`] batches open and puts at most [`BATCH_BYTES`] into one. Bundles a
//! sequence, and signatures a batch:
//! ```text
//! B = max(1, min(W / OPEN, BATCH_BYTES / bytes of a bundle))
//! ```
//!
//! # CPU of a bundle at one replica ([`Demand`])
//! `send(k, f, x)` is k calls with f frames and x bytes in all: `k call + f frame + x byte`, measured apart for sending and receiving;
//! sealing and opening are in it. c = min(1, clients / B) is the calls for a client's link a bundle: what comes together for one client
//! travels together. Peers get every frame in a call of its own.
//! ```text
//! net     = receive(c, 1, request) + send(c, 1, reply)
//!           + [ leader:  send(2(n-1), 2(n-1), proposal and vote) + receive(n-1, n-1, vote)
//!               backup:  send(n-1, n-1, vote) + receive(n, n, proposal and votes) ] / B
//! read    = parsing, hashing and checking, all but the signature
//! verify  = a signature in a batch of B
//! order   = order_bundle + order_sequence(n) / B
//! log     = stage_byte * request + (stage_record + call / GROUP) / B
//! execute = execute + reply + checkpoint / (K B)
//! ```
//! The roots of the state trees are due once a second of agreed time: a thread that executes has `10^6 - roots` us of each second left.
//!
//! # Throughput
//! The least of its bounds, which is named as the bottleneck:
//! ```text
//! shared, C cores, everything on one machine   cores: (C 10^6 - n roots) / (leader + (n-1) backup + n helpers + client)
//! shared; and a server each, by default        data thread: (10^6 - roots) / (sum of the leader's stages)
//! a server each, verify_cores                  data thread: (10^6 - roots) / (that sum - verify); verify: V 10^6 / verify,
//!                                              V = C - 2 cores (the data thread's, the helpers'); below 3 cores as by default
//! a server each, stages on cores, NOT BUILT    net, order, log: 10^6 / its own; execute: (10^6 - roots) / its own;
//!                                              verify: V 10^6 / (read + verify), V = C - 5 cores (four for the others, one for
//!                                              helpers); below 6 cores as by default
//! every one                                    disk: GROUP B / sync(GROUP B request bytes)
//! a server each                                link: bits a second / (8 WIRE max(bytes in, bytes out of the leader a bundle))
//! client = sign + n (send(c, 1, request) + receive(c, 1, reply) + tally);   sync(x) = fixed + x * byte
//! ```
//! The disk's sync is that of n logs at once where they share one disk, and of one log otherwise. GROUP is [`GROUP`]: of OPEN batches
//! half are with the disk while the others gather. Hand-over between cores (0.1 us) is neglected.
//!
//! # Latency of one bundle at a time
//! Four hops (request, proposal, vote, reply), one sync, and no second: the fast path. `hop` is half a round trip of one frame between
//! two sleeping threads on two cores of this host, `wake` what of it is neither sending nor receiving.
//! ```text
//! a server each   sign + 4 (hop + rtt / 2) + request bits / link + (4n - 5) send + (n - 1) receive    (frames beside the four hops')
//!                 + read + signature + order + log + execute + reply + tally + sync
//! shared          4 wake + sync + (sign + tally + M (send + receive) + n (the same stages)) / C       M = n + (n-1) + n(n-1) + n
//! ```
//! The sync is the slowest of the n that are under way side by side, median: the fast path waits for all.
//!
//! At half of the peak the bottleneck's queue is added, as M/D/1 has it at a load of one half, with the h bundles that are in a sequence
//! then: `service = 1 / peak`, `h = min(B, max(1, peak / 2 * alone / OPEN))`, and `half = alone + (h - 1) service + h service / 2`. At the peak
//! `W / peak` (Little).
//!
//! # What is left out
//! View changes, checkpoints' signatures and cosignatures (a few a second), snapshots, metrics; contention of the caches and the
//! hypervisor's neighbours; the price of waking threads at load. On loopback the sender's call carries the bytes to the receiver: with
//! real links that is the interface's work. `--check` says how far all this is off on this host.

pub mod costs;
pub mod measure;
pub mod report;

mod link;
mod order;
mod syncs;
#[cfg(test)]
mod tests;
mod way;

use serde::Serialize;

use costs::{BundleCosts, Costs, Sync};

/// Batches that a leader keeps open: the default of [`atlas_dataplane::ordering::Timing`].
pub const OPEN: f64 = 4.0;
/// Most bytes of bundles that a leader puts into a batch: likewise.
pub const BATCH_BYTES: f64 = 262_144.0;
/// Sequences in one sync of the log under load.
pub const GROUP: f64 = 2.0;
/// Sequences between two checkpoints: the default of the cluster file.
pub const CHECKPOINT: f64 = 256.0;
/// Bytes on the wire for a byte of a frame: headers of Ethernet, IP and TCP at 1,448 bytes a segment.
pub const WIRE: f64 = 1.06;
/// Bytes of a vote's frame, and of a proposal's beside its digests.
const VOTE_BYTES: f64 = 128.0;
const PROPOSAL_BYTES: f64 = 160.0;
/// Bytes that a proposal names a bundle by.
const DIGEST_BYTES: f64 = 32.0;
/// Cores that are not for verifying where every stage has its own: net, order, log, execute, helpers.
const OTHER_CORES: usize = 5;
/// Cores that are not for verifying beside one data thread: that thread's, and the helpers'.
const THREAD_CORES: usize = 2;

/// What runs where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// All replicas, their disk and the load on one machine, a data thread for each replica.
    Shared,
    /// A server for each replica, with one data thread: what the program does by default.
    OneThread,
    /// A server for each replica, with one data thread and signatures on `verify_cores`.
    VerifyCores,
    /// A server for each replica, with every stage on cores of its own: NOT BUILT.
    StagesOnCores,
}

impl Placement {
    /// Whether today's program does that.
    pub fn is_built(self) -> bool {
        self != Self::StagesOnCores
    }
}

/// A cluster of which a prediction is asked.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cluster {
    /// Replicas.
    pub n: usize,
    /// Cores of each machine.
    pub cores: usize,
    /// What runs where.
    pub placement: Placement,
    /// Bundles under way.
    pub under_way: f64,
    /// Clients.
    pub clients: f64,
    /// Links of the servers, Gbit/s.
    pub link_gbit: f64,
    /// Round trip between servers beyond what this host's own stack takes, us.
    pub rtt_us: f64,
    /// A sync of the servers' disks in place of the measured one, us.
    pub disk_us: Option<f64>,
    /// Bundles in a sequence, where it was measured and is not to be worked out.
    pub batch: Option<f64>,
}

/// CPU of one bundle at one replica by stage, us.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Demand {
    /// Receiving, opening, sealing, sending.
    pub net: f64,
    /// Parsing, hashing and checking the bundle.
    pub read: f64,
    /// Its share of the signatures' batch.
    pub verify: f64,
    /// The ordering state machine.
    pub order: f64,
    /// Staging, and handing the write to the kernel.
    pub log: f64,
    /// Operations, entry, trees, checkpoint, reply.
    pub execute: f64,
}

impl Demand {
    /// All of it, as one thread has it.
    pub fn sum(&self) -> f64 {
        self.net + self.read + self.verify + self.order + self.log + self.execute
    }
}

/// What is expected.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Expected {
    /// Bundles in a sequence at the peak.
    pub batch: f64,
    /// What limits the throughput.
    pub bottleneck: &'static str,
    /// Operations a second at the peak.
    pub ops_per_s: f64,
    /// One bundle at a time, us.
    pub alone_us: f64,
    /// At half of the peak, us.
    pub half_us: f64,
    /// At the peak, with that many bundles under way, us.
    pub peak_us: f64,
}

/// The model: see the module.
pub fn expect(costs: &Costs, bundle: &BundleCosts, cluster: &Cluster) -> Expected {
    let batch = cluster.batch.unwrap_or_else(|| batch(bundle, cluster.under_way)).max(1.0);
    let (bottleneck, bundles_per_s) = peak(costs, bundle, cluster, batch);
    let alone_us = alone(costs, bundle, cluster);
    let service = 1e6 / bundles_per_s;
    let gathered = (bundles_per_s / 2.0 * alone_us / 1e6 / OPEN).clamp(1.0, batch);
    Expected {
        batch,
        bottleneck,
        ops_per_s: bundles_per_s * bundle.operations as f64,
        alone_us,
        half_us: alone_us + (gathered - 1.0) * service + gathered * service / 2.0,
        peak_us: cluster.under_way * 1e6 / bundles_per_s,
    }
}

/// Bundles in a sequence under load.
pub fn batch(bundle: &BundleCosts, under_way: f64) -> f64 {
    (under_way / OPEN).min(BATCH_BYTES / bundle.request_bytes).max(1.0)
}

/// CPU of a bundle at the leader or at a backup, where `batch` of them are in a sequence.
pub fn demand(costs: &Costs, bundle: &BundleCosts, cluster: &Cluster, batch: f64, leads: bool) -> Demand {
    let (send, receive, peers) = (&costs.link.send, &costs.link.receive, cluster.n as f64 - 1.0);
    let calls = (cluster.clients / batch).min(1.0);
    let proposal = PROPOSAL_BYTES + DIGEST_BYTES * batch;
    let with_peers = if leads {
        send.of(2.0 * peers, 2.0 * peers, peers * (proposal + VOTE_BYTES))
            + receive.of(peers, peers, peers * VOTE_BYTES)
    } else {
        let frames = peers + 1.0;
        send.of(peers, peers, peers * VOTE_BYTES) + receive.of(frames, frames, proposal + peers * VOTE_BYTES)
    };
    let order = costs.order_of(cluster.n);
    let with_client = receive.of(calls, 1.0, bundle.request_bytes) + send.of(calls, 1.0, bundle.reply_bytes);
    Demand {
        net: with_client + with_peers / batch,
        read: bundle.read_us,
        verify: costs.signature_us(batch),
        order: order.bundle_us + order.sequence_us / batch,
        log: costs.log.stage_byte_us * bundle.request_bytes
            + (costs.log.stage_record_us + costs.log.call_us / GROUP) / batch,
        execute: bundle.execute_us + bundle.reply_us + costs.checkpoint_us / (CHECKPOINT * batch),
    }
}

/// CPU of a bundle at its client.
fn client(costs: &Costs, bundle: &BundleCosts, cluster: &Cluster, batch: f64) -> f64 {
    let calls = (cluster.clients / batch).min(1.0);
    let link =
        costs.link.send.of(calls, 1.0, bundle.request_bytes) + costs.link.receive.of(calls, 1.0, bundle.reply_bytes);
    bundle.submit_us + cluster.n as f64 * (link + bundle.tally_us)
}

/// The least of the bounds, and its name.
fn peak(costs: &Costs, bundle: &BundleCosts, cluster: &Cluster, batch: f64) -> (&'static str, f64) {
    let (n, cores) = (cluster.n as f64, cluster.cores as f64);
    let leader = demand(costs, bundle, cluster, batch, true);
    let executing = (1e6 - costs.roots_us).max(0.0);
    let thread = ("data thread", executing / leader.sum());
    let mut bounds = vec![("disk", disk(costs, bundle, cluster, batch))];
    match cluster.placement {
        Placement::Shared => {
            let backup = demand(costs, bundle, cluster, batch, false);
            let all = leader.sum() + (n - 1.0) * backup.sum() + n * bundle.helpers_us;
            bounds.push((
                "cores",
                (cores * 1e6 - n * costs.roots_us).max(0.0) / (all + client(costs, bundle, cluster, batch)),
            ));
            bounds.push(thread);
        }
        Placement::VerifyCores if cluster.cores > THREAD_CORES => {
            let verifiers = (cluster.cores - THREAD_CORES) as f64;
            bounds.extend([
                ("data thread", executing / (leader.sum() - leader.verify)),
                ("verify", verifiers * 1e6 / leader.verify),
                ("link", link(bundle, cluster, batch)),
            ]);
        }
        Placement::StagesOnCores if cluster.cores > OTHER_CORES => {
            let verifiers = (cluster.cores - OTHER_CORES) as f64;
            bounds.extend([
                ("net", 1e6 / leader.net),
                ("verify", verifiers * 1e6 / (leader.read + leader.verify)),
                ("order", 1e6 / leader.order),
                ("log", 1e6 / leader.log),
                ("execute", executing / leader.execute),
                ("link", link(bundle, cluster, batch)),
            ]);
        }
        // Too few cores for more than a thread.
        Placement::OneThread | Placement::VerifyCores | Placement::StagesOnCores => {
            bounds.extend([thread, ("link", link(bundle, cluster, batch))]);
        }
    }
    bounds.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(thread)
}

/// Bundles a second that the disk takes.
fn disk(costs: &Costs, bundle: &BundleCosts, cluster: &Cluster, batch: f64) -> f64 {
    let bundles = GROUP * batch;
    let sync = sync(costs, cluster);
    bundles * 1e6 / (cluster.disk_us.unwrap_or(sync.fixed_us) + sync.byte_us * bundles * bundle.request_bytes)
}

fn sync(costs: &Costs, cluster: &Cluster) -> Sync {
    costs.sync_of(if cluster.placement == Placement::Shared { cluster.n } else { 1 })
}

/// Bundles a second that the leader's link takes.
fn link(bundle: &BundleCosts, cluster: &Cluster, batch: f64) -> f64 {
    let peers = cluster.n as f64 - 1.0;
    let votes = peers * VOTE_BYTES / batch;
    let out = bundle.reply_bytes + votes + peers * (PROPOSAL_BYTES / batch + DIGEST_BYTES);
    cluster.link_gbit * 1e9 / (8.0 * WIRE * (bundle.request_bytes + votes).max(out))
}

/// One bundle at a time, us.
fn alone(costs: &Costs, bundle: &BundleCosts, cluster: &Cluster) -> f64 {
    let n = cluster.n as f64;
    let order = costs.order_of(cluster.n);
    let stages = bundle.read_us
        + costs.signature_us(1.0)
        + order.sequence_us
        + order.bundle_us
        + costs.log.stage_record_us
        + costs.log.call_us
        + costs.log.stage_byte_us * bundle.request_bytes
        + bundle.execute_us
        + bundle.reply_us;
    let (send, receive) = (costs.link.send.of(1.0, 1.0, VOTE_BYTES), costs.link.receive.of(1.0, 1.0, VOTE_BYTES));
    let ends = bundle.submit_us + bundle.tally_us;
    let sync = sync(costs, cluster);
    let sync = cluster.disk_us.unwrap_or(sync.slowest_of(cluster.n)) + sync.byte_us * bundle.request_bytes;
    if cluster.placement == Placement::Shared {
        let messages = n + (n - 1.0) + n * (n - 1.0) + n;
        let wake = (costs.link.hop_us - send - receive).max(0.0);
        return 4.0 * wake + sync + (ends + messages * (send + receive) + n * stages) / cluster.cores as f64;
    }
    let carried = bundle.request_bytes * 8.0 * WIRE / (cluster.link_gbit * 1e3);
    let hops = 4.0 * (costs.link.hop_us + cluster.rtt_us / 2.0);
    ends + hops + carried + (4.0 * n - 5.0) * send + (n - 1.0) * receive + stages + sync
}
