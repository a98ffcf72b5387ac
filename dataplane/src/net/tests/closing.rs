//! Connections that end, in every way and at every moment.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::thread;

use super::super::connection::{State, Table};
use super::*;

#[test]
fn a_port_in_use_is_named() {
    let (mut reactor, address) = listening(&ReactorConfig::small());
    match reactor.listen(address) {
        Err(error @ NetError::AddressInUse { .. }) => assert!(error.to_string().contains(&address.to_string())),
        other => panic!("{other:?}"),
    }
    let foreign = SocketAddr::from(([192, 0, 2, 1], 1));
    assert!(matches!(reactor.listen(foreign), Err(NetError::Listen { address, .. }) if address == foreign));
}

#[test]
fn a_refused_connect_says_why() {
    let (reactor, address) = listening(&ReactorConfig::small());
    drop(reactor);
    let mut reactor = Reactor::new(&ReactorConfig::small()).unwrap();
    let id = reactor.connect(address).unwrap();
    assert_eq!(reactor.peer_address(id), Some(address));
    reactor.send_with(id, 3, |queue| queue.extend_from_slice(b"abc")).unwrap();
    until(&mut reactor, |_, event| match event {
        Event::Closed { connection, reason: CloseReason::Connect(error) } => {
            assert_eq!(connection, id);
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            Some(())
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(reactor.send_with(id, 1, |_| ()), Err(SendError::Closed));
    settle(&mut reactor, |reactor| reactor.connections() == 0);
}

#[test]
fn a_peer_that_leaves_is_noticed_after_its_last_bytes() {
    let (mut reactor, address) = listening(&ReactorConfig::small());
    let mut peer = plain(address);
    peer.write_all(b"bye").unwrap();
    drop(peer);
    let mut got = Vec::new();
    until(&mut reactor, |_, event| match event {
        Event::Received { bytes, .. } => {
            got.extend_from_slice(&bytes);
            None
        }
        Event::Closed { reason, .. } => {
            assert!(matches!(reason, CloseReason::Peer));
            Some(())
        }
        _ => None,
    });
    assert_eq!(got, b"bye");
}

#[test]
fn a_last_message_reaches_a_peer_that_keeps_sending() {
    let (mut reactor, address) = listening(&ReactorConfig::small());
    let peer = plain(address);
    let writer = {
        let mut peer = peer.try_clone().unwrap();
        thread::spawn(move || while peer.write_all(&[1; 10_000]).is_ok() {})
    };
    let reader = thread::spawn(move || {
        let mut got = [0; 7];
        (&peer).read_exact(&mut got).unwrap();
        peer.shutdown(std::net::Shutdown::Both).unwrap();
        got
    });
    let connection = accept(&mut reactor);
    reactor.send_with(connection, 7, |queue| queue.extend_from_slice(b"refused")).unwrap();
    reactor.close_after_flush(connection);
    assert_eq!(reactor.send_with(connection, 1, |_| ()), Err(SendError::Closed));
    until(&mut reactor, |_, event| match event {
        Event::Closed { reason, .. } => {
            assert!(matches!(reason, CloseReason::Asked));
            Some(())
        }
        Event::Received { .. } => panic!("received while closing"),
        _ => None,
    });
    assert_eq!(&reader.join().unwrap(), b"refused");
    writer.join().unwrap();
}

#[test]
fn a_peer_cannot_keep_a_closing_connection() {
    let (mut reactor, address) = listening(&ReactorConfig::small());
    let peer = plain(address);
    let connection = accept(&mut reactor);
    reactor.send_with(connection, 4_000_000, |queue| queue.resize(4_000_000, 0)).unwrap();
    reactor.close_after_flush(connection);
    until(&mut reactor, |_, event| matches!(event, Event::Closed { .. }).then_some(()));
    settle(&mut reactor, |reactor| reactor.connections() == 0);
    drop(peer);
}

#[test]
fn connections_beyond_the_limit_are_closed_and_counted() {
    let config = ReactorConfig { max_connections: 2, ..ReactorConfig::small() };
    let (mut reactor, address) = listening(&config);
    let _first = plain(address);
    let connection = accept(&mut reactor);
    let _second = plain(address);
    accept(&mut reactor);
    let third = plain(address);
    settle(&mut reactor, |reactor| reactor.counters().refused == 1);
    assert_eq!(read_to_end(&third), b"");
    assert!(matches!(reactor.connect(address), Err(NetError::TooManyConnections { limit: 2 })));
    reactor.close(connection);
    settle(&mut reactor, |reactor| reactor.connections() == 1);
    let _fourth = plain(address);
    let reused = accept(&mut reactor);
    assert_eq!(reused.index(), connection.index());
    assert_ne!(reused, connection, "a generation tells them apart");
    reactor.close(connection);
    assert!(reactor.peer_address(reused).is_some(), "an old id closes nothing");
}

#[test]
fn accepting_stops_for_good_and_connections_go_on() {
    let (mut reactor, address) = listening(&ReactorConfig::small());
    let mut peer = plain(address);
    let connection = accept(&mut reactor);
    reactor.stop_accepting();
    settle(&mut reactor, |_| TcpStream::connect(address).is_err());
    reactor.send_with(connection, 2, |queue| queue.extend_from_slice(b"on")).unwrap();
    reactor.submit().unwrap();
    let mut got = [0; 2];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"on");
    assert!(matches!(reactor.listen(loopback()), Err(NetError::StoppedAccepting)));
}

/// Thousands of connections of a reactor to itself, closed by either side at any moment; events name only open ones,
/// and in the end nothing is left.
#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    const CYCLES: usize = 4000;
    let config =
        ReactorConfig { max_connections: 100, receive_buffers: 8, receive_buffer_bytes: 512, ..ReactorConfig::small() };
    let (mut reactor, address) = listening(&config);
    let mut numbers = Numbers(11);
    let mut open = HashSet::new();
    let mut ever = HashSet::new();
    let mut begun = 0;
    let mut turns = 0;
    while begun < CYCLES || !open.is_empty() {
        while begun < CYCLES && open.len() < 50 {
            let Ok(id) = reactor.connect(address) else { break };
            assert!(ever.insert(id), "{id} was used before");
            open.insert(id);
            begun += 1;
            if numbers.below(8) == 0 {
                reactor.close(id);
                open.remove(&id);
            }
        }
        reactor.wait(Some(Duration::from_millis(100))).unwrap();
        while let Some(event) = reactor.next_event() {
            let id = match event {
                Event::Accepted { connection, .. } => {
                    assert!(ever.insert(connection), "{connection} was used before");
                    open.insert(connection);
                    connection
                }
                Event::Connected { connection } | Event::Sent { connection } => connection,
                Event::Received { connection, .. } => connection,
                Event::Closed { connection, .. } => {
                    assert!(open.remove(&connection), "{connection} closed twice");
                    continue;
                }
                other => panic!("{other:?}"),
            };
            assert!(open.contains(&id), "{id} is not open");
            match numbers.below(6) {
                0 => {
                    reactor.close(id);
                    open.remove(&id);
                }
                1 => reactor.close_after_flush(id),
                _ => {
                    let bytes = numbers.below(3000);
                    let _ = reactor.send_with(id, bytes, |queue| queue.resize(queue.len() + bytes, 1));
                }
            }
        }
        turns += 1;
        assert!(turns < 100_000, "hangs with {} open", open.len());
        if begun == CYCLES {
            for id in open.drain() {
                reactor.close(id);
            }
        }
    }
    settle(&mut reactor, |reactor| reactor.connections() == 0);
    let _peer = plain(address);
    accept(&mut reactor);
}

#[test]
fn a_reactor_dropped_in_full_flight_lets_go_of_everything() {
    for round in 0..20 {
        let (mut reactor, address) = listening(&ReactorConfig::small());
        let peers: Vec<_> = (0..10).map(|_| plain(address)).collect();
        for _ in 0..round {
            reactor.connect(address).unwrap();
        }
        for _ in 0..10 {
            let connection = accept(&mut reactor);
            reactor.send_with(connection, 3_000_000, |queue| queue.resize(3_000_000, 0)).unwrap();
        }
        reactor.submit().unwrap();
        drop(reactor);
        assert!(TcpStream::connect(address).is_err(), "the port is free again");
        for peer in peers {
            let mut peer = peer;
            while matches!(peer.read(&mut [0; 65536]), Ok(1..)) {}
        }
    }
}

#[test]
fn a_place_is_not_used_again_before_the_kernel_has_let_go() {
    let listener = std::net::TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut table = Table::new(1);
    let insert = |table: &mut Table| table.insert(plain(address), address, State::Open, 1);
    let id = insert(&mut table).unwrap();
    table.at(id.index).unwrap().operations = 2;
    assert!(table.retire(id));
    assert!(!table.retire(id));
    for left in [1, 0] {
        table.release(id.index);
        assert!(table.is_full());
        assert_eq!(insert(&mut table), None);
        table.at(id.index).unwrap().operations = left;
    }
    table.release(id.index);
    table.release(id.index);
    assert_eq!(table.used(), 0);
    let next = insert(&mut table).unwrap();
    assert_eq!(next.index, id.index);
    assert!(next > id && table.get(id).is_none() && table.get(next).is_some());
}
