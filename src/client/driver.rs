//! One reactor, many clients: the caller's thread does all the work inside [`Driver::poll`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atlas_dataplane::client::{
    ClientCore, ClientError, ClientMessage, Completion, CoreConfig, Output, PageDecoder, ProofQuestion, ReadOptions,
    Signer, SubmitOptions, Subscription, Ticket,
};
use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::cluster::file::Address;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::link::LinkIdentity;
use atlas_dataplane::crypto::session::Status;
use atlas_dataplane::net::{ConnectionId, Event, MAX_CONNECTIONS, Reactor, ReactorConfig, ReceiveBuffer};
use atlas_dataplane::types::{Digest, Now, Position, PublicKey, ReplicaId, Signature};
use atlas_dataplane::wire::error::FrameError;

use super::error::{Error, LinkDown};
use super::link::{Link, State};

/// Events handled before timers and the caller get their turn.
const EVENTS_PER_TURN: usize = 1_024;
/// Receive buffers for each link, up to [`MAX_RECEIVE_BUFFERS`].
const BUFFERS_PER_LINK: usize = 4;
const MAX_RECEIVE_BUFFERS: usize = 256;

/// Names a client of a driver.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(usize);

/// A ticket that has ended.
#[derive(Debug)]
pub struct Done {
    /// Whose it was.
    pub client: ClientId,
    /// Which.
    pub ticket: Ticket,
    /// How it ended.
    pub result: Result<Completion, Error>,
}

struct IdentitySigner(Arc<LinkIdentity>);

impl Signer for IdentitySigner {
    fn public(&self) -> PublicKey {
        self.0.public()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message)
    }
}

struct Slot {
    core: ClientCore,
    identity: Arc<LinkIdentity>,
    links: Vec<Link>,
}

/// Many clients on one thread, each with its own links to all replicas. See the module doc of [`crate::client`].
pub struct Driver {
    reactor: Reactor,
    genesis: Digest,
    config: CoreConfig,
    replicas: Vec<(Address, PublicKey)>,
    max_clients: usize,
    slots: Vec<Slot>,
    /// Whose a connection is, by its index.
    owners: Vec<Option<(ConnectionId, usize, usize)>>,
    done: VecDeque<Done>,
    start: Instant,
    jitter: u64,
}

impl Driver {
    /// A driver for up to `max_clients` clients of a cluster; `addresses`, one for each replica, are used instead of those
    /// in the cluster file.
    ///
    /// # Errors
    /// [`Error::Addresses`]; [`Error::Net`] where io_uring does not work.
    pub fn new(cluster: &Cluster, addresses: Option<Vec<Address>>, max_clients: usize) -> Result<Self, Error> {
        let members = cluster.members();
        let addresses = addresses.unwrap_or_else(|| members.iter().map(|member| member.address.clone()).collect());
        if addresses.len() != members.len() {
            return Err(Error::Addresses { given: addresses.len(), replicas: members.len() });
        }
        let replicas = addresses.into_iter().zip(members).map(|(address, member)| (address, member.link_key)).collect();
        let links = max_clients.saturating_mul(members.len()).max(1);
        let buffers = links.saturating_mul(BUFFERS_PER_LINK).next_power_of_two().min(MAX_RECEIVE_BUFFERS);
        let reactor = Reactor::new(&ReactorConfig {
            // A closed connection keeps its place until the kernel has let go of it.
            max_connections: u32::try_from(links.saturating_mul(2)).unwrap_or(u32::MAX).min(MAX_CONNECTIONS),
            receive_buffers: buffers as u16,
            ..ReactorConfig::small()
        })?;
        let config = CoreConfig {
            origin: cluster.origin().to_owned(),
            replicas: members.len(),
            session_window: cluster.settings().session_window,
            max_bundle_requests: atlas_dataplane::wire::limits::MAX_BUNDLE_REQUESTS,
        };
        Ok(Self {
            reactor,
            genesis: cluster.genesis(),
            config,
            replicas,
            max_clients,
            slots: Vec::new(),
            owners: Vec::new(),
            done: VecDeque::new(),
            start: Instant::now(),
            jitter: u64::from(std::process::id()),
        })
    }

    /// Adds a client; its links are dialled by the next [`Driver::poll`].
    ///
    /// # Errors
    /// [`Error::TooManyClients`], [`Error::Link`].
    pub fn add_client(&mut self, identity: SecretKey) -> Result<ClientId, Error> {
        if self.slots.len() >= self.max_clients {
            return Err(Error::TooManyClients(self.max_clients));
        }
        let identity = Arc::new(LinkIdentity::new(identity, self.genesis)?);
        let core = ClientCore::new(self.config.clone(), Box::new(IdentitySigner(Arc::clone(&identity))));
        let links = self.replicas.iter().map(|(address, key)| Link::new(address.clone(), *key)).collect();
        self.slots.push(Slot { core, identity, links });
        Ok(ClientId(self.slots.len() - 1))
    }

    /// Submits operations, see [`ClientCore::submit`]. They leave with the next [`Driver::poll`].
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::NoClient`].
    pub fn submit(
        &mut self,
        client: ClientId,
        operations: &[Vec<u8>],
        options: &SubmitOptions,
    ) -> Result<Ticket, Error> {
        let now = self.now();
        Ok(self.core(client)?.submit(operations, options, now)?)
    }

    /// Reads what f+1 replicas say alike, see [`ClientCore::query`].
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::NoClient`].
    pub fn query(&mut self, client: ClientId, query: &[u8], options: &ReadOptions) -> Result<Ticket, Error> {
        let now = self.now();
        Ok(self.core(client)?.query(query, options, now)?)
    }

    /// A linearizable read, see [`ClientCore::read_ordered`].
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::NoClient`].
    pub fn read_ordered(
        &mut self,
        client: ClientId,
        barrier: &[u8],
        query: &[u8],
        options: &ReadOptions,
    ) -> Result<Ticket, Error> {
        let now = self.now();
        Ok(self.core(client)?.read_ordered(barrier, query, options, now)?)
    }

    /// Asks one replica for something with its proof, see [`ClientCore::prove`].
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::NoClient`].
    pub fn prove(
        &mut self,
        client: ClientId,
        question: &ProofQuestion,
        of: ReplicaId,
        timeout: Duration,
    ) -> Result<Ticket, Error> {
        let now = self.now();
        Ok(self.core(client)?.prove(question, of, milliseconds(timeout), now)?)
    }

    /// Asks every replica how it is, see [`ClientCore::status`].
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::NoClient`].
    pub fn status(&mut self, client: ClientId, timeout: Duration) -> Result<Ticket, Error> {
        let now = self.now();
        Ok(self.core(client)?.status(milliseconds(timeout), now)?)
    }

    /// Follows the events behind a position, see [`ClientCore::subscribe`].
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::NoClient`].
    pub fn subscribe(
        &mut self,
        client: ClientId,
        decoder: Box<dyn PageDecoder>,
        from: Position,
    ) -> Result<Subscription, Error> {
        let now = self.now();
        Ok(self.core(client)?.subscribe(decoder, from, now)?)
    }

    /// The next event of a subscription, if it is there.
    ///
    /// # Errors
    /// [`Error::NoClient`].
    pub fn next_change(
        &mut self,
        client: ClientId,
        subscription: Subscription,
    ) -> Result<Option<(Position, Vec<u8>)>, Error> {
        let now = self.now();
        Ok(self.core(client)?.next_change(subscription, now))
    }

    /// A client's core, for what has no method here; times given to it are [`Driver::now`].
    ///
    /// # Errors
    /// [`Error::NoClient`].
    pub fn core(&mut self, client: ClientId) -> Result<&mut ClientCore, Error> {
        self.slots.get_mut(client.0).map(|slot| &mut slot.core).ok_or(Error::NoClient)
    }

    /// The driver's clock.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_us: self.start.elapsed().as_micros() as u64, wall_ms: wall.as_millis() as i64 }
    }

    /// Why there is no link, for each replica where there is none.
    pub fn links_down(&self, client: ClientId) -> Vec<Option<LinkDown>> {
        self.slots
            .get(client.0)
            .map(|slot| slot.links.iter().map(|link| link.down.clone()).collect())
            .unwrap_or_default()
    }

    /// Operations that one client may have under way.
    pub fn session_window(&self) -> u64 {
        self.config.session_window
    }

    /// Tickets of all clients that have not ended.
    pub fn open_tickets(&self) -> usize {
        self.slots.iter().map(|slot| slot.core.open_tickets()).sum()
    }

    /// The next ticket that has ended.
    pub fn next_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    /// Sends what is queued, receives what has come, and waits up to `timeout` for something to happen. Returns after one
    /// turn: look at [`Driver::next_done`] and the subscriptions, and call it again. Nothing happens outside it.
    ///
    /// # Errors
    /// [`Error::Net`]: the ring is broken and the driver cannot go on.
    pub fn poll(&mut self, timeout: Duration) -> Result<(), Error> {
        self.turn_timers();
        self.flush();
        let timeout = if self.done.is_empty() { timeout.min(self.until_due()) } else { Duration::ZERO };
        self.reactor.wait(Some(timeout))?;
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.reactor.next_event() else { break };
            self.on_event(event);
        }
        self.turn_timers();
        self.flush();
        Ok(())
    }

    fn until_due(&self) -> Duration {
        let due = self.slots.iter().flat_map(|slot| {
            let links = slot.links.iter().filter_map(Link::due_us);
            links.chain(slot.core.next_deadline())
        });
        let now_us = self.now().mono_us;
        due.min().map_or(Duration::MAX, |due| Duration::from_micros(due.saturating_sub(now_us)))
    }

    fn turn_timers(&mut self) {
        let now = self.now();
        for client in 0..self.slots.len() {
            if self.slots[client].core.next_deadline().is_some_and(|due| due <= now.mono_us) {
                self.slots[client].core.tick(now);
            }
            for replica in 0..self.replicas.len() {
                self.turn_link(client, replica, now);
            }
        }
    }

    fn turn_link(&mut self, client: usize, replica: usize, now: Now) {
        let Slot { links, identity, .. } = &mut self.slots[client];
        let link = &mut links[replica];
        if link.due_us().is_none_or(|due| due > now.mono_us) {
            return;
        }
        if let State::Opening { .. } = link.state {
            self.link_failed(client, replica, LinkDown::Slow);
        } else if let Some(connection) = link.dial(&mut self.reactor, identity, &self.genesis, now.mono_us) {
            let index = connection.index();
            if self.owners.len() <= index {
                self.owners.resize(index + 1, None);
            }
            self.owners[index] = Some((connection, client, replica));
        }
    }

    fn owner(&self, connection: ConnectionId) -> Option<(usize, usize)> {
        let (named, client, replica) = (*self.owners.get(connection.index())?)?;
        (named == connection).then_some((client, replica))
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { connection, bytes } => {
                if let Some((client, replica)) = self.owner(connection) {
                    self.on_bytes(client, replica, bytes);
                }
            }
            Event::Closed { connection, reason } => {
                if let Some((client, replica)) = self.owner(connection) {
                    self.link_failed(client, replica, LinkDown::from(&reason));
                }
            }
            _ => {}
        }
    }

    fn on_bytes(&mut self, client: usize, replica: usize, mut bytes: ReceiveBuffer) {
        let now = self.now();
        let id = ReplicaId(replica as u8);
        let Slot { core, links, .. } = &mut self.slots[client];
        let link = &mut links[replica];
        let (connection, session) = match &mut link.state {
            State::Opening { connection, session, .. } | State::Up { connection, session } => (*connection, session),
            State::Down { .. } => return,
        };
        let mut reply = Vec::new();
        let status = session.receive(
            &mut bytes,
            &mut reply,
            |_| None,
            |_, kind, body| {
                let message = ClientMessage::access(kind, body).map_err(FrameError::Malformed)?;
                core.on_message(id, message, now);
                Ok(())
            },
        );
        // The buffer goes back to the kernel before anything else is done.
        drop(bytes);
        match status {
            Err(error) => return self.link_failed(client, replica, LinkDown::Session(error)),
            Ok(_) if !reply.is_empty() => {
                let sent = self.reactor.send_with(connection, reply.len(), |out| out.extend_from_slice(&reply));
                if let Err(error) = sent {
                    return self.link_failed(client, replica, LinkDown::Connection(error.to_string()));
                }
            }
            Ok(_) => {}
        }
        let Slot { core, links, .. } = &mut self.slots[client];
        match status {
            Ok(Status::JustEstablished(_)) => {
                links[replica].establish();
                core.on_link(id, true, now);
            }
            Ok(Status::Established) => links[replica].heard(),
            _ => {}
        }
    }

    fn link_failed(&mut self, client: usize, replica: usize, reason: LinkDown) {
        let now = self.now();
        // Clients that lost the same replica need not come back at the same moment.
        self.jitter = self.jitter.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let Slot { core, links, .. } = &mut self.slots[client];
        if let Some(connection) = links[replica].connection() {
            self.reactor.close(connection);
            if let Some(owner) = self.owners.get_mut(connection.index()) {
                *owner = None;
            }
        }
        if let State::Up { .. } = links[replica].state {
            core.on_link(ReplicaId(replica as u8), false, now);
        }
        links[replica].fail(reason, now.mono_us, self.jitter);
    }

    /// Hands the cores' outputs on.
    fn flush(&mut self) {
        for client in 0..self.slots.len() {
            while let Some(output) = self.slots[client].core.next_output() {
                match output {
                    Output::Send { to, kind, body } => {
                        for id in to.iter() {
                            let link = &mut self.slots[client].links[id.index()];
                            if let Err(error) = link.send(&mut self.reactor, kind, &body) {
                                self.link_failed(client, id.index(), LinkDown::Session(error));
                            }
                        }
                    }
                    Output::Done { ticket, result } => self.ended(ClientId(client), ticket, result),
                }
            }
        }
    }

    fn ended(&mut self, client: ClientId, ticket: Ticket, result: Result<Completion, ClientError>) {
        let result = result.map_err(|source| Error::Operation { source, links: self.links_down(client) });
        self.done.push_back(Done { client, ticket, result });
    }
}

/// Whole milliseconds, as many as fit.
pub(super) fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
