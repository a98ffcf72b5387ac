//! What a node measures of itself for its operator: a few additions for each batch, in memory that is taken at the start.

use crate::histogram::Histogram;
use crate::ordering::batch::Batch;
use crate::ordering::record::Record;
use crate::types::{Now, Sequence};

/// Sequences whose begin is remembered: more than are open at any time.
const REMEMBERED: usize = 1_024;

/// A node's own measurements. All times are differences of the clock at the beginning of rounds.
#[derive(Debug)]
pub(crate) struct Meters {
    /// When the own vote on a sequence was staged, us, by its place.
    staged: Box<[(Sequence, u64); REMEMBERED]>,
    /// From there to its execution.
    pub(super) commit: Histogram,
    pub(super) batches: u64,
    pub(super) bundles: u64,
    pub(super) requests: u64,
    /// Frames that were opened.
    pub(super) frames_in: u64,
}

impl Default for Meters {
    fn default() -> Self {
        let staged = Box::new([(0, 0); REMEMBERED]);
        Self { staged, commit: Histogram::default(), batches: 0, bundles: 0, requests: 0, frames_in: 0 }
    }
}

impl Meters {
    /// A record is about to be staged. The first vote on a sequence counts, in whatever view.
    pub(super) fn logged(&mut self, record: &Record, now: Now) {
        if let Record::PrePrepared { sequence, .. } = record {
            let place = &mut self.staged[*sequence as usize % REMEMBERED];
            if place.0 != *sequence {
                *place = (*sequence, now.mono_us);
            }
        }
    }

    /// A batch was executed. One that this replica never voted on has no time.
    pub(super) fn executed(&mut self, sequence: Sequence, batch: &Batch, now: Now) {
        self.batches += 1;
        self.bundles += batch.bundles().len() as u64;
        self.requests += batch.bundles().iter().map(|bundle| u64::from(bundle.header().count)).sum::<u64>();
        let (staged, at_us) = self.staged[sequence as usize % REMEMBERED];
        if staged == sequence {
            self.commit.record(now.mono_us.saturating_sub(at_us));
        }
    }
}
