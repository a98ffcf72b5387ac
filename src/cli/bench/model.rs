//! `atlas bench model`: the command around [`crate::bench::model`].

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use atlas_control::mapped::{Measured, Reading};
use atlas_dataplane::cluster::control::{METRICS_FILE, RUN_DIRECTORY};
use clap::Args;

use super::{MAX_CLIENTS, ONE_AT_A_TIME, PlaceArgs, SATURATING, bench_error, failed};
use crate::bench::model::measure::{BUNDLES, SIZES, measure};
use crate::bench::model::report::{Asked, Report};
use crate::bench::report::Environment;
use crate::bench::report::Report as LoadReport;
use crate::bench::run::{self, Settings};
use crate::bench::workload::{MAX_PAYLOAD, MIN_PAYLOAD};
use crate::cli::args::seconds;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::json_line;

/// Replicas of the cluster that the model is held against.
const CHECKED: usize = 4;
const WARM_UP: Duration = Duration::from_secs(1);
/// Most bundles under way.
const MAX_UNDER_WAY: i64 = 65_536;

/// Arguments of `atlas bench model`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench model
  atlas bench model --link-gbit 25 --rtt-us 30 --disk-us 20
  atlas bench model --check --json

Measures what each stage costs on this host by the replica's own code (links, signatures, ordering, log, execution), and works
out what clusters of 4, 7 and 10 should reach: on this host, on servers of 8 to 64 cores as the program is today, and, labelled
as not built, with each stage on cores of its own. The documentation of atlas::bench::model has the formulas.")]
pub struct ModelArgs {
    /// Links of the servers
    #[arg(long, value_name = "GBIT", default_value = "10", value_parser = positive)]
    pub link_gbit: f64,
    /// Round trip between servers, beyond what this host's own stack takes
    #[arg(long, value_name = "MICROSECONDS", default_value = "50", value_parser = not_negative)]
    pub rtt_us: f64,
    /// A durable write on the servers' disks, instead of what this host's disk takes
    #[arg(long, value_name = "MICROSECONDS", value_parser = positive)]
    pub disk_us: Option<f64>,
    /// Bundles under way at the peak
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=MAX_UNDER_WAY))]
    pub under_way: u32,
    /// Clients that they come from
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=MAX_CLIENTS))]
    pub clients: u16,
    /// Bytes of an operation
    #[arg(long, value_name = "BYTES", default_value_t = 128,
          value_parser = clap::value_parser!(u16).range(MIN_PAYLOAD as i64..=MAX_PAYLOAD as i64))]
    pub payload: u16,
    /// How long to measure the costs; and each load, with --check
    #[arg(long, value_name = "SECONDS", default_value = "9", value_parser = seconds)]
    pub seconds: Duration,
    /// Also load four replicas on this host, and print model/measured
    #[arg(long)]
    pub check: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// A directory on the disk to measure; a temporary directory is made in it [default: .]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<std::path::PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    const MOST: f64 = 1e9;
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= MOST => Ok(value),
        _ => Err("a number above 0 and up to 1e9".to_owned()),
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) { Ok(0.0) } else { positive(text) }
}

/// `atlas bench model`.
///
/// # Errors
/// The host cannot be measured; with --check, the cluster does not run or serve, or a signal came.
pub(super) fn model(args: &ModelArgs, out: &mut impl Write) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let place = PlaceArgs { dir: args.dir.clone(), replicas: Some(CHECKED as u8) };
    let temporary = place.make()?;
    let (payload, clients) = (usize::from(args.payload), usize::from(args.clients));
    let costs = measure(&temporary.path().join("model"), payload, clients, args.seconds).map_err(failed)?;
    let asked = Asked {
        payload,
        under_way: f64::from(args.under_way),
        clients: f64::from(args.clients),
        link_gbit: args.link_gbit,
        rtt_us: args.rtt_us,
        disk_us: args.disk_us,
    };
    let mut report = Report::new(asked, costs, &SIZES, Environment::here());
    if args.check {
        for bundle in BUNDLES {
            let (throughput, batch) = load(args, &place, bundle, false, &interrupt)?;
            let (latency, _) = load(args, &place, bundle, true, &interrupt)?;
            let alone_us = latency.p50_us;
            report.check(CHECKED, bundle, throughput.ops_per_s, batch, alone_us);
        }
    }
    if args.json {
        json_line(out, &report)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}

/// Loads a new cluster with bundles of that size, one at a time or as many as the model has under way; also the bundles in a sequence.
fn load(
    args: &ModelArgs,
    place: &PlaceArgs,
    bundle: usize,
    alone: bool,
    interrupt: &Interrupt,
) -> Result<(LoadReport, f64), CliError> {
    let (clients, in_flight, _) = if alone { ONE_AT_A_TIME } else { SATURATING };
    let clients = if alone { usize::from(clients) } else { usize::from(args.clients) };
    let in_flight = if alone { usize::from(in_flight) } else { (args.under_way as usize).div_ceil(clients) };
    let settings = Settings {
        clients,
        in_flight,
        bundle,
        reads: false,
        payload: usize::from(args.payload),
        rate: None,
        measured: args.seconds,
        warm_up: WARM_UP,
        seed: 1,
    };
    let temporary = place.make()?;
    let floor = run::measure_floor(temporary.path(), CHECKED).map_err(bench_error)?;
    let (mut local, target) = place.start(&temporary, clients, Vec::new(), interrupt)?;
    let data = temporary.path().join("cluster/replica-0/data");
    let mut before = Ok(Counts::default());
    let measured = run::run_filled(target, &settings, floor, interrupt, || before = Counts::read(&data));
    local.check().map_err(failed)?;
    let measured = measured.map_err(bench_error)?;
    local.stop().map_err(failed)?;
    let (before, after) = (before?, Counts::read(&data)?);
    let batches = after.batches.saturating_sub(before.batches).max(1);
    Ok((measured.report, after.bundles.saturating_sub(before.bundles) as f64 / batches as f64))
}

/// What a replica executed, as it published last, a tenth of a second ago at most; the file stays when it ends.
#[derive(Clone, Copy, Default)]
struct Counts {
    batches: u64,
    bundles: u64,
}

impl Counts {
    fn read(data: &Path) -> Result<Self, CliError> {
        let reading = Reading::open(&data.join(RUN_DIRECTORY).join(METRICS_FILE)).map_err(failed)?;
        let count = |name: &str| {
            let series = reading.series.iter().find(|series| series.name == name).map(Measured::value);
            series.ok_or_else(|| CliError::Failed(format!("replica 0 publishes no {name}; is it of another version?")))
        };
        Ok(Self { batches: count("atlas_executed_batches")?, bundles: count("atlas_executed_bundles")? })
    }
}
