//! A simulated cluster for the client core: an agreed order, honest replicas that lag, liars, and a lossy network.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use crate::crypto::SecretKey;
use crate::types::{Code, Digest, Now, Position, PublicKey, ReplicaId, Signature};
use crate::wire::bundle::Bundle;
use crate::wire::frame::Kind;
use crate::wire::message::{self, Answer, Query, Refused, Replies, Reply, Submit};

pub(super) const ORIGIN: &str = "test.example/atlas";
pub(super) const WALL_MS: i64 = 1_700_000_000_000;

/// Numbers from a seed (xorshift64*).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

pub(super) struct TestSigner(pub(super) SecretKey);

impl Signer for TestSigner {
    fn public(&self) -> PublicKey {
        self.0.public()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message)
    }
}

pub(super) fn core(replicas: usize, window: u64) -> ClientCore {
    let config = CoreConfig { origin: ORIGIN.into(), replicas, session_window: window, max_bundle_requests: 256 };
    ClientCore::new(config, Box::new(TestSigner(SecretKey::from_seed(&[5; 32]))))
}

/// An operation as CBOR: bytes of a key and a number.
pub(super) fn operation(key: u8, number: u32) -> Vec<u8> {
    let [a, b, c, d] = number.to_be_bytes();
    vec![0x45, key, a, b, c, d]
}

pub(super) fn body<M>(message: &M) -> Vec<u8>
where
    M: message::Message
        + for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, rkyv::rancor::Failure>,
        >,
{
    let mut out = Vec::new();
    message::encode(message, &mut out);
    out
}

/// One executed request.
#[derive(Clone)]
pub(super) struct Executed {
    pub(super) reply: Reply,
    pub(super) operation: Vec<u8>,
}

/// One entry: a bundle that was executed.
pub(super) struct Entry {
    pub(super) digest: Digest,
    pub(super) requests: Vec<Executed>,
}

/// What is agreed; every request number runs once.
#[derive(Default)]
pub(super) struct Order {
    pub(super) entries: Vec<Entry>,
    sessions: BTreeMap<Digest, u64>,
    used: BTreeMap<(u64, u64), (usize, usize)>,
}

impl Order {
    /// The entry in which a bundle ran, executing it if it is new.
    pub(super) fn execute(&mut self, bundle: &Bundle, time_ms: i64) -> usize {
        if let Some(index) = self.entries.iter().position(|entry| entry.digest == bundle.digest()) {
            return index;
        }
        // Entry 0 is the genesis.
        let index = self.entries.len() + 1;
        let session = bundle.header().session.unwrap_or(index as u64);
        self.sessions.insert(bundle.digest(), session);
        let mut requests = Vec::new();
        for (place, request) in bundle.decoded_requests().enumerate() {
            let number = bundle.header().first + place as u64;
            let fresh = self.used.insert((session, number), (index, place)).is_none();
            assert!(fresh, "a number was signed twice");
            let expired = request.not_after_ms.is_some_and(|time| time < time_ms);
            let reply = Reply {
                session,
                number,
                sequence: index as u64,
                entry: index as u64,
                request: place as u16,
                time_ms,
                code: if expired { Code::EXPIRED.0 } else { Code::DONE.0 },
                changes: request.operation.into(),
                detail: if expired { "late".into() } else { String::new() },
            };
            requests.push(Executed { reply, operation: request.operation.to_vec() });
        }
        self.entries.push(Entry { digest: bundle.digest(), requests });
        self.entries.len() - 1
    }

    /// The state that a query sees at a size: how often a key was written, and by which entry last.
    pub(super) fn answer(&self, key: u8, size: u64) -> (u64, Vec<u8>) {
        let (mut count, mut last) = (0u64, 0);
        for entry in self.entries.iter().take(size.saturating_sub(1) as usize) {
            for request in &entry.requests {
                if request.operation.len() == 6 && request.operation[1] == key {
                    count += 1;
                    last = request.reply.entry;
                }
            }
        }
        (last, count.to_be_bytes().to_vec())
    }

    /// All events behind a position, up to a size.
    pub(super) fn events(&self, behind: Position, size: u64) -> Vec<(Position, Vec<u8>)> {
        let requests = self.entries.iter().take(size.saturating_sub(1) as usize).flat_map(|entry| &entry.requests);
        let event = |request: &Executed| {
            let position = Position { entry: request.reply.entry, request: request.reply.request };
            (position, request.operation.clone())
        };
        requests.filter(|r| r.operation.len() == 6).map(event).filter(|(position, _)| *position > behind).collect()
    }
}

/// Pages as the test's application encodes them.
pub(super) struct TestPages;

pub(super) fn put(position: Position, out: &mut Vec<u8>) {
    out.extend_from_slice(&position.entry.to_be_bytes());
    out.extend_from_slice(&position.request.to_be_bytes());
}

fn get(bytes: &[u8]) -> Option<(Position, &[u8])> {
    let (entry, rest) = bytes.split_first_chunk::<8>()?;
    let (request, rest) = rest.split_first_chunk::<2>()?;
    Some((Position { entry: u64::from_be_bytes(*entry), request: u16::from_be_bytes(*request) }, rest))
}

impl PageDecoder for TestPages {
    fn query(&self, behind: Position) -> Vec<u8> {
        let mut out = b"changes".to_vec();
        put(behind, &mut out);
        out
    }

    fn decode(&self, body: &[u8]) -> Option<Page> {
        let (covered, mut rest) = get(body)?;
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (position, more) = get(rest)?;
            let (operation, more) = more.split_at_checked(6)?;
            events.push((position, operation.to_vec()));
            rest = more;
        }
        Some(Page { events, covered })
    }
}

fn page(order: &Order, behind: Position, size: u64) -> Vec<u8> {
    let mut events = order.events(behind, size);
    events.truncate(3);
    let end = Position { entry: size - 1, request: u16::MAX };
    let covered = if events.len() == 3 { events[2].0 } else { end };
    let mut out = Vec::new();
    put(covered.max(behind), &mut out);
    for (position, operation) in events {
        put(position, &mut out);
        out.extend_from_slice(&operation);
    }
    out
}

enum Event {
    ToReplica(usize, Kind, Vec<u8>),
    ToClient(usize, Kind, Vec<u8>),
    Advance(usize),
    Link(usize, bool),
}

/// Everything, with a clock of its own.
pub(super) struct World {
    pub(super) client: ClientCore,
    pub(super) order: Order,
    pub(super) random: Random,
    pub(super) now_us: u64,
    replicas: usize,
    liars: usize,
    /// Size that each replica has executed.
    at: Vec<u64>,
    seen: Vec<BTreeSet<Digest>>,
    held: Vec<Vec<Query>>,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    loss: u64,
    pub(super) done: BTreeMap<Ticket, Result<Completion, ClientError>>,
}

impl World {
    /// The first `liars` of `replicas` lie. `loss` in percent; messages are also delayed and doubled.
    pub(super) fn new(seed: u64, replicas: usize, liars: usize, loss: u64) -> Self {
        let mut world = Self {
            client: core(replicas, 64),
            order: Order::default(),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            now_us: 1_000,
            replicas,
            liars,
            at: vec![1; replicas],
            seen: vec![BTreeSet::new(); replicas],
            held: (0..replicas).map(|_| Vec::new()).collect(),
            events: BTreeMap::new(),
            next_event: 0,
            loss,
            done: BTreeMap::new(),
        };
        for replica in 0..replicas {
            world.after(1 + replica as u64 * 700, Event::Link(replica, true));
        }
        world
    }

    pub(super) fn now(&self) -> Now {
        Now { mono_us: self.now_us, wall_ms: WALL_MS + (self.now_us / 1_000) as i64 }
    }

    fn after(&mut self, delay_us: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now_us + delay_us, self.next_event), event);
    }

    /// Puts a message on the network: lost, doubled, late.
    fn post(&mut self, event: impl Fn() -> Event) {
        let copies = match self.random.below(100) {
            n if n < self.loss => 0,
            n if n < self.loss + 10 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = 100 + self.random.below(20_000);
            self.after(delay, event());
        }
    }

    pub(super) fn take_outputs(&mut self) {
        while let Some(output) = self.client.next_output() {
            match output {
                Output::Send { to, kind, body } => {
                    for replica in to.iter() {
                        self.post(|| Event::ToReplica(replica.index(), kind, body.to_vec()));
                    }
                }
                Output::Done { ticket, result } => {
                    assert!(self.done.insert(ticket, result).is_none(), "a ticket ended twice");
                }
            }
        }
    }

    /// One thing happens. False when nothing is to come.
    pub(super) fn step(&mut self) -> bool {
        self.take_outputs();
        let event = self.events.first_key_value().map(|((at, _), _)| *at);
        let timer = self.client.next_deadline();
        let Some(next) = event.into_iter().chain(timer).min() else { return false };
        self.now_us = self.now_us.max(next);
        if timer.is_some_and(|timer| timer <= next) {
            self.client.tick(self.now());
        } else if let Some((_, event)) = self.events.pop_first() {
            self.happen(event);
        }
        self.take_outputs();
        true
    }

    fn happen(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Link(replica, up) => self.client.on_link(ReplicaId(replica as u8), up, now),
            Event::ToClient(replica, kind, body) => {
                let message = ClientMessage::access(kind, &body).unwrap();
                self.client.on_message(ReplicaId(replica as u8), message, now);
            }
            Event::Advance(replica) => self.advance(replica),
            Event::ToReplica(replica, Kind::Submit, body) => {
                let submit = message::access::<Submit>(&body).unwrap();
                let requests = submit.bundle.requests.iter().map(|request| request.as_slice());
                let bundle = Bundle::parse(&submit.bundle.cose, requests, ORIGIN).unwrap();
                self.on_bundle(replica, &bundle);
            }
            Event::ToReplica(replica, _, body) => {
                let query = message::access::<Query>(&body).unwrap();
                let query = Query {
                    id: query.id.to_native(),
                    min_size: query.min_size.to_native(),
                    wait_ms: query.wait_ms.to_native(),
                    query: query.query.as_slice().to_vec(),
                };
                self.on_query(replica, query);
            }
        }
    }

    fn on_bundle(&mut self, replica: usize, bundle: &Bundle) {
        if replica < self.liars {
            return self.lie_about(replica, bundle);
        }
        let index = self.order.execute(bundle, WALL_MS + (self.now_us / 1_000) as i64);
        if (index as u64) + 1 < self.at[replica] {
            self.reply(replica, index);
        } else if self.seen[replica].insert(bundle.digest()) {
            for other in self.liars..self.replicas {
                let delay = 50 + self.random.below(30_000);
                self.after(delay, Event::Advance(other));
            }
        }
    }

    /// A replica executes the next entry, and answers whoever waited for it.
    fn advance(&mut self, replica: usize) {
        if self.at[replica] > self.order.entries.len() as u64 {
            return;
        }
        self.at[replica] += 1;
        self.reply(replica, self.at[replica] as usize - 2);
        let held = std::mem::take(&mut self.held[replica]);
        held.into_iter().for_each(|query| self.on_query(replica, query));
        if self.at[replica] <= self.order.entries.len() as u64 {
            self.after(500, Event::Advance(replica));
        }
    }

    fn reply(&mut self, replica: usize, index: usize) {
        let entry = &self.order.entries[index];
        let replies = entry.requests.iter().map(|request| request.reply.clone()).collect();
        let message = body(&Replies { bundle: entry.digest.0, replies });
        self.post(|| Event::ToClient(replica, Kind::Replies, message.clone()));
    }

    fn lie_about(&mut self, replica: usize, bundle: &Bundle) {
        let digest = bundle.digest().0;
        let first = bundle.header().first;
        let choice = self.random.below(6);
        let lies: Vec<Reply> = bundle
            .decoded_requests()
            .enumerate()
            .map(|(place, request)| Reply {
                session: bundle.header().session.unwrap_or(3) + choice % 2,
                number: first + place as u64 + if choice == 2 { 1_000 } else { 0 },
                sequence: 1 + self.random.below(9),
                entry: 1 + self.random.below(9),
                request: place as u16,
                time_ms: WALL_MS,
                code: if choice == 3 { Code::FORBIDDEN.0 } else { 0 },
                changes: request.operation.into(),
                detail: String::new(),
            })
            .collect();
        match choice {
            0..4 => {
                // The same lie from all liars would be f equal words, the most that there can be.
                let message = body(&Replies { bundle: digest, replies: lies });
                for _ in 0..3 {
                    self.post(|| Event::ToClient(replica, Kind::Replies, message.clone()));
                }
            }
            4 => {
                let code = [Code::EXPIRED, Code::UNKNOWN_SESSION, Code::OVERLOADED][self.random.below(3) as usize].0;
                let message = body(&Refused { bundle: digest, first, count: u32::MAX, code, retry_after_ms: 0 });
                for _ in 0..3 {
                    self.post(|| Event::ToClient(replica, Kind::Refused, message.clone()));
                }
            }
            _ => {}
        }
    }

    fn on_query(&mut self, replica: usize, query: Query) {
        let size = self.at[replica];
        if replica < self.liars {
            let (valid_from, size) = (self.random.below(5), self.random.below(1 << 40));
            let mut lie = vec![0; 10];
            lie[7] = 9;
            let bodies = [lie, page(&Order::default(), Position { entry: 1 << 40, request: 0 }, 1), vec![1; 8]];
            let choice = self.random.below(4) as usize;
            if let Some(text) = bodies.get(choice) {
                let answer = Answer { id: query.id, code: 0, size, valid_from, body: text.clone() };
                let message = body(&answer);
                self.post(|| Event::ToClient(replica, Kind::Answer, message.clone()));
            }
            return;
        }
        let (valid_from, bytes) = match query.query.strip_prefix(b"changes".as_slice()) {
            Some(position) => {
                let (behind, _) = get(position).unwrap();
                if behind >= (Position { entry: size - 1, request: u16::MAX }) {
                    self.held[replica].push(query);
                    return;
                }
                (0, page(&self.order, behind, size))
            }
            None if size < query.min_size => {
                self.held[replica].push(query);
                return;
            }
            None => self.order.answer(query.query[0], size),
        };
        let message = body(&Answer { id: query.id, code: 0, size, valid_from, body: bytes });
        self.post(|| Event::ToClient(replica, Kind::Answer, message.clone()));
    }

    /// A link goes down and comes back.
    pub(super) fn blink(&mut self, replica: usize) {
        self.after(1, Event::Link(replica, false));
        self.after(40_000, Event::Link(replica, true));
    }

    /// Runs until every ticket has ended.
    pub(super) fn settle(&mut self) {
        for _ in 0..400_000 {
            if self.client.open_tickets() == 0 {
                return self.take_outputs();
            }
            assert!(self.step(), "nothing is to come, and tickets are open");
        }
        panic!("no end");
    }
}
