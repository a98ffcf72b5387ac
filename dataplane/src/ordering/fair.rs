//! Whether a leader passes over a client.
//!
//! # What is measured
//! A bundle that has lain here for [`Fair::old_us`] is sent on to all, so that the leader has it. From then on, and not from before the
//! view, its *wait* runs until it is executed. It is *passed over* once a bundle was executed that came after it had been sent on: what
//! holds up all alike is nothing against the leader's fairness. Each identity has an account under each leader: the time in which a
//! bundle of it was passed over for long is put on it when that ends, and a [`LEAK`]th of the time that passes flows off. A
//! leader is suspected when an identity's account and the wait of its oldest bundle that is passed over together reach
//! [`Fair::limit_us`]: [`Factors::unfair`] timers, 1.2 s by default.
//!
//! So a leader that starves a client is replaced 1.35 s after the client's bundle came here, and one that lets each bundle through just before that is
//! replaced at the second: what it gave its victim to wait for stays on the account.
//!
//! # Why a correct leader stays
//! It proposes in order of arrival. Under a load beyond what the cluster bears all wait long, and so does the measure: a bundle is old, and the limit
//! is reached, at [`LONG`] and [`Factors::unfair`] times the average delay where that is more than a timer. A client that sends to few, or to the leader late, gains
//! nothing: waits begin when this replica has sent the bundle to all. What nothing is left of is taken out of the pool
//! first. A client that sends the leader so much that it refuses more, and these replicas other things, can make them wait in vain: so the limit
//! doubles with each leader that is replaced, up to fourfold, and halves again with each [`FORGIVEN`].
//!
//! # Limits
//! At most [`MAX_ACCOUNTS`] accounts: without one an identity is judged by its oldest bundle alone. Of what is old the
//! first [`MAX_LOOKED_AT`] bundles are looked at, [`super::suspect`] sends on a few of them at a time.

use std::collections::BTreeMap;

use super::Factors;
use crate::types::PublicKey;

/// A bundle is old after so many times the average delay, where that is more than a timer; half of that is a long wait.
const LONG: u64 = 4;

/// This part of the time that passes flows off an account.
const LEAK: u64 = 16;

/// The accounts of one leader at most.
const MAX_ACCOUNTS: usize = 256;

/// Bundles that are looked at, the oldest first.
pub(super) const MAX_LOOKED_AT: usize = 1_024;

/// Doublings of the limit at most.
const MOST_FALLS: u32 = 2;

/// After so long one doubling is taken back, us.
const FORGIVEN_US: u64 = 60_000_000;

/// The average delay follows a bundle's by this part of the difference.
const WEIGHT: u64 = 32;

#[derive(Clone, Copy, Debug)]
struct Account {
    us: u64,
    at_us: u64,
}

impl Account {
    fn us(&self, now_us: u64) -> u64 {
        self.us.saturating_sub(now_us.saturating_sub(self.at_us) / LEAK)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Fair {
    /// The timer, us.
    timer_us: u64,
    factors: Factors,
    /// How long bundles take from their arrival to their execution on average, us.
    mean_us: u64,
    /// When the youngest bundle came that was executed in this view, us.
    youngest_us: u64,
    accounts: BTreeMap<PublicKey, Account>,
    /// Leaders that were replaced for being unfair, and when the last was or was forgiven, us.
    falls: u32,
    fell_us: u64,
}

impl Fair {
    pub(super) fn new(timer_us: u64, factors: Factors) -> Self {
        Self { timer_us, factors, mean_us: 0, youngest_us: 0, accounts: BTreeMap::new(), falls: 0, fell_us: 0 }
    }

    /// Another timer, us, and other factors.
    pub(super) fn set_timer(&mut self, timer_us: u64, factors: Factors) {
        (self.timer_us, self.factors) = (timer_us, factors);
    }

    /// A bundle that has waited for so long is sent on, us.
    pub(super) fn old_us(&self) -> u64 {
        self.timer_us.max(LONG * self.mean_us)
    }

    /// How long an identity may wait, us.
    fn limit_us(&self) -> u64 {
        (self.factors.unfair * self.timer_us.max(self.mean_us)) << self.falls
    }

    /// The next leader begins with no account.
    pub(super) fn end_view(&mut self) {
        self.accounts.clear();
        self.youngest_us = 0;
    }

    /// A leader is replaced for being unfair.
    pub(super) fn fall(&mut self, now_us: u64) {
        (self.falls, self.fell_us) = ((self.falls + 1).min(MOST_FALLS), now_us);
    }

    /// Whether a younger bundle than one that was sent on then was executed.
    fn passed_over(&self, since_us: u64) -> bool {
        since_us < self.youngest_us
    }

    /// Bundles were executed: whose, when they came and, where they were sent on, since when they waited, us.
    pub(super) fn executed(&mut self, bundles: impl IntoIterator<Item = (PublicKey, u64, Option<u64>)>, now_us: u64) {
        let mut youngest_us = self.youngest_us;
        for (key, arrived_us, since_us) in bundles {
            youngest_us = youngest_us.max(arrived_us);
            let passed_over = since_us.filter(|since_us| self.passed_over(*since_us));
            // One that was passed over for long says little of the others.
            if passed_over.is_some_and(|since_us| self.owe(key, since_us, now_us)) {
                continue;
            }
            let delay_us = now_us.saturating_sub(arrived_us).min(self.limit_us());
            self.mean_us = self.mean_us - self.mean_us / WEIGHT + delay_us / WEIGHT;
        }
        self.youngest_us = youngest_us;
    }

    /// Puts a long wait on an account; whether it was one.
    fn owe(&mut self, key: PublicKey, since_us: u64, now_us: u64) -> bool {
        if now_us.saturating_sub(since_us) < self.old_us() / 2 {
            return false;
        }
        if self.accounts.len() >= MAX_ACCOUNTS {
            self.accounts.retain(|_, account| account.us(now_us) > 0);
        }
        let known = self.accounts.get(&key).copied();
        if known.is_some() || self.accounts.len() < MAX_ACCOUNTS {
            // Bundles of one identity wait side by side: the time counts once.
            let from_us = known.map_or(since_us, |account| since_us.max(account.at_us));
            let us = known.map_or(0, |account| account.us(now_us)).saturating_add(now_us.saturating_sub(from_us));
            self.accounts.insert(key, Account { us, at_us: now_us });
        }
        true
    }

    /// When the leader is to be suspected, given whose oldest bundles wait since when, us.
    pub(super) fn suspect_at_us(
        &mut self,
        waiting: impl Iterator<Item = (PublicKey, u64)>,
        now_us: u64,
    ) -> Option<u64> {
        if self.falls > 0 && now_us.saturating_sub(self.fell_us) > FORGIVEN_US {
            (self.falls, self.fell_us) = (self.falls - 1, now_us);
        }
        let limit_us = self.limit_us();
        let owed = |key| self.accounts.get(&key).map_or(0, |account| account.us(now_us));
        let passed_over = waiting.filter(|(_, since_us)| self.passed_over(*since_us));
        passed_over.map(|(key, since_us)| since_us.saturating_add(limit_us.saturating_sub(owed(key)))).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMER_US: u64 = 150_000;
    const LIMIT: u64 = 8;
    const VICTIM: PublicKey = PublicKey([1; 32]);
    const OTHER: PublicKey = PublicKey([2; 32]);

    /// The other client's bundles are executed within 5 ms until then.
    fn serves(fair: &mut Fair, from_us: u64, until_us: u64) {
        (from_us..until_us).step_by(5_000).for_each(|now_us| {
            fair.executed([(OTHER, now_us.saturating_sub(5_000), None)], now_us);
        });
    }

    fn suspected_us(fair: &mut Fair, since_us: u64, now_us: u64) -> Option<u64> {
        fair.suspect_at_us([(VICTIM, since_us)].into_iter(), now_us)
    }

    #[test]
    fn a_client_that_is_passed_over_has_so_many_timers() {
        let mut fair = Fair::new(TIMER_US, Factors::default());
        serves(&mut fair, 0, 1_000_000);
        assert_eq!(suspected_us(&mut fair, 900_000, 1_000_000), Some(900_000 + LIMIT * TIMER_US));
        fair.fall(1_000_000);
        assert_eq!(suspected_us(&mut fair, 900_000, 1_000_000), Some(900_000 + 2 * LIMIT * TIMER_US));
        assert_eq!(suspected_us(&mut fair, 900_000, 62_000_000), Some(900_000 + LIMIT * TIMER_US));
    }

    #[test]
    fn to_let_one_through_just_before_the_limit_helps_once() {
        let mut fair = Fair::new(TIMER_US, Factors::default());
        serves(&mut fair, 0, 2_000_000);
        // Two bundles wait side by side: the time counts once.
        fair.executed([(VICTIM, 850_000, Some(900_000)), (VICTIM, 860_000, Some(900_000))], 2_000_000);
        let at_us = suspected_us(&mut fair, 1_980_000, 2_000_000).unwrap();
        assert!(at_us < 2_150_000, "{at_us}");
        fair.end_view();
        serves(&mut fair, 2_000_000, 2_100_000);
        assert_eq!(suspected_us(&mut fair, 2_050_000, 2_100_000), Some(2_050_000 + LIMIT * TIMER_US));
    }

    #[test]
    fn the_factor_says_for_how_long_a_client_may_be_passed_over() {
        let mut fair = Fair::new(TIMER_US, Factors { unfair: 3, ..Factors::default() });
        serves(&mut fair, 0, 1_000_000);
        assert_eq!(suspected_us(&mut fair, 900_000, 1_000_000), Some(900_000 + 3 * TIMER_US));
        fair.set_timer(TIMER_US, Factors::default());
        assert_eq!(suspected_us(&mut fair, 900_000, 1_000_000), Some(900_000 + LIMIT * TIMER_US));
    }

    #[test]
    fn where_all_wait_alike_nobody_is_passed_over() {
        let mut fair = Fair::new(TIMER_US, Factors::default());
        serves(&mut fair, 0, 1_000_000);
        assert_eq!(suspected_us(&mut fair, 1_000_000, 9_000_000), None);
    }

    #[test]
    fn under_a_load_beyond_measure_the_limit_grows() {
        let mut fair = Fair::new(TIMER_US, Factors::default());
        // All take ever longer, up to 4 s.
        for now_us in (0..8_000_000).step_by(2_000) {
            fair.executed([(OTHER, now_us / 2, None)], now_us);
        }
        assert!(fair.old_us() > 8_000_000);
        assert!(suspected_us(&mut fair, 3_900_000, 8_000_000).is_some_and(|at_us| at_us > 20_000_000));
    }

    #[test]
    fn there_is_a_limit_to_accounts() {
        let mut fair = Fair::new(TIMER_US, Factors::default());
        serves(&mut fair, 0, 2_000_000);
        for client in 0..1_000u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&client.to_be_bytes());
            fair.executed([(PublicKey(key), 0, Some(1_000_000))], 2_000_000);
        }
        assert_eq!(fair.accounts.len(), MAX_ACCOUNTS);
    }
}
