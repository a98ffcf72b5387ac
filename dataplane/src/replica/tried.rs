//! The local settings in force, and those that are on trial.
//!
//! A trial begins with the first change and ends with [`Tried::keep`], [`Tried::undo`], or when its time is up ([`Tried::is_over`]): the replica's own
//! thread looks at that, so what is not confirmed is undone even where nothing of the management lives any more. Each further change
//! begins the time anew; what comes back is what was in force before the first.

use crate::cluster::settings::LocalConfig;

/// See the module.
#[derive(Debug)]
pub(super) struct Tried {
    running: LocalConfig,
    /// What was in force before the trial, and when it ends, us.
    before: Option<(LocalConfig, u64)>,
}

impl Tried {
    pub(super) fn new(running: LocalConfig) -> Self {
        Self { running, before: None }
    }

    /// What is in force.
    pub(super) fn running(&self) -> &LocalConfig {
        &self.running
    }

    /// Changes a setting; `None` where there is none of that name.
    pub(super) fn change(&mut self, name: &str, value: u64, end_us: u64) -> Option<&LocalConfig> {
        let changed = self.running.with(name, value)?;
        let running = std::mem::replace(&mut self.running, changed);
        let before = self.before.take().map_or(running, |(before, _)| before);
        self.before = Some((before, end_us));
        Some(&self.running)
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

    #[test]
    fn what_nobody_keeps_is_undone_as_a_whole_when_its_time_is_up() {
        let mut tried = Tried::new(LocalConfig::default());
        assert!(!tried.is_over(u64::MAX - 1) && !tried.undo() && !tried.keep() && !tried.extend(5));
        tried.change("leader_timeout_ms", 777, 100).unwrap();
        tried.change("pool_mib", 9, 150).unwrap();
        assert!(tried.change("no_such", 1, 900).is_none());
        assert_eq!((tried.running().leader_timeout_ms, tried.running().pool_mib), (777, 9));
        assert!(!tried.is_over(149) && tried.is_over(150));
        assert!(tried.extend(400) && !tried.is_over(399));
        assert!(tried.undo());
        assert_eq!(tried.running(), &LocalConfig::default());
        assert!(!tried.is_over(u64::MAX - 1));
    }

    #[test]
    fn what_was_kept_is_what_the_next_trial_comes_back_to() {
        let mut tried = Tried::new(LocalConfig::default());
        tried.change("leader_timeout_ms", 400, 100).unwrap();
        assert!(tried.keep() && !tried.keep());
        tried.change("leader_timeout_ms", 500, 200).unwrap();
        assert!(tried.undo());
        assert_eq!(tried.running().leader_timeout_ms, 400);
    }
}
