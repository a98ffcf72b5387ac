//! `atlas replica`: the data plane with the twin store on it.

use std::path::{Path, PathBuf};

use atlas_control::Control;
use atlas_dataplane::adversary::{Hostility, Tactic};
use atlas_dataplane::cluster::ReplicaSetup;
pub use atlas_dataplane::replica::process::RunError;

use crate::twin::TwinStore;
use crate::twin::operation::{Operation, SetProperty, Write};
use crate::twin::value::{Quality, Value};

/// Prepares the data directory of the replica that `config` describes, whose disk was lost or set back; says where an old log is kept.
///
/// # Errors
/// The configuration or its keys, a replica that runs there, the file system.
pub fn recover(config: &Path) -> Result<Option<PathBuf>, RunError> {
    let setup = ReplicaSetup::load(config)?;
    atlas_dataplane::replica::recover(&setup.config)
}

/// Runs the replica that `config` describes until SIGTERM or SIGINT, with its management plane.
///
/// # Errors
/// Whatever keeps it from starting or going on; each says what to do.
pub fn run(config: &Path) -> Result<(), RunError> {
    let setup = ReplicaSetup::load(config)?;
    let properties = setup.cluster.settings().max_properties;
    let management = Box::new(Control::new(config.to_owned()));
    atlas_dataplane::replica::process::run_managed(setup, || TwinStore::new(properties), management)
}

/// Runs the replica that `config` describes as one that keeps no history, for `atlas bench history`.
///
/// # Errors
/// A replica of its cluster is on another host; else as [`run`].
pub fn run_without_history(config: &Path) -> Result<(), RunError> {
    let setup = ReplicaSetup::load(config)?;
    let properties = setup.cluster.settings().max_properties;
    let management = Box::new(Control::new(config.to_owned()));
    atlas_dataplane::replica::process::run_without_history(setup, || TwinStore::new(properties), management)
}

/// Runs the replica that `config` describes as one that lies. See [`atlas_dataplane::adversary`].
///
/// # Errors
/// A replica of its cluster is on another host; else as [`run`].
pub fn run_hostile(config: &Path, tactics: Vec<Tactic>, seed: u64) -> Result<(), RunError> {
    let setup = ReplicaSetup::load(config)?;
    let properties = setup.cluster.settings().max_properties;
    let value = Value::Text("nobody signed this".to_owned());
    let property = SetProperty { path: "forged".to_owned(), value, quality: Quality::Good, source_time_ns: None };
    let forged = Write::Set { twin: "forged/twin".to_owned(), properties: vec![property], reason: None };
    let hostility = Hostility { tactics, seed, operation: Operation::Write(forged).encode() };
    atlas_dataplane::replica::process::run_hostile(setup, || TwinStore::new(properties), &hostility)
}
