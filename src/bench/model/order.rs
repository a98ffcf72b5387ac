//! The ordering core: all replicas of a cluster on one thread agree on one sequence after the other. Every message passes through its
//! encoding, every record through a log on a simulated disk, so that votes are made as in the replica; the log's time is not counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_dataplane::cluster::Size;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::log::{Log, MIN_SEGMENT_BYTES, SimDisk, recover};
use atlas_dataplane::ordering::checkpoint::Statement;
use atlas_dataplane::ordering::record::{DurableVote, Record};
use atlas_dataplane::ordering::seal::Seals;
use atlas_dataplane::ordering::{Agreed, Effect, Ordering, Outgoing, Timing, To};
use atlas_dataplane::types::{Digest, Now, PublicKey, ReplicaId, Signature};
use atlas_dataplane::wire::bundle::{Bundle, Request};
use atlas_dataplane::wire::frame::Kind;
use atlas_dataplane::wire::message::{self, PrePrepare, Vote, Votes};

use super::costs::OrderCosts;
use super::measure::{MeasureError, Times};

/// Sequences between two checkpoints.
const K: u64 = 256;
/// Sequences after which the logs are thrown away: a simulated disk keeps all that was written.
const FORGET: u64 = 256;
/// Bundles of the larger batches.
const MANY: u64 = 32;
/// Turns of all replicas that one sequence may take.
const MAX_TURNS: usize = 1_000;
/// An operation that no one looks at: a CBOR array.
const OPERATION: [u8; 3] = [0x82, 0x00, 0x00];

struct Replica {
    core: Ordering,
    log: Log<Record, SimDisk>,
    records: Vec<Record>,
}

struct Group {
    size: Size,
    replicas: Vec<Replica>,
    network: VecDeque<(ReplicaId, usize, Kind, Arc<[u8]>)>,
    now: Now,
    number: u64,
    /// Time that was the logs'.
    logs: Duration,
}

fn log(seed: u64) -> Result<Log<Record, SimDisk>, MeasureError> {
    let disk = SimDisk::new(seed, Digest::NULL, MIN_SEGMENT_BYTES);
    Ok(recover(disk, Digest::NULL, MIN_SEGMENT_BYTES, |_| {})?.log)
}

impl Group {
    fn new(n: usize) -> Result<Self, MeasureError> {
        let size = Size::new(n).ok_or(MeasureError::Stalled)?;
        let agreed = Agreed { size, window: K, interval: K, drift_ms: 5_000 };
        let key = |me: ReplicaId| SecretKey::from_seed(&[me.0; 32]);
        let members: Vec<_> = size.replicas().map(|me| key(me).public()).collect();
        let seals = |me| Arc::new(Seals::new("bench".to_owned(), 0, members.clone(), key(me)));
        let replicas = size.replicas().map(|me| {
            let core = Ordering::new(me, agreed, Timing::default(), seals(me));
            Ok(Replica { core, log: log(u64::from(me.0))?, records: Vec::new() })
        });
        let now = Now { mono_us: 1, wall_ms: 1_790_000_000_000 };
        let replicas = replicas.collect::<Result<_, MeasureError>>()?;
        Ok(Self { size, replicas, network: VecDeque::new(), now, number: 0, logs: Duration::ZERO })
    }

    fn bundles(&mut self, count: u64) -> Result<Vec<Arc<Bundle>>, MeasureError> {
        let first = self.number;
        self.number += count;
        let bundle = |number| {
            let requests = [Request { class: 0, not_after_ms: None, operation: &OPERATION }.encode()];
            let key = PublicKey([7; 32]);
            Ok(Arc::new(Bundle::sign("bench", key, Some(1), number, &requests, 0, |_| Signature([0; 64]))?))
        };
        (first..first + count).map(bundle).collect()
    }

    /// Orders the bundles: the time that it took all replicas until the last one executed them, without their logs'.
    fn order(&mut self, bundles: &[Arc<Bundle>]) -> Result<Duration, MeasureError> {
        let target = self.replicas[0].core.executed() + 1;
        if target.is_multiple_of(FORGET) {
            for (seed, replica) in (0..).zip(&mut self.replicas) {
                replica.log = log(seed)?;
            }
        }
        let start = Instant::now();
        self.logs = Duration::ZERO;
        for replica in &mut self.replicas {
            for bundle in bundles {
                replica.core.submit(Arc::clone(bundle), self.now).map_err(|_| MeasureError::Stalled)?;
            }
        }
        for _ in 0..MAX_TURNS {
            if self.replicas.iter().all(|replica| replica.core.executed() >= target) {
                return Ok(start.elapsed().saturating_sub(self.logs));
            }
            self.now.mono_us += 100;
            for at in 0..self.size.n() {
                self.turn(at)?;
            }
            while let Some((from, to, kind, body)) = self.network.pop_front() {
                self.deliver(from, to, kind, &body)?;
            }
        }
        Err(MeasureError::Stalled)
    }

    fn turn(&mut self, at: usize) -> Result<(), MeasureError> {
        let Replica { core, log, records } = &mut self.replicas[at];
        core.flush(self.now);
        let me = ReplicaId(at as u8);
        while let Some(effect) = core.next_effect() {
            match effect {
                Effect::Log(record) => records.push(record),
                Effect::Send(to, message) => {
                    let Some((kind, body)) = encode(&message) else { continue };
                    let peers = (0..self.size.n()).filter(|peer| *peer != at);
                    for peer in peers.filter(|peer| to == To::All || to == To::One(ReplicaId(*peer as u8))) {
                        self.network.push_back((me, peer, kind, Arc::clone(&body)));
                    }
                }
                Effect::Execute(sequence, _) if sequence.is_multiple_of(K) => core.checkpoint(state_at(sequence)),
                _ => {}
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        let before = Instant::now();
        for record in records.drain(..) {
            log.append(record).map_err(|(_, error)| error)?;
        }
        log.flush()?;
        let durable: Vec<_> = log.drain_durable().collect();
        self.logs += before.elapsed();
        durable.iter().for_each(|record| core.synced(record, self.now));
        Ok(())
    }

    fn deliver(&mut self, from: ReplicaId, to: usize, kind: Kind, body: &[u8]) -> Result<(), MeasureError> {
        let core = &mut self.replicas[to].core;
        match kind {
            Kind::PrePrepare => core.on_pre_prepare(from, message::access::<PrePrepare>(body)?, self.now),
            Kind::Prepare => core.on_prepares(from, Votes::access(body)?),
            Kind::Commit => core.on_commits(from, Votes::access(body)?),
            Kind::Checkpoint => core.on_checkpoint(from, message::access::<message::Checkpoint>(body)?),
            _ => {}
        }
        Ok(())
    }
}

/// Nothing is executed here, so all states are alike.
fn state_at(sequence: u64) -> Statement {
    let none = Digest::NULL;
    Statement { sequence, size: 0, history_root: none, state_root: none, sessions: none, members: none }
}

/// The messages of the normal case and the checkpoints; statuses are timed and no part of a sequence.
fn encode(message: &Outgoing) -> Option<(Kind, Arc<[u8]>)> {
    let mut body = Vec::new();
    let votes = |votes: &[DurableVote]| Votes {
        view: votes.first().map_or(0, DurableVote::view),
        votes: votes.iter().map(|vote| Vote { sequence: vote.sequence(), digest: vote.digest().0 }).collect(),
    };
    let kind = match message {
        Outgoing::PrePrepare(proposal) => {
            let message = PrePrepare {
                view: proposal.view,
                sequence: proposal.sequence,
                time_ms: proposal.time_ms,
                digest: proposal.digest.0,
                bundles: proposal.bundles.iter().map(|digest| digest.0).collect(),
            };
            message::encode(&message, &mut body);
            Kind::PrePrepare
        }
        Outgoing::Prepare(prepares) => {
            votes(prepares).encode(&mut body);
            Kind::Prepare
        }
        Outgoing::Commit(commits) => {
            votes(commits).encode(&mut body);
            Kind::Commit
        }
        Outgoing::Checkpoint(signed) => {
            let message =
                message::Checkpoint { body: signed.statement.bytes().to_vec(), signature: signed.signature.0 };
            message::encode(&message, &mut body);
            Kind::Checkpoint
        }
        _ => return None,
    };
    Some((kind, body.into()))
}

/// The median of a sequence of so many bundles at one replica, us.
fn sequence(group: &mut Group, bundles: u64, budget: Duration) -> Result<f64, MeasureError> {
    let (mut times, began) = (Times::default(), Instant::now());
    while times.lacks(began, budget) {
        let batch = group.bundles(bundles)?;
        times.add(group.order(&batch)?);
    }
    Ok(times.median() / group.size.n() as f64)
}

/// Measures a cluster of `n` for about `budget`.
pub(super) fn measure(n: usize, budget: Duration) -> Result<OrderCosts, MeasureError> {
    let mut group = Group::new(n)?;
    let one = sequence(&mut group, 1, budget / 2)?;
    let many = sequence(&mut group, MANY, budget / 2)?;
    let bundle_us = ((many - one) / (MANY - 1) as f64).max(0.0);
    Ok(OrderCosts { n, sequence_us: (one - bundle_us).max(0.0), bundle_us })
}
