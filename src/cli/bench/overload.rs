//! `atlas bench overload`: the command around [`crate::bench::overload`].

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{MAX_BUNDLE, MAX_CLIENTS, PlaceArgs, bench_error, failed, rate};
use crate::bench::overload::{self, Overload, OverloadError};
use crate::bench::workload::{MAX_PAYLOAD, MIN_PAYLOAD};
use crate::cli::args::seconds;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::json_line;

/// The most times the peak that are offered.
const MAX_FACTOR: f64 = 100.0;

/// Arguments of `atlas bench overload`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench overload
  atlas bench overload --bundle 1 --factors 2
  atlas bench overload --forged --json

Starts four replica processes of its own in a temporary directory, finds the peak in a closed loop, then offers more than that in
open loops, and tells what was executed of it, how soon, what was refused and when to try again, and whether all clients were
served alike. With --forged also half of the peak beside a registered client that floods with bad signatures and a stranger that
dials without end. The load takes its share of this host's cores.")]
pub struct OverloadArgs {
    /// Honest clients, each with its own key and session
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..MAX_CLIENTS))]
    pub clients: u16,
    /// Operations under one signature
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=MAX_BUNDLE))]
    pub bundle: u16,
    /// Bytes of an operation
    #[arg(long, value_name = "BYTES", default_value_t = 128,
          value_parser = clap::value_parser!(u16).range(MIN_PAYLOAD as i64..=MAX_PAYLOAD as i64))]
    pub payload: u16,
    /// How many times the peak is offered, one after the other
    #[arg(long, value_name = "TIMES", value_delimiter = ',', default_value = "1.5,2,4", value_parser = factor)]
    pub factors: Vec<f64>,
    /// Also measure beside forgers
    #[arg(long)]
    pub forged: bool,
    /// Forged bundles a second
    #[arg(long, value_name = "N", default_value = "5000", value_parser = rate)]
    pub forged_rate: f64,
    /// How long each step counts
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// How long each runs before that without counting
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub warmup: Duration,
    /// Seed of the operations
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub place: PlaceArgs,
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(factor) if factor > 0.0 && factor <= MAX_FACTOR => Ok(factor),
        _ => Err(format!("a number above 0 and up to {MAX_FACTOR}")),
    }
}

/// `atlas bench overload`.
///
/// # Errors
/// The cluster does not run or serve, or a signal came.
pub(super) fn overload(args: &OverloadArgs, out: &mut impl Write) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let settings = Overload {
        bundle: usize::from(args.bundle),
        payload: usize::from(args.payload),
        measured: args.seconds,
        warm_up: args.warmup,
        factors: args.factors.clone(),
        forged: args.forged.then_some(args.forged_rate),
        seed: args.seed,
    };
    let temporary = args.place.make()?;
    // One key more: the forger's.
    let keys = usize::from(args.clients) + 1;
    let (mut local, target) = args.place.start(&temporary, keys, Vec::new(), &interrupt)?;
    let report = overload::run(target, &settings, &interrupt);
    local.check().map_err(failed)?;
    let report = report.map_err(|error| match error {
        OverloadError::Bench(error) => bench_error(error),
        other => failed(other),
    })?;
    local.stop().map_err(failed)?;
    if args.json {
        json_line(out, &report)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(())
}
