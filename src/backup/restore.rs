//! Verifying a backup, and putting a stopped replica's data directory together from it. See the module above.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::num::NonZero;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::replica::{KEY_FILES, MAX_REPLICA_FILE};
use atlas_dataplane::cluster::{Cluster, ReplicaConfig};
use atlas_dataplane::crypto::hash::sha256;
use atlas_dataplane::history::entry::EntryView;
use atlas_dataplane::history::tiles::{MAX_BUNDLE_BYTES, TileKind, parse_entries, tiles_of};
use atlas_dataplane::history::tlog_policy::Policy;
use atlas_dataplane::replica::copies::{MAX_SNAPSHOT_FILE, SnapshotCopy, names};
use atlas_dataplane::replica::restore::{Present, Restoring};
use atlas_dataplane::types::ReplicaId;

use super::manifest::{CLUSTER, HISTORY, MANIFEST, Manifest, STATE, history, is_backup_path, key_path};
use super::take::load_keys;
use super::{BackupError, io_fault};
use crate::audit::files::{FileFault, Tree};
use crate::audit::layout::MANIFEST as EXPORT_MANIFEST;
use crate::audit::run::{self, AuditError, Report};
use crate::twin::TwinStore;

/// A backup that holds.
#[derive(Debug)]
pub struct Verified {
    /// What is in it.
    pub manifest: Manifest,
    /// What the audit of its history says.
    pub report: Report,
    snapshot: Option<SnapshotCopy>,
    dir: PathBuf,
    tree: Tree,
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// Entries of the history.
    pub entries: u64,
    /// To where what was there was moved.
    pub aside: Vec<PathBuf>,
    /// Keys that were put back.
    pub keys: Vec<PathBuf>,
}

/// Verifies a backup of this cluster, whole; tells `progress` how many of how many entries are done.
///
/// # Errors
/// The first thing that does not hold, with the file's name.
pub fn verify(dir: &Path, cluster: &Cluster, deep: bool, progress: &dyn Fn(u64, u64)) -> Result<Verified, BackupError> {
    let tree = Tree::open(dir).map_err(io_fault(dir, "open"))?;
    let damaged = |path: &str, why: String| BackupError::Damaged { path: dir.join(path), why };
    let none = || damaged(MANIFEST, "the file is missing: no backup was finished here".to_owned());
    let manifest = Manifest::read(&tree, dir)?.ok_or_else(none)?;
    manifest.check_cluster(cluster, dir)?;
    check_files(&manifest, &tree, dir)?;
    let text = cluster.policy_text();
    let policy = Policy::parse(text.as_bytes()).map_err(|error| damaged(CLUSTER, error.to_string()))?;
    let threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let folder = dir.join(HISTORY);
    let report =
        run::audit(&folder, &policy, run::Options { deep, threads }, progress).map_err(|error| match error {
            AuditError::Finding(finding) => BackupError::Audit(format!("{}/{finding}", folder.display())),
            AuditError::Directory { .. } => damaged(HISTORY, error.to_string()),
        })?;
    if (report.from, report.to) != (0, report.size) {
        let why = format!(
            "it says that entries {} to {} are all there is; a backup has no such file",
            report.from, report.to
        );
        return Err(damaged(&format!("{HISTORY}/{EXPORT_MANIFEST}"), why));
    }
    let export = Tree::open(&folder).map_err(io_fault(&folder, "open"))?;
    // Beyond the checkpoint there is nothing that was verified.
    let root = |size: u64| {
        let found = (size <= report.size).then(|| run::root_of(&export, size, report.size).ok());
        found.flatten()
    };
    if manifest.root().is_none() || root(manifest.size) != manifest.root() {
        let why = format!("the history in it has {} entries, and at {} another root", report.size, manifest.size);
        return Err(damaged(MANIFEST, why));
    }
    let snapshot = manifest.snapshot.map(|sequence| read_snapshot(sequence, &tree, dir, cluster)).transpose()?;
    if let Some(snapshot) = &snapshot {
        let (statement, at) = (snapshot.statement(), format!("{STATE}/{}", names(snapshot.statement().sequence)[0]));
        if statement.size > manifest.size || root(statement.size) != Some(statement.history_root) {
            return Err(damaged(&at, "it is of another history than the one beside it".to_owned()));
        }
        let entry = read_entry(&tree, statement.size.saturating_sub(1), manifest.size);
        let entry = entry.map_err(|(path, why)| damaged(&path, why))?;
        let store = TwinStore::new(cluster.settings().max_properties);
        snapshot.check(cluster, store, &entry).map_err(|error| damaged(&at, error.to_string()))?;
    }
    Ok(Verified { manifest, report, snapshot, dir: dir.to_owned(), tree })
}

/// Every listed file is there as it is listed, and every file that is needed is listed.
fn check_files(manifest: &Manifest, tree: &Tree, dir: &Path) -> Result<(), BackupError> {
    let damaged = |path: &str, why: String| BackupError::Damaged { path: dir.join(path), why };
    let mut before = "";
    for listed in &manifest.files {
        let short = listed.path.chars().take(256).collect::<String>();
        if !is_backup_path(&listed.path) {
            return Err(damaged(MANIFEST, format!("lists {short:?}, which is no file of a backup")));
        }
        if listed.path.as_str() <= before {
            return Err(damaged(MANIFEST, format!("lists {short} twice or out of order")));
        }
        before = &listed.path;
        let most = if listed.path.ends_with(".snapshot") { MAX_SNAPSHOT_FILE } else { MAX_BUNDLE_BYTES as u64 };
        let max = usize::try_from(listed.bytes.min(most)).unwrap_or(usize::MAX);
        let bytes = match tree.read(&listed.path, max) {
            Err(FileFault::TooLong { bytes, .. }) => {
                return Err(damaged(&listed.path, format!("the file has {bytes} bytes, {} are listed", listed.bytes)));
            }
            bytes => bytes.map_err(|fault| damaged(&listed.path, fault.to_string()))?,
        };
        if bytes.len() as u64 != listed.bytes {
            return Err(damaged(
                &listed.path,
                format!("the file has {} bytes, {} are listed", bytes.len(), listed.bytes),
            ));
        }
        let found = sha256(&[&bytes]).to_string();
        if found != listed.sha256 {
            return Err(damaged(&listed.path, format!("its SHA-256 is {found}, {} is listed", listed.sha256)));
        }
    }
    match manifest.due().find(|path| manifest.listed(path).is_none()) {
        Some(path) => {
            Err(damaged(MANIFEST, format!("does not list {path}, which belongs to {} entries", manifest.size)))
        }
        None => Ok(()),
    }
}

fn read_snapshot(sequence: u64, tree: &Tree, dir: &Path, cluster: &Cluster) -> Result<SnapshotCopy, BackupError> {
    let [file, certificate] = names(sequence).map(|name| format!("{STATE}/{name}"));
    let read = |path: &str| {
        let bytes = tree.read(path, usize::try_from(MAX_SNAPSHOT_FILE).unwrap_or(usize::MAX));
        bytes.map_err(|fault| BackupError::Damaged { path: dir.join(path), why: fault.to_string() })
    };
    let copy = SnapshotCopy::from_bytes(read(&file)?, &read(&certificate)?, cluster);
    let copy = copy.map_err(|fault| BackupError::Damaged { path: dir.join(&file), why: fault.to_string() })?;
    match copy.statement().sequence == sequence {
        true => Ok(copy),
        false => {
            let why = format!("it is of sequence {}", copy.statement().sequence);
            Err(BackupError::Damaged { path: dir.join(&file), why })
        }
    }
}

/// One entry; else the file's path and what is wrong with it.
fn read_entry(tree: &Tree, entry: u64, size: u64) -> Result<Vec<u8>, (String, String)> {
    let tile = tiles_of(TileKind::Entries, size).find(|tile| (tile.first()..tile.first() + 256).contains(&entry));
    let tile = tile.ok_or_else(|| (MANIFEST.to_owned(), format!("has no entry {entry}")))?;
    let path = history(&tile.path());
    let bytes = tree.read(&path, MAX_BUNDLE_BYTES).map_err(|fault| (path.clone(), fault.to_string()))?;
    let entries = parse_entries(&bytes, tile.width).map_err(|fault| (path.clone(), fault.to_string()))?;
    let found = usize::try_from(entry - tile.first()).ok().and_then(|at| entries.get(at));
    found.map(|(_, entry)| entry.to_vec()).ok_or_else(|| (path, format!("has no entry {entry}")))
}

/// Puts the data directory of a stopped replica together. What is there is moved aside if `set_aside`, and else nothing is done. With
/// `with_keys` keys of this replica that the backup has and the replica has not are put back.
///
/// # Errors
/// A replica runs there; there is data that nobody wants moved; the file system's.
pub fn place(
    backup: &Verified,
    config: &ReplicaConfig,
    cluster: &Cluster,
    set_aside: bool,
    with_keys: bool,
) -> Result<Restored, BackupError> {
    let mut restoring = Restoring::begin(config, cluster.genesis())?;
    let present = restoring.present(cluster.genesis());
    if !present.names.is_empty() && !set_aside {
        return Err(BackupError::Occupied(occupied(&present, config, &backup.manifest)));
    }
    let keys = if with_keys { missing_keys(backup, config, cluster)? } else { Vec::new() };
    fill(&mut restoring, backup)?;
    if let Some(snapshot) = &backup.snapshot {
        restoring.put_snapshot(snapshot)?;
    }
    let entries = restoring.size();
    if with_keys {
        // Keys with that mark and without a log would begin as a new replica, and vote.
        restoring.forget_never_ran()?;
        put_keys(&keys, config, cluster)?;
    }
    let aside = restoring.finish()?;
    Ok(Restored { entries, aside, keys: keys.into_iter().map(|(path, _)| path).collect() })
}

/// What is in the way, and what of it the backup does not have.
fn occupied(present: &Present, config: &ReplicaConfig, manifest: &Manifest) -> String {
    let Present { log, entries, state, names } = present;
    let mut has = Vec::new();
    if *log {
        has.push("the log of what the replica promised".to_owned());
    }
    has.extend(entries.map(|entries| format!("a history of up to {entries} entries")));
    has.extend(state.map(|sequence| format!("a state of sequence {sequence}")));
    let has = if has.is_empty() { names.join(", ") } else { has.join(", ") };
    format!(
        "{} holds {has}; the backup has {} entries{}. Nothing was changed. If that is what you want, --set-aside moves {} aside in the \
         same directory and deletes nothing; what the backup does not have the replica takes from the others, and it abstains from \
         voting until that is safe. A replica that can start needs no restore",
        config.data.display(),
        manifest.size,
        manifest.snapshot.map_or_else(String::new, |sequence| format!(" and the state of sequence {sequence}")),
        names.join(", "),
    )
}

fn fill(restoring: &mut Restoring, backup: &Verified) -> Result<(), BackupError> {
    let Verified { manifest, dir, tree, .. } = backup;
    for tile in tiles_of(TileKind::Entries, manifest.size) {
        let path = history(&tile.path());
        let damaged = |why: String| BackupError::Damaged { path: dir.join(&path), why };
        let bytes = tree.read(&path, MAX_BUNDLE_BYTES).map_err(|fault| damaged(fault.to_string()))?;
        for (_, entry) in parse_entries(&bytes, tile.width).map_err(|fault| damaged(fault.to_string()))? {
            let time_ms = EntryView::decode(entry).map_err(|fault| damaged(fault.to_string()))?.time_ms();
            let appended = restoring.append(entry, time_ms);
            appended.map_err(atlas_dataplane::replica::process::RunError::from)?;
        }
    }
    // It was verified a moment ago, from the same files.
    match Some(restoring.root()) == manifest.root() {
        true => Ok(()),
        false => Err(BackupError::Damaged { path: dir.join(HISTORY), why: "it changed while it was read".to_owned() }),
    }
}

/// Keys that the backup has and the replica has not, with where they belong.
fn missing_keys(
    backup: &Verified,
    config: &ReplicaConfig,
    cluster: &Cluster,
) -> Result<Vec<(PathBuf, Vec<u8>)>, BackupError> {
    let mut missing = Vec::new();
    for name in KEY_FILES.iter().filter(|name| !config.keys.join(name).exists()) {
        let path = key_path(config.replica, name);
        let why = |fault: FileFault| match fault {
            FileFault::Missing => {
                let of = owners(&backup.manifest, cluster);
                BackupError::Keys(format!("the backup has no keys of replica {}; {of}", config.replica))
            }
            fault => BackupError::Damaged { path: backup.dir.join(&path), why: fault.to_string() },
        };
        missing.push((config.keys.join(name), backup.tree.read(&path, MAX_REPLICA_FILE).map_err(why)?));
    }
    Ok(missing)
}

/// Whose keys are in a backup.
fn owners(manifest: &Manifest, cluster: &Cluster) -> String {
    let has = |id: &ReplicaId| KEY_FILES.iter().all(|name| manifest.listed(&key_path(*id, name)).is_some());
    let ids = cluster.members().iter().map(|member| member.id).filter(has);
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    match ids.is_empty() {
        true => "it was taken without --with-keys".to_owned(),
        false => format!("it has those of replica {}", ids.join(", ")),
    }
}

/// Keys that turn out to be another replica's, or none, do not stay.
fn put_keys(keys: &[(PathBuf, Vec<u8>)], config: &ReplicaConfig, cluster: &Cluster) -> Result<(), BackupError> {
    let mut made = Vec::new();
    let put = keys.iter().try_for_each(|(path, bytes)| {
        put_key(path, bytes)?;
        made.push(path);
        Ok(())
    });
    let checked: Result<(), BackupError> =
        put.and_then(|()| load_keys(&config.keys, cluster, config.replica).map(drop));
    checked.inspect_err(|_| {
        for path in made {
            // Whoever reads the error sees to what cannot be removed.
            let _ = fs::remove_file(path);
        }
    })?;
    let synced = File::open(&config.keys).and_then(|dir| dir.sync_all());
    synced.map_err(io_fault(&config.keys, "sync"))
}

fn put_key(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    if let Some(dir) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(io_fault(dir, "create"))?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(io_fault(path, "write"))
}
