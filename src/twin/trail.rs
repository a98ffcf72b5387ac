//! Answers [`super::query::Query::Trail`]: along the chains of a twin where the filter lets it, else by reading entries backwards.

use std::collections::BTreeMap;

use atlas_dataplane::cbor::Writer;
use atlas_dataplane::state::{Answer, Entries};
use atlas_dataplane::types::{Code, EntryIndex, Position};

use super::entry::{BundleEntry, Executed, Item};
use super::query::{BLOCK, Cursor};
use super::record::{DONE_CODES, Filter, Old, encode_record, runs};
use super::store::TwinStore;
use super::value::ValueRef;
use super::walk::{self, BrokenChain, Collect, MAX_SCANNED_BYTES, Range, SetPage, successor};

/// Bytes of entries that one page reads for old values, beyond those of its first operation.
const MAX_OLD_BYTES: usize = 1024 * 1024;

/// Answers a query for records.
pub(super) fn trail(
    store: &TwinStore,
    entries: &dyn Entries,
    filter: &Filter,
    last: EntryIndex,
    limit: usize,
    cursor: Option<Cursor>,
    answer: &mut Answer,
) -> Code {
    let mut range = Range::new(entries, filter.from, filter.to);
    let end = Position { entry: last.saturating_add(1), request: 0 };
    range.below = Some(range.below.map_or(end, |below| below.min(end)));
    let mut page = RecordPage { store, entries, filter, page: SetPage::new(limit), old_bytes: 0 };
    if last >= entries.size() {
        return Code::UNAVAILABLE;
    }
    if filter.is_whole && filter.codes == DONE_CODES {
        let asked = (filter.twin.as_str(), filter.property.as_deref());
        return walk::history(store, entries, asked, range, page, cursor, answer);
    }
    if let Some(below) = cursor.and_then(|cursor| cursor.below) {
        range.below = range.below.map(|end| end.min(below));
    }
    let Ok(next) = scan(&mut page, &range) else { return Code::INTERNAL };
    answer.valid_from = last;
    let next = next.map(|below| Cursor { below: Some(below), heads: Vec::new() });
    page.page.finish(answer).optional(next.as_ref(), Cursor::encode);
    Code::DONE
}

/// Reads entries backwards; gives where to go on below, unless all was read.
fn scan(page: &mut RecordPage<'_>, range: &Range) -> Result<Option<Position>, BrokenChain> {
    let below = range.below.unwrap_or_default();
    // An entry of which only positions at or above `below` are left has nothing to tell.
    let first = if below.request == 0 { below.entry } else { below.entry.saturating_add(1) };
    let mut bytes_read = 0;
    for index in (range.from.entry..first).rev() {
        if first - index > BLOCK || bytes_read > MAX_SCANNED_BYTES {
            return Ok(Some(Position { entry: index + 1, request: 0 }));
        }
        let bytes = page.entries.entry(index).ok_or(BrokenChain)?;
        bytes_read += bytes.len();
        let bundle = BundleEntry::decode_if(index, &bytes, |code, _| page.filter.takes_code(code));
        let Some(bundle) = bundle.map_err(|_| BrokenChain)? else { continue };
        if !page.filter.takes_origin(&bundle.origin) {
            continue;
        }
        let within = |executed: &&Executed<'_>| executed.position < below && executed.position >= range.from;
        for executed in bundle.executed.iter().rev().filter(within) {
            let Some(items) = page.filter.items(executed, page.store) else { continue };
            if !page.add(&bundle, executed, &items) {
                return Ok(successor(executed.position));
            }
        }
    }
    Ok(None)
}

/// Collects records.
struct RecordPage<'a> {
    store: &'a TwinStore,
    entries: &'a dyn Entries,
    filter: &'a Filter,
    page: SetPage,
    /// Bytes of entries that were read for old values.
    old_bytes: usize,
}

impl Collect for RecordPage<'_> {
    fn add(&mut self, bundle: &BundleEntry<'_>, executed: &Executed<'_>, items: &[Item<'_>]) -> bool {
        if !self.filter.takes_origin(&bundle.origin) {
            return true;
        }
        if !self.page.is_empty() && self.old_bytes > MAX_OLD_BYTES {
            return false;
        }
        let old = self.old(bundle, executed, items);
        self.page.add_encoded(items.len(), |bytes| {
            let mut rest = old.as_slice();
            let all = runs(items);
            for run in &all {
                let (of_run, behind) = rest.split_at(run.len());
                rest = behind;
                encode_record(bundle, executed, run, of_run, &mut Writer(bytes));
            }
            all.len()
        })
    }

    fn page(&self) -> &SetPage {
        &self.page
    }
}

impl RecordPage<'_> {
    /// What each item was before. An entry that cannot be read leaves it untold: a replica with such an entry is outvoted.
    fn old(&mut self, bundle: &BundleEntry<'_>, executed: &Executed<'_>, items: &[Item<'_>]) -> Vec<Old> {
        let mut old = vec![Old::Unknown; items.len()];
        // By the entry that wrote them before, so that each is read once.
        let mut by_entry: BTreeMap<EntryIndex, Vec<usize>> = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            match item.previous {
                Some(entry) => by_entry.entry(entry).or_default().push(at),
                None if item.revision > 0 => old[at] = Old::Nothing,
                None => {}
            }
        }
        for (entry, asked) in by_entry {
            if entry == executed.position.entry {
                find(bundle, self.store, items, &asked, &mut old);
                continue;
            }
            let Some(bytes) = self.entries.entry(entry) else { continue };
            self.old_bytes += bytes.len();
            if let Ok(Some(before)) = BundleEntry::decode(entry, &bytes) {
                find(&before, self.store, items, &asked, &mut old);
            }
        }
        old
    }
}

/// Finds in an entry what the asked ones of the items were before.
fn find(entry: &BundleEntry<'_>, store: &TwinStore, items: &[Item<'_>], asked: &[usize], old: &mut [Old]) {
    for executed in &entry.executed {
        for found in executed.items(store) {
            let follows = |at: &&usize| {
                let item = &items[**at];
                item.revision == found.revision.saturating_add(1) && (item.twin, item.path) == (found.twin, found.path)
            };
            if let Some(at) = asked.iter().find(follows) {
                old[*at] = found.value.map(ValueRef::to_owned).map_or(Old::Nothing, Old::Value);
            }
        }
    }
}
