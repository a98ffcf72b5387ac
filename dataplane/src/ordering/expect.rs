//! What is expected of a leader: that it lets no work lie, and that it gets as much done as leaders did lately.
//!
//! The timer in [`super::suspect`] ends with any execution, so a Byzantine leader could let 140 of 150 ms pass before each proposal for
//! ever, or have one bundle executed now and then. Here is what ends that. Everything is one replica's own judgement in whole numbers:
//! nobody has to agree on it, and all of it is pure.
//!
//! # What is measured
//! All times are counted in *waiting time*: while a bundle waits here to be executed and this replica takes part in the view of another
//! leader. Two things are held against that leader, in periods of [`PERIOD`] of waiting time:
//!
//! * **Pauses.** A pause is a time in which bundles wait that stand in no accepted proposal, while *nothing* is open: all that was accepted
//!   is executed, and the window has room. A correct leader proposes at once then, whatever the load. What takes long after a proposal
//!   (votes, disks, execution) is no pause: that is not for the leader alone to answer for. What a client has sent
//!   to this replica and not to the leader is sent on to all after half of the leader's *patience*, and a pause counts as *overdue*
//!   from another half later on. The patience is [`Factors::pause`] times the expected pause, at least [`LEAST_PATIENCE`] of the timer and at
//!   most the timer. A period is bad if more than a third of it was overdue.
//! * **Rate.** A leader may instead propose at once, and little. In periods in which all the time a bundle lay here that
//!   had been sent on long ago, what was executed in waiting time is held against the expected rate: below a [`Factors::rate_part`]th of it the
//!   period is bad. Without such a backlog the clients decide what the rate is, and it says nothing.
//!
//! A bad period adds 2 to the leader's score, a good one takes 1 away; at twice [`Factors::bad_periods`] it is suspected: after four in a row, or where more
//! than every third is bad for long. The first [`Factors::grace`] timers of a view do not count: there are choices to vote on, and clients come back.
//!
//! # What is expected
//! Good periods teach: the expected pause goes to their mean pause, down by an eighth of the difference, up by a 32nd and in one
//! view to no more than twice what it was at its beginning (nor can a leader that gets slower little by little teach a cluster that
//! to be slow is normal). The expected rate goes up by an eighth, and in periods with a backlog down by a 64th and to no less than half. Before
//! anything is known, a 64th of the timer and one full batch in each timer are expected.
//!
//! Whenever a leader was replaced for being slow, expectations fall: the pause doubles, the rate halves, and so does the
//! grace double, up to [`MOST_FALLS`] times, until leaders are good again: [`FORGIVEN`] good periods take back one doubling of the grace.
//!
//! # Why a Byzantine leader cannot stay slow for long
//! It must keep two thirds of the time free of overdue pauses. With p the patience and c the time that a proposal takes until it is
//! executed it can pause for at most 1.5 p + c / 2 each time. p is four times what was lately measured, unless that is below a 16th
//! of the timer. It must execute an eighth of the best known rate while bundles lie there. Otherwise it is gone after its grace and four
//! periods of waiting time, and f such leaders in a row after the sum of their graces.
//!
//! # Why a correct leader stays
//! * Load: under load something is open nearly always, so there are no pauses; and there is no comparison of rates between light and
//!   heavy load. The expected pause is measured under the load of the day.
//! * Slow clients, and clients that send to few: a pause counts only after the bundles were sent on, so the leader has them. Bundles that
//!   nothing is left of are taken out of the pool at that moment.
//! * Stalls: while this replica itself stood still ([`super::awake`]) nothing is counted, and a period of which it missed more than a third
//!   is not judged. A stall of the leader's host of up to half a second makes three periods bad, not four.
//! * A slow cluster: each replacement doubles the patience, so at most log2 of (timer / least patience) = 4 come in a row before the
//!   patience reaches the timer and nobody is suspected of pauses any more; meanwhile the grace has grown from 1.2 to 19 s. The rate
//!   halves likewise. So all get their turn, then everybody is content with what there is, and progress is never lost to it.
//!
//! Sources: Clement et al., "Making Byzantine Fault Tolerant Systems Tolerate Byzantine Faults" (Aardvark, NSDI 2009): the requirement
//! from earlier views, the grace. Amir et al., "Prime" (TDSC 2011): to hold against a leader only what is its own, once it has what
//! it needs.

use super::Factors;

/// A period, in timers.
const PERIOD: u64 = 1;

/// The least patience, as a part of the timer: below it are the noise of shared processors and of networks.
const LEAST_PATIENCE: u64 = 16;

/// The pause that is expected at first, as a part of the timer.
const ASSUMED_PAUSE: u64 = 64;

/// A bundle costs as much as so many bytes beside its own: its signature, its place in the history.
const BUNDLE_COST: u64 = 4_096;

/// Doublings of the grace at most.
const MOST_FALLS: u32 = 6;

/// Good periods that take back one doubling of the grace.
const FORGIVEN: u32 = 16;

/// What a replica sees of its leader at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    pub(super) now_us: u64,
    /// This replica stood still since the last look.
    pub(super) blind: bool,
    /// How late this replica itself was lately, us.
    pub(super) lag_us: u64,
    /// Another replica leads, and this one takes part without being behind.
    pub(super) judges: bool,
    /// Something waits to be executed.
    pub(super) waits: bool,
    /// Since when the leader could have proposed something and has nothing open, us.
    pub(super) idle_since_us: Option<u64>,
    /// The oldest of what waits unproposed was sent on to all.
    pub(super) relayed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    since_us: u64,
    /// When what waits was sent on, us.
    relayed_us: Option<u64>,
    /// This replica stood still meanwhile.
    blind: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Period {
    waited_us: u64,
    /// What this replica could not see of it.
    missed_us: u64,
    overdue_us: u64,
    /// For so long the oldest of what waited had been sent on.
    backlog_us: u64,
    pauses: u64,
    paused_us: u64,
    cost: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Expect {
    /// The timer, us.
    timer_us: u64,
    factors: Factors,
    /// The expected pause, and what it may rise to in this view, us.
    pause_us: u64,
    most_pause_us: u64,
    /// The expected rate with a backlog, and what it may fall to in this view, cost a second.
    rate: u64,
    least_rate: u64,
    /// Leaders that were replaced for being slow and not forgiven since.
    falls: u32,
    /// Good periods since the last that was bad.
    good: u32,
    /// Cost of what was executed since the last look.
    cost: u64,
    /// Waiting time in this view, us.
    in_view_us: u64,
    score: u32,
    last: Option<Look>,
    pause: Option<Pause>,
    period: Period,
}

impl Expect {
    /// `timer_us` as in [`Timing::suspect_us`](super::Timing), batches of `batch_bytes`.
    pub(super) fn new(timer_us: u64, batch_bytes: u64, factors: Factors) -> Self {
        let timer_us = timer_us.max(LEAST_PATIENCE);
        let mut new = Self {
            timer_us,
            factors,
            pause_us: timer_us / ASSUMED_PAUSE,
            most_pause_us: 0,
            rate: batch_bytes.saturating_mul(1_000_000) / timer_us,
            least_rate: 0,
            falls: 0,
            good: 0,
            cost: 0,
            in_view_us: 0,
            score: 0,
            last: None,
            pause: None,
            period: Period::default(),
        };
        new.end_view();
        new
    }

    /// Another timer, us, and other factors. What was learned of leaders' pauses and rates stays.
    pub(super) fn set_timer(&mut self, timer_us: u64, factors: Factors) {
        (self.timer_us, self.factors) = (timer_us.max(LEAST_PATIENCE), factors);
    }

    /// A view ends: the next leader is judged by its own deeds.
    pub(super) fn end_view(&mut self) {
        self.most_pause_us = (2 * self.pause_us).min(self.timer_us / self.factors.pause.max(1));
        self.least_rate = self.rate / 2;
        (self.in_view_us, self.score, self.last, self.pause) = (0, 0, None, None);
        self.period = Period::default();
    }

    /// A leader is replaced for being slow.
    pub(super) fn fall(&mut self) {
        self.pause_us = (2 * self.pause_us).min(self.timer_us / self.factors.pause.max(1));
        self.rate /= 2;
        self.falls = (self.falls + 1).min(MOST_FALLS);
        self.good = 0;
    }

    /// The score at which a leader is suspected; a bad period counts 2, a good one takes back 1.
    fn limit(&self) -> u32 {
        self.factors.bad_periods.saturating_mul(2)
    }

    /// How long a pause may be, us.
    fn patience_us(&self) -> u64 {
        let lag_us = self.last.map_or(0, |last| last.lag_us).min(self.timer_us / 2);
        let least_us = self.timer_us / LEAST_PATIENCE;
        ((self.factors.pause * self.pause_us).max(least_us) + lag_us).min(self.timer_us)
    }

    /// A bundle of this size that waited here was executed.
    pub(super) fn executed(&mut self, bytes: usize) {
        self.cost += bytes as u64 + BUNDLE_COST;
    }

    /// What waits unproposed was sent on to all.
    pub(super) fn relayed(&mut self, now_us: u64) {
        if let Some(pause) = &mut self.pause {
            pause.relayed_us.get_or_insert(now_us);
        }
    }

    /// When what waits is to be sent on, us.
    pub(super) fn relay_at_us(&self) -> Option<u64> {
        let pause = self.pause.filter(|pause| pause.relayed_us.is_none())?;
        Some(pause.since_us.saturating_add(self.patience_us() / 2))
    }

    /// When a look is due though nothing happens, us.
    pub(super) fn look_at_us(&self) -> Option<u64> {
        let last = self.last.filter(|last| last.judges && last.waits && self.pause.is_some())?;
        Some(last.now_us + (PERIOD * self.timer_us).saturating_sub(self.period.waited_us).max(1))
    }

    /// Whether a look now may be the one that suspects.
    pub(super) fn nears(&self, now_us: u64) -> bool {
        self.score + 2 >= self.limit() && self.look_at_us().is_some_and(|at| at <= now_us)
    }

    /// Takes a look; whether the leader is to be replaced.
    pub(super) fn look(&mut self, look: Look) -> bool {
        let cost = std::mem::take(&mut self.cost);
        if let Some(last) = self.last.replace(look).filter(|last| last.judges && look.judges) {
            self.count(&last, &look, cost);
        }
        let since_us = look.idle_since_us.filter(|_| look.judges);
        match self.pause {
            Some(pause) if Some(pause.since_us) == since_us => {
                self.pause = Some(Pause { blind: pause.blind || look.blind, ..pause });
            }
            ended => {
                if let Some(pause) = ended.filter(|pause| !pause.blind && !look.blind && look.judges) {
                    self.period.pauses += 1;
                    self.period.paused_us += look.now_us.saturating_sub(pause.since_us);
                }
                self.pause = since_us.map(|since_us| Pause { since_us, relayed_us: None, blind: look.blind });
            }
        }
        if self.period.waited_us < PERIOD * self.timer_us {
            return false;
        }
        self.judge();
        self.score >= self.limit() && look.waits
    }

    /// The time since the last look.
    fn count(&mut self, last: &Look, look: &Look, cost: u64) {
        let passed_us = look.now_us.saturating_sub(last.now_us);
        if look.blind || !last.waits {
            self.period.missed_us += if last.waits { passed_us } else { 0 };
            return;
        }
        self.period.waited_us += passed_us;
        self.period.cost += cost;
        self.period.backlog_us += if last.relayed { passed_us } else { 0 };
        if let Some(relayed_us) = self.pause.and_then(|pause| pause.relayed_us) {
            let overdue_us = last.now_us.max(relayed_us + self.patience_us() / 2);
            self.period.overdue_us += look.now_us.saturating_sub(overdue_us);
        }
    }

    fn judge(&mut self) {
        let period = std::mem::take(&mut self.period);
        let Period { waited_us, missed_us, overdue_us, backlog_us, pauses, paused_us, cost } = period;
        let is_grace = self.in_view_us < (self.factors.grace * self.timer_us) << self.falls;
        self.in_view_us += waited_us;
        if 2 * missed_us > waited_us {
            return;
        }
        let rate = cost.saturating_mul(1_000_000) / waited_us.max(1);
        // All the time but for what lies between two looks.
        let has_backlog = backlog_us >= waited_us / 8 * 7;
        if 3 * overdue_us > waited_us || has_backlog && rate < self.rate / self.factors.rate_part.max(1) {
            self.good = 0;
            self.score += if is_grace { 0 } else { 2 };
            return;
        }
        self.score = self.score.saturating_sub(1);
        self.good += 1;
        if self.good == FORGIVEN {
            (self.good, self.falls) = (0, self.falls.saturating_sub(1));
        }
        if let Some(mean_us) = paused_us.checked_div(pauses) {
            let risen_us = self.pause_us + mean_us.saturating_sub(self.pause_us) / 32;
            let pause_us =
                if mean_us > self.pause_us { risen_us } else { self.pause_us - (self.pause_us - mean_us) / 8 };
            self.pause_us = pause_us.min(self.most_pause_us);
        }
        if rate > self.rate {
            self.rate += (rate - self.rate) / 8;
        } else if has_backlog {
            self.rate = (self.rate - (self.rate - rate) / 64).max(self.least_rate.min(self.rate));
        }
    }
}

#[cfg(test)]
#[path = "expect_tests.rs"]
mod tests;
