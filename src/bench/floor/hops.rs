//! The messages of one ordered request on the fast path, and nothing else.
//!
//! ```text
//! client -> every replica      REQUEST       n
//! leader -> every backup       PRE-PREPARE   n - 1
//! every replica -> every other PREPARE       n (n - 1)
//! every replica -> client      REPLY         n
//! ```
//! With n = 4 that is 23 messages of [`MESSAGE_BYTES`]. A replica votes once it has the request and the leader's
//! proposal, replies once it has the votes of all others, and the client is done at f+1 replies, as with the real
//! protocol; one request is under way at a time.
//!
//! A thread with its own ring stands for each replica's process; the calling thread is the client. All sleep in
//! io_uring between messages. Links are loopback TCP with TCP_NODELAY. A stream keeps its order and every message has
//! the same length, so what has arrived is a count, and a replica's whole state is counts.
//!
//! Every wait ends: the client gives up after [`PATIENCE`], and whoever ends shuts its links, which ends the others.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::ring::{Links, MESSAGE_BYTES, Messenger, Progress};
use super::{FloorError, repeat};

/// How long the client waits for a round.
const PATIENCE: Duration = Duration::from_secs(5);
/// Foreign connections tolerated on a loopback port before giving up.
const MAX_STRANGERS: usize = 8;

/// Measures rounds of `replicas` for `budget`.
pub(super) fn measure(replicas: usize, budget: Duration) -> Result<Histogram<u64>, FloorError> {
    let (client, replica_links) = mesh(replicas).map_err(FloorError::Network)?;
    thread::scope(|scope| {
        let mut threads = Vec::with_capacity(replicas);
        let mut spawned = Ok(());
        for (id, links) in replica_links.into_iter().enumerate() {
            match thread::Builder::new().name(format!("floor-{id}")).spawn_scoped(scope, move || serve(id, links)) {
                Ok(thread) => threads.push(thread),
                Err(error) => spawned = Err(FloorError::Thread(error)),
            }
        }
        let rounds = match spawned {
            Ok(()) => request(client, replicas, budget),
            Err(error) => {
                drop(client);
                Err(error)
            }
        };
        for thread in threads {
            // What stopped a replica is the cause of what the client then saw.
            thread.join().map_err(|_| FloorError::Thread(io::Error::other("a replica's thread panicked")))??;
        }
        rounds
    })
}

/// Connects everyone with everyone: the client's links by replica, and for each replica the client first, then its
/// peers by rising id.
pub(super) fn mesh(replicas: usize) -> io::Result<(Links, Vec<Links>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = Links::default();
    let mut links: Vec<Links> = (0..replicas).map(|_| Links::default()).collect();
    for replica in &mut links {
        let (near, far) = connect(&listener)?;
        client.push(near);
        replica.push(far);
    }
    // Pairs (low, high) in this order reach every list by rising id of the peer.
    for low in 0..replicas {
        for high in low + 1..replicas {
            let (near, far) = connect(&listener)?;
            links[low].push(near);
            links[high].push(far);
        }
    }
    Ok((client, links))
}

fn connect(listener: &TcpListener) -> io::Result<(TcpStream, TcpStream)> {
    let near = TcpStream::connect(listener.local_addr()?)?;
    let own = near.local_addr()?;
    for _ in 0..MAX_STRANGERS {
        let (far, peer) = listener.accept()?;
        // Any process of this host may connect to the port as well.
        if peer == own {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
    Err(io::Error::other("other programs keep connecting to the measurement's port"))
}

/// The client: one request after another to all replicas, each done at f+1 replies.
pub(super) fn request(links: Links, replicas: usize, budget: Duration) -> Result<Histogram<u64>, FloorError> {
    let needed = (replicas - 1) / 3 + 1;
    let mut received = vec![0; replicas];
    let mut messenger = Messenger::new(links, Some(PATIENCE)).map_err(FloorError::Ring)?;
    let mut round = 0;
    repeat(budget, 1, || {
        round += 1;
        for replica in 0..replicas {
            messenger.send(replica).map_err(FloorError::Network)?;
        }
        while received.iter().filter(|bytes| messages(**bytes) >= round).count() < needed {
            match messenger.exchange(&mut received).map_err(FloorError::Network)? {
                Progress::Received => {}
                Progress::Closed => return Err(FloorError::Network(io::ErrorKind::ConnectionAborted.into())),
                Progress::TimedOut => return Err(FloorError::Stalled(PATIENCE)),
            }
        }
        Ok(())
    })
}

fn messages(bytes: u64) -> u64 {
    bytes / MESSAGE_BYTES as u64
}

/// The client's link in a replica's list.
const CLIENT: usize = 0;
/// The leader's link in a backup's list: it has the lowest id.
const LEADER: usize = 1;

/// A replica, until its links close. Replica 0 leads.
fn serve(id: usize, links: Links) -> Result<(), FloorError> {
    let count = links.len();
    let leads = id == 0;
    let mut received = vec![0; count];
    let mut messenger = Messenger::new(links, None).map_err(FloorError::Ring)?;
    let (mut voted, mut replied) = (0, 0);
    loop {
        if matches!(messenger.exchange(&mut received).map_err(FloorError::Network)?, Progress::Closed) {
            return Ok(());
        }
        let proposed = if leads { u64::MAX } else { messages(received[LEADER]).div_ceil(2) };
        let ready = messages(received[CLIENT]).min(proposed);
        while voted < ready {
            voted += 1;
            // The leader's PRE-PREPARE and PREPARE are two messages, as its own vote waits for its disk.
            let copies = if leads { 2 } else { 1 };
            for _ in 0..copies {
                for peer in 1..count {
                    messenger.send(peer).map_err(FloorError::Network)?;
                }
            }
        }
        let votes = (1..count).map(|peer| match peer {
            LEADER if !leads => messages(received[peer]) / 2,
            _ => messages(received[peer]),
        });
        let committed = votes.fold(voted, u64::min);
        while replied < committed {
            replied += 1;
            messenger.send(CLIENT).map_err(FloorError::Network)?;
        }
    }
}
