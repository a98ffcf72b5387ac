//! Who somebody is, what they signed, and what two of them say in private.
//!
//! # What is here
//! - [`hash`]: SHA-256 and RFC 6962 Merkle hashing.
//! - [`keys`]: Ed25519 private keys and the files that hold them.
//! - [`mod@verify`]: checking signatures, one at a time or in batches, always with the same answer.
//! - [`link`]: the mutually authenticated, encrypted session between two processes, without any I/O.
//! - [`session`]: one connection: frames, handshake and sealing joined, for both ends.
//!
//! # Signatures
//! Ed25519 (RFC 8032) with the ZIP 215 rules for verification: which signatures hold is defined to the last bit and is
//! the same one by one and in batches, so two correct replicas never disagree about a bundle. (Lines of signed notes
//! are the one exception: `history` checks them cofactorless, as every tool outside does.) What is signed for one
//! purpose is worth nothing for another: a replica has a key per purpose, and each kind of message that we define
//! begins with a string of [`context`] that names the kind.
//!
//! # Links
//! Noise `XX` with X25519, AES-256-GCM and SHA-256; prologue = [`context::LINK`] and the genesis hash, so processes of
//! different clusters cannot finish a handshake. X25519 keys live as long as the process. Identity comes from Ed25519:
//! each of the two encrypted handshake payloads has a fixed size and carries the sender's Ed25519 key and its signature
//! over the context, the sender's role, the genesis hash, the sender's X25519 key and the handshake hash so far.
//!
//! ```text
//! 1  initiator -> responder   e                               32 bytes
//! 2  responder -> initiator   e, ee, s, es, {key, signature} 192 bytes
//! 3  initiator -> responder   s, se, {key, signature}        160 bytes
//! ```
//!
//! Why it holds:
//! - A signature names the role, so nobody's own payload can be reflected to them, and the X25519 key, so a payload
//!   moved into a handshake of another X25519 key fails. It also names the transcript, in which the receiver has put
//!   a fresh key, so an old payload fails even after the theft of an X25519 private key.
//! - The initiator knows whom it called and refuses every other identity. The responder learns an identity that it
//!   looks up in the cluster file before anything else.
//! - Frames are numbered from 0 in each direction and must arrive as `0, 1, 2, ...`: a repeated, reordered, dropped or
//!   cut frame ends the link. The number is the AEAD's nonce; the caller's header is its associated data. After the
//!   first failure a link answers nothing but [`link::LinkError::Poisoned`].
//! - Keys are replaced by Noise's REKEY every [`link::REKEY_FRAMES`] frames, so no key seals more than AES-GCM bears.
//! - The end of a stream is not authenticated: a connection cut between two frames looks like a lost one, and the
//!   protocol above sends again what matters.
//!
//! # Sources
//! RFC 8032, ZIP 215, RFC 6962 and 9162 (2.1), the Noise Protocol Framework revision 34 (sections 5, 7.5, 11.3), the
//! AEAD limits of RFC 9001 (B.1).

pub mod hash;
pub mod keys;
pub mod link;
pub mod session;
pub mod verify;

pub use hash::sha256;
pub use keys::SecretKey;
pub use verify::{BatchVerifier, verify};

/// What stands first in bytes that are hashed or signed, one string for each kind. Outside formats (COSE, C2SP notes)
/// bring separation of their own.
pub mod context {
    /// Prologue of a link's handshake and first bytes of what is signed in it.
    pub const LINK: &[u8] = b"atlas-link/1";
    /// First bytes of the genesis hash's input; the cluster file follows.
    pub const GENESIS: &[u8] = b"atlas-genesis/1";
    /// First bytes of a batch digest's input (FORMATS.md).
    pub const BATCH: &[u8] = b"atlas-batch/1";
    /// First bytes of what a CHECKPOINT's signature covers.
    pub const CHECKPOINT: &[u8] = b"atlas-checkpoint/1";
    /// First bytes of what a VIEW-CHANGE's signature covers.
    pub const VIEW_CHANGE: &[u8] = b"atlas-view-change/1";
    /// First bytes of what a NEW-VIEW's signature covers.
    pub const NEW_VIEW: &[u8] = b"atlas-new-view/1";
}

#[cfg(test)]
mod tests;
