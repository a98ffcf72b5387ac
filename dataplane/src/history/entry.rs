//! Entries, the leaves of the history (FORMATS.md): deterministic CBOR arrays, written by appending to a buffer and read in
//! place.
//!
//! * CONFIG `[1, 0, sequence, time_ms, epoch, policy_text, members, administrators, settings]`, a member being `[index, name,
//!   link_key, protocol_key, log_key, cosign_key]` and the settings a map with text keys in the order of RFC 8949, 4.2.1;
//! * BUNDLE `[1, 1, sequence, time_ms, cose_sign1, [request ...], [outcome ...]]`: the COSE_Sign1 (tag 18 and all) and the
//!   requests stand there as the items that they are. An outcome is `[code, [[path index, new revision, previous entry / null]
//!   ...]]`, or null where the request was skipped: an outcome other than null uses up the request's number, once for ever;
//! * STATE `[1, 2, sequence, time_ms, slot_count, state_root, previous_state_entry / null, absence_root / null]`.
//!
//! Reading is strict: shortest heads, exact array lengths, as many outcomes as requests, nothing behind the end. What a bundle
//! and its requests hold is for [`Bundle::parse`](crate::wire::bundle::Bundle::parse); here they are well-formed items.

use super::cbor::{self, Reader};
use crate::state::Change;
use crate::types::{Code, Digest, EntryIndex, Epoch, PublicKey, Sequence, TimeMs};
use crate::wire::limits::{MAX_BUNDLE_REQUESTS, MAX_REPLICAS};

/// Version of the entries' format.
const VERSION: u64 = 1;
const CONFIG: u64 = 0;
const BUNDLE: u64 = 1;
const STATE: u64 = 2;

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
    put_start(out, 9, CONFIG, sequence, time_ms);
    cbor::put_uint(out, u64::from(epoch));
    cbor::put_text(out, policy);
    cbor::put_array(out, members.len());
    for member in members {
        cbor::put_array(out, 6);
        cbor::put_uint(out, u64::from(member.index));
        cbor::put_text(out, member.name);
        for key in [member.link_key, member.protocol_key, member.log_key, member.cosign_key] {
            cbor::put_bytes(out, &key.0);
        }
    }
    cbor::put_array(out, administrators.len());
    for key in administrators {
        cbor::put_bytes(out, &key.0);
    }
    out.extend_from_slice(settings);
}

/// Appends a BUNDLE entry up to its outcomes: one [`put_outcome`] or [`put_skipped`] per request must follow.
pub fn put_bundle_start<'a>(
    out: &mut Vec<u8>,
    sequence: Sequence,
    time_ms: TimeMs,
    cose: &[u8],
    requests: impl ExactSizeIterator<Item = &'a [u8]>,
) {
    put_start(out, 7, BUNDLE, sequence, time_ms);
    out.extend_from_slice(cose);
    let count = requests.len();
    cbor::put_array(out, count);
    for request in requests {
        out.extend_from_slice(request);
    }
    cbor::put_array(out, count);
}

/// Appends the outcome of an executed request; gives where in `out` its array of changes begins.
pub fn put_outcome(out: &mut Vec<u8>, code: Code, changes: &[Change]) -> usize {
    cbor::put_array(out, 2);
    cbor::put_uint(out, u64::from(code.0));
    let start = out.len();
    cbor::put_array(out, changes.len());
    for change in changes {
        cbor::put_array(out, 3);
        cbor::put_uint(out, change.path);
        cbor::put_uint(out, change.revision);
        cbor::put_optional_uint(out, change.previous);
    }
    start
}

/// Appends the outcome of a request that was not executed here.
pub fn put_skipped(out: &mut Vec<u8>) {
    out.push(cbor::NULL);
}

/// Appends a STATE entry.
pub fn put_state(out: &mut Vec<u8>, state: &StateView) {
    put_start(out, 8, STATE, state.sequence, state.time_ms);
    cbor::put_uint(out, state.slot_count);
    cbor::put_bytes(out, &state.state_root.0);
    cbor::put_optional_uint(out, state.previous);
    cbor::put_optional_digest(out, state.absence_root.as_ref());
}

fn put_start(out: &mut Vec<u8>, items: usize, kind: u64, sequence: Sequence, time_ms: TimeMs) {
    cbor::put_array(out, items);
    cbor::put_uint(out, VERSION);
    cbor::put_uint(out, kind);
    cbor::put_uint(out, sequence);
    cbor::put_int(out, time_ms);
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

/// An entry, read in place.
#[derive(Clone, Debug)]
pub enum EntryView<'a> {
    /// Membership and settings.
    Config(ConfigView<'a>),
    /// An executed bundle.
    Bundle(BundleView<'a>),
    /// The roots of the state.
    State(StateView),
}

impl<'a> EntryView<'a> {
    /// Reads an entry.
    ///
    /// # Errors
    /// The bytes are no entry, not in deterministic encoding, or of an unknown kind.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, EntryError> {
        let mut reader = Reader::new(bytes);
        let malformed = |reader: &Reader<'_>| EntryError::Malformed(reader.position());
        let Some((items, version, kind)) = read_kind(&mut reader) else { return Err(malformed(&reader)) };
        let view = match (version, kind, items) {
            (VERSION, CONFIG, 9) => ConfigView::read(&mut reader).map(Self::Config),
            (VERSION, BUNDLE, 7) => BundleView::read(&mut reader).map(Self::Bundle),
            (VERSION, STATE, 8) => StateView::read(&mut reader).map(Self::State),
            (VERSION, CONFIG | BUNDLE | STATE, _) => None,
            _ => return Err(EntryError::Unknown { version, kind }),
        };
        view.filter(|_| reader.is_at_end()).ok_or_else(|| malformed(&reader))
    }

    /// The sequence at which the entry was appended.
    pub fn sequence(&self) -> Sequence {
        match self {
            Self::Config(view) => view.sequence,
            Self::Bundle(view) => view.sequence,
            Self::State(view) => view.sequence,
        }
    }

    /// Agreed time of the entry.
    pub fn time_ms(&self) -> TimeMs {
        match self {
            Self::Config(view) => view.time_ms,
            Self::Bundle(view) => view.time_ms,
            Self::State(view) => view.time_ms,
        }
    }
}

fn read_kind(reader: &mut Reader<'_>) -> Option<(u64, u64, u64)> {
    Some((reader.array()?, reader.uint()?, reader.uint()?))
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
    setting_count: u64,
}

impl<'a> ConfigView<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let (sequence, time_ms) = (reader.uint()?, reader.int()?);
        let epoch = Epoch::try_from(reader.uint()?).ok()?;
        let policy = reader.text()?;
        let count = reader.array()?;
        if count > MAX_REPLICAS as u64 {
            return None;
        }
        let mut members = Vec::with_capacity(count as usize);
        for _ in 0..count {
            members.push(read_member(reader)?);
        }
        let administrators = read_items(reader, u64::MAX, |reader| reader.key().is_some())?.bytes;
        let setting_count = reader.map()?;
        let settings = *reader;
        let mut last: Option<&[u8]> = None;
        for _ in 0..setting_count {
            let mut key = *reader;
            key.text()?;
            let key = reader.item()?;
            if last.is_some_and(|last| last >= key) {
                return None;
            }
            last = Some(key);
            reader.item()?;
        }
        Some(Self { sequence, time_ms, epoch, policy, members, administrators, settings, setting_count })
    }

    /// The administrators' keys.
    pub fn administrators(&self) -> impl Iterator<Item = PublicKey> + 'a {
        let mut reader = Reader::new(self.administrators);
        std::iter::from_fn(move || reader.key())
    }

    /// The value of a setting as a CBOR item.
    pub fn setting(&self, name: &str) -> Option<&'a [u8]> {
        let mut reader = self.settings;
        for _ in 0..self.setting_count {
            let found = reader.text()? == name;
            let value = reader.item()?;
            if found {
                return Some(value);
            }
        }
        None
    }
}

fn read_member<'a>(reader: &mut Reader<'a>) -> Option<Member<'a>> {
    reader.array_of(6)?;
    Some(Member {
        index: u8::try_from(reader.uint()?).ok()?,
        name: reader.text()?,
        link_key: reader.key()?,
        protocol_key: reader.key()?,
        log_key: reader.key()?,
        cosign_key: reader.key()?,
    })
}

/// The items of an array one after the other, without the array's head.
#[derive(Clone, Copy, Debug)]
struct Items<'a> {
    bytes: &'a [u8],
    count: u64,
}

/// Reads an array of at most `limit` items, each of which `item` takes.
fn read_items<'a>(
    reader: &mut Reader<'a>,
    limit: u64,
    mut item: impl FnMut(&mut Reader<'a>) -> bool,
) -> Option<Items<'a>> {
    let count = reader.array()?;
    if count > limit {
        return None;
    }
    let start = reader.position();
    for _ in 0..count {
        if !item(reader) {
            return None;
        }
    }
    Some(Items { bytes: reader.since(start), count })
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
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let (sequence, time_ms) = (reader.uint()?, reader.int()?);
        let cose = reader.item()?;
        let limit = MAX_BUNDLE_REQUESTS as u64;
        let requests = read_items(reader, limit, |reader| reader.item().is_some())?;
        let outcomes = read_items(reader, limit, |reader| read_outcome(reader).is_some())?;
        (cose.first() == Some(&0xd2) && requests.count > 0 && requests.count == outcomes.count).then_some(Self {
            sequence,
            time_ms,
            cose,
            requests,
            outcomes,
        })
    }

    /// The number of requests.
    pub fn count(&self) -> usize {
        self.requests.count as usize
    }

    /// The encoded requests in order.
    pub fn requests(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + 'a {
        let mut reader = Reader::new(self.requests.bytes);
        // Each item was walked over when the entry was read.
        (0..self.count()).map(move |_| reader.item().unwrap_or_default())
    }

    /// The outcome of each request; `None` where it was skipped.
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = Option<OutcomeView<'a>>> + Clone + 'a {
        let mut reader = Reader::new(self.outcomes.bytes);
        (0..self.count()).map(move |_| read_outcome(&mut reader).flatten())
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
        (0..count).map_while(move |_| read_change(&mut reader))
    }
}

/// The outer `None`: malformed.
fn read_outcome<'a>(reader: &mut Reader<'a>) -> Option<Option<OutcomeView<'a>>> {
    if reader.null() {
        return Some(None);
    }
    reader.array_of(2)?;
    let code = Code(u16::try_from(reader.uint()?).ok()?);
    let start = reader.position();
    for _ in 0..reader.array()? {
        read_change(reader)?;
    }
    Some(Some(OutcomeView { code, changes: reader.since(start) }))
}

fn read_change(reader: &mut Reader<'_>) -> Option<Change> {
    reader.array_of(3)?;
    Some(Change { path: reader.uint()?, revision: reader.uint()?, previous: reader.optional_uint()? })
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
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            sequence: reader.uint()?,
            time_ms: reader.int()?,
            slot_count: reader.uint()?,
            state_root: reader.digest()?,
            previous: reader.optional_uint()?,
            absence_root: reader.optional_digest()?,
        })
    }
}

#[cfg(test)]

mod tests {}
