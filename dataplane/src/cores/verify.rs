//! The verify stage on cores of its own: threads that check clients' signatures for the thread that orders.
//!
//! Each has a bounded ring of jobs and one of findings, with a single producer and a single consumer each, and is pinned to its core. It
//! spins for a while when it has nothing to do, then sleeps until it is called. A finding wakes the ordering thread, if that sleeps. Nothing is
//! lost and nothing waits for room: a verifier has at most two jobs, done ones that nobody fetched yet included, and says so
//! ([`Verifiers::free`]).
//!
//! A verifier that ended, which only a panic brings about, is told by [`Verifiers::has_failed`]: the process must end, since the bundles that it
//! had are lost with it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

use super::OwnCore;
use crate::replica::Job;

/// Jobs that a verifier has at most: one that it checks, and one so that it does not wait for the next round.
const JOBS: usize = 2;

/// How long a verifier looks out for work before it sleeps: the core is its own, and to be called costs more than a batch of one.
const SPIN: Duration = Duration::from_micros(200);

/// How long a verifier sleeps at most, should a call be missed.
const NAP: Duration = Duration::from_millis(100);

struct Verifier {
    jobs: Producer<Job>,
    done: Consumer<Job>,
    /// Jobs that it has.
    has: usize,
    thread: Option<JoinHandle<()>>,
}

/// Threads that check signatures; they end with this.
pub struct Verifiers {
    verifiers: Vec<Verifier>,
    ends: Arc<AtomicBool>,
    /// Who gets the next job.
    next: usize,
}

impl Verifiers {
    /// Starts a thread for each core. `wake` is called when there are findings, from those threads. Gives also the cores to which the system
    /// did not let a thread be pinned: it runs wherever the system likes.
    ///
    /// # Errors
    /// The system has no room for another thread.
    pub fn start(cores: &[usize], wake: impl Fn() + Clone + Send + 'static) -> io::Result<(Self, Vec<usize>)> {
        let ends = Arc::new(AtomicBool::new(false));
        let mut started = Self { verifiers: Vec::with_capacity(cores.len()), ends: Arc::clone(&ends), next: 0 };
        let mut pins = Vec::with_capacity(cores.len());
        for (place, core) in cores.iter().copied().enumerate() {
            let (jobs, todo) = RingBuffer::new(JOBS);
            let (found, done) = RingBuffer::new(JOBS);
            let (wake, ends) = (wake.clone(), Arc::clone(&ends));
            let (told, is_pinned) = mpsc::sync_channel(1);
            let work = move || {
                let own = OwnCore::take(core);
                let _ = told.send(own.is_some());
                check_jobs(todo, found, &ends, wake);
            };
            let thread = Builder::new().name(format!("verify-{place}")).spawn(work)?;
            pins.push((core, is_pinned));
            started.verifiers.push(Verifier { jobs, done, has: 0, thread: Some(thread) });
        }
        let refused = pins.into_iter().filter(|(_, is_pinned)| !is_pinned.recv().unwrap_or(false));
        Ok((started, refused.map(|(core, _)| core).collect()))
    }

    /// How many jobs are taken now.
    pub fn free(&self) -> usize {
        self.verifiers.iter().map(|verifier| JOBS - verifier.has).sum()
    }

    /// Gives a job to a verifier that has none, else to one that has the fewest. Never more than [`Verifiers::free`] at a time.
    pub fn check(&mut self, job: Job) {
        let count = self.verifiers.len();
        let next = (0..count).map(|step| (self.next + step) % count).min_by_key(|place| self.verifiers[*place].has);
        let Some(verifier) = next.and_then(|place| self.verifiers.get_mut(place)) else { return };
        self.next = next.unwrap_or_default() + 1;
        // There is room while `has` is below the ring's size, which the caller saw to.
        if verifier.jobs.push(job).is_ok() {
            verifier.has += 1;
            verifier.thread.iter().for_each(|thread| thread.thread().unpark());
        }
    }

    /// A job that was checked.
    pub fn done(&mut self) -> Option<Job> {
        self.verifiers.iter_mut().find_map(|verifier| {
            let job = verifier.done.pop().ok()?;
            verifier.has -= 1;
            Some(job)
        })
    }

    /// Whether a verifier ended, and its jobs with it.
    pub fn has_failed(&self) -> bool {
        self.verifiers.iter().any(|verifier| verifier.thread.as_ref().is_none_or(JoinHandle::is_finished))
    }
}

impl Drop for Verifiers {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        for thread in self.verifiers.iter_mut().filter_map(|verifier| verifier.thread.take()) {
            thread.thread().unpark();
            // One that panicked was told of by [`Verifiers::has_failed`].
            let _ = thread.join();
        }
    }
}

/// Calls when it goes, also where a panic takes it: whoever is called looks whether this thread is still there.
struct Farewell<W: Fn()>(W);

impl<W: Fn()> Drop for Farewell<W> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn check_jobs(mut todo: Consumer<Job>, mut found: Producer<Job>, ends: &AtomicBool, wake: impl Fn()) {
    let wake = Farewell(wake);
    let mut idle_since = Instant::now();
    while !ends.load(Ordering::Acquire) {
        match todo.pop() {
            Ok(mut job) => {
                job.check();
                // There is room: jobs that nobody fetched count among those that this verifier has.
                let _ = found.push(job);
                (wake.0)();
                idle_since = Instant::now();
            }
            Err(_) if idle_since.elapsed() < SPIN => std::hint::spin_loop(),
            Err(_) => std::thread::park_timeout(NAP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_back_from_several_threads_and_never_more_than_there_is_room_for() {
        let woken = Arc::new(AtomicBool::new(false));
        let wake = {
            let woken = Arc::clone(&woken);
            move || woken.store(true, Ordering::Relaxed)
        };
        let (mut verifiers, _) = Verifiers::start(&[0, 0, 0], wake).unwrap();
        assert_eq!(verifiers.free(), 3 * JOBS);
        let (mut given, mut back) = (0, 0);
        let deadline = Instant::now() + Duration::from_secs(60);
        while back < 1_000 {
            assert!(Instant::now() < deadline && !verifiers.has_failed());
            while verifiers.free() > 0 && given < 1_000 {
                verifiers.check(Job::default());
                given += 1;
            }
            while verifiers.done().is_some() {
                back += 1;
            }
            assert!(verifiers.free() <= 3 * JOBS);
        }
        assert!(woken.load(Ordering::Relaxed) && verifiers.done().is_none());
        assert_eq!(verifiers.free(), 3 * JOBS);
    }

    #[test]
    fn a_core_that_is_not_there_is_told() {
        let (verifiers, refused) = Verifiers::start(&[100_000], || ()).unwrap();
        assert_eq!((refused, verifiers.free()), (vec![100_000], JOBS));
    }
}
