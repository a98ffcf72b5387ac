//! Connections: who is at the other end of each, dialling, and what waits to be sealed.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use super::node::{ClientId, Node, Shell};
use super::process::{Identity, report};
use crate::cluster::{Cluster, ReplicaConfig};
use crate::crypto::SecretKey;
use crate::crypto::link::{LinkError, LinkIdentity};
use crate::crypto::session::{Session, SessionError, Status, frame_bytes};
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::net::{Backoff, ConnectionId, Reactor, SendError};
use crate::state::Application;
use crate::types::{Now, PublicKey, ReplicaId};
use crate::wire::frame::{Kind, Sender};

/// Bytes that may wait to be sent to one client; one that does not take its replies loses them and asks again.
const CLIENT_QUEUE_BYTES: usize = 1 << 20;

/// Connections that have not proved a key yet, beside those that have. One more than these ends the oldest of them: whoever
/// means it is done within moments, so strangers who hold connections open keep nobody out.
pub(super) const MAX_HALF_OPEN: usize = 256;

/// An identity may have this part of `max_clients`; beyond it its oldest connection is closed.
const CLIENT_SHARE: usize = 4;

/// Messages that the node wants sent, until they are sealed into the connections' queues.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    messages: Vec<(Target, Kind, std::ops::Range<usize>)>,
    closing: Vec<ClientId>,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Peer(ReplicaId),
    Client(ClientId),
}

/// An outbox's memory above this is given back.
const KEEP_OUTBOX: usize = 1 << 20;

impl Outbox {
    pub(super) fn peer(&mut self, peer: ReplicaId, kind: Kind, body: &[u8]) {
        self.put(Target::Peer(peer), kind, body);
    }

    pub(super) fn client(&mut self, client: ClientId, kind: Kind, body: &[u8]) {
        self.put(Target::Client(client), kind, body);
    }

    /// The client's connection ends behind its messages.
    pub(super) fn close(&mut self, client: ClientId) {
        self.closing.push(client);
    }

    fn put(&mut self, target: Target, kind: Kind, body: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(body);
        self.messages.push((target, kind, start..self.bytes.len()));
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// Not proved yet; closed at this time, us.
    Unknown(u64),
    Peer(ReplicaId),
    Client(ClientId, PublicKey),
}

struct Connection {
    id: ConnectionId,
    session: Session,
    role: Role,
    /// A replica that this one dials.
    dialled: Option<ReplicaId>,
}

/// Dialling of one replica.
struct Dial {
    address: String,
    resolved: Option<SocketAddr>,
    backoff: Backoff,
    /// Dialled again at this time, us; nothing while there is a connection.
    at_us: Option<u64>,
    /// The last failure was reported; the next is silent until it works again.
    reported: bool,
}

/// All connections of a replica.
pub(super) struct Links {
    me: ReplicaId,
    cluster: Cluster,
    identity: Identity,
    handshake_us: u64,
    max_clients: usize,
    connections: BTreeMap<ConnectionId, Connection>,
    peers: Vec<Option<ConnectionId>>,
    clients: BTreeMap<ClientId, ConnectionId>,
    next_client: u64,
    dials: Vec<Option<Dial>>,
    /// What a failing handshake or receive still wants sent or done, by the connection being received from.
    reply: Vec<u8>,
    outcome: Option<Result<Status, SessionError>>,
}

impl Links {
    pub(super) fn new(config: &ReplicaConfig, cluster: Cluster, key: SecretKey) -> Result<Self, LinkError> {
        let me = config.replica;
        let identity = Arc::new(LinkIdentity::new(key, cluster.genesis())?);
        let first = Duration::from_millis(config.net.reconnect_min_ms);
        let longest = Duration::from_millis(config.net.reconnect_max_ms);
        let dials = config.addresses.iter().enumerate().map(|(index, address)| {
            (index < me.index()).then(|| Dial {
                address: address.to_string(),
                resolved: None,
                backoff: Backoff::new(first, longest),
                at_us: Some(0),
                reported: false,
            })
        });
        Ok(Self {
            me,
            identity,
            handshake_us: config.net.handshake_timeout_ms * 1_000,
            max_clients: config.net.max_clients as usize,
            connections: BTreeMap::new(),
            peers: vec![None; cluster.n()],
            clients: BTreeMap::new(),
            next_client: 0,
            dials: dials.collect(),
            cluster,
            reply: Vec::new(),
            outcome: None,
        })
    }

    /// Dials who is due, and closes who did not prove a key in time.
    pub(super) fn keep_up(&mut self, reactor: &mut Reactor, now: Now) {
        for index in 0..self.dials.len() {
            let due = self.dials[index].as_ref().and_then(|dial| dial.at_us).is_some_and(|at| at <= now.mono_us);
            if due {
                self.dial(reactor, ReplicaId(index as u8), now);
            }
        }
        let late: Vec<ConnectionId> = self
            .connections
            .values()
            .filter(|connection| matches!(connection.role, Role::Unknown(until) if until <= now.mono_us))
            .map(|connection| connection.id)
            .collect();
        for id in late {
            self.forget(id, now);
            reactor.close(id);
        }
    }

    pub(super) fn next_deadline_us(&self) -> u64 {
        let dials = self.dials.iter().flatten().filter_map(|dial| dial.at_us);
        let handshakes = self.connections.values().filter_map(|connection| match connection.role {
            Role::Unknown(until) => Some(until),
            Role::Peer(_) | Role::Client(..) => None,
        });
        dials.chain(handshakes).min().unwrap_or(u64::MAX)
    }

    fn dial(&mut self, reactor: &mut Reactor, peer: ReplicaId, now: Now) {
        let Some(dial) = self.dials[peer.index()].as_mut() else { return };
        dial.at_us = None;
        let address = dial.resolved.or_else(|| dial.address.to_socket_addrs().ok()?.next());
        dial.resolved = address;
        let Some(key) = self.cluster.member(peer).map(|member| member.link_key) else { return };
        let mut first = Vec::new();
        let session = Session::initiator(
            Arc::clone(&self.identity),
            &self.cluster.genesis(),
            0,
            key,
            Sender::Replica,
            &mut first,
        );
        let connection = address.and_then(|address| reactor.connect(address).ok());
        let (Some(id), Ok(session)) = (connection, session) else {
            return self.dial_later(peer, "its address cannot be resolved or dialled", now);
        };
        // Queued until the connection stands.
        let _ = reactor.send_with(id, first.len(), |out| out.extend_from_slice(&first));
        let role = Role::Unknown(now.mono_us + self.handshake_us);
        self.connections.insert(id, Connection { id, session, role, dialled: Some(peer) });
    }

    fn dial_later(&mut self, peer: ReplicaId, why: &str, now: Now) {
        let me = u64::from(self.me.0);
        let Some(dial) = self.dials[peer.index()].as_mut() else { return };
        // Spread over replicas and attempts; any number does.
        let jitter = now.mono_us.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(me << 56);
        dial.at_us = Some(now.mono_us + dial.backoff.next_delay(jitter).as_micros() as u64);
        if !std::mem::replace(&mut dial.reported, true) {
            report(&format!("no link to replica {peer} at {}: {why}; trying on", dial.address));
        }
    }

    pub(super) fn accepted(&mut self, reactor: &mut Reactor, id: ConnectionId, now: Now) {
        let half_open = self.connections.values().filter_map(|connection| match connection.role {
            Role::Unknown(until) if connection.dialled.is_none() => Some((until, connection.id)),
            _ => None,
        });
        if half_open.clone().count() >= MAX_HALF_OPEN
            && let Some((_, oldest)) = half_open.min_by_key(|(until, _)| *until)
        {
            self.connections.remove(&oldest);
            reactor.close(oldest);
        }
        match Session::responder(Arc::clone(&self.identity), &self.cluster.genesis(), 0) {
            Ok(session) => {
                let role = Role::Unknown(now.mono_us + self.handshake_us);
                self.connections.insert(id, Connection { id, session, role, dialled: None });
            }
            Err(_) => reactor.close(id),
        }
    }

    /// Nothing to do: the first handshake message was queued when the connection was begun.
    pub(super) fn connected(&mut self, _reactor: &mut Reactor, _id: ConnectionId) {}

    /// Opens what came and hands it to the node.
    pub(super) fn received<A: Application, S: EntryStore, D: Device>(
        &mut self,
        id: ConnectionId,
        bytes: &mut [u8],
        now: Now,
        node: &mut Node<A, S, D>,
        shell: &mut impl Shell<D>,
    ) {
        let Some(Connection { session, role, .. }) = self.connections.get_mut(&id) else { return };
        let (cluster, me) = (&self.cluster, self.me);
        let admit = |key: &PublicKey| match cluster.replica_by_link_key(key) {
            // Of two replicas the one with the higher index dials.
            Some(peer) => (peer > me).then_some(Sender::Replica),
            None => cluster.client_by_key(key).map(|_| Sender::Client),
        };
        let next_client = self.next_client;
        let result = session.receive(bytes, &mut self.reply, admit, |peer, kind, body| {
            // The first frames may come with the last message of the handshake.
            if let Role::Unknown(_) = role {
                *role = match cluster.replica_by_link_key(&peer.key) {
                    Some(replica) => Role::Peer(replica),
                    None => Role::Client(ClientId(next_client), peer.key),
                };
            }
            match role {
                Role::Peer(replica) => match node.on_peer(*replica, kind, body, now) {
                    // Misbehaviour is counted; a link that says true things as well is kept.
                    Err(error @ crate::wire::error::FrameError::Malformed(_)) => Err(error),
                    _ => Ok(()),
                },
                Role::Client(client, key) => node.on_client(*client, key, kind, body, now, shell),
                Role::Unknown(_) => Ok(()),
            }
        });
        self.outcome = Some(result);
    }

    /// What a receive left to do on its connection: the handshake's answer, a new role, or the end.
    pub(super) fn after_receive<A: Application, S: EntryStore, D: Device>(
        &mut self,
        reactor: &mut Reactor,
        id: ConnectionId,
        node: &mut Node<A, S, D>,
        now: Now,
    ) {
        let Some(result) = self.outcome.take() else { return };
        if !self.reply.is_empty() {
            let reply = std::mem::take(&mut self.reply);
            let _ = reactor.send_with(id, reply.len(), |out| out.extend_from_slice(&reply));
        }
        match result {
            Ok(Status::JustEstablished(peer)) => self.established(reactor, id, peer.key, node, now),
            Ok(_) => {}
            Err(error) => {
                let peer = self.connections.get(&id).and_then(|connection| match connection.role {
                    Role::Peer(peer) => Some(peer),
                    _ => connection.dialled,
                });
                if let Some(peer) = peer {
                    report(&format!("link to replica {peer} closed: {error}"));
                }
                node.count_link_error(&error);
                self.lost(id, &error.to_string(), node, now);
                reactor.close(id);
            }
        }
    }

    fn established<A: Application, S: EntryStore, D: Device>(
        &mut self,
        reactor: &mut Reactor,
        id: ConnectionId,
        key: PublicKey,
        node: &mut Node<A, S, D>,
        now: Now,
    ) {
        let replica = self.cluster.replica_by_link_key(&key);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(replica) = replica else {
            let client = ClientId(self.next_client);
            self.next_client += 1;
            connection.role = Role::Client(client, key);
            self.clients.insert(client, id);
            reactor.set_send_limit(id, CLIENT_QUEUE_BYTES);
            return self.hold_to_share(reactor, &key, node, now);
        };
        connection.role = Role::Peer(replica);
        if let Some(old) = self.peers[replica.index()].replace(id).filter(|old| *old != id) {
            self.connections.remove(&old);
            reactor.close(old);
        }
        if let Some(dial) = self.dials[replica.index()].as_mut() {
            dial.backoff.reset();
            dial.at_us = None;
            dial.reported = false;
        }
        report(&format!("link to replica {replica} stands"));
        let _ = now;
        node.on_link(replica, true);
    }

    /// Closes a connection where an identity has more than its share, or all clients together more than they may: the oldest
    /// of the identity that has most.
    fn hold_to_share<A: Application, S: EntryStore, D: Device>(
        &mut self,
        reactor: &mut Reactor,
        newest: &PublicKey,
        node: &mut Node<A, S, D>,
        now: Now,
    ) {
        let share = (self.max_clients / CLIENT_SHARE).max(1);
        let of_newest = self.client_keys().filter(|(_, key)| key == newest).count();
        if of_newest <= share && self.clients.len() <= self.max_clients {
            return;
        }
        let mut counts: BTreeMap<PublicKey, usize> = BTreeMap::new();
        self.client_keys().for_each(|(_, key)| *counts.entry(key).or_default() += 1);
        let most =
            if of_newest > share { Some(*newest) } else { counts.iter().max_by_key(|(_, n)| **n).map(|(key, _)| *key) };
        // Clients are numbered as they come, so the first is the oldest.
        let oldest = self.client_keys().find(|(_, key)| Some(*key) == most).map(|(id, _)| id);
        if let Some(id) = oldest {
            self.lost(id, "its identity has more connections than its share", node, now);
            reactor.close(id);
        }
    }

    /// The connections of clients in the order in which they came.
    fn client_keys(&self) -> impl Iterator<Item = (ConnectionId, PublicKey)> + '_ {
        self.clients.values().filter_map(|id| match self.connections.get(id)?.role {
            Role::Client(_, key) => Some((*id, key)),
            Role::Peer(_) | Role::Unknown(_) => None,
        })
    }

    pub(super) fn closed<A: Application, S: EntryStore, D: Device>(
        &mut self,
        id: ConnectionId,
        why: &str,
        node: &mut Node<A, S, D>,
        now: Now,
    ) {
        self.lost(id, why, node, now);
    }

    /// A connection is gone: the node learns it, and a replica that this one dials is dialled again.
    fn lost<A: Application, S: EntryStore, D: Device>(
        &mut self,
        id: ConnectionId,
        why: &str,
        node: &mut Node<A, S, D>,
        now: Now,
    ) {
        let Some(connection) = self.connections.remove(&id) else { return };
        match connection.role {
            Role::Peer(peer) if self.peers[peer.index()] == Some(id) => {
                self.peers[peer.index()] = None;
                node.on_link(peer, false);
                report(&format!("link to replica {peer} is down: {why}"));
            }
            Role::Client(client, _) => {
                self.clients.remove(&client);
                node.on_client_gone(client);
            }
            Role::Peer(_) | Role::Unknown(_) => {}
        }
        if let Some(peer) = connection.dialled.filter(|peer| self.peers[peer.index()].is_none()) {
            self.dial_later(peer, why, now);
        }
    }

    /// As [`Links::lost`] for a connection that never had a role.
    fn forget(&mut self, id: ConnectionId, now: Now) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(peer) = connection.dialled.filter(|peer| self.peers[peer.index()].is_none()) {
            self.dial_later(peer, "the handshake took too long", now);
        }
    }

    /// Seals what the node wants sent into the connections' queues. What a queue has no room for is lost, as on a network:
    /// statuses and clients make it good.
    pub(super) fn send(&mut self, reactor: &mut Reactor, outbox: &mut Outbox) {
        for (target, kind, range) in outbox.messages.drain(..) {
            let id = match target {
                Target::Peer(peer) => self.peers[peer.index()],
                Target::Client(client) => self.clients.get(&client).copied(),
            };
            let Some(connection) = id.and_then(|id| self.connections.get_mut(&id)) else { continue };
            let body = &outbox.bytes[range];
            let mut sealed = Ok(());
            let queued = reactor.send_with(connection.id, frame_bytes(body.len()), |out| {
                sealed = connection.session.send(kind, out, |frame| frame.extend_from_slice(body));
            });
            if let (Ok(()), Err(error)) = (&queued, sealed) {
                report(&format!("a frame of kind {kind:?} was not sent: {error}"));
            }
            debug_assert!(!matches!(queued, Err(SendError::Closed)) || id.is_some());
        }
        for client in outbox.closing.drain(..) {
            if let Some(id) = self.clients.remove(&client) {
                // Nothing that it still sends is read.
                self.connections.remove(&id);
                reactor.close_after_flush(id);
            }
        }
        outbox.bytes.clear();
        if outbox.bytes.capacity() > KEEP_OUTBOX {
            outbox.bytes = Vec::new();
        }
    }
}
