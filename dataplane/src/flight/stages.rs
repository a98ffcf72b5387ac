//! How long bundles take from stage to stage: from the events of those that the recorder follows, while they come.
//!
//! What is noted of a bundle is joined with what is noted of the sequence that it was ordered at. A bundle counts when its reply is queued;
//! one whose client is not connected here does not. At most [`MAX_OPEN`] bundles and as many sequences are remembered, the oldest give way.

use std::collections::{BTreeMap, VecDeque};

use super::{Event, Kind};
use crate::histogram::Histogram;

/// The stages of a bundle, each with the kind of event that ends it.
pub const STAGES: [(&str, Kind); 6] = [
    ("arrived to verified", Kind::BundleVerified),
    ("to proposed", Kind::BundleProposed),
    ("to vote durable", Kind::AcceptedDurable),
    ("to decided", Kind::Decided),
    ("to executed", Kind::BundleExecuted),
    ("to replied", Kind::BundleReplied),
];

/// What all of them together are called.
pub const WHOLE: &str = "arrived to replied";

/// Bundles, and sequences, that are remembered.
pub const MAX_OPEN: usize = 1_024;

/// When a bundle came, and when each of its stages ended, us.
pub type Path = [Option<u64>; STAGES.len() + 1];

/// What each stage of a path took, us, and the whole. A backup may learn that a batch is decided before its own vote is durable: that took no
/// time.
pub fn took(path: &Path) -> [Option<u64>; STAGES.len() + 1] {
    std::array::from_fn(|place| {
        let (from, to) = if place < STAGES.len() { (place, place + 1) } else { (0, STAGES.len()) };
        Some(path[to]?.saturating_sub(path[from]?))
    })
}

/// See the module.
#[derive(Debug, Default)]
pub struct Stages {
    open: BTreeMap<u64, (Path, Option<u64>)>,
    /// In order of arrival; those that are done are skipped.
    arrived: VecDeque<u64>,
    /// When the vote for a sequence was durable, and when it was decided, us.
    sequences: BTreeMap<u64, [Option<u64>; 2]>,
    times: [Histogram; STAGES.len() + 1],
}

impl Stages {
    /// The next event of the replica's thread.
    pub fn feed(&mut self, event: &Event) {
        let place = STAGES.iter().position(|(_, kind)| *kind == event.kind);
        match (event.kind, event.field("bundle"), event.field("sequence")) {
            (Kind::BundleArrived, Some(bundle), _) => self.arrives(bundle, event.at_us),
            (Kind::AcceptedDurable | Kind::Decided, None, Some(sequence)) => {
                let known = self.sequences.entry(sequence).or_default();
                known[usize::from(event.kind == Kind::Decided)].get_or_insert(event.at_us);
                if self.sequences.len() > MAX_OPEN {
                    self.sequences.pop_first();
                }
            }
            (kind, Some(bundle), sequence) => {
                let (Some(place), Some((path, at))) = (place, self.open.get_mut(&bundle)) else { return };
                path[place + 1].get_or_insert(event.at_us);
                *at = at.or(sequence);
                if kind == Kind::BundleReplied {
                    self.ends(bundle);
                }
            }
            _ => {}
        }
    }

    fn arrives(&mut self, bundle: u64, at_us: u64) {
        // One that comes again is followed from the first time on.
        if self.open.contains_key(&bundle) {
            return;
        }
        let mut path = Path::default();
        path[0] = Some(at_us);
        self.open.insert(bundle, (path, None));
        self.arrived.push_back(bundle);
        if self.arrived.len() > MAX_OPEN
            && let Some(oldest) = self.arrived.pop_front()
        {
            self.open.remove(&oldest);
        }
    }

    fn ends(&mut self, bundle: u64) {
        let Some((mut path, sequence)) = self.open.remove(&bundle) else { return };
        if let Some(known) = sequence.and_then(|sequence| self.sequences.get(&sequence)) {
            (path[3], path[4]) = (known[0], known[1]);
        }
        for (times, us) in self.times.iter_mut().zip(took(&path)) {
            us.into_iter().for_each(|us| times.record(us));
        }
    }

    /// Every stage with its times, the whole last.
    pub fn times(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        STAGES.iter().map(|(name, _)| *name).chain([WHOLE]).zip(&self.times)
    }

    /// Times are counted from now on.
    pub fn reset(&mut self) {
        self.times = Default::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::total;

    fn feed(stages: &mut Stages, at_us: u64, kind: Kind, words: [u64; 3]) {
        stages.feed(&Event { at_us, kind, words });
    }

    #[test]
    fn stages_of_a_bundle_are_those_of_it_and_of_its_sequence() {
        let mut stages = Stages::default();
        for (at_us, kind, words) in [
            (100, Kind::BundleArrived, [7, 1, 1]),
            (110, Kind::BundleArrived, [8, 1, 1]),
            (115, Kind::BundleArrived, [7, 1, 1]),
            (130, Kind::BundleVerified, [7, 0, 0]),
            (150, Kind::BundleProposed, [7, 42, 0]),
            (250, Kind::AcceptedDurable, [42, 0, 0]),
            (350, Kind::Decided, [42, 0, 0]),
            (360, Kind::BundleExecuted, [7, 42, 0]),
            (365, Kind::BundleReplied, [7, 1, 0]),
            (365, Kind::BundleReplied, [9, 1, 0]),
        ] {
            feed(&mut stages, at_us, kind, words);
        }
        let sums: Vec<_> = stages.times().map(|(_, times)| (total(times.buckets()), times.sum_us())).collect();
        assert_eq!(sums, [(1, 30), (1, 20), (1, 100), (1, 100), (1, 10), (1, 5), (1, 265)]);
        stages.reset();
        assert!(stages.times().all(|(_, times)| total(times.buckets()) == 0));
        // The other goes on all the same.
        feed(&mut stages, 500, Kind::BundleReplied, [8, 1, 0]);
        assert_eq!(stages.times().last().map(|(_, times)| times.sum_us()), Some(390));
    }

    #[test]
    fn what_never_ends_takes_no_more_memory() {
        let mut stages = Stages::default();
        for n in 0..10_000 {
            feed(&mut stages, n, Kind::BundleArrived, [n, 1, 1]);
            feed(&mut stages, n, Kind::Decided, [n, 0, 0]);
        }
        assert_eq!([stages.open.len(), stages.arrived.len(), stages.sequences.len()], [MAX_OPEN; 3]);
    }
}
