//! Hostile programs that connect to replicas from outside: without a key, with a client's key, with stolen recordings. After
//! each attack an honest client is served, all replicas live and agree, and the attack was counted.

mod support;

use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::types::{Code, Digest};
use atlas_dataplane::wire::bundle::{Bundle, OPEN_SESSION};
use atlas_dataplane::wire::frame::{Header, Kind, Sender};
use atlas_dataplane::wire::message::{self, Refused, StatusQuery, Submit};
use rand_core::{OsRng, RngCore};
use support::client::{Client, Outcome, fresh_value, request, set, submit_body, wire};
use support::link::{Link, wait_closed};
use support::{Cluster, PATIENCE, StopOnDrop, now_ms, set as set_config, until};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// More than a replica may grow by over whatever a stranger sends, KiB: the limits of its tables, with room to spare.
const GROWTH_KIB: u64 = 48 << 10;

fn connect(cluster: &Cluster, index: usize) -> TcpStream {
    TcpStream::connect(cluster.address(index)).unwrap()
}

fn header(cluster: &Cluster, kind: Kind, length: u32) -> [u8; 32] {
    let cluster = Header::cluster_tag(&cluster.file.genesis());
    Header { kind, length, epoch: 0, cluster, sequence: 0 }.encode()
}

/// Sends bytes to every replica; each must close the connection.
fn sent_and_closed(cluster: &Cluster, bytes: &[u8]) {
    for index in ALL {
        let mut stream = connect(cluster, index);
        // It may be closed before all is written.
        let _ = stream.write_all(bytes);
        wait_closed(stream);
    }
}

#[test]
fn bytes_of_strangers_end_their_connection_and_nothing_else() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    cluster.assert_well(&mut client, &ALL);
    let memory = ALL.map(|index| cluster.anonymous_kib(index));
    let counted = ALL.map(|index| cluster.counter(index, "links.ended.malformed"));
    let mut garbage = vec![0; 300_000];
    OsRng.fill_bytes(&mut garbage);
    sent_and_closed(&cluster, &garbage);
    // A frame that announces 4 GiB, and the bytes to go with it.
    let mut huge = header(&cluster, Kind::Handshake, u32::MAX).to_vec();
    huge.extend_from_slice(&garbage);
    sent_and_closed(&cluster, &huge);
    for (at, byte) in [(0, b'X'), (4, 2), (5, 0), (5, 99), (6, 1)] {
        let mut frame = [header(&cluster, Kind::Handshake, 40).as_slice(), &[7; 40]].concat();
        frame[at] = byte;
        sent_and_closed(&cluster, &frame);
    }
    // Another cluster's tag, and kinds that are sealed, before anybody has a key.
    let foreign = Header { kind: Kind::Handshake, length: 40, epoch: 0, cluster: [9; 8], sequence: 0 }.encode();
    sent_and_closed(&cluster, &[foreign.as_slice(), &[0; 40]].concat());
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Handshake) {
        sent_and_closed(&cluster, &header(&cluster, kind, 64));
    }
    // Cut short, and gone.
    for cut in [1, 31, 32, 33] {
        let frame = [header(&cluster, Kind::Handshake, 40).as_slice(), &[7; 40]].concat();
        ALL.iter().for_each(|&index| drop(connect(&cluster, index).write_all(&frame[..cut])));
    }
    for index in ALL {
        cluster.wait_counted(index, "links.ended.malformed", counted[index] + 15);
        let growth = cluster.anonymous_kib(index).saturating_sub(memory[index]);
        assert!(growth < GROWTH_KIB, "replica {index} grew by {growth} KiB");
    }
    cluster.assert_well(&mut client, &ALL);
}

/// In the original a peer was who its header said. Here a key that is not in the cluster file, or another replica's name, or
/// recorded bytes are nobody.
#[test]
fn original_mistake_a_peer_is_who_its_header_says() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let refused = |identity, class| {
        let key = cluster.file.members()[1].link_key;
        let link = Link::dial_at(&cluster.address(1), &cluster.file.genesis(), identity, key, class);
        // The initiator is done first: the refusal shows as the end of the connection.
        if let Ok(link) = link {
            link.wait_closed();
        }
    };
    let before = cluster.counter(1, "links.ended.misbehaving");
    refused(cluster.identity(SecretKey::generate().unwrap()), Sender::Server);
    refused(cluster.identity(SecretKey::generate().unwrap()), Sender::Replica);
    // Replicas with lower indices are dialled and do not dial: their keys open nothing, nor does the replica's own.
    refused(cluster.identity(cluster.stolen_key(0)), Sender::Replica);
    refused(cluster.identity(cluster.stolen_key(1)), Sender::Replica);
    cluster.wait_counted(1, "links.ended.misbehaving", before + 3);
    // One who answers in replica 1's place without its key is found out by the caller.
    let own = cluster.identity(cluster.client_key("gateway"));
    let other = cluster.file.members()[2].link_key;
    let genesis = cluster.file.genesis();
    assert!(Link::dial_at(&cluster.address(1), &genesis, Arc::clone(&own), other, Sender::Server).is_err());
    // A handshake for another cluster proves nothing here.
    let elsewhere =
        Link::dial_at(&cluster.address(1), &Digest([3; 32]), own, cluster.file.members()[1].link_key, Sender::Server);
    assert!(elsewhere.is_err());
    cluster.assert_well(&mut client, &ALL);
}

#[test]
fn recorded_connections_are_worth_nothing_when_played_again() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let session = client.open();
    let value = fresh_value();
    let bundle = client.sign(Some(session), client.next, &[set("test/replayed", value)]);
    client.next += 1;
    let mut link = Link::client(&cluster, 0, cluster.identity(cluster.client_key("operator"))).unwrap();
    link.send(Kind::Submit, &submit_body(&bundle)).unwrap();
    client.submit(&bundle).unwrap();
    let size = cluster.wait_agreed(&ALL).size;
    for index in ALL {
        let mut stream = connect(&cluster, index);
        let _ = stream.write_all(&link.written);
        wait_closed(stream);
    }
    // Frames within a living link: again, and the last bit changed.
    let frame = link.written[link.written.len() - submit_body(&bundle).len() - 48..].to_vec();
    link.write(&frame).unwrap();
    link.wait_closed();
    let mut link = Link::client(&cluster, 0, cluster.identity(cluster.client_key("operator"))).unwrap();
    link.write(&frame).unwrap();
    link.wait_closed();
    assert_eq!(cluster.wait_agreed(&ALL).size, size, "a recording changed something");
    cluster.assert_well(&mut client, &ALL);
}

/// More half-open connections than a replica may have, kept up for long: new honest clients are served, and a replica that
/// restarts finds its way back.
#[test]
fn half_open_connections_keep_nobody_out() {
    let mut cluster = Cluster::start_with(|file: &Path| {
        set_config(file, "net", "max_clients = 64\nhandshake_timeout_ms = 60000");
    });
    let memory = ALL.map(|index| cluster.anonymous_kib(index));
    let mut held = Vec::new();
    for round in 0..1_000 {
        for index in ALL {
            let mut stream = connect(&cluster, index);
            // Some send nothing, some the beginning of a frame.
            let _ = stream.write_all(&header(&cluster, Kind::Handshake, 32)[..round % 33]);
            held.push(stream);
        }
    }
    let mut client = cluster.client();
    cluster.assert_well(&mut client, &ALL);
    cluster.kill(3);
    cluster.restart(3);
    cluster.wait_all();
    let mut late = Client::new(&cluster, "gateway");
    cluster.assert_well(&mut late, &ALL);
    // The fourth was started anew.
    for (index, before) in memory.iter().enumerate().take(3) {
        let growth = cluster.anonymous_kib(index).saturating_sub(*before);
        assert!(growth < GROWTH_KIB, "replica {index} grew by {growth} KiB");
    }
}

/// One identity that opens all the connections that it can keeps no other identity out.
#[test]
fn one_identity_cannot_take_all_connections() {
    let cluster = Cluster::start_with(|file: &Path| set_config(file, "net", "max_clients = 64"));
    let identity = cluster.identity(cluster.client_key("gateway"));
    let mut held: Vec<Link> = Vec::new();
    for _ in 0..100 {
        held.extend(ALL.iter().filter_map(|&index| Link::client(&cluster, index, Arc::clone(&identity)).ok()));
    }
    let mut honest = cluster.client();
    honest.write_one();
    // Those that it had stand: were they closed for newer ones, its processes would put each other out for ever.
    for link in &mut held[..ALL.len()] {
        link.send_message(&StatusQuery { id: 7 }).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !link.inbox.iter().any(|(kind, _)| *kind == Kind::StatusAnswer) {
            assert!(Instant::now() < deadline, "an old connection is not served");
            link.poll(Duration::from_millis(50)).expect("an old connection was closed");
        }
    }
    drop(held);
    cluster.assert_well(&mut honest, &ALL);
}

/// What a replica answers to a bundle, by its own word.
fn refusal(cluster: &Cluster, index: usize, bundle: &Bundle) -> Code {
    let mut link = Link::client(cluster, index, cluster.identity(cluster.client_key("operator"))).unwrap();
    link.send(Kind::Submit, &submit_body(bundle)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no refusal of {bundle:?}");
        link.poll(Duration::from_millis(100)).unwrap();
        if let Some((kind, body)) = link.inbox.pop_front() {
            assert_eq!(kind, Kind::Refused, "{bundle:?} was executed");
            return Code(message::access::<Refused>(&body).unwrap().code.to_native());
        }
    }
}

/// In the original signing was switched off. Here every bundle that its client did not sign, for this cluster, under this
/// key, is refused by every replica.
#[test]
fn original_mistake_signatures_are_not_checked() {
    nothing_forged_is_executed(&Cluster::start());
}

/// The same of a replica whose signatures other threads check.
#[test]
fn nothing_forged_passes_verifiers() {
    nothing_forged_is_executed(&with_verifiers());
}

/// A cluster whose replicas have signatures checked on threads of their own.
fn with_verifiers() -> Cluster {
    let cluster = Cluster::start_with(|file| {
        let text = std::fs::read_to_string(file).unwrap();
        std::fs::write(file, format!("verify_cores = \"0-1\"\n{text}")).unwrap();
    });
    for index in ALL {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", cluster.local.pid(index).unwrap())).unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
        assert_eq!(names.filter(|name| name.starts_with("verify-")).count(), 2);
    }
    cluster
}

fn nothing_forged_is_executed(cluster: &Cluster) {
    let mut client = cluster.client();
    let session = client.open();
    let (next, operation) = (client.next, set("test/forged", fresh_value()));
    let good = client.sign(Some(session), next, std::slice::from_ref(&operation));
    let forged = Bundle::sign(
        cluster.file.origin(),
        client.public(),
        Some(session),
        next,
        std::slice::from_ref(&operation),
        0,
        |_| *good.signature(),
    );
    let elsewhere = client.sign_for("atlas.example/elsewhere", Some(session), next, std::slice::from_ref(&operation));
    let gateway = Client::new(cluster, "gateway");
    let others = gateway.sign(Some(session), next, std::slice::from_ref(&operation));
    let unknown = SecretKey::generate().unwrap();
    let sign = |bytes: &[u8]| unknown.sign(bytes);
    let unknown = Bundle::sign(cluster.file.origin(), unknown.public(), None, 0, &[request(&OPEN_SESSION)], 0, sign);
    let size = cluster.wait_agreed(&ALL).size;
    for (bundle, code) in [
        (forged.unwrap(), Code::BAD_SIGNATURE),
        (elsewhere, Code::WRONG_ORIGIN),
        (others, Code::UNKNOWN_IDENTITY),
        (unknown.unwrap(), Code::UNKNOWN_IDENTITY),
    ] {
        for index in ALL {
            assert_eq!(refusal(cluster, index, &bundle), code, "replica {index}, {bundle:?}");
            assert!(cluster.counter(index, &format!("refused.{}", code.0)) > 0);
        }
    }
    // Requests that are not those under the signed root.
    let mut changed = wire(&good);
    changed.requests[0] = set("test/forged", fresh_value());
    let mut link = Link::client(cluster, 0, cluster.identity(cluster.client_key("operator"))).unwrap();
    link.send_message(&Submit { bundle: changed }).unwrap();
    until("the changed bundle is refused", || {
        link.poll(Duration::from_millis(100)).unwrap();
        link.inbox.iter().any(|(kind, _)| *kind == Kind::Refused)
    });
    assert_eq!(cluster.wait_agreed(&ALL).size, size, "something forged was executed");
    cluster.assert_well(&mut client, &ALL);
}

#[test]
fn numbers_are_used_once_whoever_repeats_them() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let session = client.open();
    let first = client.write_one();
    // The same bundle from many sides, many times: one execution, the same words.
    let number = client.next;
    let bundle = client.sign(Some(session), number, &[set("test/once", fresh_value())]);
    client.next += 1;
    let Outcome::Executed(words) = client.submit(&bundle).unwrap() else { panic!("refused") };
    let size = cluster.wait_agreed(&ALL).size;
    for _ in 0..20 {
        client.disconnect();
        let Outcome::Executed(again) = client.submit(&bundle).unwrap() else { panic!("refused") };
        assert_eq!(again, words);
    }
    assert_eq!(cluster.wait_agreed(&ALL).size, size, "a repeated bundle was executed again");
    let operation = [set("test/once", fresh_value())];
    for (session, number, code) in [
        (session, number, Code::CONFLICT),
        (session, u64::MAX - 8, Code::BEYOND_WINDOW),
        (first.position.entry, 0, Code::UNKNOWN_SESSION),
    ] {
        let bundle = client.sign(Some(session), number, &operation);
        let Outcome::Refused(found) = client.submit(&bundle).unwrap() else { panic!("{bundle:?} was executed") };
        assert_eq!(found, code, "{bundle:?}");
    }
    // Another identity in this session, and a number that slid out of the window.
    let gateway = Client::new(&cluster, "gateway");
    let mut gateway_client = Client::new(&cluster, "gateway");
    let foreign = gateway.sign(Some(session), client.next, &operation);
    let Outcome::Refused(code) = gateway_client.submit(&foreign).unwrap() else { panic!("a foreign session was used") };
    assert_eq!(code, Code::FOREIGN_SESSION);
    for _ in 0..20 {
        client.write(256).unwrap();
    }
    let Outcome::Refused(code) = client.submit(&bundle).unwrap() else { panic!("a stale number was answered") };
    assert_eq!(code, Code::STALE_NUMBER);
    cluster.assert_well(&mut client, &ALL);
}

/// A restart of the original's client wiped its replay protection. Here it is the cluster's: what an earlier life of the client
/// sent is recognised by all replicas, also after they were killed.
#[test]
fn original_mistake_a_restart_of_the_client_wipes_replay_protection() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let session = client.open();
    let bundle = client.sign(Some(session), client.next, &[set("test/once", fresh_value())]);
    let Outcome::Executed(words) = client.submit(&bundle).unwrap() else { panic!("refused") };
    let size = cluster.wait_agreed(&ALL).size;
    drop(client);
    ALL.iter().for_each(|&index| cluster.kill(index));
    ALL.iter().for_each(|&index| cluster.restart(index));
    cluster.wait_all();
    let mut restarted = cluster.client();
    let Outcome::Executed(again) = restarted.submit(&bundle).unwrap() else { panic!("refused") };
    assert_eq!(again, words);
    assert_eq!(cluster.wait_agreed(&ALL).size, size, "executed again");
    cluster.assert_well(&mut restarted, &ALL);
}

#[test]
fn a_flood_of_bad_signatures_leaves_honest_clients_served() {
    honest_clients_are_served_in_a_flood(&Cluster::start());
}

#[test]
fn a_flood_of_bad_signatures_at_verifiers_leaves_honest_clients_served() {
    honest_clients_are_served_in_a_flood(&with_verifiers());
}

fn honest_clients_are_served_in_a_flood(cluster: &Cluster) {
    let mut client = cluster.client();
    let session = client.open();
    let gateway = cluster.client_key("gateway");
    let bundles: Vec<Vec<u8>> = (0..64)
        .map(|number| {
            let requests = [set("test/flood", fresh_value())];
            let signature = client.sign(Some(session), 0, &requests);
            let sign = |_: &[u8]| *signature.signature();
            submit_body(
                &Bundle::sign(
                    cluster.file.origin(),
                    gateway.public(),
                    None,
                    0,
                    &[request(&OPEN_SESSION), set("test/flood", number)],
                    now_ms(),
                    sign,
                )
                .unwrap(),
            )
        })
        .collect();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = StopOnDrop(&stop);
        for index in ALL {
            let (bundles, stop) = (&bundles, &stop);
            scope.spawn(move || {
                let identity = cluster.identity(cluster.client_key("gateway"));
                let stopped = || stop.load(std::sync::atomic::Ordering::Relaxed);
                while !stopped() {
                    // A bad signature ends the link, so the flood comes in waves of new ones.
                    let Ok(mut link) = Link::client(cluster, index, Arc::clone(&identity)) else { continue };
                    let sent = bundles.iter().cycle().take(10_000).try_for_each(|body| {
                        link.written.clear();
                        link.send(Kind::Submit, body)
                    });
                    drop(sent);
                }
            });
        }
        for index in ALL {
            until("the flood arrives", || cluster.counter(index, "refused.110") > 200);
        }
        for _ in 0..10 {
            client.write_one();
        }
        drop(end);
    });
    cluster.assert_well(&mut client, &ALL);
}

#[test]
fn frames_of_other_sides_end_a_clients_link() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let identity = cluster.identity(cluster.client_key("gateway"));
    for index in ALL {
        let before = cluster.counter(index, "frames.malformed.client");
        for kind in [Kind::Submit, Kind::Query, Kind::StatusQuery] {
            let mut link = Link::client(&cluster, index, Arc::clone(&identity)).unwrap();
            link.send(kind, &[0x5a; 77]).unwrap();
            link.wait_closed();
        }
        cluster.wait_counted(index, "frames.malformed.client", before + 2);
        // A frame that only replicas or servers send is refused by its header.
        let before = cluster.counter(index, "links.ended.malformed");
        for kind in [
            Kind::PrePrepare,
            Kind::Prepare,
            Kind::Commit,
            Kind::Decided,
            Kind::Status,
            Kind::Batch,
            Kind::Replies,
            Kind::Handshake,
        ] {
            let mut link = Link::client(&cluster, index, Arc::clone(&identity)).unwrap();
            link.send(kind, &[0; 64]).unwrap();
            link.wait_closed();
        }
        cluster.wait_counted(index, "links.ended.malformed", before + 7);
    }
    cluster.assert_well(&mut client, &ALL);
}

/// The original's client sent once. Here a request that no replica could take is sent again until it is executed.
#[test]
fn original_mistake_the_client_never_retransmits() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    client.open();
    // What is sent to these now is lost with their connections, and the others are no quorum.
    cluster.kill(0);
    cluster.kill(1);
    let writing = std::thread::spawn(move || {
        let written = client.write_one();
        (client, written)
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!writing.is_finished(), "nothing can be ordered without a quorum");
    cluster.restart(0);
    cluster.restart(1);
    let (mut client, _) = writing.join().unwrap();
    cluster.wait_all();
    cluster.assert_well(&mut client, &ALL);
}

#[test]
fn original_mistake_a_new_client_cannot_start_while_one_replica_is_down() {
    let mut cluster = Cluster::start();
    cluster.kill(2);
    let mut client = Client::new(&cluster, "gateway");
    client.write_one();
    cluster.restart(2);
    cluster.wait_all();
    cluster.assert_well(&mut client, &ALL);
}

/// Idle replicas of the original burnt two cores and ordered empty batches for ever.
#[test]
fn original_mistake_idle_replicas_burn_processors_ordering_nothing() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    cluster.assert_well(&mut client, &ALL);
    let before = cluster.wait_agreed(&ALL);
    let ticks = ALL.map(|index| cluster.cpu_ticks(index));
    let seconds = 3;
    std::thread::sleep(Duration::from_secs(seconds));
    for index in ALL {
        let used = cluster.cpu_ticks(index) - ticks[index];
        // A spinning thread would use 100 ticks a second; a tenth of that is far beyond what statuses take.
        assert!(used < 10 * seconds, "replica {index} used {used} ticks in {seconds} s with nothing to do");
    }
    let after = cluster.wait_agreed(&ALL);
    assert_eq!(before.sequence, after.sequence, "something was ordered");
}
