//! Taking a backup. See the module above.

use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::file::MAX_CLUSTER_FILE;
use atlas_dataplane::cluster::replica::{KEY_FILES, MAX_REPLICA_FILE, ReplicaKeys};
use atlas_dataplane::cluster::{Cluster, ReplicaConfig};
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::hash::{RootBuilder, leaf_hash, sha256};
use atlas_dataplane::history::cold::{Cold, ColdError};
use atlas_dataplane::history::files::HistoryFiles;
use atlas_dataplane::history::note::Note;
use atlas_dataplane::history::tlog_policy::{Certified, Policy};
use atlas_dataplane::replica::copies::SnapshotCopy;
use atlas_dataplane::types::{Digest, EntryIndex, ReplicaId};

use super::manifest::{CLUSTER, FORMAT, Manifest, STATE, config_path, history, key_path};
use super::vault::Vault;
use super::{BackupError, Pace, io_fault};
use crate::audit::export::{DirectoryError, ExportError, Source, put_tiles};
use crate::audit::files::read_file;
use crate::audit::layout::{CHECKPOINT, CHECKPOINTS, POLICIES, POLICY};
use crate::twin::TwinStore;

/// Leaf hashes that are asked for at a time.
const AT_A_TIME: usize = 4_096;

/// What a backup is taken of.
#[derive(Debug)]
pub struct Subject {
    /// The replica's configuration file.
    pub file: PathBuf,
    /// What it says.
    pub config: ReplicaConfig,
    /// The cluster that it names.
    pub cluster: Cluster,
    /// The newest certified snapshot, if there is one.
    pub snapshot: Option<SnapshotCopy>,
}

impl Subject {
    /// Reads a replica's configuration, and the newest certified snapshot in its data directory. It may run.
    ///
    /// # Errors
    /// The configuration; the file system's.
    pub fn load(file: &Path) -> Result<Self, BackupError> {
        let (config, cluster) = ReplicaConfig::load(file).map_err(atlas_dataplane::replica::process::RunError::from)?;
        let snapshot = SnapshotCopy::newest(&config.data, &cluster);
        let snapshot = snapshot.map_err(atlas_dataplane::replica::process::RunError::from)?;
        Ok(Self { file: file.to_owned(), config, cluster, snapshot })
    }

    /// Entries under the snapshot.
    pub fn settled(&self) -> EntryIndex {
        self.snapshot.as_ref().map_or(0, |snapshot| snapshot.statement().size)
    }
}

/// How.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes that are read and written in a second at most.
    pub bytes_per_second: u64,
    /// Believe the earlier manifest for files of entries that have the right length.
    pub quick: bool,
    /// The replica's private keys too.
    pub with_keys: bool,
}

/// What was done.
#[derive(Debug)]
pub struct Taken {
    /// What is in the backup.
    pub manifest: Manifest,
    /// Files written.
    pub new_files: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Files that were there.
    pub kept: u64,
    /// Files of the earlier backup that were damaged and were written anew.
    pub mended: Vec<String>,
}

/// Takes a backup into `dir`. `tail` gives a certified checkpoint of [`Subject::settled`] entries or more, and what lies beyond
/// these. Tells `progress` how many of how many entries are done.
///
/// # Errors
/// See [`BackupError`]; an earlier backup in the directory is as it was.
pub fn take<T: Source>(
    subject: &Subject,
    tail: &mut T,
    dir: &Path,
    options: Options,
    taken_ms: i64,
    progress: &dyn Fn(u64, u64),
) -> Result<Taken, BackupError> {
    let Subject { config, cluster, snapshot, .. } = subject;
    let pace = Pace::new(options.bytes_per_second);
    let mut vault = Vault::open(dir, cluster, options.quick, &pace)?;
    let genesis = read_file(&config.cluster_file, MAX_CLUSTER_FILE).map_err(unreadable(&config.cluster_file))?;
    let text = cluster.policy_text();
    let policy = Policy::parse(text.as_bytes()).map_err(|error| BackupError::Source(error.to_string()))?;
    let note = tail.checkpoint().map_err(|error| BackupError::Tail(error.to_string()))?;
    let certified = certified(&policy, &note)?;
    let mut source = Live::open(subject, tail, &pace)?;
    check_roots(subject, &vault, &certified, &mut source)?;
    vault.keep(CLUSTER, &genesis)?;
    put_tiles(&mut source, &certified, (0, certified.size), &mut vault, progress)
        .map_err(|error| source_fault(subject, error))?;
    if let Some(snapshot) = snapshot {
        check_state(snapshot, cluster, &mut source)?;
        for (name, bytes) in snapshot.files() {
            vault.keep(&format!("{STATE}/{name}"), &bytes)?;
        }
    }
    put_own(subject, &mut vault, options.with_keys)?;
    vault.keep(&history(POLICY), text.as_bytes())?;
    vault.keep(&history(&format!("{POLICIES}/0")), text.as_bytes())?;
    // All that is under the checkpoint is durable before the checkpoint is there.
    vault.sync()?;
    vault.replace(&history(CHECKPOINT), &note)?;
    vault.sync()?;
    put_checkpoint(&mut vault, &policy, &certified, &note)?;
    let manifest = vault.finish(Manifest {
        format: FORMAT.to_owned(),
        origin: certified.origin.clone(),
        genesis: cluster.genesis().to_string(),
        replica: config.replica.0,
        taken: crate::cli::time::format_ms(taken_ms).unwrap_or_else(|_| taken_ms.to_string()),
        size: certified.size,
        root: certified.root.to_string(),
        snapshot: snapshot.as_ref().map(|snapshot| snapshot.statement().sequence),
        files: Vec::new(),
    })?;
    let counts = std::mem::take(&mut vault.counts);
    let (new_files, new_bytes, kept) = (counts.new_files, counts.new_bytes, counts.kept);
    Ok(Taken { manifest, new_files, new_bytes, kept, mended: counts.mended })
}

fn certified(policy: &Policy, note: &[u8]) -> Result<Certified, BackupError> {
    let wrong = |error: &dyn std::fmt::Display| BackupError::Tail(format!("its checkpoint: {error}"));
    let note = Note::parse(note).map_err(|error| wrong(&error))?;
    policy.check(&note).map_err(|error| wrong(&error))
}

fn unreadable(path: &Path) -> impl Fn(crate::audit::files::FileFault) -> BackupError + '_ {
    move |fault| BackupError::Damaged { path: path.to_owned(), why: fault.to_string() }
}

/// Before anything is written: the roots of what the replica has are those that were certified, and that of the backup that is there.
fn check_roots<T: Source>(
    subject: &Subject,
    vault: &Vault<'_>,
    certified: &Certified,
    source: &mut Live<'_, T>,
) -> Result<(), BackupError> {
    let size = certified.size;
    if size < subject.settled() {
        let settled = subject.settled();
        return Err(BackupError::Tail(format!("its checkpoint is of {size} entries, the snapshot of {settled}")));
    }
    let earlier = match &vault.earlier {
        Some(earlier) if earlier.size > size => {
            return Err(BackupError::Ahead { dir: vault.dir.clone(), has: earlier.size, certified: size });
        }
        Some(earlier) => earlier.root().map(|root| (earlier.size, root)),
        None => None,
    };
    let mut builder = RootBuilder::default();
    while builder.size() < size {
        let next = [subject.settled(), earlier.map_or(0, |(size, _)| size), size];
        let stop = next.into_iter().filter(|stop| *stop > builder.size()).min().unwrap_or(size);
        let max = usize::try_from(stop - builder.size()).unwrap_or(AT_A_TIME).min(AT_A_TIME);
        let leaves = source.leaf_hashes(builder.size(), max);
        let leaves = leaves.map_err(|error| source_fault(subject, ExportError::Source(error)))?;
        if !(1..=max).contains(&leaves.len()) {
            let (first, found) = (builder.size(), leaves.len());
            let error = ExportError::Count { what: "leaf hashes", first, found, max };
            return Err(source_fault::<T::Error>(subject, error));
        }
        leaves.iter().for_each(|leaf| builder.push_hash(*leaf));
        check_settled(subject, &builder)?;
        if let Some((size, had)) = earlier.filter(|(size, _)| *size == builder.size())
            && builder.root() != had
        {
            return Err(BackupError::Split { dir: vault.dir.clone(), size, had, found: builder.root() });
        }
    }
    match (builder.root(), certified.root) {
        (found, root) if found == root => Ok(()),
        (found, certified) => Err(source_fault::<T::Error>(subject, ExportError::Root { found, certified })),
    }
}

/// Where the snapshot begins, the history in the files is the one under its checkpoint.
fn check_settled(subject: &Subject, builder: &RootBuilder) -> Result<(), BackupError> {
    let statement = subject.snapshot.as_ref().map(SnapshotCopy::statement);
    let Some(statement) = statement.filter(|statement| statement.size == builder.size()) else { return Ok(()) };
    match builder.root() == statement.history_root {
        true => Ok(()),
        false => Err(BackupError::Source(format!(
            "{}/history/nodes: the hashes of the first {} entries make root {}, certified is {}: the file is damaged; the replica makes it \
             anew when it is started again",
            subject.config.data.display(),
            statement.size,
            builder.root(),
            statement.history_root
        ))),
    }
}

/// The snapshot's state is the one under its checkpoint.
fn check_state<T: Source>(
    snapshot: &SnapshotCopy,
    cluster: &Cluster,
    source: &mut Live<'_, T>,
) -> Result<(), BackupError> {
    let statement = snapshot.statement();
    let (last, sequence) = (statement.size.saturating_sub(1), statement.sequence);
    let wrong =
        |why: &dyn std::fmt::Display| BackupError::Source(format!("the snapshot of sequence {sequence}: {why}"));
    let entry = source.entries(last, 1).map_err(|error| wrong(&error))?.pop().unwrap_or_default();
    let leaf = source.leaf_hashes(last, 1).map_err(|error| wrong(&error))?;
    if leaf.first() != Some(&leaf_hash(&entry)) {
        return Err(wrong(&format!("entry {last}, its last, is not the one under its leaf hash")));
    }
    let store = TwinStore::new(cluster.settings().max_properties);
    snapshot.check(cluster, store, &entry).map_err(|error| wrong(&error))
}

/// The replica's own files.
fn put_own(subject: &Subject, vault: &mut Vault<'_>, with_keys: bool) -> Result<(), BackupError> {
    let replica = subject.config.replica;
    let config = read_file(&subject.file, MAX_REPLICA_FILE).map_err(unreadable(&subject.file))?;
    vault.keep(&config_path(replica, &sha256(&[&config])), &config)?;
    if !with_keys {
        return Ok(());
    }
    let own = load_keys(&subject.config.keys, &subject.cluster, replica)?;
    for (name, key) in KEY_FILES.iter().zip(own) {
        let path = subject.config.keys.join(name);
        let bytes = read_file(&path, MAX_REPLICA_FILE).map_err(unreadable(&path))?;
        // What was read is that key, whole.
        if SecretKey::load(&path).ok().map(|again| again.public()) != Some(key.public()) {
            return Err(BackupError::Keys(format!("{} changed while it was read", path.display())));
        }
        vault.keep(&key_path(replica, name), &bytes)?;
    }
    Ok(())
}

/// The four keys of a replica, which are those that the cluster file names, in the order of [`KEY_FILES`].
pub(super) fn load_keys(dir: &Path, cluster: &Cluster, replica: ReplicaId) -> Result<[SecretKey; 4], BackupError> {
    let member = cluster.member(replica);
    let member = member.ok_or_else(|| BackupError::Keys(format!("the cluster file has no replica {replica}")))?;
    let keys = ReplicaKeys::load(dir, member).map_err(|error| BackupError::Keys(error.to_string()))?;
    Ok([keys.link, keys.protocol, keys.log, keys.cosign])
}

/// The checkpoint under its size; one that is there and holds stays.
fn put_checkpoint(
    vault: &mut Vault<'_>,
    policy: &Policy,
    certified: &Certified,
    note: &[u8],
) -> Result<(), BackupError> {
    let path = history(&format!("{CHECKPOINTS}/{}", certified.size));
    let found = vault.tree().read(&path, atlas_dataplane::history::note::MAX_NOTE).ok();
    let holds = |bytes: &Vec<u8>| {
        let checked = Note::parse(bytes).ok().and_then(|note| policy.check(&note).ok());
        checked.is_some_and(|found| (found.size, found.root) == (certified.size, certified.root))
    };
    let bytes = found.filter(holds);
    vault.keep(&path, bytes.as_deref().unwrap_or(note))
}

/// Whose fault it is: below the snapshot that of the files, beyond it that of whoever answers.
fn source_fault<E: std::error::Error>(subject: &Subject, error: ExportError<LiveFault<E>>) -> BackupError {
    match error {
        ExportError::Directory(DirectoryError::Io { path, source }) => io_fault(path, "write")(source),
        ExportError::Source(LiveFault::Files(error)) => BackupError::Source(error.to_string()),
        ExportError::Entry(entry) if entry < subject.settled() => BackupError::Source(format!(
            "{}/history: entry {entry} is not the one under its leaf hash: the file is damaged",
            subject.config.data.display()
        )),
        error => BackupError::Tail(error.to_string()),
    }
}

/// The files of a running replica below its newest snapshot, the protocol beyond.
struct Live<'a, T> {
    files: Option<HistoryFiles>,
    settled: EntryIndex,
    tail: &'a mut T,
    pace: &'a Pace,
}

/// Why it gives nothing.
#[derive(Debug, thiserror::Error)]
enum LiveFault<E: std::error::Error> {
    /// The files.
    #[error(transparent)]
    Files(#[from] ColdError),
    /// The protocol.
    #[error("{0}")]
    Tail(E),
}

impl<'a, T: Source> Live<'a, T> {
    fn open(subject: &Subject, tail: &'a mut T, pace: &'a Pace) -> Result<Self, BackupError> {
        let (config, genesis, settled) = (&subject.config, subject.cluster.genesis(), subject.settled());
        let cold = config.history.cold.as_ref().map(|root| Cold::new(root, genesis, config.replica));
        let folder = cold.as_ref().map(Cold::folder);
        // Without a snapshot nothing says that the files have anything yet.
        let files =
            (settled > 0).then(|| HistoryFiles::open(&config.data.join("history"), genesis, folder)).transpose();
        let files = files.map_err(|error| BackupError::Source(error.to_string()))?;
        Ok(Self { files, settled, tail, pace })
    }

    /// How many of `max` from `first` on the files have.
    fn in_files(&self, first: EntryIndex, max: usize) -> u64 {
        self.settled.saturating_sub(first).min(max as u64)
    }
}

impl<T: Source> Source for Live<'_, T> {
    type Error = LiveFault<T::Error>;

    fn checkpoint(&mut self) -> Result<Vec<u8>, Self::Error> {
        self.tail.checkpoint().map_err(LiveFault::Tail)
    }

    fn entries(&mut self, first: EntryIndex, max: usize) -> Result<Vec<Vec<u8>>, Self::Error> {
        let count = self.in_files(first, max);
        let entries = match self.files.as_mut().filter(|_| count > 0) {
            Some(files) => files.entries(first, count)?,
            None => self.tail.entries(first, max).map_err(LiveFault::Tail)?,
        };
        self.pace.spend(entries.iter().map(Vec::len).sum());
        Ok(entries)
    }

    fn leaf_hashes(&mut self, first: EntryIndex, max: usize) -> Result<Vec<Digest>, Self::Error> {
        let count = self.in_files(first, max);
        let hashes = match self.files.as_ref().filter(|_| count > 0) {
            Some(files) => files.leaf_hashes(first, count)?,
            None => self.tail.leaf_hashes(first, max).map_err(LiveFault::Tail)?,
        };
        self.pace.spend(hashes.len() * 32);
        Ok(hashes)
    }
}
