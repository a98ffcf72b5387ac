//! Small types that every part shares: identifiers, digests, positions, times and outcome codes.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER};

/// A replica's index in the membership of its epoch, `0..n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplicaId(pub u8);

impl ReplicaId {
    /// The index as a `usize`, for tables of one row per replica.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A view number (PBFT): its leader is `members[view mod n]`.
pub type View = u64;
/// A sequence number in the agreed order of batches; the first batch is 1.
pub type Sequence = u64;
/// A membership epoch; the genesis is 0.
pub type Epoch = u32;
/// The index of an entry in the history tree; the genesis CONFIG is 0.
pub type EntryIndex = u64;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of the null batch: 32 zero bytes (FORMATS.md).
    pub const NULL: Digest = Digest([0; 32]);
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..6]))
    }
}

/// An Ed25519 public key: 32 bytes, in text base64 with padding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0[..6]))
    }
}

/// Why a text is not a public key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PublicKeyError {
    /// Not base64 with padding.
    #[error("a public key is 44 characters of base64, this is not base64")]
    Base64,
    /// Base64 of another length than 32 bytes.
    #[error("a public key has 32 bytes, this has {0}")]
    Length(usize),
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| PublicKeyError::Base64)?;
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| PublicKeyError::Length(bytes.len()))?;
        Ok(Self(key))
    }
}

/// An Ed25519 signature, 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..6]))
    }
}

/// Milliseconds since the Unix epoch, UTC: agreed time and deadlines.
pub type TimeMs = i64;

/// What time it is, handed to the pure cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Monotonic time in microseconds since some fixed start; for timers only.
    pub mono_us: u64,
    /// Wall-clock time, which may jump; for agreed time and deadlines only.
    pub wall_ms: TimeMs,
}

/// Where an operation stands in the agreed order: the entry and the request inside it. In text `ENTRY.REQUEST`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    /// Index of the entry in the history.
    pub entry: EntryIndex,
    /// Index of the request inside the entry's bundle.
    pub request: u16,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.entry, self.request)
    }
}

/// A text is not a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a position is ENTRY.REQUEST, two decimal numbers such as 1042.0")]
pub struct PositionError;

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (entry, request) = text.split_once('.').ok_or(PositionError)?;
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(entry) || !digits(request) {
            return Err(PositionError);
        }
        Ok(Self {
            entry: entry.parse().map_err(|_| PositionError)?,
            request: request.parse().map_err(|_| PositionError)?,
        })
    }
}

/// Outcome and error codes (FORMATS.md): never renumbered, one meaning each.
///
/// 0 done, 1xx malformed, 2xx access, 3xx application, 4xx expired or repeated, 5xx overload, 6xx a fault of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Code(pub u16);

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        impl Code {
            $($(#[doc = $doc])+ pub const $name: Code = Code($number);)+

            /// Every code that this version knows.
            pub const ALL: &[Code] = &[$(Code::$name),+];

            /// What the code means, for people; "unknown code" for a number that this version does not know.
            pub fn text(self) -> &'static str {
                match self.0 {
                    $($number => $text,)+
                    _ => "unknown code",
                }
            }
        }
    };
}

codes! {
    /// The operation was carried out.
    DONE = 0, "done";
    /// The operation's bytes are not a known operation in deterministic CBOR.
    MALFORMED = 100, "malformed operation";
    /// A count, length or worst-case entry is beyond a limit.
    TOO_LARGE = 101, "operation too large";
    /// A name or path does not follow the rules for names.
    BAD_NAME = 102, "bad name";
    /// A number is not finite, or a value has no permitted type.
    BAD_VALUE = 103, "bad value";
    /// The bundle's signature does not verify.
    BAD_SIGNATURE = 110, "bad signature";
    /// The bundle was signed for another cluster.
    WRONG_ORIGIN = 111, "signed for another cluster";
    /// The key is no Ed25519 public key, or one that everybody can sign for.
    BAD_KEY = 112, "not a usable public key";
    /// The identity is not registered.
    UNKNOWN_IDENTITY = 200, "unknown identity";
    /// The identity's role does not permit this.
    FORBIDDEN = 201, "not permitted for this role";
    /// The session does not exist or was closed.
    UNKNOWN_SESSION = 202, "unknown session";
    /// The session belongs to another identity.
    FOREIGN_SESSION = 203, "session of another identity";
    /// The identity's key was revoked, or another took its place.
    REVOKED = 204, "key revoked";
    /// Agreed time lies outside the validity of the identity's key.
    NOT_VALID = 205, "key not valid at this time";
    /// A key statement that no administrator signed.
    NOT_ADMINISTRATOR = 206, "not signed by an administrator";
    /// A condition of the transaction did not hold.
    CONDITION_FAILED = 300, "condition not met";
    /// The value's type is not the property's type.
    TYPE_CONFLICT = 301, "type conflict";
    /// The twin does not exist.
    UNKNOWN_TWIN = 302, "unknown twin";
    /// The property does not exist.
    UNKNOWN_PROPERTY = 303, "unknown property";
    /// The store holds as many properties as the cluster permits.
    STORE_FULL = 304, "store full";
    /// The twin holds as many properties as a twin may have.
    TWIN_FULL = 305, "twin full";
    /// The query is not known to this application.
    BAD_QUERY = 306, "bad query";
    /// The cluster's policy wants a reason for a change of this property.
    REASON_REQUIRED = 307, "a reason is required";
    /// What should be proved absent is there.
    EXISTS = 308, "it exists";
    /// The key statement's number is not the next: another came first, or this one was carried out before.
    STATEMENT_NUMBER = 320, "not the next key statement";
    /// The key stands for somebody already, or did once.
    KEY_TAKEN = 321, "key in use";
    /// The key that is to be rotated or revoked is not known.
    UNKNOWN_KEY = 322, "unknown key";
    /// The key that is to be rotated or revoked has ended already.
    KEY_ENDED = 323, "key ended before";
    /// The cluster has no role of this name.
    UNKNOWN_ROLE = 324, "unknown role";
    /// The printed name is another identity's, or was; names pass from key to key by rotation alone.
    NAME_TAKEN = 325, "name in use";
    /// The cluster knows as many keys as it may.
    IDENTITIES_FULL = 326, "too many identities";
    /// No administrator would be left whose key is valid.
    LAST_ADMINISTRATOR = 327, "last administrator";
    /// The deadline passed before the request was executed.
    EXPIRED = 400, "deadline passed";
    /// The number lies below the session's window; its reply is no longer kept.
    STALE_NUMBER = 401, "number below the window";
    /// The number lies beyond the session's window.
    BEYOND_WINDOW = 402, "number beyond the window";
    /// The number was used before for another request.
    CONFLICT = 403, "number used for another request";
    /// A queue is full; try again.
    OVERLOADED = 500, "overloaded";
    /// The replica does not serve now (starting, stopping, catching up).
    UNAVAILABLE = 501, "not serving now";
    /// The replica's disk is nearly full; try again once there is room.
    LOW_SPACE = 502, "low on disk space";
    /// A fault inside Atlas.
    INTERNAL = 600, "internal fault";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.0)
    }
}
