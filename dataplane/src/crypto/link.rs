//! A link: handshake and sealed frames, without I/O. The parent module is its specification.

use std::fmt;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::context;
use super::keys::SecretKey;
use super::verify::{check_public_key, verify};
use crate::types::{Digest, PublicKey, Signature};

/// Bytes that sealing adds to a frame: the AEAD's tag.
pub const TAG_LEN: usize = 16;
/// Longest handshake message in bytes; each of the three has one exact length.
pub const MAX_HANDSHAKE_MESSAGE: usize = MESSAGE_LEN[1];
/// How many frames one key seals before both sides replace it. With frames of 1 MiB (2^16 blocks) that is 2^36 blocks,
/// at which an attacker's advantage against AES-GCM is about 2^-57.
pub const REKEY_FRAMES: u64 = 1 << 20;

const PATTERN: &str = "Noise_XX_25519_AESGCM_SHA256";
const DH_LEN: usize = 32;
/// Ed25519 key and signature.
const PAYLOAD_LEN: usize = 32 + 64;
const SEALED_IDENTITY: usize = DH_LEN + TAG_LEN + PAYLOAD_LEN + TAG_LEN;
/// Length of each handshake message: `e`; `e` and identity; identity.
const MESSAGE_LEN: [usize; 3] = [DH_LEN, DH_LEN + SEALED_IDENTITY, SEALED_IDENTITY];

/// What went wrong on a link. [`LinkError::fault`] says who did it; whoever it was, the link is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    /// A handshake message of another length than its place asks for.
    #[error("handshake message {number} has {got} bytes, it has {want}")]
    MessageLength {
        /// Which of the messages 1 to 3.
        number: usize,
        /// Length received.
        got: usize,
        /// The only right length.
        want: usize,
    },
    /// A frame too short to hold a tag.
    #[error("a sealed frame of {got} bytes is cut short, it has at least {TAG_LEN}")]
    Truncated {
        /// Bytes received.
        got: usize,
    },
    /// A handshake message does not decrypt.
    #[error(
        "handshake message {number} does not decrypt: another cluster file, or somebody tampers with the connection"
    )]
    HandshakeForged {
        /// Which of the messages 2 and 3.
        number: usize,
    },
    /// The identity's signature does not hold for this handshake.
    #[error("the peer claims the key {claimed} and cannot prove it")]
    IdentityForged {
        /// The claimed link key.
        claimed: PublicKey,
    },
    /// Somebody else answers than was called.
    #[error("called {expected}, but {got} answers; check the address and the keys in the cluster file")]
    WrongIdentity {
        /// Whom the initiator called.
        expected: PublicKey,
        /// Who proved their identity instead.
        got: PublicKey,
    },
    /// A frame number that was used before: a replay or a late frame.
    #[error("frame {got} again, frame {expected} was due: a replay")]
    Replayed {
        /// The number that was due.
        expected: u64,
        /// The number received.
        got: u64,
    },
    /// A frame number that is not yet due: frames were dropped or reordered.
    #[error("frame {got} before its turn, frame {expected} was due: frames were dropped or reordered")]
    Skipped {
        /// The number that was due.
        expected: u64,
        /// The number received.
        got: u64,
    },
    /// The tag of a frame does not hold.
    #[error("frame {sequence} is forged or damaged")]
    Forged {
        /// The frame's number.
        sequence: u64,
    },
    /// The link failed before.
    #[error("the link failed before and is closed")]
    Poisoned,
    /// All frame numbers are used; a new handshake is due.
    #[error("the link has used all its frame numbers")]
    Exhausted,
    /// `write_message` or `read_message` was called when the other was due.
    #[error("handshake step out of turn")]
    OutOfTurn,
    /// The cryptographic library refused what should always work, such as drawing random bytes.
    #[error("the cryptographic library failed")]
    Library,
}

/// Who is at fault for a [`LinkError`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The bytes are not those of a link; drop and count.
    Malformed,
    /// Whoever sent this is not, or is no longer, who they must be; disconnect and count.
    Misbehaving,
    /// This process.
    Ours,
}

impl LinkError {
    /// Who is at fault.
    pub fn fault(&self) -> Fault {
        match self {
            Self::MessageLength { .. } | Self::Truncated { .. } => Fault::Malformed,
            Self::HandshakeForged { .. }
            | Self::IdentityForged { .. }
            | Self::WrongIdentity { .. }
            | Self::Replayed { .. }
            | Self::Skipped { .. }
            | Self::Forged { .. } => Fault::Misbehaving,
            Self::Poisoned | Self::Exhausted | Self::OutOfTurn | Self::Library => Fault::Ours,
        }
    }
}

/// What a process brings to all its links: its identity, an X25519 key as old as the process, its cluster.
pub struct LinkIdentity {
    key: SecretKey,
    x25519_private: Zeroizing<Vec<u8>>,
    x25519_public: [u8; DH_LEN],
    genesis: Digest,
}

impl fmt::Debug for LinkIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkIdentity of {:?}", self.key.public())
    }
}

impl LinkIdentity {
    /// Draws the X25519 key. `key` is the process's link key, `genesis` the hash of its cluster file.
    ///
    /// # Errors
    /// [`LinkError::Library`] when no random bytes can be had.
    pub fn new(key: SecretKey, genesis: Digest) -> Result<Self, LinkError> {
        let pair = builder()?.generate_keypair().map_err(|_| LinkError::Library)?;
        let x25519_private = Zeroizing::new(pair.private);
        let x25519_public = <[u8; DH_LEN]>::try_from(pair.public.as_slice()).map_err(|_| LinkError::Library)?;
        Ok(Self { key, x25519_private, x25519_public, genesis })
    }

    /// The link key by which peers know this process.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// Signs with the link key. Only a client does: its one key is also that of its bundles, and the bytes of a bundle
    /// never begin with the context of a link.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.key.sign(message)
    }
}

fn builder() -> Result<Builder<'static>, LinkError> {
    Ok(Builder::new(PATTERN.parse().map_err(|_| LinkError::Library)?))
}

/// The side that a signature in a handshake speaks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Initiator = 1,
    Responder = 2,
}

/// What is signed: context, role, genesis hash, the signer's X25519 key, and the handshake hash before the message.
fn signed_bytes(role: Role, genesis: &Digest, x25519: &[u8], transcript: &[u8]) -> Vec<u8> {
    [context::LINK, &[role as u8], &genesis.0, x25519, transcript].concat()
}

/// A handshake under way. Messages alternate, the initiator writes first; after an error it is over.
pub struct Handshake {
    noise: Box<HandshakeState>,
    identity: Arc<LinkIdentity>,
    role: Role,
    /// Whom the initiator called.
    expected: Option<PublicKey>,
    /// Who proved to be at the other end.
    peer: Option<PublicKey>,
    /// Messages written or read.
    done: usize,
    poisoned: bool,
}

/// How a handshake stands after a message.
#[derive(Debug)]
pub enum Progress {
    /// This side writes the next message.
    Write,
    /// The peer writes the next message.
    Read,
    /// The link stands. For the initiator: once the message just written has been sent.
    Done(Box<Established>),
}

/// A link that stands.
#[derive(Debug)]
pub struct Established {
    /// The peer's link key. The responder looks it up in the cluster file before it does anything else.
    pub peer: PublicKey,
    /// Seals what this side sends.
    pub sealer: Sealer,
    /// Opens what the peer sends.
    pub opener: Opener,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handshake({:?}, {} messages)", self.role, self.done)
    }
}

impl Handshake {
    /// The side that opened the connection to the owner of the link key `expected`.
    ///
    /// # Errors
    /// [`LinkError::Library`].
    pub fn initiator(identity: Arc<LinkIdentity>, expected: PublicKey) -> Result<Self, LinkError> {
        Self::new(identity, Role::Initiator, Some(expected))
    }

    /// The side that accepted a connection, from anybody.
    ///
    /// # Errors
    /// [`LinkError::Library`].
    pub fn responder(identity: Arc<LinkIdentity>) -> Result<Self, LinkError> {
        Self::new(identity, Role::Responder, None)
    }

    fn new(identity: Arc<LinkIdentity>, role: Role, expected: Option<PublicKey>) -> Result<Self, LinkError> {
        let prologue = [context::LINK, &identity.genesis.0].concat();
        let builder = builder()?
            .prologue(&prologue)
            .and_then(|builder| builder.local_private_key(&identity.x25519_private))
            .map_err(|_| LinkError::Library)?;
        let noise = match role {
            Role::Initiator => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        };
        let noise = Box::new(noise.map_err(|_| LinkError::Library)?);
        Ok(Self { noise, identity, role, expected, peer: None, done: 0, poisoned: false })
    }

    /// Appends this side's next message to `out`.
    ///
    /// # Errors
    /// [`LinkError::OutOfTurn`], [`LinkError::Poisoned`], [`LinkError::Library`].
    pub fn write_message(&mut self, out: &mut Vec<u8>) -> Result<Progress, LinkError> {
        self.step(|this| this.write(out))
    }

    /// Takes the peer's next message; [`Handshake::next_message_len`] says how long it is.
    ///
    /// # Errors
    /// The peer's faults of [`LinkError`], or [`LinkError::OutOfTurn`], [`LinkError::Poisoned`].
    pub fn read_message(&mut self, message: &[u8]) -> Result<Progress, LinkError> {
        self.step(|this| this.read(message))
    }

    /// The exact length in bytes of the message that is due next, whoever writes it; 0 when none is due.
    pub fn next_message_len(&self) -> usize {
        MESSAGE_LEN.get(self.done).copied().unwrap_or(0)
    }

    fn step(&mut self, step: impl FnOnce(&mut Self) -> Result<(), LinkError>) -> Result<Progress, LinkError> {
        if self.poisoned {
            return Err(LinkError::Poisoned);
        }
        // Poisoned first, so that whatever returns early leaves it so.
        self.poisoned = true;
        step(self)?;
        self.done += 1;
        let progress = match self.peer {
            // The handshake is used up: it stays poisoned.
            Some(peer) if self.done == MESSAGE_LEN.len() => return self.split(peer),
            _ if self.noise.is_my_turn() => Progress::Write,
            _ => Progress::Read,
        };
        self.poisoned = false;
        Ok(progress)
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), LinkError> {
        if !self.noise.is_my_turn() {
            return Err(LinkError::OutOfTurn);
        }
        let payload = if self.done == 0 { Vec::new() } else { self.own_payload() };
        let mut message = [0; MAX_HANDSHAKE_MESSAGE];
        let len = self.noise.write_message(&payload, &mut message).map_err(|_| LinkError::Library)?;
        out.extend_from_slice(&message[..len]);
        Ok(())
    }

    fn own_payload(&self) -> Vec<u8> {
        let LinkIdentity { key, x25519_public, genesis, .. } = &*self.identity;
        let signature = key.sign(&signed_bytes(self.role, genesis, x25519_public, self.noise.get_handshake_hash()));
        [key.public().0.as_slice(), &signature.0].concat()
    }

    fn read(&mut self, message: &[u8]) -> Result<(), LinkError> {
        if self.noise.is_my_turn() {
            return Err(LinkError::OutOfTurn);
        }
        let (number, want) = (self.done + 1, self.next_message_len());
        if message.len() != want {
            return Err(LinkError::MessageLength { number, got: message.len(), want });
        }
        // The signature was made over the hash before this message.
        let transcript = <[u8; 32]>::try_from(self.noise.get_handshake_hash()).map_err(|_| LinkError::Library)?;
        let mut payload = [0; MAX_HANDSHAKE_MESSAGE];
        let len = self.noise.read_message(message, &mut payload).map_err(|_| LinkError::HandshakeForged { number })?;
        if self.done > 0 {
            self.peer = Some(self.check_identity(&payload[..len], &transcript)?);
        }
        Ok(())
    }

    fn check_identity(&self, payload: &[u8], transcript: &[u8]) -> Result<PublicKey, LinkError> {
        let (key, signature) = payload.split_first_chunk::<32>().ok_or(LinkError::Library)?;
        let (claimed, signature) = (PublicKey(*key), signature.try_into().map_err(|_| LinkError::Library)?);
        let x25519 = self.noise.get_remote_static().ok_or(LinkError::Library)?;
        let role = if self.role == Role::Initiator { Role::Responder } else { Role::Initiator };
        let signed = signed_bytes(role, &self.identity.genesis, x25519, transcript);
        // A key of small order would let anybody claim it.
        if check_public_key(&claimed).is_err() || !verify(&claimed, &signed, &Signature(signature)) {
            return Err(LinkError::IdentityForged { claimed });
        }
        match self.expected {
            Some(expected) if expected != claimed => Err(LinkError::WrongIdentity { expected, got: claimed }),
            _ => Ok(claimed),
        }
    }

    fn split(&mut self, peer: PublicKey) -> Result<Progress, LinkError> {
        let (to_responder, to_initiator) = self.noise.dangerously_get_raw_split();
        let (to_responder, to_initiator) = (Zeroizing::new(to_responder), Zeroizing::new(to_initiator));
        let (seal, open) = match self.role {
            Role::Initiator => (to_responder, to_initiator),
            Role::Responder => (to_initiator, to_responder),
        };
        let (sealer, opener) = (Sealer(Direction::new(&seal)?), Opener(Direction::new(&open)?));
        Ok(Progress::Done(Box::new(Established { peer, sealer, opener })))
    }
}

/// One direction of a link: its key and the number of its next frame.
struct Direction {
    key: LessSafeKey,
    next: u64,
    poisoned: bool,
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "next frame {}{}", self.next, if self.poisoned { ", poisoned" } else { "" })
    }
}

/// Noise's nonce for AES-GCM: four zero bytes, then the number, big-endian.
fn nonce(sequence: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&sequence.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl Direction {
    fn new(key: &[u8; 32]) -> Result<Self, LinkError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| LinkError::Library)?;
        Ok(Self { key: LessSafeKey::new(key), next: 0, poisoned: false })
    }

    /// The number that is due, with the right key in place. The highest number is REKEY's nonce and never a frame's.
    fn due(&self) -> Result<u64, LinkError> {
        match self.next {
            _ if self.poisoned => Err(LinkError::Poisoned),
            u64::MAX => Err(LinkError::Exhausted),
            next => Ok(next),
        }
    }

    fn advance(&mut self) -> Result<(), LinkError> {
        self.next += 1;
        if self.next.is_multiple_of(REKEY_FRAMES) { self.rekey() } else { Ok(()) }
    }

    /// Noise 11.3: the new key is what the old one makes of 32 zero bytes under the highest nonce.
    fn rekey(&mut self) -> Result<(), LinkError> {
        let mut key = Zeroizing::new([0; 32]);
        let _tag = self
            .key
            .seal_in_place_separate_tag(nonce(u64::MAX), Aad::empty(), &mut *key)
            .map_err(|_| LinkError::Library)?;
        self.key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| LinkError::Library)?);
        Ok(())
    }
}

/// Seals the frames that this side sends.
#[derive(Debug)]
pub struct Sealer(Direction);

impl Sealer {
    /// The number that the next frame gets, for its header.
    pub fn next_sequence(&self) -> u64 {
        self.0.next
    }

    /// Encrypts `buf[from..]` in place, appends the tag of [`TAG_LEN`] bytes, and returns the frame's number.
    /// `aad` is authenticated with it and travels in the clear.
    ///
    /// # Errors
    /// [`LinkError::Exhausted`], [`LinkError::Poisoned`]; [`LinkError::Library`] for a `from` beyond the buffer or a
    /// frame that AES-GCM cannot hold (64 GiB).
    pub fn seal_in_place(&mut self, aad: &[u8], buf: &mut Vec<u8>, from: usize) -> Result<u64, LinkError> {
        let sequence = self.0.due()?;
        self.0.poisoned = true;
        let frame = buf.get_mut(from..).ok_or(LinkError::Library)?;
        let tag = self
            .0
            .key
            .seal_in_place_separate_tag(nonce(sequence), Aad::from(aad), frame)
            .map_err(|_| LinkError::Library)?;
        buf.extend_from_slice(tag.as_ref());
        self.0.advance()?;
        self.0.poisoned = false;
        Ok(sequence)
    }
}

/// Opens the frames that the peer sends.
#[derive(Debug)]
pub struct Opener(Direction);

impl Opener {
    /// Decrypts a frame in place: its number as the header has it, the header bytes that were authenticated, and the
    /// ciphertext with its tag. Returns the plaintext, which is shorter by [`TAG_LEN`]. On failure the buffer's content
    /// is of no use.
    ///
    /// # Errors
    /// [`LinkError::Replayed`], [`LinkError::Skipped`], [`LinkError::Truncated`], [`LinkError::Forged`], each of which
    /// ends the link; then [`LinkError::Poisoned`]. [`LinkError::Exhausted`] and [`LinkError::Library`].
    pub fn open_in_place<'a>(
        &mut self,
        sequence: u64,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], LinkError> {
        let expected = self.0.due()?;
        self.0.poisoned = true;
        if sequence < expected {
            return Err(LinkError::Replayed { expected, got: sequence });
        }
        if sequence > expected {
            return Err(LinkError::Skipped { expected, got: sequence });
        }
        if sealed.len() < TAG_LEN {
            return Err(LinkError::Truncated { got: sealed.len() });
        }
        let plain = self
            .0
            .key
            .open_in_place(nonce(sequence), Aad::from(aad), sealed)
            .map_err(|_| LinkError::Forged { sequence })?;
        self.0.advance()?;
        self.0.poisoned = false;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests;
