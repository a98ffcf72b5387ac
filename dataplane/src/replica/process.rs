//! The process around a node: one thread, one io_uring, real sockets and files.
//!
//! # Placement `shared`
//! Everything runs on one thread to completion and sleeps in one io_uring wait that covers sockets, the log's writes and
//! signals. A round takes what completed, feeds the node, ends with [`Node::turn`](super::Node::turn), queues what is to be sent and starts the
//! log's write; the next wait hands all of it to the kernel with one system call.
//!
//! # Placement `dedicated`
//! With `core` that thread has a core for itself, where `spin_us` lets it look out for work without sleeping, and with `verify_cores` clients'
//! signatures are checked on others ([`crate::cores::verify`]). The node is the same: it asks its shell who checks.
//!
//! # Links
//! Of two replicas the one with the higher index dials, with back-off; the link serves both directions. A second link of the
//! same peer replaces the first: the peer knows best that the first is dead. Clients dial every replica. Whoever connects has
//! [`handshake_timeout_ms`](crate::cluster::settings::NetConfig) to prove a key that the cluster file names.
//!
//! # The end
//! SIGTERM and SIGINT: no more connections; clients' bundles are refused, replicas' frames ignored and no round is ended any more,
//! so nothing new is staged or promised; the write in flight is awaited, what is staged is written, then the process ends with
//! success. A failed write or
//! sync ends it with an error; it restarts, reads what is really on the disk, and goes on from there.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::cold_storage::ColdStorage;
use super::cosigning::NEVER_US;
use super::crash::{self, CrashPoint, Step};
use super::divergence;
use super::links::{HANDSHAKES_A_ROUND, Links};
use super::node::{ClientId, HostStatus, NodeConfig, Shell};
use super::node_error::NodeError;
use super::outbox::Outbox;
use super::oversight::{self, Management, Oversight};
use super::service::Service;
use super::snapshot_files::{Outcome, SnapshotError, SnapshotFiles};
use super::snapshots::Save;
use super::space::{Gauge, SpaceWatch};
use super::start::{self, FileNode};
use super::telling::{LastLines, print_lines, report};
use super::verifying::Job;

use super::strangers::MAX_UNPROVED;
use crate::adversary::{Adversary, Hostility, Plot, Sent, Tactic};
use crate::cluster::file::{self, Address};
use crate::cluster::placement::CoreSet;
use crate::cluster::{ConfigError, ReplicaSetup};
use crate::cores::verify::Verifiers;
use crate::crypto::link::LinkError;
use crate::evidence::EvidenceFile;
use crate::execution::ExecutionError;
use crate::flight::event::OTHERS_DO;
use crate::flight::file::Why;
use crate::flight::{self, Kind as Noted, Stage};
use crate::history::notary::Notary;
use crate::history::store::StoreError;
use crate::log::{FileDevice, LOG_WRITE, Log, LogError, Method, ReactorWriter};
use crate::net::{ConnectionId, Event, MAX_CONNECTIONS, NetError, Reactor, ReactorConfig, Waker};
use crate::ordering::Agreed;
use crate::ordering::checkpoint::Certificate;
use crate::ordering::record::Record;
use crate::ordering::seal::Seals;
use crate::sim::random::Random;
use crate::state::Application;
use crate::types::{Now, PublicKey, ReplicaId, Sequence, View};
use crate::wire::frame::Kind;

/// How long a clean end waits for the write in flight before it is given up: the log is safe all the same. What follows takes no
/// more than a second on a disk that works, so that the whole stays below 5 s.
const DRAIN: Duration = Duration::from_secs(3);

/// Room for connections that are accepted and closed in the same round.
const SPARE_CONNECTIONS: u32 = 64;

/// Events that one round takes, so that whatever comes in, rounds end; the rest is taken by the next.
const MAX_ROUND_EVENTS: usize = 1_024;

/// How long staged decisions may wait for another record to be written with.
const IDLE_WRITE_US: u64 = 1_000_000;

/// Why a replica did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The transport.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The mark of a new identity cannot be read or removed.
    #[error(
        "cannot look for or remove {}: {source}; it marks an identity that never ran and must go with the first start: check the \
         directory's owner and mode",
        file.display()
    )]
    Mark {
        /// The mark.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The history could not be opened.
    #[error(transparent)]
    History(#[from] StoreError),
    /// A snapshot cannot be read or kept.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The thread that writes snapshots cannot be started.
    #[error("cannot start the thread that writes snapshots: {0}")]
    Thread(std::io::Error),
    /// A thread that checks signatures cannot be started.
    #[error("cannot start a thread that checks signatures, of which verify_cores asks for one a core: {0}")]
    Verifiers(std::io::Error),
    /// Such a thread ended.
    #[error(
        "a thread that checks signatures ended, and what it had is lost: a fault of this program; its panic was told above"
    )]
    Verifier,
    /// The genesis cannot be appended.
    #[error(transparent)]
    Execution(#[from] ExecutionError),
    /// The node ended.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The link key cannot be used.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A hostile replica in a cluster that may be somebody's.
    #[error(
        "a replica that lies or forgets runs only in a cluster whose replicas are all on this host's loopback, and {0} is not"
    )]
    Hostile(Address),
    /// An address that names nothing.
    #[error("{what} {address}: {reason}; name a host and a port such as 127.0.0.1:7450")]
    Address {
        /// Whose.
        what: &'static str,
        /// The address.
        address: String,
        /// Why not.
        reason: String,
    },
}

/// Runs a replica until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting or going on; each says what to do.
pub fn run<A: Application>(setup: ReplicaSetup, application: impl Fn() -> A) -> Result<(), RunError> {
    run_with(setup, application, None, None)
}

/// As [`run`], with somebody who sees it and tells it what to do.
///
/// # Errors
/// As [`run`].
pub fn run_managed<A: Application>(
    setup: ReplicaSetup,
    application: impl Fn() -> A,
    management: Box<dyn Management>,
) -> Result<(), RunError> {
    run_with(setup, application, None, Some(management))
}

/// Runs a replica that lies as it is told, until it is told to end; for tests and demonstrations. See [`crate::adversary`].
///
/// # Errors
/// [`RunError::Hostile`] where any replica of the cluster has an address that is not the loopback's; else as [`run`].
pub fn run_hostile<A: Application>(
    setup: ReplicaSetup,
    application: impl Fn() -> A,
    hostility: &Hostility,
) -> Result<(), RunError> {
    only_loopback(&setup)?;
    let tactics: Vec<String> = hostility.tactics.iter().map(Tactic::to_string).collect();
    report(&format!("warning: THIS REPLICA LIES, on purpose: {}", tactics.join(", ")));
    run_with(setup, application, Some(hostility), None)
}

/// Runs a replica that hashes, keeps and cosigns no history, to measure what that costs: nothing that it says of the past can be proved
/// or read, and it never starts again. All replicas of its cluster must be run so.
///
/// # Errors
/// [`RunError::Hostile`] where any replica of the cluster has an address that is not the loopback's; else as [`run`].
pub fn run_without_history<A: Application>(
    setup: ReplicaSetup,
    application: impl Fn() -> A,
    management: Box<dyn Management>,
) -> Result<(), RunError> {
    only_loopback(&setup)?;
    report("warning: THIS REPLICA KEEPS NO HISTORY, to measure what that costs");
    let setup = ReplicaSetup { without_history: true, ..setup };
    run_with(setup, application, None, Some(management))
}

fn only_loopback(setup: &ReplicaSetup) -> Result<(), RunError> {
    let mut addresses = setup.cluster.members().iter().map(|member| &member.address);
    match addresses.find(|address| !is_loopback(address)) {
        Some(address) => Err(RunError::Hostile(address.clone())),
        None => Ok(()),
    }
}

fn is_loopback(address: &Address) -> bool {
    address.host == "localhost" || address.host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback())
}

fn run_with<A: Application>(
    setup: ReplicaSetup,
    application: impl Fn() -> A,
    hostility: Option<&Hostility>,
    management: Option<Box<dyn Management>>,
) -> Result<(), RunError> {
    let mut setup = setup;
    let (placement, problem) = crate::cores::begin(&setup.config.live().placement);
    if let Some(problem) = problem {
        report(&format!("warning: {problem}; without that the system decides where this replica runs"));
    }
    (setup.config.core, setup.config.helper_cores) = (placement.core, placement.helpers);
    flight::begin(u64::from(setup.config.replica.0));
    flight::attach("replica", flight::EVENTS);
    let (data, run) = (setup.config.data.clone(), setup.config.control.directory.clone());
    let _hook = crash::write_out_panics(&data, &run);
    let _last_lines = LastLines;
    run_to_the_end(setup, &application, hostility, management, &data, &run)
}

fn run_to_the_end<A: Application>(
    setup: ReplicaSetup,
    application: &impl Fn() -> A,
    hostility: Option<&Hostility>,
    management: Option<Box<dyn Management>>,
    data: &Path,
    run: &Path,
) -> Result<(), RunError> {
    let mut process = Process::start(setup, application, hostility, management)?;
    let ended = process.run();
    if let Err(error) = &ended {
        crash::write_out(data, run, Why::Error, &error.to_string());
    }
    if let Err(RunError::Node(error)) = &ended {
        match divergence::keep(data, process.node.execution(), error) {
            Ok(Some(dir)) => report(&format!("what there is to compare is kept in {}", dir.display())),
            Ok(None) => {}
            Err(error) => report(&format!("what there is to compare cannot be kept in {}: {error}", data.display())),
        }
    }
    ended
}

struct Process<A: Application> {
    // Dropped first: it waits for the kernel to be done with the log's buffers.
    reactor: Reactor,
    node: FileNode<A>,
    writer: Writer,
    links: Links,
    outbox: Outbox,
    started: Instant,
    /// A signal asked for the end at this time.
    ending: Option<Instant>,
    /// A write is with the reactor.
    writing: bool,
    crash: CrashPoint,
    /// What lies on its behalf; nothing does in [`run`].
    liar: Option<Liar>,
    /// A write became durable in this round, so votes leave at its end.
    synced: bool,
    evidence: EvidenceFile,
    snapshots: SnapshotFiles,
    space: SpaceWatch,
    gauge: Gauge,
    cold: ColdStorage,
    verifiers: Option<Verifiers>,
    /// The view that people were told of last, and whether this replica took part in it.
    told_view: (View, bool),
    /// The same of abstaining.
    told_abstains: Option<Option<Sequence>>,
    /// The same of the snapshot that is taken from others.
    told_taking: Option<Sequence>,
    oversight: Option<Oversight>,
}

enum Writer {
    Reactor(ReactorWriter),
    /// The device stores and syncs by itself, in [`Shell::start_write`].
    Device,
}

/// What the node sees of the process during a turn.
struct ProcessShell<'a> {
    outbox: &'a mut Outbox,
    reactor: &'a mut Reactor,
    writer: &'a mut Writer,
    writing: &'a mut bool,
    crash: &'a mut CrashPoint,
    liar: Option<&'a mut Liar>,
    evidence: &'a EvidenceFile,
    snapshots: &'a mut SnapshotFiles,
    space: &'a SpaceWatch,
    verifiers: Option<&'a mut Verifiers>,
    /// The device carried a write out.
    written: bool,
}

/// An adversary and what it says.
struct Liar {
    adversary: Adversary,
    /// Replicas of the cluster.
    n: usize,
    says: Vec<Sent>,
}

impl Liar {
    fn speak(&mut self, outbox: &mut Outbox) {
        for (peer, kind, body) in self.says.drain(..).filter(|(peer, ..)| peer.index() < self.n) {
            outbox.peer(peer, kind, &body);
        }
    }
}

impl Shell<FileDevice> for ProcessShell<'_> {
    fn to_peer(&mut self, peer: ReplicaId, kind: Kind, body: &[u8]) {
        let Some(liar) = &mut self.liar else { return self.outbox.peer(peer, kind, body) };
        liar.adversary.outgoing(peer, kind, body.to_vec(), &mut liar.says);
        liar.speak(self.outbox);
    }

    fn heard(&mut self, peer: ReplicaId, kind: Kind, body: &[u8]) {
        if let Some(liar) = &mut self.liar {
            liar.adversary.incoming(peer, kind, body, &mut liar.says);
            liar.speak(self.outbox);
        }
    }

    fn to_client(&mut self, client: ClientId, kind: Kind, body: &[u8]) {
        self.outbox.client(client, kind, body);
    }

    fn takes(&self, client: ClientId) -> bool {
        self.outbox.takes(client)
    }

    fn close_client(&mut self, client: ClientId) {
        self.outbox.close_client(client);
    }

    fn start_write(&mut self, log: &mut Log<Record, FileDevice>) -> Result<(), LogError> {
        if !*self.writing && log.last() > log.durable() {
            self.crash.pass(Step::Staged);
        }
        match self.writer {
            Writer::Reactor(writer) => {
                if writer.start(log, self.reactor)? {
                    *self.writing = true;
                    flight::note(Noted::SyncSubmitted, [log.written().0, log.last().0, 0]);
                }
            }
            Writer::Device => self.written |= log.submit()?,
        }
        Ok(())
    }

    fn keep_snapshot(&mut self, save: Save) {
        flight::note(Noted::SnapshotBegun, [save.statement.sequence, 0, 0]);
        self.snapshots.save(save);
    }

    fn keep_certificate(&mut self, certificate: &Arc<Certificate>) {
        self.snapshots.certify(certificate);
    }

    fn drop_snapshots(&mut self, sequences: &[Sequence]) {
        self.snapshots.remove(sequences);
    }

    fn snapshot_piece(&mut self, sequence: Sequence, piece: u64) -> Option<Vec<u8>> {
        self.snapshots.piece(sequence, piece)
    }

    fn keep_evidence(&mut self, record: Vec<u8>) {
        self.evidence.append(record);
    }

    fn verifiers(&self) -> Option<usize> {
        self.verifiers.as_ref().map(|verifiers| verifiers.free())
    }

    fn verify(&mut self, job: Job) {
        if let Some(verifiers) = &mut self.verifiers {
            verifiers.check(job);
        }
    }

    fn evidence_lost(&self) -> u64 {
        self.evidence.lost()
    }

    fn host(&self) -> HostStatus {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        HostStatus {
            resident_bytes: kib("VmRSS:") << 10,
            anonymous_bytes: kib("RssAnon:") << 10,
            pid: std::process::id(),
            free_bytes: self.space.free_bytes(),
        }
    }
}

impl<A: Application> Process<A> {
    fn start(
        setup: ReplicaSetup,
        application: &impl Fn() -> A,
        hostility: Option<&Hostility>,
        mut management: Option<Box<dyn Management>>,
    ) -> Result<Self, RunError> {
        let started = Instant::now();
        crate::log::explain_read_errors();
        let ReplicaSetup { config, cluster, keys, without_history } = setup;
        // Replicas (twice, while a link replaces another) and who has yet to say who it is: none takes a client's place.
        let others = (MAX_UNPROVED + 2 * cluster.n()) as u32 + SPARE_CONNECTIONS;
        let mut reactor = Reactor::new(&ReactorConfig {
            max_connections: (config.net.max_clients as u32 + others).min(MAX_CONNECTIONS),
            send_queue_bytes: (config.net.send_queue_kib as usize) << 10,
            ..ReactorConfig::default()
        })?;
        // Before other threads start: they inherit that these signals are blocked.
        reactor.handle_signals(&[libc::SIGTERM, libc::SIGINT])?;
        print_lines(&config, management.as_deref_mut());
        flight::set_sampling(config.local.trace_sampling);
        reactor.set_spin(Duration::from_micros(config.local.spin_us));
        let segment_bytes = (config.log.segment_mib as u32) << 20;
        let node_config = NodeConfig {
            me: config.replica,
            origin: cluster.origin().to_owned(),
            genesis: cluster.genesis(),
            seals: Arc::new(Seals::new(
                cluster.origin().to_owned(),
                0,
                cluster.members().iter().map(|member| member.protocol_key).collect(),
                keys.protocol,
            )),
            agreed: Agreed {
                interval: cluster.settings().checkpoint_interval,
                size: cluster.size(),
                window: cluster.settings().window,
                drift_ms: cluster.settings().drift_ms as i64,
            },
            notary: Arc::new(Notary::new(&cluster, config.replica, keys.log, keys.cosign)),
            cosign_interval_us: if without_history { NEVER_US } else { config.local.cosign_interval_ms * 1_000 },
            timing: oversight::timing(&config.local),
            segment_bytes,
            never_ran: false,
            transfer_bytes_per_second: config.local.transfer_mib_s << 20,
            idle_write_us: IDLE_WRITE_US,
            group_commit_us: config.local.group_commit_us,
            read_budget: oversight::read_budget(&config.local),
        };
        let liar = hostility.map(|hostility| {
            let Hostility { tactics, seed, operation } = hostility.clone();
            let key = |client: Option<&file::Client>| client.map_or(PublicKey([0; 32]), |client| client.key);
            let (forged_for, starved) = (key(cluster.clients().first()), key(cluster.clients().last()));
            let forged = Box::new(move |_| operation.clone());
            let mut random = Random::new(seed);
            let plot = Plot::new(&mut random);
            let adversary = Adversary::new(&tactics, plot, random, &node_config, forged_for, forged, starved);
            Liar { adversary, n: cluster.n(), says: Vec::new() }
        });
        let (history, cold) = ColdStorage::start(&config, cluster.genesis());
        let mut node = start::open(&config, &cluster, node_config, &history, application, now(started))?;
        cold.settled(node.settled());
        if without_history {
            node.execution_mut().forget_history();
        }
        node.proofs.set_rate(config.local.export_mib_s << 20);
        let (evidence, book, warning) = EvidenceFile::open(&config.data, cluster.genesis());
        node.set_evidence(book);
        warning.into_iter().for_each(|warning| report(&warning));
        let waker = reactor.waker();
        let snapshots = SnapshotFiles::start(&config.data, cluster.genesis(), move || waker.wake());
        let snapshots = snapshots.map_err(RunError::Thread)?;
        let space = SpaceWatch::start(config.data.clone());
        let gauge = Gauge::new(config.local.low_space_mib << 20);
        let writer = match start::method(&config) {
            Method::Direct => Writer::Reactor(ReactorWriter::new(node.log_mut(), &mut reactor)?),
            Method::Mapped => Writer::Device,
        };
        let listen = config.listen.to_string();
        let resolved = listen.to_socket_addrs().map_err(|error| error.to_string());
        let address = resolved.and_then(|mut all| all.next().ok_or_else(|| "it has no address".to_owned()));
        let address =
            address.map_err(|reason| RunError::Address { what: "listen", address: listen.clone(), reason })?;
        let bound = reactor.listen(address)?;
        reactor.warnings().iter().for_each(|warning| report(&format!("warning: {warning}")));
        report(&format!(
            "replica {} of {} listens on {bound}; leader of view {} is replica {}",
            config.replica,
            cluster.origin(),
            node.ordering().view(),
            node.ordering().leader(),
        ));
        let ordering = node.ordering();
        flight::note(Noted::Serves, [u64::from(config.replica.0), ordering.view(), ordering.executed()]);
        let oversight = management.map(|it| Oversight::start(it, &config, &cluster, reactor.waker(), &node));
        let links = Links::new(&config, cluster, keys.link, reactor.waker())?;
        let outbox = Outbox::new((config.net.send_queue_kib as usize) << 10);
        let crash = CrashPoint::from_environment();
        let verifiers = start_verifiers(&config.verify_cores, reactor.waker())?;
        let told_view = (node.ordering().view(), node.ordering().is_active());
        let told_abstains = node.ordering().abstains();
        let (ending, writing, synced) = (None, false, false);
        Ok(Self {
            reactor,
            node,
            writer,
            links,
            outbox,
            started,
            ending,
            writing,
            crash,
            liar,
            synced,
            evidence,
            snapshots,
            space,
            gauge,
            cold,
            verifiers,
            told_view,
            told_abstains,
            told_taking: None,
            oversight,
        })
    }

    fn run(&mut self) -> Result<(), RunError> {
        let service = Service::start();
        loop {
            service.beat(|| self.node.taking().is_none() && self.node.ordering().has_caught_up());
            let now = now(self.started);
            self.node.rests(now);
            self.reactor.wait(Some(self.pause(now)))?;
            if std::mem::take(&mut self.synced) {
                self.crash.pass(Step::Published);
            }
            let (now, began) = (self::now(self.started), Instant::now());
            flight::begin_round();
            for _ in 0..MAX_ROUND_EVENTS {
                let Some(event) = self.reactor.next_event() else { break };
                self.event(event, now)?;
            }
            match self.ending {
                None => {
                    self.serve(now)?;
                    self.oversee(began, now);
                }
                Some(since) if !self.writing || since.elapsed() > DRAIN => return self.end(),
                Some(_) => {}
            }
        }
    }

    /// Ends a round.
    fn serve(&mut self, now: Now) -> Result<(), RunError> {
        self.look_at_space();
        self.look_at_snapshots(now)?;
        self.cold.show(&mut self.node);
        self.take_verified(now)?;
        for _ in 0..HANDSHAKES_A_ROUND {
            let Some((connection, mut bytes)) = self.links.next_early(&mut self.reactor, now) else { break };
            self.receive(connection, &mut bytes, now);
        }
        self.links.keep_up(&mut self.reactor, now);
        self.turn(now)
    }

    /// Takes what verifiers found.
    fn take_verified(&mut self, now: Now) -> Result<(), RunError> {
        while let Some(job) = self.verifiers.as_mut().and_then(Verifiers::done) {
            let (node, mut shell) = self.shell();
            node.verified(job, now, &mut shell);
        }
        match &self.verifiers {
            Some(verifiers) if verifiers.has_failed() => Err(RunError::Verifier),
            _ => Ok(()),
        }
    }

    /// Shows its management what is, and does what it says.
    fn oversee(&mut self, began: Instant, now: Now) {
        flight::stage(Stage::Manage);
        let Some(oversight) = &mut self.oversight else { return };
        let mut replica = oversight::Replica {
            node: &mut self.node,
            links: &self.links,
            reactor: &mut self.reactor,
            space: &self.space,
            gauge: &mut self.gauge,
            evidence: &self.evidence,
        };
        oversight.round(&mut replica, began, self.writing, now);
    }

    /// Writes what is staged, and ends.
    fn end(&mut self) -> Result<(), RunError> {
        self.node.evidence_mut().take_counts().into_iter().for_each(|record| self.evidence.append(record));
        self.evidence.end();
        if self.writing {
            report("ended as asked, while a write to the disk hangs: what it holds was promised to nobody");
            return Ok(());
        }
        report(match self.node.flush_log()? {
            true => "ended as asked: all that was staged is on disk",
            false => "ended as asked, without what waits for the log's next segment: it was promised to nobody",
        });
        Ok(())
    }

    /// How long nothing may happen before something is due.
    fn pause(&self, now: Now) -> Duration {
        if self.ending.is_some() {
            return Duration::from_millis(20);
        }
        let management = self.oversight.as_ref().map_or(u64::MAX, Oversight::deadline_us);
        let due = self.node.next_deadline_us().min(self.links.next_deadline_us()).min(management);
        Duration::from_micros(due.saturating_sub(now.mono_us))
    }

    fn turn(&mut self, now: Now) -> Result<(), RunError> {
        loop {
            let (node, mut shell) = self.shell();
            node.turn(now, &mut shell)?;
            let written = shell.written;
            flight::stage(Stage::Send);
            self.links.send(&mut self.reactor, &mut self.outbox);
            flight::stage(Stage::Receive);
            self.report_view();
            self.report_transfer();
            if !written {
                return Ok(());
            }
            self.node.log_finish(now)?;
        }
    }

    /// Tells people when history and state are taken from others.
    fn report_transfer(&mut self) {
        let taking = self.node.taking().map(|(sequence, _)| sequence);
        if taking == self.told_taking {
            return;
        }
        match (std::mem::replace(&mut self.told_taking, taking), taking) {
            (_, Some(sequence)) => flight::note(Noted::TransferBegun, [sequence, self.node.execution().size(), 0]),
            (Some(sequence), None) if self.node.ordering().executed() >= sequence => {
                flight::note(Noted::TransferDone, [sequence, 0, 0]);
            }
            (Some(sequence), None) => flight::note(Noted::TransferEnded, [sequence, 0, 0]),
            (None, None) => {}
        }
    }

    /// Tells the node what became of its snapshots.
    fn look_at_snapshots(&mut self, now: Now) -> Result<(), RunError> {
        while let Some(outcome) = self.snapshots.outcome() {
            let (node, mut shell) = self.shell();
            match outcome {
                Outcome::Kept(kept) => {
                    flight::note(Noted::SnapshotKept, [kept.sequence(), kept.bytes, 0]);
                    node.snapshot_kept(kept, now, &mut shell)?;
                    if shell.written {
                        self.node.log_finish(now)?;
                    }
                    self.cold.settled(self.node.settled());
                }
                Outcome::NoRoom(sequence) => {
                    node.snapshot_not_kept(sequence, now);
                    flight::note(Noted::SnapshotNoRoom, [sequence, 0, 0]);
                }
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Refuses new writes while there is little room, and tells people.
    fn look_at_space(&mut self) {
        let free_bytes = self.space.free_bytes();
        if !self.gauge.update(free_bytes, self.node.is_full()) {
            return;
        }
        let (is_low, free_mib, enough_mib) = (self.gauge.is_low(), free_bytes >> 20, self.gauge.enough_bytes() >> 20);
        self.node.set_low_space(is_low);
        match is_low {
            true => flight::note(Noted::LowSpace, [free_mib, enough_mib, self.node.is_full().into()]),
            false => flight::note(Noted::SpaceAgain, [free_mib, 0, 0]),
        }
    }

    /// Tells people when the view changes, and when this replica abstains or votes again.
    fn report_view(&mut self) {
        let ordering = self.node.ordering();
        let abstains = ordering.abstains();
        if abstains != self.told_abstains {
            match (std::mem::replace(&mut self.told_abstains, abstains), abstains) {
                (None, Some(_)) => flight::note(Noted::Abstains, [0; 3]),
                (_, Some(Some(needs))) => flight::note(Noted::VotesAfter, [needs, 0, 0]),
                (_, Some(None)) => {}
                (_, None) => flight::note(Noted::VotesAgain, [0; 3]),
            }
        }
        if abstains.is_some() {
            return;
        }
        let ordering = self.node.ordering();
        let now = (ordering.view(), ordering.is_active());
        if now == self.told_view {
            return;
        }
        self.told_view = now;
        let leader = u64::from(ordering.leader().0);
        match now {
            (view, true) => flight::note(Noted::ViewBegun, [view, leader, 0]),
            (view, false) => {
                let why = ordering.suspicion().map_or(OTHERS_DO, |why| oversight::place(why) as u64);
                flight::note(Noted::ViewLeft, [view, leader, why]);
            }
        }
    }

    /// The node, and the rest of the process as it sees it.
    fn shell(&mut self) -> (&mut FileNode<A>, ProcessShell<'_>) {
        let shell = ProcessShell {
            outbox: &mut self.outbox,
            reactor: &mut self.reactor,
            writer: &mut self.writer,
            writing: &mut self.writing,
            crash: &mut self.crash,
            liar: self.liar.as_mut(),
            evidence: &self.evidence,
            snapshots: &mut self.snapshots,
            space: &self.space,
            verifiers: self.verifiers.as_mut(),
            written: false,
        };
        (&mut self.node, shell)
    }

    fn event(&mut self, event: Event, now: Now) -> Result<(), RunError> {
        match event {
            Event::Accepted { connection, peer } => self.links.accepted(&mut self.reactor, connection, peer, now),
            Event::Received { connection, mut bytes } => {
                self.receive(connection, &mut bytes, now);
            }
            Event::Closed { connection, reason } => {
                self.links.closed(connection, &reason, &mut self.node, now);
            }
            Event::Written { token: LOG_WRITE, result } => {
                self.writing = false;
                self.oversight.iter_mut().for_each(Oversight::written);
                let result = result.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO));
                self.crash.pass(Step::Written);
                self.node.log_completed(result, now)?;
                flight::note(Noted::SyncDurable, [self.node.log_mut().durable().0, 0, 0]);
                self.crash.pass(Step::Synced);
                self.synced = true;
            }
            Event::Signal(signal) => {
                report(&format!("signal {signal}: ending; what is staged is written first"));
                self.reactor.stop_accepting();
                self.ending.get_or_insert_with(Instant::now);
                self.node.close_inbox();
                self.links.end();
            }
            Event::Sent { connection } => self.links.sent(connection, &mut self.outbox),
            // The first handshake message was queued when the connection was begun.
            Event::Connected { .. } | Event::Written { .. } | Event::Woken => {}
        }
        Ok(())
    }

    fn receive(&mut self, connection: ConnectionId, bytes: &mut [u8], now: Now) {
        let mut shell = ProcessShell {
            outbox: &mut self.outbox,
            reactor: &mut self.reactor,
            writer: &mut self.writer,
            writing: &mut self.writing,
            crash: &mut self.crash,
            liar: self.liar.as_mut(),
            evidence: &self.evidence,
            snapshots: &mut self.snapshots,
            space: &self.space,
            verifiers: self.verifiers.as_mut(),
            written: false,
        };
        self.links.received(connection, bytes, now, &mut self.node, &mut shell);
        self.links.after_receive(&mut self.reactor, connection, &mut self.node, now);
        self.links.send(&mut self.reactor, &mut self.outbox);
    }
}

/// A thread for each core, where there are any; helpers then keep off them.
fn start_verifiers(cores: &CoreSet, waker: Waker) -> Result<Option<Verifiers>, RunError> {
    let cores: Vec<usize> = cores.iter().collect();
    if cores.is_empty() {
        return Ok(None);
    }
    let (verifiers, refused) = Verifiers::start(&cores, move || waker.wake()).map_err(RunError::Verifiers)?;
    for core in refused {
        report(&format!(
            "warning: this process may not use core {core} of verify_cores; the system decides where that thread runs"
        ));
    }
    // Those that there are move off these cores.
    if crate::cores::place(&crate::cores::placed()).is_err() {
        report("warning: the system does not let threads keep off verify_cores");
    }
    Ok(Some(verifiers))
}

fn now(started: Instant) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Now {
        mono_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
        wall_ms: i64::try_from(wall).unwrap_or(i64::MAX),
    }
}

/// Shared with the links: the identity of this process on all of them.
pub(super) type Identity = Arc<crate::crypto::link::LinkIdentity>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_hosts_loopback_is_a_place_for_lies() {
        for (address, holds) in [
            ("127.0.0.1:7450", true),
            ("127.8.9.1:7450", true),
            ("[::1]:7450", true),
            ("localhost:7450", true),
            ("0.0.0.0:7450", false),
            ("10.0.0.7:7450", false),
            ("127.0.0.1.example:7450", false),
            ("plant-7:7450", false),
        ] {
            assert_eq!(address.parse().map(|address| is_loopback(&address)), Ok(holds), "{address}");
        }
    }
}
