//! An honest client of the tests' own: a session, bundles to all, f+1 equal replies, retransmission, reconnection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use atlas::twin::operation::{MAX_REASON, Operation, SetProperty, Write};
use atlas::twin::query::Query;
use atlas::twin::value::{Quality, Value};
use atlas_dataplane::client::ReplicaStatus;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::link::LinkIdentity;
use atlas_dataplane::types::{Code, Digest, Position, PublicKey};
use atlas_dataplane::wire::bundle::{Bundle, OPEN_SESSION, Request};
use atlas_dataplane::wire::frame::{Kind, Sender};
use atlas_dataplane::wire::message::{self, Answer, Refused, Replies, StatusAnswer, StatusQuery, Submit, WireBundle};

use super::link::Link;
use super::{Cluster, PATIENCE, now_ms};

/// Values that no two writes of a test program share.
static NEXT_VALUE: AtomicI64 = AtomicI64::new(1);

/// A write whose execution f+1 replicas vouched for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acknowledged {
    pub value: i64,
    pub position: Position,
    pub sequence: u64,
    pub code: Code,
}

/// What one replica said of a request: sequence, position, code and session.
type Word = (u64, Position, u16, u64);

/// Where the replicas are, for a client that reconnects.
struct Place {
    address: String,
    key: PublicKey,
}

pub struct Client {
    key: SecretKey,
    identity: Arc<LinkIdentity>,
    origin: String,
    genesis: Digest,
    places: Vec<Place>,
    links: Vec<Option<Link>>,
    dial_at: Instant,
    /// Only these replicas are spoken to.
    pub allowed: Vec<bool>,
    pub session: Option<u64>,
    pub next: u64,
    pub twin: String,
    /// Once set, a call that waits gives up.
    pub stop: Option<Arc<std::sync::atomic::AtomicBool>>,
}

/// The request gave up because it was told to stop.
#[derive(Debug)]
pub struct Stopped;

/// What became of a bundle.
#[derive(Debug)]
pub enum Outcome {
    Executed(Vec<(Word, u64)>),
    Refused(Code),
}

impl Client {
    pub fn new(cluster: &Cluster, name: &str) -> Self {
        let places = cluster.file.members().iter();
        let places: Vec<Place> =
            places.map(|member| Place { address: member.address.to_string(), key: member.link_key }).collect();
        Self {
            key: cluster.client_key(name),
            identity: cluster.identity(cluster.client_key(name)),
            origin: cluster.file.origin().to_owned(),
            genesis: cluster.file.genesis(),
            links: places.iter().map(|_| None).collect(),
            allowed: vec![true; places.len()],
            places,
            dial_at: Instant::now(),
            session: None,
            next: 0,
            twin: "test/twin".to_owned(),
            stop: None,
        }
    }

    /// Forgets all connections, as a client that was restarted.
    pub fn disconnect(&mut self) {
        self.links.iter_mut().for_each(|link| *link = None);
        self.dial_at = Instant::now();
    }

    fn dial(&mut self) {
        if Instant::now() < self.dial_at {
            return;
        }
        for (index, (link, place)) in self.links.iter_mut().zip(&self.places).enumerate() {
            if link.is_none() && self.allowed[index] {
                let identity = Arc::clone(&self.identity);
                *link = Link::dial_at(&place.address, &self.genesis, identity, place.key, Sender::Server).ok();
            }
        }
        self.dial_at = Instant::now() + Duration::from_millis(100);
    }

    pub fn sign(&self, session: Option<u64>, first: u64, requests: &[Vec<u8>]) -> Bundle {
        self.sign_for(&self.origin, session, first, requests)
    }

    pub fn sign_for(&self, origin: &str, session: Option<u64>, first: u64, requests: &[Vec<u8>]) -> Bundle {
        let sign = |bytes: &[u8]| self.key.sign(bytes);
        Bundle::sign(origin, self.key.public(), session, first, requests, now_ms(), sign).unwrap()
    }

    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// The session, opened where there is none.
    pub fn open(&mut self) -> u64 {
        self.try_open().expect("a session opens")
    }

    pub fn try_open(&mut self) -> Result<u64, Stopped> {
        if let Some(session) = self.session {
            return Ok(session);
        }
        // Two bundles of one identity with equal bytes open one session; a write of its own tells this one from others.
        let bundle = self.sign(None, 0, &[request(&OPEN_SESSION), set("test/sessions", fresh_value())]);
        match self.submit(&bundle)? {
            Outcome::Executed(words) => {
                let session = words[0].0.3;
                self.session = Some(session);
                self.next = 2;
                Ok(session)
            }
            Outcome::Refused(code) => panic!("a session was refused: {code}"),
        }
    }

    /// Writes values that no other write has, in one bundle.
    pub fn write(&mut self, count: usize) -> Result<Vec<Acknowledged>, Stopped> {
        self.try_open()?;
        let values: Vec<i64> = (0..count).map(|_| fresh_value()).collect();
        let requests: Vec<Vec<u8>> = values.iter().map(|value| set(&self.twin, *value)).collect();
        let bundle = self.sign(self.session, self.next, &requests);
        self.next += count as u64;
        match self.submit(&bundle)? {
            Outcome::Executed(words) => Ok(words
                .into_iter()
                .zip(values)
                .map(|(((sequence, position, code, _), _), value)| Acknowledged {
                    value,
                    position,
                    sequence,
                    code: Code(code),
                })
                .collect()),
            Outcome::Refused(code) => panic!("an honest bundle was refused: {code}"),
        }
    }

    /// Writes so many values with long reasons, in one bundle: each takes more than half a KiB of history.
    pub fn write_long(&mut self, count: usize) {
        self.open();
        let requests: Vec<Vec<u8>> = (0..count).map(|_| long(&self.twin, fresh_value())).collect();
        let bundle = self.sign(self.session, self.next, &requests);
        self.next += count as u64;
        match self.submit(&bundle).expect("nobody stops this") {
            Outcome::Executed(words) => assert!(words.iter().all(|((_, _, code, _), _)| Code(*code) == Code::DONE)),
            Outcome::Refused(code) => panic!("an honest bundle was refused: {code}"),
        }
    }

    pub fn write_one(&mut self) -> Acknowledged {
        let written = self.write(1).expect("nobody stops this").remove(0);
        assert_eq!(written.code, Code::DONE);
        written
    }

    /// Sends a bundle to all, again and again, until f+1 say the same of every request, or f+1 refuse it.
    pub fn submit(&mut self, bundle: &Bundle) -> Result<Outcome, Stopped> {
        let body = submit_body(bundle);
        let (first, count) = (bundle.header().first, u64::from(bundle.header().count));
        let mut heard: Vec<BTreeMap<u64, Word>> = vec![BTreeMap::new(); self.places.len()];
        let mut refused: Vec<Option<u16>> = vec![None; self.places.len()];
        let mut sent_at: Vec<Option<Instant>> = vec![None; self.places.len()];
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.dial();
            for index in 0..self.links.len() {
                let due = sent_at[index].is_none_or(|at| at.elapsed() > Duration::from_millis(500));
                let Some(link) = self.links[index].as_mut() else {
                    sent_at[index] = None;
                    continue;
                };
                let sent = if due { link.send(Kind::Submit, &body) } else { Ok(()) };
                sent_at[index] = if due { Some(Instant::now()) } else { sent_at[index] };
                if sent.and_then(|()| link.poll(Duration::from_millis(1))).is_err() {
                    self.links[index] = None;
                    continue;
                }
                for (kind, body) in link.inbox.drain(..) {
                    hear(kind, &body, &bundle.digest(), &mut heard[index], &mut refused[index]);
                }
            }
            let agreed: Vec<_> =
                (first..first + count).filter_map(|number| Some((agreed(&heard, number)?, number))).collect();
            if agreed.len() as u64 == count {
                return Ok(Outcome::Executed(agreed));
            }
            for code in refused.iter().flatten().filter(|code| **code != Code::OVERLOADED.0) {
                if refused.iter().flatten().filter(|other| *other == code).count() > 1 {
                    return Ok(Outcome::Refused(Code(*code)));
                }
            }
            if self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(Stopped);
            }
            assert!(Instant::now() < deadline, "no f+1 replies for {bundle:?}: {heard:?} refused {refused:?}");
        }
    }

    /// Asks one replica; its word alone.
    pub fn query(&mut self, index: usize, query: &Query) -> (Code, u64, Vec<u8>) {
        let deadline = Instant::now() + PATIENCE;
        let message = message::Query { id: fresh_value() as u64, min_size: 0, wait_ms: 0, query: query.encode() };
        loop {
            self.dial();
            assert!(Instant::now() < deadline, "replica {index} does not answer {query:?}");
            let Some(link) = self.links[index].as_mut() else {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            if link.send_message(&message).is_err() {
                self.links[index] = None;
                continue;
            }
            let again = Instant::now() + Duration::from_secs(5);
            while Instant::now() < again {
                let Some(link) = self.links[index].as_mut() else { break };
                if link.poll(Duration::from_millis(100)).is_err() {
                    self.links[index] = None;
                    break;
                }
                for (kind, body) in link.inbox.drain(..) {
                    if kind != Kind::Answer {
                        continue;
                    }
                    let answer = message::access::<Answer>(&body).expect("a well-formed answer");
                    if answer.id.to_native() == message.id {
                        return (Code(answer.code.to_native()), answer.size.to_native(), answer.body.to_vec());
                    }
                }
            }
        }
    }
}

fn hear(kind: Kind, body: &[u8], digest: &Digest, heard: &mut BTreeMap<u64, Word>, refused: &mut Option<u16>) {
    match kind {
        Kind::Replies => {
            let replies = message::access::<Replies>(body).expect("well-formed replies");
            if replies.bundle != digest.0 {
                return;
            }
            for reply in replies.replies.iter() {
                let position = Position { entry: reply.entry.to_native(), request: reply.request.to_native() };
                let word = (reply.sequence.to_native(), position, reply.code.to_native(), reply.session.to_native());
                let before = heard.insert(reply.number.to_native(), word);
                assert!(before.is_none_or(|before| before == word), "a replica took back {before:?} for {word:?}");
            }
        }
        Kind::Refused => {
            let refusal = message::access::<Refused>(body).expect("a well-formed refusal");
            if refusal.bundle == digest.0 {
                *refused = Some(refusal.code.to_native());
            }
        }
        _ => {}
    }
}

/// What f+1 replicas say of a number.
fn agreed(heard: &[BTreeMap<u64, Word>], number: u64) -> Option<Word> {
    let words: Vec<Word> = heard.iter().filter_map(|heard| heard.get(&number).copied()).collect();
    words.iter().copied().find(|word| words.iter().filter(|other| *other == word).count() > 1)
}

pub fn fresh_value() -> i64 {
    NEXT_VALUE.fetch_add(1, Ordering::Relaxed)
}

pub fn request(operation: &[u8]) -> Vec<u8> {
    Request { class: 0, not_after_ms: None, operation }.encode()
}

/// A request that sets the property `value`.
pub fn set(twin: &str, value: i64) -> Vec<u8> {
    set_because(twin, value, None)
}

/// The same with as long a reason as may be.
fn long(twin: &str, value: i64) -> Vec<u8> {
    set_because(twin, value, Some("x".repeat(MAX_REASON)))
}

fn set_because(twin: &str, value: i64, reason: Option<String>) -> Vec<u8> {
    let property = SetProperty {
        path: "value".to_owned(),
        value: Value::I64(value),
        quality: Quality::Good,
        source_time_ns: None,
    };
    let write = Write::Set { twin: twin.to_owned(), properties: vec![property], reason };
    request(&Operation::Write(write).encode())
}

pub fn wire(bundle: &Bundle) -> WireBundle {
    WireBundle { cose: bundle.cose().to_vec(), requests: bundle.requests().map(<[u8]>::to_vec).collect() }
}

pub fn submit_body(bundle: &Bundle) -> Vec<u8> {
    let mut body = Vec::new();
    message::encode(&Submit { bundle: wire(bundle) }, &mut body);
    body
}

/// Asks a replica how it is; `None` where it does not say in a moment.
pub fn status(cluster: &Cluster, index: usize) -> Option<ReplicaStatus> {
    let identity = cluster.identity(cluster.client_key("gateway"));
    let mut link = Link::client(cluster, index, identity).ok()?;
    link.send_message(&StatusQuery { id: 7 }).ok()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        link.poll(Duration::from_millis(100)).ok()?;
        for (kind, body) in link.inbox.drain(..) {
            if kind == Kind::StatusAnswer {
                return message::access::<StatusAnswer>(&body).ok().map(ReplicaStatus::from);
            }
        }
    }
    None
}
