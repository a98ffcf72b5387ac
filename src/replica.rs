//! `atlas replica`: the data plane with the twin store on it.

use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::ReplicaSetup;
pub use atlas_dataplane::replica::process::RunError;

use crate::twin::TwinStore;

/// Prepares the data directory of the replica that `config` describes, whose disk was lost or set back; says where an old log is kept.
///
/// # Errors
/// The configuration or its keys, a replica that runs there, the file system.
pub fn recover(config: &Path) -> Result<Option<PathBuf>, RunError> {
    let setup = ReplicaSetup::load(config)?;
    atlas_dataplane::replica::recover(&setup.config)
}

/// Runs the replica that `config` describes until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting or going on; each says what to do.
pub fn run(config: &Path) -> Result<(), RunError> {
    let setup = ReplicaSetup::load(config)?;
    let properties = setup.cluster.settings().max_properties;
    atlas_dataplane::replica::process::run(setup, || TwinStore::new(properties))
}
