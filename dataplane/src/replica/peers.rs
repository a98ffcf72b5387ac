//! Messages from replicas.

use std::sync::Arc;

use super::node::{MAX_BACKLOG, Node};
use crate::crypto::verify::{BatchVerifier, verify};
use crate::execution::Admission;
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::ordering::Wanted;
use crate::ordering::batch::Batch;
use crate::ordering::mutants::{self, Mutant};
use crate::state::Application;
use crate::types::{Digest, Now, ReplicaId};
use crate::wire::bundle::Bundle;
use crate::wire::error::{FrameError, Malformed, Misbehaviour};
use crate::wire::frame::Kind;
use crate::wire::message::{
    self, ArchivedBatch, ArchivedRelay, Decided, FetchBatch, FetchPieces, PrePrepare, Status, Votes,
};

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// A message from a replica, opened and authenticated as coming from it.
    ///
    /// # Errors
    /// Malformed or misbehaving: counted here; the shell closes the link over what is malformed.
    pub fn on_peer(&mut self, from: ReplicaId, kind: Kind, body: &[u8], now: Now) -> Result<(), FrameError> {
        let result = self.peer_message(from, kind, body, now);
        if let Err(error) = &result {
            self.counters.bad_frame("replica", kind, error);
            let what = match error {
                FrameError::Misbehaving(what) => *what,
                _ => Misbehaviour::Malformed { kind },
            };
            if from != self.config.me {
                self.accuse(from, &what, Vec::new(), now);
            }
        }
        result
    }

    fn peer_message(&mut self, from: ReplicaId, kind: Kind, body: &[u8], now: Now) -> Result<(), FrameError> {
        // A link's key names a member, so this holds for every authenticated peer; asked all the same.
        if from.index() >= self.config.agreed.size.n() || from == self.config.me {
            return Err(Malformed::Direction("a message of this replica").into());
        }
        let adds_records = !matches!(
            kind,
            Kind::Status
                | Kind::FetchBatch
                | Kind::Offer
                | Kind::FetchPieces
                | Kind::Pieces
                | Kind::Piece
                | Kind::Cosignature
        );
        if adds_records && self.backlog.len() > MAX_BACKLOG {
            self.counters.add("frames.dropped.backlog", 1);
            return Ok(());
        }
        match kind {
            Kind::PrePrepare => {
                let proposal = message::access::<PrePrepare>(body)?;
                self.ordering.on_pre_prepare(from, proposal, now);
            }
            Kind::Prepare => self.ordering.on_prepares(from, Votes::access(body)?),
            Kind::Commit => self.ordering.on_commits(from, Votes::access(body)?),
            Kind::Decided => self.ordering.on_decided(from, message::access::<Decided>(body)?),
            Kind::Status => self.ordering.on_status(from, message::access::<Status>(body)?),
            Kind::FetchBatch => {
                let fetch = message::access::<FetchBatch>(body)?;
                self.ordering.on_fetch(from, fetch.sequence.to_native(), Digest(fetch.digest));
            }
            Kind::ViewChange => {
                self.ordering.on_view_change(from, message::access::<message::ViewChange>(body)?, now);
            }
            Kind::NewView => self.ordering.on_new_view(from, message::access::<message::NewView>(body)?, now),
            Kind::Checkpoint => self.ordering.on_checkpoint(from, message::access::<message::Checkpoint>(body)?),
            Kind::Stable => self.ordering.on_stable(from, message::access::<message::Stable>(body)?),
            Kind::Relay => self.peer_bundle(from, message::access::<message::Relay>(body)?, now)?,
            Kind::Batch => self.peer_batch(message::access::<message::Batch>(body)?, now)?,
            Kind::Offer => self.peer_offer(from, message::access::<message::Offer>(body)?)?,
            Kind::FetchPieces => {
                let asked = message::access::<FetchPieces>(body)?;
                let (sequence, first) = (asked.sequence.to_native(), asked.first.to_native());
                let question = FetchPieces { sequence, of_state: asked.of_state, hashes: asked.hashes, first };
                self.peer_asks_pieces(from, question);
            }
            Kind::Pieces => self.peer_hashes(from, message::access::<message::Pieces>(body)?),
            Kind::Cosignature => {
                self.peer_cosignature(from, message::access::<message::Cosignature>(body)?, now);
            }
            Kind::Piece => self.peer_piece(from, message::access::<message::Piece>(body)?),
            _ => return Err(Malformed::Direction("this kind of frame").into()),
        }
        Ok(())
    }

    /// A body: dropped unless it is wanted, then held against its digest, and unless f+1 vouched for it every bundle is
    /// verified like one from a client.
    fn peer_batch(&mut self, message: &ArchivedBatch, now: Now) -> Result<(), FrameError> {
        let (sequence, digest) = (message.sequence.to_native(), Digest(message.digest));
        let Some(wanted) = self.ordering.wants(sequence, digest) else { return Ok(()) };
        let mut bundles = Vec::with_capacity(message.bundles.len());
        for bundle in message.bundles.iter() {
            let requests: Vec<&[u8]> = bundle.requests.iter().map(|request| request.as_slice()).collect();
            let bundle = Bundle::parse(&bundle.cose, requests.into_iter(), &self.config.origin)
                .map_err(|_| Misbehaviour::BadBundle { sequence })?;
            bundles.push(Arc::new(bundle));
        }
        let batch = Batch::new(message.time_ms.to_native(), bundles);
        if batch.digest() != digest {
            return Err(Misbehaviour::WrongDigest { sequence }.into());
        }
        if wanted == Wanted::Proposed && !self.may_be_voted(&batch) {
            self.ordering.on_bad_batch(sequence, digest);
            return Ok(());
        }
        self.ordering.on_batch(sequence, Arc::new(batch), now);
        Ok(())
    }

    /// A client's bundle that a backup waits for. It is verified like one from its client; where it is of no use it is dropped.
    fn peer_bundle(&mut self, from: ReplicaId, message: &ArchivedRelay, now: Now) -> Result<(), FrameError> {
        if !self.may_relay(from) {
            return Ok(());
        }
        let requests: Vec<&[u8]> = message.bundle.requests.iter().map(|request| request.as_slice()).collect();
        let bundle = Bundle::parse(&message.bundle.cose, requests.into_iter(), &self.config.origin)
            .map_err(|_| Misbehaviour::BadRelay)?;
        let is_wanted = !self.low_space
            && !self.ordering.holds(&bundle.digest())
            && self.ordering.has_room(bundle.key(), bundle.size(), 0)
            && self.execution.check(&bundle).is_ok()
            && matches!(self.execution.admit(&bundle), Admission::Order);
        if !is_wanted {
            return Ok(());
        }
        if !verify(bundle.key(), &bundle.signed_bytes(), bundle.signature()) {
            return Err(Misbehaviour::BadRelay.into());
        }
        if let Err(code) = self.ordering.submit(Arc::new(bundle), now) {
            // Its client sends it again.
            self.counters.refused(code);
        }
        Ok(())
    }

    fn may_be_voted(&self, batch: &Batch) -> bool {
        let mut verifier = BatchVerifier::with_capacity(batch.bundles().len());
        for bundle in batch.bundles() {
            if self.execution.check(bundle).is_err() {
                return false;
            }
            verifier.push(bundle.key(), &bundle.signed_bytes(), bundle.signature(), ());
        }
        verifier.verify().all(|((), valid)| valid || mutants::on(Mutant::SignaturesUnchecked))
    }
}
