//! `atlas demo`: a real day of a wind farm, replayed as signed operations on four replicas.
//!
//! # What happens
//! 1. Four replica processes start on loopback, in a temporary directory or the one that `--keep` names.
//! 2. The identity `gateway` replays 31 March 2015, one signed `set` for each turbine and ten minutes, with the row's time
//!    as source time. After each step the twins are read back (f+1 replicas answer alike) and shown.
//! 3. A rule ([`plan::Watch`]) finds the trip of a turbine in the data; what the store remembers of it is asked with a
//!    `history` query. The identity `operator` then commands a release of the brake, in a transaction on the condition
//!    that the turbine stands: refused while it does not, accepted once it does.
//! 4. After a third of the day the leader is killed (SIGKILL) and another replica leads, after two thirds it is started again from its files.
//! 5. In the last quarter a replica lies for a while ([`atlas_dataplane::adversary`]): the others must catch it, and blame nobody else.
//! 6. All replicas must report the same state digest and history root at the same position, and the histories of all
//!    measured properties must give the input file again, row by row, byte for byte ([`check::Book`]).
//!
//! The measurements are real ([`data`]); states, commands and interlocks are the project's own and are said to be.
//!
//! 7. The history is exported and audited offline, everything executed again; in a copy one byte is changed, and the audit must
//!    find it.
//!
//! # How it ends
//! Every step is a named check; the command succeeds only if all hold, and else names those that do not. In any case, also
//! on an error or a first SIGINT or SIGTERM, the replicas are gone and the temporary directory is removed when it ends.
//! Replicas run as children that the kernel ends with this process; a second signal leaves the directory.
//!
//! # Output
//! Lines on the standard output. Where it and standard error are terminals, the turbines and the progress are shown in place
//! below, on standard error, and only full hours and what happens are printed (`screen`).
//!
//! `plan`, `check`, `meter` and the layout in `screen` are pure; `farm` has the cluster and the clock; `story` and
//! `finale` tell it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tempfile::TempDir;

use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::Style;

pub mod check;
pub mod data;
mod farm;
mod finale;
mod liar;
pub mod meter;
pub mod plan;
mod screen;
mod story;
mod verdict;

use story::Setting;

/// The slowest pace, in milliseconds for a step.
const MAX_PACE_MS: u64 = 10_000;

/// Arguments of `atlas demo`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas demo
  atlas demo --pace 0
  atlas demo --keep wind && atlas replica --config wind/replica-0/config.toml

Replays a storm day of a wind farm on four replica processes, in less than a minute: a turbine trips, an
operator's command is refused, the leader is killed, replaced and comes back, a replica lies and is caught, and in the
end all that was recorded is read back and compared with the input, exported and audited offline. Nothing is left behind unless --keep says so. Exit code 0 only if all held.")]
pub struct DemoArgs {
    /// Leave the cluster (keys, logs, history) and the export in this directory, which must be new or empty
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Time for ten minutes of the day, in milliseconds; 0 is as fast as the cluster goes
    #[arg(long, value_name = "MS", default_value_t = 130, value_parser = clap::value_parser!(u64).range(..=MAX_PACE_MS))]
    pub pace: u64,
}

/// Where the cluster's files are.
enum Place {
    /// Removed when this is dropped.
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Place {
    fn new(keep: Option<&Path>) -> Result<Self, CliError> {
        if let Some(dir) = keep {
            return Ok(Self::Kept(dir.to_owned()));
        }
        let dir = tempfile::Builder::new().prefix("atlas-demo-").tempdir();
        let failed =
            |error| CliError::failed("cannot make a temporary directory (set TMPDIR or use --keep DIR)", error);
        dir.map(Self::Temporary).map_err(failed)
    }

    /// The cluster's directory, which does not exist or is empty.
    fn dir(&self) -> PathBuf {
        match self {
            Self::Temporary(dir) => dir.path().join("cluster"),
            Self::Kept(dir) => dir.clone(),
        }
    }

    /// Removes what is temporary, and says so if that fails.
    fn close(self) -> Result<(), CliError> {
        match self {
            Self::Kept(_) => Ok(()),
            Self::Temporary(dir) => {
                let path = dir.path().display().to_string();
                dir.close().map_err(|error| CliError::failed(format_args!("cannot remove {path}"), error))
            }
        }
    }
}

/// `atlas demo`.
///
/// # Errors
/// Something did not hold, which the error names; or the host does not let it run; or a signal came.
pub fn demo(args: &DemoArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let place = Place::new(args.keep.as_deref())?;
    let (dir, kept) = (place.dir(), args.keep.is_some());
    let setting = Setting { dir: &dir, kept, pace: Duration::from_millis(args.pace), interrupt: &interrupt };
    let told = story::tell(&setting, out, style);
    let closed = place.close();
    if interrupt.is_set() && told.is_err() {
        return Err(CliError::Failed("interrupted; the replicas are stopped".to_owned()));
    }
    told.and(closed)
}
