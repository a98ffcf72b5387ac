//! `atlas bench failover`: the command around [`crate::bench::failover`].

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{PlaceArgs, bench_error, cannot_write, create, failed, rate};
use crate::bench::failover::around::{BEFORE_MS, BUCKET_MS};
use crate::bench::failover::fault::Fault;
use crate::bench::failover::report::FaultReport;
use crate::bench::failover::{self, FailoverError, KEYS, MAX_REPETITIONS, Settings, svg};
use crate::bench::report::write_hdr_around;
use crate::bench::run::Target;
use crate::bench::workload::{MAX_PAYLOAD, MIN_PAYLOAD};
use crate::cli::args::seconds_or_none;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;

/// What happens to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Happens {
    /// kill -9
    Kill,
    /// SIGSTOP, and SIGCONT once another one leads
    Stop,
    /// SIGSTOP and SIGCONT in turn: it works for 10 of each 50 ms, for three seconds
    Slow,
    /// All three, one kind after the other
    All,
    /// Nothing: the quiet phase alone
    Quiet,
}

impl Happens {
    fn faults(self) -> Vec<Fault> {
        match self {
            Self::Kill => vec![Fault::Kill],
            Self::Stop => vec![Fault::Stop],
            Self::Slow => vec![Fault::Slow],
            Self::All => Fault::ALL.to_vec(),
            Self::Quiet => Vec::new(),
        }
    }
}

/// Arguments of `atlas bench failover`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench failover
  atlas bench failover --what kill --repetitions 100 --svg failover.svg
  atlas bench failover --what quiet --quiet-seconds 600 --saturated
  atlas bench failover --what quiet --quiet-seconds 3600 --rate 2000 --json

Starts four replica processes of its own in a temporary directory, loads them, and does something to the leader, again
and again; in between the victim comes back and all replicas come to the same sequence. Each repetition yields the
longest time without a commit, as clients see it. In a quiet phase before, and from rest to each fault, nothing is done
to anybody: a view that ends there is a suspicion without cause. What the host itself stalled (no thread ran for
50 ms) is told and does not count. The history
stays whole: an hour at 2,000 operations a second fills some 5 GB in --dir.")]
pub struct FailoverArgs {
    /// What happens to the leader
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Happens::All)]
    pub what: Happens,
    /// How often, each kind
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_REPETITIONS)))]
    pub repetitions: u32,
    /// So many operations a second are due, in all
    #[arg(long, value_name = "OPS", default_value = "1000", value_parser = rate)]
    pub rate: f64,
    /// Bytes of an operation
    #[arg(long, value_name = "BYTES", default_value_t = 128,
          value_parser = clap::value_parser!(u16).range(MIN_PAYLOAD as i64..=MAX_PAYLOAD as i64))]
    pub payload: u16,
    /// How long nothing happens at first; 0 for no such phase
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds_or_none)]
    pub quiet_seconds: Duration,
    /// Load the quiet phase with as much as the cluster takes, not with --rate
    #[arg(long)]
    pub saturated: bool,
    /// Seed of the operations
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Also draw commits, latencies and histograms into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Also write what happened around each kind's fault into this directory, as HDR histogram logs (kill.hlog, ...), for
    /// `atlas plot --timeline`
    #[arg(long, value_name = "DIR")]
    pub hdr: Option<PathBuf>,
    /// Print one JSON object a line, for each kind and for the quiet phase
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `atlas bench failover`.
///
/// # Errors
/// The cluster does not run, serve or come back, or a signal came.
pub(super) fn failover(args: &FailoverArgs, out: &mut impl Write) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let settings = Settings {
        faults: args.what.faults(),
        repetitions: args.repetitions,
        rate: args.rate,
        payload: usize::from(args.payload),
        quiet: args.quiet_seconds,
        saturated: args.saturated,
        seed: args.seed,
    };
    if settings.faults.is_empty() && settings.quiet.is_zero() {
        return Err(CliError::Usage("--what quiet needs --quiet-seconds above 0".to_owned()));
    }
    // Before all the work: a file that cannot be written is told now.
    let svg_file = args.svg.as_deref().map(create).transpose()?;
    if let Some(dir) = &args.hdr {
        std::fs::create_dir_all(dir).map_err(|error| cannot_write(dir, error))?;
    }
    let temporary = args.place.make()?;
    let (mut local, Target { cluster, keys }) = args.place.start(&temporary, KEYS, Vec::new(), &interrupt)?;
    let report = failover::run(&mut local, &cluster, keys, &settings, &interrupt).map_err(|error| match error {
        FailoverError::Bench(error) => bench_error(error),
        FailoverError::Stuck { .. } => CliError::NoQuorum(error.to_string()),
        other => CliError::Failed(other.to_string()),
    })?;
    local.stop().map_err(failed)?;
    if let Some((path, mut file)) = svg_file {
        let drawn = svg::draw(&report).map_err(|error| CliError::failed("cannot draw", error))?;
        file.write_all(drawn.as_bytes()).map_err(|error| cannot_write(path, error))?;
    }
    if let Some(dir) = &args.hdr {
        report.faults.iter().try_for_each(|fault| write_around(dir, fault))?;
    }
    if args.json {
        for line in report.json().map_err(|error| CliError::failed("cannot write JSON", error))? {
            writeln!(out, "{line}")?;
        }
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}

fn write_around(dir: &Path, fault: &FaultReport) -> Result<(), CliError> {
    let path = dir.join(format!("{}.hlog", fault.what.name()));
    let (path, file) = create(&path)?;
    let mut file = BufWriter::new(file);
    let width = Duration::from_millis(BUCKET_MS.unsigned_abs());
    let event = (Duration::from_millis(BEFORE_MS.unsigned_abs()), fault.what.mark());
    let written = write_hdr_around(&mut file, fault.around.ended(), width, fault.around.repetitions(), event);
    written.and_then(|()| file.flush()).map_err(|error| cannot_write(path, error))
}
