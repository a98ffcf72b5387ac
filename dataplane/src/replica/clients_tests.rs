//! Hostile clients against a node: floods of bundles, of signatures that do not hold, and of reads.

use std::io;

use super::*;
use crate::client::{ClientCore, ClientError, ClientMessage, CoreConfig, Output, Signer, SubmitOptions};
use crate::cluster::sample::{cluster_text, parse};
use crate::cluster::{Cluster, Settings, Size};
use crate::crypto::SecretKey;
use crate::execution::Execution;
use crate::history::cosign::Head;
use crate::history::notary::Notary;
use crate::history::store::MemoryStore;
use crate::log::{Log, LogError, MIN_SEGMENT_BYTES, SimDisk};
use crate::ordering::batch::Batch;
use crate::ordering::checkpoint::forged;
use crate::ordering::record::Record;
use crate::ordering::{Agreed, Timing};
use crate::replica::reads::{MAX_QUEUED_READS, READS_A_TURN, ReadBudget};
use crate::replica::{HostStatus, Job, MAX_JOB, NodeConfig, NodeError};
use crate::state::{Answer, Entries, Frozen, OperationContext, Outcome, StateError};
use crate::types::{EntryIndex, ReplicaId, Signature};
use crate::wire::bundle::{OPEN_SESSION, Request};
use crate::wire::message::{Reply, WireBundle};

const ORIGIN: &str = "atlas.example/hostile";
const NOW: Now = Now { mono_us: 1_000_000, wall_ms: 1_700_000_000_000 };

/// An operation of which each may change so much that few fit an entry: CBOR of 1.
const LARGE: [u8; 1] = [1];

/// Executes nothing and answers every query at once; a query that begins with 1 waits, one with 2 reads a MiB of entries.
struct Nothing;

impl Application for Nothing {
    fn check(&self, operation: &[u8]) -> Result<usize, Code> {
        Ok(if operation == LARGE { 1_000 } else { 0 })
    }
    fn execute(&mut self, _: &OperationContext<'_>, _: &[u8], _: &mut Outcome) {}
    fn query(&self, entries: &dyn Entries, query: &[u8], answer: &mut Answer) -> Code {
        let mut read = 0;
        while query.first() == Some(&2) && read < 1 << 20 {
            read += entries.entry(0).unwrap().len();
        }
        answer.wait = query.first() == Some(&1);
        answer.body = query.to_vec();
        Code::DONE
    }
    fn slot_count(&self) -> u64 {
        0
    }
    fn state_root(&mut self) -> Digest {
        Digest([1; 32])
    }
    fn absence_root(&mut self) -> Digest {
        Digest([2; 32])
    }
    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(Nothing)
    }
    fn restore(&mut self, _: &[u8]) -> Result<(), StateError> {
        Ok(())
    }
}

impl Frozen for Nothing {
    fn write(&self, _: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct World {
    sent: Vec<(ClientId, Kind, Vec<u8>)>,
    to_peers: usize,
    closed: Vec<ClientId>,
    deaf: Option<ClientId>,
    /// Jobs that somebody else would check now; none where the node does.
    verifiers: Option<usize>,
    jobs: Vec<Job>,
}

impl Shell<SimDisk> for World {
    fn to_peer(&mut self, _: ReplicaId, _: Kind, _: &[u8]) {
        self.to_peers += 1;
    }
    fn to_client(&mut self, client: ClientId, kind: Kind, body: &[u8]) {
        self.sent.push((client, kind, body.to_vec()));
    }
    fn takes(&self, client: ClientId) -> bool {
        self.deaf != Some(client)
    }
    fn close_client(&mut self, client: ClientId) {
        self.closed.push(client);
    }
    fn start_write(&mut self, log: &mut Log<Record, SimDisk>) -> Result<(), LogError> {
        log.submit().map(drop)
    }
    fn verifiers(&self) -> Option<usize> {
        self.verifiers.map(|all| all - self.jobs.len())
    }
    fn verify(&mut self, job: Job) {
        self.jobs.push(job);
    }
    fn host(&self) -> HostStatus {
        HostStatus::default()
    }
}

impl World {
    fn codes(&self, client: ClientId) -> Vec<(u16, u32)> {
        let mine = self.sent.iter().filter(|(to, kind, _)| *to == client && *kind == Kind::Refused);
        mine.map(|(.., body)| message::access::<Refused>(body).unwrap())
            .map(|refused| (refused.code.to_native(), refused.retry_after_ms.to_native()))
            .collect()
    }

    fn answers(&self, client: ClientId, code: Code) -> usize {
        let mine = self.sent.iter().filter(|(to, kind, _)| *to == client && *kind == Kind::Answer);
        mine.filter(|(.., body)| message::access::<message::Answer>(body).unwrap().code == code.0).count()
    }
}

type TestNode = Node<Nothing, MemoryStore, SimDisk>;

fn secret(client: u8) -> SecretKey {
    SecretKey::from_seed(&[100 + client; 32])
}

fn cluster_of_three() -> Cluster {
    let head = format!("origin = {ORIGIN:?}\ncreated = 2023-11-14T22:13:20Z\n\n");
    let all = &["*"][..];
    let text = cluster_text(&head, &[("c0-all", 100, all), ("c1-all", 101, all), ("c2-all", 102, all)]);
    let cluster = parse(&text).unwrap();
    let settings = Settings { window: 16, session_window: 64, sessions_per_identity: 1_000, ..*cluster.settings() };
    cluster.with_settings(settings)
}

fn node() -> TestNode {
    let cluster = cluster_of_three();
    let execution = Execution::new(&cluster, Nothing, MemoryStore::new()).unwrap();
    let config = NodeConfig {
        // A backup: what it takes waits in its pool.
        me: ReplicaId(1),
        origin: ORIGIN.into(),
        genesis: cluster.genesis(),
        agreed: Agreed { size: Size::new(4).unwrap(), window: 16, interval: 16, drift_ms: 5_000 },
        seals: crate::ordering::seal::sample(1),
        notary: Arc::new(Notary::new(&cluster, ReplicaId(1), secret(50), secret(51))),
        cosign_interval_us: 5_000,
        timing: Timing::default(),
        segment_bytes: MIN_SEGMENT_BYTES,
        never_ran: true,
        transfer_bytes_per_second: 1 << 20,
        idle_write_us: 1_000_000,
        group_commit_us: 0,
        read_budget: ReadBudget::default(),
    };
    let disk = SimDisk::new(1, cluster.genesis(), MIN_SEGMENT_BYTES);
    Node::recover(config, execution, crate::transfer::Shelf::default(), disk, NOW).unwrap().0
}

/// A bundle that opens a session; those of different `number` differ.
fn submit(client: u8, number: i64, good: bool) -> Vec<u8> {
    let secret = secret(client);
    let opening = Request { class: 0, not_after_ms: None, operation: &OPEN_SESSION }.encode();
    let bundle = Bundle::sign(ORIGIN, secret.public(), None, 0, &[opening], NOW.wall_ms + number, |bytes| {
        let mut signature = secret.sign(bytes);
        signature.0[40] ^= u8::from(!good);
        signature
    })
    .unwrap();
    let bundle = WireBundle { cose: bundle.cose().to_vec(), requests: bundle.requests().map(<[u8]>::to_vec).collect() };
    let mut body = Vec::new();
    message::encode(&Submit { bundle }, &mut body);
    body
}

fn send(node: &mut TestNode, world: &mut World, client: u8, body: &[u8]) {
    node.on_client(ClientId(client.into()), &secret(client).public(), Kind::Submit, body, NOW, world).unwrap();
}

fn query(node: &mut TestNode, world: &mut World, client: u8, id: u64, query: &[u8], wait_ms: u32) {
    let mut body = Vec::new();
    message::encode(&Query { id, min_size: 0, wait_ms, query: query.to_vec() }, &mut body);
    node.on_client(ClientId(client.into()), &secret(client).public(), Kind::Query, &body, NOW, world).unwrap();
}

#[test]
fn a_repeated_bundle_waits_once_and_a_flood_is_told_to_come_again() {
    let (mut node, mut world) = (node(), World::default());
    let first = submit(0, 0, true);
    (0..1_000).for_each(|_| send(&mut node, &mut world, 0, &first));
    assert_eq!((node.inbox.pending.len(), world.sent.len()), (1, 0));
    for number in 1..300 {
        send(&mut node, &mut world, 0, &submit(0, number, true));
    }
    assert_eq!(node.inbox.pending.len(), MAX_BUNDLES_A_ROUND);
    let refused = world.codes(ClientId(0));
    assert_eq!(refused.len(), 300 - MAX_BUNDLES_A_ROUND);
    assert!(refused.iter().all(|refused| *refused == (Code::OVERLOADED.0, RETRY_AFTER_MS)));
    // The neighbour has its own share of the round, and the next round begins afresh.
    send(&mut node, &mut world, 1, &submit(1, 0, true));
    assert_eq!(node.inbox.pending.len(), MAX_BUNDLES_A_ROUND + 1);
    node.turn(NOW, &mut world).unwrap();
    assert_eq!(node.ordering().pooled(), MAX_BUNDLES_A_ROUND + 1);
    send(&mut node, &mut world, 0, &submit(0, 900, true));
    assert_eq!(node.inbox.pending.len(), 1);
}

#[test]
fn what_a_connection_waits_for_already_is_not_read_again_and_another_connection_is_heard() {
    let (mut node, mut world) = (node(), World::default());
    let bundle = submit(0, 0, true);
    send(&mut node, &mut world, 0, &bundle);
    node.turn(NOW, &mut world).unwrap();
    assert_eq!((node.ordering().pooled(), node.routes.len()), (1, 1));
    // The same signature over other requests, as only one who reads them would notice.
    let other = message::access::<Submit>(&bundle).unwrap();
    let other = WireBundle { cose: other.bundle.cose.to_vec(), requests: vec![vec![0x80]] };
    let mut altered = Vec::new();
    message::encode(&Submit { bundle: other }, &mut altered);
    send(&mut node, &mut world, 0, &altered);
    assert_eq!(world.codes(ClientId(0)), []);
    let (key, elsewhere) = (secret(0).public(), ClientId(77));
    node.on_client(elsewhere, &key, Kind::Submit, &altered, NOW, &mut world).unwrap();
    assert_eq!(world.codes(elsewhere).len(), 1);
    // A client that comes back gets the reply where it is now.
    node.on_client(elsewhere, &key, Kind::Submit, &bundle, NOW, &mut world).unwrap();
    assert_eq!((node.routes.values().collect::<Vec<_>>(), world.codes(elsewhere).len()), (vec![&elsewhere], 1));
    // Whoever ends says so, also of what waits.
    node.close_inbox();
    node.on_client(elsewhere, &key, Kind::Submit, &bundle, NOW, &mut world).unwrap();
    assert_eq!(world.codes(elsewhere).last(), Some(&(Code::UNAVAILABLE.0, RETRY_AFTER_END_MS)));
}

#[test]
fn verifiers_get_a_bundle_of_each_key_before_a_second_of_any_and_findings_count_late() {
    let (mut node, mut world) = (node(), World { verifiers: Some(1), ..World::default() });
    for number in 0..250 {
        send(&mut node, &mut world, 0, &submit(0, number, true));
    }
    for number in 250..290 {
        send(&mut node, &mut world, 2, &submit(2, number, number != 260));
    }
    let last = submit(1, 0, true);
    send(&mut node, &mut world, 1, &last);
    node.turn(NOW, &mut world).unwrap();
    assert_eq!((world.jobs.len(), world.jobs[0].bundles(), node.ordering().pooled()), (1, MAX_JOB, 0));
    assert_eq!(node.inbox.pending.len(), 291 - MAX_JOB);
    assert!(node.inbox.pending.iter().all(|bundle| bundle.key() == &secret(0).public()), "the others had their turn");
    // What is with a verifier counts, waits once, and nobody waits for more than there is.
    send(&mut node, &mut world, 1, &last);
    node.on_client(ClientId(77), &secret(1).public(), Kind::Submit, &last, NOW, &mut world).unwrap();
    for number in 250..260 {
        send(&mut node, &mut world, 0, &submit(0, number, true));
    }
    assert_eq!(world.codes(ClientId(0)).len(), 4);
    node.turn(NOW, &mut world).unwrap();
    assert_eq!((world.jobs.len(), node.inbox.used.len()), (1, 3));
    let mut findings = 0;
    while let Some(mut job) = world.jobs.pop() {
        job.check();
        node.verified(job, NOW, &mut world);
        node.turn(NOW, &mut world).unwrap();
        findings += 1;
    }
    assert_eq!((findings, world.closed.as_slice()), (2, &[ClientId(2)][..]));
    // One bad signature, and those behind it unchecked: all others are in the pool.
    assert_eq!(world.codes(ClientId(2)).len(), 30);
    assert_eq!(node.ordering().pooled(), MAX_BUNDLES_A_ROUND + 10 + 1);
    assert_eq!((node.inbox.used.len(), node.inbox.bytes), (0, 0));
    assert!(node.routes.values().any(|client| *client == ClientId(77)), "the reply goes where it was asked for last");
}

#[test]
fn low_on_space_new_writes_are_refused_reads_go_on_and_room_ends_it() {
    let (mut node, mut world) = (node(), World::default());
    send(&mut node, &mut world, 0, &submit(0, 0, true));
    node.turn(NOW, &mut world).unwrap();
    node.set_low_space(true);
    send(&mut node, &mut world, 0, &submit(0, 1, true));
    // What was taken before is still held, and no reason to refuse it.
    send(&mut node, &mut world, 0, &submit(0, 0, true));
    assert_eq!(world.codes(ClientId(0)), [(Code::LOW_SPACE.0, RETRY_AFTER_LOW_MS)]);
    // Nor does it come in by way of a peer.
    let mut relay = Vec::new();
    let bytes = submit(1, 0, true);
    let from_client = message::access::<Submit>(&bytes).unwrap();
    let requests = from_client.bundle.requests.iter().map(|request| request.to_vec()).collect();
    let bundle = WireBundle { cose: from_client.bundle.cose.to_vec(), requests };
    message::encode(&message::Relay { bundle }, &mut relay);
    node.on_peer(ReplicaId(2), Kind::Relay, &relay, NOW).unwrap();
    query(&mut node, &mut world, 0, 1, &[0], 0);
    node.turn(NOW, &mut world).unwrap();
    assert_eq!((node.ordering().pooled(), world.answers(ClientId(0), Code::DONE)), (1, 1));
    node.set_low_space(false);
    send(&mut node, &mut world, 0, &submit(0, 1, true));
    node.on_peer(ReplicaId(2), Kind::Relay, &relay, NOW).unwrap();
    node.turn(NOW, &mut world).unwrap();
    assert_eq!((node.ordering().pooled(), world.codes(ClientId(0)).len()), (3, 1));
}

/// The log's next segment does not fit: nobody ends, and room is all that it takes.
#[test]
fn a_full_disk_holds_the_log_back_and_room_lets_it_go_on() {
    let (mut node, mut world) = (node(), World::default());
    let bundles: Vec<Arc<Bundle>> = (0..3)
        .map(|number| {
            let bytes = submit(0, number, true);
            send(&mut node, &mut world, 0, &bytes);
            let from_client = &message::access::<Submit>(&bytes).unwrap().bundle;
            let requests = from_client.requests.iter().map(|request| request.as_slice());
            Arc::new(Bundle::parse(&from_client.cose, requests, ORIGIN).unwrap())
        })
        .collect();
    let log = node.log_mut();
    for count in [1_000, 100, 10, 1] {
        // More than a record of so many takes.
        let most = 200 + count * (bundles[0].size() as u64 + 100);
        while log.bytes() + most < u64::from(MIN_SEGMENT_BYTES) {
            let batch = Arc::new(Batch::new(0, vec![Arc::clone(&bundles[0]); count as usize]));
            log.append(Record::PrePrepared { view: 9, sequence: 1, batch }).unwrap();
            log.flush().unwrap();
        }
    }
    log.device_mut().limit_segments(1);
    let mut now = NOW;
    node.turn(now, &mut world).unwrap();
    for (sequence, bundle) in (1..).zip(&bundles) {
        let digest = Batch::new(NOW.wall_ms, vec![Arc::clone(bundle)]).digest().0;
        let bundles = vec![bundle.digest().0];
        let mut body = Vec::new();
        message::encode(&message::PrePrepare { view: 0, sequence, time_ms: NOW.wall_ms, digest, bundles }, &mut body);
        node.on_peer(ReplicaId(0), Kind::PrePrepare, &body, now).unwrap();
    }
    let mut tries = 0;
    for _ in 0..20 {
        node.turn(now, &mut world).unwrap();
        node.log_finish(now).unwrap();
        tries += u64::from(node.is_full());
        // It waits between two tries, and does not sleep over it.
        assert!(!node.is_full() || node.next_deadline_us() < now.mono_us + 1_000_000);
        now.mono_us += 50_000;
    }
    let log = node.log_mut();
    assert!(tries > 10 && log.durable() < log.last(), "{tries} tries, {} of {}", log.durable(), log.last());
    assert!(node.counters().get("log.full") <= 6, "{}", node.counters().get("log.full"));
    node.log_mut().device_mut().limit_segments(u32::MAX);
    for _ in 0..10 {
        now.mono_us += 100_000;
        node.turn(now, &mut world).unwrap();
        node.log_finish(now).unwrap();
    }
    assert!(!node.is_full() && node.log_mut().durable() == node.log_mut().last());
}

#[test]
fn a_bad_signature_costs_its_sender_the_connection_and_nobody_else_anything() {
    let (mut node, mut world) = (node(), World::default());
    for number in 0..5 {
        send(&mut node, &mut world, 0, &submit(0, number, number != 1));
        send(&mut node, &mut world, 1, &submit(1, number, true));
    }
    node.turn(NOW, &mut world).unwrap();
    // The bundle before the bad one counts, those after it were not looked at.
    assert_eq!(node.ordering().pooled(), 6);
    let overloaded = (Code::OVERLOADED.0, RETRY_AFTER_MS);
    assert_eq!(world.codes(ClientId(0)), [(Code::BAD_SIGNATURE.0, 0), overloaded, overloaded, overloaded]);
    assert_eq!((world.codes(ClientId(1)), &world.closed), (vec![], &vec![ClientId(0)]));
    let counter = format!("misbehaviour.client.{}.bad_signature", secret(0).public());
    assert_eq!(node.counters().get(&counter), 1);
    assert!(node.inbox.suspects.contains_key(&secret(0).public()) && node.inbox.suspects.len() == 1);
    // It is served again when it behaves.
    send(&mut node, &mut world, 0, &submit(0, 7, true));
    node.turn(NOW, &mut world).unwrap();
    assert_eq!(node.ordering().pooled(), 7);
}

#[test]
fn a_replica_that_ends_takes_no_bundle() {
    let (mut node, mut world) = (node(), World::default());
    node.close_inbox();
    send(&mut node, &mut world, 0, &submit(0, 0, true));
    assert_eq!(world.codes(ClientId(0)), [(Code::UNAVAILABLE.0, RETRY_AFTER_END_MS)]);
    assert!(node.inbox.pending.is_empty());
}

#[test]
fn reads_are_answered_in_turns_one_key_after_the_other() {
    let (mut node, mut world) = (node(), World::default());
    for id in 0..100 {
        query(&mut node, &mut world, 0, id, &[7], 0);
    }
    assert_eq!(world.answers(ClientId(0), Code::OVERLOADED), 100 - MAX_QUEUED_READS);
    query(&mut node, &mut world, 1, 1, &[7], 0);
    node.turn(NOW, &mut world).unwrap();
    assert_eq!(world.answers(ClientId(0), Code::DONE) + 1, READS_A_TURN);
    assert_eq!((world.answers(ClientId(1), Code::DONE), node.next_deadline_us()), (1, 0));
    for _ in 0..MAX_QUEUED_READS / READS_A_TURN {
        node.turn(NOW, &mut world).unwrap();
    }
    assert_eq!(world.answers(ClientId(0), Code::DONE), MAX_QUEUED_READS);
    assert!(node.next_deadline_us() > 0);
    // Who takes no answers costs nothing.
    world.deaf = Some(ClientId(0));
    query(&mut node, &mut world, 0, 1, &[7], 0);
    node.turn(NOW, &mut world).unwrap();
    assert_eq!(world.answers(ClientId(0), Code::DONE), MAX_QUEUED_READS);
}

#[test]
fn repeats_of_large_bundles_are_answered_within_a_rounds_bytes() {
    let (mut node, mut world) = (node(), World::default());
    let secret = secret(0);
    let mut operation = vec![0x59, 0xea, 0x60];
    operation.resize(3 + 60_000, 0);
    let request = |operation: &[u8]| Request { class: 0, not_after_ms: None, operation }.encode();
    let requests = [request(&OPEN_SESSION), request(&operation)];
    let bundle = Bundle::sign(ORIGIN, secret.public(), None, 0, &requests, NOW.wall_ms, |bytes| secret.sign(bytes));
    let bundle = Arc::new(bundle.unwrap());
    let batch = Batch::new(NOW.wall_ms, vec![Arc::clone(&bundle)]);
    node.execution_mut().execute(1, &batch, &mut crate::execution::Executed::default()).unwrap();
    let bundle = WireBundle { cose: bundle.cose().to_vec(), requests: requests.to_vec() };
    let mut body = Vec::new();
    message::encode(&Submit { bundle }, &mut body);
    (0..100).for_each(|_| send(&mut node, &mut world, 0, &body));
    let replies = world.sent.iter().filter(|(_, kind, _)| *kind == Kind::Replies).count();
    assert_eq!((replies, world.codes(ClientId(0)).len()), (18, 82));
    // Who takes nothing has nothing read.
    node.turn(NOW, &mut world).unwrap();
    world.deaf = Some(ClientId(0));
    let sent = world.sent.len();
    send(&mut node, &mut world, 0, &body);
    assert_eq!(world.sent.len(), sent);
}

/// Reads that cost much and answer little.
#[test]
fn who_has_much_read_waits_longer_and_its_neighbours_do_not() {
    let (mut node, mut world) = (node(), World::default());
    for id in 0..20 {
        query(&mut node, &mut world, 0, id, &[2], 0);
        query(&mut node, &mut world, 1, id, &[7], 0);
    }
    for _ in 0..3 {
        node.turn(NOW, &mut world).unwrap();
        assert_eq!(node.next_deadline_us(), 0);
    }
    // One that takes more than a turn's bytes, and then none until the turns that it has used up are over.
    assert_eq!((world.answers(ClientId(0), Code::DONE), world.answers(ClientId(1), Code::DONE)), (1, 20));
    (0..200).for_each(|_| node.turn(NOW, &mut world).unwrap());
    assert_eq!(world.answers(ClientId(0), Code::DONE), 20);
}

#[test]
fn parked_reads_are_bounded_and_looked_at_when_something_changed() {
    let (mut node, mut world) = (node(), World::default());
    for id in 0..80 {
        query(&mut node, &mut world, 0, id, &[1], 1_000);
        node.turn(NOW, &mut world).unwrap();
    }
    let parked = crate::replica::MAX_PARKED_PER_CLIENT;
    assert_eq!((node.reads.parked(), world.answers(ClientId(0), Code::OVERLOADED)), (parked, 80 - parked));
    assert_eq!(node.next_deadline_us().min(NOW.mono_us + 1_000_000), node.next_deadline_us());
    let later = Now { mono_us: NOW.mono_us + 1_000_000, ..NOW };
    for _ in 0..parked / READS_A_TURN {
        node.turn(later, &mut world).unwrap();
    }
    assert_eq!((node.reads.parked(), world.answers(ClientId(0), Code::DONE)), (0, parked));
    query(&mut node, &mut world, 0, 1, &[1], 1_000);
    node.turn(later, &mut world).unwrap();
    node.on_client_gone(ClientId(0));
    assert_eq!(node.reads.parked(), 0);
    let size: EntryIndex = node.execution_mut().size();
    assert_eq!(size, 1);
}

#[test]
fn a_flood_of_status_questions_is_answered_from_one_look() {
    let (mut node, mut world) = (node(), World::default());
    let mut body = Vec::new();
    message::encode(&StatusQuery { id: 5 }, &mut body);
    let key = secret(2).public();
    for _ in 0..500 {
        node.on_client(ClientId(2), &key, Kind::StatusQuery, &body, NOW, &mut world).unwrap();
    }
    node.turn(NOW, &mut world).unwrap();
    let answers = world.sent.iter().filter(|(_, kind, _)| *kind == Kind::StatusAnswer).count();
    assert_eq!(answers, READS_A_TURN);
}

#[test]
fn a_status_waits_as_long_as_its_cost_asks_for_and_is_not_forgotten() {
    let (mut node, mut world) = (node(), World::default());
    let ask = |node: &mut TestNode, world: &mut World, id: u64| {
        let mut body = Vec::new();
        message::encode(&StatusQuery { id }, &mut body);
        node.on_client(ClientId(2), &secret(2).public(), Kind::StatusQuery, &body, NOW, world).unwrap();
    };
    let answers = |world: &World| world.sent.iter().filter(|(_, kind, _)| *kind == Kind::StatusAnswer).count();
    let at = |ms: u64| Now { mono_us: NOW.mono_us + ms * 1_000, ..NOW };
    ask(&mut node, &mut world, 1);
    node.turn(NOW, &mut world).unwrap();
    // The next turn follows at once and finds out what the first one cost: 60 ms, so the next is due 1.2 s later.
    assert_eq!((answers(&world), node.next_deadline_us()), (1, 0));
    node.turn(at(60), &mut world).unwrap();
    // The key has as many reads waiting as it may have.
    for id in 0..crate::replica::MAX_PARKED_PER_CLIENT as u64 {
        query(&mut node, &mut world, 2, id, &[1], 10_000);
        node.turn(at(60), &mut world).unwrap();
    }
    ask(&mut node, &mut world, 2);
    node.turn(at(1_100), &mut world).unwrap();
    assert_eq!((answers(&world), node.next_deadline_us()), (1, at(1_260).mono_us));
    node.turn(at(1_260), &mut world).unwrap();
    assert_eq!(answers(&world), 2);
}

struct KeySigner(SecretKey);

impl Signer for KeySigner {
    fn public(&self) -> PublicKey {
        self.0.public()
    }
    fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message)
    }
}

fn submitted(core: &mut ClientCore) -> Arc<[u8]> {
    match core.next_output() {
        Some(Output::Send { kind: Kind::Submit, body, .. }) => body,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bundle_that_is_refused_before_ordering_ends_its_ticket() {
    let (mut node, mut world) = (node(), World::default());
    let config = CoreConfig { origin: ORIGIN.into(), replicas: 1, session_window: 64, max_bundle_requests: 256 };
    let mut core = ClientCore::new(config, Box::new(KeySigner(secret(0))));
    core.on_link(ReplicaId(0), true, NOW);
    // A session that is open, where numbers are not those of the first bundle.
    core.submit(&[vec![2], vec![2]], &SubmitOptions::default(), NOW).unwrap();
    let opening = submitted(&mut core);
    let opening = message::access::<Submit>(&opening).unwrap();
    let bundle = sha256(&[&opening.bundle.cose]).0;
    let reply = |number: u64| Reply {
        session: 7,
        number,
        sequence: 7,
        entry: 7,
        request: number as u16,
        time_ms: NOW.wall_ms,
        code: 0,
        changes: message::Changes::from_slice(&[0x80]),
        detail: String::new(),
    };
    let mut body = Vec::new();
    message::encode(&Replies { bundle, replies: (0..3).map(reply).collect() }, &mut body);
    core.on_message(ReplicaId(0), ClientMessage::access(Kind::Replies, &body).unwrap(), NOW);
    assert!(matches!(core.next_output(), Some(Output::Done { result: Ok(_), .. })));

    let ticket = core.submit(&vec![LARGE.to_vec(); 10], &SubmitOptions::default(), NOW).unwrap();
    let body = submitted(&mut core);
    send(&mut node, &mut world, 0, &body);
    let (_, kind, body) = world.sent.pop().unwrap();
    core.on_message(ReplicaId(0), ClientMessage::access(kind, &body).unwrap(), NOW);
    let refused = Err(ClientError::Refused { code: Code::TOO_LARGE, executed: Vec::new() });
    assert_eq!(core.next_output(), Some(Output::Done { ticket, result: refused }));
    assert_eq!(core.next_deadline(), None, "it is sent no further");
}

#[test]
fn a_peer_is_told_nothing_of_what_the_log_let_go() {
    let (mut node, mut world) = (node(), World::default());
    let digest = Digest([1; 32]);
    for sequence in 1..=30_000 {
        node.log.append(Record::Decided { sequence, digest }).unwrap();
        if sequence % 5_000 == 0 {
            node.log.flush().unwrap();
            node.log.drain_durable().for_each(drop);
        }
    }
    // Nothing is stable yet, whatever the caller says.
    node.release_log(25_000).unwrap();
    assert_eq!(node.log.dropped_below(), 0);
    node.log.append(Record::Stable(Arc::new(forged(16_000)))).unwrap();
    node.log.flush().unwrap();
    node.release_log(25_000).unwrap();
    let dropped = node.log.dropped_below();
    assert!((8_000..=16_000).contains(&dropped), "{dropped}");
    for (first, told) in [(1, 0), (dropped, 0), (dropped + 1, 1), (29_000, 2)] {
        node.supply_logged_batch(ReplicaId(2), first, digest, &mut world).unwrap();
        node.supply_decided(ReplicaId(2), first, &mut world).unwrap();
        assert_eq!(world.to_peers, told, "{first}");
    }
}

/// What replica `signer` cosigns.
fn cosignature(node: &TestNode, signer: u8, root: Digest) -> Vec<u8> {
    let head = Head { size: node.execution().size(), root };
    let key = |kind: u8| SecretKey::from_seed(&[4 * signer + kind; 32]);
    let notary = Notary::new(&cluster_of_three(), ReplicaId(signer), key(3), key(4));
    let claim = notary.cosign(head, 1_700_000_000);
    let (time_s, signature) = (claim.time_s, claim.signature.0);
    let mut body = Vec::new();
    message::encode(
        &message::Cosignature { size: head.size, root: root.0, time_s, signature, again: false, wanted: false },
        &mut body,
    );
    body
}

#[test]
fn a_quorum_of_others_with_another_history_ends_a_replica_and_fewer_do_not() {
    let (mut node, mut world) = (node(), World::default());
    let other = Digest([9; 32]);
    for signer in [0, 2] {
        let body = cosignature(&node, signer, other);
        node.on_peer(ReplicaId(signer), Kind::Cosignature, &body, NOW).unwrap();
    }
    node.turn(NOW, &mut world).unwrap();
    // One whose signature does not hold is not counted.
    let mut forged = cosignature(&node, 3, other);
    // The signature ends before two flags.
    let last = forged.len() - 3;
    forged[last] ^= 1;
    node.on_peer(ReplicaId(3), Kind::Cosignature, &forged, NOW).unwrap();
    let later = Now { mono_us: NOW.mono_us + 1_000_000, ..NOW };
    node.turn(later, &mut world).unwrap();
    let body = cosignature(&node, 3, other);
    node.on_peer(ReplicaId(3), Kind::Cosignature, &body, later).unwrap();
    let end = node.turn(Now { mono_us: later.mono_us + 1_000_000, ..NOW }, &mut world).unwrap_err();
    assert!(matches!(&end, NodeError::DivergedHistory { size: 1, certified, .. } if *certified == other), "{end}");
}

#[test]
fn a_replica_that_others_agree_with_certifies_its_history() {
    let (mut node, mut world) = (node(), World::default());
    let root = node.execution().history_root();
    node.turn(NOW, &mut world).unwrap();
    for signer in [0, 2, 3] {
        let body = cosignature(&node, signer, root);
        node.on_peer(ReplicaId(signer), Kind::Cosignature, &body, NOW).unwrap();
    }
    node.turn(Now { mono_us: NOW.mono_us + 1_000_000, ..NOW }, &mut world).unwrap();
    let certificate = node.cosigning.certificate().unwrap();
    assert_eq!(certificate.head, Head { size: 1, root });
    assert!(certificate.note.starts_with(&format!("{ORIGIN}\n1\n")));
}

#[path = "tunables_tests.rs"]
mod tunables;
