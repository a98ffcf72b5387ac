//! Follows the history entry by entry, without a store: what exports are read by.
//!
//! A [`Follower`] makes [`Record`]s of entries. It learns the names of slots and the old values on the way, so it knows all of them
//! if it begins with entry 0; else what it cannot know is told as unknown. Entries are believed as they are: whoever wants
//! them proved audits first.
//!
//! # Limits
//! Names and values of at most [`MAX_FOLLOWED_BYTES`]; what would be beyond is unknown.

use std::collections::HashMap;

use atlas_dataplane::history::entry::EntryError;
use atlas_dataplane::types::{Code, EntryIndex};

use super::entry::{BundleEntry, Executed, SlotNames};
use super::record::{Filter, Old, Record, record_of, runs};
use super::value::{Value, ValueRef};

/// The most memory for names and values of properties, bytes.
pub const MAX_FOLLOWED_BYTES: usize = 512 * 1024 * 1024;
/// What a property costs beside its names and value, bytes.
const PROPERTY_BYTES: usize = 160;

/// What a property was last.
struct Last {
    revision: u64,
    value: Option<Value>,
}

/// Names of slots in their order.
#[derive(Default)]
struct Slots(Vec<(String, String)>);

impl SlotNames for Slots {
    fn names(&self, slot: usize) -> Option<(&str, &str)> {
        self.0.get(slot).map(|(twin, property)| (twin.as_str(), property.as_str()))
    }
}

/// Makes records of entries that come in their order.
#[derive(Default)]
pub struct Follower {
    slots: Slots,
    /// It has seen every entry since 0, and had room for every slot.
    knows_slots: bool,
    next: EntryIndex,
    last: HashMap<(String, String), Last>,
    bytes: usize,
}

impl Follower {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self { knows_slots: true, ..Self::default() }
    }

    /// The records of the next entry that the filter takes, in their order; none where it is no bundle.
    ///
    /// # Errors
    /// The bytes are no entry.
    pub fn records(&mut self, index: EntryIndex, entry: &[u8], filter: &Filter) -> Result<Vec<Record>, EntryError> {
        if index != self.next {
            // A gap: slots may have been named in it, and values changed.
            self.knows_slots = false;
            self.slots.0.clear();
            self.last.clear();
            self.bytes = 0;
        }
        self.next = index.saturating_add(1);
        let Some(bundle) = BundleEntry::decode_if(index, entry, |_, _| true)? else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        for executed in &bundle.executed {
            self.name_slots(executed);
            let taken = filter.takes_code(executed.code)
                && filter.takes_origin(&bundle.origin)
                && filter.takes_time(executed.position, bundle.time_ms);
            if let Some(items) = filter.items(executed, &self.slots).filter(|_| taken) {
                for run in runs(&items) {
                    let old = run.iter().map(|item| self.old(item.twin, item.path, item.revision)).collect();
                    records.push(record_of(&bundle, executed, run, old));
                }
            }
            self.remember(executed);
        }
        Ok(records)
    }

    /// A first write makes a slot, in the order of the writes.
    fn name_slots(&mut self, executed: &Executed<'_>) {
        if !self.knows_slots || executed.code != Code::DONE {
            return;
        }
        let new: Vec<(String, String)> = executed
            .items(&self.slots)
            .filter(|item| item.revision == 1)
            .map(|item| (item.twin.to_owned(), item.path.to_owned()))
            .collect();
        self.bytes += new.iter().map(|(twin, path)| twin.len() + path.len() + PROPERTY_BYTES).sum::<usize>();
        if self.bytes > MAX_FOLLOWED_BYTES {
            self.knows_slots = false;
            self.slots.0.clear();
            return;
        }
        self.slots.0.extend(new);
    }

    fn old(&self, twin: &str, path: &str, revision: u64) -> Old {
        match revision {
            0 => Old::Unknown,
            1 => Old::Nothing,
            _ => match self.last.get(&(twin.to_owned(), path.to_owned())) {
                Some(last) if last.revision + 1 == revision => last.value.clone().map_or(Old::Nothing, Old::Value),
                _ => Old::Unknown,
            },
        }
    }

    fn remember(&mut self, executed: &Executed<'_>) {
        if executed.code != Code::DONE {
            return;
        }
        for item in executed.items(&self.slots).filter(|item| !item.path.is_empty()) {
            let key = (item.twin.to_owned(), item.path.to_owned());
            let cost = |value: &Option<Value>| match value {
                Some(Value::Text(text)) => text.len(),
                Some(Value::Bytes(bytes)) => bytes.len(),
                _ => 0,
            };
            let last = Last { revision: item.revision, value: item.value.map(ValueRef::to_owned) };
            let names = key.0.len() + key.1.len() + PROPERTY_BYTES;
            let before = self.last.remove(&key).map_or(0, |last| names + cost(&last.value));
            self.bytes = self.bytes.saturating_sub(before);
            let after = names + cost(&last.value);
            if self.bytes + after <= MAX_FOLLOWED_BYTES {
                self.bytes += after;
                self.last.insert(key, last);
            }
        }
    }
}
