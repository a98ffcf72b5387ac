//! `atlas verify`, `atlas audit` and `atlas serve`: evidence in files, without a cluster.

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use atlas_dataplane::history::tlog_policy::{MAX_POLICY, Policy};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::args::Format;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::{Colour, Style, agreed_time, json_line};
use crate::audit::files::read_file;
use crate::audit::run::{self, AuditError, Options, Report};
use crate::audit::serve::Server;
use crate::audit::verify::{self, MAX_FILE, MAX_FILES, Shown};

/// Most threads of an audit.
const MAX_THREADS: i64 = 256;

/// Arguments of `atlas verify`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas verify receipt.tlog-proof --policy plant/policy.txt
  atlas verify state.tlog-proof receipt-*.tlog-proof --policy plant/policy.txt --json

Needs no cluster and no network. The policy is what you trust: get it from who runs the cluster, on a way of your
own, not from who gave you the proof. Files are checked by themselves and together: a property's changes are followed
back from a state proof through the receipts that are given with it. Exit code 5: a proof does not hold.")]
pub struct VerifyArgs {
    /// Checkpoints, receipts, proofs of state and of absence
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The policy (C2SP tlog-policy) that says whose signatures count
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// One of the files must prove that this property was never written
    #[arg(long, num_args = 2, value_names = ["TWIN", "PROPERTY"])]
    pub absent: Option<Vec<String>>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas audit`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas audit export --policy policy.txt
  atlas audit export --policy policy.txt --deep --threads 8

Needs no cluster and no network. Without --deep: every file, hash, entry, checkpoint, the order of times and
the genesis. With it: every client's signature too, and every operation executed again, each outcome and state
root compared. It ends at the first thing that is wrong and names file, entry and byte; exit code 5.")]
pub struct AuditArgs {
    /// The export's directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The policy (C2SP tlog-policy) that says whose signatures count; your own copy, not the export's
    #[arg(long, value_name = "FILE")]
    pub policy: PathBuf,
    /// Check every signature and execute everything again
    #[arg(long)]
    pub deep: bool,
    /// Threads that read, hash and verify [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub threads: Option<u16>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas serve`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  atlas serve export --listen 127.0.0.1:8080

Read-only, GET and HEAD of the files of an export and of nothing else; the layout is C2SP tlog-tiles. On
SIGTERM or SIGINT it ends within five seconds with exit code 0.")]
pub struct ServeArgs {
    /// The export's directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}

fn read_policy(path: &Path) -> Result<Policy, CliError> {
    let wrong = |error: &dyn std::fmt::Display| CliError::Usage(format!("policy {}: {error}", path.display()));
    let bytes = read_file(path, MAX_POLICY).map_err(|error| wrong(&error))?;
    Policy::parse(&bytes).map_err(|error| wrong(&error))
}

fn seconds(time_s: u64) -> String {
    agreed_time(i64::try_from(time_s).unwrap_or(i64::MAX).saturating_mul(1_000))
}

/// What `verify --json` says of all files together.
#[derive(Serialize)]
struct Verified<'a> {
    holds: bool,
    assumption: String,
    files: &'a [Shown],
}

/// What `--json` says where something does not hold.
#[derive(Serialize)]
struct Failed {
    holds: bool,
    error: String,
}

/// `atlas verify`.
///
/// # Errors
/// [`CliError::Proof`] with what does not hold; a file that cannot be read.
pub fn verify(args: &VerifyArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    if args.files.len() > MAX_FILES {
        return Err(CliError::Usage(format!("{} files; at most {MAX_FILES} at a time", args.files.len())));
    }
    let policy = read_policy(&args.policy)?;
    let mut files = Vec::with_capacity(args.files.len());
    for path in &args.files {
        let bytes = read_file(path, MAX_FILE).map_err(|error| CliError::failed(path.display(), error))?;
        files.push((path.display().to_string(), bytes));
    }
    let result = verify::verify(&files, &policy).and_then(|shown| match args.absent.as_deref() {
        Some([twin, property]) if !verify::proves_absent(&files, &policy, twin, property)? => {
            Ok(Err(format!("no file proves that {twin} {property} was never written")))
        }
        _ => Ok(Ok(shown)),
    });
    let shown = match result {
        Ok(Ok(shown)) => shown,
        Ok(Err(error)) => return Err(failed(args.format, error, out)?),
        Err(error) => return Err(failed(args.format, error.to_string(), out)?),
    };
    let assumption = policy.assumption();
    if args.format.json {
        return Ok(json_line(out, &Verified { holds: true, assumption, files: &shown })?);
    }
    for one in &shown {
        writeln!(out, "{} {} ({} of {})", style.paint(Colour::Green, "holds"), one.file, one.kind, one.origin)?;
        for line in &one.proved {
            writeln!(out, "  {line}")?;
        }
        let names: Vec<_> = one.cosigned.iter().map(|it| format!("{} {}", it.name, seconds(it.time_s))).collect();
        let by = one.certified_by_s.map_or_else(String::new, |time| format!("; there by {}", seconds(time)));
        writeln!(out, "  under the checkpoint of {} entries, cosigned by {}{by}", one.size, names.join(", "))?;
    }
    writeln!(out, "True if {assumption}.")?;
    Ok(())
}

/// The error of a proof that does not hold; with `--json` an object says so first.
fn failed(format: Format, error: String, out: &mut impl Write) -> Result<CliError, CliError> {
    if format.json {
        json_line(out, &Failed { holds: false, error: error.clone() })?;
    }
    Ok(CliError::Proof(error))
}

/// `atlas audit`.
///
/// # Errors
/// [`CliError::Proof`] with the first thing that does not hold; a directory or policy that cannot be read.
pub fn audit(args: &AuditArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let policy = read_policy(&args.policy)?;
    let cores = || std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let threads = args.threads.and_then(|threads| NonZero::new(usize::from(threads))).unwrap_or_else(cores);
    let bar = progress_bar(args.format.json);
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let report = run::audit(&args.dir, &policy, Options { deep: args.deep, threads }, &progress);
    bar.finish_and_clear();
    match report {
        Ok(report) if args.format.json => Ok(json_line(out, &report)?),
        Ok(report) => Ok(print_report(&report, out, style)?),
        Err(AuditError::Finding(finding)) => Err(failed(args.format, finding.to_string(), out)?),
        Err(error @ AuditError::Directory { .. }) => Err(CliError::Failed(error.to_string())),
    }
}

pub(super) fn progress_bar(is_quiet: bool) -> ProgressBar {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let is_live = io::stderr().is_terminal() && !dumb && !is_quiet;
    let target = if is_live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    // The template is a constant; indicatif's own stands in should it not be right.
    if let Ok(style) = ProgressStyle::with_template("[{bar:40}] entry {pos} of {len}, {elapsed}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn print_report(report: &Report, out: &mut impl Write, style: Style) -> io::Result<()> {
    let Report { origin, size, from, to, kinds: [configs, bundles, states, keys], requests, .. } = report;
    writeln!(out, "{} {origin}: {size} entries, root {}", style.paint(Colour::Green, "holds"), report.root)?;
    let names: Vec<_> = report.cosigned.iter().map(|it| format!("{} {}", it.name, seconds(it.time_s))).collect();
    let by = report.certified_by_s.map_or_else(String::new, |time| format!("; there by {}", seconds(time)));
    writeln!(out, "  certified   by {}{by}", names.join(", "))?;
    if report.checkpoints > 0 {
        writeln!(out, "  checkpoints {}, all certified, all of this history", report.checkpoints)?;
    }
    writeln!(
        out,
        "  entries     {from} to {to}: {configs} CONFIG, {bundles} BUNDLE with {requests} requests, {states} STATE, {keys} KEY"
    )?;
    writeln!(
        out,
        "  checked     every tile and entry hashed up to the root; entries well-formed, in order of sequence and time"
    )?;
    match (report.deep, report.replayed) {
        (false, _) => writeln!(out, "  not checked signatures of clients, outcomes and state roots: --deep does")?,
        (true, false) => {
            writeln!(out, "  signatures  {bundles}, all hold over what stands there")?;
            writeln!(
                out,
                "  not checked who may sign, outcomes, sessions, state roots: that needs the entries from 0 on, these begin at {from}"
            )?;
        }
        (true, true) => {
            writeln!(out, "  signatures  {bundles}, all hold over what stands there")?;
            writeln!(
                out,
                "  replayed    {} operations and {} state roots: each as written",
                report.operations, report.states
            )?;
        }
    }
    if report.crafted_count > 0 {
        let named: Vec<_> = report.crafted.iter().map(u64::to_string).collect();
        let line = format!(
            "  crafted     {} bundles have signatures that only ZIP 215 accepts, made so by the key's holder: entries {}",
            report.crafted_count,
            named.join(", ")
        );
        writeln!(out, "{}", style.paint(Colour::Yellow, &line))?;
    }
    let manifest =
        if report.manifest { "every file is as the manifest lists" } else { "none, so every entry was asked for" };
    writeln!(out, "  manifest    {manifest}")?;
    let rate = |seconds: f64| report.requests as f64 / seconds.max(1e-9);
    let (all, each) = (rate(report.seconds), rate(report.busy_seconds));
    let took = format!("{:.2} s, {all:.0} operations/s; {each:.0}/s for each busy core", report.seconds);
    writeln!(out, "  took        {took}")?;
    writeln!(out, "The order is true if {}.", report.assumption)?;
    if report.replayed {
        writeln!(out, "Signatures, outcomes and states follow from the order; they need no trust in any replica.")?;
    }
    Ok(())
}

/// `atlas serve`.
///
/// # Errors
/// The directory or the address.
pub fn serve(args: &ServeArgs, out: &mut impl Write) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let failed = |error| CliError::failed(format!("cannot serve {} on {}", args.dir.display(), args.listen), error);
    let server = Server::bind(&args.dir, args.listen).map_err(failed)?;
    let address = server.address().map_err(failed)?;
    writeln!(out, "serving {} on http://{address}/", args.dir.display())?;
    out.flush()?;
    server.run(&|| interrupt.is_set());
    Ok(())
}
