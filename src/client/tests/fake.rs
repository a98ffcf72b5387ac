//! Fake replicas on real sockets: they agree by sharing one list under a lock, and some of them lie.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use atlas_dataplane::client::{Page, PageDecoder};
use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::cluster::file::Address;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::link::LinkIdentity;
use atlas_dataplane::crypto::session::Session;
use atlas_dataplane::types::{Digest, Position};
use atlas_dataplane::wire::bundle::Bundle;
use atlas_dataplane::wire::frame::{Kind, Sender};
use atlas_dataplane::wire::message::{self, Answer, Query, Replies, Reply, StatusAnswer, StatusQuery, Submit};

const ORIGIN: &str = "atlas.example/fake";
/// How long a question is held until there is something to tell.
const WAIT: Duration = Duration::from_millis(5);
/// Seeds of keys: of the client, and of the link keys.
pub(super) const CLIENT: u8 = 1;
const LINKS: u8 = 10;

/// How a fake replica behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// Makes up results and answers, and does not say how it is.
    Liar,
    /// Accepts and says nothing.
    Mute,
    /// Has another key than the cluster file says.
    Impostor,
    /// Honest, and closes each connection after its first answer.
    Fickle,
    /// Nobody listens.
    Absent,
}

pub(super) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// An operation as CBOR: an array of one number below 24.
pub(super) fn operation(number: u8) -> Vec<u8> {
    vec![0x81, number % 24 + 4 * u8::from(number % 24 == 3)]
}

#[derive(Default)]
struct Agreed {
    /// Digest and replies of each entry, from entry 1 on.
    entries: Mutex<Vec<(Digest, Vec<Reply>)>>,
    grown: Condvar,
}

/// A cluster of fake replicas.
pub(super) struct Fake {
    pub(super) cluster: Cluster,
    pub(super) addresses: Vec<Address>,
    agreed: Arc<Agreed>,
}

fn cluster_file(replicas: usize) -> String {
    let mut text = format!("origin = \"{ORIGIN}\"\ncreated = 2026-01-01T00:00:00Z\n");
    for index in 0..replicas as u8 {
        let [link, protocol, log, cosign] = [0, 50, 100, 150].map(|kind| key(LINKS + kind + index).public());
        text.push_str(&format!(
            "[[replicas]]\nname = \"r{index}\"\naddress = \"127.0.0.1:{}\"\nlink_key = \"{link}\"\n\
             protocol_key = \"{protocol}\"\nlog_key = \"{log}\"\ncosign_key = \"{cosign}\"\n",
            7000 + u16::from(index)
        ));
    }
    text.push_str("[[roles]]\nname = \"gateway\"\nwrite = [\"*\"]\n");
    for client in 0..8 {
        let public = key(CLIENT + client).public();
        text.push_str(&format!("[[clients]]\nname = \"c{client}\"\nkey = \"{public}\"\nrole = \"gateway\"\n"));
    }
    text
}

impl Fake {
    pub(super) fn start(manners: &[Manner]) -> Self {
        let cluster = Cluster::parse(cluster_file(manners.len()).as_bytes(), Path::new("cluster.toml")).unwrap();
        let agreed = Arc::new(Agreed::default());
        let mut addresses = Vec::new();
        for (index, manner) in manners.iter().enumerate() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            addresses.push(Address { host: "127.0.0.1".into(), port });
            let seed = if *manner == Manner::Impostor { 250 } else { LINKS + index as u8 };
            let replica = Replica {
                index: index as u8,
                manner: *manner,
                genesis: cluster.genesis(),
                identity: Arc::new(LinkIdentity::new(key(seed), cluster.genesis()).unwrap()),
                agreed: Arc::clone(&agreed),
            };
            if *manner != Manner::Absent {
                thread::spawn(move || replica.listen(&listener));
            }
        }
        Self { cluster, addresses, agreed }
    }

    /// The agreed reply of the request at a position.
    pub(super) fn reply(&self, position: Position) -> Reply {
        self.agreed.entries.lock().unwrap()[position.entry as usize - 1].1[usize::from(position.request)].clone()
    }

    pub(super) fn size(&self) -> u64 {
        self.agreed.entries.lock().unwrap().len() as u64 + 1
    }
}

#[derive(Clone)]
struct Replica {
    index: u8,
    manner: Manner,
    genesis: Digest,
    identity: Arc<LinkIdentity>,
    agreed: Arc<Agreed>,
}

impl Replica {
    fn listen(&self, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            let replica = self.clone();
            thread::spawn(move || replica.serve(stream));
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut session = Session::responder(Arc::clone(&self.identity), &self.genesis, 0).unwrap();
        let mut chunk = vec![0; 8192];
        while let Ok(length @ 1..) = stream.read(&mut chunk) {
            let (mut out, mut frames) = (Vec::new(), Vec::new());
            let received = session.receive(
                &mut chunk[..length],
                &mut out,
                |_| Some(Sender::Client),
                |_, kind, body| {
                    frames.push((kind, body.to_vec()));
                    Ok(())
                },
            );
            if received.is_err() {
                return;
            }
            let mut answered = false;
            for (kind, body) in frames {
                if let Some((kind, answer)) = self.answer(kind, &body) {
                    session.send(kind, &mut out, |out| out.extend_from_slice(&answer)).unwrap();
                    answered = true;
                }
            }
            if stream.write_all(&out).is_err() || (answered && self.manner == Manner::Fickle) {
                return;
            }
        }
    }

    fn answer(&self, kind: Kind, body: &[u8]) -> Option<(Kind, Vec<u8>)> {
        let mut out = Vec::new();
        match kind {
            _ if self.manner == Manner::Mute => None,
            Kind::Submit => {
                message::encode(&self.execute(message::access::<Submit>(body).unwrap()), &mut out);
                Some((Kind::Replies, out))
            }
            Kind::Query => {
                message::encode(&self.query(message::access::<Query>(body).unwrap()), &mut out);
                Some((Kind::Answer, out))
            }
            Kind::StatusQuery if self.manner != Manner::Liar => {
                let id = message::access::<StatusQuery>(body).unwrap().id.to_native();
                message::encode(&self.status(id), &mut out);
                Some((Kind::StatusAnswer, out))
            }
            _ => None,
        }
    }

    fn execute(&self, submit: &message::ArchivedSubmit) -> Replies {
        let requests = submit.bundle.requests.iter().map(|request| request.as_slice());
        let bundle = Bundle::parse(&submit.bundle.cose, requests, ORIGIN).unwrap();
        let mut entries = self.agreed.entries.lock().unwrap();
        let known = entries.iter().find(|(digest, _)| *digest == bundle.digest()).map(|(_, replies)| replies.clone());
        let entry = entries.len() as u64 + 1;
        let fresh = known.is_none();
        let mut replies = known.unwrap_or_else(|| {
            let reply = |(place, request): (usize, atlas_dataplane::wire::bundle::Request<'_>)| Reply {
                session: bundle.header().session.unwrap_or(entry),
                number: bundle.header().first + place as u64,
                sequence: entry,
                entry,
                request: place as u16,
                time_ms: 1_800_000_000_000 + entry as i64,
                code: 0,
                changes: request.operation.into(),
                detail: String::new(),
            };
            bundle.decoded_requests().enumerate().map(reply).collect()
        });
        if self.manner == Manner::Liar {
            replies.iter_mut().for_each(|reply| reply.entry += 1);
        } else if fresh {
            entries.push((bundle.digest(), replies.clone()));
            self.agreed.grown.notify_all();
        }
        Replies { bundle: bundle.digest().0, replies }
    }

    /// Query `[]`: how many entries there are. Any other is a page of changes behind a position.
    fn query(&self, query: &message::ArchivedQuery) -> Answer {
        let id = query.id.to_native();
        if self.manner == Manner::Liar {
            return Answer { id, code: 0, size: 1 << 40, valid_from: 0, body: vec![0; 10] };
        }
        let behind = position(&query.query);
        let wanted = behind.map_or(query.min_size.to_native(), |behind| behind.entry + 2);
        let entries = self.agreed.entries.lock().unwrap();
        // One thread serves a connection, so it waits only briefly.
        let short = |entries: &mut Vec<(Digest, Vec<Reply>)>| (entries.len() as u64) + 1 < wanted;
        let (entries, _) = self.agreed.grown.wait_timeout_while(entries, WAIT, short).unwrap();
        let size = entries.len() as u64 + 1;
        let Some(behind) = behind else {
            return Answer { id, code: 0, size, valid_from: size - 1, body: size.to_be_bytes().to_vec() };
        };
        let mut body = encode(Position { entry: size - 1, request: u16::MAX });
        for reply in entries.iter().flat_map(|(_, replies)| replies) {
            let at = Position { entry: reply.entry, request: reply.request };
            if at > behind && *reply.changes != [0x81, 3] {
                body.extend(encode(at));
                body.extend(&reply.changes);
            }
        }
        Answer { id, code: 0, size, valid_from: 0, body }
    }

    fn status(&self, id: u64) -> StatusAnswer {
        StatusAnswer {
            id,
            replica: self.index,
            view: 7,
            leader: 3,
            sequence: 1,
            size: self.agreed.entries.lock().unwrap().len() as u64 + 1,
            history_root: [1; 32],
            state_root: [2; 32],
            state_digest: [3; 32],
            log_bytes: 4096,
            resident_bytes: 1,
            anonymous_bytes: 1,
            links: 0b1111,
            abstains: false,
            needs: 0,
            pid: 1,
            free_bytes: 1,
            low_space: false,
            version: "fake".into(),
            counters: Vec::new(),
            evidence: Vec::new(),
        }
    }
}

fn encode(position: Position) -> Vec<u8> {
    [&position.entry.to_be_bytes()[..], &position.request.to_be_bytes()].concat()
}

fn position(bytes: &[u8]) -> Option<Position> {
    let (entry, request) = bytes.split_first_chunk::<8>()?;
    let request = u16::from_be_bytes(request.get(..2)?.try_into().ok()?);
    Some(Position { entry: u64::from_be_bytes(*entry), request })
}

/// Reads the pages above.
pub(super) struct FakePages;

impl PageDecoder for FakePages {
    fn query(&self, behind: Position) -> Vec<u8> {
        encode(behind)
    }

    fn decode(&self, body: &[u8]) -> Option<Page> {
        let events = body.get(10..)?.chunks(12).map(|event| Some((position(event)?, event.get(10..12)?.to_vec())));
        Some(Page { covered: position(body)?, events: events.collect::<Option<_>>()? })
    }
}
