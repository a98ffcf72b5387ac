//! One connection between two processes, without I/O: frames in, frames out, a handshake before the first of them.
//!
//! A [`Session`] joins [`FrameReader`], [`Handshake`] and the [`Established`] link for either end of a connection. It owns
//! no socket: bytes that arrived go into [`Session::receive`], which opens each frame in place and hands its plaintext
//! on; [`Session::send`] seals a body in place in the connection's send buffer.
//!
//! # States
//! ```text
//! Handshake --the third message, peer admitted--> Established --any error--> Failed
//!     \------------------- any error ----------------------------------------^
//! ```
//! Handshake frames are in the clear, have the kind [`Kind::Handshake`] and are numbered from 0 in each direction;
//! sealed frames start again at 0. Whoever accepted the connection learns the peer's key with the third message and
//! decides by it who that is, before anything else is read. A failed session accepts and produces nothing: close the
//! connection. Frames of another epoch are opened, counted and dropped.
//!
//! # Limits
//! A peer may send what its class ([`Sender`]) may send, nothing before it is known but three messages of a fixed
//! length. A session joins at most one split frame in memory. How long a handshake may take is the caller's to limit.

use std::fmt;
use std::sync::Arc;

use super::link::{Established, Fault, Handshake, LinkError, LinkIdentity, Progress};
use crate::types::{Digest, Epoch, PublicKey};
use crate::wire::error::{FrameError, Malformed};
use crate::wire::frame::{FrameReader, Header, Kind, Sender};
use crate::wire::limits::{HEADER_BYTES, TAG_BYTES};

/// Bytes on the connection of a sealed frame whose body has `body` bytes: what to reserve in a send queue before
/// [`Session::send`], since a frame that was sealed must be sent.
pub const fn frame_bytes(body: usize) -> usize {
    HEADER_BYTES + body + TAG_BYTES
}

/// Most bytes that one call of [`Session::receive`] appends to its `out`: an answer to a handshake message.
pub const MAX_HANDSHAKE_REPLY: usize = HEADER_BYTES + super::link::MAX_HANDSHAKE_MESSAGE;

/// Why a session is over. [`SessionError::fault`] says by whose fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionError {
    /// The handshake failed, or a frame is forged, repeated, reordered or cut.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A frame's header is wrong, or the receiver of a body found it wrong.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer proved its key, and nobody with that key is to be served here.
    #[error("the key {0} is not in the cluster file")]
    NotAdmitted(PublicKey),
    /// A body was to be sent that the peer would not take.
    #[error("a body of {body} bytes is beyond the {limit} bytes that the peer takes")]
    BodyTooLong {
        /// Bytes of the body.
        body: usize,
        /// The most that the peer takes.
        limit: usize,
    },
    /// A frame was to be sent before the handshake was done, or after the session had failed.
    #[error("the link is not established")]
    NotEstablished,
}

impl From<Malformed> for SessionError {
    fn from(malformed: Malformed) -> Self {
        Self::Frame(FrameError::Malformed(malformed))
    }
}

impl SessionError {
    /// Who is at fault.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Link(error) => error.fault(),
            Self::Frame(FrameError::Malformed(_)) => Fault::Malformed,
            Self::Frame(_) | Self::NotAdmitted(_) => Fault::Misbehaving,
            Self::BodyTooLong { .. } | Self::NotEstablished => Fault::Ours,
        }
    }
}

/// Who is at the other end, proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its link key.
    pub key: PublicKey,
    /// What it may send.
    pub class: Sender,
}

/// How a session stands after the bytes that it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// The handshake goes on.
    Handshake,
    /// The handshake ended with these bytes; frames can be sent from now on.
    JustEstablished(Peer),
    /// As before.
    Established,
}

enum Phase {
    Handshake { handshake: Handshake, sent: u64, received: u64 },
    Established { link: Box<Established>, peer: Peer },
    Failed,
}

impl fmt::Debug for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake { handshake, .. } => handshake.fmt(f),
            Self::Established { peer, .. } => peer.fmt(f),
            Self::Failed => f.write_str("failed"),
        }
    }
}

/// One end of a connection; see the module doc.
#[derive(Debug)]
pub struct Session {
    reader: FrameReader,
    core: Core,
}

#[derive(Debug)]
struct Core {
    phase: Phase,
    cluster: [u8; 8],
    epoch: Epoch,
    /// What the initiator knows about whom it called.
    called: Option<Sender>,
    other_epoch: u64,
}

impl Session {
    /// The end that opened the connection, to the owner of the link key `expected`, whose frames are then held to what
    /// `class` may send. Appends the first handshake message to `out`.
    ///
    /// # Errors
    /// [`LinkError::Library`].
    pub fn initiator(
        identity: Arc<LinkIdentity>,
        genesis: &Digest,
        epoch: Epoch,
        expected: PublicKey,
        class: Sender,
        out: &mut Vec<u8>,
    ) -> Result<Self, SessionError> {
        let handshake = Handshake::initiator(identity, expected)?;
        let mut session = Self::new(handshake, genesis, epoch, Some(class));
        session.core.write_handshake(out)?;
        Ok(session)
    }

    /// The end that accepted the connection, from anybody.
    ///
    /// # Errors
    /// [`LinkError::Library`].
    pub fn responder(identity: Arc<LinkIdentity>, genesis: &Digest, epoch: Epoch) -> Result<Self, SessionError> {
        Ok(Self::new(Handshake::responder(identity)?, genesis, epoch, None))
    }

    fn new(handshake: Handshake, genesis: &Digest, epoch: Epoch, called: Option<Sender>) -> Self {
        let phase = Phase::Handshake { handshake, sent: 0, received: 0 };
        let cluster = Header::cluster_tag(genesis);
        Self { reader: FrameReader::default(), core: Core { phase, cluster, epoch, called, other_epoch: 0 } }
    }

    /// Whether frames can be sent.
    pub fn is_established(&self) -> bool {
        matches!(self.core.phase, Phase::Established { .. })
    }

    /// Who is at the other end, once established.
    pub fn peer(&self) -> Option<Peer> {
        match &self.core.phase {
            Phase::Established { peer, .. } => Some(*peer),
            _ => None,
        }
    }

    /// Frames that had to be joined by a copy so far.
    pub fn joined(&self) -> u64 {
        self.reader.joined()
    }

    /// Frames of another epoch that were dropped so far.
    pub fn other_epoch(&self) -> u64 {
        self.core.other_epoch
    }

    /// Takes the bytes that arrived and calls `on_frame` with each sealed frame's kind and opened body, in order.
    ///
    /// During the handshake it appends at most [`MAX_HANDSHAKE_REPLY`] bytes to `out`, which are to be sent; after it,
    /// nothing. `admit` is asked once, at the end that accepted, what the owner of the proved key is ([`Sender::Client`]
    /// or [`Sender::Replica`]); `None` ends the session. `on_frame` may end it too, by an error.
    ///
    /// # Errors
    /// The first; the session has failed then and the connection is to be closed.
    pub fn receive(
        &mut self,
        chunk: &mut [u8],
        out: &mut Vec<u8>,
        admit: impl Fn(&PublicKey) -> Option<Sender>,
        mut on_frame: impl FnMut(&Peer, Kind, &mut [u8]) -> Result<(), FrameError>,
    ) -> Result<Status, SessionError> {
        let before = self.is_established();
        let result = match self.core.phase {
            Phase::Failed => Err(SessionError::Link(LinkError::Poisoned)),
            _ => self.reader.push(chunk, &mut self.core, Core::sender, |core, header, raw, body| {
                core.handle(&header, &raw, body, out, &admit, &mut on_frame)
            }),
        };
        if let Err(error) = result {
            self.core.phase = Phase::Failed;
            self.reader = FrameReader::default();
            return Err(error);
        }
        Ok(match self.peer() {
            None => Status::Handshake,
            Some(peer) if !before => Status::JustEstablished(peer),
            Some(_) => Status::Established,
        })
    }

    /// Appends a frame to `out`: its header, and the body that `write_body` appends, sealed in place. What was appended
    /// must be sent, in this order and once; [`frame_bytes`] says how much it is.
    ///
    /// # Errors
    /// [`SessionError::NotEstablished`] and [`SessionError::BodyTooLong`], after which the session goes on and nothing
    /// was appended. [`SessionError::Link`] ends it.
    pub fn send(
        &mut self,
        kind: Kind,
        out: &mut Vec<u8>,
        write_body: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), SessionError> {
        let Core { phase: Phase::Established { link, peer }, cluster, epoch, .. } = &mut self.core else {
            return Err(SessionError::NotEstablished);
        };
        let start = out.len();
        out.resize(start + HEADER_BYTES, 0);
        write_body(out);
        let sealed = out.len() - start - HEADER_BYTES + TAG_BYTES;
        let limit = own_class(peer.class).max_body();
        let length = match u32::try_from(sealed) {
            Ok(length) if sealed <= limit => length,
            _ => {
                out.truncate(start);
                return Err(SessionError::BodyTooLong { body: sealed - TAG_BYTES, limit: limit - TAG_BYTES });
            }
        };
        let header = Header { kind, length, epoch: *epoch, cluster: *cluster, sequence: link.sealer.next_sequence() };
        let header = header.encode();
        out[start..start + HEADER_BYTES].copy_from_slice(&header);
        if let Err(error) = link.sealer.seal_in_place(&header, out, start + HEADER_BYTES) {
            out.truncate(start);
            self.core.phase = Phase::Failed;
            return Err(error.into());
        }
        Ok(())
    }
}

/// What this end is in the eyes of a peer of the given class.
fn own_class(peer: Sender) -> Sender {
    match peer {
        Sender::Client => Sender::Server,
        Sender::Server => Sender::Client,
        Sender::Replica | Sender::Unknown => peer,
    }
}

impl Core {
    fn sender(&self) -> Sender {
        match &self.phase {
            Phase::Established { peer, .. } => peer.class,
            _ => Sender::Unknown,
        }
    }

    fn handle(
        &mut self,
        header: &Header,
        raw: &[u8; HEADER_BYTES],
        body: &mut [u8],
        out: &mut Vec<u8>,
        admit: &impl Fn(&PublicKey) -> Option<Sender>,
        on_frame: &mut impl FnMut(&Peer, Kind, &mut [u8]) -> Result<(), FrameError>,
    ) -> Result<(), SessionError> {
        if header.cluster != self.cluster {
            return Err(Malformed::Cluster.into());
        }
        match &mut self.phase {
            Phase::Established { link, peer } => {
                let plain = link.opener.open_in_place(header.sequence, raw, body)?;
                if header.epoch == self.epoch {
                    on_frame(peer, header.kind, plain)?;
                } else {
                    self.other_epoch += 1;
                }
                Ok(())
            }
            Phase::Handshake { handshake, received, .. } => {
                check_number(*received, header.sequence)?;
                *received += 1;
                match handshake.read_message(body)? {
                    Progress::Write => self.write_handshake(out),
                    Progress::Read => Err(LinkError::OutOfTurn.into()),
                    Progress::Done(link) => {
                        let class = admit(&link.peer).ok_or(SessionError::NotAdmitted(link.peer))?;
                        self.establish(link, class);
                        Ok(())
                    }
                }
            }
            Phase::Failed => Err(LinkError::Poisoned.into()),
        }
    }

    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Result<(), SessionError> {
        let Phase::Handshake { handshake, sent, .. } = &mut self.phase else {
            return Err(LinkError::OutOfTurn.into());
        };
        let length = handshake.next_message_len() as u32;
        let header =
            Header { kind: Kind::Handshake, length, epoch: self.epoch, cluster: self.cluster, sequence: *sent };
        *sent += 1;
        out.extend_from_slice(&header.encode());
        if let Progress::Done(link) = handshake.write_message(out)? {
            // Only the initiator writes the last message, and the handshake has checked whom it reached.
            let class = self.called.ok_or(LinkError::OutOfTurn)?;
            self.establish(link, class);
        }
        Ok(())
    }

    fn establish(&mut self, link: Box<Established>, class: Sender) {
        let peer = Peer { key: link.peer, class };
        self.phase = Phase::Established { link, peer };
    }
}

/// Handshake frames follow each other as sealed ones do.
fn check_number(expected: u64, got: u64) -> Result<(), LinkError> {
    match got {
        _ if got == expected => Ok(()),
        _ if got < expected => Err(LinkError::Replayed { expected, got }),
        _ => Err(LinkError::Skipped { expected, got }),
    }
}

#[cfg(test)]
mod tests;
