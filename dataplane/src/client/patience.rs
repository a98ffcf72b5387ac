//! How long results take lately, and so how long to wait for one before its bundle is sent again.
//!
//! By RFC 6298: the smoothed time and four times its smoothed variation. Unlike there every bundle counts from its first sending, also one
//! that was sent again: a replica executes it once, so a second sending makes no result come sooner, and under load it is the first
//! that is answered. A fixed pause would make a loaded cluster carry every bundle two and three times, just when it has the least to spare.

use super::core::pause_us;
use super::limits::{RESEND_FIRST_MS, RESEND_LONGEST_MS};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Smoothed time and variation, us; `None` before the first result.
    known: Option<(u64, u64)>,
}

impl Patience {
    /// A bundle had its result so long after it was sent first.
    pub(super) fn took(&mut self, us: u64) {
        let us = us.min(RESEND_LONGEST_MS * 1_000);
        self.known = Some(match self.known {
            None => (us, us / 2),
            Some((smoothed, variation)) => ((smoothed * 7 + us) / 8, (variation * 3 + smoothed.abs_diff(us)) / 4),
        });
    }

    /// How long to wait before a bundle is sent for the next time, us: between [`RESEND_FIRST_MS`] and [`RESEND_LONGEST_MS`], doubled each time.
    pub(super) fn pause_us(&self, attempt: u32) -> u64 {
        let first_ms = self.known.map_or(0, |(smoothed, variation)| (smoothed + 4 * variation) / 1_000);
        pause_us(first_ms.clamp(RESEND_FIRST_MS, RESEND_LONGEST_MS), RESEND_LONGEST_MS, attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_what_results_take_and_stays_within_its_limits() {
        let mut patience = Patience::default();
        assert_eq!(patience.pause_us(0), RESEND_FIRST_MS * 1_000);
        // Quick results change nothing.
        (0..100).for_each(|_| patience.took(1_000));
        assert_eq!(patience.pause_us(0), RESEND_FIRST_MS * 1_000);
        // By hand: of 1.6 s after nothing, smoothed 1.6 s and half of it as variation make 4.8 s; alike results take the variation away.
        let mut patience = Patience::default();
        patience.took(1_600_000);
        assert_eq!(patience.pause_us(0), 4_800_000);
        (0..100).for_each(|_| patience.took(1_600_000));
        assert_eq!(patience.pause_us(0) / 1_000, 1_600);
        assert_eq!(patience.pause_us(1) / 1_000, 3_200);
        assert_eq!(patience.pause_us(2), RESEND_LONGEST_MS * 1_000);
        // Whoever waited for days does not wait for days again.
        (0..100).for_each(|_| patience.took(u64::MAX));
        assert_eq!(patience.pause_us(0), RESEND_LONGEST_MS * 1_000);
        (0..100).for_each(|_| patience.took(1_000));
        assert_eq!(patience.pause_us(0), RESEND_FIRST_MS * 1_000);
    }
}
