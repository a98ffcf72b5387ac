//! A cluster of replica processes on this host, for benchmarks, demonstrations and tests.
//!
//! [`LocalCluster::start`] writes a fresh cluster into a directory, starts one process of `atlas replica` for each replica,
//! and returns when all of them serve. Each replica is a process of its own, so that it can be killed like one.
//!
//! # Nothing is left running
//! Dropping the value kills every replica and waits for it. Should this process be killed itself, the kernel ends the
//! replicas (`--parent`): so start and restart them from a thread that lives as long as they shall. Replicas form process
//! groups of their own: an interrupt typed at the terminal reaches this process alone, which then stops them in order.
//!
//! # Ports
//! Consecutive ones on 127.0.0.1 that nobody listened on a moment before, below those that the system gives to outgoing
//! connections. Should another process take one in between, that replica says so in its log and the start fails.
//!
//! # Files
//! The directory is as `atlas init` writes it; what a replica prints is appended to [`LOG_FILE`] in its directory. Files are
//! kept: whoever gave the directory removes it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use atlas_dataplane::cluster::init::{InitError, InitOptions, OPERATOR, fresh_origin, init};
use atlas_dataplane::cluster::settings::LogConfig;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::keys::KeyError;
use rand_core::{OsRng, RngCore};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::session::{Session, identity, load_cluster};
use crate::cli::time::now_ms;

/// The file in a replica's directory that takes what it prints.
pub const LOG_FILE: &str = "replica.log";
/// How long a replica may take to drain, sync and exit before [`LocalCluster::stop`] kills it.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long replicas have for one answer while it is found out whether they serve.
const ASK: Duration = Duration::from_millis(500);
/// How often it is looked whether a replica has exited.
const POLL: Duration = Duration::from_millis(5);
/// Ports below this need privileges or belong to well-known services.
const LOWEST_PORT: u16 = 10_000;
/// Where outgoing connections begin when the system does not say.
const USUAL_EPHEMERAL_PORT: u16 = 32_768;
/// How many places are tried for the ports of a cluster.
const PORT_TRIES: usize = 100;
/// The end of a replica's log that an error repeats, in bytes.
const MAX_LOG_TAIL: usize = 2_000;

/// What the cluster is to be.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// The program with the command `replica`: by default the one that is running.
    pub program: Option<PathBuf>,
    /// The cluster's name.
    pub origin: String,
    /// What the client `gateway` may write; `operator` may write everything.
    pub gateway_write: Vec<String>,
    /// What is changed with a reason only.
    pub reason_required: Vec<String>,
    /// Settings that all replicas have alike, by name, in place of the usual ones.
    pub settings: Vec<(&'static str, u64)>,
    /// Size of a log segment in MiB. Two or more are zero-filled at start, so a short run starts sooner with small ones.
    pub segment_mib: u64,
    /// Lines for sections of each replica's configuration: the section and the line.
    pub replica_lines: Vec<(&'static str, String)>,
    /// How long the replicas may take until all serve.
    pub ready_timeout: Duration,
    /// Clients beside `operator` and `gateway`, with the role of `operator`: see [`LocalCluster::extra_client`].
    pub extra_clients: usize,
    /// Ends the wait for the replicas.
    pub interrupt: Option<Interrupt>,
    /// The replicas keep no history: for measurements alone.
    pub without_history: bool,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self {
            program: None,
            origin: fresh_origin("atlas.example/local"),
            gateway_write: vec!["*".to_owned()],
            settings: Vec::new(),
            segment_mib: 16,
            replica_lines: Vec::new(),
            ready_timeout: Duration::from_secs(30),
            extra_clients: 0,
            reason_required: Vec::new(),
            interrupt: None,
            without_history: false,
        }
    }
}

/// Why a local cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The cluster's files cannot be written.
    #[error(transparent)]
    Init(#[from] InitError),
    /// A client's key cannot be drawn or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No run of free ports was found.
    #[error("found no {0} free consecutive ports on 127.0.0.1; is something listening on most of them?")]
    Ports(usize),
    /// A file of the cluster cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {}: {source}", program.display())]
    Spawn {
        /// Which.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A replica ended that should run.
    #[error("replica {index} ended by itself ({status}); its log {} ends with:\n{tail}", log.display())]
    Ended {
        /// Which.
        index: usize,
        /// How.
        status: ExitStatus,
        /// Where to read more.
        log: PathBuf,
        /// The end of what it printed.
        tail: String,
    },
    /// The replicas run and do not serve.
    #[error("the replicas did not serve within {} s: {said}; their logs are in {}", after.as_secs(), dir.display())]
    NotReady {
        /// How long they had.
        after: Duration,
        /// What they said.
        said: String,
        /// The cluster's directory.
        dir: PathBuf,
    },
    /// The caller named a replica that does not exist, or one whose process is not in the state for it.
    #[error("replica {0} is not there, or already runs")]
    Replica(usize),
    /// A signal cannot be sent.
    #[error("cannot signal replica {index}: {source}")]
    Signal {
        /// To whom.
        index: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody asked the start to end.
    #[error("interrupted while the replicas were starting")]
    Interrupted,
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    |source| LocalError::File { path, source }
}

/// Replica processes, killed when this is dropped.
#[derive(Debug)]
pub struct LocalCluster {
    dir: PathBuf,
    program: PathBuf,
    cluster_file: PathBuf,
    replica_files: Vec<PathBuf>,
    client_keys: Vec<(String, PathBuf)>,
    children: Vec<Option<Child>>,
    without_history: bool,
}

impl LocalCluster {
    /// Writes the cluster into `dir`, which does not exist or is empty, starts its replicas, and waits until all serve.
    ///
    /// # Errors
    /// See [`LocalError`]; no replica is left running.
    pub fn start(dir: &Path, replicas: usize, options: &LocalOptions) -> Result<Self, LocalError> {
        let mut cluster = Self::launch(dir, replicas, options)?;
        cluster.wait_ready(replicas, options.ready_timeout, options.interrupt.as_ref())?;
        Ok(cluster)
    }

    /// Waits until `count` replicas answer and hold links with a quorum, themselves included.
    ///
    /// # Errors
    /// [`LocalError::Ended`] as soon as a replica that was started has ended; [`LocalError::NotReady`];
    /// [`LocalError::Interrupted`].
    pub fn wait_ready(
        &mut self,
        count: usize,
        timeout: Duration,
        interrupt: Option<&Interrupt>,
    ) -> Result<(), LocalError> {
        let not_ready = |said: String, dir: &Path| LocalError::NotReady { after: timeout, said, dir: dir.to_owned() };
        let deadline = Instant::now() + timeout;
        let mut said = "none answered".to_owned();
        let mut session = self.operator().map_err(|error| not_ready(error.to_string(), &self.dir))?;
        let quorum = session.cluster().quorum();
        while Instant::now() < deadline {
            self.check()?;
            if interrupt.is_some_and(Interrupt::is_set) {
                return Err(LocalError::Interrupted);
            }
            let answers = session.status().map_err(|error| not_ready(error.to_string(), &self.dir))?;
            let linked = |links: u32| links.count_ones() as usize + 1 >= quorum;
            let ready = answers.iter().filter_map(|report| report.status.as_ref());
            let (answered, ready) = (ready.clone().count(), ready.filter(|status| linked(status.links)).count());
            if ready >= count {
                return Ok(());
            }
            said = format!("{answered} of {} answered, {ready} with links to a quorum", answers.len());
            std::thread::sleep(POLL);
        }
        Err(not_ready(said, &self.dir))
    }

    /// A connection as the client `operator`, whose requests each have [`ASK`].
    ///
    /// # Errors
    /// The cluster's files cannot be read.
    fn operator(&self) -> Result<Session, CliError> {
        let key = self.identity(OPERATOR).ok_or_else(|| CliError::Usage(format!("no client {OPERATOR}")))?;
        Session::connect(load_cluster(&self.cluster_file)?, identity(key)?, ASK)
    }

    /// Writes the cluster into `dir`, which does not exist or is empty, and starts its replicas, without waiting for them.
    ///
    /// # Errors
    /// See [`LocalError`]; no replica is left running.
    pub fn launch(dir: &Path, replicas: usize, options: &LocalOptions) -> Result<Self, LocalError> {
        let base_port = free_ports(replicas)?;
        let LocalOptions { origin, gateway_write, reason_required, .. } = options.clone();
        let created_ms = now_ms();
        let made = InitOptions { replicas, base_port, origin, created_ms, gateway_write, reason_required };
        let summary = init(dir, &made)?;
        for file in &summary.replica_files {
            add_line(file, LogConfig::SECTION, &format!("segment_mib = {}", options.segment_mib))?;
            for (section, line) in &options.replica_lines {
                add_line(file, section, line)?;
            }
        }
        change_settings(&summary.cluster_file, &options.settings)?;
        add_clients(&summary.cluster_file, options.extra_clients)?;
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(file_error(Path::new("/proc/self/exe")))?,
        };
        let mut cluster = Self {
            dir: summary.dir,
            program,
            cluster_file: summary.cluster_file,
            children: summary.replica_files.iter().map(|_| None).collect(),
            replica_files: summary.replica_files,
            client_keys: summary.client_keys,
            without_history: options.without_history,
        };
        (0..replicas).try_for_each(|index| cluster.restart(index))?;
        Ok(cluster)
    }

    /// The cluster's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its cluster file.
    pub fn cluster_file(&self) -> &Path {
        &self.cluster_file
    }

    /// The key file of `operator`, `gateway` or `administrator`.
    pub fn identity(&self, name: &str) -> Option<&Path> {
        self.client_keys.iter().find(|(client, _)| client == name).map(|(_, path)| path.as_path())
    }

    /// The key file of an extra client, `0..extra_clients`.
    pub fn extra_client(&self, number: usize) -> PathBuf {
        extra_key(&self.cluster_file, number)
    }

    /// The configuration file of a replica.
    pub fn replica_file(&self, index: usize) -> Option<&Path> {
        self.replica_files.get(index).map(PathBuf::as_path)
    }

    /// The file that takes what a replica prints.
    pub fn log_file(&self, index: usize) -> PathBuf {
        self.replica_files.get(index).map_or_else(|| self.dir.join(LOG_FILE), |file| file.with_file_name(LOG_FILE))
    }

    /// The process id of a replica, while it is not known to have ended.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.children.get(index)?.as_ref().map(Child::id)
    }

    /// Kills a replica (SIGKILL) and waits until it is gone. One that does not run stays so.
    ///
    /// # Errors
    /// [`LocalError::Replica`] or [`LocalError::Signal`].
    pub fn kill(&mut self, index: usize) -> Result<(), LocalError> {
        let slot = self.children.get_mut(index).ok_or(LocalError::Replica(index))?;
        if let Some(mut child) = slot.take() {
            let killed = child.kill().and_then(|()| child.wait());
            killed.map_err(|source| LocalError::Signal { index, source })?;
        }
        Ok(())
    }

    /// Sends a signal to a replica.
    ///
    /// # Errors
    /// [`LocalError::Replica`] where it does not run, or [`LocalError::Signal`].
    pub fn signal(&mut self, index: usize, signal: Signal) -> Result<(), LocalError> {
        let child = self.children.get(index).and_then(Option::as_ref).ok_or(LocalError::Replica(index))?;
        // A child that was not waited for keeps its id, so the signal reaches nobody else.
        kill_process(Pid::from_child(child), signal).map_err(|errno| LocalError::Signal { index, source: errno.into() })
    }

    /// Starts a replica that does not run, from the files that it left.
    ///
    /// # Errors
    /// [`LocalError::Replica`] where it runs, [`LocalError::File`] or [`LocalError::Spawn`].
    pub fn restart(&mut self, index: usize) -> Result<(), LocalError> {
        self.run(index, "replica", if self.without_history { &["--without-history"] } else { &[] })
    }

    /// As [`LocalCluster::restart`], but the replica lies: `tactics` are those of `atlas hostile-replica`, separated by commas.
    ///
    /// # Errors
    /// As [`LocalCluster::restart`].
    pub fn restart_hostile(&mut self, index: usize, tactics: &str) -> Result<(), LocalError> {
        self.run(index, "hostile-replica", &["--tactics", tactics])
    }

    fn run(&mut self, index: usize, command: &str, more: &[&str]) -> Result<(), LocalError> {
        let log = self.log_file(index);
        let (Some(slot), Some(file)) = (self.children.get_mut(index), self.replica_files.get(index)) else {
            return Err(LocalError::Replica(index));
        };
        if let Some(child) = slot
            && child.try_wait().is_ok_and(|status| status.is_none())
        {
            return Err(LocalError::Replica(index));
        }
        let output = OpenOptions::new().create(true).append(true).open(&log).map_err(file_error(&log))?;
        let errors = output.try_clone().map_err(file_error(&log))?;
        let child = Command::new(&self.program)
            .arg(command)
            .arg("--config")
            .arg(file)
            .arg("--parent")
            .arg(std::process::id().to_string())
            .args(more)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| LocalError::Spawn { program: self.program.clone(), source })?;
        *slot = Some(child);
        Ok(())
    }

    /// Whether every replica that was started still runs.
    ///
    /// # Errors
    /// [`LocalError::Ended`] for the first that does not, with the end of its log.
    pub fn check(&mut self) -> Result<(), LocalError> {
        for index in 0..self.children.len() {
            let ended = self.children.get_mut(index).and_then(Option::as_mut).map(Child::try_wait);
            if let Some(Ok(Some(status))) = ended {
                let log = self.log_file(index);
                let tail = tail(&log);
                return Err(LocalError::Ended { index, status, log, tail });
            }
        }
        Ok(())
    }

    /// Asks every replica to drain, sync and exit (SIGTERM) and waits for it; one that takes longer than
    /// [`STOP_TIMEOUT`] is killed.
    ///
    /// # Errors
    /// [`LocalError::Ended`] for the first that did not exit with 0; all are gone in any case.
    pub fn stop(mut self) -> Result<(), LocalError> {
        for index in 0..self.children.len() {
            // One that has ended already is found below.
            let _ = self.signal(index, Signal::TERM);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        let mut failed = None;
        for index in 0..self.children.len() {
            let Some(mut child) = self.children.get_mut(index).and_then(Option::take) else { continue };
            let status = wait_until(&mut child, deadline).map_err(|source| LocalError::Signal { index, source })?;
            if !status.success() && failed.is_none() {
                let log = self.log_file(index);
                failed = Some(LocalError::Ended { index, status, tail: tail(&log), log });
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        // All are killed before the first is waited for, so that they end side by side.
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
        }
        for child in self.children.iter_mut().flatten() {
            let _ = child.wait();
        }
    }
}

fn wait_until(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            return child.wait();
        }
        std::thread::sleep(POLL);
    }
}

/// The end of a log, for an error message.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let start = text.len().saturating_sub(MAX_LOG_TAIL);
    String::from_utf8_lossy(text.get(start..).unwrap_or_default()).trim().to_owned()
}

/// Finds a run of ports that can be listened on now; gives the first.
fn free_ports(count: usize) -> Result<u16, LocalError> {
    let highest = usize::from(first_ephemeral_port()).saturating_sub(count);
    let span = highest.saturating_sub(usize::from(LOWEST_PORT));
    if span == 0 {
        return Err(LocalError::Ports(count));
    }
    for _ in 0..PORT_TRIES {
        let base = usize::from(LOWEST_PORT) + OsRng.next_u32() as usize % span;
        let ports = (base..base + count).map(u16::try_from);
        let listeners: Option<Vec<TcpListener>> =
            ports.map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port.ok()?)).ok()).collect();
        if let (Some(_), Ok(base)) = (listeners, u16::try_from(base)) {
            return Ok(base);
        }
    }
    Err(LocalError::Ports(count))
}

fn first_ephemeral_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_whitespace().next().and_then(|port| port.parse().ok());
    first.filter(|port| *port > LOWEST_PORT + 1_000).unwrap_or(USUAL_EPHEMERAL_PORT)
}

fn extra_key(cluster_file: &Path, number: usize) -> PathBuf {
    cluster_file.with_file_name("clients").join(format!("client-{number}.key"))
}

/// Adds clients to a cluster file that no replica has read yet.
fn add_clients(cluster_file: &Path, count: usize) -> Result<(), LocalError> {
    let mut text = fs::read_to_string(cluster_file).map_err(file_error(cluster_file))?;
    for number in 0..count {
        let key = SecretKey::generate()?;
        key.store(&extra_key(cluster_file, number))?;
        text.push_str(&format!(
            "[[clients]]\nname = \"client-{number}\"\nkey = \"{}\"\nrole = \"{OPERATOR}\"\n\n",
            key.public()
        ));
    }
    fs::write(cluster_file, text).map_err(file_error(cluster_file))
}

/// Gives settings of the cluster file other values.
fn change_settings(cluster_file: &Path, settings: &[(&str, u64)]) -> Result<(), LocalError> {
    let text = fs::read_to_string(cluster_file).map_err(file_error(cluster_file))?;
    let lines = text.lines().map(|line| {
        let changed = settings.iter().find(|(name, _)| line.split(" = ").next() == Some(name));
        changed.map_or_else(|| line.to_owned(), |(name, value)| format!("{name} = {value}")) + "\n"
    });
    fs::write(cluster_file, lines.collect::<String>()).map_err(file_error(cluster_file))
}

/// Adds a line to a section of a replica's configuration.
fn add_line(file: &Path, section: &str, line: &str) -> Result<(), LocalError> {
    let text = fs::read_to_string(file).map_err(file_error(file))?;
    let head = format!("[{section}]\n");
    let text = text.replacen(&head, &format!("{head}{line}\n"), 1);
    fs::write(file, text).and_then(|()| File::open(file)?.sync_all()).map_err(file_error(file))
}

#[cfg(test)]
mod tests;
