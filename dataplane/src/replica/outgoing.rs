//! Messages of the ordering core as they travel.

use super::supply::wire_bundle;
use crate::ordering::Outgoing;
use crate::wire::frame::Kind;
use crate::wire::message::{self, PrePrepare, Vote, Votes};

/// The body of a message to a peer, and its kind.
pub(super) fn encode(outgoing: &Outgoing, body: &mut Vec<u8>) -> Kind {
    let votes = |votes: &[crate::ordering::record::DurableVote]| Votes {
        view: votes.first().map_or(0, |vote| vote.view()),
        votes: votes.iter().map(|vote| Vote { sequence: vote.sequence(), digest: vote.digest().0 }).collect(),
    };
    match outgoing {
        Outgoing::PrePrepare(proposal) => {
            let message = PrePrepare {
                view: proposal.view,
                sequence: proposal.sequence,
                time_ms: proposal.time_ms,
                digest: proposal.digest.0,
                bundles: proposal.bundles.iter().map(|digest| digest.0).collect(),
            };
            message::encode(&message, body);
            Kind::PrePrepare
        }
        Outgoing::Prepare(prepares) => {
            votes(prepares).encode(body);
            Kind::Prepare
        }
        Outgoing::Commit(commits) => {
            votes(commits).encode(body);
            Kind::Commit
        }
        Outgoing::Decided(decided) => {
            let decided = decided.iter().map(|(sequence, digest)| Vote { sequence: *sequence, digest: digest.0 });
            message::encode(&message::Decided { decided: decided.collect() }, body);
            Kind::Decided
        }
        Outgoing::Status(status) => {
            message::encode(status, body);
            Kind::Status
        }
        Outgoing::FetchBatch(sequence, digest) => {
            message::encode(&message::FetchBatch { sequence: *sequence, digest: digest.0 }, body);
            Kind::FetchBatch
        }
        Outgoing::ViewChange(change) => {
            let (bytes, signature) = change.parts();
            message::encode(&message::ViewChange { body: bytes.to_vec(), signature: signature.0 }, body);
            Kind::ViewChange
        }
        Outgoing::NewView(new_view) => {
            let (bytes, signature) = new_view.parts();
            message::encode(&message::NewView { body: bytes.to_vec(), signature: signature.0 }, body);
            Kind::NewView
        }
        Outgoing::Checkpoint(signed) => {
            let message =
                message::Checkpoint { body: signed.statement.bytes().to_vec(), signature: signed.signature.0 };
            message::encode(&message, body);
            Kind::Checkpoint
        }
        Outgoing::Stable(certificate) => {
            message::encode(&message::Stable { certificate: certificate.bytes() }, body);
            Kind::Stable
        }
        Outgoing::Relay(bundle) => {
            message::encode(&message::Relay { bundle: wire_bundle(bundle) }, body);
            Kind::Relay
        }
    }
}
