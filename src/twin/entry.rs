//! Bundle entries of the history, read in place: who did what, and what became of it.

use atlas_dataplane::state::Change;
use atlas_dataplane::types::{Code, EntryIndex, Position, PublicKey, TimeMs};

use super::cbor::{CborError, Reader};
use super::operation::MAX_TARGETS;
use super::store::TwinStore;
use super::value::{Quality, ValueRef};
use super::view::{Action, OperationView};

/// The kind of entry that holds a bundle.
const BUNDLE: u64 = 1;
/// The COSE header parameter that names the signing key.
const KID: i64 = 4;
/// The CBOR tag of a COSE_Sign1.
const COSE_SIGN1: u64 = 18;

/// The executed operations of one entry.
pub(super) struct BundleEntry<'a> {
    pub(super) time_ms: TimeMs,
    pub(super) origin: PublicKey,
    /// Requests that changed something, in order.
    pub(super) executed: Vec<Executed<'a>>,
}

/// A request that changed something.
pub(super) struct Executed<'a> {
    pub(super) position: Position,
    view: OperationView<'a>,
    changes: Vec<Change>,
}

/// One change of one property, as the entry tells it.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub(super) twin: &'a str,
    pub(super) path: &'a str,
    pub(super) value: Option<ValueRef<'a>>,
    pub(super) quality: Quality,
    pub(super) source_time_ns: Option<i64>,
    pub(super) reason: Option<&'a str>,
    pub(super) revision: u64,
    pub(super) previous: Option<EntryIndex>,
}

impl<'a> BundleEntry<'a> {
    /// Reads an entry; `None` where it is no bundle.
    pub(super) fn decode(index: EntryIndex, entry: &'a [u8]) -> Result<Option<Self>, CborError> {
        let reader = &mut Reader::new(entry);
        let count = reader.array()?;
        reader.uint()?;
        if reader.uint()? != BUNDLE || count != 7 {
            return Ok(None);
        }
        reader.uint()?;
        let time_ms = reader.int()?;
        let origin = origin(reader)?;
        let requests = reader.array()?;
        let mut request = *reader;
        for _ in 0..requests {
            reader.item()?;
        }
        reader.array_of(requests)?;
        let mut executed = Vec::new();
        for number in 0..requests {
            let operation = operation(&mut request)?;
            let changes = outcome(reader)?;
            if changes.is_empty() {
                continue;
            }
            if let (Ok(view), Ok(request)) = (OperationView::decode(operation), u16::try_from(number)) {
                executed.push(Executed { position: Position { entry: index, request }, view, changes });
            }
        }
        Ok(Some(Self { time_ms, origin, executed }))
    }
}

impl<'a> Executed<'a> {
    /// The changes in their order. `store` knows the names of slots that were deleted with their whole twin.
    pub(super) fn items<'b>(&'b self, store: &'b TwinStore) -> impl Iterator<Item = Item<'b>>
    where
        'a: 'b,
    {
        self.changes.iter().filter_map(move |change| {
            let number = usize::try_from(change.path).ok()?;
            let deleted = |twin: &'b str, path: &'b str, reason: Option<&'b str>| Item {
                twin,
                path,
                value: None,
                quality: Quality::Good,
                source_time_ns: None,
                reason,
                revision: change.revision,
                previous: change.previous,
            };
            if number >= MAX_TARGETS {
                let slot = store.slots.get(number - MAX_TARGETS)?;
                let of_twin = |target: &&super::view::Target<'_>| target.twin == &*slot.twin;
                let reason = self.view.targets.iter().find(of_twin)?.reason;
                return Some(deleted(&slot.twin, &slot.property, reason));
            }
            let target = self.view.targets.get(number)?;
            match target.action {
                Action::Set { path, value, quality, source_time_ns } => {
                    let item = deleted(target.twin, path, target.reason);
                    Some(Item { value: Some(value), quality, source_time_ns, ..item })
                }
                Action::Delete { path } => Some(deleted(target.twin, path, target.reason)),
                Action::DeleteAll => None,
            }
        })
    }
}

/// Content that stands either as an item of its own or wrapped in a byte string.
fn unwrapped<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], CborError> {
    if reader.peek().is_some_and(|byte| byte >> 5 == 2) { reader.bytes() } else { reader.item() }
}

/// The key that the bundle's protected header names; its signature was checked before it was executed.
fn origin(reader: &mut Reader<'_>) -> Result<PublicKey, CborError> {
    let cose = &mut Reader::new(unwrapped(reader)?);
    if cose.tag()? != COSE_SIGN1 {
        return cose.unexpected();
    }
    cose.array_of(4)?;
    let header = &mut Reader::new(cose.bytes()?);
    for _ in 0..header.map()? {
        if header.int()? == KID {
            return header.bytes32().map(PublicKey);
        }
        header.item()?;
    }
    header.unexpected()
}

/// The operation of `[class, not_after_ms / null, operation]`.
fn operation<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], CborError> {
    reader.array_of(3)?;
    reader.item()?;
    reader.item()?;
    unwrapped(reader)
}

/// The changes of an outcome; none where the request was skipped or refused.
fn outcome(reader: &mut Reader<'_>) -> Result<Vec<Change>, CborError> {
    let changes = reader.optional(|reader| {
        reader.array_of(2)?;
        let code = Code(reader.uint16()?);
        let count = reader.array()?;
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            reader.array_of(3)?;
            changes.push(Change {
                path: reader.uint()?,
                revision: reader.uint()?,
                previous: reader.optional(Reader::uint)?,
            });
        }
        Ok(if code == Code::DONE { changes } else { Vec::new() })
    })?;
    Ok(changes.unwrap_or_default())
}
