//! What one replica signs heads of the history with, and how it holds the others' signatures and its own notes together.

use super::cosign::{Certified, Claim, Head};
use super::note::{self, CheckpointBody, assemble, cosignature_message, verify_cofactorless};
use crate::cluster::Cluster;
use crate::crypto::SecretKey;
use crate::evidence::Sealed;
use crate::types::{PublicKey, ReplicaId};
use crate::wire::frame::Kind;

/// The keys of a replica's log lines and cosignatures, and the members' cosignature keys by index.
pub struct Notary {
    origin: String,
    me: ReplicaId,
    log_key: SecretKey,
    cosign_key: SecretKey,
    members: Vec<PublicKey>,
}

impl std::fmt::Debug for Notary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notary").field("origin", &self.origin).field("me", &self.me).finish_non_exhaustive()
    }
}

impl Notary {
    /// The notary of replica `me`.
    pub fn new(cluster: &Cluster, me: ReplicaId, log_key: SecretKey, cosign_key: SecretKey) -> Self {
        let members = cluster.members().iter().map(|member| member.cosign_key).collect();
        Self { origin: cluster.origin().to_owned(), me, log_key, cosign_key, members }
    }

    fn body(&self, head: Head) -> CheckpointBody {
        CheckpointBody { origin: self.origin.clone(), size: head.size, root: head.root }
    }

    /// Cosigns a head at this time, seconds since the Unix epoch. Its promise is durable.
    pub fn cosign(&self, head: Head, time_s: u64) -> Claim {
        let message = cosignature_message(&self.body(head), time_s);
        Claim { head, time_s, signature: self.cosign_key.sign(message.as_bytes()) }
    }

    /// Whether a replica's claim is signed by its key, by the rules of auditors' tools.
    pub fn holds(&self, replica: ReplicaId, claim: &Claim) -> bool {
        let Some(key) = self.members.get(replica.index()) else { return false };
        let is_time = i64::try_from(claim.time_s).is_ok();
        let message = cosignature_message(&self.body(claim.head), claim.time_s);
        is_time && verify_cofactorless(key, message.as_bytes(), &claim.signature.0)
    }

    /// A claim as evidence of what its signer signed.
    pub fn sealed(&self, replica: ReplicaId, claim: &Claim) -> Sealed {
        let message = cosignature_message(&self.body(claim.head), claim.time_s);
        Sealed { kind: Kind::Cosignature, replica, body: message.into_bytes(), signature: claim.signature }
    }

    /// The note of a certified head: this replica's log line, then the cosignatures.
    pub fn note(&self, certified: &Certified) -> Option<String> {
        let body = self.body(certified.head);
        let signature = self.log_key.sign(body.to_string().as_bytes());
        let log_line = note::log_line(&self.origin, &self.log_key.public(), &signature);
        let lines = certified.claims.iter().filter_map(|(replica, claim)| {
            let key = self.members.get(replica.index())?;
            Some(note::cosignature_line(&self.origin, *replica, key, claim.time_s, &claim.signature))
        });
        let lines: Vec<_> = lines.collect();
        assemble(&body, &[log_line], &lines)
    }

    /// This replica.
    pub fn me(&self) -> ReplicaId {
        self.me
    }
}
