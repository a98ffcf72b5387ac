//! `atlas replica`: the data plane with the twin store on it.

use std::path::Path;

use atlas_dataplane::cluster::ReplicaSetup;
pub use atlas_dataplane::replica::process::RunError;

use crate::twin::TwinStore;

/// Runs the replica that `config` describes until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting or going on; each says what to do.
pub fn run(config: &Path) -> Result<(), RunError> {
    let setup = ReplicaSetup::load(config)?;
    let application = TwinStore::new(setup.cluster.settings().max_properties);
    atlas_dataplane::replica::process::run(setup, application)
}
