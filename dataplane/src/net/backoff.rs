//! When to try again: exponential back-off with a cap and jitter that the caller draws.

use std::time::Duration;

/// The first delay of [`Backoff::default`].
pub const DEFAULT_FIRST_DELAY: Duration = Duration::from_millis(10);
/// The longest delay of [`Backoff::default`].
pub const DEFAULT_LONGEST_DELAY: Duration = Duration::from_secs(2);

/// The delays between attempts to reconnect. Pure: it holds no clock and draws no randomness.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Delays that double from `first` up to `longest`; `longest` is taken to be no less than `first`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first), next: first }
    }

    /// How long to wait before the next attempt: between half of the current delay and all of it, placed by `jitter`
    /// (any number; uniformly drawn ones spread the attempts evenly). The delay after it is twice as long.
    pub fn next_delay(&mut self, jitter: u64) -> Duration {
        let delay = self.next;
        self.next = delay.saturating_mul(2).min(self.longest);
        let half = delay / 2;
        let spread = u64::try_from((delay - half).as_nanos()).unwrap_or(u64::MAX);
        let part = (u128::from(jitter) * u128::from(spread)) >> 64;
        half + Duration::from_nanos(u64::try_from(part).unwrap_or(spread))
    }

    /// Starts again from the first delay: call it once a connection has proved to work.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(DEFAULT_FIRST_DELAY, DEFAULT_LONGEST_DELAY)
    }
}
