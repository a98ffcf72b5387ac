//! `atlas plot`: the command around [`crate::plot`].

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::args::Format;
use super::error::CliError;
use super::output::{Style, json_line, table};
use crate::plot::{MAX_RUNS, Numbers, Run, Unit, percentile, time, timeline};

/// The columns of the table.
const COLUMNS: [&str; 9] = ["RUN", "OPERATIONS", "OPS/S", "P50", "P90", "P99", "P99.9", "P99.99", "MAX"];

/// Arguments of `atlas plot`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas bench latency --hdr before.hlog && atlas plot before.hlog -o latency.svg
  atlas plot before.hlog after.hlog --name 'before' --name 'isolated core' -o compared.svg
  atlas bench failover --hdr around && atlas plot --timeline around/kill.hlog -o failover.svg

Reads HDR interval logs: those of atlas bench, or of any tool that writes version 1.3 with compressed V2 histograms. All
intervals of a file count as one run; --timeline shows them one after the other. The numbers are printed as well.")]
pub struct PlotArgs {
    /// HDR interval logs, eight at most
    #[arg(value_name = "FILE", required = true, num_args = 1..=MAX_RUNS)]
    pub files: Vec<PathBuf>,
    /// Where to write the picture, an SVG
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Draw operations a second and latency over time instead of percentiles
    #[arg(long)]
    pub timeline: bool,
    /// What to call the first file, the second, ...; else their names without ending
    #[arg(long, value_name = "TEXT")]
    pub name: Vec<String>,
    /// The picture's title
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// What the logs' values count
    #[arg(long, value_name = "UNIT", value_enum, default_value_t = Unit::Ns)]
    pub unit: Unit,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// `atlas plot`.
///
/// # Errors
/// A file that is no log, more names than files, a picture that cannot be written.
pub fn plot(args: &PlotArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    if args.name.len() > args.files.len() {
        return Err(CliError::Usage(format!("{} names for {} files", args.name.len(), args.files.len())));
    }
    let mut runs = Vec::new();
    for (index, file) in args.files.iter().enumerate() {
        let run = Run::load(file, args.unit).map_err(|error| CliError::Failed(error.to_string()))?;
        let run = match args.name.get(index) {
            Some(name) => run.named(name),
            None => run,
        };
        runs.push(run);
    }
    let (draw, title) = match args.timeline {
        true => (timeline::draw as Draw, "Throughput and latency over time"),
        false => (percentile::draw as Draw, "Latency by percentile"),
    };
    let title = args.title.as_deref().unwrap_or(title);
    let drawn = draw(title, &runs).map_err(|error| CliError::failed("cannot draw", error))?;
    let written = File::create(&args.output).and_then(|mut file| file.write_all(drawn.as_bytes()));
    written.map_err(|error| CliError::failed(format_args!("cannot write {}", args.output.display()), error))?;
    let numbers = runs.iter().map(Numbers::of);
    if args.format.json {
        return Ok(numbers.into_iter().try_for_each(|numbers| json_line(out, &numbers))?);
    }
    let us = |value: f64| time(value * 1e3);
    let row = |numbers: Numbers| {
        let mut cells = vec![numbers.run, numbers.operations.to_string()];
        cells.push(numbers.ops_per_s.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}")));
        let times = [numbers.p50_us, numbers.p90_us, numbers.p99_us, numbers.p999_us, numbers.p9999_us, numbers.max_us];
        cells.extend(times.map(us));
        cells
    };
    let rows: Vec<_> = numbers.map(row).collect();
    Ok(table(out, style, &COLUMNS, &rows)?)
}

type Draw = fn(&str, &[Run]) -> Result<String, std::fmt::Error>;
