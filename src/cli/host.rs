//! `atlas host`: the command around [`crate::host`].

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::Format;
use super::error::CliError;
use super::output::{Colour, Style, json_line};
use crate::host::live::Live;
use crate::host::root::Root;
use crate::host::{Finding, Severity, Subject, check, network, tune};

/// Where the undo script goes unless told otherwise.
const UNDO: &str = "atlas-host-undo.sh";

/// Arguments of `atlas host`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas host check --config plant/replica-0/config.toml
  atlas host check --data /var/lib/atlas --json
  atlas host tune --dry-run
  sudo atlas host tune --apply --config plant/replica-0/config.toml --undo-script undo-tuning.sh")]
pub struct HostArgs {
    /// What to do
    #[command(subcommand)]
    pub command: HostCommand,
}

/// The commands of `atlas host`.
#[derive(Subcommand, Debug)]
pub enum HostCommand {
    /// Say what this host has, what it should have, why, and how to get it
    Check(CheckArgs),
    /// Print or make the changes that can be undone
    Tune(TuneArgs),
}

/// Which host, for which replica.
#[derive(Args, Debug)]
pub struct WhatArgs {
    /// The configuration of the replica that runs or will run here
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Look below this root instead of the host itself: for tests
    #[arg(long, value_name = "DIR", hide = true, default_value = "/")]
    pub root: PathBuf,
}

/// Arguments of `atlas host check`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit codes: 0 all is well or could be better (ok, note); 10 something suffers (warning); 11 Atlas does not run here, or
what it promises does not hold (critical); 1 and 2 as everywhere.

Run it as the user of the replica: limits are those of the process that looks. With --data or --config it writes a file
of 800 KiB there to time durable appends, and removes it; nothing else is changed. Core-related checks need the
configuration: only it says which core is the replica's. --json: an object for each check, with check, severity, found,
wanted, why, fix; then one with worst and a count for each severity.")]
pub struct CheckArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub what: WhatArgs,
    /// The directory where a replica's data lies or will lie
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas host tune`.
#[derive(Args, Debug)]
#[command(after_help = "\
Changes files of /proc and /sys, and interrupt coalescing by ethtool, as `atlas host check` names them; never what cannot
be undone. They last until the next boot: tuning/ in the source, or /usr/share/atlas/tuning, has a tuned profile and a
sysctl file that keep them. The undo script is written before the first change and puts back what was there.")]
pub struct TuneArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub what: WhatArgs,
    /// Print the commands, change nothing
    #[arg(long, required_unless_present = "apply", conflicts_with = "apply")]
    pub dry_run: bool,
    /// Make the changes; needs root
    #[arg(long)]
    pub apply: bool,
    /// Where to write the script that undoes them; must not exist
    #[arg(long, value_name = "FILE", default_value = UNDO)]
    pub undo_script: PathBuf,
}

/// The last line of `--json`.
#[derive(Serialize)]
struct Summary {
    worst: Severity,
    ok: usize,
    note: usize,
    warning: usize,
    critical: usize,
}

impl Summary {
    fn of(findings: &[Finding]) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        Self {
            worst: findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok),
            ok: count(Severity::Ok),
            note: count(Severity::Note),
            warning: count(Severity::Warning),
            critical: count(Severity::Critical),
        }
    }
}

/// `atlas host`.
///
/// # Errors
/// A configuration that is not right; [`CliError::Host`] by the worst finding; changes that cannot be made.
pub fn host(args: &HostArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    match &args.command {
        HostCommand::Check(args) => look(args, out, style),
        HostCommand::Tune(args) => change(args, out),
    }
}

fn subject(what: &WhatArgs) -> Result<Subject, CliError> {
    let Some(config) = &what.config else { return Ok(Subject::default()) };
    Subject::of(config).map_err(|error| CliError::Usage(error.to_string()))
}

/// The directory itself, or the nearest above it that is there.
fn existing(data: &Path) -> PathBuf {
    let absolute = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let there = absolute.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    there.canonicalize().unwrap_or_else(|_| there.to_owned())
}

fn look(args: &CheckArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let mut subject = subject(&args.what)?;
    if let Some(data) = &args.data {
        subject.data = Some(data.clone());
    }
    let root = Root::new(&args.what.root);
    let mut live = Live::ask(&network::interfaces(&root));
    if let Some(data) = &mut subject.data {
        *data = existing(data);
        live.ask_disk(data);
    }
    let findings = check(&root, &live, &subject);
    let summary = Summary::of(&findings);
    if args.format.json {
        findings.iter().try_for_each(|finding| json_line(out, finding))?;
        json_line(out, &summary)?;
    } else {
        findings.iter().try_for_each(|finding| show(finding, out, style))?;
    }
    let Summary { worst, ok, note, warning, critical } = summary;
    let text = format!("{critical} critical, {warning} warnings, {note} notes, {ok} as they should be");
    match worst {
        Severity::Critical => Err(CliError::Host { critical: true, text }),
        Severity::Warning => Err(CliError::Host { critical: false, text }),
        _ if args.format.json => Ok(()),
        _ => Ok(writeln!(out, "{text}")?),
    }
}

fn show(finding: &Finding, out: &mut impl Write, style: Style) -> std::io::Result<()> {
    let Finding { check, severity, found, wanted, why, fix, .. } = finding;
    let colour = match severity {
        Severity::Ok => Colour::Green,
        Severity::Note => Colour::Bold,
        Severity::Warning => Colour::Yellow,
        Severity::Critical => Colour::Red,
    };
    let name = style.paint(colour, &format!("{:<9}", severity.name()));
    writeln!(out, "{name} {check:<22} {found}")?;
    if *severity == Severity::Ok {
        return Ok(());
    }
    for (label, text) in
        [("wanted", wanted.as_str()), ("why", why), ("fix", fix)].iter().filter(|(_, text)| !text.is_empty())
    {
        writeln!(out, "{:32} {label:<7} {text}", "")?;
    }
    Ok(())
}

fn change(args: &TuneArgs, out: &mut impl Write) -> Result<(), CliError> {
    let subject = Subject { data: None, ..subject(&args.what)? };
    let root = Root::new(&args.what.root);
    let is_host = args.what.root == Path::new("/");
    if args.apply && is_host && !rustix::process::geteuid().is_root() {
        return Err(CliError::Failed(
            "only root may change these settings; look at --dry-run first, then run it with sudo".to_owned(),
        ));
    }
    let live = Live::ask(&network::interfaces(&root));
    let changes = tune::changes(&check(&root, &live, &subject));
    if changes.is_empty() {
        return Ok(writeln!(out, "# nothing to change that could be undone; atlas host check tells the rest")?);
    }
    if args.dry_run {
        changes.iter().try_for_each(|change| writeln!(out, "{}", tune::command(&root, change)))?;
        return Ok(());
    }
    let undo = &args.undo_script;
    tune::write_undo(undo, &tune::undo_script(&root, &changes)).map_err(|error| {
        CliError::failed(format_args!("nothing was changed: cannot write the undo script {}", undo.display()), error)
    })?;
    let made = tune::apply(&root, &changes, is_host);
    for made in made.iter().filter(|made| made.result.is_ok()) {
        writeln!(out, "{}", made.command)?;
    }
    writeln!(out, "# to undo: sh {}", undo.display())?;
    let failed: Vec<_> = made.iter().filter_map(|made| Some((&made.command, made.result.as_ref().err()?))).collect();
    match failed.first() {
        None => Ok(()),
        Some((command, error)) => Err(CliError::Failed(format!(
            "{} of {} changes could not be made, the others were; the first: {command}: {error}",
            failed.len(),
            made.len()
        ))),
    }
}
