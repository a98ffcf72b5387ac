//! What one reading of a replica's metrics says, by name: those that are shown, and nothing else of the file.

use std::path::Path;

use atlas_control::mapped::{Measured, Reading};
use atlas_dataplane::histogram::BUCKETS;
use atlas_dataplane::replica::telemetry::SUSPICIONS;

/// Replicas that links and misbehaviour are told of.
pub const MAX_PEERS: usize = 64;

/// Settings that are kept.
const MAX_SETTINGS: usize = 32;

/// Codes of refusals that are kept.
const MAX_CODES: usize = 64;

/// Longest label that is kept, characters.
const MAX_LABEL: usize = 32;

/// One reading. Numbers are as the metrics of the same names (`docs/metrics.md`); times in microseconds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "docs/metrics.md explains each by its name")]
pub struct Sample {
    pub pid: u64,
    pub replica: u64,
    /// When its process started, ms since 1970.
    pub start_ms: u64,
    /// When it published this, ms since 1970.
    pub heartbeat_ms: u64,
    pub replicas: u64,
    pub uptime_us: u64,
    pub view: u64,
    pub leader: u64,
    pub view_active: bool,
    pub abstains: bool,
    pub paused: bool,
    pub low_space: bool,
    pub transfer_active: bool,
    pub transfer_entries: u64,
    pub executed_sequence: u64,
    pub low_watermark: u64,
    pub slots: u64,
    pub history_entries: u64,
    pub cosigned_entries: u64,
    pub certified_entries: u64,
    pub settled_entries: u64,
    pub sessions: u64,
    pub identities: u64,
    pub pool_bundles: u64,
    pub pool_bytes: u64,
    pub parked_reads: u64,
    pub backlog_records: u64,
    pub log_bytes: u64,
    pub staged_record: u64,
    pub durable_record: u64,
    /// `None` where it is not known.
    pub free_bytes: Option<u64>,
    /// Fast, slow, told.
    pub decisions: [u64; 3],
    pub batches: u64,
    pub bundles: u64,
    pub requests: u64,
    pub views_left: u64,
    pub views_begun: u64,
    /// In the order of [`SUSPICIONS`].
    pub suspicions: [u64; 4],
    /// By replica.
    pub links: Vec<bool>,
    pub clients: u64,
    pub connections: u64,
    pub received_frames: u64,
    pub sent_frames: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub turned_away: u64,
    pub starved_receives: u64,
    /// By code.
    pub refusals: Vec<(String, u64)>,
    pub bad_frames: u64,
    /// By replica.
    pub misbehaviour: Vec<u64>,
    pub evidence_lost: u64,
    pub transfers: u64,
    pub transfer_bytes: u64,
    pub log_full: u64,
    pub turns: u64,
    pub busy_us: u64,
    /// By name.
    pub settings: Vec<(String, u64)>,
    /// Sums and buckets.
    pub commit: Times,
    pub bundle_wait: Times,
    pub log_sync: Times,
    pub turn: Times,
}

/// A histogram as it was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// All times together, us.
    pub sum_us: u64,
    /// The counts, at most [`BUCKETS`].
    pub buckets: Vec<u64>,
}

impl Sample {
    /// What a reading says.
    pub fn of(reading: &Reading) -> Self {
        let Reading { pid, replica, start_ms, heartbeat_ms, .. } = *reading;
        let mut sample = Self { pid, replica, start_ms, heartbeat_ms, ..Self::default() };
        for series in &reading.series {
            if !sample.take_place(series) && !sample.take_work(series) {
                sample.take_labelled(series);
            }
        }
        sample
    }

    /// The setting of this name.
    pub fn setting(&self, name: &str) -> Option<u64> {
        self.settings.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Misbehaviour of all replicas together.
    pub fn misbehaviour_seen(&self) -> u64 {
        sum(self.misbehaviour.iter().copied())
    }

    /// Refusals of all codes.
    pub fn refused(&self) -> u64 {
        sum(self.refusals.iter().map(|(_, count)| *count))
    }

    fn take_place(&mut self, series: &Measured) -> bool {
        let value = series.value();
        match series.name.as_str() {
            "atlas_replicas" => self.replicas = value,
            "atlas_uptime_seconds" => self.uptime_us = value,
            "atlas_view" => self.view = value,
            "atlas_leader_index" => self.leader = value,
            "atlas_view_active" => self.view_active = value != 0,
            "atlas_abstains" => self.abstains = value != 0,
            "atlas_paused" => self.paused = value != 0,
            "atlas_low_space" => self.low_space = value != 0,
            "atlas_transfer_active" => self.transfer_active = value != 0,
            "atlas_transfer_entries" => self.transfer_entries = value,
            "atlas_executed_sequence" => self.executed_sequence = value,
            "atlas_low_watermark_sequence" => self.low_watermark = value,
            "atlas_slots" => self.slots = value,
            "atlas_history_entries" => self.history_entries = value,
            "atlas_history_cosigned_entries" => self.cosigned_entries = value,
            "atlas_history_certified_entries" => self.certified_entries = value,
            "atlas_history_settled_entries" => self.settled_entries = value,
            "atlas_sessions" => self.sessions = value,
            "atlas_identities" => self.identities = value,
            "atlas_pool_bundles" => self.pool_bundles = value,
            "atlas_pool_bytes" => self.pool_bytes = value,
            "atlas_parked_reads" => self.parked_reads = value,
            "atlas_log_backlog_records" => self.backlog_records = value,
            "atlas_log_bytes" => self.log_bytes = value,
            "atlas_log_staged_record" => self.staged_record = value,
            "atlas_log_durable_record" => self.durable_record = value,
            "atlas_free_bytes" => self.free_bytes = Some(value).filter(|free| *free != u64::MAX),
            _ => return false,
        }
        true
    }

    fn take_work(&mut self, series: &Measured) -> bool {
        let value = series.value();
        match series.name.as_str() {
            "atlas_executed_batches" => self.batches = value,
            "atlas_executed_bundles" => self.bundles = value,
            "atlas_executed_requests" => self.requests = value,
            "atlas_views_left" => self.views_left = value,
            "atlas_views_begun" => self.views_begun = value,
            "atlas_clients" => self.clients = value,
            "atlas_connections" => self.connections = value,
            "atlas_received_frames" => self.received_frames = value,
            "atlas_sent_frames" => self.sent_frames = value,
            "atlas_received_bytes" => self.received_bytes = value,
            "atlas_sent_bytes" => self.sent_bytes = value,
            "atlas_turned_away_connections" => self.turned_away = value,
            "atlas_starved_receives" => self.starved_receives = value,
            "atlas_evidence_lost" => self.evidence_lost = value,
            "atlas_transfers" => self.transfers = value,
            "atlas_transfer_bytes" => self.transfer_bytes = value,
            "atlas_log_full" => self.log_full = value,
            "atlas_turns" => self.turns = value,
            "atlas_busy_seconds" => self.busy_us = value,
            "atlas_commit_seconds" => self.commit = times(series),
            "atlas_bundle_wait_seconds" => self.bundle_wait = times(series),
            "atlas_log_sync_seconds" => self.log_sync = times(series),
            "atlas_turn_seconds" => self.turn = times(series),
            _ => return false,
        }
        true
    }

    fn take_labelled(&mut self, series: &Measured) {
        let Some((_, label)) = &series.label else { return };
        let (value, replica) = (series.value(), label.parse().ok().filter(|replica| *replica < MAX_PEERS));
        match (series.name.as_str(), replica) {
            ("atlas_link_up", Some(replica)) => put(&mut self.links, replica, value != 0),
            ("atlas_misbehaviour", Some(replica)) => put(&mut self.misbehaviour, replica, value),
            ("atlas_decisions", _) => by_name(&mut self.decisions, &["fast", "slow", "told"], label, value),
            ("atlas_suspicions", _) => by_name(&mut self.suspicions, &SUSPICIONS, label, value),
            ("atlas_bad_frames", _) => self.bad_frames = self.bad_frames.saturating_add(value),
            ("atlas_refusals", _) if self.refusals.len() < MAX_CODES => self.refusals.push((short(label), value)),
            ("atlas_setting", _) if self.settings.len() < MAX_SETTINGS => self.settings.push((short(label), value)),
            _ => {}
        }
    }
}

/// A sum that ends at the largest number.
pub fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

fn short(label: &str) -> String {
    label.chars().take(MAX_LABEL).collect()
}

fn put<T: Clone + Default>(all: &mut Vec<T>, place: usize, value: T) {
    if all.len() <= place {
        all.resize(place + 1, T::default());
    }
    all[place] = value;
}

fn by_name(all: &mut [u64], names: &[&str], label: &str, value: u64) {
    let place = names.iter().position(|name| *name == label);
    if let Some(number) = place.and_then(|place| all.get_mut(place)) {
        *number = value;
    }
}

fn times(series: &Measured) -> Times {
    Times { sum_us: series.value(), buckets: series.buckets().iter().take(BUCKETS).copied().collect() }
}

/// Whether there is a process of this number, and not only its exit code for its parent to take.
pub fn process_runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    // Behind the name, which may hold anything, stands the state.
    stat.is_ok_and(|stat| stat.rsplit(')').next().is_none_or(|rest| !rest.trim_start().starts_with(['Z', 'X'])))
}
