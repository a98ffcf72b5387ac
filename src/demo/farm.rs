//! The cluster, the gateway's client and the clock: everything that the story does to the world.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::cluster::init::{GATEWAY, OPERATOR};
use atlas_dataplane::history::tlog_policy::Policy;
use atlas_dataplane::types::{Code, Position, PublicKey};

use super::meter::{Meter, Phase};
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::proofs::export_history;
use crate::cli::session::{Session, identity, load_cluster, unreadable};
use crate::client::{
    Client, ClientConfig, Completion, ReadResult, ReplicaStatus, RequestResult, Strength, SubmitOptions,
};
use crate::local::{LocalCluster, LocalError, LocalOptions};
use crate::twin::operation::Operation;
use crate::twin::query::{ChangeSet, History, MAX_PAGE, Properties, Query};

/// How many replicas: the fewest that tolerate one that fails or lies.
pub(super) const REPLICAS: usize = 4;
/// Size of a log segment: a day is a few MiB.
const SEGMENT_MIB: u64 = 8;
/// How long an operation or read may take; far more than a busy host needs.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long the client is left to itself before signals are looked at.
const TURN: Duration = Duration::from_millis(50);
/// How long replicas may take to come to the same position once nothing more is written.
const SETTLE: Duration = Duration::from_secs(20);
/// The most properties that a list of the twins gives in one page.
const MAX_SHOWN: u64 = MAX_PAGE as u64;

/// The demonstration's cluster and what was done with it.
pub(super) struct Farm {
    replicas: LocalCluster,
    cluster: Cluster,
    gateway: Client,
    interrupt: Interrupt,
    /// Latencies of the gateway's operations.
    pub(super) meter: Meter,
    /// Which replicas there are.
    pub(super) phase: Phase,
    /// The gateway's operations that were carried out, in all phases.
    pub(super) done: usize,
    /// The highest position of any of them.
    pub(super) last: Position,
}

/// A failure whose own words are enough.
fn failed(error: impl fmt::Display) -> CliError {
    CliError::Failed(error.to_string())
}

impl Farm {
    /// Starts the replicas and connects the gateway.
    pub(super) fn start(dir: &Path, interrupt: &Interrupt) -> Result<Self, CliError> {
        let options = LocalOptions {
            origin: "atlas.example/demo".to_owned(),
            gateway_write: vec![format!("{}/*", super::plan::NAMESPACE)],
            segment_mib: SEGMENT_MIB,
            interrupt: Some(interrupt.clone()),
            ..LocalOptions::default()
        };
        let replicas = LocalCluster::start(dir, REPLICAS, &options).map_err(failed)?;
        let cluster = load_cluster(replicas.cluster_file())?;
        let key = identity(key_file(&replicas, GATEWAY)?)?;
        let config = ClientConfig { timeout: TIMEOUT, ..ClientConfig::new(cluster.clone(), key) };
        let gateway = Client::connect(config).map_err(failed)?;
        Ok(Self {
            replicas,
            cluster,
            gateway,
            interrupt: interrupt.clone(),
            meter: Meter::default(),
            phase: Phase::Before,
            done: 0,
            last: Position::default(),
        })
    }

    /// The cluster file's content.
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The process id of a replica that runs.
    pub(super) fn pid(&self, replica: usize) -> Option<u32> {
        self.replicas.pid(replica)
    }

    /// The gateway's public key.
    pub(super) fn gateway_key(&self) -> Result<PublicKey, CliError> {
        let client = self.cluster.clients().iter().find(|client| client.name == GATEWAY);
        client.map(|client| client.key).ok_or_else(|| CliError::Failed("the cluster file has no gateway".to_owned()))
    }

    /// Fails once a signal has come.
    pub(super) fn check_interrupt(&self) -> Result<(), CliError> {
        if self.interrupt.is_set() { Err(CliError::Failed("interrupted".to_owned())) } else { Ok(()) }
    }

    /// Has the gateway sign each operation in a bundle of its own, all under way at once; gives the results in their order.
    pub(super) fn write(&mut self, operations: &[Operation]) -> Result<Vec<RequestResult>, CliError> {
        let results = self.try_write(operations);
        // A replica that died by itself explains more than the client can.
        if results.is_err() {
            self.replicas.check().map_err(failed)?;
        }
        results
    }

    fn try_write(&mut self, operations: &[Operation]) -> Result<Vec<RequestResult>, CliError> {
        let options = SubmitOptions { timeout_ms: TIMEOUT.as_millis() as u32, ..SubmitOptions::default() };
        let mut open = BTreeMap::new();
        for (index, operation) in operations.iter().enumerate() {
            let sent = Instant::now();
            let ticket = self.gateway.submit(&[operation.encode()], &options).map_err(failed)?;
            open.insert(ticket, (index, sent));
        }
        let mut results = BTreeMap::new();
        while !open.is_empty() {
            self.check_interrupt()?;
            let ended = self.gateway.poll(TURN).map_err(failed)?;
            if ended.is_empty() {
                self.replicas.check().map_err(failed)?;
            }
            for done in ended {
                let Some((index, sent)) = open.remove(&done.ticket) else { continue };
                let Completion::Executed(executed) = done.result.map_err(failed)? else { continue };
                let latency = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                for result in executed {
                    if result.code != Code::DONE {
                        return Err(CliError::Refused { code: result.code, detail: result.detail });
                    }
                    self.meter.record(self.phase, latency);
                    self.done += 1;
                    self.last = self.last.max(result.position);
                    results.insert(index, result);
                }
            }
        }
        Ok(results.into_values().collect())
    }

    /// Has the operator sign one operation and waits for its outcome, whatever that is.
    pub(super) fn command(&mut self, operation: &Operation) -> Result<RequestResult, CliError> {
        let key = identity(key_file(&self.replicas, OPERATOR)?)?;
        let mut session = Session::connect(self.cluster.clone(), key, TIMEOUT)?;
        let result = session.submit(operation.encode())?;
        self.last = self.last.max(result.position);
        Ok(result)
    }

    /// Exports the history, of at least so many entries, into a new directory; gives the policy by which it is to be believed.
    pub(super) fn export(&mut self, dir: &Path, size: u64) -> Result<Policy, CliError> {
        let key = identity(key_file(&self.replicas, OPERATOR)?)?;
        let mut session = Session::connect(self.cluster.clone(), key, TIMEOUT)?;
        export_history(&mut session, (0, None), size, dir, &|_, _| {})?;
        Policy::parse(self.cluster.policy_text().as_bytes()).map_err(failed)
    }

    fn read(&mut self, query: &Query, at_least: u64) -> Result<ReadResult, CliError> {
        self.check_interrupt()?;
        let size = self.gateway.highest_size().max(at_least);
        let read = self.gateway.read(&query.encode(), Strength::AtLeast(size)).map_err(failed)?;
        match read.code {
            Code::DONE => Ok(read),
            code => Err(CliError::Refused { code, detail: String::new() }),
        }
    }

    /// All properties of all turbines, and the history size at which f+1 replicas said so.
    pub(super) fn twins(&mut self) -> Result<(Properties, u64), CliError> {
        let prefix = format!("{}/", super::plan::NAMESPACE);
        let at_least = self.last.entry + 1;
        let read = self.read(&Query::List { prefix, after: None, limit: MAX_SHOWN }, at_least)?;
        Ok((Properties::decode(&read.body).map_err(unreadable)?, read.size))
    }

    /// What happened to a twin or one property of it, newest first, as far back as `most` changes.
    pub(super) fn history(
        &mut self,
        twin: &str,
        property: Option<&str>,
        most: usize,
    ) -> Result<Vec<ChangeSet>, CliError> {
        let mut sets: Vec<ChangeSet> = Vec::new();
        let mut cursor = None;
        loop {
            let changes: usize = sets.iter().map(|set| set.changes.len()).sum();
            let limit = most.saturating_sub(changes) as u64;
            if limit == 0 {
                return Ok(sets);
            }
            let (twin, property) = (twin.to_owned(), property.map(str::to_owned));
            let query = Query::History { twin, property, from: None, to: None, limit, cursor: cursor.take() };
            let read = self.read(&query, self.last.entry + 1)?;
            let page = History::decode(&read.body).map_err(unreadable)?;
            sets.extend(page.sets);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(sets);
            }
        }
    }

    /// What each replica says of itself within the time.
    pub(super) fn status(&mut self, timeout: Duration) -> Result<Vec<Option<ReplicaStatus>>, CliError> {
        self.check_interrupt()?;
        let reports = self.gateway.status(timeout).map_err(failed)?;
        Ok(reports.into_iter().map(|report| report.status).collect())
    }

    /// Lets the client work until then.
    pub(super) fn wait_until(&mut self, then: Instant) -> Result<(), CliError> {
        loop {
            self.check_interrupt()?;
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.gateway.poll(left.min(TURN)).map_err(failed)?;
        }
    }

    /// Kills a replica as kill -9 does; gives the id that its process had.
    pub(super) fn kill(&mut self, replica: usize) -> Result<u32, CliError> {
        let pid = self.replicas.pid(replica).ok_or_else(|| failed(LocalError::Replica(replica)))?;
        self.replicas.kill(replica).map_err(failed)?;
        Ok(pid)
    }

    /// Starts a replica that was killed.
    pub(super) fn restart(&mut self, replica: usize) -> Result<(), CliError> {
        self.replicas.restart(replica).map_err(failed)
    }

    /// Starts a replica that was killed as one that lies.
    pub(super) fn restart_hostile(&mut self, replica: usize, tactics: &str) -> Result<(), CliError> {
        self.replicas.restart_hostile(replica, tactics).map_err(failed)
    }

    /// Waits until all replicas are at the same position, at least the last one written, and gives what they say; what
    /// they said last where that does not come.
    pub(super) fn settle(&mut self) -> Result<Vec<Option<ReplicaStatus>>, CliError> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let said = self.status(Duration::from_millis(500))?;
            let sizes: Vec<Option<(u64, u64)>> =
                said.iter().map(|status| status.as_ref().map(|status| (status.size, status.sequence))).collect();
            let level =
                sizes.iter().all(|size| size.is_some_and(|(size, _)| size > self.last.entry) && *size == sizes[0]);
            if level || Instant::now() >= deadline {
                return Ok(said);
            }
            self.replicas.check().map_err(failed)?;
            self.wait_until(Instant::now() + TURN)?;
        }
    }

    /// Stops all replicas; each must exit with 0.
    pub(super) fn stop(self) -> Result<(), LocalError> {
        self.replicas.stop()
    }
}

fn key_file<'a>(replicas: &'a LocalCluster, name: &str) -> Result<&'a Path, CliError> {
    replicas.identity(name).ok_or_else(|| CliError::Failed(format!("the new cluster has no client {name}")))
}
