//! Key statements: what an administrator signs so that a key begins or ceases to stand for somebody.
//!
//! A statement is a COSE_Sign1 (RFC 9052, tag 18; protected header `{1: -8, 4: the administrator's public key}`, as bundles have
//! it) whose payload is the CBOR array
//! `["atlas-key/1", origin, number, action, key, role / null, name / null, valid_from_ms / null, valid_until_ms / null,
//! replaces_key / null, reason / null]`:
//!
//! | action | | what must be there | what may be there |
//! | --- | --- | --- | --- |
//! | 0 | register | name; role, null for an administrator | from, until, reason |
//! | 1 | rotate: `key` takes role and name of `replaces_key` | replaces_key | from, until, reason |
//! | 2 | revoke | | reason |
//!
//! Everything else is null. `number` counts the statements of the cluster that were carried out, from 1: only the next is ever
//! carried out, so none is replayed. A key is valid from `valid_from_ms` (null: at once) until before `valid_until_ms` (null:
//! without end), in agreed time.
//!
//! Parsing is strict, as for bundles: the one deterministic encoding, nothing behind the end. What it means for the cluster is
//! [`crate::execution::identities`]'s affair.
//!
//! A statement travels as the operation `[4, cose_sign1 as a byte string]` in any identity's bundle, one in a bundle. Its form is
//! checked before it is ordered; its signature, and the new key, when it is executed, where the price is the order's to bound.

use super::bundle::{Cose, decode_cose, encode_cose, signature_structure};
use super::limits::MAX_STATEMENT;
use crate::cbor::{CborError, Reader, Writer};
use crate::cluster::error::MAX_NAME;
use crate::crypto::verify::verify;
use crate::types::{Code, PublicKey, Signature, TimeMs};

/// The payload's first item: the format and its version.
const STATEMENT_FORMAT: &str = "atlas-key/1";

/// First bytes of the operation that carries a statement: an array of two, 4.
const OPERATION_HEAD: [u8; 2] = [0x82, 0x04];

/// Longest reason, bytes of UTF-8.
pub const MAX_REASON: usize = 512;

/// Longest printed name, bytes of UTF-8.
pub const MAX_PRINTED_NAME: usize = MAX_NAME;

const REGISTER: u64 = 0;
const ROTATE: u64 = 1;
const REVOKE: u64 = 2;

/// When a key is valid, in agreed time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Validity {
    /// From then on; `None`: from the statement on.
    pub from_ms: Option<TimeMs>,
    /// Until before then; `None`: without end.
    pub until_ms: Option<TimeMs>,
}

/// What happens to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyChange {
    /// It stands for somebody new.
    Register {
        /// Who: the printed name.
        name: String,
        /// A role of the cluster; `None` for an administrator.
        role: Option<String>,
        /// When the key is valid.
        validity: Validity,
    },
    /// It takes the place of another, which ends.
    Rotate {
        /// The other.
        replaces: PublicKey,
        /// When the new key is valid.
        validity: Validity,
    },
    /// It ends.
    Revoke,
}

/// What an administrator says about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyStatement {
    /// Number of the statement in the cluster, from 1.
    pub number: u64,
    /// The key.
    pub key: PublicKey,
    /// What happens to it.
    pub change: KeyChange,
    /// Why, for people.
    pub reason: Option<String>,
}

/// A statement that is well-formed; whether its signature holds is for [`SignedStatement::holds`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedStatement<'a> {
    /// The key that the COSE_Sign1 names.
    pub signer: PublicKey,
    /// What it says.
    pub statement: KeyStatement,
    payload: &'a [u8],
    signature: Signature,
}

/// Why bytes are no statement that can ever be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StatementError {
    /// The operation around it is another.
    #[error("not the operation [4, cose_sign1] in deterministic encoding")]
    Operation,
    /// Beyond the limit.
    #[error("{0} bytes; a key statement has at most {MAX_STATEMENT}")]
    TooLarge(usize),
    /// The envelope is another.
    #[error("not a COSE_Sign1 in deterministic encoding with the protected header {{1: -8, 4: kid}}")]
    Cose,
    /// The payload is another.
    #[error(
        "the payload is not [\"atlas-key/1\", origin, number, action, key, role, name, from, until, replaces, reason] with what \
         its action takes: {0}"
    )]
    Payload(CborError),
    /// For another cluster.
    #[error("signed for another cluster")]
    Origin,
    /// The printed name or the role's breaks the rules.
    #[error("a name has 1 to {MAX_PRINTED_NAME} bytes, no control or invisible characters and no space at its ends")]
    Name,
    /// The reason is too long.
    #[error("a reason has at most {MAX_REASON} bytes")]
    Reason,
    /// There is no time at which the key is valid.
    #[error("the key's validity ends before it begins")]
    Validity,
}

impl StatementError {
    /// The code that its client is answered with.
    pub fn code(self) -> Code {
        match self {
            Self::Operation | Self::Cose | Self::Payload(_) => Code::MALFORMED,
            Self::TooLarge(_) | Self::Reason => Code::TOO_LARGE,
            Self::Origin => Code::WRONG_ORIGIN,
            Self::Name => Code::BAD_NAME,
            Self::Validity => Code::BAD_VALUE,
        }
    }
}

impl KeyStatement {
    /// The COSE_Sign1 of the statement for the cluster `origin`.
    pub fn sign(&self, origin: &str, signer: PublicKey, sign: impl FnOnce(&[u8]) -> Signature) -> Vec<u8> {
        let payload = self.encode(origin);
        let signature = sign(&signature_structure(&signer, &payload));
        encode_cose(&signer, &payload, &signature)
    }

    fn encode(&self, origin: &str) -> Vec<u8> {
        let (action, role, name, validity, replaces) = match &self.change {
            KeyChange::Register { name, role, validity } => (REGISTER, role.as_ref(), Some(name), *validity, None),
            KeyChange::Rotate { replaces, validity } => (ROTATE, None, None, *validity, Some(replaces)),
            KeyChange::Revoke => (REVOKE, None, None, Validity::default(), None),
        };
        let mut payload = Vec::with_capacity(origin.len() + 256);
        let mut out = Writer(&mut payload);
        out.array(11).text(STATEMENT_FORMAT).text(origin).uint(self.number).uint(action).bytes(&self.key.0);
        for text in [role, name] {
            put_text(&mut out, text);
        }
        for time in [validity.from_ms, validity.until_ms] {
            out.optional(time, |out, time| {
                out.int(time);
            });
        }
        out.optional(replaces, |out, key| {
            out.bytes(&key.0);
        });
        put_text(&mut out, self.reason.as_ref());
        payload
    }

    fn decode(payload: &[u8], origin: &str) -> Result<Self, StatementError> {
        let (found, statement) = read_payload(payload).map_err(StatementError::Payload)?;
        if found != origin {
            return Err(StatementError::Origin);
        }
        statement.check()?;
        Ok(statement)
    }

    /// The rules that hold whatever the state is.
    fn check(&self) -> Result<(), StatementError> {
        if self.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON) {
            return Err(StatementError::Reason);
        }
        let validity = match &self.change {
            KeyChange::Revoke => return Ok(()),
            KeyChange::Rotate { validity, .. } => validity,
            KeyChange::Register { name, role, validity } => {
                if !is_printed_name(name) || role.as_ref().is_some_and(|role| !is_printed_name(role)) {
                    return Err(StatementError::Name);
                }
                validity
            }
        };
        if let (Some(from), Some(until)) = (validity.from_ms, validity.until_ms)
            && from >= until
        {
            return Err(StatementError::Validity);
        }
        Ok(())
    }
}

impl<'a> SignedStatement<'a> {
    /// Reads a statement's COSE_Sign1 for the cluster `origin`.
    ///
    /// # Errors
    /// The first rule that the bytes break. The signature is not looked at.
    pub fn parse(cose: &'a [u8], origin: &str) -> Result<Self, StatementError> {
        if cose.len() > MAX_STATEMENT {
            return Err(StatementError::TooLarge(cose.len()));
        }
        let Cose { key, payload, signature } = decode_cose(cose).map_err(|_| StatementError::Cose)?;
        Ok(Self { signer: key, statement: KeyStatement::decode(payload, origin)?, payload, signature })
    }

    /// As [`SignedStatement::parse`], of an operation that [`is_statement`].
    ///
    /// # Errors
    /// As [`SignedStatement::parse`], and where the operation is another.
    pub fn of_operation(operation: &'a [u8], origin: &str) -> Result<Self, StatementError> {
        Self::parse(carried(operation).ok_or(StatementError::Operation)?, origin)
    }

    /// Whether the signature is the signer's (ZIP 215).
    pub fn holds(&self) -> bool {
        verify(&self.signer, &signature_structure(&self.signer, self.payload), &self.signature)
    }
}

/// The operation that carries a statement's COSE_Sign1.
pub fn operation(cose: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(cose.len() + 8);
    Writer(&mut bytes).array(2).uint(4).bytes(cose);
    bytes
}

/// Whether an operation is for the identities of the cluster, not for the application.
pub fn is_statement(operation: &[u8]) -> bool {
    operation.starts_with(&OPERATION_HEAD)
}

/// The COSE_Sign1 in an operation `[4, cose_sign1]`; `None` for any other.
pub fn carried(operation: &[u8]) -> Option<&[u8]> {
    let reader = &mut Reader::new(operation.strip_prefix(&OPERATION_HEAD)?);
    let cose = reader.bytes().ok()?;
    reader.finish().is_ok().then_some(cose)
}

/// Whether a text may be printed for somebody: 1 to [`MAX_PRINTED_NAME`] bytes, no control characters, none that cannot be seen or
/// that turns the direction of writing, no space at its ends.
pub fn is_printed_name(name: &str) -> bool {
    let is_unseen = |c: char| {
        let c = u32::from(c);
        // Zero width and direction marks, line and paragraph separators, the byte order mark: Unicode's C0, C1, Zl, Zp and Cf that
        // terminals act upon.
        matches!(c, 0..0x20 | 0x7f..0xa0 | 0xad | 0x61c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff)
    };
    (1..=MAX_PRINTED_NAME).contains(&name.len())
        && !name.starts_with(' ')
        && !name.ends_with(' ')
        && !name.chars().any(is_unseen)
}

fn put_text(out: &mut Writer<'_>, text: Option<&String>) {
    out.optional(text, |out, text| {
        out.text(text);
    });
}

fn read_text(reader: &mut Reader<'_>) -> Result<Option<String>, CborError> {
    Ok(reader.optional(Reader::text)?.map(str::to_owned))
}

fn read_payload(payload: &[u8]) -> Result<(&str, KeyStatement), CborError> {
    let reader = &mut Reader::new(payload);
    reader.array_of(11)?;
    if reader.text()? != STATEMENT_FORMAT {
        return reader.unexpected();
    }
    let origin = reader.text()?;
    let number = reader.uint()?;
    let at_action = *reader;
    let action = reader.uint()?;
    let key = PublicKey(reader.bytes32()?);
    let (role, name) = (read_text(reader)?, read_text(reader)?);
    let validity = Validity { from_ms: reader.optional(Reader::int)?, until_ms: reader.optional(Reader::int)? };
    let replaces = reader.optional(Reader::bytes32)?.map(PublicKey);
    let reason = read_text(reader)?;
    reader.finish()?;
    let change = match (action, name, role, replaces) {
        (REGISTER, Some(name), role, None) => KeyChange::Register { name, role, validity },
        (ROTATE, None, None, Some(replaces)) if replaces != key => KeyChange::Rotate { replaces, validity },
        (REVOKE, None, None, None) if validity == Validity::default() => KeyChange::Revoke,
        _ => return at_action.unexpected(),
    };
    Ok((origin, KeyStatement { number, key, change, reason }))
}
