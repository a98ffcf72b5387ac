//! What the flight recorder is told of records and batches.

use crate::flight::{self, Kind as Noted};
use crate::ordering::batch::Batch;
use crate::ordering::record::Record;
use crate::types::Sequence;

/// Notes what a record promises, which is staged now.
pub(super) fn staged(record: &Record) {
    match record {
        Record::PrePrepared { view, sequence, batch } => {
            flight::note(Noted::Accepted, [*sequence, *view, batch.bundles().len() as u64]);
            bundles(Noted::BundleProposed, batch, *sequence, *view);
        }
        Record::Chosen { view, sequence, .. } => flight::note(Noted::Accepted, [*sequence, *view, 0]),
        Record::Prepared { view, sequence, .. } => flight::note(Noted::Prepared, [*sequence, *view, 0]),
        Record::Stable(certificate) => flight::note(Noted::CheckpointStable, [certificate.sequence(), 0, 0]),
        _ => {}
    }
}

/// Notes that a record is durable.
pub(super) fn durable(record: &Record) {
    match record {
        Record::PrePrepared { view, sequence, .. } | Record::Chosen { view, sequence, .. } => {
            flight::note(Noted::AcceptedDurable, [*sequence, *view, 0]);
        }
        Record::Prepared { view, sequence, .. } => flight::note(Noted::PreparedDurable, [*sequence, *view, 0]),
        _ => {}
    }
}

/// Notes that a batch was executed.
pub(super) fn executed(sequence: Sequence, batch: &Batch) {
    flight::note(Noted::Executed, [sequence, batch.bundles().len() as u64, 0]);
    bundles(Noted::BundleExecuted, batch, sequence, 0);
}

/// Notes a stage of those bundles of a batch that are followed.
fn bundles(kind: Noted, batch: &Batch, sequence: Sequence, view: u64) {
    if flight::sampling() > 0 {
        batch.bundles().iter().for_each(|bundle| flight::note_bundle(kind, &bundle.digest().0, sequence, view));
    }
}
