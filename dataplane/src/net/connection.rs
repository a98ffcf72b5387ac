//! The table of connections: which slots are in use, by whom, and what the kernel still does for each.

use std::fmt;
use std::net::{SocketAddr, TcpStream};

use super::CloseReason;
use super::socket::SocketAddress;

/// Send buffers kept for reuse, and the largest that is kept, in bytes.
const SPARE_BUFFERS: usize = 64;
const SPARE_BUFFER_BYTES: usize = 256 * 1024;

/// Names one connection of one reactor, and after it is closed none at all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl ConnectionId {
    /// One that a test makes up.
    #[cfg(test)]
    pub(crate) fn of_test(index: u32) -> Self {
        Self { index, generation: 0 }
    }

    /// Its place in the reactor's table, below `max_connections`: at any time no two open connections share one.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// Where a slot stands, see the states in the module doc.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Connecting,
    Open,
    /// Sending failed; what was received before is still delivered.
    Broken,
    /// Nobody's: free, or waiting for the kernel to finish.
    Closed,
}

/// One place in the table.
pub(super) struct Slot {
    /// That of the open connection or, when closed, of the next.
    generation: u32,
    pub(super) state: State,
    /// Flush what is queued, then close: nothing more is accepted for sending, what is received is dropped.
    pub(super) closing: bool,
    pub(super) socket: Option<TcpStream>,
    pub(super) peer: SocketAddr,
    /// Operations with the kernel that name this slot; it is not used again before they have ended.
    pub(super) operations: u32,
    pub(super) receiving: bool,
    /// The bytes the kernel is sending, untouched until the send has ended, and how many of them have gone.
    pub(super) sending: Vec<u8>,
    pub(super) sent: usize,
    /// What is to be sent next.
    pub(super) queued: Vec<u8>,
    /// Listed among the connections with something to send.
    pub(super) dirty: bool,
    pub(super) send_limit: usize,
    /// Why sending failed.
    pub(super) reason: Option<CloseReason>,
    /// The address in an unfinished connect, which the kernel reads.
    pub(super) target: Option<Box<SocketAddress>>,
}

impl Slot {
    pub(super) fn queued_bytes(&self) -> usize {
        self.sending.len() - self.sent + self.queued.len()
    }

    pub(super) fn is_sending(&self) -> bool {
        !self.sending.is_empty()
    }
}

/// All connections of a reactor, and the send buffers that they share when idle.
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    limit: u32,
    spares: Vec<Vec<u8>>,
}

impl Table {
    pub(super) fn new(limit: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit, spares: Vec::new() }
    }

    /// Whether all places are taken, by open connections or by closed ones that the kernel has not let go.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= self.limit as usize
    }

    /// Number of open connections, and of closed ones that the kernel has not let go.
    pub(super) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a place; `None` when the table is full (the socket is closed).
    pub(super) fn insert(
        &mut self,
        socket: TcpStream,
        peer: SocketAddr,
        state: State,
        limit: usize,
    ) -> Option<ConnectionId> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.is_full() => return None,
            None => {
                self.slots.push(Slot {
                    generation: 1,
                    state: State::Closed,
                    closing: false,
                    socket: None,
                    peer,
                    operations: 0,
                    receiving: false,
                    sending: Vec::new(),
                    sent: 0,
                    queued: Vec::new(),
                    dirty: false,
                    send_limit: limit,
                    reason: None,
                    target: None,
                });
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        let slot = self.slots.get_mut(index as usize)?;
        slot.state = state;
        slot.closing = false;
        slot.socket = Some(socket);
        slot.peer = peer;
        slot.send_limit = limit;
        slot.reason = None;
        Some(ConnectionId { index, generation: slot.generation })
    }

    /// The slot of an open connection.
    pub(super) fn get(&self, id: ConnectionId) -> Option<&Slot> {
        self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation && slot.state != State::Closed)
    }

    /// The slot of an open connection.
    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(id.index as usize)?;
        (slot.generation == id.generation && slot.state != State::Closed).then_some(slot)
    }

    /// The slot at an index that a completion names, open or not.
    pub(super) fn at(&mut self, index: u32) -> Option<&mut Slot> {
        self.slots.get_mut(index as usize)
    }

    /// The id of whoever has the slot at `index`.
    pub(super) fn id(&self, index: u32) -> Option<ConnectionId> {
        let slot = self.slots.get(index as usize).filter(|slot| slot.state != State::Closed)?;
        Some(ConnectionId { index, generation: slot.generation })
    }

    /// Ends a connection's name; its place stays taken until `release`. False if it is not open.
    pub(super) fn retire(&mut self, id: ConnectionId) -> bool {
        let Some(slot) = self.get_mut(id) else { return false };
        slot.state = State::Closed;
        slot.generation = slot.generation.saturating_add(1);
        slot.dirty = false;
        let queued = std::mem::take(&mut slot.queued);
        self.recycle(queued);
        true
    }

    /// Frees a closed place once the kernel has let go of it, and closes its socket.
    pub(super) fn release(&mut self, index: u32) {
        let Some(slot) = self.at(index) else { return };
        if slot.state != State::Closed || slot.operations > 0 || slot.socket.is_none() {
            return;
        }
        slot.socket = None;
        slot.target = None;
        slot.sent = 0;
        // A generation that cannot grow would name two connections: such a place is given up.
        let reusable = slot.generation < u32::MAX;
        let sending = std::mem::take(&mut slot.sending);
        self.recycle(sending);
        if reusable {
            self.free.push(index);
        }
    }

    /// An empty buffer to queue in.
    pub(super) fn spare(&mut self) -> Vec<u8> {
        self.spares.pop().unwrap_or_default()
    }

    /// Keeps a buffer for later, unless enough are kept or it has grown large.
    pub(super) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if (1..=SPARE_BUFFER_BYTES).contains(&buffer.capacity()) && self.spares.len() < SPARE_BUFFERS {
            buffer.clear();
            self.spares.push(buffer);
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }
}
