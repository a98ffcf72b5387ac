//! Who is asked first when something is read, and how long that may take before the others are asked too.

use super::types::bit;

/// How long answers may take before the others are asked, us: at first, and at least and at most once it is known what they take.
const FIRST_US: u64 = 20_000;
const LEAST_US: u64 = 1_000;
const MOST_US: u64 = 500_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Readers {
    replicas: usize,
    needed: usize,
    /// Replicas with a link.
    links: u32,
    /// Those that others had to be asked for, and that have answered nothing since.
    slow: u32,
    /// Those that lied.
    liars: u32,
    /// Who is asked next.
    turn: usize,
    /// Smoothed time of a read and its variation, us (RFC 6298); `None` before the first.
    known: Option<(u64, u64)>,
}

impl Readers {
    /// Of so many replicas so many must say the same.
    pub(super) fn new(replicas: usize, needed: usize) -> Self {
        Self { replicas, needed, links: 0, slow: 0, liars: 0, turn: 0, known: None }
    }

    /// Whom to ask first: as many as must agree, or all where there are not so many good ones.
    pub(super) fn next(&mut self) -> u32 {
        let good = self.links & !self.slow & !self.liars;
        let mut chosen = 0;
        for step in 0..self.replicas {
            let replica = (self.turn + step) % self.replicas;
            if good & bit(replica) != 0 {
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

    /// A read had its result after so long.
    pub(super) fn took(&mut self, us: u64) {
        let us = us.min(MOST_US);
        self.known = Some(match self.known {
            None => (us, us / 2),
            Some((smoothed, variation)) => ((smoothed * 7 + us) / 8, (variation * 3 + smoothed.abs_diff(us)) / 4),
        });
    }

    /// These did not answer in time.
    pub(super) fn are_slow(&mut self, replicas: u32) {
        self.slow |= replicas;
    }

    /// It says something.
    pub(super) fn speaks(&mut self, replica: usize) {
        self.slow &= !bit(replica);
    }

    pub(super) fn lied(&mut self, replica: usize) {
        self.liars |= bit(replica);
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
        assert_eq!(readers.next(), u32::MAX);
        readers.links(0b1111);
        assert_eq!([readers.next(), readers.next(), readers.next()], [0b0011, 0b1100, 0b0011]);
        readers.are_slow(0b0010);
        assert_eq!([readers.next(), readers.next(), readers.next()], [0b1100, 0b0101, 0b1001]);
        readers.lied(0);
        assert_eq!([readers.next(), readers.next()], [0b1100, 0b1100]);
        // One good replica proves nothing.
        readers.links(0b0111);
        assert_eq!(readers.next(), u32::MAX);
        readers.speaks(1);
        assert_eq!([readers.next(), readers.next()], [0b0110, 0b0110]);
    }

    #[test]
    fn the_pause_follows_what_reads_take() {
        let mut readers = Readers::new(4, 2);
        assert_eq!(readers.pause_us(), FIRST_US);
        readers.took(2_000);
        assert_eq!(readers.pause_us(), 6_000);
        (0..100).for_each(|_| readers.took(100));
        assert_eq!(readers.pause_us(), LEAST_US);
        (0..100).for_each(|_| readers.took(u64::MAX));
        assert_eq!(readers.pause_us(), MOST_US);
    }
}
