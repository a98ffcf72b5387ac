//! What each completion means: the other half of the reactor.

use std::io;
use std::mem;
use std::net::{Shutdown, TcpStream};

use io_uring::{cqueue, opcode};

use super::connection::{ConnectionId, State};
use super::reactor::{ACCEPT_PAUSE_TIME, Reactor};
use super::socket;
use super::wake::Signals;
use super::{CloseReason, Event};

/// What an operation was for; with an index and a generation it makes its user data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Accept = 1,
    AcceptPause,
    Connect,
    Receive,
    Send,
    Cancel,
    CloseTimeout,
    Write,
    Wake,
    Signal,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::Accept,
        Kind::AcceptPause,
        Kind::Connect,
        Kind::Receive,
        Kind::Send,
        Kind::Cancel,
        Kind::CloseTimeout,
        Kind::Write,
        Kind::Wake,
        Kind::Signal,
    ];

    /// Kind in the top byte, then 24 bits of index, then the generation.
    pub(super) fn tag(self, index: u32, generation: u32) -> u64 {
        (self as u64) << 56 | u64::from(index) << 32 | u64::from(generation)
    }

    pub(super) fn parse(tag: u64) -> Option<(Kind, u32, u32)> {
        let kind = Kind::ALL.get(((tag >> 56) as usize).wrapping_sub(1))?;
        Some((*kind, (tag >> 32) as u32 & 0xff_ffff, tag as u32))
    }
}

impl Reactor {
    pub(super) fn complete(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        let (kind, index, generation) = Kind::parse(completion.user_data())?;
        let result = completion.result();
        match kind {
            Kind::Accept => self.on_accept(index as usize, completion),
            Kind::AcceptPause => {
                self.arm_accept(index as usize);
                None
            }
            Kind::Connect => self.on_connect(index, result),
            Kind::Receive => self.on_receive(index, completion),
            Kind::Send => self.on_send(index, result),
            Kind::Cancel => {
                self.end_operation(index);
                None
            }
            Kind::CloseTimeout => {
                let id = ConnectionId { index, generation };
                self.table.get(id)?;
                self.close(id);
                Some(Event::Closed { connection: id, reason: CloseReason::Asked })
            }
            Kind::Write => {
                let token = self.files.completed(index)?;
                Some(Event::Written { token, result: outcome(result) })
            }
            Kind::Wake => {
                self.waker.seen();
                self.arm_waker();
                Some(Event::Woken)
            }
            Kind::Signal => {
                let signal = self.signals.as_ref().and_then(Signals::next);
                self.arm_signals();
                signal.map(Event::Signal)
            }
        }
    }

    fn on_accept(&mut self, listener: usize, completion: &cqueue::Entry) -> Option<Event> {
        let result = completion.result();
        let ended = !cqueue::more(completion.flags());
        if ended && let Some(listener) = self.listeners.get_mut(listener) {
            listener.accepting = false;
        }
        if !self.accepts {
            if result >= 0 {
                drop(socket::adopt(result));
            }
            self.close_listeners();
            return None;
        }
        if result >= 0 {
            if ended {
                self.arm_accept(listener);
            }
            return self.accepted(result);
        }
        self.counters.accept_failures += 1;
        if matches!(-result, libc::ECONNABORTED | libc::EINTR) {
            self.arm_accept(listener);
        } else {
            // Trying again at once would spin: no descriptor has become free.
            let entry = opcode::Timeout::new(&raw const ACCEPT_PAUSE_TIME).build();
            // SAFETY: the time is static.
            unsafe { self.ring.push(entry.user_data(Kind::AcceptPause.tag(listener as u32, 0))) };
        }
        None
    }

    fn accepted(&mut self, raw: i32) -> Option<Event> {
        let socket = socket::adopt(raw);
        if self.table.is_full() {
            self.counters.refused += 1;
            return None;
        }
        let peer = socket::set_options(&socket, self.config.peer_timeout).and_then(|()| socket.peer_addr());
        let Ok(peer) = peer else {
            self.counters.accept_failures += 1;
            return None;
        };
        let connection = self.table.insert(socket, peer, State::Open, self.config.send_queue_bytes)?;
        self.counters.accepted += 1;
        self.arm_receive(connection);
        Some(Event::Accepted { connection, peer })
    }

    fn on_connect(&mut self, index: u32, result: i32) -> Option<Event> {
        let open = self.end_operation(index);
        let slot = self.table.at(index)?;
        slot.target = None;
        let connection = open?;
        if result < 0 {
            return self.ended(connection, CloseReason::Connect(io::Error::from_raw_os_error(-result)));
        }
        slot.state = State::Open;
        if slot.closing && slot.queued.is_empty() {
            finish_sending(slot.socket.as_ref());
        }
        self.arm_receive(connection);
        self.mark_dirty(connection);
        Some(Event::Connected { connection })
    }

    fn on_receive(&mut self, index: u32, completion: &cqueue::Entry) -> Option<Event> {
        let result = completion.result();
        // SAFETY: every completion passes here once, and the kernel names a buffer in one completion only.
        let bytes = cqueue::buffer_select(completion.flags())
            .map(|buffer| unsafe { self.pool.take(buffer, u32::try_from(result).unwrap_or(0)) });
        let ended = !cqueue::more(completion.flags());
        if ended && let Some(slot) = self.table.at(index) {
            slot.receiving = false;
        }
        let connection = if ended { self.end_operation(index) } else { self.table.id(index) }?;
        match result {
            1.. => {
                self.counters.received_bytes += result as u64;
                if ended {
                    self.unarmed.push_back(connection);
                }
                let dropped = self.table.get(connection)?.closing;
                bytes.filter(|_| !dropped).map(|bytes| Event::Received { connection, bytes })
            }
            0 => self.ended(connection, CloseReason::Peer),
            _ => match -result {
                libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {
                    self.counters.starved += u64::from(-result == libc::ENOBUFS);
                    self.unarmed.push_back(connection);
                    None
                }
                error => self.ended(connection, CloseReason::Lost(io::Error::from_raw_os_error(error))),
            },
        }
    }

    fn on_send(&mut self, index: u32, result: i32) -> Option<Event> {
        let connection = self.end_operation(index)?;
        let slot = self.table.get_mut(connection)?;
        match result {
            1.. => {
                self.counters.sent_bytes += result as u64;
                slot.sent += result as usize;
            }
            0 => return self.sending_failed(connection, io::ErrorKind::WriteZero.into()),
            _ if matches!(-result, libc::EINTR | libc::EAGAIN) => {}
            _ => return self.sending_failed(connection, io::Error::from_raw_os_error(-result)),
        }
        if slot.sent < slot.sending.len() {
            self.start_send(connection);
            return None;
        }
        slot.sent = 0;
        let sent = mem::take(&mut slot.sending);
        if !slot.queued.is_empty() {
            self.table.recycle(sent);
            self.mark_dirty(connection);
            return None;
        }
        let empty = mem::take(&mut slot.queued);
        let closing = slot.closing;
        if closing {
            finish_sending(slot.socket.as_ref());
        }
        self.table.recycle(sent);
        self.table.recycle(empty);
        (!closing).then_some(Event::Sent { connection })
    }

    /// Nothing more can be sent. The connection ends when what was received before has been read, which the shutdown
    /// brings about.
    fn sending_failed(&mut self, connection: ConnectionId, error: io::Error) -> Option<Event> {
        let slot = self.table.get_mut(connection)?;
        slot.state = State::Broken;
        slot.reason = Some(CloseReason::Lost(error));
        slot.sent = 0;
        let (sending, queued) = (mem::take(&mut slot.sending), mem::take(&mut slot.queued));
        if let Some(socket) = &slot.socket {
            // Not connected is the only error, and then the receive ends as well.
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.table.recycle(sending);
        self.table.recycle(queued);
        None
    }

    /// The connection has come to its end.
    fn ended(&mut self, connection: ConnectionId, reason: CloseReason) -> Option<Event> {
        let slot = self.table.get_mut(connection)?;
        let reason = if slot.closing { CloseReason::Asked } else { slot.reason.take().unwrap_or(reason) };
        self.close(connection);
        Some(Event::Closed { connection, reason })
    }

    /// Counts the end of an operation that named a slot. Gives the open connection that has it, if any.
    fn end_operation(&mut self, index: u32) -> Option<ConnectionId> {
        let slot = self.table.at(index)?;
        slot.operations = slot.operations.saturating_sub(1);
        self.table.release(index);
        self.table.id(index)
    }
}

/// No more will be sent: the peer sees the end once it has read all.
pub(super) fn finish_sending(socket: Option<&TcpStream>) {
    if let Some(socket) = socket {
        // Not connected is the only error, and then the receive ends as well.
        let _ = socket.shutdown(Shutdown::Write);
    }
}

/// A completion's result as the library has it.
fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
