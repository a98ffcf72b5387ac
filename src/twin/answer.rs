//! Answers queries; get and list from the state, history and changes by [`walk`].

use std::sync::Arc;

use atlas_dataplane::state::{Answer, Entries};
use atlas_dataplane::types::{Code, EntryIndex};

use super::query::{MAX_PAGE, MAX_PAGE_BYTES, Query};
use super::slot::Slot;
use super::store::{MAX_TWIN_PROPERTIES, SlotIndex, Twin, TwinStore};
use super::value::Value;
use super::walk::SetPage;
use super::{trail, walk};
use atlas_dataplane::cbor::Writer;

/// The most slots that a list looks at, deleted ones included.
const MAX_SCANNED_SLOTS: usize = 8192;

/// Answers a query; see [`atlas_dataplane::state::Application::query`].
pub(super) fn answer(store: &TwinStore, entries: &dyn Entries, query: &[u8], answer: &mut Answer) -> Code {
    answer.valid_from = 0;
    answer.body.clear();
    answer.wait = false;
    let code = match Query::decode(query) {
        Ok(Query::Get { twin, property, after }) => get(store, &twin, property.as_deref(), after.as_deref(), answer),
        Ok(Query::List { prefix, after, limit }) => list(store, &prefix, after.as_ref(), page_limit(limit), answer),
        Ok(Query::History { twin, property, from, to, limit, cursor }) => {
            let range = walk::Range::new(entries, from, to);
            let page = SetPage::new(page_limit(limit));
            walk::history(store, entries, (&twin, property.as_deref()), range, page, cursor, answer)
        }
        Ok(Query::Changes { prefix, from, to, limit }) => {
            walk::changes(store, entries, &prefix, (from, to), page_limit(limit), answer)
        }
        Ok(Query::Trail { filter, last, limit, cursor }) => {
            trail::trail(store, entries, &filter, last, page_limit(limit), cursor, answer)
        }
        Err(_) => Code::BAD_QUERY,
    };
    if code != Code::DONE {
        answer.body.clear();
        answer.wait = false;
    }
    code
}

fn page_limit(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE)
}

/// Collects properties until the page is full.
struct PropertyPage<'a> {
    items: usize,
    limit: usize,
    bytes: Vec<u8>,
    valid_from: EntryIndex,
    last: Option<&'a Slot>,
}

impl<'a> PropertyPage<'a> {
    fn new(limit: usize) -> Self {
        Self { items: 0, limit, bytes: Vec::new(), valid_from: 0, last: None }
    }

    fn is_full(&self) -> bool {
        self.items == self.limit || self.bytes.len() >= MAX_PAGE_BYTES
    }

    fn add(&mut self, slot: &'a Slot) {
        self.last = Some(slot);
        self.valid_from = self.valid_from.max(slot.position.entry);
        if let Some(value) = &slot.value {
            self.items += 1;
            encode_property(slot, value, &mut Writer(&mut self.bytes));
        }
    }

    fn finish(self, more: bool, answer: &mut Answer) -> Code {
        answer.valid_from = self.valid_from;
        Writer(&mut answer.body).array(2).array(self.items);
        answer.body.extend_from_slice(&self.bytes);
        Writer(&mut answer.body).optional(self.last.filter(|_| more), |out, slot| {
            out.array(2).text(&slot.twin).text(&slot.property);
        });
        Code::DONE
    }
}

fn get(store: &TwinStore, twin: &str, property: Option<&str>, after: Option<&str>, answer: &mut Answer) -> Code {
    let row = store.twin(twin);
    let Some(row) = row.filter(|row| row.alive > 0) else {
        answer.valid_from = row.map_or(0, |row| row.last_entry);
        return Code::UNKNOWN_TWIN;
    };
    let mut page = PropertyPage::new(MAX_TWIN_PROPERTIES);
    if let Some(property) = property {
        let slot = row.find(property).ok().map(|index| &store.slots[index as usize]);
        if slot.is_none_or(|slot| slot.value.is_none()) {
            answer.valid_from = slot.map_or(0, |slot| slot.position.entry);
            return Code::UNKNOWN_PROPERTY;
        }
        slot.into_iter().for_each(|slot| page.add(slot));
        return page.finish(false, answer);
    }
    for (_, index) in behind(row, after) {
        if page.is_full() {
            return page.finish(true, answer);
        }
        page.add(&store.slots[*index as usize]);
    }
    page.finish(false, answer)
}

fn list(store: &TwinStore, prefix: &str, after: Option<&(String, String)>, limit: usize, answer: &mut Answer) -> Code {
    let start = after.map_or(prefix, |(twin, _)| twin);
    let mut page = PropertyPage::new(limit);
    let mut scanned = 0;
    for (name, row) in store.under(prefix, start) {
        let after = after.filter(|(twin, _)| **twin == **name).map(|(_, property)| property.as_str());
        for (_, index) in behind(row, after) {
            if page.is_full() || scanned == MAX_SCANNED_SLOTS {
                return page.finish(true, answer);
            }
            scanned += 1;
            page.add(&store.slots[*index as usize]);
        }
    }
    page.finish(false, answer)
}

fn behind<'a>(row: &'a Twin, after: Option<&str>) -> &'a [(Arc<str>, SlotIndex)] {
    let start = after.map_or(0, |after| row.properties.partition_point(|(path, _)| **path <= *after));
    &row.properties[start..]
}

fn encode_property(slot: &Slot, value: &Value, out: &mut Writer<'_>) {
    out.array(10).text(&slot.twin).text(&slot.property);
    value.borrowed().encode(out);
    out.uint(slot.revision).uint(slot.quality as u64).optional(slot.source_time_ns, |out, time| {
        out.int(time);
    });
    out.int(slot.time_ms).bytes(&slot.origin.0);
    out.uint(slot.position.entry).uint(u64::from(slot.position.request));
}
