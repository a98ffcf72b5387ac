mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use atlas_dataplane::client::{ClientError, Completion, ReadOptions, Said, SubmitOptions};
use atlas_dataplane::crypto::link::LinkError;
use atlas_dataplane::crypto::session::SessionError;
use atlas_dataplane::types::{Code, Position};

use self::fake::{CLIENT, Fake, FakePages, Manner, key, operation};
use super::*;

use Manner::{Absent, Fickle, Honest, Impostor, Liar, Mute};

const LONG: Duration = Duration::from_secs(60);

fn client(fake: &Fake) -> Client {
    let mut config = ClientConfig::new(fake.cluster.clone(), key(CLIENT));
    config.addresses = Some(fake.addresses.clone());
    config.timeout = LONG;
    Client::connect(config).unwrap()
}

fn check(fake: &Fake, operations: &[Vec<u8>], results: &[RequestResult]) {
    assert_eq!(results.len(), operations.len());
    for (operation, result) in operations.iter().zip(results) {
        let agreed = fake.reply(result.position);
        assert_eq!((&*agreed.changes, agreed.entry), (&**operation, result.position.entry));
        assert_eq!((result.code, result.sequence, result.time_ms), (Code::DONE, agreed.sequence, agreed.time_ms));
    }
}

#[test]
fn results_reads_and_status_come_through_real_links_beside_a_liar() {
    let fake = Fake::start(&[Liar, Honest, Honest, Honest]);
    let mut client = client(&fake);
    for number in 0..10 {
        let operations = vec![operation(number), operation(number + 1)];
        let results = client.execute(operations.clone()).unwrap();
        check(&fake, &operations, &results);
    }
    let read = client.read(&[], Strength::Matching).unwrap();
    assert_eq!((read.size, read.body), (fake.size(), fake.size().to_be_bytes().to_vec()));
    let before = fake.size();
    let read = client.read(&[], Strength::Ordered { barrier: &operation(0) }).unwrap();
    assert_eq!(read.size, before + 1);
    assert_eq!(client.highest_size(), fake.size());
    let reports = client.status(Duration::from_millis(500)).unwrap();
    let sizes: Vec<_> = reports.iter().map(|report| report.status.as_ref().map(|status| status.size)).collect();
    assert_eq!(sizes, [None, Some(fake.size()), Some(fake.size()), Some(fake.size())]);
    assert!(reports.iter().all(|report| report.link.is_none()));
    assert_eq!(client.lies()[1..], [0, 0, 0]);
}

#[test]
fn many_are_under_way_at_once() {
    let fake = Fake::start(&[Honest, Honest, Liar, Honest]);
    let mut client = client(&fake);
    let options = SubmitOptions { timeout_ms: 60_000, ..SubmitOptions::default() };
    let mut open = BTreeMap::new();
    for number in 0..200u8 {
        let operations = vec![operation(number)];
        open.insert(client.submit(&operations, &options).unwrap(), operations);
    }
    while client.open_tickets() > 0 {
        for done in client.poll(LONG).unwrap() {
            let operations = open.remove(&done.ticket).unwrap();
            match done.result {
                Ok(Completion::Executed(results)) => check(&fake, &operations, &results),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(open.is_empty());
}

#[test]
fn changes_come_in_order_and_without_gaps() {
    let fake = Fake::start(&[Honest, Liar, Honest, Honest]);
    let mut client = client(&fake);
    let subscription = client.subscribe(Box::new(FakePages), Position::default()).unwrap();
    let mut all = Vec::new();
    for number in 0..20 {
        for result in client.execute(vec![operation(number), operation(number + 7)]).unwrap() {
            all.push((result.position, result.changes));
        }
    }
    for expected in &all[..30] {
        assert_eq!(client.next_change(subscription, LONG).unwrap().as_ref(), Some(expected));
    }
    let from = client.resume_position(subscription).unwrap();
    client.unsubscribe(subscription);
    let subscription = client.subscribe(Box::new(FakePages), from).unwrap();
    for expected in &all[30..] {
        assert_eq!(client.next_change(subscription, LONG).unwrap().as_ref(), Some(expected));
    }
}

#[test]
fn an_impostor_is_refused_and_named() {
    let fake = Fake::start(&[Impostor, Honest, Honest, Honest]);
    let mut client = client(&fake);
    let operations = vec![operation(1)];
    let results = client.execute(operations.clone()).unwrap();
    check(&fake, &operations, &results);
    let reports = client.status(Duration::from_millis(500)).unwrap();
    let wrong = matches!(reports[0].link, Some(LinkDown::Session(SessionError::Link(LinkError::WrongIdentity { .. }))));
    assert!(wrong && reports[0].status.is_none(), "{:?}", reports[0]);
    assert!(reports[1].status.is_some());
}

#[test]
fn a_replica_that_keeps_closing_is_dialled_again() {
    let fake = Fake::start(&[Fickle, Mute, Absent, Honest]);
    let mut client = client(&fake);
    for number in 0..8 {
        let operations = vec![operation(number)];
        let results = client.execute(operations.clone()).unwrap();
        check(&fake, &operations, &results);
    }
}

#[test]
fn without_a_quorum_the_error_names_each_replica() {
    let fake = Fake::start(&[Honest, Mute, Absent, Absent]);
    let mut client = client(&fake);
    client.timeout = Duration::from_millis(700);
    let error = client.execute(vec![operation(1)]).unwrap_err();
    let Error::Operation { source: ClientError::Timeout { needed, answered, sent }, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((*needed, *sent), (2, true));
    assert!(matches!(answered[0], Said::Executed(..)), "{answered:?}");
    assert_eq!(answered[1..], [Said::Nothing, Said::NotConnected, Said::NotConnected]);
    let text = error.to_string();
    assert!(text.contains("replica 2: could not connect") && text.contains("replica 1 no answer"), "{text}");
}

#[test]
fn an_identity_that_the_cluster_does_not_know_is_refused_before_anything() {
    let fake = Fake::start(&[Absent, Absent, Absent, Absent]);
    let result = Client::connect(ClientConfig::new(fake.cluster.clone(), key(200)));
    assert!(matches!(result.err(), Some(Error::UnknownIdentity(public)) if public == key(200).public()));
    let mut config = ClientConfig::new(fake.cluster, key(CLIENT));
    config.addresses = Some(Vec::new());
    assert!(matches!(Client::connect(config).err(), Some(Error::Addresses { given: 0, replicas: 4 })));
}

#[test]
fn one_thread_drives_many_clients() {
    let fake = Fake::start(&[Honest, Honest, Honest, Mute]);
    let mut driver = Driver::new(&fake.cluster, Some(fake.addresses.clone()), 8).unwrap();
    let clients: Vec<_> = (0..8).map(|client| driver.add_client(key(CLIENT + client)).unwrap()).collect();
    assert!(matches!(driver.add_client(key(CLIENT)), Err(Error::TooManyClients(8))));
    let options = SubmitOptions { timeout_ms: 60_000, ..SubmitOptions::default() };
    let mut open = BTreeMap::new();
    for number in 0..10 {
        for client in &clients {
            let operations = vec![operation(number)];
            open.insert((*client, driver.submit(*client, &operations, &options).unwrap()), operations);
        }
    }
    let read = driver.query(clients[3], &[], &ReadOptions { timeout_ms: 60_000, ..ReadOptions::default() }).unwrap();
    let mut read_done = false;
    while !open.is_empty() || !read_done {
        driver.poll(LONG).unwrap();
        while let Some(done) = driver.next_done() {
            match done.result.unwrap() {
                Completion::Executed(results) => {
                    check(&fake, &open.remove(&(done.client, done.ticket)).unwrap(), &results);
                }
                _ => read_done = done.ticket == read && done.client == clients[3],
            }
        }
    }
}
