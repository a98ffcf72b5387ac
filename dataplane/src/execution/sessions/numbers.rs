//! The executed numbers of a session that are remembered: all from the base up to the lowest that was not executed, and single ones
//! beyond it.
//!
//! A client that sends its requests in order, as all but hostile ones do, has none beyond: its numbers lie in one ring, where noting one
//! and forgetting one take no memory and no search.

use std::collections::{BTreeMap, VecDeque};

use super::Executed;

/// A ring of so few is never made smaller.
const LEAST: usize = 16;

#[derive(Default)]
pub(super) struct Numbers {
    /// What was executed below this is not known any more.
    base: u64,
    /// Those from `base` on, without a gap.
    run: VecDeque<Executed>,
    /// Those beyond the first gap.
    beyond: BTreeMap<u64, Executed>,
}

impl Numbers {
    /// Remembers nothing below `base`.
    pub(super) fn from(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// The lowest number that was not executed.
    pub(super) fn low(&self) -> u64 {
        self.base + self.run.len() as u64
    }

    pub(super) fn len(&self) -> usize {
        self.run.len() + self.beyond.len()
    }

    pub(super) fn get(&self, number: u64) -> Option<&Executed> {
        let place = number.checked_sub(self.base)?;
        match usize::try_from(place).ok().and_then(|place| self.run.get(place)) {
            None => self.beyond.get(&number),
            found => found,
        }
    }

    /// Notes a number from the base on, over what was noted of it before.
    pub(super) fn insert(&mut self, number: u64, executed: Executed) {
        let low = self.low();
        if number > low {
            self.beyond.insert(number, executed);
        } else if number < low {
            let place = number.checked_sub(self.base).and_then(|place| usize::try_from(place).ok());
            if let Some(known) = place.and_then(|place| self.run.get_mut(place)) {
                *known = executed;
            }
        } else {
            self.run.push_back(executed);
            while let Some(next) =
                self.beyond.first_entry().filter(|next| *next.key() == self.base + self.run.len() as u64)
            {
                self.run.push_back(next.remove());
            }
        }
    }

    /// Forgets the lowest, unless it is beyond a gap.
    pub(super) fn forget_first(&mut self) -> Option<Executed> {
        let first = self.run.pop_front()?;
        self.base += 1;
        // Sessions that keep nothing stay open, in numbers: what one took in a busy hour goes back. A window that moves keeps its ring.
        if self.run.len() < self.run.capacity() / 4 && self.run.capacity() > LEAST {
            self.run.shrink_to(self.run.capacity() / 2);
        }
        Some(first)
    }

    /// All, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Executed)> {
        let run = self.run.iter().enumerate().map(|(place, executed)| (self.base + place as u64, executed));
        run.chain(self.beyond.iter().map(|(number, executed)| (*number, executed)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::Digest;

    fn executed(entry: u64) -> Executed {
        Executed { request: Digest::NULL, entry, index: 0, detail: None }
    }

    #[test]
    fn what_is_forgotten_takes_no_memory() {
        let mut numbers = Numbers::default();
        (0..10_000).for_each(|number| numbers.insert(number, executed(number)));
        let full = numbers.run.capacity();
        // A window that moves on takes and gives nothing.
        for number in 10_000..30_000 {
            numbers.insert(number, executed(number));
            numbers.forget_first();
        }
        assert_eq!((numbers.run.len(), numbers.run.capacity()), (10_000, full));
        while numbers.forget_first().is_some() {
            assert!(numbers.run.capacity() <= LEAST.max(8 * (numbers.run.len() + 1)));
        }
        assert_eq!((numbers.base(), numbers.low()), (30_000, 30_000));
    }

    proptest! {
        #[test]
        fn they_are_a_map_that_forgets_from_below(base in 0..100u64, steps in prop::collection::vec((0..8u8, 0..40u64), 0..300)) {
            let (mut numbers, mut map) = (Numbers::from(base), BTreeMap::new());
            let mut floor = base;
            for (entry, (kind, ahead)) in steps.into_iter().enumerate() {
                let low = (floor..).find(|number| !map.contains_key(number)).unwrap();
                prop_assert_eq!((numbers.base(), numbers.low(), numbers.len()), (floor, low, map.len()));
                match kind {
                    0 => {
                        let first = map.remove(&floor);
                        floor += u64::from(first.is_some());
                        prop_assert_eq!(numbers.forget_first(), first);
                    }
                    1..4 => {
                        numbers.insert(low, executed(entry as u64));
                        map.insert(low, executed(entry as u64));
                    }
                    _ => {
                        numbers.insert(floor + ahead, executed(entry as u64));
                        map.insert(floor + ahead, executed(entry as u64));
                    }
                }
                prop_assert!(numbers.iter().eq(map.iter().map(|(number, executed)| (*number, executed))));
                for number in floor.saturating_sub(1)..floor + 42 {
                    prop_assert_eq!(numbers.get(number), map.get(&number));
                }
            }
        }
    }
}
