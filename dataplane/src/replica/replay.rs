//! What the log's reading at start feeds: the ordering, the execution behind it, and what of snapshots and promises it brings back.

use std::sync::Arc;

use super::node_error::NodeError;
use crate::execution::image::Image;
use crate::execution::{Executed, Execution};
use crate::history::cosign::Head;
use crate::history::store::EntryStore;
use crate::log::Durable;
use crate::ordering::checkpoint::{Certificate, Statement};
use crate::ordering::mutants::{self, Mutant};
use crate::ordering::record::Record;
use crate::ordering::{Agreed, Effect, Ordering};
use crate::state::Application;
use crate::transfer::SNAPSHOTS_KEPT;
use crate::types::{Digest, Sequence};

/// The state after a sequence, as a checkpoint states it.
pub(super) fn statement<A: Application, S: EntryStore>(
    execution: &mut Execution<A, S>,
    sequence: Sequence,
    members: Digest,
) -> Statement {
    Statement {
        sequence,
        size: execution.size(),
        history_root: execution.history_root(),
        state_root: execution.state_root(),
        sessions: execution.session_digest(),
        members,
    }
}

/// What the log's reading feeds.
pub(super) struct Replay<A: Application, S: EntryStore> {
    pub ordering: Ordering,
    pub execution: Execution<A, S>,
    pub executed: Executed,
    agreed: Agreed,
    members: Digest,
    /// Checkpoints of which there are snapshots, and certificates of those.
    snapshots: Vec<Sequence>,
    pub certificates: Vec<Arc<Certificate>>,
    /// The latest snapshots that were due and are not on the shelf.
    pub images: Vec<(Statement, Image)>,
    /// The head that was promised last.
    pub promised: Option<Head>,
    pub failed: Option<NodeError>,
}

impl<A: Application, S: EntryStore> Replay<A, S> {
    /// Begins with what resumed from the newest snapshot. There are snapshots `kept` on disk.
    pub(super) fn new(
        ordering: Ordering,
        execution: Execution<A, S>,
        agreed: Agreed,
        members: Digest,
        kept: Vec<Sequence>,
    ) -> Self {
        Self {
            ordering,
            execution,
            agreed,
            members,
            snapshots: kept,
            executed: Executed::default(),
            certificates: Vec::new(),
            images: Vec::new(),
            promised: None,
            failed: None,
        }
    }

    /// A snapshot that was due and did not come to the disk is due again.
    fn take_image(&mut self, statement: Statement) {
        let is_kept = self.snapshots.contains(&statement.sequence);
        if !is_kept && self.execution.snapshot_due() {
            self.images.push((statement, self.execution.freeze()));
            let old = self.images.len().saturating_sub(SNAPSHOTS_KEPT);
            self.images.drain(..old);
            self.snapshots.push(statement.sequence);
        }
    }

    /// One record more.
    pub(super) fn record(&mut self, record: &Durable<Record>) {
        if self.failed.is_some() {
            return;
        }
        if let Record::Stable(certificate) = &**record
            && self.snapshots.contains(&certificate.sequence())
        {
            self.certificates.push(Arc::clone(certificate));
        }
        if let Record::Cosigned(head) = **record
            && !mutants::on(Mutant::ForgetsPromises)
        {
            self.promised = Some(head);
        }
        self.ordering.replay(record);
        while let Some(effect) = self.ordering.next_effect() {
            match effect {
                Effect::Execute(sequence, batch) => {
                    if let Err(error) = self.execution.execute(sequence, &batch, &mut self.executed) {
                        self.failed = Some(error.into());
                        return;
                    }
                    if sequence.is_multiple_of(self.agreed.interval) {
                        let statement = statement(&mut self.execution, sequence, self.members);
                        self.ordering.checkpoint(statement);
                        self.take_image(statement);
                    }
                }
                Effect::Diverged(sequence) => self.failed = Some(NodeError::Diverged { sequence }),
                // What is to be logged stands in the log, or is staged again by the start.
                _ => {}
            }
        }
    }
}
