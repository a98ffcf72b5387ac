//! What an auditor needs to know of a cluster, in the words of C2SP: key names, key ids and the tlog-policy.

use std::fmt::{self, Write};

use data_encoding::{BASE64, HEXLOWER};

use super::file::Member;
use super::size::Size;
use crate::crypto::sha256;
use crate::types::{PublicKey, ReplicaId};

/// Longest origin, in bytes.
pub const MAX_ORIGIN: usize = 128;
/// Signature type of log lines: Ed25519 over the note's body.
pub const TYPE_LOG: u8 = 0x01;
/// Signature type of cosignatures (cosignature/v1).
pub const TYPE_COSIGNATURE: u8 = 0x04;

/// Why a text cannot be an origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "an origin has 1 to {MAX_ORIGIN} printable ASCII characters without spaces and '+', such as twin.example/plant-7"
)]
pub struct OriginError;

/// Checks an origin: a C2SP key name in printable ASCII.
///
/// # Errors
/// Empty, too long, or with a character that a key name must not have.
pub fn check_origin(origin: &str) -> Result<(), OriginError> {
    let fits = (1..=MAX_ORIGIN).contains(&origin.len()) && origin.bytes().all(|b| b.is_ascii_graphic() && b != b'+');
    if fits { Ok(()) } else { Err(OriginError) }
}

/// Under which name a replica cosigns: `<origin>/replica/<i>`.
pub fn cosigner_name(origin: &str, replica: ReplicaId) -> String {
    format!("{origin}/replica/{replica}")
}

/// C2SP key id: the first 4 bytes of `SHA-256(name || 0x0A || type || key)`.
pub fn key_id(name: &str, signature_type: u8, key: &PublicKey) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256(&[name.as_bytes(), b"\n", &[signature_type], &key.0]).0;
    [a, b, c, d]
}

/// C2SP verifier key: `<name>+<key id in hex>+<base64(type || key)>`.
pub fn vkey(name: &str, signature_type: u8, key: &PublicKey) -> String {
    let id = HEXLOWER.encode(&key_id(name, signature_type, key));
    let key = BASE64.encode(&[&[signature_type], key.0.as_slice()].concat());
    format!("{name}+{id}+{key}")
}

/// The tlog-policy of a membership: any replica's log line, and a quorum of the replicas' cosignatures.
pub fn policy_text(origin: &str, size: Size, members: &[Member]) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _: fmt::Result = write_policy(&mut text, origin, size, members);
    text
}

fn write_policy(text: &mut String, origin: &str, size: Size, members: &[Member]) -> fmt::Result {
    for member in members {
        writeln!(text, "log {}", vkey(origin, TYPE_LOG, &member.log_key))?;
    }
    for Member { id, cosign_key, .. } in members {
        writeln!(text, "witness r{id} {}", vkey(&cosigner_name(origin, *id), TYPE_COSIGNATURE, cosign_key))?;
    }
    write!(text, "group replicas {}", size.quorum())?;
    for Member { id, .. } in members {
        write!(text, " r{id}")?;
    }
    text.write_str("\nquorum replicas\n")
}
