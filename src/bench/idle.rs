//! `atlas bench idle`: what a replica takes while nobody asks anything of it.
//!
//! # Steps
//! 1. So many properties are written, 16 to a twin, over the workload's twins and as many more as it takes: memory is that of a store
//!    with its properties in it.
//! 2. The client goes away, and the replicas have time to settle: what was written is certified, snapshots are on the disk.
//! 3. `/proc` is read, and read again after the measured time. Nothing else runs in between; this process sleeps.
//!
//! # What is read
//! - CPU time of each thread: `schedstat`, in nanoseconds; where the kernel keeps none, user and system time of `stat` in clock ticks. User
//!   and system time of the process apart: ticks of `stat`, so in steps of a hundredth of a second.
//! - Switches of each thread: `voluntary_ctxt_switches` of `status` is how often it went to sleep, and so how often it was woken;
//!   the others took the core from it.
//! - `RssAnon` of the process: memory that no file stands behind.
//!
//! A thread that began or ended in between is left out of the threads and counts in the process's user and system time.
//!
//! Source: proc(5), Documentation/scheduler/sched-stats.rst.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use serde::Serialize;

use super::report::Environment;
use super::run::{self, BenchError, Target};
use super::workload::{Generator, PROPERTIES};
use crate::cli::interrupt::Interrupt;
use crate::client::Driver;
use crate::local::{LocalCluster, LocalError};

/// CPU of an idle replica is to stay below this share of a core.
pub const CPU_TARGET: f64 = 0.01;
/// Anonymous memory of a replica is to stay below this, bytes.
pub const MEMORY_TARGET: u64 = 256 << 20;
/// The most properties that are written: twins have names of four digits.
pub const MAX_FILLED: u64 = 10_000 * PROPERTIES;
/// How often it is looked whether a signal has come.
const LOOK: Duration = Duration::from_millis(200);
/// What Linux shows programs as a clock tick (USER_HZ), ns.
pub(super) const TICK_NS: u64 = 10_000_000;
/// Threads of a process that are read at most.
const MAX_THREADS: usize = 1_024;

/// What is to be measured.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// Properties that are written first.
    pub properties: u64,
    /// Bytes of an operation that writes one.
    pub payload: usize,
    /// How long the replicas have to settle.
    pub settle: Duration,
    /// How long is measured.
    pub measured: Duration,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum IdleError {
    /// The properties could not be written.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// A replica does not run.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// `/proc` does not say it.
    #[error("cannot read what /proc says of process {pid}: {source}")]
    Proc {
        /// Of whom.
        pid: u32,
        /// Why not.
        source: io::Error,
    },
}

impl From<crate::client::Error> for IdleError {
    fn from(error: crate::client::Error) -> Self {
        Self::Bench(error.into())
    }
}

/// What a thread has used since it began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Thread {
    name: String,
    cpu_ns: u64,
    woken: u64,
    displaced: u64,
}

/// What a process has used since it began.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Process {
    threads: BTreeMap<u32, Thread>,
    user_ns: u64,
    system_ns: u64,
    anonymous_bytes: u64,
}

/// A thread of an idle replica.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ThreadLine {
    /// Its name.
    pub name: String,
    /// Share of a core.
    pub cpu_share: f64,
    /// Times a second that it was woken.
    pub wakeups_per_s: f64,
}

/// An idle replica.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ReplicaLine {
    /// Which.
    pub replica: usize,
    /// Share of a core, all threads.
    pub cpu_share: f64,
    /// Of it in its own code, by ticks.
    pub user_share: f64,
    /// And in the kernel, by ticks.
    pub system_share: f64,
    /// Times a second that a thread was woken.
    pub wakeups_per_s: f64,
    /// Times a second that a thread had to leave its core.
    pub displaced_per_s: f64,
    /// Memory that no file stands behind, bytes.
    pub anonymous_bytes: u64,
    /// By share of a core, the largest first.
    pub threads: Vec<ThreadLine>,
}

/// The result.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Properties in the store.
    pub properties: u64,
    /// How long was measured.
    pub seconds: f64,
    /// By index.
    pub replicas: Vec<ReplicaLine>,
    /// The most that a replica takes of a core.
    pub most_cpu_share: f64,
    /// The target for that.
    pub cpu_target: f64,
    /// The most anonymous memory of a replica, bytes.
    pub most_anonymous_bytes: u64,
    /// The target for that.
    pub memory_target: u64,
    /// Whether all replicas are below both.
    pub within: bool,
    /// Where it ran.
    pub environment: Environment,
}

/// Fills, waits and measures; the target has the key of one client.
///
/// # Errors
/// See [`IdleError`].
pub fn run(
    local: &mut LocalCluster,
    target: Target,
    settings: &Settings,
    interrupt: &Interrupt,
) -> Result<Report, IdleError> {
    let replicas = target.cluster.n();
    fill(target, settings, interrupt)?;
    sleep(settings.settle, interrupt)?;
    local.check()?;
    let read = |local: &LocalCluster| -> Result<Vec<Process>, IdleError> {
        let pids = (0..replicas).map(|replica| local.pid(replica).ok_or(LocalError::Replica(replica)));
        pids.map(|pid| {
            let pid = pid?;
            process(&Path::new("/proc").join(pid.to_string())).map_err(|source| IdleError::Proc { pid, source })
        })
        .collect()
    };
    let (before, start) = (read(local)?, Instant::now());
    sleep(settings.measured, interrupt)?;
    let (after, seconds) = (read(local)?, start.elapsed().as_secs_f64());
    local.check()?;
    let lines =
        before.iter().zip(&after).zip(0..).map(|((before, after), replica)| line(replica, before, after, seconds));
    Ok(Report::new(settings.properties, seconds, lines.collect()))
}

fn fill(target: Target, settings: &Settings, interrupt: &Interrupt) -> Result<(), BenchError> {
    let Target { cluster, keys } = target;
    let mut driver = Driver::new(&cluster, None, keys.len())?;
    let clients = keys.into_iter().map(|key| driver.add_client(key)).collect::<Result<Vec<_>, _>>()?;
    let mut generator = Generator::new(1, settings.payload)?;
    run::fill_twins(&mut driver, &clients, &mut generator, settings.properties / PROPERTIES, interrupt)
}

fn sleep(duration: Duration, interrupt: &Interrupt) -> Result<(), BenchError> {
    let end = Instant::now() + duration;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match left.is_zero() {
            _ if interrupt.is_set() => return Err(BenchError::Interrupted),
            true => return Ok(()),
            false => std::thread::sleep(left.min(LOOK)),
        }
    }
}

/// Reads a process's directory of `/proc`.
pub(super) fn process(dir: &Path) -> io::Result<Process> {
    let (user_ns, system_ns) = times(&fs::read_to_string(dir.join("stat"))?)?;
    let anonymous = field(&fs::read_to_string(dir.join("status"))?, "RssAnon:")?;
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(dir.join("task"))?.take(MAX_THREADS) {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        // One that ends while it is read is left out.
        if let (Some(number), Ok(thread)) = (number, thread(&path)) {
            threads.insert(number, thread);
        }
    }
    Ok(Process { threads, user_ns, system_ns, anonymous_bytes: anonymous << 10 })
}

fn thread(dir: &Path) -> io::Result<Thread> {
    let status = fs::read_to_string(dir.join("status"))?;
    let scheduled = fs::read_to_string(dir.join("schedstat")).ok();
    let scheduled = scheduled.and_then(|text| text.split_whitespace().next()?.parse().ok());
    let cpu_ns = match scheduled {
        Some(cpu_ns) => cpu_ns,
        None => times(&fs::read_to_string(dir.join("stat"))?).map(|(user, system)| user + system)?,
    };
    Ok(Thread {
        name: fs::read_to_string(dir.join("comm"))?.trim().to_owned(),
        cpu_ns,
        woken: field(&status, "voluntary_ctxt_switches:")?,
        displaced: field(&status, "nonvoluntary_ctxt_switches:")?,
    })
}

/// The first number behind a name at the beginning of a line of `status`.
pub(super) fn field(status: &str, name: &str) -> io::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| io::Error::other(format!("no number behind {name} in status")))
}

/// User and system time of a line of `stat`, ns.
pub(super) fn times(stat: &str) -> io::Result<(u64, u64)> {
    // Behind the name, which may hold anything, stand the state and then numbers: the 12th and 13th are the times.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut numbers = rest.split_whitespace().skip(11).map(|number| number.parse::<u64>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok((user.saturating_mul(TICK_NS), system.saturating_mul(TICK_NS))),
        _ => Err(io::Error::other("no times in stat")),
    }
}

/// What a process used from one reading to the next.
pub(super) fn line(replica: usize, before: &Process, after: &Process, seconds: f64) -> ReplicaLine {
    let grown = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    let share = |before, after| grown(before, after) / 1e9;
    let (mut threads, mut displaced) = (Vec::new(), 0.0);
    for (number, now) in &after.threads {
        let Some(then) = before.threads.get(number) else { continue };
        displaced += grown(then.displaced, now.displaced);
        threads.push(ThreadLine {
            name: now.name.clone(),
            cpu_share: share(then.cpu_ns, now.cpu_ns),
            wakeups_per_s: grown(then.woken, now.woken),
        });
    }
    threads.sort_by(|a, b| b.cpu_share.total_cmp(&a.cpu_share));
    ReplicaLine {
        replica,
        cpu_share: threads.iter().map(|thread| thread.cpu_share).sum(),
        user_share: share(before.user_ns, after.user_ns),
        system_share: share(before.system_ns, after.system_ns),
        wakeups_per_s: threads.iter().map(|thread| thread.wakeups_per_s).sum(),
        displaced_per_s: displaced,
        anonymous_bytes: after.anonymous_bytes,
        threads,
    }
}

impl Report {
    pub(super) fn new(properties: u64, seconds: f64, replicas: Vec<ReplicaLine>) -> Self {
        let most_cpu_share = replicas.iter().map(|line| line.cpu_share).fold(0.0, f64::max);
        let most_anonymous_bytes = replicas.iter().map(|line| line.anonymous_bytes).max().unwrap_or(0);
        Self {
            properties,
            seconds,
            replicas,
            most_cpu_share,
            cpu_target: CPU_TARGET,
            most_anonymous_bytes,
            memory_target: MEMORY_TARGET,
            within: most_cpu_share < CPU_TARGET && most_anonymous_bytes < MEMORY_TARGET,
            environment: Environment::here(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Environment { cpus, kernel } = &self.environment;
        writeln!(
            f,
            "{} idle replicas with {} properties, {:.1} s",
            self.replicas.len(),
            self.properties,
            self.seconds
        )?;
        writeln!(f, "{cpus} cores, Linux {kernel}\n")?;
        writeln!(
            f,
            "{:<28}{:>12}{:>10}{:>10}{:>12}{:>14}{:>16}",
            "replica, threads", "% of a core", "user", "system", "wakeups/s", "displaced/s", "RssAnon, MiB"
        )?;
        for line in &self.replicas {
            let [cpu, user, system] = [line.cpu_share, line.user_share, line.system_share].map(|share| 100.0 * share);
            let (name, memory) = (format!("replica {}", line.replica), mebibytes(line.anonymous_bytes));
            let ReplicaLine { wakeups_per_s, displaced_per_s, .. } = line;
            writeln!(
                f,
                "{name:<28}{cpu:>12.2}{user:>10.2}{system:>10.2}{wakeups_per_s:>12.1}{displaced_per_s:>14.1}{memory:>16.1}"
            )?;
            for ThreadLine { name, cpu_share, wakeups_per_s } in &line.threads {
                let cpu = 100.0 * cpu_share;
                writeln!(f, "  {name:<26}{cpu:>12.3}{:>20}{wakeups_per_s:>12.1}", "")?;
            }
        }
        let (cpu, memory) = (100.0 * self.most_cpu_share, mebibytes(self.most_anonymous_bytes));
        writeln!(f, "\nmost of a core: {cpu:.2} %, target below {:.0} %", 100.0 * self.cpu_target)?;
        writeln!(f, "most anonymous memory: {memory:.1} MiB, target below {:.0} MiB", mebibytes(self.memory_target))?;
        write!(f, "{}", if self.within { "within both" } else { "NOT within both" })
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests;
