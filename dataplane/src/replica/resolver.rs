//! Host names of replicas, looked up beside the data path.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::net::Waker;
use crate::types::ReplicaId;
use crate::wire::limits::MAX_REPLICAS;

/// Looks names up on a thread of its own, since that may take seconds and the data path must not wait.
pub(super) struct Resolver {
    waker: Waker,
    thread: Option<Thread>,
}

/// Where names go, and where addresses come from.
type Thread = (SyncSender<(ReplicaId, String)>, Receiver<(ReplicaId, Option<SocketAddr>)>);

/// Names that are looked up at a time: one for each replica that is dialled.
const MAX_LOOKUPS: usize = MAX_REPLICAS;

impl Resolver {
    pub(super) fn new(waker: Waker) -> Self {
        Self { waker, thread: None }
    }

    /// Asks for an address; [`Resolver::found`] has it after the next wake. False where the thread does not start.
    pub(super) fn ask(&mut self, peer: ReplicaId, address: &str) -> bool {
        if self.thread.is_none() {
            self.thread = self.start();
        }
        self.thread.as_ref().is_some_and(|(names, _)| names.try_send((peer, address.to_owned())).is_ok())
    }

    fn start(&self) -> Option<Thread> {
        let (names, to_do) = sync_channel::<(ReplicaId, String)>(MAX_LOOKUPS);
        let (done, found) = sync_channel(MAX_LOOKUPS);
        let waker = self.waker.clone();
        let work = move || {
            for (peer, name) in to_do {
                let address = name.to_socket_addrs().ok().and_then(|mut all| all.next());
                if done.send((peer, address)).is_err() {
                    return;
                }
                waker.wake();
            }
        };
        crate::cores::spawn("resolver", work).ok()?;
        Some((names, found))
    }

    pub(super) fn found(&mut self) -> Option<(ReplicaId, Option<SocketAddr>)> {
        self.thread.as_ref()?.1.try_recv().ok()
    }
}
