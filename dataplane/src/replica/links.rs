//! Connections: who is at the other end of each, dialling, and what waits to be sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::node::{ClientId, Node, Shell};
use super::outbox::{CLIENT_QUEUE_BYTES, Outbox, Target};
use super::process::Identity;
use super::resolver::Resolver;
use super::strangers::Strangers;
use crate::cluster::{Cluster, ReplicaConfig};
use crate::crypto::SecretKey;
use crate::crypto::link::{Fault, LinkError, LinkIdentity};
use crate::crypto::session::{Session, SessionError, Status, frame_bytes};
use crate::flight::event::Cause;
use crate::flight::{self, Kind as Noted};
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::net::{Backoff, CloseReason, ConnectionId, Reactor, SendError, Waker};
use crate::state::Application;
use crate::types::{Now, PublicKey, ReplicaId};
use crate::wire::error::FrameError;
use crate::wire::frame::Sender;
use crate::wire::limits::{HEADER_BYTES, MAX_HANDSHAKE_BODY};

/// A client key may have this part of `max_clients`; one more is closed at once.
const CLIENT_SHARE: usize = 4;

/// So many connections may a key have that is not in force: enough to be told so.
const BARRED_SHARE: usize = 2;

/// Handshakes that a round begins for those who connected; the others wait for the next, which follows at once.
pub(super) const HANDSHAKES_A_ROUND: usize = 16;

/// What may come before the answer to the first handshake message, bytes; more is no handshake.
const MAX_EARLY_BYTES: usize = HEADER_BYTES + MAX_HANDSHAKE_BODY;

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
    /// Names the connection for ever; that of the client, should it be one.
    number: u64,
    /// Made when the peer's first bytes are looked at, so that a connection that says nothing costs next to nothing.
    session: Option<Session>,
    /// The first bytes, until their turn comes.
    early: Vec<u8>,
    role: Role,
    /// A replica that this one dials.
    dialled: Option<ReplicaId>,
}

/// Dialling of one replica.
struct Dial {
    address: String,
    /// Where to dial: always known for a numeric address, looked up again after each failure for a name.
    resolved: Option<SocketAddr>,
    is_name: bool,
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
    connections: BTreeMap<ConnectionId, Connection>,
    peers: Vec<Option<ConnectionId>>,
    clients: BTreeMap<ClientId, ConnectionId>,
    /// Keys of identities, those that ended included: who holds one is told so. As many as the replicated table had last.
    identities: BTreeSet<PublicKey>,
    max_clients: usize,
    /// Each client key's connections, the oldest first.
    of_key: BTreeMap<PublicKey, BTreeSet<ClientId>>,
    strangers: Strangers,
    next_number: u64,
    dials: Vec<Option<Dial>>,
    resolver: Resolver,
    /// This replica is ending: what replicas send is ignored.
    ending: bool,
    /// Frames that were sealed since the start.
    frames_out: u64,
    /// What a failing handshake or receive still wants sent or done, by the connection being received from.
    reply: Vec<u8>,
    outcome: Option<Result<Status, SessionError>>,
}

impl Links {
    pub(super) fn new(
        config: &ReplicaConfig,
        cluster: Cluster,
        key: SecretKey,
        waker: Waker,
    ) -> Result<Self, LinkError> {
        let me = config.replica;
        let identity = Arc::new(LinkIdentity::new(key, cluster.genesis())?);
        let first = Duration::from_millis(config.net.reconnect_min_ms);
        let longest = Duration::from_millis(config.net.reconnect_max_ms);
        let dials = config.addresses.iter().enumerate().map(|(index, address)| {
            (index < me.index()).then(|| Dial {
                address: address.to_string(),
                resolved: address.to_string().parse().ok(),
                is_name: address.to_string().parse::<SocketAddr>().is_err(),
                backoff: Backoff::new(first, longest),
                at_us: Some(0),
                reported: false,
            })
        });
        Ok(Self {
            me,
            identity,
            handshake_us: config.net.handshake_timeout_ms * 1_000,
            connections: BTreeMap::new(),
            peers: vec![None; cluster.n()],
            clients: BTreeMap::new(),
            identities: BTreeSet::new(),
            max_clients: config.net.max_clients as usize,
            of_key: BTreeMap::new(),
            strangers: Strangers::default(),
            next_number: 0,
            dials: dials.collect(),
            resolver: Resolver::new(waker),
            ending: false,
            frames_out: 0,
            cluster,
            reply: Vec::new(),
            outcome: None,
        })
    }

    /// Dials who is due, and closes who did not prove a key in time.
    pub(super) fn keep_up(&mut self, reactor: &mut Reactor, now: Now) {
        while let Some((peer, found)) = self.resolver.found() {
            self.resolved(peer, found, now);
        }
        for index in 0..self.dials.len() {
            let due = self.dials[index].as_ref().and_then(|dial| dial.at_us).is_some_and(|at| at <= now.mono_us);
            if due {
                self.dial(reactor, ReplicaId(index as u8), now);
            }
        }
        while let Some((number, id)) = self.strangers.oldest() {
            match self.connections.get(&id).map(|connection| connection.role) {
                Some(Role::Unknown(until)) if until > now.mono_us => return,
                Some(Role::Unknown(_)) => {
                    self.forget(id, Cause::Slow, now);
                    reactor.close(id);
                }
                _ => self.strangers.remove(number),
            }
        }
    }

    /// From now on replicas' frames are ignored: nothing new is to be promised.
    pub(super) fn end(&mut self) {
        self.ending = true;
    }

    fn resolved(&mut self, peer: ReplicaId, found: Option<SocketAddr>, now: Now) {
        let Some(dial) = self.dials.get_mut(peer.index()).and_then(Option::as_mut) else { return };
        if self.peers[peer.index()].is_some() {
            return;
        }
        dial.resolved = found;
        match found {
            Some(_) => dial.at_us = Some(now.mono_us),
            None => self.dial_later(peer, Cause::Name, 0, now),
        }
    }

    fn next_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn next_deadline_us(&self) -> u64 {
        let dials = self.dials.iter().flatten().filter_map(|dial| dial.at_us);
        if self.strangers.is_any_waiting() {
            return 0;
        }
        let oldest = self.strangers.oldest().and_then(|(_, id)| self.connections.get(&id));
        let handshake = oldest.map(|connection| match connection.role {
            Role::Unknown(until) => until,
            Role::Peer(_) | Role::Client(..) => 0,
        });
        dials.chain(handshake).min().unwrap_or(u64::MAX)
    }

    fn dial(&mut self, reactor: &mut Reactor, peer: ReplicaId, now: Now) {
        let Some(dial) = self.dials[peer.index()].as_mut() else { return };
        dial.at_us = None;
        let Some(address) = dial.resolved else {
            let asked = self.resolver.ask(peer, &dial.address);
            if !asked {
                self.dial_later(peer, Cause::Resolver, 0, now);
            }
            return;
        };
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
        let session = match session {
            Ok(session) => session,
            Err(error) => return self.dial_later(peer, of_session(&error), 0, now),
        };
        let id = match reactor.connect(address) {
            Ok(id) => id,
            Err(_) => return self.dial_later(peer, Cause::Socket, 0, now),
        };
        // Queued until the connection stands.
        let _ = reactor.send_with(id, first.len(), |out| out.extend_from_slice(&first));
        let role = Role::Unknown(now.mono_us + self.handshake_us);
        let (number, session) = (self.next_number(), Some(session));
        self.strangers.dialled(number, id);
        let early = Vec::new();
        self.connections.insert(id, Connection { id, number, session, early, role, dialled: Some(peer) });
    }

    /// `detail` is the system's error where the cause has one.
    fn dial_later(&mut self, peer: ReplicaId, why: Cause, detail: u64, now: Now) {
        let me = u64::from(self.me.0);
        let Some(dial) = self.dials[peer.index()].as_mut() else { return };
        if dial.is_name {
            dial.resolved = None;
        }
        // Spread over replicas and attempts; any number does.
        let jitter = now.mono_us.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(me << 56);
        dial.at_us = Some(now.mono_us + dial.backoff.next_delay(jitter).as_micros() as u64);
        if !std::mem::replace(&mut dial.reported, true) {
            flight::note(Noted::LinkFailed, [u64::from(peer.0), why as u64, detail]);
        }
    }

    pub(super) fn accepted(&mut self, reactor: &mut Reactor, id: ConnectionId, from: SocketAddr, now: Now) {
        let (number, role) = (self.next_number(), Role::Unknown(now.mono_us + self.handshake_us));
        let early = Vec::new();
        self.connections.insert(id, Connection { id, number, session: None, early, role, dialled: None });
        if let Some(other) = self.strangers.accepted(number, id, from) {
            self.forget(other, Cause::Crowd, now);
            reactor.close(other);
        }
    }

    /// Keeps the first bytes of a connection for [`Links::next_early`]; true where it did.
    fn keep_early(&mut self, id: ConnectionId, bytes: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else { return false };
        if connection.session.is_some() || !matches!(connection.role, Role::Unknown(_)) {
            return false;
        }
        if connection.early.is_empty() {
            self.strangers.wait(connection.number);
        }
        let room = (MAX_EARLY_BYTES + 1).saturating_sub(connection.early.len());
        connection.early.extend_from_slice(&bytes[..bytes.len().min(room)]);
        true
    }

    /// The first bytes of the connection whose turn it is to begin its handshake; they go to [`Links::received`]. Each costs two
    /// products on the curve and a signature, which anybody can ask for: so a round takes [`HANDSHAKES_A_ROUND`].
    pub(super) fn next_early(&mut self, reactor: &mut Reactor, now: Now) -> Option<(ConnectionId, Vec<u8>)> {
        loop {
            let id = self.strangers.next()?;
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let bytes = std::mem::take(&mut connection.early);
            if bytes.len() <= MAX_EARLY_BYTES
                && let Ok(session) = Session::responder(Arc::clone(&self.identity), &self.cluster.genesis(), 0)
            {
                connection.session = Some(session);
                return Some((id, bytes));
            }
            self.forget(id, Cause::NoHandshake, now);
            reactor.close(id);
        }
    }

    /// Opens what came and hands it to the node.
    pub(super) fn received<A: Application, S: EntryStore, D: Device>(
        &mut self,
        id: ConnectionId,
        bytes: &mut [u8],
        now: Now,
        node: &mut Node<A, S, D>,
        shell: &mut impl Shell<D>,
    ) {
        if self.keep_early(id, bytes) {
            return;
        }
        // Keys come to it and never go.
        let all = node.execution().identities().all();
        if all.len() != self.identities.len() {
            self.identities = all.iter().map(|identity| identity.key).collect();
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Connection { session: Some(session), role, number, .. } = connection else { return };
        let (client, ending) = (ClientId(*number), self.ending);
        let (cluster, identities, me) = (&self.cluster, &self.identities, self.me);
        let admit = |key: &PublicKey| match cluster.replica_by_link_key(key) {
            // Of two replicas the one with the higher index dials.
            Some(peer) => (peer > me).then_some(Sender::Replica),
            None => identities.contains(key).then_some(Sender::Client),
        };
        let result = session.receive(bytes, &mut self.reply, admit, |peer, kind, body| {
            // The first frames may come with the last message of the handshake.
            if let Role::Unknown(_) = role {
                *role = match cluster.replica_by_link_key(&peer.key) {
                    Some(replica) => Role::Peer(replica),
                    None => Role::Client(client, peer.key),
                };
            }
            node.meters.frames_in += 1;
            match role {
                Role::Peer(_) if ending => Ok(()),
                Role::Peer(replica) => {
                    shell.heard(*replica, kind, body);
                    match node.on_peer(*replica, kind, body, now) {
                        // Misbehaviour is counted; a link that says true things as well is kept.
                        Err(error @ FrameError::Malformed(_)) => Err(error),
                        _ => Ok(()),
                    }
                }
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
                    flight::note(Noted::LinkClosed, [u64::from(peer.0), of_session(&error) as u64, 0]);
                }
                node.count_link_error(&error);
                self.lost(id, of_session(&error), 0, node, now);
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
            let client = ClientId(connection.number);
            connection.role = Role::Client(client, key);
            self.strangers.remove(client.0);
            return self.client_established(reactor, id, client, key, node, now);
        };
        connection.role = Role::Peer(replica);
        self.strangers.remove(connection.number);
        if let Some(old) = self.peers[replica.index()].replace(id).filter(|old| *old != id) {
            self.connections.remove(&old);
            reactor.close(old);
        }
        if let Some(dial) = self.dials[replica.index()].as_mut() {
            dial.backoff.reset();
            dial.at_us = None;
            dial.reported = false;
        }
        flight::note(Noted::LinkUp, [u64::from(replica.0), 0, 0]);
        node.on_link(replica, true);
    }

    /// A client's link stands. One that its key has no place for is closed: were an older one closed for it, as many processes
    /// would go on putting each other out. Where all clients together have more links than they may, the oldest of the key
    /// with most is closed. So a key keeps itself out, and nobody else.
    fn client_established<A: Application, S: EntryStore, D: Device>(
        &mut self,
        reactor: &mut Reactor,
        id: ConnectionId,
        client: ClientId,
        key: PublicKey,
        node: &mut Node<A, S, D>,
        now: Now,
    ) {
        flight::note(Noted::ClientAccepted, [client.0, flight::bundle_name(&key.0), 0]);
        self.clients.insert(client, id);
        reactor.set_send_limit(id, CLIENT_QUEUE_BYTES);
        let of_key = self.of_key.entry(key).or_default();
        of_key.insert(client);
        let execution = node.execution();
        let is_in_force = execution.identities().may(&key, execution.time_ms()).is_ok();
        let share = if is_in_force { self.max_clients / CLIENT_SHARE } else { BARRED_SHARE };
        let closed = if of_key.len() > share.max(1) {
            Some(id)
        } else if self.clients.len() > self.max_clients {
            let most = self.of_key.values().max_by_key(|links| links.len());
            let oldest = most.and_then(|links| links.first()).and_then(|oldest| self.clients.get(oldest));
            oldest.copied()
        } else {
            None
        };
        if let Some(id) = closed {
            node.count("links.closed.too_many");
            self.lost(id, Cause::TooMany, 0, node, now);
            reactor.close(id);
        }
    }

    pub(super) fn closed<A: Application, S: EntryStore, D: Device>(
        &mut self,
        id: ConnectionId,
        reason: &CloseReason,
        node: &mut Node<A, S, D>,
        now: Now,
    ) {
        let (cause, detail) = Cause::of_close(reason);
        self.lost(id, cause, detail, node, now);
    }

    /// A connection is gone: the node learns it, and a replica that this one dials is dialled again.
    fn lost<A: Application, S: EntryStore, D: Device>(
        &mut self,
        id: ConnectionId,
        why: Cause,
        detail: u64,
        node: &mut Node<A, S, D>,
        now: Now,
    ) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.strangers.remove(connection.number);
        match connection.role {
            Role::Peer(peer) if self.peers[peer.index()] == Some(id) => {
                self.peers[peer.index()] = None;
                node.on_link(peer, false);
                flight::note(Noted::LinkDown, [u64::from(peer.0), why as u64, detail]);
            }
            Role::Client(client, key) => {
                flight::note(Noted::ClientGone, [client.0, 0, 0]);
                self.clients.remove(&client);
                if let Some(of_key) = self.of_key.get_mut(&key) {
                    of_key.remove(&client);
                    if of_key.is_empty() {
                        self.of_key.remove(&key);
                    }
                }
                node.on_client_gone(client);
            }
            Role::Peer(_) | Role::Unknown(_) => {}
        }
        if let Some(peer) = connection.dialled.filter(|peer| self.peers[peer.index()].is_none()) {
            self.dial_later(peer, why, detail, now);
        }
    }

    /// As [`Links::lost`] for a connection that never had a role.
    fn forget(&mut self, id: ConnectionId, why: Cause, now: Now) {
        let Some(connection) = self.connections.remove(&id) else { return };
        self.strangers.remove(connection.number);
        if let Some(peer) = connection.dialled.filter(|peer| self.peers[peer.index()].is_none()) {
            self.dial_later(peer, why, 0, now);
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
            let Some(session) = &mut connection.session else { continue };
            let body = &outbox.bytes[range];
            let mut sealed = Ok(());
            let queued = reactor.send_with(connection.id, frame_bytes(body.len()), |out| {
                sealed = session.send(kind, out, |frame| frame.extend_from_slice(body));
            });
            self.frames_out += u64::from(queued.is_ok());
            if let (Ok(()), Err(_)) = (&queued, sealed) {
                flight::note(Noted::FrameNotSent, [kind as u64, 0, 0]);
            }
            if let (Target::Client(client), Err(SendError::Full)) = (target, &queued) {
                outbox.full.insert(client);
            }
        }
        for client in outbox.ending.drain(..) {
            if let Some(connection) = self.clients.get(&client).and_then(|id| self.connections.get_mut(id)) {
                // Nothing that it still sends is read.
                connection.session = None;
                reactor.close_after_flush(connection.id);
            }
        }
        outbox.clear();
    }

    /// Clients' connections, and frames that were sealed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.clients.len() as u64, self.frames_out)
    }

    /// How many identities have connections.
    pub(super) fn identities(&self) -> usize {
        self.of_key.len()
    }

    /// Name, key and connections of each identity that has any.
    pub(super) fn clients<A: Application, S: EntryStore, D: Device>(
        &self,
        node: &Node<A, S, D>,
    ) -> impl Iterator<Item = Vec<String>> {
        let identities = node.execution().identities();
        self.of_key.iter().map(|(key, connections)| {
            let name = identities.get(key).map_or_else(String::new, |identity| identity.name.clone());
            vec![name, key.to_string(), connections.len().to_string()]
        })
    }

    /// All that was queued on a connection has gone out: its client is answered again.
    pub(super) fn sent(&self, id: ConnectionId, outbox: &mut Outbox) {
        if let Some(Connection { role: Role::Client(client, _), .. }) = self.connections.get(&id) {
            outbox.full.remove(client);
        }
        if outbox.full.len() > self.clients.len() {
            outbox.full.retain(|client| self.clients.contains_key(client));
        }
    }
}

/// The cause that an error of a session is.
fn of_session(error: &SessionError) -> Cause {
    match error {
        SessionError::NotAdmitted(_) => Cause::NotAdmitted,
        SessionError::Link(LinkError::HandshakeForged { .. }) => Cause::Forged,
        SessionError::Link(LinkError::IdentityForged { .. } | LinkError::WrongIdentity { .. }) => Cause::OtherIdentity,
        SessionError::Frame(FrameError::Malformed(_)) => Cause::Malformed,
        error => match error.fault() {
            Fault::Malformed => Cause::NoHandshake,
            Fault::Misbehaving => Cause::BadFrames,
            Fault::Ours => Cause::Ours,
        },
    }
}
