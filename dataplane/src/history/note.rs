//! Checkpoints as text: C2SP signed-note, tlog-checkpoint and cosignature/v1 (FORMATS.md, "Checkpoints").
//!
//! ```text
//! <origin>
//! <size>
//! <base64 root>
//!
//! — <origin> base64(key id || Ed25519 over the three lines)
//! — <origin>/replica/<i> base64(key id || time as u64 big-endian || Ed25519 over "cosignature/v1\ntime <t>\n" || the three lines)
//! ```
//!
//! Reading is strict: what is accepted here, every C2SP reader accepts, and it renders to the same bytes. Lines of unknown keys are
//! kept and not judged; which keys are known, and whether the lines suffice, is for [`tlog_policy`](super::tlog_policy).
//!
//! Lines are verified singly and cofactorless by ring, as OpenSSL and Go do: a line that only ZIP 215 accepts would spoil the note
//! for others.
//!
//! Limits: [`MAX_NOTE`], [`MAX_LINES`], [`MAX_KEY_NAME`]. No extension lines, no size 0.

use std::fmt::{self, Write};

use data_encoding::BASE64;
use ring::signature::{ED25519, UnparsedPublicKey};

use super::tree::MAX_SIZE;
use crate::cluster::policy::{TYPE_COSIGNATURE, TYPE_LOG, check_origin, cosigner_name, key_id};
use crate::types::{Digest, PublicKey, ReplicaId, Signature};

/// Longest note, bytes. Beyond: refused.
pub const MAX_NOTE: usize = 64 << 10;

/// Most signature lines of a note: a log line and a cosignature of every replica. Beyond: refused.
pub const MAX_LINES: usize = 64;

/// Longest name of a key, bytes. Beyond: refused.
pub const MAX_KEY_NAME: usize = 255;

/// What a signature line begins with.
const LINE_START: &str = "— ";

/// Bytes of a log line's signature.
pub const LOG_SIGNATURE: usize = 64;

/// Bytes of a cosignature: time and signature.
pub const COSIGNATURE: usize = 8 + 64;

/// What a checkpoint says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointBody {
    /// The cluster.
    pub origin: String,
    /// Entries of the history; never 0.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Digest,
}

/// The body's text: what a log line signs.
impl fmt::Display for CheckpointBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root.0))
    }
}

impl CheckpointBody {
    /// Reads a body: exactly what [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// Another number of lines, or what is wrong in one of them.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let body = text.strip_suffix('\n').ok_or(NoteError::BodyLines)?;
        let mut lines = body.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::BodyLines);
        };
        if lines.next().is_some() {
            return Err(NoteError::Extension);
        }
        check_origin(origin).map_err(|_| NoteError::Origin)?;
        let size = parse_number(size).filter(|size| *size <= MAX_SIZE).ok_or(NoteError::Size)?;
        if size == 0 {
            return Err(NoteError::SizeZero);
        }
        let root = parse_digest(root).ok_or(NoteError::Root)?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }
}

/// A decimal number without leading zeros.
pub(crate) fn parse_number(text: &str) -> Option<u64> {
    let is_shortest = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_shortest { text.parse().ok() } else { None }
}

/// The bytes of a text in base64 with padding (RFC 4648, 4), of the one text that they have.
pub(crate) fn parse_base64(text: &str) -> Option<Vec<u8>> {
    // The decoder takes several padded texts one behind the other, too.
    let is_one = !text.trim_end_matches('=').contains('=');
    if is_one { BASE64.decode(text.as_bytes()).ok() } else { None }
}

/// 32 bytes in base64.
pub(crate) fn parse_digest(text: &str) -> Option<Digest> {
    parse_base64(text)?.try_into().ok().map(Digest)
}

/// What a cosignature signs.
pub fn cosignature_message(body: &CheckpointBody, time_s: u64) -> String {
    format!("cosignature/v1\ntime {time_s}\n{body}")
}

/// Whether `signature` is one of `key` over `message` by the cofactorless rules of RFC 8032 as ring, OpenSSL and Go apply them.
pub fn verify_cofactorless(key: &PublicKey, message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, &key.0).verify(message, signature).is_ok()
}

/// A line under a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignatureLine {
    /// Name of the key.
    pub name: String,
    /// Id of the key.
    pub key_id: [u8; 4],
    /// What follows the id.
    pub bytes: Vec<u8>,
}

/// The line, with its newline.
impl fmt::Display for SignatureLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id, self.bytes.as_slice()].concat();
        writeln!(f, "{LINE_START}{} {}", self.name, BASE64.encode(&bytes))
    }
}

impl SignatureLine {
    fn parse(line: &str) -> Result<Self, LineFault> {
        let rest = line.strip_prefix(LINE_START).ok_or(LineFault::Start)?;
        let (name, base64) = rest.split_once(' ').ok_or(LineFault::Parts)?;
        if !is_key_name(name) {
            return Err(LineFault::Name);
        }
        let bytes = parse_base64(base64).ok_or(LineFault::Base64)?;
        match bytes.split_first_chunk::<4>() {
            Some((key_id, rest)) if !rest.is_empty() => {
                Ok(Self { name: name.to_owned(), key_id: *key_id, bytes: rest.to_vec() })
            }
            _ => Err(LineFault::Short),
        }
    }

    /// Whether name and id are those of this key.
    pub fn is_of(&self, name: &str, id: [u8; 4]) -> bool {
        self.key_id == id && self.name == name
    }

    /// Whether it is a log line of `key` under this body; the name and id were compared.
    pub fn verify_log(&self, body: &CheckpointBody, key: &PublicKey) -> bool {
        self.bytes.len() == LOG_SIGNATURE && verify_cofactorless(key, body.to_string().as_bytes(), &self.bytes)
    }

    /// The time, in seconds since the Unix epoch, of a cosignature of `key` under this body; `None` where it does not verify. The
    /// name and id were compared.
    pub fn verify_cosignature(&self, body: &CheckpointBody, key: &PublicKey) -> Option<u64> {
        let (time, signature) = self.bytes.split_first_chunk::<8>().filter(|_| self.bytes.len() == COSIGNATURE)?;
        let time_s = u64::from_be_bytes(*time);
        let is_time = i64::try_from(time_s).is_ok();
        let holds = is_time && verify_cofactorless(key, cosignature_message(body, time_s).as_bytes(), signature);
        holds.then_some(time_s)
    }
}

/// Whether a text may be a key's name: not empty, no space, no `+`, at most [`MAX_KEY_NAME`] bytes.
pub(super) fn is_key_name(name: &str) -> bool {
    let is_plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '+';
    (1..=MAX_KEY_NAME).contains(&name.len()) && name.chars().all(is_plain)
}

/// The log line of a replica whose log key is `key`; `signature` is over the body's text.
pub fn log_line(origin: &str, key: &PublicKey, signature: &Signature) -> SignatureLine {
    SignatureLine { name: origin.to_owned(), key_id: key_id(origin, TYPE_LOG, key), bytes: signature.0.to_vec() }
}

/// The cosignature of a replica whose cosign key is `key`; `signature` is over [`cosignature_message`] with the same time.
pub fn cosignature_line(
    origin: &str,
    replica: ReplicaId,
    key: &PublicKey,
    time_s: u64,
    signature: &Signature,
) -> SignatureLine {
    let name = cosigner_name(origin, replica);
    let key_id = key_id(&name, TYPE_COSIGNATURE, key);
    SignatureLine { name, key_id, bytes: [&time_s.to_be_bytes(), signature.0.as_slice()].concat() }
}

/// Joins a note: log lines first, then the cosignatures by the replicas' indices. The caller verified each line and has at most
/// one for each key. `None` for size 0, for no log line, and for more than [`MAX_LINES`].
pub fn assemble(
    body: &CheckpointBody,
    log_lines: &[SignatureLine],
    cosignature_lines: &[SignatureLine],
) -> Option<String> {
    if body.size == 0 || log_lines.is_empty() || log_lines.len() + cosignature_lines.len() > MAX_LINES {
        return None;
    }
    let replica = |line: &&SignatureLine| line.name.rsplit('/').next().and_then(parse_number).unwrap_or(u64::MAX);
    let mut cosignatures: Vec<_> = cosignature_lines.iter().collect();
    cosignatures.sort_by_key(replica);
    let mut text = format!("{body}\n");
    for line in log_lines.iter().chain(cosignatures) {
        // Writing into a String cannot fail.
        let _: fmt::Result = write!(text, "{line}");
    }
    Some(text)
}

/// A checkpoint with its lines, well-formed; whether anybody is to be believed is for a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// What the checkpoint says.
    pub body: CheckpointBody,
    /// Its lines in order, those of unknown keys too.
    pub lines: Vec<SignatureLine>,
}

/// The note's text.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.body)?;
        self.lines.iter().try_for_each(|line| write!(f, "{line}"))
    }
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    /// What breaks the format first, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > MAX_NOTE {
            return Err(NoteError::TooLong(bytes.len()));
        }
        let text = str::from_utf8(bytes).map_err(|error| NoteError::Utf8(error.valid_up_to()))?;
        if let Some(at) = text.bytes().position(|byte| byte.is_ascii_control() && byte != b'\n') {
            return Err(NoteError::Control(at));
        }
        let (body, lines) = text.rsplit_once("\n\n").ok_or(NoteError::NoSignatures)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Unterminated)?;
        let body = CheckpointBody::parse(&format!("{body}\n"))?;
        // Behind three lines of body and the empty one.
        let lines: Vec<_> = (5..).zip(lines.split('\n')).take(MAX_LINES + 1).collect();
        if lines.len() > MAX_LINES {
            return Err(NoteError::TooManyLines);
        }
        let parse = |(number, line): (usize, &str)| {
            SignatureLine::parse(line).map_err(|fault| NoteError::Line { line: number, fault })
        };
        Ok(Self { body, lines: lines.into_iter().map(parse).collect::<Result<_, _>>()? })
    }
}

/// Why bytes are not a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoteError {
    /// Longer than any note.
    #[error("a checkpoint of {0} bytes; at most {MAX_NOTE} are read")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    Utf8(usize),
    /// A control character other than newline.
    #[error("a control character at byte {0}; a checkpoint has none but newlines")]
    Control(usize),
    /// No empty line between the body and the signatures.
    #[error("no empty line followed by signatures")]
    NoSignatures,
    /// The last line does not end.
    #[error("the last line does not end with a newline: the file is cut off")]
    Unterminated,
    /// Fewer lines of body than three.
    #[error("the body is not three lines: origin, size and root")]
    BodyLines,
    /// More lines of body than three.
    #[error("line 4 is an extension line; these checkpoints have none")]
    Extension,
    /// The first line.
    #[error("line 1 is no origin: 1 to 128 printable ASCII characters without spaces and '+'")]
    Origin,
    /// The second line.
    #[error("line 2 is no size: a decimal number without leading zeros, at most 2^63 - 1")]
    Size,
    /// A checkpoint of nothing.
    #[error("line 2: a checkpoint of size 0 certifies nothing")]
    SizeZero,
    /// The third line.
    #[error("line 3 is no root: 32 bytes in base64 with padding")]
    Root,
    /// More signatures than read.
    #[error("more than {MAX_LINES} signature lines")]
    TooManyLines,
    /// A signature line.
    #[error("line {line}: {fault}")]
    Line {
        /// Its number in the note, from 1.
        line: usize,
        /// What is wrong in it.
        fault: LineFault,
    },
}

/// What is wrong in a signature line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LineFault {
    /// Another start.
    #[error("a signature line begins with an em dash (U+2014) and a space")]
    Start,
    /// Nothing behind the name.
    #[error("a signature line has a key name, a space and base64")]
    Parts,
    /// The name.
    #[error("the key name is empty, longer than {MAX_KEY_NAME} bytes, or has a space or '+'")]
    Name,
    /// The signature.
    #[error("the signature is not base64 with padding")]
    Base64,
    /// Fewer bytes than a key id and a signature.
    #[error("the signature has no byte behind the key id")]
    Short,
}

#[cfg(test)]
#[path = "note_tests.rs"]
mod tests;
