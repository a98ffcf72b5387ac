//! A hostile flood, from threads of this process over blocking sockets.
//!
//! - The **forger** has a registered client's key. It dials one replica after the other, sends [`BURST`] bundles whose signatures are
//!   random bytes, each of them new and otherwise flawless (so that nothing but the signature tells), and dials the next when it is thrown out.
//! - The **stranger** has a key that nobody knows, and goes through the handshake again and again, [`DIALS_PER_SECOND`] times at most.
//!
//! Both are held to a rate, so that what they take of a shared host's cores is known and told.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::keys::KeyError;
use atlas_dataplane::crypto::link::{LinkError, LinkIdentity};
use atlas_dataplane::crypto::session::Session;
use atlas_dataplane::types::{Digest, PublicKey, Signature};
use atlas_dataplane::wire::bundle::{Bundle, OPEN_SESSION, Request};
use atlas_dataplane::wire::frame::{Kind, Sender};
use atlas_dataplane::wire::message::{self, Submit, WireBundle};
use rand_core::{OsRng, RngCore};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::cli::time::now_ms;

/// Forged bundles on one connection, sent at once.
pub const BURST: u64 = 64;
/// Handshakes of the stranger in a second at most.
pub const DIALS_PER_SECOND: f64 = 200.0;
/// How long a replica may take to answer or to close before the next one is dialled.
const PATIENCE: Duration = Duration::from_millis(500);
/// The longest nap, so that an end is noticed.
const NAP: Duration = Duration::from_millis(20);

/// Why there is no flood.
#[derive(Debug, thiserror::Error)]
pub enum FloodError {
    /// The stranger's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The links.
    #[error("cannot prepare the flood's links: {0}")]
    Link(#[from] LinkError),
    /// An address.
    #[error("cannot find {address}: {source}")]
    Address {
        /// Which.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// A thread.
    #[error("cannot run a thread for the flood: {0}")]
    Thread(#[source] io::Error),
    /// The forger reached nobody, so its flood says nothing.
    #[error("the forger could not send a single bundle: do the replicas take its key?")]
    Nothing,
}

/// What a flood did.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Flooded {
    /// Bundles with bad signatures that were sent.
    pub bundles: u64,
    /// The same a second.
    pub bundles_per_s: f64,
    /// Times that the forger was let in.
    pub forger_links: u64,
    /// Times that the stranger went through a handshake.
    pub stranger_dials: u64,
    /// What the flood itself took of a core.
    pub cpu_share: f64,
}

#[derive(Default)]
struct Done {
    bundles: u64,
    links: u64,
    cpu: Duration,
}

/// A flood that goes on until it is stopped or dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    started: Instant,
    forger: Option<JoinHandle<Done>>,
    stranger: Option<JoinHandle<Done>>,
}

/// Where a replica is.
struct Place {
    address: std::net::SocketAddr,
    key: PublicKey,
}

impl Flood {
    /// Begins, with `rate` forged bundles a second.
    ///
    /// # Errors
    /// See [`FloodError`].
    pub fn start(cluster: &Cluster, forger: SecretKey, rate: f64) -> Result<Self, FloodError> {
        let places = || cluster.members().iter().map(place).collect::<Result<Vec<_>, _>>();
        let genesis = cluster.genesis();
        let public = forger.public();
        let forger = Dialler { places: places()?, genesis, identity: Arc::new(LinkIdentity::new(forger, genesis)?) };
        let stranger = Arc::new(LinkIdentity::new(SecretKey::generate()?, genesis)?);
        let stranger = Dialler { places: places()?, genesis, identity: stranger };
        let (stop, origin) = (Arc::new(AtomicBool::new(false)), cluster.origin().to_owned());
        let mut flood = Self { stop: Arc::clone(&stop), started: Instant::now(), forger: None, stranger: None };
        let stopped = Arc::clone(&stop);
        let forge = move || run(&stopped, rate / BURST as f64, |number| forge(&forger, &origin, public, number));
        flood.forger = Some(thread::Builder::new().name("forger".into()).spawn(forge).map_err(FloodError::Thread)?);
        let dial = move || {
            run(&stop, DIALS_PER_SECOND, |number| {
                // It is thrown out as soon as it has said who it is: whatever comes, it was there.
                let _ = stranger.dial(number).and_then(|mut line| line.wait_closed());
                Some(0)
            })
        };
        flood.stranger = Some(thread::Builder::new().name("stranger".into()).spawn(dial).map_err(FloodError::Thread)?);
        Ok(flood)
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`FloodError::Nothing`].
    pub fn stop(mut self) -> Result<Flooded, FloodError> {
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.started.elapsed().as_secs_f64();
        let join = |thread: &mut Option<JoinHandle<Done>>| {
            thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
        };
        let (forger, stranger) = (join(&mut self.forger), join(&mut self.stranger));
        if forger.bundles == 0 {
            return Err(FloodError::Nothing);
        }
        Ok(Flooded {
            bundles: forger.bundles,
            bundles_per_s: forger.bundles as f64 / seconds,
            forger_links: forger.links,
            stranger_dials: stranger.links,
            cpu_share: (forger.cpu + stranger.cpu).as_secs_f64() / seconds,
        })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn place(member: &atlas_dataplane::cluster::Member) -> Result<Place, FloodError> {
    let address = (member.address.host.as_str(), member.address.port);
    let found = address.to_socket_addrs().and_then(|mut all| all.next().ok_or(io::ErrorKind::NotFound.into()));
    match found {
        Ok(address) => Ok(Place { address, key: member.link_key }),
        Err(source) => Err(FloodError::Address { address: member.address.to_string(), source }),
    }
}

/// Does something `rate` times a second until it is stopped; it gives the bundles that it sent, or nothing where it did not get so far.
fn run(stop: &AtomicBool, rate: f64, action: impl Fn(u64) -> Option<u64>) -> Done {
    let (start, mut done, mut number) = (Instant::now(), Done::default(), 0u64);
    while !stop.load(Ordering::Relaxed) {
        let due = Duration::from_secs_f64(number as f64 / rate);
        match due.checked_sub(start.elapsed()).filter(|wait| !wait.is_zero()) {
            Some(wait) => thread::sleep(wait.min(NAP)),
            None => {
                if let Some(bundles) = action(number) {
                    done.bundles += bundles;
                    done.links += 1;
                }
                number += 1;
            }
        }
    }
    let cpu = clock_gettime(ClockId::ThreadCPUTime);
    done.cpu = Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec.unsigned_abs() as u32);
    done
}

/// Sends a burst to one of the replicas; the bundles that left.
fn forge(dialler: &Dialler, origin: &str, key: PublicKey, number: u64) -> Option<u64> {
    let mut line = dialler.dial(number).ok()?;
    let mut out = Vec::new();
    for place in 0..BURST {
        let bundle = forged(origin, key, now_ms() + (number * BURST + place) as i64 % 60_000)?;
        let requests = bundle.requests().map(<[u8]>::to_vec).collect();
        let mut body = Vec::new();
        message::encode(&Submit { bundle: WireBundle { cose: bundle.cose().to_vec(), requests } }, &mut body);
        line.session.send(Kind::Submit, &mut out, |frame| frame.extend_from_slice(&body)).ok()?;
    }
    line.stream.write_all(&out).ok()?;
    let _ = line.wait_closed();
    Some(BURST)
}

/// A bundle that opens a session, whose signature is random.
fn forged(origin: &str, key: PublicKey, time_ms: i64) -> Option<Bundle> {
    let requests = [Request { class: 0, not_after_ms: None, operation: &OPEN_SESSION }.encode()];
    let mut signature = [0; 64];
    OsRng.fill_bytes(&mut signature);
    // A number below the group's order, or the signature is refused before any work was done for it.
    signature[63] &= 0x0f;
    Bundle::sign(origin, key, None, 0, &requests, time_ms, |_| Signature(signature)).ok()
}

struct Dialler {
    places: Vec<Place>,
    genesis: Digest,
    identity: Arc<LinkIdentity>,
}

struct Line {
    stream: TcpStream,
    session: Session,
}

impl Dialler {
    /// Goes through the handshake with one replica after the other.
    fn dial(&self, number: u64) -> io::Result<Line> {
        let place = &self.places[(number % self.places.len() as u64) as usize];
        let stream = TcpStream::connect_timeout(&place.address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut hello = Vec::new();
        let identity = Arc::clone(&self.identity);
        let session = Session::initiator(identity, &self.genesis, 0, place.key, Sender::Server, &mut hello);
        let mut line = Line { stream, session: session.map_err(io::Error::other)? };
        line.stream.write_all(&hello)?;
        while !line.session.is_established() {
            line.read()?;
        }
        Ok(line)
    }
}

impl Line {
    fn read(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        let count = self.stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let mut answer = Vec::new();
        let taken = self.session.receive(&mut chunk[..count], &mut answer, |_| None, |_, _, _| Ok(()));
        taken.map_err(io::Error::other)?;
        self.stream.write_all(&answer)
    }

    /// Reads until the other end closes, or says nothing for a while.
    fn wait_closed(&mut self) -> io::Result<()> {
        loop {
            self.read()?;
        }
    }
}
