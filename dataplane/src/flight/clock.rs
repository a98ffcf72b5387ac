//! What the wall clock said while a process recorded.
//!
//! Events carry the time since recording began, by a clock that nobody sets. The wall clock may be set, and drifts against that one:
//! whenever it has moved by more than [`MOVED_US`] the pair of both is kept, and times of the events behind it go by that.

/// A wall clock that has moved by more is noted, us.
pub const MOVED_US: u64 = 20_000;

/// Pairs that are kept beside the first; one more takes the place of the last.
pub const MAX_STEPS: usize = 32;

/// Pairs of both clocks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clock {
    /// The wall clock at time 0 of the events, us since 1970.
    pub epoch_us: u64,
    /// From a time of the events on, us, it was this at their time 0.
    pub(super) steps: Vec<(u64, u64)>,
}

impl Clock {
    /// Recording began then, us since 1970.
    pub fn new(epoch_us: u64) -> Self {
        Self { epoch_us, steps: Vec::new() }
    }

    /// Both clocks say this now; whether the wall clock has moved.
    pub(super) fn look(&mut self, at_us: u64, wall_us: u64) -> bool {
        let epoch_us = wall_us.saturating_sub(at_us);
        let moved = epoch_us.abs_diff(self.epoch_at(u64::MAX)) > MOVED_US;
        if moved {
            self.steps.truncate(MAX_STEPS - 1);
            self.steps.push((at_us, epoch_us));
        }
        moved
    }

    fn epoch_at(&self, at_us: u64) -> u64 {
        let step = self.steps.iter().rev().find(|(from_us, _)| *from_us <= at_us);
        step.map_or(self.epoch_us, |(_, epoch_us)| *epoch_us)
    }

    /// An event's time by the wall clock, us since 1970.
    pub fn wall_us(&self, at_us: u64) -> u64 {
        self.epoch_at(at_us).saturating_add(at_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH_US: u64 = 1_700_000_000_000_000;

    #[test]
    fn events_have_the_time_that_the_clock_said_when_they_happened() {
        let mut clock = Clock::new(EPOCH_US);
        assert!(!clock.look(1_000_000, EPOCH_US + 1_000_000 + MOVED_US));
        // Set an hour back.
        let back = EPOCH_US - 3_600_000_000;
        assert!(clock.look(2_000_000, back + 2_000_000));
        assert!(!clock.look(2_100_000, back + 2_100_000));
        assert!(clock.look(3_000_000, EPOCH_US + 3_000_000));
        let walls = [1_999_999, 2_000_000, 2_999_999, 3_000_000].map(|at_us| clock.wall_us(at_us) - at_us);
        assert_eq!(walls, [EPOCH_US, back, back, EPOCH_US]);
    }

    #[test]
    fn a_clock_that_jumps_for_ever_takes_no_more_memory() {
        let mut clock = Clock::new(EPOCH_US);
        (1..1_000).for_each(|n| assert!(clock.look(n, EPOCH_US + n + n % 2 * 1_000_000)));
        assert_eq!(clock.steps.len(), MAX_STEPS);
        assert!(clock.steps.is_sorted());
        assert_eq!(clock.wall_us(999), EPOCH_US + 999 + 1_000_000);
    }
}
