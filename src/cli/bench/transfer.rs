//! `atlas bench transfer`: the command around [`crate::bench::transfer`].

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{PlaceArgs, bench_error, failed, rate};
use crate::bench::run::Target;
use crate::bench::transfer::{self, KEYS, Settings, TransferError};
use crate::bench::workload::{MAX_PAYLOAD, MIN_PAYLOAD};
use crate::cli::args::seconds;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::json_line;

/// Arguments of `atlas bench transfer`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench transfer
  atlas bench transfer --history-mib 1024 --rate 2000 --json

Starts four replica processes of its own in a temporary directory, writes a history, takes one replica's disk away, and
starts it again under load: it takes history and state from the others. Beside the rate stands that of a loopback
socket for as many bytes, in the same run; beside the others' latency, what it was without that replica.")]
pub struct TransferArgs {
    /// Size of the history
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub history_mib: u32,
    /// So many operations a second are due meanwhile, in all
    #[arg(long, value_name = "OPS", default_value = "1000", value_parser = rate)]
    pub rate: f64,
    /// Bytes of an operation
    #[arg(long, value_name = "BYTES", default_value_t = 128,
          value_parser = clap::value_parser!(u16).range(MIN_PAYLOAD as i64..=MAX_PAYLOAD as i64))]
    pub payload: u16,
    /// How long the latency without the replica is measured
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub seconds: Duration,
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

/// `atlas bench transfer`.
///
/// # Errors
/// The cluster does not run or serve, the replica does not come back, or a signal came.
pub(super) fn transfer(args: &TransferArgs, out: &mut impl Write) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let settings = Settings {
        history_bytes: u64::from(args.history_mib) << 20,
        rate: args.rate,
        payload: usize::from(args.payload),
        before: args.seconds,
        seed: args.seed,
    };
    let temporary = args.place.make()?;
    let snapshot_mib = u64::from(args.history_mib / 4).clamp(1, 64);
    let agreed = vec![("snapshot_mib", snapshot_mib)];
    let (mut local, Target { cluster, keys }) = args.place.start(&temporary, KEYS, agreed, &interrupt)?;
    let report = transfer::run(&mut local, &cluster, keys, &settings, &interrupt).map_err(|error| match error {
        TransferError::Bench(error) => bench_error(error),
        other => CliError::Failed(other.to_string()),
    })?;
    local.stop().map_err(failed)?;
    if args.json {
        json_line(out, &report)?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(())
}
