//! `atlas init`, `atlas replica` and `atlas recover`.

use std::io::Write;
use std::path::Path;

use atlas_dataplane::cluster::init::{self, InitError, InitOptions, InitSummary, OPERATOR};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::Serialize;

use super::args::{HostileReplicaArgs, InitArgs, RecoverArgs, ReplicaArgs};
use super::error::CliError;
use super::output::{Colour, Style, json_line};
use super::time::now_ms;
use crate::replica::RunError;

/// What `atlas init --json` prints.
#[derive(Serialize)]
struct Written<'a> {
    dir: &'a Path,
    cluster_file: &'a Path,
    genesis: String,
    replica_files: &'a [std::path::PathBuf],
    identities: Vec<Identity<'a>>,
}

#[derive(Serialize)]
struct Identity<'a> {
    name: &'a str,
    key_file: &'a Path,
}

/// Writes a cluster and says how to go on.
///
/// # Errors
/// The directory is not free, or what was asked for is no cluster.
pub fn init(args: &InitArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let origin = args.origin.clone().unwrap_or_else(|| init::fresh_origin("atlas.example/plant"));
    let (gateway_write, reason_required) = (args.gateway_write.clone(), args.reason_required.clone());
    let InitArgs { replicas, base_port, .. } = *args;
    let options = InitOptions { replicas, base_port, origin, created_ms: now_ms(), gateway_write, reason_required };
    let summary = init::init(&args.dir, &options).map_err(|error| init_error(&error))?;
    if args.format.json {
        let identities = summary.client_keys.iter().map(|(name, key_file)| Identity { name, key_file }).collect();
        let written = Written {
            dir: &summary.dir,
            cluster_file: &summary.cluster_file,
            genesis: summary.genesis.to_string(),
            replica_files: &summary.replica_files,
            identities,
        };
        return Ok(json_line(out, &written)?);
    }
    Ok(describe(&summary, &options.origin, out, style)?)
}

fn init_error(error: &InitError) -> CliError {
    match error {
        InitError::Write { .. } | InitError::Key(_) | InitError::ReadBack(_) | InitError::Created(_) => {
            CliError::Failed(error.to_string())
        }
        _ => CliError::Usage(error.to_string()),
    }
}

fn describe(summary: &InitSummary, origin: &str, out: &mut impl Write, style: Style) -> std::io::Result<()> {
    let InitSummary { cluster_file, genesis, replica_files, client_keys, .. } = summary;
    writeln!(out, "{} cluster {origin}", style.paint(Colour::Green, "wrote"))?;
    writeln!(out, "  genesis       {genesis}")?;
    writeln!(out, "  cluster file  {}", cluster_file.display())?;
    for file in replica_files {
        writeln!(out, "  replica       {}", file.display())?;
    }
    for (name, file) in client_keys {
        writeln!(out, "  identity      {} ({name})", file.display())?;
    }
    writeln!(
        out,
        "\n{}",
        style.paint(Colour::Bold, "start the replicas, each in a terminal or as a service of its own:")
    )?;
    for file in replica_files {
        writeln!(out, "  atlas replica --config {}", quoted(file))?;
    }
    writeln!(out, "{}", style.paint(Colour::Bold, "then use them:"))?;
    if let Some((_, key)) = client_keys.iter().find(|(name, _)| name == OPERATOR) {
        writeln!(out, "  export ATLAS_CLUSTER={} ATLAS_IDENTITY={}", quoted(cluster_file), quoted(key))?;
    }
    writeln!(out, "  atlas status")?;
    writeln!(out, "  atlas set plant/turbine-1 power=1345.2 pitch=37.0")?;
    writeln!(out, "  atlas get plant/turbine-1")
}

/// A path as a shell takes it.
pub(super) fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-');
    if text.bytes().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Runs a replica until it is told to end.
///
/// # Errors
/// Whatever keeps it from starting or going on.
pub fn replica(args: &ReplicaArgs) -> Result<(), CliError> {
    follow_parent(args)?;
    let run = if args.without_history { crate::replica::run_without_history } else { crate::replica::run };
    run(&args.config).map_err(run_error)
}

/// Runs a replica that lies until it is told to end.
///
/// # Errors
/// As [`replica`], and where its cluster reaches beyond this host.
pub fn hostile_replica(args: &HostileReplicaArgs) -> Result<(), CliError> {
    follow_parent(&args.replica)?;
    crate::replica::run_hostile(&args.replica.config, args.tactics.clone(), args.seed).map_err(run_error)
}

fn follow_parent(args: &ReplicaArgs) -> Result<(), CliError> {
    let Some(parent) = args.parent else { return Ok(()) };
    // Should the parent have ended before the kernel knew of it, it is not the parent any more.
    set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| CliError::failed("cannot follow the parent process", error))?;
    if getppid().map(Pid::as_raw_pid).and_then(|pid| u32::try_from(pid).ok()) != Some(parent) {
        return Err(CliError::Failed(format!("process {parent}, which started this replica, has ended")));
    }
    Ok(())
}

fn run_error(error: RunError) -> CliError {
    match error {
        RunError::Config(_) | RunError::Hostile(_) => CliError::Usage(error.to_string()),
        other => CliError::Failed(other.to_string()),
    }
}

/// Prepares a data directory whose disk was lost or set back.
///
/// # Errors
/// The configuration, a replica that runs there, the file system.
pub fn recover(args: &RecoverArgs, out: &mut impl Write) -> Result<(), CliError> {
    let aside = crate::replica::recover(&args.config).map_err(run_error)?;
    match aside {
        Some(aside) => writeln!(out, "the log is kept in {}", aside.display())?,
        None => writeln!(out, "there is no log to keep")?,
    }
    writeln!(out, "the next start abstains from voting until that is safe:")?;
    writeln!(out, "  atlas replica --config {}", quoted(&args.config))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_the_shell() {
        assert_eq!(quoted(Path::new("/srv/plant-7/a_b.key")), "/srv/plant-7/a_b.key");
        assert_eq!(quoted(Path::new("my plant/it's")), r"'my plant/it'\''s'");
    }
}
