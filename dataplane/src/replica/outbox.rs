//! What the node wants sent in a round, with its limits, until [`Links`](super::links::Links) seals it.

use std::collections::{BTreeMap, BTreeSet};

use super::node::ClientId;
use crate::crypto::session::frame_bytes;
use crate::types::ReplicaId;
use crate::wire::frame::Kind;

/// Bytes that may wait to be sent to one client; one that does not take its replies loses them and asks again.
pub(super) const CLIENT_QUEUE_BYTES: usize = 1 << 20;

/// Messages that the node wants sent, until they are sealed into the connections' queues.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) bytes: Vec<u8>,
    pub(super) messages: Vec<(Target, Kind, std::ops::Range<usize>)>,
    /// Bytes for each, and how many there may be for a replica. Votes and proposals are never dropped here: they are few.
    waiting: BTreeMap<Target, usize>,
    peer_limit: usize,
    /// Clients whose queues are full; they are sent nothing until those are empty.
    pub(super) full: BTreeSet<ClientId>,
    /// Clients whose connections are to end once what is here was sent.
    pub(super) ending: Vec<ClientId>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Target {
    Peer(ReplicaId),
    Client(ClientId),
}

/// An outbox's memory above this is given back.
const KEEP_OUTBOX: usize = 1 << 20;

impl Outbox {
    /// An outbox that holds at most `peer_limit` bytes of bodies and decisions for a replica.
    pub(super) fn new(peer_limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            messages: Vec::new(),
            waiting: BTreeMap::new(),
            peer_limit,
            full: BTreeSet::new(),
            ending: Vec::new(),
        }
    }

    /// Whether there is room for an answer to a client.
    pub(super) fn takes(&self, client: ClientId) -> bool {
        let waiting = self.waiting.get(&Target::Client(client)).copied().unwrap_or(0);
        waiting < CLIENT_QUEUE_BYTES && !self.full.contains(&client)
    }

    pub(super) fn close_client(&mut self, client: ClientId) {
        self.ending.push(client);
    }

    pub(super) fn peer(&mut self, peer: ReplicaId, kind: Kind, body: &[u8]) {
        self.put(Target::Peer(peer), kind, body);
    }

    pub(super) fn client(&mut self, client: ClientId, kind: Kind, body: &[u8]) {
        self.put(Target::Client(client), kind, body);
    }

    /// All was handed over.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEEP_OUTBOX {
            self.bytes = Vec::new();
        }
    }

    fn put(&mut self, target: Target, kind: Kind, body: &[u8]) {
        let limit = match target {
            Target::Client(client) if self.full.contains(&client) => return,
            Target::Client(_) => CLIENT_QUEUE_BYTES,
            Target::Peer(_) if matches!(kind, Kind::Batch | Kind::Decided | Kind::Pieces | Kind::Piece) => {
                self.peer_limit
            }
            Target::Peer(_) => usize::MAX,
        };
        let waiting = self.waiting.entry(target).or_default();
        let bytes = waiting.saturating_add(frame_bytes(body.len()));
        if bytes > limit {
            return;
        }
        *waiting = bytes;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(body);
        self.messages.push((target, kind, start..self.bytes.len()));
    }
}
