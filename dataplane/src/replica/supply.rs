//! Old batches for a peer that is behind: read from the own log, in bounded pages.

use super::node::{Node, Shell};
use super::node_error::NodeError;
use crate::history::store::EntryStore;
use crate::log::{Device, Record as _};
use crate::ordering::CATCH_UP_PAGE;
use crate::ordering::batch::Batch;
use crate::ordering::record::Record;
use crate::state::Application;
use crate::types::{Digest, ReplicaId, Sequence};
use crate::wire::bundle::Bundle;
use crate::wire::frame::Kind;
use crate::wire::message::{self, Decided, Vote, WireBundle};

/// Records looked at for one request of a peer. Records of a sequence stand close together, so this is reached only by a log
/// that was written while far behind; the peer asks others.
const MAX_SCAN: usize = 32_768;

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    pub(super) fn supply_batch(&mut self, to: ReplicaId, sequence: Sequence, batch: &Batch, shell: &mut impl Shell<D>) {
        let bundles = batch.bundles().iter().map(|bundle| wire_bundle(bundle));
        let message =
            message::Batch { sequence, digest: batch.digest().0, time_ms: batch.time_ms(), bundles: bundles.collect() };
        self.body.clear();
        message::encode(&message, &mut self.body);
        shell.to_peer(to, Kind::Batch, &self.body);
    }

    pub(super) fn supply_logged_batch(
        &mut self,
        to: ReplicaId,
        sequence: Sequence,
        digest: Digest,
        shell: &mut impl Shell<D>,
    ) -> Result<(), NodeError> {
        let mut found = None;
        if sequence <= self.log.dropped_below() {
            return Ok(());
        }
        let mut scan = self.log.scan_from(sequence);
        for _ in 0..MAX_SCAN {
            let Some(entry) = scan.next()? else { break };
            if entry.key != sequence {
                continue;
            }
            match Record::decode(entry.kind, entry.payload) {
                Some(Record::PrePrepared { batch, .. } | Record::Learned { batch, .. }) if batch.digest() == digest => {
                    found = Some(batch);
                    break;
                }
                // No body of a sequence follows its decision.
                Some(Record::Decided { .. } | Record::Learned { .. }) => break,
                _ => {}
            }
        }
        if let Some(batch) = found {
            self.supply_batch(to, sequence, &batch, shell);
        }
        Ok(())
    }

    pub(super) fn supply_decided(
        &mut self,
        to: ReplicaId,
        first: Sequence,
        shell: &mut impl Shell<D>,
    ) -> Result<(), NodeError> {
        let mut decided: Vec<Vote> = Vec::new();
        let is_dropped = first <= self.log.dropped_below();
        if is_dropped || first <= self.snapshots.shelf.offers() {
            self.offer(to, shell);
        }
        if is_dropped {
            return Ok(());
        }
        let last = first.saturating_add(CATCH_UP_PAGE - 1);
        // A replica accepts at most this far ahead of what it has executed, so no decision up to `last` stands behind.
        let beyond = last.saturating_add(2 * self.config.agreed.window);
        let mut scan = self.log.scan_from(first);
        for _ in 0..MAX_SCAN {
            let Some(entry) = scan.next()? else { break };
            if entry.key > beyond {
                break;
            }
            // Decisions are logged in sequence; a body that was learned is one as well.
            let expected = first + decided.len() as u64;
            if entry.key != expected {
                continue;
            }
            let digest = match Record::decode(entry.kind, entry.payload) {
                Some(Record::Decided { digest, .. }) => digest,
                Some(Record::Learned { batch, .. }) => batch.digest(),
                _ => continue,
            };
            decided.push(Vote { sequence: expected, digest: digest.0 });
            if expected == last {
                break;
            }
        }
        if decided.is_empty() {
            // The log has a gap there, which this replica itself passed by a snapshot.
            self.offer(to, shell);
        } else {
            self.body.clear();
            message::encode(&Decided { decided }, &mut self.body);
            shell.to_peer(to, Kind::Decided, &self.body);
        }
        Ok(())
    }
}

/// A bundle as it travels.
pub(super) fn wire_bundle(bundle: &Bundle) -> WireBundle {
    WireBundle { cose: bundle.cose().to_vec(), requests: bundle.requests().map(<[u8]>::to_vec).collect() }
}
