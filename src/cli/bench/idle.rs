//! `atlas bench idle`: the command around [`crate::bench::idle`].

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{PlaceArgs, bench_error, failed};
use crate::bench::idle::{self, IdleError, MAX_FILLED, Settings};
use crate::bench::workload::PROPERTIES;
use crate::cli::args::seconds;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::json_line;

/// Bytes of an operation that writes one property.
const PAYLOAD: usize = 128;

/// Arguments of `atlas bench idle`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench idle
  atlas bench idle --properties 65536 --seconds 60 --json

Starts four replica processes of its own in a temporary directory, writes the properties, goes away, and reads from /proc what
each replica and each of its threads takes while nobody asks anything of it: CPU, wake-ups, anonymous memory.")]
pub struct IdleArgs {
    /// Properties in the store, in sixteens; a cluster takes 65,536 unless it was made for more
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(PROPERTIES..=MAX_FILLED))]
    pub properties: u64,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub seconds: Duration,
    /// How long the replicas have to settle before that
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub settle: Duration,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `atlas bench idle`.
///
/// # Errors
/// The cluster does not run or serve, or a signal came.
pub(super) fn idle(args: &IdleArgs, out: &mut impl Write) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    // The default's limit is what people have; more needs a cluster made for it.
    let properties = args.properties - args.properties % PROPERTIES;
    let agreed = vec![("max_properties", properties.max(65_536))];
    let temporary = args.place.make()?;
    let (mut local, target) = args.place.start(&temporary, 1, agreed, &interrupt)?;
    let settings = Settings { properties, payload: PAYLOAD, settle: args.settle, measured: args.seconds };
    let report = idle::run(&mut local, target, &settings, &interrupt).map_err(|error| match error {
        IdleError::Bench(error) => bench_error(error),
        other => failed(other),
    })?;
    local.stop().map_err(failed)?;
    if args.json {
        json_line(out, &report)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(())
}
