//! What a replica publishes of itself: one list of metrics, told in one order.
//!
//! [`Vitals::tell`] names every metric with unit, labels and help, and gives its value. The same call describes the table at the
//! start and fills it afterwards, so the two cannot disagree; how many series there are depends on the size of the cluster alone.
//!
//! # The board
//! The replica's thread stores the values into a [`Board`]: plain memory of relaxed atomics that any other thread reads. It does so at
//! the end of a turn, at most every [`PUBLISH_US`], and never waits: neither for a reader nor for a disk. A file that other programs can
//! read is another thread's work, since storing into a mapped file waits while the kernel writes its page back.
//! A reader may see some values of one turn beside others of the next; each by itself is true.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::flight::Stage;
use crate::histogram::{BUCKETS, Histogram};
use crate::types::Code;
use crate::wire::error::Misbehaviour;

/// The replica publishes at most so often, us.
pub const PUBLISH_US: u64 = 100_000;

/// An idle replica publishes this often, so that its heartbeat shows that it lives, us.
pub const IDLE_PUBLISH_US: u64 = 1_000_000;

/// What a metric does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Times, in buckets ([`crate::histogram`]).
    Histogram,
}

/// What a metric counts, and how it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things.
    None,
    /// Stored in microseconds, exported in seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// A metric's name and meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Family {
    /// Its name, with `atlas_` before and the unit behind.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// The label that tells its series apart; empty where it has one series.
    pub label: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// Which series of a family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label {
    /// There is one.
    None,
    /// By number.
    Number(u64),
    /// By name, of a fixed vocabulary.
    Name(&'static str),
}

/// Takes the metrics in their order.
pub trait Tell {
    /// A counter or gauge.
    fn number(&mut self, family: &'static Family, label: Label, value: u64);

    /// A histogram.
    fn histogram(&mut self, family: &'static Family, value: &Histogram);
}

/// How a frame was wrong, as a label.
pub const FAULTS: [&str; 3] = ["malformed", "misbehaving", "refused"];

/// Why leaders were left, as a label, in the order of [`crate::ordering::Suspicion`].
pub const SUSPICIONS: [&str; 4] = ["idle", "absent", "slow", "unfair"];

/// What a replica counts and shows.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "each is explained where it is told, by its help")]
pub struct Vitals<'a> {
    pub replica: u64,
    pub replicas: u64,
    pub mono_us: u64,
    pub wall_ms: u64,
    pub view: u64,
    pub leader: u64,
    pub active: bool,
    pub abstains: bool,
    pub paused: bool,
    pub low_space: bool,
    pub taking_state: bool,
    pub taken_entries: u64,
    pub sequence: u64,
    pub low_watermark: u64,
    pub slots: u64,
    pub entries: u64,
    pub cosigned: u64,
    pub certified: u64,
    pub settled: u64,
    pub sessions: u64,
    pub identities: u64,
    pub pooled: u64,
    pub pooled_bytes: u64,
    pub parked_reads: u64,
    pub backlog: u64,
    pub log_bytes: u64,
    pub log_records: u64,
    pub log_durable: u64,
    pub free_bytes: u64,
    pub decided: [u64; 3],
    pub batches: u64,
    pub bundles: u64,
    pub requests: u64,
    pub views_left: u64,
    pub views_begun: u64,
    pub suspicions: [u64; 4],
    pub links: u32,
    pub clients: u64,
    pub connections: u64,
    pub frames_in: u64,
    pub frames_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub sends: u64,
    pub accepted: u64,
    pub turned_away: u64,
    pub starved: u64,
    pub refused: Vec<(Code, u64)>,
    pub bad_frames: [u64; 3],
    pub misbehaviour: Vec<u64>,
    pub evidence_lost: u64,
    pub transfers: u64,
    pub transfer_bytes: u64,
    pub log_full: u64,
    pub turns: u64,
    pub busy_us: u64,
    pub longest_us: u64,
    pub stage_us: [u64; Stage::COUNT],
    pub stalls: [u64; Stage::COUNT],
    pub settings: Vec<(&'static str, u64)>,
    pub commit: Option<&'a Histogram>,
    pub wait: Option<&'a Histogram>,
    pub sync: Option<&'a Histogram>,
    pub turn: Option<&'a Histogram>,
}

/// Declares the families, each a constant, and all of them.
macro_rules! families {
    ($($id:ident $kind:ident $unit:ident $name:literal $label:literal $help:literal;)+) => {
        $(static $id: Family =
            Family { name: $name, kind: Kind::$kind, unit: Unit::$unit, label: $label, help: $help };)+

        /// Every family, in the order in which they are told.
        pub static FAMILIES: &[&Family] = &[$(&$id),+];
    };
}

families! {
    REPLICA Gauge None "atlas_replica_index" "" "Which replica of the cluster this is";
    REPLICAS Gauge None "atlas_replicas" "" "Replicas of the cluster";
    UPTIME Gauge Seconds "atlas_uptime_seconds" "" "Time since the replica started, when it published last";
    WALL Gauge Seconds "atlas_heartbeat_timestamp_seconds" "" "Wall clock of the replica's thread when it published last; an idle one publishes once a second";
    VIEW Gauge None "atlas_view" "" "Present view, or the one that is asked for";
    LEADER Gauge None "atlas_leader_index" "" "Leader of the present view";
    ACTIVE Gauge None "atlas_view_active" "" "1 while the replica takes part in its view, 0 between two";
    ABSTAINS Gauge None "atlas_abstains" "" "1 while it does not vote because its records were lost";
    PAUSED Gauge None "atlas_paused" "" "1 while it refuses clients' bundles as it was told to";
    LOW_SPACE Gauge None "atlas_low_space" "" "1 while it takes no new writes for want of disk space";
    TAKING Gauge None "atlas_transfer_active" "" "1 while it takes history and state from other replicas";
    TAKEN Gauge None "atlas_transfer_entries" "" "Entries of the history that are here while it does; else 0";
    SEQUENCE Gauge None "atlas_executed_sequence" "" "Highest executed sequence";
    LOW Gauge None "atlas_low_watermark_sequence" "" "Sequence of the stable checkpoint";
    SLOTS Gauge None "atlas_slots" "" "Sequences that the ordering keeps something of";
    ENTRIES Gauge None "atlas_history_entries" "" "Entries of the history";
    COSIGNED Gauge None "atlas_history_cosigned_entries" "" "Entries under the head that this replica promised to cosign last";
    CERTIFIED Gauge None "atlas_history_certified_entries" "" "Entries under the newest head that a quorum cosigned";
    SETTLED Gauge None "atlas_history_settled_entries" "" "Entries that a snapshot on the disk covers";
    SESSIONS Gauge None "atlas_sessions" "" "Open sessions of clients";
    IDENTITIES Gauge None "atlas_identities" "" "Identities that are registered, ended ones included";
    POOLED Gauge None "atlas_pool_bundles" "" "Clients' bundles that wait to be ordered";
    POOLED_BYTES Gauge Bytes "atlas_pool_bytes" "" "What they take in memory";
    PARKED Gauge None "atlas_parked_reads" "" "Reads that wait for the history to grow";
    BACKLOG Gauge None "atlas_log_backlog_records" "" "Records that wait for room in the log's buffers";
    LOG_BYTES Gauge Bytes "atlas_log_bytes" "" "Size of the log on the disk";
    LOG_RECORDS Gauge None "atlas_log_staged_record" "" "Number of the last record that was staged";
    LOG_DURABLE Gauge None "atlas_log_durable_record" "" "Number of the last record that is durable";
    FREE Gauge Bytes "atlas_free_bytes" "" "Free space where the data lies; all ones of 64 bits where it is not known";
    DECIDED Counter None "atlas_decisions" "path" "Sequences decided: fast by votes of all, slow by commits of a quorum, told by others who had";
    BATCHES Counter None "atlas_executed_batches" "" "Batches executed";
    BUNDLES Counter None "atlas_executed_bundles" "" "Clients' bundles in them";
    REQUESTS Counter None "atlas_executed_requests" "" "Requests in those";
    VIEWS_LEFT Counter None "atlas_views_left" "" "Times that the replica asked for another view";
    VIEWS_BEGUN Counter None "atlas_views_begun" "" "Views that it began to take part in";
    SUSPECTED Counter None "atlas_suspicions" "reason" "Leaders that it left on its own account";
    LINK Gauge None "atlas_link_up" "replica" "1 while there is a link to the replica";
    CLIENTS Gauge None "atlas_clients" "" "Clients' connections that proved a key";
    CONNECTIONS Gauge None "atlas_connections" "" "All connections";
    FRAMES_IN Counter None "atlas_received_frames" "" "Frames received and opened";
    FRAMES_OUT Counter None "atlas_sent_frames" "" "Frames sealed and queued to be sent";
    BYTES_IN Counter Bytes "atlas_received_bytes" "" "Bytes received";
    BYTES_OUT Counter Bytes "atlas_sent_bytes" "" "Bytes sent";
    SENDS Counter None "atlas_sends" "" "Sends handed to the kernel; frames leave several at a time";
    ACCEPTED Counter None "atlas_accepted_connections" "" "Connections accepted";
    TURNED_AWAY Counter None "atlas_turned_away_connections" "" "Connections closed at once because there were too many";
    STARVED Counter None "atlas_starved_receives" "" "Receives that ended because no buffer was free";
    REFUSED Counter None "atlas_refusals" "code" "Refusals sent to clients, by the outcome's code";
    BAD_FRAMES Counter None "atlas_bad_frames" "fault" "Frames with an error, by whose fault it is";
    MISBEHAVIOUR Counter None "atlas_misbehaviour" "replica" "What the replica did that no correct one does, over all restarts of this one";
    EVIDENCE_LOST Counter None "atlas_evidence_lost" "" "Records of evidence that could not be written";
    TRANSFERS Counter None "atlas_transfers" "" "States taken from other replicas";
    TRANSFER_BYTES Counter Bytes "atlas_transfer_bytes" "" "Bytes of history and state taken in those";
    LOG_FULL Counter None "atlas_log_full" "" "Tries to write that found no room on the disk";
    TURNS Counter None "atlas_turns" "" "Rounds of the replica's loop";
    BUSY Counter Seconds "atlas_busy_seconds" "" "Time that its thread spent in rounds and not asleep";
    LONGEST Gauge Seconds "atlas_longest_round_seconds" "" "Longest round since the start";
    STAGE_BUSY Counter Seconds "atlas_round_busy_seconds" "stage" "Time of rounds by what it was spent on";
    STALLS Counter None "atlas_stalls" "stage" "Rounds longer than 50 ms, by what took most of the round";
    SETTING Gauge None "atlas_setting" "name" "Local settings as they run, in the unit that their name says";
    COMMIT Histogram Seconds "atlas_commit_seconds" "" "From staging the own vote on a proposal to executing it, by the clock at the beginning of rounds";
    WAIT Histogram Seconds "atlas_bundle_wait_seconds" "" "From a client's bundle being verified here to its execution, by the same clock";
    SYNC Histogram Seconds "atlas_log_sync_seconds" "" "From handing a write of the log to the kernel to knowing it durable";
    TURN Histogram Seconds "atlas_turn_seconds" "" "Work of one round";
}

impl Vitals<'_> {
    /// Tells every metric, in the order of [`FAMILIES`].
    pub fn tell(&self, out: &mut impl Tell) {
        self.tell_place(out);
        self.tell_work(out);
        self.tell_links(out);
        self.tell_faults(out);
        let none = Histogram::default;
        for (family, histogram) in [(&COMMIT, self.commit), (&WAIT, self.wait), (&SYNC, self.sync), (&TURN, self.turn)]
        {
            match histogram {
                Some(histogram) => out.histogram(family, histogram),
                None => out.histogram(family, &none()),
            }
        }
    }

    fn tell_place(&self, out: &mut impl Tell) {
        for (family, value) in [
            (&REPLICA, self.replica),
            (&REPLICAS, self.replicas),
            (&UPTIME, self.mono_us),
            (&WALL, self.wall_ms.saturating_mul(1_000)),
            (&VIEW, self.view),
            (&LEADER, self.leader),
            (&ACTIVE, self.active.into()),
            (&ABSTAINS, self.abstains.into()),
            (&PAUSED, self.paused.into()),
            (&LOW_SPACE, self.low_space.into()),
            (&TAKING, self.taking_state.into()),
            (&TAKEN, self.taken_entries),
            (&SEQUENCE, self.sequence),
            (&LOW, self.low_watermark),
            (&SLOTS, self.slots),
            (&ENTRIES, self.entries),
            (&COSIGNED, self.cosigned),
            (&CERTIFIED, self.certified),
            (&SETTLED, self.settled),
            (&SESSIONS, self.sessions),
            (&IDENTITIES, self.identities),
            (&POOLED, self.pooled),
            (&POOLED_BYTES, self.pooled_bytes),
            (&PARKED, self.parked_reads),
            (&BACKLOG, self.backlog),
            (&LOG_BYTES, self.log_bytes),
            (&LOG_RECORDS, self.log_records),
            (&LOG_DURABLE, self.log_durable),
            (&FREE, self.free_bytes),
        ] {
            out.number(family, Label::None, value);
        }
    }

    fn tell_work(&self, out: &mut impl Tell) {
        for (path, value) in ["fast", "slow", "told"].into_iter().zip(self.decided) {
            out.number(&DECIDED, Label::Name(path), value);
        }
        for (family, value) in [
            (&BATCHES, self.batches),
            (&BUNDLES, self.bundles),
            (&REQUESTS, self.requests),
            (&VIEWS_LEFT, self.views_left),
            (&VIEWS_BEGUN, self.views_begun),
        ] {
            out.number(family, Label::None, value);
        }
        for (reason, value) in SUSPICIONS.into_iter().zip(self.suspicions) {
            out.number(&SUSPECTED, Label::Name(reason), value);
        }
    }

    fn tell_links(&self, out: &mut impl Tell) {
        for replica in 0..self.replicas {
            let up = replica == self.replica || self.links >> replica & 1 == 1;
            out.number(&LINK, Label::Number(replica), up.into());
        }
        for (family, value) in [
            (&CLIENTS, self.clients),
            (&CONNECTIONS, self.connections),
            (&FRAMES_IN, self.frames_in),
            (&FRAMES_OUT, self.frames_out),
            (&BYTES_IN, self.bytes_in),
            (&BYTES_OUT, self.bytes_out),
            (&SENDS, self.sends),
            (&ACCEPTED, self.accepted),
            (&TURNED_AWAY, self.turned_away),
            (&STARVED, self.starved),
        ] {
            out.number(family, Label::None, value);
        }
    }

    fn tell_faults(&self, out: &mut impl Tell) {
        for code in Code::ALL.iter().filter(|code| **code != Code::DONE) {
            let value = self.refused.iter().find(|(refused, _)| refused == code).map_or(0, |(_, count)| *count);
            out.number(&REFUSED, Label::Number(u64::from(code.0)), value);
        }
        for (fault, value) in FAULTS.into_iter().zip(self.bad_frames) {
            out.number(&BAD_FRAMES, Label::Name(fault), value);
        }
        for replica in 0..self.replicas {
            let value = self.misbehaviour.get(replica as usize).copied().unwrap_or(0);
            out.number(&MISBEHAVIOUR, Label::Number(replica), value);
        }
        for (family, value) in [
            (&EVIDENCE_LOST, self.evidence_lost),
            (&TRANSFERS, self.transfers),
            (&TRANSFER_BYTES, self.transfer_bytes),
            (&LOG_FULL, self.log_full),
            (&TURNS, self.turns),
            (&BUSY, self.busy_us),
            (&LONGEST, self.longest_us),
        ] {
            out.number(family, Label::None, value);
        }
        for (family, values) in [(&STAGE_BUSY, self.stage_us), (&STALLS, self.stalls)] {
            for (stage, value) in Stage::NAMES.into_iter().zip(values) {
                out.number(family, Label::Name(stage), value);
            }
        }
        for (name, value) in &self.settings {
            out.number(&SETTING, Label::Name(name), *value);
        }
    }
}

/// One series of the board.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Series {
    /// Its family.
    pub family: &'static Family,
    /// Which of them.
    pub label: Label,
    /// Its first value on the board; a histogram has its sum there, and its buckets behind it.
    pub first: usize,
}

impl Series {
    /// How many values it has.
    pub fn values(&self) -> usize {
        if self.family.kind == Kind::Histogram { 1 + BUCKETS } else { 1 }
    }
}

/// The values, stored by the replica's thread and read by any other.
#[derive(Debug)]
pub struct Board {
    series: Vec<Series>,
    values: Box<[AtomicU64]>,
}

struct Describe(Vec<Series>, usize);

impl Describe {
    fn add(&mut self, family: &'static Family, label: Label) {
        let series = Series { family, label, first: self.1 };
        self.1 += series.values();
        self.0.push(series);
    }
}

impl Tell for Describe {
    fn number(&mut self, family: &'static Family, label: Label, _value: u64) {
        self.add(family, label);
    }

    fn histogram(&mut self, family: &'static Family, _value: &Histogram) {
        self.add(family, Label::None);
    }
}

struct Store<'a> {
    values: &'a [AtomicU64],
    next: usize,
}

impl Store<'_> {
    fn put(&mut self, value: u64) {
        if let Some(place) = self.values.get(self.next) {
            place.store(value, Relaxed);
        }
        self.next += 1;
    }
}

impl Tell for Store<'_> {
    fn number(&mut self, _family: &'static Family, _label: Label, value: u64) {
        self.put(value);
    }

    fn histogram(&mut self, _family: &'static Family, value: &Histogram) {
        self.put(value.sum_us());
        value.buckets().iter().for_each(|count| self.put(*count));
    }
}

impl Board {
    /// A board with room for what `vitals` tells.
    pub fn new(vitals: &Vitals<'_>) -> Arc<Self> {
        let mut table = Describe(Vec::new(), 0);
        vitals.tell(&mut table);
        let Describe(series, count) = table;
        let board = Self { series, values: (0..count).map(|_| AtomicU64::new(0)).collect() };
        board.store(vitals);
        Arc::new(board)
    }

    /// Stores what a replica tells; by its thread alone.
    pub fn store(&self, vitals: &Vitals<'_>) {
        vitals.tell(&mut Store { values: &self.values, next: 0 });
    }

    /// Every series.
    pub fn series(&self) -> &[Series] {
        &self.series
    }

    /// Every value as it is now.
    pub fn values(&self) -> Vec<u64> {
        self.values.iter().map(|value| value.load(Relaxed)).collect()
    }

    /// The values of a series as they are now.
    pub fn of(&self, series: &Series) -> Vec<u64> {
        let all = self.values.get(series.first..series.first + series.values()).unwrap_or_default();
        all.iter().map(|value| value.load(Relaxed)).collect()
    }

    /// The first value of a family's series; 0 where there is none.
    pub fn get(&self, name: &str, label: Label) -> u64 {
        let series = self.series.iter().find(|series| series.family.name == name && series.label == label);
        series.and_then(|series| self.values.get(series.first)).map_or(0, |value| value.load(Relaxed))
    }
}

/// Kinds of misbehaviour, for readers of the counters.
pub fn misbehaviour_kinds() -> &'static [&'static str] {
    &Misbehaviour::KINDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals(histogram: &Histogram) -> Vitals<'_> {
        Vitals {
            replica: 2,
            replicas: 4,
            view: 7,
            links: 0b1001,
            refused: vec![(Code::OVERLOADED, 5)],
            misbehaviour: vec![0, 3, 0, 0],
            settings: vec![("leader_timeout_ms", 150)],
            commit: Some(histogram),
            ..Vitals::default()
        }
    }

    #[test]
    fn what_is_told_stands_where_the_table_says() {
        let mut histogram = Histogram::default();
        [3, 3, 900].into_iter().for_each(|us| histogram.record(us));
        let mut vitals = vitals(&histogram);
        let board =
            Board::new(&Vitals { settings: vitals.settings.clone(), ..Vitals { replicas: 4, ..Vitals::default() } });
        board.store(&vitals);
        assert_eq!(board.get("atlas_view", Label::None), 7);
        assert_eq!(board.get("atlas_refusals", Label::Number(500)), 5);
        assert_eq!(board.get("atlas_misbehaviour", Label::Number(1)), 3);
        assert_eq!(board.get("atlas_setting", Label::Name("leader_timeout_ms")), 150);
        let links = [0, 1, 2, 3].map(|replica| board.get("atlas_link_up", Label::Number(replica)));
        assert_eq!(links, [1, 0, 1, 1], "its own place counts as linked");
        let commit = board.series().iter().find(|series| series.family.name == "atlas_commit_seconds").unwrap();
        let values = board.of(commit);
        assert_eq!((values[0], values[1 + 3], values[1..].iter().sum::<u64>()), (906, 2, 3));
        vitals.view = 8;
        board.store(&vitals);
        assert_eq!(board.get("atlas_view", Label::None), 8);
    }

    #[test]
    fn every_family_is_told_once_in_its_order_and_named_by_its_unit() {
        let board = Board::new(&vitals(&Histogram::default()));
        let mut told: Vec<&str> = board.series().iter().map(|series| series.family.name).collect();
        told.dedup();
        assert_eq!(told, FAMILIES.iter().map(|family| family.name).collect::<Vec<_>>());
        let mut values = 0;
        for series in board.series() {
            let family = series.family;
            assert_eq!(series.first, values, "{}", family.name);
            values += series.values();
            assert_eq!(family.label.is_empty(), series.label == Label::None, "{}", family.name);
            assert!(family.name.starts_with("atlas_"), "{}", family.name);
            match family.unit {
                Unit::Seconds => assert!(family.name.ends_with("_seconds"), "{}", family.name),
                Unit::Bytes => assert!(family.name.ends_with("_bytes"), "{}", family.name),
                Unit::None => assert!(!family.name.ends_with("_seconds") && !family.name.ends_with("_bytes")),
            }
        }
        assert_eq!(board.values().len(), values);
    }
}
