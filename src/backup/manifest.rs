//! What a backup's manifest says, and which files a backup may have.

use std::path::Path;

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::cluster::replica::KEY_FILES;
use atlas_dataplane::history::tiles::{TileKind, levels_of, tiles_of};
use atlas_dataplane::types::{Digest, ReplicaId, Sequence};
use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::audit::files::{FileFault, Tree};
use crate::audit::layout::{self, CHECKPOINT, CHECKPOINTS, Listed, MAX_MANIFEST, POLICIES, POLICY, is_number};

/// The manifest.
pub const MANIFEST: &str = "manifest.json";
/// The genesis.
pub const CLUSTER: &str = "cluster.toml";
/// The export.
pub const HISTORY: &str = "history";
/// Snapshots.
pub const STATE: &str = "state";
/// What the manifest's format is called.
pub const FORMAT: &str = "atlas-backup/1";

/// Hexadecimal digits of a configuration's hash in its name.
const CONFIG_DIGITS: usize = 32;

/// What is in a backup. It tells what is missing or damaged; it is no evidence.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The cluster.
    pub origin: String,
    /// Its genesis hash, in hexadecimal.
    pub genesis: String,
    /// The replica at which it was taken.
    pub replica: u8,
    /// When, RFC 3339.
    pub taken: String,
    /// Entries of the history.
    pub size: u64,
    /// Their root, in hexadecimal.
    pub root: String,
    /// The checkpoint of the snapshot; null where the cluster is too young to have one.
    pub snapshot: Option<Sequence>,
    /// All files but this one and `history/checkpoint`.
    pub files: Vec<Listed>,
}

impl Manifest {
    /// Reads it; `None` where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is none of this format.
    pub fn read(tree: &Tree, dir: &Path) -> Result<Option<Self>, BackupError> {
        let damaged = |why: String| BackupError::Damaged { path: dir.join(MANIFEST), why };
        let bytes = match tree.read(MANIFEST, MAX_MANIFEST) {
            Err(FileFault::Missing) => return Ok(None),
            bytes => bytes.map_err(|fault| damaged(fault.to_string()))?,
        };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if manifest.format != FORMAT {
            let found = manifest.format.chars().take(64).collect::<String>();
            return Err(damaged(format!("format {found:?}; this program reads {FORMAT}: use the build that wrote it")));
        }
        match manifest.root() {
            Some(_) => Ok(Some(manifest)),
            None => Err(damaged("its root is no SHA-256 in hexadecimal".to_owned())),
        }
    }

    /// Compares the cluster.
    ///
    /// # Errors
    /// [`BackupError::OtherCluster`].
    pub fn check_cluster(&self, cluster: &Cluster, dir: &Path) -> Result<(), BackupError> {
        if self.genesis == cluster.genesis().to_string() && self.origin == cluster.origin() {
            return Ok(());
        }
        let short = |text: &str| text.chars().take(128).collect::<String>();
        Err(BackupError::OtherCluster {
            path: dir.join(MANIFEST),
            found: described(&short(&self.origin), &short(&self.genesis)),
            expected: described(cluster.origin(), &cluster.genesis().to_string()),
        })
    }

    /// The root.
    pub fn root(&self) -> Option<Digest> {
        let bytes = data_encoding::HEXLOWER.decode(self.root.as_bytes()).ok()?;
        bytes.try_into().ok().map(Digest)
    }

    /// What a file of this path is listed with.
    pub fn listed(&self, path: &str) -> Option<&Listed> {
        let found = self.files.binary_search_by(|listed| listed.path.as_str().cmp(path)).ok()?;
        self.files.get(found)
    }

    /// The files that a backup of this size and snapshot cannot do without.
    pub fn due(&self) -> impl Iterator<Item = String> + use<> {
        let size = self.size;
        let hashes = levels_of(size).flat_map(move |level| tiles_of(TileKind::Hashes(level), size));
        let tiles = hashes.chain(tiles_of(TileKind::Entries, size)).map(|tile| history(&tile.path()));
        let state = self.snapshot.map(atlas_dataplane::replica::copies::names);
        let state = state.into_iter().flatten().map(|name| format!("{STATE}/{name}"));
        let others = [CLUSTER.to_owned(), history(POLICY), history(&format!("{POLICIES}/0"))];
        let checkpoint = history(&format!("{CHECKPOINTS}/{size}"));
        tiles.chain(state).chain(others).chain([checkpoint])
    }
}

/// A cluster for people.
pub fn described(origin: &str, genesis: &str) -> String {
    format!("{origin} (genesis {genesis})")
}

/// The path of a file of the export.
pub fn history(path: &str) -> String {
    format!("{HISTORY}/{path}")
}

/// The path of a replica's configuration.
pub fn config_path(replica: ReplicaId, sha256: &Digest) -> String {
    format!("replica-{replica}/{}.config.toml", &sha256.to_string()[..CONFIG_DIGITS])
}

/// The path of a replica's key.
pub fn key_path(replica: ReplicaId, name: &str) -> String {
    format!("replica-{replica}/keys/{name}")
}

/// Whether a manifest may list a file of this path. So nothing that it names lies elsewhere.
pub fn is_backup_path(path: &str) -> bool {
    let Some((folder, rest)) = path.split_once('/') else { return path == CLUSTER };
    match folder {
        HISTORY => layout::is_export_path(rest) && rest != CHECKPOINT && rest != layout::MANIFEST,
        STATE => rest
            .split_once('.')
            .is_some_and(|(number, kind)| is_number(number) && matches!(kind, "snapshot" | "certificate")),
        _ => folder.strip_prefix("replica-").is_some_and(is_number) && is_own_path(rest),
    }
}

fn is_own_path(path: &str) -> bool {
    let is_hash = |text: &str| text.len() == CONFIG_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    path.strip_suffix(".config.toml").is_some_and(is_hash)
        || path.strip_prefix("keys/").is_some_and(|name| KEY_FILES.contains(&name))
}
