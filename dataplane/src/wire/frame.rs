//! The frame header, and the reader that cuts a byte stream into frames.

use super::error::Malformed;
use super::limits::{
    HEADER_BYTES, MAX_ANSWER_BODY, MAX_CLIENT_BODY, MAX_HANDSHAKE_BODY, MAX_PEER_BODY, TAG_BYTES, WIRE_VERSION,
};
use crate::types::{Digest, Epoch};

const MAGIC: [u8; 4] = *b"ATLS";

/// What a frame's body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A message of the Noise handshake, in the clear.
    Handshake = 1,
    /// Replica to replica: the leader's proposal.
    PrePrepare = 16,
    /// Replica to replica: PREPARE votes.
    Prepare = 17,
    /// Replica to replica: COMMIT votes.
    Commit = 18,
    /// Replica to replica: sequences that the sender knows decided.
    Decided = 19,
    /// Replica to replica: what the sender has and lacks.
    Status = 20,
    /// Replica to replica: asks for the body of a batch.
    FetchBatch = 21,
    /// Replica to replica: the body of a batch.
    Batch = 22,
    /// Replica to replica: what its sender, who leaves the view, has prepared and pre-prepared.
    ViewChange = 23,
    /// Replica to replica: how the view begins.
    NewView = 24,
    /// Replica to replica: the sender's state at a checkpoint.
    Checkpoint = 25,
    /// Replica to replica: a checkpoint with the signatures of a quorum.
    Stable = 26,
    /// Replica to replica: a client's bundle that the sender waits for.
    Relay = 27,
    /// Replica to replica: a snapshot that the receiver may take the state from.
    Offer = 28,
    /// Replica to replica: asks for pieces of a snapshot or of the history before it, or for their hashes.
    FetchPieces = 29,
    /// Replica to replica: the hashes of pieces.
    Pieces = 30,
    /// Replica to replica: one piece.
    Piece = 31,
    /// Client to replica: a signed bundle.
    Submit = 32,
    /// Replica to client: results of executed requests.
    Replies = 33,
    /// Replica to client: a bundle that will not be ordered, or not now.
    Refused = 34,
    /// Client to replica: a read.
    Query = 35,
    /// Replica to client: the answer to a read.
    Answer = 36,
    /// Client to replica: how are you?
    StatusQuery = 37,
    /// Replica to client: what an operator wants to know first.
    StatusAnswer = 38,
    /// Client to replica: asks for something that can be proved ([`crate::replica`]).
    Prove = 39,
    /// Replica to client: what was asked for, with its proof.
    Proof = 40,
    /// Replica to replica: the sender's signature under a head of the history.
    Cosignature = 48,
}

impl Kind {
    /// Every kind, for tables and tests.
    pub const ALL: [Kind; 27] = [
        Kind::Handshake,
        Kind::PrePrepare,
        Kind::Prepare,
        Kind::Commit,
        Kind::Decided,
        Kind::Status,
        Kind::FetchBatch,
        Kind::Batch,
        Kind::ViewChange,
        Kind::NewView,
        Kind::Checkpoint,
        Kind::Stable,
        Kind::Relay,
        Kind::Offer,
        Kind::FetchPieces,
        Kind::Pieces,
        Kind::Piece,
        Kind::Submit,
        Kind::Replies,
        Kind::Refused,
        Kind::Query,
        Kind::Answer,
        Kind::StatusQuery,
        Kind::StatusAnswer,
        Kind::Prove,
        Kind::Proof,
        Kind::Cosignature,
    ];

    fn from_byte(byte: u8) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte).ok_or(Malformed::Kind(byte))
    }
}

/// Who is at the other end, which decides how long its frames may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Not known yet: only the handshake is accepted.
    Unknown,
    /// A replica of this cluster.
    Replica,
    /// A client, seen from a replica.
    Client,
    /// A replica, seen from a client.
    Server,
}

impl Sender {
    /// The largest body that this sender may send, sealed.
    pub fn max_body(self) -> usize {
        match self {
            Self::Unknown => MAX_HANDSHAKE_BODY,
            Self::Replica => MAX_PEER_BODY + TAG_BYTES,
            Self::Client => MAX_CLIENT_BODY + TAG_BYTES,
            Self::Server => MAX_ANSWER_BODY + TAG_BYTES,
        }
    }
}

/// The fixed header of every frame; 32 bytes, little-endian, authenticated as associated data of the sealed body.
///
/// `magic[4] version[1] kind[1] zero[2] length[4] epoch[4] cluster[8] sequence[8]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the body is.
    pub kind: Kind,
    /// Bytes of the body that follows, tag included.
    pub length: u32,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// First 8 bytes of the genesis hash.
    pub cluster: [u8; 8],
    /// The frame's number on this link and direction, from 0; the handshake counts separately.
    pub sequence: u64,
}

impl Header {
    /// The cluster tag of a genesis hash.
    pub fn cluster_tag(genesis: &Digest) -> [u8; 8] {
        let mut tag = [0; 8];
        tag.copy_from_slice(&genesis.0[..8]);
        tag
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = WIRE_VERSION;
        out[5] = self.kind as u8;
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..24].copy_from_slice(&self.cluster);
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out
    }

    /// Reads a header and holds its length against what `sender` may send.
    ///
    /// # Errors
    /// Anything but a header of this version with a known kind and a permitted length.
    pub fn decode(bytes: &[u8; HEADER_BYTES], sender: Sender) -> Result<Self, Malformed> {
        if bytes[0..4] != MAGIC {
            return Err(Malformed::Magic);
        }
        if bytes[4] != WIRE_VERSION {
            return Err(Malformed::Version(bytes[4]));
        }
        let kind = Kind::from_byte(bytes[5])?;
        if bytes[6..8] != [0, 0] {
            return Err(Malformed::Reserved);
        }
        let length = u32::from_le_bytes(array(&bytes[8..12]));
        let limit = sender.max_body();
        if length as usize > limit {
            return Err(Malformed::TooLong { length, limit });
        }
        if kind != Kind::Handshake && (length as usize) < TAG_BYTES {
            return Err(Malformed::TooShort(length));
        }
        let header = Self {
            kind,
            length,
            epoch: u32::from_le_bytes(array(&bytes[12..16])),
            cluster: array(&bytes[16..24]),
            sequence: u64::from_le_bytes(array(&bytes[24..32])),
        };
        header.check_direction(sender)?;
        Ok(header)
    }

    fn check_direction(&self, sender: Sender) -> Result<(), Malformed> {
        let byte = self.kind as u8;
        let allowed = match sender {
            Sender::Unknown => self.kind == Kind::Handshake,
            Sender::Replica => (16..32).contains(&byte) || (48..64).contains(&byte),
            Sender::Client => matches!(self.kind, Kind::Submit | Kind::Query | Kind::StatusQuery | Kind::Prove),
            Sender::Server => {
                matches!(self.kind, Kind::Replies | Kind::Refused | Kind::Answer | Kind::StatusAnswer | Kind::Proof)
            }
        };
        if allowed { Ok(()) } else { Err(Malformed::Direction("this kind of frame")) }
    }
}

/// Copies a slice whose length the caller fixed with constant bounds.
fn array<const N: usize>(slice: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(slice);
    out
}

/// Cuts the chunks of one connection into frames.
///
/// A frame that lies whole in a chunk is handed out in place; one that is split over chunks is joined by a copy, which is
/// counted. The joining buffer never holds more than one frame, and is released when large and no longer needed.
#[derive(Debug, Default)]
pub struct FrameReader {
    partial: Vec<u8>,
    joined: u64,
}

/// A joining buffer above this many bytes is given back once its frame was handled.
const KEEP_JOIN_BUFFER: usize = 16 << 10;

impl FrameReader {
    /// Frames that had to be joined by a copy so far.
    pub fn joined(&self) -> u64 {
        self.joined
    }

    #[cfg(test)]
    pub(super) fn buffered_capacity(&self) -> usize {
        self.partial.capacity()
    }

    /// Takes the bytes that arrived and calls `handle` for every complete frame with its header bytes and its body.
    /// `sender` is asked anew for every frame, since the handshake's end changes what is allowed.
    ///
    /// # Errors
    /// The first malformed header, or the first error that `handle` returned; the connection is then to be closed.
    pub fn push<S, E: From<Malformed>>(
        &mut self,
        mut chunk: &mut [u8],
        state: &mut S,
        sender: impl Fn(&S) -> Sender,
        mut handle: impl FnMut(&mut S, Header, [u8; HEADER_BYTES], &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !chunk.is_empty() {
            if self.partial.is_empty() {
                match complete(chunk, sender(state))? {
                    Some((header, raw, total)) => {
                        let (frame, rest) = chunk.split_at_mut(total);
                        handle(state, header, raw, &mut frame[HEADER_BYTES..])?;
                        chunk = rest;
                    }
                    None => {
                        self.partial.extend_from_slice(chunk);
                        return Ok(());
                    }
                }
            } else {
                chunk = self.join(chunk, sender(state))?;
                if let Some((header, raw, total)) = complete(&self.partial, sender(state))? {
                    debug_assert_eq!(total, self.partial.len());
                    self.joined += 1;
                    handle(state, header, raw, &mut self.partial[HEADER_BYTES..])?;
                    self.partial.clear();
                    if self.partial.capacity() > KEEP_JOIN_BUFFER {
                        self.partial = Vec::new();
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves into the joining buffer what its frame still lacks, and returns the rest of the chunk.
    fn join<'a>(&mut self, chunk: &'a mut [u8], sender: Sender) -> Result<&'a mut [u8], Malformed> {
        let want = match self.partial.first_chunk::<HEADER_BYTES>() {
            None => HEADER_BYTES,
            Some(raw) => HEADER_BYTES + Header::decode(raw, sender)?.length as usize,
        };
        let take = want.saturating_sub(self.partial.len()).min(chunk.len());
        let (head, rest) = chunk.split_at_mut(take);
        self.partial.extend_from_slice(head);
        Ok(rest)
    }
}

/// The first frame of `bytes` if it is there whole: its header and its total length.
fn complete(bytes: &[u8], sender: Sender) -> Result<Option<(Header, [u8; HEADER_BYTES], usize)>, Malformed> {
    let Some(raw) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::decode(raw, sender)?;
    let total = HEADER_BYTES + header.length as usize;
    Ok((bytes.len() >= total).then_some((header, *raw, total)))
}
