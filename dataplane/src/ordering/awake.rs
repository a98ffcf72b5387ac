//! Whether this replica itself had the time: one that stood still has no evidence against anybody.
//!
//! A process that gets no processor, whose machine stops, or that is held up by its disk finds that all timers have run out, while what
//! its peers said meanwhile still waits to be read. So it looks at itself first:
//!
//! * It **stood still** when a round of its work, and by how much it slept too long after it, took [`STILL`] of the timer or more (19 ms by
//!   default): the core is told when a round ends ([`Ordering::rests`](super::Ordering::rests)) and knows when it meant to look again.
//! * Its **disk** holds it up while what it must sync before it votes is under way for [`HELD_UP`] of the timer or more. It could not leave
//!   its view before that either: its VIEW-CHANGE would have to wait behind.
//!
//! By how much it was late lately ([`Awake::lag_us`], halved with each second) is granted to the leader, too ([`super::expect`]): those
//! who share a machine are short of time together.
//!
//! Then what was waited for begins to be waited for anew. So that a replica that is short of time for ever, or has a slow disk, is not blind for
//! ever, one wait is prolonged by [`MOST`] timers at most.

/// Standing still for so long, as a part of the timer.
const STILL: u64 = 8;

/// A sync under way for so long holds this replica up, as a part of the timer.
const HELD_UP: u64 = 4;

/// A wait is prolonged by so many timers at most.
const MOST: u64 = 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Awake {
    /// When it looked last, when the round ended, and when it meant to look again at the latest, us.
    looked_us: Option<(u64, u64, u64)>,
    /// Records that votes wait for and that are not durable.
    unsynced: u64,
    /// Since when the first of them is under way, or since something was synced before it, us.
    unsynced_since_us: Option<u64>,
    /// The longest that it was late lately, and since when that holds, us.
    lag_us: u64,
    lag_at_us: u64,
    /// By how much the present wait was prolonged, us.
    prolonged_us: u64,
}

impl Awake {
    /// Something that votes wait for goes to the disk.
    pub(super) fn staged(&mut self) {
        self.unsynced += 1;
    }

    /// It is durable.
    pub(super) fn synced(&mut self) {
        self.unsynced = self.unsynced.saturating_sub(1);
        self.unsynced_since_us = None;
    }

    /// The next look is planned for then.
    pub(super) fn plans(&mut self, now_us: u64, due_us: u64) {
        self.looked_us = Some((now_us, now_us, due_us));
    }

    /// The round is over.
    pub(super) fn rests(&mut self, now_us: u64) {
        if let Some((_, rests_us, _)) = &mut self.looked_us {
            *rests_us = now_us;
        }
    }

    /// Takes a look at this replica: whether it could not see what happened since the last.
    pub(super) fn was_blind(&mut self, timer_us: u64, now_us: u64) -> bool {
        let late = |(looked_us, rests_us, due_us): (u64, u64, u64)| {
            rests_us.saturating_sub(looked_us) + now_us.saturating_sub(due_us.max(rests_us))
        };
        let late_us = self.looked_us.take().map_or(0, late);
        let seconds = now_us.saturating_sub(self.lag_at_us) / 1_000_000;
        if seconds > 0 {
            (self.lag_us, self.lag_at_us) = (self.lag_us >> seconds.min(63), now_us);
        }
        if late_us > self.lag_us {
            (self.lag_us, self.lag_at_us) = (late_us, now_us);
        }
        let stood_still = late_us >= timer_us / STILL;
        let since_us = match self.unsynced {
            0 => None,
            _ => Some(self.unsynced_since_us.unwrap_or(now_us)),
        };
        self.unsynced_since_us = since_us;
        stood_still || since_us.is_some_and(|since_us| now_us.saturating_sub(since_us) >= timer_us / HELD_UP)
    }

    /// How late it was lately, us.
    pub(super) fn lag_us(&self) -> u64 {
        self.lag_us
    }

    /// What is waited for came.
    pub(super) fn wait_ends(&mut self) {
        self.prolonged_us = 0;
    }

    /// Since when something is waited for, if it is to count since `since_us` but for what this replica could not see.
    pub(super) fn prolong(&mut self, since_us: u64, timer_us: u64, now_us: u64) -> u64 {
        if self.prolonged_us >= MOST * timer_us {
            return since_us;
        }
        self.prolonged_us += now_us.saturating_sub(since_us);
        now_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMER_US: u64 = 160_000;

    #[test]
    fn long_rounds_and_long_sleeps_are_standstills_and_waiting_is_not() {
        for (rests_us, due_us, now_us, blind) in [
            (1_000, 500_000, 400_000, false),
            (1_000, 50_000, 51_000, false),
            (1_000, 50_000, 70_000, true),
            (21_000, 500_000, 30_000, true),
            (11_000, 20_000, 30_000, true),
            (11_000, 20_000, 21_000, false),
        ] {
            let mut awake = Awake::default();
            awake.plans(0, due_us);
            awake.rests(rests_us);
            assert_eq!(awake.was_blind(TIMER_US, now_us), blind, "{rests_us} {due_us} {now_us}");
            assert_eq!(awake.lag_us() >= 20_000, blind);
            awake.was_blind(TIMER_US, 10_000_000);
            assert!(awake.lag_us() < 100);
        }
    }

    #[test]
    fn a_sync_that_takes_long_holds_it_up_until_it_is_done() {
        let mut awake = Awake::default();
        awake.staged();
        assert!(!awake.was_blind(TIMER_US, 1_000));
        assert!(awake.was_blind(TIMER_US, 41_000));
        awake.synced();
        assert!(!awake.was_blind(TIMER_US, 42_000));
    }

    #[test]
    fn a_wait_is_not_prolonged_for_ever() {
        let mut awake = Awake::default();
        let mut since_us = 0;
        for now_us in (0..10 * TIMER_US).step_by(20_000) {
            since_us = awake.prolong(since_us, TIMER_US, now_us);
        }
        assert_eq!(since_us, MOST * TIMER_US);
        awake.wait_ends();
        assert_eq!(awake.prolong(7, TIMER_US, 9), 9);
    }
}
