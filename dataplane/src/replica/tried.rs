//! The local settings in force, and those that are on trial.
//!
//! A trial begins with the first change and ends with [`Tried::keep`], [`Tried::undo`], or when its time is up ([`Tried::is_over`]): the replica's own
//! thread looks at that, so what is not confirmed is undone even where nothing of the management lives any more. Each further change
//! begins the time anew; what comes back is what was in force before the first.

use super::oversight::InForce;
use crate::cluster::placement::Live;

/// See the module.
#[derive(Debug)]
pub(super) struct Tried {
    running: Live,
    /// What was in force before the trial, and when it ends, us.
    before: Option<(Live, u64)>,
}

impl Tried {
    pub(super) fn new(running: Live) -> Self {
        Self { running, before: None }
    }

    /// What is in force.
    pub(super) fn running(&self) -> &Live {
        &self.running
    }

    /// What is in force, and what is on trial of it; `was` before the order that this answers.
    pub(super) fn in_force(&self, was: Live, now_us: u64) -> Box<InForce> {
        let before = self.before.as_ref().map(|(before, end_us)| (before.clone(), end_us.saturating_sub(now_us)));
        Box::new(InForce { settings: self.running.clone(), was, before })
    }

    /// Runs with other settings, on trial.
    pub(super) fn change(&mut self, changed: Live, end_us: u64) {
        let running = std::mem::replace(&mut self.running, changed);
        let before = self.before.take().map_or(running, |(before, _)| before);
        self.before = Some((before, end_us));
    }

    /// The open trial ends then; false where none is.
    pub(super) fn extend(&mut self, to_us: u64) -> bool {
        self.before.as_mut().map(|(_, end_us)| *end_us = to_us).is_some()
    }

    /// What is on trial stays; false where nothing is.
    pub(super) fn keep(&mut self) -> bool {
        self.before.take().is_some()
    }

    /// What was in force before is again; false where nothing is on trial.
    pub(super) fn undo(&mut self) -> bool {
        self.before.take().map(|(before, _)| self.running = before).is_some()
    }

    /// When the open trial ends, us.
    pub(super) fn end_us(&self) -> u64 {
        self.before.as_ref().map_or(u64::MAX, |(_, end_us)| *end_us)
    }

    /// Whether its time is up.
    pub(super) fn is_over(&self, now_us: u64) -> bool {
        self.end_us() <= now_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(tried: &mut Tried, name: &str, value: u64, end_us: u64) {
        let running = tried.running();
        let changed = Live { local: running.local.with(name, value).unwrap(), ..running.clone() };
        tried.change(changed, end_us);
    }

    #[test]
    fn what_nobody_keeps_is_undone_as_a_whole_when_its_time_is_up() {
        let mut tried = Tried::new(Live::default());
        assert!(!tried.is_over(u64::MAX - 1) && !tried.undo() && !tried.keep() && !tried.extend(5));
        changed(&mut tried, "leader_timeout_ms", 777, 100);
        changed(&mut tried, "pool_mib", 9, 150);
        assert_eq!((tried.running().local.leader_timeout_ms, tried.running().local.pool_mib), (777, 9));
        assert!(!tried.is_over(149) && tried.is_over(150));
        assert!(tried.extend(400) && !tried.is_over(399));
        assert!(tried.undo());
        assert_eq!(tried.running(), &Live::default());
        assert!(!tried.is_over(u64::MAX - 1));
    }

    #[test]
    fn an_answer_carries_what_is_in_force_and_what_was() {
        let mut tried = Tried::new(Live::default());
        changed(&mut tried, "leader_timeout_ms", 777, 100);
        let said = tried.in_force(Live::default(), 40);
        assert_eq!((said.settings.local.leader_timeout_ms, said.was.local.leader_timeout_ms), (777, 150));
        assert_eq!(said.before, Some((Live::default(), 60)));
        let was = tried.running().clone();
        tried.undo();
        let said = tried.in_force(was, 50);
        assert_eq!((said.settings, said.before), (Live::default(), None));
        assert_eq!(said.was.local.leader_timeout_ms, 777);
    }

    #[test]
    fn what_was_kept_is_what_the_next_trial_comes_back_to() {
        let mut tried = Tried::new(Live::default());
        changed(&mut tried, "leader_timeout_ms", 400, 100);
        assert!(tried.keep() && !tried.keep());
        changed(&mut tried, "leader_timeout_ms", 500, 200);
        assert!(tried.undo());
        assert_eq!(tried.running().local.leader_timeout_ms, 400);
    }
}
