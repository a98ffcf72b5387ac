//! Who is asked first when something is read, and how long that may take before the others are asked too.

use super::types::bit;

/// How long answers may take before the others are asked, us: at first, and at least and at most once it is known what they take.
const FIRST_US: u64 = 20_000;
const LEAST_US: u64 = 1_000;
const MOST_US: u64 = 500_000;

/// How long a replica that was slow is not asked first, us: the first time, doubled each time until it answers in time, and at most.
const PASSED_OVER_US: (u64, u64) = (250_000, 32_000_000);

/// What is known of one replica.
#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    /// Until then others are asked first, us.
    slow_until_us: u64,
    /// How often it was slow since it answered in time.
    slow: u32,
    lied: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Readers {
    each: Vec<Reader>,
    needed: usize,
    /// Replicas with a link.
    links: u32,
    /// Who is asked next.
    turn: usize,
    /// Smoothed time of an answer and its variation, us (RFC 6298); `None` before the first.
    known: Option<(u64, u64)>,
}

impl Readers {
    /// Of so many replicas so many must say the same.
    pub(super) fn new(replicas: usize, needed: usize) -> Self {
        Self { each: vec![Reader::default(); replicas], needed, links: 0, turn: 0, known: None }
    }

    /// Whom to ask first: as many as must agree, or all where there are not so many good ones.
    pub(super) fn next(&mut self, now_us: u64) -> u32 {
        let mut chosen = 0u32;
        for step in 0..self.each.len() {
            let replica = (self.turn + step) % self.each.len();
            let is_good = self.each.get(replica).is_some_and(|one| !one.lied && one.slow_until_us <= now_us);
            if is_good && self.links & bit(replica) != 0 {
                chosen |= bit(replica);
            }
            if chosen.count_ones() as usize == self.needed {
                self.turn = replica + 1;
                return chosen;
            }
        }
        u32::MAX
    }

    /// How long to wait for them, us.
    pub(super) fn pause_us(&self) -> u64 {
        let known = self.known.map(|(smoothed, variation)| (smoothed + 4 * variation).clamp(LEAST_US, MOST_US));
        known.unwrap_or(FIRST_US)
    }

    /// One that was asked first answered so long after it, before others were asked.
    pub(super) fn answered(&mut self, replica: usize, us: u64) {
        self.each.get_mut(replica).into_iter().for_each(|one| one.slow = 0);
        let us = us.min(MOST_US);
        self.known = Some(match self.known {
            None => (us, us / 2),
            Some((smoothed, variation)) => ((smoothed * 7 + us) / 8, (variation * 3 + smoothed.abs_diff(us)) / 4),
        });
    }

    /// Others, asked later, answered before these.
    pub(super) fn are_slow(&mut self, replicas: u32, now_us: u64) {
        for (_, one) in self.each.iter_mut().enumerate().filter(|(replica, _)| replicas & bit(*replica) != 0) {
            let (first, most) = PASSED_OVER_US;
            one.slow_until_us = now_us + (first << one.slow.min(16)).min(most);
            one.slow = one.slow.saturating_add(1);
        }
    }

    pub(super) fn lied(&mut self, replica: usize) {
        self.each.get_mut(replica).into_iter().for_each(|one| one.lied = true);
    }

    pub(super) fn links(&mut self, links: u32) {
        self.links = links;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn_but_the_slow_and_liars() {
        let mut readers = Readers::new(4, 2);
        assert_eq!(readers.next(0), u32::MAX);
        readers.links(0b1111);
        assert_eq!([readers.next(0), readers.next(0), readers.next(0)], [0b0011, 0b1100, 0b0011]);
        readers.are_slow(0b0010, 0);
        assert_eq!([readers.next(1), readers.next(1), readers.next(1)], [0b1100, 0b0101, 0b1001]);
        readers.lied(0);
        assert_eq!([readers.next(1), readers.next(1)], [0b1100, 0b1100]);
        // One good replica proves nothing.
        readers.links(0b0111);
        assert_eq!(readers.next(1), u32::MAX);
        // It gets another chance, and a later one when it does not take it.
        assert_eq!(readers.next(250_000), 0b0110);
        readers.are_slow(0b0010, 250_000);
        assert_eq!((readers.next(749_999), readers.next(750_000)), (u32::MAX, 0b0110));
        readers.answered(1, 100);
        readers.are_slow(0b0010, 800_000);
        assert_eq!((readers.next(1_049_999), readers.next(1_050_000)), (u32::MAX, 0b0110));
        (0..40).for_each(|_| readers.are_slow(0b0010, 2_000_000));
        assert_eq!((readers.next(33_999_999), readers.next(34_000_000)), (u32::MAX, 0b0110));
    }

    #[test]
    fn the_pause_follows_what_answers_take() {
        let mut readers = Readers::new(4, 2);
        assert_eq!(readers.pause_us(), FIRST_US);
        readers.answered(0, 2_000);
        assert_eq!(readers.pause_us(), 6_000);
        (0..100).for_each(|_| readers.answered(1, 100));
        assert_eq!(readers.pause_us(), LEAST_US);
        (0..100).for_each(|_| readers.answered(2, u64::MAX));
        assert_eq!(readers.pause_us(), MOST_US);
    }
}
