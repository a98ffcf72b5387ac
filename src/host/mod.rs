//! `atlas host`: what a host is like for a replica, what it should be like, and the changes that close the gap.
//!
//! # How it is found out
//! Almost everything stands in `/proc` and `/sys` and is read from there by functions of a [`root::Root`] alone, so that tests run
//! them on recorded trees. What no file tells is asked for once, as [`live::Live`]: what io_uring really does here, the kernel's
//! clock discipline, free space, how long a durable append takes, and what `chronyc` and `ethtool` say where they are installed.
//!
//! # What is said
//! A [`Finding`] a check: what is there, what should be, how bad the difference is, why it matters, what to do. What a container
//! or virtual machine hides is said to be hidden, never guessed.
//!
//! | severity | meaning |
//! | --- | --- |
//! | ok | as it should be |
//! | note | could be better, or cannot be seen from here; nothing suffers that a shared host would not |
//! | warning | Atlas runs, but latency, throughput or the staying up of the service will suffer |
//! | critical | Atlas does not run here, or what it promises (durability, agreed time) does not hold |
//!
//! # Changes
//! Some findings carry [`Change`]s: a file of `/proc` or `/sys`, or a setting of `ethtool`, with the value that it has and the one
//! that it should have. [`tune`] prints them as shell commands, or makes them after it has written a script that puts the old
//! values back. They last until the next boot; `tuning/` has what keeps them.

pub mod clock;
pub mod cores;
pub mod cpu;
pub mod disk;
pub mod kernel;
pub mod live;
pub mod machine;
pub mod memory;
pub mod network;
pub mod root;
pub mod tune;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::{ConfigError, ReplicaConfig};
use serde::Serialize;

use crate::cli::output::printable;
use live::Live;
use root::Root;

/// How much of what the host says a finding repeats, in characters.
const MAX_FOUND: usize = 400;

/// How bad a finding is; see the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Could be better, or cannot be seen.
    Note,
    /// It runs, but something suffers.
    Warning,
    /// It does not run, or does not keep a promise.
    Critical,
}

impl Severity {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What one check found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// The check's stable name.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is there.
    pub found: String,
    /// What should be.
    pub wanted: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do; empty where nothing needs to be done.
    pub fix: String,
    /// What `atlas host tune` would change.
    #[serde(skip)]
    pub changes: Vec<Change>,
}

impl Finding {
    fn new(check: &'static str, severity: Severity, found: impl Into<String>, why: &'static str) -> Self {
        // What the host says may be anything, and goes to a terminal.
        let found = printable(&found.into()).chars().take(MAX_FOUND).collect();
        Self { check, severity, found, wanted: String::new(), why, fix: String::new(), changes: Vec::new() }
    }

    fn ok(check: &'static str, found: impl Into<String>, why: &'static str) -> Self {
        Self::new(check, Severity::Ok, found, why)
    }

    /// What this host does not show.
    fn hidden(check: &'static str, what: &str, why: &'static str) -> Self {
        Self::new(check, Severity::Note, format!("not visible here: {what}"), why)
    }

    fn want(mut self, wanted: impl Into<String>, fix: impl Into<String>) -> Self {
        (self.wanted, self.fix) = (wanted.into(), fix.into());
        self
    }

    fn with(mut self, changes: Vec<Change>) -> Self {
        self.changes = changes;
        self
    }
}

/// A change that can be undone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A file of `/proc` or `/sys` that holds a value.
    File {
        /// Its absolute path on the host.
        path: PathBuf,
        /// The value that it has.
        old: String,
        /// The value that it should have.
        new: String,
    },
    /// A setting of a tool.
    Tool {
        /// The tool and its arguments for the new value.
        run: Vec<String>,
        /// The same for the value that was there.
        undo: Vec<String>,
    },
}

/// The replica that the host is looked at for; without a configuration its defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Where its data lies or will lie; `None` where nobody said.
    pub data: Option<PathBuf>,
    /// The core that it is pinned to.
    pub core: Option<u32>,
    /// Clients that may be connected.
    pub max_clients: u64,
    /// Replicas of the cluster.
    pub replicas: u64,
    /// Below so much free space it takes no writes, in MiB.
    pub low_space_mib: u64,
    /// By how much the clocks of replicas may differ, in milliseconds.
    pub drift_ms: u64,
}

impl Default for Subject {
    fn default() -> Self {
        let net = atlas_dataplane::cluster::settings::NetConfig::default();
        let local = atlas_dataplane::cluster::settings::LocalConfig::default();
        let agreed = atlas_dataplane::cluster::Settings::default();
        Self {
            data: None,
            core: None,
            max_clients: net.max_clients,
            replicas: 4,
            low_space_mib: local.low_space_mib,
            drift_ms: agreed.drift_ms,
        }
    }
}

impl Subject {
    /// Reads a replica's configuration.
    ///
    /// # Errors
    /// What is wrong with it or with the cluster file that it names.
    pub fn of(config: &Path) -> Result<Self, ConfigError> {
        let (config, cluster) = ReplicaConfig::load(config)?;
        Ok(Self {
            data: Some(config.data),
            core: config.core.and_then(|core| u32::try_from(core).ok()),
            max_clients: config.net.max_clients,
            replicas: cluster.n() as u64,
            low_space_mib: config.local.low_space_mib,
            drift_ms: cluster.settings().drift_ms,
        })
    }
}

/// All checks, in the order in which they are shown.
pub fn check(root: &Root, live: &Live, subject: &Subject) -> Vec<Finding> {
    let mut findings = machine::check(root);
    findings.extend(kernel::check(root, live, subject));
    findings.extend(cores::check(root, subject));
    findings.extend(cpu::check(root, subject));
    findings.extend(memory::check(root));
    findings.extend(clock::check(root, live, subject));
    findings.extend(network::check(root, live));
    findings.extend(disk::check(root, live, subject));
    findings
}
