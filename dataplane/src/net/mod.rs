//! The transport: bytes over TCP, durable file writes, wake-ups and signals, all in one io_uring per thread.
//!
//! It knows nothing of frames, keys or the protocol. A [`Reactor`] belongs to the thread that made it. Its user calls
//! [`Reactor::wait`], which hands everything queued to the kernel and sleeps until something completes, and then takes
//! the [`Event`]s with [`Reactor::next_event`] until there is none. While handling an event it may queue sends and
//! writes; these start together with the next `wait` (or [`Reactor::submit`]), so a turn costs one system call however
//! many messages it handles. A reactor that has nothing to do sleeps; it has no timer of its own.
//!
//! # Receiving
//! Each connection has one multishot receive, which takes buffers from a ring that all share. [`Event::Received`]
//! carries the buffer itself, to be read (and decrypted) in place; dropping it returns it to the kernel. When the ring
//! runs dry the kernel ends receives (ENOBUFS); their connections are armed again, oldest first and no more at a time
//! than there are buffers, so a flood on some cannot starve the others.
//!
//! # Sending
//! Queued bytes gather in one buffer per connection, and at most one send is with the kernel for each: what gathers
//! meanwhile goes out as the next. What is queued, with the kernel included, is bounded per connection; beyond the
//! bound [`SendError::Full`] comes back, and only that connection is affected. Idle connections hold no send buffer.
//! A peer that acknowledges or takes nothing for `peer_timeout` is closed by the kernel.
//!
//! # States of a connection
//! ```text
//! connect -> Connecting -> Open -> Broken -> Closed -> (free)
//! accept  ---------------> Open ----------> Closed
//! ```
//! Broken: sending failed, what had been received before is still delivered. Closed: the [`ConnectionId`] names nothing
//! any more. The socket, its place in the table and its buffers are used again only when the last operation of the
//! kernel that names them has completed: the socket is shut down and its operations are cancelled first, so that this
//! takes no time that a peer could choose. Ids carry a generation and are never used twice.
//!
//! # Accepting
//! Beyond `max_connections` a connection is accepted, closed and counted. When file descriptors or memory run out,
//! accepting pauses for [`ACCEPT_PAUSE`] and the waiting connections stay in the listen queue.
//!
//! # Files
//! [`Reactor::write`] writes from a page-aligned [`WriteBuffer`] that the reactor shares until the write has completed,
//! so it can be neither changed nor freed under the kernel. With [`Durability::Durable`] the bytes are on stable storage
//! when [`Event::Written`] says so (RWF_DSYNC). Files are registered; buffers too if they fit into the memory that the
//! user may lock, else there is a [`Warning`] and each write pins its pages itself, which is slower and changes nothing
//! else.
//!
//! # Why it is safe
//! Memory that the kernel reads or writes is a send buffer or address in the table, a receive buffer in the pool, a
//! write buffer held by an `Arc`, or the eight bytes of the eventfd. None of it is touched or freed before the
//! completion that ends the operation. A reactor that is dropped cancels all and waits for these completions; should
//! they not come, the memory is leaked.
//!
//! Sources: io_uring(7), io_uring_enter(2), io_uring_register_buf_ring(3), J. Axboe, "io_uring and networking in 2023".

mod backoff;
mod clock;
mod completions;
mod connection;
mod files;
mod memory;
mod probe;
mod reactor;
mod receive;
mod ring;
mod socket;
#[cfg(test)]
mod tests;
mod wake;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use backoff::{Backoff, DEFAULT_FIRST_DELAY, DEFAULT_LONGEST_DELAY};
pub use clock::{ClockState, clock_state};
pub use connection::ConnectionId;
pub use files::{Durability, FileId, MAX_FILES, MAX_WRITE_BUFFERS, MAX_WRITES_IN_FLIGHT, WriteError};
pub use memory::{PAGE_BYTES, WriteBuffer};
pub use probe::{Capabilities, OLDEST_KERNEL, ProbeError, RING_LOCKED_BYTES, probe};
pub use reactor::Reactor;
pub use receive::ReceiveBuffer;
pub use wake::Waker;

/// The most connections that a reactor can be configured to have.
pub const MAX_CONNECTIONS: u32 = 1 << 16;
/// The most receive buffers that a reactor can be configured to have.
pub const MAX_RECEIVE_BUFFERS: u16 = 1 << 13;
/// The largest receive buffer that can be configured, in bytes.
pub const MAX_RECEIVE_BUFFER_BYTES: u32 = 1 << 20;
/// The largest bound that can be configured for what is queued on one connection, in bytes.
pub const MAX_SEND_QUEUE_BYTES: usize = 1 << 30;
/// Listening sockets of one reactor.
pub const MAX_LISTENERS: usize = 16;
/// How long accepting pauses when the system has no file descriptor or no memory for another connection.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection that is closing flushes its queue and waits for the peer to close, at most.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a reactor takes and permits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReactorConfig {
    /// Connections at one time, in both directions, up to [`MAX_CONNECTIONS`].
    pub max_connections: u32,
    /// Number of receive buffers, a power of two up to [`MAX_RECEIVE_BUFFERS`].
    pub receive_buffers: u16,
    /// Size of each in bytes, up to [`MAX_RECEIVE_BUFFER_BYTES`].
    pub receive_buffer_bytes: u32,
    /// Bytes that may be queued on one connection, up to [`MAX_SEND_QUEUE_BYTES`];
    /// [`Reactor::set_send_limit`] changes it for one.
    pub send_queue_bytes: usize,
    /// A peer that acknowledges nothing, or takes nothing, for this long is given up; zero leaves it to the system.
    /// Whole seconds from 4 on are kept exactly.
    pub peer_timeout: Duration,
    /// Register write buffers with the kernel, where they fit into the memory that the user may lock.
    pub registered_memory: bool,
}

impl Default for ReactorConfig {
    /// For a replica: 4 MiB of receive buffers.
    fn default() -> Self {
        Self {
            max_connections: 4096,
            receive_buffers: 256,
            receive_buffer_bytes: 16 * 1024,
            send_queue_bytes: 4 << 20,
            peer_timeout: Duration::from_secs(20),
            registered_memory: true,
        }
    }
}

impl ReactorConfig {
    /// For a client: a few connections and 512 KiB of receive buffers.
    pub fn small() -> Self {
        Self { max_connections: 64, receive_buffers: 32, registered_memory: false, ..Self::default() }
    }

    fn check(&self) -> Result<(), NetError> {
        let rules = [
            ("max_connections", (1..=MAX_CONNECTIONS).contains(&self.max_connections), "1 to 65536"),
            (
                "receive_buffers",
                self.receive_buffers.is_power_of_two() && self.receive_buffers <= MAX_RECEIVE_BUFFERS,
                "a power of two up to 8192",
            ),
            (
                "receive_buffer_bytes",
                (1..=MAX_RECEIVE_BUFFER_BYTES).contains(&self.receive_buffer_bytes),
                "1 byte to 1 MiB",
            ),
            ("send_queue_bytes", (1..=MAX_SEND_QUEUE_BYTES).contains(&self.send_queue_bytes), "1 byte to 1 GiB"),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((setting, _, rule)) => Err(NetError::Setting { setting, rule }),
            None => Ok(()),
        }
    }
}

/// Something that happened. The buffer in it, if any, is owned: hold it no longer than needed.
#[derive(Debug)]
pub enum Event {
    /// A peer has connected.
    Accepted {
        /// The new connection.
        connection: ConnectionId,
        /// The other end's address.
        peer: SocketAddr,
    },
    /// A connection that was begun with [`Reactor::connect`] stands.
    Connected {
        /// The connection.
        connection: ConnectionId,
    },
    /// Bytes have come in, at least one.
    Received {
        /// From where.
        connection: ConnectionId,
        /// The bytes, in the buffer into which the kernel wrote them.
        bytes: ReceiveBuffer,
    },
    /// All that was queued has been handed to the kernel.
    Sent {
        /// The connection whose queue is empty.
        connection: ConnectionId,
    },
    /// The connection has ended, by no call of [`Reactor::close`]; its id names nothing any more.
    Closed {
        /// The id that it had.
        connection: ConnectionId,
        /// Why it ended.
        reason: CloseReason,
    },
    /// A write or sync has completed.
    Written {
        /// What the caller named it.
        token: u64,
        /// Bytes written, 0 for a sync. Fewer than asked for means that the file system took no more (a full disk).
        result: io::Result<usize>,
    },
    /// A signal that [`Reactor::handle_signals`] named has arrived.
    Signal(i32),
    /// A [`Waker`] was used, once or more often.
    Woken,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed it.
    #[error("closed by the peer")]
    Peer,
    /// [`Reactor::close_after_flush`] asked for it.
    #[error("closed as asked")]
    Asked,
    /// It could not be established.
    #[error("could not connect: {0}")]
    Connect(io::Error),
    /// The system ended it: reset by the peer, unreachable, timed out.
    #[error("connection lost: {0}")]
    Lost(io::Error),
}

/// Why bytes were not queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// The peer takes them more slowly than they come.
    #[error("the connection's send queue is full")]
    Full,
    /// The id names no open connection, or one that is closing.
    #[error("the connection is closed")]
    Closed,
}

/// Why the transport cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The host does not let us use io_uring.
    #[error(transparent)]
    Unsupported(#[from] ProbeError),
    /// A setting is out of bounds.
    #[error("the transport's setting {setting} is out of bounds: it must be {rule}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What holds for it.
        rule: &'static str,
    },
    /// Another socket listens there.
    #[error("{address} is already in use: stop the program that listens there, or configure another port")]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There are as many listening sockets as there may be.
    #[error("more than {MAX_LISTENERS} listening sockets")]
    TooManyListeners,
    /// [`Reactor::stop_accepting`] was called, and that is for good.
    #[error("this reactor has stopped accepting connections")]
    StoppedAccepting,
    /// There are as many connections as were configured.
    #[error("all {limit} connections are taken: raise max_connections")]
    TooManyConnections {
        /// The configured number.
        limit: u32,
    },
    /// Write buffers were registered before; a reactor does that once.
    #[error("write buffers are registered already")]
    BuffersRegistered,
    /// More write buffers than [`MAX_WRITE_BUFFERS`].
    #[error("more than {MAX_WRITE_BUFFERS} write buffers")]
    TooManyBuffers,
    /// Signals were named before; a reactor does that once.
    #[error("signals are handled already")]
    SignalsHandled,
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Something the operator should know; all works, but less well.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Warning {
    /// Write buffers could not be registered.
    #[error(
        "{bytes} bytes of write buffers do not fit into the limit of locked memory ({limit} bytes for all processes of \
         this user), so durable writes are slower; raise it: LimitMEMLOCK=infinity in the systemd unit, memlock in \
         /etc/security/limits.conf, or ulimit -l in the shell"
    )]
    UnregisteredBuffers {
        /// Bytes that were to be registered.
        bytes: u64,
        /// The limit in force, in bytes.
        limit: u64,
    },
    /// Fewer file descriptors than connections are permitted.
    #[error(
        "only {limit} file descriptors are permitted for up to {connections} connections; raise LimitNOFILE= in the \
         systemd unit or ulimit -n in the shell, or lower max_connections"
    )]
    FewFileDescriptors {
        /// The limit in force.
        limit: u64,
        /// The configured connections.
        connections: u32,
    },
}

/// What a reactor has done since it was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections closed at once because `max_connections` were open.
    pub refused: u64,
    /// Times that accepting failed or paused for want of descriptors or memory, or because the peer had gone.
    pub accept_failures: u64,
    /// Times that a receive ended because no buffer was free.
    pub starved: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Sends begun; with `sent_bytes` it shows how well messages coalesce.
    pub sends: u64,
}
