//! Stalls of the host: times in which nobody's fault is measured, since nothing ran.
//!
//! A thread sleeps a millisecond at a time and notes by how much each sleep overshoots. It needs next to no processor time, so a long
//! overshoot means that the host (its hypervisor, its disk, its neighbours, or more load than it has cores) let nothing run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long each sleep is meant to take.
const SLEEP: Duration = Duration::from_millis(1);
/// An overshoot above this is a stall.
pub const STALL: Duration = Duration::from_millis(50);
/// Stalls that may wait to be looked at; more are dropped. With one every 51 ms nobody has looked for some minutes.
const MAX_WAITING: usize = 4_096;

/// A time in which the host let nothing run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stall {
    /// When it began.
    pub from: Instant,
    /// When it was over.
    pub to: Instant,
}

impl Stall {
    /// How long it took.
    pub fn length(&self) -> Duration {
        self.to.duration_since(self.from)
    }

    /// Whether it has a moment in common with this time.
    pub fn touches(&self, from: Instant, to: Instant) -> bool {
        self.from <= to && from <= self.to
    }
}

/// The thread that looks, ended and joined when this is dropped, and the stalls that it saw.
#[derive(Debug)]
pub struct StallWatch {
    found: Receiver<Stall>,
    seen: Vec<Stall>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StallWatch {
    /// Begins to look.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let (sender, found) = sync_channel(MAX_WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("stalls".to_owned()).spawn(move || watch(&flag, &sender))?;
        Ok(Self { found, seen: Vec::new(), stop, thread: Some(thread) })
    }

    /// All stalls so far that touch this time.
    pub fn between(&mut self, from: Instant, to: Instant) -> Vec<Stall> {
        self.seen.extend(self.found.try_iter());
        self.seen.iter().filter(|stall| stall.touches(from, to)).copied().collect()
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(stop: &AtomicBool, found: &SyncSender<Stall>) {
    while !stop.load(Ordering::Relaxed) {
        let from = Instant::now();
        sleep(SLEEP);
        let stall = Stall { from: from + SLEEP, to: Instant::now() };
        if stall.to > stall.from + STALL
            && let Err(TrySendError::Disconnected(_)) = found.try_send(stall)
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_touches_what_it_overlaps() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let stall = Stall { from: at(100), to: at(160) };
        assert_eq!(stall.length(), Duration::from_millis(60));
        for (from, to, touches) in
            [(0, 99, false), (0, 100, true), (120, 130, true), (160, 200, true), (161, 200, false)]
        {
            assert_eq!(stall.touches(at(from), at(to)), touches, "{from} to {to}");
        }
    }

    #[test]
    fn what_was_found_is_kept_and_chosen_by_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (sender, found) = sync_channel(4);
        let mut watch = StallWatch { found, seen: Vec::new(), stop: Arc::default(), thread: None };
        let (first, second) = (Stall { from: at(0), to: at(60) }, Stall { from: at(500), to: at(600) });
        sender.send(first).unwrap();
        assert_eq!(watch.between(at(0), at(1_000)), [first]);
        sender.send(second).unwrap();
        assert_eq!(watch.between(at(0), at(1_000)), [first, second]);
        assert_eq!(watch.between(at(300), at(1_000)), [second]);
    }
}
