//! `atlas bench failover`: how long nothing is committed when the leader dies, stands still or is slow.
//!
//! # A repetition
//! 1. All replicas are at rest: linked, in one view, at the same executed sequence.
//! 2. Clients send operations at the rate (open loop, one signature each, as in the other benches). Meanwhile the replicas are asked
//!    who leads.
//! 3. The leader is killed, stopped or slowed down ([`Fault`]); the load goes on, and every commit is noted as the client sees it: f+1
//!    equal replies. It is looked at for at least [`OBSERVED`], and until commits come again.
//! 4. The load ends, what is under way is waited for, the victim comes back.
//!
//! The result is the longest time without a commit that ends after the fault ([`around::longest_gap`]), one for each repetition.
//! What clients notice can be longer: an operation that was due at the beginning of it waits for its whole length, and then for those
//! before it; the drawing shows latencies by when operations were due.
//!
//! # Slow
//! A slow leader is stopped for [`fault::SLOW_STOPPED`] of every [`fault::SLOW_PERIOD`], for [`fault::SLOW_TIME`]: what an overloaded
//! or throttled host does to a process, and the same on every machine. Whether another replica takes over is told, not assumed.
//!
//! # Suspicions without cause
//! Views that begin or are asked for while nothing was done to anybody: from rest to the fault in each repetition, and in a quiet phase
//! of its own, at the rate or saturated. They are read off the replicas' statuses, the highest view that anybody names.
//!
//! # Stalls of the host
//! Above 50 ms ([`stalls`]) they are told; repetitions and suspicions that they touch do not count. A repetition that
//! does not count is made up for by another one, as long as not as many are lost as were asked for.
//!
//! # Limits
//! One thread drives clients and faults: it owns the replicas' processes, and while it waits for none it notes every commit within
//! a turn. At most [`MAX_REPETITIONS`] of a kind.

pub mod around;
mod chart;
pub mod fault;
pub mod report;
pub mod stalls;
pub mod svg;

use std::time::{Duration, Instant};

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::crypto::SecretKey;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;

use self::around::{Around, Commit, longest_gap};
use self::fault::{Fault, SLOW_TIME, Torment};
use self::report::{FaultReport, QuietReport, Report, Setting};
use self::stalls::{Stall, StallWatch};
use super::load::{Ending, Plan};
use super::pump::{Pump, Seen, nanoseconds};
use super::report::Environment;
use super::run::{self, BenchError, DRAIN};
use super::workload::Generator;
use crate::cli::interrupt::Interrupt;
use crate::client::{ClientId, Completion, Driver, ReplicaStatus};
use crate::local::{LocalCluster, LocalError};

/// Clients that load the cluster.
pub const CLIENTS: usize = 16;
/// Keys that [`run()`] needs: one more, which asks the replicas how they are.
pub const KEYS: usize = CLIENTS + 1;
/// The most repetitions of a kind.
pub const MAX_REPETITIONS: u32 = 1_000;
/// How long is looked at the least after a fault.
pub const OBSERVED: Duration = Duration::from_millis(800);
/// Bundles that each client keeps under way at a rate: what is due in seconds without a commit.
const IN_FLIGHT: usize = 256;
/// How long the load runs before a fault.
const WARM_UP: Duration = Duration::from_millis(500);
/// Faults come up to this later, so that they do not all meet the same moment.
const SPREAD: Duration = Duration::from_millis(50);
/// After a pause for as long as this between two commits nobody says that commits come again.
const STEADY: Duration = Duration::from_millis(50);
/// How long a cluster may take until it commits again, or is at rest.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long at rest but for one replica in another view, a quorum in one view is enough.
const ALL_IN_ONE_VIEW: Duration = Duration::from_secs(5);
/// How long replicas have for a status.
const ASK: Duration = Duration::from_secs(2);
/// How often the replicas are asked for their view in a quiet phase: a status costs them some milliseconds.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A stall so long before a replica was seen to suspect its leader may be the reason.
const AFTERMATH: Duration = Duration::from_secs(1);
/// The longest turn while a fault is at work or nothing is due.
const TURN: Duration = Duration::from_millis(20);

/// What is to be measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// What happens to the leader, one kind after the other.
    pub faults: Vec<Fault>,
    /// How often each of them.
    pub repetitions: u32,
    /// Operations due a second in all.
    pub rate: f64,
    /// Bytes of an operation.
    pub payload: usize,
    /// How long nothing happens; zero for no such phase.
    pub quiet: Duration,
    /// Whether the quiet phase saturates the cluster.
    pub saturated: bool,
    /// Seed of the operations.
    pub seed: u64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    /// The load.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The replicas' processes.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// No thread that looks for stalls.
    #[error("cannot start a thread that looks for stalls of the host: {0}")]
    Thread(#[source] std::io::Error),
    /// Nothing was committed any more.
    #[error("{what}: nothing was committed for {} s; is the host overloaded, or its disk full?", PATIENCE.as_secs())]
    Stuck {
        /// When.
        what: String,
    },
    /// The replicas did not come to rest.
    #[error("the replicas did not come to the same sequence within {} s of the load's end: {said}", PATIENCE.as_secs())]
    Restless {
        /// Where they were.
        said: String,
    },
}

impl From<crate::client::Error> for FailoverError {
    fn from(error: crate::client::Error) -> Self {
        Self::Bench(error.into())
    }
}

/// Where the replicas are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct At {
    /// The highest view that anybody names.
    highest: u64,
    /// The highest that a quorum names.
    view: u64,
    /// Who leads it.
    leader: usize,
    /// Whether all are linked and at the same sequence.
    level: bool,
}

impl At {
    /// What the replicas say; `None` where no quorum names one view.
    fn of(said: &[Option<ReplicaStatus>], quorum: usize) -> Option<Self> {
        let said: Vec<&ReplicaStatus> = said.iter().flatten().collect();
        let in_view = |view: u64| said.iter().filter(|status| status.view == view).count();
        let agreed = said.iter().filter(|status| in_view(status.view) >= quorum).max_by_key(|status| status.view)?;
        let highest = said.iter().map(|status| status.view).max()?;
        let place = |status: &ReplicaStatus| (status.sequence, status.size);
        let linked = |status: &ReplicaStatus| status.links.count_ones() as usize + 1 == said.len();
        let level = said.iter().all(|status| place(status) == place(agreed) && linked(status));
        Some(Self { highest, view: agreed.view, leader: usize::from(agreed.leader), level })
    }
}

/// What one repetition found.
struct Repetition {
    gap: Duration,
    commits: Vec<Commit>,
    /// Stalls of the host while it counted.
    stalls: Vec<Stall>,
    /// Whether another replica led afterwards.
    replaced: bool,
    suspicions: u64,
    /// Operations without a result.
    errors: u64,
    /// Whether the host stalled before the fault.
    disturbed: bool,
}

/// Runs all that the settings say against a cluster that serves; `keys` are [`KEYS`] keys of clients that may write everything.
///
/// # Errors
/// See [`FailoverError`].
pub fn run(
    local: &mut LocalCluster,
    cluster: &Cluster,
    keys: Vec<SecretKey>,
    settings: &Settings,
    interrupt: &Interrupt,
) -> Result<Report, FailoverError> {
    let stalls = StallWatch::start().map_err(FailoverError::Thread)?;
    let mut generator = Generator::new(settings.seed, settings.payload).map_err(BenchError::from)?;
    let mut driver = Driver::new(cluster, None, KEYS)?;
    let mut clients = keys.into_iter().map(|key| driver.add_client(key)).collect::<Result<Vec<_>, _>>()?;
    let watcher = clients.pop().ok_or(BenchError::Interrupted)?;
    run::fill(&mut driver, &clients, &mut generator, interrupt)?;
    let (quorum, n) = (cluster.quorum(), cluster.n());
    let progress = ProgressBar::new_spinner();
    let mut bench = Bench { local, driver, clients, watcher, generator, settings, interrupt, stalls, quorum, progress };
    let quiet = if settings.quiet.is_zero() { None } else { Some(bench.quiet()?) };
    let faults = settings.faults.iter().map(|fault| bench.repeat(*fault)).collect::<Result<_, _>>()?;
    bench.progress.finish_and_clear();
    let Settings { rate, payload, .. } = *settings;
    let setting = Setting { rate, payload, replicas: n, clients: CLIENTS, environment: Environment::here() };
    Ok(Report { setting, quiet, faults })
}

struct Bench<'a> {
    local: &'a mut LocalCluster,
    driver: Driver,
    clients: Vec<ClientId>,
    /// Asks for statuses.
    watcher: ClientId,
    generator: Generator,
    settings: &'a Settings,
    interrupt: &'a Interrupt,
    stalls: StallWatch,
    quorum: usize,
    progress: ProgressBar,
}

impl Bench<'_> {
    fn check_interrupt(&self) -> Result<(), FailoverError> {
        if self.interrupt.is_set() { Err(BenchError::Interrupted.into()) } else { Ok(()) }
    }

    fn tell(&self, text: String) {
        self.progress.set_message(text);
        self.progress.tick();
    }

    /// What the replicas say, while no load runs.
    fn statuses(&mut self) -> Result<Vec<Option<ReplicaStatus>>, FailoverError> {
        let ticket = self.driver.status(self.watcher, ASK)?;
        loop {
            self.check_interrupt()?;
            self.driver.poll(TURN)?;
            while let Some(done) = self.driver.next_done() {
                if done.ticket == ticket && done.client == self.watcher {
                    return Ok(statuses(done.result));
                }
            }
        }
    }

    /// Waits until the replicas are at rest.
    fn rest(&mut self) -> Result<At, FailoverError> {
        let since = Instant::now();
        loop {
            self.local.check()?;
            let said = self.statuses()?;
            let at = At::of(&said, self.quorum).filter(|at| at.level && said.iter().all(Option::is_some));
            let patient = since.elapsed() < ALL_IN_ONE_VIEW;
            if let Some(at) = at.filter(|at| at.highest == at.view || !patient) {
                return Ok(at);
            }
            if since.elapsed() > PATIENCE {
                let place = |status: &ReplicaStatus| format!("view {} sequence {}", status.view, status.sequence);
                let each = said.iter().map(|status| status.as_ref().map_or("no answer".to_owned(), place));
                return Err(FailoverError::Restless { said: each.collect::<Vec<_>>().join(", ") });
            }
            self.driver.poll(TURN)?;
        }
    }

    fn plan(&self, saturated: bool) -> Plan {
        let (in_flight, bundle, rate) =
            if saturated { (8, 64, None) } else { (IN_FLIGHT, 1, Some(self.settings.rate)) };
        Plan { clients: CLIENTS, in_flight, bundle, rate, warm_up_ns: 0, measured_ns: u64::MAX }
    }

    fn repeat(&mut self, fault: Fault) -> Result<FaultReport, FailoverError> {
        let began = Instant::now();
        let mut gaps = super::latencies().map_err(BenchError::from)?;
        let mut report = FaultReport::new(fault);
        let mut around = Around::default();
        let mut latencies = super::latencies().map_err(BenchError::from)?;
        let asked = self.settings.repetitions as usize;
        while report.repetitions < asked && report.excluded < asked.max(1) {
            self.tell(format!("{}: {} of {asked} repetitions", fault.title(), report.repetitions));
            let found = self.once(fault, report.repetitions + report.excluded)?;
            match found.disturbed {
                true => report.suspicions_excluded += found.suspicions,
                false => report.suspicions_without_cause += found.suspicions,
            }
            if !found.stalls.is_empty() {
                report.excluded += 1;
                continue;
            }
            report.repetitions += 1;
            report.errors += found.errors;
            report.replaced += usize::from(found.replaced);
            report.gaps_ms.push(found.gap.as_secs_f64() * 1_000.0);
            gaps.saturating_record(nanoseconds(found.gap));
            around.add(&found.commits);
            record_affected(&found.commits, &mut latencies);
        }
        report.sum_up(&gaps, &latencies, around, &self.stalls.between(began, Instant::now()));
        Ok(report)
    }

    /// One repetition, see the module.
    fn once(&mut self, fault: Fault, number: usize) -> Result<Repetition, FailoverError> {
        let before = self.rest()?;
        let plan = self.plan(false);
        let spread = SPREAD.mul_f64((number as f64 * 0.618_034).fract());
        let Self { local, driver, clients, watcher, generator, interrupt, .. } = self;
        let mut pump = Pump::new(driver, clients, generator, plan)?;
        let mut work = Work { pump: &mut pump, ends: Vec::new(), last_ns: 0, errors: 0, said: None, interrupt };
        // A status costs the replicas some milliseconds; it is asked for early, so that the fault does not meet that.
        work.until("before the fault", TURN, |work, now_ns| now_ns > nanoseconds(WARM_UP / 5) && work.last_ns > 0)?;
        work.pump.driver().status(*watcher, ASK)?;
        let due_ns = nanoseconds(WARM_UP + spread);
        work.until("before the fault", TURN, |work, now_ns| now_ns >= due_ns && work.said.is_some())?;
        let (loaded, quorum) = (work.said.take().unwrap_or_default(), self.quorum);
        let at = At::of(&loaded, quorum).unwrap_or(before);
        let fault_ns = work.pump.now_ns();
        let mut torment = Torment::begin(fault, at.leader, local)?;
        let watched_ns = nanoseconds(if fault == Fault::Slow { SLOW_TIME } else { OBSERVED });
        let what = format!("{}, replica {}", fault.title(), at.leader);
        loop {
            let since_ns = work.pump.now_ns() - fault_ns;
            let steady = work.last_ns > fault_ns && work.pump.now_ns() - work.last_ns < nanoseconds(STEADY);
            if since_ns >= watched_ns && (steady || fault == Fault::Slow) {
                break;
            }
            torment.go_on(since_ns, local)?;
            let longest =
                torment.rest(since_ns).min(Duration::from_nanos(watched_ns.saturating_sub(since_ns).max(1_000_000)));
            work.turn(longest.min(TURN), &what)?;
        }
        torment.end(local)?;
        work.drain()?;
        let start = work.pump.start();
        let instant = |after_ns: u64| start + Duration::from_nanos(after_ns);
        let relative = |ns: u64| ns as i64 - fault_ns as i64;
        let commits: Vec<Commit> = work
            .ends
            .iter()
            .map(|(due_ns, end_ns)| Commit { due_ns: relative(*due_ns), end_ns: relative(*end_ns) })
            .collect();
        let gap = longest_gap(&commits, watched_ns as i64);
        let gap_end_ns = fault_ns.saturating_add_signed(gap.end);
        let stalls = self.stalls.between(instant(fault_ns), instant(gap_end_ns));
        let disturbed = !self.stalls.between(instant(0), instant(fault_ns)).is_empty();
        let errors = work.errors;
        let after = self.rest()?;
        Ok(Repetition {
            gap: Duration::from_nanos(u64::try_from(gap.end - gap.start).unwrap_or(0)),
            commits,
            stalls,
            replaced: after.view > at.view,
            errors,
            suspicions: at.highest.saturating_sub(before.highest),
            disturbed,
        })
    }

    /// Load and no fault.
    fn quiet(&mut self) -> Result<QuietReport, FailoverError> {
        let before = self.rest()?;
        let (quiet, saturated, quorum) = (self.settings.quiet, self.settings.saturated, self.quorum);
        let plan = self.plan(saturated);
        let Self { driver, clients, watcher, generator, interrupt, stalls, progress, .. } = self;
        let mut pump = Pump::new(driver, clients, generator, plan)?;
        let started = pump.start();
        let mut work = Work { pump: &mut pump, ends: Vec::new(), last_ns: 0, errors: 0, said: None, interrupt };
        let mut report = QuietReport::new(quiet, saturated);
        let (mut highest, mut open) = (before.highest, false);
        // When the replicas were asked last, and before that: a suspicion that is seen now came between.
        let (mut asked, mut asked_before) = (started, started);
        let (mut last_ns, mut bundles) = (0, 0);
        while started.elapsed() < quiet {
            work.turn(TURN, "no fault")?;
            for (_, end_ns) in work.ends.drain(..) {
                bundles += 1;
                let gap_ns = end_ns - last_ns;
                report.longest_gap_ms = report.longest_gap_ms.max(gap_ns as f64 / 1e6);
                last_ns = end_ns;
            }
            if let Some(said) = work.said.take() {
                open = false;
                let now = At::of(&said, quorum).map_or(highest, |at| at.highest.max(highest));
                let stalled =
                    !stalls.between(asked_before - AFTERMATH.min(asked_before - started), Instant::now()).is_empty();
                report.suspect(now - highest, stalled);
                highest = now;
            }
            if !open && asked.elapsed() >= ASK_EVERY {
                (open, asked_before, asked) = (true, asked, Instant::now());
                work.pump.driver().status(*watcher, ASK)?;
                progress.set_message(format!(
                    "no fault: {:.0} of {:.0} s",
                    started.elapsed().as_secs_f64(),
                    quiet.as_secs_f64()
                ));
                progress.tick();
            }
        }
        report.errors = work.errors * plan.bundle as u64;
        report.sum_up(bundles * plan.bundle as u64, started.elapsed(), &stalls.between(started, Instant::now()));
        work.drain()?;
        let after = self.rest()?;
        let since = asked - AFTERMATH.min(asked - started);
        let stalled = !self.stalls.between(since, Instant::now()).is_empty();
        report.suspect(after.highest.saturating_sub(highest), stalled);
        Ok(report)
    }
}

fn statuses(result: Result<Completion, crate::client::Error>) -> Vec<Option<ReplicaStatus>> {
    match result {
        Ok(Completion::Status(said)) => said,
        _ => Vec::new(),
    }
}

/// Latencies of operations that were due while the fault was new.
fn record_affected(commits: &[Commit], latencies: &mut Histogram<u64>) {
    let affected = 0..around::AFTER_MS * 1_000_000;
    for commit in commits.iter().filter(|commit| affected.contains(&commit.due_ns)) {
        latencies.saturating_record(u64::try_from(commit.end_ns - commit.due_ns).unwrap_or(0).max(1));
    }
}

/// A load and what was seen of it.
struct Work<'a, 'b> {
    pump: &'a mut Pump<'b>,
    /// When each operation was due and had its result, nanoseconds after the load's start.
    ends: Vec<(u64, u64)>,
    /// The last of them.
    last_ns: u64,
    /// Operations that ended without one.
    errors: u64,
    /// What the replicas said of themselves.
    said: Option<Vec<Option<ReplicaStatus>>>,
    interrupt: &'a Interrupt,
}

impl Work<'_, '_> {
    fn turn(&mut self, longest: Duration, what: &str) -> Result<(), FailoverError> {
        if self.interrupt.is_set() {
            return Err(BenchError::Interrupted.into());
        }
        let Self { pump, ends, last_ns, errors, said, .. } = self;
        pump.turn(longest, |seen| match seen {
            Seen::Bundle(sending, Ending::Results { .. }, now_ns) => {
                ends.push((sending.from_ns, now_ns));
                *last_ns = now_ns;
            }
            Seen::Bundle(_, Ending::None, _) => *errors += 1,
            Seen::Other(done) => *said = Some(statuses(done.result)),
        })?;
        if self.pump.now_ns().saturating_sub(self.last_ns) > nanoseconds(PATIENCE) {
            return Err(FailoverError::Stuck { what: what.to_owned() });
        }
        Ok(())
    }

    fn until(
        &mut self,
        what: &str,
        longest: Duration,
        holds: impl Fn(&Self, u64) -> bool,
    ) -> Result<(), FailoverError> {
        while !holds(self, self.pump.now_ns()) {
            self.turn(longest, what)?;
        }
        Ok(())
    }

    /// Sends nothing more and waits for what is under way.
    fn drain(&mut self) -> Result<(), FailoverError> {
        self.pump.close();
        let since = Instant::now();
        while self.pump.load().under_way() > 0 && since.elapsed() < DRAIN {
            self.turn(TURN, "after the load")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(view: u64, sequence: u64) -> Option<ReplicaStatus> {
        Some(ReplicaStatus { view, leader: (view % 4) as u8, sequence, links: 0b111, ..ReplicaStatus::default() })
    }

    #[test]
    fn the_leader_is_that_of_the_view_that_a_quorum_names() {
        let said = [status(5, 9), status(5, 9), status(6, 9), status(5, 9)];
        assert_eq!(At::of(&said, 3), Some(At { highest: 6, view: 5, leader: 1, level: true }));
        assert_eq!(At::of(&[status(5, 9), status(5, 9), None, status(6, 9)], 3), None);
        assert_eq!(At::of(&[], 3), None);
    }

    #[test]
    fn replicas_are_level_at_one_sequence_with_all_links() {
        let said = |last| [status(0, 9), status(0, 9), status(0, 9), last];
        let level = |last| At::of(&said(last), 3).unwrap().level;
        assert!(level(status(0, 9)));
        assert!(!level(status(0, 8)));
        let lonely = status(0, 9).map(|status| ReplicaStatus { links: 0b11, ..status });
        assert!(!level(lonely));
    }

    #[test]
    fn only_operations_due_soon_after_the_fault_are_affected() {
        let mut latencies = super::super::latencies().unwrap();
        let at = |due_ms: i64| Commit { due_ns: due_ms * 1_000_000, end_ns: due_ms * 1_000_000 + 1_000 };
        record_affected(&[at(-1), at(0), at(599), at(600)], &mut latencies);
        assert_eq!((latencies.len(), latencies.max()), (2, 1_000));
    }
}
