//! A replica that is not one of ours: programs that hold a replica's stolen key and say what no correct replica says. The honest
//! three go on, agree, and count what they saw.

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_dataplane::crypto::link::LinkIdentity;
use atlas_dataplane::ordering::batch::Batch;
use atlas_dataplane::types::{Digest, ReplicaId};
use atlas_dataplane::wire::bundle::{Bundle, OPEN_SESSION};
use atlas_dataplane::wire::frame::Kind;
use atlas_dataplane::wire::message::{self, Decided, FetchBatch, OpenSlot, PrePrepare, Status, Vote, Votes};
use rand_core::{OsRng, RngCore};
use support::client::{Client, fresh_value, request, set, submit_body, wire};
use support::link::Link;
use support::{Cluster, PATIENCE, StopOnDrop, now_ms, until};

const HONEST: [usize; 3] = [0, 1, 2];

/// More than a replica may grow by over whatever a peer sends, KiB.
const GROWTH_KIB: u64 = 64 << 10;

/// Replica 3 with its key in wrong hands.
fn traitor(cluster: &mut Cluster) -> Arc<LinkIdentity> {
    cluster.kill(3);
    cluster.identity(cluster.stolen_key(3))
}

fn links(cluster: &Cluster, identity: &Arc<LinkIdentity>) -> Vec<Link> {
    HONEST.iter().map(|&index| Link::replica(cluster, index, Arc::clone(identity)).unwrap()).collect()
}

/// The next message of a kind from a replica, others passed over.
fn next(link: &mut Link, kind: Kind, mut wanted: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        while let Some((found, body)) = link.inbox.pop_front() {
            if found == kind && wanted(&body) {
                return body;
            }
        }
        assert!(Instant::now() < deadline, "no {kind:?} comes");
        link.poll(Duration::from_millis(50)).unwrap();
    }
}

/// Votes of a kind that arrived for a sequence.
fn votes_seen(link: &mut Link, kind: Kind, sequence: u64) -> BTreeSet<Digest> {
    let mut seen = BTreeSet::new();
    for (_, body) in link.inbox.iter().filter(|(found, _)| *found == kind) {
        let votes = Votes::access(body).unwrap();
        let these = votes.votes.iter().filter(|vote| vote.sequence.to_native() == sequence);
        seen.extend(these.map(|vote| Digest(vote.digest)));
    }
    seen
}

#[test]
fn malformed_messages_of_a_replica_end_its_link() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let identity = traitor(&mut cluster);
    let kinds =
        [Kind::PrePrepare, Kind::Prepare, Kind::Commit, Kind::Decided, Kind::Status, Kind::FetchBatch, Kind::Batch];
    for index in HONEST {
        let before = cluster.counter(index, "frames.malformed.replica");
        for kind in kinds {
            let mut link = Link::replica(&cluster, index, Arc::clone(&identity)).unwrap();
            link.send(kind, &[0xa5; 1_001]).unwrap();
            link.wait_closed();
        }
        cluster.wait_counted(index, "frames.malformed.replica", before + kinds.len() as u64 - 1);
        let before = cluster.counter(index, "links.ended.malformed");
        for kind in [Kind::Submit, Kind::Query, Kind::StatusQuery, Kind::Replies, Kind::Handshake] {
            let mut link = Link::replica(&cluster, index, Arc::clone(&identity)).unwrap();
            link.send(kind, &[0; 64]).unwrap();
            link.wait_closed();
        }
        cluster.wait_counted(index, "links.ended.malformed", before + 4);
    }
    cluster.assert_well(&mut client, &HONEST);
}

/// A vote counts once, and for the owner of its link: with one honest replica, a hostile one makes no quorum however often it
/// votes. In the original votes were not checked for membership, and a duplicate stopped a replica for a second.
#[test]
fn original_mistake_votes_are_not_checked() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let session = client.open();
    cluster.wait_agreed(&HONEST);
    let identity = traitor(&mut cluster);
    cluster.kill(1);
    cluster.kill(2);
    let before = cluster.status(0).unwrap();
    let mut link = Link::replica(&cluster, 0, identity).unwrap();
    let bundle = client.sign(Some(session), client.next, &[set("test/twin", fresh_value())]);
    client.next += 1;
    let mut sender = Link::client(&cluster, 0, cluster.identity(cluster.client_key("operator"))).unwrap();
    sender.send(Kind::Submit, &submit_body(&bundle)).unwrap();
    let body = next(&mut link, Kind::PrePrepare, |_| true);
    let proposal = message::access::<PrePrepare>(&body).unwrap();
    let (sequence, digest) = (proposal.sequence.to_native(), Digest(proposal.digest));
    assert_eq!(sequence, before.sequence + 1);
    for _ in 0..50 {
        // Again and again, alone and many in one message.
        link.send_votes(Kind::Prepare, 0, &[(sequence, digest); 8]).unwrap();
        link.send_votes(Kind::Commit, 0, &[(sequence, digest); 8]).unwrap();
        link.send_message(&Decided { decided: vec![Vote { sequence, digest: digest.0 }; 8] }).unwrap();
        link.send_votes(Kind::Prepare, 0, &[(sequence, Digest([7; 32]))]).unwrap();
    }
    // A status is answered behind all that, so all was read.
    link.send_message(&Status { executed: before.sequence, active: true, ask: true, ..Status::default() }).unwrap();
    cluster.wait_counted(0, "misbehaviour.replica-3.equivocation", 49);
    let after = cluster.status(0).unwrap();
    assert_eq!((after.sequence, after.state_digest), (before.sequence, before.state_digest), "two votes decided");
    drop(link);
    cluster.restart(1);
    cluster.restart(2);
    client.submit(&bundle).unwrap();
    cluster.assert_well(&mut client, &HONEST);
}

#[test]
fn whatever_a_hostile_backup_says_nobody_follows() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    cluster.assert_well(&mut client, &HONEST);
    let identity = traitor(&mut cluster);
    let memory = HONEST.map(|index| cluster.anonymous_kib(index));
    let mut links = links(&cluster, &identity);
    for link in &mut links {
        // A proposal of one who does not lead.
        let batch = Batch::new(now_ms(), Vec::new());
        let (time_ms, digest) = (batch.time_ms(), batch.digest().0);
        for sequence in 1..200 {
            link.send_message(&PrePrepare { view: 0, sequence, time_ms, digest, bundles: vec![[1; 32]] }).unwrap();
        }
        // Votes and decisions out of thin air: near, far, of other views, at the ends of the numbers.
        for round in 0..200u64 {
            let sequences = (0..512).map(|step| match step % 4 {
                0 => OsRng.next_u64(),
                1 => u64::MAX - step,
                _ => round * 7 + step,
            });
            let votes: Vec<(u64, Digest)> = sequences.map(|sequence| (sequence, Digest([round as u8; 32]))).collect();
            link.send_votes(Kind::Prepare, round % 3, &votes).unwrap();
            link.send_votes(Kind::Commit, u64::MAX - round % 3, &votes).unwrap();
            let decided = votes.iter().map(|(sequence, digest)| Vote { sequence: *sequence, digest: digest.0 });
            link.send_message(&Decided { decided: decided.collect() }).unwrap();
            let open =
                (0..256).map(|step| OpenSlot { sequence: round * step, proposed: false, prepares: 0, commits: 0 });
            let executed = [0, u64::MAX, round][round as usize % 3];
            link.send_message(&Status {
                view: round,
                low: u64::MAX,
                executed,
                active: true,
                ask: true,
                open: open.collect(),
                ..Status::default()
            })
            .unwrap();
            let _ = link.poll(Duration::from_micros(1));
            link.inbox.clear();
        }
        // Bodies that nobody asked for.
        let request = wire(&client.sign(None, 0, &[request(&OPEN_SESSION)]));
        for sequence in 1..100 {
            let bundles = vec![request.clone(); 30];
            link.send_message(&message::Batch { sequence, digest: [4; 32], time_ms: 0, bundles }).unwrap();
        }
    }
    for index in HONEST {
        cluster.wait_counted(index, "misbehaviour.replica-3.not_leader", 198);
        let growth = cluster.anonymous_kib(index).saturating_sub(memory[index]);
        assert!(growth < GROWTH_KIB, "replica {index} grew by {growth} KiB");
    }
    cluster.assert_well(&mut client, &HONEST);
    drop(links);
    // The real one is taken back and brought up to date.
    cluster.restart(3);
    cluster.wait_all();
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

/// A peer that asks for old batches without end costs its peers a bounded part of their time.
#[test]
fn a_flood_of_fetches_leaves_honest_clients_served() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    for _ in 0..20 {
        client.write(100).unwrap();
    }
    let identity = traitor(&mut cluster);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = StopOnDrop(&stop);
        for index in HONEST {
            let (cluster, identity, stop) = (&cluster, &identity, &stop);
            scope.spawn(move || {
                let mut link = Link::replica(cluster, index, Arc::clone(identity)).unwrap();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let asked = (1..50).try_for_each(|sequence| {
                        link.send_message(&FetchBatch { sequence: sequence % 5, digest: [9; 32] })?;
                        link.send_message(&Status { active: true, ask: true, ..Status::default() })
                    });
                    let _ = asked.and_then(|()| link.poll(Duration::from_micros(1)));
                    link.inbox.clear();
                    link.read.clear();
                    link.written.clear();
                }
            });
        }
        for _ in 0..20 {
            client.write_one();
        }
        drop(end);
    });
    cluster.assert_well(&mut client, &HONEST);
}

/// Replica 0 in wrong hands: the leader. Replicas 1 to 3 dial it.
struct FalseLeader {
    links: Vec<Option<Link>>,
    listener: TcpListener,
    identity: Arc<LinkIdentity>,
}

impl FalseLeader {
    fn take_over(cluster: &mut Cluster) -> Self {
        cluster.kill(0);
        let mut listener = None;
        until("the leader's port is free", || {
            listener = TcpListener::bind(cluster.address(0)).ok();
            listener.is_some()
        });
        let identity = cluster.identity(cluster.stolen_key(0));
        let mut leader = Self { links: vec![None, None, None, None], listener: listener.unwrap(), identity };
        leader.wait_links(cluster, &[1, 2, 3]);
        leader
    }

    /// Waits until these are linked; a new link replaces an old one.
    fn wait_links(&mut self, cluster: &Cluster, replicas: &[usize]) {
        replicas.iter().for_each(|&index| self.links[index] = None);
        while replicas.iter().any(|&index| self.links[index].is_none()) {
            let Ok((link, key)) = Link::accept(cluster, &self.listener, Arc::clone(&self.identity)) else { continue };
            if let Some(replica) = cluster.file.replica_by_link_key(&key) {
                self.links[replica.index()] = Some(link);
            }
        }
    }

    fn link(&mut self, index: usize) -> &mut Link {
        self.links[index].as_mut().unwrap()
    }

    fn propose(&mut self, index: usize, sequence: u64, batch: &Batch) {
        self.propose_as(index, sequence, batch, batch.digest());
    }

    fn propose_as(&mut self, index: usize, sequence: u64, batch: &Batch, digest: Digest) {
        let bundles = batch.bundles().iter().map(|bundle| bundle.digest().0).collect();
        let proposal = PrePrepare { view: 0, sequence, time_ms: batch.time_ms(), digest: digest.0, bundles };
        self.link(index).send_message(&proposal).unwrap();
    }

    /// Votes for a digest in both phases.
    fn vote(&mut self, index: usize, sequence: u64, digest: Digest) {
        self.link(index).send_votes(Kind::Prepare, 0, &[(sequence, digest)]).unwrap();
        self.link(index).send_votes(Kind::Commit, 0, &[(sequence, digest)]).unwrap();
    }

    /// Waits for a replica's PREPARE, supplying the bodies that it asks for.
    fn wait_prepare(&mut self, index: usize, sequence: u64, batch: &Batch) {
        let body = next(self.link(index), Kind::Prepare, |body| {
            Votes::access(body).unwrap().votes.iter().any(|vote| vote.sequence.to_native() == sequence)
        });
        let votes = Votes::access(&body).unwrap();
        let vote = votes.votes.iter().find(|vote| vote.sequence.to_native() == sequence).unwrap();
        assert_eq!(Digest(vote.digest), batch.digest(), "replica {index} votes for something else");
    }
}

/// A bundle that opens a session and writes, sent to the backups.
fn submitted(cluster: &Cluster, client: &Client) -> Arc<Bundle> {
    let bundle = client.sign(None, 0, &[request(&OPEN_SESSION), set("test/twin", fresh_value())]);
    for index in 1..4 {
        let mut link = Link::client(cluster, index, cluster.identity(cluster.client_key("operator"))).unwrap();
        link.send(Kind::Submit, &submit_body(&bundle)).unwrap();
        until("the bundle waits to be ordered", || cluster.counter(index, "pool.bundles") > 0);
    }
    Arc::new(bundle)
}

/// The original took a batch's digest from the sender's header, so one leader made replicas diverge.
#[test]
fn original_mistake_a_batchs_digest_is_taken_from_its_header() {
    let mut cluster = Cluster::start();
    let client = cluster.client();
    let mut leader = FalseLeader::take_over(&mut cluster);
    let bundle = submitted(&cluster, &client);
    let batch = Batch::new(now_ms(), vec![Arc::clone(&bundle)]);
    for index in 1..4 {
        // One digest for all, with another content for each.
        let other = Batch::new(batch.time_ms() + index as i64, batch.bundles().to_vec());
        leader.propose_as(index, 1, &other, batch.digest());
        cluster.wait_counted(index, "misbehaviour.replica-0.wrong_digest", 0);
        leader.propose(index, 1, &Batch::new(batch.time_ms(), vec![Arc::clone(&bundle), Arc::clone(&bundle)]));
        cluster.wait_counted(index, "misbehaviour.replica-0.batch_limits", 0);
        leader.propose(index, 1, &Batch::new(now_ms() + 3_600_000, batch.bundles().to_vec()));
        cluster.wait_counted(index, "peers.replica-0.drift", 0);
        assert_eq!(votes_seen(leader.link(index), Kind::Prepare, 1), BTreeSet::new());
    }
    drop(leader);
    cluster.restart(0);
    cluster.wait_all();
    cluster.assert_well(&mut cluster.client(), &[0, 1, 2, 3]);
}

/// Two batches for one sequence: at most one of them is ever executed, and by everybody.
#[test]
fn an_equivocating_leader_divides_nobody() {
    let mut cluster = Cluster::start();
    let client = cluster.client();
    let mut leader = FalseLeader::take_over(&mut cluster);
    let bundle = submitted(&cluster, &client);
    let one = Batch::new(now_ms(), vec![Arc::clone(&bundle)]);
    let two = Batch::new(one.time_ms() - 1, vec![bundle]);
    leader.propose(1, 1, &one);
    leader.propose(2, 1, &two);
    leader.propose(3, 1, &two);
    leader.wait_prepare(1, 1, &one);
    leader.wait_prepare(2, 1, &two);
    leader.wait_prepare(3, 1, &two);
    // Whoever is told both says so and keeps to the first.
    leader.propose(2, 1, &one);
    cluster.wait_counted(2, "misbehaviour.replica-0.equivocation", 0);
    // It votes for each as each would like to hear.
    leader.vote(1, 1, one.digest());
    leader.vote(2, 1, two.digest());
    leader.vote(3, 1, two.digest());
    for index in 1..4 {
        until("sequence 1 is executed", || cluster.status(index).is_some_and(|status| status.sequence == 1));
    }
    cluster.wait_agreed(&[1, 2, 3]);
    drop(leader);
    cluster.restart(0);
    cluster.wait_all();
    cluster.wait_agreed(&[0, 1, 2, 3]);
    cluster.assert_well(&mut cluster.client(), &[0, 1, 2, 3]);
}

#[test]
fn a_forged_bundle_in_a_batch_gets_no_vote() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let mut leader = FalseLeader::take_over(&mut cluster);
    let good = client.sign(None, 0, &[request(&OPEN_SESSION), set("test/twin", fresh_value())]);
    let requests = [request(&OPEN_SESSION), set("test/twin", fresh_value())];
    let forge = |_: &[u8]| *good.signature();
    let forged = Bundle::sign(cluster.file.origin(), client.public(), None, 0, &requests, 0, forge).unwrap();
    let batch = Batch::new(now_ms(), vec![Arc::new(forged)]);
    for index in 1..4 {
        leader.propose(index, 1, &batch);
        next(leader.link(index), Kind::FetchBatch, |_| true);
        let bundles = batch.bundles().iter().map(|bundle| wire(bundle)).collect();
        let (digest, time_ms) = (batch.digest().0, batch.time_ms());
        leader.link(index).send_message(&message::Batch { sequence: 1, digest, time_ms, bundles }).unwrap();
        cluster.wait_counted(index, "misbehaviour.replica-0.bad_bundle", 0);
        leader.vote(index, 1, batch.digest());
    }
    for index in 1..4 {
        assert_eq!(votes_seen(leader.link(index), Kind::Prepare, 1), BTreeSet::new());
        assert_eq!(cluster.status(index).unwrap().sequence, 0);
    }
    // Until there is a view change the backups wait for this leader's sequence 1; they promised nothing and may forget it.
    drop(leader);
    (1..4).for_each(|index| cluster.kill(index));
    (0..4).for_each(|index| cluster.restart(index));
    cluster.wait_all();
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

/// A backup that was killed with its vote out keeps to it: the leader that offers another batch for the sequence gets no second
/// vote, and the first is sent again.
#[test]
fn a_vote_survives_kill_9() {
    for step in ["written", "synced", "published"] {
        // Nobody suspects the false leader meanwhile, however slow the machine is.
        let mut cluster = Cluster::start_with(|file| support::set(file, "local", "leader_timeout_ms = 60000"));
        let client = cluster.client();
        cluster.kill(1);
        cluster.crash_at(1, step, 1);
        cluster.restart(1);
        let mut leader = FalseLeader::take_over(&mut cluster);
        let bundle = submitted(&cluster, &client);
        let batch = Batch::new(now_ms(), vec![Arc::clone(&bundle)]);
        leader.propose(1, 1, &batch);
        cluster.wait_ended(1);
        cluster.crash_no_more(1);
        cluster.restart(1);
        leader.wait_links(&cluster, &[1]);
        let mut again = Link::client(&cluster, 1, cluster.identity(cluster.client_key("operator"))).unwrap();
        again.send(Kind::Submit, &submit_body(&bundle)).unwrap();
        leader.propose(1, 1, &Batch::new(batch.time_ms() + 1, vec![bundle]));
        cluster.wait_counted(1, "misbehaviour.replica-0.equivocation", 0);
        // It votes once a quorum has told what it heard of it, and sends to who lacks it.
        until("its vote comes again", || {
            leader.link(1).send_message(&Status { active: true, ask: true, ..Status::default() }).unwrap();
            leader.link(1).poll(Duration::from_millis(50)).unwrap();
            leader.link(1).inbox.iter().any(|(kind, _)| *kind == Kind::Prepare)
        });
        leader.wait_prepare(1, 1, &batch);
    }
}

/// The original spoke plain TCP. Here what a client writes is nowhere in the bytes between it and a replica, nor between
/// replicas.
#[test]
fn original_mistake_plain_tcp() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let name = "test/a-name-that-nobody-on-the-wire-reads";
    let session = client.open();
    let bundle = client.sign(Some(session), client.next, &[set(name, fresh_value())]);
    client.next += 1;
    let body = submit_body(&bundle);
    let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(holds(&body, name.as_bytes()), "the name is in the message before it is sealed");
    // The link keeps every byte as it passed the socket.
    let mut link = Link::client(&cluster, 0, cluster.identity(cluster.client_key("operator"))).unwrap();
    client.submit(&bundle).unwrap();
    link.send(Kind::Submit, &body).unwrap();
    until("the reply comes", || {
        link.poll(Duration::from_millis(50)).unwrap();
        link.inbox.iter().any(|(kind, _)| *kind == Kind::Replies)
    });
    let (_, reply) = link.inbox.iter().find(|(kind, _)| *kind == Kind::Replies).unwrap();
    assert!(!holds(&link.written, name.as_bytes()));
    assert!(!holds(&link.written, &bundle.cose()[..64]));
    assert!(!holds(&link.read, &reply[..32]));
    // Between replicas: the body of the batch, asked for in replica 3's name.
    let identity = traitor(&mut cluster);
    let mut peer = Link::replica(&cluster, 0, identity).unwrap();
    let sequence = cluster.wait_agreed(&HONEST).sequence;
    let page = Status { executed: sequence - 1, active: true, ..Status::default() };
    peer.send_message(&page).unwrap();
    let decided = next(&mut peer, Kind::Decided, |_| true);
    let decided = message::access::<Decided>(&decided).unwrap();
    let digest = decided.decided.iter().find(|item| item.sequence.to_native() == sequence).unwrap().digest;
    peer.send_message(&FetchBatch { sequence, digest }).unwrap();
    let batch = next(&mut peer, Kind::Batch, |_| true);
    assert!(holds(&batch, name.as_bytes()), "the body holds the name");
    assert!(!holds(&peer.read, name.as_bytes()), "the wire does not");
    cluster.assert_well(&mut client, &HONEST);
    assert_eq!(cluster.file.leader(0), ReplicaId(0));
}
