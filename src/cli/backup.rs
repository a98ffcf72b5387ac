//! `atlas backup` and `atlas restore`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atlas_dataplane::cluster::ReplicaConfig;
use atlas_dataplane::types::ReplicaId;
use clap::Args;
use serde::Serialize;

use super::args::{Format, seconds};
use super::audit::progress_bar;
use super::error::CliError;
use super::init::quoted;
use super::output::{Colour, Style, json_line, printable};
use super::proofs::Replica;
use super::session::{Session, identity};
use super::time::now_ms;
use crate::backup::{self, BackupError, Options, Subject, Taken, Verified};

/// Arguments of `atlas backup`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo -u atlas atlas backup --replica /var/lib/atlas/replica-0/config.toml --identity backup.key -o /backup/plant-7
  atlas restore /backup/plant-7 --check --replica plant/replica-0/config.toml
  atlas audit /backup/plant-7/history --policy policy.txt --deep

The replica runs on: history and the newest snapshot are read from its files, the certified checkpoint and what is newer through the
protocol. All of it is held against the certified roots before the manifest is written. A directory that has an earlier backup gets
what is new; nothing is deleted, and one that is broken off leaves the earlier one as it was: repeat it. A backup taken at one
replica restores any replica of the cluster. It needs a client's key, of any role, to ask for the checkpoint.")]
pub struct BackupArgs {
    /// The configuration file of the replica to read from, on this host
    #[arg(long, value_name = "CONFIG")]
    pub replica: PathBuf,
    /// The directory: a new one, or that of an earlier backup of the same cluster
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// The private key file of the client that asks
    #[arg(long, value_name = "KEYFILE", env = "ATLAS_IDENTITY")]
    pub identity: PathBuf,
    /// Read and write at most so much in a second, MiB, so that the replica's own disk and clients do not feel it
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub rate: u64,
    /// Do not read again what the earlier backup verified: only that its files are there in their length
    #[arg(long)]
    pub quick: bool,
    /// The replica's private keys too, in mode 0600: whoever has f+1 replicas' keys is the cluster
    #[arg(long)]
    pub with_keys: bool,
    /// Give up on an answer after so long
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas restore`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas restore /backup/plant-7 --check --deep --replica /var/lib/atlas/replica-2/config.toml
  sudo -u atlas atlas restore /backup/plant-7 --replica /var/lib/atlas/replica-2/config.toml

The backup is verified whole, as `atlas audit` does it, under the policy of the cluster file that the configuration names: yours, not the
backup's. Then the data directory of the stopped replica is put together, without a log. The start that follows abstains from voting
until nothing that the replica may have said after the backup can matter, and takes the rest from the others; that needs all
correct replicas, as `atlas recover` does. With fewer than a quorum of logs left no backup brings the cluster back: the
operator's guide says what does. Exit code 5: the backup does not hold.")]
pub struct RestoreArgs {
    /// The backup's directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The configuration file of the replica; it and the cluster file must be there already
    #[arg(long, value_name = "CONFIG")]
    pub replica: PathBuf,
    /// Verify only, change nothing; the replica may run
    #[arg(long, conflicts_with_all = ["set_aside", "with_keys"])]
    pub check: bool,
    /// Check every signature and execute everything again too
    #[arg(long)]
    pub deep: bool,
    /// Move what is in the data directory aside: its log, history and state
    #[arg(long)]
    pub set_aside: bool,
    /// Put back keys of this replica that are missing, if the backup has them
    #[arg(long)]
    pub with_keys: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// What `atlas backup --json` prints.
#[derive(Serialize)]
struct TakenLine<'a> {
    dir: &'a Path,
    size: u64,
    root: &'a str,
    snapshot: Option<u64>,
    taken: &'a str,
    new_files: u64,
    new_bytes: u64,
    kept_files: u64,
    mended: &'a [String],
    keys: bool,
}

/// What `atlas restore --json` prints.
#[derive(Serialize)]
struct RestoredLine<'a> {
    holds: bool,
    size: u64,
    root: &'a str,
    snapshot: Option<u64>,
    taken: &'a str,
    deep: bool,
    /// Whether the data directory was put together.
    restored: bool,
    set_aside: Vec<PathBuf>,
    keys: Vec<PathBuf>,
}

fn error(error: BackupError) -> CliError {
    use atlas_dataplane::replica::process::RunError;
    match error {
        error if error.is_proof() => CliError::Proof(error.to_string()),
        BackupError::Occupied(_)
        | BackupError::Keys(_)
        | BackupError::NotABackup(_)
        | BackupError::OtherCluster { .. }
        | BackupError::Replica(RunError::Config(_)) => CliError::Usage(error.to_string()),
        error => CliError::Failed(error.to_string()),
    }
}

/// `atlas backup`.
///
/// # Errors
/// No replica gives a checkpoint; what the replica has does not hold; a file.
pub fn backup(args: &BackupArgs, out: &mut impl Write) -> Result<(), CliError> {
    let subject = Subject::load(&args.replica).map_err(error)?;
    if args.with_keys {
        eprintln!(
            "warning: the backup will hold private keys of replica {}; keep it as you keep those",
            subject.config.replica
        );
    }
    let mut session = Session::connect(subject.cluster.clone(), identity(&args.identity)?, args.timeout)?;
    // What was acknowledged before this began is in it. Without a quorum nothing more is acknowledged, and what is certified is taken.
    let ordered = session.order_nothing().map(|position| position.entry + 1).or_else(|refused| match refused {
        CliError::NoQuorum(why) => {
            eprintln!("warning: the backup has what was certified last, since nothing can be ordered now: {why}");
            Ok(0)
        }
        other => Err(other),
    })?;
    let at_least = ordered.max(subject.settled()).max(1);
    let (bar, options) = (progress_bar(args.format.json), options(args));
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let (own, n) = (subject.config.replica.0, subject.cluster.n() as u8);
    let mut said = String::new();
    // The replica itself knows best; what another one says is verified likewise.
    for replica in (0..n).map(|step| ReplicaId((own + step) % n)) {
        let mut tail = Replica { session: &mut session, replica, at_least };
        match backup::take(&subject, &mut tail, &args.output, options, now_ms(), &progress) {
            Ok(taken) => {
                bar.finish_and_clear();
                return tell_taken(args, &taken, out);
            }
            Err(BackupError::Tail(why)) => said.push_str(&format!("\n  replica {replica}: {why}")),
            Err(other) => {
                bar.finish_and_clear();
                return Err(error(other));
            }
        }
    }
    bar.finish_and_clear();
    Err(CliError::NoQuorum(format!("no replica gave a checkpoint and what is under it:{said}")))
}

fn options(args: &BackupArgs) -> Options {
    Options { bytes_per_second: args.rate << 20, quick: args.quick, with_keys: args.with_keys }
}

fn tell_taken(args: &BackupArgs, taken: &Taken, out: &mut impl Write) -> Result<(), CliError> {
    let Taken { manifest, new_files, new_bytes, kept, mended } = taken;
    if args.format.json {
        let line = TakenLine {
            dir: &args.output,
            size: manifest.size,
            root: &manifest.root,
            snapshot: manifest.snapshot,
            taken: &manifest.taken,
            new_files: *new_files,
            new_bytes: *new_bytes,
            kept_files: *kept,
            mended,
            keys: args.with_keys,
        };
        return Ok(json_line(out, &line)?);
    }
    let state = manifest.snapshot.map_or_else(
        || "no snapshot of the state yet, which follows from the history".to_owned(),
        |sequence| format!("the state of sequence {sequence}"),
    );
    writeln!(out, "{} entries, root {}, and {state} are in {}", manifest.size, manifest.root, args.output.display())?;
    writeln!(out, "  written  {new_files} files, {new_bytes} bytes; {kept} files were there")?;
    for file in mended {
        writeln!(out, "  damaged  {file}, copied anew: look after the disk of the backup")?;
    }
    Ok(())
}

/// `atlas restore`.
///
/// # Errors
/// The backup does not hold; a replica runs on the directory; there is data that nobody said may be moved.
pub fn restore(args: &RestoreArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let (config, cluster) = ReplicaConfig::load(&args.replica).map_err(|error| CliError::Usage(error.to_string()))?;
    let bar = progress_bar(args.format.json);
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let verified = backup::verify(&args.dir, &cluster, args.deep, &progress);
    bar.finish_and_clear();
    let verified = verified.map_err(error)?;
    if args.check {
        return tell_restored(args, &verified, None, out, style);
    }
    let restored = backup::place(&verified, &config, &cluster, args.set_aside, args.with_keys).map_err(error)?;
    tell_restored(args, &verified, Some(restored), out, style)
}

fn tell_restored(
    args: &RestoreArgs,
    verified: &Verified,
    restored: Option<backup::Restored>,
    out: &mut impl Write,
    style: Style,
) -> Result<(), CliError> {
    let manifest = &verified.manifest;
    if args.format.json {
        let is_done = restored.is_some();
        let (set_aside, keys) = restored.map_or_else(Default::default, |restored| (restored.aside, restored.keys));
        let line = RestoredLine {
            holds: true,
            size: manifest.size,
            root: &manifest.root,
            snapshot: manifest.snapshot,
            taken: &manifest.taken,
            deep: args.deep,
            restored: is_done,
            set_aside,
            keys,
        };
        return Ok(json_line(out, &line)?);
    }
    let Some(restored) = restored else {
        let holds = style.paint(Colour::Green, "holds");
        let (origin, size, taken) = (&manifest.origin, manifest.size, printable(&manifest.taken));
        writeln!(
            out,
            "{holds} backup of {origin}, taken by its own account {taken}: {size} entries, root {}",
            manifest.root
        )?;
        return Ok(writeln!(out, "True if {}.", verified.report.assumption)?);
    };
    writeln!(out, "{} entries and what the backup has of the state are in place", restored.entries)?;
    for path in &restored.aside {
        writeln!(out, "  moved to {}", path.display())?;
    }
    for path in &restored.keys {
        writeln!(out, "  key      {}", path.display())?;
    }
    writeln!(out, "the next start abstains from voting until that is safe, and takes the rest from the others:")?;
    writeln!(out, "  atlas replica --config {}", quoted(&args.replica))?;
    Ok(())
}
