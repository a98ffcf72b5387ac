//! Making sockets: listening, about to connect, accepted; their options; addresses in the kernel's form.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Connections that may wait to be accepted.
pub(super) const LISTEN_BACKLOG: i32 = 1024;
/// How often an unanswered SYN is repeated: a connect to a silent host fails after about 7 s.
const SYN_RETRIES: i32 = 2;
/// Unanswered keep-alive probes, a fraction of the peer timeout apart.
const KEEPALIVE_PROBES: u32 = 3;

/// A socket address as the kernel reads it.
pub(super) struct SocketAddress {
    storage: libc::sockaddr_storage,
    bytes: libc::socklen_t,
}

impl SocketAddress {
    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub(super) fn bytes(&self) -> libc::socklen_t {
        self.bytes
    }
}

impl From<SocketAddr> for SocketAddress {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: sockaddr_storage is plain integers, for which all bits zero is a value.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let target = &raw mut storage;
        let bytes = match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is large and aligned enough for every kind of address.
                unsafe { target.cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { target.cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, bytes: bytes as libc::socklen_t }
    }
}

/// A listening socket bound to `address`, free to take a port whose last connections are still in TIME_WAIT.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // SAFETY: a plain system call on a socket that we own; on one that listens it only changes the backlog.
    check(unsafe { libc::listen(listener.as_raw_fd(), LISTEN_BACKLOG) })?;
    Ok(listener)
}

/// A socket that is to connect to `address`, with the options that all connections have.
pub(super) fn connecting(address: SocketAddr, peer_timeout: Duration) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call.
    let raw = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    let socket = adopt(raw);
    set_options(&socket, peer_timeout)?;
    set(raw, libc::IPPROTO_TCP, libc::TCP_SYNCNT, SYN_RETRIES)?;
    Ok(socket)
}

/// Takes ownership of a socket that the kernel has just made for us.
pub(super) fn adopt(raw: RawFd) -> TcpStream {
    // SAFETY: the kernel returned this descriptor to us alone, so nobody else closes it.
    TcpStream::from(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// No delay of small sends; and a peer that is gone, or takes nothing at all, is given up after `peer_timeout`.
pub(super) fn set_options(socket: &TcpStream, peer_timeout: Duration) -> io::Result<()> {
    socket.set_nodelay(true)?;
    if peer_timeout.is_zero() {
        return Ok(());
    }
    let whole = |number: u128| i32::try_from(number).unwrap_or(i32::MAX).max(1);
    let interval = whole(u128::from((peer_timeout / (KEEPALIVE_PROBES + 1)).as_secs()));
    let raw = socket.as_raw_fd();
    set(raw, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, whole(peer_timeout.as_millis()))?;
    set(raw, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, interval)?;
    set(raw, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, interval)?;
    set(raw, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_PROBES as i32)?;
    set(raw, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

fn set(raw: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let bytes = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option's value is an int that lives across the call.
    check(unsafe { libc::setsockopt(raw, level, option, (&raw const value).cast(), bytes) }).map(drop)
}

/// The result of a system call that returns -1 and sets errno when it fails.
pub(super) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
