//! Cores: the thread that orders may have one of its own, and all other threads keep off it.
//!
//! A thread inherits the cores of the one that starts it. So helpers are started by [`spawn`], which gives them what the process was
//! allowed before the data path went to its core, without that core.

use std::io;
use std::sync::OnceLock;
use std::thread::{Builder, JoinHandle};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub mod verify;

/// Where helpers may run once the data path has a core; of the first thread that was pinned.
static OTHERS: OnceLock<CpuSet> = OnceLock::new();

/// Moves this thread to a core; false where the system refuses, and then nothing has changed.
pub(crate) fn pin(core: usize) -> bool {
    let Ok(mut others) = sched_getaffinity(None) else { return false };
    if core >= CpuSet::MAX_CPU {
        return false;
    }
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return false;
    }
    others.unset(core);
    OTHERS.get_or_init(|| others);
    true
}

/// Starts a helper.
///
/// # Errors
/// The system has no room for another thread.
pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(others) = OTHERS.get().filter(|others| others.count() > 0) {
            // Where it is refused the helper shares the core: slower, and no less right.
            let _ = sched_setaffinity(None, others);
        }
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_of_a_pinned_thread_keep_off_its_core() {
        let allowed = sched_getaffinity(None).unwrap();
        let core = (0..CpuSet::MAX_CPU).find(|core| allowed.is_set(*core)).unwrap();
        let helpers = std::thread::spawn(move || {
            assert!(pin(core));
            assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
            spawn("helper", || sched_getaffinity(None).unwrap()).unwrap().join().unwrap()
        });
        let helpers = helpers.join().unwrap();
        // With one core there is nothing else to run on.
        assert_eq!(helpers.is_set(core), allowed.count() == 1);
        assert_eq!(helpers.count(), (allowed.count() - 1).max(1));
    }

    #[test]
    fn a_core_that_is_not_there_changes_nothing() {
        let before = sched_getaffinity(None).unwrap();
        assert!(!pin(CpuSet::MAX_CPU - 1));
        assert!(!pin(CpuSet::MAX_CPU));
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
