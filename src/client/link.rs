//! One client's link to one replica: dialling, handshake, frames.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use atlas_dataplane::cluster::file::Address;
use atlas_dataplane::crypto::link::LinkIdentity;
use atlas_dataplane::crypto::session::{Session, SessionError, frame_bytes};
use atlas_dataplane::net::{Backoff, ConnectionId, Reactor};
use atlas_dataplane::types::{Digest, PublicKey};
use atlas_dataplane::wire::frame::{Kind, Sender};

use super::error::LinkDown;

/// How long connecting and the handshake may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a link stands.
pub(super) enum State {
    /// To be dialled at this time, in microseconds of the driver's clock.
    Down { dial_at_us: u64 },
    /// Connecting or in the handshake; given up at this time.
    Opening { connection: ConnectionId, session: Box<Session>, until_us: u64 },
    /// Frames pass.
    Up { connection: ConnectionId, session: Box<Session> },
}

/// A link and why it is down.
pub(super) struct Link {
    pub(super) state: State,
    pub(super) down: Option<LinkDown>,
    backoff: Backoff,
    address: Address,
    key: PublicKey,
}

impl Link {
    pub(super) fn new(address: Address, key: PublicKey) -> Self {
        let state = State::Down { dial_at_us: 0 };
        Self { state, down: Some(LinkDown::Connecting), backoff: Backoff::default(), address, key }
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        match &self.state {
            State::Down { .. } => None,
            State::Opening { connection, .. } | State::Up { connection, .. } => Some(*connection),
        }
    }

    /// When something is to be done about it.
    pub(super) fn due_us(&self) -> Option<u64> {
        match self.state {
            State::Down { dial_at_us } => Some(dial_at_us),
            State::Opening { until_us, .. } => Some(until_us),
            State::Up { .. } => None,
        }
    }

    /// Begins to connect and queues the first handshake message; the connection if that went well.
    pub(super) fn dial(
        &mut self,
        reactor: &mut Reactor,
        identity: &Arc<LinkIdentity>,
        genesis: &Digest,
        now_us: u64,
    ) -> Option<ConnectionId> {
        let opened = resolve(&self.address).and_then(|address| {
            let mut hello = Vec::new();
            let session = Session::initiator(Arc::clone(identity), genesis, 0, self.key, Sender::Server, &mut hello);
            let session = Box::new(session.map_err(LinkDown::Session)?);
            let connection = reactor.connect(address).map_err(|error| LinkDown::Connection(error.to_string()))?;
            match reactor.send_with(connection, hello.len(), |out| out.extend_from_slice(&hello)) {
                Ok(()) => Ok((connection, session)),
                Err(error) => {
                    reactor.close(connection);
                    Err(LinkDown::Connection(error.to_string()))
                }
            }
        });
        match opened {
            Ok((connection, session)) => {
                let until_us = now_us + HANDSHAKE_TIMEOUT.as_micros() as u64;
                self.state = State::Opening { connection, session, until_us };
                Some(connection)
            }
            Err(reason) => {
                self.fail(reason, now_us, 0);
                None
            }
        }
    }

    /// The link is over; it will be dialled again after a pause.
    pub(super) fn fail(&mut self, reason: LinkDown, now_us: u64, jitter: u64) {
        self.down = Some(reason);
        let pause = self.backoff.next_delay(jitter).as_micros() as u64;
        self.state = State::Down { dial_at_us: now_us + pause };
    }

    /// The handshake is done.
    pub(super) fn establish(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Down { dial_at_us: 0 });
        self.state = match state {
            State::Opening { connection, session, .. } => {
                self.down = None;
                State::Up { connection, session }
            }
            other => other,
        };
    }

    /// The other end sent a frame, so it serves us. (That the handshake ended says less: it may close on us then.)
    pub(super) fn heard(&mut self) {
        self.backoff.reset();
    }

    /// Queues a frame. What a full queue does not take is sent again by the core's timers.
    pub(super) fn send(&mut self, reactor: &mut Reactor, kind: Kind, body: &[u8]) -> Result<(), SessionError> {
        let State::Up { connection, session } = &mut self.state else { return Ok(()) };
        let mut result = Ok(());
        // What the queue does not take is not sealed either, so the frame numbers have no gap.
        let _ = reactor.send_with(*connection, frame_bytes(body.len()), |out| {
            result = session.send(kind, out, |out| out.extend_from_slice(body));
        });
        result
    }
}

/// The first address of a host; waits for the name service where it is a name.
fn resolve(address: &Address) -> Result<SocketAddr, LinkDown> {
    let unresolved = |error: &dyn std::fmt::Display| LinkDown::Unresolved(format!("{address}: {error}"));
    let found = (address.host.as_str(), address.port).to_socket_addrs();
    found.map_err(|error| unresolved(&error))?.next().ok_or_else(|| unresolved(&"no address"))
}
