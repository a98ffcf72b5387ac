//! Bytes arrive whole and in order; bounds hold; nobody pays for another.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::thread;

use super::*;

/// An echo server on a thread of its own, which stops when the waker is used; gives its counters.
fn echo_server(config: ReactorConfig) -> (SocketAddr, Waker, thread::JoinHandle<Counters>) {
    let (to_us, from_server) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        let (mut reactor, address) = listening(&config);
        to_us.send((address, reactor.waker())).unwrap();
        until(&mut reactor, |reactor, event| match event {
            Event::Received { connection, bytes } => {
                reactor.send_with(connection, bytes.len(), |queue| queue.extend_from_slice(&bytes)).unwrap();
                None
            }
            Event::Woken => Some(()),
            _ => None,
        });
        reactor.counters()
    });
    let (address, waker) = from_server.recv().unwrap();
    (address, waker, thread)
}

/// Sends `bytes` on each of `connections` in random pieces and checks what comes back.
fn exchange(address: SocketAddr, config: &ReactorConfig, connections: usize, bytes: usize) {
    let mut numbers = Numbers(7);
    let mut reactor = Reactor::new(config).unwrap();
    let mut open = HashMap::new();
    for _ in 0..connections {
        let length = 1 + numbers.below(bytes);
        let data = numbers.bytes(length);
        open.insert(reactor.connect(address).unwrap(), (data, 0, 0));
    }
    let mut finished = 0;
    until(&mut reactor, |reactor, event| {
        let connection = match &event {
            Event::Connected { connection } | Event::Sent { connection } => *connection,
            Event::Received { connection, bytes } => {
                let (data, _, received) = open.get_mut(connection).unwrap();
                assert_eq!(data.get(*received..*received + bytes.len()), Some(&bytes[..]));
                *received += bytes.len();
                finished += usize::from(*received == data.len());
                return (finished == connections).then_some(());
            }
            other => panic!("{other:?}"),
        };
        let (data, sent, _) = open.get_mut(&connection).unwrap();
        for _ in 0..3 {
            let piece = (1 + numbers.below(5000)).min(data.len() - *sent);
            let range = *sent..*sent + piece;
            reactor.send_with(connection, piece, |queue| queue.extend_from_slice(&data[range])).unwrap();
            *sent += piece;
        }
        None
    });
}

#[test]
fn many_connections_echo_every_byte_in_order() {
    let config = ReactorConfig { max_connections: 400, ..ReactorConfig::default() };
    let (address, waker, server) = echo_server(config.clone());
    exchange(address, &config, 400, 60_000);
    waker.wake();
    let counters = server.join().unwrap();
    assert_eq!(counters.accepted, 400);
    assert_eq!(counters.sent_bytes, counters.received_bytes);
}

#[test]
fn a_dry_ring_of_receive_buffers_recovers() {
    let tiny =
        ReactorConfig { receive_buffers: 2, receive_buffer_bytes: 100, max_connections: 64, ..ReactorConfig::small() };
    let (address, waker, server) = echo_server(tiny.clone());
    exchange(address, &tiny, 64, 20_000);
    waker.wake();
    assert!(server.join().unwrap().starved > 0, "the ring never ran dry");
}

#[test]
fn held_buffers_stop_receiving_and_giving_one_back_resumes_it() {
    let config = ReactorConfig { receive_buffers: 1, receive_buffer_bytes: 4, ..ReactorConfig::small() };
    let (mut reactor, address) = listening(&config);
    let mut peer = plain(address);
    peer.write_all(b"abcdefgh").unwrap();
    let received = |_: &mut Reactor, event| match event {
        Event::Received { bytes, .. } => Some(bytes),
        _ => None,
    };
    let mut held = until(&mut reactor, received);
    settle(&mut reactor, |reactor| reactor.counters().starved > 0);
    held[0] = b'X';
    assert_eq!(&held[..], b"Xbcd");
    drop(held);
    let rest = until(&mut reactor, received);
    assert_eq!(&rest[..], b"efgh");
    drop(reactor);
    assert_eq!(&rest[..], b"efgh", "a buffer outlives its reactor");
}

#[test]
fn a_send_queue_is_bounded_and_a_slow_reader_hurts_only_itself() {
    const BOUND: usize = 64 * 1024;
    let config = ReactorConfig { send_queue_bytes: BOUND, ..ReactorConfig::small() };
    let (mut reactor, address) = listening(&config);
    let slow = plain(address);
    let to_slow = accept(&mut reactor);
    let mut quick = plain(address);
    let to_quick = accept(&mut reactor);

    let mut pieces = 0u64;
    let mut full_turns = 0;
    while full_turns < 3 {
        let put = |queue: &mut Vec<u8>| {
            for _ in 0..125 {
                queue.extend_from_slice(&pieces.to_le_bytes());
            }
        };
        let result = reactor.send_with(to_slow, 1000, put);
        assert!(reactor.queued_bytes(to_slow) <= BOUND);
        if result == Ok(()) {
            pieces += 1;
            continue;
        }
        assert_eq!(result, Err(SendError::Full));
        assert_eq!(reactor.send_with(to_slow, 1000, |_| panic!("filled though full")), Err(SendError::Full));
        let before = reactor.queued_bytes(to_slow);
        for round in 0..20u8 {
            reactor.send_with(to_quick, 1, |queue| queue.push(round)).unwrap();
            until(&mut reactor, |_, event| {
                matches!(event, Event::Sent { connection } if connection == to_quick).then_some(())
            });
            let mut got = [0];
            quick.read_exact(&mut got).unwrap();
            assert_eq!(got, [round]);
        }
        full_turns += i32::from(reactor.queued_bytes(to_slow) == before);
    }

    let reader = thread::spawn(move || read_to_end(&slow));
    until(&mut reactor, |_, event| matches!(event, Event::Sent { connection } if connection == to_slow).then_some(()));
    assert_eq!(reactor.queued_bytes(to_slow), 0);
    reactor.send_with(to_slow, 4, |queue| queue.extend_from_slice(b"last")).unwrap();
    reactor.close_after_flush(to_slow);
    until(&mut reactor, |_, event| matches!(event, Event::Closed { .. }).then_some(()));
    let all = reader.join().unwrap();
    let (numbers, last) = all.split_at(all.len() - 4);
    assert_eq!(last, b"last");
    assert_eq!(numbers.len() as u64, pieces * 1000);
    for (index, piece) in (0u64..).zip(numbers.chunks_exact(1000)) {
        assert!(piece.chunks_exact(8).all(|number| number == index.to_le_bytes()), "piece {index}");
    }
}

#[test]
fn a_fill_beyond_its_hint_is_undone_at_the_bound() {
    let config = ReactorConfig { send_queue_bytes: 10, ..ReactorConfig::small() };
    let (mut reactor, address) = listening(&config);
    let peer = plain(address);
    let connection = accept(&mut reactor);
    reactor.send_with(connection, 4, |queue| queue.extend_from_slice(b"good")).unwrap();
    let result = reactor.send_with(connection, 1, |queue| queue.extend_from_slice(&[0; 7]));
    assert_eq!(result, Err(SendError::Full));
    reactor.set_send_limit(connection, 12);
    reactor.send_with(connection, 8, |queue| queue.extend_from_slice(b", better")).unwrap();
    reactor.close_after_flush(connection);
    reactor.submit().unwrap();
    until(&mut reactor, |_, event| match event {
        Event::Sent { .. } => panic!("a connection that closes says so once"),
        Event::Closed { reason, .. } => {
            assert!(matches!(reason, CloseReason::Asked));
            Some(())
        }
        _ => {
            assert_eq!(read_to_end(&peer), b"good, better");
            peer.shutdown(std::net::Shutdown::Both).unwrap();
            None
        }
    });
}

#[test]
fn what_is_queued_before_a_turn_goes_out_in_one_send() {
    let (mut reactor, address) = listening(&ReactorConfig::small());
    let mut peer = plain(address);
    let connection = accept(&mut reactor);
    for number in 0..100u8 {
        reactor.send_with(connection, 1, |queue| queue.push(number)).unwrap();
    }
    reactor.submit().unwrap();
    let mut got = [0; 100];
    peer.read_exact(&mut got).unwrap();
    assert!(got.iter().copied().eq(0..100));
    assert_eq!(reactor.counters().sends, 1);
}

#[test]
fn addresses_of_version_6_work_alike() {
    let mut reactor = Reactor::new(&ReactorConfig::small()).unwrap();
    let address = match reactor.listen(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0))) {
        Err(NetError::Listen { source, .. }) => {
            let absent = [Some(libc::EADDRNOTAVAIL), Some(libc::EAFNOSUPPORT)];
            assert!(absent.contains(&source.raw_os_error()), "{source}");
            return;
        }
        other => other.unwrap(),
    };
    let id = reactor.connect(address).unwrap();
    reactor.send_with(id, 1, |queue| queue.push(6)).unwrap();
    until(&mut reactor, |_, event| match event {
        Event::Received { bytes, .. } => (bytes[..] == [6]).then_some(()),
        Event::Closed { reason, .. } => panic!("{reason}"),
        _ => None,
    });
}

/// Connections that starved without having anything to receive must all be armed again, not only as many as there
/// are buffers.
#[test]
fn starved_connections_without_data_delay_nobody() {
    let config = ReactorConfig { receive_buffers: 1, ..ReactorConfig::small() };
    let (mut reactor, address) = listening(&config);
    let mut first = plain(address);
    first.write_all(b"1").unwrap();
    let held = until(&mut reactor, |_, event| match event {
        Event::Received { bytes, .. } => Some(bytes),
        _ => None,
    });
    let mut peers: Vec<_> = (0..6).map(|_| plain(address)).collect();
    settle(&mut reactor, |reactor| reactor.counters().accepted == 7 && reactor.counters().starved >= 6);
    peers[5].write_all(b"6").unwrap();
    drop(held);
    let waker = reactor.waker();
    let (_done, finished) = std::sync::mpsc::channel::<()>();
    thread::spawn(move || {
        if finished.recv_timeout(HANG) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            waker.wake();
        }
    });
    loop {
        reactor.wait(None).unwrap();
        match reactor.next_event() {
            Some(Event::Received { bytes, .. }) => break assert_eq!(&bytes[..], b"6"),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
}
