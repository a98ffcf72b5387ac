//! The cluster that a plan describes.

use super::SimConfig;
use super::adversary::Adversary;
use super::plan::Plan;
use super::random::Random;
use super::world::{BASE_MS, Machine, Outbox};
use crate::cluster::Size;
use crate::crypto::keys::SecretKey;
use crate::execution::{Client, Genesis, Member, Role, Settings};
use crate::log::SimDisk;
use crate::ordering::Agreed;
use crate::replica::NodeConfig;
use crate::types::{Digest, ReplicaId};

const SEGMENT_BYTES: u32 = 1 << 20;

pub(super) fn machine(
    config: SimConfig,
    plan: &Plan,
    genesis: &Genesis,
    replica: usize,
    random: &mut Random,
) -> Machine {
    let mut disk = SimDisk::new(random.next(), genesis.hash, SEGMENT_BYTES);
    disk.skip_syncs(config.skip_syncs);
    disk.slow_segments(plan.slow_segments);
    let tactics = plan.byzantine.iter().find(|(other, _)| usize::from(*other) == replica);
    let adversary =
        tactics.map(|(_, tactics)| Adversary::new(tactics, random.fork(), &genesis.origin, client_key(0).public()));
    Machine {
        node: None,
        disk: Some(disk),
        life: 0,
        born_us: 0,
        error_ms: random.between(0, 2 * plan.clock_ms as u64) as i64 - plan.clock_ms,
        paused_until_us: 0,
        dies_in_turn: false,
        turn_due: false,
        wake_us: u64::MAX,
        outbox: Outbox::default(),
        adversary,
    }
}

pub(super) fn client_key(index: usize) -> SecretKey {
    SecretKey::from_seed(&[100 + index as u8; 32])
}

pub(super) fn node_config(plan: &Plan, genesis: &Genesis, replica: usize) -> Result<NodeConfig, String> {
    let size = Size::new(plan.n).ok_or_else(|| format!("no cluster has {} replicas", plan.n))?;
    Ok(NodeConfig {
        me: ReplicaId(replica as u8),
        origin: genesis.origin.clone(),
        genesis: genesis.hash,
        agreed: Agreed { size, window: plan.window, drift_ms: plan.drift_ms },
        timing: plan.timing,
        segment_bytes: SEGMENT_BYTES,
        idle_write_us: 100_000,
    })
}

pub(super) fn genesis(plan: &Plan) -> Genesis {
    let key = |place: usize| SecretKey::from_seed(&[1 + place as u8; 32]).public();
    let members = (0..plan.n).map(|index| Member {
        index: index as u8,
        name: format!("replica-{index}"),
        link_key: key(4 * index),
        protocol_key: key(4 * index + 1),
        log_key: key(4 * index + 2),
        cosign_key: key(4 * index + 3),
    });
    let clients = (0..plan.clients).map(|index| Client {
        key: client_key(index).public(),
        name: format!("client-{index}"),
        role: "writer".into(),
    });
    Genesis {
        origin: "atlas.example/simulated".into(),
        hash: Digest([42; 32]),
        created_ms: BASE_MS - 1_000,
        epoch: 0,
        members: members.collect(),
        administrators: Vec::new(),
        clients: clients.collect(),
        roles: vec![Role { name: "writer".into(), writes: vec!["*".into()] }],
        settings: Settings {
            checkpoint_interval: 64,
            window: plan.window,
            drift_ms: plan.drift_ms as u64,
            session_window: 64,
            sessions_per_identity: 4,
            session_idle_ms: 3_600_000,
            state_interval_ms: 500,
            others: Vec::new(),
        },
    }
}
