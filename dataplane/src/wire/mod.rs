//! What travels between machines: frames, messages and signed bundles.
//!
//! # Frames
//! Everything on a link is a frame: a fixed 32-byte header ([`frame::Header`]) and a body. The first frames carry the Noise
//! handshake in the clear; every later body is sealed (AES-256-GCM) with the header as associated data, so a header that was
//! changed on the way fails to open. The header names the protocol version, the kind of body, its length, the epoch, the
//! cluster (first 8 bytes of the genesis hash) and the frame's number on this link, which must be exactly the next.
//!
//! # Messages
//! A body is one rkyv archive ([`message`]), unaligned and little-endian, read in place after a check. The frame's kind says
//! which; a body of the wrong kind, with a byte too many or too few, or with a count beyond its limit is malformed.
//!
//! # Bundles
//! What a client signs ([`bundle`]) is not rkyv but deterministic CBOR in COSE_Sign1, because auditors read it for decades.
//! That holds down to the operation, whose bytes enter the history as they are: an item that is not deterministic or nested too
//! deep never gets as far as a batch. What it means is the application's affair.
//!
//! # Key statements
//! What an administrator signs to register, rotate or revoke a key ([`statement`]): COSE_Sign1 as well, since it is a leaf of the
//! history. It travels inside a bundle, as the operation `[4, cose_sign1]`.
//!
//! # Limits
//! All in [`limits`]. A decoder looks at a length before it believes it: a frame's length is checked against the limit of who
//! sent it before one byte of the body is kept, and the buffer that joins a split frame grows only with bytes that arrived.
//!
//! # Who is at fault
//! [`error::FrameError`]: malformed bytes are dropped and counted and the link is closed, misbehaviour is evidence about an
//! authenticated peer, a refusal is an answer to a client.

pub mod bundle;
pub mod error;
pub mod frame;
pub mod limits;
pub mod message;
mod proofs;
pub mod statement;

#[cfg(test)]
mod tests;
