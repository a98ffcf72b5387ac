//! `atlas bench`: the command around [`crate::bench`].

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use tempfile::TempDir;

use super::args::seconds;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::json_line;
use super::session::{identity, load_cluster};
use crate::bench::report::write_hdr;
use crate::bench::run::{self, BenchError, Measured, Settings, Target};
use crate::bench::workload::{MAX_PAYLOAD, MIN_PAYLOAD};
use crate::local::{LocalCluster, LocalOptions};

mod failover;
mod history;
mod idle;
mod model;
mod overload;
mod transfer;

pub use failover::FailoverArgs;
use failover::failover;
pub use history::HistoryArgs;
use history::history;
pub use idle::IdleArgs;
use idle::idle;
pub use model::ModelArgs;
use model::model;
pub use overload::OverloadArgs;
use overload::overload;
pub use transfer::TransferArgs;
use transfer::transfer;

/// The most clients of a run.
const MAX_CLIENTS: i64 = 256;
/// The most bundles that each keeps under way.
const MAX_IN_FLIGHT: i64 = 1_024;
/// The most operations in a bundle.
const MAX_BUNDLE: i64 = 256;
/// The most replicas of a cluster that the run starts.
const MAX_REPLICAS: i64 = 16;
/// What tmpfs says it is, statfs(2).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Arguments of `atlas bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench latency
  atlas bench throughput --seconds 30 --json
  atlas bench failover --svg failover.svg
  atlas bench overload --forged
  atlas bench model --check --link-gbit 25 --rtt-us 30

Each starts replica processes of its own in a temporary directory, and removes all at the end. `model` works out what others
should reach from what each stage costs here; scripts/bench-peers sets one write at a time beside etcd.")]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: What,
}

/// What is measured.
#[derive(Subcommand, Debug)]
pub enum What {
    /// How long one operation takes: one client, one at a time, unless options say otherwise
    Latency(LoadArgs),
    /// How many operations a second are possible: enough under way to saturate the cluster
    Throughput(LoadArgs),
    /// How long a read of one property takes: one client, one at a time, unless options say otherwise
    Reads(LoadArgs),
    /// How long nothing is committed when the leader is killed, stands still or is slow
    Failover(FailoverArgs),
    /// What the history and its certificates cost, and how soon a receipt is there
    History(HistoryArgs),
    /// How fast a replica that lost its disk comes back, and what the others notice
    Transfer(TransferArgs),
    /// What a replica takes while nobody asks anything of it: CPU, wake-ups, memory
    Idle(IdleArgs),
    /// What happens to work beyond the peak, and to honest work beside forgers
    Overload(OverloadArgs),
    /// What clusters of 4, 7 and 10 should reach here and on servers, from what each stage costs on this host
    Model(ModelArgs),
}

/// Where a bench finds or makes what it measures.
#[derive(Args, Debug)]
pub struct PlaceArgs {
    /// A directory on the disk to measure; a temporary directory is made in it [default: .]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How many replicas [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(4..=MAX_REPLICAS))]
    pub replicas: Option<u8>,
}

/// Arguments of `atlas bench latency`, `atlas bench throughput` and `atlas bench reads`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench latency
  atlas bench throughput --seconds 30 --json
  atlas bench reads --clients 16 --in-flight 8
  atlas bench latency --rate 2000 --clients 8 --in-flight 16 --hdr latency.hlog
  atlas bench throughput --cluster plant/cluster.toml --identity plant/clients/operator.key

Without --cluster it starts four replica processes of its own in a temporary directory, and removes all at the
end. Each operation sets (or reads) one property, uniform over 1,000 twins with 16 properties each, and counts when
f+1 replicas gave the same reply. With --rate the loop is open: latency counts from when a bundle was due. Beside
the result stands the floor of this host, measured in the same run.")]
pub struct LoadArgs {
    /// Clients, each with its own session [default: 1 for latency, 16 for throughput]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_CLIENTS))]
    pub clients: Option<u16>,
    /// Bundles that each client keeps under way [default: 1 for latency, 8 for throughput]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_IN_FLIGHT))]
    pub in_flight: Option<u16>,
    /// Operations under one signature [default: 1 for latency, 64 for throughput]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_BUNDLE))]
    pub bundle: Option<u16>,
    /// Bytes of an operation
    #[arg(long, value_name = "BYTES", default_value_t = 128,
          value_parser = clap::value_parser!(u16).range(MIN_PAYLOAD as i64..=MAX_PAYLOAD as i64))]
    pub payload: u16,
    /// Open loop: so many operations a second are due, in all
    #[arg(long, value_name = "OPS", value_parser = rate)]
    pub rate: Option<f64>,
    /// How long to count
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// How long to run before that without counting
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub warmup: Duration,
    /// Seed of the operations
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Also write all latencies as an HDR histogram log
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Measure this running cluster; every client then signs with the one identity
    #[arg(long, value_name = "FILE", requires = "identity", conflicts_with_all = ["dir", "replicas"])]
    pub cluster: Option<PathBuf>,
    /// The private key file for --cluster
    #[arg(long, value_name = "KEYFILE", requires = "cluster")]
    pub identity: Option<PathBuf>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub place: PlaceArgs,
}

fn rate(text: &str) -> Result<f64, String> {
    const MAX_RATE: f64 = 1e9;
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= MAX_RATE => Ok(rate),
        _ => Err("a number of operations a second above 0 and up to 1e9".to_owned()),
    }
}

/// How a load is shaped unless options say otherwise: clients, bundles in flight for each, operations in a bundle.
type Shape = (u16, u16, u16);

const ONE_AT_A_TIME: Shape = (1, 1, 1);
const SATURATING: Shape = (16, 8, 64);

impl LoadArgs {
    fn settings(&self, (clients, in_flight, bundle): Shape) -> Settings {
        Settings {
            clients: usize::from(self.clients.unwrap_or(clients)),
            in_flight: usize::from(self.in_flight.unwrap_or(in_flight)),
            bundle: usize::from(self.bundle.unwrap_or(bundle)),
            reads: false,
            payload: usize::from(self.payload),
            rate: self.rate,
            measured: self.seconds,
            warm_up: self.warmup,
            seed: self.seed,
        }
    }
}

/// `atlas bench`.
///
/// # Errors
/// The host cannot be measured, the cluster does not run or serve, or a signal came.
pub fn bench(args: &BenchArgs, out: &mut impl Write) -> Result<(), CliError> {
    match &args.what {
        What::Latency(args) => load(args, ONE_AT_A_TIME, false, out),
        What::Throughput(args) => load(args, SATURATING, false, out),
        What::Reads(args) if args.bundle.is_some() => {
            Err(CliError::Usage("--bundle is for writes: a read is of one property".to_owned()))
        }
        What::Reads(args) => load(args, ONE_AT_A_TIME, true, out),
        What::Failover(args) => failover(args, out),
        What::History(args) => history(args, out),
        What::Transfer(args) => transfer(args, out),
        What::Idle(args) => idle(args, out),
        What::Overload(args) => overload(args, out),
        What::Model(args) => model(args, out),
    }
}

fn load(args: &LoadArgs, shape: Shape, reads: bool, out: &mut impl Write) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let settings = Settings { reads, ..args.settings(shape) };
    // Before all the work: a file that cannot be written is told now.
    let hdr = args.hdr.as_deref().map(create).transpose()?;
    let measured = match (&args.cluster, &args.identity) {
        (Some(cluster_file), Some(key_file)) => {
            let cluster = load_cluster(cluster_file)?;
            let keys = (0..settings.clients).map(|_| identity(key_file)).collect::<Result<_, _>>()?;
            let dir = cluster_file.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
            let floor = run::measure_floor(dir, cluster.n()).map_err(bench_error)?;
            run::run(Target { cluster, keys }, &settings, floor, &interrupt).map_err(bench_error)?
        }
        _ => on_own_cluster(args, &settings, &interrupt)?,
    };
    if let Some((path, file)) = hdr {
        let Measured { ref latencies, started, elapsed, .. } = measured;
        write_hdr(&mut BufWriter::new(file), latencies, started, elapsed).map_err(|error| cannot_write(path, error))?;
    }
    if args.json {
        json_line(out, &measured.report)?;
    } else {
        writeln!(out, "{}", measured.report)?;
    }
    Ok(())
}

fn cannot_write(path: &Path, error: std::io::Error) -> CliError {
    CliError::failed(format_args!("cannot write {}", path.display()), error)
}

fn create(path: &Path) -> Result<(&Path, File), CliError> {
    File::create(path).map(|file| (path, file)).map_err(|error| cannot_write(path, error))
}

fn on_own_cluster(args: &LoadArgs, settings: &Settings, interrupt: &Interrupt) -> Result<Measured, CliError> {
    // Removed with all in it when this function is left, on whichever way; the replicas are gone by then.
    let temporary = args.place.make()?;
    let floor = run::measure_floor(temporary.path(), args.place.replicas()).map_err(bench_error)?;
    let (mut local, target) = args.place.start(&temporary, settings.clients, Vec::new(), interrupt)?;
    let measured = run::run(target, settings, floor, interrupt);
    // A replica that died explains a run that failed better than the run does.
    local.check().map_err(failed)?;
    let measured = measured.map_err(bench_error)?;
    local.stop().map_err(failed)?;
    Ok(measured)
}

impl PlaceArgs {
    fn replicas(&self) -> usize {
        usize::from(self.replicas.unwrap_or(4))
    }

    /// The temporary directory.
    fn make(&self) -> Result<TempDir, CliError> {
        let parent = self.dir.clone().unwrap_or_else(|| PathBuf::from("."));
        check_disk(&parent, self.dir.is_some())?;
        tempfile::Builder::new().prefix("atlas-bench-").tempdir_in(&parent).map_err(|error| {
            CliError::failed(
                format_args!("cannot make a directory in {}; choose another with --dir", parent.display()),
                error,
            )
        })
    }

    /// A cluster in it that serves, with some of its settings set, and the keys of so many clients.
    fn start(
        &self,
        temporary: &TempDir,
        clients: usize,
        settings: Vec<(&'static str, u64)>,
        interrupt: &Interrupt,
    ) -> Result<(LocalCluster, Target), CliError> {
        let options = LocalOptions { extra_clients: clients, settings, ..Default::default() };
        self.start_with(temporary, options, interrupt)
    }

    fn start_with(
        &self,
        temporary: &TempDir,
        options: LocalOptions,
        interrupt: &Interrupt,
    ) -> Result<(LocalCluster, Target), CliError> {
        let (clients, interrupt) = (options.extra_clients, Some(interrupt.clone()));
        let options = LocalOptions { interrupt, ..options };
        let dir = temporary.path().join("cluster");
        let local = LocalCluster::start(&dir, self.replicas(), &options).map_err(failed)?;
        let keys = (0..clients).map(|client| identity(&local.extra_client(client))).collect::<Result<_, _>>()?;
        let target = Target { cluster: load_cluster(local.cluster_file())?, keys };
        Ok((local, target))
    }
}

/// A disk in memory makes durable writes look free.
fn check_disk(dir: &Path, chosen: bool) -> Result<(), CliError> {
    let stat = rustix::fs::statfs(dir);
    let stat =
        stat.map_err(|error| CliError::Usage(format!("{}: {error}; choose a directory with --dir", dir.display())))?;
    if u64::try_from(stat.f_type) != Ok(TMPFS_MAGIC) {
        return Ok(());
    }
    if chosen {
        eprintln!("warning: {} lies in memory (tmpfs): no durable write is measured", dir.display());
        return Ok(());
    }
    Err(CliError::Usage("this directory lies in memory (tmpfs); name one on a disk with --dir".to_owned()))
}

/// A failure whose own words are enough.
fn failed(error: impl std::fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

fn bench_error(error: BenchError) -> CliError {
    match error {
        BenchError::NoQuorum(text) => CliError::NoQuorum(text),
        BenchError::Refused { code, detail } => CliError::Refused { code, detail },
        other => CliError::Failed(other.to_string()),
    }
}
