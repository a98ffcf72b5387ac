//! What can go wrong for a client, in words for whoever is called at night.

use std::fmt;

use atlas_dataplane::client::{ClientError, Said, SubmitError};
use atlas_dataplane::crypto::link::LinkError;
use atlas_dataplane::crypto::session::SessionError;
use atlas_dataplane::net::{CloseReason, NetError};
use atlas_dataplane::types::{Code, PublicKey, ReplicaId};

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The identity is not in the cluster file, and the cluster has no administrator who could have registered it since.
    #[error("the key {0} is no client of this cluster: use a key that the cluster file names under [[clients]]")]
    UnknownIdentity(PublicKey),
    /// There are not as many addresses as replicas.
    #[error(
        "{given} addresses were given for {replicas} replicas: give one for each, in the order of the cluster file"
    )]
    Addresses {
        /// Addresses given.
        given: usize,
        /// Replicas in the cluster file.
        replicas: usize,
    },
    /// The driver has as many clients as it was made for.
    #[error("this driver was made for {0} clients and has them all")]
    TooManyClients(usize),
    /// No such client.
    #[error("no such client in this driver")]
    NoClient,
    /// A ticket ended as something else than it was begun as: a fault in this library.
    #[error("a fault inside the client: a ticket ended as something else than it was begun as; please report it")]
    WrongCompletion,
    /// io_uring does not work here.
    #[error(transparent)]
    Net(#[from] NetError),
    /// No key for the links could be made.
    #[error("cannot prepare the links: {0}")]
    Link(#[from] LinkError),
    /// It was not begun.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A replica gave no proof.
    #[error(
        "replica {replica}, which has {size} entries, gives no proof: code {} ({}){}", code.0, code.text(),
        if *code == Code::UNAVAILABLE { "; no certificate covers it yet: is a quorum of replicas up?" } else { "" }
    )]
    NoProof {
        /// Which replica.
        replica: ReplicaId,
        /// Its refusal.
        code: Code,
        /// Entries that it has.
        size: u64,
    },
    /// It was begun and ended without a result.
    #[error("{source}{}", reasons(source, links))]
    Operation {
        /// How it ended.
        source: ClientError,
        /// Why there is no link, for each replica where there is none.
        links: Vec<Option<LinkDown>>,
    },
}

/// Adds to a timeout why links are missing.
fn reasons(source: &ClientError, links: &[Option<LinkDown>]) -> String {
    let ClientError::Timeout { answered, .. } = source else { return String::new() };
    let mut text = String::new();
    for (index, (said, link)) in answered.iter().zip(links).enumerate() {
        if let (Said::NotConnected, Some(reason)) = (said, link) {
            text.push_str(&format!("; replica {index}: {reason}"));
        }
    }
    text
}

/// Why there is no link to a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkDown {
    /// Not tried yet, or under way.
    Connecting,
    /// Its address cannot be resolved.
    Unresolved(String),
    /// No connection, or it was lost.
    Connection(String),
    /// The other end is not the replica, or broke the protocol.
    Session(SessionError),
    /// It did not finish the handshake in time.
    Slow,
}

impl fmt::Display for LinkDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("still connecting"),
            Self::Unresolved(error) => write!(f, "its address cannot be resolved: {error}"),
            Self::Connection(error) => f.write_str(error),
            Self::Session(error) => write!(f, "{error}"),
            Self::Slow => f.write_str("no handshake in time: is something else listening there?"),
        }
    }
}

impl From<&CloseReason> for LinkDown {
    fn from(reason: &CloseReason) -> Self {
        Self::Connection(reason.to_string())
    }
}
