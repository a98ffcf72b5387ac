//! How a replica begins on what its data directory holds.
//!
//! | found | decision |
//! | --- | --- |
//! | a log | it is read; the replica goes on from there |
//! | an empty log or none, and [`NEVER_RAN`] beside the keys | a new replica |
//! | an empty log or none otherwise | the records are lost: the replica abstains until it is safe to vote (`ordering/rejoin.rs`) |
//! | a log that lost acknowledged records ([`LogError::lost_records`]) | moved aside whole, then as above |
//! | a log that begins behind every snapshot that can be read | likewise: the state is lost |
//! | any other error | the end, nothing touched |
//!
//! The state is that of the newest certified snapshot that is whole and has its history ([`super::snapshot_files`]); without one execution begins with
//! the genesis. Then the log is read from there on.
//!
//! The log's first record, durable before anything else happens, says which of the first three it was; only then the mark goes. A
//! crash in between leaves both, and the log counts.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::node::{Node, NodeConfig, Recovery};
use super::process::RunError;
use super::snapshot_files;
use super::telling::{alarm, report};
use crate::cluster::replica::NEVER_RAN;
use crate::cluster::settings::LogDevice;
use crate::cluster::{Cluster, ReplicaConfig};
use crate::execution::Execution;
use crate::history::store::{FileStore, Layout};
use crate::log::{self, FileDevice, LogError, Method};
use crate::replica::NodeError;
use crate::state::Application;
use crate::types::{EntryIndex, Now};

/// A node on its files.
pub(super) type FileNode<A> = Node<A, FileStore, FileDevice>;

/// Opens the data directory and reads its log. See the module.
///
/// # Errors
/// What the table calls the end.
pub(super) fn open<A: Application>(
    config: &ReplicaConfig,
    cluster: &Cluster,
    node: NodeConfig,
    history: &Layout,
    application: &impl Fn() -> A,
    now: Now,
) -> Result<FileNode<A>, RunError> {
    let mark = config.keys.join(NEVER_RAN);
    let never_ran = mark.try_exists().map_err(|source| RunError::Mark { file: mark.clone(), source })?;
    let node = NodeConfig { never_ran, ..node };
    let data = config.data.as_path();
    let opened = match read(config, cluster, node.clone(), history, application, now) {
        Err(error) if lost_records(&error) => {
            alarm(&format!("this replica has lost what it acknowledged: {error}"));
            // Whatever the mark says, there was a log; should this end before the next one begins, there must be no mark.
            if never_ran {
                remove(&mark, &config.keys).map_err(|source| RunError::Mark { file: mark.clone(), source })?;
            }
            if let Some(aside) = log::set_aside(data)? {
                report(&format!("the damaged log is kept in {}", aside.display()));
            }
            read(config, cluster, NodeConfig { never_ran: false, ..node }, history, application, now)
        }
        opened => opened,
    };
    let (node, found) = opened?;
    if never_ran && mark.exists() {
        remove(&mark, &config.keys).map_err(|source| RunError::Mark { file: mark, source })?;
    }
    announce(data, &found, node.ordering().abstains().is_some());
    Ok(node)
}

fn read<A: Application>(
    config: &ReplicaConfig,
    cluster: &Cluster,
    node: NodeConfig,
    history: &Layout,
    application: &impl Fn() -> A,
    now: Now,
) -> Result<(FileNode<A>, Recovery), RunError> {
    let data = config.data.as_path();
    let device = FileDevice::open(data, cluster.genesis(), node.segment_bytes, method(config))?;
    // Looked at again under the lock: a restore may have taken the mark and the log away while this start waited.
    let never_ran = node.never_ran && config.keys.join(NEVER_RAN).exists();
    let node = NodeConfig { never_ran, ..node };
    if method(config) == Method::Direct && !device.is_direct() {
        report(&format!(
            "warning: the file system of {} refuses O_DIRECT: writes pass through the page cache",
            data.display()
        ));
    }
    let (mut shelf, damaged) = snapshot_files::load(data, cluster.genesis())?;
    for file in damaged {
        alarm(&format!("the snapshot {} is damaged and was moved aside", file.display()));
    }
    // One with a certificate that does not hold would make this replica a liar.
    shelf.check(|certificate| certificate.holds(node.agreed.size, &node.seals));
    // Above the low watermark a restart must have its votes in memory, so what nobody certified is executed from the log again.
    let certified = shelf.all().iter().rev().filter(|kept| kept.certificate.is_some());
    for kept in certified.cloned().collect::<Vec<_>>() {
        let sequence = kept.sequence();
        let Some(image) = snapshot_files::image(data, cluster.genesis(), sequence)? else { continue };
        match resume(history, cluster, application(), kept.statement.size, &image) {
            Ok(execution) => return Ok(Node::recover(node, execution, shelf, device, now)?),
            Err(error) => {
                alarm(&format!("the snapshot of sequence {sequence} is of no use and was moved aside: {error}"));
                snapshot_files::set_aside(data, sequence)?;
                shelf.remove(sequence);
            }
        }
    }
    let store = FileStore::open_at(history)?;
    let execution = Execution::new(cluster, application(), store)?;
    Ok(Node::recover(node, execution, shelf, device, now)?)
}

/// The state as the newest snapshot has it.
fn resume<A: Application>(
    history: &Layout,
    cluster: &Cluster,
    application: A,
    size: EntryIndex,
    image: &[u8],
) -> Result<Execution<A, FileStore>, String> {
    let store = FileStore::reopen(history, size).map_err(|error| error.to_string())?;
    Execution::resume(cluster, application, store, image).map_err(|error| error.to_string())
}

/// Whether this start found that records are lost which others may rely on.
fn lost_records(error: &RunError) -> bool {
    match error {
        RunError::Node(NodeError::Log(error)) | RunError::Log(error) => error.lost_records(),
        RunError::Node(NodeError::NoSnapshot { .. }) => true,
        _ => false,
    }
}

/// How the log becomes durable.
pub(super) fn method(config: &ReplicaConfig) -> Method {
    match config.log.device {
        LogDevice::Direct => Method::Direct,
        LogDevice::Mapped => Method::Mapped,
    }
}

fn remove(file: &Path, dir: &Path) -> io::Result<()> {
    fs::remove_file(file)?;
    File::open(dir)?.sync_all()
}

fn announce(data: &Path, found: &Recovery, abstains: bool) {
    let torn = match found.torn_bytes {
        0 => String::new(),
        bytes => format!("; dropped {bytes} bytes of a torn tail, none of them acknowledged"),
    };
    report(&match found.empty {
        true => format!("new log in {}", data.display()),
        false => format!(
            "log in {}: {} records read, executed up to sequence {}{torn}",
            data.display(),
            found.records,
            found.executed,
        ),
    });
    if abstains {
        alarm(
            "this replica ran before and its records are lost: it abstains from voting, takes what the others decided, and votes again when \
             nothing that it may have said can matter; that needs all correct replicas. Were all replicas emptied on purpose, make a new \
             cluster with `atlas init`: this one's promises are gone",
        );
    }
}

/// Removes the mark of an identity that never ran, if it is there.
pub(super) fn forget_never_ran(keys: &Path) -> Result<(), RunError> {
    let mark = keys.join(NEVER_RAN);
    match remove(&mark, keys) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RunError::Mark { file: mark, source }),
        _ => Ok(()),
    }
}

/// Prepares a data directory whose disk was lost, replaced, or set back to an earlier state: the replica that starts on it next abstains
/// until it is safe to vote. What is there is moved aside, never deleted; says where to.
///
/// # Errors
/// A replica runs there; the file system's own.
pub fn recover(config: &ReplicaConfig) -> Result<Option<PathBuf>, RunError> {
    forget_never_ran(&config.keys)?;
    let made = fs::create_dir_all(&config.data);
    made.map_err(|source| LogError::Io { file: config.data.clone(), doing: "create", source })?;
    Ok(log::set_aside(&config.data)?)
}
