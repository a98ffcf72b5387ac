//! Entries, the leaves of the history (FORMATS.md): deterministic CBOR arrays, written by appending to a buffer and read in
//! place.
//!
//! * CONFIG `[1, 0, sequence, time_ms, epoch, policy_text, members, administrators, settings]`, a member being `[index, name,
//!   link_key, protocol_key, log_key, cosign_key]` and the settings a map with text keys in the order of RFC 8949, 4.2.1;
//! * BUNDLE `[1, 1, sequence, time_ms, cose_sign1, [request ...], [outcome ...]]`: the COSE_Sign1 (tag 18 and all) and the
//!   requests stand there as the items that they are. An outcome is `[code, [[path index, new revision, previous entry / null]
//!   ...]]`, or null where the request was skipped: an outcome other than null uses up the request's number, once for ever;
//! * STATE `[1, 2, sequence, time_ms, slot_count, state_root, previous_state_entry / null, absence_root / null]`;
//! * KEY `[1, 3, sequence, time_ms, cose_sign1]`: a key statement ([`crate::wire::statement`]) that was carried out, directly behind
//!   the BUNDLE entry that brought it, in the same sequence. It holds for what comes behind it.
//!
//! Reading is strict: deterministic CBOR ([`crate::cbor`]), exact array lengths, as many outcomes as requests, nothing behind
//! the end. What a bundle and its requests hold is for [`Bundle::parse`](crate::wire::bundle::Bundle::parse); here they are items. So is
//! a statement, for [`SignedStatement::parse`](crate::wire::statement::SignedStatement::parse).

use crate::cbor::{CborError, Reader, Writer};
use crate::state::Change;
use crate::types::{Code, Digest, EntryIndex, Epoch, PublicKey, Sequence, TimeMs};
use crate::wire::bundle::signer;
use crate::wire::limits::{MAX_BUNDLE_REQUESTS, MAX_OPERATION_DEPTH, MAX_REPLICAS};

/// Version of the entries' format.
const VERSION: u64 = 1;
const CONFIG: u64 = 0;
const BUNDLE: u64 = 1;
const STATE: u64 = 2;
const KEY: u64 = 3;

/// First byte of a COSE_Sign1: tag 18.
const TAG_COSE_SIGN1: u8 = 0xd2;

/// Deepest nesting of the items in an entry that are read elsewhere: a request is an array around an operation.
const ITEM_DEPTH: usize = MAX_OPERATION_DEPTH + 1;

type Result<T> = std::result::Result<T, CborError>;

/// A replica as a CONFIG entry has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member<'a> {
    /// Index in the membership.
    pub index: u8,
    /// Name for people.
    pub name: &'a str,
    /// Key of its links.
    pub link_key: PublicKey,
    /// Key of its VIEW-CHANGE, NEW-VIEW and CHECKPOINT messages.
    pub protocol_key: PublicKey,
    /// Key of its log lines.
    pub log_key: PublicKey,
    /// Key of its cosignatures.
    pub cosign_key: PublicKey,
}

/// Appends a CONFIG entry. `settings` is an encoded map with text keys in deterministic order.
#[allow(clippy::too_many_arguments, reason = "the entry's items in their order")]
pub fn put_config<'a>(
    out: &mut Vec<u8>,
    sequence: Sequence,
    time_ms: TimeMs,
    epoch: Epoch,
    policy: &str,
    members: impl ExactSizeIterator<Item = Member<'a>>,
    administrators: &[PublicKey],
    settings: &[u8],
) {
    let mut out = put_start(out, 9, CONFIG, sequence, time_ms);
    out.uint(u64::from(epoch)).text(policy).array(members.len());
    for member in members {
        out.array(6).uint(u64::from(member.index)).text(member.name);
        for key in [member.link_key, member.protocol_key, member.log_key, member.cosign_key] {
            out.bytes(&key.0);
        }
    }
    out.array(administrators.len());
    for key in administrators {
        out.bytes(&key.0);
    }
    out.items(settings);
}

/// Appends a BUNDLE entry up to its outcomes: one [`put_outcome`] or [`put_skipped`] per request must follow.
pub fn put_bundle_start<'a>(
    out: &mut Vec<u8>,
    sequence: Sequence,
    time_ms: TimeMs,
    cose: &[u8],
    requests: impl ExactSizeIterator<Item = &'a [u8]>,
) {
    let count = requests.len();
    let mut out = put_start(out, 7, BUNDLE, sequence, time_ms);
    out.items(cose).array(count);
    for request in requests {
        out.items(request);
    }
    out.array(count);
}

/// Appends the outcome of an executed request; gives where in `out` its array of changes begins.
pub fn put_outcome(out: &mut Vec<u8>, code: Code, changes: &[Change]) -> usize {
    Writer(out).array(2).uint(u64::from(code.0));
    let start = out.len();
    let mut out = Writer(out);
    out.array(changes.len());
    for change in changes {
        out.array(3).uint(change.path).uint(change.revision).optional(change.previous, put_uint);
    }
    start
}

/// Appends the outcome of a request that was not executed here.
pub fn put_skipped(out: &mut Vec<u8>) {
    Writer(out).null();
}

/// Appends a STATE entry.
pub fn put_state(out: &mut Vec<u8>, state: &StateView) {
    let mut out = put_start(out, 8, STATE, state.sequence, state.time_ms);
    out.uint(state.slot_count).bytes(&state.state_root.0).optional(state.previous, put_uint);
    out.optional(state.absence_root, |out, root| {
        out.bytes(&root.0);
    });
}

/// Appends a KEY entry of a statement's COSE_Sign1.
pub fn put_key(out: &mut Vec<u8>, sequence: Sequence, time_ms: TimeMs, cose: &[u8]) {
    put_start(out, 5, KEY, sequence, time_ms).items(cose);
}

fn put_uint(out: &mut Writer<'_>, value: u64) {
    out.uint(value);
}

fn put_start(out: &mut Vec<u8>, items: usize, kind: u64, sequence: Sequence, time_ms: TimeMs) -> Writer<'_> {
    let mut out = Writer(out);
    out.array(items).uint(VERSION).uint(kind).uint(sequence).int(time_ms);
    out
}

/// Bytes are not an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    /// Not the deterministic encoding of an entry of this version.
    #[error("an entry is malformed at byte {0}")]
    Malformed(usize),
    /// An entry of a kind or version that this build does not know.
    #[error("an entry has version {version}, kind {kind}, which this build does not know")]
    Unknown {
        /// Format version.
        version: u64,
        /// Kind of entry.
        kind: u64,
    },
}

impl From<CborError> for EntryError {
    fn from(error: CborError) -> Self {
        Self::Malformed(error.at)
    }
}

/// An entry, read in place.
#[derive(Clone, Debug)]
pub enum EntryView<'a> {
    /// Membership and settings.
    Config(ConfigView<'a>),
    /// An executed bundle.
    Bundle(BundleView<'a>),
    /// The roots of the state.
    State(StateView),
    /// A key that was registered, rotated or revoked.
    Key(KeyView<'a>),
}

impl<'a> EntryView<'a> {
    /// Reads an entry.
    ///
    /// # Errors
    /// The bytes are no entry, not in deterministic encoding, or of an unknown kind.
    pub fn decode(bytes: &'a [u8]) -> std::result::Result<Self, EntryError> {
        let reader = &mut Reader::new(bytes);
        let (items, version, kind) = (reader.array()?, reader.uint()?, reader.uint()?);
        let view = match (version, kind, items) {
            (VERSION, CONFIG, 9) => Self::Config(ConfigView::read(reader)?),
            (VERSION, BUNDLE, 7) => Self::Bundle(BundleView::read(reader)?),
            (VERSION, STATE, 8) => Self::State(StateView::read(reader)?),
            (VERSION, KEY, 5) => Self::Key(KeyView::read(reader)?),
            (VERSION, CONFIG | BUNDLE | STATE | KEY, _) => return Err(EntryError::Malformed(0)),
            _ => return Err(EntryError::Unknown { version, kind }),
        };
        reader.finish()?;
        Ok(view)
    }

    /// The sequence at which the entry was appended.
    pub fn sequence(&self) -> Sequence {
        match self {
            Self::Config(view) => view.sequence,
            Self::Bundle(view) => view.sequence,
            Self::State(view) => view.sequence,
            Self::Key(view) => view.sequence,
        }
    }

    /// Agreed time of the entry.
    pub fn time_ms(&self) -> TimeMs {
        match self {
            Self::Config(view) => view.time_ms,
            Self::Bundle(view) => view.time_ms,
            Self::State(view) => view.time_ms,
            Self::Key(view) => view.time_ms,
        }
    }
}

/// A CONFIG entry.
#[derive(Clone, Debug)]
pub struct ConfigView<'a> {
    /// Sequence; 0 is the genesis.
    pub sequence: Sequence,
    /// Agreed time.
    pub time_ms: TimeMs,
    /// Epoch that it describes.
    pub epoch: Epoch,
    /// The auditor's policy (C2SP tlog-policy).
    pub policy: &'a str,
    /// The replicas; at most [`MAX_REPLICAS`].
    pub members: Vec<Member<'a>>,
    administrators: &'a [u8],
    settings: Reader<'a>,
    setting_count: usize,
}

impl<'a> ConfigView<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let (sequence, time_ms) = (reader.uint()?, reader.int()?);
        let epoch = reader.narrow()?;
        let policy = reader.text()?;
        let count = reader.array()?;
        if count > MAX_REPLICAS {
            return reader.unexpected();
        }
        let members = (0..count).map(|_| read_member(reader)).collect::<Result<_>>()?;
        let administrators = read_items(reader, usize::MAX, |reader| reader.bytes32().map(drop))?.bytes;
        // As one item first: that checks the order of the keys.
        let mut ahead = *reader;
        ahead.item(ITEM_DEPTH)?;
        let setting_count = reader.map()?;
        let settings = *reader;
        for _ in 0..setting_count {
            reader.text()?;
            reader.item(ITEM_DEPTH)?;
        }
        Ok(Self { sequence, time_ms, epoch, policy, members, administrators, settings, setting_count })
    }

    /// The administrators' keys.
    pub fn administrators(&self) -> impl Iterator<Item = PublicKey> + 'a {
        let mut reader = Reader::new(self.administrators);
        std::iter::from_fn(move || reader.bytes32().ok().map(PublicKey))
    }

    /// The value of a setting as a CBOR item.
    pub fn setting(&self, name: &str) -> Option<&'a [u8]> {
        let mut reader = self.settings;
        for _ in 0..self.setting_count {
            let found = reader.text().ok()? == name;
            let value = reader.item(ITEM_DEPTH).ok()?;
            if found {
                return Some(value);
            }
        }
        None
    }
}

fn read_member<'a>(reader: &mut Reader<'a>) -> Result<Member<'a>> {
    reader.array_of(6)?;
    let (index, name) = (reader.narrow()?, reader.text()?);
    let mut key = || reader.bytes32().map(PublicKey);
    Ok(Member { index, name, link_key: key()?, protocol_key: key()?, log_key: key()?, cosign_key: key()? })
}

/// The items of an array one after the other, without the array's head.
#[derive(Clone, Copy, Debug)]
struct Items<'a> {
    bytes: &'a [u8],
    count: usize,
}

/// Reads an array of at most `limit` items, each of which `item` takes.
fn read_items<'a>(
    reader: &mut Reader<'a>,
    limit: usize,
    item: impl Fn(&mut Reader<'a>) -> Result<()>,
) -> Result<Items<'a>> {
    let count = reader.array()?;
    if count > limit {
        return reader.unexpected();
    }
    let start = reader.offset();
    (0..count).try_for_each(|_| item(reader))?;
    Ok(Items { bytes: reader.since(start), count })
}

/// A BUNDLE entry.
#[derive(Clone, Debug)]
pub struct BundleView<'a> {
    /// Sequence.
    pub sequence: Sequence,
    /// Agreed time.
    pub time_ms: TimeMs,
    /// The COSE_Sign1.
    pub cose: &'a [u8],
    requests: Items<'a>,
    outcomes: Items<'a>,
}

impl<'a> BundleView<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let (sequence, time_ms) = (reader.uint()?, reader.int()?);
        let is_signed = reader.peek() == Some(TAG_COSE_SIGN1);
        let cose = reader.item(ITEM_DEPTH)?;
        let requests = read_items(reader, MAX_BUNDLE_REQUESTS, |reader| reader.item(ITEM_DEPTH).map(drop))?;
        let outcomes = read_items(reader, requests.count, |reader| read_outcome(reader).map(drop))?;
        if !is_signed || requests.count == 0 || requests.count != outcomes.count {
            return reader.unexpected();
        }
        Ok(Self { sequence, time_ms, cose, requests, outcomes })
    }

    /// The key that the COSE_Sign1 names; `None` where it is none that a bundle has.
    pub fn origin(&self) -> Option<PublicKey> {
        signer(self.cose)
    }

    /// The number of requests.
    pub fn count(&self) -> usize {
        self.requests.count
    }

    /// The encoded requests in order.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + 'a {
        let mut reader = Reader::new(self.requests.bytes);
        // Each item was walked over when the entry was read.
        (0..self.count()).map(move |_| reader.item(ITEM_DEPTH).unwrap_or_default())
    }

    /// The outcome of each request; `None` where it was skipped.
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = Option<OutcomeView<'a>>> + Clone + 'a {
        let mut reader = Reader::new(self.outcomes.bytes);
        (0..self.count()).map(move |_| read_outcome(&mut reader).ok().flatten())
    }
}

/// The outcome of an executed request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutcomeView<'a> {
    /// What became of it.
    pub code: Code,
    /// The array of changes as CBOR, as replies carry it.
    pub changes: &'a [u8],
}

impl<'a> OutcomeView<'a> {
    /// The changes.
    pub fn changes(&self) -> impl Iterator<Item = Change> + 'a {
        let mut reader = Reader::new(self.changes);
        let count = reader.array().unwrap_or_default();
        (0..count).map_while(move |_| read_change(&mut reader).ok())
    }
}

fn read_outcome<'a>(reader: &mut Reader<'a>) -> Result<Option<OutcomeView<'a>>> {
    reader.optional(|reader| {
        reader.array_of(2)?;
        let code = Code(reader.narrow()?);
        let start = reader.offset();
        for _ in 0..reader.array()? {
            read_change(reader)?;
        }
        Ok(OutcomeView { code, changes: reader.since(start) })
    })
}

fn read_change(reader: &mut Reader<'_>) -> Result<Change> {
    reader.array_of(3)?;
    Ok(Change { path: reader.uint()?, revision: reader.uint()?, previous: reader.optional(Reader::uint)? })
}

/// A STATE entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateView {
    /// Sequence.
    pub sequence: Sequence,
    /// Agreed time.
    pub time_ms: TimeMs,
    /// Slots of the state.
    pub slot_count: u64,
    /// RFC 6962 root over the slots by number.
    pub state_root: Digest,
    /// The STATE entry before this one.
    pub previous: Option<EntryIndex>,
    /// RFC 6962 root over the slots by name; in a checkpoint's entry only.
    pub absence_root: Option<Digest>,
}

impl StateView {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            sequence: reader.uint()?,
            time_ms: reader.int()?,
            slot_count: reader.uint()?,
            state_root: Digest(reader.bytes32()?),
            previous: reader.optional(Reader::uint)?,
            absence_root: reader.optional(Reader::bytes32)?.map(Digest),
        })
    }
}

/// A KEY entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyView<'a> {
    /// Sequence.
    pub sequence: Sequence,
    /// Agreed time.
    pub time_ms: TimeMs,
    /// The statement's COSE_Sign1.
    pub cose: &'a [u8],
}

impl<'a> KeyView<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let (sequence, time_ms) = (reader.uint()?, reader.int()?);
        if reader.peek() != Some(TAG_COSE_SIGN1) {
            return reader.unexpected();
        }
        Ok(Self { sequence, time_ms, cose: reader.item(ITEM_DEPTH)? })
    }

    /// The key that signed the statement; `None` where the COSE_Sign1 is none that a statement has.
    pub fn signer(&self) -> Option<PublicKey> {
        signer(self.cose)
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
