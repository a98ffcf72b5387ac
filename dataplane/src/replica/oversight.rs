//! The seam between a replica and whoever manages it: what it shows, and what it can be told to do.
//!
//! The replica's thread never waits for the other side. At the end of a round it publishes to the [`Board`] when that is due, and
//! takes at most [`ORDERS_A_ROUND`] orders; each is bounded work. Whoever gives an order wakes the replica by the [`Waker`] it was
//! given. Answers are handed back at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cosigning::NEVER_US;
use super::links::Links;
use super::node::Node;
use super::reads::ReadBudget;
use super::space::{Gauge, SpaceWatch};
use super::start::FileNode;
use super::telemetry::{Board, IDLE_PUBLISH_US, PUBLISH_US, Vitals};
use super::tried::Tried;
use crate::cluster::placement::{CoreSet, Live};
use crate::cluster::settings::LocalConfig;
use crate::cluster::{Cluster, ReplicaConfig};
use crate::cores::PlaceError;
use crate::evidence::EvidenceFile;
use crate::flight::lines::Lines;
use crate::flight::{self, Kind as Noted, Stage};
use crate::histogram::Histogram;
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::net::{Reactor, Waker};
use crate::ordering::{Factors, Suspicion, Timing};
use crate::state::Application;
use crate::types::{Code, Now, ReplicaId, Sequence, View};

/// Orders that a round takes.
pub const ORDERS_A_ROUND: usize = 4;

/// A round that takes longer is noted by the flight recorder, us.
pub const LONG_ROUND_US: u64 = 10_000;

/// A round that takes longer is counted as a stall, us.
pub const STALL_US: u64 = 50_000;

/// Rows of an answer; what is beyond is counted.
pub const MAX_ROWS: usize = 256;

/// What a replica is told to do, or asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Changes a setting, on trial: unless [`Order::Keep`] comes in time, what was in force before the first such change is again,
    /// whether or not anybody manages the replica by then.
    Try {
        /// What of them.
        change: Change,
        /// How long the trial takes from now on, us.
        for_us: u64,
    },
    /// The open trial takes so long from now on, us.
    Extend(u64),
    /// What is on trial stays.
    Keep,
    /// What was in force before the trial is again.
    Undo,
    /// Tells the settings in force.
    Settings,
    /// Refuses clients' bundles, or takes them again.
    Pause(bool),
    /// Asks for the next view, if it leads.
    StepDown,
    /// Fills up to the next checkpoint, if it leads.
    Checkpoint,
    /// Identities with connections here.
    Clients,
    /// What is known of other replicas' misbehaviour.
    Evidence,
    /// Counters by name.
    Counters,
}

/// Another value of one setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// A number of `[local]`: its key, and a value within its bounds.
    Number(&'static str, u64),
    /// The core of the replica's thread.
    Core(Option<usize>),
    /// The cores of all other threads.
    Helpers(Option<CoreSet>),
}

impl Change {
    /// Settings with it; `None` where there is no such key.
    pub fn of(&self, live: &Live) -> Option<Live> {
        let mut changed = live.clone();
        match self {
            Self::Number(name, value) => changed.local = live.local.with(name, *value)?,
            Self::Core(core) => changed.placement.core = *core,
            Self::Helpers(cores) => changed.placement.helpers = *cores,
        }
        Some(changed)
    }
}

/// The settings in force after an order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InForce {
    /// What is in force.
    pub settings: Live,
    /// What was when the order was looked at.
    pub was: Live,
    /// What comes back when the open trial ends, and in how long, us; none where nothing is on trial.
    pub before: Option<(Live, u64)>,
}

/// What it says to that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is so.
    Done,
    /// It runs with these settings.
    Settings(Box<InForce>),
    /// Nothing is on trial, or not any more; it runs with these settings.
    NothingOnTrial(Box<InForce>),
    /// It cannot, and nothing has changed.
    Refused(PlaceError),
    /// It asks for this view.
    Leaves(View),
    /// The checkpoint at this sequence comes, or is there.
    Checkpoint(Sequence),
    /// It does not lead the present view, or may not ask for another.
    LeadsNot {
        /// The present view.
        view: View,
        /// Who leads it.
        leader: ReplicaId,
    },
    /// A table: a row's cells are in the order that [`Order`] has for it, at most [`MAX_ROWS`].
    Rows {
        /// The rows.
        rows: Vec<Vec<String>>,
        /// Rows that are left out.
        more: u64,
    },
}

/// What a manager learns when the replica serves.
#[derive(Debug)]
pub struct Start<'a> {
    /// Where the replica publishes.
    pub board: Arc<Board>,
    /// Makes it look for orders.
    pub waker: Waker,
    /// How it runs.
    pub config: &'a ReplicaConfig,
    /// The cluster.
    pub cluster: &'a Cluster,
}

/// Manages a replica; called by the replica's thread, so nothing here may wait or take long.
pub trait Management {
    /// The process begins: it prints the lines from now on, on a thread of its own, until there are no more.
    fn begins(&mut self, config: &ReplicaConfig, lines: Lines);

    /// The replica serves. What keeps the manager from its work is its own to report; the replica goes on.
    fn serves(&mut self, start: Start<'_>);

    /// The next order, with a number for its answer.
    fn next_order(&mut self) -> Option<(u64, Order)>;

    /// An order was carried out.
    fn answer(&mut self, number: u64, answer: Answer);
}

/// A replica's side of its management.
pub(super) struct Oversight {
    management: Box<dyn Management>,
    board: Arc<Board>,
    settings: Tried,
    published_us: u64,
    /// Something happened since.
    is_dirty: bool,
    /// More orders wait than a round takes.
    has_more: bool,
    /// Since when a write is with the kernel.
    write_since: Option<Instant>,
    sync: Histogram,
    turn: Histogram,
    turns: u64,
    busy_us: u64,
    stages: [StageTimes; Stage::COUNT],
    longest_us: u64,
    view: (View, bool),
    left: u64,
    begun: u64,
    suspicions: [u64; 4],
}

/// What one stage of rounds took.
#[derive(Clone, Copy, Default)]
struct StageTimes {
    busy_ns: u64,
    /// Stalls of which it took most.
    stalls: u64,
}

/// The rest of a replica, as its management sees it.
pub(super) struct Replica<'a, A: Application> {
    pub(super) node: &'a mut FileNode<A>,
    pub(super) links: &'a Links,
    pub(super) reactor: &'a mut Reactor,
    pub(super) space: &'a SpaceWatch,
    pub(super) gauge: &'a mut Gauge,
    pub(super) evidence: &'a EvidenceFile,
}

impl Oversight {
    /// Begins to publish, and tells the manager.
    pub(super) fn start<A: Application>(
        mut management: Box<dyn Management>,
        config: &ReplicaConfig,
        cluster: &Cluster,
        waker: Waker,
        node: &FileNode<A>,
    ) -> Self {
        let replica = u64::from(config.replica.0);
        let settings = config.local.numbers().collect();
        let board = Board::new(&Vitals { replica, replicas: cluster.n() as u64, settings, ..Vitals::default() });
        management.serves(Start { board: Arc::clone(&board), waker, config, cluster });
        Self {
            management,
            board,
            settings: Tried::new(config.live()),
            published_us: 0,
            is_dirty: true,
            has_more: false,
            write_since: None,
            sync: Histogram::default(),
            turn: Histogram::default(),
            turns: 0,
            busy_us: 0,
            stages: [StageTimes::default(); Stage::COUNT],
            longest_us: 0,
            view: (node.ordering().view(), node.ordering().is_active()),
            left: 0,
            begun: 0,
            suspicions: [0; 4],
        }
    }

    /// When it has something to do, us.
    pub(super) fn deadline_us(&self) -> u64 {
        if self.has_more {
            return 0;
        }
        let publish_us = self.published_us + if self.is_dirty { PUBLISH_US } else { IDLE_PUBLISH_US };
        publish_us.min(self.settings.end_us())
    }

    /// The log's write is durable.
    pub(super) fn written(&mut self) {
        if let Some(since) = self.write_since.take() {
            self.sync.record(micros(since));
        }
    }

    /// A round that began at `since` ends; a write is with the kernel or not.
    pub(super) fn round<A: Application>(
        &mut self,
        replica: &mut Replica<'_, A>,
        since: Instant,
        writing: bool,
        now: Now,
    ) {
        match writing {
            true => drop(self.write_since.get_or_insert_with(Instant::now)),
            false => self.write_since = None,
        }
        self.watch_view(replica.node);
        self.has_more = false;
        // First, so that no order prolongs or keeps what has ended.
        if self.settings.is_over(now.mono_us) {
            let before = self.settings.running().clone();
            self.settings.undo();
            self.run_with(&before, replica, [Noted::SettingReverted, Noted::PlacementReverted]);
        }
        for taken in 0..=ORDERS_A_ROUND {
            if taken == ORDERS_A_ROUND {
                self.has_more = true;
                break;
            }
            let Some((number, order)) = self.management.next_order() else { break };
            let answer = self.carry_out(&order, replica, now);
            self.management.answer(number, answer);
        }
        self.note_round(micros(since));
        self.is_dirty = true;
        if now.mono_us >= self.published_us + PUBLISH_US {
            self.publish(replica, now);
        }
    }

    /// Runs with the settings in force from now on, and no longer with these; the threads are where they belong, or are moved.
    fn run_with<A: Application>(&mut self, before: &Live, replica: &mut Replica<'_, A>, noted: [Noted; 2]) {
        let Live { local: settings, placement } = self.settings.running();
        for (place, ((_, old), (_, new))) in before.local.numbers().zip(settings.numbers()).enumerate() {
            if old != new {
                flight::note(noted[0], [place as u64, old, new]);
            }
        }
        if before.placement != *placement {
            let helpers = placement.helpers.map_or(0, |cores| cores.len() as u64);
            // What was possible before is possible again, unless the core was taken away meanwhile.
            let done = crate::cores::placed() == *placement || crate::cores::place(placement).is_ok();
            flight::note(noted[1], [placement.core.map_or(0, |core| core as u64 + 1), helpers, done.into()]);
        }
        replica.node.retime(settings);
        replica.gauge.set_mark(settings.low_space_mib << 20);
        replica.reactor.set_spin(Duration::from_micros(settings.spin_us));
        flight::set_sampling(settings.trace_sampling);
    }

    /// A round took so long.
    fn note_round(&mut self, busy_us: u64) {
        self.turn.record(busy_us);
        self.turns += 1;
        self.busy_us += busy_us;
        self.longest_us = self.longest_us.max(busy_us);
        let spent = flight::round();
        self.stages.iter_mut().zip(spent).for_each(|(stage, ns)| stage.busy_ns += ns);
        if busy_us >= LONG_ROUND_US {
            let (most, ns) =
                spent.iter().enumerate().max_by_key(|(_, ns)| **ns).map_or((0, 0), |(most, ns)| (most, *ns));
            let is_stall = busy_us >= STALL_US;
            self.stages[most].stalls += u64::from(is_stall);
            let kind = if is_stall { Noted::Stall } else { Noted::RoundLong };
            flight::note(kind, [busy_us, most as u64, ns / 1_000]);
        }
    }

    fn watch_view<A: Application>(&mut self, node: &FileNode<A>) {
        let ordering = node.ordering();
        let (view, active) = (ordering.view(), ordering.is_active());
        if (view, active) == self.view {
            return;
        }
        self.left += u64::from(view != self.view.0);
        self.begun += u64::from(active);
        if let Some(why) = ordering.suspicion().filter(|_| view != self.view.0) {
            self.suspicions[place(why)] += 1;
        }
        self.view = (view, active);
    }

    fn carry_out<A: Application>(&mut self, order: &Order, replica: &mut Replica<'_, A>, now: Now) -> Answer {
        match order {
            Order::Try { .. } | Order::Extend(_) | Order::Keep | Order::Undo | Order::Settings => {
                self.change(order, replica, now)
            }
            Order::Pause(paused) => {
                replica.node.set_paused(*paused);
                Answer::Done
            }
            Order::StepDown => replica.node.step_down(),
            Order::Checkpoint => replica.node.checkpoint_now(),
            Order::Clients => rows(replica.links.identities(), replica.links.clients(replica.node)),
            Order::Evidence => rows(replica.node.evidence.counts().count(), replica.node.evidence_rows()),
            Order::Counters => {
                let counters = replica.node.counters().all();
                rows(counters.len(), counters.into_iter().map(|counter| vec![counter.name, counter.value.to_string()]))
            }
        }
    }

    /// Carries out an order that is about the settings.
    fn change<A: Application>(&mut self, order: &Order, replica: &mut Replica<'_, A>, now: Now) -> Answer {
        let was = self.settings.running().clone();
        let done = match order {
            Order::Try { change, for_us } => {
                let Some(changed) = change.of(&was) else {
                    return Answer::NothingOnTrial(self.settings.in_force(was, now.mono_us));
                };
                if changed.placement != was.placement
                    && let Err(error) = crate::cores::place(&changed.placement)
                {
                    return Answer::Refused(error);
                }
                self.settings.change(changed, now.mono_us.saturating_add(*for_us));
                true
            }
            Order::Extend(for_us) => self.settings.extend(now.mono_us.saturating_add(*for_us)),
            Order::Keep => self.settings.keep(),
            Order::Undo => self.settings.undo(),
            _ => true,
        };
        self.run_with(&was, replica, [Noted::Setting, Noted::Placement]);
        let in_force = self.settings.in_force(was, now.mono_us);
        if done { Answer::Settings(in_force) } else { Answer::NothingOnTrial(in_force) }
    }

    fn publish<A: Application>(&mut self, replica: &Replica<'_, A>, now: Now) {
        (self.published_us, self.is_dirty) = (now.mono_us, false);
        let mut vitals = replica.node.vitals();
        let net = replica.reactor.counters();
        (vitals.mono_us, vitals.wall_ms) = (now.mono_us, u64::try_from(now.wall_ms).unwrap_or(0));
        vitals.free_bytes = replica.space.free_bytes();
        (vitals.clients, vitals.frames_out) = replica.links.counts();
        vitals.connections = replica.reactor.connections() as u64;
        (vitals.bytes_in, vitals.bytes_out, vitals.sends) = (net.received_bytes, net.sent_bytes, net.sends);
        (vitals.accepted, vitals.turned_away, vitals.starved) = (net.accepted, net.refused, net.starved);
        vitals.evidence_lost = replica.evidence.lost();
        (vitals.views_left, vitals.views_begun, vitals.suspicions) = (self.left, self.begun, self.suspicions);
        (vitals.turns, vitals.busy_us, vitals.longest_us) = (self.turns, self.busy_us, self.longest_us);
        vitals.stage_us = self.stages.map(|stage| stage.busy_ns / 1_000);
        vitals.stalls = self.stages.map(|stage| stage.stalls);
        (vitals.sync, vitals.turn) = (Some(&self.sync), Some(&self.turn));
        vitals.settings = self.settings.running().local.numbers().collect();
        self.board.store(&vitals);
    }
}

/// The first of `count` rows; the others are not even made.
fn rows(count: usize, all: impl IntoIterator<Item = Vec<String>>) -> Answer {
    Answer::Rows { rows: all.into_iter().take(MAX_ROWS).collect(), more: count.saturating_sub(MAX_ROWS) as u64 }
}

/// The place of a reason to leave a leader among [`super::telemetry::SUSPICIONS`].
pub(super) fn place(why: Suspicion) -> usize {
    match why {
        Suspicion::Idle => 0,
        Suspicion::Absent => 1,
        Suspicion::Slow => 2,
        Suspicion::Unfair => 3,
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// What reads may take of a turn by local settings.
pub(super) fn read_budget(local: &LocalConfig) -> ReadBudget {
    ReadBudget { reads: local.reads_a_turn as usize, bytes: (local.reads_kib_a_turn as usize) << 10 }
}

/// The timing that local settings stand for.
pub(super) fn timing(local: &LocalConfig) -> Timing {
    Timing {
        open_batches: local.max_open_batches,
        batch_bytes: (local.max_batch_kib as usize) << 10,
        pool_bytes: (local.pool_mib as usize) << 20,
        busy_status_us: local.status_interval_ms * 1_000,
        suspect_us: local.leader_timeout_ms * 1_000,
        hint_us: local.leader_timeout_ms * local.link_down_percent * 10,
        relay_us: local.leader_timeout_ms * local.relay_percent * 10,
        factors: Factors {
            doublings: local.leader_doublings as u32,
            load: local.leader_load_factor,
            pause: local.slow_pause_factor,
            rate_part: local.slow_rate_part,
            grace: local.slow_grace,
            bad_periods: local.slow_periods as u32,
            unfair: local.unfair_factor,
        },
        pool_shares: local.pool_shares as usize,
        ..Timing::default()
    }
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// Runs with these local settings from now on.
    fn retime(&mut self, local: &LocalConfig) {
        self.ordering.retime(timing(local));
        // A replica without a history signs none.
        if self.config.cosign_interval_us != NEVER_US {
            self.cosigning.cosigner_mut().set_interval(local.cosign_interval_ms * 1_000);
        }
        self.set_transfer_rate(local.transfer_mib_s << 20);
        self.config.group_commit_us = local.group_commit_us;
        self.config.read_budget = read_budget(local);
        self.proofs.set_rate(local.export_mib_s << 20);
    }

    fn step_down(&mut self) -> Answer {
        match self.ordering.step_down() {
            Some(view) => Answer::Leaves(view),
            None => Answer::LeadsNot { view: self.ordering.view(), leader: self.ordering.leader() },
        }
    }

    fn checkpoint_now(&mut self) -> Answer {
        match self.ordering.checkpoint_now() {
            Some(sequence) => Answer::Checkpoint(sequence),
            None => Answer::LeadsNot { view: self.ordering.view(), leader: self.ordering.leader() },
        }
    }

    /// Replica, kind, how often, and what the first of the kind was, the most telling first.
    fn evidence_rows(&self) -> impl Iterator<Item = Vec<String>> {
        self.evidence.counts().map(|(replica, kind, count)| {
            let kept = self.evidence.kept().iter().find(|kept| kept.replica == replica && kept.kind == kind);
            let (at_ms, statement) = kept.map_or((0, ""), |kept| (kept.at_ms, kept.statement.as_str()));
            vec![replica.to_string(), kind.to_owned(), count.to_string(), at_ms.to_string(), statement.to_owned()]
        })
    }

    fn vitals(&self) -> Vitals<'_> {
        let (ordering, execution) = (&self.ordering, &self.execution);
        let decisions = ordering.decisions();
        let taking = self.taking();
        let mut misbehaviour = vec![0; self.config.agreed.size.n()];
        for (replica, _, count) in self.evidence.counts() {
            if let Some(sum) = misbehaviour.get_mut(replica.index()) {
                *sum += count;
            }
        }
        Vitals {
            replica: u64::from(self.config.me.0),
            replicas: self.config.agreed.size.n() as u64,
            view: ordering.view(),
            leader: u64::from(ordering.leader().0),
            active: ordering.is_active(),
            abstains: ordering.abstains().is_some(),
            paused: self.is_paused(),
            low_space: self.low_space,
            taking_state: taking.is_some(),
            taken_entries: taking.map_or(0, |(_, entries)| entries),
            sequence: ordering.executed(),
            low_watermark: ordering.low(),
            slots: ordering.slots() as u64,
            entries: execution.size(),
            cosigned: self.cosigning.promised_size(),
            certified: self.cosigning.certified_size(),
            settled: self.settled(),
            sessions: execution.session_count() as u64,
            identities: execution.identities().all().len() as u64,
            pooled: ordering.pooled() as u64,
            pooled_bytes: ordering.pooled_bytes() as u64,
            parked_reads: self.reads.parked() as u64,
            backlog: self.backlog.len() as u64,
            log_bytes: self.log.bytes(),
            log_records: self.log.last().0,
            log_durable: self.log.durable().0,
            decided: [decisions.fast, decisions.slow, decisions.told],
            batches: self.meters.batches,
            bundles: self.meters.bundles,
            requests: self.meters.requests,
            links: self.links,
            frames_in: self.meters.frames_in,
            refused: self.refusals(),
            bad_frames: self.bad_frames(),
            misbehaviour,
            transfers: self.counters.get("transfer.installed"),
            transfer_bytes: self.counters.get("transfer.bytes"),
            log_full: self.counters.get("log.full"),
            commit: Some(&self.meters.commit),
            wait: Some(ordering.waits()),
            ..Vitals::default()
        }
    }

    fn refusals(&self) -> Vec<(Code, u64)> {
        let refused = self.counters.with_prefix("refused.");
        refused.filter_map(|(code, count)| Some((Code(code.parse().ok()?), count))).collect()
    }

    fn bad_frames(&self) -> [u64; 3] {
        super::telemetry::FAULTS.map(|fault| {
            let all = self.counters.with_prefix("frames.");
            let of_fault = all.filter(|(name, _)| name.strip_prefix(fault).is_some_and(|rest| rest.starts_with('.')));
            of_fault.map(|(_, count)| count).sum()
        })
    }
}
