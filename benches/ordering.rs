//! How many steps a second does the ordering core make?
//!
//! Four cores agree on one sequence after the other, in one thread: every message passes through its wire encoding, every
//! record through a log on a simulated disk (in memory), so that votes are made as in the replica. One iteration is one
//! sequence decided and executed by all four; the messages it took are printed.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

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
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const N: usize = 4;

/// Sequences between two checkpoints.
const K: u64 = 256;

struct Replica {
    core: Ordering,
    log: Log<Record, SimDisk>,
}

struct Four {
    replicas: Vec<Replica>,
    network: VecDeque<(ReplicaId, usize, Kind, Arc<[u8]>)>,
    now: Now,
    number: u64,
    messages: u64,
}

fn log(seed: u64) -> Log<Record, SimDisk> {
    let disk = SimDisk::new(seed, Digest::NULL, MIN_SEGMENT_BYTES);
    recover(disk, Digest::NULL, MIN_SEGMENT_BYTES, |_| {}).expect("an empty disk").log
}

impl Four {
    fn new() -> Self {
        let size = Size::new(N).expect("four replicas");
        let agreed = Agreed { size, window: K, interval: K, drift_ms: 5_000 };
        let key = |me: ReplicaId| SecretKey::from_seed(&[me.0; 32]);
        let members: Vec<_> = size.replicas().map(|me| key(me).public()).collect();
        let seals = |me| Arc::new(Seals::new("bench".to_owned(), 0, members.clone(), key(me)));
        let replicas = size.replicas().map(|me| Replica {
            core: Ordering::new(me, agreed, Timing::default(), seals(me)),
            log: log(u64::from(me.0)),
        });
        let now = Now { mono_us: 1, wall_ms: 1_790_000_000_000 };
        Self { replicas: replicas.collect(), network: VecDeque::new(), now, number: 0, messages: 0 }
    }

    /// A new log for everybody: a simulated disk keeps all that was written.
    fn forget_logs(&mut self) {
        for (seed, replica) in (0..).zip(&mut self.replicas) {
            replica.log = log(seed);
        }
    }

    fn bundles(&mut self, count: u64) -> Vec<Arc<Bundle>> {
        let first = self.number;
        self.number += count;
        let operation = vec![0x82, 0x00, 0x00];
        let bundle = |number| {
            let requests = [Request { class: 0, not_after_ms: None, operation: &operation }.encode()];
            let key = PublicKey([7; 32]);
            Bundle::sign("bench", key, Some(1), number, &requests, 0, |_| Signature([0; 64])).expect("a bundle")
        };
        (first..first + count).map(|number| Arc::new(bundle(number))).collect()
    }

    /// Orders the bundles and returns when all four have executed them.
    fn order(&mut self, bundles: &[Arc<Bundle>]) {
        let target = self.replicas[0].core.executed() + 1;
        for replica in &mut self.replicas {
            for bundle in bundles {
                replica.core.submit(Arc::clone(bundle), self.now).expect("room in the pool");
            }
        }
        while self.replicas.iter().any(|replica| replica.core.executed() < target) {
            self.now.mono_us += 100;
            for at in 0..N {
                self.turn(at);
            }
            while let Some((from, to, kind, body)) = self.network.pop_front() {
                self.deliver(from, to, kind, &body);
            }
        }
    }

    fn turn(&mut self, at: usize) {
        let Replica { core, log } = &mut self.replicas[at];
        core.flush(self.now);
        let me = ReplicaId(at as u8);
        while let Some(effect) = core.next_effect() {
            match effect {
                Effect::Log(record) => drop(log.append(record).expect("room in the log")),
                Effect::Send(to, message) => {
                    let Some((kind, body)) = encode(&message) else { continue };
                    let peers = (0..N).filter(|peer| *peer != at);
                    for peer in peers.filter(|peer| to == To::All || to == To::One(ReplicaId(*peer as u8))) {
                        self.messages += 1;
                        self.network.push_back((me, peer, kind, Arc::clone(&body)));
                    }
                }
                Effect::Execute(sequence, batch) => {
                    drop(black_box(batch));
                    if sequence.is_multiple_of(K) {
                        core.checkpoint(state_at(sequence));
                    }
                }
                _ => {}
            }
        }
        if log.submit().expect("the simulated disk") {
            log.finish().expect("the simulated disk");
            for record in log.drain_durable() {
                core.synced(&record, self.now);
            }
        }
    }

    fn deliver(&mut self, from: ReplicaId, to: usize, kind: Kind, body: &[u8]) {
        let core = &mut self.replicas[to].core;
        match kind {
            Kind::PrePrepare => {
                core.on_pre_prepare(from, message::access::<PrePrepare>(body).expect("our own encoding"), self.now);
            }
            Kind::Prepare => core.on_prepares(from, Votes::access(body).expect("our own encoding")),
            Kind::Commit => core.on_commits(from, Votes::access(body).expect("our own encoding")),
            Kind::Checkpoint => {
                core.on_checkpoint(from, message::access::<message::Checkpoint>(body).expect("our own encoding"));
            }
            _ => {}
        }
    }
}

/// Nothing is executed here, so all states are alike.
fn state_at(sequence: u64) -> Statement {
    let none = Digest::NULL;
    Statement { sequence, size: 0, history_root: none, state_root: none, sessions: none, members: none }
}

/// The messages of the normal case and the checkpoints; statuses are left out, they are timed and not part of a step.
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

fn sequences(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ordering: one sequence, all four replicas");
    for bundles in [1u64, 64] {
        group.throughput(Throughput::Elements(bundles));
        group.bench_function(format!("batch of {bundles}"), |bencher| {
            let mut four = Four::new();
            let mut since = 0;
            bencher.iter_batched(
                || (),
                |()| {
                    let batch = four.bundles(bundles);
                    four.order(&batch);
                    since += 1;
                    if since == 500 {
                        since = 0;
                        four.forget_logs();
                    }
                },
                criterion::BatchSize::PerIteration,
            );
            println!("messages a sequence: {:.1}", four.messages as f64 / four.replicas[0].core.executed() as f64);
        });
    }
    group.finish();
}

criterion_group!(benches, sequences);
criterion_main!(benches);
