//! What a service manager is told: that the replica takes part, and that its data path lives (sd_notify(3)).
//!
//! The data path does no more than count its rounds in memory that is shared with a thread of its own; that thread speaks to the
//! manager, so that a manager that does not read delays nobody. Without `NOTIFY_SOCKET` there is no such thread.
//!
//! - `READY=1` once the replica has caught up ([`has_caught_up`](crate::ordering::Ordering::has_caught_up)), and not before: until then it
//!   adds nothing to what the cluster bears.
//! - `WATCHDOG=1` four times in `WATCHDOG_USEC`, as long as rounds go by. An idle replica has at least one a second, since its
//!   statuses are due; one whose thread hangs has none, and the manager ends and restarts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::telling::report;

/// How often is looked at what the data path shows.
const LOOK: Duration = Duration::from_millis(50);

/// What the data path shows.
#[derive(Default)]
struct Shown {
    rounds: AtomicU64,
    is_ready: AtomicBool,
}

/// The side of the data path.
pub(super) struct Service(Option<Arc<Shown>>);

impl Service {
    /// Begins to speak to the manager that `NOTIFY_SOCKET` names, if there is one.
    pub(super) fn start() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self(None);
        }
        let shown = Arc::new(Shown::default());
        let (theirs, watchdog) = (shown.clone(), sd_notify::watchdog_enabled());
        match crate::cores::spawn("service", move || speak(&theirs, watchdog)) {
            Ok(_) => Self(Some(shown)),
            Err(error) => {
                report(&format!("warning: cannot start a thread, the service manager is told nothing: {error}"));
                Self(None)
            }
        }
    }

    /// A round begins; `is_ready` is asked until it says yes.
    pub(super) fn beat(&self, is_ready: impl FnOnce() -> bool) {
        let Some(shown) = &self.0 else { return };
        shown.rounds.fetch_add(1, Ordering::Relaxed);
        if !shown.is_ready.load(Ordering::Relaxed) && is_ready() {
            shown.is_ready.store(true, Ordering::Relaxed);
        }
    }
}

/// What could not be said is kept up to so much.
const MAX_UNSAID: usize = 8;

/// Until the process ends.
fn speak(shown: &Shown, watchdog: Option<Duration>) {
    let mut manager = Manager::new(watchdog);
    let (mut unsaid, mut warned) = (Vec::new(), false);
    loop {
        unsaid.extend(manager.look(shown, Instant::now()));
        // What it could not be told it is told again: a manager that hears nothing ends a replica that is well.
        match if unsaid.is_empty() { Ok(()) } else { sd_notify::notify(&unsaid) } {
            Ok(()) => unsaid.clear(),
            Err(error) => {
                if !std::mem::replace(&mut warned, true) {
                    report(&format!("warning: the service manager cannot be told how this replica is: {error}"));
                }
                let old = unsaid.len().saturating_sub(MAX_UNSAID);
                unsaid.drain(..old);
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// What was said, and when to speak again.
struct Manager {
    pause: Option<Duration>,
    fed: Option<Instant>,
    rounds: u64,
    was_ready: bool,
    has_waited: bool,
}

impl Manager {
    fn new(watchdog: Option<Duration>) -> Self {
        Self { pause: watchdog.map(|time| time / 4), fed: None, rounds: 0, was_ready: false, has_waited: false }
    }

    fn look(&mut self, shown: &Shown, now: Instant) -> Vec<NotifyState<'static>> {
        let (mut says, is_ready) = (Vec::new(), shown.is_ready.load(Ordering::Relaxed));
        if is_ready && !self.was_ready {
            self.was_ready = true;
            says.extend([NotifyState::Ready, NotifyState::Status("has caught up and takes part")]);
        } else if !is_ready && !self.has_waited {
            self.has_waited = true;
            says.push(NotifyState::Status("catching up: waits for a quorum, or takes what it missed"));
        }
        let rounds = shown.rounds.load(Ordering::Relaxed);
        let is_due = self.pause.is_some_and(|pause| self.fed.is_none_or(|fed| now.duration_since(fed) >= pause));
        if is_due && rounds != self.rounds {
            (self.rounds, self.fed) = (rounds, Some(now));
            says.push(NotifyState::Watchdog);
        }
        says
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(manager: &mut Manager, shown: &Shown, now: Instant) -> Vec<String> {
        let all = manager.look(shown, now);
        all.iter().map(ToString::to_string).filter(|line| !line.starts_with("STATUS=")).collect()
    }

    #[test]
    fn ready_is_said_once_and_the_watchdog_is_fed_by_rounds_alone() {
        let service = Service(Some(Arc::new(Shown::default())));
        let shown = service.0.clone().unwrap();
        let (mut manager, start) = (Manager::new(Some(Duration::from_secs(4))), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(said(&mut manager, &shown, at(0)), [""; 0]);
        service.beat(|| false);
        assert_eq!(said(&mut manager, &shown, at(0)), ["WATCHDOG=1"]);
        service.beat(|| true);
        assert_eq!(said(&mut manager, &shown, at(0)), ["READY=1"], "a watchdog is not fed more often than asked");
        assert_eq!(said(&mut manager, &shown, at(1)), ["WATCHDOG=1"]);
        // Nothing goes round any more: nothing is said, however long it takes.
        assert_eq!(said(&mut manager, &shown, at(2)), [""; 0]);
        assert_eq!(said(&mut manager, &shown, at(9)), [""; 0]);
        service.beat(|| panic!("it was ready"));
        assert_eq!(said(&mut manager, &shown, at(9)), ["WATCHDOG=1"]);
    }

    #[test]
    fn without_a_watchdog_rounds_say_nothing() {
        let shown = Shown::default();
        let mut manager = Manager::new(None);
        shown.rounds.store(5, Ordering::Relaxed);
        assert_eq!(said(&mut manager, &shown, Instant::now()), [""; 0]);
        shown.is_ready.store(true, Ordering::Relaxed);
        assert_eq!(said(&mut manager, &shown, Instant::now()), ["READY=1"]);
    }

    #[test]
    fn without_a_manager_nothing_is_asked() {
        Service(None).beat(|| panic!("nobody wants to know"));
    }
}
