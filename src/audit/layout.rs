//! What an export is made of: names, the manifest, limits.

use atlas_dataplane::history::tiles::Tile;
use serde::{Deserialize, Serialize};

/// The certified checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// The policy that certifies it.
pub const POLICY: &str = "policy.txt";
/// The list of files.
pub const MANIFEST: &str = "manifest.json";
/// Certified checkpoints by size.
pub const CHECKPOINTS: &str = "checkpoints";
/// Policies by epoch.
pub const POLICIES: &str = "policies";
/// What the manifest's format is called.
pub const FORMAT: &str = "atlas-export/1";

/// Longest manifest, bytes: some 300,000 files, 38 million entries. Beyond: refused.
pub const MAX_MANIFEST: usize = 64 << 20;

/// Most checkpoints, and most policies, that an audit reads. Beyond: refused.
pub const MAX_LISTED: usize = 65_536;

/// A file of an export.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Path below the directory.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// What is in an export. It is no evidence by itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The cluster.
    pub origin: String,
    /// The first entry that is there.
    pub from: u64,
    /// The first behind it that is not.
    pub to: u64,
    /// Entries under the checkpoint.
    pub size: u64,
    /// Their root, in hexadecimal.
    pub root: String,
    /// All files but this one.
    pub files: Vec<Listed>,
}

/// Whether an export may have a file of this path. So nothing that a manifest names lies elsewhere.
pub fn is_export_path(path: &str) -> bool {
    let numbered =
        |folder: &str| path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')).is_some_and(is_number);
    matches!(path, CHECKPOINT | POLICY | MANIFEST)
        || numbered(CHECKPOINTS)
        || numbered(POLICIES)
        || Tile::parse(path).is_some()
}

/// A decimal number without leading zeros.
pub fn is_number(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|number| number.to_string() == text)
}
