//! Writing into a backup's directory: only what is not there yet, each file whole or not at all.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::cluster::file::MAX_CLUSTER_FILE;
use atlas_dataplane::crypto::hash::{leaf_hash, sha256};
use atlas_dataplane::history::tiles::{MAX_BUNDLE_BYTES, Tile, parse_entries};
use atlas_dataplane::types::Digest;

use super::manifest::{CLUSTER, MANIFEST, Manifest, described, history};
use super::{BackupError, Pace, io_fault};
use crate::audit::export::{DirectoryError, Sink};
use crate::audit::files::Tree;
use crate::audit::layout::{Listed, MAX_MANIFEST};

/// What is written before it has its name.
const PART: &str = "new.part";

/// Held while a backup is taken.
const LOCK: &str = "lock";

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    /// Files written.
    pub(super) new_files: u64,
    /// Bytes written.
    pub(super) new_bytes: u64,
    /// Files that were there.
    pub(super) kept: u64,
    /// Files of the earlier backup that were damaged and were written anew.
    pub(super) mended: Vec<String>,
}

/// A backup's directory that is written to.
pub(super) struct Vault<'a> {
    pub(super) dir: PathBuf,
    pub(super) earlier: Option<Manifest>,
    pub(super) files: Vec<Listed>,
    pub(super) counts: Counts,
    tree: Tree,
    quick: bool,
    pace: &'a Pace,
    unsynced: BTreeSet<PathBuf>,
    _lock: File,
}

impl<'a> Vault<'a> {
    /// Opens the directory, made if missing, for a backup of this cluster.
    pub(super) fn open(dir: &Path, cluster: &Cluster, quick: bool, pace: &'a Pace) -> Result<Self, BackupError> {
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(io_fault(dir, "create")(error));
            }
            _ => {}
        }
        let tree = Tree::open(dir).map_err(io_fault(dir, "open"))?;
        // Before a lock is made in somebody else's directory, and again under it: another backup may have ended in between.
        read_earlier(&tree, dir, cluster)?;
        let lock = dir.join(LOCK);
        let mut options = OpenOptions::new();
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = options.create(true).truncate(false).write(true).mode(0o600).custom_flags(no_link).open(&lock);
        let file = file.map_err(io_fault(&lock, "open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BackupError::InUse(dir.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io_fault(lock, "lock")(source)),
        }
        let earlier = read_earlier(&tree, dir, cluster)?;
        let (files, counts, unsynced) = Default::default();
        Ok(Self { dir: dir.to_owned(), earlier, files, counts, tree, quick, pace, unsynced, _lock: file })
    }

    /// The directory, to be read.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Makes sure that a file is there with these bytes, and lists it. One that is as the earlier backup lists it is never changed: of a
    /// certificate, in which each replica has signatures of a quorum of its own, the earlier one stays; for anything else whoever gave the
    /// bytes is at fault.
    pub(super) fn keep(&mut self, path: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let listed = self.earlier.as_ref().and_then(|earlier| earlier.listed(path)).cloned();
        let longest = listed.as_ref().map_or(0, |listed| usize::try_from(listed.bytes).unwrap_or(0)).max(bytes.len());
        let found = self.tree.read(path, longest).ok();
        if found.as_deref() == Some(bytes) {
            self.pace.spend(bytes.len());
            self.tighten(path)?;
            self.counts.kept += 1;
        } else if let Some(listed) = &listed
            && found.as_deref().is_some_and(|found| sha256(&[found]).to_string() == listed.sha256)
        {
            if !path.ends_with(".certificate") {
                let why = format!("it gives other bytes of {path} than the earlier backup has, where nothing changed");
                return Err(BackupError::Source(why));
            }
            self.counts.kept += 1;
            self.files.push(listed.clone());
            return Ok(());
        } else {
            if listed.is_some() {
                self.counts.mended.push(path.to_owned());
            }
            self.replace(path, bytes)?;
        }
        self.list(path, bytes.len() as u64, sha256(&[bytes]).to_string());
        Ok(())
    }

    /// Nobody else may read a key, also where somebody has copied the backup.
    fn tighten(&self, path: &str) -> Result<(), BackupError> {
        if !path.contains("/keys/") {
            return Ok(());
        }
        // Opened as it is, and no link followed.
        let place = self.dir.join(path);
        let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(no_link).open(&place);
        let tightened = file.and_then(|file| match file.metadata()?.permissions().mode() & 0o077 {
            0 => Ok(()),
            _ => file.set_permissions(Permissions::from_mode(0o600)),
        });
        tightened.map_err(io_fault(&place, "keep from others"))
    }

    /// Writes a file, synced before it has its name.
    pub(super) fn replace(&mut self, path: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let (place, part) = (self.dir.join(path), self.dir.join(PART));
        let parent = place.parent().unwrap_or(&self.dir);
        if !parent.is_dir() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
            made.map_err(io_fault(parent, "create"))?;
        }
        // Whoever else may write here is not to lead this elsewhere.
        for above in parent.ancestors().take_while(|above| *above != self.dir && above.starts_with(&self.dir)) {
            let is_dir = fs::symlink_metadata(above).map_err(io_fault(above, "look at"))?.is_dir();
            if !is_dir {
                return Err(io_fault(above, "write to")(std::io::Error::other("it is a link, and no directory")));
            }
        }
        if let Err(error) = fs::remove_file(&part)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(io_fault(&part, "remove what an earlier backup left")(error));
        }
        // The directories above may be new as well.
        self.unsynced.extend(parent.ancestors().take_while(|path| path.starts_with(&self.dir)).map(Path::to_path_buf));
        let mut options = OpenOptions::new();
        let file = options.create_new(true).write(true).mode(0o600).open(&part);
        let mut file = file.map_err(io_fault(&part, "create"))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_fault(&part, "write"))?;
        fs::rename(&part, &place).map_err(io_fault(&place, "write"))?;
        self.counts.new_files += 1;
        self.counts.new_bytes += bytes.len() as u64;
        self.pace.spend(bytes.len());
        Ok(())
    }

    /// Makes the names durable.
    pub(super) fn sync(&mut self) -> Result<(), BackupError> {
        for dir in std::mem::take(&mut self.unsynced) {
            File::open(&dir).and_then(|dir| dir.sync_all()).map_err(io_fault(&dir, "sync"))?;
        }
        Ok(())
    }

    /// The end: the manifest takes the place of the earlier one.
    pub(super) fn finish(&mut self, mut manifest: Manifest) -> Result<Manifest, BackupError> {
        manifest.files = std::mem::take(&mut self.files);
        manifest.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        manifest.files.dedup_by(|a, b| a.path == b.path);
        self.sync()?;
        let json = serde_json::to_vec_pretty(&manifest);
        let json = json.map_err(|error| io_fault(self.dir.join(MANIFEST), "write")(error.into()))?;
        if json.len() > MAX_MANIFEST {
            let why =
                format!("{} bytes, and at most {MAX_MANIFEST} can be read again: begin a new directory", json.len());
            return Err(io_fault(self.dir.join(MANIFEST), "write")(std::io::Error::other(why)));
        }
        self.replace(MANIFEST, &json)?;
        self.sync()?;
        Ok(manifest)
    }

    fn list(&mut self, path: &str, bytes: u64, sha256: String) {
        self.files.push(Listed { path: path.to_owned(), bytes, sha256 });
    }
}

impl Sink for Vault<'_> {
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.keep(&history(path), bytes).map_err(|error| match error {
            BackupError::Io { path, source, .. } => DirectoryError::Io { path, source },
            error => DirectoryError::Io { path: self.dir.join(path), source: std::io::Error::other(error.to_string()) },
        })
    }

    fn has_entries(&mut self, tile: Tile, leaves: &[Digest]) -> Result<bool, DirectoryError> {
        let path = history(&tile.path());
        let listed = self.earlier.as_ref().and_then(|earlier| earlier.listed(&path)).cloned();
        if let Some(listed) = listed.filter(|_| self.quick)
            && self.tree.file(&path).is_ok_and(|(_, bytes)| bytes == listed.bytes)
        {
            self.counts.kept += 1;
            self.files.push(listed);
            return Ok(true);
        }
        let Ok(bytes) = self.tree.read(&path, MAX_BUNDLE_BYTES) else { return Ok(false) };
        self.pace.spend(bytes.len());
        let entries = parse_entries(&bytes, tile.width).unwrap_or_default();
        let holds = entries.len() == leaves.len()
            && entries.iter().zip(leaves).all(|((_, entry), leaf)| leaf_hash(entry) == *leaf);
        if holds {
            self.counts.kept += 1;
            self.list(&path, bytes.len() as u64, sha256(&[&bytes]).to_string());
        }
        Ok(holds)
    }
}

/// The manifest of an earlier backup of this cluster, if one was finished.
fn read_earlier(tree: &Tree, dir: &Path, cluster: &Cluster) -> Result<Option<Manifest>, BackupError> {
    let earlier = Manifest::read(tree, dir)?;
    match &earlier {
        Some(earlier) => earlier.check_cluster(cluster, dir)?,
        None => check_begun(tree, dir, cluster)?,
    }
    Ok(earlier)
}

/// A directory without a manifest is new, empty, or that of a first backup of this cluster that was broken off.
fn check_begun(tree: &Tree, dir: &Path, cluster: &Cluster) -> Result<(), BackupError> {
    /// More than a few names are not needed to see that something else is here.
    const NAMES: usize = 1_024;
    let names = tree.names(".", NAMES).ok().flatten();
    let names = names.ok_or_else(|| BackupError::NotABackup(dir.to_owned()))?;
    if names.iter().all(|name| name == LOCK || name == PART) {
        return Ok(());
    }
    let path = dir.join(CLUSTER);
    let genesis = tree.read(CLUSTER, MAX_CLUSTER_FILE).ok().and_then(|bytes| Cluster::parse(&bytes, &path).ok());
    match genesis {
        None => Err(BackupError::NotABackup(dir.to_owned())),
        Some(found) if found.genesis() == cluster.genesis() => Ok(()),
        Some(found) => Err(BackupError::OtherCluster {
            path,
            found: described(found.origin(), &found.genesis().to_string()),
            expected: described(cluster.origin(), &cluster.genesis().to_string()),
        }),
    }
}
