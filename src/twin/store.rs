//! The twins and their slots in memory, the roots over them, and snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use atlas_dataplane::crypto::hash::leaf_hash;
use atlas_dataplane::state::tree::DenseTree;
use atlas_dataplane::state::{
    Altered, Answer, Application, Entries, Frozen, Located, OperationContext, Outcome, StateError,
};
use atlas_dataplane::types::{Code, Digest, EntryIndex};
use hashbrown::HashTable;

use super::answer;
use super::names::{is_property, is_twin};
use super::pages::Pages;
use super::slot::{Leaf, Slot};
use super::value::ValueRef;
use super::view::{Action, OperationView, first_set};
use atlas_dataplane::cbor::{CborError, Reader, Writer};

/// The most properties of a twin, deleted ones included: their slots stay.
pub const MAX_TWIN_PROPERTIES: usize = 256;
/// The most properties of a store, whatever its constructor is given: slots are numbered in 32 bits.
pub const MAX_PROPERTIES: u64 = u32::MAX as u64;

/// What of a snapshot is encoded before it is written; the last slot may make it longer.
const PIECE_BYTES: usize = 64 << 10;

/// A slot's index in memory; its number in the formats is the same as `u64`.
pub(super) type SlotIndex = u32;
/// A twin's place in memory, in the order of first writes.
pub(super) type TwinIndex = u32;

/// One twin: which slots its properties have.
#[derive(Clone, Debug, Default)]
pub(super) struct Twin {
    /// Sorted by path; at most [`MAX_TWIN_PROPERTIES`].
    pub(super) properties: Vec<(Arc<str>, SlotIndex)>,
    /// How many of them exist, that is, are not deleted.
    pub(super) alive: usize,
    /// The last entry that changed any of them.
    pub(super) last_entry: EntryIndex,
}

impl Twin {
    pub(super) fn find(&self, property: &str) -> Result<SlotIndex, usize> {
        self.properties.binary_search_by(|(path, _)| (**path).cmp(property)).map(|at| self.properties[at].1)
    }
}

/// The twin store: an [`Application`]. See the module for its rules.
#[derive(Debug)]
pub struct TwinStore {
    pub(super) max_properties: u64,
    /// Places in `rows` by name.
    names: BTreeMap<Arc<str>, TwinIndex>,
    rows: Vec<Twin>,
    /// Slots by name, with its hash, for the one look-up of every operation. Nothing is ever read in its order, which differs from replica to replica.
    by_names: HashTable<(u64, SlotIndex)>,
    /// Paths of properties, each once: many twins have the same.
    paths: BTreeSet<Arc<str>>,
    hasher: RandomState,
    /// In pages, which a frozen state shares until they change.
    pub(super) slots: Pages<Slot>,
    /// The last entry that changed anything.
    pub(super) last_entry: EntryIndex,
    by_number: DenseTree,
    by_name: DenseTree,
    /// Each slot's place in `by_name`; shorter than `slots` once a slot is new, and then to be made afresh.
    places: Vec<u32>,
    leaf: Vec<u8>,
    /// The slot that is held against its leaf next.
    scrubbed: usize,
    /// Scratch space of one execution: the slot of each target.
    pub(super) plan: Vec<Option<SlotIndex>>,
    /// Scratch space of [`Application::foresee`]: hashes of names, then slots.
    foreseen: Vec<(u64, SlotIndex)>,
}

impl TwinStore {
    /// An empty store of at most `max_properties` properties, deleted ones included, and never more than [`MAX_PROPERTIES`].
    /// Each takes about 400 bytes, its names and value included where they are short.
    pub fn new(max_properties: u64) -> Self {
        Self {
            max_properties: max_properties.min(MAX_PROPERTIES),
            names: BTreeMap::new(),
            rows: Vec::new(),
            by_names: HashTable::new(),
            paths: BTreeSet::new(),
            hasher: RandomState::new(),
            slots: Pages::new(),
            last_entry: 0,
            by_number: DenseTree::new(),
            by_name: DenseTree::new(),
            places: Vec::new(),
            leaf: Vec::new(),
            scrubbed: 0,
            plan: Vec::new(),
            foreseen: Vec::new(),
        }
    }

    pub(super) fn find(&self, twin: &str, property: &str) -> Option<&Slot> {
        self.slots.get(self.slot_of(twin, property)? as usize)
    }

    /// The slot of a property that was written once.
    pub(super) fn slot_of(&self, twin: &str, property: &str) -> Option<SlotIndex> {
        let hash = self.hasher.hash_one((twin, property));
        let is_it = |(found, index): &(u64, SlotIndex)| {
            if *found != hash {
                return false;
            }
            let slot = &self.slots[*index as usize];
            *slot.property == *property && *slot.twin == *twin
        };
        self.by_names.find(hash, is_it).map(|(_, index)| *index)
    }

    pub(super) fn twin(&self, name: &str) -> Option<&Twin> {
        self.names.get(name).map(|row| &self.rows[*row as usize])
    }

    /// Notes a change of a slot in its twin and for the roots.
    pub(super) fn touch(&mut self, index: SlotIndex, was_alive: bool) {
        let slot = &self.slots[index as usize];
        let row = &mut self.rows[slot.row as usize];
        row.alive = row.alive + usize::from(slot.value.is_some()) - usize::from(was_alive);
        row.last_entry = row.last_entry.max(slot.position.entry);
        self.last_entry = self.last_entry.max(slot.position.entry);
        self.hash(index);
    }

    /// The twins whose names begin with `prefix`, sorted, from the name `start` on.
    pub(super) fn under<'a>(
        &'a self,
        prefix: &'a str,
        start: &str,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Twin)> + use<'a> {
        let twins = self.names.range::<str, _>((Bound::Included(start.max(prefix)), Bound::Unbounded));
        let under = twins.take_while(move |(name, _)| name.starts_with(prefix));
        under.map(|(name, row)| (name, &self.rows[*row as usize]))
    }

    /// Puts a changed slot's leaf into the trees. Now, while the slot is in the processor's caches: one by one at the next root it would
    /// cost three times as much, and all of it at once.
    fn hash(&mut self, index: SlotIndex) {
        self.leaf.clear();
        self.slots[index as usize].encode_leaf(u64::from(index), &mut Writer(&mut self.leaf));
        let hash = leaf_hash(&self.leaf);
        if !self.by_number.set(index as usize, hash) {
            self.by_number.push(hash);
        }
        if self.places.len() == self.slots.len() {
            self.by_name.set(self.places[index as usize] as usize, hash);
        }
    }

    fn path(&mut self, path: &str) -> Arc<str> {
        match self.paths.get(path) {
            Some(path) => path.clone(),
            None => {
                let path: Arc<str> = path.into();
                self.paths.insert(path.clone());
                path
            }
        }
    }

    /// Adds a slot for a property that has none. The caller has checked the limits.
    pub(super) fn add_slot(&mut self, twin: &str, property: &str, make: impl FnOnce(Arc<str>, Arc<str>) -> Slot) {
        let index = self.slots.len() as SlotIndex;
        let (twin, place) = match self.names.get_key_value(twin) {
            Some((name, place)) => (name.clone(), *place),
            None => (twin.into(), self.rows.len() as TwinIndex),
        };
        if place as usize == self.rows.len() {
            self.rows.push(Twin::default());
            self.names.insert(twin.clone(), place);
        }
        let property = self.path(property);
        let row = &mut self.rows[place as usize];
        if let Err(at) = row.find(&property) {
            row.properties.insert(at, (property.clone(), index));
        }
        self.slots.push(Slot { row: place, ..make(twin, property) });
        let slot = &self.slots[index as usize];
        let hash = self.hasher.hash_one((&*slot.twin, &*slot.property));
        // The hashes are kept, so that a table that grows looks at no slot.
        self.by_names.insert_unique(hash, (hash, index), |(hash, _)| *hash);
        self.touch(index, false);
    }

    /// Sorts all leaves by name again: after new slots, once per absence root.
    fn sort_by_name(&mut self) {
        self.places = vec![0; self.slots.len()];
        self.by_name = DenseTree::new();
        for (_, index) in self.names.values().flat_map(|row| &self.rows[*row as usize].properties) {
            self.places[*index as usize] = self.by_name.len() as u32;
            self.by_name.push(self.by_number.leaf(*index as usize).unwrap_or_default());
        }
    }

    /// The slots with the names right before and behind one that has no slot.
    fn neighbours(&self, twin: &str, property: &str) -> [Option<SlotIndex>; 2] {
        let own = self.twin(twin).map_or(&[][..], |row| &row.properties);
        let at = own.partition_point(|(path, _)| **path < *property);
        let below = (Bound::Unbounded, Bound::Excluded(twin));
        let above = (Bound::Excluded(twin), Bound::Unbounded);
        // A twin is there for the slots that it has.
        let last = || {
            self.names
                .range::<str, _>(below)
                .next_back()
                .and_then(|(_, row)| self.rows[*row as usize].properties.last())
        };
        let first = || {
            self.names.range::<str, _>(above).next().and_then(|(_, row)| self.rows[*row as usize].properties.first())
        };
        let before = at.checked_sub(1).and_then(|at| own.get(at)).or_else(last);
        let behind = own.get(at).or_else(first);
        [before, behind].map(|slot| slot.map(|(_, index)| *index))
    }

    fn located(&self, index: SlotIndex, place: usize, tree: &DenseTree) -> Option<Located> {
        let mut leaf = Vec::new();
        self.slots.get(index as usize)?.encode_leaf(u64::from(index), &mut Writer(&mut leaf));
        Some(Located { index: place as u64, leaf, path: tree.path(place)? })
    }

    fn read_snapshot(&self, bytes: &[u8]) -> Result<Self, StateError> {
        let malformed = |error: CborError| StateError::Malformed { at: error.at, what: "not a list of slot leaves" };
        let mut store = Self::new(self.max_properties);
        let reader = &mut Reader::new(bytes);
        let count = reader.array().map_err(malformed)?;
        if count as u64 > store.max_properties {
            return Err(StateError::TooLarge { limit: store.max_properties });
        }
        for number in 0..count as u64 {
            let at = reader.offset();
            let leaf = Leaf::decode(reader).map_err(malformed)?;
            store.admit(number, &leaf).map_err(|what| StateError::Malformed { at, what })?;
        }
        reader.finish().map_err(malformed)?;
        Ok(store)
    }

    fn admit(&mut self, number: u64, leaf: &Leaf<'_>) -> Result<(), &'static str> {
        if leaf.number != number {
            return Err("slots are not numbered in order");
        }
        if !is_twin(leaf.twin) || !is_property(leaf.property) {
            return Err("bad name");
        }
        if !leaf.value.is_none_or(ValueRef::fits) {
            return Err("value too long");
        }
        if leaf.revision == 0 {
            return Err("a slot has been written at least once");
        }
        match self.twin(leaf.twin) {
            Some(twin) if twin.properties.len() == MAX_TWIN_PROPERTIES => return Err("twin has too many properties"),
            Some(twin) if twin.find(leaf.property).is_ok() => return Err("property has two slots"),
            _ => {}
        }
        self.add_slot(leaf.twin, leaf.property, |twin, property| Slot {
            twin,
            property,
            row: 0,
            value: leaf.value.map(ValueRef::to_owned),
            revision: leaf.revision,
            position: leaf.position,
            time_ms: leaf.time_ms,
            source_time_ns: leaf.source_time_ns,
            origin: leaf.origin,
            quality: leaf.quality,
        });
        Ok(())
    }
}

impl Application for TwinStore {
    fn check(&self, operation: &[u8]) -> Result<usize, Code> {
        let view = OperationView::decode(operation).map_err(|refusal| refusal.code)?;
        let changes = view.targets.iter().map(|target| match target.action {
            Action::Set { .. } | Action::Delete { .. } => 1,
            Action::DeleteAll => MAX_TWIN_PROPERTIES,
        });
        Ok(changes.sum())
    }

    fn execute(&mut self, context: &OperationContext<'_>, operation: &[u8], outcome: &mut Outcome) {
        self.execute_operation(context, operation, outcome);
    }

    /// Four passes, each over memory whose addresses the one before it found, so that in each the processor waits for many lines at a
    /// time. Only operations that begin with a set are looked at.
    fn foresee<'a>(&mut self, operations: impl Iterator<Item = &'a [u8]>) {
        let mut foreseen = std::mem::take(&mut self.foreseen);
        foreseen.clear();
        foreseen.extend(operations.filter_map(first_set).map(|name| (self.hasher.hash_one(name), SlotIndex::MAX)));
        for (hash, index) in &mut foreseen {
            *index = self.by_names.find(*hash, |(found, _)| found == hash).map_or(SlotIndex::MAX, |(_, index)| *index);
        }
        let mut touched = 0;
        for slot in foreseen.iter().filter_map(|(_, index)| self.slots.get(*index as usize)) {
            touched ^= slot.revision ^ u64::from(slot.origin.0[0]) ^ slot.time_ms as u64 ^ slot.twin.len() as u64;
        }
        for (_, index) in &foreseen {
            let Some(slot) = self.slots.get(*index as usize) else { continue };
            let leaf = self.by_number.leaf(*index as usize).unwrap_or_default();
            let place = self.places.get(*index as usize).copied().unwrap_or_default();
            touched ^= slot.touch() ^ u64::from(leaf.0[0]) ^ u64::from(place) ^ self.rows[slot.row as usize].last_entry;
        }
        std::hint::black_box(touched);
        self.foreseen = foreseen;
    }

    fn query(&self, history: &dyn Entries, query: &[u8], answer: &mut Answer) -> Code {
        answer::answer(self, history, query, answer)
    }

    fn slot_count(&self) -> u64 {
        self.slots.len() as u64
    }

    fn state_root(&mut self) -> Digest {
        self.by_number.root()
    }

    fn absence_root(&mut self) -> Digest {
        if self.places.len() != self.slots.len() {
            self.sort_by_name();
        }
        self.by_name.root()
    }

    fn locate(&self, name: &[u8]) -> Result<Located, Code> {
        let (twin, property) = slot_name(name)?;
        let twin = self.twin(twin).ok_or(Code::UNKNOWN_TWIN)?;
        let index = twin.find(property).map_err(|_| Code::UNKNOWN_PROPERTY)?;
        self.located(index, index as usize, &self.by_number).ok_or(Code::UNAVAILABLE)
    }

    fn locate_absent(&self, name: &[u8]) -> Result<Vec<Located>, Code> {
        let wanted = slot_name(name)?;
        if self.find(wanted.0, wanted.1).is_some() {
            return Err(Code::EXISTS);
        }
        if self.places.len() != self.slots.len() {
            return Err(Code::UNAVAILABLE);
        }
        let locate = |index: SlotIndex| {
            let place = *self.places.get(index as usize)? as usize;
            self.located(index, place, &self.by_name)
        };
        let neighbours = self.neighbours(wanted.0, wanted.1).into_iter().flatten();
        neighbours.map(|index| locate(index).ok_or(Code::UNAVAILABLE)).collect()
    }

    fn scrub(&mut self, slots: usize) -> Result<(), Box<Altered>> {
        for _ in 0..slots.min(self.slots.len()) {
            let index = if self.scrubbed < self.slots.len() { self.scrubbed } else { 0 };
            self.scrubbed = index + 1;
            let slot = &self.slots[index];
            self.leaf.clear();
            slot.encode_leaf(index as u64, &mut Writer(&mut self.leaf));
            let (now, then) = (leaf_hash(&self.leaf), self.by_number.leaf(index).unwrap_or_default());
            if now != then {
                let name = format!("{} {}", slot.twin, slot.property);
                return Err(Box::new(Altered { slot: index as u64, name, leaf: self.leaf.clone(), now, then }));
            }
        }
        Ok(())
    }

    /// The slots say it all: names and roots follow from them.
    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(FrozenStore(self.slots.clone()))
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        *self = self.read_snapshot(bytes)?;
        Ok(())
    }
}

/// Reads how a slot is named where it is asked for by name: CBOR `[twin, property]`.
fn slot_name(name: &[u8]) -> Result<(&str, &str), Code> {
    let read = || {
        let reader = &mut Reader::new(name);
        reader.array_of(2)?;
        let name = (reader.text()?, reader.text()?);
        reader.finish()?;
        Ok(name)
    };
    let (twin, property) = read().map_err(|_: CborError| Code::BAD_QUERY)?;
    if is_twin(twin) && is_property(property) { Ok((twin, property)) } else { Err(Code::BAD_NAME) }
}

/// The slots as they were.
struct FrozenStore(Pages<Slot>);

impl Frozen for FrozenStore {
    /// A snapshot is the CBOR array of all slot leaves, by number. Pieces of about [`PIECE_BYTES`] go to `out`.
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        Writer(&mut bytes).array(self.0.len());
        for (number, slot) in self.0.iter().enumerate() {
            slot.encode_leaf(number as u64, &mut Writer(&mut bytes));
            if bytes.len() >= PIECE_BYTES {
                out.write_all(&bytes)?;
                bytes.clear();
            }
        }
        out.write_all(&bytes)
    }
}
