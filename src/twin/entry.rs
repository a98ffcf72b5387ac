//! Entries of the history, read in place: who did what, and what became of it.

use atlas_dataplane::history::entry::{EntryError, EntryView};
use atlas_dataplane::state::Change;
use atlas_dataplane::types::{Code, EntryIndex, Position, PublicKey, TimeMs};
use atlas_dataplane::wire::bundle::{Request, signed_header};
use atlas_dataplane::wire::statement::carried as statement_in;

use super::operation::MAX_TARGETS;
use super::store::TwinStore;
use super::value::{Quality, ValueRef};
use super::view::{Action, OperationView};

/// What slots are called: for properties that were deleted with their whole twin, which an entry names by number.
pub(super) trait SlotNames {
    /// Twin and property of a slot.
    fn names(&self, slot: usize) -> Option<(&str, &str)>;
}

impl SlotNames for TwinStore {
    fn names(&self, slot: usize) -> Option<(&str, &str)> {
        self.slots.get(slot).map(|slot| (&*slot.twin, &*slot.property))
    }
}

/// What a request is about, if not about twins.
#[derive(Clone, Copy)]
pub(super) enum Besides<'a> {
    /// Nothing else: it writes twins, or was refused before it was read.
    Nothing,
    /// It opened a session.
    Session,
    /// It brings a key statement, or the entry is one: the COSE_Sign1.
    Statement(&'a [u8]),
}

impl<'a> Besides<'a> {
    fn of(request: &Request<'a>) -> Self {
        match statement_in(request.operation) {
            Some(cose) => Self::Statement(cose),
            None if request.opens_session() => Self::Session,
            None => Self::Nothing,
        }
    }
}

/// The executed operations of one entry; of a KEY entry one, of which no request tells.
pub(super) struct BundleEntry<'a> {
    pub(super) time_ms: TimeMs,
    /// The client's clock when it signed.
    pub(super) signed_ms: Option<TimeMs>,
    pub(super) origin: PublicKey,
    /// Requests in their order: those that changed something, or all that were asked for.
    pub(super) executed: Vec<Executed<'a>>,
}

/// A request that was executed or refused.
pub(super) struct Executed<'a> {
    pub(super) position: Position,
    pub(super) code: Code,
    pub(super) besides: Besides<'a>,
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
    /// Reads an entry and the requests in it that changed something; `None` where it is neither bundle nor key.
    pub(super) fn decode(index: EntryIndex, entry: &'a [u8]) -> Result<Option<Self>, EntryError> {
        Self::decode_if(index, entry, |code, changes| code == Code::DONE && !changes.is_empty())
    }

    /// Reads an entry and those requests in it that `wanted` takes by outcome; `None` where it is neither bundle nor key.
    pub(super) fn decode_if(
        index: EntryIndex,
        entry: &'a [u8],
        wanted: impl Fn(Code, &[Change]) -> bool,
    ) -> Result<Option<Self>, EntryError> {
        let view = match EntryView::decode(entry) {
            Ok(EntryView::Bundle(view)) => view,
            Ok(EntryView::Key(view)) => {
                let origin = view.signer().ok_or(EntryError::Malformed(0))?;
                let position = Position { entry: index, request: 0 };
                let (view_of_none, besides) = (OperationView::default(), Besides::Statement(view.cose));
                let key = Executed { position, code: Code::DONE, view: view_of_none, changes: Vec::new(), besides };
                let executed = if wanted(Code::DONE, &[]) { vec![key] } else { Vec::new() };
                return Ok(Some(Self { time_ms: view.time_ms, signed_ms: None, origin, executed }));
            }
            Ok(_) | Err(EntryError::Unknown { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let origin = view.origin().ok_or(EntryError::Malformed(0))?;
        let signed_ms = signed_header(view.cose).map(|header| header.client_time_ms);
        let mut executed = Vec::new();
        for (number, (request, outcome)) in (0..).zip(view.requests().zip(view.outcomes())) {
            let Some(outcome) = outcome else { continue };
            let changes: Vec<Change> = outcome.changes().collect();
            if !wanted(outcome.code, &changes) {
                continue;
            }
            let request = Request::decode(request).ok_or(EntryError::Malformed(0))?;
            let position = Position { entry: index, request: number };
            let besides = Besides::of(&request);
            // What is no operation on twins has no targets: what it is `besides`, or what was refused as malformed.
            let view = OperationView::decode(request.operation).unwrap_or_default();
            executed.push(Executed { position, code: outcome.code, besides, view, changes });
        }
        Ok(Some(Self { time_ms: view.time_ms, signed_ms, origin, executed }))
    }
}

impl<'a> Executed<'a> {
    /// Why, for people, where no write is told of that has a reason of its own.
    pub(super) fn reason(&self) -> Option<&'a str> {
        self.view.targets.first().and_then(|target| target.reason)
    }

    /// What a refused operation would have written, in its order: revision 0, and path "" for a whole twin.
    pub(super) fn attempts(&self) -> impl Iterator<Item = Item<'a>> {
        self.view.targets.iter().map(|target| {
            let (value, quality, source_time_ns) = match target.action {
                Action::Set { value, quality, source_time_ns, .. } => (Some(value), quality, source_time_ns),
                Action::Delete { .. } | Action::DeleteAll => (None, Quality::Good, None),
            };
            let (twin, path, reason) = (target.twin, target.path().unwrap_or_default(), target.reason);
            Item { twin, path, value, quality, source_time_ns, reason, revision: 0, previous: None }
        })
    }

    /// The changes in their order. `slots` knows the names of slots that were deleted with their whole twin; of what it does not
    /// know the path is "", and the twin too where the operation deletes several.
    pub(super) fn items<'b>(&'b self, slots: &'b impl SlotNames) -> impl Iterator<Item = Item<'b>>
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
                let whole = || self.view.targets.iter().filter(|target| target.path().is_none());
                let (twin, property) = slots.names(number - MAX_TARGETS).unwrap_or_else(|| match whole().count() {
                    1 => (whole().next().map_or("", |target| target.twin), ""),
                    _ => ("", ""),
                });
                let reason = whole().find(|target| target.twin == twin).and_then(|target| target.reason);
                return Some(deleted(twin, property, reason));
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
