//! `atlas bench history`: the command around [`crate::bench::history`].

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{ONE_AT_A_TIME, PlaceArgs, SATURATING, Shape, bench_error, failed};
use crate::bench::history::{self, RECEIPT_CLIENTS, Report, Round};
use crate::bench::run::{self, Measured, Settings, Target};
use crate::cli::args::seconds;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::json_line;
use crate::local::LocalOptions;

/// Most rounds of a comparison.
const MAX_ROUNDS: i64 = 100;
const PAYLOAD: usize = 128;
const WARM_UP: Duration = Duration::from_secs(1);

/// Arguments of `atlas bench history`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench history
  atlas bench history --rounds 5 --seconds 10 --json

Starts replica processes of its own in temporary directories: in turn such as always, and such that hash, keep and cosign no
history, each under the loads of `bench throughput` and `bench latency`. Then receipts are asked for, one after the other, at
half of the throughput that was found: the time from an operation's reply until its receipt is there and verified.")]
pub struct HistoryArgs {
    /// How often each is measured, in turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=MAX_ROUNDS))]
    pub rounds: u16,
    /// How long each counts
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub place: PlaceArgs,
}

fn settings(args: &HistoryArgs, (clients, in_flight, bundle): Shape, rate: Option<f64>) -> Settings {
    Settings {
        reads: false,
        clients: usize::from(clients),
        in_flight: usize::from(in_flight),
        bundle: usize::from(bundle),
        payload: PAYLOAD,
        rate,
        measured: args.seconds,
        warm_up: WARM_UP,
        seed: 1,
    }
}

/// `atlas bench history`.
///
/// # Errors
/// The cluster does not run or serve, or a signal came.
pub(super) fn history(args: &HistoryArgs, out: &mut impl Write) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let temporary = args.place.make()?;
    let floor = run::measure_floor(temporary.path(), args.place.replicas()).map_err(bench_error)?;
    drop(temporary);
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let measure = |shape, without_history| -> Result<Measured, CliError> {
            let temporary = args.place.make()?;
            let settings = settings(args, shape, None);
            let options = LocalOptions { extra_clients: settings.clients, without_history, ..Default::default() };
            let (mut local, target) = args.place.start_with(&temporary, options, &interrupt)?;
            let measured = run::run(target, &settings, floor.clone(), &interrupt);
            local.check().map_err(failed)?;
            let measured = measured.map_err(bench_error)?;
            local.stop().map_err(failed)?;
            Ok(measured)
        };
        rounds.push(Round {
            throughput: [measure(SATURATING, false)?, measure(SATURATING, true)?].map(|it| it.report.ops_per_s),
            latency_us: [measure(ONE_AT_A_TIME, false)?, measure(ONE_AT_A_TIME, true)?]
                .map(|it| it.latencies.value_at_quantile(0.5) as f64 / 1e3),
        });
    }
    let rate = history::median(rounds.iter().map(|round| round.throughput[0])) / 2.0;
    let temporary = args.place.make()?;
    let load = settings(args, SATURATING, Some(rate));
    let options = LocalOptions { extra_clients: load.clients + RECEIPT_CLIENTS, ..Default::default() };
    let (mut local, Target { cluster, mut keys }) = args.place.start_with(&temporary, options, &interrupt)?;
    let asker = keys.split_off(load.clients);
    let target = Target { cluster, keys };
    let receipts = history::receipts(target, asker, &load, floor, &interrupt);
    local.check().map_err(failed)?;
    let receipts = receipts.map_err(bench_error)?;
    local.stop().map_err(failed)?;
    let report = Report::new(&rounds, rate, &receipts);
    if args.json {
        json_line(out, &report)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(())
}
