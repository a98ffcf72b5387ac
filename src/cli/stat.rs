//! `atlas stat`: a replica's metrics from the file that it keeps them in. The replica is asked nothing, and need not run any more.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atlas_control::mapped::{Measured, Reading};
use atlas_control::metrics::{open_metrics, seconds as in_seconds};
use atlas_dataplane::cluster::control::{METRICS_FILE, RUN_DIRECTORY};
use atlas_dataplane::histogram::{quantile_us, total};
use atlas_dataplane::replica::telemetry::{Kind, Unit};
use clap::Args;
use serde_json::{Map, Value, json};

use super::args::{Format, seconds};
use super::ctl::run_directory;
use super::error::CliError;
use super::output::{Colour, Style, json_line, printable, table};
use super::time::now_ms;
use crate::top::plant::SILENT_MS;
use crate::top::sample::process_runs;

/// Arguments of `atlas stat`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas stat plant/replica-0/data
  atlas stat plant/replica-0/config.toml --filter log_ --watch 1
  atlas stat plant/replica-0/data --openmetrics | promtool check metrics

With --watch counters are shown as what they grew by in a second. docs/metrics.md lists every metric.")]
pub struct StatArgs {
    /// The replica's data directory, its run directory, its configuration file, or the file of metrics
    #[arg(value_name = "DIR")]
    pub place: PathBuf,
    /// Only metrics whose names contain this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// Show them again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", value_parser = seconds, num_args = 0..=1, default_missing_value = "1")]
    pub watch: Option<Duration>,
    /// Print OpenMetrics text
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    pub openmetrics: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// `atlas stat`.
///
/// # Errors
/// No file of metrics there, or one that cannot be read.
pub fn stat(args: &StatArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let file = metrics_file(&args.place)?;
    let mut before: Option<Reading> = None;
    loop {
        let reading = Reading::open(&file).map_err(|error| CliError::Failed(error.to_string()))?;
        if args.openmetrics {
            let series = reading.series.into_iter().filter(|series| series.name.contains(&args.filter)).collect();
            let text = open_metrics(series).map_err(|error| CliError::failed("cannot make the text", error))?;
            return Ok(out.write_all(text.as_bytes())?);
        }
        show(args, &reading, before.as_ref(), out, style)?;
        out.flush()?;
        let Some(pause) = args.watch else { return Ok(()) };
        before = Some(reading);
        std::thread::sleep(pause);
    }
}

/// The file of metrics of what was named: a data or run directory, a configuration, or the file itself.
///
/// # Errors
/// A configuration that cannot be read.
pub(super) fn metrics_file(place: &Path) -> Result<PathBuf, CliError> {
    if place.is_dir() {
        let inner = place.join(RUN_DIRECTORY).join(METRICS_FILE);
        return Ok(if inner.exists() { inner } else { place.join(METRICS_FILE) });
    }
    // A pipe of that name would be waited for.
    match place.extension().is_some_and(|extension| extension == "toml") && place.is_file() {
        true => Ok(run_directory(place)?.join(METRICS_FILE)),
        false => Ok(place.to_owned()),
    }
}

/// Whether the process still runs, and how long ago it published.
fn state(reading: &Reading) -> (bool, u64) {
    let age_ms = u64::try_from(now_ms()).unwrap_or(0).saturating_sub(reading.heartbeat_ms);
    (process_runs(reading.pid), age_ms)
}

fn show(
    args: &StatArgs,
    reading: &Reading,
    before: Option<&Reading>,
    out: &mut impl Write,
    style: Style,
) -> Result<(), CliError> {
    let (runs, age_ms) = state(reading);
    let chosen: Vec<&Measured> = reading.series.iter().filter(|series| series.name.contains(&args.filter)).collect();
    if chosen.is_empty() {
        return Err(CliError::Usage(format!("no metric's name contains {:?}", args.filter)));
    }
    if args.format.json {
        let metrics: Vec<Value> = chosen.iter().map(|series| object(series)).collect();
        let Reading { replica, pid, start_ms, heartbeat_ms, .. } = reading;
        let object = json!({ "replica": replica, "pid": pid, "runs": runs, "start_ms": start_ms, "heartbeat_ms": heartbeat_ms, "metrics": metrics });
        return Ok(json_line(out, &object)?);
    }
    let (colour, word) = match (runs, age_ms < SILENT_MS) {
        (true, true) => (Colour::Green, "runs"),
        (true, false) => (Colour::Yellow, "runs and publishes nothing"),
        (false, _) => (Colour::Red, "does not run any more"),
    };
    let line = format!("replica {} (pid {}) {word}; published {} ms ago", reading.replica, reading.pid, age_ms);
    writeln!(out, "{}", style.paint(colour, &line))?;
    // Of another process nothing can be told from the difference.
    let before = before.filter(|before| before.pid == reading.pid && before.start_ms == reading.start_ms);
    let passed_s = before.map_or(0.0, |before| reading.heartbeat_ms.saturating_sub(before.heartbeat_ms) as f64 / 1e3);
    let rows: Vec<Vec<String>> = chosen
        .iter()
        .map(|series| {
            let old = before.and_then(|before| before.series.iter().find(|old| same(old, series)));
            vec![title(series), text(series, old, passed_s)]
        })
        .collect();
    let columns = if args.watch.is_some() { ["METRIC", "VALUE, COUNTERS A SECOND"] } else { ["METRIC", "VALUE"] };
    Ok(table(out, style, &columns, &rows)?)
}

fn same(a: &Measured, b: &Measured) -> bool {
    a.name == b.name && a.label == b.label
}

fn title(series: &Measured) -> String {
    let label = series.label.as_ref().map_or_else(String::new, |(name, value)| format!("{{{name}={value}}}"));
    printable(&(series.name.clone() + &label))
}

fn number(value: f64, unit: Unit) -> String {
    if unit == Unit::Seconds { format!("{:.6}", value / 1e6) } else { format!("{value:.0}") }
}

fn text(series: &Measured, old: Option<&Measured>, passed_s: f64) -> String {
    let grown = |place: usize| {
        let value = |series: &Measured| series.values.get(place).copied().unwrap_or(0);
        value(series).wrapping_sub(old.map_or(0, value))
    };
    match (series.kind, old) {
        (Kind::Gauge, _) if series.value() == u64::MAX => "unknown".to_owned(),
        (Kind::Gauge, _) => number(series.value() as f64, series.unit),
        (Kind::Counter, Some(_)) if passed_s > 0.0 => format!("{:.1}/s", {
            let grown = grown(0) as f64 / passed_s;
            if series.unit == Unit::Seconds { grown / 1e6 } else { grown }
        }),
        (Kind::Counter, _) => number(series.value() as f64, series.unit),
        (Kind::Histogram, _) => {
            let buckets: Vec<u64> = (1..series.values.len()).map(grown).collect();
            let quantile = |part| quantile_us(&buckets, part).map_or_else(|| "-".to_owned(), |us| format!("{us} us"));
            let count = total(&buckets);
            format!("{count} times, p50 {}, p99 {}, p99.9 {}", quantile(0.5), quantile(0.99), quantile(0.999))
        }
    }
}

fn object(series: &Measured) -> Value {
    let base = |value: u64| if series.unit == Unit::Seconds { json!(in_seconds(value)) } else { json!(value) };
    let mut object = Map::new();
    object.insert("name".into(), series.name.clone().into());
    if let Some((name, value)) = &series.label {
        object.insert("labels".into(), json!({ name: value }));
    }
    if series.kind == Kind::Histogram {
        let quantile = |part| quantile_us(series.buckets(), part).map(in_seconds);
        object.insert("count".into(), total(series.buckets()).into());
        object.insert("sum".into(), base(series.value()));
        for (name, part) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)] {
            object.insert(name.into(), quantile(part).into());
        }
    } else {
        object.insert("value".into(), base(series.value()));
    }
    Value::Object(object)
}
