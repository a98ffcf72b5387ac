//! Cores: the thread that orders may have one of its own, and all other threads keep off it. Both can change while the process runs.
//!
//! A thread inherits the cores of the one that starts it. So helpers are started by [`spawn`], which gives them those that are in force for
//! helpers. A change moves the calling thread first, and then, on a thread of its own, all that there are.
//! The kernel's io_uring workers stay where the kernel puts them.

use std::fs;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use rustix::process::Pid;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

use crate::cluster::placement::{CoreSet, Placement};

pub mod verify;

/// Looks for threads that began while others were moved.
const LOOKS: usize = 4;

/// What the process was allowed when its data path began.
static FOUND: OnceLock<CpuSet> = OnceLock::new();

/// Where helpers run; as they were started where there is none.
static HELPERS: Mutex<Option<CpuSet>> = Mutex::new(None);

/// How long what was found out of the host's cores counts: it takes a thread to find out.
const KNOWN_FOR: Duration = Duration::from_secs(1);

/// Those cores, and when they were found.
static KNOWN: Mutex<Option<(Instant, CoreSet)>> = Mutex::new(None);

/// Threads that have cores of their own, beside the one that orders, and those.
static OWN: Mutex<Vec<(Pid, usize)>> = Mutex::new(Vec::new());

/// What was asked for last.
static PLACED: Mutex<Placement> = Mutex::new(Placement { core: None, helpers: None });

/// Why threads cannot be placed so; nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PlaceError {
    /// The core is not there, or not for this process.
    #[error("this process may not use core {core}; it may use {}", shown(available))]
    Core {
        /// The core.
        core: usize,
        /// Those that there are.
        available: Box<CoreSet>,
    },
    /// Some of the helpers' are not.
    #[error("this process may not use cores {missing}; it may use {}", shown(available))]
    Helpers {
        /// Those that are not there.
        missing: Box<CoreSet>,
        /// Those that there are.
        available: Box<CoreSet>,
    },
    /// Nothing is left for helpers.
    #[error("core {core} is the replica's own, and no other is left for its helpers: name more helper_cores")]
    NoneLeft {
        /// The core.
        core: usize,
    },
    /// Another thread has it.
    #[error("core {core} is one of verify_cores: name another")]
    Taken {
        /// The core.
        core: usize,
    },
    /// The system refuses.
    #[error("the system does not let the replica's thread move")]
    System,
}

fn shown(cores: &CoreSet) -> String {
    if cores.is_empty() { "those that the system chooses".to_owned() } else { cores.to_string() }
}

fn cores_of(set: &CpuSet) -> CoreSet {
    (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
}

fn set_of(cores: &CoreSet) -> CpuSet {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| *core < CpuSet::MAX_CPU).for_each(|core| set.set(core));
    set
}

/// Every core that is online and that this process may use, whatever its threads use now: also those that are isolated, but none beyond its
/// cpuset. As it was within the last second. Nothing where no thread can be started to find out.
pub fn available() -> CoreSet {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match *known {
        Some((at, cores)) if at.elapsed() < KNOWN_FOR => cores,
        _ => {
            let cores = find_available();
            *known = Some((Instant::now(), cores));
            cores
        }
    }
}

fn find_available() -> CoreSet {
    let ask = || {
        let all: CoreSet = (0..CpuSet::MAX_CPU).collect();
        // The kernel takes what of it this process may use.
        sched_setaffinity(None, &set_of(&all)).and_then(|()| sched_getaffinity(None)).map(|set| cores_of(&set))
    };
    let asked = Builder::new().name("placement".to_owned()).spawn(ask);
    asked.ok().and_then(|thread| thread.join().ok()?.ok()).unwrap_or(CoreSet::EMPTY)
}

/// Whether threads can be placed so.
///
/// # Errors
/// [`PlaceError`]: which cores there are.
pub fn check(placement: &Placement) -> Result<(), PlaceError> {
    let available = available();
    if let Some(core) = placement.core.filter(|core| !available.has(*core)) {
        return Err(PlaceError::Core { core, available: Box::new(available) });
    }
    if let Some(core) = placement.core.filter(|core| own().iter().any(|(_, taken)| taken == core)) {
        return Err(PlaceError::Taken { core });
    }
    let Some(mut helpers) = placement.helpers else { return Ok(()) };
    let missing = helpers.without(&available);
    if !missing.is_empty() {
        return Err(PlaceError::Helpers { missing: Box::new(missing), available: Box::new(available) });
    }
    placement.core.into_iter().for_each(|core| helpers.remove(core));
    match placement.core {
        Some(core) if helpers.is_empty() => Err(PlaceError::NoneLeft { core }),
        _ => Ok(()),
    }
}

/// Places this thread, which orders, before there are others. What of it is not possible is left out, and said why; gives what is in force.
pub(crate) fn begin(placement: &Placement) -> (Placement, Option<PlaceError>) {
    let mut possible = *placement;
    if possible == Placement::default() {
        return (possible, settle(&possible).err());
    }
    let mut first = None;
    while let Err(error) = check(&possible).and_then(|()| settle(&possible).map(drop)) {
        match error {
            PlaceError::Helpers { .. } | PlaceError::NoneLeft { .. } => possible.helpers = None,
            PlaceError::Core { .. } | PlaceError::Taken { .. } | PlaceError::System => possible.core = None,
        }
        first.get_or_insert(error);
        if possible == Placement::default() {
            break;
        }
    }
    (possible, first)
}

/// Moves this thread, which orders, and all others of the process. A helper that cannot be moved stays: slower, and no less right.
///
/// # Errors
/// [`PlaceError::System`]: this thread cannot go there, and nothing has changed.
pub(crate) fn place(placement: &Placement) -> Result<(), PlaceError> {
    let helpers = settle(placement)?;
    let own = gettid();
    // Where no thread can be started those that there are stay where they are, and the next goes where it should.
    let _ = spawn("placement", move || move_others(own, &helpers));
    Ok(())
}

/// How threads were placed last.
pub(crate) fn placed() -> Placement {
    *PLACED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves this thread, and gives where all others belong.
fn settle(placement: &Placement) -> Result<CpuSet, PlaceError> {
    let found = match FOUND.get() {
        Some(found) => *found,
        None => {
            let found = sched_getaffinity(None).map_err(|_| PlaceError::System)?;
            *FOUND.get_or_init(|| found)
        }
    };
    let is_there = match placement.core {
        Some(core) => core < CpuSet::MAX_CPU && core_affinity::set_for_current(CoreId { id: core }),
        None => sched_setaffinity(None, &without_own(found)).is_ok(),
    };
    if !is_there {
        return Err(PlaceError::System);
    }
    let mut helpers = placement.helpers.as_ref().map_or(found, set_of);
    placement.core.filter(|core| *core < CpuSet::MAX_CPU).into_iter().for_each(|core| helpers.unset(core));
    helpers = without_own(helpers);
    if helpers.count() == 0 {
        helpers = found;
    }
    *HELPERS.lock().unwrap_or_else(PoisonError::into_inner) = Some(helpers);
    *PLACED.lock().unwrap_or_else(PoisonError::into_inner) = *placement;
    Ok(helpers)
}

/// These but for cores that threads have for themselves, unless nothing were left.
fn without_own(cores: CpuSet) -> CpuSet {
    let left = own().into_iter().fold(cores, |mut left, (_, core)| {
        left.unset(core);
        left
    });
    if left.count() > 0 { left } else { cores }
}

fn own() -> Vec<(Pid, usize)> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A core that a thread has for itself, until this is dropped.
pub(crate) struct OwnCore(Pid);

impl OwnCore {
    /// Pins this thread to a core, which helpers keep off from when they are placed next. `None` where the system refuses.
    pub(crate) fn take(core: usize) -> Option<Self> {
        // Beyond that the library has no place for it.
        if core >= CpuSet::MAX_CPU || !core_affinity::set_for_current(CoreId { id: core }) {
            return None;
        }
        OWN.lock().unwrap_or_else(PoisonError::into_inner).push((gettid(), core));
        Some(Self(gettid()))
    }
}

impl Drop for OwnCore {
    fn drop(&mut self) {
        OWN.lock().unwrap_or_else(PoisonError::into_inner).retain(|(thread, _)| *thread != self.0);
    }
}

/// Moves every thread of the process but one, and those that have cores of their own.
fn move_others(but: Pid, to: &CpuSet) {
    let mut moved: Vec<Pid> = own().into_iter().map(|(thread, _)| thread).collect();
    for _ in 0..LOOKS {
        let Ok(tasks) = fs::read_dir("/proc/self/task") else { return };
        let ids = tasks.filter_map(|task| Pid::from_raw(task.ok()?.file_name().to_str()?.parse().ok()?));
        let new: Vec<Pid> = ids.filter(|id| *id != but && !moved.contains(id)).collect();
        if new.is_empty() {
            return;
        }
        for id in new {
            // One that has ended, or one of the kernel's.
            let _ = sched_setaffinity(Some(id), to);
            moved.push(id);
        }
    }
}

/// Starts a helper.
///
/// # Errors
/// The system has no room for another thread.
pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        let helpers = *HELPERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(helpers) = helpers {
            // Where it is refused the helper shares the core: slower, and no less right.
            let _ = sched_setaffinity(None, &helpers);
        }
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> CpuSet {
        sched_getaffinity(None).unwrap()
    }

    // One test: what it changes is the process's.
    #[test]
    fn the_data_path_has_its_core_helpers_keep_off_it_and_both_come_back() {
        let allowed = here();
        let core = available().iter().next().unwrap();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let bystander = std::thread::spawn(move || {
            tell.send(gettid()).unwrap();
            stopped.recv().unwrap_err();
        });
        let bystander_id = told.recv().unwrap();
        let without_core = |set: &CpuSet| !set.is_set(core) || allowed.count() == 1;
        let wait_until = |holds: &dyn Fn(&CpuSet) -> bool| {
            while !holds(&sched_getaffinity(Some(bystander_id)).unwrap()) {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                place(&Placement { core: Some(core), helpers: None }).unwrap();
                assert_eq!(cores_of(&here()).to_string(), core.to_string());
                // With one core there is nothing else to run on.
                assert!(without_core(&spawn("helper", || sched_getaffinity(None).unwrap()).unwrap().join().unwrap()));
                wait_until(&without_core);
                // A core that is not there changes nothing.
                let missing = place(&Placement { core: Some(CpuSet::MAX_CPU - 1), helpers: None });
                assert!(matches!(missing, Err(PlaceError::System)), "{missing:?}");
                assert_eq!(here().count(), 1);
                place(&Placement::default()).unwrap();
                assert_eq!(here(), allowed);
                wait_until(&|set| *set == allowed);
            });
        });
        drop(stop);
        bystander.join().unwrap();
    }

    #[test]
    fn who_names_a_core_that_is_not_there_is_told_which_are() {
        let available = available();
        let core = available.iter().next().unwrap();
        let missing = (0..1024).find(|core| !available.has(*core)).unwrap();
        let text = |core: Option<usize>, helpers: Option<&str>| {
            let helpers = helpers.map(|text| text.parse().unwrap());
            check(&Placement { core, helpers }).map_err(|error| error.to_string())
        };
        assert_eq!(text(None, None), Ok(()));
        assert_eq!(text(Some(core), None), Ok(()));
        let may = format!("it may use {available}");
        assert_eq!(text(Some(missing), None), Err(format!("this process may not use core {missing}; {may}")));
        assert_eq!(
            text(None, Some(&format!("{core},{missing}"))),
            Err(format!("this process may not use cores {missing}; {may}"))
        );
        assert!(text(Some(core), Some(&core.to_string())).unwrap_err().contains("no other is left"));
    }
}
