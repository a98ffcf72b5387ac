//! Bundle entries of the history, read in place: who did what, and what became of it.

use atlas_dataplane::history::entry::{EntryError, EntryView};
use atlas_dataplane::state::Change;
use atlas_dataplane::types::{Code, EntryIndex, Position, PublicKey, TimeMs};
use atlas_dataplane::wire::bundle::Request;

use super::operation::MAX_TARGETS;
use super::store::TwinStore;
use super::value::{Quality, ValueRef};
use super::view::{Action, OperationView};

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
    pub(super) fn decode(index: EntryIndex, entry: &'a [u8]) -> Result<Option<Self>, EntryError> {
        let view = match EntryView::decode(entry) {
            Ok(EntryView::Bundle(view)) => view,
            Ok(_) | Err(EntryError::Unknown { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let origin = view.origin().ok_or(EntryError::Malformed(0))?;
        let mut executed = Vec::new();
        for (number, (request, outcome)) in (0..).zip(view.requests().zip(view.outcomes())) {
            let Some(outcome) = outcome.filter(|outcome| outcome.code == Code::DONE) else { continue };
            let changes: Vec<Change> = outcome.changes().collect();
            if changes.is_empty() {
                continue;
            }
            let request = Request::decode(request).ok_or(EntryError::Malformed(0))?;
            if let Ok(view) = OperationView::decode(request.operation) {
                executed.push(Executed { position: Position { entry: index, request: number }, view, changes });
            }
        }
        Ok(Some(Self { time_ms: view.time_ms, origin, executed }))
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
