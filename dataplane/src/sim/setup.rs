//! The cluster that a plan describes.

use std::path::Path;
use std::sync::Arc;

use super::administrator::administrator_key;
use super::application::Operation;
use super::client::SESSION_WINDOW;
use super::machine::Machine;
use super::plan::Plan;
use super::random::Random;
use super::{MAX_REPLICAS, SimConfig};
use crate::adversary::{Adversary, Plot};
use crate::cluster::{Cluster, Size};
use crate::crypto::keys::SecretKey;
use crate::history::notary::Notary;
use crate::log::SimDisk;
use crate::ordering::Agreed;
use crate::ordering::seal::Seals;
use crate::replica::{NodeConfig, ReadBudget};
use crate::types::ReplicaId;

pub(super) fn machine(
    config: SimConfig,
    plan: &Plan,
    cluster: &Cluster,
    replica: usize,
    plot: Option<&Plot>,
    random: &mut Random,
) -> Result<Machine, String> {
    let disk = empty_disk(config, plan, cluster, random.next());
    let tactics = plan.byzantine.iter().find(|(other, _)| usize::from(*other) == replica);
    let node = node_config(plan, cluster, replica, true)?;
    let adversary = tactics.map(|(_, tactics)| {
        let plot = plot.cloned().unwrap_or_else(|| Plot::new(random));
        let starved = client_key(random.index(plan.clients)).public();
        let forged = |number| {
            let (session, revision) = (1, u64::MAX);
            Operation { client: 0, session, number, variant: 99, register: 0, revision, padding: 0 }.encode()
        };
        let (random, forged_for) = (random.fork(), client_key(0).public());
        Adversary::new(tactics, plot, random, &node, forged_for, Box::new(forged), starved)
    });
    let error_ms = random.between(0, 2 * plan.clock_ms as u64) as i64 - plan.clock_ms;
    Ok(Machine::new(disk, error_ms, adversary))
}

pub(super) fn empty_disk(config: SimConfig, plan: &Plan, cluster: &Cluster, seed: u64) -> SimDisk {
    let mut disk = SimDisk::new(seed, cluster.genesis(), plan.segment_bytes);
    disk.skip_syncs(config.skip_syncs);
    disk.slow_segments(plan.slow_segments);
    disk
}

pub(super) fn client_key(index: usize) -> SecretKey {
    SecretKey::from_seed(&[100 + index as u8; 32])
}

pub(super) fn node_config(
    plan: &Plan,
    cluster: &Cluster,
    replica: usize,
    never_ran: bool,
) -> Result<NodeConfig, String> {
    let size = Size::new(plan.n).ok_or_else(|| format!("no cluster has {} replicas", plan.n))?;
    Ok(NodeConfig {
        me: ReplicaId(replica as u8),
        origin: cluster.origin().to_owned(),
        genesis: cluster.genesis(),
        agreed: Agreed { size, window: plan.window, interval: plan.window, drift_ms: plan.drift_ms },
        seals: Arc::new(seals(plan, cluster, replica)),
        notary: Arc::new(Notary::new(
            cluster,
            ReplicaId(replica as u8),
            replica_key(replica, 2),
            replica_key(replica, 3),
        )),
        cosign_interval_us: 5_000,
        timing: plan.timing,
        segment_bytes: plan.segment_bytes,
        never_ran,
        transfer_bytes_per_second: 64 << 20,
        idle_write_us: 100_000,
        group_commit_us: 0,
        read_budget: ReadBudget::default(),
    })
}

/// The private key of a replica for one of its four purposes.
fn replica_key(replica: usize, kind: usize) -> SecretKey {
    SecretKey::from_seed(&[1 + (4 * replica + kind) as u8; 32])
}

/// What a replica signs VIEW-CHANGE, NEW-VIEW and CHECKPOINT with.
pub(super) fn seals(plan: &Plan, cluster: &Cluster, replica: usize) -> Seals {
    let members = (0..plan.n).map(|replica| replica_key(replica, 1).public()).collect();
    Seals::new(cluster.origin().to_owned(), 0, members, replica_key(replica, 1))
}

pub(super) fn cluster(plan: &Plan) -> Result<Cluster, String> {
    if plan.n > MAX_REPLICAS {
        return Err(format!("{} replicas; at most {MAX_REPLICAS} are simulated", plan.n));
    }
    let mut text = format!(
        "origin = \"atlas.example/simulated\"\ncreated = 2026-09-01T00:00:00Z\n\n[settings]\ncheckpoint_interval = {}\nwindow = \
         {}\ndrift_ms = {}\nsession_window = {}\nsessions_per_identity = 4\nstate_interval_ms = 500\n",
        // The cluster file's own bounds are narrower than some draws; the core is given the draw.
        64,
        64,
        plan.drift_ms.max(100),
        SESSION_WINDOW,
    );
    for index in 0..plan.n {
        let [link, protocol, log, cosign] = [0, 1, 2, 3].map(|kind| replica_key(index, kind).public());
        text += &format!(
            "\n[[replicas]]\nname = \"replica-{index}\"\naddress = \"127.0.0.1:{}\"\nlink_key = \"{link}\"\nprotocol_key = \
             \"{protocol}\"\nlog_key = \"{log}\"\ncosign_key = \"{cosign}\"\n",
            7450 + index,
        );
    }
    text += "\n[[roles]]\nname = \"writer\"\nwrite = [\"*\"]\n";
    for index in 0..plan.clients {
        let key = client_key(index).public();
        text += &format!("\n[[clients]]\nname = \"client-{index}\"\nkey = \"{key}\"\nrole = \"writer\"\n");
    }
    let key = administrator_key().public();
    text += &format!("\n[[administrators]]\nname = \"administrator\"\nkey = \"{key}\"\n");
    let cluster = Cluster::parse(text.as_bytes(), Path::new("the simulated cluster file"));
    cluster.map(|cluster| cluster.with_interval(plan.window)).map_err(|error| error.to_string())
}
