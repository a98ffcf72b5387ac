//! `atlas bench transfer`: what it takes to bring back a replica that lost its disk, and what the others notice of it.
//!
//! # A run
//! 1. The cluster writes until its history has the size that was asked for, and all replicas have let go of the beginning of their logs.
//! 2. One replica is killed and its data directory removed.
//! 3. Clients send operations at the rate (open loop), first with that replica down: the latency that the others have without it.
//! 4. The replica is started again. It takes history and state from the others while the load goes on: the same latency again.
//! 5. It is told how many bytes came in how much time, from the first question to the state's taking effect, syncs included; and how long it
//!    took from the start until the replica had executed what the others had.
//!
//! # The floor
//! In the same run as many bytes go through a loopback socket of the same host, from one thread to another, in pieces of the same
//! size: no replica can be faster, and that socket does nothing else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::transfer::PIECE_BYTES;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::Plan;
use super::pump::{Pump, Seen};
use super::run::{self, BenchError, DRAIN};
use super::workload::Generator;
use crate::cli::interrupt::Interrupt;
use crate::client::{ClientId, Completion, Driver, ReplicaStatus};
use crate::local::{LocalCluster, LocalError};

/// Clients that load the cluster.
pub const CLIENTS: usize = 16;
/// Keys that [`run()`] needs: one more asks the replicas how they are.
pub const KEYS: usize = CLIENTS + 1;
/// The replica that loses its disk: it leads none of the first views.
const LOST: usize = 3;
/// How long the replica may take until it is back.
const PATIENCE: Duration = Duration::from_secs(300);
const ASK: Duration = Duration::from_secs(2);
/// How often the replicas are asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
const TURN: Duration = Duration::from_millis(20);
/// Sequences that the others may be ahead of a replica that is level with them: what they executed while they were asked.
const LEVEL: u64 = 64;

/// What is to be measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// Size of the history, bytes.
    pub history_bytes: u64,
    /// Operations due a second while the replica comes back.
    pub rate: f64,
    /// Bytes of an operation.
    pub payload: usize,
    /// How long the latency without the replica is measured.
    pub before: Duration,
    /// Seed of the operations.
    pub seed: u64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The load.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The replicas' processes.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The replica's data, or the floor's sockets.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// What failed.
        source: io::Error,
    },
    /// It did not come back.
    #[error("replica {LOST} did not come back within {} s: {said}; see its log", PATIENCE.as_secs())]
    Stuck {
        /// Where it was.
        said: String,
    },
}

impl From<crate::client::Error> for TransferError {
    fn from(error: crate::client::Error) -> Self {
        Self::Bench(error.into())
    }
}

/// The result.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Bytes of history and state that came.
    pub bytes: u64,
    /// How long that took, ms.
    pub transfer_ms: f64,
    /// Bytes a second, in MiB.
    pub mib_per_second: f64,
    /// The same through a loopback socket.
    pub floor_mib_per_second: f64,
    /// The one in units of the other.
    pub of_floor: f64,
    /// From the replica's start until it had executed what the others had, ms.
    pub back_ms: f64,
    /// Operations due a second meanwhile.
    pub rate: f64,
    /// Latency at the others without the replica, ms.
    pub before_p50_ms: f64,
    /// Likewise.
    pub before_p99_ms: f64,
    /// Latency while it came back, ms.
    pub during_p50_ms: f64,
    /// Likewise.
    pub during_p99_ms: f64,
    /// The one in units of the other.
    pub p99_ratio: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.bytes as f64 / f64::from(1 << 20);
        writeln!(f, "a replica without its disk came back under {:.0} operations/s", self.rate)?;
        writeln!(f, "  history and state            {mib:>10.1} MiB in {:.0} ms", self.transfer_ms)?;
        writeln!(f, "  rate                         {:>10.1} MiB/s", self.mib_per_second)?;
        writeln!(f, "  loopback socket, same run    {:>10.1} MiB/s", self.floor_mib_per_second)?;
        writeln!(f, "  rate in units of the floor   {:>10.2}", self.of_floor)?;
        writeln!(f, "  until level with the others  {:>10.0} ms", self.back_ms)?;
        writeln!(f, "latency, ms                           p50        p99")?;
        writeln!(f, "  without the replica          {:>10.2} {:>10.2}", self.before_p50_ms, self.before_p99_ms)?;
        writeln!(f, "  while it came back           {:>10.2} {:>10.2}", self.during_p50_ms, self.during_p99_ms)?;
        write!(f, "  p99 in units of before       {:>10} {:>10.2}", "", self.p99_ratio)
    }
}

/// Runs it against a cluster that serves; `keys` are [`KEYS`] keys of clients that may write everything.
///
/// # Errors
/// See [`TransferError`].
pub fn run(
    local: &mut LocalCluster,
    cluster: &Cluster,
    keys: Vec<SecretKey>,
    settings: &Settings,
    interrupt: &Interrupt,
) -> Result<Report, TransferError> {
    let mut generator = Generator::new(settings.seed, settings.payload).map_err(BenchError::from)?;
    let mut driver = Driver::new(cluster, None, KEYS)?;
    let mut clients = keys.into_iter().map(|key| driver.add_client(key)).collect::<Result<Vec<_>, _>>()?;
    let watcher = clients.pop().ok_or(BenchError::Interrupted)?;
    run::fill(&mut driver, &clients, &mut generator, interrupt)?;
    let mut bench = Bench { local, driver, clients, watcher, generator, settings, interrupt };
    bench.write_history()?;
    bench.local.kill(LOST)?;
    let data = data_of(bench.local, LOST).unwrap_or_default();
    fs::remove_dir_all(&data).map_err(|source| TransferError::Io { doing: "remove the replica's data", source })?;
    let (before_p50_ms, before_p99_ms, _) = bench.load(Some(settings.before))?;
    bench.local.restart(LOST)?;
    let (during_p50_ms, during_p99_ms, back) = bench.load(None)?;
    let (status, back) = back.ok_or_else(|| TransferError::Stuck { said: "no answer".to_owned() })?;
    let counter = |name: &str| status.counters.iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value);
    let (bytes, us) = (counter("transfer.bytes"), counter("transfer.us"));
    let floor_mib_per_second = floor(bytes.max(64 << 20))?;
    let mib_per_second = bytes as f64 / f64::from(1 << 20) / (us.max(1) as f64 / 1e6);
    Ok(Report {
        bytes,
        transfer_ms: us as f64 / 1e3,
        mib_per_second,
        floor_mib_per_second,
        of_floor: mib_per_second / floor_mib_per_second,
        back_ms: back.as_secs_f64() * 1e3,
        rate: settings.rate,
        before_p50_ms,
        before_p99_ms,
        during_p50_ms,
        during_p99_ms,
        p99_ratio: during_p99_ms / before_p99_ms,
    })
}

struct Bench<'a> {
    local: &'a mut LocalCluster,
    driver: Driver,
    clients: Vec<ClientId>,
    watcher: ClientId,
    generator: Generator,
    settings: &'a Settings,
    interrupt: &'a Interrupt,
}

impl Bench<'_> {
    /// Writes until the history is long enough and the logs do not reach back to its beginning.
    fn write_history(&mut self) -> Result<(), TransferError> {
        let plan =
            Plan { clients: CLIENTS, in_flight: 8, bundle: 64, rate: None, warm_up_ns: 0, measured_ns: u64::MAX };
        let goal = self.settings.history_bytes;
        let Self { local, driver, clients, generator, interrupt, .. } = self;
        let mut pump = Pump::new(driver, clients, generator, plan)?;
        let homes: Vec<PathBuf> = (0..).map_while(|index| data_of(local, index)).collect();
        let is_written =
            |data: &PathBuf| !data.join("log/00000000.seg").exists() && size(&data.join("history")) >= goal;
        while !homes.iter().all(is_written) {
            turn(&mut pump, local, interrupt)?;
        }
        drain(&mut pump)?;
        Ok(())
    }

    /// Loads the cluster for so long, or until the replica is back: p50 and p99 in ms, and the replica's status and time then.
    #[allow(clippy::type_complexity, reason = "read once, in the function above")]
    fn load(&mut self, time: Option<Duration>) -> Result<(f64, f64, Option<(ReplicaStatus, Duration)>), TransferError> {
        let plan = Plan {
            clients: CLIENTS,
            in_flight: 256,
            bundle: 1,
            rate: Some(self.settings.rate),
            warm_up_ns: 0,
            measured_ns: u64::MAX,
        };
        let Self { local, driver, clients, watcher, generator, interrupt, .. } = self;
        let mut pump = Pump::new(driver, clients, generator, plan)?;
        let mut latencies = super::latencies().map_err(BenchError::from)?;
        let (start, mut back, mut open, mut asked) = (Instant::now(), None, false, Instant::now());
        let mut said = "no answer".to_owned();
        while time.is_none_or(|time| start.elapsed() < time) && back.is_none() {
            for seen in turn(&mut pump, local, interrupt)? {
                let done = match seen {
                    Seen::Other(done) => done,
                    bundle => {
                        record(&bundle, &mut latencies);
                        continue;
                    }
                };
                open = false;
                let Ok(Completion::Status(statuses)) = done.result else { continue };
                let highest = statuses.iter().flatten().map(|status| status.sequence).max().unwrap_or(0);
                let lost = statuses.into_iter().nth(LOST).flatten();
                let Some(lost) = lost.filter(|_| time.is_none()) else { continue };
                said = format!("sequence {} of {highest}", lost.sequence);
                // The others went on while they were asked.
                if lost.sequence > 0 && lost.sequence + LEVEL >= highest {
                    back = Some((lost, start.elapsed()));
                }
            }
            if start.elapsed() > PATIENCE {
                return Err(TransferError::Stuck { said });
            }
            if !open && time.is_none() && asked.elapsed() >= ASK_EVERY {
                (open, asked) = (true, Instant::now());
                pump.driver().status(*watcher, ASK)?;
            }
        }
        for seen in drain(&mut pump)? {
            record(&seen, &mut latencies);
        }
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        Ok((at(0.5), at(0.99), back))
    }
}

/// A turn of the load; the replicas must live on.
fn turn(pump: &mut Pump<'_>, local: &mut LocalCluster, interrupt: &Interrupt) -> Result<Vec<Seen>, TransferError> {
    let mut seen = Vec::new();
    pump.turn(TURN, |what| seen.push(what))?;
    local.check()?;
    if interrupt.is_set() { Err(BenchError::Interrupted.into()) } else { Ok(seen) }
}

/// Waits for what is under way.
fn drain(pump: &mut Pump<'_>) -> Result<Vec<Seen>, TransferError> {
    pump.close();
    let (deadline, mut seen) = (Instant::now() + DRAIN, Vec::new());
    while pump.load().under_way() > 0 && Instant::now() < deadline {
        pump.turn(TURN, |what| seen.push(what))?;
    }
    Ok(seen)
}

fn record(seen: &Seen, latencies: &mut Histogram<u64>) {
    if let Seen::Bundle(sending, _, end_ns) = seen {
        latencies.saturating_record(end_ns.saturating_sub(sending.from_ns));
    }
}

fn data_of(local: &LocalCluster, index: usize) -> Option<PathBuf> {
    Some(local.replica_file(index)?.parent()?.join("data"))
}

/// Bytes of the files in a directory.
fn size(dir: &std::path::Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

/// What a loopback socket carries, MiB/s.
fn floor(bytes: u64) -> Result<f64, TransferError> {
    let io = |source| TransferError::Io { doing: "measure a loopback socket", source };
    let listener = TcpListener::bind("127.0.0.1:0").map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    let pieces = bytes.div_ceil(PIECE_BYTES as u64);
    let sender = std::thread::spawn(move || -> io::Result<()> {
        let mut socket = TcpStream::connect(address)?;
        let piece = vec![7; PIECE_BYTES];
        (0..pieces).try_for_each(|_| socket.write_all(&piece))
    });
    let (mut socket, _) = listener.accept().map_err(io)?;
    let start = Instant::now();
    let mut piece = vec![0; PIECE_BYTES];
    for _ in 0..pieces {
        socket.read_exact(&mut piece).map_err(io)?;
    }
    let time = start.elapsed();
    sender.join().map_err(|_| io(io::ErrorKind::Other.into()))?.map_err(io)?;
    Ok((pieces * PIECE_BYTES as u64) as f64 / f64::from(1 << 20) / time.as_secs_f64())
}
