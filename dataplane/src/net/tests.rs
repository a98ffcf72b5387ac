//! Tests of the transport on loopback: a reactor under test against plain sockets or against itself.

mod closing;
mod files;
mod host;
mod traffic;

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// No step takes this long: it ends a test that hangs.
const HANG: Duration = Duration::from_secs(60);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn listening(config: &ReactorConfig) -> (Reactor, SocketAddr) {
    let mut reactor = Reactor::new(config).unwrap();
    let address = reactor.listen(loopback()).unwrap();
    (reactor, address)
}

/// A plain socket whose reads fail rather than hang.
fn plain(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream
}

/// Runs the reactor until `handle` gives something.
fn until<T>(reactor: &mut Reactor, mut handle: impl FnMut(&mut Reactor, Event) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        reactor.wait(Some(Duration::from_secs(5))).unwrap();
        while let Some(event) = reactor.next_event() {
            if let Some(found) = handle(reactor, event) {
                return found;
            }
        }
        assert!(start.elapsed() < HANG, "hangs");
    }
}

/// Runs the reactor until `done`, without an event having to come.
fn settle(reactor: &mut Reactor, mut done: impl FnMut(&mut Reactor) -> bool) {
    let start = Instant::now();
    while !done(reactor) {
        reactor.wait(Some(Duration::from_millis(10))).unwrap();
        while reactor.next_event().is_some() {}
        assert!(start.elapsed() < HANG, "hangs");
    }
}

fn accept(reactor: &mut Reactor) -> ConnectionId {
    until(reactor, |_, event| match event {
        Event::Accepted { connection, .. } => Some(connection),
        _ => None,
    })
}

/// A number generator that needs no seed from outside.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

proptest! {
    #[test]
    fn backoff_grows_to_its_cap_and_jitters_within_the_upper_half(jitters in prop::collection::vec(any::<u64>(), 1..40)) {
        let (first, longest) = (Duration::from_millis(10), Duration::from_millis(500));
        let mut backoff = Backoff::new(first, longest);
        let mut whole = first;
        for jitter in jitters {
            let delay = backoff.next_delay(jitter);
            prop_assert!(delay >= whole / 2 && delay <= whole, "{delay:?} of {whole:?}");
            whole = (whole * 2).min(longest);
        }
        backoff.reset();
        prop_assert!(backoff.next_delay(u64::MAX) <= first);
    }
}

#[test]
fn backoff_survives_extreme_delays() {
    let mut backoff = Backoff::new(Duration::MAX, Duration::ZERO);
    for jitter in [0, u64::MAX] {
        assert!(backoff.next_delay(jitter) >= Duration::MAX / 2);
    }
}

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    let base = ReactorConfig::small();
    let wrong = [
        ("max_connections", ReactorConfig { max_connections: 0, ..base.clone() }),
        ("receive_buffers", ReactorConfig { receive_buffers: 3, ..base.clone() }),
        ("receive_buffer_bytes", ReactorConfig { receive_buffer_bytes: 0, ..base.clone() }),
        ("send_queue_bytes", ReactorConfig { send_queue_bytes: 0, ..base }),
    ];
    for (name, config) in wrong {
        match Reactor::new(&config) {
            Err(NetError::Setting { setting, .. }) => assert_eq!(setting, name),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{name} was accepted"),
        }
    }
}
