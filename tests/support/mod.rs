//! What the whole-system tests share: a cluster of real replica processes, a client and a peer of the tests' own that speak
//! the wire format over blocking sockets, and a checker of what was acknowledged.
//!
//! Nothing here uses the product's client: a fault in it would hide the same fault in a replica.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part of this")]

pub mod checker;
pub mod client;
pub mod ctl;
pub mod link;
pub mod proxy;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atlas::local::{LocalCluster, LocalError, LocalOptions, Signal};
use atlas_dataplane::client::ReplicaStatus;
use atlas_dataplane::cluster::Cluster as ClusterFile;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::link::LinkIdentity;
use atlas_dataplane::types::{ReplicaId, TimeMs};
use client::Client;

/// How long anything that must happen may take, on a machine with other things to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(10);

/// Asks until it is so.
///
/// # Panics
/// With `what` after [`PATIENCE`].
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Tells helpers to stop also where the test fails.
pub struct StopOnDrop<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

pub fn now_ms() -> TimeMs {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as TimeMs
}

/// Four replica processes in a directory of their own.
pub struct Cluster {
    // First, so that the processes are gone before their directory.
    pub local: LocalCluster,
    pub file: ClusterFile,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts four replicas and waits until all serve.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// As [`Cluster::start`]; `edit` may change the replicas' files before all are started again.
    pub fn start_with(edit: impl Fn(&Path)) -> Self {
        Self::start_set(Vec::new(), edit)
    }

    /// As [`Cluster::start_with`], with other settings of the cluster.
    pub fn start_set(settings: Vec<(&'static str, u64)>, edit: impl Fn(&Path)) -> Self {
        Self::start_lines(settings, Vec::new(), edit)
    }

    /// The same with lines for sections of each replica's configuration from the first start on.
    pub fn start_lines(
        settings: Vec<(&'static str, u64)>,
        replica_lines: Vec<(&'static str, String)>,
        edit: impl Fn(&Path),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = wrapper(dir.path());
        let options =
            LocalOptions { program: Some(program), segment_mib: 4, settings, replica_lines, ..LocalOptions::default() };
        let local = LocalCluster::launch(&dir.path().join("cluster"), 4, &options).unwrap();
        let file = ClusterFile::load(local.cluster_file()).unwrap();
        let mut cluster = Self { local, file, dir };
        for index in 0..4 {
            let path = cluster.local.replica_file(index).unwrap().to_owned();
            let before = fs::read(&path).unwrap();
            edit(&path);
            if fs::read(&path).unwrap() != before {
                cluster.local.kill(index).unwrap();
                cluster.local.restart(index).unwrap();
            }
        }
        cluster.wait_all();
        cluster
    }

    /// A file beside the cluster's.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn home(&self, index: usize) -> PathBuf {
        self.local.replica_file(index).unwrap().parent().unwrap().to_owned()
    }

    pub fn address(&self, index: usize) -> String {
        self.file.member(ReplicaId(index as u8)).unwrap().address.to_string()
    }

    /// The private key of a client: `operator` or `gateway`.
    pub fn client_key(&self, name: &str) -> SecretKey {
        SecretKey::load(self.local.identity(name).unwrap()).unwrap()
    }

    /// A replica's stolen link key.
    pub fn stolen_key(&self, index: usize) -> SecretKey {
        SecretKey::load(&self.home(index).join("keys/link.key")).unwrap()
    }

    pub fn identity(&self, key: SecretKey) -> std::sync::Arc<LinkIdentity> {
        std::sync::Arc::new(LinkIdentity::new(key, self.file.genesis()).unwrap())
    }

    /// An honest client under the identity `operator`.
    pub fn client(&self) -> Client {
        Client::new(self, "operator")
    }

    pub fn running(&self, index: usize) -> bool {
        self.local.pid(index).is_some_and(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")))
        })
    }

    /// Ends replica `index` at a step of its log, the `count`-th time it gets there, from its next start on.
    pub fn crash_at(&mut self, index: usize, step: &str, count: u64) {
        fs::write(self.home(index).join(CRASH_FILE), format!("{step}:{count}")).unwrap();
    }

    pub fn crash_no_more(&mut self, index: usize) {
        let _ = fs::remove_file(self.home(index).join(CRASH_FILE));
    }

    pub fn kill(&mut self, index: usize) {
        self.local.kill(index).unwrap();
    }

    pub fn restart(&mut self, index: usize) {
        self.local.restart(index).unwrap();
    }

    /// Starts a replica as one that lies; see `atlas hostile-replica --help`.
    pub fn restart_hostile(&mut self, index: usize, tactics: &str) {
        self.local.restart_hostile(index, tactics).unwrap();
    }

    /// Waits until a replica has ended by itself, and makes it possible to start it again.
    pub fn wait_ended(&mut self, index: usize) {
        until(&format!("replica {index} ends"), || !self.running(index));
        self.local.kill(index).unwrap();
    }

    pub fn signal(&mut self, index: usize, signal: Signal) {
        self.local.signal(index, signal).unwrap();
    }

    /// What a replica printed so far.
    pub fn log_text(&self, index: usize) -> String {
        fs::read_to_string(self.local.log_file(index)).unwrap_or_default()
    }

    /// What each replica says of itself; `None` for one that did not answer in a moment.
    pub fn statuses(&self) -> Vec<Option<ReplicaStatus>> {
        (0..4).map(|index| self.status(index)).collect()
    }

    pub fn status(&self, index: usize) -> Option<ReplicaStatus> {
        if !self.running(index) {
            return None;
        }
        client::status(self, index)
    }

    /// Waits until these replicas serve and are linked with each other.
    pub fn wait_linked(&self, replicas: &[usize]) {
        for &index in replicas {
            let others: u32 = replicas.iter().filter(|other| **other != index).map(|other| 1 << other).sum();
            until(&format!("replica {index} is linked with {replicas:?}; it printed {}", self.log_text(index)), || {
                self.status(index).is_some_and(|status| status.links & others == others)
            });
        }
    }

    pub fn wait_all(&self) {
        self.wait_linked(&[0, 1, 2, 3]);
    }

    /// Waits until these replicas executed the same and agree in every digest, with nothing open.
    pub fn wait_agreed(&self, replicas: &[usize]) -> ReplicaStatus {
        let mut agreed = None;
        let mut last = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while agreed.is_none() {
            let before = std::mem::take(&mut last);
            last = replicas.iter().filter_map(|&index| self.status(index)).map(|status| essence(&status)).collect();
            let same = last.len() == replicas.len() && last.windows(2).all(|pair| pair[0] == pair[1]);
            if same && before == last {
                agreed = self.status(replicas[0]);
            }
            if Instant::now() > deadline {
                panic!("replicas {replicas:?} do not agree: {}", self.describe(replicas));
            }
            std::thread::sleep(PAUSE);
        }
        agreed.unwrap()
    }

    /// What replicas say of themselves and printed last, for a failure's message.
    fn describe(&self, replicas: &[usize]) -> String {
        let describe = |&index: &usize| {
            let log = self.log_text(index);
            let tail: Vec<&str> = log.lines().rev().take(12).collect();
            let Some(status) = self.status(index) else { return format!("\nreplica {index} is silent {tail:#?}") };
            let (sequence, links) = (status.sequence, status.links);
            format!(
                "\nreplica {index} at {sequence}, links {links:#b}, {:?}, printed (latest first) {tail:#?}",
                status.counters
            )
        };
        replicas.iter().map(describe).collect()
    }

    /// An attack is over: everybody lives, an honest client is served, and all hold the same.
    pub fn assert_well(&self, client: &mut Client, replicas: &[usize]) {
        for &index in replicas {
            assert!(self.running(index), "replica {index} ended; it printed {}", self.log_text(index));
        }
        client.write_one();
        self.wait_agreed(replicas);
    }

    /// The sum of the counters of a replica whose names begin so.
    pub fn counter(&self, index: usize, prefix: &str) -> u64 {
        let status = self.status(index).expect("the replica serves");
        status.counters.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
    }

    /// Waits until a replica has counted more than `before` under this name.
    pub fn wait_counted(&self, index: usize, prefix: &str, before: u64) {
        until(&format!("replica {index} counts {prefix}: {:?}", self.status(index).map(|s| s.counters)), || {
            self.counter(index, prefix) > before
        });
    }

    /// Anonymous memory of a replica, KiB.
    pub fn anonymous_kib(&self, index: usize) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.local.pid(index).unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Processor time that a replica has used, in ticks of 10 ms.
    pub fn cpu_ticks(&self, index: usize) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.local.pid(index).unwrap())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Ends all with SIGTERM; each must end by itself and well.
    pub fn stop(self) -> Result<(), LocalError> {
        self.local.stop()
    }
}

/// What must be equal among replicas that executed the same.
fn essence(status: &ReplicaStatus) -> (u64, u64, [u8; 32], [u8; 32], [u8; 32]) {
    (status.sequence, status.size, status.history_root, status.state_root, status.state_digest)
}

/// Names the step at which a replica is to crash, in its directory.
const CRASH_FILE: &str = "crash_at";

/// A program that starts `atlas` with the crash point that a file beside the configuration names.
fn wrapper(dir: &Path) -> PathBuf {
    let path = dir.join("atlas");
    let text = format!(
        "#!/bin/sh\nf=\"$(dirname \"$3\")/{CRASH_FILE}\"\n[ -f \"$f\" ] && export ATLAS_CRASH_AT=\"$(cat \"$f\")\"\n\
         exec '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_atlas")
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Adds a line to a section of a replica's configuration.
pub fn set(file: &Path, section: &str, line: &str) {
    let text = fs::read_to_string(file).unwrap();
    let head = format!("[{section}]\n");
    assert!(text.contains(&head), "{} has no section {section}", file.display());
    fs::write(file, text.replacen(&head, &format!("{head}{line}\n"), 1)).unwrap();
}
