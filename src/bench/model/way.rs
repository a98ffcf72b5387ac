//! The way of a bundle but for links, signatures, agreement and the log: the client's own core, the replica's reading and checks,
//! execution on the twin store with its history in files, the reply, and the client's core again. All of it on this thread.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_dataplane::client::{ClientCore, ClientMessage, CoreConfig, Output, Signer, SubmitOptions};
use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::cluster::init::{InitOptions, init};
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::session::frame_bytes;
use atlas_dataplane::execution::{Admission, Executed, Execution, Settled};
use atlas_dataplane::history::store::FileStore;
use atlas_dataplane::ordering::batch::Batch;
use atlas_dataplane::types::{Code, Now, PublicKey, ReplicaId, Signature};
use atlas_dataplane::wire::bundle::Bundle;
use atlas_dataplane::wire::frame::Kind;
use atlas_dataplane::wire::limits::MAX_BUNDLE_REQUESTS;
use atlas_dataplane::wire::message::{self, Replies, Submit};
use rustix::time::{ClockId, clock_gettime};

use super::costs::BundleCosts;
use super::measure::{MeasureError, Times};
use super::syncs::Sample;
use super::{OPEN, batch};
use crate::bench::run::MAX_FILL_OPERATION;
use crate::bench::workload::{Generator, TWINS};
use crate::twin::TwinStore;

/// Replicas that reply to the measured clients.
const REPLICAS: usize = 4;
/// Clients: two keys of a new cluster may write everything.
const CLIENTS: usize = 2;
/// Bundles under way for which batches are made.
const UNDER_WAY: f64 = 32.0 * OPEN;
/// Agreed time from one sequence to the next, ms: roots of the trees are appended every second of it, so every 20 sequences, which
/// change most properties.
const STEP_MS: i64 = 50;
/// Sequences between two measured checkpoints.
const CHECKPOINT_EVERY: u64 = 8;

struct Key(SecretKey);

impl Signer for Key {
    fn public(&self) -> PublicKey {
        self.0.public()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message)
    }
}

/// What bundles of one size cost.
pub(super) struct Found {
    pub(super) costs: BundleCosts,
    pub(super) roots_us: f64,
    pub(super) checkpoint_us: f64,
    /// A batch of them, at least one, for the log.
    pub(super) sample: Sample,
}

/// A cluster's clients and one replica's execution.
pub(super) struct Way {
    cluster: Cluster,
    clients: Vec<ClientCore>,
    execution: Execution<TwinStore, FileStore>,
    generator: Generator,
    now: Now,
}

/// Times of a round, per bundle where the bundles were taken one after the other.
#[derive(Default)]
struct Rounds {
    submit: Times,
    read: Times,
    execute: Times,
    reply: Times,
    tally: Times,
    checkpoint: Times,
    /// Sequences that appended the trees' roots.
    with_roots: Vec<Duration>,
    bundles: u64,
    helpers: Duration,
    request_bytes: usize,
    reply_bytes: usize,
    last: Vec<Arc<Bundle>>,
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// CPU time of other threads of this process.
fn helpers() -> Duration {
    cpu(ClockId::ProcessCPUTime).saturating_sub(cpu(ClockId::ThreadCPUTime))
}

impl Way {
    /// On a new store in `dir` in which all properties are written.
    pub(super) fn new(dir: &Path, payload: usize) -> Result<Self, MeasureError> {
        let now = Now { mono_us: 1, wall_ms: crate::cli::time::now_ms() };
        let made = init(dir, &InitOptions::new(now.wall_ms))?;
        let cluster = Cluster::load(&made.cluster_file)?;
        let store = FileStore::open(&dir.join("history"), cluster.genesis())?;
        let application = TwinStore::new(cluster.settings().max_properties);
        let execution = Execution::new(&cluster, application, store)?;
        let config = CoreConfig {
            origin: cluster.origin().to_owned(),
            replicas: REPLICAS,
            session_window: cluster.settings().session_window,
            max_bundle_requests: MAX_BUNDLE_REQUESTS,
        };
        let mut clients = Vec::with_capacity(CLIENTS);
        for (_, key) in made.client_keys.iter().take(CLIENTS) {
            let mut core = ClientCore::new(config.clone(), Box::new(Key(SecretKey::load(key)?)));
            (0..REPLICAS).for_each(|replica| core.on_link(ReplicaId(replica as u8), true, now));
            clients.push(core);
        }
        let mut way = Self { cluster, clients, execution, generator: Generator::new(1, payload)?, now };
        way.fill()?;
        Ok(way)
    }

    /// Opens the sessions and writes every property, a twin in an operation; nothing where that would be too large.
    fn fill(&mut self) -> Result<(), MeasureError> {
        let twins: Vec<u64> = (0..TWINS).collect();
        for twins in twins.chunks(CLIENTS) {
            let operations: Vec<_> = twins.iter().map(|twin| vec![self.generator.fill_twin(*twin)]).collect();
            if operations.iter().flatten().any(|operation| operation.len() > MAX_FILL_OPERATION) {
                return Ok(());
            }
            self.round(&mut Rounds::default(), &operations)?;
        }
        Ok(())
    }

    /// Measures bundles of so many operations for about `budget`.
    pub(super) fn measure(&mut self, operations: usize, budget: Duration) -> Result<Found, MeasureError> {
        let mut rounds = Rounds::default();
        let mut bundles = 1;
        let began = Instant::now();
        while rounds.execute.lacks(began, budget) || rounds.with_roots.is_empty() {
            let submissions = (0..bundles).map(|_| (0..operations).map(|_| self.generator.operation()).collect());
            let submissions: Vec<_> = submissions.collect();
            self.round(&mut rounds, &submissions)?;
            if bundles == 1 {
                // Its size is known now; the sizes of batches follow from it.
                let costs = BundleCosts { request_bytes: rounds.request_bytes as f64, ..empty(operations) };
                let window = CLIENTS as u64 * self.cluster.settings().session_window / operations as u64;
                bundles = (batch(&costs, UNDER_WAY) as u64).min(window).max(1) as usize;
                rounds = Rounds::default();
            }
        }
        Ok(rounds.found(operations))
    }

    /// Submits, reads, executes, replies, counts.
    fn round(&mut self, rounds: &mut Rounds, submissions: &[Vec<Vec<u8>>]) -> Result<(), MeasureError> {
        let count = submissions.len() as u32;
        self.now = Now { mono_us: self.now.mono_us + 1_000, wall_ms: self.now.wall_ms + STEP_MS };
        let start = Instant::now();
        for (number, operations) in submissions.iter().enumerate() {
            self.clients[number % CLIENTS].submit(operations, &SubmitOptions::default(), self.now)?;
        }
        rounds.submit.add(start.elapsed() / count);
        let bodies = self.bodies();
        let start = Instant::now();
        let bundles = bodies.iter().map(|body| self.read(body)).collect::<Result<Vec<_>, _>>()?;
        rounds.read.add(start.elapsed() / count);
        let replies = self.execute(rounds, bundles)?;
        for ((number, reply), body) in replies.iter().enumerate().zip(&bodies) {
            rounds.request_bytes = frame_bytes(body.len());
            rounds.reply_bytes = frame_bytes(reply.len());
            let client = &mut self.clients[number % CLIENTS];
            let start = Instant::now();
            for replica in 0..REPLICAS {
                let message = ClientMessage::access(Kind::Replies, reply)?;
                client.on_message(ReplicaId(replica as u8), message, self.now);
            }
            rounds.tally.add(start.elapsed() / REPLICAS as u32);
        }
        let open = self.clients.iter().map(ClientCore::open_tickets).sum::<usize>();
        self.bodies();
        if open == 0 { Ok(()) } else { Err(MeasureError::Stalled) }
    }

    /// What the clients send, in the order of the submissions; what they say is done is let go.
    fn bodies(&mut self) -> Vec<Arc<[u8]>> {
        let mut of_client: Vec<_> = self
            .clients
            .iter_mut()
            .map(|core| {
                let outputs = std::iter::from_fn(|| core.next_output());
                let bodies = outputs.filter_map(|output| match output {
                    Output::Send { kind: Kind::Submit, body, .. } => Some(body),
                    _ => None,
                });
                bodies.collect::<Vec<_>>().into_iter()
            })
            .collect();
        let mut bodies = Vec::new();
        for number in 0.. {
            let Some(body) = of_client[number % CLIENTS].next() else { break };
            bodies.push(body);
        }
        bodies
    }

    fn read(&self, body: &[u8]) -> Result<Arc<Bundle>, MeasureError> {
        let submit = message::access::<Submit>(body)?;
        let requests: Vec<&[u8]> = submit.bundle.requests.iter().map(|request| request.as_slice()).collect();
        let bundle = Bundle::parse(&submit.bundle.cose, requests.into_iter(), self.cluster.origin())?;
        self.execution.check(&bundle).map_err(MeasureError::Refused)?;
        match self.execution.admit(&bundle) {
            Admission::Order => Ok(Arc::new(bundle)),
            Admission::Settled(_) => Err(MeasureError::Refused(Code::STALE_NUMBER)),
        }
    }

    /// Executes them as one sequence; the bodies of the replies.
    fn execute(&mut self, rounds: &mut Rounds, bundles: Vec<Arc<Bundle>>) -> Result<Vec<Vec<u8>>, MeasureError> {
        let count = bundles.len();
        rounds.last.clone_from(&bundles);
        let batch = Batch::new(self.now.wall_ms, bundles);
        let sequence = self.execution.sequence() + 1;
        let mut executed = Executed::default();
        let (start, before) = (Instant::now(), helpers());
        self.execution.execute(sequence, &batch, &mut executed)?;
        let took = start.elapsed();
        self.execution.flush()?;
        rounds.bundles += count as u64;
        if executed.size - executed.first_entry > count as u64 {
            rounds.with_roots.push(took);
        } else {
            rounds.execute.add(took);
        }
        let replies = encode(rounds, std::mem::take(&mut executed.bundles));
        rounds.helpers += helpers().saturating_sub(before);
        if sequence.is_multiple_of(CHECKPOINT_EVERY) {
            let start = Instant::now();
            std::hint::black_box(self.execution.state_digest());
            std::hint::black_box((self.execution.history_root(), self.execution.session_digest()));
            rounds.checkpoint.add(start.elapsed());
        }
        Ok(replies)
    }
}

fn encode(rounds: &mut Rounds, settled: Vec<Settled>) -> Vec<Vec<u8>> {
    let encoded = settled.into_iter().map(|settled| {
        let start = Instant::now();
        let mut body = Vec::new();
        message::encode(&Replies { bundle: settled.bundle.0, replies: settled.replies }, &mut body);
        rounds.reply.add(start.elapsed());
        body
    });
    encoded.collect()
}

fn empty(operations: usize) -> BundleCosts {
    BundleCosts {
        operations,
        request_bytes: 0.0,
        reply_bytes: 0.0,
        submit_us: 0.0,
        read_us: 0.0,
        execute_us: 0.0,
        helpers_us: 0.0,
        reply_us: 0.0,
        tally_us: 0.0,
    }
}

impl Rounds {
    fn found(self, operations: usize) -> Found {
        let in_batch = self.last.len() as f64;
        let (plain, bundles) = (self.execute.median(), self.bundles as f64);
        let roots: f64 = self.with_roots.iter().map(|took| (took.as_secs_f64() * 1e6 - plain).max(0.0)).sum();
        Found {
            roots_us: roots / self.with_roots.len() as f64,
            checkpoint_us: self.checkpoint.median(),
            costs: BundleCosts {
                request_bytes: self.request_bytes as f64,
                reply_bytes: self.reply_bytes as f64,
                submit_us: self.submit.median(),
                read_us: self.read.median(),
                execute_us: plain / in_batch,
                helpers_us: self.helpers.as_secs_f64() * 1e6 / bundles,
                reply_us: self.reply.median(),
                tally_us: self.tally.median(),
                ..empty(operations)
            },
            sample: Sample::new(self.last),
        }
    }
}
