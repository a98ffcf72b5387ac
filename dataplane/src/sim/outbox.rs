//! What a node says in a turn.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shelf::Saving;
use crate::adversary::Sent;
use crate::log::{Log, LogError, SimDisk};
use crate::ordering::checkpoint::Certificate;
use crate::ordering::record::Record;
use crate::replica::{ClientId, HostStatus, Job, Save, Shell};
use crate::types::{ReplicaId, Sequence};
use crate::wire::frame::Kind;

/// What a node says in a turn, before the world decides what becomes of it.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) peers: Vec<Sent>,
    pub(super) clients: Vec<(ClientId, Kind, Vec<u8>)>,
    pub(super) wrote: bool,
    /// Snapshots on the disk, and what is to be done with them.
    pub(super) images: BTreeMap<Sequence, Arc<[u8]>>,
    pub(super) saves: Vec<Saving>,
    pub(super) certificates: Vec<Arc<Certificate>>,
    pub(super) dropped: Vec<Sequence>,
    /// Jobs that would be taken beside those in `jobs`; none where the replica checks signatures itself.
    pub(super) verifiers: Option<usize>,
    pub(super) jobs: Vec<Job>,
}

impl Shell<SimDisk> for Outbox {
    fn to_peer(&mut self, peer: ReplicaId, kind: Kind, body: &[u8]) {
        self.peers.push((peer, kind, body.to_vec()));
    }

    fn to_client(&mut self, client: ClientId, kind: Kind, body: &[u8]) {
        self.clients.push((client, kind, body.to_vec()));
    }

    /// The simulator's clients sign what they send.
    fn close_client(&mut self, _client: ClientId) {}

    fn start_write(&mut self, log: &mut Log<Record, SimDisk>) -> Result<(), LogError> {
        self.wrote |= log.submit()?;
        Ok(())
    }

    fn keep_snapshot(&mut self, save: Save) {
        let mut image = Vec::new();
        // Memory takes it all.
        let _ = save.write(&mut image);
        self.saves.push(Saving { statement: save.statement, certificate: save.certificate, image });
    }

    fn keep_certificate(&mut self, certificate: &Arc<Certificate>) {
        self.certificates.push(Arc::clone(certificate));
    }

    fn drop_snapshots(&mut self, sequences: &[Sequence]) {
        self.dropped.extend_from_slice(sequences);
    }

    fn snapshot_piece(&mut self, sequence: Sequence, piece: u64) -> Option<Vec<u8>> {
        super::shelf::piece(self.images.get(&sequence)?, piece)
    }

    fn verifiers(&self) -> Option<usize> {
        self.verifiers.map(|free| free - self.jobs.len())
    }

    fn verify(&mut self, job: Job) {
        self.jobs.push(job);
    }

    fn host(&self) -> HostStatus {
        HostStatus::default()
    }
}
