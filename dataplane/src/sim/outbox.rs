//! What a node says in a turn.

use crate::adversary::Sent;
use crate::log::{Log, LogError, SimDisk};
use crate::ordering::record::Record;
use crate::replica::{ClientId, HostStatus, Shell};
use crate::types::ReplicaId;
use crate::wire::frame::Kind;

/// What a node says in a turn, before the world decides what becomes of it.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) peers: Vec<Sent>,
    pub(super) clients: Vec<(ClientId, Kind, Vec<u8>)>,
    pub(super) wrote: bool,
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

    fn host(&self) -> HostStatus {
        HostStatus::default()
    }
}
