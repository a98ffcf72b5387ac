//! `atlas cold`: checks what a replica moved to cold storage, and brings it back.

use std::io::Write;
use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::ReplicaConfig;
use atlas_dataplane::history::cold::{self, Cold, ColdError, Ledger, Span};
use atlas_dataplane::log;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::Format;
use super::error::CliError;
use super::output::{Style, json_line, table};

/// The columns of the table.
const COLUMNS: [&str; 4] = ["SEGMENT", "ENTRIES", "BYTES", "RESULT"];

/// Arguments of `atlas cold`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas cold check --config plant/replica-0/config.toml
  atlas cold import --config plant/replica-0/config.toml --from /restored/replica-0

[history] of a replica's configuration says what moves: whole segments that are older than keep_mib of history and keep_days
of agreed time go to the directory `cold`, once they were read back there. Roots and proofs stay with the replica. What was
brought back moves again unless these numbers are raised first, or `cold` is taken out.")]
pub struct ColdArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ColdCommand,
}

/// The commands of `atlas cold`.
#[derive(Subcommand, Debug)]
pub enum ColdCommand {
    /// Read every segment that was moved, and hold each entry against its hash in the data directory; the replica may run
    Check(WhereArgs),
    /// Bring moved segments back into the data directory, each checked first; the replica must not run
    Import(WhereArgs),
}

/// Which segments, and where they are.
#[derive(Args, Debug)]
pub struct WhereArgs {
    /// The replica's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Take the segments (entries-N) from this directory: a backup, or another replica's folder; else from the replica's own
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// This segment only; repeatable
    #[arg(long, value_name = "N")]
    pub segment: Vec<u64>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// A segment as `--json` shows it.
#[derive(Serialize)]
struct Line<'a> {
    segment: u64,
    file: &'a Path,
    /// The first entry; null where it was not found.
    from: Option<u64>,
    /// The first behind it.
    to: Option<u64>,
    bytes: Option<u64>,
    /// What is wrong with it; null where it holds.
    problem: Option<String>,
}

/// `atlas cold`.
///
/// # Errors
/// [`CliError::Proof`] where an entry is not the one of the history, after all segments were looked at; else a segment that is not there, a
/// replica that runs, the configuration, the file system.
pub fn cold(args: &ColdArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let (where_, doing, done) = match &args.command {
        ColdCommand::Check(args) => (args, cold::check as Work, "holds"),
        ColdCommand::Import(args) => (args, cold::bring_back as Work, "is back"),
    };
    let (config, cluster) = ReplicaConfig::load(&where_.config).map_err(|error| CliError::Usage(error.to_string()))?;
    let _held = match &args.command {
        ColdCommand::Import(_) => Some(log::hold(&config.data).map_err(|error| CliError::Failed(error.to_string()))?),
        ColdCommand::Check(_) => None,
    };
    let genesis = cluster.genesis();
    let own = config.history.cold.as_ref().map(|root| Cold::new(root, genesis, config.replica).folder().to_owned());
    let folder = where_.from.clone().or(own).ok_or_else(|| {
        CliError::Usage(format!(
            "{} does not say where cold storage is: set cold in its section [history], or give --from",
            where_.config.display()
        ))
    })?;
    let directory = config.data.join("history");
    let ledger = Ledger::open(&directory, genesis).map_err(|error| CliError::Failed(error.to_string()))?;
    let segments = match where_.segment.is_empty() {
        true => cold::moved(&directory),
        false => where_.segment.clone(),
    };
    let results = segments.iter().map(|segment| (*segment, doing(&ledger, &folder, *segment)));
    let found = show(results, &folder, done, where_.format, out, style)?;
    found.conclude(segments.len(), &folder)
}

type Work = fn(&Ledger, &Path, u64) -> Result<Span, ColdError>;

/// What was wrong.
#[derive(Default)]
struct Found {
    faults: usize,
    /// The first of them.
    first: Option<ColdError>,
    /// One has other entries than the history.
    damaged: bool,
}

impl Found {
    fn conclude(self, segments: usize, folder: &Path) -> Result<(), CliError> {
        let Some(first) = self.first else { return Ok(()) };
        let folder = folder.display();
        let text = format!(
            "{} of {segments} segments in {folder} are not as they must be, the first: {first}; with a good copy (a backup, or another \
             replica's folder) in a directory, `atlas cold import --from` brings it back",
            self.faults
        );
        Err(if self.damaged { CliError::Proof(text) } else { CliError::Failed(text) })
    }
}

fn show(
    results: impl Iterator<Item = (u64, Result<Span, ColdError>)>,
    folder: &Path,
    done: &str,
    format: Format,
    out: &mut impl Write,
    style: Style,
) -> Result<Found, CliError> {
    let (mut found, mut rows) = (Found::default(), Vec::new());
    for (segment, result) in results {
        let problem = result.as_ref().err().map(ToString::to_string);
        let span = result.as_ref().ok().copied();
        if format.json {
            let file = &folder.join(format!("entries-{segment}"));
            let (from, to) = (span.map(|span| span.first), span.map(|span| span.end));
            json_line(out, &Line { segment, file, from, to, bytes: span.map(|span| span.bytes), problem })?;
        } else {
            let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
            rows.push(vec![
                segment.to_string(),
                text(span.map(|span| format!("{} to {}", span.first, span.end.saturating_sub(1)))),
                text(span.map(|span| span.bytes.to_string())),
                problem.unwrap_or_else(|| done.to_owned()),
            ]);
        }
        if let Err(error) = result {
            found.faults += 1;
            found.damaged |= matches!(error, ColdError::Damaged { .. });
            found.first.get_or_insert(error);
        }
    }
    if !format.json {
        match rows.is_empty() {
            true => writeln!(out, "nothing was moved to cold storage")?,
            false => table(out, style, &COLUMNS, &rows)?,
        }
    }
    Ok(found)
}
