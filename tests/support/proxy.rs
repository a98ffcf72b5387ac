//! What lies between replicas: a TCP proxy for each pair of them, whose two directions can be held or whose links can be cut.
//!
//! The cluster file stays as it is. Each replica finds its peers through `[addresses]` of its own configuration, which names a proxy
//! for each replica that it dials; so each pair has a proxy of its own, and clients pass none. Bytes that are held wait, as with a
//! network that loses packets while TCP repeats them; a link that is cut is closed at both ends, and so is each new one.

use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use atlas_dataplane::cluster::Cluster as ClusterFile;
use atlas_dataplane::types::ReplicaId;

use super::Cluster;

/// Replicas of a cluster under test.
const N: usize = 4;

/// How long a thread sleeps before it looks again whether it may go on.
const LOOK: Duration = Duration::from_millis(2);

/// What is let through between two replicas.
struct Pair {
    dialler: usize,
    dialled: usize,
    /// Whether bytes are held on their way from the dialler, and on their way to it.
    held: [AtomicBool; 2],
    /// Connections made before this number are closed; while it is odd all are.
    cuts: AtomicU64,
    target: OnceLock<SocketAddr>,
    stop: AtomicBool,
    /// Bytes that passed in each direction.
    passed: [AtomicU64; 2],
}

impl Pair {
    fn is_open(&self, cuts: u64) -> bool {
        cuts.is_multiple_of(2) && self.cuts.load(Ordering::SeqCst) == cuts && !self.stop.load(Ordering::SeqCst)
    }
}

/// All proxies of a cluster.
pub struct Net {
    pairs: Vec<(Arc<Pair>, SocketAddr)>,
    threads: Vec<JoinHandle<()>>,
}

impl Net {
    /// A cluster whose replicas reach each other through proxies alone.
    pub fn start() -> (Self, Cluster) {
        let mut net = Self { pairs: Vec::new(), threads: Vec::new() };
        // A replica dials those of lower number.
        for (dialler, dialled) in (0..N).flat_map(|dialler| (0..dialler).map(move |dialled| (dialler, dialled))) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap();
            let pair = Arc::new(Pair {
                dialler,
                dialled,
                held: Default::default(),
                cuts: AtomicU64::new(0),
                target: OnceLock::new(),
                stop: AtomicBool::new(false),
                passed: Default::default(),
            });
            net.pairs.push((Arc::clone(&pair), address));
            net.threads.push(std::thread::spawn(move || serve(&listener, &pair)));
        }
        let cluster = Cluster::start_with(|config| net.route(config));
        (net, cluster)
    }

    /// Has a replica reach those that it dials through their proxies.
    fn route(&self, config: &Path) {
        let home = config.parent().unwrap();
        let dialler: usize =
            home.file_name().unwrap().to_str().unwrap().strip_prefix("replica-").unwrap().parse().unwrap();
        let file = ClusterFile::load(&home.join("../cluster.toml")).unwrap();
        let mut lines = String::from("[addresses]\n");
        for (pair, address) in self.pairs.iter().filter(|(pair, _)| pair.dialler == dialler) {
            let target = file.member(ReplicaId(pair.dialled as u8)).unwrap().address.to_string();
            pair.target.get_or_init(|| target.parse().unwrap());
            writeln!(lines, "replica-{} = \"{address}\"", pair.dialled).unwrap();
        }
        if dialler == 0 {
            // It dials nobody, and its process may just be reading the file.
            return;
        }
        let text = fs::read_to_string(config).unwrap();
        assert!(text.contains("[addresses]\n"), "{text}");
        fs::write(config, text.replacen("[addresses]\n", &lines, 1)).unwrap();
    }

    fn pair(&self, a: usize, b: usize) -> &Pair {
        let wanted = (a.max(b), a.min(b));
        let found = self.pairs.iter().find(|(pair, _)| (pair.dialler, pair.dialled) == wanted);
        &found.expect("two replicas").0
    }

    /// Whether bytes from one replica to another are held.
    pub fn hold(&self, from: usize, to: usize, held: bool) {
        self.pair(from, to).held[usize::from(from < to)].store(held, Ordering::SeqCst);
    }

    /// Closes the link between two replicas, and each new one until [`Net::join`].
    pub fn cut(&self, a: usize, b: usize) {
        self.pair(a, b).cuts.fetch_or(1, Ordering::SeqCst);
    }

    /// Lets two replicas make their link again.
    pub fn join(&self, a: usize, b: usize) {
        let cuts = &self.pair(a, b).cuts;
        cuts.fetch_add(cuts.load(Ordering::SeqCst) % 2, Ordering::SeqCst);
    }

    /// Holds, or lets through, all between replicas of a group and the others.
    pub fn split(&self, group: &[usize], held: bool) {
        for (a, b) in (0..N).flat_map(|a| (0..N).map(move |b| (a, b))) {
            if a != b && group.contains(&a) != group.contains(&b) {
                self.hold(a, b, held);
            }
        }
    }

    /// Bytes that passed from one replica to another.
    pub fn passed(&self, from: usize, to: usize) -> u64 {
        self.pair(from, to).passed[usize::from(from < to)].load(Ordering::SeqCst)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.pairs.iter().for_each(|(pair, _)| pair.stop.store(true, Ordering::SeqCst));
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn serve(listener: &TcpListener, pair: &Arc<Pair>) {
    while !pair.stop.load(Ordering::SeqCst) {
        let Ok((near, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        let cuts = pair.cuts.load(Ordering::SeqCst);
        let far = pair.target.get().map(TcpStream::connect);
        let Some(Ok(far)) = far.filter(|_| pair.is_open(cuts)) else { continue };
        for (direction, from, to) in [(0, &near, &far), (1, &far, &near)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let pair = Arc::clone(pair);
            std::thread::spawn(move || {
                pass(from, to, &pair, direction, cuts);
            });
        }
    }
}

/// Passes bytes in one direction until either end is closed or the link is cut.
fn pass(mut from: TcpStream, mut to: TcpStream, pair: &Pair, direction: usize, cuts: u64) {
    let ready = from.set_nonblocking(false).and_then(|()| from.set_read_timeout(Some(Duration::from_millis(20))));
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let mut bytes = vec![0; 64 << 10];
    while ready.is_ok() && pair.is_open(cuts) {
        let length = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        while pair.held[direction].load(Ordering::SeqCst) && pair.is_open(cuts) {
            std::thread::sleep(LOOK);
        }
        if !pair.is_open(cuts) || to.write_all(&bytes[..length]).is_err() {
            break;
        }
        pair.passed[direction].fetch_add(length as u64, Ordering::SeqCst);
    }
    for end in [&from, &to] {
        let _ = end.shutdown(std::net::Shutdown::Both);
    }
}
