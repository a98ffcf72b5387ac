//! What an audit found wrong: where, and what.

use std::fmt;

use atlas_dataplane::cbor::CborError;
use atlas_dataplane::history::entry::EntryError;
use atlas_dataplane::history::note::NoteError;
use atlas_dataplane::history::tiles::TileError;
use atlas_dataplane::history::tlog_policy::{CheckError, PolicyError};
use atlas_dataplane::types::{Digest, EntryIndex, Sequence, TimeMs};
use atlas_dataplane::wire::error::BundleError;

use super::files::FileFault;

/// The first thing that is wrong.
#[derive(Debug)]
pub struct Finding {
    /// Which file of the export.
    pub file: String,
    /// Which entry of the history, where it is one.
    pub entry: Option<EntryIndex>,
    /// Where in the file, as far as that can be said.
    pub byte: Option<u64>,
    /// What.
    pub fault: Box<Fault>,
}

impl Finding {
    /// A fault of a whole file.
    pub fn of(file: impl Into<String>, fault: impl Into<Fault>) -> Self {
        Self { file: file.into(), entry: None, byte: None, fault: Box::new(fault.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(entry) = self.entry {
            write!(f, ", entry {entry}")?;
        }
        if let Some(byte) = self.byte {
            write!(f, ", byte {byte}")?;
        }
        write!(f, ": {}", self.fault)
    }
}

impl std::error::Error for Finding {}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileFault),
    /// The manifest is not JSON of this form.
    #[error("not a manifest: {0}")]
    Manifest(String),
    /// The manifest is of another format.
    #[error("the manifest is of format {0:?}; this build reads {format:?}", format = super::layout::FORMAT)]
    ManifestFormat(String),
    /// A field of the manifest says other than the checkpoint.
    #[error("the manifest says {field} {said}, the checkpoint {is}")]
    ManifestField {
        /// Which.
        field: &'static str,
        /// What it says.
        said: String,
        /// What the checkpoint says.
        is: String,
    },
    /// A range that no export has.
    #[error("the manifest says entries {from} to {to} of {size}")]
    ManifestRange {
        /// First.
        from: u64,
        /// Behind the last.
        to: u64,
        /// Entries of the history.
        size: u64,
    },
    /// A path that no export has.
    #[error("the manifest lists {0:?}, which is no file of an export")]
    ManifestPath(String),
    /// A path twice.
    #[error("the manifest lists {0:?} twice, or not in order")]
    ManifestTwice(String),
    /// A file that the manifest does not list.
    #[error("the manifest does not list this file")]
    Unlisted,
    /// Another length than listed.
    #[error("{found} bytes, the manifest lists {listed}: the file is cut off, padded or another one")]
    Length {
        /// In the manifest.
        listed: u64,
        /// On the disk.
        found: u64,
    },
    /// Another content than listed.
    #[error("the SHA-256 is {found}, the manifest lists {listed}: the file was changed")]
    Sha256 {
        /// In the manifest.
        listed: String,
        /// On the disk.
        found: String,
    },
    /// Not a policy.
    #[error("not a policy: {0}")]
    Policy(#[from] PolicyError),
    /// Another policy than the auditor's.
    #[error("not the policy that the audit was given")]
    OtherPolicy,
    /// Not a checkpoint.
    #[error("not a checkpoint: {0}")]
    Note(#[from] NoteError),
    /// A checkpoint that the policy does not certify.
    #[error("the checkpoint is not certified: {0}")]
    Uncertified(#[from] CheckError),
    /// A checkpoint under the name of another size.
    #[error("a checkpoint of size {0}; its file is named by the size")]
    CheckpointName(u64),
    /// A newer one than the export's.
    #[error("a checkpoint of size {size}, beyond the {export} that the export covers")]
    CheckpointBeyond {
        /// Its size.
        size: u64,
        /// The export's.
        export: u64,
    },
    /// Two certified checkpoints that contradict each other.
    #[error(
        "certified root {certified} over {size} entries, the export's tree has {found}: two histories were certified"
    )]
    Split {
        /// Size of both.
        size: u64,
        /// What was certified.
        certified: Digest,
        /// What the tree has.
        found: Digest,
    },
    /// Not a tile.
    #[error("not a tile: {0}")]
    Tile(#[from] TileError),
    /// The hashes do not make up the root.
    #[error("the tree over {size} entries has root {found}, certified is {certified}")]
    Root {
        /// Entries.
        size: u64,
        /// What the tiles make.
        found: Digest,
        /// What the checkpoint has.
        certified: Digest,
    },
    /// A tile's root is not what the level above has for it.
    #[error("the hash here is {found}, {below} makes {made}: one of the two files was changed")]
    Parent {
        /// The tile below.
        below: String,
        /// In the tile above.
        found: Digest,
        /// What the tile below makes.
        made: Digest,
    },
    /// A leaf hash that is not the entry's, and the tree is right with the entry's.
    #[error("the hash of the entry is {made}, here stands {found}: the tile was changed")]
    LeafHash {
        /// In the tile.
        found: Digest,
        /// What the entry makes.
        made: Digest,
    },
    /// An entry that is not the one under the root.
    #[error("the entry hashes to {made}, the tree has {found}: the entry was changed or stands in another's place")]
    EntryHash {
        /// In the tree.
        found: Digest,
        /// What the entry makes.
        made: Digest,
    },
    /// Not an entry.
    #[error("{0}")]
    Entry(#[from] EntryError),
    /// A sequence below that of the entry before.
    #[error("sequence {found} after sequence {before}")]
    Sequence {
        /// Of the entry before.
        before: Sequence,
        /// Of this entry.
        found: Sequence,
    },
    /// A time below that of the entry before, or another one in the same sequence.
    #[error("agreed time {found} ms after {before} ms: time never goes backwards, and a sequence has one time")]
    Time {
        /// Of the entry before.
        before: TimeMs,
        /// Of this entry.
        found: TimeMs,
    },
    /// The first entry is no genesis.
    #[error("entry 0 is not the CONFIG entry of the genesis: sequence 0, epoch 0")]
    NoGenesis,
    /// A genesis of another policy.
    #[error(
        "the genesis names another policy than the audit was given: the cluster is another one, or the policy is forged"
    )]
    GenesisPolicy,
    /// A genesis of another cluster.
    #[error("the genesis is of {found:?}, the checkpoint of {origin:?}")]
    GenesisOrigin {
        /// In the genesis.
        found: String,
        /// In the checkpoint.
        origin: String,
    },
    /// A member whose keys the policy does not have.
    #[error("the {kind} key of member {index} is not in the policy under {name:?}")]
    MemberKey {
        /// Which key.
        kind: &'static str,
        /// The member.
        index: u8,
        /// The name of its key.
        name: String,
    },
    /// Keys in the policy that no member has.
    #[error("the policy has {policy} cosigners and {logs} log keys, the genesis {members} members")]
    MemberCount {
        /// Cosigners.
        policy: usize,
        /// Log keys.
        logs: usize,
        /// Members.
        members: usize,
    },
    /// Identities that cannot be read.
    #[error("the genesis: {0}")]
    Identities(atlas_dataplane::execution::identities::GenesisError),
    /// A setting that cannot be read.
    #[error("the genesis' setting {0:?} is missing or not of its form")]
    Setting(&'static str),
    /// An epoch out of turn.
    #[error("epoch {found} after epoch {before}")]
    Epoch {
        /// Before.
        before: u32,
        /// In this entry.
        found: u32,
    },
    /// A bundle that breaks the format of what a client signs.
    #[error("the bundle: {0}")]
    Bundle(#[from] BundleError),
    /// A signature that does not hold by any rule.
    #[error("the signature of {0} over the bundle does not hold")]
    Signature(String),
    /// What replay found.
    #[error("{0}")]
    Replay(#[from] super::replay::Divergence),
    /// CBOR in a place where an entry was read already.
    #[error("{0}")]
    Cbor(#[from] CborError),
}
