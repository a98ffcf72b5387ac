//! The event loop: nodes, clients, and what passes between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::administrator::{Administrator, administrator_key};
use super::application::Registers;
use super::check::{Checker, View};
use super::client::SimClient;
use super::converge::Idle;
use super::disks::StaysFull;
use super::machine::Machine;
use super::network::Network;
use super::outbox::Outbox;
use super::plan::Plan;
use super::random::Random;
use super::setup::{client_key, cluster, empty_disk, machine, node_config};
use super::{Failure, MAX_EVENTS, Report, SimConfig, TraceLine};
use crate::adversary::Plot;
use crate::cluster::Cluster;
use crate::execution::Execution;
use crate::history::store::MemoryStore;
use crate::log::{Crash, LogError, SimDisk};
use crate::replica::{ClientId, Node, NodeError};
use crate::transfer::Shelf;
use crate::types::{Now, ReplicaId};
use crate::wire::frame::Kind;

pub(super) type SimNode = Node<Registers, MemoryStore, SimDisk>;

/// How many times as long a write to a slow disk takes.
const SLOW_DISK: u64 = 30;

#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A message between nodes: replicas first, then clients, then the administrator.
    Deliver {
        from: usize,
        to: usize,
        kind: Kind,
        body: Arc<[u8]>,
    },
    Turn {
        replica: usize,
        life: u32,
    },
    Wake {
        replica: usize,
        life: u32,
    },
    DiskDone {
        replica: usize,
        life: u32,
    },
    /// Some signatures were checked.
    Checked {
        replica: usize,
        life: u32,
    },
    /// A snapshot is durable.
    Saved {
        replica: usize,
        life: u32,
    },
    Client {
        client: usize,
    },
    /// The administrator's turn.
    KeyChange,
    Restart {
        replica: usize,
    },
    /// The machine or process of a replica in this life goes down.
    Falls {
        replica: usize,
        life: u32,
    },
    /// A disk can be read again.
    Readable {
        replica: usize,
    },
    /// A disk has room again.
    Room {
        replica: usize,
    },
    Fault,
    /// A link breaks, and will again until then.
    Flap {
        from: usize,
        to: usize,
        until_us: u64,
    },
    LinkUp {
        a: usize,
        b: usize,
    },
    LinksUp,
    Stabilise,
    Look,
}

/// Whether a start found that records are lost.
fn lost_records(error: &NodeError) -> bool {
    match error {
        NodeError::Log(error) => error.lost_records(),
        NodeError::NoSnapshot { .. } => true,
        _ => false,
    }
}

/// A cluster, its clients, and all that happens to them.
pub(super) struct World {
    pub(super) config: SimConfig,
    pub(super) plan: Plan,
    cluster: Cluster,
    pub(super) now_us: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, Event>,
    counter: u64,
    pub(super) handled: u64,
    pub(super) chain: u64,
    pub(super) machines: Vec<Machine>,
    pub(super) clients: Vec<SimClient>,
    pub(super) administrator: Administrator,
    pub(super) network: Network,
    pub(super) random: Random,
    pub(super) checker: Checker,
    pub(super) stable: bool,
    pub(super) idle: Option<Idle>,
    pub(super) done: bool,
    pub(super) stays_full: Option<StaysFull>,
    /// Replicas that lacked records for a while and did not notice: what they said then may be held against them.
    lied: BTreeSet<usize>,
    pub(super) faults: BTreeMap<String, u64>,
    /// What happened in this step, where somebody wants to know.
    trace: Option<Vec<TraceLine>>,
}

impl World {
    pub(super) fn new(config: SimConfig, trace: bool) -> Result<Self, Box<Failure>> {
        let mut random = Random::new(config.seed);
        let mut plan = Plan::draw(&mut random, config.replicas);
        config.rate.into_iter().for_each(|rate| plan.set_rate(rate));
        plan.verifiers = super::verifiers::of_seed(config.seed);
        Self::with(config, plan, random, trace)
    }

    /// A world as this plan says, whatever the seed would draw.
    pub(super) fn with(config: SimConfig, plan: Plan, mut random: Random, trace: bool) -> Result<Self, Box<Failure>> {
        let failed = |what| Box::new(Failure { config, at_us: 0, what, report: Report::default() });
        let cluster = cluster(&plan).map_err(failed)?;
        let plot = plan.collude.then(|| Plot::new(&mut random));
        let machines = (0..plan.n).map(|replica| machine(config, &plan, &cluster, replica, plot.as_ref(), &mut random));
        let machines = machines.collect::<Result<Vec<_>, String>>().map_err(failed)?;
        let mut clients = Vec::new();
        for index in 0..plan.clients {
            let lying: &[_] = if plan.lying_client && index + 1 == plan.clients { &plan.client_tactics } else { &[] };
            clients.push(SimClient::new(
                index as u32,
                client_key(index),
                cluster.origin(),
                lying,
                &plan,
                random.fork(),
            ));
        }
        let network = Network::new(plan.n + plan.clients + 1, &plan, random.fork());
        let administrator = Administrator::new(random.fork());
        let mut checker = Checker::new(plan.n, config.check_disk);
        checker.window = plan.window;
        checker.faulty.extend((0..plan.n).filter(|replica| plan.is_byzantine(*replica)));
        let mut world = Self {
            config,
            cluster,
            now_us: 1,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            counter: 0,
            handled: 0,
            chain: 0,
            machines,
            clients,
            administrator,
            network,
            random,
            checker,
            stable: false,
            idle: None,
            done: false,
            stays_full: None,
            lied: BTreeSet::new(),
            faults: BTreeMap::new(),
            trace: trace.then(|| vec![TraceLine { at_us: 0, event: format!("{plan:?}") }]),
            plan,
        };
        world.begin().map_err(|what| world.failure(what))?;
        Ok(world)
    }

    /// The cluster's name.
    pub(super) fn origin(&self) -> String {
        self.cluster.origin().to_owned()
    }

    fn begin(&mut self) -> Result<(), String> {
        for replica in 0..self.plan.n {
            self.restart(replica)?;
        }
        for client in 0..self.clients.len() {
            self.schedule(self.now_us, Event::Client { client });
        }
        self.schedule(self.now_us, Event::KeyChange);
        if !self.plan.faults.is_empty() {
            let gap = self.random.between(1, 2 * self.plan.fault_gap_us);
            self.schedule(self.now_us + gap, Event::Fault);
        }
        for (_, tactics) in self.plan.byzantine.clone() {
            tactics.iter().for_each(|tactic| self.count(&format!("byzantine {tactic:?}")));
        }
        if self.plan.collude {
            self.count("byzantine replicas collude");
        }
        if self.plan.lying_client {
            let tactics = self.plan.client_tactics.clone();
            tactics.iter().for_each(|tactic| self.count(&format!("client {tactic:?}")));
        }
        self.count(&format!("{} replicas", self.plan.n));
        self.schedule(self.now_us + self.plan.safety_us, Event::Stabilise);
        Ok(())
    }

    /// Runs to the end; what `each` gets stands in the trace.
    pub(super) fn run(mut self, each: &mut dyn FnMut(TraceLine)) -> Result<Report, Box<Failure>> {
        // A panic is a fault of the code under test like any other. The world is only looked at after it.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            while !self.done {
                self.trace.iter_mut().flat_map(|trace| trace.drain(..)).for_each(&mut *each);
                self.step()?;
            }
            Ok(())
        }));
        self.trace.iter_mut().flat_map(|trace| trace.drain(..)).for_each(each);
        match ended {
            Ok(Ok(())) => Ok(self.report()),
            Ok(Err(what)) => Err(self.failure(what)),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                Err(self.failure(format!("panic: {}", text.unwrap_or_default())))
            }
        }
    }

    pub(super) fn step(&mut self) -> Result<(), String> {
        let Some(Reverse((at, number))) = self.events.pop() else { return Err("nothing is left to happen".into()) };
        let Some(event) = self.bodies.remove(&number) else { return Ok(()) };
        self.now_us = at;
        self.handled += 1;
        if self.handled > MAX_EVENTS {
            return Err(format!("{MAX_EVENTS} events and no end"));
        }
        self.note(&event);
        self.handle(event)
    }

    fn note(&mut self, event: &Event) {
        let mut bytes = self.now_us.to_le_bytes().to_vec();
        match event {
            Event::Deliver { from, to, kind, body } => {
                bytes.extend([1, *from as u8, *to as u8, *kind as u8]);
                bytes.extend_from_slice(body);
            }
            other => bytes.extend_from_slice(format!("{other:?}").as_bytes()),
        }
        self.chain = xxh3_64_with_seed(&bytes, self.chain);
        if self.trace.is_some() {
            let line = super::describe::event(event, self.plan.n);
            self.trace_line(&line);
        }
    }

    pub(super) fn trace_line(&mut self, line: &str) {
        if let Some(trace) = &mut self.trace {
            trace.push(TraceLine { at_us: self.now_us, event: line.to_owned() });
        }
    }

    pub(super) fn schedule(&mut self, at_us: u64, event: Event) {
        self.counter += 1;
        self.events.push(Reverse((at_us.max(self.now_us), self.counter)));
        self.bodies.insert(self.counter, event);
    }

    pub(super) fn count(&mut self, what: &str) {
        *self.faults.entry(what.to_owned()).or_default() += 1;
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { from, to, kind, body } if to < self.plan.n => self.deliver(from, to, kind, body),
            Event::Deliver { from, to, kind, body } => self.deliver_to_client(from, to - self.plan.n, kind, &body),
            Event::Turn { replica, life } => self.alive(replica, life, event, Self::turn),
            // The turn since then planned another one.
            Event::Wake { replica, .. } if self.machines[replica].wake_us > self.now_us => Ok(()),
            Event::Wake { replica, life } => self.alive(replica, life, event, |world, replica| {
                world.machines[replica].wake_us = u64::MAX;
                world.turn(replica)
            }),
            Event::DiskDone { replica, life } => self.alive(replica, life, event, Self::disk_done),
            Event::Saved { replica, life } => self.alive(replica, life, event, Self::saved),
            Event::Checked { replica, life } => self.alive(replica, life, event, Self::checked),
            Event::Client { client } => self.tick_client(client),
            Event::KeyChange => {
                self.tick_administrator();
                Ok(())
            }
            Event::Restart { replica } => self.restart(replica),
            Event::Falls { replica, life } => {
                if self.machines[replica].life == life {
                    self.falls(replica);
                }
                Ok(())
            }
            Event::Readable { replica } => {
                self.readable(replica);
                Ok(())
            }
            Event::Room { replica } => {
                self.room(replica);
                Ok(())
            }
            Event::Fault => self.fault(),
            Event::Flap { from, to, until_us } => {
                self.flap(from, to, until_us);
                Ok(())
            }
            Event::LinkUp { a, b } => {
                self.link_up(a, b);
                Ok(())
            }
            Event::LinksUp => {
                self.links_up();
                Ok(())
            }
            Event::Stabilise => self.stabilise(),
            Event::Look => self.look(),
        }
    }

    /// Does `what` if the process still lives, once it is not paused.
    fn alive(
        &mut self,
        replica: usize,
        life: u32,
        event: Event,
        what: impl FnOnce(&mut Self, usize) -> Result<(), String>,
    ) -> Result<(), String> {
        let machine = &self.machines[replica];
        if machine.node.is_none() || machine.life != life {
            return Ok(());
        }
        if machine.paused_until_us > self.now_us {
            self.schedule(machine.paused_until_us, event);
            return Ok(());
        }
        what(self, replica)
    }

    pub(super) fn clock(&self, replica: usize) -> Now {
        let machine = &self.machines[replica];
        Now { mono_us: self.now_us - machine.born_us, wall_ms: machine.wall_ms(self.now_us) }
    }

    fn deliver(&mut self, from: usize, to: usize, kind: Kind, body: Arc<[u8]>) -> Result<(), String> {
        if self.machines[to].paused_until_us > self.now_us {
            let at_us = self.machines[to].paused_until_us;
            self.schedule(at_us, Event::Deliver { from, to, kind, body });
            return Ok(());
        }
        let now = self.clock(to);
        let n = self.plan.n;
        if self.machines[to].adversary.as_ref().is_some_and(|adversary| adversary.ignores(kind, &body)) {
            self.count("bundle starved");
            return Ok(());
        }
        let machine = &mut self.machines[to];
        let Some(node) = &mut machine.node else { return Ok(()) };
        let result = if from < n {
            if let Some(adversary) = &mut machine.adversary {
                adversary.incoming(ReplicaId(from as u8), kind, &body, &mut machine.outbox.peers);
            }
            node.on_peer(ReplicaId(from as u8), kind, &body, now)
        } else {
            let key = self.clients.get(from - n).map_or_else(|| administrator_key().public(), SimClient::key);
            let id = ClientId((u64::from(machine.life) << 32) | from as u64);
            node.on_client(id, &key, kind, &body, now, &mut machine.outbox)
        };
        if !machine.turn_due {
            machine.turn_due = true;
            let life = machine.life;
            let pause = self.random.below(self.plan.round_us + 1);
            self.schedule(self.now_us + pause, Event::Turn { replica: to, life });
        }
        match result {
            Err(error) if from < n && !self.is_faulty(from) && !self.is_faulty(to) => {
                Err(format!("replica {to} faults the correct replica {from}: {error}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn turn(&mut self, replica: usize) -> Result<(), String> {
        self.look_at_space(replica, false);
        let now = self.clock(replica);
        let machine = &mut self.machines[replica];
        machine.turn_due = false;
        machine.outbox.images = machine.shelf.images();
        machine.outbox.verifiers = self.plan.verifiers.map(|all| all - machine.jobs.len());
        let Some(node) = &mut machine.node else { return Ok(()) };
        if let Err(error) = node.turn(now, &mut machine.outbox) {
            return self.ends(replica, &error);
        }
        let mut outbox = std::mem::take(&mut machine.outbox);
        let (life, dies) = (machine.life, std::mem::take(&mut machine.dies_in_turn));
        if dies {
            outbox.peers.truncate(self.random.index(outbox.peers.len() + 1));
            outbox.clients.truncate(self.random.index(outbox.clients.len() + 1));
        }
        if outbox.wrote && !dies {
            let mut takes_us = self.random.between(self.plan.disk_us / 2, self.plan.disk_us);
            if self.machines[replica].slow_disk_until_us > self.now_us {
                self.count("slow write");
                takes_us *= SLOW_DISK;
            }
            let at_us = self.now_us + takes_us;
            self.schedule(at_us, Event::DiskDone { replica, life });
        }
        self.shelve(replica, &mut outbox)?;
        self.have_checked(replica, &mut outbox);
        self.check_turn(replica)?;
        self.send(replica, outbox)?;
        if dies {
            self.count("kill in turn");
            self.crash(replica, Crash::Kill);
            return Ok(());
        }
        self.plan_wake(replica);
        Ok(())
    }

    fn plan_wake(&mut self, replica: usize) {
        let machine = &mut self.machines[replica];
        let Some(node) = &machine.node else { return };
        let at_us = node.next_deadline_us().saturating_add(machine.born_us).max(self.now_us + 1);
        if at_us != machine.wake_us && at_us != u64::MAX {
            machine.wake_us = at_us;
            let life = machine.life;
            self.schedule(at_us, Event::Wake { replica, life });
        }
    }

    fn check_turn(&mut self, replica: usize) -> Result<(), String> {
        self.look_at_doubts(replica);
        if self.is_faulty(replica) {
            return Ok(());
        }
        let machine = &mut self.machines[replica];
        let Some(node) = &mut machine.node else { return Ok(()) };
        let (executed, slots, pooled) = (node.ordering().executed(), node.ordering().slots(), node.ordering().pooled());
        if slots as u64 > 4 * self.plan.window {
            return Err(format!("replica {replica} keeps {slots} slots with a window of {}", self.plan.window));
        }
        let most = self.plan.timing.pool_bytes / 512;
        if pooled > most {
            return Err(format!("replica {replica} keeps {pooled} bundles waiting"));
        }
        let (view, abstains) = (node.ordering().view(), node.ordering().abstains().is_some());
        self.checker.stands(replica, view, abstains, node.backlog())?;
        let correct = |accused: usize| !self.plan.is_byzantine(accused) && !self.lied.contains(&accused);
        if let Some((accused, kind, _)) = node.evidence().counts().find(|(accused, ..)| correct(accused.index())) {
            return Err(format!("replica {replica} accuses the correct replica {accused} of {kind}"));
        }
        if executed == self.checker.executed(replica) {
            return Ok(());
        }
        let execution = node.execution_mut();
        for index in self.checker.next_entry(replica)..execution.size() {
            let entry = execution.entry(index).ok_or_else(|| format!("replica {replica} has no entry {index}"))?;
            self.checker.entry(replica, index, &entry)?;
        }
        let (size, state) = (execution.size(), execution.state_digest());
        let Registers { before, applied, .. } = execution.application();
        self.checker.turned(&View { replica, executed, size, state, before: *before, applied })
    }

    fn send(&mut self, replica: usize, outbox: Outbox) -> Result<(), String> {
        let faulty = self.is_faulty(replica);
        let mut leaving = Vec::with_capacity(outbox.peers.len());
        for (to, kind, body) in outbox.peers {
            let machine = &mut self.machines[replica];
            match (&mut machine.adversary, &mut machine.node) {
                (Some(adversary), _) => adversary.outgoing(to, kind, body, &mut leaving),
                (None, Some(node)) => {
                    if !faulty {
                        let disk = (!machine.rots).then(|| node.log_mut().device());
                        self.checker.leaves(replica, kind, &body, disk)?;
                    }
                    leaving.push((to, kind, body));
                }
                (None, None) => {}
            }
        }
        for (to, kind, body) in leaving {
            if to.index() < self.plan.n && to.index() != replica {
                let adversary = self.machines[replica].adversary.as_mut();
                let late_us = adversary.map_or(0, |adversary| adversary.delay_us(kind));
                if late_us > 0 {
                    self.count("proposal delayed");
                }
                self.transmit(replica, to.index(), kind, &body.into(), late_us);
            }
        }
        for (client, kind, body) in outbox.clients {
            self.look_at_refusal(replica, kind, &body)?;
            let body = self.told_to_client(replica, kind, body);
            let to = (client.0 & u64::from(u32::MAX)) as usize;
            self.transmit(replica, to, kind, &body.into(), 0);
        }
        Ok(())
    }

    pub(super) fn transmit(&mut self, from: usize, to: usize, kind: Kind, body: &Arc<[u8]>, late_us: u64) {
        if self.network.damages() {
            self.damaged(from, to);
            return;
        }
        for at_us in self.network.arrivals(from, to, self.now_us).into_iter().flatten() {
            self.schedule(at_us + late_us, Event::Deliver { from, to, kind, body: Arc::clone(body) });
        }
    }

    fn disk_done(&mut self, replica: usize) -> Result<(), String> {
        let now = self.clock(replica);
        let machine = &mut self.machines[replica];
        let Some(node) = &mut machine.node else { return Ok(()) };
        match node.log_finish(now) {
            Ok(()) => {
                self.look_for_strays(replica);
                self.turn(replica)
            }
            // A failed sync is the end of the process.
            Err(_) => {
                self.count("failed sync");
                self.crash(replica, Crash::Power);
                Ok(())
            }
        }
    }

    /// Starts a replica from what its disk holds.
    pub(super) fn restart(&mut self, replica: usize) -> Result<(), String> {
        let machine = &mut self.machines[replica];
        let Some(disk) = machine.disk.take() else { return Ok(()) };
        machine.life += 1;
        machine.was_spoilt |= machine.is_spoilt;
        machine.born_us = self.now_us;
        machine.wake_us = u64::MAX;
        machine.turn_due = true;
        machine.dies_in_turn = false;
        machine.outbox = Outbox::default();
        machine.saving.clear();
        machine.jobs.clear();
        let life = machine.life;
        let now = self.clock(replica);
        let never_ran = life == 1;
        let spare = disk.is_short().then(|| disk.copy());
        let (plan, cluster) = (&self.plan, &self.cluster);
        let (shelf, newest, bad_snapshots) = self.machines[replica].shelf.load();
        let is_resumed = newest.is_some();
        let read = |disk, never_ran| {
            let cannot = |error: &dyn std::fmt::Display| format!("replica {replica} cannot begin: {error}");
            let (mut execution, shelf) = match &newest {
                Some((image, history)) => {
                    let resumed = Execution::resume(cluster, Registers::default(), history.clone(), image);
                    (resumed.map_err(|error| cannot(&error))?, shelf.clone())
                }
                None => {
                    let new = Execution::new(cluster, Registers::default(), MemoryStore::new());
                    (new.map_err(|error| cannot(&error))?, Shelf::default())
                }
            };
            execution.set_snapshot_bytes(plan.snapshot_bytes);
            let config = node_config(plan, cluster, replica, never_ran)?;
            Ok::<_, String>(Node::recover(config, execution, shelf, disk, now))
        };
        let mut damaged = false;
        let recovered = match read(disk, never_ran)? {
            Err(error) if lost_records(&error) && self.machines[replica].is_spoilt => {
                damaged = true;
                read(empty_disk(self.config, plan, cluster, life.into()), false)?
            }
            Err(NodeError::Log(LogError::Io { .. } | LogError::NoSpace { .. })) if spare.is_some() => {
                self.machines[replica].disk = spare;
                self.come_again(replica);
                return Ok(());
            }
            recovered => recovered,
        };
        let (node, found) = recovered.map_err(|error| format!("replica {replica} does not come back: {error}"))?;
        if damaged {
            self.count("damage found");
        }
        if bad_snapshots > 0 {
            self.count("damaged snapshot found");
        }
        if is_resumed {
            self.count("start from a snapshot");
        }
        let machine = &mut self.machines[replica];
        let abstains = node.ordering().abstains().is_some();
        // An empty disk is noticed by everybody.
        machine.is_doubtful |= machine.is_spoilt && !found.empty && found.last < machine.synced;
        machine.is_doubtful &= !abstains;
        if machine.is_doubtful {
            self.lied.insert(replica);
            self.checker.faulty.insert(replica);
        }
        machine.is_spoilt &= abstains || machine.is_doubtful;
        if found.torn_bytes > 0 {
            self.count("torn tail");
        }
        self.trace_line(&format!("replica {replica} starts: {found:?} {abstains}"));
        self.machines[replica].node = Some(node);
        self.look_at_space(replica, true);
        let is_whole = !(self.is_faulty(replica) || abstains || self.machines[replica].was_spoilt);
        if let Some(node) = &mut self.machines[replica].node {
            let promised = is_whole.then(|| node.promised_size());
            self.checker.restarted(replica, node.log_mut().device(), promised)?;
        }
        self.check_turn(replica)?;
        for peer in (0..self.plan.n).filter(|peer| *peer != replica) {
            if let Some(node) = &mut self.machines[peer].node {
                node.on_link(ReplicaId(replica as u8), true);
            }
            let up = self.machines[peer].node.is_some();
            if let Some(node) = self.machines[replica].node.as_mut().filter(|_| up) {
                node.on_link(ReplicaId(peer as u8), true);
            }
        }
        self.schedule(self.now_us, Event::Turn { replica, life });
        Ok(())
    }

    pub(super) fn finish_safety(&mut self) {
        self.done = true;
    }

    pub(super) fn must_converge(&self) -> bool {
        !self.config.safety_only
    }
}
