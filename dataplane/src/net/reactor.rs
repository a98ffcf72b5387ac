//! The reactor: turns calls into operations of the kernel, and their completions into events.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{opcode, squeue};

use super::completions::{Kind, finish_sending};
use super::connection::{ConnectionId, State, Table};
use super::files::Files;
use super::probe::{explain, limit};
use super::receive::{BUFFER_GROUP, ReceivePool};
use super::ring::Ring;
use super::socket::{self, SocketAddress};
use super::wake::{Signals, Waker};
use super::{ACCEPT_PAUSE, CLOSE_TIMEOUT, Counters, Event, MAX_LISTENERS, NetError, ReactorConfig, SendError, Warning};

/// The kernel reads these when the operation starts, so they must outlive the queue.
pub(super) static ACCEPT_PAUSE_TIME: Timespec = timespec(ACCEPT_PAUSE);
static CLOSE_TIME: Timespec = timespec(CLOSE_TIMEOUT);
/// Descriptors besides those of connections: ring, eventfd, log, listeners, standard streams.
const OTHER_DESCRIPTORS: u64 = 64;

const fn timespec(duration: Duration) -> Timespec {
    Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos())
}

pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) accepting: bool,
}

/// The transport of one thread; see the module doc.
pub struct Reactor {
    pub(super) ring: Ring,
    pub(super) pool: Rc<ReceivePool>,
    pub(super) table: Table,
    pub(super) listeners: Vec<Listener>,
    /// False once accepting has been stopped.
    pub(super) accepts: bool,
    /// Connections with something to send and no send under way.
    pub(super) dirty: Vec<ConnectionId>,
    /// Connections whose receive has ended for want of buffers or by the kernel's choice, oldest first.
    pub(super) unarmed: VecDeque<ConnectionId>,
    pub(super) files: Files,
    pub(super) waker: Waker,
    /// Where the kernel puts the eventfd's counter.
    pub(super) wake_count: Box<u64>,
    pub(super) signals: Option<Signals>,
    pub(super) warnings: Vec<Warning>,
    pub(super) counters: Counters,
    pub(super) config: ReactorConfig,
    /// How long a wait looks out before it sleeps.
    spin: Duration,
}

impl Reactor {
    /// Takes all memory and the ring. The reactor stays on this thread.
    ///
    /// # Errors
    /// [`NetError::Setting`]; [`NetError::Unsupported`] with what to do about it; [`NetError::System`].
    pub fn new(config: &ReactorConfig) -> Result<Self, NetError> {
        config.check()?;
        let ring = Ring::new().map_err(|error| explain("set up a ring", error))?;
        let pool = ReceivePool::new(config.receive_buffers, config.receive_buffer_bytes)
            .map_err(|source| NetError::System { action: "take memory for receive buffers", source })?;
        pool.register(&ring).map_err(|error| explain("register receive buffers", error))?;
        let files = Files::new(&ring).map_err(|error| explain("register files", error))?;
        let waker = Waker::new().map_err(|source| NetError::System { action: "open an eventfd", source })?;
        let descriptors = limit(libc::RLIMIT_NOFILE);
        let few = descriptors < u64::from(config.max_connections) + OTHER_DESCRIPTORS;
        let warning = Warning::FewFileDescriptors { limit: descriptors, connections: config.max_connections };
        let mut reactor = Self {
            ring,
            pool,
            table: Table::new(config.max_connections),
            listeners: Vec::new(),
            accepts: true,
            dirty: Vec::new(),
            unarmed: VecDeque::new(),
            files,
            waker,
            wake_count: Box::new(0),
            signals: None,
            warnings: if few { vec![warning] } else { Vec::new() },
            counters: Counters::default(),
            config: config.clone(),
            spin: Duration::ZERO,
        };
        reactor.arm_waker();
        Ok(reactor)
    }

    /// Listens on `address`; port 0 lets the system choose. Gives the address it is bound to.
    ///
    /// # Errors
    /// [`NetError::AddressInUse`], [`NetError::Listen`], [`NetError::TooManyListeners`],
    /// [`NetError::StoppedAccepting`].
    pub fn listen(&mut self, address: SocketAddr) -> Result<SocketAddr, NetError> {
        if !self.accepts {
            return Err(NetError::StoppedAccepting);
        }
        if self.listeners.len() >= MAX_LISTENERS {
            return Err(NetError::TooManyListeners);
        }
        let bound = socket::listen(address).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (bound, socket) = bound.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => NetError::AddressInUse { address },
            _ => NetError::Listen { address, source },
        })?;
        self.listeners.push(Listener { socket, accepting: false });
        self.arm_accept(self.listeners.len() - 1);
        Ok(bound)
    }

    /// Accepts no more, on any address, for good; connections go on. Those not yet accepted are reset.
    pub fn stop_accepting(&mut self) {
        self.accepts = false;
        for listener in self.listeners.iter().filter(|listener| listener.accepting) {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(listener.socket.as_raw_fd())).all()).build();
            // SAFETY: a cancellation names no memory.
            unsafe { self.ring.push(entry) };
        }
        self.close_listeners();
    }

    /// Closes them once the kernel accepts on none any more.
    pub(super) fn close_listeners(&mut self) {
        if self.listeners.iter().all(|listener| !listener.accepting) {
            self.listeners.clear();
        }
    }

    /// Begins to connect: [`Event::Connected`] or [`Event::Closed`] follows. Bytes may be queued at once.
    ///
    /// # Errors
    /// [`NetError::TooManyConnections`], or [`NetError::System`] when no socket can be made.
    pub fn connect(&mut self, address: SocketAddr) -> Result<ConnectionId, NetError> {
        let full = NetError::TooManyConnections { limit: self.config.max_connections };
        if self.table.is_full() {
            return Err(full);
        }
        let socket = socket::connecting(address, self.config.peer_timeout)
            .map_err(|source| NetError::System { action: "make a socket", source })?;
        let raw = socket.as_raw_fd();
        let limit = self.config.send_queue_bytes;
        let id = self.table.insert(socket, address, State::Connecting, limit).ok_or(full)?;
        let target = Box::new(SocketAddress::from(address));
        let entry = opcode::Connect::new(Fd(raw), target.as_ptr(), target.bytes()).build();
        if let Some(slot) = self.table.get_mut(id) {
            slot.target = Some(target);
        }
        self.start(Kind::Connect, id.index, entry);
        Ok(id)
    }

    /// Queues bytes: `fill` appends them to what waits to be sent, and all that waits goes out in one send.
    ///
    /// `fill` is not called unless `len_hint` more bytes may be queued, so let the hint be no less than what it
    /// appends, and what it counts or seals stays in step with what is sent.
    ///
    /// # Errors
    /// [`SendError::Full`] when more bytes would be queued than permitted, [`SendError::Closed`]. Nothing was queued.
    pub fn send_with(
        &mut self,
        connection: ConnectionId,
        len_hint: usize,
        fill: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SendError> {
        let slot = self.table.get(connection).filter(|slot| !slot.closing && slot.state != State::Broken);
        let slot = slot.ok_or(SendError::Closed)?;
        if len_hint > slot.send_limit.saturating_sub(slot.queued_bytes()) {
            return Err(SendError::Full);
        }
        let spare = if slot.queued.capacity() == 0 { Some(self.table.spare()) } else { None };
        let slot = self.table.get_mut(connection).ok_or(SendError::Closed)?;
        if let Some(spare) = spare {
            slot.queued = spare;
        }
        let before = slot.queued.len();
        fill(&mut slot.queued);
        if slot.queued_bytes() > slot.send_limit {
            slot.queued.truncate(before);
            return Err(SendError::Full);
        }
        self.mark_dirty(connection);
        Ok(())
    }

    /// Bytes queued and not yet handed to the kernel's socket; 0 for a closed connection.
    pub fn queued_bytes(&self, connection: ConnectionId) -> usize {
        self.table.get(connection).map_or(0, |slot| slot.queued_bytes())
    }

    /// Sets how many bytes may be queued on one connection; what is queued already stays.
    pub fn set_send_limit(&mut self, connection: ConnectionId, bytes: usize) {
        if let Some(slot) = self.table.get_mut(connection) {
            slot.send_limit = bytes.min(super::MAX_SEND_QUEUE_BYTES);
        }
    }

    /// The other end's address; `None` for a closed connection.
    pub fn peer_address(&self, connection: ConnectionId) -> Option<SocketAddr> {
        self.table.get(connection).map(|slot| slot.peer)
    }

    /// Open connections, and closed ones of which the kernel has not let go yet.
    pub fn connections(&self) -> usize {
        self.table.used()
    }

    /// Closes at once and drops what is queued. The id names nothing from now on and no event follows for it.
    pub fn close(&mut self, connection: ConnectionId) {
        let index = connection.index;
        if !self.table.retire(connection) {
            return;
        }
        let Some(slot) = self.table.at(index) else { return };
        let Some(socket) = &slot.socket else { return };
        // Not connected is the only error, and then there is nothing to shut down.
        let _ = socket.shutdown(Shutdown::Both);
        let raw = socket.as_raw_fd();
        if slot.operations > 0 {
            self.start(Kind::Cancel, index, opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(raw)).all()).build());
        } else {
            self.table.release(index);
        }
    }

    /// Sends what is queued, then closes; until then [`Event::Closed`] is to come. Sends are refused from now on and
    /// what is received is dropped, so that a last message reaches a peer that is still sending. After
    /// [`CLOSE_TIMEOUT`] the rest is dropped.
    pub fn close_after_flush(&mut self, connection: ConnectionId) {
        let Some(slot) = self.table.get_mut(connection).filter(|slot| !slot.closing) else { return };
        slot.closing = true;
        if slot.state == State::Open && slot.queued_bytes() == 0 {
            finish_sending(slot.socket.as_ref());
        }
        let entry = opcode::Timeout::new(&raw const CLOSE_TIME).build();
        let tag = Kind::CloseTimeout.tag(connection.index, connection.generation);
        // SAFETY: the time is static.
        unsafe { self.ring.push(entry.user_data(tag)) };
    }

    /// A handle that wakes this reactor from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Has `signals` arrive as [`Event::Signal`]. They are blocked in this thread: call it before other threads start,
    /// which inherit that, or the system may deliver a signal to one of them.
    ///
    /// # Errors
    /// [`NetError::SignalsHandled`] the second time; [`NetError::System`], as when a number is no signal.
    pub fn handle_signals(&mut self, signals: &[i32]) -> Result<(), NetError> {
        if self.signals.is_some() {
            return Err(NetError::SignalsHandled);
        }
        let signals = Signals::new(signals).map_err(|source| NetError::System { action: "handle signals", source })?;
        self.signals = Some(signals);
        self.arm_signals();
        Ok(())
    }

    /// What the operator should know about this reactor's set-up.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Hands what is queued to the kernel without waiting.
    ///
    /// # Errors
    /// [`NetError::System`] when the ring is broken; the reactor cannot go on.
    pub fn submit(&mut self) -> Result<(), NetError> {
        self.flush();
        self.enter(false, None)
    }

    /// Hands what is queued to the kernel, then sleeps until something happens or `timeout` is over (`None`: never;
    /// zero: does not sleep). Take the events with [`Reactor::next_event`]; it does not sleep while some are left.
    ///
    /// # Errors
    /// [`NetError::System`] when the ring is broken; the reactor cannot go on.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<(), NetError> {
        let more_to_arm = self.arm_receives();
        self.flush();
        let sleep = timeout != Some(Duration::ZERO) && !more_to_arm && !self.ring.is_ready();
        if !sleep || self.spin.is_zero() {
            return self.enter(sleep, timeout);
        }
        let looked = self.look_out(timeout.map_or(self.spin, |timeout| timeout.min(self.spin)))?;
        match looked {
            None => Ok(()),
            Some(passed) => {
                let left = timeout.map(|timeout| timeout.saturating_sub(passed));
                self.enter(left != Some(Duration::ZERO), left)
            }
        }
    }

    /// From now on a wait looks out for completions for so long before it sleeps; zero: it sleeps at once.
    pub fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    /// Hands over what is queued and looks for completions without sleeping; `None` once there is one, else how long it looked.
    fn look_out(&mut self, spin: Duration) -> Result<Option<Duration>, NetError> {
        let since = Instant::now();
        loop {
            // A system call only where something is to be handed over or the kernel says that work waits for this thread.
            self.enter(false, None)?;
            let passed = since.elapsed();
            if self.ring.is_ready() {
                return Ok(None);
            }
            if passed >= spin {
                return Ok(Some(passed));
            }
            std::hint::spin_loop();
        }
    }

    fn enter(&mut self, sleep: bool, timeout: Option<Duration>) -> Result<(), NetError> {
        self.ring.enter(sleep, timeout).map_err(|source| NetError::System { action: "wait in io_uring", source })
    }

    /// The next thing that has happened, `None` when there is none at the moment.
    pub fn next_event(&mut self) -> Option<Event> {
        while let Some(completion) = self.ring.pop() {
            let event = self.complete(&completion);
            if event.is_some() {
                return event;
            }
        }
        None
    }

    pub(super) fn registers_memory(&self) -> bool {
        self.config.registered_memory
    }

    /// Starts an operation that names a slot. Memory in `entry` is the slot's, kept until the slot is released.
    pub(super) fn start(&mut self, kind: Kind, index: u32, entry: squeue::Entry) {
        if let Some(slot) = self.table.at(index) {
            slot.operations += 1;
            // SAFETY: what `entry` names is in the slot (address, send buffer) or the pool, and neither is touched or
            // freed while the slot counts the operation; the drop of the reactor waits for its end.
            unsafe { self.ring.push(entry.user_data(kind.tag(index, 0))) };
        }
    }

    pub(super) fn arm_accept(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index).filter(|_| self.accepts) else { return };
        listener.accepting = true;
        let entry = opcode::AcceptMulti::new(Fd(listener.socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: a multishot accept names no memory.
        unsafe { self.ring.push(entry.user_data(Kind::Accept.tag(index as u32, 0))) };
    }

    pub(super) fn arm_receive(&mut self, connection: ConnectionId) {
        let Some(slot) = self.table.get_mut(connection).filter(|slot| !slot.receiving) else { return };
        let Some(socket) = &slot.socket else { return };
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), BUFFER_GROUP).build();
        slot.receiving = true;
        self.start(Kind::Receive, connection.index, entry);
    }

    /// Arms receives that have ended, as many as there are buffers. True when some are left though there were buffers:
    /// those armed may have nothing to receive, so nothing might wake us for the others.
    fn arm_receives(&mut self) -> bool {
        let mut buffers = self.pool.free();
        let any = buffers > 0;
        while buffers > 0
            && let Some(connection) = self.unarmed.pop_front()
        {
            self.arm_receive(connection);
            buffers -= 1;
        }
        any && !self.unarmed.is_empty()
    }

    pub(super) fn arm_waker(&mut self) {
        let target = &raw mut *self.wake_count;
        let entry = opcode::Read::new(Fd(self.waker.raw_fd()), target.cast(), size_of::<u64>() as u32).build();
        // SAFETY: eight bytes on the heap, read by nobody, freed after the drop of the reactor has waited for the end.
        unsafe { self.ring.push(entry.user_data(Kind::Wake.tag(0, 0))) };
    }

    pub(super) fn arm_signals(&mut self) {
        if let Some(signals) = &self.signals {
            let entry = opcode::PollAdd::new(Fd(signals.raw_fd()), libc::POLLIN as u32).build();
            // SAFETY: a poll names no memory.
            unsafe { self.ring.push(entry.user_data(Kind::Signal.tag(0, 0))) };
        }
    }

    pub(super) fn mark_dirty(&mut self, connection: ConnectionId) {
        let Some(slot) = self.table.get_mut(connection) else { return };
        if slot.state == State::Open && !slot.dirty && !slot.is_sending() && !slot.queued.is_empty() {
            slot.dirty = true;
            self.dirty.push(connection);
        }
    }

    /// Starts a send for every connection that has gathered something.
    fn flush(&mut self) {
        let mut dirty = mem::take(&mut self.dirty);
        for connection in dirty.drain(..) {
            if let Some(slot) = self.table.get_mut(connection).filter(|slot| slot.dirty) {
                slot.dirty = false;
                mem::swap(&mut slot.queued, &mut slot.sending);
                self.counters.sends += 1;
                self.start_send(connection);
            }
        }
        self.dirty = dirty;
    }

    pub(super) fn start_send(&mut self, connection: ConnectionId) {
        let Some(slot) = self.table.get(connection) else { return };
        let (Some(socket), Some(rest)) = (&slot.socket, slot.sending.get(slot.sent..)) else { return };
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let bytes = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), rest.as_ptr(), bytes).flags(flags).build();
        self.start(Kind::Send, connection.index, entry);
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        for socket in self.table.slots().filter_map(|slot| slot.socket.as_ref()) {
            // Operations that start after the cancellation end by themselves this way.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let drained = self.ring.drain(|completion| {
            let accepted = Kind::parse(completion.user_data()).is_some_and(|(kind, ..)| kind == Kind::Accept);
            if accepted && completion.result() >= 0 {
                drop(socket::adopt(completion.result()));
            }
        });
        if !drained {
            // The kernel may still read or write these: better never freed than freed too early.
            mem::forget(mem::replace(&mut self.table, Table::new(0)));
            mem::forget(mem::take(&mut self.wake_count));
            mem::forget(Rc::clone(&self.pool));
            self.files.leak();
        }
    }
}
